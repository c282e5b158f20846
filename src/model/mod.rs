//! The model: its configuration, its weights and its forward passes.
//!
//! `config` and `generation_config` read JSON and know no device; `checkpoint`, `names` and
//! `weights` turn safetensors files into typed weight sets; `positions` computes M-RoPE positions
//! and rotary tables on the host. `vision` and `decoder` are the two forward passes over the buffers
//! of `workspace`; [`Model`] holds both.

pub mod checkpoint;
pub mod config;
pub mod decoder;
pub mod generation_config;
pub mod names;
mod passes;
pub mod positions;
pub mod rope;
pub mod vision;
pub mod weights;
pub mod windows;
pub mod workspace;

pub use passes::{Model, ModelOptions};

use self::{checkpoint::CheckpointError, config::ConfigError, positions::PositionError};
use crate::{device::DeviceError, ops::OpError, units::GridThw};

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
    /// A grid that no picture has, or that is too large for the tower.
    #[error("grid {grid} does not fit the vision tower")]
    Grid {
        /// The grid in patches.
        grid: GridThw,
    },
    /// Rows of pixels that do not match their grid.
    #[error("pixel_values has {found} rows, grid {grid} needs {expected}")]
    PixelRows {
        /// Rows given.
        found: usize,
        /// Rows of the grid.
        expected: usize,
        /// The grid in patches.
        grid: GridThw,
    },
    /// Frames were given to a model that was loaded without the processor's byte values.
    #[error("this model was loaded for pixel_values, not for frames")]
    NoByteTable,
    /// A step that the workspace was not planned for.
    #[error("the step is larger than the memory planned for it")]
    StepTooLarge,
    /// A launch that was refused.
    #[error(transparent)]
    Op(#[from] OpError),
    /// The device.
    #[error(transparent)]
    Device(#[from] DeviceError),
}

impl ModelError {
    /// The stable name of this kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(error) => error.code(),
            Self::Checkpoint(_) => "checkpoint_invalid",
            Self::Position(_) | Self::Grid { .. } | Self::PixelRows { .. } => "prompt_invalid",
            Self::Device(_) | Self::Op(OpError::Device(_)) => "device_error",
            Self::NoByteTable | Self::StepTooLarge | Self::Op(_) => "internal",
        }
    }
}
