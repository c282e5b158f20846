//! The resize of torchvision on uint8 pictures, bit for bit (docs/spec.md, section 3.5).
//!
//! Two passes, columns within rows first, each with fixed-point weights whose precision depends on
//! the largest weight of the axis, bytes in between. [`super::resize_pillow`] shares the weights in
//! binary64 and the passes.

use std::fmt;

use super::passes::{self, Rows};
use super::{MediaError, Rgb8, Size};

/// How a resize weighs source pixels; numbers and names are Pillow's `resample`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// 0.
    Nearest,
    /// 1.
    Lanczos,
    /// 2.
    Bilinear,
    /// 3: the default.
    Bicubic,
    /// 4: Pillow alone.
    Box,
    /// 5: Pillow alone.
    Hamming,
}

impl Filter {
    /// A filter by its name, of Pillow or of torchvision's interpolation modes.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "nearest" | "nearest-exact" => Self::Nearest,
            "lanczos" => Self::Lanczos,
            "bilinear" => Self::Bilinear,
            "bicubic" => Self::Bicubic,
            "box" => Self::Box,
            "hamming" => Self::Hamming,
            _ => return None,
        })
    }

    /// Pillow's number, as preprocessor_config.json has it.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// Source pixels on each side that weigh in, at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0,
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5; // of the cubic
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(u8::from(x > -0.5 && x <= 0.5)),
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Hamming => {
                let (x, pi) = (x.abs(), std::f64::consts::PI);
                match x {
                    0.0 => 1.0,
                    1.0.. => 0.0,
                    _ => (x * pi).sin() / (x * pi) * (0.54 + 0.46 * (x * pi).cos()),
                }
            }
            Self::Bicubic => match x.abs() {
                x @ ..1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
                x @ ..2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
                _ => 0.0,
            },
            Self::Lanczos if (-3.0..3.0).contains(&x) => sinc(x) * sinc(x / 3.0),
            Self::Lanczos => 0.0,
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "NEAREST",
            Self::Lanczos => "LANCZOS",
            Self::Bilinear => "BILINEAR",
            Self::Bicubic => "BICUBIC",
            Self::Box => "BOX",
            Self::Hamming => "HAMMING",
        })
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * std::f64::consts::PI).sin() / (x * std::f64::consts::PI) }
}

/// Resizes as torchvision does with antialiasing; equal sizes leave the bytes alone. Rows of the
/// result go to `emit` in order.
///
/// # Errors
/// [`MediaError::Filter`] for the two filters that torchvision lacks; [`MediaError::Empty`].
pub(super) fn resize(
    picture: &Rgb8,
    to: Size,
    filter: Filter,
    emit: &mut Rows<'_>,
) -> Result<(), MediaError> {
    if to.height == 0 || to.width == 0 {
        return Err(MediaError::Empty { size: to });
    }
    let from = picture.size();
    match filter {
        Filter::Box | Filter::Hamming => return Err(MediaError::Filter { filter }),
        Filter::Nearest => {
            let (rows, columns) =
                (nearest_exact(from.height, to.height), nearest_exact(from.width, to.width));
            gather(picture, &rows, &columns, emit);
            return Ok(());
        }
        Filter::Bicubic | Filter::Bilinear | Filter::Lanczos => {}
    }
    let axis =
        |from: usize, to: usize| (from != to).then(|| fixed_16(&Axis::new(from, to, filter)));
    let (columns, rows) = (axis(from.width, to.width), axis(from.height, to.height));
    passes::resize(picture, columns.as_ref(), rows.as_ref(), emit);
    Ok(())
}

/// Weights of one axis in binary64: for each output the first input and the normalised weights.
pub(super) struct Axis {
    spans: Vec<(usize, Vec<f64>)>,
}

impl Axis {
    /// The reference's arithmetic, operation by operation.
    pub(super) fn new(inputs: usize, outputs: usize, filter: Filter) -> Self {
        let scale = inputs as f64 / outputs as f64;
        let stretch = scale.max(1.0);
        let (support, inverse) = (filter.support() * stretch, 1.0 / stretch);
        let span = |output: usize| {
            let center = scale * (output as f64 + 0.5);
            let first = truncate(center - support + 0.5).min(inputs);
            let end = truncate(center + support + 0.5).min(inputs);
            let mut weights: Vec<f64> = (first..end)
                .map(|input| filter.weight((input as f64 - center + 0.5) * inverse))
                .collect();
            let total: f64 = weights.iter().sum();
            if total != 0.0 {
                weights.iter_mut().for_each(|weight| *weight /= total);
            }
            (first, weights)
        };
        Self { spans: (0..outputs).map(span).collect() }
    }

    /// Weights as whole numbers of 2^-`precision`, rounded half away from zero.
    pub(super) fn fixed(&self, precision: u32) -> FixedAxis {
        let one = f64::from(1_u32 << precision);
        let spans = self
            .spans
            .iter()
            .map(|(first, weights)| {
                (*first, weights.iter().map(|w| nearest(w * one)).collect::<Vec<i32>>())
            })
            .collect();
        FixedAxis { precision, spans }
    }
}

/// Weights of one axis in fixed point: for each output the first input and its weights.
pub(super) struct FixedAxis {
    /// Bits behind the point.
    pub(super) precision: u32,
    pub(super) spans: Vec<(usize, Vec<i32>)>,
}

