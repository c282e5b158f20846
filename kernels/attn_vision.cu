// Attention of patch rows inside their frames, over packed fused rows.
//
// What     o[i,h] = sum_s w[s] v[s,h] / sum_s w[s], w[s] = exp(q[i,h] . k[s,h] / sqrt(D)), over all
//          rows s of the frame of row i. docs/spec.md section 8.3.
// Shapes   qkv [R, ld_qkv] with queries, keys, values of H * D columns each; o [R, ld_o];
//          cu_rows [frames + 1]. 16-byte aligned, strides multiples of 8. D 32, 64, 80.
// Mapping  grid (work items, H), block 128: a block owns 64 rows of one frame and head, a warp 16
//          of them, key tiles of 64 rows in ascending order from the frame's start. The query
//          tiles of a head run together (y is the slow axis), so its keys and values stay in L2.
//            shared, in rows of D elements
//            0    queries of the block, later its output rows
//            64   keys of even tiles      128  keys of odd tiles
//            192  values of even tiles    256  values of odd tiles
//            step t  wait K(t) | load K, V(t+1) | S = Q K(t), softmax | wait V(t) | O += P V(t)
// Numerics N3, N4; one segment, since vision has no decode. A row's bits depend on its frame alone.
// Floor    bytes 4*2*R*H*D for 2-byte E; mma of m16n8k16: 4*H*D*(sum of len^2) / 4096. Limited by
//          exponentials and tensor cores alike: one exp for 4*D FLOP.

#include "attn.cuh"
#include "params.h"

constexpr int THREADS = ATTN_VISION_THREADS;
constexpr int TILE = ATTN_VISION_TILE;
static_assert(THREADS / WARP * WARP_ROWS == TILE, "a warp owns 16 rows");
static_assert(KEY_TILE == ATTN_VISION_KEYS, "the tile of attn.cuh");

// Scores of keys past the frame become -inf. `key` is the lane's first key of the tile.
__device__ __forceinline__ void mask_tail(FragmentC (&s)[KEY_BLOCKS], int key, int length) {
#pragma unroll
  for (int j = 0; j < KEY_BLOCKS; ++j) {
#pragma unroll
    for (int q = 0; q < 4; ++q) {
      if (key + 8 * j + q % 2 >= length) s[j].lane[q] = MINUS_INFINITY;
    }
  }
}

template <typename E, int D>
__device__ __forceinline__ void attn_vision(const AttnVisionParams& p) {
  constexpr int CHUNKS = D / CHUNK_ELEMENTS;
  constexpr int ROW_BYTES = D * int(sizeof(E));
  constexpr int TILE_BYTES = KEY_TILE * ROW_BYTES;
  static_assert(TILE + 4 * KEY_TILE == ATTN_VISION_SHARED_ROWS, "the map of the header");
  extern __shared__ __align__(128) unsigned char s_memory[];

  const WorkItem work = p.work[blockIdx.x];
  if (work.seq < 0) return;  // the whole block: nobody waits at a barrier
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int warp_row = warp * WARP_ROWS;
  const int frame = p.cu_rows[work.seq];
  const int length = p.cu_rows[work.seq + 1] - frame;
  const int row = work.tile * TILE;  // of the block, in the frame
  const int64_t width = int64_t(p.H) * D;
  const E* head =
      static_cast<const E*>(p.qkv) + frame * int64_t(p.ld_qkv) + int64_t(blockIdx.y) * D;

  const uint32_t s_queries = shared_address(s_memory) + warp_row * ROW_BYTES;  // the warp's own
  const uint32_t s_keys = shared_address(s_memory) + TILE * ROW_BYTES;
  const uint32_t s_values = s_keys + 2 * TILE_BYTES;
  const int tiles = (length + KEY_TILE - 1) / KEY_TILE;
  // Starts the copies of a tile's keys, then of its values: a group each, empty past the end.
  const auto load_keys_values = [&](int tile) {
    if (tile < tiles) {
      const E* keys = head + width + int64_t(tile) * KEY_TILE * p.ld_qkv;
      const uint32_t stage = tile % 2 * TILE_BYTES;
      const int left = length - tile * KEY_TILE;
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(s_keys + stage, keys, p.ld_qkv, left, D, threadIdx.x);
      cp_async_commit();
      load_tile<E, KEY_TILE, CHUNKS, THREADS>(s_values + stage, keys + width, p.ld_qkv, left, D,
                                              threadIdx.x);
      cp_async_commit();
    } else {
      cp_async_commit();
      cp_async_commit();
    }
  };
  // A warp past the frame's end reads the frame's first row zero times: the address stays valid.
  const int own = length - row - warp_row;
  load_tile<E, WARP_ROWS, CHUNKS, WARP>(
      s_queries, head + (own > 0 ? row + warp_row : 0) * int64_t(p.ld_qkv), p.ld_qkv, own, D, lane);
  load_keys_values(0);

  uint32_t r_queries[D / 16][4];
  cp_async_wait<1>();     // orders: this lane's copies of the queries before their reads
  __syncwarp(ALL_LANES);  // orders: the copies of the warp's other lanes before those reads
#pragma unroll
  for (int step = 0; step < D / 16; ++step) {
    const LaneAddress at = lane_of_a(lane, step);
    ldmatrix_x4(r_queries[step], s_queries + swizzled<CHUNKS>(at.row, at.chunk));
  }

  FragmentC o[D / 8];
  SoftmaxState state[HALVES] = {softmax_start(), softmax_start()};
  clear(o);
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<1>();  // orders: this thread's keys of the tile before the scores
    // orders: every thread's keys before the scores; the last step's reads of the other stage
    // before its refill below
    __syncthreads();
    load_keys_values(tile + 1);

    FragmentC s[KEY_BLOCKS];
    const uint32_t stage = tile % 2 * TILE_BYTES;
    score_tile<E, D>(s, s_keys + stage, lane, [&](int step, uint32_t(&a)[4]) {
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = r_queries[step][i];
    });
    if ((tile + 1) * KEY_TILE > length) {
      mask_tail(s, tile * KEY_TILE + fragment_column(lane), length);
    }
    float alpha[HALVES];
    softmax_tile(s, state, alpha, p.scale);
    rescale(o, alpha);
    cp_async_wait<2>();  // orders: this thread's values of the tile before their use
    __syncthreads();     // orders: every thread's values of the tile before their use
    accumulate_tile<E, D>(o, s, s_values + stage, lane);
  }

  // The warp alone reads and writes its rows of the queries, and ldmatrix has read them for all
  // its lanes: the outputs take their place without a barrier.
  E* out =
      static_cast<E*>(p.o) + int64_t(frame + row + warp_row) * p.ld_o + int64_t(blockIdx.y) * D;
  store_rows<E, D>(o, state, s_memory + warp_row * ROW_BYTES, out, p.ld_o, own, lane);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_bf16_d32(const __grid_constant__ AttnVisionParams p) {
  attn_vision<bf16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_f16_d32(const __grid_constant__ AttnVisionParams p) {
  attn_vision<f16, 32>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_bf16_d64(const __grid_constant__ AttnVisionParams p) {
  attn_vision<bf16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_f16_d64(const __grid_constant__ AttnVisionParams p) {
  attn_vision<f16, 64>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_bf16_d80(const __grid_constant__ AttnVisionParams p) {
  attn_vision<bf16, 80>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 3)
    attn_vision_f16_d80(const __grid_constant__ AttnVisionParams p) {
  attn_vision<f16, 80>(p);
}
