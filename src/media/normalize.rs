//! Byte to value: rescale and normalise, as a table (docs/spec.md, section 3.7).

use super::Preprocessor;
use super::preprocessor::Arithmetic;

/// What each byte of each channel becomes: the whole of rescaling and normalising.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalization {
    table: Vec<[f32; 256]>,
}

impl Normalization {
    /// The table of a processor, in the arithmetic of its resizer.
    pub(super) fn new(preprocessor: &Preprocessor) -> Self {
        let channel = |c: usize| {
            let mut values = [0.0; 256];
            for (value, byte) in values.iter_mut().zip(0_u8..=255) {
                *value = normalize(preprocessor, c, byte);
            }
            values
        };
        Self { table: (0..3).map(channel).collect() }
    }

    /// Values by channel and byte, `[3][256]`.
    pub fn table(&self) -> &[[f32; 256]] {
        &self.table
    }
}

fn normalize(preprocessor: &Preprocessor, channel: usize, byte: u8) -> f32 {
    let (mean, std) = (preprocessor.mean[channel], preprocessor.std[channel]);
    let x = f32::from(byte);
    match (preprocessor.rescale, preprocessor.normalize, preprocessor.resizer.arithmetic()) {
        (None, false, _) => x,
        (None, true, _) => (x - narrow(mean)) / narrow(std),
        (Some(factor), false, Arithmetic::Fast) => x * narrow(factor),
        // The fused form: mean and deviation are scaled, the byte is not.
        (Some(factor), true, Arithmetic::Fast) => {
            let scale = narrow(1.0 / factor);
            (x - narrow(mean) * scale) / (narrow(std) * scale)
        }
        (Some(factor), normalize, Arithmetic::Slow) => {
            let rescaled = narrow(f64::from(byte) * factor);
            if normalize { (rescaled - narrow(mean)) / narrow(std) } else { rescaled }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "one rounding to binary32, the reference's")]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::super::Resizer;
    use super::*;

    #[test]
    fn published_values_of_the_fused_form() {
        let table = Normalization::new(&Preprocessor::default());
        // docs/spec.md, section 3.8: the first bytes of the golden picture are 0.
        assert_eq!(table.table()[0][0], -1.792_262_6);
        let slow = Preprocessor::default().with_resizer(Resizer::Pillow);
        let slow = Normalization::new(&slow);
        let pairs = table.table().iter().flatten().zip(slow.table().iter().flatten());
        let largest = pairs.map(|(fast, slow)| (fast - slow).abs()).fold(0.0, f32::max);
        assert!(largest > 0.0 && largest <= 2.4e-7, "fast and slow differ by {largest}");
    }
}
