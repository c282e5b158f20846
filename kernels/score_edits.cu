// Logits edited by what is known of a sequence: processors that look at its history.
//
// What     scores[b] = logits[row of b], then the edits of b one after another:
//            ADD          s[ids[i]] += values[i]
//            PENALTY      s[ids[i]] = s < 0 ? s*v : s/v
//            SET          s[ids[i]] = v
//            DECAY        s[ids[i]] += |s| * v
//            FILL         every s = v
//            HISTORY      every s by the penalties of its settings (sample.cu)
//            CLEAN        every s: NaN to 0, +inf and -inf to the largest and least finite number
//            LOG_SOFTMAX  every s -= log(sum(exp(s)))
//          A sequence without edits is not touched. (docs/spec.md 13.2, 13.3)
// Shapes   logits f32 [rows, ld], scores f32 [B, ld]; first i32 [B + 1] into edits; edits, ids and
//          values lists; ids of one edit are different and below V, others are passed over; bitmap,
//          counts as in sample.cu.
// Mapping  grid B, block 1024; a block owns a sequence, threads take ids or entries in turn, with a
//          barrier between edits.
// Numerics one rounding for each operation of the formulas, bit for bit; LOG_SOFTMAX sums in f32,
//          strided by thread, then butterflies: 2^-20 relative.
// Floor    bytes 8*V*B for sequences with edits.

#include <float.h>

#include "scores.cuh"

__device__ __forceinline__ float cleaned(float s) {
  if (s != s) return 0.0f;
  return fminf(fmaxf(s, -FLT_MAX), FLT_MAX);
}

// An edit of every score.
__device__ __forceinline__ float edited(float s, const ScoreEdit& edit, const History& history,
                                        int id) {
  if (edit.op == SCORE_EDIT_FILL) return edit.value;
  if (edit.op == SCORE_EDIT_HISTORY) return penalised(s, history, id);
  return cleaned(s);  // SCORE_EDIT_CLEAN
}

// An edit of listed scores.
__device__ __forceinline__ void edit_entries(const ScoreEditsParams& p, const ScoreEdit& edit,
                                             float* row) {
  for (int i = threadIdx.x; i < edit.count; i += THREADS) {
    const int id = p.ids[edit.first + i];
    if (id < 0 || id >= p.V) continue;
    const float s = row[id];
    if (edit.op == SCORE_EDIT_ADD) {
      row[id] = s + p.values[edit.first + i];
    } else if (edit.op == SCORE_EDIT_PENALTY) {
      row[id] = repeated(s, edit.value);
    } else if (edit.op == SCORE_EDIT_SET) {
      row[id] = edit.value;
    } else {  // SCORE_EDIT_DECAY
      row[id] = s + fabsf(s) * edit.value;
    }
  }
}

__device__ __forceinline__ void score_edits(const ScoreEditsParams& p) {
  __shared__ uint64_t s_max[WARPS];
  __shared__ float s_sum[WARPS];
  const int sequence = blockIdx.x;
  const int begin = p.first[sequence];
  const int end = p.first[sequence + 1];
  if (begin == end) return;
  const SampleSettings& settings = p.settings[sequence];
  const History history = history_of(settings, p.bitmap, p.counts, p.slots, p.V);
  const float* logits = p.logits + settings.row * p.ld;
  float* row = p.scores + sequence * p.ld;
  for (int id = threadIdx.x; id < p.V; id += THREADS) row[id] = logits[id];
  for (int at = begin; at < end; ++at) {
    __syncthreads();  // orders: the writes of the edit before this one
    const ScoreEdit edit = p.edits[at];
    if (edit.op == SCORE_EDIT_LOG_SOFTMAX) {
      const LogSum sum = log_sum_of(row, p.V, s_max, s_sum);
      for (int id = threadIdx.x; id < p.V; id += THREADS) row[id] = row[id] - sum.max - sum.log;
    } else if (edit.op >= SCORE_EDIT_FILL) {
      for (int id = threadIdx.x; id < p.V; id += THREADS)
        row[id] = edited(row[id], edit, history, id);
    } else {
      edit_entries(p, edit, row);
    }
  }
}

extern "C" __global__ void __launch_bounds__(SAMPLE_THREADS, 1)
    score_edits_f32(const __grid_constant__ ScoreEditsParams p) {
  score_edits(p);
}
