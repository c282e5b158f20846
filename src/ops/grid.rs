//! Grids of kernels that give every thread one piece of the work.

use super::{OpError, dim};

/// Blocks of `block` threads that hold `threads` threads, which the kernels number in 32 bits.
pub(super) fn of_threads(
    op: &'static str,
    letter: &'static str,
    threads: usize,
    block: u32,
) -> Result<[u32; 3], OpError> {
    let threads = dim(op, letter, threads)?.cast_unsigned();
    Ok([threads.div_ceil(block), 1, 1])
}
