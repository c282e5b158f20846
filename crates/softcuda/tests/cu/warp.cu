// Warp and block communication: shuffles, votes, match, redux, barriers, special registers.
#include <cooperative_groups.h>
namespace cg = cooperative_groups;

extern "C" __global__ void warp_ops(const int* in, unsigned* out) {
  int lane = threadIdx.x & 31, x = in[threadIdx.x];
  unsigned r = __shfl_sync(~0u, x, 3) + __shfl_up_sync(~0u, x, 2) + __shfl_down_sync(~0u, x, 5, 8) +
               __shfl_xor_sync(~0u, x, 16) + __shfl_sync(~0u, x, x & 31, 16);
  r += (unsigned)__shfl_xor_sync(~0u, (double)x, 4) + (unsigned)__shfl_down_sync(~0u, 1.5f * x, 1);
  r += __ballot_sync(~0u, x > 3) + __all_sync(~0u, x > 4) + __any_sync(~0u, x > 5) + __uni_sync(~0u, x > 6);
  int all;
  r += __match_any_sync(~0u, x) + __match_all_sync(~0u, x, &all) + __match_any_sync(~0u, (long long)x) + all;
  r += __reduce_add_sync(~0u, x) + __reduce_min_sync(~0u, (unsigned)x) + __reduce_max_sync(~0u, x) +
       __reduce_and_sync(~0u, (unsigned)x) + __reduce_or_sync(~0u, (unsigned)x) + __reduce_xor_sync(~0u, (unsigned)x);
  if (lane < 16) {
    __syncwarp(0xffff);
    r += __activemask() + __shfl_sync(0xffff, x, 1);
  }
  r += __syncthreads_count(x) + __syncthreads_and(x) + __syncthreads_or(x);
  asm volatile("barrier.sync 1, 64;" ::: "memory");
  asm volatile("bar.arrive 2, 64; bar.sync 2, 64;" ::: "memory");
  unsigned t;
  asm("mov.u32 %0, %%laneid;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%warpid;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%nwarpid;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%smid;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%lanemask_ge;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%dynamic_smem_size;" : "=r"(t)); r += t;
  asm("mov.u32 %0, %%envreg3;" : "=r"(t)); r += t;
  asm("mov.u32 %0, WARP_SZ;" : "=r"(t)); r += t;
  r += (unsigned)clock() + (unsigned)clock64() + blockIdx.y + gridDim.z + blockDim.y + threadIdx.z;
  __nanosleep(20);
  out[threadIdx.x] = r;
}

extern "C" __global__ void groups(int* out) {
  auto block = cg::this_thread_block();
  auto tile = cg::tiled_partition<8>(block);
  int v = tile.shfl_xor(threadIdx.x, 3) + tile.any(threadIdx.x > 4);
  auto active = cg::coalesced_threads();
  v += active.size() + active.thread_rank();
  cg::this_grid().sync();
  out[block.thread_rank()] = v;
}
