//! Kernels against their oracles, on whatever device the machine has.
#![expect(clippy::unwrap_used, reason = "a failed test panics")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "the sizes of the cases are small numbers"
)]
#![expect(unreachable_pub, reason = "what a module gives to the others of this binary is pub")]

mod activate;
mod attn_decode;
mod attn_f32;
mod attn_mutants;
mod attn_prefill;
mod attn_probs;
mod attn_vision;
mod check;
mod embed;
mod f32_mutants;
mod gemm;
mod gemm_f32;
mod gemm_mutants;
mod gemv;
mod guarded;
mod kv_append;
mod kv_copy;
mod layer_norm;
mod mrope;
mod mutants;
mod orders;
mod paged;
mod patch_embed;
mod rms_norm;
mod rope_vision;
mod sample;
mod score_edits;
mod silu_mul;
mod tolerance;
mod top_scores;
mod types;

#[path = "../support/mod.rs"]
mod support;
