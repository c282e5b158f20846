//! `kernels/attn_prefill.cu` against its oracle and its contract, on whatever device there is.

use half::{bf16, f16};
use qwen2vl::ops::{Cost, OpError};
use qwen2vl::reference::attn::{Attended, Heads};
use qwen2vl::units::Bytes;

use crate::guarded::Number;
use crate::orders::in_every_order;
use crate::paged::{Sequence, Step, assert_same_bits};
use crate::support::{Rng, device};
use crate::tolerance::assert_attended;

/// ((heads, key heads, head width), (new rows, keys) of each sequence, window, scale, why)
type Case = ((usize, usize, usize), &'static [(usize, usize)], Option<usize>, f32, &'static str);

const CASES: &[Case] = &[
    ((2, 1, 128), &[(1, 1)], None, 1.0, "one row sees one key"),
    ((2, 2, 128), &[(2, 2), (7, 7), (8, 8)], None, 1.0, "less than a warp's rows, equal heads"),
    ((6, 1, 128), &[(15, 15), (16, 16), (17, 17)], None, 1.0, "around a warp's rows, 2B group"),
    ((2, 1, 128), &[(63, 63), (64, 64), (65, 65)], None, 1.0, "around a tile"),
    ((7, 1, 128), &[(5, 69)], None, 1.0, "7B group behind a page"),
    ((2, 1, 128), &[(3, 4), (2, 65), (4, 68), (1, 301)], None, 1.0, "prefixes 1, 63, 64, 300"),
    ((2, 1, 128), &[(65, 257)], None, 1.0, "a key past a segment"),
    ((8, 1, 128), &[(2, 256), (1, 640)], None, 1.0, "72B group, two segments and a half"),
    ((2, 1, 128), &[(130, 200)], None, 4.0, "scores to 150"),
    ((4, 2, 64), &[(70, 130), (1, 1), (33, 300)], None, 1.0, "narrow heads, unlike lengths"),
    ((4, 1, 32), &[(129, 129), (3, 515)], None, 1.0, "narrowest heads"),
    ((2, 1, 64), &[(100, 100)], Some(1), 1.0, "each row sees itself alone"),
    ((2, 1, 64), &[(70, 330)], Some(65), 1.0, "a window that starts inside tiles"),
    ((2, 1, 32), &[(20, 600)], Some(256), 1.0, "a window that leaves whole segments out"),
    ((2, 1, 32), &[(20, 100)], Some(1000), 1.0, "a window past the start"),
];

fn shape((heads, kv_heads, head_dim): (usize, usize, usize)) -> Heads {
    Heads { heads, kv_heads, head_dim }
}

fn run<T: Number>(
    shape: Heads,
    sequences: &[Sequence<T>],
    window: Option<usize>,
    label: &str,
) -> Vec<T> {
    let step = Step::new(device(), shape, sequences, window);
    step.prefill(device(), label).expect(label)
}

fn check<T: Number>(&(heads, lengths, window, scale, why): &Case) {
    let label = format!("{} prefill {heads:?} {lengths:?} window {window:?}: {why}", T::TYPE);
    let (shape, mut rng) = (shape(heads), Rng::new(&label));
    let sequence = |&(rows, keys)| Sequence::random(&mut rng, shape, rows, keys, scale);
    let sequences: Vec<Sequence<T>> = lengths.iter().map(sequence).collect();
    let got = in_every_order(&label, || run(shape, &sequences, window, &label));
    let want: Vec<_> = sequences.iter().flat_map(|s| s.attended(shape, window)).collect();
    assert_attended(&got, &want, &label);
}

#[test]
fn matches_the_oracle() {
    CASES.iter().for_each(check::<bf16>);
}

#[test]
fn matches_the_oracle_in_f16() {
    CASES.iter().for_each(check::<f16>);
}

#[test]
fn matches_the_oracle_in_f32() {
    CASES.iter().for_each(check::<f32>);
}

#[test]
fn matches_the_oracle_gpu_small() {
    check::<bf16>(&((2, 1, 128), &[(17, 81)], None, 1.0, "two tiles"));
}

