//! Rounding: what the float families share to give one exact result at every level.
//!
//! All functions are written without branches where they sit in loops over lanes, so that the
//! compiler can vectorise them.

/// The quiet NaN that every f32 operation returns.
pub(crate) const NAN32: u32 = 0x7fff_ffff;
/// The quiet NaN that every f64 operation returns.
pub(crate) const NAN64: u64 = 0x7fff_ffff_ffff_ffff;
/// The quiet NaN that every f16 and bf16 operation returns.
pub(crate) const NAN16: u32 = 0x7fff;

/// A rounding direction of PTX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Round {
    /// `.rn`, `.rni`: nearest, ties to even.
    Near,
    /// `.rz`, `.rzi`: toward zero.
    Zero,
    /// `.rm`, `.rmi`: down.
    Down,
    /// `.rp`, `.rpi`: up.
    Up,
    /// `.rna`: nearest, ties away from zero.
    Away,
}

impl Round {
    /// All directions, in the order of their numbers.
    pub(crate) const ALL: [Round; 5] =
        [Round::Near, Round::Zero, Round::Down, Round::Up, Round::Away];
}

/// The bits of `x`, or the one NaN.
#[inline(always)]
pub(crate) fn canon32(x: f32) -> u32 {
    if x.is_nan() { NAN32 } else { x.to_bits() }
}

/// The bits of `x`, or the one NaN.
#[inline(always)]
pub(crate) fn canon64(x: f64) -> u64 {
    if x.is_nan() { NAN64 } else { x.to_bits() }
}

/// `.ftz`: a subnormal becomes the zero of its sign.
#[inline(always)]
pub(crate) fn flush32(bits: u32) -> u32 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// `.sat`: clamp to [+0, 1]; NaN becomes +0.
#[inline(always)]
pub(crate) fn sat32(bits: u32) -> u32 {
    // As signed integers, negative floats are below +0 and floats keep their order above it.
    let clamped = (bits as i32).clamp(0, 0x3f80_0000) as u32;
    if bits & 0x7fff_ffff > 0x7f80_0000 { 0 } else { clamped }
}

/// `.sat` of an f64.
#[inline(always)]
pub(crate) fn sat64(bits: u64) -> u64 {
    let clamped = (bits as i64).clamp(0, 0x3ff0_0000_0000_0000) as u64;
    if bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000 { 0 } else { clamped }
}

/// `a + b` rounded to odd: an inexact sum gets an odd last bit, so that a later rounding to at
/// most 51 bits sees on which side of every tie the exact sum lies. NaN and infinities pass.
#[inline(always)]
pub(crate) fn add_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let from_b = sum - a;
    let error = (a - (sum - from_b)) + (b - from_b);
    let bits = sum.to_bits();
    let away = (error > 0.0) == (sum > 0.0);
    let neighbour = if away { bits.wrapping_add(1) } else { bits.wrapping_sub(1) };
    let inexact = error != 0.0 && !error.is_nan();
    f64::from_bits(if inexact && bits & 1 == 0 { neighbour } else { bits })
}

/// `a·b + c` of f32 values before the last rounding, rounded to odd. The product is exact in f64.
#[inline(always)]
pub(crate) fn fma_odd(a: f32, b: f32, c: f32) -> f64 {
    add_odd(f64::from(a) * f64::from(b), f64::from(c))
}

/// `x` rounded to f32 in the direction `mode`; NaN stays some NaN.
#[inline(always)]
pub(crate) fn narrow32(x: f64, mode: Round) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let bits = near.to_bits();
    let negative = x.is_sign_negative();
    let too_high = back > x;
    let too_low = back < x;
    // One step in sign-magnitude: away from zero is +1 on the bits, toward zero is -1.
    let toward = (too_high && !negative) || (too_low && negative);
    let step = match mode {
        Round::Near | Round::Away => 0,
        Round::Zero => -i32::from(toward),
        Round::Down if negative => i32::from(too_high),
        Round::Down => -i32::from(too_high),
        Round::Up if negative => -i32::from(too_low),
        Round::Up => i32::from(too_low),
    };
    f32::from_bits(bits.wrapping_add(step as u32))
}

/// `x` rounded to odd in f32, for a second rounding to at most 22 bits.
#[inline(always)]
pub(crate) fn narrow_odd(x: f64) -> f32 {
    let near = x as f32;
    let back = f64::from(near);
    let toward = back.abs() > x.abs();
    let truncated = near.to_bits().wrapping_sub(u32::from(toward));
    let inexact = back != x && !x.is_nan();
    f32::from_bits(truncated | u32::from(inexact))
}

/// An integer as f64, for a second rounding to at most 40 bits.
#[inline(always)]
pub(crate) fn u64_odd(x: u64) -> f64 {
    // From 2^53 on the low bits may be lost: fold 11 of them into a sticky bit that is kept.
    let sticky = u64::from(x & 0x7ff != 0) << 11;
    let short = if x >> 53 == 0 { x } else { x & !0xfff | (x & 0x800) | sticky };
    short as f64
}

