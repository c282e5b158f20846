// Tensor-core instructions and their fragments.
//
// With g = lane / 4 and t = lane % 4, a register of two elements holding the lower index in its
// low half, m16n8k16 has (PTX ISA 9.7.15.5.8):
//   A [16 x 16, row-major]   a0 (g, 2t..)  a1 (g+8, 2t..)  a2 (g, 2t+8..)  a3 (g+8, 2t+8..)
//   B [16 x 8], stored [n][k] b0 (k 2t.., n g)  b1 (k 2t+8.., n g)
//   C, D [16 x 8] f32        c0, c1 (g, 2t and 2t+1)  c2, c3 (g+8, the same columns)
// ldmatrix: lane l gives the address of row l % 8 of matrix l / 8; register i of the result is
// row g, elements 2t, 2t+1 of matrix i; with .trans it is rows 2t, 2t+1 of column g.
#pragma once
#include "vec.cuh"

// A lane's four elements of C or D.
struct FragmentC {
  float lane[4];
};

// Row of C that register 0 and 1 hold; registers 2 and 3 hold the row 8 below.
__device__ __forceinline__ int fragment_row(int lane) {
  return lane / 4;
}
// Column of C that register 0 and 2 hold; registers 1 and 3 hold the next one.
__device__ __forceinline__ int fragment_column(int lane) {
  return 2 * (lane % 4);
}

// ldmatrix.sync.aligned.m8n8.x4 (PTX ISA 9.7.15.5.15). Each row is 16 bytes, 16-byte aligned.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// The same at a fixed distance, which is part of the instruction.
template <int BYTES>
__device__ __forceinline__ void ldmatrix_x4_at(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4 + %5];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared), "n"(BYTES)
               : "memory");
}

// The same with each 8 x 8 matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared)
               : "memory");
}

// ldmatrix.sync.aligned.m8n8.x2: lanes 0 to 15 give the addresses; the others give valid ones.
__device__ __forceinline__ void ldmatrix_x2(uint32_t (&r)[2], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared)
               : "memory");
}

// mma.sync.aligned.m16n8k16.row.col, f32 sums: c += a * b (PTX ISA 9.7.15.5.14).
template <typename E>
__device__ __forceinline__ void mma(FragmentC& c, const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <>
__device__ __forceinline__ void mma<bf16>(FragmentC& c, const uint32_t (&a)[4], uint32_t b0,
                                          uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c.lane[0]), "+f"(c.lane[1]), "+f"(c.lane[2]), "+f"(c.lane[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
__device__ __forceinline__ void mma<f16>(FragmentC& c, const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c.lane[0]), "+f"(c.lane[1]), "+f"(c.lane[2]), "+f"(c.lane[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
