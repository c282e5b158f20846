//! Scalar oracle of `kernels/attn_prefill.cu`.

use crate::units::Float;

use super::attn::{Attended, Heads, attend, head_row};

/// The new rows of one sequence: `queries` `[rows, H, D]` against `keys` and `values` `[S, G, D]`,
/// whose last rows are theirs. Row i has position `S - rows + i`, sees the keys up to it, and of
/// those the last `window`. One entry for each row and head, row by row.
pub fn attn_prefill<T: Float>(
    queries: &[T],
    keys: &[T],
    values: &[T],
    shape: Heads,
    window: Option<usize>,
) -> Vec<Attended> {
    let Heads { heads, kv_heads, head_dim } = shape;
    let rows = queries.len() / (heads * head_dim);
    let before = keys.len() / (kv_heads * head_dim) - rows;
    let mut all = Vec::with_capacity(rows * heads);
    for row in 0..rows {
        let end = before + row + 1;
        let start = end.saturating_sub(window.unwrap_or(end));
        for head in 0..heads {
            let kv_head = head / (heads / kv_heads);
            let seen = (start..end).map(|s| {
                let key = head_row(keys, kv_heads, head_dim, s, kv_head);
                (key, head_row(values, kv_heads, head_dim, s, kv_head))
            });
            all.push(attend(head_row(queries, heads, head_dim, row, head), seen));
        }
    }
    all
}
