//! `kernels/score_edits.cu` against its oracle.

use qwen2vl::{
    device::Device,
    ops::{
        OpError,
        sample::{Sample, SampleSettings},
        score_edits::{self, ScoreEdit, ScoreEdits},
    },
    reference::{
        sample::Settings,
        score_edits::{Edit, score_edits},
    },
};

use crate::guarded::{Guarded, Poison};
use crate::orders::in_every_order;
use crate::support::{self, Rng};

/// Rows of logits, and the edits of sequences that read them.
struct Batch {
    logits: Vec<Vec<f32>>,
    /// Row of logits, slot and edits of each sequence.
    sequences: Vec<(usize, i32, Vec<Edit>)>,
    seen: Vec<Vec<bool>>,
    counts: Vec<Vec<u16>>,
}

/// Lists of a launch.
#[derive(Default)]
struct Lists {
    first: Vec<i32>,
    edits: Vec<ScoreEdit>,
    ids: Vec<i32>,
    values: Vec<f32>,
}

impl Lists {
    fn push(&mut self, edit: &Edit) {
        let plain = |ids: &[usize]| ids.iter().map(|id| (*id, f32::NAN)).collect();
        let (op, entries, value): (_, Vec<(usize, f32)>, f32) = match edit {
            Edit::Add(entries) => (score_edits::Edit::Add, entries.clone(), f32::NAN),
            Edit::Penalty(ids, v) => (score_edits::Edit::Penalty, plain(ids), *v),
            Edit::Set(ids, v) => (score_edits::Edit::Set, plain(ids), *v),
            Edit::Decay(ids, v) => (score_edits::Edit::Decay, plain(ids), *v),
            Edit::Fill(v) => (score_edits::Edit::Fill, vec![], *v),
            Edit::History => (score_edits::Edit::History, vec![], f32::NAN),
            Edit::Clean => (score_edits::Edit::Clean, vec![], f32::NAN),
            Edit::LogSoftmax => (score_edits::Edit::LogSoftmax, vec![], f32::NAN),
        };
        let (first, count) = (self.ids.len() as i32, entries.len() as i32);
        self.edits.push(ScoreEdit { op: op as i32, first, count, value });
        self.ids.extend(entries.iter().map(|(id, _)| *id as i32));
        self.values.extend(entries.iter().map(|(_, value)| *value));
    }
}

fn settings(row: usize, slot: i32) -> SampleSettings {
    SampleSettings {
        row: row as i32,
        slot,
        repetition_penalty: 1.3,
        presence_penalty: 0.5,
        frequency_penalty: 0.25,
        ..SampleSettings::greedy(None)
    }
}

impl Batch {
    fn run(&self, device: &Device) -> Result<Vec<Vec<f32>>, OpError> {
        let vocabulary = self.logits[0].len();
        let stride = vocabulary.next_multiple_of(4) + 4;
        let padded = self.logits.iter().flat_map(|row| {
            let mut row = row.clone();
            row.resize(stride, f32::NAN);
            row
        });
        let mut lists = Lists { first: vec![0], ..Lists::default() };
        for (_, _, edits) in &self.sequences {
            edits.iter().for_each(|edit| lists.push(edit));
            lists.first.push(lists.edits.len() as i32);
        }
        let words = Sample::bitmap_words(vocabulary);
        let bitmap: Vec<u32> = self.seen.iter().flat_map(|row| bits(row, words)).collect();
        let rows: Vec<SampleSettings> =
            self.sequences.iter().map(|(row, slot, _)| settings(*row, *slot)).collect();
        let mut scores = Guarded::new(device, self.sequences.len() * stride);
        ScoreEdits {
            logits: device.upload(&padded.collect::<Vec<f32>>())?.view(),
            scores: scores.view_mut(),
            settings: device.upload(&rows)?.view(),
            first: device.upload(&lists.first)?.view(),
            edits: device.upload(&lists.edits)?.view(),
            ids: device.upload(&lists.ids)?.view(),
            values: device.upload(&lists.values)?.view(),
            bitmap: device.upload(&bitmap)?.view_mut(),
            counts: device.upload(&self.counts.concat())?.view_mut(),
            sequences: self.sequences.len(),
            rows: self.logits.len(),
            vocabulary,
            stride,
            slots: self.seen.len(),
        }
        .launch(device)?;
        let scores: Vec<f32> = scores.read(device, "score_edits");
        Ok(scores.chunks(stride).map(|row| row[..vocabulary].to_vec()).collect())
    }

