// Integer, logic, shift, compare and select instructions.
#include <cstdint>

extern "C" __global__ void integer32(const int* a, const int* b, const unsigned* c, int* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int x = a[i], y = b[i];
  unsigned u = c[i], r = 0;
  r ^= x + y;
  r = r * 31 + (x - y);
  r = r * 31 + x * y;
  r = r * 31 + __mulhi(x, y);
  r = r * 31 + __umulhi(u, r);
  r = r * 31 + __mul24(x, y);
  r = r * 31 + __umul24(u, r);
  r = r * 31 + __sad(x, y, u);
  r = r * 31 + __usad(u, r, 3u);
  r = r * 31 + (y ? x / y : 7);
  r = r * 31 + (y ? x % y : 7);
  r = r * 31 + (u ? r / u : 7u);
  r = r * 31 + (u ? r % u : 7u);
  r = r * 31 + abs(x);
  r = r * 31 + min(x, y) + max(x, y);
  r = r * 31 + min(u, r) + max(u, r);
  r = r * 31 + __popc(u) + __clz(x) + __ffs(y) + __brev(u);
  r = r * 31 + (x & y) + (x | y) + (x ^ y) + ~x + (u << (y & 31)) + (u >> (y & 31)) + (x >> (u & 31));
  r = r * 31 + __funnelshift_l(u, r, y) + __funnelshift_r(u, r, y) + __funnelshift_lc(u, r, y) +
      __funnelshift_rc(u, r, y);
  r = r * 31 + __byte_perm(u, r, 0x5410) + __byte_perm(u, r, y);
  r = r * 31 + __dp4a(x, y, (int)r) + __dp4a(u, r, 5u) + __dp2a_lo(x, y, (int)r) + __dp2a_hi(u, r, 1u);
  r = r * 31 + __vadd2(u, r) + __vmaxs4(u, r) + __hadd(x, y) + __rhadd(x, y);
  unsigned bfe, bfi, fns, lop, szext = 0, bmsk = 0;
  asm("bfe.u32 %0, %1, %2, %3;" : "=r"(bfe) : "r"(u), "r"(x), "r"(y));
  asm("bfi.b32 %0, %1, %2, %3, %4;" : "=r"(bfi) : "r"(u), "r"(r), "r"(x), "r"(y));
  asm("fns.b32 %0, %1, %2, %3;" : "=r"(fns) : "r"(u), "r"(x & 31), "r"(1));
  asm("lop3.b32 %0, %1, %2, %3, 0x96;" : "=r"(lop) : "r"(u), "r"(r), "r"(x));
  asm("szext.wrap.u32 %0, %1, %2;" : "=r"(szext) : "r"(u), "r"(x));
  asm("bmsk.clamp.b32 %0, %1, %2;" : "=r"(bmsk) : "r"(u), "r"(x));
  r += bfe + bfi + fns + lop + szext + bmsk;
  unsigned lo, hi;
  asm("add.cc.u32 %0, %2, %3; addc.u32 %1, %2, 0;" : "=r"(lo), "=r"(hi) : "r"(u), "r"(r));
  r += lo ^ hi;
  asm("{ .reg .pred p, q; setp.lt.and.s32 p|q, %1, %2, !p; selp.u32 %0, 1, 2, p; @q add.u32 %0, %0, 5; }"
      : "=r"(lo) : "r"(x), "r"(y));
  asm("slct.u32.s32 %0, %1, %2, %3;" : "=r"(hi) : "r"(u), "r"(r), "r"(x));
  out[i] = r + lo + hi;
}

extern "C" __global__ void integer64(const int64_t* a, const int64_t* b, uint64_t* out, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int64_t x = a[i], y = b[i];
  uint64_t u = x, v = y, r = 0;
  r += x + y;
  r = r * 31 + (x - y) + x * y + __mul64hi(x, y) + __umul64hi(u, v);
  r = r * 31 + (y ? x / y + x % y : 0) + (v ? u / v + u % v : 0);
  r = r * 31 + llabs(x) + min(x, y) + max(u, v) + __popcll(u) + __clzll(x) + __ffsll(y) + __brevll(u);
  r = r * 31 + (u << (v & 63)) + (u >> (v & 63)) + (x >> (v & 63)) + (x < y) + (u <= v) + (x == y) + ~u;
  r = r * 31 + (int64_t)(int)x * (int)y + (uint64_t)(unsigned)x * (unsigned)y;
  out[i] = r;
}

extern "C" __global__ void narrow(const int8_t* a, const uint8_t* b, const int16_t* c, const uint16_t* d,
                                  int8_t* e, uint16_t* f, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  int16_t s = c[i] * a[i] + b[i];
  uint16_t u = d[i] << (a[i] & 7);
  u = u / (uint16_t)(b[i] | 1) + u % (uint16_t)(b[i] | 1) + (s > a[i] ? s : u);
  e[i] = (int8_t)(s ^ u);
  f[i] = u >> 3 | s;
}
