// One plain struct for each kernel, and the constants that both sides must know. nvcc and bindgen
// read this header: it is the only contract between the kernels and src/ops. Dimension letters are
// those of kernels/README.md; pointers are device memory on a 16-byte boundary; matrices are
// row-major and dense unless a stride says otherwise; E is the element type of the entry point.
#pragma once
#include <stdint.h>

// kernels/include/pages.cuh, kernels/include/attn.cuh
// P: tokens in a page, which is the key tile of the attention kernels too (N2).
enum { PAGE_TOKENS = 64 };

// Where the keys and values of one layer lie in the pool [page][L][2][G][P][D], in elements.
typedef struct KvStrides {
  int64_t page;    // from a page to the next: L * 2 * G * P * D
  int64_t layer;   // from the start of a page to the layer of the launch
  int64_t values;  // from a layer's keys to its values: G * P * D
  int64_t head;    // from a head to the next: P * D
} KvStrides;

// Work of one block of an attention kernel; seq -1 is no work.
typedef struct WorkItem {
  int32_t seq;     // sequence of the step, or frame
  int32_t tile;    // query tile (vision, prefill) or key segment (decode)
  int32_t kv_len;  // keys of the sequence, those of this step included
  int32_t pad;
} WorkItem;

// kernels/activate.cu
enum { ACTIVATE_THREADS = 256, ACTIVATE_VEC = 8 };  // block size; elements in one access
enum {
  ACTIVATE_QUICK_GELU = 0,
  ACTIVATE_GELU = 1,
  ACTIVATE_GELU_TANH = 2,
  ACTIVATE_GELU_10 = 3,
  ACTIVATE_SILU = 4,
  ACTIVATE_RELU = 5,
  ACTIVATE_RELU2 = 6,
  ACTIVATE_RELU6 = 7,
  ACTIVATE_LEAKY_RELU = 8,
  ACTIVATE_SIGMOID = 9,
  ACTIVATE_TANH = 10,
  ACTIVATE_MISH = 11
};
typedef struct ActivateParams {
  void* y;  // [n]
  int64_t n;
  int32_t kind;
  int32_t pad;
} ActivateParams;

// kernels/attn_decode.cu
// Block size; keys in a segment (N2); query heads that a block serves.
enum { ATTN_DECODE_THREADS = 128, ATTN_DECODE_SEGMENT = 256, ATTN_DECODE_HEADS = 8 };
// Rows of D elements in dynamic shared memory: two stages of keys and values.
enum { ATTN_DECODE_SHARED_ROWS = 2 * 2 * PAGE_TOKENS };
typedef struct AttnDecodeParams {
  const void *q, *pool;       // [T, ld_q]; pages
  const int32_t* cu_rows;     // [B + 1], first row of each sequence
  const int32_t* page_table;  // [B, ld_pages]
  const WorkItem* work;       // one for each block of grid x
  void* o;                    // [T, ld_o]
  float *part, *part_ml;      // [B, H, max_segments, D]; [B, H, max_segments, 2]
  uint32_t* counter;          // [B, grid y], zero before and after a launch
  int64_t ld_q, ld_o;
  KvStrides kv;
  int32_t H, G, ld_pages, max_segments;
  int32_t window;  // keys that a row sees, itself included; INT32_MAX: all
  float scale;     // log2(e) / sqrt(D); f32: 1 / sqrt(D)
} AttnDecodeParams;

// kernels/attn_f32.cu
// Block size; query rows of a block of the vision and prefill forms; the widest head.
enum { ATTN_F32_THREADS = 128, ATTN_F32_TILE = 16, ATTN_F32_MAX_D = 128 };
// Blocks of grid z: they share a work item's 64 query rows.
enum { ATTN_F32_SPLIT = 4 };

