// Causal attention of packed query rows over paged keys and values, grouped heads.
//
// What     o[i,h] = sum_s w[s] v[s,g] / sum_s w[s], w[s] = exp(q[i,h] . k[s,g] / sqrt(D)), over the
//          keys s that row i sees: s <= position, s > position - window. g = h / (H / G). Row i of
//          a sequence of n rows and kv_len keys has position kv_len - n + i: the keys of this
//          step are in the pages before the launch. docs/spec.md section 9.2.
// Shapes   q [T, ld_q] (columns h * D), o [T, ld_o]; pool [page][L][2][G][64][D]; cu_rows [B + 1];
//          page_table [B, ld_pages]. 16-byte aligned, strides multiples of 8. D 32, 64, 128.
//          What lies beyond kv_len in a page is never read.
// Mapping  grid (work items, H), block 128: a block owns 64 rows of one sequence and head, a warp
//          16 of them, key tiles of 64 tokens (one page) in ascending order. Blocks of the same
//          key head are neighbours in y and share its pages in L2.
//            shared, bytes of D = 128 (a multiple of D)
//            0      queries [64][D], later the output rows
//            16 Ki  keys of even tiles      32 Ki  keys of odd tiles
//            48 Ki  values of even tiles    64 Ki  values of odd tiles
//            step t  wait K(t) | load K, V(t+1) | S = Q K(t), softmax | wait V(t) | O += P V(t)
// Numerics N2, N3, N4: tiles and segments of 256 keys at absolute positions, folded in ascending
//          order into a second accumulator. A tile that a row does not see is a no-op, so a row's
//          bits depend on its position and its sequence alone, not on chunks, tiles or neighbours.
// Floor    bytes 2*2*T*H*D + 2*2*G*D*(sum of kv_len) for 2-byte E; mma of m16n8k16:
//          sum over visible (row, key) of H*4*D / 4096. Limited by tensor cores and shared memory.

#include "attn.cuh"
#include "pages.cuh"
#include "params.h"

constexpr int THREADS = ATTN_PREFILL_THREADS;
constexpr int TILE = ATTN_PREFILL_TILE;
constexpr int SEGMENT_TILES = ATTN_DECODE_SEGMENT / KEY_TILE;
static_assert(THREADS / WARP * WARP_ROWS == TILE, "a warp owns 16 rows");
static_assert(KEY_TILE == PAGE_TOKENS, "a key tile is a page");

// Scores that a row does not see become -inf. `key` is the lane's first key of the tile,
// `position` that of the lane's row of half 0, both absolute.
__device__ __forceinline__ void mask_tile(FragmentC (&s)[KEY_BLOCKS], int key, int position,
                                          int kv_len, int window) {
#pragma unroll
  for (int j = 0; j < KEY_BLOCKS; ++j) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      const int column = key + 8 * j + q % 2;
      const int row = position + 8 * (q / 2);
      const bool seen = column <= row && column < kv_len && column > row - window;
      if (!seen) s[j].lane[q] = MINUS_INFINITY;
    }
  }
}

// N2: the segment that ends joins the total, and the next one starts from nothing.
template <int BLOCKS>
__device__ __forceinline__ void fold_segment(FragmentC (&total)[BLOCKS],
                                             SoftmaxState (&total_state)[HALVES],
                                             FragmentC (&o)[BLOCKS],
                                             SoftmaxState (&state)[HALVES]) {
#pragma unroll
  for (int half = 0; half < HALVES; ++half) {
    const MergeFactors factors = softmax_merge(total_state[half], state[half]);
    state[half] = softmax_start();
#pragma unroll
    for (int i = 0; i < BLOCKS; ++i) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int at = lane_of(half, e);
        total[i].lane[at] = fmaf(total[i].lane[at], factors.left, o[i].lane[at] * factors.right);
        o[i].lane[at] = 0.0f;
      }
    }
  }
}

