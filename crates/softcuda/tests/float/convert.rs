//! `cvt` between all types.

use half::{bf16, f16};

use super::exact::{self, BF16, Exact, F16, F32, F64, Format, MODES};
use super::harness::{any32, any64, check, table};

const INTEGERS: [(&str, u32, bool); 8] = [
    ("u8", 8, false),
    ("s8", 8, true),
    ("u16", 16, false),
    ("s16", 16, true),
    ("u32", 32, false),
    ("s32", 32, true),
    ("u64", 64, false),
    ("s64", 64, true),
];
const FLOATS: [(&str, u32, Format); 4] =
    [("f16", 16, F16), ("bf16", 16, BF16), ("f32", 32, F32), ("f64", 64, F64)];

fn letter(bits: u32) -> &'static str {
    match bits {
        8 | 16 => "h",
        32 => "r",
        _ => "d",
    }
}

/// Registers hold at least 16 bits.
fn register(bits: u32) -> u32 {
    bits.max(16)
}

fn integer(bits: u64, width: u32, signed: bool) -> i128 {
    let shift = 64 - width;
    if signed { ((bits << shift) as i64 >> shift).into() } else { (bits << shift >> shift).into() }
}

/// An integer in a register: extended by its sign.
fn pack(value: i128, width: u32, signed: bool) -> u64 {
    let value = integer(value as u64, width, signed) as u64;
    match register(width) {
        64 => value,
        bits => value & ((1 << bits) - 1),
    }
}

fn clamp(value: i128, width: u32, signed: bool) -> i128 {
    if signed {
        value.clamp(-(1 << (width - 1)), (1 << (width - 1)) - 1)
    } else {
        value.clamp(0, (1 << width) - 1)
    }
}

#[test]
fn integers_to_integers_truncate_or_clamp() {
    let rows = table("int", 512, |rng| {
        let x = rng.next();
        [if rng.below(2) == 0 { x } else { (x as i64 >> (x & 63)) as u64 }, 0, 0]
    });
    for (from, from_bits, from_signed) in INTEGERS {
        for (to, to_bits, to_signed) in INTEGERS {
            for sat in ["", ".sat"] {
                let (d, a) = (letter(to_bits), letter(from_bits));
                let body = format!("cvt{sat}.{to}.{from} %d{d}, %a{a};");
                let widths = [register(from_bits)];
                check(&body, &widths, register(to_bits), &rows, |[x, _, _]| {
                    let x = integer(x, from_bits, from_signed);
                    let x = if sat.is_empty() { x } else { clamp(x, to_bits, to_signed) };
                    Some(pack(x, to_bits, to_signed))
                });
            }
        }
    }
}

/// The bits of any value of a format.
fn any(rng: &mut super::harness::Rng, bits: u32) -> u64 {
    match bits {
        16 => rng.next() & 0xffff,
        32 => any32(rng).into(),
        _ => any64(rng),
    }
}

#[test]
fn floats_to_integers_round_and_clamp() {
    for (from, from_bits, format) in FLOATS {
        let rows = table(from, 1024, |rng| {
            let random = any(rng, from_bits);
            // Half of the values lie around the limits of the integer types.
            let x = rng.next() as i64 >> rng.below(64);
            let near = (x as f64) / if rng.below(2) == 0 { 1.0 } else { 4.0 };
            let near = exact::convert(F64, format, near.to_bits(), "rn");
            [if rng.below(2) == 0 { random } else { near }, 0, 0]
        });
        for (to, to_bits, to_signed) in INTEGERS {
            for mode in ["rni", "rzi", "rmi", "rpi"] {
                let (d, a) = (letter(to_bits), letter(from_bits));
                let body = format!("cvt.{mode}.{to}.{from} %d{d}, %a{a};");
                check(&body, &[from_bits], register(to_bits), &rows, |[x, _, _]| {
                    let x = f64::from_bits(exact::convert(format, F64, x, "rn"));
                    if x.is_nan() {
                        return Some(if to_bits == 64 { 1 << 63 } else { 0 });
                    }
                    let whole = match mode {
                        "rni" => x.round_ties_even(),
                        "rzi" => x.trunc(),
                        "rmi" => x.floor(),
                        _ => x.ceil(),
                    };
                    Some(pack(clamp(whole as i128, to_bits, to_signed), to_bits, to_signed))
                });
            }
        }
    }
}

