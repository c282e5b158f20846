//! `cvt`: conversions between all types.
//!
//! [`convert`] does any of them for one lane, with every modifier. The conversions that kernels
//! are full of have vectorised lane functions of their own, which must agree with it bit for bit.

use std::marker::PhantomData;

use super::map::{Map1, Map2, Unary, Word, binary, unary};
use super::modes::{FTZ, RELU, SAT, SATFINITE, rounding, take_flag};
use crate::exec::op::{Handler, Level, Simd, pick};
use crate::exec::simd::round::{
    NAN32, Round, bf16_near, bf16_widen, canon32, canon64, f16_near, f16_widen, flush32,
    integral32, integral64, narrow_odd, narrow16, narrow32, sat32, sat64, shorten, u64_odd,
};
use crate::fault::LoadError;
use crate::lower::emit::{A, B, D, Emit, Mods, V, VOp};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::{RegClass, ScalarType};

/// `.rni` and its like: the result is integral.
const INTEGRAL: u64 = 1 << 3;
/// Where the codes of the types lie in the immediate.
const SOURCE: u32 = 16;
const DEST: u32 = 20;
/// Where the mask of the destination register's bits lies.
const MASK: u32 = 32;

/// Types by code.
const TYPES: [ScalarType; 13] = [
    ScalarType::U8,
    ScalarType::U16,
    ScalarType::U32,
    ScalarType::U64,
    ScalarType::S8,
    ScalarType::S16,
    ScalarType::S32,
    ScalarType::S64,
    ScalarType::F16,
    ScalarType::Bf16,
    ScalarType::F32,
    ScalarType::F64,
    ScalarType::Tf32,
];

fn code(ty: ScalarType) -> Option<u64> {
    TYPES.iter().position(|t| *t == ty).map(|i| i as u64)
}

/// The value of an integer register.
fn integer(bits: u64, ty: ScalarType) -> i128 {
    match ty {
        ScalarType::U8 => (bits as u8).into(),
        ScalarType::U16 => (bits as u16).into(),
        ScalarType::U32 => (bits as u32).into(),
        ScalarType::U64 => bits.into(),
        ScalarType::S8 => (bits as i8).into(),
        ScalarType::S16 => (bits as i16).into(),
        ScalarType::S32 => (bits as i32).into(),
        _ => (bits as i64).into(),
    }
}

