//! Scalar oracle of `kernels/attn_decode.cu`.

use crate::units::Float;

use super::attn::{Attended, Heads, attend, head_row};

/// The newest row of one sequence: `query` `[H, D]` against `keys` and `values` `[S, G, D]`, its
/// own among them; it sees the last `window`. One entry for each head.
pub fn attn_decode<T: Float>(
    query: &[T],
    keys: &[T],
    values: &[T],
    shape: Heads,
    window: Option<usize>,
) -> Vec<Attended> {
    let Heads { heads, kv_heads, head_dim } = shape;
    let tokens = keys.len() / (kv_heads * head_dim);
    let start = tokens - window.unwrap_or(tokens).min(tokens);
    let of_head = |head: usize| {
        let kv_head = head / (heads / kv_heads);
        let seen = (start..tokens).map(|s| {
            let key = head_row(keys, kv_heads, head_dim, s, kv_head);
            (key, head_row(values, kv_heads, head_dim, s, kv_head))
        });
        attend(&query[head * head_dim..(head + 1) * head_dim], seen)
    };
    (0..heads).map(of_head).collect()
}
