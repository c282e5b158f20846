// Attention in f32 without tensor cores: frames of patch rows, and token rows over pages.
//
// What     o = sum_s w[s] v[s] / sum_s w[s], w[s] = exp(q . k[s] / sqrt(D)), of each query row and
//          head: over its frame (attn_vision_f32), over the keys up to its position
//          (attn_prefill_f32), of the one new row of a sequence (attn_decode_f32).
// Shapes   those of attn_vision.cu, attn_prefill.cu and attn_decode.cu, in f32; D any multiple of
//          16 up to 128. What lies beyond kv_len in a page is never read.
// Mapping  block 128, tiles of 64 keys in ascending order. A warp owns VECTORS query vectors: 4
// rows
//          of a head (vision and prefill: grid (work items, H, 4), z a quarter of the item's 64
//          rows), or 2 heads of a row (decode: grid (work items, G * ceil(H / G / 8)); the block of
//          a sequence's first visible segment does all its keys, the others leave).
//          A lane scores keys lane and lane + 32, and owns channels lane, lane + 32, ... of o.
//            shared, f32
//            0                queries  [4 warps][D][VECTORS]
//            4 * VECTORS * D  keys     [64][D + 1], rows on different banks
//            + 64 * (D + 1)   values   [64][D]
//            + 64 * D         weights  [4 warps][64][VECTORS]
//            tile t  barrier | keys and values | barrier | scores, weights, o
// Numerics N2 to N4 with expf in place of ex2 and no rounding of p: a chain of fmaf over D, sums of
//          p as (r0 + r1) + (r2 + r3), o by a chain over the keys, segments of 256 keys folded in
//          ascending order (vision: one). A vector's bits depend on its own keys alone.
// Floor    bytes 4*(queries + outputs) + 8*D*(keys of each sequence and key head); 4*D FLOP for a
//          visible (row, key) of a head. Limited by shared memory: it serves tests, not products.

#include "pages.cuh"
#include "params.h"
#include "softmax.cuh"
#include "warp.cuh"

constexpr int THREADS = ATTN_F32_THREADS;
constexpr int WARPS = THREADS / WARP;
constexpr int KEY_TILE = 64;
constexpr int LANE_KEYS = KEY_TILE / WARP;
constexpr int PARTS = ATTN_F32_MAX_D / WARP;  // channels of a lane
constexpr int SEGMENT_TILES = ATTN_DECODE_SEGMENT / KEY_TILE;
constexpr int ONE_SEGMENT = INT32_MAX;
constexpr int VEC = 4;  // elements of one 16-byte access
static_assert(KEY_TILE == PAGE_TOKENS, "a key tile is a page");
static_assert(ATTN_F32_TILE * ATTN_F32_SPLIT == ATTN_PREFILL_TILE, "the blocks of a work item");
static_assert(ATTN_F32_TILE * ATTN_F32_SPLIT == ATTN_VISION_TILE, "the blocks of a work item");

// A query vector and the keys that it sees: first <= key < end. None: the vector does not exist.
struct Query {
  const float* q;
  float* o;
  int first, end;
};

// What the vectors of a warp have of one channel or key, in one access.
template <int VECTORS>
struct alignas(4 * VECTORS) Lanes {
  float lane[VECTORS];
};

// softmax_raise and softmax_merge of softmax.cuh with the exact exponential; the state is in
// natural units.
__device__ __forceinline__ float raise(SoftmaxState& state, float score, float scale) {
  const float old = state.max;
  state.max = fmaxf(old, score * scale);
  return expf(old - finite_max(state.max));
}

__device__ __forceinline__ MergeFactors merge(SoftmaxState& left, SoftmaxState right) {
  const float max = fmaxf(left.max, right.max);
  const float finite = finite_max(max);
  const MergeFactors factors = {expf(left.max - finite), expf(right.max - finite)};
  left.sum = fmaf(left.sum, factors.left, right.sum * factors.right);
  left.max = max;
  return factors;
}

// The block's shared memory.
template <int VECTORS>
struct Shared {
  Lanes<VECTORS>* queries;  // [D], of the warp
  float* keys;
  float* values;
  Lanes<VECTORS>* weights;  // [KEY_TILE], of the warp

