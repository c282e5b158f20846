// The next token of each sequence from its logits, or the scores that it would be drawn from.
//
// What     s = logits, or the scores that score_edits made of them; else repetition penalty once
// for
//          each seen token (s < 0 ? s*p : s/p) and presence and frequency penalties, s -= presence
//          + frequency*count where count > 0. Greedy (temperature 0, for a token also top_k 1): the
//          lowest id of the largest s. Else x = (s - max) / temperature, weights q = floor(2^40 *
//          2^(x*log2(e))), then in this order, each over what the one before left:
//            top_k      s below the k-th largest leaves, ties of it stay;
//            top_p      a token stays if the mass ranked above it (larger s; equal s, lower id) is
//                       below top_p of all mass;
//            min_p      q below min_p * 2^40 leaves;
//            typical_p  with d = |x - mean of x|, tokens stay in the order of rising d until their
//                       mass reaches typical_p of all, ties of the last stay;
//            epsilon    q below epsilon of all mass leaves;
//            eta        the same with min(eta, sqrt(eta) * exp(-entropy));
//          min_keep best tokens (closest ones for typical_p) stay always. Then sample_f32 draws in
//          proportion to q by Philox(seed; step, choice) (docs/spec.md 13.3) and enters the token
//          in the sequence's bitmap and counts; warp_scores_f32 writes s / temperature, -inf for
//          what left, if asked for less its log-sum-exp. A NaN, a +inf, or for a draw no s above
//          -inf: token 0 and SAMPLE_STATUS_NOT_FINITE, nothing else is written.
// Shapes   logits f32 [rows, ld], scores and out f32 [B, ld], V <= ld, ld % 4 == 0; bitmap u32
//          [slots, ceil(V / 32)], counts u16 [slots, V]; settings, status, result [B]. V <= 2^23,
//          so that masses fit 64 bits. A slot outside 0 .. slots - 1 has no history.
// Mapping  grid B, block 1024: a block owns a sequence and passes over its logits: one pass for the
//          maximum, four for each filter that ranks (radix select, 8 bits of the ordered key each),
//          one for each sum, one to draw. Passes after the first hit L2. Threads take ids in turn,
//          but for the draw, where a warp owns a run of ids, so that masses can be summed in the
//          order of ids.
// Numerics sums of q are integers: exact, in any order, so a row's token never depends on the
// batch.
//          exp2_poly makes the same bits everywhere; the oracle agrees bit for bit. Means,
//          entropies and log probabilities are f32, sums strided by thread, then butterflies: 2^-20
//          relative.
// Floor    bytes 4*V*B + V*B/8; for warp_scores 4*V*B more.

#include "params.h"
#include "philox.cuh"
#include "scores.cuh"

constexpr uint32_t KEY_MINUS_INF = 0x007fffffu;  // orderable(-inf)
constexpr int COUNT_MAX = 65535;

// One sequence: its scores, and what edits them on the way.
struct Row {
  const float* raw;     // the logits
  const float* scores;  // what is drawn from
  History history;      // empty for scores that are edited already
  int V;
  __device__ __forceinline__ float operator()(int id) const {
    return penalised(scores[id], history, id);
  }
};

// Fixed-point weight of a score.
struct Weights {
  float max, scale;
  __device__ __forceinline__ uint64_t operator()(float s) const {
    // Also where a tiny temperature makes the scale infinite and the product NaN.
    const float power = s == max ? 1.0f : exp2_poly((s - max) * scale);
    return uint64_t(power * WEIGHT_ONE);
  }
};

// The tokens that stay.
struct Filter {
  uint32_t floor_key;      // smallest key of a score
  int tie_end;             // of the tokens with that key those below this id stay
  uint64_t floor_weight;   // smallest weight
  uint32_t closeness_key;  // smallest key of -d; 0: all
  float mean;              // of x
};

// What a filter looks at.
struct Space {
  SelectSpace select;
  uint64_t sums[WARPS];
  float floats[WARPS];
};

// A row with its weights and what is left of it.
struct Field {
  const Row& row;
  Weights weights;
  float max, temperature;
  Filter filter;

  __device__ __forceinline__ float x(float s) const {
    return s == max ? 0.0f : (s - max) / temperature;
  }
  __device__ __forceinline__ uint32_t closeness(float s) const {
    return orderable(-fabsf(x(s) - filter.mean));
  }
  __device__ __forceinline__ bool keeps(float s, int id) const {
    const uint32_t key = orderable(s);
    if (key < filter.floor_key || (key == filter.floor_key && id >= filter.tie_end)) return false;
    if (filter.floor_weight > 0 && weights(s) < filter.floor_weight) return false;
    return filter.closeness_key == 0 || closeness(s) >= filter.closeness_key;
  }
};

