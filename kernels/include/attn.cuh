// One warp's share of an attention tile: 16 query rows against 64 keys on tensor cores.
//
// Fragments are those of mma.cuh. With g = lane / 4 and t = lane % 4 a lane holds, of each block
// of 8 columns, columns 2t and 2t+1 of row g (half 0) and of row g + 8 (half 1). The scores' C
// fragments are the A fragments of P * V without any move. Order of sums: N3, N4.
#pragma once
#include "mma.cuh"
#include "softmax.cuh"
#include "tile.cuh"
#include "warp.cuh"

constexpr int KEY_TILE = 64;              // keys of a tile (N2)
constexpr int KEY_BLOCKS = KEY_TILE / 8;  // their blocks of 8 columns
constexpr int WARP_ROWS = 16;             // query rows of a warp
constexpr int HALVES = 2;                 // rows that a lane takes part in

// Index in FragmentC of a half's column 2t + e.
__device__ __forceinline__ constexpr int lane_of(int half, int e) {
  return 2 * half + e;
}

template <int BLOCKS>
__device__ __forceinline__ void clear(FragmentC (&c)[BLOCKS]) {
#pragma unroll
  for (int i = 0; i < BLOCKS; ++i) c[i] = {};
}

// s = Q K^T, k16 steps ascending from zero. `query(step, a)` gives the A fragment of a step.
template <typename E, int D, typename Query>
__device__ __forceinline__ void score_tile(FragmentC (&s)[KEY_BLOCKS], uint32_t s_keys, int lane,
                                           Query query) {
  clear(s);
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    uint32_t a[4];
    query(step, a);
    const LaneAddress at = lane_of_b2(lane, step);
#pragma unroll
    for (int pair = 0; pair < KEY_BLOCKS / 2; ++pair) {
      uint32_t b[4];
      ldmatrix_x4(b, s_keys + swizzled<D / CHUNK_ELEMENTS>(16 * pair + at.row, at.chunk));
      mma<E>(s[2 * pair], a, b[0], b[1]);
      mma<E>(s[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

// Scores to weights p, in place; the states of the lane's two rows take the tile in.
// alpha receives the factor of each row's outputs so far.
__device__ __forceinline__ void softmax_tile(FragmentC (&s)[KEY_BLOCKS],
                                             SoftmaxState (&state)[HALVES], float (&alpha)[HALVES],
                                             float scale) {
#pragma unroll
  for (int half = 0; half < HALVES; ++half) {
    const int x = lane_of(half, 0), y = lane_of(half, 1);
    float max = fmaxf(s[0].lane[x], s[0].lane[y]);
#pragma unroll
    for (int j = 1; j < KEY_BLOCKS; ++j) max = fmaxf(max, fmaxf(s[j].lane[x], s[j].lane[y]));
    max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 1));
    max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, 2));
    alpha[half] = softmax_raise(state[half], max, scale);

    const float finite = finite_max(state[half].max);
    float sum = 0.0f;  // N3: blocks ascending, then (r0 + r1) + (r2 + r3)
#pragma unroll
    for (int j = 0; j < KEY_BLOCKS; ++j) {
      s[j].lane[x] = softmax_weight(s[j].lane[x], scale, finite);
      s[j].lane[y] = softmax_weight(s[j].lane[y], scale, finite);
      sum += s[j].lane[x] + s[j].lane[y];
    }
    sum += __shfl_xor_sync(ALL_LANES, sum, 1);
    sum += __shfl_xor_sync(ALL_LANES, sum, 2);
    state[half].sum = fmaf(state[half].sum, alpha[half], sum);
  }
}

// o = o * alpha, row by row.
template <int BLOCKS>
__device__ __forceinline__ void rescale(FragmentC (&o)[BLOCKS], const float (&alpha)[HALVES]) {
#pragma unroll
  for (int i = 0; i < BLOCKS; ++i) {
#pragma unroll
    for (int q = 0; q < 4; ++q) o[i].lane[q] *= alpha[q / 2];
  }
}

// o += P V, tokens ascending in k16 steps; p is rounded to E (N4).
template <typename E, int D>
__device__ __forceinline__ void accumulate_tile(FragmentC (&o)[D / 8],
                                                const FragmentC (&p)[KEY_BLOCKS], uint32_t s_values,
                                                int lane) {
#pragma unroll
  for (int step = 0; step < KEY_TILE / 16; ++step) {
    const float(&low)[4] = p[2 * step].lane;
    const float(&high)[4] = p[2 * step + 1].lane;
    const uint32_t a[4] = {pack2<E>(low[0], low[1]), pack2<E>(low[2], low[3]),
                           pack2<E>(high[0], high[1]), pack2<E>(high[2], high[3])};
#pragma unroll
    for (int pair = 0; pair < D / 16; ++pair) {
      uint32_t b[4];
      ldmatrix_x4_trans(b, s_values + swizzled<D / CHUNK_ELEMENTS>(16 * step + (lane & 15),
                                                                   2 * pair + (lane >> 4)));
      mma<E>(o[2 * pair], a, b[0], b[1]);
      mma<E>(o[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

// Normalises and rounds the warp's rows, and stores the first `rows` of them (16 or more: all) to
// out [rows, ld] as 16-byte pieces. s_rows is the warp's own 16 rows of shared memory.
template <typename E, int D>
__device__ __forceinline__ void store_rows(const FragmentC (&o)[D / 8],
                                           const SoftmaxState (&state)[HALVES],
                                           unsigned char* s_rows, E* out, int64_t ld, int rows,
                                           int lane) {
  constexpr int CHUNKS = D / CHUNK_ELEMENTS;
#pragma unroll
  for (int half = 0; half < HALVES; ++half) {
    const float inverse = softmax_inverse(state[half].sum);
    const int row = fragment_row(lane) + 8 * half;
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
      const uint32_t pair = pack2<E>(softmax_output(o[i].lane[lane_of(half, 0)], inverse),
                                     softmax_output(o[i].lane[lane_of(half, 1)], inverse));
      unsigned char* at = s_rows + swizzled<CHUNKS>(row, i) + 2 * fragment_column(lane);
      *reinterpret_cast<uint32_t*>(at) = pair;
    }
  }
  __syncwarp(ALL_LANES);  // orders: the warp's rows in shared memory before the reads below
#pragma unroll
  for (int i = 0; i < WARP_ROWS * CHUNKS / WARP; ++i) {
    const int id = lane + i * WARP;
    const int row = id / CHUNKS, chunk = id % CHUNKS;
    const uint4 words = *reinterpret_cast<const uint4*>(s_rows + swizzled<CHUNKS>(row, chunk));
    if (row < rows) {
      *reinterpret_cast<uint4*>(out + row * ld + chunk * CHUNK_ELEMENTS) = words;
    }
  }
}
