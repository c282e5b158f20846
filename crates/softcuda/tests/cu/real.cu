// Floating point: f32, f64, f16, bf16, conversions, approximate functions.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cstdint>

extern "C" __global__ void real32(const float* a, const float* b, const float* c, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float x = a[i], y = b[i], z = c[i], r = 0;
  r += x + y - z * x;
  r += fmaf(x, y, z) + __fmaf_rz(x, y, z) + __fmaf_ru(x, y, z) + __fmaf_rd(x, y, z);
  r += __fadd_rz(x, y) + __fmul_ru(x, y) + __fsub_rd(x, y);
  r += x / y + __fdividef(x, y) + __frcp_rn(x) + sqrtf(x) + __fsqrt_rn(y) + rsqrtf(x) + __frsqrt_rn(z);
  r += fabsf(x) + copysignf(x, y) + fminf(x, y) + fmaxf(x, y) - x;
  r += __expf(x) + __logf(y) + __sinf(x) + __cosf(y) + __tanf(z) + exp2f(x) + __powf(x, y);
  sincosf(x * z, &y, &z);
  r += logf(x) + expf(y) + powf(x, z) + erff(y) + tanhf(z);
  r += rintf(x) + floorf(y) + ceilf(z) + truncf(x) + roundf(y) + fmodf(x, z);
  r += (float)(int)x + (float)(unsigned)y + (float)(int64_t)z + __float2int_rn(x) + __float2uint_ru(y) +
       (float)(char)x + (float)(uint16_t)y;
  r += __int2float_rz((int)x) + __saturatef(y) + isnan(x) + isinf(y) + signbit(z);
  float t, e, l;
  asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x));
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x));
  asm("lg2.approx.f32 %0, %1;" : "=f"(l) : "f"(x));
  r += t + e + l;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(t) : "f"(x), "f"(y));
  asm("max.xorsign.abs.f32 %0, %1, %2;" : "=f"(e) : "f"(x), "f"(y));
  asm("add.ftz.sat.f32 %0, %1, %2;" : "=f"(l) : "f"(x), "f"(y));
  r += t + e + l;
  asm("{ .reg .pred p; testp.subnormal.f32 p, %1; selp.f32 %0, %1, 0f3F800000, p; }" : "=f"(t) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(*(unsigned*)&e) : "f"(x));
  out[i] = r + t + e;
}

extern "C" __global__ void real64(const double* a, const double* b, double* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  double x = a[i], y = b[i];
  double r = x + y - x * y + fma(x, y, 1.5) + x / y + sqrt(fabs(x)) + 1.0 / y + fmin(x, y) + fmax(x, y);
  r += __dadd_rz(x, y) + __dmul_ru(x, y) + __fma_rd(x, y, r) + (double)(float)x + (double)(int64_t)y;
  r += rint(x) + floor(y) + ceil(x) + trunc(y) + copysign(x, y) + (x < y) + (double)(unsigned)x + exp(y);
  out[i] = r;
}

extern "C" __global__ void half16(const __half* a, const __half2* b, const __nv_bfloat16* c,
                                  const __nv_bfloat162* d, float* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  __half h = a[i];
  __half2 g = b[i];
  __nv_bfloat16 w = c[i];
  __nv_bfloat162 v = d[i];
  g = __hadd2(g, g) * __hfma2(g, g, g) - __hneg2(__habs2(g));
  g = __hmax2(g, __hmin2(g, __float2half2_rn(1.5f)));
  g = __hfma2_relu(g, g, g);
  h = h + __low2half(g) * __high2half(g) / __half(3.0f) + hsqrt(h) + h2exp2(g).x + hexp(h);
  v = __hadd2(v, v) * __hfma2(v, v, v) - __hneg2(__habs2(v));
  v = __hmax2_nan(v, __hmin2(v, __float2bfloat162_rn(0.5f)));
  w = w + v.x * v.y + __float2bfloat16_rz(__half2float(h)) + hrsqrt(w);
  out[i] = __half2float(h) + __bfloat162float(w) + (float)(int)h + (float)__half2short_rz(h) +
           (__hgt(h, __half(1.0f)) ? 1.0f : 2.0f) + (__hbeq2(g, g) ? 3.0f : 4.0f) +
           __half2float(__heq2(g, g).x) + __bfloat162float(__heq2(v, v).y) + __half2float(__ushort2half_rn(7));
}
