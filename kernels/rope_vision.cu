// Two-dimensional rotation of the queries and keys of patch rows, in place.
//
// What     for each head x of D channels and j < D / 2: x'[j] = E(x[j] cos - x[j + D/2] sin),
//          x'[j + D/2] = E(x[j + D/2] cos + x[j] sin), with (cos, sin) of frequency j at the
//          patch's row for j < D / 4, of frequency j - D / 4 at its column else. docs/spec.md
//          section 8.2.
// Shapes   qkv [R, ld_qkv]: queries, keys of H * D columns each, then columns left as they are;
//          table [positions, D / 4, 2] f32; positions [R, 2], inside the table. 16-byte aligned,
//          ld_qkv a multiple of 8, D of 16.
// Mapping  one thread for 8 pairs; threads run over (row, head, pairs), grid ceil(threads / 256).
// Numerics f32 products and sum, one rounding (N8).
// Floor    bytes 2*2*R*2*H*D + 8*R for 2-byte E; the table stays in L2.

#include "check.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int VEC = ROPE_VISION_VEC;

template <typename E>
__device__ __forceinline__ void rope_vision(const RopeVisionParams& p) {
  const int half = p.D / 2;
  const unsigned pieces = p.D / 16;              // threads of a head
  const unsigned row_pieces = 2 * p.H * pieces;  // of a row: queries and keys
  const unsigned id = blockIdx.x * ROPE_VISION_THREADS + threadIdx.x;
  const unsigned row = id / row_pieces;
  if (row >= unsigned(p.R)) return;
  const unsigned piece = id % row_pieces;
  const int first = piece % pieces * VEC;  // of the thread's frequencies

  E* low = static_cast<E*>(p.qkv) + row * p.ld_qkv + int64_t(piece / pieces) * p.D + first;
  E* high = low + half;
  const float2* table = reinterpret_cast<const float2*>(p.table);
  const int y = p.positions[2 * int64_t(row)], x = p.positions[2 * int64_t(row) + 1];
  DEVICE_CHECK(y >= 0 && x >= 0);
  const int frequencies = p.D / 4;
  const float2* of_row = table + int64_t(y) * frequencies;
  const float2* of_column = table + int64_t(x) * frequencies - frequencies;

  const Vec8<E> a = load8(low), b = load8(high);
  Vec8<E> a_out, b_out;
#pragma unroll
  for (int i = 0; i < VEC; ++i) {
    const int j = first + i;
    const float2 turn = j < frequencies ? of_row[j] : of_column[j];  // cos, sin
    const float u = float(a.lane[i]), v = float(b.lane[i]);
    a_out.lane[i] = round_to<E>(u * turn.x - v * turn.y);
    b_out.lane[i] = round_to<E>(v * turn.x + u * turn.y);
  }
  store8(low, a_out);
  store8(high, b_out);
}

extern "C" __global__ void __launch_bounds__(ROPE_VISION_THREADS)
    rope_vision_bf16(const __grid_constant__ RopeVisionParams p) {
  rope_vision<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(ROPE_VISION_THREADS)
    rope_vision_f16(const __grid_constant__ RopeVisionParams p) {
  rope_vision<f16>(p);
}

extern "C" __global__ void __launch_bounds__(ROPE_VISION_THREADS)
    rope_vision_f32(const __grid_constant__ RopeVisionParams p) {
  rope_vision<float>(p);
}
