//! `kernels/attn_decode.cu` against its oracle, and against attn_prefill bit for bit.

use half::{bf16, f16};
use qwen2vl::ops::{Cost, OpError};
use qwen2vl::reference::attn::Heads;
use qwen2vl::reference::attn_decode::attn_decode as oracle;
use qwen2vl::units::Bytes;

use crate::guarded::Number;
use crate::orders::in_every_order;
use crate::paged::{Sequence, Step, assert_same_bits};
use crate::support::{Rng, device};
use crate::tolerance::assert_attended;

/// ((heads, key heads, head width), keys of each sequence, window, why)
type Case = ((usize, usize, usize), &'static [usize], Option<usize>, &'static str);

const CASES: &[Case] = &[
    ((1, 1, 128), &[1, 2, 7, 8], None, "a head alone, less than a block of keys"),
    ((2, 1, 128), &[15, 16, 17], None, "around a warp's tokens"),
    ((6, 1, 128), &[63, 64, 65, 129], None, "2B group around a tile"),
    ((14, 2, 128), &[127, 128, 255], None, "7B group, two key heads"),
    ((8, 1, 128), &[256, 257, 300], None, "72B group around a segment"),
    ((9, 1, 128), &[65, 600], None, "a group of nine takes two blocks"),
    ((32, 2, 64), &[10, 1030], None, "groups of sixteen, five segments"),
    ((4, 2, 64), &[1, 511, 512, 513], None, "narrow heads, unlike lengths"),
    ((4, 1, 32), &[64, 257, 700], None, "narrowest heads"),
    ((2, 1, 64), &[1, 64, 300, 600], Some(1), "a window of the row itself"),
    ((2, 1, 64), &[64, 257, 300, 600], Some(65), "a window that starts inside a tile"),
    ((2, 1, 32), &[100, 600, 900], Some(256), "a window that leaves whole segments out"),
];

fn shape((heads, kv_heads, head_dim): (usize, usize, usize)) -> Heads {
    Heads { heads, kv_heads, head_dim }
}

fn sequences<T: Number>(label: &str, shape: Heads, keys: &[usize], scale: f32) -> Vec<Sequence<T>> {
    let mut rng = Rng::new(label);
    keys.iter().map(|&keys| Sequence::random(&mut rng, shape, 1, keys, scale)).collect()
}

fn check<T: Number>(&(heads, keys, window, why): &Case) {
    for scale in [1.0, 4.0] {
        let label =
            format!("{} decode {heads:?} {keys:?} window {window:?} scale {scale}: {why}", T::TYPE);
        let shape = shape(heads);
        let sequences: Vec<Sequence<T>> = sequences(&label, shape, keys, scale);
        let step = Step::new(device(), shape, &sequences, window);
        let got = in_every_order(&label, || step.decode(device(), &label).expect(&label));
        let attended = |s: &Sequence<T>| oracle(&s.queries, &s.keys, &s.values, shape, window);
        let want: Vec<_> = sequences.iter().flat_map(attended).collect();
        assert_attended(&got, &want, &label);
        let prefill = step.prefill(device(), &label).expect(&label);
        assert_same_bits(&got, &prefill, &format!("{label}, against attn_prefill"));
    }
}

#[test]
fn matches_the_oracle_and_attn_prefill() {
    CASES.iter().for_each(check::<bf16>);
}

#[test]
fn matches_the_oracle_and_attn_prefill_in_f16() {
    CASES.iter().for_each(check::<f16>);
}

#[test]
fn matches_the_oracle_and_attn_prefill_in_f32() {
    CASES.iter().for_each(check::<f32>);
}

#[test]
fn matches_the_oracle_and_attn_prefill_gpu_small() {
    check::<bf16>(&((6, 1, 128), &[70, 260], None, "one segment, and two with a merge"));
}

