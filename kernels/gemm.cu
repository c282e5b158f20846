// Matrix times transposed weight on tensor cores: the linear layers of many rows.
//
// What     y[m,n] = epilogue(sum_k x[m,k] * weight[n,k]); the epilogues are in params.h, their
//          rounding points in docs/spec.md 15.1. Few rows: gemv.cu, with the same bits.
// Shapes   x [M, K], weight [N, K], bias [N] or null, y [M, N], dense, 16-byte aligned. Any M > 0,
//          N % 8 == 0, K % 16 == 0. GEMM_RESIDUAL reads y; no other pointer may alias it.
// Mapping  A block owns a TILE_M x TILE_N tile of y, a warp a WARP_M x WARP_N part of it. The grid
//          is one-dimensional: 8 tiles down, then one across, so that the blocks that run together
//          share rows of x and of weight in L2.
//          Shared memory, S = STAGES:
//            0                          x       S stages of TILE_M rows of 128 bytes (64 k)
//            S * TILE_M * 128           weight  S stages of TILE_N rows of 128 bytes
//          swizzled as tile.cuh says; after the main loop, from 0 on, each warp's part of y in E.
//          Pipeline: step s is copied while steps s - S + 1 .. s - 1 are multiplied;
//            wait for step s | barrier | start copies of s + S - 1 | 4 x (ldmatrix, mma) | fold
// Numerics N1: f32 sums of one mma chain for each group of 256 k, ascending, from zero; group sums
//          are added in ascending order onto +0. Rows and columns past M, N and K are zeros, which
//          change no bit. The tile shape changes no bit. Tolerance class C.
// Floor    bytes 2*(M*K + N*K + M*N), plus 2*M*N for the residual; mma M*N*K / 2048 with M, N, K
//          rounded up to the tile. Limited by mma above about 200 rows, by bytes below.

#include "epilogue.cuh"
#include "mma.cuh"
#include "params.h"
#include "tile.cuh"
#include "warp.cuh"

constexpr int TILE_K = GEMM_TILE_K;
constexpr int CHUNKS = TILE_K / CHUNK_ELEMENTS;  // 16-byte chunks of a row of a stage
constexpr int MMA_K = 16;
constexpr int GROUP_STEPS = GEMM_GROUP / TILE_K;  // steps of one sum of N1
constexpr int RASTER_ROWS = 8;                    // tiles that the grid walks down before across
static_assert(GEMM_GROUP % TILE_K == 0, "a group ends at the end of a step");

struct TileOrigin {
  int m, n;
};

// The tile of this block.
template <int TILE_M, int TILE_N>
__device__ __forceinline__ TileOrigin tile_origin(int M, int N) {
  const int tiles_m = (M + TILE_M - 1) / TILE_M;
  const int tiles_n = (N + TILE_N - 1) / TILE_N;
  const int block = blockIdx.x;
  const int band = block / (RASTER_ROWS * tiles_n);
  const int within = block % (RASTER_ROWS * tiles_n);
  const int rows = min(RASTER_ROWS, tiles_m - band * RASTER_ROWS);
  return {(band * RASTER_ROWS + within % rows) * TILE_M, within / rows * TILE_N};
}

// The k16 steps of a stage: sum += x part * weight part. `s_x` and `s_weight` are the lane's first
// addresses, chunk 0 or 1 of its row: k steps flip bits 5 and 6 of them, which hold the rest of the
// swizzled chunk, and parts are whole numbers of rows further.
template <typename E, int PARTS_M, int PARTS_N>
__device__ __forceinline__ void multiply(FragmentC (&r_sum)[PARTS_M][PARTS_N], uint32_t s_x,
                                         uint32_t s_weight) {
  constexpr int PART_BYTES = 16 * CHUNKS * 16;  // 16 rows
#pragma unroll
  for (int k_step = 0; k_step < TILE_K / MMA_K; ++k_step) {
    uint32_t r_x[PARTS_M][4];
    uint32_t r_weight[PARTS_N / 2][4];  // two columns of parts in each
    for_fixed<PARTS_M>(
        [&](auto i) { ldmatrix_x4_at<i.value * PART_BYTES>(r_x[i.value], s_x ^ 32 * k_step); });
    for_fixed<PARTS_N / 2>([&](auto j) {
      ldmatrix_x4_at<j.value * PART_BYTES>(r_weight[j.value], s_weight ^ 32 * k_step);
    });
#pragma unroll
    for (int i = 0; i < PARTS_M; ++i) {
#pragma unroll
      for (int j = 0; j < PARTS_N; ++j) {
        const uint32_t* w = &r_weight[j / 2][2 * (j % 2)];
        mma<E>(r_sum[i][j], r_x[i], w[0], w[1]);
      }
    }
  }
}

