//! `kernels/sample.cu` against its oracle, token for token, on whatever device the machine has.

use qwen2vl::{
    device::{Device, as_bytes},
    ops::OpError,
    ops::sample::{
        RENORMALIZES, Rows, STATUS_NOT_FINITE, Sample, SampleResult, SampleSettings, WANTS_LOGPROB,
        WarpScores,
    },
    reference::sample::{Settings, sample, warp_scores},
};

use crate::guarded::Guarded;
use crate::orders::in_every_order;
use crate::support::{self, Rng};

/// A batch: equal vocabularies, one row of logits and one of settings for each sequence.
struct Batch {
    logits: Vec<Vec<f32>>,
    settings: Vec<SampleSettings>,
    /// For each slot, how often each token was seen in prompt and answer.
    seen: Vec<Vec<bool>>,
    counts: Vec<Vec<u16>>,
    status: Vec<u32>,
}

/// What the device holds after a launch.
#[derive(Debug)]
struct After {
    results: Vec<SampleResult>,
    seen: Vec<Vec<bool>>,
    counts: Vec<Vec<u16>>,
}

impl PartialEq for After {
    fn eq(&self, other: &Self) -> bool {
        let same = as_bytes(&self.results) == as_bytes(&other.results);
        same && self.seen == other.seen && self.counts == other.counts
    }
}

impl Batch {
    fn new(logits: Vec<Vec<f32>>, mut settings: Vec<SampleSettings>) -> Self {
        for (row, settings) in settings.iter_mut().enumerate() {
            settings.row = row as i32;
        }
        let (slots, vocabulary) = (logits.len(), logits[0].len());
        Self {
            status: vec![0; slots],
            seen: vec![vec![false; vocabulary]; slots],
            counts: vec![vec![0; vocabulary]; slots],
            logits,
            settings,
        }
    }

    fn run(&self, device: &Device) -> Result<After, OpError> {
        self.launch(device, false).map(|(after, _)| after)
    }

    /// The scores that would be drawn from, by rows, and what else is left.
    fn warp(&self, device: &Device) -> Result<(After, Vec<Vec<f32>>), OpError> {
        self.launch(device, true)
    }

    fn launch(&self, device: &Device, warp: bool) -> Result<(After, Vec<Vec<f32>>), OpError> {
        let (sequences, vocabulary) = (self.logits.len(), self.logits[0].len());
        // Columns past the vocabulary hold NaN: they must not be read.
        let stride = vocabulary.next_multiple_of(4) + 4;
        let padded = self.logits.iter().flat_map(|row| {
            let mut row = row.clone();
            row.resize(stride, f32::NAN);
            row
        });
        let logits = device.upload(&padded.collect::<Vec<f32>>())?;
        let settings = device.upload(&self.settings)?;
        let words = Sample::bitmap_words(vocabulary);
        let bitmap: Vec<u32> = self.seen.iter().flat_map(|row| bitmap(row, words)).collect();
        let mut bitmap = Guarded::holding(device, &bitmap);
        let mut counts = Guarded::holding(device, &self.counts.concat());
        let status = device.upload(&self.status)?;
        let mut result = Guarded::new(device, sequences);
        let mut out = Guarded::new(device, if warp { sequences * stride } else { 0 });
        let rows = Rows {
            logits: logits.view(),
            scores: None,
            settings: settings.view(),
            bitmap: bitmap.view_mut(),
            counts: counts.view_mut(),
            status: status.view(),
            result: result.view_mut(),
            sequences,
            rows: sequences,
            vocabulary,
            stride,
            slots: self.seen.len(),
        };
        if warp {
            WarpScores { rows, out: out.view_mut() }.launch(device)?;
        } else {
            Sample(rows).launch(device)?;
        }
        let out: Vec<f32> = out.read(device, "sample");
        let scores = out.chunks(stride).map(|row| row[..vocabulary].to_vec()).collect();
        let seen = bitmap.read(device, "sample");
        let seen = seen
            .chunks(words)
            .map(|row| (0..vocabulary).map(|id| row[id / 32] >> (id % 32) & 1 == 1).collect());
        let counts = counts.read(device, "sample");
        let after = After {
            results: result.read(device, "sample"),
            seen: seen.collect(),
            counts: counts.chunks(vocabulary).map(<[u16]>::to_vec).collect(),
        };
        Ok((after, scores))
    }

