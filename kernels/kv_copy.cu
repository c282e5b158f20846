// Copies of pages: a page over another, a sequence's pages to dense rows.
//
// What     kv_copy_pages: page dst[i] = page src[i], all layers. kv_gather: keys[s,g] and
//          values[s,g] = the token s of a sequence, head g, of one layer.
// Shapes   pool [page][L][2][G][64][D]; src, dst [n], no page in both and dst all different; pages
//          [ceil(S / 64)]; keys, values [S, G, D]. 16-byte aligned, D a multiple of 8.
// Mapping  kv_copy_pages: grid (n, ceil(page bytes / 64 Ki)), block 256, 16 bytes an access.
//          kv_gather: one thread for 8 elements; threads run over (keys or values, token, head,
//          elements), grid ceil(threads / 256).
// Numerics a copy.
// Floor    bytes 2 * n * page bytes; 2*2*2*S*G*D for 2-byte E.

#include "pages.cuh"
#include "params.h"
#include "vec.cuh"

constexpr int VEC = KV_GATHER_VEC;

extern "C" __global__ void __launch_bounds__(KV_COPY_THREADS)
    kv_copy_pages(const __grid_constant__ KvCopyPagesParams p) {
  const int src = p.src[blockIdx.x], dst = p.dst[blockIdx.x];
  DEVICE_CHECK(src >= 0 && dst >= 0 && src != dst);
  const char* from = static_cast<const char*>(p.pool) + src * p.page_bytes;
  char* to = static_cast<char*>(p.pool) + dst * p.page_bytes;
  const int64_t first = int64_t(blockIdx.y) * KV_COPY_BLOCK_BYTES;
  const int64_t end = min(first + KV_COPY_BLOCK_BYTES, p.page_bytes);
  for (int64_t at = first + threadIdx.x * KV_COPY_BYTES; at < end;
       at += KV_COPY_THREADS * KV_COPY_BYTES) {
    *reinterpret_cast<uint4*>(to + at) = *reinterpret_cast<const uint4*>(from + at);
  }
}

template <typename E>
__device__ __forceinline__ void kv_gather(const KvGatherParams& p) {
  const unsigned pieces = p.D / VEC;         // threads of a head
  const unsigned row_pieces = p.G * pieces;  // of a token's keys
  const unsigned id = blockIdx.x * KV_GATHER_THREADS + threadIdx.x;
  const unsigned row = id / row_pieces;  // tokens for the keys, then for the values
  if (row >= 2 * unsigned(p.S)) return;
  const bool value = row >= unsigned(p.S);
  const int token = value ? row - p.S : row;
  const int head = id % row_pieces / pieces;
  const int first = id % pieces * VEC;

  const E* from = static_cast<const E*>(p.pool) + page_offset(p.kv, p.pages[token / PAGE_TOKENS]) +
                  key_offset(p.kv, head) + (value ? p.kv.values : 0) + token % PAGE_TOKENS * p.D +
                  first;
  E* to = static_cast<E*>(value ? p.values : p.keys) + (token * int64_t(p.G) + head) * p.D + first;
  store8(to, load8(from));
}

extern "C" __global__ void __launch_bounds__(KV_GATHER_THREADS)
    kv_gather_bf16(const __grid_constant__ KvGatherParams p) {
  kv_gather<bf16>(p);
}

extern "C" __global__ void __launch_bounds__(KV_GATHER_THREADS)
    kv_gather_f16(const __grid_constant__ KvGatherParams p) {
  kv_gather<f16>(p);
}

extern "C" __global__ void __launch_bounds__(KV_GATHER_THREADS)
    kv_gather_f32(const __grid_constant__ KvGatherParams p) {
  kv_gather<float>(p);
}
