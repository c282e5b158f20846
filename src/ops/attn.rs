//! What the attention ops share: scale, window, shared memory, head counts.

use super::kv::KvCache;
use super::params::KvStrides;
use super::{OpError, check_dim, check_len, check_types, dim, product};
use crate::device::{FloatView, FloatViewMut};
use crate::units::Tokens;

/// What attention over pages is given, whatever its form.
pub(super) struct Paged<'a> {
    pub(super) qkv: &'a FloatView<'a>,
    pub(super) cache: &'a KvCache<'a>,
    pub(super) o: &'a FloatViewMut<'a>,
    pub(super) rows: Tokens,
    pub(super) heads: usize,
    pub(super) window: Option<Tokens>,
}

/// The same, checked, as the kernels take it: the fields of their parameters by name.
pub(super) struct PagedParams {
    pub(super) ld_q: i64,
    pub(super) ld_o: i64,
    pub(super) kv: KvStrides,
    pub(super) heads: i32,
    pub(super) kv_heads: i32,
    pub(super) ld_pages: i32,
    pub(super) window: i32,
}

impl Paged<'_> {
    /// Refuses head counts that are no whole group, views that are not as long as their shapes or
    /// of another type, and dimensions that pass the kernel's types.
    pub(super) fn check(self, op: &'static str) -> Result<PagedParams, OpError> {
        let Self { qkv, cache, o, rows, heads, window: keys } = self;
        let layout = &cache.layout;
        check_heads(op, heads, layout.kv_heads)?;
        dim(op, "T", rows.0)?;
        let kv = cache.check(op)?;
        let width = product(op, "H", heads, layout.head_dim)?;
        let fused = product(op, "H", heads + 2 * layout.kv_heads, layout.head_dim)?;
        check_len(op, "qkv", product(op, "T", rows.0, fused)?, qkv.len())?;
        check_len(op, "o", product(op, "T", rows.0, width)?, o.len())?;
        check_types(op, qkv.dtype(), [("pool", cache.pool.dtype()), ("o", o.dtype())])?;
        Ok(PagedParams {
            ld_q: i64::from(dim(op, "H", fused)?),
            ld_o: i64::from(dim(op, "H", width)?),
            kv,
            heads: dim(op, "H", heads)?,
            kv_heads: dim(op, "G", layout.kv_heads)?,
            ld_pages: dim(op, "pages_per_sequence", cache.pages_per_sequence)?,
            window: window(op, keys)?,
        })
    }
}

/// What the forms of an attention op differ in.
pub(super) struct Form {
    /// Entry point.
    pub(super) symbol: &'static str,
    /// Threads of a block.
    pub(super) threads: u32,
    /// Blocks along z.
    pub(super) depth: u32,
    /// Dynamic shared memory of a block.
    pub(super) shared_bytes: u32,
    /// What scores are multiplied with.
    pub(super) scale: f32,
}

/// A form on tensor cores, with `rows` rows of D elements in shared memory.
pub(super) fn half_form(
    op: &'static str,
    symbol: &'static str,
    threads: u32,
    rows: u32,
    head_dim: usize,
) -> Result<Form, OpError> {
    let shared_bytes = shared_bytes(op, rows, head_dim * size_of::<u16>())?;
    Ok(Form { symbol, threads, depth: 1, shared_bytes, scale: scale_log2(head_dim) })
}

/// `log2(e) / sqrt(D)`: exp of a scaled score is exp2 of the score times this (kernels N4).
fn scale_log2(head_dim: usize) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "the kernels take the nearest f32")]
    let scale = (std::f64::consts::LOG2_E / (head_dim as f64).sqrt()) as f32;
    scale
}

/// Keys that a row sees, as the kernels take it: `i32::MAX` is no limit.
pub(super) fn window(op: &'static str, window: Option<Tokens>) -> Result<i32, OpError> {
    let Some(Tokens(keys)) = window else { return Ok(i32::MAX) };
    check_dim(keys > 0, op, "window", keys, "a row sees itself")?;
    dim(op, "window", keys)
}

/// Dynamic shared memory of `rows` rows.
fn shared_bytes(op: &'static str, rows: u32, row_bytes: usize) -> Result<u32, OpError> {
    let row_bytes = dim(op, "D", row_bytes)?.cast_unsigned();
    rows.checked_mul(row_bytes).ok_or(OpError::Dim {
        op,
        dim: "D",
        found: row_bytes as usize,
        rule: "a tile passes the shared memory",
    })
}

/// Refuses head counts that are no whole group, or do not fit a grid.
pub(super) fn check_heads(op: &'static str, heads: usize, kv_heads: usize) -> Result<(), OpError> {
    let whole = heads > 0 && kv_heads > 0 && heads.is_multiple_of(kv_heads);
    check_dim(whole, op, "H", heads, "H must be a positive multiple of G")?;
    check_dim(heads <= 65_535, op, "H", heads, "a grid takes at most 65535 heads")
}
