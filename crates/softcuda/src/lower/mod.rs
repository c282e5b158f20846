//! From PTX to ops.

pub mod emit;
