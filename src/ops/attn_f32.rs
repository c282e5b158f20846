//! The f32 forms of the attention ops. Kernel `kernels/attn_f32.cu`; launched through
//! [`AttnVision`](super::attn_vision::AttnVision), [`AttnPrefill`](super::attn_prefill::AttnPrefill)
//! and [`AttnDecode`](super::attn_decode::AttnDecode), whose oracles are its own.

use super::OpError;
use super::attn::Form;
use super::check_dim;
use super::params::{
    ATTN_DECODE_HEADS, ATTN_F32_MAX_D, ATTN_F32_SPLIT, ATTN_F32_THREADS, ATTN_F32_TILE, PAGE_TOKENS,
};

/// The entry point that takes tiles of query rows.
pub(super) fn of_tiles(
    op: &'static str,
    symbol: &'static str,
    head_dim: usize,
) -> Result<Form, OpError> {
    form(op, symbol, head_dim, ATTN_F32_TILE, ATTN_F32_SPLIT)
}

/// The entry point that takes the heads of one row.
pub(super) fn of_heads(
    op: &'static str,
    symbol: &'static str,
    head_dim: usize,
) -> Result<Form, OpError> {
    form(op, symbol, head_dim, ATTN_DECODE_HEADS, 1)
}

/// A form whose block has `vectors` query vectors.
fn form(
    op: &'static str,
    symbol: &'static str,
    head_dim: usize,
    vectors: u32,
    depth: u32,
) -> Result<Form, OpError> {
    let rule = "in f32 it must be a multiple of 16 up to 128";
    let width = u32::try_from(head_dim).unwrap_or(u32::MAX);
    let fits = width > 0 && width.is_multiple_of(16) && width <= ATTN_F32_MAX_D;
    check_dim(fits, op, "D", head_dim, rule)?;
    // Queries, keys with one element more a row, values, weights.
    let elements = vectors * width + PAGE_TOKENS * (2 * width + 1) + PAGE_TOKENS * vectors;
    #[expect(clippy::cast_possible_truncation, reason = "the kernels take the nearest f32")]
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    Ok(Form { symbol, threads: ATTN_F32_THREADS, depth, shared_bytes: 4 * elements, scale })
}
