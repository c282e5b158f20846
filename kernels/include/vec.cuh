// Element types, 16-byte accesses, conversions and rounding points.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

using bf16 = __nv_bfloat16;
using f16 = __half;

// Eight elements: one 16-byte access of 2-byte elements, two of f32.
template <typename E>
struct alignas(16) Vec8 {
  E lane[8];
};

// `at` is 16-byte aligned. A plain load: also right for memory that this launch writes. Moved by
// words: an array of 2-byte elements alone does not make nvcc emit one 16-byte access.
template <typename E>
__device__ __forceinline__ Vec8<E> load8(const E* at) {
  constexpr int WORDS = sizeof(Vec8<E>) / sizeof(uint4);
  uint4 words[WORDS];
#pragma unroll
  for (int i = 0; i < WORDS; ++i) words[i] = reinterpret_cast<const uint4*>(at)[i];
  Vec8<E> v;
  memcpy(&v, words, sizeof v);
  return v;
}

template <typename E>
__device__ __forceinline__ void store8(E* at, Vec8<E> v) {
  constexpr int WORDS = sizeof(Vec8<E>) / sizeof(uint4);
  uint4 words[WORDS];
  memcpy(words, &v, sizeof v);
#pragma unroll
  for (int i = 0; i < WORDS; ++i) reinterpret_cast<uint4*>(at)[i] = words[i];
}

template <typename E>
__device__ __forceinline__ Vec8<E> zero8() {
  Vec8<E> v;
  memset(&v, 0, sizeof v);
  return v;
}

// Round to nearest, ties to even.
template <typename E>
__device__ __forceinline__ E round_to(float v);
template <>
__device__ __forceinline__ bf16 round_to<bf16>(float v) {
  return __float2bfloat16_rn(v);
}
template <>
__device__ __forceinline__ f16 round_to<f16>(float v) {
  return __float2half_rn(v);
}

template <>
__device__ __forceinline__ float round_to<float>(float v) {
  return v;
}

// A rounding point (N8) inside a formula that goes on in f32.
template <typename E>
__device__ __forceinline__ float rounded(float v) {
  return float(round_to<E>(v));
}

// Two rounded elements in one register, `low` in the lower half: the order of mma fragments.
template <typename E>
__device__ __forceinline__ uint32_t pack2(float low, float high);
template <>
__device__ __forceinline__ uint32_t pack2<bf16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}
template <>
__device__ __forceinline__ uint32_t pack2<f16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t word;
  memcpy(&word, &pair, sizeof word);
  return word;
}

// The elements of a register that pack2 or a 4-byte load made: x the lower, y the upper.
template <typename E>
__device__ __forceinline__ float2 unpack2(uint32_t word);
template <>
__device__ __forceinline__ float2 unpack2<bf16>(uint32_t word) {
  return make_float2(__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u));
}
template <>
__device__ __forceinline__ float2 unpack2<f16>(uint32_t word) {
  __half2 pair;
  memcpy(&pair, &word, sizeof pair);
  return __half22float2(pair);
}

// Two neighbouring elements as f32, by one access: `at` is on their common boundary.
template <typename E>
__device__ __forceinline__ float2 load2(const E* at) {
  if constexpr (sizeof(E) == sizeof(float)) {
    return *reinterpret_cast<const float2*>(at);
  } else {
    return unpack2<E>(*reinterpret_cast<const uint32_t*>(at));
  }
}
