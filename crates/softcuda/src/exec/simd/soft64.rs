//! f64 arithmetic in integers, for the directed roundings that the processor does not offer
//! without a change of its control register.

use super::round::{NAN64, Round};

const SIGN: u64 = 1 << 63;
const INFINITY: u64 = 0x7ff << 52;
const HIDDEN: u64 = 1 << 52;

/// A finite number: `(-1)^negative · mantissa · 2^exponent`.
#[derive(Clone, Copy)]
struct Parts {
    negative: bool,
    exponent: i32,
    mantissa: u128,
}

fn is_nan(bits: u64) -> bool {
    bits & !SIGN > INFINITY
}

fn is_infinite(bits: u64) -> bool {
    bits & !SIGN == INFINITY
}

fn split(bits: u64) -> Parts {
    let field = (bits >> 52 & 0x7ff) as i32;
    let fraction = bits & (HIDDEN - 1);
    let mantissa = if field == 0 { fraction } else { fraction | HIDDEN };
    Parts {
        negative: bits >> 63 != 0,
        exponent: field.max(1) - 1075,
        mantissa: u128::from(mantissa),
    }
}

/// Shifts right; what falls out stays visible in the lowest bit.
fn shift_sticky(x: u128, by: u32) -> u128 {
    if by == 0 {
        x
    } else if by > 127 {
        u128::from(x != 0)
    } else {
        x >> by | u128::from(x << (128 - by) != 0)
    }
}

/// Rounds to f64. The lowest bit of a mantissa above 2^54 may be sticky.
fn round(parts: Parts, mode: Round) -> u64 {
    let Parts { negative, exponent, mantissa } = parts;
    let sign = if negative { SIGN } else { 0 };
    if mantissa == 0 {
        return sign;
    }
    let length = 128 - mantissa.leading_zeros() as i32;
    // The last place of the result: 53 bits, but not below 2^-1074.
    let drop = (length - 53).max(-1074 - exponent);
    let (quotient, rest, half) = if drop <= 0 {
        (mantissa << -drop, 0, 1)
    } else if drop > 127 {
        (0, 1, 2)
    } else {
        (mantissa >> drop, mantissa & ((1 << drop) - 1), 1 << (drop - 1))
    };
    let up = match mode {
        Round::Near => rest > half || (rest == half && quotient & 1 != 0),
        Round::Away => rest >= half,
        Round::Zero => false,
        Round::Down => negative && rest != 0,
        Round::Up => !negative && rest != 0,
    };
    let place = exponent + drop;
    let field = if quotient >= u128::from(HIDDEN) { place + 1075 } else { 1 };
    let base = (field - 1).max(0) as u64;
    // The mantissa carries into the exponent field, also when rounding makes it one bit longer.
    let magnitude = u128::from(base << 52) + quotient + u128::from(up);
    let overflows = field > 0x7fe || magnitude >= u128::from(INFINITY);
    let finite = match mode {
        Round::Near | Round::Away => INFINITY,
        Round::Zero => INFINITY - 1,
        Round::Down => INFINITY - u64::from(!negative),
        Round::Up => INFINITY - u64::from(negative),
    };
    sign | if overflows { finite } else { magnitude as u64 }
}

/// Moves the leading one to bit 125.
fn normalise(parts: Parts) -> Parts {
    let by = parts.mantissa.leading_zeros() as i32 - 2;
    Parts { mantissa: parts.mantissa << by, exponent: parts.exponent - by, ..parts }
}

/// `p + c`; the product and the addend have at most 106 bits.
fn sum(p: Parts, c: Parts, mode: Round) -> u64 {
    if p.mantissa == 0 && c.mantissa == 0 {
        let negative = if p.negative == c.negative { p.negative } else { mode == Round::Down };
        return if negative { SIGN } else { 0 };
    }
    if p.mantissa == 0 || c.mantissa == 0 {
        return round(if p.mantissa == 0 { c } else { p }, mode);
    }
    let (p, c) = (normalise(p), normalise(c));
    let swap = (c.exponent, c.mantissa) > (p.exponent, p.mantissa);
    let (high, low) = if swap { (c, p) } else { (p, c) };
    let aligned = shift_sticky(low.mantissa, (high.exponent - low.exponent) as u32);
    if high.negative == low.negative {
        // 125 bits each: no overflow of 128.
        return round(Parts { mantissa: high.mantissa + aligned, ..high }, mode);
    }
    let mantissa = high.mantissa - aligned;
    if mantissa == 0 {
        return if mode == Round::Down { SIGN } else { 0 };
    }
    round(Parts { mantissa, ..high }, mode)
}

/// `a·b + c`.
pub(crate) fn fma(a: u64, b: u64, c: u64, mode: Round) -> u64 {
    if is_nan(a) || is_nan(b) || is_nan(c) {
        return NAN64;
    }
    let negative = (a ^ b) & SIGN != 0;
    let (x, y, z) = (split(a), split(b), split(c));
    if is_infinite(a) || is_infinite(b) {
        let clash = is_infinite(c) && z.negative != negative;
        let zero = (!is_infinite(a) && x.mantissa == 0) || (!is_infinite(b) && y.mantissa == 0);
        return if clash || zero { NAN64 } else { INFINITY | if negative { SIGN } else { 0 } };
    }
    if is_infinite(c) {
        return c;
    }
    let mantissa = x.mantissa * y.mantissa;
    sum(Parts { negative, exponent: x.exponent + y.exponent, mantissa }, z, mode)
}

/// `a + b`.
pub(crate) fn add(a: u64, b: u64, mode: Round) -> u64 {
    fma(a, 1f64.to_bits(), b, mode)
}

/// `a·b`.
pub(crate) fn mul(a: u64, b: u64, mode: Round) -> u64 {
    // Adding a zero of the product's sign changes nothing.
    fma(a, b, (a ^ b) & SIGN, mode)
}

/// `a / b`.
pub(crate) fn div(a: u64, b: u64, mode: Round) -> u64 {
    let sign = (a ^ b) & SIGN;
    let (x, y) = (split(a), split(b));
    let zeros = x.mantissa == 0 && y.mantissa == 0;
    if is_nan(a) || is_nan(b) || zeros || (is_infinite(a) && is_infinite(b)) {
        return NAN64;
    }
    if is_infinite(a) || y.mantissa == 0 {
        return sign | INFINITY;
    }
    if is_infinite(b) || x.mantissa == 0 {
        return sign;
    }
    let by = x.mantissa.leading_zeros() as i32 - 2;
    let dividend = x.mantissa << by;
    // At least 72 bits of quotient; the remainder is the sticky bit.
    let quotient =
        ((dividend / y.mantissa) << 1) | u128::from(!dividend.is_multiple_of(y.mantissa));
    let exponent = x.exponent - by - y.exponent - 1;
    round(Parts { negative: sign != 0, exponent, mantissa: quotient }, mode)
}

/// `√a`.
pub(crate) fn sqrt(a: u64, mode: Round) -> u64 {
    let x = split(a);
    if is_nan(a) || (x.negative && x.mantissa != 0) {
        return NAN64;
    }
    if x.mantissa == 0 || is_infinite(a) {
        return a;
    }
    let by = x.mantissa.leading_zeros() as i32 - 2;
    // An even exponent, so that its half is whole.
    let by = by - ((x.exponent - by) & 1);
    let radicand = x.mantissa << by;
    let root = radicand.isqrt();
    let mantissa = root << 1 | u128::from(root * root != radicand);
    let exponent = (x.exponent - by) / 2 - 1;
    round(Parts { negative: false, exponent, mantissa }, mode)
}
