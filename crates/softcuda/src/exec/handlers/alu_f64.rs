//! Arithmetic of `.f64`.
//!
//! `.rn` is the processor's arithmetic; the directed roundings are computed in integers
//! (`simd::soft64`), lane by lane.

use super::alu_f32::take_class;
use super::map::{Map1, Map2, Map3, MapTest, Ternary, Test, binary, unary};
use super::modes::{MAXIMUM, NEGATE, rounding, take_rounding};
use crate::exec::op::{Simd, pick};
use crate::exec::simd::round::{NAN64, canon64};
use crate::exec::simd::soft64;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, VOp};
use crate::ptx::ast::Inst;
use crate::ptx::types::ScalarType;

const SIGN: u64 = 1 << 63;

#[inline(always)]
fn float(bits: u64) -> f64 {
    f64::from_bits(bits)
}

binary!(Add, u64 => u64, |a, b, _| canon64(float(a) + float(b)));
binary!(Sub, u64 => u64, |a, b, _| canon64(float(a) - float(b)));
binary!(Mul, u64 => u64, |a, b, _| canon64(float(a) * float(b)));
binary!(Div, u64 => u64, |a, b, _| canon64(float(a) / float(b)));
unary!(Sqrt, u64 => u64, |a, _| canon64(float(a).sqrt()));
unary!(Rcp, u64 => u64, |a, _| canon64(1.0 / float(a)));
unary!(Abs, u64 => u64, |a, _| a & !SIGN);
unary!(Neg, u64 => u64, |a, _| a ^ SIGN);

binary!(AddModes, u64 => u64, |a, b, imm| {
    let b = if imm & NEGATE != 0 { b ^ SIGN } else { b };
    soft64::add(a, b, rounding(imm))
});
binary!(MulModes, u64 => u64, |a, b, imm| soft64::mul(a, b, rounding(imm)));
binary!(DivModes, u64 => u64, |a, b, imm| soft64::div(a, b, rounding(imm)));
unary!(SqrtModes, u64 => u64, |a, imm| soft64::sqrt(a, rounding(imm)));
unary!(RcpModes, u64 => u64, |a, imm| soft64::div(1f64.to_bits(), a, rounding(imm)));
binary!(CopySign, u64 => u64, |a, b, _| a & SIGN | b & !SIGN);

struct Fma;
impl Ternary for Fma {
    type A = u64;
    #[inline(always)]
    fn lane<L: Simd>(a: u64, b: u64, c: u64, _: u64) -> u64 {
        // One instruction from AVX2 on; the C library's exact function below.
        canon64(float(a).mul_add(float(b), float(c)))
    }
}

struct FmaModes;
impl Ternary for FmaModes {
    type A = u64;
    #[inline(always)]
    fn lane<L: Simd>(a: u64, b: u64, c: u64, imm: u64) -> u64 {
        soft64::fma(a, b, c, rounding(imm))
    }
}

/// A number whose order as i64 is that of the float, -0 below +0.
#[inline(always)]
fn order(bits: u64) -> i64 {
    (bits ^ ((bits as i64 >> 63) as u64 >> 1)) as i64
}

binary!(Extremum, u64 => u64, |a, b, imm| {
    let maximum = imm & MAXIMUM != 0;
    let chosen = if (order(a) < order(b)) != maximum { a } else { b };
    let chosen = if float(a).is_nan() { b } else { chosen };
    let chosen = if float(b).is_nan() { a } else { chosen };
    if float(chosen).is_nan() { NAN64 } else { chosen }
});

/// `testp` of f64; the classes are those of f32.
struct TestClass;
impl Test for TestClass {
    type A = u64;
    #[inline(always)]
    fn lane<L: Simd>(a: u64, _: u64, imm: u64) -> u32 {
        let magnitude = a & !SIGN;
        let class = match magnitude {
            0 => 1,
            1..0x0010_0000_0000_0000 => 2,
            0x0010_0000_0000_0000..0x7ff0_0000_0000_0000 => 4,
            0x7ff0_0000_0000_0000 => 8,
            _ => 16,
        };
        if imm & class != 0 { 1 << 31 } else { 0 }
    }
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    if mods.last_type() != Some(ScalarType::F64) {
        return Ok(false);
    }
    let count = match opcode {
        "add" | "sub" | "mul" | "min" | "max" | "copysign" | "div" => 2,
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
    let rounds = matches!(opcode, "add" | "sub" | "mul" | "div" | "sqrt" | "rcp" | "fma" | "mad");
    let imm = if rounds { take_rounding(&mut mods) } else { 0 };
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
        ("abs", _) => pick::<Map1<Abs>>(level),
        ("neg", _) => pick::<Map1<Neg>>(level),
        ("min" | "max", _) => pick::<Map2<Extremum>>(level),
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
    let mut op = VOp::new(handler).imm(imm | extra).pure("f64");
    for (slot, source) in [A, B, C].into_iter().zip(sources) {
        op = op.src(slot, cx.src64(source)?);
    }
    op = if class.is_some() {
        let first = cx.src64(&sources[0])?;
        op.src(B, first).def_mask(D, cx.dst_mask(dest)?)
    } else {
        op.def(D, cx.dst64(dest)?)
    };
    cx.push(op);
    Ok(true)
}