#[test]
fn integers_to_floats_round_once() {
    let rows = table("int to float", 1024, |rng| {
        let x = rng.next();
        let x = if rng.below(2) == 0 { x } else { x | 0x7fff_ffff_ffff };
        [(x as i64 >> rng.below(64)) as u64, 0, 0]
    });
    for (from, from_bits, signed) in INTEGERS {
        for (to, to_bits, format) in FLOATS {
            for mode in MODES {
                let (d, a) = (letter(to_bits), letter(from_bits));
                let body = format!("cvt.{mode}.{to}.{from} %d{d}, %a{a};");
                check(&body, &[register(from_bits)], to_bits, &rows, |[x, _, _]| {
                    let x = integer(x, from_bits, signed);
                    Some(format.round(&Exact::new(x < 0, x.unsigned_abs() as u64, 0), mode))
                });
            }
        }
    }
}

#[test]
fn floats_to_floats_round_once() {
    for (from, from_bits, source) in FLOATS {
        let rows = table(from, 4096, |rng| [any(rng, from_bits), 0, 0]);
        for (to, to_bits, dest) in FLOATS {
            if (from_bits, from) == (to_bits, to) {
                continue;
            }
            for mode in MODES {
                let exact_widening = to_bits > from_bits;
                if exact_widening && mode != "rn" {
                    continue;
                }
                let round = if exact_widening { String::new() } else { format!(".{mode}") };
                let (d, a) = (letter(to_bits), letter(from_bits));
                let body = format!("cvt{round}.{to}.{from} %d{d}, %a{a};");
                check(&body, &[from_bits], to_bits, &rows, |[x, _, _]| {
                    Some(exact::convert(source, dest, x, mode))
                });
            }
        }
    }
}

#[test]
fn every_f16_and_bf16_widens_and_narrows_as_the_half_crate_says() {
    let rows: Vec<[u64; 3]> = (0..1 << 16).map(|x| [x, 0, 0]).collect();
    let canonical = |x: f32| u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() });
    check("cvt.f32.f16 %dr, %ah;", &[16], 32, &rows, |[x, _, _]| {
        Some(canonical(f16::from_bits(x as u16).to_f32()))
    });
    check("cvt.f32.bf16 %dr, %ah;", &[16], 32, &rows, |[x, _, _]| {
        Some(canonical(bf16::from_bits(x as u16).to_f32()))
    });
    // The value itself, and every midpoint above it.
    let upper: Vec<[u64; 3]> = (0..1 << 17).map(|x| [x << 15, (x << 15) ^ 1, 0]).collect();
    let narrow = |x: f32| if x.is_nan() { 0x7fff } else { bf16::from_f32(x).to_bits() };
    let float = |x: u64| f32::from_bits(x as u32);
    let body = "cvt.rn.bf16x2.f32 %dr, %ar, %br;";
    check(body, &[32, 32], 32, &upper, |[a, b, _]| {
        Some(u64::from(narrow(float(a))) << 16 | u64::from(narrow(float(b))))
    });
    let body = "cvt.rn.f16x2.f32 %dr, %ar, %br;";
    let narrow = |x: f32| if x.is_nan() { 0x7fff } else { f16::from_f32(x).to_bits() };
    check(body, &[32, 32], 32, &upper, |[a, b, _]| {
        Some(u64::from(narrow(float(a))) << 16 | u64::from(narrow(float(b))))
    });
}

#[test]
fn integral_floats_keep_the_sign_of_zero() {
    let rows = table("integral", 2048, |rng| [any32(rng).into(), any64(rng), 0]);
    for mode in ["rni", "rzi", "rmi", "rpi"] {
        check(&format!("cvt.{mode}.f32.f32 %dr, %ar;"), &[32], 32, &rows, |[x, _, _]| {
            let x = f32::from_bits(x as u32);
            let whole = match mode {
                "rni" => x.round_ties_even(),
                "rzi" => x.trunc(),
                "rmi" => x.floor(),
                _ => x.ceil(),
            };
            Some(if x.is_nan() { 0x7fff_ffff } else { whole.to_bits().into() })
        });
        check(&format!("cvt.{mode}.f64.f64 %dd, %bd;"), &[32, 64], 64, &rows, |[_, x, _]| {
            let x = f64::from_bits(x);
            let whole = match mode {
                "rni" => x.round_ties_even(),
                "rzi" => x.trunc(),
                "rmi" => x.floor(),
                _ => x.ceil(),
            };
            Some(if x.is_nan() { F64.nan() } else { whole.to_bits() })
        });
    }
}

