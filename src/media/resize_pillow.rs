//! The resize of Pillow on 8-bit channels, bit for bit (docs/spec.md, section 3.6).
//!
//! The weights of [`super::resize`] at a fixed precision of 22 bits; the order of the two passes
//! depends on Pillow's version.

use super::passes::{self, Rows};
use super::resize::{Axis, gather, truncate};
use super::{Filter, MediaError, Rgb8, Size};

const PRECISION: u32 = 22;

/// Which of the two passes comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PassOrder {
    /// Columns within rows first: every Pillow up to 12.
    Legacy,
    /// Pillow 13: the cheaper order, by a rule on the sizes.
    Pillow13,
}

/// Resizes as Pillow's `Image.resize` does; rows of the result go to `emit` in order.
///
/// # Errors
/// [`MediaError::Empty`] for a size without pixels.
pub(super) fn resize(
    picture: &Rgb8,
    to: Size,
    filter: Filter,
    order: PassOrder,
    emit: &mut Rows<'_>,
) -> Result<(), MediaError> {
    if to.height == 0 || to.width == 0 {
        return Err(MediaError::Empty { size: to });
    }
    let from = picture.size();
    if filter == Filter::Nearest && from != to {
        let (rows, columns) = (nearest(from.height, to.height), nearest(from.width, to.width));
        gather(picture, &rows, &columns, emit);
        return Ok(());
    }
    let axis =
        |from: usize, to: usize| (from != to).then(|| Axis::new(from, to, filter).fixed(PRECISION));
    let (columns, rows) = (axis(from.width, to.width), axis(from.height, to.height));
    match rows {
        Some(rows) if order == PassOrder::Pillow13 && rows_first(from, to) => {
            passes::resize(&passes::down(picture, &rows), columns.as_ref(), None, emit);
        }
        rows => passes::resize(picture, columns.as_ref(), rows.as_ref(), emit),
    }
    Ok(())
}

/// Pillow 13 shrinks rows first where that saves more than twice what columns would.
fn rows_first(from: Size, to: Size) -> bool {
    let saved = |before: usize, after: usize| before as f64 - after as f64;
    to.height < from.height && saved(from.height, to.height) > 2.0 * saved(from.width, to.width)
}

/// Pillow adds the step up instead of multiplying: the roundings differ.
fn nearest(inputs: usize, outputs: usize) -> Vec<usize> {
    let scale = inputs as f64 / outputs as f64;
    let mut position = scale * 0.5;
    (0..outputs)
        .map(|_| {
            let index = truncate(position).min(inputs - 1);
            position += scale;
            index
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [u8; 7] = [0, 10, 80, 255, 200, 3, 90];

    fn resized(picture: &Rgb8, to: Size, filter: Filter, order: PassOrder) -> Vec<u8> {
        let mut data = Vec::new();
        resize(picture, to, filter, order, &mut |row| data.extend_from_slice(row)).unwrap();
        data
    }

    /// (filter, bytes): 7 to 3, docs/spec.md, section 3.6
    const ROWS: &[(Filter, [u8; 3])] = &[
        (Filter::Nearest, [10, 255, 3]),
        (Filter::Box, [5, 178, 47]),
        (Filter::Bilinear, [21, 172, 76]),
        (Filter::Hamming, [15, 196, 61]),
        (Filter::Bicubic, [15, 182, 76]),
        (Filter::Lanczos, [11, 183, 78]),
    ];

    #[test]
    fn rows_of_the_specification() {
        let data = ROW.iter().flat_map(|v| [*v; 3]).collect();
        let picture = Rgb8::new(Size { height: 1, width: 7 }, data).unwrap();
        for (filter, expected) in ROWS {
            let to = Size { height: 1, width: 3 };
            let out = resized(&picture, to, *filter, PassOrder::Legacy);
            let got: Vec<u8> = out.into_iter().step_by(3).collect();
            assert_eq!(got, expected, "{filter}");
        }
    }

    /// docs/spec.md, section 3.5: the slow rule on the same picture.
    #[test]
    fn the_golden_picture_of_the_specification() {
        let at = |i: usize| u8::try_from((3 * (i / 3 % 90) + 5 * (i / 270) + 70 * (i % 3)) % 256);
        let data = (0..60 * 90 * 3).map(|i| at(i).unwrap()).collect();
        let picture = Rgb8::new(Size { height: 60, width: 90 }, data).unwrap();
        let to = Size { height: 56, width: 84 };
        let out = resized(&picture, to, Filter::Bicubic, PassOrder::Pillow13);
        let sum: u64 = out.iter().map(|v| u64::from(*v)).sum();
        let weighted = out.iter().zip(0_u64..).map(|(v, i)| u64::from(*v) * (i % 65521 + 1));
        assert_eq!((sum, weighted.sum::<u64>() % (1 << 32)), (1_795_843, 4_074_419_433));
    }

    #[test]
    fn pillow_13_takes_rows_first_where_they_shrink_more() {
        let tall = Size { height: 480, width: 640 };
        assert!(rows_first(tall, Size { height: 476, width: 644 }));
        assert!(!rows_first(tall, Size { height: 476, width: 638 }), "4 is not above 2 * 2");
        assert!(!rows_first(tall, Size { height: 484, width: 800 }), "the height grows");
    }
}
