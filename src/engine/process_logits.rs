//! The logits processors over given scores, as generation runs them.

use super::{
    EngineError,
    processors::{self, History, Program},
};
use crate::{
    device::{Device, DeviceChoice},
    model::generation_config::{DEFAULT_MAX_LENGTH, GenerationConfig},
    ops::{
        sample::{EDITED, Rows, Sample, SampleResult, SampleSettings, WarpScores},
        score_edits::ScoreEdits,
    },
    units::TokenId,
};

/// Scores of the next token of each row, and the tokens before it.
#[derive(Clone, Debug, Default)]
pub struct LogitsInput {
    /// `[batch, length]`: prompt, then answer.
    pub input_ids: Vec<TokenId>,
    /// B.
    pub batch: usize,
    /// Tokens of a row.
    pub length: usize,
    /// Those of them that are the prompt.
    pub prompt_length: usize,
    /// `[batch, vocabulary]`.
    pub scores: Vec<f32>,
    /// V.
    pub vocabulary: usize,
}

/// The scores `[batch, vocabulary]` after the processors of `config`, in the reference's order;
/// what they remove is -inf. The kernels are those of generation. A `max_length` that the settings
/// do not give is the reference's 20.
///
/// # Errors
/// [`EngineError::InvalidRequest`] for inputs that do not fit one another or a token outside of the
/// vocabulary; [`EngineError::NonFinite`] for scores with NaN or +inf left; the device.
pub fn process_logits(
    choice: DeviceChoice,
    config: &GenerationConfig,
    input: &LogitsInput,
) -> Result<Vec<f32>, EngineError> {
    check(config, input)?;
    let (batch, vocabulary) = (input.batch, input.vocabulary);
    let max_length = config.max_length.map_or(DEFAULT_MAX_LENGTH, |tokens| tokens.0);
    let words = Sample::bitmap_words(vocabulary);
    let (mut bitmap, mut counts) = (vec![0u32; batch * words], vec![0u16; batch * vocabulary]);
    let mut program = Program::new();
    let mut rows: Vec<SampleSettings> = Vec::with_capacity(batch);
    for (row, ids) in input.input_ids.chunks(input.length).enumerate() {
        let history = History { ids, prompt: input.prompt_length, max_length };
        let edited = program.push(config, history, false)?;
        let at = i32::try_from(row).unwrap_or(i32::MAX);
        let mut settings = processors::settings(config, config.num_beams > 1);
        (settings.row, settings.slot) = (at, at);
        settings.flags |= if edited { EDITED } else { 0 };
        rows.push(settings);
        for (place, id) in ids.iter().enumerate() {
            let id = id.0 as usize;
            bitmap[row * words + id / 32] |= 1 << (id % 32);
            if place >= input.prompt_length {
                let count = &mut counts[row * vocabulary + id];
                *count = count.saturating_add(1);
            }
        }
    }
    let scores = run(&Device::open(choice)?, input, &program, &rows, &bitmap, &counts)?;
    let stride = vocabulary.next_multiple_of(4);
    let rows = scores.chunks(stride).flat_map(|row| row[..vocabulary].iter().copied());
    Ok(rows.collect())
}

/// Edits, then filters; each row of the result has whole accesses.
fn run(
    device: &Device,
    input: &LogitsInput,
    program: &Program,
    settings: &[SampleSettings],
    bitmap: &[u32],
    counts: &[u16],
) -> Result<Vec<f32>, EngineError> {
    let (batch, vocabulary) = (input.batch, input.vocabulary);
    let stride = vocabulary.next_multiple_of(4);
    let mut padded = vec![0.0; batch * stride];
    for (to, from) in padded.chunks_mut(stride).zip(input.scores.chunks(vocabulary)) {
        to[..vocabulary].copy_from_slice(from);
    }
    let logits = device.upload(&padded)?;
    let settings = device.upload(settings)?;
    let (mut bitmap, mut counts) = (device.upload(bitmap)?, device.upload(counts)?);
    let mut scores = device.zeros::<f32>(batch * stride)?;
    let mut out = device.zeros::<f32>(batch * stride)?;
    let status = device.zeros::<u32>(batch)?;
    let mut result = device.zeros::<SampleResult>(batch)?;
    ScoreEdits {
        logits: logits.view(),
        scores: scores.view_mut(),
        settings: settings.view(),
        first: device.upload(&program.first)?.view(),
        edits: device.upload(&program.edits)?.view(),
        ids: device.upload(&program.ids)?.view(),
        values: device.upload(&program.values)?.view(),
        bitmap: bitmap.view_mut(),
        counts: counts.view_mut(),
        sequences: batch,
        rows: batch,
        vocabulary,
        stride,
        slots: batch,
    }
    .launch(device)?;
    let rows = Rows {
        logits: logits.view(),
        scores: Some(scores.view()),
        settings: settings.view(),
        bitmap: bitmap.view_mut(),
        counts: counts.view_mut(),
        status: status.view(),
        result: result.view_mut(),
        sequences: batch,
        rows: batch,
        vocabulary,
        stride,
        slots: batch,
    };
    WarpScores { rows, out: out.view_mut() }.launch(device)?;
    let results = device.download(&result)?;
    if let Some(result) = results.iter().find(|result| result.status != 0) {
        return Err(EngineError::NonFinite { position: input.length, status: result.status });
    }
    Ok(device.download(&out)?)
}

fn check(config: &GenerationConfig, input: &LogitsInput) -> Result<(), EngineError> {
    let invalid = |field, got: String, allowed| EngineError::InvalidRequest { field, got, allowed };
    let ids = input.batch.checked_mul(input.length).filter(|ids| *ids > 0);
    if ids != Some(input.input_ids.len()) {
        let got = format!("{} ids", input.input_ids.len());
        return Err(invalid("input_ids", got, "[B, S], both above 0"));
    }
    if input.vocabulary == 0
        || input.batch.checked_mul(input.vocabulary) != Some(input.scores.len())
    {
        let got = format!("{} scores", input.scores.len());
        return Err(invalid("scores", got, "[B, V], both above 0"));
    }
    if input.prompt_length > input.length {
        let got = input.prompt_length.to_string();
        return Err(invalid("prompt_length", got, "at most the tokens of a row"));
    }
    if let Some(id) = input.input_ids.iter().find(|id| id.0 as usize >= input.vocabulary) {
        return Err(invalid("input_ids", id.0.to_string(), "ids of the vocabulary"));
    }
    if let Some((key, id)) = config.outside(input.vocabulary) {
        return Err(invalid(key, id.0.to_string(), "ids of the vocabulary"));
    }
    Ok(())
}
