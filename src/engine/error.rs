//! What ends a request, or keeps an engine from being built.

use crate::{
    device::DeviceError,
    media::MediaError,
    model::{ModelError, checkpoint::CheckpointError, config::ConfigError},
    ops::OpError,
    prompt::PromptError,
    units::{Bytes, Pages, Tokens},
};

/// What ends a request, or keeps an engine from being built. [`EngineError::code`] is stable.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A value of a request or builder that is out of its range.
    #[error("{field} = {got}, but must be {allowed}")]
    InvalidRequest {
        /// The field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A conversation that cannot become a prompt, its media among the causes.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Settings of the processor.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// The checkpoint, or a forward pass.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The prompt and the answer pass the longest sequence.
    #[error(
        "{} prompt tokens ({} of them of pictures) + {} new tokens > {}",
        prompt.0, image.0, max_new.0, limit.0
    )]
    ContextLength {
        /// Tokens of the prompt.
        prompt: Tokens,
        /// Those of them that stand for pictures.
        image: Tokens,
        /// Tokens asked for.
        max_new: Tokens,
        /// Longest sequence of the engine.
        limit: Tokens,
    },
    /// A picture whose own pixel budget passes what the engine was planned for.
    #[error("{source_name} has {patches} patches, but the engine takes {limit} in one picture")]
    PictureTooLarge {
        /// Path or size of its source.
        source_name: String,
        /// Patches after the resize.
        patches: usize,
        /// Most patches of a run of the tower.
        limit: usize,
    },
    /// The page pool cannot hold the sequence.
    #[error("{} key/value pages are needed, {} are free", wanted.0, free.0)]
    PagesExhausted {
        /// Pages that the request needs.
        wanted: Pages,
        /// Pages nobody holds.
        free: Pages,
    },
    /// The plan does not fit the memory.
    #[error("{need} of device memory are needed, {budget} may be used; {largest} take {bytes}")]
    Memory {
        /// Bytes of the whole plan.
        need: Bytes,
        /// Bytes that it may use.
        budget: Bytes,
        /// Its largest part.
        largest: &'static str,
        /// Bytes of that part.
        bytes: Bytes,
    },
    /// The deadline came before the first token.
    #[error("the deadline came before the first token")]
    Deadline,
    /// NaN or infinity in the logits: the checkpoint or a kernel is broken.
    #[error("the logits of token {position} are not finite (status {status})")]
    NonFinite {
        /// Place of the token in its sequence.
        position: usize,
        /// Status word of the kernels.
        status: u32,
    },
    /// The device failed during an earlier step; this engine answers no more.
    #[error("the device failed before: {cause}")]
    Poisoned {
        /// The first failure.
        cause: String,
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

impl From<ConfigError> for EngineError {
    fn from(error: ConfigError) -> Self {
        Self::Model(error.into())
    }
}

impl From<CheckpointError> for EngineError {
    fn from(error: CheckpointError) -> Self {
        Self::Model(error.into())
    }
}

impl From<OpError> for EngineError {
    fn from(error: OpError) -> Self {
        Self::Model(error.into())
    }
}

impl EngineError {
    pub(crate) fn internal(detail: String) -> Self {
        Self::Internal { detail }
    }

    /// The stable name of this kind of error, the same in JSON and logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid_request",
            Self::Prompt(error) => error.code(),
            Self::Media(error) => error.code(),
            Self::Model(error) => error.code(),
            Self::PictureTooLarge { .. } => "limit_exceeded",
            Self::ContextLength { .. } => "context_length_exceeded",
            Self::PagesExhausted { .. } | Self::Memory { .. } => "out_of_memory",
            Self::Deadline => "deadline_exceeded",
            Self::NonFinite { .. } => "non_finite",
            Self::Poisoned { .. } => "engine_poisoned",
            Self::Device(_) => "device_error",
            Self::Internal { .. } => "internal",
        }
    }
}