/// Least and greatest value of an integer type.
fn range(ty: ScalarType) -> (i128, i128) {
    let bits = ty.bits();
    if ty.is_signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// The value of a float register; exact.
fn value(bits: u64, ty: ScalarType, imm: u64) -> f64 {
    match ty {
        ScalarType::F16 => f64::from(f32::from_bits(f16_widen(bits as u32 & 0xffff))),
        ScalarType::Bf16 => f64::from(f32::from_bits(bf16_widen(bits as u32 & 0xffff))),
        ScalarType::F64 => f64::from_bits(bits),
        _ if imm & FTZ != 0 => f64::from(f32::from_bits(flush32(bits as u32))),
        _ => f64::from(f32::from_bits(bits as u32)),
    }
}

/// An integer as f64 in a direction.
fn integer_to_f64(x: i128, mode: Round) -> f64 {
    let near = x as f64;
    let back = near as i128;
    let step = |toward: f64| if toward > near { near.next_up() } else { near.next_down() };
    match mode {
        Round::Zero if back.abs() > x.abs() => step(0.0),
        Round::Down if back > x => step(f64::NEG_INFINITY),
        Round::Up if back < x => step(f64::INFINITY),
        _ => near,
    }
}

/// A float result, from the exact value or one rounded to odd.
fn encode(x: f64, ty: ScalarType, imm: u64) -> u64 {
    let mode = rounding(imm);
    let limit = |bits: u32, infinity: u32| {
        let finite = bits & (infinity << 1 | 0x8000) | (infinity - 1);
        let infinite = bits & 0x7fff == infinity;
        if imm & SATFINITE != 0 && infinite { finite & !0x7fff | (infinity - 1) } else { bits }
    };
    let relu = |bits: u64, sign: u64| if imm & RELU != 0 && bits & sign != 0 { 0 } else { bits };
    match ty {
        ScalarType::F16 | ScalarType::Bf16 => {
            let bits = narrow_odd(x).to_bits();
            let bits = if x.is_nan() { NAN32 } else { bits };
            let bits = if imm & SAT != 0 { sat32(bits) } else { bits };
            let half = if ty == ScalarType::F16 {
                limit(narrow16::<5, 10>(bits, mode), 0x7c00)
            } else {
                limit(narrow16::<8, 7>(bits, mode), 0x7f80)
            };
            relu(half.into(), 0x8000)
        }
        ScalarType::Tf32 => relu(tf32(x, imm).into(), 0x8000_0000),
        ScalarType::F64 => {
            let bits = canon64(x);
            if imm & SAT != 0 { sat64(bits) } else { bits }
        }
        _ => {
            let bits = canon32(narrow32(x, mode));
            let bits = if imm & FTZ != 0 { flush32(bits) } else { bits };
            (if imm & SAT != 0 { sat32(bits) } else { bits }).into()
        }
    }
}

/// f32 with 10 mantissa bits: the low 13 bits are zero.
fn tf32(x: f64, imm: u64) -> u32 {
    let bits = narrow32(x, Round::Near).to_bits();
    if x.is_nan() {
        return NAN32;
    }
    let rounded = match rounding(imm) {
        Round::Zero => bits,
        Round::Near => bits.wrapping_add(0xfff + (bits >> 13 & 1)),
        _ => bits.wrapping_add(0x1000),
    } & !0x1fff;
    let rounded = if x.is_infinite() { bits } else { rounded };
    let overflows = rounded & 0x7fff_ffff == 0x7f80_0000;
    if overflows && imm & SATFINITE != 0 { rounded & 1 << 31 | 0x7f7f_e000 } else { rounded }
}

/// Any conversion of one lane. The immediate holds types, modifiers and the mask of the
/// destination register; an integer narrower than its register is extended by its sign.
#[inline(never)]
fn convert(bits: u64, imm: u64) -> u64 {
    let from = TYPES[(imm >> SOURCE & 0xf) as usize];
    let to = TYPES[(imm >> DEST & 0xf) as usize];
    let mode = rounding(imm);
    let result = match (from.is_float(), to.is_float()) {
        (false, false) => {
            let x = integer(bits, from);
            let (low, high) = range(to);
            let x = if imm & SAT != 0 { x.clamp(low, high) } else { x };
            integer(x as u64, to) as u64
        }
        (false, true) => {
            let x = integer(bits, from);
            let float = match to {
                ScalarType::F64 => integer_to_f64(x, mode),
                _ => u64_odd(x.unsigned_abs() as u64) * if x < 0 { -1.0 } else { 1.0 },
            };
            encode(float, to, imm)
        }
        (true, false) => {
            let x = integral64(value(bits, from, imm), mode);
            let (low, high) = range(to);
            match to.bits() {
                64 if x.is_nan() => 1 << 63,
                // The cast saturates at i128, far outside every range; NaN becomes 0.
                _ => (x as i128).clamp(low, high) as u64,
            }
        }
        (true, true) => {
            let x = value(bits, from, imm);
            if imm & INTEGRAL != 0 {
                encode(integral64(x, mode), to, imm & !7)
            } else {
                encode(x, to, imm)
            }
        }
    };
    if to.bits() == 64 { result } else { result & imm >> MASK }
}

/// Any conversion, slowly.
struct Any<A, D>(PhantomData<(A, D)>);

macro_rules! any {
    ($a:ty, $d:ty) => {
        impl Unary for Any<$a, $d> {
            type A = $a;
            type D = $d;
            #[inline(always)]
            fn lane<L: Simd>(a: $a, imm: u64) -> $d {
                convert(a.into(), imm) as $d
            }
        }
    };
}
any!(u32, u32);
any!(u32, u64);
any!(u64, u32);
any!(u64, u64);

/// An integer type as its width and sign.
trait Int {
    type W: Word;
    fn read(word: Self::W) -> i64;
    fn write(value: i64, mask: u32) -> Self::W;
}

macro_rules! int {
    ($name:ident, $w:ty, $t:ty, |$v:ident, $mask:ident| $write:expr) => {
        struct $name;
        impl Int for $name {
            type W = $w;
            #[inline(always)]
            fn read(word: $w) -> i64 {
                word as $t as i64
            }
            #[inline(always)]
            fn write($v: i64, $mask: u32) -> $w {
                $write
            }
        }
    };
}
int!(U8, u32, u8, |v, mask| v as u8 as u32 & mask);
int!(U16, u32, u16, |v, mask| v as u16 as u32 & mask);
int!(U32, u32, u32, |v, _mask| v as u32);
int!(U64, u64, u64, |v, _mask| v as u64);
int!(S8, u32, i8, |v, mask| v as i8 as u32 & mask);
int!(S16, u32, i16, |v, mask| v as i16 as u32 & mask);
int!(S32, u32, i32, |v, _mask| v as u32);
int!(S64, u64, i64, |v, _mask| v as u64);

/// Integer to integer without `.sat`.
struct Resize<S, T>(PhantomData<(S, T)>);
impl<S: Int, T: Int> Unary for Resize<S, T> {
    type A = S::W;
    type D = T::W;
    #[inline(always)]
    fn lane<L: Simd>(a: S::W, imm: u64) -> T::W {
        T::write(S::read(a), (imm >> MASK) as u32)
    }
}

#[inline(always)]
fn float(bits: u32) -> f32 {
    f32::from_bits(bits)
}

unary!(F32FromS32, u32 => u32, |a, _| (a as i32 as f32).to_bits());
unary!(F32FromU32, u32 => u32, |a, _| (a as f32).to_bits());
unary!(F64FromS32, u32 => u64, |a, _| f64::from(a as i32).to_bits());
unary!(F64FromU32, u32 => u64, |a, _| f64::from(a).to_bits());
unary!(F64FromF32, u32 => u64, |a, _| canon64(f64::from(float(a))));
unary!(F32FromF64, u64 => u32, |a, _| canon32(f64::from_bits(a) as f32));
unary!(F32FromF16, u32 => u32, |a, _| canon32(float(f16_widen(a & 0xffff))));
unary!(F32FromBf16, u32 => u32, |a, _| canon32(float(bf16_widen(a))));
unary!(F16FromF32, u32 => u32, |a, _| f16_near(a));
unary!(Bf16FromF32, u32 => u32, |a, _| bf16_near(a));
binary!(F16x2FromF32, u32 => u32, |a, b, _| f16_near(a) << 16 | f16_near(b));
binary!(Bf16x2FromF32, u32 => u32, |a, b, _| bf16_near(a) << 16 | bf16_near(b));

/// f32 to s32, direction `MODE` (a [`Round`]).
struct S32FromF32<const MODE: u8>;
impl<const MODE: u8> Unary for S32FromF32<MODE> {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, _: u64) -> u32 {
        integral32(float(a), Round::ALL[MODE as usize]) as i32 as u32
    }
}

