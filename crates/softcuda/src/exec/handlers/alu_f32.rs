//! Arithmetic of `.f32`.
//!
//! The plain forms (`.rn`, no modifier) have handlers of their own. All other combinations of
//! rounding, `.ftz` and `.sat` share one handler for each operation: it computes in f64, where
//! products, quotients and roots of f32 values are exact or keep the side of every tie and where
//! sums are rounded to odd, and rounds once (`modes::finish32`).

use super::map::{Map1, Map2, Map3, MapTest, Test, binary, unary};
use super::modes::{
    FTZ, MAXIMUM, NAN, NEGATE, SAT, XORSIGN, finish32, input32, take_flag, take_rounding, zero_sum,
};
use crate::exec::op::{Simd, pick};
use crate::exec::simd::fma32;
use crate::exec::simd::round::{NAN32, add_odd, canon32, flush32, fma_odd};
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, VOp};
use crate::ptx::ast::Inst;
use crate::ptx::types::ScalarType;

#[inline(always)]
fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

binary!(Add, u32 => u32, |a, b, _| canon32(float(a) + float(b)));
binary!(Sub, u32 => u32, |a, b, _| canon32(float(a) - float(b)));
binary!(Mul, u32 => u32, |a, b, _| canon32(float(a) * float(b)));
binary!(Div, u32 => u32, |a, b, _| canon32(float(a) / float(b)));
unary!(Sqrt, u32 => u32, |a, _| canon32(float(a).sqrt()));
unary!(Rcp, u32 => u32, |a, _| canon32(1.0 / float(a)));
unary!(Abs, u32 => u32, |a, _| a & 0x7fff_ffff);
unary!(Neg, u32 => u32, |a, _| a ^ 0x8000_0000);

binary!(AddModes, u32 => u32, |a, b, imm| {
    let b = if imm & NEGATE != 0 { b ^ 0x8000_0000 } else { b };
    let (x, y) = (input32(a, imm), input32(b, imm));
    let sum = add_odd(f64::from(x), f64::from(y));
    finish32(zero_sum(sum, (a ^ b) >> 31 != 0, imm), imm)
});
binary!(MulModes, u32 => u32, |a, b, imm| {
    finish32(f64::from(input32(a, imm)) * f64::from(input32(b, imm)), imm)
});
binary!(DivModes, u32 => u32, |a, b, imm| {
    finish32(f64::from(input32(a, imm)) / f64::from(input32(b, imm)), imm)
});
unary!(SqrtModes, u32 => u32, |a, imm| finish32(f64::from(input32(a, imm)).sqrt(), imm));
unary!(RcpModes, u32 => u32, |a, imm| finish32(1.0 / f64::from(input32(a, imm)), imm));
unary!(AbsFlush, u32 => u32, |a, _| flush32(a) & 0x7fff_ffff);
unary!(NegFlush, u32 => u32, |a, _| flush32(a) ^ 0x8000_0000);
binary!(CopySign, u32 => u32, |a, b, _| a & 0x8000_0000 | b & 0x7fff_ffff);

struct Fma;
impl super::map::Ternary for Fma {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, c: u32, _: u64) -> u32 {
        canon32(fma32::<L>(float(a), float(b), float(c)))
    }
}

struct FmaModes;
impl super::map::Ternary for FmaModes {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, c: u32, imm: u64) -> u32 {
        let sum = fma_odd(input32(a, imm), input32(b, imm), input32(c, imm));
        finish32(zero_sum(sum, (a ^ b ^ c) >> 31 != 0, imm), imm)
    }
}

#[inline(always)]
fn is_nan(bits: u32) -> bool {
    bits & 0x7fff_ffff > 0x7f80_0000
}

/// Minimum or maximum: a NaN loses, two give the canonical NaN, -0 is below +0.
#[inline(always)]
pub(crate) fn extremum(a: u32, b: u32, maximum: bool) -> u32 {
    let (x, y) = (float(a), float(b));
    let wins = if maximum { x > y } else { x < y };
    // Equal values differ in nothing but the sign of a zero. A NaN in `a` never wins.
    let equal = if maximum { a & b } else { a | b };
    let chosen = if wins { a } else { b };
    let chosen = if x == y { equal } else { chosen };
    let chosen = if y.is_nan() { a } else { chosen };
    canon32(float(chosen))
}

binary!(Min, u32 => u32, |a, b, _| extremum(a, b, false));
binary!(Max, u32 => u32, |a, b, _| extremum(a, b, true));
binary!(ExtremumModes, u32 => u32, |a, b, imm| {
    let flush = imm & FTZ != 0;
    let (x, y) = if flush { (flush32(a), flush32(b)) } else { (a, b) };
    let xorsign = imm & XORSIGN != 0;
    let strip = if xorsign { 0x7fff_ffff } else { u32::MAX };
    let sign = if xorsign { (a ^ b) & 0x8000_0000 } else { 0 };
    let chosen = extremum(x & strip, y & strip, imm & MAXIMUM != 0);
    let nan = is_nan(chosen) || (imm & NAN != 0 && (is_nan(a) || is_nan(b)));
    if nan { NAN32 } else { chosen | sign }
});

