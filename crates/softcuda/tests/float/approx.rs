//! The approximate functions: edges, error against f64, the same bits at every level.

use half::{bf16, f16};

use super::exact::{self, BF16, F16, F64};
use super::harness::{any32, check, table};

/// Distance to the true value in units of the last place of f32 there.
fn ulps(got: f32, want: f64) -> f64 {
    let near = want as f32;
    let step = f64::from(near.abs().next_up()) - f64::from(near.abs());
    (f64::from(got) - want).abs() / step
}

/// Checks a function of one f32 over values of exponents `from..to`, and edges by a table.
fn function(body: &str, truth: fn(f64) -> f64, (from, to): (u32, u32), edges: &[(f32, f32)]) {
    let mut rows = table(body, 8192, |rng| {
        let exponent = from + rng.below(u64::from(to - from)) as u32;
        [(rng.next() as u32 & 0x807f_ffff | exponent << 23).into(), 0, 0]
    });
    rows.extend(table(body, 1024, |rng| [any32(rng).into(), 0, 0]));
    rows.extend(edges.iter().map(|(x, _)| [x.to_bits().into(), 0, 0]));
    let results = super::harness::rows(body, &[32], 32, &rows, super::harness::levels()[0]);
    let active = |i: usize| i < rows.len() - rows.len() / 4 || i.is_multiple_of(2);
    let mut worst = 0f64;
    for (i, (row, result)) in rows.iter().zip(&results).enumerate().take(8192) {
        let x = f32::from_bits(row[0] as u32);
        let want = truth(f64::from(x));
        let got = f32::from_bits(*result as u32);
        if !active(i) {
            continue;
        }
        if want.is_nan() {
            assert_eq!(*result, 0x7fff_ffff, "{body} of {x:e}");
        } else if (want as f32).is_infinite() {
            assert_eq!(got, want as f32, "{body} of {x:e}");
        } else {
            let error = ulps(got, want);
            assert!(error <= 0.51, "{body} of {x:e}: {got:e}, not {want:e}");
            worst = worst.max(error);
        }
    }
    assert!(worst > 0.45, "no input came near the limit: {worst}");
    for (x, want) in edges {
        let twice = vec![[u64::from(x.to_bits()), 0, 0]; 8];
        let bits = if want.is_nan() { 0x7fff_ffff } else { want.to_bits() };
        check(body, &[32], 32, &twice, |_| Some(bits.into()));
    }
    // All levels give the bits of the first.
    check(body, &[32], 32, &rows, |_| None);
}

const INF: f32 = f32::INFINITY;
const TINY: f32 = f32::from_bits(1);

#[test]
fn ex2() {
    let edges = [
        (0.0, 1.0),
        (-0.0, 1.0),
        (TINY, 1.0),
        (1.0, 2.0),
        (-126.0, f32::MIN_POSITIVE),
        (-149.0, TINY),
        (-151.0, 0.0),
        (127.0, f32::from_bits(0x7f00_0000)),
        (128.0, INF),
        (INF, INF),
        (-INF, 0.0),
        (f32::NAN, f32::NAN),
    ];
    function("ex2.approx.f32 %dr, %ar;", f64::exp2, (100, 133), &edges);
    let ftz = [(-127.0, 0.0), (-126.0, f32::MIN_POSITIVE), (0.0, 1.0)];
    for (x, want) in ftz {
        let rows = [[u64::from(f32::to_bits(x)), 0, 0]; 4];
        check("ex2.approx.ftz.f32 %dr, %ar;", &[32], 32, &rows, |_| {
            Some(f32::to_bits(want).into())
        });
    }
}

#[test]
fn lg2() {
    let edges = [
        (0.0, -INF),
        (-0.0, -INF),
        (1.0, 0.0),
        (8.0, 3.0),
        (TINY, -149.0),
        (-1.0, f32::NAN),
        (-TINY, f32::NAN),
        (INF, INF),
        (-INF, f32::NAN),
        (f32::NAN, f32::NAN),
    ];
    function("lg2.approx.f32 %dr, %ar;", f64::log2, (0, 255), &edges);
    let near_one = table("lg2 near 1", 2048, |rng| [(0x3f80_0000 - 1000 + rng.below(2000)), 0, 0]);
    check("lg2.approx.f32 %dr, %ar;", &[32], 32, &near_one, |[x, _, _]| {
        let want = f64::from(f32::from_bits(x as u32)).log2() as f32;
        Some(want.to_bits().into())
    });
    let rows = [[1, 0, 0]; 4];
    check("lg2.approx.ftz.f32 %dr, %ar;", &[32], 32, &rows, |_| Some((-INF).to_bits().into()));
}

