// RMS normalisation of packed token rows, with the residual sum before it where there is one.
//
// What     h[t,c] = residual ? E(residual[t,c] + x[t,c]) : x[t,c], written back to residual;
//          y[t,c] = E(weight[c] * E(h[t,c] * (1 / sqrt(mean_c(h[t,c]^2) + eps)))); both roundings
//          are the reference model's (docs/spec.md 15.1).
// Shapes   x, residual, y [T, C], weight [C]; rows contiguous, every pointer 16-byte aligned,
//          C % 8 == 0. No two of them overlap.
// Mapping  grid T, block 256: a block owns a row, a thread owns 8 channels of each 2048.
// Numerics f32 sums in the order of N5, which depends on C alone: a row's bits never depend on T.
//          Two rounding points, the inner one moved by an f32 error: tolerance class B, 2 steps.
// Floor    bytes 2*(2*T*C + C), with residual 2*(4*T*C + C); the second read of a row hits L1.

#include "block.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int THREADS = RMS_NORM_THREADS;
constexpr int VEC = RMS_NORM_VEC;
constexpr int CHUNK = THREADS * VEC;  // channels that the block covers in one step
static_assert(THREADS == ROW_THREADS, "the tree of row_sum");

template <typename E>
__device__ __forceinline__ void rms_norm(const RmsNormParams& p) {
  static_assert(VEC == 8, "what load8 and store8 move");
  const int64_t row = int64_t(blockIdx.x) * p.C;  // 64-bit: T * C can pass 2^31
  const E* x = static_cast<const E*>(p.x) + row;
  E* residual = p.residual == nullptr ? nullptr : static_cast<E*>(p.residual) + row;
  const E* weight = static_cast<const E*>(p.weight);
  E* y = static_cast<E*>(p.y) + row;
  const int first = threadIdx.x * VEC;

  float sum = 0.0f;
  for (int c = first; c < p.C; c += CHUNK) {
    Vec8<E> h = load8(x + c);
    if (residual != nullptr) {
      const Vec8<E> old = load8(residual + c);
#pragma unroll
      for (int i = 0; i < VEC; ++i) h.lane[i] = round_to<E>(float(old.lane[i]) + float(h.lane[i]));
      store8(residual + c, h);
    }
#pragma unroll
    for (int i = 0; i < VEC; ++i) sum = fmaf(float(h.lane[i]), float(h.lane[i]), sum);
  }

  __shared__ float s_partial[ROW_WARPS];
  const float total = row_sum(sum, s_partial);
  // IEEE sqrt and division give the same bits on every device; rsqrtf is an approximation.
  const float scale = 1.0f / sqrtf(total / float(p.C) + p.eps);

  // What a thread wrote to residual above it reads again here: the same channels.
  const E* normed = residual == nullptr ? x : residual;
  for (int c = first; c < p.C; c += CHUNK) {
    const Vec8<E> h = load8(normed + c);
    const Vec8<E> w = load8(weight + c);
    Vec8<E> out;
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
      const float unit = rounded<E>(float(h.lane[i]) * scale);
      out.lane[i] = round_to<E>(float(w.lane[i]) * unit);
    }
    store8(y + c, out);
  }
}

extern "C" __global__ void __launch_bounds__(RMS_NORM_THREADS)
    rms_norm_bf16(const __grid_constant__ RmsNormParams p) {
  rms_norm<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(RMS_NORM_THREADS)
    rms_norm_f16(const __grid_constant__ RmsNormParams p) {
  rms_norm<f16>(p);
}

extern "C" __global__ void __launch_bounds__(RMS_NORM_THREADS)
    rms_norm_f32(const __grid_constant__ RmsNormParams p) {
  rms_norm<float>(p);
}
