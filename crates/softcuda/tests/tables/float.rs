//! f32, f64, f16 and bf16 arithmetic and comparison, by exact arithmetic.

use std::cmp::Ordering;

use super::exact::{self, BF16, F16, F32, F64, Format, Mode};
use super::harness::{Kind, Row, check};

const MODES: [(&str, Mode); 4] =
    [("rn", Mode::Rn), ("rz", Mode::Rz), ("rm", Mode::Rm), ("rp", Mode::Rp)];

/// Flushing and saturation around an operation.
#[derive(Clone, Copy)]
struct Around {
    format: Format,
    flush: bool,
    saturate: bool,
}

impl Around {
    fn input(self, x: u64) -> u64 {
        if self.flush { self.format.flush(x) } else { x }
    }

    fn output(self, x: u64) -> u64 {
        let x = if self.flush { self.format.flush(x) } else { x };
        if self.saturate { self.format.saturate(x) } else { x }
    }

    fn suffix(self) -> String {
        let flush = if self.flush { ".ftz" } else { "" };
        let saturate = if self.saturate { ".sat" } else { "" };
        format!("{flush}{saturate}")
    }
}

/// Plain, and for f32 all four.
fn surroundings(format: Format) -> Vec<Around> {
    let mut all = vec![Around { format, flush: false, saturate: false }];
    if format == F32 {
        all.push(Around { format, flush: true, saturate: false });
        all.push(Around { format, flush: false, saturate: true });
        all.push(Around { format, flush: true, saturate: true });
    }
    all
}

const WIDE: [(&str, Kind, Format); 2] = [("f32", Kind::F32, F32), ("f64", Kind::F64, F64)];

#[test]
fn arithmetic_in_every_rounding() {
    let mut rows = Vec::new();
    for (ty, kind, format) in WIDE {
        for (name, mode) in MODES {
            for around in surroundings(format) {
                let suffix = around.suffix();
                let two: [(&str, fn(Format, Mode, u64, u64) -> u64); 3] =
                    [("add", exact::add), ("sub", exact::sub), ("mul", exact::mul)];
                for (op, f) in two {
                    let text = format!("{op}.{name}{suffix}.{ty} %d, %a, %b;");
                    rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
                        around.output(f(format, mode, around.input(a), around.input(b)))
                    }));
                }
                let text = format!("fma.{name}{suffix}.{ty} %d, %a, %b, %c;");
                rows.push(Row::new(&text, kind, [kind; 3], move |[a, b, c]| {
                    let [a, b, c] = [a, b, c].map(|x| around.input(x));
                    around.output(exact::fma(format, mode, a, b, c))
                }));
                if around.saturate {
                    continue;
                }
                let text = format!("div.{name}{suffix}.{ty} %d, %a, %b;");
                rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
                    around.output(exact::div(format, mode, around.input(a), around.input(b)))
                }));
                let text = format!("rcp.{name}{suffix}.{ty} %d, %a;");
                rows.push(Row::new(&text, kind, [kind], move |[a]| {
                    around.output(exact::div(format, mode, format.one(), around.input(a)))
                }));
                let text = format!("sqrt.{name}{suffix}.{ty} %d, %a;");
                rows.push(Row::new(&text, kind, [kind], move |[a]| {
                    around.output(exact::sqrt(format, mode, around.input(a)))
                }));
            }
        }
        let plain: [(&str, fn(Format, Mode, u64, u64) -> u64); 3] =
            [("add", exact::add), ("sub", exact::sub), ("mul", exact::mul)];
        for (op, f) in plain {
            rows.push(Row::new(
                &format!("{op}.{ty} %d, %a, %b;"),
                kind,
                [kind, kind],
                move |[a, b]| f(format, Mode::Rn, a, b),
            ));
        }
    }
    rows.push(Row::new("add.f32 %d, %a, 0f3F800000;", Kind::F32, [Kind::F32], |[a]| {
        exact::add(F32, Mode::Rn, a, F32.one())
    }));
    rows.push(Row::new("mul.f64 %d, 0dC000000000000000, %a;", Kind::F64, [Kind::F64], |[a]| {
        exact::mul(F64, Mode::Rn, (-2f64).to_bits(), a)
    }));
    check("sm_80", &rows);
}

