//! Scalar versions of every kernel: the oracles of the tests. Written from the formulas, with sums
//! in f64; named by tests and benches alone.

pub mod embed;
pub mod gemm;
pub mod patch_embed;
pub mod rms_norm;
pub mod sample;
pub mod silu_mul;
