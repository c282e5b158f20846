//! The machine behind the engine: admits sequences, runs one step at a time, reads back once.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    EngineError,
    batch::{Batch, Bounds, Chunk, Wanted},
    pages::PagePool,
    plan::MemoryPlan,
    sampling::Chosen,
    scheduler::{RowRanges, Share, shares},
    sequence::{FinishReason, Phase, Sequence},
    timing::Clock,
    visual::{self, VisualInput},
};
use crate::{
    device::{Counts, Device, FloatView},
    model::{
        Model,
        decoder::DecoderStep,
        rope::RopeBlocks,
        workspace::{Part, Workspace},
    },
    ops::{
        attn_decode, attn_prefill,
        sample::{Rows, Sample, SampleResult, SampleSettings},
    },
    units::{Pages, SequenceId, TokenId, Tokens},
};

/// A request that the caller has checked and prepared.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) ids: Vec<TokenId>,
    /// Time, height, width of each prompt token.
    pub(crate) positions: [Vec<i32>; 3],
    /// Position of the first token of the answer.
    pub(crate) next_position: i32,
    /// For each prompt token its place among the visual tokens, or -1.
    pub(crate) visual: Vec<i32>,
    /// Pictures, then videos, in the order of their placeholders.
    pub(crate) items: Vec<VisualInput>,
    pub(crate) chosen: Chosen,
    pub(crate) max_new: Tokens,
    pub(crate) eos: Vec<TokenId>,
}

/// What a step did for one sequence.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) token: TokenId,
    pub(crate) finished: Option<FinishReason>,
    /// Time of the steps since the last outcome: vision tower, decoder.
    pub(crate) vision: Duration,
    pub(crate) decoder: Duration,
}

/// What an engine holds at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Sequences that take part in steps.
    pub running: usize,
    /// Sequences that wait for pages or a place.
    pub waiting: usize,
    /// Pages of the key/value pool that nobody holds.
    pub free_pages: Pages,
    /// Pages of the key/value pool.
    pub total_pages: Pages,
    /// Allocations of device memory and copies to the host since the device was opened.
    pub device: Counts,
}

/// Everything that one device runs, without a thread of its own.
#[derive(Debug)]
pub(crate) struct Core {
    device: Device,
    model: Model,
    workspace: Workspace,
    plan: MemoryPlan,
    rope: RopeBlocks,
    pool: PagePool,
    image_rows: RowRanges,
    slots: Vec<Option<SequenceId>>,
    /// The host's copy of the sampler's bitmap.
    bitmap: Vec<u32>,
    sequences: BTreeMap<SequenceId, Sequence>,
    /// Media of sequences that the tower has not seen.
    items: BTreeMap<SequenceId, Vec<VisualInput>>,
    outbox: BTreeMap<SequenceId, VecDeque<Result<Outcome, EngineError>>>,
    spent: BTreeMap<SequenceId, (Duration, Duration)>,
    next: usize,
    /// The first failure of the device; after it nothing runs.
    broken: Option<String>,
}

impl Core {
    pub(crate) fn new(
        device: Device,
        model: Model,
        workspace: Workspace,
        plan: MemoryPlan,
    ) -> Result<Self, EngineError> {
        let limits = plan.limits();
        let pages = u32::try_from(limits.pages)
            .map_err(|_too_many| EngineError::internal("page ids pass 2^32".to_owned()))?;
        let words = Sample::bitmap_words(model.widths().vocabulary);
        Ok(Self {
            rope: plan.rope().clone(),
            pool: PagePool::new(pages),
            image_rows: RowRanges::new(limits.image_rows),
            slots: vec![None; limits.sequences],
            bitmap: vec![0; words * limits.sequences],
            sequences: BTreeMap::new(),
            items: BTreeMap::new(),
            outbox: BTreeMap::new(),
            spent: BTreeMap::new(),
            next: 0,
            broken: None,
            device,
            model,
            workspace,
            plan,
        })
    }

    pub(crate) fn stats(&self) -> Stats {
        let all = self.sequences.values();
        let waiting = all.filter(|sequence| sequence.phase == Phase::Waiting).count();
        Stats {
            running: self.sequences.len() - waiting,
            waiting,
            free_pages: self.pool.free(),
            total_pages: self.pool.total(),
            device: self.device.counts(),
        }
    }

