//! One file for each kernel: a typed launch that checks its shapes, and its cost.
//!
//! What is exported here is safe to call wrongly: it returns an error before anything is launched.

use crate::device::DeviceError;
use crate::units::{Bytes, FloatType};

pub mod activate;
mod attn;
pub mod attn_decode;
mod attn_f32;
pub mod attn_prefill;
pub mod attn_probs;
pub mod attn_vision;
pub mod embed;
pub mod gemm;
pub mod gemm_f32;
pub mod gemv;
mod grid;
pub mod kv;
pub mod kv_append;
pub mod kv_copy;
pub mod layer_norm;
pub mod mrope;
pub(crate) mod params;
pub mod patch_embed;
pub mod rms_norm;
pub mod rope_vision;
pub mod sample;
pub mod score_edits;
pub mod silu_mul;
pub mod top_scores;
pub mod work;

/// The entry points `KERNEL_bf16`, `KERNEL_f16` and `KERNEL_f32`, for
/// [`FloatType::pick`](crate::units::FloatType::pick).
macro_rules! symbols {
    ($kernel:literal) => {
        [concat!($kernel, "_bf16"), concat!($kernel, "_f16"), concat!($kernel, "_f32")]
    };
}
pub(crate) use symbols;

/// Why a launch was refused or failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// An argument's length does not fit the stated shape.
    #[error("{op}: {argument} has {found} elements, expected {expected}")]
    Shape {
        /// The kernel.
        op: &'static str,
        /// The field.
        argument: &'static str,
        /// Elements that the shape needs.
        expected: usize,
        /// Elements given.
        found: usize,
    },
    /// A dimension that the kernel cannot take.
    #[error("{op}: {dim} = {found}, but {rule}")]
    Dim {
        /// The kernel.
        op: &'static str,
        /// The dimension's letter.
        dim: &'static str,
        /// Its value.
        found: usize,
        /// What it must be.
        rule: &'static str,
    },
    /// Numbers of two types in one launch.
    #[error("{op}: {argument} is {found}, expected {expected}")]
    Type {
        /// The kernel.
        op: &'static str,
        /// The field.
        argument: &'static str,
        /// Type of the launch.
        expected: FloatType,
        /// Type given.
        found: FloatType,
    },
    /// The device refused the launch.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

/// The least that a launch moves and computes; each kernel's header derives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that must be read from device memory.
    pub read: Bytes,
    /// Bytes that must be written to device memory.
    pub written: Bytes,
    /// Floating-point operations, a multiply-add counted as two.
    pub flop: u64,
}

/// A dimension as the kernels take it.
pub(crate) fn dim(op: &'static str, dim: &'static str, found: usize) -> Result<i32, OpError> {
    let rule = "dimensions are below 2^31";
    i32::try_from(found).map_err(|_too_large| OpError::Dim { op, dim, found, rule })
}

/// The product of two dimensions as an element count.
pub(crate) fn product(
    op: &'static str,
    dim: &'static str,
    rows: usize,
    columns: usize,
) -> Result<usize, OpError> {
    let rule = "the element count passes the address space";
    rows.checked_mul(columns).ok_or(OpError::Dim { op, dim, found: rows, rule })
}

pub(crate) fn check_len(
    op: &'static str,
    argument: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), OpError> {
    if expected == found { Ok(()) } else { Err(OpError::Shape { op, argument, expected, found }) }
}

/// Refuses arguments of another type than the launch's.
pub(crate) fn check_types<const N: usize>(
    op: &'static str,
    expected: FloatType,
    arguments: [(&'static str, FloatType); N],
) -> Result<(), OpError> {
    match arguments.into_iter().find(|(_, found)| *found != expected) {
        None => Ok(()),
        Some((argument, found)) => Err(OpError::Type { op, argument, expected, found }),
    }
}

pub(crate) fn check_dim(
    holds: bool,
    op: &'static str,
    dim: &'static str,
    found: usize,
    rule: &'static str,
) -> Result<(), OpError> {
    if holds { Ok(()) } else { Err(OpError::Dim { op, dim, found, rule }) }
}
