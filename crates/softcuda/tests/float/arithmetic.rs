//! `add sub mul fma div sqrt rcp min max abs neg copysign testp` of all float types.

use super::exact::{self, BF16, F16, F32, F64, Format, MODES};
use super::harness::{any32, any64, check, table};

const COUNT: usize = 2048;

fn inputs32(label: &str) -> Vec<[u64; 3]> {
    table(label, COUNT, |rng| [0; 3].map(|_| u64::from(any32(rng))))
}

/// Sums near cancellation and products near the limits, besides [`inputs32`].
fn close32(label: &str) -> Vec<[u64; 3]> {
    let mut rows = inputs32(label);
    rows.extend(table(label, COUNT, |rng| {
        let (a, b) = (any32(rng), any32(rng));
        let product = f32::from_bits(a) * f32::from_bits(b);
        let step = rng.below(5) as u32;
        [a.into(), b.into(), (product.to_bits() ^ 1 << 31).wrapping_add(step).into()]
    }));
    rows
}

fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

fn saturate(bits: u64) -> u64 {
    let x = f32::from_bits(bits as u32);
    if x.is_nan() || x <= 0.0 { 0 } else { x.min(1.0).to_bits().into() }
}

#[test]
fn f32_sums_and_products_round_once_in_every_direction() {
    for mode in MODES {
        let rows = close32(mode);
        check(&format!("add.{mode}.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            Some(exact::add(F32, a, b, mode))
        });
        check(&format!("sub.{mode}.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            let b = if b & 0x7fff_ffff > 0x7f80_0000 { b } else { b ^ 1 << 31 };
            Some(exact::add(F32, a, b, mode))
        });
        check(&format!("mul.{mode}.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            Some(exact::fma(F32, a, b, None, mode))
        });
        let fma = format!("fma.{mode}.f32 %dr, %ar, %br, %cr;");
        check(&fma, &[32, 32, 32], 32, &rows, |[a, b, c]| {
            Some(exact::fma(F32, a, b, Some(c), mode))
        });
    }
}

#[test]
fn f32_ftz_flushes_inputs_and_results_and_sat_clamps() {
    for mode in ["rn", "rz"] {
        let rows = close32("ftz");
        let fma = format!("fma.{mode}.ftz.sat.f32 %dr, %ar, %br, %cr;");
        check(&fma, &[32, 32, 32], 32, &rows, |[a, b, c]| {
            let sum = exact::fma(F32, flush(a), flush(b), Some(flush(c)), mode);
            Some(saturate(flush(sum)))
        });
        check(&format!("add.{mode}.sat.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            Some(saturate(exact::add(F32, a, b, mode)))
        });
        check(&format!("mul.{mode}.ftz.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            Some(flush(exact::fma(F32, flush(a), flush(b), None, mode)))
        });
    }
}

/// Whether `r` is the quotient `a / b` rounded in a direction: the exact remainder decides.
fn is_quotient(a: f32, b: f32, r: f32, mode: &str) -> bool {
    // All three have 24 bits: products are exact in f64, and the neighbours' as well.
    let exceeds = |q: f32| {
        let difference = f64::from(q) * f64::from(b) - f64::from(a);
        if b.is_sign_negative() { -difference } else { difference }
    };
    let (below, above) = (exceeds(r.next_down()), exceeds(r.next_up()));
    let here = exceeds(r);
    match mode {
        "rm" => here <= 0.0 && above > 0.0,
        "rp" => here >= 0.0 && below < 0.0,
        "rz" if here != 0.0 && (a < 0.0) != (b < 0.0) => here >= 0.0 && below < 0.0,
        "rz" => here <= 0.0 && above > 0.0,
        _ => below.abs() >= here.abs() && above.abs() >= here.abs(),
    }
}

