//! Modifiers of arithmetic, packed into an op's immediate.

use crate::exec::simd::round::{Round, canon32, flush32, narrow32, sat32};
use crate::lower::emit::Mods;

/// Where the rounding direction lies.
pub(crate) const ROUND: u64 = 0x7;
/// `.ftz`
pub(crate) const FTZ: u64 = 1 << 4;
/// `.sat`
pub(crate) const SAT: u64 = 1 << 5;
/// The second source is negated.
pub(crate) const NEGATE: u64 = 1 << 6;
/// `.NaN`
pub(crate) const NAN: u64 = 1 << 7;
/// `.xorsign.abs`
pub(crate) const XORSIGN: u64 = 1 << 8;
/// `.relu`
pub(crate) const RELU: u64 = 1 << 9;
/// Maximum, not minimum.
pub(crate) const MAXIMUM: u64 = 1 << 10;
/// `.satfinite`
pub(crate) const SATFINITE: u64 = 1 << 12;

/// The direction in `imm`.
#[inline(always)]
pub(crate) fn rounding(imm: u64) -> Round {
    match imm & ROUND {
        1 => Round::Zero,
        2 => Round::Down,
        3 => Round::Up,
        4 => Round::Away,
        _ => Round::Near,
    }
}

/// Takes `.rn .rz .rm .rp`; nearest without one.
pub(crate) fn take_rounding(mods: &mut Mods) -> u64 {
    match mods.take_any(&["rn", "rz", "rm", "rp"]) {
        Some("rz") => Round::Zero as u64,
        Some("rm") => Round::Down as u64,
        Some("rp") => Round::Up as u64,
        _ => Round::Near as u64,
    }
}

/// Takes a modifier if it is there: its flag, or 0.
pub(crate) fn take_flag(mods: &mut Mods, name: &str, flag: u64) -> u64 {
    if mods.take(name) { flag } else { 0 }
}

/// An f32 source under `.ftz`.
#[inline(always)]
pub(crate) fn input32(bits: u32, imm: u64) -> f32 {
    f32::from_bits(if imm & FTZ != 0 { flush32(bits) } else { bits })
}

/// The f32 result of an operation whose value, rounded to odd or exact, is `x`.
#[inline(always)]
pub(crate) fn finish32(x: f64, imm: u64) -> u32 {
    let bits = canon32(narrow32(x, rounding(imm)));
    let bits = if imm & FTZ != 0 { flush32(bits) } else { bits };
    if imm & SAT != 0 { sat32(bits) } else { bits }
}

/// A sum that is exactly zero, of addends with different signs, is -0 when rounding down.
#[inline(always)]
pub(crate) fn zero_sum(sum: f64, signs_differ: bool, imm: u64) -> f64 {
    if sum == 0.0 && signs_differ && imm & ROUND == Round::Down as u64 { -0.0 } else { sum }
}