/// f32 to u32.
struct U32FromF32<const MODE: u8>;
impl<const MODE: u8> Unary for U32FromF32<MODE> {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, _: u64) -> u32 {
        integral32(float(a), Round::ALL[MODE as usize]) as u32
    }
}

/// f32 to an integral f32.
struct Integral32<const MODE: u8>;
impl<const MODE: u8> Unary for Integral32<MODE> {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, _: u64) -> u32 {
        canon32(integral32(float(a), Round::ALL[MODE as usize]))
    }
}

/// Two floats to one register of 16-bit floats, with any modifiers: `a` is the upper half.
struct PairAny;
impl super::map::Binary for PairAny {
    type A = u32;
    type D = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, imm: u64) -> u32 {
        (convert(a.into(), imm) << 16 | convert(b.into(), imm)) as u32
    }
}

/// f32 bits to e4m3 (`E5M2` false) or e5m2, with `.satfinite`.
#[inline(never)]
fn to_fp8(bits: u32, e5m2: bool, imm: u64) -> u32 {
    let negative = bits >> 31 != 0;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        return 0x7f;
    }
    if imm & RELU != 0 && negative {
        return 0;
    }
    let infinite = bits & 0x7fff_ffff == 0x7f80_0000;
    let (magnitude, largest) = if e5m2 {
        (shorten::<5, 2>(bits, Round::Near), 0x7b)
    } else {
        (shorten::<4, 3>(bits, Round::Near), 0x7e)
    };
    let magnitude = if infinite { largest } else { magnitude.min(largest) };
    magnitude | u32::from(negative) << 7
}

