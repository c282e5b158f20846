//! The size that a picture is resized to (docs/spec.md, section 3.4).

use super::{MediaError, Size};

/// Least and most pixels of a resized picture. A narrow picture may pass the upper one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBudget {
    /// min_pixels.
    pub min: u64,
    /// max_pixels.
    pub max: u64,
}

impl PixelBudget {
    /// Refuses a budget that is empty.
    ///
    /// # Errors
    /// [`MediaError::Budget`] where `min` is above `max`.
    pub fn check(self) -> Result<Self, MediaError> {
        if self.min > self.max {
            return Err(MediaError::Budget { min: self.min, max: self.max });
        }
        Ok(self)
    }
}

/// Sides rounded to multiples of `factor`, half to even, and scaled into the budget.
///
/// All in binary64 in the reference's order of operations; equal to it while `height * width` is
/// below 2^53.
///
/// # Errors
/// [`MediaError::Empty`] without pixels, [`MediaError::AspectRatio`] over 200 to 1,
/// [`MediaError::ResizedToNothing`] where a side becomes 0 (only with `min` 0).
pub fn smart_resize(size: Size, factor: usize, budget: PixelBudget) -> Result<Size, MediaError> {
    let Size { height, width } = size;
    if height == 0 || width == 0 || factor == 0 {
        return Err(MediaError::Empty { size });
    }
    let (h, w, unit) = (height as f64, width as f64, factor as f64);
    if h.max(w) / h.min(w) > 200.0 {
        return Err(MediaError::AspectRatio { size });
    }
    let (mut rows, mut columns) = ((h / unit).round_ties_even(), (w / unit).round_ties_even());
    // Whole numbers far below 2^53: the products are exact.
    let pixels = (rows * unit) * (columns * unit);
    if pixels > budget.max as f64 {
        let beta = (h * w / budget.max as f64).sqrt();
        rows = (h / beta / unit).floor().max(1.0);
        columns = (w / beta / unit).floor().max(1.0);
    } else if pixels < budget.min as f64 {
        let beta = (budget.min as f64 / (h * w)).sqrt();
        rows = (h * beta / unit).ceil();
        columns = (w * beta / unit).ceil();
    }
    let resized = Size { height: side(rows, factor), width: side(columns, factor) };
    if resized.height == 0 || resized.width == 0 {
        return Err(MediaError::ResizedToNothing { size, min: budget.min });
    }
    Ok(resized)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a whole number from 0; `as` saturates, and a saturated side passes every limit"
)]
fn side(units: f64, factor: usize) -> usize {
    (units as usize).saturating_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHED: PixelBudget = PixelBudget { min: 3136, max: 12_845_056 };

    /// ((height, width), budget, (height, width) after, why)
    type Case = ((usize, usize), (u64, u64), (usize, usize), &'static str);

    const CASES: &[Case] = &[
        ((42, 70), (1, 1 << 40), (56, 56), "1.5 and 2.5 both round to 2"),
        ((98, 126), (1, 1 << 40), (112, 112), "3.5 and 4.5 both round to 4"),
        ((480, 640), (3136, 1_003_520), (476, 644), "inside the budget"),
        ((1080, 1920), (3136, 1_003_520), (728, 1316), "above it"),
        ((28, 28), (3136, 1_003_520), (56, 56), "below it"),
        ((1, 200), (3136, 1_003_520), (28, 812), "a side rounds to 0, then grows"),
        ((28, 5600), (3136, 1_003_520), (28, 5600), "200 to 1 passes"),
        ((6000, 30), (3136, 3136), (784, 28), "a narrow picture passes the budget"),
    ];

    #[test]
    fn sizes_of_the_specification() {
        for &((height, width), (min, max), (h, w), why) in CASES {
            let got = smart_resize(Size { height, width }, 28, PixelBudget { min, max });
            assert_eq!(got.unwrap(), Size { height: h, width: w }, "{height}x{width}: {why}");
        }
    }

    #[test]
    fn a_ratio_over_200_is_refused() {
        let size = Size { height: 1, width: 201 };
        let error = smart_resize(size, 28, PUBLISHED).unwrap_err();
        let text = "absolute aspect ratio must be smaller than 200, got 201 for 1x201";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_picture_that_vanishes_is_refused() {
        let nothing = PixelBudget { min: 0, max: 3136 };
        let error = smart_resize(Size { height: 14, width: 14 }, 28, nothing).unwrap_err();
        assert!(matches!(error, MediaError::ResizedToNothing { .. }));
    }
}
