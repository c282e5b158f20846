//! Scalar oracle of `kernels/embed.cu`.

use crate::units::Float;

/// Rows of `[any, channels]` matrices chosen by number: `image_rows[source]` where `source` is not
/// negative, else `table[id]`. `None` where the row does not exist.
pub fn embed<'a, T: Float>(
    table: &'a [T],
    image_rows: &'a [T],
    ids: &[i32],
    source: &[i32],
    channels: usize,
) -> Vec<Option<&'a [T]>> {
    let row = |matrix: &'a [T], number: i32| {
        let number = usize::try_from(number).ok()?;
        matrix.chunks_exact(channels).nth(number)
    };
    let pairs = ids.iter().zip(source);
    pairs
        .map(|(&id, &source)| if source >= 0 { row(image_rows, source) } else { row(table, id) })
        .collect()
}