    /// Every token as the oracle chooses it, and the history that follows from it.
    fn check(&self, label: &str) -> After {
        let after = in_every_order(label, || self.run(support::device()).expect(label));
        let (mut seen, mut counts) = (self.seen.clone(), self.counts.clone());
        for (row, result) in after.results.iter().enumerate() {
            let settings = &self.settings[row];
            let slot = usize::try_from(settings.slot).ok().filter(|slot| *slot < seen.len());
            let none = (vec![false; self.logits[row].len()], vec![0; self.logits[row].len()]);
            let (seen_here, counts_here) = match slot {
                Some(slot) => (&self.seen[slot], &self.counts[slot]),
                None => (&none.0, &none.1),
            };
            let want = sample(&self.logits[row], seen_here, counts_here, &oracle(settings));
            let label = format!("{label}, sequence {row}: {settings:?}");
            let (token, status) = match want {
                Some(token) => (token, 0),
                None => (0, STATUS_NOT_FINITE),
            };
            assert_eq!(usize::try_from(result.token), Ok(token), "{label}");
            assert_eq!(result.status, status, "{label}");
            if let (Some(slot), Some(token)) = (slot, want) {
                seen[slot][token] = true;
                counts[slot][token] = counts[slot][token].saturating_add(1);
            }
        }
        assert_eq!(after.seen, seen, "{label}");
        assert_eq!(after.counts, counts, "{label}");
        after
    }
}

fn bitmap(row: &[bool], words: usize) -> Vec<u32> {
    let mut bits = vec![0; words];
    for id in (0..row.len()).filter(|id| row[*id]) {
        bits[id / 32] |= 1 << (id % 32);
    }
    bits
}

fn oracle(settings: &SampleSettings) -> Settings {
    Settings {
        seed: settings.seed,
        step: settings.step,
        choice: settings.choice,
        top_k: usize::try_from(settings.top_k).unwrap(),
        temperature: settings.temperature,
        top_p: settings.top_p,
        min_p: settings.min_p,
        typical_p: settings.typical_p,
        epsilon: settings.epsilon,
        eta: settings.eta,
        min_keep: usize::try_from(settings.min_keep).unwrap(),
        repetition_penalty: settings.repetition_penalty,
        presence_penalty: settings.presence_penalty,
        frequency_penalty: settings.frequency_penalty,
    }
}

fn greedy() -> SampleSettings {
    SampleSettings::greedy(None)
}

fn random(seed: u64) -> SampleSettings {
    SampleSettings { temperature: 1.0, seed, ..greedy() }
}

/// Vocabularies: one token, one past a word, one past a block, the tail of a run of the draw.
const VOCABULARIES: &[usize] = &[1, 7, 33, 1023, 1025, 5000];

#[test]
fn greedy_takes_the_largest() {
    for &vocabulary in VOCABULARIES {
        let label = format!("greedy V={vocabulary}");
        let logits = Rng::new(&label).f32s(vocabulary, 20.0);
        let also = SampleSettings { temperature: 0.7, top_k: 1, ..greedy() };
        Batch::new(vec![logits.clone(), logits], vec![greedy(), also]).check(&label);
    }
}

#[test]
fn gpu_small_the_lowest_id_wins_a_tie() {
    let mut logits = vec![-1.0; 70];
    (logits[69], logits[33], logits[34]) = (2.0, 2.0, 2.0);
    let zeros = [0.0, -0.0].map(|first| vec![first, -first, 0.0]);
    let tokens = |logits: Vec<f32>| {
        let after = Batch::new(vec![logits], vec![greedy()]).check("ties");
        after.results[0].token
    };
    assert_eq!(tokens(logits), 33);
    assert_eq!(zeros.map(tokens), [0, 0], "-0 and +0 are equal");
    assert_eq!(tokens(vec![5.0; 40]), 0, "all equal");
    let mut only = vec![f32::NEG_INFINITY; 40];
    only[39] = -3e38;
    assert_eq!(tokens(only), 39, "all -inf but one");
}

#[test]
fn gpu_small_filters_and_draws_match_the_oracle() {
    check_filters(&[200], 2);
}

#[test]
fn filters_and_draws_match_the_oracle() {
    check_filters(VOCABULARIES, 2);
}