// Writes a warp's part of y, which lies in its own region of shared memory at `s_out`.
template <typename E, int WARP_M, int WARP_N>
__device__ __forceinline__ void store_part(const GemmParams& p, uint8_t* s_out, int m0, int n0) {
  constexpr int ROW_CHUNKS = WARP_N / CHUNK_ELEMENTS;
  constexpr int ITEMS = WARP_M * ROW_CHUNKS / WARP;  // chunks of a lane
  const int lane = threadIdx.x % WARP;
  const auto chunk_at = [&](int item) {
    const int id = lane + item * WARP;
    return reinterpret_cast<E*>(s_out + swizzled<ROW_CHUNKS>(id / ROW_CHUNKS, id % ROW_CHUNKS));
  };
  const auto inside = [&](int item) {
    const int id = lane + item * WARP;
    return m0 + id / ROW_CHUNKS < p.M && n0 + id % ROW_CHUNKS * CHUNK_ELEMENTS < p.N;
  };
  const auto offset = [&](int item) {
    const int id = lane + item * WARP;
    return int64_t(m0 + id / ROW_CHUNKS) * p.N + n0 + id % ROW_CHUNKS * CHUNK_ELEMENTS;
  };

  if (has_activation(p.epilogue)) {
    // Not unrolled: erf and exp for every element of the tile would be the whole kernel.
#pragma unroll 1
    for (int item = 0; item < ITEMS; ++item) {
      Vec8<E> g = load8(chunk_at(item));
#pragma unroll
      for (int i = 0; i < CHUNK_ELEMENTS; ++i) {
        g.lane[i] = round_to<E>(activated<E>(float(g.lane[i]), p.epilogue));
      }
      store8(chunk_at(item), g);  // read again below by this lane alone
    }
  }

  if (p.epilogue == GEMM_LOGITS) {
    float* y = static_cast<float*>(p.y);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      if (inside(item)) store8_widened(y + offset(item), load8(chunk_at(item)));
    }
    return;
  }

  E* y = static_cast<E*>(p.y);
  if (p.epilogue == GEMM_RESIDUAL) {
    // All loads before the first store: the compiler cannot know that they do not overlap.
    Vec8<E> r_old[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      if (inside(item)) r_old[item] = load8(y + offset(item));
    }
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
      if (inside(item)) store8(y + offset(item), added(load8(chunk_at(item)), r_old[item]));
    }
    return;
  }
#pragma unroll
  for (int item = 0; item < ITEMS; ++item) {
    if (inside(item)) store8(y + offset(item), load8(chunk_at(item)));
  }
}

