//! The slots of a batch as sequences without padding: who attends to whom, and at which positions.

use super::{
    input::{ForwardInput, LogitsToKeep, PastKeyValues, PositionIds},
    invalid,
};
use crate::{
    engine::EngineError,
    model::{
        ModelError,
        config::{Family, ModelConfig},
        positions::{self, Grids, Positions},
    },
    units::TokenId,
};

/// Tokens that attend to one another: those of a row, or of a part of it.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Its row of the batch.
    pub(super) row: usize,
    /// Slots of the cache, below P, that it goes on from.
    pub(super) past: Vec<usize>,
    /// Slots of this pass, below S, that hold its tokens.
    pub(super) slots: Vec<usize>,
    /// Ids of its tokens; zeros with `inputs_embeds`.
    pub(super) ids: Vec<TokenId>,
    pub(super) positions: Positions,
}

/// A batch of rows.
#[derive(Debug)]
pub(super) struct Layout {
    /// B.
    pub(super) batch: usize,
    /// S.
    pub(super) length: usize,
    /// P.
    pub(super) past: usize,
    /// `[B, P + S]`: which slots hold tokens.
    pub(super) held: Vec<bool>,
    pub(super) sequences: Vec<Sequence>,
    /// Slots of each row that get logits.
    pub(super) kept: Vec<usize>,
}

impl Layout {
    pub(super) fn new(config: &ModelConfig, input: &ForwardInput) -> Result<Self, EngineError> {
        let (batch, length) = (input.batch, input.length);
        let slots = batch.checked_mul(length).filter(|slots| *slots > 0);
        let slots = slots.ok_or_else(|| invalid("input_ids", "empty", "[B, S], both above 0"))?;
        check_tokens(config, input, slots)?;
        let past = input.past.as_ref().map_or(Ok(0), |past| check_past(past, batch))?;
        check_cache_position(input, past)?;
        let held = held(input, past, slots)?;
        let mut sequences = Vec::with_capacity(batch);
        for row in 0..batch {
            let held = &held[row * (past + length)..(row + 1) * (past + length)];
            let before: Vec<usize> = (0..past).filter(|slot| held[*slot]).collect();
            let now: Vec<usize> = (0..length).filter(|slot| held[past + slot]).collect();
            if now.is_empty() {
                let allowed = "at least one token in every row";
                return Err(invalid("attention_mask", "a row without tokens", allowed));
            }
            for slots in parts(input, row, now) {
                let id = |slot: &usize| {
                    input.input_ids.get(row * length + slot).copied().unwrap_or(TokenId(0))
                };
                let ids = slots.iter().map(id).collect();
                let (past, positions) = (before.clone(), Positions::default());
                sequences.push(Sequence { row, past, slots, ids, positions });
            }
        }
        let kept = kept(&input.logits_to_keep, length)?;
        let mut layout = Self { batch, length, past, held, sequences, kept };
        layout.place(config, input)?;
        Ok(layout)
    }

    /// Rows of all sequences.
    pub(super) fn tokens(&self) -> usize {
        self.sequences.iter().map(|sequence| sequence.slots.len()).sum()
    }

