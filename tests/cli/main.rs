//! The program as a user runs it: outputs, streams, exit statuses.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod device;
mod frames;
mod processor;
mod prompts;
mod video;
