// Rows of a table into packed rows: token rows and image rows of a step, or chosen rows alone.
//
// What     y[t] = source[t] >= 0 ? image_rows[source[t]] : table[ids[t]]; with ids null, zeros in
//          place of the second. An id or a source out of range gives zeros and sets
//          EMBED_STATUS_RANGE in status[sequence[t]] (sequence null: status[t]).
// Shapes   table [V, C], image_rows [I, C], ids, source, sequence [T], y [T, C], status [B]; dense,
//          16-byte aligned, C % 8 == 0.
// Mapping  grid ceil(T / 4), block 128: a warp owns a row, a lane 8 channels of each 256.
// Numerics copies: tolerance class A, bit-equal.
// Floor    bytes 2*2*T*C + 12*T.

#include "check.cuh"
#include "params.h"
#include "vec.cuh"
#include "warp.cuh"

constexpr int VEC = 8;
static_assert(EMBED_THREADS == EMBED_ROWS * WARP, "a warp for each row");

template <typename E>
__device__ __forceinline__ void embed(const EmbedParams& p) {
  const int row = blockIdx.x * EMBED_ROWS + threadIdx.x / WARP;
  const int lane = threadIdx.x % WARP;
  if (row >= p.T) return;  // whole warps, and no barrier follows

  const int source = p.source[row];
  const E* from = nullptr;
  bool wrong = false;
  if (source >= 0) {
    wrong = source >= p.I;
    from = static_cast<const E*>(p.image_rows) + int64_t(source) * p.C;
  } else if (p.ids != nullptr) {
    const int id = p.ids[row];
    wrong = id < 0 || id >= p.V;
    from = static_cast<const E*>(p.table) + int64_t(id) * p.C;
  }
  if (wrong) {
    from = nullptr;
    const int sequence = p.sequence == nullptr ? row : p.sequence[row];
    const bool known = sequence >= 0 && sequence < p.B;
    DEVICE_CHECK(known);
    if (known && lane == 0) atomicOr(p.status + sequence, EMBED_STATUS_RANGE);
  }

  E* y = static_cast<E*>(p.y) + int64_t(row) * p.C;
  for (int c = lane * VEC; c < p.C; c += WARP * VEC) {
    store8(y + c, from == nullptr ? zero8<E>() : load8(from + c));
  }
}

extern "C" __global__ void __launch_bounds__(EMBED_THREADS)
    embed_bf16(const __grid_constant__ EmbedParams p) {
  embed<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(EMBED_THREADS)
    embed_f16(const __grid_constant__ EmbedParams p) {
  embed<f16>(p);
}

extern "C" __global__ void __launch_bounds__(EMBED_THREADS)
    embed_f32(const __grid_constant__ EmbedParams p) {
  embed<float>(p);
}