template <typename E, int TILE_M, int TILE_N, int WARP_M, int WARP_N, int STAGES>
__device__ __forceinline__ void gemm(const GemmParams& p) {
  constexpr int WARPS_N = TILE_N / WARP_N;
  constexpr int THREADS = TILE_M / WARP_M * WARPS_N * WARP;
  constexpr int PARTS_M = WARP_M / 16;
  constexpr int PARTS_N = WARP_N / 8;
  constexpr int X_BYTES = TILE_M * TILE_K * int(sizeof(E));
  constexpr int WEIGHT_BYTES = TILE_N * TILE_K * int(sizeof(E));
  static_assert(WARP_N == 32 || WARP_N % 64 == 0, "a row width that tile.cuh can swizzle");
  static_assert(TILE_N * int(sizeof(E)) <= STAGES * TILE_K * int(sizeof(E)),
                "the tile of y fits the stages of x");

  extern __shared__ __align__(128) uint8_t s_stages[];
  const uint32_t s_x = shared_address(s_stages);
  const uint32_t s_weight = s_x + STAGES * X_BYTES;
  const int lane = threadIdx.x % WARP;
  const int warp = threadIdx.x / WARP;
  const int warp_m = warp / WARPS_N * WARP_M;
  const int warp_n = warp % WARPS_N * WARP_N;
  const TileOrigin tile = tile_origin<TILE_M, TILE_N>(p.M, p.N);
  const E* x = static_cast<const E*>(p.x) + int64_t(tile.m) * p.K;
  const E* weight = static_cast<const E*>(p.weight) + int64_t(tile.n) * p.K;

  const int steps = (p.K + TILE_K - 1) / TILE_K;
  const auto start_copies = [&](int step) {
    const int k = step * TILE_K;
    const uint32_t s_x_stage = s_x + step % STAGES * X_BYTES;
    const uint32_t s_weight_stage = s_weight + step % STAGES * WEIGHT_BYTES;
    const bool whole_k = k + TILE_K <= p.K;
    if (whole_k && tile.m + TILE_M <= p.M) {
      load_whole_tile<E, TILE_M, CHUNKS, THREADS>(s_x_stage, x + k, p.K, threadIdx.x);
    } else {
      load_tile<E, TILE_M, CHUNKS, THREADS>(s_x_stage, x + k, p.K, p.M - tile.m, p.K - k,
                                            threadIdx.x);
    }
    if (whole_k && tile.n + TILE_N <= p.N) {
      load_whole_tile<E, TILE_N, CHUNKS, THREADS>(s_weight_stage, weight + k, p.K, threadIdx.x);
    } else {
      load_tile<E, TILE_N, CHUNKS, THREADS>(s_weight_stage, weight + k, p.K, p.N - tile.n, p.K - k,
                                            threadIdx.x);
    }
  };

#pragma unroll 1
  for (int step = 0; step < STAGES - 1; ++step) {
    if (step < steps) start_copies(step);
    cp_async_commit();
  }

  const LaneAddress a = lane_of_a(lane, 0);
  const LaneAddress b = lane_of_b2(lane, 0);
  const uint32_t s_x_lane = s_x + swizzled<CHUNKS>(warp_m + a.row, a.chunk);
  const uint32_t s_weight_lane = s_weight + swizzled<CHUNKS>(warp_n + b.row, b.chunk);
  FragmentC r_sum[PARTS_M][PARTS_N] = {};    // of the group
  FragmentC r_total[PARTS_M][PARTS_N] = {};  // of the groups before
  for (int step = 0; step < steps; ++step) {
    cp_async_wait<STAGES - 2>();  // orders: this thread's copies of `step` before the barrier
    __syncthreads();  // orders: all copies of `step` before its reads, and the reads of step - 1
                      // before the copies into their stage
    if (step + STAGES - 1 < steps) start_copies(step + STAGES - 1);
    cp_async_commit();  // empty groups too: the wait counts groups

    const int stage = step % STAGES;
    multiply<E>(r_sum, s_x_lane + stage * X_BYTES, s_weight_lane + stage * WEIGHT_BYTES);

    if ((step + 1) % GROUP_STEPS == 0 || step + 1 == steps) {
#pragma unroll
      for (int i = 0; i < PARTS_M; ++i) {
#pragma unroll
        for (int j = 0; j < PARTS_N; ++j) {
#pragma unroll
          for (int q = 0; q < 4; ++q) r_total[i][j].lane[q] += r_sum[i][j].lane[q];
          r_sum[i][j] = {};
        }
      }
    }
  }

  __syncthreads();  // orders: every warp's reads of the last stages before y overwrites them
  uint8_t* s_out = s_stages + warp * (WARP_M * WARP_N * int(sizeof(E)));
  const E* bias = static_cast<const E*>(p.bias);
#pragma unroll
  for (int j = 0; j < PARTS_N; ++j) {
    const int n = tile.n + warp_n + 8 * j + fragment_column(lane);
    float2 add = make_float2(0.0f, 0.0f);
    if (bias != nullptr && n < p.N) {
      add = unpack2<E>(*reinterpret_cast<const uint32_t*>(bias + n));
    }
#pragma unroll
    for (int i = 0; i < PARTS_M; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float* sum = &r_total[i][j].lane[2 * half];
        const int row = 16 * i + 8 * half + fragment_row(lane);
        uint8_t* at = s_out + swizzled<WARP_N / CHUNK_ELEMENTS>(row, j) + 4 * (lane % 4);
        *reinterpret_cast<uint32_t*>(at) = pack2<E>(sum[0] + add.x, sum[1] + add.y);
      }
    }
  }
  __syncwarp();  // orders: the lanes' writes of s_out before the lanes' reads below
  store_part<E, WARP_M, WARP_N>(p, s_out, tile.m + warp_m, tile.n + warp_n);
}

extern "C" __global__ void __launch_bounds__(GEMM_128X128_THREADS, 1)
    gemm_bf16_128x128(const __grid_constant__ GemmParams p) {
  static_assert(128 / 64 * (128 / 32) * WARP == GEMM_128X128_THREADS, "one warp for each part");
  gemm<bf16, 128, 128, 64, 32, GEMM_128X128_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_128X128_THREADS, 1)
    gemm_f16_128x128(const __grid_constant__ GemmParams p) {
  gemm<f16, 128, 128, 64, 32, GEMM_128X128_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_128X64_THREADS, 2)
    gemm_bf16_128x64(const __grid_constant__ GemmParams p) {
  static_assert(128 / 32 * (64 / 32) * WARP == GEMM_128X64_THREADS, "one warp for each part");
  gemm<bf16, 128, 64, 32, 32, GEMM_128X64_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_128X64_THREADS, 2)
    gemm_f16_128x64(const __grid_constant__ GemmParams p) {
  gemm<f16, 128, 64, 32, 32, GEMM_128X64_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_64X64_THREADS, 2)
    gemm_bf16_64x64(const __grid_constant__ GemmParams p) {
  static_assert(64 / 32 * (64 / 32) * WARP == GEMM_64X64_THREADS, "one warp for each part");
  gemm<bf16, 64, 64, 32, 32, GEMM_64X64_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_64X64_THREADS, 2)
    gemm_f16_64x64(const __grid_constant__ GemmParams p) {
  gemm<f16, 64, 64, 32, 32, GEMM_64X64_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_32X64_THREADS, 3)
    gemm_bf16_32x64(const __grid_constant__ GemmParams p) {
  static_assert(32 / 16 * (64 / 32) * WARP == GEMM_32X64_THREADS, "one warp for each part");
  gemm<bf16, 32, 64, 16, 32, GEMM_32X64_STAGES>(p);
}

extern "C" __global__ void __launch_bounds__(GEMM_32X64_THREADS, 3)
    gemm_f16_32x64(const __grid_constant__ GemmParams p) {
  gemm<f16, 32, 64, 16, 32, GEMM_32X64_STAGES>(p);
}
