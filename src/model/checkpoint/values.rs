//! Elements of a stored tensor as numbers: every conversion goes through f32.

use half::{bf16, f16};

use super::{CheckpointError, StoredType, Tensor};
use crate::units::Float;

impl Tensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked when the file was opened: the product is at most eight times its size.
        self.shape.iter().fold(1, |product, side| product.saturating_mul(*side))
    }

    /// Appends all elements as numbers of a type, rounded to nearest even.
    ///
    /// # Errors
    /// [`CheckpointError::WrongType`] for a type other than BF16, F16 and F32;
    /// [`CheckpointError::TooLarge`] for a finite value that would become infinite.
    pub fn append<T: Float>(&self, to: &mut Vec<T>) -> Result<(), CheckpointError> {
        match self.dtype {
            StoredType::Bf16 => {
                let stored = self.halves().map(bf16::from_le_bytes);
                self.convert(to, stored, T::from_bf16, bf16::to_f32)
            }
            StoredType::F16 => {
                let stored = self.halves().map(f16::from_le_bytes);
                self.convert(to, stored, T::from_f16, f16::to_f32)
            }
            StoredType::F32 => {
                let stored = self.words().map(f32::from_le_bytes);
                self.convert(to, stored, T::from_f32, |value| value)
            }
            _ => Err(self.wrong_type()),
        }
    }

    /// All elements as f32.
    ///
    /// # Errors
    /// [`CheckpointError::WrongType`] for a type other than BF16, F16 and F32.
    pub fn to_f32(&self) -> Result<Vec<f32>, CheckpointError> {
        match self.dtype {
            StoredType::Bf16 => {
                Ok(self.halves().map(|v| bf16::from_le_bytes(v).to_f32()).collect())
            }
            StoredType::F16 => Ok(self.halves().map(|v| f16::from_le_bytes(v).to_f32()).collect()),
            StoredType::F32 => Ok(self.words().map(f32::from_le_bytes).collect()),
            _ => Err(self.wrong_type()),
        }
    }

    /// All elements as i64; `None` for a type other than I64 and I32.
    pub fn to_i64(&self) -> Option<Vec<i64>> {
        match self.dtype {
            StoredType::I64 => {
                Some(self.bytes.as_chunks().0.iter().map(|v| i64::from_le_bytes(*v)).collect())
            }
            StoredType::I32 => {
                Some(self.words().map(|v| i64::from(i32::from_le_bytes(v))).collect())
            }
            _ => None,
        }
    }

    fn halves(&self) -> impl Iterator<Item = [u8; 2]> + Clone {
        self.bytes.as_chunks().0.iter().copied()
    }

    fn words(&self) -> impl Iterator<Item = [u8; 4]> + Clone {
        self.bytes.as_chunks().0.iter().copied()
    }

    /// Appends `stored`; an infinite number must have been infinite before it was rounded.
    fn convert<S, T: Float>(
        &self,
        to: &mut Vec<T>,
        stored: impl Iterator<Item = S> + Clone,
        round: impl Fn(S) -> T,
        widen: impl Fn(S) -> f32,
    ) -> Result<(), CheckpointError> {
        let start = to.len();
        to.extend(stored.clone().map(round));
        if self.dtype.float() == Some(T::TYPE) {
            return Ok(());
        }
        let rounded = to.get(start..).unwrap_or_default();
        let grown = rounded.iter().zip(stored).position(|(rounded, stored)| {
            !rounded.to_f32().is_finite() && widen(stored).is_finite()
        });
        match grown {
            None => Ok(()),
            Some(index) => {
                let (file, tensor) = (self.file.to_owned(), self.name.to_owned());
                Err(CheckpointError::TooLarge { file, tensor, index, to: T::TYPE })
            }
        }
    }

    fn wrong_type(&self) -> CheckpointError {
        let (file, tensor) = (self.file.to_owned(), self.name.to_owned());
        CheckpointError::WrongType { file, tensor, found: self.dtype }
    }
}
