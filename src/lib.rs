//! Qwen2-VL inference on hand-written CUDA kernels.
//!
//! The same binary runs its kernels on an NVIDIA GPU, or from their PTX on a software CUDA device
//! where there is no driver.

#[cfg(feature = "cli")]
pub mod cli;
#[expect(unsafe_code, reason = "calls the CUDA driver")]
pub mod device;
pub mod engine;
pub mod media;
pub mod model;
#[expect(unsafe_code, reason = "launches kernels after checking shapes")]
pub mod ops;
pub mod prompt;
pub mod reference;
pub mod settings;
pub mod units;
