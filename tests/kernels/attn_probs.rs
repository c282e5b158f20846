//! `kernels/attn_probs.cu` against its oracle and its contract, in every type.

use half::{bf16, f16};
use qwen2vl::reference::{attn::Heads, attn_probs::attn_probs as oracle};

use crate::guarded::Number;
use crate::paged::{Sequence, Step};
use crate::support::{Rng, device};
use crate::tolerance::ulp;

/// ((heads, key heads, head width), (new rows, keys) of each sequence, window, scale, why)
type Case = ((usize, usize, usize), &'static [(usize, usize)], Option<usize>, f32, &'static str);

const CASES: &[Case] = &[
    ((2, 1, 128), &[(1, 1)], None, 1.0, "one row sees one key"),
    ((6, 1, 128), &[(15, 15), (3, 69), (1, 301)], None, 1.0, "2B group, several pages"),
    ((7, 1, 64), &[(5, 130)], None, 1.0, "7B group, a key past two rounds of the block"),
    ((4, 4, 32), &[(9, 65), (2, 2)], None, 4.0, "a lane has one channel, sharp weights"),
    ((3, 1, 80), &[(2, 7)], None, 1.0, "a width that is no multiple of a warp"),
    ((2, 1, 64), &[(4, 100)], Some(1), 1.0, "each row sees itself alone"),
    ((2, 2, 32), &[(70, 200), (3, 40)], Some(65), 1.0, "a window that starts inside pages"),
    ((2, 1, 128), &[(20, 60)], Some(1000), 1.0, "a window past the start"),
];

fn run<T: Number>(
    shape: Heads,
    sequences: &[Sequence<T>],
    window: Option<usize>,
    label: &str,
) -> Vec<f32> {
    Step::new(device(), shape, sequences, window).probs(device(), label).expect(label)
}

fn check<T: Number>(&((heads, kv_heads, head_dim), lengths, window, scale, why): &Case) {
    let label = format!("{} {heads}/{kv_heads} {lengths:?} {window:?}: {why}", T::TYPE);
    let (shape, mut rng) = (Heads { heads, kv_heads, head_dim }, Rng::new(&label));
    let sequence = |&(rows, keys)| Sequence::<T>::random(&mut rng, shape, rows, keys, scale);
    let sequences: Vec<_> = lengths.iter().map(sequence).collect();
    let got = run(shape, &sequences, window, &label);
    let columns = lengths.iter().map(|(_, keys)| keys).max().unwrap() + 3;
    let mut rows = got.chunks_exact(columns);
    for sequence in &sequences {
        let keys = sequence.tokens(shape);
        let want = oracle(&sequence.queries, &sequence.keys, shape, window);
        let size = |values: &[T]| values.iter().fold(0.0, |m, v| f64::max(m, v.to_f64().abs()));
        // The rounding of scores moves weights by their own size: a score is at most this.
        let scores = size(&sequence.queries) * size(&sequence.keys) * (head_dim as f64).sqrt();
        for (want, row) in want.chunks_exact(keys).zip(&mut rows) {
            for (s, got) in row.iter().enumerate() {
                let p = want.get(s).copied().unwrap_or(0.0);
                let limit = p * 2f64.powi(-23) * (16.0 + scores) + 0.5 * ulp::<T>(p);
                let limit = if p == 0.0 { 0.0 } else { limit };
                let error = (f64::from(*got) - p).abs();
                assert!(error <= limit, "{label}: key {s}: {got} for {p}, limit {limit}");
            }
        }
    }
    assert!(rows.next().is_none(), "{label}");
}

#[test]
fn matches_the_oracle_in_every_type() {
    CASES.iter().for_each(check::<bf16>);
    CASES.iter().for_each(check::<f16>);
    CASES.iter().for_each(check::<f32>);
}

#[test]
fn a_row_does_not_see_its_neighbours() {
    let shape = Heads { heads: 4, kv_heads: 2, head_dim: 64 };
    let mut rng = Rng::new("probs of neighbours");
    let sizes = [(3, 70), (1, 200), (8, 9)];
    let sequences: Vec<Sequence<f32>> = sizes
        .iter()
        .map(|&(rows, keys)| Sequence::random(&mut rng, shape, rows, keys, 2.0))
        .collect();
    let together = run(shape, &sequences, None, "together");
    let mut rows = together.chunks_exact(203);
    for sequence in &sequences {
        let alone = run(shape, std::slice::from_ref(sequence), None, "alone");
        let columns = sequence.tokens(shape) + 3;
        for alone in alone.chunks_exact(columns) {
            let row = rows.next().unwrap();
            let bits = |row: &[f32]| row.iter().map(|p| p.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&row[..columns]), bits(alone));
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let shape = Heads { heads: 3, kv_heads: 2, head_dim: 64 };
    let one = Sequence::<bf16>::random(&mut Rng::new("refused"), shape, 1, 2, 1.0);
    let error = Step::new(device(), shape, &[one], None).probs(device(), "3 heads").unwrap_err();
    assert_eq!(error.to_string(), "attn_probs: H = 3, but H must be a positive multiple of G");
}
