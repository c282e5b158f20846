// Few rows times transposed weight on tensor cores: the linear layers of decode.
//
// What     y[m,n] = epilogue(sum_k x[m,k] * weight[n,k]) for M <= ROWS, with the bits of gemm.cu.
// Shapes   x [M, K], weight [N, K], bias [N] or null, y [M, N], dense, 16-byte aligned.
//          0 < M <= ROWS, N % 8 == 0, K % 16 == 0. GEMM_RESIDUAL reads y; nothing else aliases it.
// Mapping  Rows of weight are operand A (m16), rows of x operand B (n8): M = 1 to 8 cost the same
//          and no row of mma is wasted on padding above 8. A block owns OUTPUTS rows of weight and
//          all of K. Its 4 warps take groups of 256 k in turn, warp w the groups w, w + 4, ...
//          Each warp has its own ring of S stages of STEP k, filled by its own cp.async: no barrier
//          of the block stands in the way of the loads.
//          Shared memory:
//            w * S * STAGE      ring of warp w: S stages of OUTPUTS rows of STEP k of weight, then,
//                               unless DIRECT, ROWS rows of STEP k of x; swizzled as in tile.cuh
//            4 * S * STAGE      f32 part[2][4 warps][ROWS][OUTPUTS]: sums of one group each
//          A round is one group a warp: 256 / STEP x (wait | copy ahead | ldmatrix, mma), then
//          parts to shared memory, one barrier, and every thread adds its elements' parts in
//          ascending order of groups. Two sets of parts, so one barrier a round is enough.
// Numerics N1, as gemm.cu: a group's sum is the same chain of mma (A and B swapped, which changes
//          no bit), group sums are added ascending onto +0. Tolerance class C.
// Floor    bytes 2*(M*K + N*K + M*N), plus 2*M*N for the residual; limited by the bytes of weight.

#include "epilogue.cuh"
#include "mma.cuh"
#include "params.h"
#include "tile.cuh"
#include "warp.cuh"

constexpr int WARPS = GEMV_WARPS;
constexpr int THREADS = GEMV_THREADS;
constexpr int MMA_K = 16;
static_assert(THREADS == WARPS * WARP, "threads of a block");

// How a warp gets x: straight into registers, or through its ring.
enum class Operand { DIRECT, STAGED };

// B registers of x from the ring, one k16 step, for all rows. `s_x` is the lane's first address,
// chunk 0 or 1 of its row; k steps flip the bits above, as in gemm.cu.
template <int ROW_TILES, int ROW_BYTES>
__device__ __forceinline__ void read_x(uint32_t (&r_x)[ROW_TILES][2], uint32_t s_x, int k_step) {
  s_x ^= 32 * k_step;
  if constexpr (ROW_TILES == 1) {
    ldmatrix_x2(r_x[0], s_x);
  } else {
    for_fixed<ROW_TILES / 2>([&](auto pair) {
      constexpr int J = 2 * pair.value;
      uint32_t r[4];
      ldmatrix_x4_at<8 * J * ROW_BYTES>(r, s_x);
      r_x[J][0] = r[0];
      r_x[J][1] = r[1];
      r_x[J + 1][0] = r[2];
      r_x[J + 1][1] = r[3];
    });
  }
}

// Place of an element in a set of parts. The lanes of a warp write rows 2t and columns g: blocks of
// eight columns are permuted so that the rows fall into different banks.
template <int OUTPUTS>
__device__ __forceinline__ int part_place(int row, int output) {
  constexpr int BLOCKS = OUTPUTS / 8 < 4 ? OUTPUTS / 8 : 4;
  return row * OUTPUTS + (output ^ 8 * (row / 2 % BLOCKS));
}

