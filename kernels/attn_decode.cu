// Attention of one new row of each sequence over paged keys and values, split over segments.
//
// What     o[h] = sum_s w[s] v[s,g] / sum_s w[s], w[s] = exp(q[h] . k[s,g] / sqrt(D)), over the
//          keys s of the sequence: s < kv_len, s >= kv_len - window. g = h / (H / G). The row's own
//          key is in the pages before the launch. docs/spec.md section 9.2.
// Shapes   q [T, ld_q] (columns h * D) and o [T, ld_o], row cu_rows[b] of sequence b; pool
//          [page][L][2][G][64][D]; page_table [B, ld_pages]; part [B, H, max_segments, D], part_ml
//          [B, H, max_segments, 2], counter [B, grid y]. 16-byte aligned, strides multiples of 8.
//          D 32, 64, 128; any H / G. What lies beyond kv_len in a page is never read.
// Mapping  grid (work items, G * ceil(H / G / 8)), block 128: a block owns one segment of 256 keys
//          and up to 8 heads that share a key head. S^T = K Q^T: keys are the rows of the mma,
//          heads its 8 columns. A warp owns 16 tokens of the scores and D / 4 (at least 16) rows of
//          O^T.
//            shared, in rows of D elements
//            0    keys of even tiles    64   values of even tiles
//            128  keys of odd tiles     192  values of odd tiles
//            step t  wait K, V(t) | load K, V(t+1) | S, maxima | P, pair sums | O += V P
//          The block that finishes a (sequence, heads) last folds the segments' parts.
// Numerics N2, N3, N4: the bits of attn_prefill's last row. Parts are folded in ascending order
//          whoever comes last, so the atomic counter decides no bit.
// Floor    bytes 2*2*G*D*(sum of kv_len) + 2*2*B*H*D for 2-byte E; mma of m16n8k16: 8*D/16 for 64
//          keys and eight heads. Limited by DRAM. Parts add 4 * (D + 2) bytes a head and segment,
//          3% of its keys and values.

#include "attn.cuh"
#include "pages.cuh"
#include "params.h"

constexpr int THREADS = ATTN_DECODE_THREADS;
constexpr int WARPS = THREADS / WARP;
constexpr int HEADS = ATTN_DECODE_HEADS;
constexpr int SEGMENT = ATTN_DECODE_SEGMENT;
constexpr int SEGMENT_TILES = SEGMENT / KEY_TILE;
constexpr int WEIGHT_ROW = KEY_TILE + 8;  // padded, so that eight heads meet no bank twice
static_assert(KEY_TILE == PAGE_TOKENS, "a key tile is a page");
static_assert(WARPS * 16 == KEY_TILE, "a warp owns 16 tokens of a tile");

// What a tile's warps tell each other.
template <typename E>
struct Exchange {
  float max[WARPS][HEADS];                  // largest score of each warp's tokens
  float pair_sum[KEY_BLOCKS][4][HEADS];     // p[8j + 2t] + p[8j + 2t + 1] as [j][t][head] (N3)
  alignas(16) E weight[HEADS][WEIGHT_ROW];  // p, rounded
};

// Heads of the block: columns 0 .. count of the mma.
struct Heads {
  int first;  // query head of column 0
  int count;  // columns that are heads
  int key_head;
};

__device__ __forceinline__ Heads heads_of_block(const AttnDecodeParams& p) {
  const int group = p.H / p.G;
  const int blocks = (group + HEADS - 1) / HEADS;
  const int key_head = blockIdx.y / blocks;
  const int inside = blockIdx.y % blocks * HEADS;
  return {key_head * group + inside, min(group - inside, HEADS), key_head};
}

// The scores' largest value for each of the lane's two heads, over the warp's 16 tokens.
template <typename E>
__device__ __forceinline__ void share_maxima(const FragmentC& s, Exchange<E>& x, int warp,
                                             int lane) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    float max = fmaxf(s.lane[e], s.lane[2 + e]);
#pragma unroll
    for (int distance = 4; distance < WARP; distance *= 2) {
      max = fmaxf(max, __shfl_xor_sync(ALL_LANES, max, distance));
    }
    if (lane < 4) x.max[warp][fragment_column(lane) + e] = max;
  }
}