/// The classes of `testp`; a sum of them may be asked for.
#[rustfmt::skip]
const CLASSES: [(&str, u64); 6] = [
    ("finite", 0b0111), ("infinite", 0b1000), ("number", 0b1111),
    ("notanumber", 0b1_0000), ("normal", 0b0100), ("subnormal", 0b0010),
];

/// `testp` of f32: zero 1, subnormal 2, normal 4, infinite 8, NaN 16.
struct TestClass;
impl Test for TestClass {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, _: u32, imm: u64) -> u32 {
        let magnitude = a & 0x7fff_ffff;
        let class = match magnitude {
            0 => 1,
            1..0x0080_0000 => 2,
            0x0080_0000..0x7f80_0000 => 4,
            0x7f80_0000 => 8,
            _ => 16,
        };
        if imm & class != 0 { 1 << 31 } else { 0 }
    }
}

/// Takes the class out of the modifiers of `testp`.
pub(crate) fn take_class(mods: &mut Mods) -> Option<u64> {
    CLASSES.into_iter().find(|(name, _)| mods.take(name)).map(|(_, class)| class)
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    if mods.last_type() != Some(ScalarType::F32) {
        return Ok(false);
    }
    let count = match opcode {
        "add" | "sub" | "mul" | "min" | "max" | "copysign" => 2,
        "div" if !mods.has("approx") && !mods.has("full") => 2,
        "sqrt" | "rcp" if !mods.has("approx") => 1,
        "abs" | "neg" | "testp" => 1,
        "fma" | "mad" => 3,
        _ => return Ok(false),
    };
    let class = if opcode == "testp" { take_class(&mut mods) } else { None };
    if opcode == "testp" && class.is_none() {
        return Err(cx.error("testp needs a class"));
    }
    mods.take_type();
    let imm = take_modes(opcode, &mut mods);
    if matches!(opcode, "div" | "sqrt" | "rcp") && mods.first_type().is_some() {
        return Ok(false);
    }
    mods.finish(cx)?;
    let [dest, sources @ ..] = &*inst.operands else {
        return Err(cx.error("operands are missing"));
    };
    if sources.len() != count {
        return Err(cx.error("wrong number of operands"));
    }
    let level = cx.level;
    let handler = match (opcode, imm == 0) {
        ("add", true) => pick::<Map2<Add>>(level),
        ("sub", true) => pick::<Map2<Sub>>(level),
        ("add" | "sub", false) => pick::<Map2<AddModes>>(level),
        ("mul", true) => pick::<Map2<Mul>>(level),
        ("mul", false) => pick::<Map2<MulModes>>(level),
        ("div", true) => pick::<Map2<Div>>(level),
        ("div", false) => pick::<Map2<DivModes>>(level),
        ("sqrt", true) => pick::<Map1<Sqrt>>(level),
        ("sqrt", false) => pick::<Map1<SqrtModes>>(level),
        ("rcp", true) => pick::<Map1<Rcp>>(level),
        ("rcp", false) => pick::<Map1<RcpModes>>(level),
        ("abs", true) => pick::<Map1<Abs>>(level),
        ("abs", false) => pick::<Map1<AbsFlush>>(level),
        ("neg", true) => pick::<Map1<Neg>>(level),
        ("neg", false) => pick::<Map1<NegFlush>>(level),
        ("min", true) => pick::<Map2<Min>>(level),
        ("max", true) => pick::<Map2<Max>>(level),
        ("min" | "max", false) => pick::<Map2<ExtremumModes>>(level),
        ("copysign", _) => pick::<Map2<CopySign>>(level),
        ("testp", _) => pick::<MapTest<TestClass>>(level),
        (_, true) => pick::<Map3<Fma>>(level),
        (_, false) => pick::<Map3<FmaModes>>(level),
    };
    let extra = match opcode {
        "sub" if imm != 0 => NEGATE,
        "max" => MAXIMUM,
        _ => class.unwrap_or(0),
    };
    let mut op = VOp::new(handler).imm(imm | extra).pure("f32");
    for (slot, source) in [A, B, C].into_iter().zip(sources) {
        op = op.src(slot, cx.src32(source)?);
    }
    op = if class.is_some() {
        let first = cx.src32(&sources[0])?;
        op.src(B, first).def_mask(D, cx.dst_mask(dest)?)
    } else {
        op.def(D, cx.dst32(dest)?)
    };
    cx.push(op);
    Ok(true)
}

/// Takes the modifiers that the operation may have.
fn take_modes(opcode: &str, mods: &mut Mods) -> u64 {
    let mut imm = 0;
    match opcode {
        "add" | "sub" | "mul" | "fma" | "mad" => {
            imm |= take_rounding(mods) | take_flag(mods, "ftz", FTZ) | take_flag(mods, "sat", SAT);
        }
        "div" | "sqrt" | "rcp" => imm |= take_rounding(mods) | take_flag(mods, "ftz", FTZ),
        "min" | "max" => {
            imm |= take_flag(mods, "ftz", FTZ) | take_flag(mods, "NaN", NAN);
            if mods.take("xorsign") && mods.take("abs") {
                imm |= XORSIGN;
            }
        }
        "abs" | "neg" => imm |= take_flag(mods, "ftz", FTZ),
        _ => {}
    }
    imm
}
