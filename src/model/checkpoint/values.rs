//! Elements of a stored tensor as numbers: every conversion goes through f32.

use half::{bf16, f16};

use super::{CheckpointError, StoredType, Tensor};

impl Tensor<'_> {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        // Checked when the file was opened: the product is at most eight times its size.
        self.shape.iter().fold(1, |product, side| product.saturating_mul(*side))
    }

    /// Appends all elements as bf16, rounded to nearest even.
    ///
    /// # Errors
    /// [`CheckpointError::WrongType`] for a type other than BF16, F16 and F32;
    /// [`CheckpointError::TooLarge`] for a finite value that would become infinite.
    pub fn append_bf16(&self, to: &mut Vec<bf16>) -> Result<(), CheckpointError> {
        match self.dtype {
            StoredType::Bf16 => to.extend(self.halves().map(bf16::from_le_bytes)),
            StoredType::F16 => {
                // At most 65,504: no value of binary16 is too large.
                to.extend(
                    self.halves().map(|half| bf16::from_f32(f16::from_le_bytes(half).to_f32())),
                );
            }
            StoredType::F32 => {
                let start = to.len();
                to.extend(self.words().map(|word| bf16::from_f32(f32::from_le_bytes(word))));
                self.check_finite(to.get(start..).unwrap_or_default())?;
            }
            _ => return Err(self.wrong_type()),
        }
        Ok(())
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

    fn halves(&self) -> impl Iterator<Item = [u8; 2]> {
        self.bytes.as_chunks().0.iter().copied()
    }

    fn words(&self) -> impl Iterator<Item = [u8; 4]> {
        self.bytes.as_chunks().0.iter().copied()
    }

    /// An infinite value must have been infinite before it was rounded.
    fn check_finite(&self, rounded: &[bf16]) -> Result<(), CheckpointError> {
        let grown = rounded.iter().zip(self.words()).position(|(rounded, word)| {
            rounded.is_infinite() && f32::from_le_bytes(word).is_finite()
        });
        match grown {
            None => Ok(()),
            Some(index) => {
                let (file, tensor) = (self.file.to_owned(), self.name.to_owned());
                Err(CheckpointError::TooLarge { file, tensor, index })
            }
        }
    }

    fn wrong_type(&self) -> CheckpointError {
        let (file, tensor) = (self.file.to_owned(), self.name.to_owned());
        CheckpointError::WrongType { file, tensor, found: self.dtype }
    }
}