// Sums over what is left.
struct Sums {
  uint64_t count, mass;
  float mean, log_sum;  // of x; only if asked for
};

__device__ __forceinline__ Sums sums_of(const Field& f, bool moments, Space& s) {
  uint64_t count = 0;
  uint64_t mass = 0;
  float sum = 0.0f;
  float weighted = 0.0f;
  for (int id = threadIdx.x; id < f.row.V; id += THREADS) {
    const float value = f.row(id);
    if (!f.keeps(value, id)) continue;
    count += 1;
    mass += f.weights(value);
    const float power = moments ? expf(f.x(value)) : 0.0f;
    if (power > 0.0f) {
      sum += power;
      weighted += power * f.x(value);
    }
  }
  Sums sums = {block_sum(count, s.sums), block_sum(mass, s.sums), 0.0f, 0.0f};
  if (moments) {
    sum = block_sum(sum, s.floats);
    sums.mean = block_sum(weighted, s.floats) / sum;
    sums.log_sum = logf(sum);
  }
  return sums;
}

// The largest amount of mass that can rank above a token that stays, plus one.
__device__ __forceinline__ uint64_t mass_limit(uint64_t total, float part) {
  const uint64_t share = uint64_t(rintf(part * 4294967296.0f));  // in units of 2^-32, exact
  const uint64_t high = __umul64hi(share, total);
  const uint64_t low = share * total;
  const uint64_t limit = (high << 32 | low >> 32) + ((low & 0xffffffffu) != 0);
  return limit > 1 ? limit : 1;
}

// The smallest weight that is `part` of `total` or more.
__device__ __forceinline__ uint64_t weight_limit(uint64_t total, float part) {
  const uint64_t share = uint64_t(part * 18446744073709551616.0f);  // in units of 2^-64; part < 1
  return __umul64hi(share, total) + (share * total != 0);
}

// The filters in their order, and the sum that follows them.
enum Stage { TOP_K, TOP_P, MIN_P, TYPICAL, EPSILON, ETA, RENORMALIZE, STAGES };
// Selects of a filter: where its rule ends, where the tokens that stay always end, which of the
// equals at the end stay.
enum Pass { RULE, KEEP, TIES, PASSES };
constexpr uint64_t ALL_EQUALS = ~uint64_t(0);

// How much a filter leaves; NAN: it is off.
__device__ __forceinline__ float part_of(const SampleSettings& settings, int stage, int V) {
  const float top_k = settings.top_k > 0 && settings.top_k < V ? 0.0f : NAN;
  if (stage == TOP_K) return top_k;
  if (stage == TOP_P) return settings.top_p < 1.0f ? settings.top_p : NAN;
  if (stage == MIN_P) return settings.min_p > 0.0f ? settings.min_p : NAN;
  if (stage == TYPICAL) return settings.typical_p < 1.0f ? settings.typical_p : NAN;
  if (stage == EPSILON) return settings.epsilon > 0.0f ? settings.epsilon : NAN;
  if (stage == ETA) return settings.eta > 0.0f ? settings.eta : NAN;
  return settings.flags & SAMPLE_RENORMALIZES ? 0.0f : NAN;
}

// Smallest weight that a filter by weight leaves; 0 for the others.
__device__ __forceinline__ uint64_t floor_of(int stage, float part, const Sums& sums) {
  if (stage == MIN_P) return uint64_t(ceilf(part * WEIGHT_ONE));
  if (stage == EPSILON) return weight_limit(sums.mass, part);
  if (stage != ETA) return 0;
  return weight_limit(sums.mass, fminf(part, sqrtf(part) * expf(sums.mean - sums.log_sum)));
}

