// A row of scores in the hands of one block: ordered keys, sums, penalties, radix select.
#pragma once
#include "numeric.cuh"
#include "params.h"
#include "warp.cuh"

constexpr int THREADS = SAMPLE_THREADS;
constexpr int WARPS = THREADS / WARP;
static_assert(WARPS == WARP, "a warp reduces one value of each warp");
constexpr int BINS = 256;  // values of 8 bits of a key
constexpr int BIN_BITS = 8;
constexpr int KEY_BITS = 32;
constexpr float WEIGHT_ONE = 1099511627776.0f;  // 2^40, the weight of the best token

// What a sequence's history does to its scores.
struct History {
  uint32_t* seen;    // null: no history
  uint16_t* counts;  // null: no history
  float repetition, presence, frequency;
};

__device__ __forceinline__ History history_of(const SampleSettings& settings, uint32_t* bitmap,
                                              uint16_t* counts, int slots, int V) {
  History history = {nullptr, nullptr, settings.repetition_penalty, settings.presence_penalty,
                     settings.frequency_penalty};
  if (settings.slot >= 0 && settings.slot < slots) {
    const int64_t slot = settings.slot;
    history.seen = bitmap + slot * ((V + 31) / 32);
    history.counts = counts + slot * V;
  }
  return history;
}

// s < 0 ? s*p : s/p.
__device__ __forceinline__ float repeated(float s, float penalty) {
  return s < 0.0f ? s * penalty : s / penalty;
}

// A score after the penalties of its history.
__device__ __forceinline__ float penalised(float s, const History& history, int id) {
  if (history.seen == nullptr) return s;
  const bool seen = history.seen[id / 32] >> (id % 32) & 1;
  if (seen) s = repeated(s, history.repetition);
  if (history.presence != 0.0f || history.frequency != 0.0f) {
    const int count = history.counts[id];
    if (count > 0) s -= history.presence + history.frequency * float(count);
  }
  return s;
}

// The float whose key is `key`.
__device__ __forceinline__ float from_orderable(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The largest over the block, in every thread.
__device__ __forceinline__ uint64_t block_max(uint64_t v, uint64_t (&s_warps)[WARPS]) {
  v = warp_max(v);
  __syncthreads();  // orders: the reads of an earlier call before the writes below
  if (threadIdx.x % WARP == 0) s_warps[threadIdx.x / WARP] = v;
  __syncthreads();  // orders: writes of s_warps above before the reads below
  return warp_max(s_warps[threadIdx.x % WARP]);
}

// The sum over the block, in every thread: butterflies in each warp, then over the warps.
template <typename T>
__device__ __forceinline__ T block_sum(T v, T (&s_warps)[WARPS]) {
  v = warp_sum(v);
  __syncthreads();  // orders: the reads of an earlier call before the writes below
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

// log(sum(exp(s))) of a row in two parts.
struct LogSum {
  float max, log;
};

// f32 sums strided by thread, then butterflies.
__device__ __forceinline__ LogSum log_sum_of(const float* row, int V, uint64_t (&s_max)[WARPS],
                                             float (&s_sum)[WARPS]) {
  uint32_t best = 0;
  for (int id = threadIdx.x; id < V; id += THREADS) best = max(best, orderable(row[id]));
  const float largest = from_orderable(uint32_t(block_max(best, s_max)));
  float sum = 0.0f;
  for (int id = threadIdx.x; id < V; id += THREADS) sum += expf(row[id] - largest);
  return {largest, logf(block_sum(sum, s_sum))};
}

struct Selected {
  uint32_t key;    // of the item at the target
  uint64_t above;  // measure of all items with a larger key
  uint64_t equal;  // measure of all items with this key
};

// Shared memory of a radix select.
struct SelectSpace {
  unsigned long long bins[BINS];
  uint64_t above, equal;
  uint32_t prefix;
};

// Largest key at which the measure, summed over falling keys, reaches `target`: 0 < target <= the
// measure of all. `key_of(i, key)` says whether item i of 0 .. n - 1 takes part, and its key;
// `measure_of(i)` its measure. Eight bits of the key at a time, from the top.
template <typename KeyOf, typename MeasureOf>
__device__ __forceinline__ Selected radix_select(int n, uint64_t target, SelectSpace& s,
                                                 const KeyOf& key_of, const MeasureOf& measure_of) {
  __syncthreads();  // orders: the reads of an earlier select before the writes below
  if (threadIdx.x == 0) {
    s.above = 0;
    s.prefix = 0;
  }
#pragma unroll 1
  for (int shift = KEY_BITS - BIN_BITS; shift >= 0; shift -= BIN_BITS) {
    for (int bin = threadIdx.x; bin < BINS; bin += THREADS) s.bins[bin] = 0;
    __syncthreads();  // orders: the zeros before the counting below
    const uint32_t prefix = s.prefix;
    for (int i = threadIdx.x; i < n; i += THREADS) {
      uint32_t key;
      if (!key_of(i, key)) continue;
      // 64-bit: the first shift is 32.
      if (uint64_t(key ^ prefix) >> (shift + BIN_BITS) != 0) continue;
      atomicAdd(&s.bins[key >> shift & (BINS - 1)], static_cast<unsigned long long>(measure_of(i)));
    }
    __syncthreads();  // orders: all counting before the bins are read
    if (threadIdx.x < WARP) {
      // Lane l looks at the eight bins from 255 - 8l down.
      constexpr int SHARE = BINS / WARP;
      const int first = BINS - 1 - SHARE * int(threadIdx.x);
      uint64_t measure = 0;
#pragma unroll
      for (int i = 0; i < SHARE; ++i) measure += s.bins[first - i];
      const uint64_t up_to = s.above + warp_prefix(measure);
      __syncwarp();  // orders: the lanes' reads of s.above before its write below
      if (up_to - measure < target && target <= up_to) {
        uint64_t above = up_to - measure;
        int bin = first;
        while (above + s.bins[bin] < target) above += s.bins[bin--];
        s.above = above;
        s.equal = s.bins[bin];
        s.prefix = prefix | uint32_t(bin) << shift;
      }
    }
    __syncthreads();  // orders: the reads of the bins and the bin found before the next round's
                      // zeros, and before every thread's reads below
  }
  return {s.prefix, s.above, s.equal};
}