/// Smaller or larger of two, as `min` and `max` define it.
fn extreme(format: Format, largest: bool, nan: bool, a: u64, b: u64) -> u64 {
    match (format.is_nan(a), format.is_nan(b)) {
        (true, true) => return format.nan(),
        (true, false) => return if nan { format.nan() } else { b },
        (false, true) => return if nan { format.nan() } else { a },
        (false, false) => {}
    }
    let order = match format.decode(a).compare(&format.decode(b)) {
        // -0 is smaller than +0.
        Some(Ordering::Equal) => (a & format.sign_bit() == 0).cmp(&(b & format.sign_bit() == 0)),
        order => order.expect("no NaN"),
    };
    if (order == Ordering::Greater) == largest { a } else { b }
}

fn extremes(ty: &str, kind: Kind, format: Format, all: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for (op, largest) in [("min", false), ("max", true)] {
        let plain = move |[a, b]: [u64; 2]| extreme(format, largest, false, a, b);
        rows.push(Row::new(&format!("{op}.{ty} %d, %a, %b;"), kind, [kind, kind], plain));
        if !all {
            continue;
        }
        let nan = move |[a, b]: [u64; 2]| extreme(format, largest, true, a, b);
        rows.push(Row::new(&format!("{op}.NaN.{ty} %d, %a, %b;"), kind, [kind, kind], nan));
        let text = format!("{op}.xorsign.abs.{ty} %d, %a, %b;");
        rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
            let s = format.sign_bit();
            let magnitude = extreme(format, largest, false, a & !s, b & !s);
            if format.is_nan(magnitude) { magnitude } else { magnitude | (a ^ b) & s }
        }));
        if format == F32 {
            let text = format!("{op}.ftz.{ty} %d, %a, %b;");
            rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| {
                extreme(format, largest, false, format.flush(a), format.flush(b))
            }));
        }
    }
    rows
}

#[test]
fn extremes_and_signs() {
    let mut rows = extremes("f32", Kind::F32, F32, true);
    rows.extend(extremes("f64", Kind::F64, F64, false));
    rows.extend(extremes("f16", Kind::F16, F16, true));
    rows.extend(extremes("bf16", Kind::Bf16, BF16, true));
    let all = [
        ("f32", Kind::F32, F32),
        ("f64", Kind::F64, F64),
        ("f16", Kind::F16, F16),
        ("bf16", Kind::Bf16, BF16),
    ];
    for (ty, kind, format) in all {
        let s = format.sign_bit();
        rows.push(Row::new(&format!("abs.{ty} %d, %a;"), kind, [kind], move |[a]| a & !s));
        rows.push(Row::new(&format!("neg.{ty} %d, %a;"), kind, [kind], move |[a]| a ^ s));
        if kind.bits() == 16 {
            continue;
        }
        let text = format!("copysign.{ty} %d, %a, %b;");
        rows.push(Row::new(&text, kind, [kind, kind], move |[a, b]| a & s | b & !s));
        let tests: [(&str, fn(Format, u64) -> bool); 6] = [
            ("finite", |f, x| x & !f.sign_bit() < f.infinity()),
            ("infinite", |f, x| x & !f.sign_bit() == f.infinity()),
            ("number", |f, x| !f.is_nan(x)),
            ("notanumber", |f, x| f.is_nan(x)),
            ("normal", |f, x| {
                let m = x & !f.sign_bit();
                m != 0 && m < f.infinity() && !f.is_subnormal(x)
            }),
            ("subnormal", Format::is_subnormal),
        ];
        for (test, f) in tests {
            rows.push(Row::new(
                &format!("testp.{test}.{ty} %d, %a;"),
                Kind::Pred,
                [kind],
                move |[a]| u64::from(f(format, a)),
            ));
        }
    }
    for op in ["abs", "neg"] {
        rows.push(Row::new(
            &format!("{op}.ftz.f32 %d, %a;"),
            Kind::F32,
            [Kind::F32],
            move |[a]| {
                let a = F32.flush(a);
                if op == "abs" { a & 0x7fff_ffff } else { a ^ 0x8000_0000 }
            },
        ));
    }
    check("sm_90", &rows);
}

