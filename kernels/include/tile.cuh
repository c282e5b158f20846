// Tiles of 2-byte elements in shared memory: swizzled rows, and their loads with tails.
//
// A tile row is CHUNKS chunks of 16 bytes. Chunks of a row are permuted by a function of the row
// number, so that the eight rows that one ldmatrix reads at the same chunk, and the rows that one
// cp.async phase writes, lie in eight different groups of four banks:
//   128 bytes and multiples   chunk ^ (row & 7)
//   64 bytes                  chunk ^ ((row >> 1) & 3)
//   160 and 32 bytes          chunk ^ ((row >> 2) & 1)
#pragma once
#include "cp_async.cuh"
#include "vec.cuh"

// Elements of 2 bytes in a chunk.
constexpr int CHUNK_ELEMENTS = 8;

// Byte offset of a chunk in its tile.
template <int CHUNKS>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  static_assert(CHUNKS % 8 == 0 || CHUNKS == 4 || CHUNKS == 10 || CHUNKS == 2,
                "a row width with a known swizzle");
  if (CHUNKS % 8 == 0) {
    chunk ^= row & 7;
  } else if (CHUNKS == 4) {
    chunk ^= (row >> 1) & 3;
  } else {
    chunk ^= (row >> 2) & 1;
  }
  return (row * CHUNKS + chunk) * 16;
}

// Chunk and row that a lane names to ldmatrix.x4, for each of the four ways a tile is read.
// `step` counts k16 steps along the row.
struct LaneAddress {
  int row, chunk;
};
// A (16 x 16) from [m][k].
__device__ __forceinline__ LaneAddress lane_of_a(int lane, int step) {
  return {lane & 15, 2 * step + (lane >> 4)};
}
// Two B tiles of 8 columns from [n][k]: registers 0, 1 are the first tile, 2, 3 the second.
__device__ __forceinline__ LaneAddress lane_of_b2(int lane, int step) {
  return {(lane & 7) + 8 * (lane >> 4), 2 * step + ((lane >> 3) & 1)};
}

// Starts the copies of a ROWS x CHUNKS tile by THREADS threads. `origin` is the tile's first
// element, inside the matrix; `ld` its row stride in elements. Rows from `rows_left` and columns
// from `columns_left` (a multiple of 8) on are filled with zeros. The caller commits.
template <typename E, int ROWS, int CHUNKS, int THREADS>
__device__ __forceinline__ void load_tile(uint32_t s_tile, const E* origin, int64_t ld,
                                          int rows_left, int columns_left, int thread) {
  static_assert(sizeof(E) == 2, "a chunk is eight elements");
  static_assert(ROWS * CHUNKS % THREADS == 0, "every thread copies the same number of chunks");
#pragma unroll
  for (int i = 0; i < ROWS * CHUNKS / THREADS; ++i) {
    const int id = thread + i * THREADS;
    const int row = id / CHUNKS;
    const int chunk = id % CHUNKS;
    const bool inside = row < rows_left && chunk * CHUNK_ELEMENTS < columns_left;
    // The address of a zero-filled chunk must be valid too: the origin is.
    const E* source = origin + (inside ? row * ld + chunk * CHUNK_ELEMENTS : int64_t(0));
    cp_async_16(s_tile + swizzled<CHUNKS>(row, chunk), source, inside ? 16 : 0);
  }
}

// A number of compile time as an argument, and a loop over such numbers: what instructions take as
// immediates cannot be a variable, not even of an unrolled loop.
template <int VALUE>
struct Fixed {
  static constexpr int value = VALUE;
};
template <int END, int BEGIN = 0, typename Body>
__device__ __forceinline__ void for_fixed(Body body) {
  if constexpr (BEGIN < END) {
    body(Fixed<BEGIN>{});
    for_fixed<END, BEGIN + 1>(body);
  }
}

// load_tile where the whole tile lies inside the matrix: no comparison, and two instructions a
// chunk. Rows of a thread are PASS apart; what the swizzle makes of that is a constant.
template <typename E, int ROWS, int CHUNKS, int THREADS>
__device__ __forceinline__ void load_whole_tile(uint32_t s_tile, const E* origin, int64_t ld,
                                                int thread) {
  constexpr int PASS = THREADS / CHUNKS;
  static_assert(sizeof(E) == 2 && CHUNKS % 8 == 0, "swizzled by the low three bits of the row");
  static_assert(THREADS % CHUNKS == 0 && ROWS % PASS == 0, "whole passes");
  static_assert(PASS % 8 == 0 || 8 % PASS == 0, "row bits of thread and pass do not mix");
  const int row = thread / CHUNKS;
  const int chunk = thread % CHUNKS;
  const uint32_t s_first = s_tile + swizzled<CHUNKS>(row, chunk);
  const E* source = origin + row * ld + chunk * CHUNK_ELEMENTS;
  for_fixed<ROWS / PASS>([&](auto pass) {
    constexpr int ROW = pass.value * PASS;
    cp_async_16_at<ROW * CHUNKS * 16>(s_first ^ (ROW & 7) * 16, source);
    source += PASS * ld;
  });
}
