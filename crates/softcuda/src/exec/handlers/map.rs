//! Operations that do the same to every lane: the loops around lane functions.

use std::marker::PhantomData;

use crate::exec::op::{Exec, Op, Reg, Simd, mask, put, put_mask, put_wide, reg, wide};
use crate::exec::simd::top_bits;
use crate::exec::warp::Warp;

/// What a lane holds: one register or two.
pub(crate) trait Word: Copy + Default {
    /// Registers.
    const WIDTH: u16;

    /// Lane `lane` of register `i`.
    ///
    /// # Safety
    /// `i` (and `i + 1`, if wide) is a register of the kernel.
    unsafe fn get(r: *mut Reg, i: u16, lane: usize) -> Self;

    /// Writes the lanes of `m`.
    ///
    /// # Safety
    /// As [`Word::get`], and the processor has the level.
    unsafe fn set<L: Simd>(r: *mut Reg, i: u16, m: u32, v: &[Self; 32]);
}

impl Word for u32 {
    const WIDTH: u16 = 1;

    #[inline(always)]
    unsafe fn get(r: *mut Reg, i: u16, lane: usize) -> u32 {
        // SAFETY: the caller's promise.
        unsafe { reg(r, i)[lane] }
    }

    #[inline(always)]
    unsafe fn set<L: Simd>(r: *mut Reg, i: u16, m: u32, v: &[u32; 32]) {
        // SAFETY: the caller's promise.
        unsafe { put::<L>(r, i, m, v) }
    }
}

impl Word for u64 {
    const WIDTH: u16 = 2;

    #[inline(always)]
    unsafe fn get(r: *mut Reg, i: u16, lane: usize) -> u64 {
        // SAFETY: the caller's promise.
        unsafe { wide(r, i, lane) }
    }

    #[inline(always)]
    unsafe fn set<L: Simd>(r: *mut Reg, i: u16, m: u32, v: &[u64; 32]) {
        // SAFETY: the caller's promise.
        unsafe { put_wide::<L>(r, i, m, v) }
    }
}

/// A function of one lane value. `imm` is the op's immediate: modifiers that need no handler of
/// their own.
pub(crate) trait Unary {
    /// Source.
    type A: Word;
    /// Result.
    type D: Word;
    /// One lane.
    fn lane<L: Simd>(a: Self::A, imm: u64) -> Self::D;
}

/// A function of two lane values.
pub(crate) trait Binary {
    /// Sources.
    type A: Word;
    /// Result.
    type D: Word;
    /// One lane.
    fn lane<L: Simd>(a: Self::A, b: Self::A, imm: u64) -> Self::D;
}

/// A function of three lane values.
pub(crate) trait Ternary {
    /// Sources and result.
    type A: Word;
    /// One lane.
    fn lane<L: Simd>(a: Self::A, b: Self::A, c: Self::A, imm: u64) -> Self::A;
}

/// A test of two lane values; the result is true if the top bit is set.
pub(crate) trait Test {
    /// Sources.
    type A: Word;
    /// One lane.
    fn lane<L: Simd>(a: Self::A, b: Self::A, imm: u64) -> u32;
}

/// `d = F(a)`.
pub(crate) struct Map1<F>(PhantomData<F>);
/// `d = F(a, b)`.
pub(crate) struct Map2<F>(PhantomData<F>);
/// `d = F(a, b, c)`.
pub(crate) struct Map3<F>(PhantomData<F>);
/// Mask `d = F(a, b)`.
pub(crate) struct MapTest<F>(PhantomData<F>);

impl<F: Unary> Exec for Map1<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        let mut d = [F::D::default(); 32];
        for (lane, d) in d.iter_mut().enumerate() {
            // SAFETY: `a` is a register of the kernel.
            *d = F::lane::<L>(unsafe { F::A::get(r, p.a, lane) }, p.imm);
        }
        // SAFETY: `d` is a register of the kernel.
        unsafe { F::D::set::<L>(r, p.d, m, &d) };
        true
    }
}

