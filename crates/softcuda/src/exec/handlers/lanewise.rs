//! Operations that do the same to every lane: a function of the lane's values, lifted to a warp.

use std::marker::PhantomData;

use super::wide512::{self, K32, V32, V64};
use crate::exec::op::{Exec, Level, Op, Reg, Simd, put, put_mask, put_wide, reg, wide};
use crate::exec::warp::Warp;

/// A function of up to three 32-bit values; `i` is the op's immediate.
pub(crate) trait F32w {
    /// The result for one lane.
    fn f(a: u32, b: u32, c: u32, i: u64) -> u32;
}
/// A function of up to three 64-bit values.
pub(crate) trait F64w {
    /// The result for one lane.
    fn f(a: u64, b: u64, c: u64, i: u64) -> u64;
}

/// `d = f(a)` of 32 bits.
pub(crate) struct N1<F>(PhantomData<F>);
/// `d = f(a, b)` of 32 bits.
pub(crate) struct N2<F>(PhantomData<F>);
/// `d = f(a, b, c)` of 32 bits.
pub(crate) struct N3<F>(PhantomData<F>);
/// `d = f(a)` of 64 bits.
pub(crate) struct W1<F>(PhantomData<F>);
/// `d = f(a, b)` of 64 bits.
pub(crate) struct W2<F>(PhantomData<F>);
/// `d = f(a, b, c)` of 64 bits.
pub(crate) struct W3<F>(PhantomData<F>);
/// `d = f(a, b, c)`: 64-bit `d` and `a`, 32-bit `b` and `c`.
pub(crate) struct WideField<F>(PhantomData<F>);
/// `d = f(a, b, c)`: 64-bit `d`, `a` and `b`, 32-bit `c`. (Also 64-bit without `a`.)
pub(crate) struct WideShift<F>(PhantomData<F>);
/// `d = f(a)`: 32-bit `d`, 64-bit `a`.
pub(crate) struct NfromW<F>(PhantomData<F>);
/// Predicate `d = f(a, b) != 0` of 32 bits.
pub(crate) struct C2<F>(PhantomData<F>);
/// Predicate `d = f(a, b) != 0` of 64 bits.
pub(crate) struct CW2<F>(PhantomData<F>);

macro_rules! narrow {
    ($name:ident, $op:ident, $lane:ident, $ra:ident, $rb:ident, $rc:ident, $e:expr) => {
        impl<F: F32w> Exec for $name<F> {
            const PURE: bool = true;

            #[inline(always)]
            unsafe fn run<L: Simd>(r: *mut Reg, $op: &Op, _w: &mut Warp, m: u32) -> bool {
                // SAFETY: the operands are registers of the kernel.
                unsafe {
                    let ($ra, $rb, $rc) = (reg(r, $op.a), reg(r, $op.b), reg(r, $op.c));
                    let mut v = [0u32; 32];
                    for $lane in 0..32 {
                        v[$lane] = $e;
                    }
                    put::<L>(r, $op.d, m, &v);
                }
                true
            }
        }
    };
}
narrow!(N1, p, l, a, _b, _c, F::f(a[l], 0, 0, p.imm));
narrow!(N2, p, l, a, b, _c, F::f(a[l], b[l], 0, p.imm));
narrow!(N3, p, l, a, b, c, F::f(a[l], b[l], c[l], p.imm));

macro_rules! wide_op {
    ($name:ident, $r:ident, $p:ident, $l:ident, $e:expr) => {
        impl<F: F64w> Exec for $name<F> {
            const PURE: bool = true;

            #[inline(always)]
            unsafe fn run<L: Simd>($r: *mut Reg, $p: &Op, _w: &mut Warp, m: u32) -> bool {
                // SAFETY: the operands are registers of the kernel.
                unsafe {
                    let mut v = [0u64; 32];
                    for $l in 0..32 {
                        v[$l] = $e;
                    }
                    put_wide::<L>($r, $p.d, m, &v);
                }
                true
            }
        }
    };
}
wide_op!(W1, r, p, l, F::f(wide(r, p.a, l), 0, 0, p.imm));
wide_op!(W2, r, p, l, F::f(wide(r, p.a, l), wide(r, p.b, l), 0, p.imm));
wide_op!(W3, r, p, l, F::f(wide(r, p.a, l), wide(r, p.b, l), wide(r, p.c, l), p.imm));
wide_op!(
    WideField,
    r,
    p,
    l,
    F::f(wide(r, p.a, l), u64::from(reg(r, p.b)[l]), u64::from(reg(r, p.c)[l]), p.imm)
);
wide_op!(
    WideShift,
    r,
    p,
    l,
    F::f(wide(r, p.a, l), wide(r, p.b, l), u64::from(reg(r, p.c)[l]), p.imm)
);

