//! What ends a command, with its stable code and exit status.

use std::error::Error;

use crate::{device::DeviceError, engine::checkpoint::CheckpointError, model::config::ConfigError};

/// Exit statuses (README, "Exit codes").
pub(crate) mod exit {
    pub(crate) const DONE: u8 = 0;
    pub(crate) const INTERNAL: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const INPUT: u8 = 3;
    pub(crate) const CHECKPOINT: u8 = 4;
    pub(crate) const DEVICE: u8 = 5;
    pub(crate) const MEMORY: u8 = 6;
    pub(crate) const DIFFERS: u8 = 7;
    pub(crate) const DEADLINE: u8 = 8;
    pub(crate) const NON_FINITE: u8 = 9;
    pub(crate) const INTERRUPTED: u8 = 130;
    pub(crate) const TERMINATED: u8 = 143;
}

/// The exit status of an error's code.
pub(crate) fn status(code: &str) -> u8 {
    match code {
        "invalid_request" | "unsupported" => exit::USAGE,
        "checkpoint_invalid" | "tokenizer_invalid" | "template_invalid" => exit::CHECKPOINT,
        "device_error" | "engine_poisoned" => exit::DEVICE,
        "out_of_memory" => exit::MEMORY,
        "deadline_exceeded" => exit::DEADLINE,
        "non_finite" => exit::NON_FINITE,
        "internal" => exit::INTERNAL,
        _ => exit::INPUT,
    }
}

/// A failed command: the code of its error, its exit status, and the chain of causes.
#[derive(Debug)]
pub(crate) struct CliError {
    pub(crate) code: &'static str,
    pub(crate) exit: u8,
    pub(crate) cause: Box<dyn Error + Send + Sync>,
    /// A line that names a way out.
    pub(crate) help: Option<String>,
}

impl CliError {
    /// An error with its code and exit status.
    pub(crate) fn new(
        code: &'static str,
        exit: u8,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        Self { code, exit, cause: cause.into(), help: None }
    }

    /// Arguments that contradict one another or name nothing.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("invalid_request", exit::USAGE, message.into())
    }

    /// A file that cannot be read or written.
    pub(crate) fn io(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::new("io", exit::INPUT, format!("{}: {error}", path.display()))
    }

    /// The same error with the place where it was met.
    pub(crate) fn within(self, place: &str) -> Self {
        let cause = format!("{place}: {}", self.message()).into();
        Self { cause, ..self }
    }

    /// The message with its causes.
    pub(crate) fn message(&self) -> String {
        let mut text = self.cause.to_string();
        let mut source = self.cause.source();
        while let Some(cause) = source {
            let line = cause.to_string();
            if !text.ends_with(&line) {
                text += ": ";
                text += &line;
            }
            source = cause.source();
        }
        text
    }
}

impl From<DeviceError> for CliError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::UnknownChoice(_) => Self::new("invalid_request", exit::USAGE, error),
            error => Self::new("device_error", exit::DEVICE, error),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(error.code(), checkpoint_exit(error.code()), error)
    }
}

impl From<CheckpointError> for CliError {
    fn from(error: CheckpointError) -> Self {
        Self::new(error.code(), checkpoint_exit(error.code()), error)
    }
}

/// Exit status of an error of a checkpoint's files.
fn checkpoint_exit(code: &str) -> u8 {
    match code {
        "unsupported" => exit::USAGE,
        "io" => exit::INPUT,
        _ => exit::CHECKPOINT,
    }
}

impl From<std::io::Error> for CliError {
    fn from(error: std::io::Error) -> Self {
        Self::new("io", exit::INPUT, error)
    }
}
