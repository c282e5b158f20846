//! The model: its configuration, its weights and its forward passes.
//!
//! `config` and `generation_config` read JSON and know no device; `checkpoint`, `names` and
//! `weights` turn safetensors files into typed weight sets; `positions` computes M-RoPE positions
//! and rotary tables on the host.

pub mod checkpoint;
pub mod config;
mod fields;
pub mod generation_config;
pub mod names;
pub mod positions;
pub mod rope;
pub mod weights;

use self::{checkpoint::CheckpointError, config::ConfigError, positions::PositionError};
use crate::{device::DeviceError, ops::OpError};

/// What can go wrong between a checkpoint folder and the output of a forward pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A JSON file of settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A weight file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Token ids, mask and grids that do not fit one another.
    #[error(transparent)]
    Position(#[from] PositionError),
    /// A launch that was refused.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}
