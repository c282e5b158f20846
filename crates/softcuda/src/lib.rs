//! A software CUDA device: the driver API and a PTX executor on the CPU.

pub mod exec;
pub mod fault;
pub mod lower;
pub mod memory;
pub mod ptx;
