//! `setp`, `set`, `selp` and `slct` of float types.

use super::exact::{BF16, F16, F32, F64, Format, Value};
use super::harness::{any32, any64, check, table};

const RELATIONS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

/// A relation of PTX by the value of its operands.
fn relation(name: &str, a: f64, b: f64) -> bool {
    let unordered = a.is_nan() || b.is_nan();
    match name {
        "eq" => a == b,
        "ne" => !unordered && a != b,
        "lt" => a < b,
        "le" => a <= b,
        "gt" => a > b,
        "ge" => a >= b,
        "equ" => unordered || a == b,
        "neu" => unordered || a != b,
        "ltu" => unordered || a < b,
        "leu" => unordered || a <= b,
        "gtu" => unordered || a > b,
        "geu" => unordered || a >= b,
        "num" => !unordered,
        _ => unordered,
    }
}

fn value(format: Format, bits: u64) -> f64 {
    match format.decode(bits) {
        Value::Nan => f64::NAN,
        Value::Infinite(negative) => {
            if negative {
                f64::NEG_INFINITY
            } else {
                f64::INFINITY
            }
        }
        Value::Finite(x) => f64::from_bits(F64.round(&x, "rn")),
    }
}

fn flush(bits: u64) -> u64 {
    if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits }
}

/// Pairs of which many are equal, or equal but for the sign.
fn pairs(label: &str, any: impl Fn(&mut super::harness::Rng) -> u64, sign: u64) -> Vec<[u64; 3]> {
    table(label, 1024, |rng| {
        let a = any(rng);
        let b = match rng.below(4) {
            0 => a,
            1 => a ^ sign,
            _ => any(rng),
        };
        [a, b, rng.next()]
    })
}

#[test]
fn setp_of_every_relation_and_type() {
    let rows = pairs("setp", |rng| any32(rng).into(), 1 << 31);
    let wide = pairs("setp64", any64, 1 << 63);
    let halves = pairs("setp16", |rng| rng.next() & 0xffff, 1 << 15);
    for name in RELATIONS {
        let select = "selp.b32 %dr, 1, 0, %p2;";
        let body = format!("setp.{name}.f32 %p2, %ar, %br; {select}");
        check(&body, &[32, 32], 32, &rows, |[a, b, _]| {
            Some(relation(name, value(F32, a), value(F32, b)).into())
        });
        let body = format!("setp.{name}.ftz.f32 %p2, %ar, %br; {select}");
        check(&body, &[32, 32], 32, &rows, |[a, b, _]| {
            Some(relation(name, value(F32, flush(a)), value(F32, flush(b))).into())
        });
        let body = format!("setp.{name}.f64 %p2, %ad, %bd; {select}");
        check(&body, &[64, 64], 32, &wide, |[a, b, _]| {
            Some(relation(name, value(F64, a), value(F64, b)).into())
        });
        for (ty, format) in [("f16", F16), ("bf16", BF16)] {
            let body = format!("setp.{name}.{ty} %p2, %ah, %bh; {select}");
            check(&body, &[16, 16], 32, &halves, |[a, b, _]| {
                Some(relation(name, value(format, a), value(format, b)).into())
            });
        }
    }
}

#[test]
fn setp_combines_with_a_predicate_and_has_a_second_result() {
    let rows = pairs("setp pq", |rng| any32(rng).into(), 1 << 31);
    for (join, f) in [
        ("and", (|a, b| a && b) as fn(bool, bool) -> bool),
        ("or", |a, b| a || b),
        ("xor", |a, b| a != b),
    ] {
        for negated in [false, true] {
            let sign = if negated { "!" } else { "" };
            let body = format!(
                "and.b32 %er, %cr, 1; setp.ne.u32 %p3, %er, 0;\n\
                 setp.ltu.{join}.f32 %p2|%p1, %ar, %br, {sign}%p3;\n\
                 selp.b32 %dr, 1, 0, %p2; selp.b32 %er, 2, 0, %p1; or.b32 %dr, %dr, %er;"
            );
            check(&body, &[32, 32, 32], 32, &rows, |[a, b, c]| {
                let holds = relation("ltu", value(F32, a), value(F32, b));
                let c = (c & 1 == 1) != negated;
                Some(u64::from(f(holds, c)) | u64::from(f(!holds, c)) << 1)
            });
        }
    }
    let body = "setp.gt.f16x2 %p2|%p1, %ar, %br;\n\
         selp.b32 %dr, 1, 0, %p2; selp.b32 %er, 2, 0, %p1; or.b32 %dr, %dr, %er;";
    check(body, &[32, 32], 32, &rows, |[a, b, _]| {
        let half = |s: u32| {
            let part = |x: u64| value(F16, x >> s & 0xffff);
            u64::from(part(a) > part(b))
        };
        Some(half(0) | half(16) << 1)
    });
}

#[test]
fn set_writes_ones_or_one() {
    let rows = pairs("set", |rng| any32(rng).into(), 1 << 31);
    for (dest, yes) in [("u32", 0xffff_ffff), ("f32", 0x3f80_0000)] {
        let body = format!("set.ge.{dest}.f32 %dr, %ar, %br;");
        check(&body, &[32, 32], 32, &rows, |[a, b, _]| {
            Some(if value(F32, a) >= value(F32, b) { yes } else { 0 })
        });
    }
    check("set.ne.f16x2.f16x2 %dr, %ar, %br;", &[32, 32], 32, &rows, |[a, b, _]| {
        let half = |s: u32| {
            let part = |x: u64| value(F16, x >> s & 0xffff);
            if relation("ne", part(a), part(b)) { 0x3c00 } else { 0 }
        };
        Some(half(0) | half(16) << 16)
    });
}

#[test]
fn selp_and_slct_choose_bits() {
    let rows = pairs("selp", |rng| any32(rng).into(), 1 << 31);
    let body = "setp.lt.f32 %p2, %ar, %br; selp.f32 %dr, %ar, %br, %p2;";
    check(body, &[32, 32], 32, &rows, |[a, b, _]| {
        Some(if value(F32, a) < value(F32, b) { a } else { b })
    });
    check("slct.f32.f32 %dr, %ar, %br, %cr;", &[32, 32, 32], 32, &rows, |[a, b, c]| {
        Some(if value(F32, c & 0xffff_ffff) >= 0.0 { a } else { b })
    });
    let wide = pairs("selp64", any64, 1 << 63);
    let body = "setp.lt.f64 %p2, %ad, %bd; selp.f64 %dd, %ad, %bd, %p2;";
    check(body, &[64, 64], 64, &wide, |[a, b, _]| {
        Some(if value(F64, a) < value(F64, b) { a } else { b })
    });
}
