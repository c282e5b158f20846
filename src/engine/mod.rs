//! The engine: requests in, tokens out. It plans every byte, owns the pages and the sequences, and
//! decides who takes part in the next step.

mod batch;
mod pages;
mod sampling;
mod timing;

pub use sampling::Sampling;
pub use timing::{Clock, Timings};

use crate::{device::DeviceError, units::Pages};

/// What ends a request, or keeps an engine from being built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A value of a request that is out of its range.
    #[error("{field} = {got}, but must be {allowed}")]
    InvalidRequest {
        /// The field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The page pool has too few free pages.
    #[error("{} key/value pages are needed, {} are free", wanted.0, free.0)]
    PagesExhausted {
        /// Pages that the request needs.
        wanted: Pages,
        /// Pages nobody holds.
        free: Pages,
    },
    /// The device failed.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A broken invariant of ours.
    #[error("internal error: {detail}")]
    Internal {
        /// What was found.
        detail: String,
    },
}

impl EngineError {
    pub(crate) fn internal(detail: String) -> Self {
        Self::Internal { detail }
    }
}