/// Steps of random shapes, each against the oracle; the last row of each sequence against
/// attn_decode.
#[test]
fn random_steps_match_the_oracle_and_attn_decode() {
    for case in 0..40 {
        let label = format!("random step {case}");
        let mut rng = Rng::new(&label);
        let (group, kv_heads) = (1 + rng.below(10), 1 + rng.below(2));
        let shape =
            Heads { heads: group * kv_heads, kv_heads, head_dim: [32, 64, 128][rng.below(3)] };
        let window = [None, None, Some(1 + rng.below(300))][rng.below(3)];
        let sequences: Vec<_> = (0..1 + rng.below(3))
            .map(|_| {
                let keys = 1 + rng.below(if shape.head_dim == 32 { 600 } else { 300 });
                let rows = 1 + rng.below(keys.min(40));
                Sequence::<bf16>::random(&mut rng, shape, rows, keys, 2.0)
            })
            .collect();
        let got = run(shape, &sequences, window, &label);
        let want: Vec<_> = sequences.iter().flat_map(|s| s.attended(shape, window)).collect();
        assert_attended(&got, &want, &label);

        let (mut last, mut end) = (Vec::new(), 0);
        for sequence in &sequences {
            let row = shape.heads * shape.head_dim;
            end += sequence.queries.len();
            last.extend_from_slice(&got[end - row..end]);
        }
        let newest = |s: &Sequence| s.part(shape, s.rows(shape) - 1, s.rows(shape));
        let newest: Vec<_> = sequences.iter().map(newest).collect();
        let decoded = Step::new(device(), shape, &newest, window).decode(device(), &label);
        assert_same_bits(&decoded.expect(&label), &last, &label);
    }
}

#[test]
fn chunks_give_the_bits_of_the_whole() {
    let shape = shape((2, 1, 128));
    let (mut rng, tokens) = (Rng::new("prefill chunks"), 290);
    let all = Sequence::<bf16>::random(&mut rng, shape, tokens, tokens, 2.0);
    let whole = run(shape, std::slice::from_ref(&all), None, "whole");
    // A chunk of 1 for each row is 290 launches: those around tile and segment ends do.
    let chunk = |start: usize, end: usize| {
        let label = format!("rows {start}..{end}");
        let got = run(shape, &[all.part(shape, start, end)], None, &label);
        let row = shape.heads * shape.head_dim;
        assert_same_bits(&got, &whole[start * row..end * row], &label);
    };
    for start in [0, 1, 62, 63, 64, 65, 127, 128, 255, 256, 257, 289] {
        chunk(start, start + 1);
    }
    for size in [17, 64, 100] {
        for start in (0..tokens).step_by(size) {
            chunk(start, (start + size).min(tokens));
        }
    }
}

#[test]
fn a_sequence_does_not_see_its_neighbours() {
    let shape = shape((6, 2, 64));
    let mut rng = Rng::new("prefill neighbours");
    let lengths = [(1, 1), (70, 200), (5, 64), (64, 300), (1, 129)];
    let sequences =
        lengths.map(|(rows, keys)| Sequence::<bf16>::random(&mut rng, shape, rows, keys, 2.0));
    let together = run(shape, &sequences, None, "together");
    let alone: Vec<_> =
        sequences.iter().flat_map(|s| run(shape, std::slice::from_ref(s), None, "alone")).collect();
    assert_same_bits(&together, &alone, "together and alone");
    let mut turned = sequences.to_vec();
    turned.rotate_left(2);
    let got = run(shape, &turned, None, "turned");
    let row = shape.heads * shape.head_dim;
    let split = (1 + 70) * row;
    let turned_alone = [&alone[split..], &alone[..split]].concat();
    assert_same_bits(&got, &turned_alone, "in another order");
}

#[test]
fn a_row_with_one_visible_key_copies_its_value() {
    let shape = shape((2, 1, 128));
    let mut rng = Rng::new("one visible key");
    let sequence = Sequence::<bf16>::random(&mut rng, shape, 70, 130, 3.0);
    let got = run(shape, std::slice::from_ref(&sequence), Some(1), "window 1");
    for (row, head) in got.chunks(shape.head_dim).enumerate() {
        let own = 60 + row / shape.heads;
        let value = &sequence.values[own * shape.head_dim..(own + 1) * shape.head_dim];
        assert_same_bits(head, value, &format!("row {own}"));
    }
}

#[test]
fn equal_scores_average_the_values() {
    let shape = shape((1, 1, 64));
    let mut rng = Rng::new("equal scores");
    let mut sequence = Sequence::<bf16>::random(&mut rng, shape, 70, 330, 1.0);
    sequence.queries.fill(bf16::ZERO);
    let got = run(shape, std::slice::from_ref(&sequence), None, "zero queries");
    assert_attended(&got, &sequence.attended(shape, None), "zero queries");
}

#[test]
fn scores_far_apart_pick_one_value() {
    // One key wins by more than exp can tell, in the first, a middle or the last tile.
    let shape = shape((1, 1, 64));
    for winner in [0, 100, 259, 299] {
        let label = format!("winner {winner}");
        let mut sequence = Sequence::<bf16>::random(&mut Rng::new(&label), shape, 1, 300, 1.0);
        sequence.queries.fill(bf16::from_f32(100.0));
        sequence.keys.fill(bf16::from_f32(-10.0));
        sequence.keys[winner * 64..(winner + 1) * 64].fill(bf16::from_f32(10.0));
        let got = run(shape, std::slice::from_ref(&sequence), None, &label);
        assert_same_bits(&got, &sequence.values[winner * 64..(winner + 1) * 64], &label);
    }
}

