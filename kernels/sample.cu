// The next token of each sequence from its logits.
//
// What     s = logits; repetition penalty once for each seen token (s < 0 ? s*p : s/p); presence
//          and frequency penalties, s -= presence + frequency*count where count > 0. Greedy
//          (temperature 0 or top_k 1): the lowest id of the largest s. Else weights
//          q = floor(2^40 * 2^((s - max) * (log2(e) / temperature))), then in this order
//            top_k  s below the k-th largest leaves, ties of it stay;
//            top_p  a token stays if the mass ranked above it (larger s; equal s, lower id) is
//                   below top_p of all mass; the best stays always;
//            min_p  q below min_p * 2^40 leaves;
//          and a draw in proportion to q by Philox(seed; step, choice). (docs/spec.md 13.3)
//          The token is entered in the sequence's bitmap and counts. A NaN, a +inf, or no s above
//          -inf: token 0 and SAMPLE_STATUS_NOT_FINITE, history untouched.
// Shapes   logits f32 [B, ld], V <= ld, ld % 4 == 0; bitmap u32 [slots, ceil(V / 32)], counts u16
//          [slots, V]; settings, status, result [B]. V <= 2^23, so that masses fit 64 bits. A slot
//          outside 0 .. slots - 1 has no history.
// Mapping  grid B, block 1024: a block owns a sequence and passes over its logits: one pass for the
//          maximum, four for top_k, five for top_p (radix select, 8 bits of the ordered key each),
//          one to draw. Passes after the first hit L2. Threads take ids in turn, but for the draw,
//          where a warp owns a run of ids, so that masses can be summed in the order of ids.
// Numerics sums of q are integers: exact, in any order, so a row's token never depends on the
// batch.
//          exp2_poly makes the same bits everywhere; the oracle agrees bit for bit. The log
//          probability is f32, sums strided by thread, then butterflies: 2^-20 relative.
// Floor    bytes 4*V*B + V*B/8.

#include "numeric.cuh"
#include "params.h"
#include "philox.cuh"
#include "warp.cuh"

constexpr int THREADS = SAMPLE_THREADS;
constexpr int WARPS = THREADS / WARP;
static_assert(WARPS == WARP, "a warp reduces one value of each warp");
constexpr int BINS = 256;  // values of 8 bits of a key
constexpr int BIN_BITS = 8;
constexpr int KEY_BITS = 32;
constexpr float WEIGHT_ONE = 1099511627776.0f;   // 2^40, the weight of the best token
constexpr uint32_t KEY_MINUS_INF = 0x007fffffu;  // orderable(-inf)
constexpr int COUNT_MAX = 65535;

// One sequence: its logits and what edits them.
struct Row {
  const float* logits;
  uint32_t* seen;    // null: no history
  uint16_t* counts;  // null: no history
  int V;
  float repetition, presence, frequency;
};

__device__ __forceinline__ float edited(const Row& row, int id) {
  float s = row.logits[id];
  if (row.seen == nullptr) return s;
  const bool seen = row.seen[id / 32] >> (id % 32) & 1;
  if (seen) s = s < 0.0f ? s * row.repetition : s / row.repetition;
  if (row.presence != 0.0f || row.frequency != 0.0f) {
    const int count = row.counts[id];
    if (count > 0) s -= row.presence + row.frequency * float(count);
  }
  return s;
}