    fn check(&self, label: &str) {
        let got = in_every_order(label, || {
            let rows = self.run(support::device()).expect(label);
            rows.iter()
                .map(|row| row.iter().map(|s| s.to_bits()).collect())
                .collect::<Vec<Vec<u32>>>()
        });
        for (sequence, (row, slot, edits)) in self.sequences.iter().enumerate() {
            let got: Vec<f32> = got[sequence].iter().map(|bits| f32::from_bits(*bits)).collect();
            let label = format!("{label}, sequence {sequence}: {edits:?}");
            if edits.is_empty() {
                assert!(got.iter().all(|s| s.is_poison()), "{label}: written without edits");
                continue;
            }
            let vocabulary = self.logits[0].len();
            let none = (vec![false; vocabulary], vec![0; vocabulary]);
            let slot = usize::try_from(*slot).ok().filter(|slot| *slot < self.seen.len());
            let (seen, counts) =
                slot.map_or((&none.0, &none.1), |slot| (&self.seen[slot], &self.counts[slot]));
            let want = score_edits(&self.logits[*row], edits, seen, counts, &oracle());
            let exact = !edits.iter().any(|edit| matches!(edit, Edit::LogSoftmax));
            for (id, (got, want)) in got.iter().zip(&want).enumerate() {
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                let near = (got - want).abs() <= 2f32.powi(-20) * want.abs().max(1.0);
                assert!(same || (!exact && near), "{label}, id {id}: {got} {want}");
            }
        }
    }
}

fn bits(row: &[bool], words: usize) -> Vec<u32> {
    let mut bits = vec![0; words];
    for id in (0..row.len()).filter(|id| row[*id]) {
        bits[id / 32] |= 1 << (id % 32);
    }
    bits
}

fn oracle() -> Settings {
    let settings = settings(0, 0);
    Settings {
        seed: 0,
        step: 0,
        choice: 0,
        top_k: 0,
        temperature: 0.0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        epsilon: 0.0,
        eta: 0.0,
        min_keep: 1,
        repetition_penalty: settings.repetition_penalty,
        presence_penalty: settings.presence_penalty,
        frequency_penalty: settings.frequency_penalty,
    }
}

fn batch(label: &str, vocabulary: usize, edits: Vec<Vec<Edit>>) -> Batch {
    let mut rng = Rng::new(label);
    let mut logits: Vec<_> = (0..edits.len()).map(|_| rng.f32s(vocabulary, 9.0)).collect();
    logits[0][0] = -0.0;
    let seen = edits.iter().map(|_| (0..vocabulary).map(|_| rng.below(3) == 0).collect());
    let seen = seen.collect();
    let counts = edits.iter().map(|_| (0..vocabulary).map(|_| rng.below(4) as u16).collect());
    let counts = counts.collect();
    // Rows and slots in the other order than the sequences; the last has no history.
    let last = edits.len() - 1;
    let sequences = edits
        .into_iter()
        .enumerate()
        .map(|(i, edits)| (last - i, if i == last { -1 } else { (last - i) as i32 }, edits));
    Batch { logits, sequences: sequences.collect(), seen, counts }
}

fn every_edit(vocabulary: usize) -> Vec<Edit> {
    let some: Vec<usize> = (0..vocabulary).step_by(3).collect();
    vec![
        Edit::Add(some.iter().map(|id| (*id, *id as f32 / 7.0 - 2.0)).collect()),
        Edit::Penalty(some.iter().rev().copied().collect(), 1.0 / 1.8),
        Edit::History,
        Edit::Decay((0..vocabulary).rev().step_by(5).collect(), 1.3f32.powi(4) - 1.0),
        Edit::Set(vec![vocabulary / 2], f32::NEG_INFINITY),
    ]
}

#[test]
fn edits_match_the_oracle_one_by_one_and_in_order() {
    for vocabulary in [1, 33, 1025, 3000] {
        let label = format!("edits V={vocabulary}");
        let all = every_edit(vocabulary);
        let mut rows: Vec<Vec<Edit>> = all.iter().map(|edit| vec![edit.clone()]).collect();
        rows.push(vec![]);
        rows.push(all.clone());
        rows.push(all.iter().rev().cloned().collect());
        rows.push([&all[..], &[Edit::Clean][..], &all[..]].concat());
        rows.push(vec![Edit::Fill(f32::NEG_INFINITY), Edit::Set(vec![0], 0.0)]);
        rows.push(vec![Edit::LogSoftmax, all[0].clone(), Edit::Clean]);
        rows.push(vec![Edit::History]);
        batch(&label, vocabulary, rows).check(&label);
    }
}

#[test]
fn clean_leaves_finite_numbers_alone() {
    let mut batch = batch("clean", 8, vec![vec![Edit::Clean]]);
    batch.logits[0] =
        vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN, f32::MAX, -0.0, 1e-45, -3.5];
    batch.check("clean");
}

#[test]
fn a_decayed_minus_infinity_is_nan_as_in_the_reference() {
    let ends = vec![3];
    let edits = vec![Edit::Set(ends.clone(), f32::NEG_INFINITY), Edit::Decay(ends, 0.5)];
    let batch = batch("decay", 8, vec![edits]);
    batch.check("decay");
    assert!(batch.run(support::device()).unwrap()[0][3].is_nan());
}

#[test]
fn ids_outside_of_the_vocabulary_are_passed_over() {
    let edits = vec![Edit::Set(vec![5, 8, 4000], 1.0), Edit::Add(vec![(9, 1.0), (1, 1.0)])];
    batch("outside", 8, vec![edits.clone(), edits]).check("outside");
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let mut wrong = batch("shapes", 8, vec![vec![Edit::Clean]; 2]);
    wrong.counts[1].pop();
    let error = wrong.run(support::device()).expect_err("counts of another vocabulary");
    assert_eq!(error.to_string(), "score_edits: counts has 15 elements, expected 16");
}
