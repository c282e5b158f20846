//! Layer normalisation of packed patch rows. Kernel `kernels/layer_norm.cu`, oracle
//! [`crate::reference::layer_norm`].

use super::params::{LAYER_NORM_THREADS, LAYER_NORM_VEC, LayerNormParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid};
use crate::units::{Bytes, PatchRows};

const OP: &str = "layer_norm";

/// One launch: `y = (x - mean) / sqrt(var + eps) * weight + bias` for each row (docs/spec.md,
/// vision block).
#[derive(Debug)]
pub struct LayerNorm<'a> {
    /// `[rows, channels]`.
    pub x: FloatView<'a>,
    /// `[channels]`.
    pub weight: FloatView<'a>,
    /// `[channels]`.
    pub bias: FloatView<'a>,
    /// `[rows, channels]`, written whole.
    pub y: FloatViewMut<'a>,
    /// R of the kernel.
    pub rows: PatchRows,
    /// C of the kernel, a multiple of 8.
    pub channels: usize,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm<'_> {
    /// The least that a launch moves and computes; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let (rows, channels) = (self.rows.0 as u64, self.channels as u64);
        let row = channels * self.x.dtype().size() as u64;
        Cost {
            read: Bytes((rows + 2) * row),
            written: Bytes(rows * row),
            flop: 7 * rows * channels,
        }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `channels` is 0 or no multiple of 8, or a dimension passes `i32`;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (rows, channels) = (self.rows.0, self.channels);
        let whole = channels > 0 && channels.is_multiple_of(LAYER_NORM_VEC as usize);
        check_dim(whole, OP, "C", channels, "C must be a positive multiple of 8")?;
        let elements = product(OP, "R", rows, channels)?;
        check_len(OP, "x", elements, self.x.len())?;
        let dtype = self.x.dtype();
        check_types(
            OP,
            dtype,
            [("weight", self.weight.dtype()), ("bias", self.bias.dtype()), ("y", self.y.dtype())],
        )?;
        check_len(OP, "weight", channels, self.weight.len())?;
        check_len(OP, "bias", channels, self.bias.len())?;
        check_len(OP, "y", elements, self.y.len())?;
        let params = LayerNormParams {
            x: self.x.ptr(),
            weight: self.weight.ptr(),
            bias: self.bias.ptr(),
            y: self.y.ptr_mut(),
            R: dim(OP, "R", rows)?,
            C: dim(OP, "C", channels)?,
            eps: self.eps,
            pad: 0,
        };
        if rows == 0 {
            return Ok(());
        }
        let grid = Grid {
            blocks: [params.R.cast_unsigned(), 1, 1],
            threads: LAYER_NORM_THREADS,
            shared_bytes: 0,
        };
        // SAFETY: lengths are checked above; a view starts on a 16-byte boundary, and with
        // C % 8 == 0 so does each row; the borrows keep `y` apart from the inputs.
        unsafe { device.launch(dtype.pick(symbols!("layer_norm")), grid, &params) }?;
        Ok(())
    }
}