#[test]
fn f32_quotients_and_roots_are_the_nearest_or_the_neighbour_asked_for() {
    let rows = table("div", COUNT, |rng| {
        let middle = |rng: &mut super::harness::Rng| {
            rng.next() as u32 & 0x807f_ffff | (70 + rng.below(110) as u32) << 23
        };
        [middle(rng).into(), middle(rng).into(), 0]
    });
    for mode in MODES {
        let model = |a: u64, b: u64| {
            let (a, b) = (f32::from_bits(a as u32), f32::from_bits(b as u32));
            let near = a / b;
            let all = [near.next_down(), near, near.next_up()];
            let right = all.into_iter().find(|r| is_quotient(a, b, *r, mode));
            Some(right.expect("one of three neighbours is right").to_bits().into())
        };
        let div = format!("div.{mode}.f32 %dr, %ar, %br;");
        check(&div, &[32, 32], 32, &rows, |[a, b, _]| model(a, b));
        let rcp = format!("rcp.{mode}.f32 %dr, %ar;");
        check(&rcp, &[32], 32, &rows, |[a, _, _]| model(0x3f80_0000, a));
        let sqrt = format!("sqrt.{mode}.f32 %dr, %ar;");
        check(&sqrt, &[32], 32, &rows, |[a, _, _]| {
            let x = f32::from_bits(a as u32);
            if x < 0.0 {
                return Some(0x7fff_ffff);
            }
            let near = x.sqrt();
            let square = |r: f32| f64::from(r) * f64::from(r);
            let r = match mode {
                "rm" | "rz" if square(near) > f64::from(x) => near.next_down(),
                "rp" if square(near) < f64::from(x) => near.next_up(),
                _ => near,
            };
            Some(r.to_bits().into())
        });
    }
}

