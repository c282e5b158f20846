// One plain struct for each kernel, and the constants that both sides must know. nvcc and bindgen
// read this header: it is the only contract between the kernels and src/ops. Dimension letters are
// those of kernels/README.md; pointers are device memory on a 16-byte boundary; matrices are
// row-major and dense unless a stride says otherwise; E is the element type of the entry point.
#pragma once
#include <stdint.h>

// kernels/embed.cu
enum { EMBED_THREADS = 128, EMBED_ROWS = 4 };  // block size; rows of a block, one for each warp
enum { EMBED_STATUS_RANGE = 1 };               // status bit: an id or an image row out of range
typedef struct EmbedParams {
  const void* table;        // E [V, C]
  const void* image_rows;   // E [I, C]; null when I is 0
  const int32_t* ids;       // [T]; null: a row without source is zero
  const int32_t* source;    // [T]: a row of image_rows, or -1
  const int32_t* sequence;  // [T]: place of the row's status; null: the row's own number
  void* y;                  // E [T, C]
  uint32_t* status;         // [B]
  int32_t T, C, V, I, B, pad;
} EmbedParams;

// kernels/gemm.cu, kernels/gemv.cu
enum { GEMM_GROUP = 256 };  // K elements of a group: N1 adds the sums of groups in ascending order
enum {
  GEMM_STORE = 0,       // y = E(sum + bias)
  GEMM_RESIDUAL = 1,    // y = E(E(sum + bias) + y)
  GEMM_QUICK_GELU = 2,  // y = QuickGELU(E(sum + bias))
  GEMM_GELU_ERF = 3,    // y = GELU(E(sum + bias))
  GEMM_LOGITS = 4       // y f32 = E(sum + bias)
};
enum { GEMM_TILE_K = 64 };
enum { GEMM_128X128_THREADS = 256, GEMM_128X128_STAGES = 3 };
enum { GEMM_128X64_THREADS = 256, GEMM_128X64_STAGES = 3 };
enum { GEMM_64X64_THREADS = 128, GEMM_64X64_STAGES = 4 };
enum { GEMM_32X64_THREADS = 128, GEMM_32X64_STAGES = 4 };
enum { GEMV_WARPS = 4, GEMV_THREADS = 128 };
enum { GEMV_PART_PAD = 4 };  // floats between the rows of partial sums: no bank conflict
enum { GEMV_R16N8_DIRECT_STAGES = 3, GEMV_R16N8_DIRECT_STEP = 128 };  // K elements of a stage
enum { GEMV_R16N8_STAGES = 3, GEMV_R16N8_STEP = 128 };
enum { GEMV_R32N8_STAGES = 2, GEMV_R32N8_STEP = 128 };
enum { GEMV_R32N16_STAGES = 3, GEMV_R32N16_STEP = 64 };
enum { GEMV_R64N16_STAGES = 3, GEMV_R64N16_STEP = 64 };
enum { GEMV_R64N32_STAGES = 2, GEMV_R64N32_STEP = 64 };
typedef struct GemmParams {
  const void* x;       // E [M, K]
  const void* weight;  // E [N, K]
  const void* bias;    // E [N] or null
  void* y;             // E [M, N]; f32 [M, N] for GEMM_LOGITS
  int32_t M, N, K, epilogue;
} GemmParams;

// kernels/patch_embed.cu
enum { PATCHIFY_THREADS = 256, PATCHIFY_ROWS = 8 };  // block size; patch rows of a block
enum { PATCHIFY_COLOURS = 3 };
typedef struct PatchifyParams {
  const uint8_t* pixels;  // [frames, 3, gh * patch, pitch]
  const void* table;      // E [3, 256], or null: E(fmaf(pixel, scale, shift))
  void* y;                // E [gt * gh * gw, K]
  int64_t pitch;          // bytes from one pixel row to the next
  float scale[3], shift[3];
  int32_t frames, gt, gh, gw;
  int32_t patch, temporal, merge, K;
} PatchifyParams;

// kernels/rms_norm.cu
enum { RMS_NORM_THREADS = 256, RMS_NORM_VEC = 8 };  // block size; elements in one 16-byte access
typedef struct RmsNormParams {
  const void* x;       // E [T, C]: the input, or what is added to the residual
  void* residual;      // E [T, C], rewritten with the sum; null: none
  const void* weight;  // E [C]
  void* y;             // E [T, C]
  int32_t T, C;
  float eps;
  int32_t pad;
} RmsNormParams;

// kernels/sample.cu
enum { SAMPLE_THREADS = 1024 };
enum { SAMPLE_STATUS_NOT_FINITE = 2 };  // status bit: a NaN, a +inf, or no logit above -inf
enum { SAMPLE_WANTS_LOGPROB = 1 };      // flag of SampleSettings
// What one sequence asks of the sampler. 64 bytes, no padding.
typedef struct SampleSettings {
  uint64_t seed;             // key of the random draw
  uint32_t step, choice;     // counter of the random draw: number of the token, of the answer
  int32_t slot;              // row of bitmap and counts; -1: no history is read or kept
  int32_t top_k;             // 0: off; 1: greedy
  float temperature;         // 0: greedy
  float top_p;               // 1: off
  float min_p;               // 0: off
  float repetition_penalty;  // 1: off
  float presence_penalty;    // 0: off
  float frequency_penalty;   // 0: off
  uint32_t flags;
  uint32_t reserved[3];
} SampleSettings;
// What comes back for one sequence.
typedef struct SampleResult {
  int32_t token;    // 0 when a status bit is set
  uint32_t status;  // bits of the step's status and SAMPLE_STATUS_NOT_FINITE
  float logprob;    // of the token under the unedited logits, if asked for, else 0
  uint32_t reserved;
} SampleResult;
typedef struct SampleParams {
  const float* logits;             // [B, ld]
  const SampleSettings* settings;  // [B]
  uint32_t* bitmap;                // [slots, ceil(V / 32)]: tokens of prompt and answer
  uint16_t* counts;                // [slots, V]: how often the answer has each token
  const uint32_t* status;          // [B]: what earlier kernels of the step found
  SampleResult* result;            // [B]
  int64_t ld;                      // a multiple of 4
  int32_t B, V, slots, pad;
} SampleParams;

// kernels/silu_mul.cu
enum { SILU_MUL_THREADS = 256, SILU_MUL_VEC = 8 };  // block size; elements in one 16-byte access
typedef struct SiluMulParams {
  const void* gate_up;  // E [T, 2F]: gate, then up
  void* y;              // E [T, F]
  int32_t T, F;
} SiluMulParams;
