// The weights of the decoder's attention, for people who look at them: no pass needs them, and the
// fused kernels never have them.
//
// What     p[h, s] = E(w[s] / sum_s w[s]), w[s] = exp(q[h] . k[s,g] / sqrt(D)), over the keys that
//          the row sees: s < visible, s >= visible - window; 0 for the other keys. g = h / (H / G).
//          The step's keys are in the pages before. docs/spec.md section 12.
// Shapes   q [T, ld_q] (columns h * D); pool [page][L][2][G][64][D]; page_table [B, ld_pages]; work
//          [n]: sequence, row of q, visible; p f32 [n, H, ld_p], visible <= ld_p. D and H / G any.
// Mapping  grid (work items, H), block 128: a block owns one row and head. A warp scores every
//          fourth key, a lane every 32nd channel of it; then a thread owns every 128th weight.
// Numerics f32. A score is a chain of fmaf over a lane's channels and the warp's butterfly (N5);
//          the largest score is exact; a thread's weights are summed in ascending order, then by
//          butterfly and the tree (0 + 1) + (2 + 3). One rounding of p (N8). The bits depend on
//          the row's own keys alone.
// Floor    bytes 2*H*D + 2*G*D*visible for 2-byte E, and 4*H*ld_p; 2*D FLOP a visible key and head.
//          Each head reads its keys, so H / G times that: it serves people, not products.

#include "pages.cuh"
#include "params.h"
#include "vec.cuh"
#include "warp.cuh"

constexpr int THREADS = ATTN_PROBS_THREADS;
constexpr int WARPS = THREADS / WARP;
static_assert(WARPS == 4, "the tree of the sum");

template <typename E>
__device__ __forceinline__ void attn_probs(const AttnProbsParams& p) {
  __shared__ float s_max[WARPS], s_sum[WARPS];
  const ProbsItem item = p.work[blockIdx.x];
  const int head = blockIdx.y, warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
  const int first = max(item.visible - p.window, 0);
  const E* q = static_cast<const E*>(p.q) + item.row * p.ld_q + int64_t(head) * p.D;
  const E* pool = static_cast<const E*>(p.pool) + key_offset(p.kv, head / (p.H / p.G));
  const int32_t* pages = p.page_table + int64_t(item.seq) * p.ld_pages;
  float* out = p.p + (blockIdx.x * int64_t(p.H) + head) * p.ld_p;

  float largest = -INFINITY;
  for (int s = first + warp; s < item.visible; s += WARPS) {
    const E* key = pool + page_offset(p.kv, pages[s / PAGE_TOKENS]) + s % PAGE_TOKENS * p.D;
    float score = 0.0f;
    for (int c = lane; c < p.D; c += WARP) score = fmaf(float(q[c]), float(key[c]), score);
    score = warp_sum(score) * p.scale;
    largest = fmaxf(largest, score);
    if (lane == 0) out[s] = score;
  }
  if (lane == 0) s_max[warp] = largest;
  __syncthreads();  // orders: writes of s_max and of the scores before the reads below
  largest = fmaxf(fmaxf(s_max[0], s_max[1]), fmaxf(s_max[2], s_max[3]));

  float sum = 0.0f;
  for (int s = first + int(threadIdx.x); s < item.visible; s += THREADS) {
    const float weight = expf(out[s] - largest);
    out[s] = weight;
    sum += weight;
  }
  sum = warp_sum(sum);
  if (lane == 0) s_sum[warp] = sum;
  __syncthreads();  // orders: writes of s_sum before the reads below
  sum = (s_sum[0] + s_sum[1]) + (s_sum[2] + s_sum[3]);

  for (int s = threadIdx.x; s < p.ld_p; s += THREADS) {
    const bool seen = s >= first && s < item.visible;
    out[s] = seen ? rounded<E>(out[s] / sum) : 0.0f;
  }
}

extern "C" __global__ void __launch_bounds__(ATTN_PROBS_THREADS)
    attn_probs_bf16(const __grid_constant__ AttnProbsParams p) {
  attn_probs<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(ATTN_PROBS_THREADS)
    attn_probs_f16(const __grid_constant__ AttnProbsParams p) {
  attn_probs<f16>(p);
}

extern "C" __global__ void __launch_bounds__(ATTN_PROBS_THREADS)
    attn_probs_f32(const __grid_constant__ AttnProbsParams p) {
  attn_probs<float>(p);
}