#[test]
fn nan_stays_in_its_sequence_and_behind_its_key() {
    let shape = shape((2, 1, 64));
    let mut rng = Rng::new("prefill nan");
    let mut sequences = [70, 65, 66].map(|n| Sequence::<bf16>::random(&mut rng, shape, n, n, 1.0));
    let clean = run(shape, &sequences, None, "clean");
    sequences[1].keys[64 * 3] = bf16::NAN;
    let got = run(shape, &sequences, None, "spoiled");
    let row = shape.heads * shape.head_dim;
    let (first, last) = (70 * row, 135 * row);
    assert_same_bits(&got[..first + 3 * row], &clean[..first + 3 * row], "before the NaN");
    assert_same_bits(&got[last..], &clean[last..], "the sequence after");
    assert!(got[first + 3 * row..last].iter().all(|v| v.is_nan()), "rows that see the NaN");
}

#[test]
fn an_infinite_score_hides_a_key_or_shows() {
    let shape = shape((1, 1, 64));
    let mut sequence = Sequence::<bf16>::random(&mut Rng::new("infinite"), shape, 70, 70, 1.0);
    sequence.keys[64 * 2] = bf16::INFINITY;
    for row in 0..70 {
        // Rows 0 and 1 do not see key 2; of the others even ones score -inf, odd ones +inf.
        let sign = if row % 2 == 0 { -1.0 } else { 1.0 };
        sequence.queries[64 * row] = bf16::from_f32(sign);
    }
    let got = run(shape, std::slice::from_ref(&sequence), None, "infinite");
    let want = sequence.attended(shape, None);
    for (row, (got, want)) in got.chunks(64).zip(want).enumerate() {
        let hidden = row < 2 || row % 2 == 0;
        if !hidden {
            assert!(got.iter().all(|v| v.is_nan()), "row {row}");
            continue;
        }
        let finite = Attended { largest_score: 10.0, ..want };
        assert_attended(got, &[finite], &format!("row {row}"));
    }
}

#[test]
fn a_head_width_without_a_kernel_is_refused() {
    let shape = shape((2, 1, 80));
    let sequence = Sequence::<bf16>::random(&mut Rng::new("refused"), shape, 2, 2, 1.0);
    let error = Step::new(device(), shape, &[sequence], None).prefill(device(), "D 80");
    let want = "attn_prefill: D = 80, but attn_prefill is built for D = 32, 64 and 128";
    assert_eq!(error.unwrap_err().to_string(), want);
}

#[test]
fn heads_that_are_no_whole_group_are_refused() {
    let shape = shape((3, 2, 64));
    let sequence = Sequence::<bf16>::random(&mut Rng::new("refused"), shape, 2, 2, 1.0);
    let error = Step::new(device(), shape, &[sequence], None).prefill(device(), "H 3");
    let error = error.unwrap_err();
    assert!(matches!(error, OpError::Dim { dim: "H", found: 3, .. }), "{error}");
}

#[test]
fn a_window_of_nothing_is_refused() {
    let shape = shape((2, 1, 64));
    let sequence = Sequence::<bf16>::random(&mut Rng::new("refused"), shape, 2, 2, 1.0);
    let error = Step::new(device(), shape, &[sequence], Some(0)).prefill(device(), "window 0");
    let error = error.unwrap_err();
    assert_eq!(error.to_string(), "attn_prefill: window = 0, but a row sees itself");
}

#[test]
fn the_cost_counts_rows_keys_and_visible_pairs() {
    let shape = shape((4, 2, 32));
    let mut rng = Rng::new("cost");
    let sequences =
        [(3, 5), (2, 2)].map(|(n, k)| Sequence::<bf16>::random(&mut rng, shape, n, k, 1.0));
    // (window, pairs of a row and a key that it sees)
    for (window, pairs) in [(None, 3 + 4 + 5 + 1 + 2), (Some(2), 2 + 2 + 2 + 1 + 2)] {
        let cost = Step::new(device(), shape, &sequences, window).prefill_cost(device());
        let (queries, cache) = (5 * 4 * 32 * 2, 2 * 7 * 2 * 32 * 2);
        let want =
            Cost { read: Bytes(queries + cache), written: Bytes(queries), flop: 4 * 128 * pairs };
        assert_eq!(cost, want, "window {window:?}");
    }
}
