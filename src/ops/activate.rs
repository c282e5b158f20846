//! Activations that no epilogue of a linear layer has. Kernel `kernels/activate.cu`, oracle
//! [`crate::reference::activate`].

use super::params::{
    ACTIVATE_GELU, ACTIVATE_GELU_10, ACTIVATE_GELU_TANH, ACTIVATE_LEAKY_RELU, ACTIVATE_MISH,
    ACTIVATE_QUICK_GELU, ACTIVATE_RELU, ACTIVATE_RELU2, ACTIVATE_RELU6, ACTIVATE_SIGMOID,
    ACTIVATE_SILU, ACTIVATE_TANH, ACTIVATE_THREADS, ACTIVATE_VEC, ActivateParams,
};
use super::{Cost, OpError, check_dim, dim, symbols};
use crate::device::{Device, FloatViewMut, Grid};
use crate::units::{Activation, Bytes};

const OP: &str = "activate";

/// One launch over all numbers of a view, in place (docs/spec.md, vision fields).
#[derive(Debug)]
pub struct Activate<'a> {
    /// A multiple of 8 of them.
    pub y: FloatViewMut<'a>,
    /// What becomes of them.
    pub function: Activation,
}

impl Activate<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let bytes = Bytes((self.y.len() * self.y.dtype().size()) as u64);
        Cost { read: bytes, written: bytes, flop: 8 * self.y.len() as u64 }
    }

    /// Queues the kernel on the device's stream. No numbers is no launch, nor is `Linear`.
    ///
    /// # Errors
    /// [`OpError::Dim`] if their count is no multiple of 8 or passes the grid;
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (count, dtype) = (self.y.len(), self.y.dtype());
        let whole = count.is_multiple_of(ACTIVATE_VEC as usize);
        check_dim(whole, OP, "n", count, "n must be a multiple of 8")?;
        let blocks = count.div_ceil((ACTIVATE_THREADS * ACTIVATE_VEC) as usize);
        let blocks = [dim(OP, "n / 2048", blocks)?.cast_unsigned(), 1, 1];
        let Some(kind) = kind(self.function).filter(|_| count > 0) else { return Ok(()) };
        let params = ActivateParams {
            y: self.y.ptr_mut(),
            // A grid's blocks bound it.
            n: i64::try_from(count).unwrap_or(i64::MAX),
            kind: kind.cast_signed(),
            pad: 0,
        };
        let grid = Grid { blocks, threads: ACTIVATE_THREADS, shared_bytes: 0 };
        // SAFETY: a view starts on a 16-byte boundary and has a multiple of 8 elements; a thread
        // alone reads and writes its own.
        unsafe { device.launch(dtype.pick(symbols!("activate")), grid, &params) }?;
        Ok(())
    }
}

fn kind(function: Activation) -> Option<u32> {
    Some(match function {
        Activation::Linear => return None,
        Activation::QuickGelu => ACTIVATE_QUICK_GELU,
        Activation::Gelu => ACTIVATE_GELU,
        Activation::GeluTanh => ACTIVATE_GELU_TANH,
        Activation::Gelu10 => ACTIVATE_GELU_10,
        Activation::Silu => ACTIVATE_SILU,
        Activation::Relu => ACTIVATE_RELU,
        Activation::Relu2 => ACTIVATE_RELU2,
        Activation::Relu6 => ACTIVATE_RELU6,
        Activation::LeakyRelu => ACTIVATE_LEAKY_RELU,
        Activation::Sigmoid => ACTIVATE_SIGMOID,
        Activation::Tanh => ACTIVATE_TANH,
        Activation::Mish => ACTIVATE_MISH,
    })
}
