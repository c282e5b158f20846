//! Float instructions, conversions, matrix instructions and asynchronous copies: every level
//! against models that share nothing with the handlers.

mod approx;
mod arithmetic;
mod compare;
mod convert;
mod copies;
mod exact;
mod harness;
mod matrix;