// Scores to p, given the maxima of all warps; raises the states and returns their factors.
template <typename E>
__device__ __forceinline__ void weigh(FragmentC& s, SoftmaxState (&state)[2], float (&alpha)[2],
                                      const Exchange<E>& x, float scale, int lane) {
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    float max = x.max[0][fragment_column(lane) + e];
#pragma unroll
    for (int w = 1; w < WARPS; ++w) max = fmaxf(max, x.max[w][fragment_column(lane) + e]);
    alpha[e] = softmax_raise(state[e], max, scale);
    const float finite = finite_max(state[e].max);
    s.lane[e] = softmax_weight(s.lane[e], scale, finite);
    s.lane[2 + e] = softmax_weight(s.lane[2 + e], scale, finite);
  }
}

// p and its pair sums to the other warps. Tokens 2t and 2t + 1 of a block of 8 are in lanes that
// differ in bit 2: the lower one writes for both.
template <typename E>
__device__ __forceinline__ void share_weights(const FragmentC& p, Exchange<E>& x, int warp,
                                              int lane) {
  const int token = fragment_row(lane);
#pragma unroll
  for (int q = 0; q < 4; ++q) {
    const float next = __shfl_xor_sync(ALL_LANES, p.lane[q], 4);
    if (token % 2 == 0) {
      const int block = 2 * warp + q / 2, head = fragment_column(lane) + q % 2;
      x.pair_sum[block][token / 2][head] = p.lane[q] + next;
      *reinterpret_cast<uint32_t*>(&x.weight[head][8 * block + token]) = pack2<E>(p.lane[q], next);
    }
  }
}

// Adds the tile's sum of p (N3) to the states. Lane 8t + head holds r_t of the head.
template <typename E>
__device__ __forceinline__ void add_sums(SoftmaxState (&state)[2], const float (&alpha)[2],
                                         const Exchange<E>& x, int lane) {
  float sum = 0.0f;
#pragma unroll
  for (int j = 0; j < KEY_BLOCKS; ++j) sum += x.pair_sum[j][lane / HEADS][lane % HEADS];
  sum += __shfl_xor_sync(ALL_LANES, sum, 8);
  sum += __shfl_xor_sync(ALL_LANES, sum, 16);
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const float own = __shfl_sync(ALL_LANES, sum, fragment_column(lane) + e);
    state[e].sum = fmaf(state[e].sum, alpha[e], own);
  }
}

// O^T += V^T P^T for the m-tile of 16 channels from `channel` on.
template <typename E, int D>
__device__ __forceinline__ void accumulate(FragmentC& o, const Exchange<E>& x, uint32_t s_values,
                                           int channel, int lane) {
#pragma unroll
  for (int step = 0; step < KEY_TILE / 16; ++step) {
    const E* weight = &x.weight[fragment_row(lane)][16 * step + fragment_column(lane)];
    const uint32_t b0 = *reinterpret_cast<const uint32_t*>(weight);
    const uint32_t b1 = *reinterpret_cast<const uint32_t*>(weight + 8);
    uint32_t a[4];
    const int token = 16 * step + 8 * (lane >> 4) + (lane & 7);
    const int chunk = channel / CHUNK_ELEMENTS + ((lane >> 3) & 1);
    ldmatrix_x4_trans(a, s_values + swizzled<D / CHUNK_ELEMENTS>(token, chunk));
    mma<E>(o, a, b0, b1);
  }
}

// Calls `take(head, channel, value)` for the lane's elements of O^T that are heads: column 2t + e
// is a head, row 16 i + g + 8 half a channel.
template <int D, int TILES, typename Take>
__device__ __forceinline__ void for_each_output(const FragmentC (&o)[TILES], int heads, int warp,
                                                int lane, Take take) {
#pragma unroll
  for (int i = 0; i < TILES; ++i) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int channel = 16 * (warp * TILES + i) + fragment_row(lane) + 8 * (q / 2);
      const int head = fragment_column(lane) + q % 2;
      if (channel < D && head < heads) take(head, channel, o[i].lane[q]);
    }
  }
}

