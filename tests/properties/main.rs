//! Properties that hold for every input, tried on random ones.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod layouts;
mod media;
mod model;
mod prompt;
mod sizes;
