// Calls, function pointers, recursion, switches, loops, printf, assert, scopes of inline assembly.
#include <cassert>
#include <cstdio>

struct Pair {
  int a;
  float b;
  double c[2];
};

typedef int (*Binary)(int, int);
__device__ __noinline__ int add2(int a, int b) { return a + b; }
__device__ __noinline__ int mul2(int a, int b) { return a * b; }
__device__ Binary operations[2] = {add2, mul2};
__device__ __noinline__ int fib(int n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }
__device__ __noinline__ Pair make(int a, float b) { return {a, b, {1.5 * a, 2.5 * b}}; }
__device__ __noinline__ double sum(Pair p, const Pair* q) { return p.a + p.b + p.c[0] + q->c[1]; }

extern "C" __global__ void calls(int* out, int n) {
  Pair p = make(n, 1.5f);
  Pair q = make(n + 1, 2.5f);
  int r = add2(n, 3) + fib(n & 7) + operations[n & 1](n, 5) + (int)sum(p, &q);
  out[threadIdx.x] = r;
}

extern "C" __global__ void __launch_bounds__(128, 2) switches(const int* in, int* out, int n) {
  int x = in[threadIdx.x], r = 0;
  for (int i = 0; i < n; ++i) {
    switch ((x + i) % 9) {
      case 0: r += x * 3; break;
      case 1: r -= i; break;
      case 2: r ^= x << 2; break;
      case 3: r = r * 7 + in[i]; break;
      case 4: continue;
      case 5: r += in[r & 15]; break;
      case 6: r = -r; break;
      case 7: if (r > 100) goto done; r += 11; break;
      default: r |= 1;
    }
    while (r & 0x1000) r = (unsigned)r >> 1;
  }
done:
  out[threadIdx.x] = r;
}

extern "C" __global__ void messages(int n) {
  assert(n > 0);
  printf("thread %d of %u: %f %s %llx\n", (int)threadIdx.x, blockDim.x, 1.5, "text", 0x123456789ull);
  if (n == 77) __trap();
  if (n == 78) asm volatile("exit;");
  if (n == 79) asm volatile("brkpt;");
}

extern "C" __global__ void scopes(int* out, int n) {
  int r = n;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    asm volatile(
        "{\n .reg .pred P;\n .reg .b32 %%n, t<3>;\n mov.b32 %%n, %1;\n"
        "LOOP: setp.eq.s32 P, %%n, 0;\n @P bra DONE;\n"
        "{ .reg .b32 %%n; mov.b32 %%n, 7; mov.b32 t1, %%n; add.s32 %0, %0, t1; }\n"
        " sub.s32 %%n, %%n, 1;\n bra.uni LOOP;\nDONE:\n }"
        : "+r"(r) : "r"(i + 3));
  }
  short h;
  asm("{ .reg .b16 lo, hi; mov.b32 {lo, hi}, %1; add.u16 %0, lo, hi; }" : "=h"(h) : "r"(r));
  out[threadIdx.x] = r + h;
}
