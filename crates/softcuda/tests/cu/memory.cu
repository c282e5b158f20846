// Loads, stores, spaces, cache operators, atomics, fences, constants, struct parameters.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

__constant__ float table[64] = {1.0f, -2.5f, 3e10f};
__constant__ int matrix[3][4] = {{1, 2, 3, 4}, {5}, {6, 7}};
__device__ int counter = 42;
__device__ const char* const message = "softcuda";
__device__ double grid2[2][2] = {{1.5, 2.5}, {3.5, 4.5}};
__device__ int* counter_address = &counter;

struct Params {
  const float* in;
  float* out;
  int n;
  int pad[3];
  float weights[8];
};

extern "C" __global__ void struct_params(const __grid_constant__ Params p, int which) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < p.n) p.out[i] = p.in[i] * p.weights[which & 7] + p.pad[i % 3] + table[i & 63] + matrix[i % 3][which & 3];
}

extern "C" __global__ void spaces(const float4* __restrict__ a, const uint8_t* b, const int16_t* c, float2* out,
                                  int n) {
  __shared__ float tile[256];
  extern __shared__ __align__(16) unsigned char dynamic[];
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  int scratch[16];
  for (int k = 0; k < 16; ++k) scratch[(k * n) & 15] = k + i;
  float4 v = __ldg(a + i);
  float4 w = __ldcs(a + i + 1), x = __ldcg(a + i + 2), y = __ldca(a + i + 3);
  tile[threadIdx.x & 255] = v.x + w.y + x.z + y.w;
  reinterpret_cast<float4*>(dynamic)[threadIdx.x] = v;
  __syncthreads();
  float2 r = {tile[(threadIdx.x + 1) & 255] + b[i] + c[i], reinterpret_cast<float*>(dynamic)[threadIdx.x] + scratch[n & 15]};
  __stcs(out + i, r);
  __stwt(out + i + 1, r);
  *((volatile float*)out + i + 64) = r.x;
  const float* any = (n & 1) ? tile : &a[0].x;
  out[i + 100] = {any[i & 7], __isShared(any) ? 1.0f : (__isGlobal(any) ? 2.0f : 3.0f)};
}

extern "C" __global__ void atomics(int* a, unsigned* u, unsigned long long* l, float* f, double* d, __half2* h,
                                   __half* h1, __nv_bfloat162* b) {
  __shared__ int s;
  if (threadIdx.x == 0) s = 0;
  __syncthreads();
  int r = atomicAdd(&s, 1) + atomicAdd(a, 2) + atomicSub(a + 1, 3) + atomicExch(a + 2, 4) + atomicMin(a + 3, 5) +
          atomicMax(a + 4, 6) + atomicCAS(a + 5, 7, 8) + atomicAnd(a + 6, 9) + atomicOr(a + 7, 10) +
          atomicXor(a + 8, 11);
  r += atomicInc(u, 12) + atomicDec(u + 1, 13) + atomicMin(u + 2, 14u) + atomicMax(u + 3, 15u);
  r += (int)atomicAdd(l, 16ull) + (int)atomicCAS(l + 1, 17ull, 18ull) + (int)atomicExch(l + 2, 19ull);
  atomicAdd(f, 1.5f);
  r += (int)atomicAdd(f + 1, 2.5f);
  atomicAdd(d, 2.5);
  atomicAdd(h, __half2{1.0f, 2.0f});
  atomicAdd(h1, __half(1.0f));
  atomicAdd(b, __nv_bfloat162{1.0f, 2.0f});
  __threadfence();
  __threadfence_block();
  __threadfence_system();
  atomicAdd_block(a + 9, r);
  atomicAdd_system(&counter, r);
  a[10] = counter + *counter_address + message[r & 7] + (int)grid2[r & 1][0];
  int old;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(old) : "l"(a + 11) : "memory");
  asm volatile("red.release.gpu.global.add.s32 [%0+48], %1;" ::"l"(a), "r"(old) : "memory");
  asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(old) : "l"(a + 11) : "memory");
  asm volatile("st.release.sys.global.s32 [%0], %1;" ::"l"(a + 13), "r"(old) : "memory");
  asm volatile("fence.acq_rel.gpu; fence.sc.sys; fence.proxy.alias;");
  asm volatile("prefetch.global.L2 [%0]; prefetchu.L1 [%0];" ::"l"(a));
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.b32 %0, [%1];" : "=r"(old) : "l"(a));
  asm volatile(
      "{ .reg .b64 pol; createpolicy.fractional.L2::evict_last.b64 pol, 0.5; "
      "ld.global.L2::cache_hint.b32 %0, [%1], pol; }"
      : "=r"(old) : "l"(a));
}