// The float whose key is `key`.
__device__ __forceinline__ float from_orderable(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// Fixed-point weight of an edited logit.
struct Weights {
  float max, scale;
  __device__ __forceinline__ uint64_t operator()(float s) const {
    // Also where a tiny temperature makes the scale infinite and the product NaN.
    const float power = s == max ? 1.0f : exp2_poly((s - max) * scale);
    return uint64_t(power * WEIGHT_ONE);
  }
};

// The tokens that may be drawn.
struct Filter {
  uint32_t floor_key;     // smallest key
  uint64_t equal_kept;    // how many of the tokens with that key stay, lowest ids first
  uint64_t floor_weight;  // smallest weight
};

// The largest over the block, in every thread. `s_warps` belongs to this call alone.
__device__ __forceinline__ uint64_t block_max(uint64_t v, uint64_t (&s_warps)[WARPS]) {
  v = warp_max(v);
  if (threadIdx.x % WARP == 0) s_warps[threadIdx.x / WARP] = v;
  __syncthreads();  // orders: writes of s_warps above before the reads below
  return warp_max(s_warps[threadIdx.x % WARP]);
}

// The sum over the block, in every thread. `s_warps` belongs to this call alone.
__device__ __forceinline__ uint64_t block_sum(uint64_t v, uint64_t (&s_warps)[WARPS]) {
  v = warp_sum(v);
  if (threadIdx.x % WARP == 0) s_warps[threadIdx.x / WARP] = v;
  __syncthreads();  // orders: writes of s_warps above before the reads below
  return warp_sum(s_warps[threadIdx.x % WARP]);
}

__device__ __forceinline__ float block_sum(float v, float (&s_warps)[WARPS]) {
  v = warp_sum(v);
  if (threadIdx.x % WARP == 0) s_warps[threadIdx.x / WARP] = v;
  __syncthreads();  // orders: writes of s_warps above before the reads below
  return warp_sum(s_warps[threadIdx.x % WARP]);
}

// Sum of the lanes up to and with this one.
__device__ __forceinline__ uint64_t warp_prefix(uint64_t v) {
  const int lane = threadIdx.x % WARP;
#pragma unroll
  for (int distance = 1; distance < WARP; distance *= 2) {
    const uint64_t below = __shfl_up_sync(ALL_LANES, v, distance);
    if (lane >= distance) v += below;
  }
  return v;
}

// What a radix select adds up: tokens, or their weights.
enum class Measure { TOKENS, MASS };

struct Selected {
  uint32_t key;    // of the token at the target
  uint64_t above;  // measure of all tokens with a larger key
};

// Shared memory of a radix select.
struct SelectSpace {
  unsigned long long bins[BINS];
  uint64_t above;
  uint32_t prefix;
};

// Largest key at which the measure, summed over falling keys from floor_key up, reaches `target`:
// 0 < target <= the measure of all. Eight bits of the key at a time, from the top.
template <Measure MEASURE>
__device__ __forceinline__ Selected radix_select(const Row& row, const Weights& weights,
                                                 uint32_t floor_key, uint64_t target,
                                                 SelectSpace& s) {
  if (threadIdx.x == 0) {
    s.above = 0;
    s.prefix = 0;
  }
#pragma unroll 1
  for (int shift = KEY_BITS - BIN_BITS; shift >= 0; shift -= BIN_BITS) {
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) s.bins[bin] = 0;
    __syncthreads();  // orders: the zeros before the counting below
    const uint32_t prefix = s.prefix;
    for (int id = threadIdx.x; id < row.V; id += THREADS) {
      const float value = edited(row, id);
      const uint32_t key = orderable(value);
      // 64-bit: the first shift is 32.
      const bool mine = uint64_t(key ^ prefix) >> (shift + BIN_BITS) == 0 && key >= floor_key;
      if (!mine) continue;
      const uint64_t measure = MEASURE == Measure::TOKENS ? 1 : weights(value);
      atomicAdd(&s.bins[key >> shift & (BINS - 1)], static_cast<unsigned long long>(measure));
    }
    __syncthreads();  // orders: all counting before the bins are read
    if (threadIdx.x < WARP) {
      // Lane l looks at the eight bins from 255 - 8l down.
      constexpr int SHARE = BINS / WARP;
      const int first = BINS - 1 - SHARE * int(threadIdx.x);
      uint64_t mass = 0;
#pragma unroll
      for (int i = 0; i < SHARE; ++i) mass += s.bins[first - i];
      const uint64_t up_to = s.above + warp_prefix(mass);
      __syncwarp();  // orders: the lanes' reads of s.above before its write below
      if (up_to - mass < target && target <= up_to) {
        uint64_t above = up_to - mass;
        int bin = first;
        while (above + s.bins[bin] < target) above += s.bins[bin--];
        s.above = above;
        s.prefix = prefix | uint32_t(bin) << shift;
      }
    }
    __syncthreads();  // orders: the reads of the bins and the bin found before the next round's
                      // zeros, and before every thread's reads below
  }
  return {s.prefix, s.above};
}

