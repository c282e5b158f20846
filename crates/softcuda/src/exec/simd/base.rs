//! Every x86-64: SSE2, no fused multiply-add.

use std::arch::x86_64::{_mm_loadu_ps, _mm_movemask_ps};

/// See [`super::top_bits`].
///
/// # Safety
/// None beyond that of the intrinsics, which every x86-64 has.
#[inline(always)]
pub(crate) unsafe fn top_bits(lanes: &[u32; 32]) -> u32 {
    let mut bits = 0;
    for (i, part) in lanes.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: `part` holds 16 bytes.
        let four = unsafe { _mm_movemask_ps(_mm_loadu_ps(part.as_ptr().cast())) };
        bits |= (four as u32) << (4 * i);
    }
    bits
}
