//! Operations: what a lowered kernel is made of, and how one hands over to the next.
//!
//! A kernel is one array of [`Op`]s, cut into basic blocks that end in a terminator. A handler
//! does the work of its op for all active lanes and calls the handler of the next op in tail
//! position ([`next`]); a terminator returns the position at which to go on to the loop of
//! `sched.rs`. So a chain of calls never crosses a block, and blocks are cut at 256 ops.

use super::warp::Warp;

/// A warp register: 32 lanes of 32 bits. A 64-bit value is two consecutive registers, low words
/// first. A value of 8 or 16 bits is one register whose upper bits are zero.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(128))]
pub struct Reg(pub [u32; 32]);

/// A handler: registers of the warp, its op, the warp, and the active lanes (never 0).
pub type Handler = unsafe extern "C" fn(*mut Reg, *const Op, &mut Warp, u32) -> *const Op;

/// One operation, 48 bytes. `d a b c` and `x` are indices of warp registers (×128 bytes from the
/// register base) or of masks (see [`mask`]), as the handler says. A handler that needs more
/// operands than twelve takes four more from the bytes of `imm` ([`Op::y`]).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Op {
    /// The handler.
    pub handler: Handler,
    /// Destination, usually.
    pub d: u16,
    /// First source, usually; for a memory operation its address (two registers if 64-bit).
    pub a: u16,
    /// Second source, usually.
    pub b: u16,
    /// Third source, usually.
    pub c: u16,
    /// More operands: vector loads and stores, `mma`, `ldmatrix`.
    pub x: [u16; 8],
    /// Immediate: offset of an address, modifiers packed by the family, or four indices.
    pub imm: u64,
    /// Distance in ops to a branch target.
    pub jmp: i32,
    /// Index into the kernel's table of instructions (`Kernel::sites`).
    pub loc: u32,
}

impl Op {
    /// The four indices packed into `imm`, lowest 16 bits first.
    #[inline(always)]
    #[must_use]
    pub fn y(&self, i: usize) -> u16 {
        (self.imm >> (16 * i)) as u16
    }
}

/// Goes on with the op after `p`.
///
/// # Safety
/// `p` must not be the last op of its block, and the arguments must be those of a handler.
#[inline(always)]
pub unsafe fn next(r: *mut Reg, p: *const Op, w: &mut Warp, m: u32) -> *const Op {
    // SAFETY: the caller says that another op follows.
    unsafe {
        let n = p.add(1);
        ((*n).handler)(r, n, w, m)
    }
}

/// SIMD level of the handlers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// SSE2.
    Base,
    /// AVX2, FMA, F16C, BMI.
    Avx2,
    /// AVX-512 F, BW, DQ, VL (and CD, VPOPCNTDQ are not assumed).
    Avx512,
}

impl Level {
    /// The highest level that this processor has.
    #[must_use]
    pub fn detect() -> Self {
        let avx2 = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        if avx512 {
            Level::Avx512
        } else if avx2 {
            Level::Avx2
        } else {
            Level::Base
        }
    }
}

/// A level as a type, so that a body can ask for it at compile time.
pub trait Simd {
    /// The level.
    const LEVEL: Level;
}
/// [`Level::Base`].
#[derive(Debug)]
pub struct Base;
/// [`Level::Avx2`].
#[derive(Debug)]
pub struct Avx2;
/// [`Level::Avx512`].
#[derive(Debug)]
pub struct Avx512;
impl Simd for Base {
    const LEVEL: Level = Level::Base;
}
impl Simd for Avx2 {
    const LEVEL: Level = Level::Avx2;
}
impl Simd for Avx512 {
    const LEVEL: Level = Level::Avx512;
}

/// The body of an operation, compiled three times by [`pick`]. Implementations are marked
/// `#[inline(always)]`: the body then compiles with the features of the level that it is inlined
/// into. A body that wants intrinsics calls a `#[target_feature]` function under
/// `if L::LEVEL == Level::Avx512`.
pub trait Exec {
    /// Whether the op reads nothing but its operands (and, without operands, what stays the same for
    /// a block), writes nothing but its results and never fails: it may then run earlier, once
    /// instead of twice, or not at all.
    const PURE: bool = false;

    /// Runs the op for the lanes of `m` (not 0). True: go on with the next op. False: leave the
    /// chain at this op, after [`Warp::fault`] or an event in the warp.
    ///
    /// # Safety
    /// The arguments are those of a handler of this op.
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool;
}