template <typename E, int D>
__device__ __forceinline__ void attn_prefill(const AttnPrefillParams& p) {
  constexpr int CHUNKS = D / CHUNK_ELEMENTS;
  constexpr int TILE_BYTES = KEY_TILE * D * int(sizeof(E));
  static_assert((TILE + 4 * KEY_TILE) == ATTN_PREFILL_SHARED_ROWS, "the map of the header");
  extern __shared__ __align__(128) unsigned char s_memory[];

  const WorkItem work = p.work[blockIdx.x];
  if (work.seq < 0) return;  // the whole block: nobody waits at a barrier
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int head = blockIdx.y;
  const int first_row = p.cu_rows[work.seq] + work.tile * TILE;
  const int rows = p.cu_rows[work.seq + 1] - first_row;  // of the sequence from here on
  const int position = work.kv_len - rows;               // of the block's first row

  const uint32_t s_queries = shared_address(s_memory);
  const uint32_t s_keys = s_queries + TILE * D * int(sizeof(E));
  const uint32_t s_values = s_keys + 2 * TILE_BYTES;
  const E* queries = static_cast<const E*>(p.q) + first_row * p.ld_q + head * D;
  load_tile<E, TILE, CHUNKS, THREADS>(s_queries, queries, p.ld_q, rows, D, threadIdx.x);

  const int tiles = (min(work.kv_len, position + TILE) + KEY_TILE - 1) / KEY_TILE;
  const int first_tile = max(position + 1 - p.window, 0) / KEY_TILE;
  const E* keys = static_cast<const E*>(p.pool) + key_offset(p.kv, head / (p.H / p.G));
  const int32_t* pages = p.page_table + work.seq * int64_t(p.ld_pages);
  // Starts the copies of a tile's keys, then of its values: a group each, empty past the end.
  const auto load_keys_values = [&](int tile) {
    if (tile < tiles) {
      const E* page = keys + page_offset(p.kv, pages[tile]);
      const uint32_t stage = tile % 2 * TILE_BYTES;
      const int left = work.kv_len - tile * KEY_TILE;
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(s_keys + stage, page, D, left, D, threadIdx.x);
      cp_async_commit();
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(s_values + stage, page + p.kv.values, D, left, D,
                                              threadIdx.x);
      cp_async_commit();
    } else {
      cp_async_commit();
      cp_async_commit();
    }
  };
  load_keys_values(first_tile);

  FragmentC o[D / 8], total[D / 8];
  SoftmaxState state[HALVES] = {softmax_start(), softmax_start()};
  SoftmaxState total_state[HALVES] = {softmax_start(), softmax_start()};
  clear(o);
  clear(total);
  const int warp_position = position + warp * WARP_ROWS;
  for (int tile = first_tile; tile < tiles; ++tile) {
    cp_async_wait<1>();  // orders: this thread's queries and keys of the tile before the scores
    // orders: every thread's queries and keys before the scores; the last step's reads of the
    // other stage before its refill below
    __syncthreads();
    load_keys_values(tile + 1);

    FragmentC s[KEY_BLOCKS];
    const uint32_t stage = tile % 2 * TILE_BYTES;
    score_tile<E, D>(s, s_keys + stage, lane, [&](int step, uint32_t(&a)[4]) {
      const LaneAddress at = lane_of_a(lane, step);
      ldmatrix_x4(a, s_queries + swizzled<CHUNKS>(warp * WARP_ROWS + at.row, at.chunk));
    });
    const int key = tile * KEY_TILE;
    const bool whole = key + KEY_TILE <= work.kv_len && key + KEY_TILE - 1 <= warp_position &&
                       key > warp_position + WARP_ROWS - 1 - p.window;
    if (!whole) {
      mask_tile(s, key + fragment_column(lane), warp_position + fragment_row(lane), work.kv_len,
                p.window);
    }
    float alpha[HALVES];
    softmax_tile(s, state, alpha, p.scale);
    rescale(o, alpha);
    cp_async_wait<2>();  // orders: this thread's values of the tile before their use
    __syncthreads();     // orders: every thread's values of the tile before their use
    accumulate_tile<E, D>(o, s, s_values + stage, lane);
    if ((tile + 1) % SEGMENT_TILES == 0 || tile + 1 == tiles) {
      fold_segment(total, total_state, o, state);
    }
  }

  // The warp alone reads and writes its rows of the queries, and ldmatrix has read them for all
  // its lanes: the outputs take their place without a barrier.
  const int warp_row = warp * WARP_ROWS;
  E* out = static_cast<E*>(p.o) + (first_row + warp_row) * p.ld_o + head * D;
  store_rows<E, D>(total, total_state, s_memory + warp_row * D * int(sizeof(E)), out, p.ld_o,
                   rows - warp_row, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_bf16_d32(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<bf16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_f16_d32(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<f16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_bf16_d64(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<bf16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_f16_d64(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<f16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_bf16_d128(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<bf16, 128>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attn_prefill_f16_d128(const __grid_constant__ AttnPrefillParams p) {
  attn_prefill<f16, 128>(p);
}
