//! PTX text and the containers that it comes in.
//!
//! Input is hostile: nothing here panics, indexes unchecked, recurses without a bound or takes
//! more than linear time. Nothing here knows what an instruction does.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

pub mod ast;
pub mod cubin;
pub mod fatbin;
mod lexer;
pub mod linetable;
mod parser;
pub mod types;

pub use parser::{HIGHEST_VERSION, parse};