#[test]
fn f32_quotients_and_roots_of_edges() {
    let rows = inputs32("edges");
    let canonical = |x: f32| Some(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() }.into());
    let float = |bits: u64| f32::from_bits(bits as u32);
    check("div.rn.f32 %dr, %ar, %br;", &[32, 32], 32, &rows, |[a, b, _]| {
        canonical(float(a) / float(b))
    });
    check("rcp.rn.f32 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| canonical(1.0 / float(a)));
    check("sqrt.rn.f32 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| canonical(float(a).sqrt()));
    check("div.rn.ftz.f32 %dr, %ar, %br;", &[32, 32], 32, &rows, |[a, b, _]| {
        let x = float(flush(a)) / float(flush(b));
        canonical(x).map(flush)
    });
}

/// Minimum or maximum of a format from the PTX text.
fn extremum(format: Format, a: u64, b: u64, maximum: bool, nan: bool) -> u64 {
    let Format(e, m) = format;
    let magnitude = |x: u64| x & format.nan();
    let is_nan = |x: u64| magnitude(x) > format.infinity(false);
    let key = |x: u64| {
        let value = magnitude(x) as i64;
        if x >> (e + m) & 1 == 1 { -1 - value } else { value }
    };
    match (is_nan(a), is_nan(b)) {
        (true, true) => format.nan(),
        (true, false) | (false, true) if nan => format.nan(),
        (true, false) => b,
        (false, true) => a,
        _ if (key(a) < key(b)) != maximum => a,
        _ => b,
    }
}

#[test]
fn minimum_and_maximum_of_all_formats() {
    let halves = |rng: &mut super::harness::Rng| {
        let mut half = || {
            let edges = [0, 0x8000, 0x7c00, 0xfc00, 0x7f80, 0xff80, 0x7fff, 0x7c01, 1, 0x8001];
            let x = rng.next();
            if x & 3 == 0 { edges[rng.below(10) as usize] } else { x >> 8 & 0xffff }
        };
        [half(), half(), 0]
    };
    let (rows, narrow) = (inputs32("min"), table("min16", COUNT, halves));
    let wide = table("min64", COUNT, |rng| [any64(rng), any64(rng), 0]);
    for (op, maximum) in [("min", false), ("max", true)] {
        for (modifier, nan) in [("", false), (".NaN", true)] {
            let body = format!("{op}{modifier}.f32 %dr, %ar, %br;");
            check(&body, &[32, 32], 32, &rows, |[a, b, _]| Some(extremum(F32, a, b, maximum, nan)));
            for (name, format) in [("f16", F16), ("bf16", BF16)] {
                let body = format!("{op}{modifier}.{name} %dh, %ah, %bh;");
                check(&body, &[16, 16], 16, &narrow, |[a, b, _]| {
                    Some(extremum(format, a, b, maximum, nan))
                });
            }
        }
        check(&format!("{op}.ftz.f32 %dr, %ar, %br;"), &[32, 32], 32, &rows, |[a, b, _]| {
            Some(extremum(F32, flush(a), flush(b), maximum, false))
        });
        let xorsign = format!("{op}.xorsign.abs.f32 %dr, %ar, %br;");
        check(&xorsign, &[32, 32], 32, &rows, |[a, b, _]| {
            let strip = 0x7fff_ffff;
            let r = extremum(F32, a & strip, b & strip, maximum, false);
            let sign = (a ^ b) & 1 << 31;
            Some(if r == 0x7fff_ffff { r } else { r | sign })
        });
        check(&format!("{op}.f64 %dd, %ad, %bd;"), &[64, 64], 64, &wide, |[a, b, _]| {
            Some(extremum(F64, a, b, maximum, false))
        });
    }
}

#[test]
fn sign_operations_keep_the_payload_of_nan() {
    let rows = inputs32("sign");
    check("abs.f32 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| Some(a & 0x7fff_ffff));
    check("neg.f32 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| Some(a ^ 1 << 31));
    check("abs.ftz.f32 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| Some(flush(a) & 0x7fff_ffff));
    check("copysign.f32 %dr, %ar, %br;", &[32, 32], 32, &rows, |[a, b, _]| {
        Some(a & 1 << 31 | b & 0x7fff_ffff)
    });
    let wide = table("sign64", COUNT, |rng| [any64(rng), any64(rng), 0]);
    check("neg.f64 %dd, %ad;", &[64], 64, &wide, |[a, _, _]| Some(a ^ 1 << 63));
    check("abs.f64 %dd, %ad;", &[64], 64, &wide, |[a, _, _]| Some(a & !(1 << 63)));
    check("neg.bf16x2 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| Some(a ^ 0x8000_8000));
    check("abs.f16x2 %dr, %ar;", &[32], 32, &rows, |[a, _, _]| Some(a & 0x7fff_7fff));
}

#[test]
fn f64_rounds_once_in_every_direction() {
    let rows = table("f64", 1024, |rng| {
        // Products of full range would leave the model's unit.
        let mut x = || any64(rng) & !(7 << 60) | (rng.below(2) + 3) << 60;
        [x(), x(), x()]
    });
    let sums = table("f64 sums", 1024, |rng| {
        let a = any64(rng);
        let b = if rng.below(2) == 0 { any64(rng) } else { (a ^ 1 << 63) + rng.below(9) };
        [a, b, 0]
    });
    for mode in MODES {
        check(&format!("add.{mode}.f64 %dd, %ad, %bd;"), &[64, 64], 64, &sums, |[a, b, _]| {
            Some(exact::add(F64, a, b, mode))
        });
        check(&format!("mul.{mode}.f64 %dd, %ad, %bd;"), &[64, 64], 64, &rows, |[a, b, _]| {
            Some(exact::fma(F64, a, b, None, mode))
        });
        let fma = format!("fma.{mode}.f64 %dd, %ad, %bd, %cd;");
        check(&fma, &[64, 64, 64], 64, &rows, |[a, b, c]| {
            Some(exact::fma(F64, a, b, Some(c), mode))
        });
    }
}

#[test]
fn f64_quotients_and_roots() {
    let rows = table("f64 div", 1024, |rng| [any64(rng), any64(rng), 0]);
    let canonical = |x: f64| if x.is_nan() { F64.nan() } else { x.to_bits() };
    for mode in MODES {
        let pick = |near: f64, excess: f64| {
            // `excess` has the sign of near minus the exact value.
            let toward = (near > 0.0) == (excess > 0.0) && excess != 0.0;
            canonical(match mode {
                "rm" if excess > 0.0 => near.next_down(),
                "rp" if excess < 0.0 => near.next_up(),
                "rz" if toward && near > 0.0 => near.next_down(),
                "rz" if toward => near.next_up(),
                _ => near,
            })
        };
        check(&format!("div.{mode}.f64 %dd, %ad, %bd;"), &[64, 64], 64, &rows, |[a, b, _]| {
            let (a, b) = (f64::from_bits(a), f64::from_bits(b));
            let near = a / b;
            let middle = |x: f64| x.abs() > 1e-200 && x.abs() < 1e200;
            if !(middle(a) && middle(b) && middle(near)) {
                // The remainder is exact only away from the limits.
                return if mode == "rn" { Some(canonical(near)) } else { None };
            }
            let rest = near.mul_add(b, -a);
            Some(pick(near, if b < 0.0 { -rest } else { rest }))
        });
        check(&format!("sqrt.{mode}.f64 %dd, %ad;"), &[64], 64, &rows, |[a, _, _]| {
            let x = f64::from_bits(a);
            let near = x.sqrt();
            if near.is_nan() || x == 0.0 || x.is_infinite() || x < 1e-200 {
                return if mode == "rn" { Some(canonical(near)) } else { None };
            }
            Some(pick(near, near.mul_add(near, -x)))
        });
    }
}

/// Two f16 or bf16 operands: every value meets edges and random partners.
fn halves(label: &str) -> Vec<[u64; 3]> {
    let edges = [0u64, 1, 0x3ff, 0x400, 0x3c00, 0x3f80, 0x7bff, 0x7c00, 0x7f7f, 0x7f80, 0x7fff];
    table(label, 4096, |rng| {
        let mut half = || {
            let x = rng.next();
            if x & 7 == 0 { edges[rng.below(11) as usize] | x & 0x8000 } else { x >> 8 & 0xffff }
        };
        [half(), half(), half()]
    })
}

#[test]
fn f16_and_bf16_round_once() {
    for (name, format) in [("f16", F16), ("bf16", BF16)] {
        let rows = halves(name);
        check(&format!("add.{name} %dh, %ah, %bh;"), &[16, 16], 16, &rows, |[a, b, _]| {
            Some(exact::add(format, a, b, "rn"))
        });
        check(&format!("mul.{name} %dh, %ah, %bh;"), &[16, 16], 16, &rows, |[a, b, _]| {
            Some(exact::fma(format, a, b, None, "rn"))
        });
        let fma = format!("fma.rn.{name} %dh, %ah, %bh, %ch;");
        check(&fma, &[16, 16, 16], 16, &rows, |[a, b, c]| {
            Some(exact::fma(format, a, b, Some(c), "rn"))
        });
        let relu = format!("fma.rn.relu.{name} %dh, %ah, %bh, %ch;");
        check(&relu, &[16, 16, 16], 16, &rows, |[a, b, c]| {
            let sum = exact::fma(format, a, b, Some(c), "rn");
            Some(if sum & 0x8000 != 0 { 0 } else { sum })
        });
        let packed: Vec<[u64; 3]> =
            rows.chunks_exact(2).map(|r| [0, 1, 2].map(|i| r[0][i] | r[1][i] << 16)).collect();
        let sub = format!("sub.{name}x2 %dr, %ar, %br;");
        check(&sub, &[32, 32], 32, &packed, |[a, b, _]| {
            let one = |a: u64, b: u64| {
                let nan = b & 0x7fff > format.infinity(false);
                exact::add(format, a, if nan { b } else { b ^ 0x8000 }, "rn")
            };
            Some(one(a & 0xffff, b & 0xffff) | one(a >> 16, b >> 16) << 16)
        });
        let fma = format!("fma.rn.{name}x2 %dr, %ar, %br, %cr;");
        check(&fma, &[32, 32, 32], 32, &packed, |[a, b, c]| {
            let half = |s: u32| {
                let part = |x: u64| x >> s & 0xffff;
                exact::fma(format, part(a), part(b), Some(part(c)), "rn")
            };
            Some(half(0) | half(16) << 16)
        });
    }
}

#[test]
fn testp_names_the_class_of_every_kind_of_value() {
    let rows = inputs32("testp");
    for class in ["finite", "infinite", "number", "notanumber", "normal", "subnormal"] {
        let body = format!("testp.{class}.f32 %p2, %ar; selp.b32 %dr, 1, 0, %p2;");
        check(&body, &[32], 32, &rows, |[a, _, _]| {
            let x = f32::from_bits(a as u32);
            Some(u64::from(match class {
                "finite" => x.is_finite(),
                "infinite" => x.is_infinite(),
                "number" => !x.is_nan(),
                "notanumber" => x.is_nan(),
                "normal" => x.is_normal(),
                _ => x.is_subnormal(),
            }))
        });
    }
}
