//! `kernels/top_scores.cu` against its oracle.

use qwen2vl::{
    ops::{
        OpError,
        sample::STATUS_NOT_FINITE,
        top_scores::{NORMALIZES, PERTURBS, TopQuery, TopScores, TopSummary},
    },
    reference::top_scores::{log_sum, top_scores},
};

use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::support::{self, Rng};

fn query(row: usize, n: usize) -> TopQuery {
    let (row, n) = (row as i32, n as i32);
    TopQuery { seed: 0, step: 0, choice: 0, row, n, target: -1, offset: 0.0, flags: 0, pad: [0; 3] }
}

/// Ids and values of each query, and the summaries.
type Answer = (Vec<Vec<(usize, f32)>>, Vec<(f32, u32)>);

fn run(rows: &[Vec<f32>], queries: &[TopQuery], width: usize) -> Result<Answer, OpError> {
    let device = support::device();
    let vocabulary = rows[0].len();
    let stride = vocabulary.next_multiple_of(4) + 4;
    let padded = rows.iter().flat_map(|row| {
        let mut row = row.clone();
        row.resize(stride, f32::NAN);
        row
    });
    let mut ids = Guarded::<i32>::new(device, queries.len() * width);
    let mut values = Guarded::<f32>::new(device, queries.len() * width);
    let mut ranks = Guarded::<f32>::new(device, queries.len() * width);
    let none = vec![TopSummary { target: 7.0, status: 77 }; queries.len()];
    let mut summary = device.upload(&none)?;
    TopScores {
        scores: device.upload(&padded.collect::<Vec<f32>>())?.view(),
        queries: device.upload(queries)?.view(),
        ids: ids.view_mut(),
        values: values.view_mut(),
        ranks: ranks.view_mut(),
        summary: summary.view_mut(),
        rows: rows.len(),
        vocabulary,
        stride,
        width,
    }
    .launch(device)?;
    let (ids, values) = (ids.read(device, "top_scores"), values.read(device, "top_scores"));
    let summary = device.download(&summary)?;
    for (ranks, query) in ranks.read(device, "top_scores").chunks(width).zip(queries) {
        let ranks = &ranks[..query.n as usize];
        assert!(ranks.is_sorted_by(|a, b| a >= b), "{query:?}: {ranks:?}");
    }
    let pairs = ids.iter().map(|id| *id as usize).zip(values);
    let pairs: Vec<(usize, f32)> = pairs.collect();
    let rows =
        pairs.chunks(width).zip(queries).map(|(row, query)| row[..query.n as usize].to_vec());
    Ok((rows.collect(), summary.iter().map(|s| (s.target, s.status)).collect()))
}

fn check(label: &str, rows: &[Vec<f32>], queries: &[TopQuery], width: usize) {
    let (got, _) = in_every_order(label, || run(rows, queries, width).expect(label));
    for (query, got) in queries.iter().zip(&got) {
        let row = &rows[query.row as usize];
        let noise = (query.flags & PERTURBS != 0).then_some((query.seed, query.step, query.choice));
        let mut want = top_scores(row, query.n as usize, query.offset, noise);
        if query.flags & NORMALIZES != 0 {
            let sum = log_sum(row);
            want.iter_mut().for_each(|(_, value)| *value = (f64::from(*value) - sum) as f32);
        }
        let ids = |list: &[(usize, f32)]| list.iter().map(|(id, _)| *id).collect::<Vec<_>>();
        assert_eq!(ids(got), ids(&want), "{label}: {query:?}");
        for ((_, got), (_, want)) in got.iter().zip(&want) {
            let near = (got - want).abs() <= 2f32.powi(-20) * want.abs().max(1.0);
            assert!(got == want || (query.flags & NORMALIZES != 0 && near), "{got} {want}");
        }
    }
}

#[test]
fn the_best_come_in_order_equals_by_id() {
    for vocabulary in [1, 40, 1025, 4000] {
        let label = format!("top V={vocabulary}");
        let mut rng = Rng::new(&label);
        let mut rows: Vec<Vec<f32>> = (0..4).map(|_| rng.f32s(vocabulary, 9.0)).collect();
        // Many equals, at the end of the list too.
        rows[1].iter_mut().for_each(|s| *s = (*s / 3.0).round());
        rows[2].fill(-2.5);
        rows[3].iter_mut().step_by(2).for_each(|s| *s = f32::NEG_INFINITY);
        let width = vocabulary.min(60);
        for n in [0, 1, 2.min(width), width / 2, width] {
            let queries: Vec<TopQuery> = (0..4)
                .rev()
                .map(|row| TopQuery { offset: -1.5 * row as f32, ..query(row, n) })
                .collect();
            check(&label, &rows, &queries, width);
        }
    }
}

#[test]
fn a_thousand_and_twenty_four_are_placed() {
    let rows = vec![Rng::new("wide").f32s(5000, 30.0)];
    check("wide", &rows, &[query(0, 1024)], 1024);
}

#[test]
fn values_are_log_probabilities_if_asked_for() {
    let rows = vec![Rng::new("log").f32s(700, 8.0)];
    let wanted = TopQuery { flags: NORMALIZES, target: 123, ..query(0, 20) };
    check("log", &rows, &[wanted], 20);
    let (_, summary) = run(&rows, &[wanted, query(0, 0)], 20).unwrap();
    let want = f64::from(rows[0][123]) - log_sum(&rows[0]);
    assert!((f64::from(summary[0].0) - want).abs() < 1e-5, "{summary:?} {want}");
    assert_eq!(summary[1], (0.0, 0), "no target");
}

#[test]
fn perturbed_ids_are_those_of_the_oracle() {
    let rows = vec![Rng::new("noise").f32s(900, 5.0)];
    let queries: Vec<TopQuery> = (0..24)
        .map(|i| TopQuery {
            seed: 1 << 40 | i,
            step: i as u32,
            choice: 3,
            flags: PERTURBS,
            ..query(0, 12)
        })
        .collect();
    check("noise", &rows, &queries, 12);
}

#[test]
fn perturbed_ids_follow_the_probabilities() {
    // Independent of the oracle: first and second of 4,000 draws without replacement.
    let logits = vec![0.0_f32, 1.0, 2.0, -1.0];
    let queries: Vec<TopQuery> =
        (0..4000).map(|step| TopQuery { seed: 9, step, flags: PERTURBS, ..query(0, 2) }).collect();
    let (got, _) = run(std::slice::from_ref(&logits), &queries, 2).unwrap();
    let p = |id: usize| f64::from(logits[id]).exp();
    let total: f64 = (0..4).map(p).sum();
    for (a, b) in [(2, 1), (1, 2), (2, 0), (0, 2)] {
        let want = p(a) / total * p(b) / (total - p(a));
        let count = got.iter().filter(|pair| (pair[0].0, pair[1].0) == (a, b)).count() as f64;
        let deviation = (4000.0 * want * (1.0 - want)).sqrt();
        assert!((count - 4000.0 * want).abs() <= 5.0 * deviation, "{a} then {b}: {count}, {want}");
    }
}

#[test]
fn a_nan_is_reported_and_stops_its_query_alone() {
    let mut rows = vec![vec![1.0; 50]; 2];
    rows[0][49] = f32::NAN;
    let (_, summary) = run(&rows, &[query(0, 0), query(1, 0)], 1).unwrap();
    assert_eq!([summary[0].1, summary[1].1], [STATUS_NOT_FINITE, 0]);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let error = run(&[vec![0.0; 8]], &[query(0, 0)], 1025).expect_err("too many columns");
    assert_eq!(error.to_string(), "top_scores: N = 1025, but N is at most 1024");
}