/// The finite magnitude of f32 bits in a format of `EXP` exponent and `MANT` stored mantissa bits,
/// rounded as if the exponent had no upper end.
#[inline(always)]
pub(crate) fn shorten<const EXP: u32, const MANT: u32>(bits: u32, mode: Round) -> u32 {
    let magnitude = bits & 0x7fff_ffff;
    let negative = bits >> 31 != 0;
    let bias = (1u32 << (EXP - 1)) - 1;
    let exponent = magnitude >> 23;
    let mantissa = magnitude & 0x7f_ffff | u32::from(exponent != 0) << 23;
    let exponent = exponent.max(1);
    let lowest = 128 - bias; // f32 exponent field of the format's smallest normal value
    let extra = lowest.saturating_sub(exponent);
    let shift = (23 - MANT + extra).min(31);
    let quotient = mantissa >> shift;
    let rest = mantissa & ((1u32 << shift) - 1);
    let half = 1u32 << (shift - 1);
    let up = match mode {
        Round::Near => rest > half || (rest == half && quotient & 1 != 0),
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest != 0,
        Round::Up => !negative && rest != 0,
    };
    // The quotient brings its leading one along, which raises the exponent field by one.
    (exponent.saturating_sub(lowest) << MANT) + quotient + u32::from(up)
}

/// f32 bits to a format with infinities of `EXP` exponent and `MANT` stored mantissa bits.
/// Overflow follows the direction of rounding: to infinity or to the largest finite value. NaN
/// becomes the value with all bits set but the sign.
#[inline(always)]
pub(crate) fn narrow16<const EXP: u32, const MANT: u32>(bits: u32, mode: Round) -> u32 {
    let magnitude = bits & 0x7fff_ffff;
    let negative = bits >> 31 != 0;
    let rounded = shorten::<EXP, MANT>(bits, mode);
    let infinity = ((1u32 << EXP) - 1) << MANT;
    let overflow = match mode {
        Round::Near | Round::Away => infinity,
        Round::Zero => infinity - 1,
        Round::Down => infinity - u32::from(!negative),
        Round::Up => infinity - u32::from(negative),
    };
    let finite = if rounded >= infinity { overflow } else { rounded };
    let value = if magnitude == 0x7f80_0000 { infinity } else { finite };
    let nan = (1u32 << (EXP + MANT)) - 1;
    if magnitude > 0x7f80_0000 { nan } else { value | u32::from(negative) << (EXP + MANT) }
}

/// f32 bits to f16, to nearest. Vectorises without variable shifts.
#[inline(always)]
pub(crate) fn f16_near(bits: u32) -> u32 {
    let magnitude = bits & 0x7fff_ffff;
    let sign = bits >> 16 & 0x8000;
    let normal = (magnitude.wrapping_add(0xfff + (magnitude >> 13 & 1))).wrapping_sub(112 << 23);
    // Adding 0.5 aligns the last place of a subnormal f16 with the last place of f32.
    let aligned = (f32::from_bits(magnitude) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let small = magnitude < 0x3880_0000;
    let value = if small { aligned } else { normal >> 13 };
    let value = if magnitude >= 0x477f_f000 { 0x7c00 } else { value };
    if magnitude > 0x7f80_0000 { NAN16 } else { value | sign }
}

/// f32 bits to bf16, to nearest.
#[inline(always)]
pub(crate) fn bf16_near(bits: u32) -> u32 {
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { NAN16 } else { rounded }
}

/// f16 bits to f32 bits, exact. A NaN keeps its payload.
#[inline(always)]
pub(crate) fn f16_widen(half: u32) -> u32 {
    let sign = (half & 0x8000) << 16;
    let shifted = (half & 0x7fff) << 13;
    // 2^112 moves the bias; a subnormal f16 is a subnormal f32 here and becomes normal.
    let value = (f32::from_bits(shifted) * f32::from_bits(0x7780_0000)).to_bits();
    let special = shifted | 0x7f80_0000;
    sign | if half & 0x7c00 == 0x7c00 { special } else { value }
}

/// bf16 bits to f32 bits, exact.
#[inline(always)]
pub(crate) fn bf16_widen(half: u32) -> u32 {
    half << 16
}

/// `x` rounded to an integral value in the direction `mode`, as a float. A zero keeps the sign
/// of `x`; NaN stays NaN.
#[inline(always)]
pub(crate) fn integral32(x: f32, mode: Round) -> f32 {
    const SHIFT: f32 = 8_388_608.0; // 2^23: its last place is one
    let magnitude = x.abs();
    let near = (magnitude + SHIFT) - SHIFT;
    let near = if magnitude < SHIFT { near } else { magnitude }.copysign(x);
    let rounded = match mode {
        Round::Near | Round::Away => near,
        Round::Zero => near - if near.abs() > magnitude { 1f32.copysign(x) } else { 0.0 },
        Round::Down => near - if near > x { 1.0 } else { 0.0 },
        Round::Up => near + if near < x { 1.0 } else { 0.0 },
    };
    rounded.copysign(x)
}

/// As [`integral32`], in f64.
#[inline(always)]
pub(crate) fn integral64(x: f64, mode: Round) -> f64 {
    const SHIFT: f64 = 4_503_599_627_370_496.0; // 2^52
    let magnitude = x.abs();
    let near = (magnitude + SHIFT) - SHIFT;
    let near = if magnitude < SHIFT { near } else { magnitude }.copysign(x);
    let rounded = match mode {
        Round::Near | Round::Away => near,
        Round::Zero => near - if near.abs() > magnitude { 1f64.copysign(x) } else { 0.0 },
        Round::Down => near - if near > x { 1.0 } else { 0.0 },
        Round::Up => near + if near < x { 1.0 } else { 0.0 },
    };
    rounded.copysign(x)
}
