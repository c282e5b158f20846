//! The approximate functions: `ex2 lg2 rcp rsqrt sqrt sin cos tanh div` with `.approx`.
//!
//! PTX leaves their last bits open. Here each is a fixed sequence of f64 additions,
//! multiplications, divisions and roots without contraction, rounded once to f32, so that every
//! level and machine gives the same bits, within 0.51 units in the last place of the true value.
//! The polynomials are Chebyshev fits on the ranges that the comments name.

use std::marker::PhantomData;

use super::alu_f16::{Bf16, F16, Half};
use super::map::{Map1, Map2, Unary, binary, unary};
use super::modes::{FTZ, input32, take_flag};
use crate::exec::op::{Handler, Level, Simd, pick};
use crate::exec::simd::round::{canon32, canon64, flush32, narrow_odd};
use crate::fault::LoadError;
use crate::lower::emit::{A, B, D, Emit, Mods, VOp};
use crate::ptx::ast::Inst;
use crate::ptx::types::ScalarType;

/// Adding it rounds an f64 below 2^51 to an integer, which is then in the low bits.
const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52

/// `c[0] + x·(c[1] + x·(c[2] + …))`, without contraction.
#[inline(always)]
fn polynomial<const N: usize>(x: f64, c: [f64; N]) -> f64 {
    let mut sum = c[N - 1];
    for i in (0..N - 1).rev() {
        sum = sum * x + c[i];
    }
    sum
}

/// Keeps a NaN.
#[inline(always)]
fn clamp(x: f64, limit: f64) -> f64 {
    let x = if x > limit { limit } else { x };
    if x < -limit { -limit } else { x }
}

/// 2^x. Relative error 2^-38 by the fit of (2^f - 1)/f on |f| <= 1/2; 1 is exact.
#[inline(always)]
fn exp2(x: f64) -> f64 {
    // Beyond the limit f32 has only 0 and infinity.
    let x = clamp(x, 200.0);
    let shifted = x + MAGIC;
    let fraction = x - (shifted - MAGIC);
    let tail = polynomial(
        fraction,
        [
            0.693_147_180_556_832_4,
            0.240_226_506_958_885_03,
            0.055_504_109_063_258_665,
            0.009_618_129_135_236_14,
            0.001_333_347_847_368_541_6,
            0.000_154_034_751_865_307_86,
            1.530_370_071_136_569_3e-5,
            1.325_080_551_750_225e-6,
        ],
    );
    let scale = shifted.to_bits().wrapping_add(1023) << 52;
    (1.0 + fraction * tail) * f64::from_bits(scale)
}

/// The binary logarithm: e + log2(m), m in [√½, √2), by the fit of log2(m)/s in s², where
/// s = (m - 1)/(m + 1). Relative error 2^-45.
#[inline(always)]
fn log2(x: f64) -> f64 {
    const ROOT_HALF: u64 = 0x3fe6_a09e_667f_3bcd;
    const ONE: u64 = 0x3ff0_0000_0000_0000;
    let moved = x.to_bits().wrapping_add(ONE - ROOT_HALF);
    // An integer below 2^52 becomes f64 in the mantissa of 2^52.
    let exponent = f64::from_bits(moved >> 52 | 0x4330_0000_0000_0000) - 4_503_599_627_371_519.0;
    let mantissa = f64::from_bits((moved & 0x000f_ffff_ffff_ffff) + ROOT_HALF);
    let s = (mantissa - 1.0) / (mantissa + 1.0);
    let ratio = polynomial(
        s * s,
        [
            2.885_390_081_777_851,
            0.961_796_694_112_264_9,
            0.577_077_942_660_304_4,
            0.412_209_224_061_104_33,
            0.319_906_803_807_013_36,
            0.282_885_023_407_482_33,
        ],
    );
    let value = exponent + s * ratio;
    let value = if x == f64::INFINITY { x } else { value };
    let value = if x == 0.0 { f64::NEG_INFINITY } else { value };
    if x < 0.0 || x.is_nan() { f64::NAN } else { value }
}