    /// Queues a sequence; its tokens come by [`Core::take`].
    ///
    /// # Errors
    /// [`EngineError::Poisoned`] after a failure of the device.
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<SequenceId, EngineError> {
        self.check_alive()?;
        let id = SequenceId(self.next);
        self.next += 1;
        let visual_tokens = submission.visual.iter().filter(|place| **place >= 0).count();
        let sequence = Sequence {
            prompt: Tokens(submission.ids.len()),
            ids: submission.ids,
            cached: 0,
            positions: submission.positions,
            next_position: submission.next_position,
            visual: submission.visual,
            visual_tokens,
            image_row: None,
            pages: Vec::new(),
            slot: None,
            phase: Phase::Waiting,
            chosen: submission.chosen,
            max_new: submission.max_new,
            eos: submission.eos,
        };
        if sequence.pages_needed() > self.pool.total() {
            let (wanted, free) = (sequence.pages_needed(), self.pool.total());
            return Err(EngineError::PagesExhausted { wanted, free });
        }
        self.sequences.insert(id, sequence);
        self.items.insert(id, submission.items);
        self.outbox.insert(id, VecDeque::new());
        self.spent.insert(id, (Duration::ZERO, Duration::ZERO));
        Ok(id)
    }

    /// The next outcome of a sequence, if a step has brought one.
    pub(crate) fn take(&mut self, id: SequenceId) -> Option<Result<Outcome, EngineError>> {
        self.outbox.get_mut(&id)?.pop_front()
    }

    /// Forgets a sequence; its pages are free at once.
    pub(crate) fn cancel(&mut self, id: SequenceId) {
        self.release(id);
        self.outbox.remove(&id);
    }

