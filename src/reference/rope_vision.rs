//! Scalar oracle of `kernels/rope_vision.cu`.

use crate::units::Float;

/// One element before its rounding, and the size of what was added up for it.
#[derive(Clone, Copy, Debug)]
pub struct Rotated {
    /// The rotated element; an element of the values as it was.
    pub y: f64,
    /// `|x cos| + |partner sin|`.
    pub magnitude: f64,
}

/// Rows `qkv` `[R, 3, heads, D]` at `positions` `[R, 2]` (row, column), with `table`
/// `[n, D / 4, 2]` of cos and sin: queries and keys are rotated (docs/spec.md, 8.2).
pub fn rope_vision<T: Float>(
    qkv: &[T],
    table: &[f32],
    positions: &[[usize; 2]],
    heads: usize,
    head_dim: usize,
) -> Vec<Rotated> {
    let (half, quarter) = (head_dim / 2, head_dim / 4);
    let mut all = Vec::with_capacity(qkv.len());
    for (row, at) in qkv.chunks_exact(3 * heads * head_dim).zip(positions) {
        for (head, x) in row.chunks_exact(head_dim).enumerate() {
            for (j, value) in x.iter().enumerate() {
                if head >= 2 * heads {
                    all.push(Rotated { y: value.to_f64(), magnitude: 0.0 });
                    continue;
                }
                let frequency = j % half;
                let position = at[usize::from(frequency >= quarter)];
                let turn = 2 * (position * quarter + frequency % quarter);
                let (cos, sin) = (f64::from(table[turn]), f64::from(table[turn + 1]));
                let (kept, partner) = (value.to_f64() * cos, x[(j + half) % head_dim].to_f64());
                let y = if j < half { kept - partner * sin } else { kept + partner * sin };
                all.push(Rotated { y, magnitude: kept.abs() + (partner * sin).abs() });
            }
        }
    }
    all
}
