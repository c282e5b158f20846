//! Scalar oracle of `kernels/attn_probs.cu`.

use crate::units::Float;

use super::attn::{Heads, head_row};

/// What the new rows of one sequence give to its keys: `queries` `[rows, H, D]`, `keys` `[S, G, D]`,
/// whose last rows are theirs. Row i has position `S - rows + i`, sees the keys up to it, and of
/// those the last `window`. `[rows, H, S]`, before the rounding.
pub fn attn_probs<T: Float>(
    queries: &[T],
    keys: &[T],
    shape: Heads,
    window: Option<usize>,
) -> Vec<f64> {
    let Heads { heads, kv_heads, head_dim } = shape;
    let rows = queries.len() / (heads * head_dim);
    let tokens = keys.len() / (kv_heads * head_dim);
    let mut probs = vec![0.0; rows * heads * tokens];
    for (index, out) in probs.chunks_exact_mut(tokens).enumerate() {
        let (row, head) = (index / heads, index % heads);
        let end = tokens - rows + row + 1;
        let start = end.saturating_sub(window.unwrap_or(end));
        let query = head_row(queries, heads, head_dim, row, head);
        let score = |s: usize| {
            let key = head_row(keys, kv_heads, head_dim, s, head / (heads / kv_heads));
            let dot: f64 = query.iter().zip(key).map(|(q, k)| q.to_f64() * k.to_f64()).sum();
            dot / (head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = (start..end).map(score).collect();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        for (p, score) in out[start..end].iter_mut().zip(scores) {
            *p = (score - largest).exp() / sum;
        }
    }
    probs
}
