// Matrix times transposed weight in f32 without tensor cores: the linear layers of exact mode.
//
// What     y[m,n] = epilogue(sum_k x[m,k] * weight[n,k]); the epilogues are in params.h, without
//          rounding points: every number is f32 (docs/numerics.md, exact mode).
// Shapes   x [M, K], weight [N, K], bias [N] or null, y [M, N], dense, 16-byte aligned. Any M > 0,
//          N % 8 == 0, K % 16 == 0. GEMM_RESIDUAL reads y; no other pointer may alias it.
// Mapping  A block owns a TILE_M x TILE_N tile of y, a thread ROWS x 4 outputs of it; tiles go down
//          first, then across. A warp whose rows all lie past M copies, but does not multiply.
//            shared, twice (even and odd steps), transposed so that a thread's outputs are
//            neighbours:  x [16][TILE_M + 4], weight [16][TILE_N + 4]
//            step s  load s + 1 into registers | multiply s | store s + 1 | barrier
// Numerics N1 without tensor cores: one fmaf chain for each group of 256 k, ascending, from zero;
//          group sums are added in ascending order onto +0. The tile shape changes no bit.
//          Tolerance class C, exact mode.
// Floor    bytes 4*(M*K + N*K + M*N), plus 4*M*N for the residual; 2*M*N*K FLOP. Limited by fused
//          multiply-adds, 16 for every 2 shared loads of 16 bytes.

#include "epilogue.cuh"
#include "params.h"
#include "warp.cuh"

constexpr int TILE_K = GEMM_F32_TILE_K;
constexpr int THREADS = GEMM_F32_THREADS;
constexpr int COLUMNS = 4;  // outputs of a thread in a row
constexpr int VEC = 4;      // elements of one 16-byte access
constexpr int PAD = 4;      // keeps rows of a tile on 16 bytes and off each other's banks
constexpr int GROUP_STEPS = GEMM_GROUP / TILE_K;
static_assert(GEMM_GROUP % TILE_K == 0, "a group ends at the end of a step");

// Four elements of a row of [rows, K], zeros past the last row.
__device__ __forceinline__ float4 load_row(const float* matrix, int row, int rows, int64_t K,
                                           int k) {
  if (row >= rows) return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
  return *reinterpret_cast<const float4*>(matrix + row * K + k);
}

// One operand's tile of a step: TILE rows of TILE_K, a piece of four k for each thread.
template <int TILE>
struct Piece {
  static constexpr int PIECES = TILE * TILE_K / VEC;
  static_assert(PIECES <= THREADS, "a piece for each thread");
  float4 words;

  __device__ __forceinline__ void load(const float* matrix, int first, int rows, int64_t K, int k) {
    const int id = threadIdx.x;
    if (id >= PIECES) return;
    words = load_row(matrix, first + id / (TILE_K / VEC), rows, K, k + id % (TILE_K / VEC) * VEC);
  }

  __device__ __forceinline__ void store(float (&s_tile)[TILE_K][TILE + PAD]) const {
    const int id = threadIdx.x;
    if (id >= PIECES) return;
    const int row = id / (TILE_K / VEC), k = id % (TILE_K / VEC) * VEC;
    s_tile[k][row] = words.x;
    s_tile[k + 1][row] = words.y;
    s_tile[k + 2][row] = words.z;
    s_tile[k + 3][row] = words.w;
  }
};

// sum += the step's products.
template <int TILE_M, int TILE_N, int ROWS>
__device__ __forceinline__ void multiply(float (&r_sum)[ROWS][COLUMNS],
                                         const float (&s_x)[TILE_K][TILE_M + PAD],
                                         const float (&s_weight)[TILE_K][TILE_N + PAD], int row,
                                         int column) {
#pragma unroll
  for (int k = 0; k < TILE_K; ++k) {
    const float4 weight = *reinterpret_cast<const float4*>(&s_weight[k][column]);
#pragma unroll
    for (int i = 0; i < ROWS; ++i) {
      const float x = s_x[k][row + i];
      r_sum[i][0] = fmaf(x, weight.x, r_sum[i][0]);
      r_sum[i][1] = fmaf(x, weight.y, r_sum[i][1]);
      r_sum[i][2] = fmaf(x, weight.z, r_sum[i][2]);
      r_sum[i][3] = fmaf(x, weight.w, r_sum[i][3]);
    }
  }
}

