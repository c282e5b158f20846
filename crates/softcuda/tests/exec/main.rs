//! Kernels on the executor, without the driver API.

mod control;
mod support;
