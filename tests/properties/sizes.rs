//! A million sizes against a model of `smart_resize` in whole numbers.

use std::cmp::Ordering;

use qwen2vl::media::{PixelBudget, Size, smart_resize};

use crate::support::Rng;

/// Units of `factor` along a side, half to even.
fn rounded(side: u128, factor: u128) -> u128 {
    let (units, rest) = (side / factor, side % factor);
    match (rest * 2).cmp(&factor) {
        Ordering::Less => units,
        Ordering::Greater => units + 1,
        Ordering::Equal => units + units % 2,
    }
}

/// The largest k with k * k * square <= bound.
fn largest(square: u128, bound: u128) -> u128 {
    let (mut low, mut high) = (0_u128, 100_000);
    while low + 1 < high {
        let middle = u128::midpoint(low, high);
        if middle * middle * square <= bound { low = middle } else { high = middle }
    }
    low
}

/// The model: units along both sides, and whether the exact value is a whole number, where binary64
/// may come out on either side.
fn model(h: u128, w: u128, f: u128, min: u128, max: u128) -> [(u128, bool); 2] {
    let (rows, columns) = (rounded(h, f), rounded(w, f));
    let area = rows * f * columns * f;
    if area > max {
        // floor(h / sqrt(h * w / max) / f): k * f * sqrt(w / max) <= sqrt(h), k * k * f * f * w <= h * max
        [(h, w), (w, h)].map(|(side, other)| {
            let k = largest(f * f * other, side * max);
            let exact = k * k * f * f * other == side * max;
            (k.max(1), exact && k > 1)
        })
    } else if area < min {
        // ceil(h * sqrt(min / (h * w)) / f): k * k * f * f * w >= h * min
        [(h, w), (w, h)].map(|(side, other)| {
            let k = largest(f * f * other, side * min);
            let exact = k * k * f * f * other == side * min;
            (if exact { k } else { k + 1 }, exact)
        })
    } else {
        [(rows, false), (columns, false)]
    }
}

/// Limits that people use, as pixels.
const BUDGETS: &[(u64, u64)] = &[
    (3136, 1_003_520),
    (3136, 12_845_056),
    (100_352, 602_112),
    (50_176, 4_194_304),
    (200_704, 802_816),
    (784, 784),
    (1, 1_000_000_000),
];

#[test]
fn a_million_sizes_are_those_of_a_model_in_whole_numbers() {
    let mut rng = Rng::new("sizes");
    let (mut grown, mut shrunk, mut kept, mut refused, mut ties) = (0, 0, 0, 0, 0);
    for number in 0..1_000_000_usize {
        // Strata: every power of two of both sides, each budget or a random one, usual factors.
        let side = |rng: &mut Rng, stratum: usize| {
            let low = 1_usize << (stratum % 16);
            low + rng.below(low.min(65_535 - low + 1))
        };
        let (h, w) = (side(&mut rng, number), side(&mut rng, number / 16));
        let (min, max) = match BUDGETS.get(number / 256 % (BUDGETS.len() + 3)) {
            Some(budget) => *budget,
            None => {
                let bits = [1 + rng.below(20), 1 + rng.below(24)];
                let min = 1 + rng.below(1 << bits[0]) as u64;
                (min, min + rng.below(1 << bits[1]) as u64)
            }
        };
        let f = [28, 28, 28, 28, 14, 16, 32, 56][rng.below(8)];
        let got = smart_resize(Size { height: h, width: w }, f, PixelBudget { min, max });
        if h.max(w) > 200 * h.min(w) {
            assert!(got.is_err(), "{h}x{w}");
            refused += 1;
            continue;
        }
        let label = || format!("{h}x{w}, factor {f}, {min} to {max}");
        let wide = |value: usize| value as u128;
        let want = model(wide(h), wide(w), wide(f), u128::from(min), u128::from(max));
        let got = got.unwrap_or_else(|error| panic!("{}: {error}", label()));
        for (side, (units, tie)) in [got.height, got.width].into_iter().zip(want) {
            let found = wide(side) / wide(f);
            assert_eq!(wide(side) % wide(f), 0, "{}", label());
            ties += usize::from(tie);
            // One unit to either side where the exact value is whole.
            let near = tie && found.abs_diff(units) <= 1;
            assert!(found == units || near, "{}: {found} units, not {units}", label());
        }
        let area = wide(got.height) * wide(got.width);
        match area.cmp(&(rounded(wide(h), wide(f)) * rounded(wide(w), wide(f)) * wide(f * f))) {
            Ordering::Greater => grown += 1,
            Ordering::Less => shrunk += 1,
            Ordering::Equal => kept += 1,
        }
    }
    println!("sizes: {kept} kept, {grown} grown, {shrunk} shrunk, {refused} refused; {ties} ties");
    assert!(kept > 50_000 && grown > 50_000 && shrunk > 50_000 && refused > 50_000);
    assert!(ties < 20_000, "a tie is rare: {ties}");
}