  __device__ __forceinline__ Shared(float* memory, int D) {
    const int warp = threadIdx.x / WARP;
    queries = reinterpret_cast<Lanes<VECTORS>*>(memory) + warp * D;
    keys = memory + WARPS * VECTORS * D;
    values = keys + KEY_TILE * (D + 1);
    weights = reinterpret_cast<Lanes<VECTORS>*>(values + KEY_TILE * D) + warp * KEY_TILE;
  }
};

// Keys and values of a tile to shared memory; rows from `rows` on are zero. `keys_at(key)` is a
// row of keys, `values` further on lies its row of values.
template <int VECTORS, typename KeysAt>
__device__ __forceinline__ void load_tile(const Shared<VECTORS>& s, int D, int first, int rows,
                                          int64_t values, KeysAt keys_at) {
  const int pieces = D / VEC;
#pragma unroll 1
  for (int id = threadIdx.x; id < KEY_TILE * pieces; id += THREADS) {
    const int row = id / pieces, d = id % pieces * VEC;
    float4 k = make_float4(0.0f, 0.0f, 0.0f, 0.0f), v = k;
    if (row < rows) {
      const float* from = keys_at(first + row) + d;
      k = *reinterpret_cast<const float4*>(from);
      v = *reinterpret_cast<const float4*>(from + values);
    }
    float* to = s.keys + row * (D + 1) + d;  // an odd stride: four accesses
    to[0] = k.x;
    to[1] = k.y;
    to[2] = k.z;
    to[3] = k.w;
    *reinterpret_cast<float4*>(s.values + row * D + d) = v;
  }
}

// Scores of the lane's keys to weights in shared memory; raises the states and returns their
// factors. Sums of p as N3 has them.
template <int VECTORS>
__device__ __forceinline__ void weigh(const Shared<VECTORS>& s, SoftmaxState (&state)[VECTORS],
                                      float (&alpha)[VECTORS], const Query (&query)[VECTORS], int D,
                                      int first, float scale, int lane) {
  float score[VECTORS][LANE_KEYS] = {};
  const float* key = s.keys + lane * (D + 1);
  const float* next = key + WARP * (D + 1);
#pragma unroll 4
  for (int d = 0; d < D; ++d) {
    const Lanes<VECTORS> q = s.queries[d];
    const float k0 = key[d], k1 = next[d];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
      score[i][0] = fmaf(q.lane[i], k0, score[i][0]);
      score[i][1] = fmaf(q.lane[i], k1, score[i][1]);
    }
  }
  Lanes<VECTORS> weight[LANE_KEYS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
    for (int j = 0; j < LANE_KEYS; ++j) {
      const int at = first + lane + j * WARP;
      if (at < query[i].first || at >= query[i].end) score[i][j] = MINUS_INFINITY;
    }
    alpha[i] = raise(state[i], warp_max(fmaxf(score[i][0], score[i][1])), scale);
    const float finite = finite_max(state[i].max);
#pragma unroll
    for (int j = 0; j < LANE_KEYS; ++j) {
      weight[j].lane[i] = expf(fmaf(score[i][j], scale, -finite));
    }
  }
#pragma unroll
  for (int j = 0; j < LANE_KEYS; ++j) s.weights[lane + j * WARP] = weight[j];
  __syncwarp(ALL_LANES);  // orders: the warp's weights before their reads by its other lanes

  Lanes<VECTORS> sum = {};
#pragma unroll
  for (int j = 0; j < KEY_TILE / 8; ++j) {
    const Lanes<VECTORS> low = s.weights[8 * j + 2 * (lane % 4)];
    const Lanes<VECTORS> high = s.weights[8 * j + 2 * (lane % 4) + 1];
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) sum.lane[i] += low.lane[i] + high.lane[i];
  }
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    float total = sum.lane[i] + __shfl_xor_sync(ALL_LANES, sum.lane[i], 1);
    total += __shfl_xor_sync(ALL_LANES, total, 2);
    state[i].sum = fmaf(state[i].sum, alpha[i], total);
  }
}

// o = o * alpha + P V, keys ascending.
template <int VECTORS>
__device__ __forceinline__ void accumulate(const Shared<VECTORS>& s, float (&o)[VECTORS][PARTS],
                                           const float (&alpha)[VECTORS], int D, int lane) {
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
#pragma unroll
    for (int part = 0; part < PARTS; ++part) o[i][part] *= alpha[i];
  }
  // A lane past D sums channel D - 1 again and stores nothing: no branch inside the loop.