    /// One step for all that can take part.
    ///
    /// # Errors
    /// [`EngineError::Poisoned`] when the device failed, now or before.
    pub(crate) fn step(&mut self) -> Result<(), EngineError> {
        self.check_alive()?;
        let done = self.run();
        if let Err(error) = done {
            self.broken = Some(error.to_string());
            return Err(error);
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), EngineError> {
        self.admit()?;
        let shares = shares(&self.sequences, Tokens(self.plan.prefill_chunk()));
        if shares.is_empty() {
            return Err(EngineError::internal("a step with nothing to do".to_owned()));
        }
        for share in &shares {
            self.see(share.sequence)?;
        }
        let clock = Clock::start();
        let sampled: Vec<Share> = shares.iter().copied().filter(|share| share.sampled).collect();
        let settings = self.launch(&shares, &sampled)?;
        let results = self.sample(settings, sampled.len())?;
        let elapsed = clock.elapsed();
        for share in &shares {
            if let Some(spent) = self.spent.get_mut(&share.sequence) {
                spent.1 += elapsed;
            }
            if let Some(sequence) = self.sequences.get_mut(&share.sequence) {
                sequence.cached += share.rows;
            }
        }
        for (share, result) in sampled.iter().zip(results) {
            self.deliver(share.sequence, result)?;
        }
        Ok(())
    }

    /// Gives waiting sequences what they need, in the order of their arrival.
    fn admit(&mut self) -> Result<(), EngineError> {
        let waiting: Vec<SequenceId> = self
            .sequences
            .iter()
            .filter(|(_, sequence)| sequence.phase == Phase::Waiting)
            .map(|(id, _)| *id)
            .collect();
        for id in waiting {
            let Some(sequence) = self.sequences.get_mut(&id) else { continue };
            let Some(slot) = self.slots.iter().position(Option::is_none) else { break };
            if sequence.pages_needed() > self.pool.free() {
                break;
            }
            let Some(row) = self.image_rows.take(sequence.visual_tokens) else { break };
            sequence.pages = self.pool.take(sequence.pages_needed())?;
            sequence.image_row = (sequence.visual_tokens > 0).then_some(row);
            sequence.slot = Some(slot);
            sequence.phase = Phase::Prefill;
            self.slots[slot] = Some(id);
            self.turn_prompt(id, slot)?;
            self.start_history(id, slot)?;
        }
        Ok(())
    }

    /// Points the prompt's positions at the rotary rows of its own length.
    fn turn_prompt(&mut self, id: SequenceId, slot: usize) -> Result<(), EngineError> {
        let Some(sequence) = self.sequences.get_mut(&id) else { return Ok(()) };
        let span = usize::try_from(sequence.next_position).unwrap_or(usize::MAX);
        let place = self.rope.place(slot, span);
        let place = place
            .ok_or_else(|| EngineError::internal(format!("no rotary rows for {span} positions")))?;
        self.model.enter_rope(&self.device, &place)?;
        let first = i32::try_from(place.first_row)
            .map_err(|_too_large| EngineError::internal("rotary rows pass 2^31".to_owned()))?;
        for position in sequence.positions.iter_mut().flatten() {
            *position += first;
        }
        Ok(())
    }

    /// Enters the prompt in the sampler's history, for sequences that have a penalty.
    fn start_history(&mut self, id: SequenceId, slot: usize) -> Result<(), EngineError> {
        let Some(sequence) = self.sequences.get(&id) else { return Ok(()) };
        if !needs_history(&sequence.chosen) {
            return Ok(());
        }
        let words = Sample::bitmap_words(self.model.widths().vocabulary);
        let row = &mut self.bitmap[slot * words..(slot + 1) * words];
        row.fill(0);
        for token in &sequence.ids {
            row[token.0 as usize / 32] |= 1 << (token.0 % 32);
        }
        self.device.write(self.workspace.bitmap.view_mut(), &self.bitmap)?;
        Ok(())
    }

    /// Runs the tower over the media of a sequence, once.
    fn see(&mut self, id: SequenceId) -> Result<(), EngineError> {
        let items = self.items.remove(&id).unwrap_or_default();
        let row = self.sequences.get(&id).and_then(|sequence| sequence.image_row);
        let Some(row) = row.filter(|_| !items.is_empty()) else { return Ok(()) };
        let clock = Clock::start();
        let temporal = self.model.config().vision.temporal_patch_size;
        let items = visual::items(&items, self.plan.limits().patch_rows, temporal);
        let observe = &mut |_: &str, _: FloatView<'_>, _: usize| Ok(());
        self.model.see(&self.device, &mut self.workspace, &items, row, observe)?;
        self.device.synchronize()?;
        if let Some(spent) = self.spent.get_mut(&id) {
            spent.0 += clock.elapsed();
        }
        Ok(())
    }

    /// Packs and uploads the step, and queues everything up to the logits.
    fn launch(
        &mut self,
        shares: &[Share],
        sampled: &[Share],
    ) -> Result<Part<SampleSettings>, EngineError> {
        let batch = self.pack(shares)?;
        let staged = stage(&mut self.workspace, &batch)?;
        let rows = (0..).zip(sampled);
        let settings: Vec<SampleSettings> = rows
            .map(|(row, share)| SampleSettings { row, ..self.settings(share.sequence) })
            .collect();
        let settings = self.workspace.staging.push(&settings)?;
        let rows = self.workspace.staging.push(&batch.logit_rows)?;
        self.workspace.staging.send(&self.device)?;
        let decoder = self.model.decoder();
        let observe = &mut |_: &str, _: FloatView<'_>, _: usize| Ok(());
        decoder.forward(&self.device, &mut self.workspace, &staged, observe)?;
        decoder.logits(&self.device, &mut self.workspace, staged.rows, rows, observe)?;
        Ok(settings)
    }

    fn pack(&self, shares: &[Share]) -> Result<Batch, EngineError> {
        let limits = self.plan.limits();
        let bounds = Bounds {
            vocabulary: self.model.widths().vocabulary,
            image_rows: limits.image_rows,
            pool_pages: limits.pages,
            table_rows: self.rope.total_rows(),
            page_stride: Tokens(limits.sequence_tokens).pages().0,
        };
        let members: Vec<(&Sequence, &Share)> = shares
            .iter()
            .filter_map(|share| Some((self.sequences.get(&share.sequence)?, share)))
            .collect();
        let sources: Vec<Vec<i32>> = members
            .iter()
            .map(|(sequence, share)| sequence.source(share.start, share.start + share.rows))
            .collect();
        let chunks: Vec<Chunk<'_>> = members
            .iter()
            .zip(&sources)
            .map(|((sequence, share), source)| {
                let range = share.start..share.start + share.rows;
                Chunk {
                    ids: &sequence.ids[range.clone()],
                    positions: sequence.positions.each_ref().map(|axis| &axis[range.clone()]),
                    source,
                    cached: share.start,
                    pages: &sequence.pages,
                    wanted: if share.sampled { Wanted::Last } else { Wanted::Nothing },
                }
            })
            .collect();
        Batch::pack(&chunks, bounds)
    }

    fn settings(&self, id: SequenceId) -> SampleSettings {
        let sequence = self.sequences.get(&id);
        let slot = sequence.filter(|sequence| needs_history(&sequence.chosen));
        let slot = slot.and_then(|sequence| u32::try_from(sequence.slot?).ok());
        let mut settings = SampleSettings::greedy(slot);
        if let Some(sequence) = sequence {
            let chosen = &sequence.chosen;
            settings.repetition_penalty = chosen.repetition_penalty;
            settings.seed = chosen.seed;
            settings.step = u32::try_from(sequence.new_tokens()).unwrap_or(u32::MAX);
            if chosen.do_sample {
                settings.temperature = chosen.temperature;
                settings.top_k = i32::try_from(chosen.top_k).unwrap_or(i32::MAX);
                settings.top_p = chosen.top_p;
            }
        }
        settings
    }

    /// Draws the tokens and reads them back: the one wait of a step.
    fn sample(
        &mut self,
        settings: Part<SampleSettings>,
        count: usize,
    ) -> Result<Vec<SampleResult>, EngineError> {
        let widths = self.model.widths();
        let Workspace { logits, bitmap, counts, status, results, staging, .. } =
            &mut self.workspace;
        // Sampled sequences stand first in a step, and so do their status words.
        Sample(Rows {
            logits: logits.view().slice(0..count * widths.logits)?,
            scores: None,
            settings: staging.view(settings)?,
            bitmap: bitmap.view_mut(),
            counts: counts.view_mut(),
            status: status.view().slice(0..count)?,
            result: results.view_mut().slice(0..count)?,
            sequences: count,
            rows: count,
            vocabulary: widths.vocabulary,
            stride: widths.logits,
            slots: self.slots.len(),
        })
        .launch(&self.device)?;
        Ok(self.device.download_view(results.view().slice(0..count)?)?)
    }

    /// Hands a token to its sequence, and ends the sequence if it was the last.
    fn deliver(&mut self, id: SequenceId, result: SampleResult) -> Result<(), EngineError> {
        let Some(sequence) = self.sequences.get_mut(&id) else { return Ok(()) };
        let position = sequence.ids.len();
        if result.status != 0 {
            self.release(id);
            let error = EngineError::NonFinite { position, status: result.status };
            self.send(id, Err(error));
            return Ok(());
        }
        let token = u32::try_from(result.token)
            .map_err(|_negative| EngineError::internal("a negative token".to_owned()))?;
        let token = TokenId(token);
        let finished = sequence.accept(token);
        sequence.phase = Phase::Decode;
        if let (true, Some(slot)) = (needs_history(&sequence.chosen), sequence.slot) {
            let words = Sample::bitmap_words(self.model.widths().vocabulary);
            self.bitmap[slot * words + token.0 as usize / 32] |= 1 << (token.0 % 32);
        }
        if let Some(row) = sequence.image_row.take() {
            self.image_rows.give_back(row);
        }
        let spent = self.spent.get_mut(&id).map(std::mem::take).unwrap_or_default();
        let outcome = Outcome { token, finished, vision: spent.0, decoder: spent.1 };
        if finished.is_some() {
            self.release(id);
        }
        self.send(id, Ok(outcome));
        Ok(())
    }

    fn send(&mut self, id: SequenceId, outcome: Result<Outcome, EngineError>) {
        if let Some(queue) = self.outbox.get_mut(&id) {
            queue.push_back(outcome);
        }
    }

    /// Takes back what a sequence holds.
    fn release(&mut self, id: SequenceId) {
        self.items.remove(&id);
        self.spent.remove(&id);
        if let Some(sequence) = self.sequences.remove(&id) {
            self.pool.give_back(sequence.pages);
            if let Some(row) = sequence.image_row {
                self.image_rows.give_back(row);
            }
            if let Some(slot) = sequence.slot {
                self.slots[slot] = None;
            }
        }
    }

    fn check_alive(&self) -> Result<(), EngineError> {
        match &self.broken {
            None => Ok(()),
            Some(cause) => Err(EngineError::Poisoned { cause: cause.clone() }),
        }
    }
}

/// Whether the sampler reads the tokens of a sequence.
fn needs_history(chosen: &Chosen) -> bool {
    chosen.repetition_penalty.to_bits() != 1.0f32.to_bits()
}

/// Puts the packed rows of a step into the staging buffer; the caller adds its own parts and sends.
pub(super) fn stage(workspace: &mut Workspace, batch: &Batch) -> Result<DecoderStep, EngineError> {
    let staging = &mut workspace.staging;
    staging.begin()?;
    let (prefill, decode) = work_lists(batch);
    Ok(DecoderStep {
        rows: batch.rows(),
        ids: staging.push(&batch.ids)?,
        source: staging.push(&batch.source)?,
        sequence: staging.push(&batch.sequence)?,
        positions: staging.push(&batch.positions)?,
        slots: staging.push(&batch.slots)?,
        cu_rows: staging.push(&batch.cu_rows)?,
        page_table: staging.push(&batch.page_table)?,
        pages_per_sequence: batch.page_stride,
        prefill: staging.push(&prefill)?,
        decode: staging.push(&decode)?,
    })
}

/// Work of the two attention kernels: sequences with several rows, sequences with one.
fn work_lists(batch: &Batch) -> (Vec<i32>, Vec<i32>) {
    let prefill = attn_prefill::work_list(&batch.cu_rows, &batch.kv_len);
    (prefill, attn_decode::work_list(&batch.cu_rows, &batch.kv_len))
}
