//! Against what the reference implementation computes (tests/data/goldens).
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod animations;
mod cache;
mod forward;
mod frames;
mod generate;
mod logits;
mod pixels;
mod prompts;
mod qwen25;
mod resize;
mod rope;
mod sha256;
mod weights;
