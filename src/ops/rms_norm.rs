//! RMS normalisation of packed token rows, with or without the residual sum before it. Kernel
//! `kernels/rms_norm.cu`, oracle [`crate::reference::rms_norm`].

use super::params::{RMS_NORM_THREADS, RMS_NORM_VEC, RmsNormParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid};
use crate::units::{Bytes, FloatType, Tokens};

/// One launch: `y = weight * x / rms(x)` for each row (docs/spec.md, 15.1).
#[derive(Debug)]
pub struct RmsNorm<'a> {
    /// `[rows, channels]`.
    pub x: FloatView<'a>,
    /// `[channels]`.
    pub weight: FloatView<'a>,
    /// `[rows, channels]`, written whole.
    pub y: FloatViewMut<'a>,
    /// T of the kernel.
    pub rows: Tokens,
    /// C of the kernel, a multiple of 8.
    pub channels: usize,
    /// Added to the mean square: `rms_norm_eps` of the configuration.
    pub eps: f32,
}

impl RmsNorm<'_> {
    /// The least that a launch moves; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let (rows, row) = (self.rows.0 as u64, row_bytes(self.channels, self.x.dtype()));
        let flop = 5 * rows * self.channels as u64;
        Cost { read: Bytes((rows + 1) * row), written: Bytes(rows * row), flop }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `channels` is 0 or no multiple of 8, or a dimension passes `i32`;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        const OP: &str = "rms_norm";
        let (rows, channels) = (self.rows.0, self.channels);
        let all = check(OP, rows, channels)?;
        check_len(OP, "x", all, self.x.len())?;
        let dtype = self.x.dtype();
        check_types(OP, dtype, [("weight", self.weight.dtype()), ("y", self.y.dtype())])?;
        check_len(OP, "weight", channels, self.weight.len())?;
        check_len(OP, "y", all, self.y.len())?;
        let params = RmsNormParams {
            x: self.x.ptr(),
            residual: std::ptr::null_mut(),
            weight: self.weight.ptr(),
            y: self.y.ptr_mut(),
            T: dim(OP, "T", rows)?,
            C: dim(OP, "C", channels)?,
            eps: self.eps,
            pad: 0,
        };
        launch(device, dtype, &params)
    }
}

/// One launch: `residual = E(residual + x)`, then `y = weight * residual / rms(residual)`.
#[derive(Debug)]
pub struct RmsNormResidual<'a> {
    /// `[rows, channels]`: what is added.
    pub x: FloatView<'a>,
    /// `[rows, channels]`, rewritten.
    pub residual: FloatViewMut<'a>,
    /// `[channels]`.
    pub weight: FloatView<'a>,
    /// `[rows, channels]`, written whole.
    pub y: FloatViewMut<'a>,
    /// T of the kernel.
    pub rows: Tokens,
    /// C of the kernel, a multiple of 8.
    pub channels: usize,
    /// Added to the mean square: `rms_norm_eps` of the configuration.
    pub eps: f32,
}

impl RmsNormResidual<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let (rows, row) = (self.rows.0 as u64, row_bytes(self.channels, self.x.dtype()));
        let flop = 6 * rows * self.channels as u64;
        Cost { read: Bytes((2 * rows + 1) * row), written: Bytes(2 * rows * row), flop }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// As [`RmsNorm::launch`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        const OP: &str = "rms_norm_residual";
        let (rows, channels) = (self.rows.0, self.channels);
        let all = check(OP, rows, channels)?;
        check_len(OP, "x", all, self.x.len())?;
        let dtype = self.x.dtype();
        let others = [("weight", self.weight.dtype()), ("y", self.y.dtype())];
        check_types(OP, dtype, others)?;
        check_types(OP, dtype, [("residual", self.residual.dtype())])?;
        check_len(OP, "residual", all, self.residual.len())?;
        check_len(OP, "weight", channels, self.weight.len())?;
        check_len(OP, "y", all, self.y.len())?;
        let params = RmsNormParams {
            x: self.x.ptr(),
            residual: self.residual.ptr_mut(),
            weight: self.weight.ptr(),
            y: self.y.ptr_mut(),
            T: dim(OP, "T", rows)?,
            C: dim(OP, "C", channels)?,
            eps: self.eps,
            pad: 0,
        };
        launch(device, dtype, &params)
    }
}

/// Elements of a `[rows, channels]` matrix that the kernel can take.
fn check(op: &'static str, rows: usize, channels: usize) -> Result<usize, OpError> {
    let whole = channels > 0 && channels.is_multiple_of(RMS_NORM_VEC as usize);
    check_dim(whole, op, "C", channels, "C must be a positive multiple of 8")?;
    product(op, "T", rows, channels)
}

fn row_bytes(channels: usize, dtype: FloatType) -> u64 {
    (channels * dtype.size()) as u64
}

fn launch(device: &Device, dtype: FloatType, params: &RmsNormParams) -> Result<(), OpError> {
    if params.T == 0 {
        return Ok(());
    }
    let blocks = [params.T.cast_unsigned(), 1, 1];
    let grid = Grid { blocks, threads: RMS_NORM_THREADS, shared_bytes: 0 };
    // SAFETY: both callers checked every length against T and C; a `View` starts on a 16-byte
    // boundary and rows are a multiple of 16 bytes; the borrows keep `y` and `residual` apart from
    // the inputs and from each other; memory is freed in stream order, after this launch.
    unsafe { device.launch(dtype.pick(symbols!("rms_norm")), grid, params) }?;
    Ok(())
}
