//! Arithmetic of `.f16`, `.bf16` and their packed forms.
//!
//! Values are widened to f32, the operation is exact or rounded to odd there (or rounds so far
//! below the format that a second rounding does no harm), and the result is rounded once.

use std::marker::PhantomData;

use super::alu_f32::extremum;
use super::map::{Binary, Map1, Map2, Map3, Ternary, Unary};
use super::modes::{FTZ, MAXIMUM, NAN, RELU, SAT, XORSIGN, take_flag};
use crate::exec::op::{Handler, Level, Simd, pick};
use crate::exec::simd::round::{
    NAN16, add_odd, bf16_near, bf16_widen, canon32, f16_near, f16_widen, narrow_odd, sat32,
};
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, VOp};
use crate::ptx::ast::Inst;
use crate::ptx::types::ScalarType;

/// A format of 16 bits.
pub(crate) trait Half {
    /// To f32 bits, exact. The upper half of `half` is not looked at.
    fn widen(half: u32) -> u32;
    /// f32 bits to the format, to nearest; NaN becomes canonical.
    fn near(bits: u32) -> u32;
    /// Whether a product of two values is exact in f32.
    const EXACT_PRODUCT: bool;
    /// `.ftz` of a value of the format.
    fn flush(half: u32) -> u32;
}

pub(crate) struct F16;
pub(crate) struct Bf16;

impl Half for F16 {
    const EXACT_PRODUCT: bool = true;
    #[inline(always)]
    fn widen(half: u32) -> u32 {
        f16_widen(half & 0xffff)
    }
    #[inline(always)]
    fn near(bits: u32) -> u32 {
        f16_near(bits)
    }
    #[inline(always)]
    fn flush(half: u32) -> u32 {
        if half & 0x7c00 == 0 { half & 0x8000 } else { half }
    }
}

impl Half for Bf16 {
    // Below 2^-126 a product has more bits than f32 keeps.
    const EXACT_PRODUCT: bool = false;
    #[inline(always)]
    fn widen(half: u32) -> u32 {
        bf16_widen(half)
    }
    #[inline(always)]
    fn near(bits: u32) -> u32 {
        bf16_near(bits)
    }
    #[inline(always)]
    fn flush(half: u32) -> u32 {
        half
    }
}

/// An operation on values of a format; what it does not need of the sources it ignores.
trait HalfOp {
    fn half<H: Half>(a: u32, b: u32, c: u32, imm: u64) -> u32;
}

#[inline(always)]
fn input<H: Half>(half: u32, imm: u64) -> f32 {
    f32::from_bits(H::widen(if imm & FTZ != 0 { H::flush(half & 0xffff) } else { half }))
}

/// Rounds f32 bits to the format under `.ftz`, `.sat` and `.relu`.
#[inline(always)]
fn finish<H: Half>(bits: u32, imm: u64) -> u32 {
    let bits = if imm & SAT != 0 { sat32(bits) } else { bits };
    let half = H::near(bits);
    let half = if imm & FTZ != 0 { H::flush(half) } else { half };
    if imm & RELU != 0 && half & 0x8000 != 0 { 0 } else { half }
}

struct Add;
impl HalfOp for Add {
    #[inline(always)]
    fn half<H: Half>(a: u32, b: u32, _: u32, imm: u64) -> u32 {
        finish::<H>(canon32(input::<H>(a, imm) + input::<H>(b, imm)), imm)
    }
}

struct Sub;
impl HalfOp for Sub {
    #[inline(always)]
    fn half<H: Half>(a: u32, b: u32, _: u32, imm: u64) -> u32 {
        finish::<H>(canon32(input::<H>(a, imm) - input::<H>(b, imm)), imm)
    }
}

struct Mul;
impl HalfOp for Mul {
    #[inline(always)]
    fn half<H: Half>(a: u32, b: u32, _: u32, imm: u64) -> u32 {
        let (a, b) = (input::<H>(a, imm), input::<H>(b, imm));
        let product =
            if H::EXACT_PRODUCT { a * b } else { narrow_odd(f64::from(a) * f64::from(b)) };
        finish::<H>(canon32(product), imm)
    }
}

struct Fma;
impl HalfOp for Fma {
    #[inline(always)]
    fn half<H: Half>(a: u32, b: u32, c: u32, imm: u64) -> u32 {
        let product = f64::from(input::<H>(a, imm)) * f64::from(input::<H>(b, imm));
        let sum = add_odd(product, f64::from(input::<H>(c, imm)));
        finish::<H>(canon32(narrow_odd(sum)), imm)
    }
}

struct Extremum;
impl HalfOp for Extremum {
    #[inline(always)]
    fn half<H: Half>(a: u32, b: u32, _: u32, imm: u64) -> u32 {
        let xorsign = imm & XORSIGN != 0;
        let strip = if xorsign { 0x7fff } else { 0xffff };
        let sign = if xorsign { (a ^ b) & 0x8000 } else { 0 };
        let (a, b) = (input::<H>(a & strip, imm), input::<H>(b & strip, imm));
        let chosen = extremum(a.to_bits(), b.to_bits(), imm & MAXIMUM != 0);
        let nan = f32::from_bits(chosen).is_nan() || (imm & NAN != 0 && (a.is_nan() || b.is_nan()));
        if nan { NAN16 } else { H::near(chosen) | sign }
    }
}