// Runs the filters over f; returns the log-sum-exp of x over what is left, if asked for.
__device__ __forceinline__ float filter_row(Field& f, const SampleSettings& settings, bool warps,
                                            Space& s) {
  const uint64_t min_keep = settings.min_keep > 1 ? settings.min_keep : 1;
  float log_sum = 0.0f;
#pragma unroll 1
  for (int stage = warps ? TOP_K : RENORMALIZE; stage < STAGES; ++stage) {
    const float part = part_of(settings, stage, f.row.V);
    if (isnan(part)) continue;
    const Sums sums = sums_of(f, stage == TYPICAL || stage == ETA || stage == RENORMALIZE, s);
    if (stage == RENORMALIZE) {
      log_sum = sums.log_sum;
      continue;
    }
    if (stage == TYPICAL) f.filter.mean = sums.mean;
    const uint64_t floor = floor_of(stage, part, sums);
    const bool by_weight = stage == MIN_P || stage == EPSILON || stage == ETA;
    // The best token has the largest weight unless typical_p removed it.
    bool has_floor = by_weight && stage == MIN_P && min_keep == 1;
    uint32_t end_key = ~uint32_t(0);  // what ranks below it leaves
    uint64_t equals = 0;              // of those with that key so many stay, lowest ids first
    int tie_end = f.row.V;
#pragma unroll 1
    for (int pass = RULE; pass < PASSES && !has_floor; ++pass) {
      uint64_t goal;
      const bool by_mass = pass == RULE && stage != TOP_K;
      if (pass == RULE) {
        if (by_weight) continue;
        const uint64_t top_k = max(uint64_t(settings.top_k), min_keep);
        goal = by_mass ? mass_limit(sums.mass, part) : min(top_k, sums.count);
      } else if (pass == KEEP) {
        if (stage == TOP_K || (min_keep == 1 && !by_weight)) continue;
        goal = min(min_keep, sums.count);
      } else {
        if (equals == ALL_EQUALS) continue;
        goal = equals;
      }
      const Selected last = radix_select(
          f.row.V, goal, s.select,
          [&](int id, uint32_t& key) {
            const float value = f.row(id);
            const uint32_t own = orderable(value);
            key = pass == TIES ? ~uint32_t(id) : stage == TYPICAL ? f.closeness(value) : own;
            return f.keeps(value, id) && (pass != TIES || own == end_key);
          },
          [&](int id) { return by_mass ? f.weights(f.row(id)) : uint64_t(1); });
      if (pass == TIES) {
        tie_end = int(~last.key) + 1;
        continue;
      }
      const bool ties_stay = stage == TOP_K || stage >= TYPICAL;
      const uint64_t each = by_mass && !ties_stay ? f.weights(from_orderable(last.key)) : 1;
      uint64_t stay = ties_stay ? ALL_EQUALS : (goal - last.above + each - 1) / each;
      if (stay >= last.equal / each) stay = ALL_EQUALS;
      if (by_weight && f.weights(from_orderable(last.key)) >= floor) {
        has_floor = true;
      } else if (last.key < end_key || (last.key == end_key && stay > equals)) {
        end_key = last.key;
        equals = stay;
      }
    }
    if (has_floor) {
      f.filter.floor_weight = max(f.filter.floor_weight, floor);
    } else if (stage == TYPICAL) {
      f.filter.closeness_key = end_key;
    } else {
      if (end_key == f.filter.floor_key) tie_end = min(tie_end, f.filter.tie_end);
      f.filter.floor_key = end_key;
      f.filter.tie_end = tie_end;
    }
  }
  return log_sum;
}

// Shared memory of a draw.
struct DrawSpace {
  uint64_t mass[WARPS];
  int token;
};

// Draws a token from what is left; the same in every thread.
__device__ __forceinline__ int draw(const Field& f, const SampleSettings& settings, DrawSpace& s) {
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  // A warp owns a run of ids, whole warps wide.
  const int run = (f.row.V + THREADS - 1) / THREADS * WARP;
  const int begin = min(warp * run, f.row.V);
  const int end = min(begin + run, f.row.V);

  uint64_t mass = 0;
  for (int id = begin + lane; id < end; id += WARP) {
    const float value = f.row(id);
    if (f.keeps(value, id)) mass += f.weights(value);
  }
  mass = warp_sum(mass);
  if (lane == 0) s.mass[warp] = mass;
  __syncthreads();  // orders: all runs' sums before their reads below

  // Every warp finds the run of the drawn token; lane l stands for run l.
  const uint64_t run_mass = s.mass[lane];
  const uint64_t up_to = warp_prefix(run_mass);
  const uint64_t total = __shfl_sync(ALL_LANES, up_to, WARP - 1);
  const uint2 key = make_uint2(uint32_t(settings.seed), uint32_t(settings.seed >> 32));
  const uint4 random = philox4x32(key, make_uint4(settings.step, settings.choice, 0, 0));
  const uint64_t target = __umul64hi(total, uint64_t(random.x) << 32);
  const int winner = __ffs(__ballot_sync(ALL_LANES, up_to > target)) - 1;
  uint64_t rest = target - __shfl_sync(ALL_LANES, up_to - run_mass, winner);

  if (warp == winner) {
    for (int first = begin; first < end; first += WARP) {
      const int id = first + lane;
      const float value = id < end ? f.row(id) : 0.0f;
      const uint64_t weight = id < end && f.keeps(value, id) ? f.weights(value) : 0;
      const uint64_t here = warp_prefix(weight);
      const unsigned reached = __ballot_sync(ALL_LANES, here > rest);
      if (reached != 0) {
        if (lane == 0) s.token = first + __ffs(reached) - 1;
        break;
      }
      rest -= __shfl_sync(ALL_LANES, here, WARP - 1);
    }
  }
  __syncthreads();  // orders: the winner's write of s.token before every thread's read
  return s.token;
}

