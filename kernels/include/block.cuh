// Reductions over a block of 256 threads, in the order of N5 (docs/numerics.md).
#pragma once
#include "warp.cuh"

// Threads of a block that owns one row, and its warps.
constexpr int ROW_THREADS = 256;
constexpr int ROW_WARPS = ROW_THREADS / WARP;

// The sum over the block, the same bits in every thread: a butterfly in each warp, then one fixed
// tree over the eight warps. `s_partial` belongs to this call alone: a second sum of the same
// block takes another array, so that no barrier has to guard its reuse.
__device__ __forceinline__ float row_sum(float v, float (&s_partial)[ROW_WARPS]) {
  static_assert(ROW_WARPS == 8, "the tree below");
  v = warp_sum(v);
  if (threadIdx.x % WARP == 0) s_partial[threadIdx.x / WARP] = v;
  __syncthreads();  // orders: writes of s_partial above before the reads below
  const float* s = s_partial;
  return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7]));
}