/// e4m3 to f32 bits, exact.
#[inline(always)]
pub(crate) fn e4m3_widen(byte: u32) -> u32 {
    let magnitude = byte & 0x7f;
    let sign = (byte & 0x80) << 24;
    if magnitude == 0x7f {
        return NAN32;
    }
    // The bias moves from 7 to 127 by a factor of 2^120.
    sign | (float(magnitude << 20) * float(0x7b80_0000)).to_bits()
}

/// e5m2 to f32 bits, exact.
#[inline(always)]
pub(crate) fn e5m2_widen(byte: u32) -> u32 {
    f16_widen(byte << 8 & 0xffff)
}

/// Where the flag for e5m2 (not e4m3) lies.
const E5M2: u64 = 1 << 24;

binary!(Fp8FromF32, u32 => u32, |a, b, imm| {
    let e5m2 = imm & E5M2 != 0;
    to_fp8(a, e5m2, imm) << 8 | to_fp8(b, e5m2, imm)
});
unary!(Fp8FromF16, u32 => u32, |a, imm| {
    let e5m2 = imm & E5M2 != 0;
    let half = |h: u32| to_fp8(f16_widen(h & 0xffff), e5m2, imm);
    half(a >> 16) << 8 | half(a)
});
unary!(F16FromFp8, u32 => u32, |a, imm| {
    let half = |byte: u32| {
        let wide = if imm & E5M2 != 0 { e5m2_widen(byte) } else { e4m3_widen(byte) };
        let half = f16_near(wide);
        if imm & RELU != 0 && half & 0x8000 != 0 { 0 } else { half }
    };
    half(a >> 8 & 0xff) << 16 | half(a & 0xff)
});

fn resize<S: Int>(to: ScalarType, level: Level) -> Option<Handler> {
    Some(match to {
        ScalarType::U8 => pick::<Map1<Resize<S, U8>>>(level),
        ScalarType::U16 => pick::<Map1<Resize<S, U16>>>(level),
        ScalarType::U32 => pick::<Map1<Resize<S, U32>>>(level),
        ScalarType::U64 => pick::<Map1<Resize<S, U64>>>(level),
        ScalarType::S8 => pick::<Map1<Resize<S, S8>>>(level),
        ScalarType::S16 => pick::<Map1<Resize<S, S16>>>(level),
        ScalarType::S32 => pick::<Map1<Resize<S, S32>>>(level),
        ScalarType::S64 => pick::<Map1<Resize<S, S64>>>(level),
        _ => return None,
    })
}