    /// The slot, below B * S, of each packed row.
    pub(super) fn packed_slots(&self) -> impl Iterator<Item = usize> + '_ {
        let of = |sequence: &Sequence, slot: usize| sequence.row * self.length + slot;
        self.sequences
            .iter()
            .flat_map(move |sequence| sequence.slots.iter().map(move |slot| of(sequence, *slot)))
    }

    /// `position_ids` `[3, B, S]`, 1 at padding, and `rope_deltas` `[B]`.
    pub(super) fn positions(&self) -> (Vec<i64>, Vec<i64>) {
        let slots = self.batch * self.length;
        let (mut ids, mut next) = (vec![1; 3 * slots], vec![0; self.batch]);
        for sequence in &self.sequences {
            for (axis, positions) in sequence.positions.axes.iter().enumerate() {
                for (slot, position) in sequence.slots.iter().zip(positions) {
                    ids[axis * slots + sequence.row * self.length + slot] = i64::from(*position);
                }
            }
            let largest = &mut next[sequence.row];
            *largest = i64::from(sequence.positions.next).max(*largest);
        }
        let row = i64::try_from(self.past + self.length).unwrap_or(i64::MAX);
        (ids, next.into_iter().map(|next| next - row).collect())
    }

    /// Gives each sequence its positions (docs/spec.md, sections 7.1 and 7.2).
    fn place(&mut self, config: &ModelConfig, input: &ForwardInput) -> Result<(), EngineError> {
        if let Some(given) = &input.position_ids {
            return self.take_positions(given);
        }
        let seconds = seconds(config, input)?;
        let grids = grids(input, seconds.as_deref());
        let starts = self.starts(input)?;
        let ids: Vec<Vec<TokenId>> = self.sequences.iter().map(|s| s.ids.clone()).collect();
        let placed = match grids.filter(|_| input.inputs_embeds.is_none()) {
            Some(grids) => positions::continued(config, &ids, Some(grids), &starts),
            None => positions::continued(config, &ids, None, &starts),
        };
        let placed = placed.map_err(ModelError::from)?;
        for (sequence, positions) in self.sequences.iter_mut().zip(placed) {
            sequence.positions = positions;
        }
        if self.past > 0 && grids.is_none() {
            self.follow_slots(&starts)?;
        }
        Ok(())
    }

    /// The position of the first new token of each sequence.
    fn starts(&self, input: &ForwardInput) -> Result<Vec<i32>, EngineError> {
        if self.past == 0 {
            return Ok(vec![0; self.sequences.len()]);
        }
        let deltas = input.rope_deltas.as_ref().ok_or_else(|| {
            invalid(
                "rope_deltas",
                "missing",
                "given with past_key_values, or position_ids in their place",
            )
        })?;
        if deltas.len() != self.batch {
            let got = format!("{} values", deltas.len());
            return Err(invalid("rope_deltas", &got, "one value for each row"));
        }
        let start = |sequence: &Sequence| {
            let delta = deltas[sequence.row];
            let start = i64::try_from(self.past).ok().and_then(|past| past.checked_add(delta));
            let start = start.and_then(|start| i32::try_from(start).ok()).filter(|s| *s >= 0);
            start.ok_or_else(|| invalid("rope_deltas", &delta.to_string(), "a position with P"))
        };
        self.sequences.iter().map(start).collect()
    }

    /// Behind a cache the reference counts slots, padding among them.
    fn follow_slots(&mut self, starts: &[i32]) -> Result<(), EngineError> {
        for (sequence, start) in self.sequences.iter_mut().zip(starts) {
            let position = |slot: &usize| i32::try_from(*slot).ok()?.checked_add(*start);
            let axis: Option<Vec<i32>> = sequence.slots.iter().map(position).collect();
            let axis = axis.ok_or_else(too_large)?;
            let next = axis.last().and_then(|last| last.checked_add(1)).ok_or_else(too_large)?;
            sequence.positions = Positions { axes: [axis.clone(), axis.clone(), axis], next };
        }
        Ok(())
    }

    fn take_positions(&mut self, given: &PositionIds) -> Result<(), EngineError> {
        let slots = self.batch * self.length;
        let first = match given.axes {
            1 => [0, 0, 0],
            3 => [0, 1, 2],
            4 => [1, 2, 3],
            axes => {
                let allowed = "[B, S], [3, B, S] or [4, B, S]";
                return Err(invalid("position_ids", &format!("{axes} axes"), allowed));
            }
        };
        if given.values.len() != given.axes * slots {
            let got = format!("{} values", given.values.len());
            return Err(invalid("position_ids", &got, "one value an axis and slot"));
        }
        for sequence in &mut self.sequences {
            let mut next = 0;
            let mut take = |axis: usize| -> Result<Vec<i32>, EngineError> {
                let start = axis * slots + sequence.row * self.length;
                let mut taken = Vec::with_capacity(sequence.slots.len());
                for slot in &sequence.slots {
                    let value = given.values[start + slot];
                    let position = i32::try_from(value).ok().filter(|p| (0..i32::MAX).contains(p));
                    let position = position.ok_or_else(|| {
                        invalid("position_ids", &value.to_string(), "from 0 to 2147483646")
                    })?;
                    next = next.max(position + 1);
                    taken.push(position);
                }
                Ok(taken)
            };
            let axes = [take(first[0])?, take(first[1])?, take(first[2])?];
            sequence.positions = Positions { axes, next };
        }
        Ok(())
    }
}

fn too_large() -> EngineError {
    invalid("position_ids", "above 2147483646", "positions of 31 bits")
}

/// Seconds between groups of frames, for a model that knows of them.
fn seconds(config: &ModelConfig, input: &ForwardInput) -> Result<Option<Vec<f64>>, EngineError> {
    let Some(given) = &input.second_per_grid_ts else { return Ok(None) };
    if config.family != Family::Qwen25Vl {
        return Err(invalid("second_per_grid_ts", "given", "a model of Qwen2.5-VL"));
    }
    let videos = input.video_grid_thw.as_deref().unwrap_or_default();
    if given.len() != videos.len() {
        let got = format!("{} values", given.len());
        return Err(invalid("second_per_grid_ts", &got, "one value for each video"));
    }
    Ok(Some(given.iter().map(|seconds| f64::from(*seconds)).collect()))
}

fn grids<'a>(input: &'a ForwardInput, seconds: Option<&'a [f64]>) -> Option<Grids<'a>> {
    let (images, videos) = (input.image_grid_thw.as_deref(), input.video_grid_thw.as_deref());
    (images.is_some() || videos.is_some()).then(|| Grids {
        images: images.unwrap_or_default(),
        videos: videos.unwrap_or_default(),
        seconds,
    })
}