impl<F: F64w> Exec for NfromW<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel.
        unsafe {
            let mut v = [0u32; 32];
            for (l, v) in v.iter_mut().enumerate() {
                *v = F::f(wide(r, p.a, l), 0, 0, p.imm) as u32;
            }
            put::<L>(r, p.d, m, &v);
        }
        true
    }
}

impl<F: F32w> Exec for C2<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and masks of the kernel.
        unsafe {
            let (a, b) = (reg(r, p.a), reg(r, p.b));
            let mut bits = 0;
            for l in 0..32 {
                bits |= u32::from(F::f(a[l], b[l], 0, p.imm) != 0) << l;
            }
            put_mask(r, p.d, m, bits);
        }
        true
    }
}

impl<F: F64w> Exec for CW2<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and masks of the kernel.
        unsafe {
            let mut bits = 0;
            for l in 0..32 {
                bits |= u32::from(F::f(wide(r, p.a, l), wide(r, p.b, l), 0, p.imm) != 0) << l;
            }
            put_mask(r, p.d, m, bits);
        }
        true
    }
}

/// As [`N3`] (and, with unused operands, [`N1`] and [`N2`]) with an AVX-512 form.
pub(crate) struct V3<F>(PhantomData<F>);
/// 64-bit `d`; `A`, `B`, `C`: 64-bit operands. With an AVX-512 form.
pub(crate) struct VW<F, const A: bool, const B: bool, const C: bool>(PhantomData<F>);
/// As [`C2`] with an AVX-512 form.
pub(crate) struct VC<F>(PhantomData<F>);

impl<F: F32w + V32> Exec for V3<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if L::LEVEL == Level::Avx512 {
                wide512::run32::<F>(r, p, m);
                return true;
            }
            N3::<F>::run::<L>(r, p, w, m)
        }
    }
}

impl<F: F64w + V64, const A: bool, const B: bool, const C: bool> Exec for VW<F, A, B, C> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if L::LEVEL == Level::Avx512 {
                wide512::run64::<F, A, B, C>(r, p, m);
                return true;
            }
            let get = |i: u16, is_wide: bool, l: usize| {
                if is_wide { wide(r, i, l) } else { u64::from(reg(r, i)[l]) }
            };
            let mut v = [0u64; 32];
            for (l, v) in v.iter_mut().enumerate() {
                *v = F::f(get(p.a, A, l), get(p.b, B, l), get(p.c, C, l), p.imm);
            }
            put_wide::<L>(r, p.d, m, &v);
        }
        true
    }
}

impl<F: F32w + K32> Exec for VC<F> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if L::LEVEL == Level::Avx512 {
                wide512::compare::<F>(r, p, m);
                return true;
            }
            C2::<F>::run::<L>(r, p, w, m)
        }
    }
}

/// Names lane functions: `name = |a, b, c, i| expression;` of 32 bits.
macro_rules! lane32 {
    ($($name:ident = |$a:pat_param, $b:pat_param, $c:pat_param, $i:pat_param| $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl $crate::exec::handlers::lanewise::F32w for $name {
            #[inline(always)]
            fn f($a: u32, $b: u32, $c: u32, $i: u64) -> u32 { $e }
        }
    )*};
}
/// Names lane functions of 64 bits.
macro_rules! lane64 {
    ($($name:ident = |$a:pat_param, $b:pat_param, $c:pat_param, $i:pat_param| $e:expr;)*) => {$(
        pub(crate) struct $name;
        impl $crate::exec::handlers::lanewise::F64w for $name {
            #[inline(always)]
            fn f($a: u64, $b: u64, $c: u64, $i: u64) -> u64 { $e }
        }
    )*};
}
pub(crate) use {lane32, lane64};