fn check_filters(vocabularies: &[usize], seeds: u64) {
    for &vocabulary in vocabularies {
        let label = format!("filters V={vocabulary}");
        let mut rng = Rng::new(&label);
        let (mut logits, mut settings) = (vec![], vec![]);
        for seed in 0..seeds {
            for top_k in [0, 1, 2, 40, 1 << 20] {
                for top_p in [0.0, 0.3, 0.9, 0.999_9, 1.0] {
                    for min_p in [0.0, 0.05, 1.0] {
                        // Halves: many equal values at every border.
                        let row = rng.f32s(vocabulary, 8.0).into_iter();
                        logits.push(row.map(|value| (value * 2.0).round() / 2.0).collect());
                        let temperature = [0.3, 1.0, 2.5][rng.below(3)];
                        let step = u32::try_from(rng.below(1000)).unwrap();
                        settings.push(SampleSettings {
                            top_k,
                            top_p,
                            min_p,
                            temperature,
                            step,
                            ..random(seed)
                        });
                    }
                }
            }
        }
        Batch::new(logits, settings).check(&label);
    }
}

/// Settings with every filter, each on in about two of three rows.
fn any_filters(rng: &mut Rng, vocabulary: usize) -> SampleSettings {
    let mut pick = |off: f32, values: [f32; 2]| [off, values[0], values[1]][rng.below(3)];
    SampleSettings {
        temperature: pick(1.0, [0.4, 1.7]),
        top_p: pick(1.0, [0.5, 0.95]),
        min_p: pick(0.0, [0.02, 0.3]),
        typical_p: pick(1.0, [0.3, 0.9]),
        epsilon: pick(0.0, [1e-4, 0.05]),
        eta: pick(0.0, [3e-4, 0.1]),
        top_k: [0, 5, vocabulary as i32 / 2][rng.below(3)],
        min_keep: [1, 2, 7][rng.below(3)],
        ..random(rng.below(1 << 20) as u64)
    }
}

#[test]
fn every_filter_in_its_order_matches_the_oracle() {
    for vocabulary in [1, 7, 300, 1300] {
        let label = format!("all filters V={vocabulary}");
        let mut rng = Rng::new(&label);
        let logits: Vec<_> = (0..48).map(|_| rng.f32s(vocabulary, 6.0)).collect();
        let settings: Vec<_> = (0..48).map(|_| any_filters(&mut rng, vocabulary)).collect();
        Batch::new(logits.clone(), settings.clone()).check(&label);
        check_warped(&label, logits, settings);
    }
}

#[test]
fn equal_scores_are_filtered_by_their_ids() {
    let mut rng = Rng::new("ties");
    let logits: Vec<Vec<f32>> =
        (0..48).map(|_| rng.f32s(40, 4.0).iter().map(|value| value.round()).collect()).collect();
    let settings = (0..48).map(|_| any_filters(&mut rng, 40));
    // Distances of equal scores from the mean are equal up to the last bit only in the oracle.
    let settings = settings.map(|settings| SampleSettings { typical_p: 1.0, ..settings });
    check_warped("ties", logits, settings.collect());
}

/// Greedy rows stay as they are, others lose what the oracle's filters remove.
fn check_warped(label: &str, logits: Vec<Vec<f32>>, settings: Vec<SampleSettings>) {
    for (flags, temperature) in [(0, None), (RENORMALIZES, None), (RENORMALIZES, Some(0.0))] {
        let settings = settings.iter().map(|&settings| {
            let temperature = temperature.unwrap_or(settings.temperature);
            SampleSettings { flags, temperature, ..settings }
        });
        let batch = Batch::new(logits.clone(), settings.collect());
        let (after, scores) = in_every_order(label, || batch.warp(support::device()).unwrap());
        assert_eq!(after.seen, batch.seen, "{label}: history is not entered");
        for (row, got) in scores.iter().enumerate() {
            let settings = oracle(&batch.settings[row]);
            let want = warp_scores(&batch.logits[row], &settings, flags != 0);
            for (id, (got, want)) in got.iter().zip(&want).enumerate() {
                let near = (got - want).abs() <= 2f32.powi(-19) * want.abs().max(1.0);
                assert!(
                    got == want || near,
                    "{label}, row {row}, id {id}: {got} {want} {settings:?}"
                );
            }
        }
    }
}

