//! Facts about the repository that no compiler checks.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod documents;
mod kernels;
mod layers;
mod licences;
mod parity;
mod source;