struct Abs;
impl HalfOp for Abs {
    #[inline(always)]
    fn half<H: Half>(a: u32, _: u32, _: u32, imm: u64) -> u32 {
        (if imm & FTZ != 0 { H::flush(a) } else { a }) & 0x7fff
    }
}

struct Neg;
impl HalfOp for Neg {
    #[inline(always)]
    fn half<H: Half>(a: u32, _: u32, _: u32, imm: u64) -> u32 {
        (if imm & FTZ != 0 { H::flush(a) } else { a }) ^ 0x8000
    }
}

/// One value in the low half of a register.
struct Single<F, H>(PhantomData<(F, H)>);
/// Two values in a register.
struct Packed<F, H>(PhantomData<(F, H)>);

#[inline(always)]
fn single<F: HalfOp, H: Half>(a: u32, b: u32, c: u32, imm: u64) -> u32 {
    F::half::<H>(a & 0xffff, b & 0xffff, c & 0xffff, imm)
}

#[inline(always)]
fn packed<F: HalfOp, H: Half>(a: u32, b: u32, c: u32, imm: u64) -> u32 {
    let low = single::<F, H>(a, b, c, imm);
    low | F::half::<H>(a >> 16, b >> 16, c >> 16, imm) << 16
}

macro_rules! lanes {
    ($wrapper:ident, $apply:ident) => {
        impl<F: HalfOp, H: Half> Unary for $wrapper<F, H> {
            type A = u32;
            type D = u32;
            #[inline(always)]
            fn lane<L: Simd>(a: u32, imm: u64) -> u32 {
                $apply::<F, H>(a, 0, 0, imm)
            }
        }
        impl<F: HalfOp, H: Half> Binary for $wrapper<F, H> {
            type A = u32;
            type D = u32;
            #[inline(always)]
            fn lane<L: Simd>(a: u32, b: u32, imm: u64) -> u32 {
                $apply::<F, H>(a, b, 0, imm)
            }
        }
        impl<F: HalfOp, H: Half> Ternary for $wrapper<F, H> {
            type A = u32;
            #[inline(always)]
            fn lane<L: Simd>(a: u32, b: u32, c: u32, imm: u64) -> u32 {
                $apply::<F, H>(a, b, c, imm)
            }
        }
    };
}
lanes!(Single, single);
lanes!(Packed, packed);

fn handler<H: Half>(opcode: &str, packed: bool, level: Level) -> Option<Handler> {
    macro_rules! choose {
        ($map:ident, $op:ty) => {
            if packed {
                pick::<$map<Packed<$op, H>>>(level)
            } else {
                pick::<$map<Single<$op, H>>>(level)
            }
        };
    }
    Some(match opcode {
        "add" => choose!(Map2, Add),
        "sub" => choose!(Map2, Sub),
        "mul" => choose!(Map2, Mul),
        "fma" => choose!(Map3, Fma),
        "min" | "max" => choose!(Map2, Extremum),
        "abs" => choose!(Map1, Abs),
        "neg" => choose!(Map1, Neg),
        _ => return None,
    })
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    let Some(ty) = mods.last_type() else { return Ok(false) };
    let handler = match ty {
        ScalarType::F16 => handler::<F16>(opcode, false, cx.level),
        ScalarType::F16x2 => handler::<F16>(opcode, true, cx.level),
        ScalarType::Bf16 => handler::<Bf16>(opcode, false, cx.level),
        ScalarType::Bf16x2 => handler::<Bf16>(opcode, true, cx.level),
        _ => return Ok(false),
    };
    let Some(handler) = handler else { return Ok(false) };
    mods.take_type();
    let is_f16 = matches!(ty, ScalarType::F16 | ScalarType::F16x2);
    let mut imm = if is_f16 { take_flag(&mut mods, "ftz", FTZ) } else { 0 };
    match opcode {
        "add" | "sub" | "mul" | "fma" => {
            mods.take("rn");
            if is_f16 {
                imm |= take_flag(&mut mods, "sat", SAT);
            }
            if opcode == "fma" {
                imm |= take_flag(&mut mods, "relu", RELU);
            }
        }
        "min" | "max" => {
            imm |= take_flag(&mut mods, "NaN", NAN);
            if mods.take("xorsign") && mods.take("abs") {
                imm |= XORSIGN;
            }
            if opcode == "max" {
                imm |= MAXIMUM;
            }
        }
        _ => {}
    }
    mods.finish(cx)?;
    let [dest, sources @ ..] = &*inst.operands else {
        return Err(cx.error("operands are missing"));
    };
    let count = match opcode {
        "fma" => 3,
        "abs" | "neg" => 1,
        _ => 2,
    };
    if sources.len() != count {
        return Err(cx.error("wrong number of operands"));
    }
    let mut op = VOp::new(handler).imm(imm).pure("f16");
    for (slot, source) in [A, B, C].into_iter().zip(sources) {
        op = op.src(slot, if ty.bits() == 16 { cx.src16(source)? } else { cx.src32(source)? });
    }
    op = op.def(D, cx.dst32(dest)?);
    cx.push(op);
    Ok(true)
}
