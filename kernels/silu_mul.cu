// The gate of SwiGLU on the two halves of a packed row.
//
// What     y[t,f] = E(E(g / (1 + exp(-g))) * u), g = gate_up[t,f], u = gate_up[t,F+f]; both
//          roundings are the reference model's (docs/spec.md 15.1).
// Shapes   gate_up [T, 2F], y [T, F]; dense, 16-byte aligned, F % 8 == 0; no overlap.
// Mapping  grid T * ceil(F / 2048), block 256: a block owns 2048 columns of a row, a thread 8.
// Numerics f32, element by element. exp(-g) overflows below g = -88.7 and gives -0, as the
//          reference does. Tolerance class B, 2 steps.
// Floor    bytes 2*3*T*F.

#include "numeric.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int THREADS = SILU_MUL_THREADS;
constexpr int VEC = SILU_MUL_VEC;
constexpr int CHUNK = THREADS * VEC;  // columns of a block

template <typename E>
__device__ __forceinline__ void silu_mul(const SiluMulParams& p) {
  static_assert(VEC == 8, "what load8 and store8 move");
  const int chunks = (p.F + CHUNK - 1) / CHUNK;
  const int row = blockIdx.x / chunks;
  const int column = blockIdx.x % chunks * CHUNK + threadIdx.x * VEC;
  if (column >= p.F) return;  // no barrier follows

  const E* gate = static_cast<const E*>(p.gate_up) + int64_t(row) * 2 * p.F + column;
  const Vec8<E> g = load8(gate);
  const Vec8<E> u = load8(gate + p.F);
  Vec8<E> out;
#pragma unroll
  for (int i = 0; i < VEC; ++i) {
    out.lane[i] = round_to<E>(silu<E>(float(g.lane[i])) * float(u.lane[i]));
  }
  store8(static_cast<E*>(p.y) + int64_t(row) * p.F + column, out);
}

extern "C" __global__ void __launch_bounds__(SILU_MUL_THREADS)
    silu_mul_bf16(const __grid_constant__ SiluMulParams p) {
  silu_mul<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(SILU_MUL_THREADS)
    silu_mul_f16(const __grid_constant__ SiluMulParams p) {
  silu_mul<f16>(p);
}

extern "C" __global__ void __launch_bounds__(SILU_MUL_THREADS)
    silu_mul_f32(const __grid_constant__ SiluMulParams p) {
  silu_mul<float>(p);
}