// The largest amount of mass that can rank above a token that stays, plus one.
__device__ __forceinline__ uint64_t mass_limit(uint64_t total, float top_p) {
  const uint64_t share = uint64_t(rintf(top_p * 4294967296.0f));  // in units of 2^-32, exact
  const uint64_t high = __umul64hi(share, total);
  const uint64_t low = share * total;
  const uint64_t limit = (high << 32 | low >> 32) + ((low & 0xffffffffu) != 0);
  return limit > 1 ? limit : 1;
}

__device__ __forceinline__ Filter filter_of(const Row& row, const Weights& weights,
                                            const SampleSettings& settings, SelectSpace& s_select,
                                            uint64_t (&s_total)[WARPS]) {
  Filter filter = {0, ~uint64_t(0), uint64_t(ceilf(settings.min_p * WEIGHT_ONE))};
  if (settings.top_k > 0 && settings.top_k < row.V) {
    const uint64_t target = settings.top_k;
    filter.floor_key = radix_select<Measure::TOKENS>(row, weights, 0, target, s_select).key;
  }
  if (settings.top_p < 1.0f) {
    uint64_t mass = 0;
    for (int id = threadIdx.x; id < row.V; id += THREADS) {
      const float value = edited(row, id);
      if (orderable(value) >= filter.floor_key) mass += weights(value);
    }
    // The barrier inside also orders the reads of s_select above before the next select's writes.
    const uint64_t limit = mass_limit(block_sum(mass, s_total), settings.top_p);
    const Selected last =
        radix_select<Measure::MASS>(row, weights, filter.floor_key, limit, s_select);
    const uint64_t each = weights(from_orderable(last.key));
    filter.floor_key = last.key;
    filter.equal_kept = (limit - last.above + each - 1) / each;
  }
  return filter;
}

// Shared memory of a draw.
struct DrawSpace {
  uint64_t mass[WARPS], equal[WARPS];
  int token;
};

// Draws a token from what the filter leaves; the same in every thread.
__device__ __forceinline__ int draw(const Row& row, const Weights& weights, const Filter& filter,
                                    const SampleSettings& settings, DrawSpace& s) {
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  // A warp owns a run of ids, whole warps wide.
  const int run = (row.V + THREADS - 1) / THREADS * WARP;
  const int begin = min(warp * run, row.V);
  const int end = min(begin + run, row.V);
  uint64_t each = weights(from_orderable(filter.floor_key));
  if (each < filter.floor_weight) each = 0;

  uint64_t mass = 0;
  uint64_t equal = 0;
  for (int id = begin + lane; id < end; id += WARP) {
    const float value = edited(row, id);
    const uint32_t key = orderable(value);
    const uint64_t weight = weights(value);
    if (key > filter.floor_key && weight >= filter.floor_weight) mass += weight;
    equal += key == filter.floor_key;
  }
  mass = warp_sum(mass);
  equal = warp_sum(equal);
  if (lane == 0) {
    s.mass[warp] = mass;
    s.equal[warp] = equal;
  }
  __syncthreads();  // orders: all runs' sums before their reads below

  // Every warp finds the run of the drawn token; lane l stands for run l.
  const uint64_t equal_up_to = warp_prefix(s.equal[lane]);
  const uint64_t equal_before = equal_up_to - s.equal[lane];
  const uint64_t room = filter.equal_kept > equal_before ? filter.equal_kept - equal_before : 0;
  const uint64_t run_mass = s.mass[lane] + min(room, s.equal[lane]) * each;
  const uint64_t up_to = warp_prefix(run_mass);
  const uint64_t total = __shfl_sync(ALL_LANES, up_to, WARP - 1);
  const uint2 key = make_uint2(uint32_t(settings.seed), uint32_t(settings.seed >> 32));
  const uint4 random = philox4x32(key, make_uint4(settings.step, settings.choice, 0, 0));
  const uint64_t target = __umul64hi(total, uint64_t(random.x) << 32);
  const int winner = __ffs(__ballot_sync(ALL_LANES, up_to > target)) - 1;
  uint64_t rest = target - __shfl_sync(ALL_LANES, up_to - run_mass, winner);
  uint64_t rank = __shfl_sync(ALL_LANES, equal_before, winner);

  if (warp == winner) {
    for (int first = begin; first < end; first += WARP) {
      const int id = first + lane;
      const float value = id < end ? edited(row, id) : 0.0f;
      const uint32_t key_here = orderable(value);
      const bool is_equal = id < end && key_here == filter.floor_key;
      const unsigned equals = __ballot_sync(ALL_LANES, is_equal);
      uint64_t weight = 0;
      if (is_equal) {
        const uint64_t place = rank + __popc(equals & ((1u << lane) - 1));
        weight = place < filter.equal_kept ? each : 0;
      } else if (id < end && key_here > filter.floor_key) {
        weight = weights(value);
        if (weight < filter.floor_weight) weight = 0;
      }
      const uint64_t here = warp_prefix(weight);
      const unsigned reached = __ballot_sync(ALL_LANES, here > rest);
      if (reached != 0) {
        if (lane == 0) s.token = first + __ffs(reached) - 1;
        break;
      }
      rest -= __shfl_sync(ALL_LANES, here, WARP - 1);
      rank += __popc(equals);
    }
  }
  __syncthreads();  // orders: the winner's write of s.token before every thread's read
  return s.token;
}