/// The vectorised handler of a conversion, if it has one. `imm` holds its modifiers.
fn fast(from: ScalarType, to: ScalarType, imm: u64, level: Level) -> Option<Handler> {
    use ScalarType as T;
    let modifiers = imm & 0xffff;
    macro_rules! by_mode {
        ($map:ident, $f:ident) => {
            match modifiers & 7 {
                0 => pick::<$map<$f<0>>>(level),
                1 => pick::<$map<$f<1>>>(level),
                2 => pick::<$map<$f<2>>>(level),
                _ => pick::<$map<$f<3>>>(level),
            }
        };
    }
    if modifiers & !7 == INTEGRAL {
        return match (from, to) {
            (T::F32, T::S32) => Some(by_mode!(Map1, S32FromF32)),
            (T::F32, T::U32) => Some(by_mode!(Map1, U32FromF32)),
            (T::F32, T::F32) => Some(by_mode!(Map1, Integral32)),
            _ => None,
        };
    }
    if modifiers != 0 {
        return None;
    }
    Some(match (from, to) {
        (T::S32, T::F32) => pick::<Map1<F32FromS32>>(level),
        (T::U32, T::F32) => pick::<Map1<F32FromU32>>(level),
        (T::S32, T::F64) => pick::<Map1<F64FromS32>>(level),
        (T::U32, T::F64) => pick::<Map1<F64FromU32>>(level),
        (T::F32, T::F64) => pick::<Map1<F64FromF32>>(level),
        (T::F64, T::F32) => pick::<Map1<F32FromF64>>(level),
        (T::F16, T::F32) => pick::<Map1<F32FromF16>>(level),
        (T::Bf16, T::F32) => pick::<Map1<F32FromBf16>>(level),
        (T::F32, T::F16) => pick::<Map1<F16FromF32>>(level),
        (T::F32, T::Bf16) => pick::<Map1<Bf16FromF32>>(level),
        (T::U8, _) => return resize::<U8>(to, level),
        (T::U16, _) => return resize::<U16>(to, level),
        (T::U32, _) => return resize::<U32>(to, level),
        (T::U64, _) => return resize::<U64>(to, level),
        (T::S8, _) => return resize::<S8>(to, level),
        (T::S16, _) => return resize::<S16>(to, level),
        (T::S32, _) => return resize::<S32>(to, level),
        (T::S64, _) => return resize::<S64>(to, level),
        _ => return None,
    })
}

fn general(from: ScalarType, to: ScalarType, level: Level) -> Handler {
    match (from.bits() == 64, to.bits() == 64) {
        (false, false) => pick::<Map1<Any<u32, u32>>>(level),
        (false, true) => pick::<Map1<Any<u32, u64>>>(level),
        (true, false) => pick::<Map1<Any<u64, u32>>>(level),
        (true, true) => pick::<Map1<Any<u64, u64>>>(level),
    }
}

/// Takes rounding and the other modifiers; the types remain.
fn take_modifiers(mods: &mut Mods) -> u64 {
    let names = ["rn", "rz", "rm", "rp", "rna", "rni", "rzi", "rmi", "rpi"];
    let imm = match mods.take_any(&names) {
        Some("rz") => Round::Zero as u64,
        Some("rm") => Round::Down as u64,
        Some("rp") => Round::Up as u64,
        Some("rna") => Round::Away as u64,
        Some("rni") => INTEGRAL,
        Some("rzi") => INTEGRAL | Round::Zero as u64,
        Some("rmi") => INTEGRAL | Round::Down as u64,
        Some("rpi") => INTEGRAL | Round::Up as u64,
        _ => 0,
    };
    imm | take_flag(mods, "ftz", FTZ)
        | take_flag(mods, "sat", SAT)
        | take_flag(mods, "relu", RELU)
        | take_flag(mods, "satfinite", SATFINITE)
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    if opcode != "cvt" {
        return Ok(false);
    }
    let mut mods = Mods::new(cx.module, inst);
    let imm = take_modifiers(&mut mods);
    let types = (mods.take_type(), mods.take_type());
    mods.finish(cx)?;
    let (Some(to), Some(from)) = types else { return Err(cx.error("cvt needs two types")) };
    match &*inst.operands {
        [d, a] => one(cx, (from, to), imm, d, a)?,
        [d, a, b] => two(cx, (from, to), imm, d, (a, b))?,
        _ => return Err(cx.error("wrong number of operands")),
    }
    Ok(true)
}

