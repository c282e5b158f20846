// Reductions over the 32 lanes of a warp, in one fixed order.
#pragma once
#include <stdint.h>

constexpr int WARP = 32;
constexpr unsigned ALL_LANES = 0xffffffffu;

// Butterfly with distances 16, 8, 4, 2, 1 (N5): every lane ends with the same bits.
__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    v += __shfl_xor_sync(ALL_LANES, v, distance);
  }
  return v;
}

// The largest of the lanes that is not NaN.
__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    v = fmaxf(v, __shfl_xor_sync(ALL_LANES, v, distance));
  }
  return v;
}

__device__ __forceinline__ uint64_t warp_max(uint64_t v) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(ALL_LANES, v, distance);
    v = v > other ? v : other;
  }
  return v;
}

__device__ __forceinline__ uint64_t warp_sum(uint64_t v) {
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) {
    v += __shfl_xor_sync(ALL_LANES, v, distance);
  }
  return v;
}
