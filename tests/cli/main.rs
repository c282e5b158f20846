//! The program as a user runs it: outputs, streams, exit statuses.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod answers;
mod chat;
mod device;
mod forward;
mod frames;
mod processor;
mod prompts;
mod video;