/// Sine, or cosine if `quarter` is 1: reduction by π/2 in three parts, the first two of 30 bits,
/// so that their products are exact up to 2^23 quarters. Beyond, the result is meaningless (as it
/// is on hardware) but in [-1, 1].
#[inline(always)]
fn sine(x: f64, quarter: u64) -> f64 {
    let shifted = x * std::f64::consts::FRAC_2_PI + MAGIC;
    let k = shifted - MAGIC;
    let r = ((x - k * 1.570_796_325_802_803) - k * 9.920_935_791_635_221e-10)
        - k * 5.170_182_981_794_105e-19;
    let r = clamp(r, 1.0);
    let z = r * r;
    let bend = z * polynomial(
        z,
        [
            -0.166_666_666_666_666_66,
            0.008_333_333_333_330_827,
            -0.000_198_412_698_365_757_1,
            2.755_731_600_817_155e-6,
            -2.505_111_227_257_324_3e-8,
            1.591_672_619_388_933_6e-10,
        ],
    );
    let sin = r * (1.0 + bend); // a product keeps the sign of a zero
    let cos = 1.0
        + z * polynomial(
            z,
            [
                -0.5,
                0.041_666_666_666_666_64,
                -0.001_388_888_888_888_036_1,
                2.480_158_729_337_348_8e-5,
                -2.755_731_545_575_088_6e-7,
                2.087_586_929_643_616_3e-9,
                -1.136_697_562_467_506_8e-11,
            ],
        );
    let quadrant = shifted.to_bits().wrapping_add(quarter);
    let value = if quadrant & 1 == 0 { sin } else { cos };
    if quadrant & 2 == 0 { value } else { -value }
}

/// tanh by (e^2x - 1)/(e^2x + 1), below 2^-6 by its series.
#[inline(always)]
fn tanh(x: f64) -> f64 {
    const TWO_LOG2_E: f64 = 2.885_390_081_777_926_8;
    let a = x.abs();
    let limited = if a > 20.0 { 20.0 } else { a };
    let e = exp2(limited * TWO_LOG2_E);
    let z = limited * limited;
    let series = limited
        + limited
            * z
            * polynomial(
                z,
                [-0.333_333_333_333_323_4, 0.133_333_332_600_206_38, -0.053_960_246_013_754_05],
            );
    let quotient = (e - 1.0) / (e + 1.0);
    (if a < 0.015_625 { series } else { quotient }).copysign(x)
}

/// The f32 result of a function of one f32.
#[inline(always)]
fn apply32(a: u32, imm: u64, f: impl Fn(f64) -> f64) -> u32 {
    let bits = canon32(f(f64::from(input32(a, imm))) as f32);
    if imm & FTZ != 0 { flush32(bits) } else { bits }
}

unary!(Ex2, u32 => u32, |a, imm| apply32(a, imm, exp2));
unary!(Lg2, u32 => u32, |a, imm| apply32(a, imm, log2));
unary!(Sin, u32 => u32, |a, imm| apply32(a, imm, |x| sine(x, 0)));
unary!(Cos, u32 => u32, |a, imm| apply32(a, imm, |x| sine(x, 1)));
unary!(Tanh, u32 => u32, |a, imm| apply32(a, imm, tanh));
unary!(Rsqrt, u32 => u32, |a, imm| apply32(a, imm, |x| 1.0 / x.sqrt()));
// Division and root are IEEE operations of f32: the same result as by f64, and faster.
unary!(Rcp, u32 => u32, |a, imm| {
    let bits = canon32(1.0 / input32(a, imm));
    if imm & FTZ != 0 { flush32(bits) } else { bits }
});
unary!(Sqrt, u32 => u32, |a, imm| canon32(input32(a, imm).sqrt()));
binary!(Div, u32 => u32, |a, b, imm| {
    let bits = canon32(input32(a, imm) / input32(b, imm));
    if imm & FTZ != 0 { flush32(bits) } else { bits }
});
// Only the high word of source and result counts; subnormals are flushed.
unary!(Rcp64, u64 => u64, |a, _| {
    let x = f64::from_bits(flush64(a & 0xffff_ffff_0000_0000));
    flush64(canon64(1.0 / x)) & 0xffff_ffff_0000_0000
});
unary!(Rsqrt64, u64 => u64, |a, imm| {
    let x = f64::from_bits(if imm & FTZ != 0 { flush64(a) } else { a });
    canon64(1.0 / x.sqrt())
});

#[inline(always)]
fn flush64(bits: u64) -> u64 {
    if bits & 0x7ff0_0000_0000_0000 == 0 { bits & 1 << 63 } else { bits }
}

