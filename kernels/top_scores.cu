// The best tokens of a row of scores, in order: alternatives with log probabilities, beams.
//
// What     v[id] = scores[row][id] + offset. The n ids with the largest rank, best first, equal
// ranks
//          by rising id, with their v and rank. The rank of an id is v; for a query that perturbs
//          it is v - log(e), e exponential by Philox(seed; step, choice, id, 1), so that the ids
//          are n draws without replacement from softmax(v), in the order of drawing. A query that
//          normalises has v less the log-sum-exp of the row, and of `target` too. Ranks that are
//          NaN: status.
// Shapes   scores f32 [rows, ld]; queries [B]; ids i32, values and ranks f32 [B, N], of which the
// first n of
//          a row are written; summary [B]. 0 <= n <= min(N, V), N <= 1024.
// Mapping  grid B, block 1024; a block owns a query: four passes find the n-th rank (radix select),
//          four its ids if it has equals, one collects, then thread i places candidate i.
// Numerics v is one addition; the log-sum-exp is f32, strided by thread, then butterflies: 2^-20
//          relative. Which ids come out is exact, but for perturbed ranks, which use logf.
// Floor    bytes 4*V*B.

#include "params.h"
#include "philox.cuh"
#include "scores.cuh"

// Rank of an id.
__device__ __forceinline__ float rank_of(const float* row, const TopQuery& query, int id) {
  const float v = row[id] + query.offset;
  if (!(query.flags & TOP_SCORES_PERTURBS)) return v;
  const uint2 key = make_uint2(uint32_t(query.seed), uint32_t(query.seed >> 32));
  const uint4 random = philox4x32(key, make_uint4(query.step, query.choice, uint32_t(id), 1));
  // In (0, 1): e is positive and finite.
  const float uniform = fminf((float(random.x) + 0.5f) * 0x1p-32f, 0x1.fffffep-1f);
  return v - logf(-log1pf(-uniform));
}

__device__ __forceinline__ void top_scores(const TopScoresParams& p) {
  __shared__ SelectSpace s_select;
  __shared__ uint64_t s_sums[WARPS];
  __shared__ float s_floats[WARPS];
  __shared__ uint32_t s_keys[THREADS];
  __shared__ int s_ids[THREADS];
  __shared__ int s_count;
  const TopQuery query = p.queries[blockIdx.x];
  const float* row = p.scores + query.row * p.ld;
  float shift = 0.0f;
  float log_sum = 0.0f;
  if (query.flags & TOP_SCORES_NORMALIZES) {
    const LogSum sum = log_sum_of(row, p.V, s_sums, s_floats);
    shift = sum.max;
    log_sum = sum.log;
  }
  bool ordered = true;
  for (int id = threadIdx.x; id < p.V; id += THREADS) ordered = ordered && row[id] == row[id];
  ordered = __syncthreads_and(ordered);  // orders: nothing; it combines
  if (threadIdx.x == 0) {
    const bool has_target = query.target >= 0 && query.target < p.V;
    const float target = has_target ? row[query.target] + query.offset - shift - log_sum : 0.0f;
    p.summary[blockIdx.x] = {target, ordered ? 0u : uint32_t(SAMPLE_STATUS_NOT_FINITE)};
    s_count = 0;
  }
  const int n = min(min(query.n, p.N), p.V);
  if (n <= 0 || !ordered) return;  // the same in the whole block

  const auto one = [](int) { return uint64_t(1); };
  const Selected last = radix_select(
      p.V, n, s_select,
      [&](int id, uint32_t& key) {
        key = orderable(rank_of(row, query, id));
        return true;
      },
      one);
  // Of the equals of the last one the lowest ids.
  const Selected tie = radix_select(
      p.V, n - last.above, s_select,
      [&](int id, uint32_t& key) {
        key = ~uint32_t(id);
        return orderable(rank_of(row, query, id)) == last.key;
      },
      one);
  const int tie_last = int(~tie.key);
  for (int id = threadIdx.x; id < p.V; id += THREADS) {
    const uint32_t key = orderable(rank_of(row, query, id));
    if (key < last.key || (key == last.key && id > tie_last)) continue;
    const int place = atomicAdd(&s_count, 1);
    s_keys[place] = key;
    s_ids[place] = id;
  }
  __syncthreads();  // orders: all candidates before their reads below
  const int own = threadIdx.x;
  if (own >= n) return;
  int place = 0;
  for (int other = 0; other < n; ++other) {
    const bool equal = s_keys[other] == s_keys[own];
    place += s_keys[other] > s_keys[own] || (equal && s_ids[other] < s_ids[own]);
  }
  const int64_t at = int64_t(blockIdx.x) * p.N + place;
  p.ids[at] = s_ids[own];
  p.ranks[at] = from_orderable(s_keys[own]);
  p.values[at] = row[s_ids[own]] + query.offset - shift - log_sum;
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS, 1)
    top_scores_f32(const __grid_constant__ TopScoresParams p) {
  top_scores(p);
}