#[test]
fn gives_the_bits_of_the_last_row_of_a_prefill() {
    let shape = shape((6, 2, 128));
    for keys in [17, 64, 257, 330] {
        let label = format!("last of {keys} rows");
        let all = Sequence::<bf16>::random(&mut Rng::new(&label), shape, keys, keys, 2.0);
        let prefill = Step::new(device(), shape, std::slice::from_ref(&all), None);
        let prefill = prefill.prefill(device(), &label).expect(&label);
        let last = Step::new(device(), shape, &[all.part(shape, keys - 1, keys)], None);
        let got = last.decode(device(), &label).expect(&label);
        let row = shape.heads * shape.head_dim;
        assert_same_bits(&got, &prefill[(keys - 1) * row..], &label);
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let shape = shape((4, 2, 64));
    let keys: Vec<usize> = (0..33).map(|i| 1 + (i * 37) % 530).collect();
    let sequences = sequences::<bf16>("decode neighbours", shape, &keys, 2.0);
    let run = |sequences: &[Sequence]| {
        Step::new(device(), shape, sequences, None).decode(device(), "neighbours").unwrap()
    };
    let together = run(&sequences);
    let alone: Vec<_> = sequences.iter().flat_map(|s| run(std::slice::from_ref(s))).collect();
    assert_same_bits(&together, &alone, "together and alone");
}

#[test]
fn nan_stays_in_its_sequence() {
    let shape = shape((2, 1, 64));
    let mut sequences = sequences::<bf16>("decode nan", shape, &[300, 300, 300], 1.0);
    let run = |sequences: &[Sequence]| {
        Step::new(device(), shape, sequences, None).decode(device(), "nan").unwrap()
    };
    let clean = run(&sequences);
    sequences[1].keys[64 * 290] = bf16::NAN;
    let got = run(&sequences);
    let row = shape.heads * shape.head_dim;
    assert_same_bits(&got[..row], &clean[..row], "the sequence before");
    assert_same_bits(&got[2 * row..], &clean[2 * row..], "the sequence after");
    assert!(got[row..2 * row].iter().all(|v| v.is_nan()), "the sequence with the NaN");
}

#[test]
fn scores_far_apart_pick_one_value() {
    // One key wins by more than exp can tell, so other segments merge with a factor of zero.
    let shape = shape((1, 1, 64));
    for winner in [0, 255, 256, 599] {
        let label = format!("winner {winner}");
        let mut one = sequences::<bf16>(&label, shape, &[600], 1.0);
        one[0].queries.fill(bf16::from_f32(100.0));
        one[0].keys.fill(bf16::from_f32(-10.0));
        one[0].keys[winner * 64..(winner + 1) * 64].fill(bf16::from_f32(10.0));
        let got = Step::new(device(), shape, &one, None).decode(device(), &label).unwrap();
        assert_same_bits(&got, &one[0].values[winner * 64..(winner + 1) * 64], &label);
    }
}

#[test]
fn a_head_width_without_a_kernel_is_refused() {
    let shape = shape((2, 1, 80));
    let step = Step::new(device(), shape, &sequences::<bf16>("refused", shape, &[2], 1.0), None);
    let error = step.decode(device(), "D 80").unwrap_err();
    let want = "attn_decode: D = 80, but attn_decode is built for D = 32, 64 and 128";
    assert_eq!(error.to_string(), want);
}

#[test]
fn parts_that_are_too_short_are_refused() {
    let shape = shape((2, 1, 64));
    let step = Step::new(device(), shape, &sequences::<bf16>("short", shape, &[300, 2], 1.0), None);
    let error = step.decode_with_parts_of(device(), 1).unwrap_err();
    let short = matches!(error, OpError::Shape { argument: "parts.outputs", expected: 256, .. });
    assert!(short, "{error}");
}

#[test]
fn the_cost_counts_visible_keys() {
    let shape = shape((4, 2, 32));
    for (window, keys) in [(None, 305), (Some(100), 105)] {
        let step =
            Step::new(device(), shape, &sequences::<bf16>("cost", shape, &[5, 300], 1.0), window);
        let (queries, cache) = (2 * 4 * 32 * 2, 2 * keys * 2 * 32 * 2);
        let want =
            Cost { read: Bytes(queries + cache), written: Bytes(queries), flop: 4 * 128 * keys };
        assert_eq!(step.decode_cost(device()), want, "window {window:?}");
    }
}
