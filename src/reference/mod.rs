//! Scalar versions of every kernel: the oracles of the tests. Written from the formulas, with sums
//! in f64; named by tests and benches alone.

pub mod activate;
pub mod attn;
pub mod attn_decode;
pub mod attn_prefill;
pub mod attn_probs;
pub mod attn_vision;
pub mod embed;
pub mod gemm;
pub mod kv_append;
pub mod kv_copy;
pub mod layer_norm;
pub mod mrope;
pub mod patch_embed;
pub mod rms_norm;
pub mod rope_vision;
pub mod sample;
pub mod score_edits;
pub mod silu_mul;
pub mod top_scores;