/// A function on values of 16 bits.
trait HalfFunction {
    fn of(x: f64) -> f64;
}
struct HalfEx2;
impl HalfFunction for HalfEx2 {
    #[inline(always)]
    fn of(x: f64) -> f64 {
        exp2(x)
    }
}
struct HalfTanh;
impl HalfFunction for HalfTanh {
    #[inline(always)]
    fn of(x: f64) -> f64 {
        tanh(x)
    }
}

#[inline(always)]
fn apply16<F: HalfFunction, H: Half>(half: u32, imm: u64) -> u32 {
    let flush = imm & FTZ != 0;
    let input = if flush { H::flush(half & 0xffff) } else { half & 0xffff };
    let x = f64::from(f32::from_bits(H::widen(input)));
    let result = H::near(canon32(narrow_odd(F::of(x))));
    if flush { H::flush(result) } else { result }
}

struct Single<F, H>(PhantomData<(F, H)>);
impl<F: HalfFunction, H: Half> Unary for Single<F, H> {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, imm: u64) -> u32 {
        apply16::<F, H>(a, imm)
    }
}

struct Packed<F, H>(PhantomData<(F, H)>);
impl<F: HalfFunction, H: Half> Unary for Packed<F, H> {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, imm: u64) -> u32 {
        apply16::<F, H>(a, imm) | apply16::<F, H>(a >> 16, imm) << 16
    }
}

fn handler16<F: HalfFunction>(ty: ScalarType, level: Level) -> Option<Handler> {
    Some(match ty {
        ScalarType::F16 => pick::<Map1<Single<F, F16>>>(level),
        ScalarType::F16x2 => pick::<Map1<Packed<F, F16>>>(level),
        ScalarType::Bf16 => pick::<Map1<Single<F, Bf16>>>(level),
        ScalarType::Bf16x2 => pick::<Map1<Packed<F, Bf16>>>(level),
        _ => return None,
    })
}

fn handler(opcode: &str, ty: ScalarType, level: Level) -> Option<Handler> {
    Some(match (opcode, ty) {
        ("ex2", ScalarType::F32) => pick::<Map1<Ex2>>(level),
        ("lg2", ScalarType::F32) => pick::<Map1<Lg2>>(level),
        ("sin", ScalarType::F32) => pick::<Map1<Sin>>(level),
        ("cos", ScalarType::F32) => pick::<Map1<Cos>>(level),
        ("tanh", ScalarType::F32) => pick::<Map1<Tanh>>(level),
        ("rsqrt", ScalarType::F32) => pick::<Map1<Rsqrt>>(level),
        ("rcp", ScalarType::F32) => pick::<Map1<Rcp>>(level),
        ("sqrt", ScalarType::F32) => pick::<Map1<Sqrt>>(level),
        ("div", ScalarType::F32) => pick::<Map2<Div>>(level),
        ("rcp", ScalarType::F64) => pick::<Map1<Rcp64>>(level),
        ("rsqrt", ScalarType::F64) => pick::<Map1<Rsqrt64>>(level),
        ("ex2", _) => return handler16::<HalfEx2>(ty, level),
        ("tanh", _) => return handler16::<HalfTanh>(ty, level),
        _ => return None,
    })
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    let Some(ty) = mods.last_type() else { return Ok(false) };
    let approximate = mods.take("approx") || (opcode == "div" && mods.take("full"));
    if !approximate {
        return Ok(false);
    }
    let Some(handler) = handler(opcode, ty, cx.level) else { return Ok(false) };
    mods.take_type();
    let imm = take_flag(&mut mods, "ftz", FTZ);
    mods.finish(cx)?;
    let op = VOp::new(handler).imm(imm).pure("approx");
    let op = match (&*inst.operands, opcode) {
        ([d, a, b], "div") => op.src(A, cx.src32(a)?).src(B, cx.src32(b)?).def(D, cx.dst32(d)?),
        ([d, a], "rcp" | "rsqrt") if ty == ScalarType::F64 => {
            op.src(A, cx.src64(a)?).def(D, cx.dst64(d)?)
        }
        ([d, a], _) if opcode != "div" => op.src(A, cx.src32(a)?).def(D, cx.dst32(d)?),
        _ => return Err(cx.error("wrong number of operands")),
    };
    cx.push(op);
    Ok(true)
}