// Four neighbouring outputs of a row, from their sums.
__device__ __forceinline__ void store_outputs(const GemmParams& p, const float (&sum)[COLUMNS],
                                              int row, int n) {
  const float* bias = static_cast<const float*>(p.bias);
  float* y = static_cast<float*>(p.y) + int64_t(row) * p.N + n;
#pragma unroll
  for (int j = 0; j < COLUMNS; ++j) {
    const float g = activated<float>(sum[j] + (bias == nullptr ? 0.0f : bias[n + j]), p.epilogue);
    y[j] = p.epilogue == GEMM_RESIDUAL ? g + y[j] : g;
  }
}

template <int TILE_M, int TILE_N, int ROWS>
__device__ __forceinline__ void gemm_f32(const GemmParams& p) {
  constexpr int ACROSS = TILE_N / COLUMNS;  // threads of a row of the tile
  static_assert(TILE_M / ROWS * ACROSS == THREADS, "a thread for each part of the tile");
  __shared__ __align__(16) float s_x[2][TILE_K][TILE_M + PAD];
  __shared__ __align__(16) float s_weight[2][TILE_K][TILE_N + PAD];

  const int tiles_m = (p.M + TILE_M - 1) / TILE_M;
  const int m0 = blockIdx.x % tiles_m * TILE_M, n0 = blockIdx.x / tiles_m * TILE_N;
  const int row = threadIdx.x / ACROSS * ROWS, column = threadIdx.x % ACROSS * COLUMNS;
  const bool live = m0 + threadIdx.x / WARP * WARP / ACROSS * ROWS < p.M;  // the warp's first row
  const float* x = static_cast<const float*>(p.x);
  const float* weight = static_cast<const float*>(p.weight);

  Piece<TILE_M> x_piece;
  Piece<TILE_N> weight_piece;
  x_piece.load(x, m0, p.M, p.K, 0);
  weight_piece.load(weight, n0, p.N, p.K, 0);
  x_piece.store(s_x[0]);
  weight_piece.store(s_weight[0]);
  __syncthreads();  // orders: the first step's tiles before their reads

  float r_sum[ROWS][COLUMNS] = {};    // of the group
  float r_total[ROWS][COLUMNS] = {};  // of the groups before
  const int steps = p.K / TILE_K;
  for (int step = 0; step < steps; ++step) {
    const bool more = step + 1 < steps;
    if (more) {
      x_piece.load(x, m0, p.M, p.K, (step + 1) * TILE_K);
      weight_piece.load(weight, n0, p.N, p.K, (step + 1) * TILE_K);
    }
    if (live) {
      multiply<TILE_M, TILE_N, ROWS>(r_sum, s_x[step % 2], s_weight[step % 2], row, column);
    }
    if ((step + 1) % GROUP_STEPS == 0 || !more) {
#pragma unroll
      for (int i = 0; i < ROWS; ++i) {
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          r_total[i][j] += r_sum[i][j];
          r_sum[i][j] = 0.0f;
        }
      }
    }
    if (more) {
      x_piece.store(s_x[(step + 1) % 2]);
      weight_piece.store(s_weight[(step + 1) % 2]);
    }
    __syncthreads();  // orders: the next step's tiles before their reads, and this step's reads
                      // before the copies of the step after the next
  }

  if (n0 + column >= p.N) return;  // N % 8 == 0: all four outputs or none
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
    if (m0 + row + i < p.M) store_outputs(p, r_total[i], m0 + row + i, n0 + column);
  }
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    gemm_f32_64x64(const __grid_constant__ GemmParams p) {
  gemm_f32<64, 64, 4>(p);
}

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    gemm_f32_16x64(const __grid_constant__ GemmParams p) {
  gemm_f32<16, 64, 1>(p);
}
