//! Predicate logic and special registers.

use crate::exec::op::{Exec, Op, Reg, Simd, mask, put_mask};
use crate::exec::warp::Warp;

/// `d = !a` of predicates.
#[derive(Debug)]
pub struct NotMask;

impl Exec for NotMask {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `d` and `a` are masks of the kernel.
        unsafe { put_mask(r, p.d, m, !mask(r, p.a)) };
        true
    }
}
