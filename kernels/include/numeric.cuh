// Scalar functions of the kernels, each with its error and its rounding points (N8).
#pragma once
#include "vec.cuh"

// log2(e), the factor from exp to exp2.
constexpr float LOG2_E = 1.4426950408889634f;

// 2^x by ex2.approx.ftz.f32 (PTX ISA 9.7.3.20): relative error 2^-22, exactly 1 at 0, 0 at -inf.
__device__ __forceinline__ float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 2^x for x <= 0 in plain IEEE operations, the same bits on every device and in the oracle:
// x = n + f with |f| <= 1/2, a polynomial of degree 6 that interpolates 2^f at Chebyshev nodes,
// error below 1 ulp, exactly 1 at 0. Below 2^-64 the result is 0.
__device__ __forceinline__ float exp2_poly(float x) {
  if (!(x > -64.0f)) return 0.0f;
  const float whole = rintf(x);
  const float f = x - whole;
  float y = 0x1.44138ap-13f;
  y = fmaf(y, f, 0x1.5f0890p-10f);
  y = fmaf(y, f, 0x1.3b2a54p-7f);
  y = fmaf(y, f, 0x1.c6af6cp-5f);
  y = fmaf(y, f, 0x1.ebfbe0p-3f);
  y = fmaf(y, f, 0x1.62e430p-1f);
  y = fmaf(y, f, 1.0f);
  return __int_as_float(__float_as_int(y) + (__float2int_rn(whole) << 23));
}

// 1 / (1 + exp(-x)). exp(-x) overflows below x = -88.7 and the result is 0, as in the reference.
__device__ __forceinline__ float sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// E(x / (1 + exp(-x))).
template <typename E>
__device__ __forceinline__ float silu(float x) {
  return rounded<E>(x / (1.0f + expf(-x)));
}

// E(x * E(sigmoid(E(1.702 x)))), x already rounded.
template <typename E>
__device__ __forceinline__ float quick_gelu(float x) {
  const float scaled = rounded<E>(1.702f * x);
  const float gate = rounded<E>(sigmoid(scaled));
  return rounded<E>(x * gate);
}

// E(x / 2 * (1 + erf(x / sqrt(2)))), x already rounded.
template <typename E>
__device__ __forceinline__ float gelu_erf(float x) {
  return rounded<E>(0.5f * x * (1.0f + erff(x * 0.70710678118654752f)));
}

// Unsigned key in the order of the floats, -0 as +0. NaNs lie outside the finite range.
__device__ __forceinline__ uint32_t orderable(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