// Log probability of a token under the unedited logits.
__device__ __forceinline__ float log_probability(const Row& row, int token,
                                                 uint64_t (&s_max)[WARPS], float (&s_sum)[WARPS]) {
  uint32_t best = 0;
  for (int id = threadIdx.x; id < row.V; id += THREADS) best = max(best, orderable(row.logits[id]));
  const float largest = from_orderable(uint32_t(block_max(best, s_max)));
  float sum = 0.0f;
  for (int id = threadIdx.x; id < row.V; id += THREADS) sum += expf(row.logits[id] - largest);
  return row.logits[token] - largest - logf(block_sum(sum, s_sum));
}

__device__ __forceinline__ void sample(const SampleParams& p) {
  __shared__ SelectSpace s_select;
  __shared__ DrawSpace s_draw;
  __shared__ uint64_t s_best[WARPS], s_total[WARPS], s_largest[WARPS];
  __shared__ float s_sum[WARPS];
  const int sequence = blockIdx.x;
  const SampleSettings settings = p.settings[sequence];
  const bool has_history = settings.slot >= 0 && settings.slot < p.slots;
  const int64_t slot = has_history ? settings.slot : 0;
  Row row = {p.logits + sequence * p.ld,
             nullptr,
             nullptr,
             p.V,
             settings.repetition_penalty,
             settings.presence_penalty,
             settings.frequency_penalty};
  if (has_history) {
    row.seen = p.bitmap + slot * ((p.V + 31) / 32);
    row.counts = p.counts + slot * p.V;
  }

  uint64_t best = 0;  // key of s, then ~id: the lowest id of the largest s
  bool finite = true;
  for (int id = threadIdx.x; id < p.V; id += THREADS) {
    const float value = edited(row, id);
    // A comparison that NaN fails; a penalty can overflow what was finite.
    finite = finite && row.logits[id] < INFINITY && value < INFINITY;
    best = max(best, uint64_t(orderable(value)) << 32 | uint32_t(~id));
  }
  finite = __syncthreads_and(finite);  // orders: nothing; it combines
  best = block_max(best, s_best);
  const uint32_t best_key = best >> 32;
  uint32_t status = p.status[sequence];
  if (!finite || best_key <= KEY_MINUS_INF) status |= SAMPLE_STATUS_NOT_FINITE;
  if (status != 0) {  // the same in the whole block
    if (threadIdx.x == 0) p.result[sequence] = {0, status, 0.0f, 0};
    return;
  }

  int token = ~uint32_t(best);
  if (settings.temperature != 0.0f && settings.top_k != 1) {
    const Weights weights = {from_orderable(best_key), LOG2_E / settings.temperature};
    const Filter filter = filter_of(row, weights, settings, s_select, s_total);
    token = draw(row, weights, filter, settings, s_draw);
  }
  float logprob = 0.0f;
  if (settings.flags & SAMPLE_WANTS_LOGPROB) {
    logprob = log_probability(row, token, s_largest, s_sum);
  }

  // Behind a barrier that follows the block's last read of the history: of block_max after the
  // first pass, of draw after its own.
  if (threadIdx.x == 0) {
    p.result[sequence] = {token, 0, logprob, 0};
    if (has_history) {
      row.seen[token / 32] |= 1u << (token % 32);
      if (row.counts[token] < COUNT_MAX) row.counts[token] += 1;
    }
  }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_f32(const __grid_constant__ SampleParams p) {
  sample(p);
}
