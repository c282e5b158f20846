//! The program as a user runs it on bad input.

use std::{path::Path, process::Command};

/// Contradictory or unsupported.
pub(crate) const USAGE: u8 = 2;
/// A file that is missing or unreadable, a picture, a prompt.
pub(crate) const INPUT: u8 = 3;
/// A broken checkpoint.
pub(crate) const CHECKPOINT: u8 = 4;

/// What a run of the program left.
pub(crate) struct Done {
    status: Option<i32>,
    output: String,
    said: String,
}

/// Runs `qwen2vl ARGUMENTS MODEL`.
pub(crate) fn run(arguments: &[&str], model: &Path) -> Done {
    let program = env!("CARGO_BIN_EXE_qwen2vl");
    let done = Command::new(program).args(arguments).arg(model).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Done {
        status: done.status.code(),
        output: text(&done.stdout),
        said: text(&done.stdout) + &text(&done.stderr),
    }
}

impl Done {
    /// Everything on both streams.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// The exit status; a panic has 101, a signal none.
    #[track_caller]
    pub(crate) fn assert_status(&self, status: u8) {
        let said = &self.said;
        assert_eq!(self.status, Some(i32::from(status)), "{said}");
        assert!(status != 0 || !self.output.is_empty(), "nothing on standard output");
    }
}