// kernels/attn_prefill.cu
// Block size; query rows of a block.
enum { ATTN_PREFILL_THREADS = 128, ATTN_PREFILL_TILE = 64 };
// Rows of D elements in dynamic shared memory: queries, two stages of keys and values.
enum { ATTN_PREFILL_SHARED_ROWS = ATTN_PREFILL_TILE + 2 * 2 * PAGE_TOKENS };
typedef struct AttnPrefillParams {
  const void *q, *pool;       // [T, ld_q]; pages
  const int32_t* cu_rows;     // [B + 1], first row of each sequence
  const int32_t* page_table;  // [B, ld_pages]
  const WorkItem* work;       // one for each block of grid x
  void* o;                    // [T, ld_o]
  int64_t ld_q, ld_o;
  KvStrides kv;
  int32_t H, G, ld_pages;
  int32_t window;  // keys that a row sees, itself included; INT32_MAX: all
  float scale;     // log2(e) / sqrt(D); f32: 1 / sqrt(D)
  int32_t pad;
} AttnPrefillParams;

// kernels/attn_probs.cu
// Block size.
enum { ATTN_PROBS_THREADS = 128 };
// A row whose weights are wanted.
typedef struct ProbsItem {
  int32_t seq;      // sequence of the step
  int32_t row;      // of q
  int32_t visible;  // keys up to the row's own
  int32_t pad;
} ProbsItem;
typedef struct AttnProbsParams {
  const void *q, *pool;       // [T, ld_q]; pages
  const int32_t* page_table;  // [B, ld_pages]
  const ProbsItem* work;      // one for each block of grid x
  float* p;                   // [items, H, ld_p]
  int64_t ld_q;
  KvStrides kv;
  int32_t H, G, D, ld_pages, ld_p;
  int32_t window;  // keys that a row sees, itself included; INT32_MAX: all
  float scale;     // 1 / sqrt(D)
  int32_t pad;
} AttnProbsParams;

// kernels/attn_vision.cu
// Block size; query rows of a block; keys of a tile.
enum { ATTN_VISION_THREADS = 128, ATTN_VISION_TILE = 64, ATTN_VISION_KEYS = 64 };
// Rows of D elements in dynamic shared memory: queries, two stages of keys and values.
enum { ATTN_VISION_SHARED_ROWS = ATTN_VISION_TILE + 2 * 2 * ATTN_VISION_KEYS };
typedef struct AttnVisionParams {
  const void* qkv;         // [R, ld_qkv]: queries [H, D], keys [H, D], values [H, D]
  const int32_t* cu_rows;  // [frames + 1], first row of each frame
  const WorkItem* work;    // one for each block of grid x
  void* o;                 // [R, ld_o]
  int32_t ld_qkv, ld_o;    // 32 bits: the kernel has no register left for wider strides
  int32_t H;
  float scale;  // log2(e) / sqrt(D); f32: 1 / sqrt(D)
} AttnVisionParams;

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

// kernels/gemm.cu, kernels/gemv.cu, kernels/gemm_f32.cu
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
enum { GEMV_R16N8_DIRECT_STAGES = 3, GEMV_R16N8_DIRECT_STEP = 128 };  // K elements of a stage
enum { GEMV_R64N8_DIRECT_STAGES = 2, GEMV_R64N8_DIRECT_STEP = 128 };
enum { GEMV_R16N8_STAGES = 3, GEMV_R16N8_STEP = 128 };
enum { GEMV_R32N8_STAGES = 2, GEMV_R32N8_STEP = 128 };
enum { GEMV_R32N16_STAGES = 3, GEMV_R32N16_STEP = 64 };
enum { GEMV_R64N16_STAGES = 3, GEMV_R64N16_STEP = 64 };
enum { GEMV_R64N32_STAGES = 2, GEMV_R64N32_STEP = 64 };
enum { GEMM_F32_THREADS = 256, GEMM_F32_TILE_K = 16 };
typedef struct GemmParams {
  const void* x;       // E [M, K]
  const void* weight;  // E [N, K]
  const void* bias;    // E [N] or null
  void* y;             // E [M, N]; f32 [M, N] for GEMM_LOGITS
  int32_t M, N, K, epilogue;
} GemmParams;

