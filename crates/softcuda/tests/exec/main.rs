//! Kernels on the executor, without the driver API.
#![expect(clippy::panic, reason = "helpers of tests fail the test")]

mod control;
mod lowering;
mod memory;
mod support;
