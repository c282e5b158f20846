// Layer normalisation of packed patch rows.
//
// What     y[r,c] = E((x[r,c] - mean) * (1 / sqrt(var + eps)) * weight[c] + bias[c]), var the mean
//          of (x - mean)^2; one rounding, at the end. docs/spec.md section 8.3.
// Shapes   x, y [R, C], weight, bias [C]; rows contiguous, 16-byte aligned, C % 8 == 0.
// Mapping  grid R, block 256: a block owns a row, a thread owns 8 channels of each 2048.
// Numerics f32 sums in the order of N5, which depends on C alone: a row's bits never depend on R.
//          Two passes: E[x^2] - mean^2 would cancel where the mean is large.
// Floor    bytes 2*(2*R*C + 2*C) for 2-byte E; the second and third read of x hit L1.

#include "block.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int VEC = LAYER_NORM_VEC;
constexpr int CHUNK = LAYER_NORM_THREADS * VEC;  // channels that the block covers in one step
static_assert(LAYER_NORM_THREADS == ROW_THREADS, "the tree of block.cuh");

template <typename E>
__device__ __forceinline__ void layer_norm(const LayerNormParams& p) {
  const int64_t row = int64_t(blockIdx.x) * p.C;
  const E* x = static_cast<const E*>(p.x) + row;
  const E* weight = static_cast<const E*>(p.weight);
  const E* bias = static_cast<const E*>(p.bias);
  E* y = static_cast<E*>(p.y) + row;
  const int first = threadIdx.x * VEC;
  __shared__ float s_sum[ROW_WARPS], s_square[ROW_WARPS];

  float sum = 0.0f;
  for (int c = first; c < p.C; c += CHUNK) {
    const Vec8<E> v = load8(x + c);
#pragma unroll
    for (int i = 0; i < VEC; ++i) sum += float(v.lane[i]);
  }
  const float mean = row_sum(sum, s_sum) / float(p.C);

  float square = 0.0f;
  for (int c = first; c < p.C; c += CHUNK) {
    const Vec8<E> v = load8(x + c);
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const float difference = float(v.lane[i]) - mean;
      square = fmaf(difference, difference, square);
    }
  }
  // IEEE sqrt and division give the same bits on every device; rsqrtf is an approximation.
  const float scale = 1.0f / sqrtf(row_sum(square, s_square) / float(p.C) + p.eps);

  for (int c = first; c < p.C; c += CHUNK) {
    const Vec8<E> v = load8(x + c);
    const Vec8<E> w = load8(weight + c);
    const Vec8<E> b = load8(bias + c);
    Vec8<E> out;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const float normed = (float(v.lane[i]) - mean) * scale;
      out.lane[i] = round_to<E>(fmaf(normed, float(w.lane[i]), float(b.lane[i])));
    }
    store8(y + c, out);
  }
}

extern "C" __global__ void __launch_bounds__(LAYER_NORM_THREADS)
    layer_norm_bf16(const __grid_constant__ LayerNormParams p) {
  layer_norm<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(LAYER_NORM_THREADS)
    layer_norm_f16(const __grid_constant__ LayerNormParams p) {
  layer_norm<f16>(p);
}

extern "C" __global__ void __launch_bounds__(LAYER_NORM_THREADS)
    layer_norm_f32(const __grid_constant__ LayerNormParams p) {
  layer_norm<float>(p);
}