template <typename E, int OUTPUTS, int ROWS, int STAGES, int STEP, Operand X>
__device__ __forceinline__ void gemv(const GemmParams& p) {
  constexpr int CHUNKS = STEP / CHUNK_ELEMENTS;
  constexpr int ROW_BYTES = STEP * int(sizeof(E));
  constexpr int GROUP_STEPS = GEMM_GROUP / STEP;
  constexpr int OUTPUT_TILES = OUTPUTS / 16;
  constexpr int ROW_TILES = ROWS / 8;
  constexpr int WEIGHT_BYTES = OUTPUTS * STEP * int(sizeof(E));
  constexpr int STAGE_BYTES =
      WEIGHT_BYTES + (X == Operand::STAGED ? ROWS * STEP * int(sizeof(E)) : 0);
  constexpr int PART = ROWS * OUTPUTS;  // floats of one warp's sums
  constexpr int ITEMS = OUTPUTS * ROWS / THREADS;
  static_assert(GEMM_GROUP % STEP == 0 && OUTPUTS * ROWS % THREADS == 0, "whole shares");
  static_assert(ROW_TILES == 1 || ROW_TILES % 2 == 0, "ldmatrix.x4 reads two tiles of x");

  extern __shared__ __align__(256) uint8_t s_ring[];  // k steps flip bits 5 to 7 of an address
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const uint32_t s_own = shared_address(s_ring) + warp * STAGES * STAGE_BYTES;
  float* s_part = reinterpret_cast<float*>(s_ring + WARPS * STAGES * STAGE_BYTES);
  const int n0 = blockIdx.x * OUTPUTS;
  const E* x = static_cast<const E*>(p.x);
  const E* weight = static_cast<const E*>(p.weight) + int64_t(n0) * p.K;

  const int groups = (p.K + GEMM_GROUP - 1) / GEMM_GROUP;
  const int rounds = (groups + WARPS - 1) / WARPS;
  const int steps = rounds * GROUP_STEPS;
  const auto k_of = [&](int step) {
    return (step / GROUP_STEPS * WARPS + warp) * GEMM_GROUP + step % GROUP_STEPS * STEP;
  };
  const auto start_copies = [&](int step) {
    const int k = k_of(step);
    if (k >= p.K) return;  // a group that K does not reach: its stage is not read
    const uint32_t s_stage = s_own + step % STAGES * STAGE_BYTES;
    if (n0 + OUTPUTS <= p.N && k + STEP <= p.K) {
      load_whole_tile<E, OUTPUTS, CHUNKS, WARP>(s_stage, weight + k, p.K, lane);
    } else {
      load_tile<E, OUTPUTS, CHUNKS, WARP>(s_stage, weight + k, p.K, p.N - n0, p.K - k, lane);
    }
    if constexpr (X == Operand::STAGED) {
      load_tile<E, ROWS, CHUNKS, WARP>(s_stage + WEIGHT_BYTES, x + k, p.K, p.M, p.K - k, lane);
    }
  };

#pragma unroll 1
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) start_copies(step);
    cp_async_commit();
  }

  const LaneAddress a = lane_of_a(lane, 0);
  const uint32_t s_weight_lane = s_own + swizzled<CHUNKS>(a.row, a.chunk);
  // Lanes whose row of x is past M take the last: their columns of the sum are not stored.
  const E* x_lane = x + int64_t(min(fragment_row(lane), p.M - 1)) * p.K + fragment_column(lane);
  uint32_t s_x_lane = s_own + WEIGHT_BYTES;
  if constexpr (ROW_TILES == 1) {
    s_x_lane += swizzled<CHUNKS>(lane & 7, (lane >> 3) & 1);
  } else {
    const LaneAddress b = lane_of_b2(lane, 0);
    s_x_lane += swizzled<CHUNKS>(b.row, b.chunk);
  }

  float r_total[ITEMS] = {};
  for (int round = 0; round < rounds; ++round) {
    FragmentC r_sum[OUTPUT_TILES][ROW_TILES] = {};
#pragma unroll
    for (int part = 0; part < GROUP_STEPS; ++part) {
      const int step = round * GROUP_STEPS + part;
      cp_async_wait<STAGES - 2>();  // orders: this lane's copies of `step` before the next line
      __syncwarp();  // orders: the warp's copies of `step` before its reads, and its reads of
                     // step - 1 before the copies into their stage
      if (step + STAGES - 1 < steps) start_copies(step + STAGES - 1);
      cp_async_commit();  // empty groups too: the wait counts groups
      const int k = k_of(step);
      if (k >= p.K) continue;  // the same for the whole warp
      const uint32_t stage = step % STAGES * STAGE_BYTES;
      const auto multiply = [&](int k_step) {
        uint32_t r_x[ROW_TILES][2];
        if constexpr (X == Operand::DIRECT) {
          static_assert(ROW_TILES == 1, "a lane has one row of x");
          const E* at = x_lane + k + k_step * MMA_K;
          r_x[0][0] = *reinterpret_cast<const uint32_t*>(at);
          r_x[0][1] = *reinterpret_cast<const uint32_t*>(at + 8);
        } else {
          read_x<ROW_TILES, ROW_BYTES>(r_x, s_x_lane + stage, k_step);
        }
        for_fixed<OUTPUT_TILES>([&](auto i) {
          uint32_t r_weight[4];
          ldmatrix_x4_at<i.value * 16 * ROW_BYTES>(r_weight, s_weight_lane + stage ^ 32 * k_step);
#pragma unroll
          for (int j = 0; j < ROW_TILES; ++j) {
            mma<E>(r_sum[i.value][j], r_weight, r_x[j][0], r_x[j][1]);
          }
        });
      };
      if (k + STEP <= p.K) {
#pragma unroll
        for (int k_step = 0; k_step < STEP / MMA_K; ++k_step) multiply(k_step);
      } else {
        // Only what K has: x is not zero past its end.
#pragma unroll 1
        for (int k_step = 0; k_step < (p.K - k) / MMA_K; ++k_step) multiply(k_step);
      }
    }

    float* s_set = s_part + round % 2 * WARPS * PART;
#pragma unroll
    for (int i = 0; i < OUTPUT_TILES; ++i) {
#pragma unroll
      for (int j = 0; j < ROW_TILES; ++j) {
#pragma unroll
        for (int q = 0; q < 4; ++q) {
          const int output = 16 * i + fragment_row(lane) + q / 2 * 8;
          const int row = 8 * j + fragment_column(lane) + q % 2;
          s_set[warp * PART + part_place<OUTPUTS>(row, output)] = r_sum[i][j].lane[q];
        }
      }
    }
    __syncthreads();  // orders: all parts of this round before their reads; and the reads of the
                      // round before last, of the same set, before the next round's writes
    const int live = min(WARPS, groups - round * WARPS);  // warps that had a group
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      const int id = threadIdx.x + item * THREADS;
      const int at = part_place<OUTPUTS>(id / OUTPUTS, id % OUTPUTS);
      if (live == WARPS) {
#pragma unroll
        for (int w = 0; w < WARPS; ++w) r_total[item] += s_set[w * PART + at];
      } else {
        for (int w = 0; w < live; ++w) r_total[item] += s_set[w * PART + at];
      }
    }
  }

