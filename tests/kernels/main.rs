//! Kernels against their oracles, on whatever device the machine has.

#[path = "../support/mod.rs"]
mod support;