// The segment's outputs, not normalised, and its states, for the block that comes last.
template <int D, int TILES>
__device__ __forceinline__ void store_part(const AttnDecodeParams& p, const FragmentC (&o)[TILES],
                                           const SoftmaxState (&state)[2], const Heads& heads,
                                           const WorkItem& work, int warp, int lane) {
  const int64_t first = (int64_t(work.seq) * p.H + heads.first) * p.max_segments + work.tile;
  const int64_t next = p.max_segments;  // from a head to the next
  for_each_output<D>(o, heads.count, warp, lane, [&](int head, int channel, float value) {
    p.part[(first + head * next) * D + channel] = value;
  });
  if (threadIdx.x >= HEADS / 2) return;  // every lane of g = 0 knows two heads, as all warps do
#pragma unroll
  for (int e = 0; e < 2; ++e) {
    const int head = fragment_column(lane) + e;
    float2* ml = reinterpret_cast<float2*>(p.part_ml) + first + head * next;
    if (head < heads.count) *ml = make_float2(state[e].max, state[e].sum);
  }
}

// Counts the block as done; true for the last of `blocks`, which leaves the counter at zero for
// the next launch.
__device__ __forceinline__ bool count_block(const AttnDecodeParams& p, int seq, int blocks) {
  uint32_t* counter = p.counter + seq * int64_t(gridDim.y) + blockIdx.y;
  const bool last = atomicAdd(counter, 1u) + 1 == uint32_t(blocks);
  if (last) *counter = 0;
  return last;
}

// Folds the parts of the block's heads in ascending order of segments (N2) into the output.
template <typename E, int D>
__device__ __forceinline__ void fold_parts(const AttnDecodeParams& p, const Heads& heads, int seq,
                                           E* out, int first_segment, int segments) {
  for (int i = threadIdx.x; i < heads.count * D; i += THREADS) {
    const int column = i / D, d = i % D;
    const int64_t row = (int64_t(seq) * p.H + heads.first + column) * p.max_segments;
    SoftmaxState total = softmax_start();
    float o = 0.0f;
    for (int segment = first_segment; segment < segments; ++segment) {
      // .cg: other blocks wrote the parts during this launch; L1 may hold stale lines.
      const float2 ml = __ldcg(reinterpret_cast<const float2*>(p.part_ml) + row + segment);
      const float part = __ldcg(p.part + (row + segment) * D + d);
      const MergeFactors factors = softmax_merge(total, {ml.x, ml.y});
      o = fmaf(o, factors.left, part * factors.right);
    }
    out[i] = round_to<E>(softmax_output(o, softmax_inverse(total.sum)));
  }
}

template <typename E, int D>
__device__ __forceinline__ void attn_decode(const AttnDecodeParams& p) {
  constexpr int CHUNKS = D / CHUNK_ELEMENTS;
  constexpr int TILE_BYTES = KEY_TILE * D * int(sizeof(E));
  constexpr int M_TILES = D / 16;                            // of O^T
  constexpr int WARP_TILES = (M_TILES + WARPS - 1) / WARPS;  // of a warp that has some
  static_assert(4 * KEY_TILE == ATTN_DECODE_SHARED_ROWS, "the map of the header");
  extern __shared__ __align__(128) unsigned char s_memory[];
  __shared__ Exchange<E> s_exchange;
  __shared__ bool s_last;

  const WorkItem work = p.work[blockIdx.x];
  const int oldest = max(work.kv_len - p.window, 0);  // first key that the row sees
  const int first_segment = oldest / SEGMENT;
  if (work.seq < 0 || work.tile < first_segment) return;  // the whole block
  const int segments = (work.kv_len + SEGMENT - 1) / SEGMENT;
  DEVICE_CHECK(segments <= p.max_segments);
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const Heads heads = heads_of_block(p);
  const int row = p.cu_rows[work.seq];

  const uint32_t s_tiles = shared_address(s_memory);
  const int first_tile = max(work.tile * SEGMENT_TILES, oldest / KEY_TILE);
  const int tiles = min((work.tile + 1) * SEGMENT_TILES, (work.kv_len + KEY_TILE - 1) / KEY_TILE);
  const E* keys = static_cast<const E*>(p.pool) + key_offset(p.kv, heads.key_head);
  const int32_t* pages = p.page_table + work.seq * int64_t(p.ld_pages);
  // Starts the copies of a tile's keys and values: one group, empty past the end.
  const auto load_keys_values = [&](int tile) {
    if (tile < tiles) {
      const E* page = keys + page_offset(p.kv, pages[tile]);
      const uint32_t stage = s_tiles + tile % 2 * 2 * TILE_BYTES;
      const int left = work.kv_len - tile * KEY_TILE;
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(stage, page, D, left, D, threadIdx.x);
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(stage + TILE_BYTES, page + p.kv.values, D, left, D,
                                              threadIdx.x);
    }
    cp_async_commit();
  };
  load_keys_values(first_tile);

  // Q^T as operand B: column g of the mma is a head, columns past the heads are zero.
  uint32_t r_queries[D / 16][2];
  const int column = fragment_row(lane);
  const E* query = static_cast<const E*>(p.q) + row * p.ld_q +
                   (heads.first + min(column, heads.count - 1)) * D + fragment_column(lane);
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(query + 16 * step + 8 * i);
      r_queries[step][i] = column < heads.count ? pair : 0u;
    }
  }

  FragmentC o[WARP_TILES] = {};
  SoftmaxState state[2] = {softmax_start(), softmax_start()};
  for (int tile = first_tile; tile < tiles; ++tile) {
    cp_async_wait<0>();  // orders: this thread's keys and values before their use
    // orders: every thread's keys and values before their use; the last step's reads of the other
    // stage and of the exchange before they are written again below
    __syncthreads();
    load_keys_values(tile + 1);

    const uint32_t stage = s_tiles + tile % 2 * 2 * TILE_BYTES;
    FragmentC s = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t a[4];
      const LaneAddress at = lane_of_a(lane, step);
      ldmatrix_x4(a, stage + swizzled<CHUNKS>(16 * warp + at.row, at.chunk));
      mma<E>(s, a, r_queries[step][0], r_queries[step][1]);
    }
