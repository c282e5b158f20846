//! The gate of SwiGLU on plain halves. Kernel `kernels/silu_mul.cu`, oracle
//! [`crate::reference::silu_mul`].

use super::params::{SILU_MUL_THREADS, SILU_MUL_VEC, SiluMulParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid};
use crate::units::{Bytes, Tokens};

const OP: &str = "silu_mul";

/// One launch: `y[t, f] = silu(gate_up[t, f]) * gate_up[t, width + f]` (docs/spec.md, 15.1).
#[derive(Debug)]
pub struct SiluMul<'a> {
    /// `[rows, 2 * width]`: the gate's columns, then those of up.
    pub gate_up: FloatView<'a>,
    /// `[rows, width]`, written whole.
    pub y: FloatViewMut<'a>,
    /// T of the kernel.
    pub rows: Tokens,
    /// F of the kernel, a multiple of 8.
    pub width: usize,
}

impl SiluMul<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let row = (self.width * self.gate_up.dtype().size()) as u64;
        let (rows, flop) = (self.rows.0 as u64, 5 * (self.rows.0 * self.width) as u64);
        Cost { read: Bytes(2 * rows * row), written: Bytes(rows * row), flop }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `width` is 0 or no multiple of 8, or a dimension passes `i32`;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (rows, width) = (self.rows.0, self.width);
        let whole = width > 0 && width.is_multiple_of(SILU_MUL_VEC as usize);
        check_dim(whole, OP, "F", width, "F must be a positive multiple of 8")?;
        let all = product(OP, "T", rows, width)?;
        check_len(OP, "gate_up", product(OP, "T", all, 2)?, self.gate_up.len())?;
        check_len(OP, "y", all, self.y.len())?;
        let dtype = self.gate_up.dtype();
        check_types(OP, dtype, [("y", self.y.dtype())])?;
        if rows == 0 {
            return Ok(());
        }
        let params = SiluMulParams {
            gate_up: self.gate_up.ptr(),
            y: self.y.ptr_mut(),
            T: dim(OP, "T", rows)?,
            F: dim(OP, "F", width)?,
        };
        let blocks = rows * width.div_ceil((SILU_MUL_THREADS * SILU_MUL_VEC) as usize);
        let blocks = [dim(OP, "T * F / 2048", blocks)?.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: SILU_MUL_THREADS, shared_bytes: 0 };
        // SAFETY: lengths are checked above; a `View` starts on a 16-byte boundary and F % 8 == 0;
        // the borrows keep `y` apart from `gate_up`; memory is freed in stream order.
        unsafe { device.launch(dtype.pick(symbols!("silu_mul")), grid, &params) }?;
        Ok(())
    }
}
