// Online softmax over tiles of keys, and the merge of two parts of a row (N2 to N4).
//
// The state of a row is the scaled maximum M = max(score) * c, c = log2(e) / sqrt(D), with one
// rounded multiply, and the sum of p = exp2(score * c - M). A row that has seen no key has
// M = -inf and sum 0. exp2(-inf - x) is 0 for every finite x, so no step needs a special case but
// the one of finite_max.
#pragma once
#include "numeric.cuh"

constexpr float MINUS_INFINITY = -INFINITY;

struct SoftmaxState {
  float max;  // scaled
  float sum;
};

__device__ __forceinline__ SoftmaxState softmax_start() {
  return {MINUS_INFINITY, 0.0f};
}

// The maximum to subtract: -inf - -inf would be NaN where no key is visible yet.
__device__ __forceinline__ float finite_max(float max) {
  return max == MINUS_INFINITY ? 0.0f : max;
}

// Takes the largest score of a tile into the maximum; returns the factor of what was summed
// before. It is exactly 1 when the maximum did not change: a masked tile changes no bit.
__device__ __forceinline__ float softmax_raise(SoftmaxState& state, float score, float scale) {
  const float old = state.max;
  state.max = fmaxf(old, score * scale);
  return ex2(old - finite_max(state.max));
}

// p of one score under the state's maximum.
__device__ __forceinline__ float softmax_weight(float score, float scale, float finite) {
  return ex2(fmaf(score, scale, -finite));
}

// Factors of the two sides of a merge; a row's outputs merge as fmaf(left, l, right * r).
struct MergeFactors {
  float left, right;
};

// left becomes the state of both parts. Merging into an empty state copies the right one.
__device__ __forceinline__ MergeFactors softmax_merge(SoftmaxState& left, SoftmaxState right) {
  const float max = fmaxf(left.max, right.max);
  const float finite = finite_max(max);
  const MergeFactors factors = {ex2(left.max - finite), ex2(right.max - finite)};
  left.sum = fmaf(left.sum, factors.left, right.sum * factors.right);
  left.max = max;
  return factors;
}

// 1 / sum, and 0 for a row without a visible key. A NaN stays one.
__device__ __forceinline__ float softmax_inverse(float sum) {
  return sum == 0.0f ? 0.0f : 1.0f / sum;
}

// One output element before it is rounded. The sum with +0 turns -0 into +0: it is all in which a
// row that met masked tiles or merges may differ from one that did not.
__device__ __forceinline__ float softmax_output(float o, float inverse) {
  return o * inverse + 0.0f;
}