const COMPARES: [(&str, fn(Option<Ordering>) -> bool); 14] = [
    ("eq", |o| o == Some(Ordering::Equal)),
    ("ne", |o| o.is_some_and(Ordering::is_ne)),
    ("lt", |o| o.is_some_and(Ordering::is_lt)),
    ("le", |o| o.is_some_and(Ordering::is_le)),
    ("gt", |o| o.is_some_and(Ordering::is_gt)),
    ("ge", |o| o.is_some_and(Ordering::is_ge)),
    ("equ", |o| o.is_none_or(Ordering::is_eq)),
    ("neu", |o| o.is_none_or(Ordering::is_ne)),
    ("ltu", |o| o.is_none_or(Ordering::is_lt)),
    ("leu", |o| o.is_none_or(Ordering::is_le)),
    ("gtu", |o| o.is_none_or(Ordering::is_gt)),
    ("geu", |o| o.is_none_or(Ordering::is_ge)),
    ("num", |o| o.is_some()),
    ("nan", |o| o.is_none()),
];

#[test]
fn comparison() {
    let mut rows = Vec::new();
    for (op, f) in COMPARES {
        for (ty, kind, format) in [
            ("f32", Kind::F32, F32),
            ("f64", Kind::F64, F64),
            ("f16", Kind::F16, F16),
            ("bf16", Kind::Bf16, BF16),
        ] {
            let compare = move |a, b| f(format.decode(a).compare(&format.decode(b)));
            rows.push(Row::new(
                &format!("setp.{op}.{ty} %d, %a, %b;"),
                Kind::Pred,
                [kind, kind],
                move |[a, b]| u64::from(compare(a, b)),
            ));
            if kind.bits() == 16 {
                continue;
            }
            let text = format!("setp.{op}.or.{ty} %q0|%d, %a, %b, %c;");
            rows.push(Row::new(&text, Kind::Pred, [kind, kind, Kind::Pred], move |[a, b, c]| {
                u64::from(!compare(a, b)) | c
            }));
            rows.push(Row::new(
                &format!("set.{op}.s32.{ty} %d, %a, %b;"),
                Kind::I32,
                [kind, kind],
                move |[a, b]| {
                    if compare(a, b) { u64::MAX } else { 0 }
                },
            ));
            rows.push(Row::new(
                &format!("set.{op}.f32.{ty} %d, %a, %b;"),
                Kind::F32,
                [kind, kind],
                move |[a, b]| {
                    if compare(a, b) { F32.one() } else { 0 }
                },
            ));
        }
        rows.push(Row::new(
            &format!("setp.{op}.ftz.f32 %d, %a, %b;"),
            Kind::Pred,
            [Kind::F32; 2],
            move |[a, b]| u64::from(f(F32.decode(F32.flush(a)).compare(&F32.decode(F32.flush(b))))),
        ));
        let text = format!("set.{op}.f16.f16 %d, %a, %b;");
        rows.push(Row::new(&text, Kind::F16, [Kind::F16; 2], move |[a, b]| {
            if f(F16.decode(a).compare(&F16.decode(b))) { F16.one() } else { 0 }
        }));
        for (ty, kind, format) in [("f16x2", Kind::F16x2, F16), ("bf16x2", Kind::Bf16x2, BF16)] {
            let half = move |a: u64, b: u64| {
                f(format.decode(a & 0xffff).compare(&format.decode(b & 0xffff)))
            };
            rows.push(Row::new(
                &format!("set.{op}.{ty}.{ty} %d, %a, %b;"),
                kind,
                [kind, kind],
                move |[a, b]| {
                    let one = |yes: bool| if yes { format.one() } else { 0 };
                    one(half(a, b)) | one(half(a >> 16, b >> 16)) << 16
                },
            ));
            let text = format!("setp.{op}.{ty} %d|%q0, %a, %b;");
            rows.push(Row::new(&text, Kind::Pred, [kind, kind], move |[a, b]| {
                u64::from(half(a, b))
            }));
            let text = format!("setp.{op}.{ty} %q0|%d, %a, %b;");
            rows.push(Row::new(&text, Kind::Pred, [kind, kind], move |[a, b]| {
                u64::from(half(a >> 16, b >> 16))
            }));
        }
    }
    check("sm_90", &rows);
}

