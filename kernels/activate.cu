// Activations that no epilogue has, element by element, in place: those of vision towers that are
// not the published ones.
//
// What     y = E(f(y)), f by `kind`: QuickGELU, GELU, GELU by tanh, GELU clipped to [-10, 10],
//          x sigmoid(x), ReLU, its square, ReLU clipped to 6, ReLU with slope 0.01 below 0,
//          sigmoid, tanh, x tanh(log(1 + exp(x))). docs/spec.md section 1.3.
// Shapes   y [n], 16-byte aligned, n % 8 == 0.
// Mapping  grid ceil(n / 2048), block 256, a thread 8 elements.
// Numerics f32, one rounding (N8), three in QuickGELU. Tolerance class B.
// Floor    bytes 2*2*n.

#include "numeric.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int VEC = ACTIVATE_VEC;

template <typename E>
__device__ __forceinline__ float activation(float x, int kind) {
  switch (kind) {
    case ACTIVATE_QUICK_GELU:
      return quick_gelu<E>(x);
    case ACTIVATE_GELU:
      return gelu_erf<E>(x);
    case ACTIVATE_GELU_TANH:
      return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * fmaf(0.044715f * x * x, x, x)));
    case ACTIVATE_GELU_10:
      return fminf(fmaxf(0.5f * x * (1.0f + erff(x * 0.70710678118654752f)), -10.0f), 10.0f);
    case ACTIVATE_SILU:
      return x * sigmoid(x);
    case ACTIVATE_RELU:
      return fmaxf(x, 0.0f);
    case ACTIVATE_RELU2:
      return fmaxf(x, 0.0f) * fmaxf(x, 0.0f);
    case ACTIVATE_RELU6:
      return fminf(fmaxf(x, 0.0f), 6.0f);
    case ACTIVATE_LEAKY_RELU:
      return x > 0.0f ? x : 0.01f * x;
    case ACTIVATE_SIGMOID:
      return sigmoid(x);
    case ACTIVATE_TANH:
      return tanhf(x);
    // log(1 + exp(x)) is x to f32's precision above 20.
    default:
      return x * tanhf(x > 20.0f ? x : log1pf(expf(x)));
  }
}

template <typename E>
__device__ __forceinline__ void activate(const ActivateParams& p) {
  static_assert(VEC == 8, "what load8 and store8 move");
  const int64_t first = (blockIdx.x * int64_t(ACTIVATE_THREADS) + threadIdx.x) * VEC;
  if (first >= p.n) return;
  E* at = static_cast<E*>(p.y) + first;
  Vec8<E> v = load8(at);
#pragma unroll
  for (int i = 0; i < VEC; ++i) {
    const float x = float(v.lane[i]);
    // A NaN stays one: fmaxf and fminf would drop it.
    v.lane[i] = round_to<E>(x == x ? activation<E>(x, p.kind) : x);
  }
  store8(at, v);
}

extern "C" __global__ void __launch_bounds__(ACTIVATE_THREADS)
    activate_bf16(const __grid_constant__ ActivateParams p) {
  activate<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(ACTIVATE_THREADS)
    activate_f16(const __grid_constant__ ActivateParams p) {
  activate<f16>(p);
}

extern "C" __global__ void __launch_bounds__(ACTIVATE_THREADS)
    activate_f32(const __grid_constant__ ActivateParams p) {
  activate<float>(p);
}
