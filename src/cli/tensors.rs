//! Safetensors files of inputs and results: bounded reads, checked types and shapes, one writer.

use std::path::Path;

use half::{bf16, f16};
use safetensors::{
    SafeTensors,
    tensor::{Dtype, TensorView, serialize},
};

use super::{CliError, error::exit};
use crate::units::GridThw;

/// Bytes of a file that is read.
const MAX_FILE: u64 = 4 << 30;

/// The content of a file that has at most 4 GiB.
pub(super) fn load(file: &Path) -> Result<Vec<u8>, CliError> {
    let size = std::fs::metadata(file).map_err(|error| CliError::io(file, &error))?.len();
    if size > MAX_FILE {
        return Err(wrong(file, &format!("{size} bytes are more than {MAX_FILE}")));
    }
    std::fs::read(file).map_err(|error| CliError::io(file, &error))
}

/// The tensors of a file's content.
pub(super) fn parse<'a>(file: &Path, bytes: &'a [u8]) -> Result<SafeTensors<'a>, CliError> {
    SafeTensors::deserialize(bytes)
        .map_err(|error| wrong(file, &format!("not a safetensors file: {error}")))
}

/// A tensor with its name and the file that errors name.
pub(super) struct Tensor<'a> {
    pub(super) file: &'a Path,
    pub(super) name: &'a str,
    pub(super) view: TensorView<'a>,
}

impl<'a> Tensor<'a> {
    /// The tensor of that name, which the file must have.
    pub(super) fn of(
        file: &'a Path,
        tensors: &SafeTensors<'a>,
        name: &'a str,
    ) -> Result<Self, CliError> {
        let view = tensors.tensor(name);
        let view = view.map_err(|error| wrong(file, &format!("tensor {name}: {error}")))?;
        Ok(Self { file, name, view })
    }

    /// Its dimensions, N of them.
    pub(super) fn shape<const N: usize>(&self) -> Result<[usize; N], CliError> {
        let found = self.view.shape();
        let what = format!("has shape {found:?}, but needs {N} dimensions");
        found.try_into().map_err(|_error| self.wrong(&what))
    }

    /// Integers of 32 or 64 bits, or truth values.
    pub(super) fn integers(&self) -> Result<Vec<i64>, CliError> {
        let data = self.view.data();
        match self.view.dtype() {
            Dtype::I64 => {
                let words = data.as_chunks::<8>().0;
                Ok(words.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect())
            }
            Dtype::I32 => {
                let words = data.as_chunks::<4>().0;
                Ok(words.iter().map(|bytes| i64::from(i32::from_le_bytes(*bytes))).collect())
            }
            Dtype::BOOL => Ok(data.iter().map(|byte| i64::from(*byte != 0)).collect()),
            other => Err(self.wrong(&format!("is {other:?}, but must be I64 or I32"))),
        }
    }

    /// Numbers that are all 0 or 1.
    pub(super) fn mask(&self) -> Result<Vec<bool>, CliError> {
        let values = self.integers()?;
        match values.iter().all(|value| (0..=1).contains(value)) {
            true => Ok(values.into_iter().map(|value| value == 1).collect()),
            false => Err(self.wrong("has a value that is neither 0 nor 1")),
        }
    }

    /// Floats of any type, widened, whatever they are.
    pub(super) fn any_floats(&self) -> Result<Vec<f32>, CliError> {
        let data = self.view.data();
        match self.view.dtype() {
            Dtype::F32 => {
                let words = data.as_chunks::<4>().0;
                Ok(words.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            }
            Dtype::BF16 => {
                let words = data.as_chunks::<2>().0;
                Ok(words.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect())
            }
            Dtype::F16 => {
                let words = data.as_chunks::<2>().0;
                Ok(words.iter().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect())
            }
            other => Err(self.wrong(&format!("is {other:?}, but must be F32, BF16 or F16"))),
        }
    }

    /// Finite floats.
    pub(super) fn floats(&self) -> Result<Vec<f32>, CliError> {
        let values = self.any_floats()?;
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.wrong(&format!("holds {} at value {at}", values[at]))),
            None => Ok(values),
        }
    }

    /// Grids, `[n, 3]`.
    pub(super) fn grids(&self) -> Result<Vec<GridThw>, CliError> {
        let [_, three] = self.shape()?;
        let values = self.integers()?;
        let side = |value: i64| usize::try_from(value).ok().filter(|side| *side < 1 << 31);
        let rows = values
            .chunks_exact(3)
            .map(|row| Some(GridThw { t: side(row[0])?, h: side(row[1])?, w: side(row[2])? }));
        let rows: Option<Vec<GridThw>> = rows.collect();
        rows.filter(|_| three == 3).ok_or_else(|| self.wrong("must be [n, 3] of positive sides"))
    }

    /// An error about it.
    pub(super) fn wrong(&self, what: &str) -> CliError {
        wrong(self.file, &format!("{} {what}", self.name))
    }
}

/// A tensor to be written.
pub(super) struct Written {
    pub(super) name: String,
    dtype: Dtype,
    pub(super) shape: Vec<usize>,
    data: Vec<u8>,
}

impl Written {
    pub(super) fn floats(name: &str, shape: &[usize], values: &[f32]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: Dtype::F32, shape: shape.to_vec(), data }
    }

    pub(super) fn integers(name: &str, shape: &[usize], values: &[i64]) -> Self {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { name: name.to_owned(), dtype: Dtype::I64, shape: shape.to_vec(), data }
    }
}

/// Writes a file of tensors in place, not by a rename: the path may be a device, a pipe or a link.
pub(super) fn write(file: &Path, tensors: &[Written]) -> Result<(), CliError> {
    let failed = |error: safetensors::SafeTensorError| {
        CliError::new("internal", exit::INTERNAL, Box::new(error))
    };
    let views = tensors.iter().map(|tensor| {
        TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data)
            .map(|view| (tensor.name.as_str(), view))
    });
    let views = views.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    let bytes = serialize(views, None).map_err(failed)?;
    std::fs::write(file, bytes).map_err(|error| CliError::io(file, &error))
}

/// An error about a file of tensors.
pub(super) fn wrong(file: &Path, what: &str) -> CliError {
    CliError::new("invalid_request", exit::INPUT, format!("{}: {what}", file.display()))
}