#pragma unroll
    for (int half = 0; half < HALVES; ++half) {
      const int token = tile * KEY_TILE + 16 * warp + fragment_row(lane) + 8 * half;
      if (token < oldest || token >= work.kv_len) {
        s.lane[lane_of(half, 0)] = s.lane[lane_of(half, 1)] = MINUS_INFINITY;
      }
    }
    share_maxima(s, s_exchange, warp, lane);
    __syncthreads();  // orders: every warp's maxima before their reads
    float alpha[2];
    weigh(s, state, alpha, s_exchange, p.scale, lane);
    share_weights(s, s_exchange, warp, lane);
    __syncthreads();  // orders: every warp's weights and pair sums before their reads
    add_sums(state, alpha, s_exchange, lane);
#pragma unroll
    for (int i = 0; i < WARP_TILES; ++i) {
      const int channel = 16 * (warp * WARP_TILES + i);
      if (channel >= D) break;
#pragma unroll
      for (int q = 0; q < 4; ++q) o[i].lane[q] *= alpha[q % 2];
      accumulate<E, D>(o[i], s_exchange, stage + TILE_BYTES, channel, lane);
    }
  }

  E* out = static_cast<E*>(p.o) + row * p.ld_o + heads.first * D;
  if (segments - first_segment == 1) {
    const float inverse[2] = {softmax_inverse(state[0].sum), softmax_inverse(state[1].sum)};
    for_each_output<D>(o, heads.count, warp, lane, [&](int head, int channel, float value) {
      out[head * D + channel] = round_to<E>(softmax_output(value, inverse[head % 2]));
    });
    return;  // the whole block
  }
  store_part<D>(p, o, state, heads, work, warp, lane);
  __threadfence();  // orders: this thread's part before the count, for every block
  __syncthreads();  // orders: every thread's part and fence before the one count of the block
  if (threadIdx.x == 0) s_last = count_block(p, work.seq, segments - first_segment);
  __syncthreads();  // orders: thread 0's answer before its reads
  if (!s_last) return;
  __threadfence();  // orders: the other blocks' counts before the reads of their parts
  fold_parts<E, D>(p, heads, work.seq, out, first_segment, segments);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_bf16_d32(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<bf16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_f16_d32(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<f16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_bf16_d64(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<bf16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_f16_d64(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<f16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_bf16_d128(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<bf16, 128>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_decode_f16_d128(const __grid_constant__ AttnDecodeParams p) {
  attn_decode<f16, 128>(p);
}
