//! Scalar oracle of `kernels/mrope.cu`.

use crate::units::Float;

/// Turns the first `rotated` heads of each row of `qkv` `[T, heads of a row, D]` in place, by
/// `table` `[n, D / 2, 2]` of cos and sin. `ids[axis][t]` is the table's row of a token's time,
/// height or width; `sections` are the frequencies of each axis (docs/spec.md, 7.3).
///
/// Three roundings, as the reference's bf16 run has them; the products are exact in f64, and the
/// sum is f32's, which a 16-bit addition of the reference is made of.
pub fn mrope<T: Float>(
    qkv: &mut [T],
    table: &[T],
    ids: &[Vec<usize>; 3],
    sections: [usize; 3],
    rotated: usize,
) {
    let half: usize = sections.iter().sum();
    let row_elements = qkv.len() / ids[0].len();
    for (t, row) in qkv.chunks_exact_mut(row_elements).enumerate() {
        for x in row.chunks_exact_mut(2 * half).take(rotated) {
            for j in 0..half {
                let axis = if j < sections[0] {
                    0
                } else if j < sections[0] + sections[1] {
                    1
                } else {
                    2
                };
                let turn = 2 * (ids[axis][t] * half + j);
                let product = |a: T, b: T| T::from_f64(a.to_f64() * b.to_f64()).to_f32();
                let (cos, sin, low, high) = (table[turn], table[turn + 1], x[j], x[j + half]);
                x[j] = T::from_f32(product(low, cos) - product(high, sin));
                x[j + half] = T::from_f32(product(high, cos) + product(low, sin));
            }
        }
    }
}
