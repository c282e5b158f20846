//! The only place that prints: results on standard output and nothing else there; notes, warnings,
//! errors and progress on standard error.

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde_json::{Value, json};

use super::{CliError, Common, When, error::exit};
use crate::settings;

/// Where a command's words go.
#[derive(Debug)]
pub(crate) struct Output {
    json: bool,
    quiet: bool,
    color: bool,
    progress: bool,
    /// Control characters of an answer could drive a terminal.
    filter: bool,
    /// Standard output was closed by its reader: not an error, the rest goes nowhere.
    closed: bool,
    /// There is no standard output.
    missing: bool,
}

/// Whether the process was given a standard output.
///
/// Rust's start-up opens `/dev/null` in the place of a closed one, so whoever wants to know looks
/// before it: see `src/main.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdout {
    /// Open, or nobody looked.
    Given,
    /// Closed: results would be lost without a word.
    Closed,
}

impl Output {
    pub(super) fn new(common: &Common, stdout: Stdout) -> Self {
        let terminal = io::stderr().is_terminal();
        let color = match common.color {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let forced = settings::text("CLICOLOR_FORCE").is_some_and(|value| value != "0");
                let dumb = settings::text("TERM").is_some_and(|term| term == "dumb");
                forced || terminal && !dumb && settings::text("NO_COLOR").is_none()
            }
        };
        let progress = match common.progress {
            When::Always => true,
            When::Never => false,
            When::Auto => terminal && !common.quiet,
        };
        let filter = io::stdout().is_terminal();
        let (json, quiet, missing) = (common.json, common.quiet, stdout == Stdout::Closed);
        Self { json, quiet, color, progress, filter, closed: false, missing }
    }

    /// Whether the result is to be one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A piece of an answer, shown at once.
    pub(crate) fn piece(&mut self, text: &str) -> Result<(), CliError> {
        if self.filter {
            let shown: String = text.chars().filter(|c| is_harmless(*c)).collect();
            self.write(&shown)?;
        } else {
            self.write(text)?;
        }
        self.flush()
    }

    /// A line of the result.
    pub(crate) fn line(&mut self, text: &str) -> Result<(), CliError> {
        self.write(text)?;
        self.write("\n")
    }

    /// The result as one JSON document.
    pub(crate) fn document(&mut self, value: &Value) -> Result<(), CliError> {
        let text = value.to_string();
        self.line(&text)
    }

    /// A line for people.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet {
            self.error_line(text);
        }
    }

    /// A warning with its stable code.
    pub(crate) fn warn(&mut self, code: &str, text: &str) {
        if !self.quiet {
            let head = self.paint("33", &format!("warning[{code}]"));
            self.error_line(&format!("{head}: {text}"));
        }
    }

    /// A line that the next one overwrites; only where people watch.
    pub(crate) fn status(&mut self, text: &str) {
        if self.progress {
            let mut stream = io::stderr();
            // A status line that cannot be shown is no loss.
            drop(write!(stream, "\r\x1b[2K{text}").and_then(|()| stream.flush()));
        }
    }

    /// Reports `error` on both streams as asked for, and gives the exit status.
    pub(super) fn fail(&mut self, error: &CliError) -> ExitCode {
        if self.json {
            let body =
                json!({ "code": error.code, "message": error.message(), "help": error.help });
            // The exit status still tells of the failure if nobody reads the document.
            drop(self.document(&json!({ "schema": "qwen2vl.error/1", "error": body })));
            drop(self.flush());
        }
        self.report(error);
        ExitCode::from(error.exit)
    }

    /// Reports an error that does not end the program, on standard error.
    pub(crate) fn report(&mut self, error: &CliError) {
        self.status("");
        let head = self.paint("31", &format!("error[{}]", error.code));
        self.error_line(&format!("{head}: {}", error.message()));
        if let Some(help) = &error.help {
            self.error_line(&format!("  help: {help}"));
        }
    }

    /// Invites a line of input, where people type.
    pub(crate) fn ask(&mut self, text: &str) {
        let mut stream = io::stderr();
        // Without it the line is read all the same.
        drop(write!(stream, "{text}").and_then(|()| stream.flush()));
    }

    /// Hands everything written so far to the reader.
    pub(crate) fn flush(&mut self) -> Result<(), CliError> {
        let done = io::stdout().flush();
        self.unless_closed(done)
    }

    fn write(&mut self, text: &str) -> Result<(), CliError> {
        if self.closed {
            return Ok(());
        }
        if self.missing {
            let what = "standard output is closed: there is nowhere to write the result";
            return Err(CliError::new("io", exit::INPUT, what));
        }
        let done = io::stdout().write_all(text.as_bytes());
        self.unless_closed(done)
    }

    fn unless_closed(&mut self, done: io::Result<()>) -> Result<(), CliError> {
        match done {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            done => Ok(done?),
        }
    }

    fn paint(&self, color: &str, text: &str) -> String {
        if self.color { format!("\x1b[1;{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    #[expect(clippy::unused_self, reason = "all printing goes through an Output")]
    fn error_line(&self, text: &str) {
        // If standard error is gone there is nobody to tell.
        drop(writeln!(io::stderr(), "{text}"));
    }
}

/// Prints clap's help, version or refusal.
pub(super) fn usage(error: &clap::Error, stdout: Stdout) -> ExitCode {
    // If the stream is gone there is nobody to tell.
    drop(error.print());
    if !error.use_stderr() && stdout == Stdout::Closed {
        return ExitCode::from(exit::INPUT);
    }
    ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::DONE })
}

fn is_harmless(c: char) -> bool {
    !c.is_control() || c == '\n' || c == '\t'
}