impl<F: Binary> Exec for Map2<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        let mut d = [F::D::default(); 32];
        for (lane, d) in d.iter_mut().enumerate() {
            // SAFETY: `a` and `b` are registers of the kernel.
            let (a, b) = unsafe { (F::A::get(r, p.a, lane), F::A::get(r, p.b, lane)) };
            *d = F::lane::<L>(a, b, p.imm);
        }
        // SAFETY: `d` is a register of the kernel.
        unsafe { F::D::set::<L>(r, p.d, m, &d) };
        true
    }
}

impl<F: Ternary> Exec for Map3<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        let mut d = [F::A::default(); 32];
        for (lane, d) in d.iter_mut().enumerate() {
            // SAFETY: `a`, `b` and `c` are registers of the kernel.
            let (a, b, c) = unsafe {
                (F::A::get(r, p.a, lane), F::A::get(r, p.b, lane), F::A::get(r, p.c, lane))
            };
            *d = F::lane::<L>(a, b, c, p.imm);
        }
        // SAFETY: `d` is a register of the kernel.
        unsafe { F::A::set::<L>(r, p.d, m, &d) };
        true
    }
}

impl<F: Test> Exec for MapTest<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        let mut lanes = [0; 32];
        for (lane, d) in lanes.iter_mut().enumerate() {
            // SAFETY: `a` and `b` are registers of the kernel.
            let (a, b) = unsafe { (F::A::get(r, p.a, lane), F::A::get(r, p.b, lane)) };
            *d = F::lane::<L>(a, b, p.imm);
        }
        // SAFETY: `L` is the level of this handler.
        let result = unsafe { top_bits::<L>(&lanes) };
        // SAFETY: `d` is a mask of the kernel.
        unsafe { put_mask(r, p.d, m, result) };
        true
    }
}

/// `yes` where bit `lane` of `choice` is set, else `no`; in a form that vectorises.
#[inline(always)]
pub(crate) fn choose(choice: u32, lane: usize, yes: u32, no: u32) -> u32 {
    no ^ (no ^ yes) & 0u32.wrapping_sub(choice >> lane & 1)
}

/// `d = a ? b : c` by mask `a`, in values of one or two registers.
pub(crate) struct Select<W>(PhantomData<W>);

impl<W: Word> Exec for Select<W> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        let mut d = [[0; 32]; 2];
        // SAFETY: `a` is a mask; `b`, `c` and `d` are registers of the kernel, pairs if wide.
        unsafe {
            let choice = mask(r, p.a);
            for part in 0..W::WIDTH {
                let (yes, no) = (reg(r, p.b + part), reg(r, p.c + part));
                for lane in 0..32 {
                    d[usize::from(part)][lane] = choose(choice, lane, yes[lane], no[lane]);
                }
            }
            for part in 0..W::WIDTH {
                put::<L>(r, p.d + part, m, &d[usize::from(part)]);
            }
        }
        true
    }
}

/// Names a [`Unary`] lane function.
macro_rules! unary {
    ($(#[$doc:meta])* $name:ident, $a:ty => $d:ty, |$x:ident, $imm:pat_param| $body:expr) => {
        $(#[$doc])*
        struct $name;
        impl $crate::exec::handlers::map::Unary for $name {
            type A = $a;
            type D = $d;
            #[inline(always)]
            fn lane<L: $crate::exec::op::Simd>($x: $a, $imm: u64) -> $d {
                $body
            }
        }
    };
}

/// Names a [`Binary`] lane function.
macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $a:ty => $d:ty, |$x:ident, $y:ident, $imm:pat_param| $body:expr) => {
        $(#[$doc])*
        struct $name;
        impl $crate::exec::handlers::map::Binary for $name {
            type A = $a;
            type D = $d;
            #[inline(always)]
            fn lane<L: $crate::exec::op::Simd>($x: $a, $y: $a, $imm: u64) -> $d {
                $body
            }
        }
    };
}

pub(crate) use {binary, unary};