#[test]
fn sin_and_cos() {
    let edges = [(0.0, 0.0), (-0.0, -0.0), (INF, f32::NAN), (-INF, f32::NAN), (f32::NAN, f32::NAN)];
    function("sin.approx.f32 %dr, %ar;", f64::sin, (90, 147), &edges);
    let edges = [(0.0, 1.0), (-0.0, 1.0), (INF, f32::NAN), (f32::NAN, f32::NAN)];
    function("cos.approx.f32 %dr, %ar;", f64::cos, (90, 147), &edges);
    let huge = table("huge", 1024, |rng| {
        [(rng.next() as u32 & 0x807f_ffff | (150 + rng.below(105) as u32) << 23).into(), 0, 0]
    });
    for level in super::harness::levels() {
        let results = super::harness::rows("sin.approx.f32 %dr, %ar;", &[32], 32, &huge, level);
        for (i, bits) in results.iter().enumerate().take(700) {
            let y = f32::from_bits(*bits as u32);
            assert!(y.abs() <= 1.0, "sin of {:?} is {y}", huge[i]);
        }
    }
}

#[test]
fn tanh() {
    let edges = [(0.0, 0.0), (-0.0, -0.0), (INF, 1.0), (-INF, -1.0), (30.0, 1.0), (TINY, TINY)];
    function("tanh.approx.f32 %dr, %ar;", f64::tanh, (90, 131), &edges);
}

#[test]
fn roots_and_reciprocals() {
    let edges =
        [(0.0, INF), (-0.0, -INF), (4.0, 0.5), (INF, 0.0), (-1.0, f32::NAN), (-INF, f32::NAN)];
    function("rsqrt.approx.f32 %dr, %ar;", |x| 1.0 / x.sqrt(), (1, 255), &edges);
    let edges = [(0.0, INF), (-0.0, -INF), (INF, 0.0), (-INF, -0.0), (f32::NAN, f32::NAN)];
    function("rcp.approx.f32 %dr, %ar;", |x| 1.0 / x, (20, 230), &edges);
    let edges = [(-0.0, -0.0), (INF, INF), (-TINY, f32::NAN)];
    function("sqrt.approx.f32 %dr, %ar;", f64::sqrt, (1, 255), &edges);
    let rows = table("div", 4096, |rng| [any32(rng).into(), any32(rng).into(), 0]);
    for form in ["approx", "full"] {
        let body = format!("div.{form}.f32 %dr, %ar, %br;");
        check(&body, &[32, 32], 32, &rows, |[a, b, _]| {
            let q = f32::from_bits(a as u32) / f32::from_bits(b as u32);
            Some(if q.is_nan() { 0x7fff_ffff } else { q.to_bits().into() })
        });
    }
    let rows = [[1, 0, 0]; 4];
    check("rcp.approx.ftz.f32 %dr, %ar;", &[32], 32, &rows, |_| Some(INF.to_bits().into()));
    let rows = [[0x7f00_0000, 0, 0]; 4]; // 2^127: its reciprocal is subnormal
    check("rcp.approx.ftz.f32 %dr, %ar;", &[32], 32, &rows, |_| Some(0));
}

#[test]
fn every_f16_and_bf16_value() {
    let rows: Vec<[u64; 3]> = (0..1 << 16).map(|x| [x, 0, 0]).collect();
    for (op, truth) in [("ex2", f64::exp2 as fn(f64) -> f64), ("tanh", f64::tanh)] {
        check(&format!("{op}.approx.f16 %dh, %ah;"), &[16], 16, &rows, |[x, _, _]| {
            let y = truth(f16::from_bits(x as u16).to_f64());
            Some(exact::convert(F64, F16, y.to_bits(), "rn"))
        });
        let ftz = if op == "ex2" { ".ftz" } else { "" };
        check(&format!("{op}.approx{ftz}.bf16 %dh, %ah;"), &[16], 16, &rows, |[x, _, _]| {
            let y = truth(bf16::from_bits(x as u16).to_f64());
            Some(exact::convert(F64, BF16, y.to_bits(), "rn"))
        });
    }
}
