//! Float instructions, conversions, matrix instructions and asynchronous copies: every level
//! against models that share nothing with the handlers.
#![expect(
    clippy::panic,
    clippy::needless_range_loop,
    clippy::large_enum_variant,
    reason = "a test ends with the text of what went wrong; loops run over rows and columns"
)]

mod approx;
mod arithmetic;
mod compare;
mod convert;
mod copies;
mod exact;
mod harness;
mod matrix;
