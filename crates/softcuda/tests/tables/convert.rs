//! `cvt` between all types it knows.

use super::exact::{self, BF16, F16, F32, F64, Format, Mode};
use super::harness::{Kind, Row, check};

/// An integer type: name, bits, signed.
const INTEGERS: [(&str, u32, bool); 8] = [
    ("s8", 8, true),
    ("u8", 8, false),
    ("s16", 16, true),
    ("u16", 16, false),
    ("s32", 32, true),
    ("u32", 32, false),
    ("s64", 64, true),
    ("u64", 64, false),
];

const FLOATS: [(&str, Kind, Format); 4] = [
    ("f16", Kind::F16, F16),
    ("bf16", Kind::Bf16, BF16),
    ("f32", Kind::F32, F32),
    ("f64", Kind::F64, F64),
];

const MODES: [(&str, Mode); 4] =
    [("rn", Mode::Rn), ("rz", Mode::Rz), ("rm", Mode::Rm), ("rp", Mode::Rp)];

/// The register that holds an integer; 8 bits are held in 32 here.
fn register(bits: u32) -> Kind {
    match bits {
        16 => Kind::I16,
        64 => Kind::I64,
        _ => Kind::I32,
    }
}

fn read(x: u64, bits: u32, signed: bool) -> i128 {
    let x = i128::from(x) & ((1 << bits) - 1);
    if signed && x >> (bits - 1) == 1 { x - (1 << bits) } else { x }
}