#[test]
fn a_row_without_tokens_is_written_as_it_is() {
    let batch = Batch::new(vec![vec![f32::NEG_INFINITY; 6]; 2], vec![greedy(), random(3)]);
    let (after, scores) = batch.warp(support::device()).unwrap();
    assert_eq!(scores, [[f32::NEG_INFINITY; 6]; 2]);
    assert_eq!(after.results[0].status, 0);
    let batch = Batch::new(vec![vec![0.0, f32::NAN]], vec![random(3)]);
    let (after, _) = batch.warp(support::device()).unwrap();
    assert_eq!(after.results[0].status, STATUS_NOT_FINITE);
}

#[test]
fn a_real_vocabulary_matches_the_oracle() {
    let mut rng = Rng::new("V=151936");
    let mut logits = || rng.f32s(151_936, 12.0);
    let filtered = SampleSettings { top_k: 50, top_p: 0.8, temperature: 0.7, ..random(3) };
    let settings = vec![greedy(), random(1), filtered];
    Batch::new(vec![logits(), logits(), logits()], settings).check("V=151936");
}

#[test]
fn equal_values_stay_by_their_ids_under_top_p() {
    // Four equal tokens, the example of docs/spec.md 13.3; which is drawn depends on the seed.
    for (top_p, kept) in [(0.0, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.75, 3), (1.0, 4)] {
        let rows = 64;
        let settings = (0..rows).map(|seed| SampleSettings { top_p, ..random(seed) }).collect();
        let logits = vec![vec![1.5; 4]; usize::try_from(rows).unwrap()];
        let after = Batch::new(logits, settings).check("equal values");
        let mut drawn: Vec<i32> = after.results.iter().map(|result| result.token).collect();
        drawn.sort_unstable();
        drawn.dedup();
        assert_eq!(drawn, (0..kept).collect::<Vec<_>>(), "top_p {top_p}");
    }
}

#[test]
fn ties_of_the_kth_value_stay() {
    let logits = vec![1.0, 3.0, 3.0, 2.0, 3.0, 0.5];
    let settings = (0..64).map(|seed| SampleSettings { top_k: 2, ..random(seed) });
    let after = Batch::new(vec![logits; 64], settings.collect()).check("ties of the k-th");
    let mut drawn: Vec<i32> = after.results.iter().map(|result| result.token).collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [1, 2, 4]);
}

#[test]
fn draws_follow_the_probabilities() {
    // Independent of the oracle: 4,000 draws of one distribution, each within five deviations.
    let (draws, logits) = (4000_u32, vec![0.0_f32, 1.0, 2.0, -1.0, 0.5]);
    let settings = (0..draws).map(|step| SampleSettings { step, ..random(42) });
    let batch = Batch::new(vec![logits.clone(); 4000], settings.collect());
    let after = batch.run(support::device()).unwrap();
    let total: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
    for (token, logit) in (0..).zip(&logits) {
        let p = f64::from(*logit).exp() / total;
        let count = after.results.iter().filter(|result| result.token == token).count() as f64;
        let draws = f64::from(draws);
        let deviation = (draws * p * (1.0 - p)).sqrt();
        assert!((count - draws * p).abs() <= 5.0 * deviation, "token {token}: {count} of {draws}");
    }
}

#[test]
fn penalties_act_on_the_history_and_the_token_enters_it() {
    let vocabulary = 100;
    for round in 0..8 {
        let label = format!("penalties {round}");
        let mut rng = Rng::new(&label);
        let logits = (0..6).map(|_| rng.f32s(vocabulary, 3.0)).collect();
        let settings = (0..6).map(|row| SampleSettings {
            // Slots in another order; the last two sequences have none.
            slot: [3, 0, 2, 1, -1, 6][row],
            temperature: [0.0, 1.0, 0.5, 0.0, 0.0, 1.0][row],
            repetition_penalty: [1.3, 1.0, 2.0, 0.5, 1.3, 1.3][row],
            presence_penalty: [0.0, 0.6, 0.0, -0.5, 0.6, 0.6][row],
            frequency_penalty: [0.0, 0.0, 0.25, 0.1, 0.3, 0.3][row],
            ..random(round)
        });
        let settings = settings.collect();
        let mut batch = Batch::new(logits, settings);
        for slot in 0..6 {
            for id in 0..vocabulary {
                batch.seen[slot][id] = rng.below(3) == 0;
                batch.counts[slot][id] = [0, 0, 1, 3, 65_534, u16::MAX][rng.below(6)];
            }
        }
        batch.check(&label);
    }
}