#[test]
fn modifiers_of_float_conversions() {
    let rows = table("modifiers", 4096, |rng| [any32(rng).into(), any32(rng).into(), 0]);
    let float = |x: u64| f32::from_bits(x as u32);
    check("cvt.sat.f32.f32 %dr, %ar;", &[32], 32, &rows, |[x, _, _]| {
        let x = float(x);
        Some(if x.is_nan() || x <= 0.0 { 0 } else { x.min(1.0).to_bits().into() })
    });
    check("cvt.rn.relu.bf16.f32 %dh, %ar;", &[32], 16, &rows, |[x, _, _]| {
        let half = exact::convert(F32, BF16, x, "rn");
        Some(if half & 0x8000 != 0 { 0 } else { half })
    });
    check("cvt.rz.f16x2.f32 %dr, %ar, %br;", &[32, 32], 32, &rows, |[a, b, _]| {
        Some(exact::convert(F32, F16, a, "rz") << 16 | exact::convert(F32, F16, b, "rz"))
    });
    check("cvt.rna.tf32.f32 %dr, %ar;", &[32], 32, &rows, |[x, _, _]| {
        if float(x).is_nan() {
            return Some(0x7fff_ffff);
        }
        if float(x).is_infinite() {
            return Some(x);
        }
        let (low, step) = (x & !0x1fff, 0x2000);
        Some(if x & 0x1fff >= 0x1000 { low + step } else { low })
    });
}

/// The value of an 8-bit float by its definition.
fn fp8(byte: u64, e5m2: bool) -> f64 {
    let (exponent, mantissa, bias) =
        if e5m2 { (byte >> 2 & 31, byte & 3, 15) } else { (byte >> 3 & 15, byte & 7, 7) };
    let fraction = mantissa as f64 / if e5m2 { 4.0 } else { 8.0 };
    let magnitude = match exponent {
        _ if !e5m2 && byte & 0x7f == 0x7f => f64::NAN,
        31 if mantissa == 0 => f64::INFINITY,
        31 => f64::NAN,
        0 => fraction * 2f64.powi(1 - bias),
        _ => (1.0 + fraction) * 2f64.powi(exponent as i32 - bias),
    };
    if byte & 0x80 != 0 { -magnitude } else { magnitude }
}

#[test]
fn eight_bit_floats_round_to_the_nearest_and_saturate() {
    let rows = table("fp8", 4096, |rng| {
        let mut x = || {
            if rng.below(3) == 0 {
                any32(rng).into()
            } else {
                (rng.next() as u32 & 0x80ff_ffff | (112 + rng.below(28) as u32) << 23).into()
            }
        };
        [x(), x(), 0]
    });
    for (name, e5m2) in [("e4m3x2", false), ("e5m2x2", true)] {
        let largest = if e5m2 { 0x7b } else { 0x7e };
        let encode = |x: f32| {
            if x.is_nan() {
                return 0x7f;
            }
            let sign = if x.is_sign_negative() { 0x80 } else { 0 };
            let x = f64::from(x.abs()).min(fp8(largest, e5m2)); // far away all distances look alike
            let distance = |m: u64| (fp8(m, e5m2) - x).abs();
            // Of two equally near the even one.
            let best = (0..=largest)
                .min_by(|a, b| distance(*a).total_cmp(&distance(*b)).then((a & 1).cmp(&(b & 1))));
            best.expect("the range is not empty") | sign
        };
        let body = format!("cvt.rn.satfinite.{name}.f32 %dh, %ar, %br;");
        check(&body, &[32, 32], 16, &rows, |[a, b, _]| {
            let float = |x: u64| f32::from_bits(x as u32);
            Some(encode(float(a)) << 8 | encode(float(b)))
        });
        let bytes: Vec<[u64; 3]> = (0..256).map(|x| [x | (255 - x) << 8, 0, 0]).collect();
        check(&format!("cvt.rn.f16x2.{name} %dr, %ah;"), &[16], 32, &bytes, |[x, _, _]| {
            let half = |byte: u64| {
                let x = fp8(byte, e5m2);
                if x.is_nan() { 0x7fff } else { u64::from(f16::from_f64(x).to_bits()) }
            };
            Some(half(x >> 8) << 16 | half(x & 0xff))
        });
    }
}
