//! The model: its configuration, its weights and its forward passes.
//!
//! `config` and `generation_config` read JSON and know no device; `checkpoint`, `names` and
//! `weights` turn safetensors files into typed weight sets; `positions` computes M-RoPE positions
//! and rotary tables on the host.

pub mod config;
mod fields;
pub mod generation_config;
