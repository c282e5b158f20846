// New keys and values of a step into their pages.
//
// What     pool[slot / 64][layer][0][g][slot % 64] = key head g of the row, [1] its value head;
//          a row of slot -1 is skipped.
// Shapes   qkv [T, ld_qkv]: queries H * D, keys G * D, values G * D columns; slots [T], all
//          different; pool [page][L][2][G][64][D]. 16-byte aligned, ld_qkv and D multiples of 8.
// Mapping  one thread for 8 elements; threads run over (row, key or value head, elements), grid
//          ceil(threads / 256).
// Numerics a copy.
// Floor    bytes 2*2*T*2*G*D + 4*T for 2-byte E.

#include "params.h"
#include "vec.cuh"

constexpr int VEC = KV_APPEND_VEC;

template <typename E>
__device__ __forceinline__ void kv_append(const KvAppendParams& p) {
  const unsigned pieces = p.D / VEC;             // threads of a head
  const unsigned row_pieces = 2 * p.G * pieces;  // of a row: keys and values
  const unsigned id = blockIdx.x * KV_APPEND_THREADS + threadIdx.x;
  const unsigned row = id / row_pieces;
  if (row >= unsigned(p.T)) return;
  const int slot = p.slots[row];
  if (slot < 0) return;
  const unsigned piece = id % row_pieces;
  const int head = piece / pieces;  // keys, then values
  const int first = piece % pieces * VEC;

  const E* from = static_cast<const E*>(p.qkv) + row * p.ld_qkv + int64_t(p.H + head) * p.D + first;
  const bool value = head >= p.G;
  E* to = static_cast<E*>(p.pool) + slot / PAGE_TOKENS * p.kv.page + p.kv.layer +
          (value ? p.kv.values : 0) + (value ? head - p.G : head) * p.kv.head +
          slot % PAGE_TOKENS * int64_t(p.D) + first;
  store8(to, load8(from));
}

extern "C" __global__ void __launch_bounds__(KV_APPEND_THREADS)
    kv_append_bf16(const __grid_constant__ KvAppendParams p) {
  kv_append<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(KV_APPEND_THREADS)
    kv_append_f16(const __grid_constant__ KvAppendParams p) {
  kv_append<f16>(p);
}

extern "C" __global__ void __launch_bounds__(KV_APPEND_THREADS)
    kv_append_f32(const __grid_constant__ KvAppendParams p) {
  kv_append<float>(p);
}