#[test]
fn a_count_at_its_limit_stays() {
    let mut batch = Batch::new(vec![vec![0.0, 9.0]], vec![SampleSettings::greedy(Some(0))]);
    batch.counts[0][1] = u16::MAX;
    assert_eq!(batch.check("count").counts[0][1], u16::MAX);
}

#[test]
fn logits_that_are_not_finite_stop_that_sequence_alone() {
    let good = vec![0.0, 3.0, f32::NEG_INFINITY, 1.0];
    let edited = |id: usize, value: f32| {
        let mut row = good.clone();
        row[id] = value;
        row
    };
    let rows = vec![
        good.clone(),
        edited(3, f32::NAN),
        edited(0, -f32::NAN),
        edited(1, f32::INFINITY),
        vec![f32::NEG_INFINITY; 4],
        good.clone(),
    ];
    for kind in [greedy(), random(9)] {
        let settings = (0..6).map(|slot| SampleSettings { slot, ..kind }).collect();
        let after = Batch::new(rows.clone(), settings).check("not finite");
        let statuses: Vec<u32> = after.results.iter().map(|result| result.status).collect();
        let bad = STATUS_NOT_FINITE;
        assert_eq!(statuses, [0, bad, bad, bad, bad, 0]);
    }
}

#[test]
fn a_penalty_that_overflows_is_not_finite() {
    let settings = SampleSettings { repetition_penalty: 1e-30, ..SampleSettings::greedy(Some(0)) };
    let mut batch = Batch::new(vec![vec![1.0, 1e20]], vec![settings]);
    batch.seen[0][1] = true;
    assert_eq!(batch.check("overflow").results[0].status, STATUS_NOT_FINITE);
}

#[test]
fn a_status_of_an_earlier_kernel_is_passed_on() {
    let mut batch = Batch::new(vec![vec![1.0, 2.0]; 2], vec![greedy(); 2]);
    batch.status = vec![0x10, 0];
    let after = batch.run(support::device()).unwrap();
    assert_eq!((after.results[0].token, after.results[0].status), (0, 0x10));
    assert_eq!((after.results[1].token, after.results[1].status), (1, 0));
}

#[test]
fn a_tiny_temperature_is_greedy() {
    let logits = vec![1.0, 1.5, 1.25, 1.5];
    for temperature in [1e-4, 1e-38, 1e-45] {
        let settings = SampleSettings { temperature, top_p: 0.5, ..random(5) };
        let after = Batch::new(vec![logits.clone()], vec![settings]).check("tiny temperature");
        assert!([1, 3].contains(&after.results[0].token), "temperature {temperature:e}");
    }
}

#[test]
fn the_log_probability_is_that_of_the_unedited_logits() {
    let logits = Rng::new("logprob").f32s(3000, 10.0);
    let wanted = SampleSettings { flags: WANTS_LOGPROB, ..SampleSettings::greedy(Some(0)) };
    let penalised = SampleSettings { repetition_penalty: 3.0, ..wanted };
    for settings in [wanted, penalised] {
        let mut batch = Batch::new(vec![logits.clone()], vec![settings]);
        batch.seen[0].fill(true);
        batch.seen[0][7] = false;
        let result = batch.check("logprob").results[0];
        let max = logits.iter().fold(f64::MIN, |max, l| max.max(f64::from(*l)));
        let sum: f64 = logits.iter().map(|l| (f64::from(*l) - max).exp()).sum();
        let token = usize::try_from(result.token).unwrap();
        let want = f64::from(logits[token]) - max - sum.ln();
        let error = (f64::from(result.logprob) - want).abs();
        assert!(error <= 2f64.powi(-20) * want.abs().max(1.0), "{} {want}", result.logprob);
    }
    let silent = Batch::new(vec![logits], vec![greedy()]).check("no logprob").results[0];
    assert_eq!(silent.logprob, 0.0);
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let device = support::device();
    let mut batch = Batch::new(vec![vec![1.0; 4]; 2], vec![greedy(); 2]);
    batch.settings.pop();
    let error = batch.run(device).expect_err("one setting for two sequences");
    assert_eq!(error.to_string(), "sample: settings has 1 elements, expected 2");
    let mut batch = Batch::new(vec![vec![1.0; 4]; 2], vec![greedy(); 2]);
    batch.counts[1].pop();
    let error = batch.run(device).expect_err("counts of another vocabulary");
    assert_eq!(error.to_string(), "sample: counts has 7 elements, expected 8");
}