/// Applies an operation on halves to both halves of a word.
fn packed<const N: usize>(x: [u64; N], f: impl Fn([u64; N]) -> u64) -> u64 {
    f(x.map(|x| x & 0xffff)) | f(x.map(|x| x >> 16)) << 16
}

/// Negative numbers and -0 to +0; NaN stays.
fn relu(format: Format, x: u64) -> u64 {
    if !format.is_nan(x) && x & format.sign_bit() != 0 { 0 } else { x }
}

#[test]
fn halves() {
    let mut rows = Vec::new();
    for (ty, kind, packed_kind, format) in
        [("f16", Kind::F16, Kind::F16x2, F16), ("bf16", Kind::Bf16, Kind::Bf16x2, BF16)]
    {
        let mut both2 = |op: String, f: Box<dyn Fn(u64, u64) -> u64>| {
            let f = std::rc::Rc::new(f);
            let g = std::rc::Rc::clone(&f);
            rows.push(Row::new(
                &format!("{op}.{ty} %d, %a, %b;"),
                kind,
                [kind; 2],
                move |[a, b]| f(a, b),
            ));
            let text = format!("{op}.{ty}x2 %d, %a, %b;");
            rows.push(Row::new(&text, packed_kind, [packed_kind; 2], move |x| {
                packed(x, |[a, b]| g(a, b))
            }));
        };
        let two: [(&str, fn(Format, Mode, u64, u64) -> u64); 3] =
            [("add", exact::add), ("sub", exact::sub), ("mul", exact::mul)];
        for (op, f) in two {
            both2(op.to_string(), Box::new(move |a, b| f(format, Mode::Rn, a, b)));
            both2(format!("{op}.rn"), Box::new(move |a, b| f(format, Mode::Rn, a, b)));
            if format == F16 {
                let plain = move |a, b| f(F16, Mode::Rn, F16.flush(a), F16.flush(b));
                both2(format!("{op}.ftz"), Box::new(move |a, b| F16.flush(plain(a, b))));
                both2(
                    format!("{op}.sat"),
                    Box::new(move |a, b| F16.saturate(f(F16, Mode::Rn, a, b))),
                );
            }
        }
        for (op, largest) in [("min", false), ("max", true)] {
            both2(op.to_string(), Box::new(move |a, b| extreme(format, largest, false, a, b)));
            both2(format!("{op}.NaN"), Box::new(move |a, b| extreme(format, largest, true, a, b)));
        }
        let mut both3 = |op: &str, f: fn(Format, u64) -> u64| {
            let model = move |[a, b, c]: [u64; 3]| f(format, exact::fma(format, Mode::Rn, a, b, c));
            rows.push(Row::new(&format!("{op}.{ty} %d, %a, %b, %c;"), kind, [kind; 3], model));
            let text = format!("{op}.{ty}x2 %d, %a, %b, %c;");
            rows.push(Row::new(&text, packed_kind, [packed_kind; 3], move |x| packed(x, model)));
        };
        both3("fma.rn", |_, x| x);
        both3("fma.rn.relu", relu);
        if format == F16 {
            both3("fma.rn.sat", Format::saturate);
            rows.push(Row::new("fma.rn.ftz.f16 %d, %a, %b, %c;", kind, [kind; 3], |x| {
                let [a, b, c] = x.map(|x| F16.flush(x));
                F16.flush(exact::fma(F16, Mode::Rn, a, b, c))
            }));
        }
        for (op, f) in [("abs", 0x7fffu64), ("neg", 0x8000)] {
            let model = move |x: u64| if op == "abs" { x & f } else { x ^ f };
            rows.push(Row::new(
                &format!("{op}.{ty}x2 %d, %a;"),
                packed_kind,
                [packed_kind],
                move |x| packed(x, |[a]| model(a)),
            ));
        }
    }
    check("sm_90", &rows);
}
