//! Approximate functions: within 0.51 ulp of the exact value, edge values by PTX's tables.

use super::exact::{self, BF16, F16, F32, Format, Mode};
use super::harness::{Kind, Row, check};

fn float(x: u64) -> f64 {
    f64::from(f32::from_bits(x as u32))
}

fn half(format: Format, x: u64) -> f64 {
    float(exact::convert(format, F32, Mode::Rn, x))
}

/// Whether `got` lies within `ulps` of `exact` in a format; NaN must be the canonical one.
fn near(format: Format, value: f64, got: u64, ulps: f64) -> Result<(), String> {
    if value.is_nan() {
        return if got == format.nan() { Ok(()) } else { Err("expected NaN".into()) };
    }
    let nearest = exact::convert(exact::F64, format, Mode::Rn, value.to_bits());
    if got == nearest {
        return Ok(());
    }
    let wide = |x: u64| f64::from_bits(exact::convert(format, exact::F64, Mode::Rn, x));
    let step = {
        let magnitude = nearest & !format.sign_bit();
        if magnitude >= format.infinity() || got & !format.sign_bit() >= format.infinity() {
            return Err(format!("expected {nearest:#x}"));
        }
        (wide(magnitude + 1) - wide(magnitude))
            .abs()
            .min((wide(magnitude) - wide(magnitude.saturating_sub(1))).abs().max(f64::MIN_POSITIVE))
    };
    let error = (wide(got) - value).abs() / step;
    if error <= ulps {
        Ok(())
    } else {
        Err(format!("expected {nearest:#x} ({value}), off by {error} ulp"))
    }
}

fn unary(text: &str, f: fn(f64) -> f64) -> [Row; 2] {
    let plain =
        Row::checked(&format!("{text}.f32 %d, %a;"), Kind::F32, [Kind::F32], move |[a], got| {
            near(F32, f(float(a)), got, 0.51)
        });
    let flushed = Row::checked(
        &format!("{text}.ftz.f32 %d, %a;"),
        Kind::F32,
        [Kind::F32],
        move |[a], got| {
            let value = f(float(F32.flush(a)));
            let nearest = exact::convert(exact::F64, F32, Mode::Rn, value.to_bits());
            // Results at the edge of the subnormal range may be flushed or not.
            if F32.is_subnormal(nearest) && got == nearest & F32.sign_bit() {
                return Ok(());
            }
            near(F32, value, got, 0.51)
        },
    );
    [plain, flushed]
}

#[test]
fn functions_of_f32() {
    let mut rows: Vec<Row> = Vec::new();
    rows.extend(unary("ex2.approx", f64::exp2));
    rows.extend(unary("lg2.approx", |x| if x < 0.0 { f64::NAN } else { x.log2() }));
    rows.extend(unary("rcp.approx", |x| 1.0 / x));
    rows.extend(unary("rsqrt.approx", |x| if x < 0.0 { f64::NAN } else { 1.0 / x.sqrt() }));
    rows.extend(unary("sqrt.approx", |x| if x < 0.0 { f64::NAN } else { x.sqrt() }));
    rows.push(Row::checked("tanh.approx.f32 %d, %a;", Kind::F32, [Kind::F32], |[a], got| {
        near(F32, float(a).tanh(), got, 0.51)
    }));
    for (op, f) in [("sin", f64::sin as fn(f64) -> f64), ("cos", f64::cos)] {
        rows.push(Row::checked(
            &format!("{op}.approx.f32 %d, %a;"),
            Kind::F32,
            [Kind::F32],
            move |[a], got| {
                let x = float(a);
                if x.is_infinite() || x.is_nan() {
                    return near(F32, f64::NAN, got, 0.0);
                }
                let value = float(got);
                if x.abs() <= 1e4 && (value - f(x)).abs() > 2f64.powi(-24)
                    || !(-1.0..=1.0).contains(&value)
                {
                    return Err(format!("expected {}", f(x)));
                }
                Ok(())
            },
        ));
    }
    for op in ["div.approx", "div.full"] {
        rows.push(Row::new(
            &format!("{op}.f32 %d, %a, %b;"),
            Kind::F32,
            [Kind::F32; 2],
            |[a, b]| exact::div(F32, Mode::Rn, a, b),
        ));
    }
    check("sm_80", &rows);
}

