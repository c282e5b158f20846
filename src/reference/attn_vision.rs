//! Scalar oracle of `kernels/attn_vision.cu`.

use crate::units::Float;

use super::attn::{Attended, attend, head_row};

/// Rows `qkv` `[R, 3, heads, D]` of frames of the given `lengths`: each row against all rows of its
/// frame. One entry for each row and head, row by row.
pub fn attn_vision<T: Float>(
    qkv: &[T],
    lengths: &[usize],
    heads: usize,
    head_dim: usize,
) -> Vec<Attended> {
    let part = |row, which, head| head_row(qkv, 3 * heads, head_dim, row, which * heads + head);
    let (mut all, mut first) = (Vec::new(), 0);
    for length in lengths {
        let frame = first..first + length;
        for row in frame.clone() {
            for head in 0..heads {
                let seen = frame.clone().map(|s| (part(s, 1, head), part(s, 2, head)));
                all.push(attend(part(row, 0, head), seen));
            }
        }
        first += length;
    }
    all
}
