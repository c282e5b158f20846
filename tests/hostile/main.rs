//! Broken input: each a typed error and an exit status, never a panic.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod attacks;
mod checkpoint;
mod corpus;
mod forward;
mod media;
mod program;
mod prompt;
mod video;
