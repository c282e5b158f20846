// What becomes of an output of a linear layer, after g = E(sum + bias): the values of `epilogue`
// in params.h. Every kernel that computes a linear layer calls these, so that they agree in bits.
#pragma once
#include "numeric.cuh"
#include "params.h"
#include "vec.cuh"

// The activation of `epilogue`, or g itself.
template <typename E>
__device__ __forceinline__ float activated(float g, int epilogue) {
  if (epilogue == GEMM_QUICK_GELU) return quick_gelu<E>(g);
  if (epilogue == GEMM_GELU_ERF) return gelu_erf<E>(g);
  return g;
}

__device__ __forceinline__ bool has_activation(int epilogue) {
  return epilogue == GEMM_QUICK_GELU || epilogue == GEMM_GELU_ERF;
}

// E(g + old): the residual stream.
template <typename E>
__device__ __forceinline__ Vec8<E> added(Vec8<E> g, Vec8<E> old) {
#pragma unroll
  for (int i = 0; i < 8; ++i) g.lane[i] = round_to<E>(float(g.lane[i]) + float(old.lane[i]));
  return g;
}

// Eight outputs as f32, the logits' type.
template <typename E>
__device__ __forceinline__ void store8_widened(float* at, Vec8<E> g) {
  float4* to = reinterpret_cast<float4*>(at);
  to[0] = make_float4(float(g.lane[0]), float(g.lane[1]), float(g.lane[2]), float(g.lane[3]));
  to[1] = make_float4(float(g.lane[4]), float(g.lane[5]), float(g.lane[6]), float(g.lane[7]));
}
