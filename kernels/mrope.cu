// Three-part rotation (M-RoPE) of the queries and keys of token rows, in place.
//
// What     for each head x of D channels and j < D / 2: x'[j] = E(E(x[j] cos) - E(x[j + D/2] sin)),
//          x'[j + D/2] = E(E(x[j + D/2] cos) + E(x[j] sin)), with (cos, sin) of frequency j in the
//          row of the table that the token's time names for j < time, its height for
//          j < time + height, its width else. docs/spec.md section 7.3.
// Shapes   qkv [T, ld_qkv]: queries H * D, keys G * D columns, then columns left as they are; table
//          [rows, D / 2, 2] in E; ids [3, T], inside the table. 16-byte aligned, ld_qkv a multiple
//          of 8, D of 16.
// Mapping  one thread for 8 pairs; threads run over (row, head, pairs), grid ceil(threads / 256).
// Numerics f32; cos and sin are rounded in the table, each product and the sum here (N8).
// Floor    bytes 2*2*T*(H+G)*D + 12*T for 2-byte E; the rows of the table are shared by the heads.

#include "check.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int VEC = MROPE_VEC;

template <typename E>
__device__ __forceinline__ void mrope(const MropeParams& p) {
  const int half = p.D / 2;
  const unsigned pieces = p.D / 16;                  // threads of a head
  const unsigned row_pieces = (p.H + p.G) * pieces;  // of a row: queries and keys
  const unsigned id = blockIdx.x * MROPE_THREADS + threadIdx.x;
  const unsigned row = id / row_pieces;
  if (row >= unsigned(p.T)) return;
  const unsigned piece = id % row_pieces;
  const int first = piece % pieces * VEC;  // of the thread's frequencies

  E* low = static_cast<E*>(p.qkv) + row * p.ld_qkv + int64_t(piece / pieces) * p.D + first;
  E* high = low + half;
  const E* table = static_cast<const E*>(p.table);  // (cos, sin) pairs
  const E* turns[3];
#pragma unroll
  for (int axis = 0; axis < 3; ++axis) {
    const int table_row = p.ids[axis * int64_t(p.T) + row];
    DEVICE_CHECK(table_row >= 0);
    turns[axis] = table + int64_t(table_row) * p.D;
  }

  const Vec8<E> a = load8(low), b = load8(high);
  Vec8<E> a_out, b_out;
#pragma unroll
  for (int i = 0; i < VEC; ++i) {
    const int j = first + i;
    const E* of_axis = j < p.time ? turns[0] : (j < p.time + p.height ? turns[1] : turns[2]);
    const float2 turn = load2(of_axis + 2 * j);
    const float u = float(a.lane[i]), v = float(b.lane[i]);
    a_out.lane[i] = round_to<E>(rounded<E>(u * turn.x) - rounded<E>(v * turn.y));
    b_out.lane[i] = round_to<E>(rounded<E>(v * turn.x) + rounded<E>(u * turn.y));
  }
  store8(low, a_out);
  store8(high, b_out);
}

extern "C" __global__ void __launch_bounds__(MROPE_THREADS)
    mrope_bf16(const __grid_constant__ MropeParams p) {
  mrope<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(MROPE_THREADS)
    mrope_f16(const __grid_constant__ MropeParams p) {
  mrope<f16>(p);
}

extern "C" __global__ void __launch_bounds__(MROPE_THREADS)
    mrope_f32(const __grid_constant__ MropeParams p) {
  mrope<float>(p);
}