#[test]
fn edge_values_of_f32() {
    let table: [(&str, &[(u32, u32)]); 6] = [
        (
            "ex2.approx.f32",
            &[
                (0xff80_0000, 0),
                (0x7f80_0000, 0x7f80_0000),
                (0x8000_0000, 0x3f80_0000),
                (0xc300_0000, 0x0020_0000),
            ],
        ),
        (
            "lg2.approx.f32",
            &[
                (0, 0xff80_0000),
                (0x8000_0000, 0xff80_0000),
                (0xbf80_0000, 0x7fff_ffff),
                (0x3f80_0000, 0),
                (0x7f80_0000, 0x7f80_0000),
                (1, 0xc315_0000),
            ],
        ),
        (
            "rcp.approx.f32",
            &[
                (0, 0x7f80_0000),
                (0x8000_0000, 0xff80_0000),
                (0x7f80_0000, 0),
                (0xff80_0000, 0x8000_0000),
            ],
        ),
        (
            "rsqrt.approx.f32",
            &[
                (0, 0x7f80_0000),
                (0x8000_0000, 0xff80_0000),
                (0x7f80_0000, 0),
                (0xbf80_0000, 0x7fff_ffff),
            ],
        ),
        (
            "sqrt.approx.f32",
            &[(0x8000_0000, 0x8000_0000), (0x7f80_0000, 0x7f80_0000), (0xff80_0000, 0x7fff_ffff)],
        ),
        (
            "tanh.approx.f32",
            &[(0x8000_0000, 0x8000_0000), (0x7f80_0000, 0x3f80_0000), (0xff80_0000, 0xbf80_0000)],
        ),
    ];
    let rows: Vec<Row> = table
        .into_iter()
        .map(|(op, pairs)| {
            let inputs = pairs.iter().map(|p| vec![u64::from(p.0)]).collect();
            Row::new(&format!("{op} %d, %a;"), Kind::F32, [Kind::F32], move |[a]| {
                u64::from(pairs.iter().find(|p| u64::from(p.0) == a).expect("in the table").1)
            })
            .with(inputs)
        })
        .collect();
    check("sm_80", &rows);
}

#[test]
fn functions_of_halves() {
    let mut rows = Vec::new();
    let mut add = |text: &str, format: Format, kind: Kind, f: fn(f64) -> f64| {
        rows.push(
            Row::checked(text, kind, [kind], move |[a], got| {
                near(format, f(half(format, a)), got, 0.51)
            })
            .all16(),
        );
    };
    add("ex2.approx.f16 %d, %a;", F16, Kind::F16, f64::exp2);
    add("tanh.approx.f16 %d, %a;", F16, Kind::F16, f64::tanh);
    add("tanh.approx.bf16 %d, %a;", BF16, Kind::Bf16, f64::tanh);
    rows.push(
        Row::checked("ex2.approx.ftz.bf16 %d, %a;", Kind::Bf16, [Kind::Bf16], |[a], got| {
            let value = half(BF16, BF16.flush(a)).exp2();
            let nearest = exact::convert(exact::F64, BF16, Mode::Rn, value.to_bits());
            if BF16.is_subnormal(nearest) && got == 0 {
                Ok(())
            } else {
                near(BF16, value, got, 0.51)
            }
        })
        .all16(),
    );
    for (text, format, kind, f) in [
        ("ex2.approx.f16x2", F16, Kind::F16x2, f64::exp2 as fn(f64) -> f64),
        ("tanh.approx.f16x2", F16, Kind::F16x2, f64::tanh),
        ("tanh.approx.bf16x2", BF16, Kind::Bf16x2, f64::tanh),
    ] {
        rows.push(Row::checked(&format!("{text} %d, %a;"), kind, [kind], move |[a], got| {
            near(format, f(half(format, a & 0xffff)), got & 0xffff, 0.51)?;
            near(format, f(half(format, a >> 16)), got >> 16, 0.51)
        }));
    }
    check("sm_90", &rows);
}
