//! What depends on the vector instructions of the host, beneath the instruction families.
//!
//! An instruction's work is written once, as a loop over lanes that is generic over
//! [`Simd`](super::op::Simd), and compiled for each level. The loop must give the same bits at
//! every level: it may ask for the level to choose a way to a result, never to choose the result.
//! Only the matrix instructions are written with intrinsics, in `avx2` and `avx512`.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod base;
pub(crate) mod mma;
pub(crate) mod round;
pub(crate) mod soft64;

use super::op::{Level, Simd};

/// Bit `i` of the result is the top bit of lane `i`.
///
/// # Safety
/// The processor has the level `L`, and the function is inlined into one of its handlers.
#[inline(always)]
pub(crate) unsafe fn top_bits<L: Simd>(lanes: &[u32; 32]) -> u32 {
    match L::LEVEL {
        // SAFETY: every x86-64 has SSE2.
        Level::Base => unsafe { base::top_bits(lanes) },
        // SAFETY: the caller's promise.
        Level::Avx2 => unsafe { avx2::top_bits(lanes) },
        // SAFETY: the caller's promise.
        Level::Avx512 => unsafe { avx512::top_bits(lanes) },
    }
}

/// `a·b + c` with one rounding, before NaN becomes canonical.
#[inline(always)]
pub(crate) fn fma32<L: Simd>(a: f32, b: f32, c: f32) -> f32 {
    match L::LEVEL {
        Level::Base => round::fma_odd(a, b, c) as f32,
        Level::Avx2 | Level::Avx512 => a.mul_add(b, c),
    }
}