// kernels/kv_append.cu
enum { KV_APPEND_THREADS = 256, KV_APPEND_VEC = 8 };  // block size; elements in one access
typedef struct KvAppendParams {
  const void* qkv;       // [T, ld_qkv]: queries [H, D], keys [G, D], values [G, D]
  const int32_t* slots;  // [T], page * P + place in the page; -1: skip the row
  void* pool;            // pages
  int64_t ld_qkv;
  KvStrides kv;
  int32_t T, H, G, D;
} KvAppendParams;

// kernels/kv_copy.cu
// Block size; bytes in one access; bytes of a page that a block copies.
enum { KV_COPY_THREADS = 256, KV_COPY_BYTES = 16, KV_COPY_BLOCK_BYTES = 65536 };
typedef struct KvCopyPagesParams {
  void* pool;                // pages
  const int32_t *src, *dst;  // one page number each for each block of grid x
  int64_t page_bytes;
} KvCopyPagesParams;

enum { KV_GATHER_THREADS = 256, KV_GATHER_VEC = 8 };  // block size; elements in one access
typedef struct KvGatherParams {
  const void* pool;      // pages
  const int32_t* pages;  // [ceil(S / P)], the pages of one sequence
  void *keys, *values;   // [S, G, D]
  KvStrides kv;
  int32_t S, G, D;
  int32_t pad;
} KvGatherParams;

// kernels/layer_norm.cu
enum { LAYER_NORM_THREADS = 256, LAYER_NORM_VEC = 8 };  // block size; elements in one access
typedef struct LayerNormParams {
  const void *x, *weight, *bias;  // [R, C]; [C]; [C]
  void* y;                        // [R, C]
  int32_t R, C;
  float eps;
  int32_t pad;
} LayerNormParams;

// kernels/mrope.cu
enum { MROPE_THREADS = 256, MROPE_VEC = 8 };  // block size; elements in one access
typedef struct MropeParams {
  const void* table;   // [rows of the table, D / 2, 2]: cos, sin
  const int32_t* ids;  // [3, T], rows of the table: time, height, width
  void* qkv;           // [T, ld_qkv]: queries [H, D], keys [G, D], others
  int64_t ld_qkv;
  int32_t T, H, G, D;
  int32_t time, height;  // frequencies that take the first component, the second; the rest: third
} MropeParams;

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
enum { RMS_NORM_THREADS = 256, RMS_NORM_VEC = 8 };  // block size; elements in one access
typedef struct RmsNormParams {
  const void* x;       // E [T, C]: the input, or what is added to the residual
  void* residual;      // E [T, C], rewritten with the sum; null: none
  const void* weight;  // E [C]
  void* y;             // E [T, C]
  int32_t T, C;
  float eps;
  int32_t pad;
} RmsNormParams;

// kernels/rope_vision.cu
enum { ROPE_VISION_THREADS = 256, ROPE_VISION_VEC = 8 };  // block size; elements in one access
typedef struct RopeVisionParams {
  const float* table;        // [positions, D / 4, 2]: cos, sin
  const int32_t* positions;  // [R, 2]: row and column of each patch
  void* qkv;                 // [R, ld_qkv]: queries [H, D], keys [H, D], others
  int64_t ld_qkv;
  int32_t R, H, D;
  int32_t pad;
} RopeVisionParams;