#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    const int id = threadIdx.x + item * THREADS;
    const int row = id / OUTPUTS;
    const int n = n0 + id % OUTPUTS;
    if (row >= p.M || n >= p.N) continue;
    const int64_t at = int64_t(row) * p.N + n;
    const float add = p.bias == nullptr ? 0.0f : float(static_cast<const E*>(p.bias)[n]);
    float g = activated<E>(rounded<E>(r_total[item] + add), p.epilogue);
    if (p.epilogue == GEMM_LOGITS) {
      static_cast<float*>(p.y)[at] = g;
      continue;
    }
    E* y = static_cast<E*>(p.y);
    if (p.epilogue == GEMM_RESIDUAL) g += float(y[at]);
    y[at] = round_to<E>(g);
  }
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 4)
    gemv_bf16_r16n8_direct(const __grid_constant__ GemmParams p) {
  gemv<bf16, 16, 8, GEMV_R16N8_DIRECT_STAGES, GEMV_R16N8_DIRECT_STEP, Operand::DIRECT>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 4)
    gemv_f16_r16n8_direct(const __grid_constant__ GemmParams p) {
  gemv<f16, 16, 8, GEMV_R16N8_DIRECT_STAGES, GEMV_R16N8_DIRECT_STEP, Operand::DIRECT>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_bf16_r64n8_direct(const __grid_constant__ GemmParams p) {
  gemv<bf16, 64, 8, GEMV_R64N8_DIRECT_STAGES, GEMV_R64N8_DIRECT_STEP, Operand::DIRECT>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_f16_r64n8_direct(const __grid_constant__ GemmParams p) {
  gemv<f16, 64, 8, GEMV_R64N8_DIRECT_STAGES, GEMV_R64N8_DIRECT_STEP, Operand::DIRECT>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_bf16_r16n8(const __grid_constant__ GemmParams p) {
  gemv<bf16, 16, 8, GEMV_R16N8_STAGES, GEMV_R16N8_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_f16_r16n8(const __grid_constant__ GemmParams p) {
  gemv<f16, 16, 8, GEMV_R16N8_STAGES, GEMV_R16N8_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_bf16_r32n8(const __grid_constant__ GemmParams p) {
  gemv<bf16, 32, 8, GEMV_R32N8_STAGES, GEMV_R32N8_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_f16_r32n8(const __grid_constant__ GemmParams p) {
  gemv<f16, 32, 8, GEMV_R32N8_STAGES, GEMV_R32N8_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_bf16_r32n16(const __grid_constant__ GemmParams p) {
  gemv<bf16, 32, 16, GEMV_R32N16_STAGES, GEMV_R32N16_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 2)
    gemv_f16_r32n16(const __grid_constant__ GemmParams p) {
  gemv<f16, 32, 16, GEMV_R32N16_STAGES, GEMV_R32N16_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_bf16_r64n16(const __grid_constant__ GemmParams p) {
  gemv<bf16, 64, 16, GEMV_R64N16_STAGES, GEMV_R64N16_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_f16_r64n16(const __grid_constant__ GemmParams p) {
  gemv<f16, 64, 16, GEMV_R64N16_STAGES, GEMV_R64N16_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_bf16_r64n32(const __grid_constant__ GemmParams p) {
  gemv<bf16, 64, 32, GEMV_R64N32_STAGES, GEMV_R64N32_STEP, Operand::STAGED>(p);
}

extern "C" __global__ void __launch_bounds__(GEMV_THREADS, 1)
    gemv_f16_r64n32(const __grid_constant__ GemmParams p) {
  gemv<f16, 64, 32, GEMV_R64N32_STAGES, GEMV_R64N32_STEP, Operand::STAGED>(p);
}