fn one(
    cx: &mut Emit,
    (from, to): (ScalarType, ScalarType),
    imm: u64,
    d: &Operand,
    a: &Operand,
) -> Result<(), LoadError> {
    use ScalarType as T;
    let op = match (from, to) {
        (T::F16x2, T::E4m3x2) => VOp::of::<Map1<Fp8FromF16>>(cx).imm(imm),
        (T::F16x2, T::E5m2x2) => VOp::of::<Map1<Fp8FromF16>>(cx).imm(imm | E5M2),
        (T::E4m3x2, T::F16x2) => VOp::of::<Map1<F16FromFp8>>(cx).imm(imm),
        (T::E5m2x2, T::F16x2) => VOp::of::<Map1<F16FromFp8>>(cx).imm(imm | E5M2),
        _ => {
            let (Some(source), Some(dest)) = (code(from), code(to)) else {
                return Err(cx.error("conversion between these types is not supported"));
            };
            let all = imm | source << SOURCE | dest << DEST | mask_of(cx, d)? << MASK;
            let handler = fast(from, to, imm, cx.level);
            VOp::new(handler.unwrap_or_else(|| general(from, to, cx.level))).imm(all).pure("cvt")
        }
    };
    let source = source_of(cx, from, a)?;
    let op = op.src(A, source);
    let op = if to.bits() == 64 { op.def(D, cx.dst64(d)?) } else { op.def(D, cx.dst32(d)?) };
    cx.push(op);
    Ok(())
}

/// The bits of the destination register: a narrower integer is extended to all of them.
fn mask_of(cx: &Emit, d: &Operand) -> Result<u64, LoadError> {
    Ok(match d {
        Operand::Reg(reg) if cx.class(*reg)? == RegClass::B16 => 0xffff,
        _ => 0xffff_ffff,
    })
}

fn source_of(cx: &mut Emit, from: ScalarType, a: &Operand) -> Result<V, LoadError> {
    match from.bits() {
        64 => cx.src64(a),
        8 | 16 => cx.src16(a),
        _ => cx.src32(a),
    }
}

fn two(
    cx: &mut Emit,
    (from, to): (ScalarType, ScalarType),
    imm: u64,
    d: &Operand,
    (a, b): (&Operand, &Operand),
) -> Result<(), LoadError> {
    use ScalarType as T;
    if from != T::F32 {
        return Err(cx.error("conversion between these types is not supported"));
    }
    let half = |ty| {
        let types = code(T::F32).unwrap_or(0) << SOURCE | code(ty).unwrap_or(0) << DEST;
        imm | types | 0xffff << MASK
    };
    let op = match to {
        T::F16x2 if imm == 0 => VOp::of::<Map2<F16x2FromF32>>(cx),
        T::Bf16x2 if imm == 0 => VOp::of::<Map2<Bf16x2FromF32>>(cx),
        T::F16x2 => VOp::of::<Map2<PairAny>>(cx).imm(half(T::F16)),
        T::Bf16x2 => VOp::of::<Map2<PairAny>>(cx).imm(half(T::Bf16)),
        T::E4m3x2 => VOp::of::<Map2<Fp8FromF32>>(cx).imm(imm),
        T::E5m2x2 => VOp::of::<Map2<Fp8FromF32>>(cx).imm(imm | E5M2),
        _ => return Err(cx.error("conversion between these types is not supported")),
    };
    let (a, b) = (cx.src32(a)?, cx.src32(b)?);
    let dest = cx.dst32(d)?;
    cx.push(op.src(A, a).src(B, b).def(D, dest));
    Ok(())
}