fn range(bits: u32, signed: bool) -> (i128, i128) {
    if signed { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

/// A value as the destination register shows it: narrow types are extended to it.
fn write(value: i128, bits: u32, signed: bool) -> u64 {
    read(value as u64, bits, signed) as u64
}

#[test]
fn integers_to_integers() {
    let mut rows = Vec::new();
    for (to, to_bits, to_signed) in INTEGERS {
        for (from, from_bits, from_signed) in INTEGERS {
            let kinds = (register(to_bits), register(from_bits));
            rows.push(Row::new(
                &format!("cvt.{to}.{from} %d, %a;"),
                kinds.0,
                [kinds.1],
                move |[a]| write(read(a, from_bits, from_signed), to_bits, to_signed),
            ));
            rows.push(Row::new(
                &format!("cvt.sat.{to}.{from} %d, %a;"),
                kinds.0,
                [kinds.1],
                move |[a]| {
                    let (low, high) = range(to_bits, to_signed);
                    write(read(a, from_bits, from_signed).clamp(low, high), to_bits, to_signed)
                },
            ));
        }
    }
    // A source register may be wider than its type.
    rows.push(Row::new("cvt.s32.s8 %d, %a;", Kind::I32, [Kind::I64], |[a]| {
        write(read(a, 8, true), 32, true)
    }));
    rows.push(Row::new("cvt.u16.u32 %d, %a;", Kind::I32, [Kind::I32], |[a]| a & 0xffff));
    check("sm_80", &rows);
}

#[test]
fn integers_to_floats() {
    let mut rows = Vec::new();
    for (to, kind, format) in FLOATS {
        for (from, bits, signed) in INTEGERS {
            for (name, mode) in MODES {
                rows.push(Row::new(
                    &format!("cvt.{name}.{to}.{from} %d, %a;"),
                    kind,
                    [register(bits)],
                    move |[a]| format.encode(&exact::Value::integer(read(a, bits, signed)), mode),
                ));
            }
        }
    }
    check("sm_90", &rows);
}

#[test]
fn floats_to_integers() {
    let mut rows = Vec::new();
    for (from, kind, format) in FLOATS {
        for (to, bits, signed) in INTEGERS {
            for (name, mode) in MODES {
                let model = move |x: u64| {
                    let (low, high) = range(bits, signed);
                    match format.decode(x).to_integer(mode) {
                        Some(value) => write(value.clamp(low, high), bits, signed),
                        // NaN: zero, but the smallest number for 64 bits.
                        None if bits == 64 => 1 << 63,
                        None => 0,
                    }
                };
                let to_kind = register(bits);
                let row = Row::new(
                    &format!("cvt.{name}i.{to}.{from} %d, %a;"),
                    to_kind,
                    [kind],
                    move |[a]| model(a),
                );
                rows.push(if kind == Kind::F16 { row.all16() } else { row });
                if format == F32 {
                    let text = format!("cvt.{name}i.ftz.{to}.f32 %d, %a;");
                    rows.push(Row::new(&text, to_kind, [kind], move |[a]| model(F32.flush(a))));
                }
            }
        }
    }
    check("sm_90", &rows);
}

#[test]
fn floats_to_floats() {
    let mut rows = Vec::new();
    for (name, mode) in MODES {
        let cut = move |[a]: [u64; 1]| exact::convert(F64, F32, mode, a);
        rows.push(Row::new(&format!("cvt.{name}.f32.f64 %d, %a;"), Kind::F32, [Kind::F64], cut));
        rows.push(Row::new(
            &format!("cvt.{name}.ftz.f32.f64 %d, %a;"),
            Kind::F32,
            [Kind::F64],
            move |x| F32.flush(cut(x)),
        ));
        rows.push(Row::new(
            &format!("cvt.{name}.f16.f32 %d, %a;"),
            Kind::F16,
            [Kind::F32],
            move |[a]| exact::convert(F32, F16, mode, a),
        ));
        rows.push(Row::new(
            &format!("cvt.{name}.f16.f64 %d, %a;"),
            Kind::F16,
            [Kind::F64],
            move |[a]| exact::convert(F64, F16, mode, a),
        ));
        for (ty, kind, format) in
            [("f32", Kind::F32, F32), ("f64", Kind::F64, F64), ("f16", Kind::F16, F16)]
        {
            let row =
                Row::new(&format!("cvt.{name}i.{ty}.{ty} %d, %a;"), kind, [kind], move |[a]| {
                    let value = format.decode(a);
                    match (value.to_integer(mode), format.is_nan(a)) {
                        (_, true) => format.nan(),
                        (Some(0), _) => a & format.sign_bit(),
                        (Some(n), _) if n.unsigned_abs() < 1 << 60 => {
                            format.encode(&exact::Value::integer(n), Mode::Rn)
                        }
                        // Numbers this large are integers.
                        _ => a,
                    }
                });
            rows.push(if kind == Kind::F16 { row.all16() } else { row });
        }
    }
    rows.push(Row::new("cvt.f64.f32 %d, %a;", Kind::F64, [Kind::F32], |[a]| {
        exact::convert(F32, F64, Mode::Rn, a)
    }));
    rows.push(Row::new("cvt.ftz.f64.f32 %d, %a;", Kind::F64, [Kind::F32], |[a]| {
        exact::convert(F32, F64, Mode::Rn, F32.flush(a))
    }));
    for (ty, kind, format) in [("f16", Kind::F16, F16), ("bf16", Kind::Bf16, BF16)] {
        let widen = move |[a]: [u64; 1]| exact::convert(format, F32, Mode::Rn, a);
        rows.push(Row::new(&format!("cvt.f32.{ty} %d, %a;"), Kind::F32, [kind], widen).all16());
    }
    rows.push(
        Row::new("cvt.f64.f16 %d, %a;", Kind::F64, [Kind::F16], |[a]| {
            exact::convert(F16, F64, Mode::Rn, a)
        })
        .all16(),
    );
    rows.push(Row::new("cvt.sat.f32.f32 %d, %a;", Kind::F32, [Kind::F32], |[a]| F32.saturate(a)));
    rows.push(Row::new("cvt.ftz.sat.f32.f32 %d, %a;", Kind::F32, [Kind::F32], |[a]| {
        F32.saturate(F32.flush(a))
    }));
    rows.push(Row::new("cvt.rna.tf32.f32 %d, %a;", Kind::F32, [Kind::F32], |[a]| {
        if F32.is_nan(a) {
            return 0x7fff_ffff;
        }
        // Half an ulp of the ten-bit fraction added to the magnitude, then cut.
        let magnitude = ((a & 0x7fff_ffff) + 0x1000) & !0x1fff;
        if a & 0x7fff_ffff == 0x7f80_0000 {
            a
        } else {
            a & 0x8000_0000 | magnitude.min(0x7f80_0000)
        }
    }));
    check("sm_90", &rows);
}

#[test]
fn floats_to_halves() {
    let relu = |format: Format, x: u64| {
        if !format.is_nan(x) && x & format.sign_bit() != 0 { 0 } else { x }
    };
    let mut rows = Vec::new();
    for (ty, kind, packed, format) in
        [("f16", Kind::F16, Kind::F16x2, F16), ("bf16", Kind::Bf16, Kind::Bf16x2, BF16)]
    {
        for (name, mode) in [("rn", Mode::Rn), ("rz", Mode::Rz)] {
            let one = move |a: u64| exact::convert(F32, format, mode, a);
            rows.push(Row::new(
                &format!("cvt.{name}.{ty}.f32 %d, %a;"),
                kind,
                [Kind::F32],
                move |[a]| one(a),
            ));
            rows.push(Row::new(
                &format!("cvt.{name}.relu.{ty}.f32 %d, %a;"),
                kind,
                [Kind::F32],
                move |[a]| relu(format, one(a)),
            ));
            // The first source becomes the upper half.
            rows.push(Row::new(
                &format!("cvt.{name}.{ty}x2.f32 %d, %a, %b;"),
                packed,
                [Kind::F32; 2],
                move |[a, b]| one(a) << 16 | one(b),
            ));
            rows.push(Row::new(
                &format!("cvt.{name}.relu.{ty}x2.f32 %d, %a, %b;"),
                packed,
                [Kind::F32; 2],
                move |[a, b]| relu(format, one(a)) << 16 | relu(format, one(b)),
            ));
        }
    }
    check("sm_90", &rows);
}
