//! Kernels on the executor, without the driver API.

mod control;
mod lowering;
mod memory;
mod support;
