//! One query against keys and values, the formula that the three attention oracles share.

use crate::units::Float;

/// Head counts and width of an attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// H: query heads.
    pub heads: usize,
    /// G: key/value heads; query head h uses key head `h / (H / G)`.
    pub kv_heads: usize,
    /// D.
    pub head_dim: usize,
}

/// What one head of one row attends to, and what its error bound is made of.
#[derive(Clone, Debug)]
pub struct Attended {
    /// `[D]`: `sum_s p_s v_s`, p the softmax of the scores.
    pub o: Vec<f64>,
    /// `[D]`: `sum_s p_s |v_s|`.
    pub magnitude: Vec<f64>,
    /// Largest `|score|`, `q . k / sqrt(D)`.
    pub largest_score: f64,
    /// Keys that the row sees.
    pub keys: usize,
}

/// Attention of one query `[D]` to rows of keys and values, `[D]` each (docs/spec.md, 9.2).
pub(super) fn attend<'a, T: Float>(
    query: &[T],
    rows: impl Iterator<Item = (&'a [T], &'a [T])>,
) -> Attended {
    let scale = (query.len() as f64).sqrt();
    let (scores, values): (Vec<f64>, Vec<&[T]>) = rows
        .map(|(key, value)| {
            let dot: f64 = query.iter().zip(key).map(|(q, k)| q.to_f64() * k.to_f64()).sum();
            (dot / scale, value)
        })
        .unzip();
    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut attended = Attended {
        o: vec![0.0; query.len()],
        magnitude: vec![0.0; query.len()],
        largest_score: scores.iter().fold(0.0, |m, score| m.max(score.abs())),
        keys: scores.len(),
    };
    for (weight, value) in weights.iter().zip(values) {
        let p = weight / sum;
        for ((o, magnitude), v) in attended.o.iter_mut().zip(&mut attended.magnitude).zip(value) {
            *o += p * v.to_f64();
            *magnitude += p * v.to_f64().abs();
        }
    }
    attended
}

/// Row `row` of head `head` in `[rows, heads, D]`.
pub(super) fn head_row<T: Float>(
    data: &[T],
    heads: usize,
    dim: usize,
    row: usize,
    head: usize,
) -> &[T] {
    let start = (row * heads + head) * dim;
    &data[start..start + dim]
}