/// torchvision's choice: as many bits as keep the largest weight within 16 bits.
fn fixed_16(axis: &Axis) -> FixedAxis {
    let largest = axis.spans.iter().flat_map(|(_, weights)| weights).copied().fold(0.0, f64::max);
    let full = |bits: &u32| truncate(0.5 + largest * f64::from(1_u32 << (bits + 1))) >= 1 << 15;
    axis.fixed((0..22).find(full).unwrap_or(22))
}

/// Picks whole pixels.
pub(super) fn gather(picture: &Rgb8, rows: &[usize], columns: &[usize], emit: &mut Rows<'_>) {
    let row_bytes = picture.size().width * 3;
    let mut to = Vec::with_capacity(columns.len() * 3);
    for row in rows {
        let row = &picture.data()[row * row_bytes..][..row_bytes];
        to.clear();
        for column in columns {
            to.extend_from_slice(&row[column * 3..][..3]);
        }
        emit(&to);
    }
}

/// torch's `nearest-exact`, which computes in f32.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "binary32 on purpose; a position between 0 and the length"
)]
fn nearest_exact(inputs: usize, outputs: usize) -> Vec<usize> {
    let scale = inputs as f32 / outputs as f32;
    (0..outputs)
        .map(|output| (((output as f32 + 0.5) * scale).floor() as usize).min(inputs - 1))
        .collect()
}

#[expect(clippy::cast_possible_truncation, reason = "a fixed-point weight, below 2^31")]
fn nearest(value: f64) -> i32 {
    (if value < 0.0 { value - 0.5 } else { value + 0.5 }) as i32
}

/// C's conversion to an unsigned integer, negative values as 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is what the reference does, and `as` maps negatives to 0"
)]
pub(super) fn truncate(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: [u8; 7] = [0, 10, 80, 255, 200, 3, 90];

    fn resized(picture: &Rgb8, to: Size, filter: Filter) -> Result<Vec<u8>, MediaError> {
        let mut data = Vec::new();
        resize(picture, to, filter, &mut |row| data.extend_from_slice(row))?;
        Ok(data)
    }

    fn row(width: usize, filter: Filter) -> Vec<u8> {
        let data = ROW.iter().flat_map(|v| [*v; 3]).collect();
        let picture = Rgb8::new(Size { height: 1, width: 7 }, data).unwrap();
        let out = resized(&picture, Size { height: 1, width }, filter).unwrap();
        out.into_iter().step_by(3).collect()
    }

    /// (width, filter, bytes): vectors of docs/spec.md, section 3.5
    const ROWS: &[(usize, Filter, &[u8])] = &[
        (3, Filter::Bicubic, &[15, 182, 76]),
        (5, Filter::Bicubic, &[0, 48, 235, 114, 54]),
        (10, Filter::Bicubic, &[0, 1, 21, 74, 207, 255, 193, 36, 31, 95]),
        (3, Filter::Lanczos, &[11, 183, 78]),
        (5, Filter::Lanczos, &[0, 42, 248, 113, 45]),
        (10, Filter::Lanczos, &[1, 2, 15, 72, 205, 255, 189, 29, 26, 102]),
    ];

    #[test]
    fn rows_of_the_specification() {
        for &(width, filter, expected) in ROWS {
            assert_eq!(row(width, filter), expected, "7 to {width}, {filter}");
        }
    }

    #[test]
    fn fixed_point_weights_of_the_specification() {
        let axis = fixed_16(&Axis::new(7, 3, Filter::Bicubic));
        assert_eq!(axis.precision, 16);
        assert_eq!(axis.spans[0], (0, vec![25105, 28804, 14006, 0, -2114, -264]));
        assert_eq!(axis.spans[1].1, [-2000, 2961, 18084, 27447, 18084, 2961, -2000]);
        assert_eq!(axis.spans[2], (1, vec![-264, -2114, 0, 14006, 28804, 25105]));
        assert_eq!(fixed_16(&Axis::new(7, 10, Filter::Bicubic)).precision, 14);
        let axis = fixed_16(&Axis::new(1920, 1316, Filter::Bicubic));
        assert_eq!(
            (axis.precision, axis.spans[1].clone()),
            (15, (0, vec![-1250, 13445, 20149, 1553, -1129]))
        );
    }

    /// docs/spec.md, section 3.5: pixel (y, x, c) is (3x + 5y + 70c) mod 256.
    #[test]
    fn the_golden_picture_of_the_specification() {
        let at = |i: usize| u8::try_from((3 * (i / 3 % 90) + 5 * (i / 270) + 70 * (i % 3)) % 256);
        let data = (0..60 * 90 * 3).map(|i| at(i).unwrap()).collect();
        let picture = Rgb8::new(Size { height: 60, width: 90 }, data).unwrap();
        let out = resized(&picture, Size { height: 56, width: 84 }, Filter::Bicubic).unwrap();
        let sum: u64 = out.iter().map(|v| u64::from(*v)).sum();
        let weighted = out.iter().zip(0_u64..).map(|(v, i)| u64::from(*v) * (i % 65521 + 1));
        assert_eq!((sum, weighted.sum::<u64>() % (1 << 32)), (1_796_418, 4_078_664_390));
    }

    #[test]
    fn torchvision_has_neither_box_nor_hamming() {
        let picture = Rgb8::new(Size { height: 1, width: 1 }, vec![0; 3]).unwrap();
        for filter in [Filter::Box, Filter::Hamming] {
            let error = resized(&picture, Size { height: 2, width: 2 }, filter).unwrap_err();
            assert!(matches!(error, MediaError::Filter { .. }), "{filter}");
        }
    }
}