// One sequence of a launch.
__device__ __forceinline__ Row row_of(const SampleParams& p, const SampleSettings& settings) {
  Row row;
  row.raw = p.logits + settings.row * p.ld;
  row.scores = row.raw;
  row.history = {nullptr, nullptr, 1.0f, 0.0f, 0.0f};
  row.V = p.V;
  if (settings.flags & SAMPLE_EDITED) {
    row.scores = p.scores + blockIdx.x * p.ld;
  } else {
    row.history = history_of(settings, p.bitmap, p.counts, p.slots, p.V);
  }
  return row;
}

// The best token of a row, and whether all of it is finite or -inf.
struct Best {
  uint32_t key;
  int token;
  bool finite;
};

__device__ __forceinline__ Best best_of(const Row& row, Space& s) {
  uint64_t best = 0;  // key of s, then ~id: the lowest id of the largest s
  bool finite = true;
  for (int id = threadIdx.x; id < row.V; id += THREADS) {
    const float value = row(id);
    // A comparison that NaN fails; a penalty can overflow what was finite.
    finite = finite && row.scores[id] < INFINITY && value < INFINITY;
    best = max(best, uint64_t(orderable(value)) << 32 | uint32_t(~id));
  }
  finite = __syncthreads_and(finite);  // orders: nothing; it combines
  best = block_max(best, s.sums);
  return {uint32_t(best >> 32), int(~uint32_t(best)), finite};
}

__device__ __forceinline__ Field field_of(const Row& row, const Best& best, float temperature) {
  const float max = from_orderable(best.key);
  const Filter all = {0, row.V, 0, 0, 0.0f};
  return {row, {max, LOG2_E / temperature}, max, temperature, all};
}

__device__ __forceinline__ void sample(const SampleParams& p) {
  __shared__ Space s_space;
  __shared__ DrawSpace s_draw;
  const int sequence = blockIdx.x;
  const SampleSettings& settings = p.settings[sequence];
  const Row row = row_of(p, settings);
  const Best best = best_of(row, s_space);
  uint32_t status = p.status[settings.row];
  if (!best.finite || best.key <= KEY_MINUS_INF) status |= SAMPLE_STATUS_NOT_FINITE;
  if (status != 0) {  // the same in the whole block
    if (threadIdx.x == 0) p.result[sequence] = {0, status, 0.0f, 0};
    return;
  }

  int token = best.token;
  if (settings.temperature != 0.0f && settings.top_k != 1) {
    Field field = field_of(row, best, settings.temperature);
    filter_row(field, settings, true, s_space);
    token = draw(field, settings, s_draw);
  }
  float logprob = 0.0f;
  if (settings.flags & SAMPLE_WANTS_LOGPROB) {
    const LogSum sum = log_sum_of(row.raw, p.V, s_space.sums, s_space.floats);
    logprob = row.raw[token] - sum.max - sum.log;
  }

  // Behind a barrier that follows the block's last read of the history: of block_max after the
  // first pass, of draw after its own.
  if (threadIdx.x == 0) {
    p.result[sequence] = {token, 0, logprob, 0};
    const History own = history_of(settings, p.bitmap, p.counts, p.slots, p.V);
    if (own.seen != nullptr) {
      own.seen[token / 32] |= 1u << (token % 32);
      if (own.counts[token] < COUNT_MAX) own.counts[token] += 1;
    }
  }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    sample_f32(const __grid_constant__ SampleParams p) {
  sample(p);
}

__device__ __forceinline__ void warp_scores(const SampleParams& p) {
  __shared__ Space s_space;
  const int sequence = blockIdx.x;
  const SampleSettings& settings = p.settings[sequence];
  const Row row = row_of(p, settings);
  const Best best = best_of(row, s_space);
  uint32_t status = p.status[settings.row];
  if (!best.finite) status |= SAMPLE_STATUS_NOT_FINITE;
  if (threadIdx.x == 0) p.result[sequence] = {status != 0 ? 0 : best.token, status, 0.0f, 0};
  if (status != 0) return;  // the same in the whole block

  const bool warps = settings.temperature != 0.0f && best.key > KEY_MINUS_INF;
  const float temperature = warps ? settings.temperature : 1.0f;
  Field field = field_of(row, best, temperature);
  const float log_sum = filter_row(field, settings, warps, s_space);
  const bool renormalizes = settings.flags & SAMPLE_RENORMALIZES;
  const float shift = renormalizes ? field.max / temperature + log_sum : 0.0f;
  float* out = p.out + sequence * p.ld;
  for (int id = threadIdx.x; id < p.V; id += THREADS) {
    const float value = row(id);
    out[id] = field.keeps(value, id) ? value / temperature - shift : -INFINITY;
  }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS)
    warp_scores_f32(const __grid_constant__ SampleParams p) {
  warp_scores(p);
}