unsafe extern "C" fn base<E: Exec>(r: *mut Reg, p: *const Op, w: &mut Warp, m: u32) -> *const Op {
    // SAFETY: the arguments are passed on.
    unsafe { if E::run::<Base>(r, &*p, w, m) { next(r, p, w, m) } else { p } }
}

#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt")]
unsafe extern "C" fn avx2<E: Exec>(r: *mut Reg, p: *const Op, w: &mut Warp, m: u32) -> *const Op {
    // SAFETY: the arguments are passed on.
    unsafe { if E::run::<Avx2>(r, &*p, w, m) { next(r, p, w, m) } else { p } }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
)]
unsafe extern "C" fn avx512<E: Exec>(r: *mut Reg, p: *const Op, w: &mut Warp, m: u32) -> *const Op {
    // SAFETY: the arguments are passed on.
    unsafe { if E::run::<Avx512>(r, &*p, w, m) { next(r, p, w, m) } else { p } }
}

/// The handler of `E` at a level.
#[must_use]
pub fn pick<E: Exec>(level: Level) -> Handler {
    match level {
        Level::Base => base::<E>,
        Level::Avx2 => avx2::<E>,
        Level::Avx512 => avx512::<E>,
    }
}

/// The 32 lanes of register `i`.
///
/// # Safety
/// `i` is a register of this kernel.
#[inline(always)]
pub unsafe fn reg<'a>(r: *mut Reg, i: u16) -> &'a [u32; 32] {
    // SAFETY: the caller's promise; the reference is not kept over a write.
    unsafe { &(*r.add(i as usize)).0 }
}

/// Writes the lanes of `m` of register `i`.
///
/// # Safety
/// `i` is a register of this kernel, and `L` a level that the processor has.
#[inline(always)]
pub unsafe fn put<L: Simd>(r: *mut Reg, i: u16, m: u32, v: &[u32; 32]) {
    // SAFETY: the caller's promise.
    unsafe {
        let d = r.add(i as usize);
        if m == !0 {
            (*d).0 = *v;
        } else if L::LEVEL == Level::Avx512 {
            put512(d.cast(), m, v);
        } else {
            for (lane, v) in v.iter().enumerate() {
                let k = 0u32.wrapping_sub((m >> lane) & 1);
                (*d).0[lane] = (*v & k) | ((*d).0[lane] & !k);
            }
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn put512(d: *mut i32, m: u32, v: &[u32; 32]) {
    use std::arch::x86_64::{_mm512_loadu_si512, _mm512_mask_storeu_epi32};
    // SAFETY: both point to 128 bytes.
    unsafe {
        let s = v.as_ptr().cast::<i32>();
        _mm512_mask_storeu_epi32(d, m as u16, _mm512_loadu_si512(s.cast()));
        _mm512_mask_storeu_epi32(d.add(16), (m >> 16) as u16, _mm512_loadu_si512(s.add(16).cast()));
    }
}

/// The 64-bit value of a lane in registers `i`, `i + 1`.
///
/// # Safety
/// Both are registers of this kernel.
#[inline(always)]
pub unsafe fn wide(r: *mut Reg, i: u16, lane: usize) -> u64 {
    // SAFETY: the caller's promise.
    unsafe { u64::from(reg(r, i)[lane]) | (u64::from(reg(r, i + 1)[lane]) << 32) }
}

/// Writes the lanes of `m` of the 64-bit registers `i`, `i + 1`.
///
/// # Safety
/// As [`put`].
#[inline(always)]
pub unsafe fn put_wide<L: Simd>(r: *mut Reg, i: u16, m: u32, v: &[u64; 32]) {
    let mut lo = [0u32; 32];
    let mut hi = [0u32; 32];
    for lane in 0..32 {
        lo[lane] = v[lane] as u32;
        hi[lane] = (v[lane] >> 32) as u32;
    }
    // SAFETY: the caller's promise.
    unsafe {
        put::<L>(r, i, m, &lo);
        put::<L>(r, i + 1, m, &hi);
    }
}

/// Predicate `i`: one bit a lane. The masks lie below the register base.
///
/// # Safety
/// `i` is a mask of this kernel.
#[inline(always)]
pub unsafe fn mask(r: *mut Reg, i: u16) -> u32 {
    // SAFETY: the caller's promise.
    unsafe { *r.cast::<u32>().sub(1 + i as usize) }
}

/// Writes the lanes of `m` of predicate `i`.
///
/// # Safety
/// `i` is a mask of this kernel.
#[inline(always)]
pub unsafe fn put_mask(r: *mut Reg, i: u16, m: u32, v: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let d = r.cast::<u32>().sub(1 + i as usize);
        *d = (*d & !m) | (v & m);
    }
}
