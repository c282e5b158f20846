//! The kernels that work on rows of scores.

use qwen2vl::device::Buffer;
use qwen2vl::ops::sample::{Rows, Sample, SampleResult, SampleSettings};
use qwen2vl::ops::score_edits::{Edit, ScoreEdit, ScoreEdits};
use qwen2vl::ops::top_scores::{TopQuery, TopScores, TopSummary};

use crate::decoders;
use crate::harness::{Bench, int};

/// Logits of some sequences and what the sampler keeps of them.
struct Batch {
    sequences: usize,
    vocabulary: usize,
    logits: Buffer<f32>,
    bitmap: Buffer<u32>,
    counts: Buffer<u16>,
}

impl Batch {
    fn new(bench: &mut Bench, vocabulary: usize, sequences: usize) -> Self {
        let logits = bench.f32s(sequences * vocabulary, 10.0);
        Self {
            sequences,
            vocabulary,
            logits: bench.upload(&logits),
            bitmap: bench.device.zeros(sequences * Sample::bitmap_words(vocabulary)).unwrap(),
            counts: bench.device.zeros(sequences * vocabulary).unwrap(),
        }
    }
}

pub(crate) fn sample(bench: &mut Bench) {
    for model in decoders(bench) {
        for &sequences in bench.sizes(&[1], &[1, 8, 32]) {
            let mut batch = Batch::new(bench, model.vocabulary, sequences);
            let status = bench.upload(&vec![0u32; sequences]);
            let mut result = bench.alloc::<SampleResult>(sequences);
            for kind in ["greedy", "random", "typical"] {
                let settings = bench.upload(&settings(kind, sequences));
                let id = format!("sample/{}/B{sequences}/{kind}", model.name);
                row!(bench, &id, |_| Sample(Rows {
                    logits: batch.logits.view(),
                    scores: None,
                    settings: settings.view(),
                    bitmap: batch.bitmap.view_mut(),
                    counts: batch.counts.view_mut(),
                    status: status.view(),
                    result: result.view_mut(),
                    sequences,
                    rows: sequences,
                    vocabulary: batch.vocabulary,
                    stride: batch.vocabulary,
                    slots: sequences,
                }));
            }
        }
    }
}

/// Penalties and a hundred listed ids.
pub(crate) fn score_edits(bench: &mut Bench) {
    for model in decoders(bench) {
        for &sequences in bench.sizes(&[1], &[1, 8]) {
            let mut batch = Batch::new(bench, model.vocabulary, sequences);
            let mut scores = bench.alloc::<f32>(sequences * batch.vocabulary);
            let settings = bench.upload(&settings("random", sequences));
            let edit =
                |op: Edit, count| ScoreEdit { op: int(op as usize), first: 0, count, value: -1.0 };
            let edits = [edit(Edit::History, 0), edit(Edit::Set, 100)].repeat(sequences);
            let edits = bench.upload(&edits);
            let first: Vec<i32> = (0..=sequences).map(|sequence| int(2 * sequence)).collect();
            let first = bench.upload(&first);
            let ids = bench.upload(&(0..100).collect::<Vec<i32>>());
            let values = bench.upload(&[0.0f32; 100]);
            let id = format!("score_edits/{}/B{sequences}", model.name);
            row!(bench, &id, |_| ScoreEdits {
                logits: batch.logits.view(),
                scores: scores.view_mut(),
                settings: settings.view(),
                first: first.view(),
                edits: edits.view(),
                ids: ids.view(),
                values: values.view(),
                bitmap: batch.bitmap.view_mut(),
                counts: batch.counts.view_mut(),
                sequences,
                rows: sequences,
                vocabulary: batch.vocabulary,
                stride: batch.vocabulary,
                slots: sequences,
            });
        }
    }
}

/// The twelve best of each row.
pub(crate) fn top_scores(bench: &mut Bench) {
    for model in decoders(bench) {
        for &sequences in bench.sizes(&[1], &[1, 8]) {
            let batch = Batch::new(bench, model.vocabulary, sequences);
            let query = |row| TopQuery {
                seed: 0,
                step: 0,
                choice: 0,
                row: int(row),
                n: 12,
                target: -1,
                offset: -3.0,
                flags: 0,
                pad: [0; 3],
            };
            let queries: Vec<TopQuery> = (0..batch.sequences).map(query).collect();
            let queries = bench.upload(&queries);
            let mut ids = bench.alloc::<i32>(12 * sequences);
            let mut values = bench.alloc::<f32>(12 * sequences);
            let mut ranks = bench.alloc::<f32>(12 * sequences);
            let mut summary = bench.alloc::<TopSummary>(sequences);
            let id = format!("top_scores/{}/B{sequences}", model.name);
            row!(bench, &id, |_| TopScores {
                scores: batch.logits.view(),
                queries: queries.view(),
                ids: ids.view_mut(),
                values: values.view_mut(),
                ranks: ranks.view_mut(),
                summary: summary.view_mut(),
                rows: sequences,
                vocabulary: batch.vocabulary,
                stride: batch.vocabulary,
                width: 12,
            });
        }
    }
}

fn settings(kind: &str, sequences: usize) -> Vec<SampleSettings> {
    let of_row = |row| {
        let slot = u32::try_from(row).ok();
        let greedy = SampleSettings { row: int(row), ..SampleSettings::greedy(slot) };
        let (temperature, top_p, repetition_penalty) = (0.7, 0.8, 1.05);
        match kind {
            "greedy" => greedy,
            "random" => {
                SampleSettings { temperature, top_k: 20, top_p, repetition_penalty, ..greedy }
            }
            _ => SampleSettings { temperature, typical_p: 0.9, ..greedy },
        }
    };
    (0..sequences).map(of_row).collect()
}