// kernels/sample.cu
enum { SAMPLE_THREADS = 1024 };
enum { SAMPLE_STATUS_NOT_FINITE = 2 };  // status bit: a NaN, a +inf, or no logit above -inf
enum {                                  // flags of SampleSettings
  SAMPLE_WANTS_LOGPROB = 1,             // of the token
  SAMPLE_EDITED = 2,                    // reads the scores that score_edits wrote
  SAMPLE_RENORMALIZES = 4,              // warp_scores: less the log-sum-exp
};
// What one sequence asks of the sampler. 80 bytes, no padding.
typedef struct SampleSettings {
  uint64_t seed;             // key of the random draw
  uint32_t step, choice;     // counter of the random draw: number of the token, of the answer
  int32_t row;               // row of logits and status
  int32_t slot;              // row of bitmap and counts; -1: no history is read or kept
  int32_t top_k;             // 0: off; 1: greedy
  int32_t min_keep;          // tokens that the filters leave at least
  float temperature;         // 0: greedy
  float top_p;               // 1: off
  float min_p;               // 0: off
  float typical_p;           // 1: off
  float epsilon;             // 0: off
  float eta;                 // 0: off
  float repetition_penalty;  // 1: off
  float presence_penalty;    // 0: off
  float frequency_penalty;   // 0: off
  uint32_t flags;
  uint32_t reserved[2];
} SampleSettings;
// What comes back for one sequence.
typedef struct SampleResult {
  int32_t token;    // 0 when a status bit is set
  uint32_t status;  // bits of the step's status and SAMPLE_STATUS_NOT_FINITE
  float logprob;    // of the token under the unedited logits, if asked for, else 0
  uint32_t pad;
} SampleResult;
typedef struct SampleParams {
  const float* logits;             // [rows, ld]
  const float* scores;             // [B, ld]: edited logits; null: none are
  const SampleSettings* settings;  // [B]
  uint32_t* bitmap;                // [slots, ceil(V / 32)]: tokens of prompt and answer
  uint16_t* counts;                // [slots, V]: how often the answer has each token
  const uint32_t* status;          // [rows]: what earlier kernels of the step found
  SampleResult* result;            // [B]
  float* out;                      // [B, ld]: what warp_scores writes; null for sample
  int64_t ld;                      // a multiple of 4
  int32_t B, V, slots, pad;
} SampleParams;

// kernels/score_edits.cu
enum {  // operations of a ScoreEdit
  SCORE_EDIT_ADD = 0,
  SCORE_EDIT_PENALTY = 1,
  SCORE_EDIT_SET = 2,
  SCORE_EDIT_DECAY = 3,
  SCORE_EDIT_FILL = 4,
  SCORE_EDIT_HISTORY = 5,
  SCORE_EDIT_CLEAN = 6,
  SCORE_EDIT_LOG_SOFTMAX = 7,
};
typedef struct ScoreEdit {
  int32_t op;
  int32_t first, count;  // entries of ids and values
  float value;
} ScoreEdit;
typedef struct ScoreEditsParams {
  const float* logits;             // [rows, ld]
  float* scores;                   // [B, ld]
  const SampleSettings* settings;  // [B]
  const int32_t* first;            // [B + 1]: edits of each sequence
  const ScoreEdit* edits;
  const int32_t* ids;
  const float* values;
  uint32_t* bitmap;  // [slots, ceil(V / 32)]
  uint16_t* counts;  // [slots, V]
  int64_t ld;
  int32_t B, V, slots, pad;
} ScoreEditsParams;

// kernels/silu_mul.cu
enum { SILU_MUL_THREADS = 256, SILU_MUL_VEC = 8 };  // block size; elements in one access
typedef struct SiluMulParams {
  const void* gate_up;  // E [T, 2F]: gate, then up
  void* y;              // E [T, F]
  int32_t T, F;
} SiluMulParams;

// kernels/top_scores.cu
enum {                        // flags of TopQuery
  TOP_SCORES_NORMALIZES = 1,  // values are log probabilities
  TOP_SCORES_PERTURBS = 2,    // ids are drawn without replacement
};
// What is asked about one row. 48 bytes, no padding.
typedef struct TopQuery {
  uint64_t seed;          // key of the perturbation
  uint32_t step, choice;  // counter of the perturbation
  int32_t row, n;
  int32_t target;  // id whose value is wanted, or -1
  float offset;    // is added to each score
  uint32_t flags, pad[3];
} TopQuery;
typedef struct TopSummary {
  float target;     // its value, else 0
  uint32_t status;  // SAMPLE_STATUS_NOT_FINITE: a score is NaN, no ids are written
} TopSummary;
typedef struct TopScoresParams {
  const float* scores;      // [rows, ld]
  const TopQuery* queries;  // [B]
  int32_t* ids;             // [B, N]
  float* values;            // [B, N]
  float* ranks;             // [B, N]
  TopSummary* summary;      // [B]
  int64_t ld;
  int32_t B, V, N, pad;
} TopScoresParams;