#pragma unroll 2
  for (int k = 0; k < KEY_TILE; ++k) {
    const Lanes<VECTORS> p = s.weights[k];
    const float* values = s.values + k * D;
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      if (part * WARP >= D) break;
      const float value = values[min(part * WARP + lane, D - 1)];
#pragma unroll
      for (int i = 0; i < VECTORS; ++i) o[i][part] = fmaf(p.lane[i], value, o[i][part]);
    }
  }
}

// N2: the segment that ends joins the total, and the next one starts from nothing.
template <int VECTORS>
__device__ __forceinline__ void fold_segment(float (&total)[VECTORS][PARTS],
                                             SoftmaxState (&total_state)[VECTORS],
                                             float (&o)[VECTORS][PARTS],
                                             SoftmaxState (&state)[VECTORS]) {
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    const MergeFactors factors = merge(total_state[i], state[i]);
    state[i] = softmax_start();
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      total[i][part] = fmaf(total[i][part], factors.left, o[i][part] * factors.right);
      o[i][part] = 0.0f;
    }
  }
}

// All tiles for the warp's vectors. `keys` counts the keys that may be read; `live` is whether the
// warp has a vector at all, and the same in all its lanes.
template <int VECTORS, typename KeysAt>
__device__ __forceinline__ void attend(const Query (&query)[VECTORS], bool live, int D, float scale,
                                       int first_tile, int tiles, int segment_tiles, int keys,
                                       int64_t values, KeysAt keys_at) {
  extern __shared__ __align__(16) float s_memory[];
  const Shared<VECTORS> s(s_memory, D);
  const int lane = threadIdx.x % WARP;
  for (int d = lane; d < D; d += WARP) {
    Lanes<VECTORS> q;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) q.lane[i] = query[i].q == nullptr ? 0.0f : query[i].q[d];
    s.queries[d] = q;  // read by the warp alone, after the barrier below
  }

  float o[VECTORS][PARTS] = {}, total[VECTORS][PARTS] = {};
  SoftmaxState state[VECTORS], total_state[VECTORS];
#pragma unroll
  for (int i = 0; i < VECTORS; ++i) state[i] = total_state[i] = softmax_start();
  for (int tile = first_tile; tile < tiles; ++tile) {
    __syncthreads();  // orders: the last tile's reads before its memory is written again
    load_tile(s, D, tile * KEY_TILE, keys - tile * KEY_TILE, values, keys_at);
    __syncthreads();  // orders: the tile, and the queries, before their reads
    if (!live) continue;
    float alpha[VECTORS];
    weigh(s, state, alpha, query, D, tile * KEY_TILE, scale, lane);
    accumulate(s, o, alpha, D, lane);
    if ((tile + 1) % segment_tiles == 0 || tile + 1 == tiles) {
      fold_segment(total, total_state, o, state);
    }
    __syncwarp(ALL_LANES);  // orders: this tile's reads of the weights before the next one's writes
  }

#pragma unroll
  for (int i = 0; i < VECTORS; ++i) {
    if (query[i].o == nullptr) continue;
    const float inverse = softmax_inverse(total_state[i].sum);
#pragma unroll
    for (int part = 0; part < PARTS; ++part) {
      const int d = part * WARP + lane;
      if (d < D) query[i].o[d] = softmax_output(total[i][part], inverse);
    }
  }
}

constexpr int TILE_VECTORS = ATTN_F32_TILE / WARPS;
constexpr int DECODE_VECTORS = ATTN_DECODE_HEADS / WARPS;
constexpr Query NO_QUERY = {nullptr, nullptr, 0, 0};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_vision_f32(const __grid_constant__ AttnVisionParams p) {
  const WorkItem work = p.work[blockIdx.x];
  if (work.seq < 0) return;  // the whole block: nobody waits at a barrier
  const int frame = p.cu_rows[work.seq];
  const int length = p.cu_rows[work.seq + 1] - frame;
  const int row = work.tile * ATTN_VISION_TILE + blockIdx.z * ATTN_F32_TILE;
  if (row >= length) return;  // the whole block
  const int D = p.ld_o / p.H, column = blockIdx.y * D;
  const float* head = static_cast<const float*>(p.qkv) + frame * int64_t(p.ld_qkv) + column;
  float* out = static_cast<float*>(p.o) + frame * int64_t(p.ld_o) + column;

  Query query[TILE_VECTORS];
  const int own = row + threadIdx.x / WARP * TILE_VECTORS;
#pragma unroll
  for (int i = 0; i < TILE_VECTORS; ++i) {
    query[i] = NO_QUERY;
    if (own + i < length) {
      query[i] = {head + (own + i) * int64_t(p.ld_qkv), out + (own + i) * int64_t(p.ld_o), 0,
                  length};
    }
  }
  const int tiles = (length + KEY_TILE - 1) / KEY_TILE;
  attend(query, own < length, D, p.scale, 0, tiles, ONE_SEGMENT, length, p.ld_o,
         [&](int key) { return head + p.ld_o + key * int64_t(p.ld_qkv); });
}

