//! Qwen2-VL inference on hand-written CUDA kernels.

pub mod units;