/// Ids or embeddings, one for each slot.
fn check_tokens(
    config: &ModelConfig,
    input: &ForwardInput,
    slots: usize,
) -> Result<(), EngineError> {
    let (ids, channels) = (&input.input_ids, config.text.hidden_size);
    match &input.inputs_embeds {
        Some(_) if !ids.is_empty() => {
            let allowed = "given without input_ids: exactly one of the two";
            Err(invalid("inputs_embeds", "both", allowed))
        }
        Some(rows) if Some(rows.len()) != slots.checked_mul(channels) => {
            let got = format!("{} values", rows.len());
            Err(invalid("inputs_embeds", &got, "[B, S, hidden_size]"))
        }
        Some(_) => Ok(()),
        None if ids.len() != slots => {
            Err(invalid("input_ids", &format!("{} ids", ids.len()), "one id for each slot"))
        }
        None => match ids.iter().find(|id| id.0 as usize >= config.text.vocab_size) {
            Some(id) => Err(invalid("input_ids", &id.0.to_string(), "ids of the vocabulary")),
            None => Ok(()),
        },
    }
}

/// P, if every tensor is as large as the cache says: nothing is sized by a claim.
fn check_past(past: &PastKeyValues, batch: usize) -> Result<usize, EngineError> {
    let elements = past.shape.iter().try_fold(1usize, |all, side| all.checked_mul(*side));
    let fits = |values: &Vec<f32>| Some(values.len()) == elements;
    let whole = past.layers.iter().all(|layer| fits(&layer.keys) && fits(&layer.values));
    if past.shape[0] != batch || past.shape.contains(&0) || past.layers.is_empty() || !whole {
        let got = format!("{:?} with {} layers", past.shape, past.layers.len());
        let allowed = "[B, kv heads, P, head_dim] and as much data in every layer";
        return Err(invalid("past_key_values", &got, allowed));
    }
    Ok(past.length())
}

fn check_cache_position(input: &ForwardInput, past: usize) -> Result<(), EngineError> {
    let Some(given) = &input.cache_position else { return Ok(()) };
    let expected = (past..past + input.length).map(|slot| i64::try_from(slot).ok());
    if given.len() == input.length && given.iter().copied().map(Some).eq(expected) {
        return Ok(());
    }
    let got = format!("{} values from {:?} on", given.len(), given.first());
    Err(invalid("cache_position", &got, "the slots behind the cache, one after another"))
}

/// `[B, P + S]`: which slots hold tokens.
fn held(input: &ForwardInput, past: usize, slots: usize) -> Result<Vec<bool>, EngineError> {
    let (batch, length) = (input.batch, input.length);
    let all = batch.saturating_mul(past.saturating_add(length));
    let before = match input.past.as_ref().and_then(|past| past.mask.as_ref()) {
        Some(mask) if mask.len() != batch.saturating_mul(past) => {
            let got = format!("{} values", mask.len());
            return Err(invalid("past/mask", &got, "one value for each slot of the cache"));
        }
        Some(mask) => mask.clone(),
        None => vec![true; batch.saturating_mul(past)],
    };
    let now = match &input.attention_mask {
        None => vec![true; slots],
        Some(mask) if mask.len() == slots => mask.clone(),
        Some(mask) if mask.len() == all => return Ok(mask.clone()),
        Some(mask) => {
            let got = format!("{} values", mask.len());
            return Err(invalid("attention_mask", &got, "[B, S], or [B, P + S] behind a cache"));
        }
    };
    let mut held = Vec::with_capacity(all);
    for row in 0..batch {
        held.extend_from_slice(&before[row * past..(row + 1) * past]);
        held.extend_from_slice(&now[row * length..(row + 1) * length]);
    }
    Ok(held)
}

/// A row's slots as the parts that do not see one another: text positions that do not go up by one
/// begin a new one (docs/spec.md, section 9.2).
fn parts(input: &ForwardInput, row: usize, slots: Vec<usize>) -> Vec<Vec<usize>> {
    let packed = match &input.position_ids {
        Some(given) if given.axes == 4 => given,
        _ => return vec![slots],
    };
    if input.attention_mask.is_some() || input.past.is_some() {
        return vec![slots];
    }
    let text = |slot: usize| packed.values.get(row * input.length + slot).copied();
    let goes_on = |a: &usize, b: &usize| {
        text(*a).zip(text(*b)).is_some_and(|(a, b)| a.checked_add(1) == Some(b))
    };
    slots.chunk_by(goes_on).map(<[usize]>::to_vec).collect()
}

/// Slots that get logits.
fn kept(wanted: &LogitsToKeep, length: usize) -> Result<Vec<usize>, EngineError> {
    match wanted {
        LogitsToKeep::All | LogitsToKeep::Last(0) => Ok((0..length).collect()),
        LogitsToKeep::Last(count) => Ok((length.saturating_sub(*count)..length).collect()),
        LogitsToKeep::Slots(slots) => match slots.iter().find(|slot| **slot >= length) {
            Some(slot) => Err(invalid("logits_to_keep", &slot.to_string(), "slots of the row")),
            None => Ok(slots.clone()),
        },
    }
}