// Row of keys of a token of a sequence, in its page.
struct PagedKeys {
  const float* keys;
  const int32_t* pages;
  KvStrides kv;
  int D;

  __device__ __forceinline__ const float* operator()(int key) const {
    return keys + page_offset(kv, pages[key / PAGE_TOKENS]) + key % PAGE_TOKENS * D;
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_f32(const __grid_constant__ AttnPrefillParams p) {
  const WorkItem work = p.work[blockIdx.x];
  if (work.seq < 0) return;  // the whole block: nobody waits at a barrier
  const int first_row =
      p.cu_rows[work.seq] + work.tile * ATTN_PREFILL_TILE + blockIdx.z * ATTN_F32_TILE;
  const int rows = p.cu_rows[work.seq + 1] - first_row;  // of the sequence from here on
  if (rows <= 0) return;                                 // the whole block
  const int position = work.kv_len - rows;               // of the block's first row
  const int head = blockIdx.y;
  const int D = p.kv.head / PAGE_TOKENS;

  Query query[TILE_VECTORS];
  const int own = threadIdx.x / WARP * TILE_VECTORS;
#pragma unroll
  for (int i = 0; i < TILE_VECTORS; ++i) {
    query[i] = NO_QUERY;
    if (own + i < rows) {
      const int64_t row = first_row + own + i;
      const int at = position + own + i;
      query[i] = {static_cast<const float*>(p.q) + row * p.ld_q + head * D,
                  static_cast<float*>(p.o) + row * p.ld_o + head * D, max(at + 1 - p.window, 0),
                  at + 1};
    }
  }
  const int end = min(work.kv_len, position + ATTN_F32_TILE);
  const int first_tile = max(position + 1 - p.window, 0) / KEY_TILE;
  const PagedKeys keys = {static_cast<const float*>(p.pool) + key_offset(p.kv, head / (p.H / p.G)),
                          p.page_table + work.seq * int64_t(p.ld_pages), p.kv, D};
  attend(query, own < rows, D, p.scale, first_tile, (end + KEY_TILE - 1) / KEY_TILE, SEGMENT_TILES,
         work.kv_len, p.kv.values, keys);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_decode_f32(const __grid_constant__ AttnDecodeParams p) {
  const WorkItem work = p.work[blockIdx.x];
  const int oldest = max(work.kv_len - p.window, 0);  // first key that the row sees
  if (work.seq < 0 || work.tile != oldest / ATTN_DECODE_SEGMENT) return;  // the whole block
  const int group = p.H / p.G;
  const int blocks = (group + ATTN_DECODE_HEADS - 1) / ATTN_DECODE_HEADS;
  const int key_head = blockIdx.y / blocks;
  const int inside = blockIdx.y % blocks * ATTN_DECODE_HEADS;
  const int D = p.kv.head / PAGE_TOKENS;
  const int64_t row = p.cu_rows[work.seq];

  Query query[DECODE_VECTORS];
  const int own = inside + threadIdx.x / WARP * DECODE_VECTORS;  // heads of the group before
#pragma unroll
  for (int i = 0; i < DECODE_VECTORS; ++i) {
    query[i] = NO_QUERY;
    if (own + i < group) {
      const int column = (key_head * group + own + i) * D;
      query[i] = {static_cast<const float*>(p.q) + row * p.ld_q + column,
                  static_cast<float*>(p.o) + row * p.ld_o + column, oldest, work.kv_len};
    }
  }
  const PagedKeys keys = {static_cast<const float*>(p.pool) + key_offset(p.kv, key_head),
                          p.page_table + work.seq * int64_t(p.ld_pages), p.kv, D};
  attend(query, own < group, D, p.scale, oldest / KEY_TILE, (work.kv_len + KEY_TILE - 1) / KEY_TILE,
         SEGMENT_TILES, work.kv_len, p.kv.values, keys);
}
