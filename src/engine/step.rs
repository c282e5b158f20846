//! The machine behind the engine: admits sequences and runs one step at a time. What a step does on
//! the device stands in `launch`, what becomes of its results in `deliver`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use super::{
    EngineError, FinishReason,
    beams::BeamSearch,
    family::{Family, SharedPages, TokenLogprobs},
    pages::PagePool,
    plan::MemoryPlan,
    processors,
    sampling::{Chosen, invalid},
    scheduler::{RowRanges, shares},
    sequence::{Phase, Sequence},
    timing::Clock,
    visual::{self, VisualInput},
};
use crate::{
    device::{Counts, Device, FloatView},
    model::{Model, rope::RopeBlocks, workspace::Workspace},
    ops::sample::Sample,
    units::{PageId, Pages, RequestId, SequenceId, TokenId, Tokens},
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
}

/// What a step did for one answer.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Which answer of the request.
    pub(crate) choice: usize,
    /// None if the answer ends without one.
    pub(crate) token: Option<TokenId>,
    /// If they were asked for.
    pub(crate) logprobs: Option<TokenLogprobs>,
    pub(crate) finished: Option<FinishReason>,
    /// Of a finished beam: its log probability over its length to the power of the penalty.
    pub(crate) score: Option<f32>,
    /// Of the prompt's tokens, with the first outcome, if asked for.
    pub(crate) prompt_logprobs: Vec<TokenLogprobs>,
    /// Nothing more comes for this request.
    pub(crate) last: bool,
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
    pub(super) device: Device,
    pub(super) model: Model,
    pub(super) workspace: Workspace,
    pub(super) plan: MemoryPlan,
    pub(super) rope: RopeBlocks,
    pool: PagePool,
    pub(super) image_rows: RowRanges,
    /// Rows of the sampler's history, each of one sequence at most.
    pub(super) slots: Vec<Option<SequenceId>>,
    /// The host's copies of the sampler's history.
    pub(super) bitmap: Vec<u32>,
    pub(super) counts: Vec<u16>,
    pub(super) sequences: BTreeMap<SequenceId, Sequence>,
    pub(super) families: BTreeMap<RequestId, Family>,
    /// Pages to be copied before the next step reads them: of whom, from, to.
    pub(super) copies: Vec<(RequestId, PageId, PageId)>,
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
        let vocabulary = model.widths().vocabulary;
        Ok(Self {
            rope: plan.rope().clone(),
            pool: PagePool::new(pages),
            image_rows: RowRanges::new(limits.image_rows),
            slots: vec![None; limits.sequences],
            bitmap: vec![0; Sample::bitmap_words(vocabulary) * limits.sequences],
            counts: vec![0; vocabulary * limits.sequences],
            sequences: BTreeMap::new(),
            families: BTreeMap::new(),
            copies: Vec::new(),
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

    /// Queues a request; its tokens come by [`Core::take`].
    ///
    /// # Errors
    /// [`EngineError::Poisoned`] after a failure of the device; [`EngineError::PagesExhausted`] and
    /// [`EngineError::InvalidRequest`] for what could never run.
    pub(crate) fn submit(&mut self, submission: Submission) -> Result<RequestId, EngineError> {
        self.check_alive()?;
        let chosen = Arc::new(submission.chosen);
        let count = chosen.members();
        if count > self.slots.len() {
            let (got, allowed) =
                (count.to_string(), "at most the sequences of a batch (max_batch)");
            let field = if chosen.searches() { "num_beams" } else { "num_return_sequences" };
            return Err(invalid(field, got, allowed));
        }
        let id = RequestId(self.next);
        let members: Vec<SequenceId> = (self.next..self.next + count).map(SequenceId).collect();
        self.next += count;
        let search = chosen.searches().then(|| BeamSearch::new(&chosen.config, chosen.max_new().0));
        let family = Family {
            members,
            prompt: Tokens(submission.ids.len()),
            pages: SharedPages::default(),
            slots: Vec::new(),
            search,
            items: submission.items,
            outbox: VecDeque::new(),
            spent: (Duration::ZERO, Duration::ZERO),
            prompt_logprobs: Vec::new(),
            left: count,
            chosen,
        };
        if family.pages_needed() > self.pool.total() {
            let (wanted, free) = (family.pages_needed(), self.pool.total());
            return Err(EngineError::PagesExhausted { wanted, free });
        }
        let visual_tokens = submission.visual.iter().filter(|place| **place >= 0).count();
        let leader = Sequence {
            family: id,
            choice: 0,
            prompt: family.prompt,
            ids: submission.ids,
            cached: 0,
            positions: submission.positions,
            next_position: submission.next_position,
            visual: submission.visual,
            visual_tokens,
            image_row: None,
            pages: Vec::new(),
            phase: Phase::Waiting,
        };
        self.sequences.insert(SequenceId(id.0), leader);
        self.families.insert(id, family);
        Ok(id)
    }

    /// The next outcome of a request, if a step has brought one.
    pub(crate) fn take(&mut self, id: RequestId) -> Option<Result<Outcome, EngineError>> {
        let outcome = self.families.get_mut(&id)?.outbox.pop_front();
        let family = self.families.get(&id)?;
        if family.left == 0 && family.outbox.is_empty() {
            self.families.remove(&id);
        }
        outcome
    }

    /// Forgets a request; its pages are free at once.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        self.release(id);
        self.families.remove(&id);
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
            let Some(sequence) = self.sequences.get_mut(&share.sequence) else { continue };
            if let Some(family) = self.families.get_mut(&sequence.family) {
                family.pages.extend(&mut sequence.pages, share.start + share.rows)?;
            }
        }
        let clock = Clock::start();
        let lanes = self.lanes(&shares);
        let brought = self.launch(&shares, &lanes)?;
        let elapsed = clock.elapsed();
        let mut counted = None;
        for share in &shares {
            let Some(sequence) = self.sequences.get_mut(&share.sequence) else { continue };
            sequence.cached += share.rows;
            // The sequences of a request stand together in a step and take their time once.
            if counted.replace(sequence.family) != Some(sequence.family)
                && let Some(family) = self.families.get_mut(&sequence.family)
            {
                family.spent.1 += elapsed;
            }
        }
        self.deliver(&lanes, brought)
    }

    /// Gives waiting requests what they need, in the order of their arrival.
    fn admit(&mut self) -> Result<(), EngineError> {
        let is_waiting = |sequence: &&Sequence| sequence.phase == Phase::Waiting;
        let waiting = self.sequences.values().filter(is_waiting);
        let waiting: Vec<RequestId> = waiting.map(|sequence| sequence.family).collect();
        for id in waiting {
            let Some(family) = self.families.get_mut(&id) else { continue };
            let Some(leader) = family.leader() else { continue };
            let Some(sequence) = self.sequences.get_mut(&leader) else { continue };
            let free = self.slots.iter().enumerate().filter(|(_, held)| held.is_none());
            let slots: Vec<usize> = free.map(|(slot, _)| slot).take(family.members.len()).collect();
            if slots.len() < family.members.len() || family.pages_needed() > self.pool.free() {
                break;
            }
            let Some(row) = self.image_rows.take(sequence.visual_tokens) else { break };
            family.pages = SharedPages::new(self.pool.take(family.pages_needed())?);
            sequence.image_row = (sequence.visual_tokens > 0).then_some(row);
            sequence.phase = Phase::Prefill;
            for (slot, member) in slots.iter().zip(&family.members) {
                self.slots[*slot] = Some(*member);
            }
            let first = slots.first().copied().unwrap_or(0);
            family.slots = slots;
            self.turn_prompt(leader, first)?;
            self.start_history(id)?;
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

    /// Enters the prompt in the sampler's history, for requests that have a penalty.
    fn start_history(&mut self, id: RequestId) -> Result<(), EngineError> {
        let Some(family) = self.families.get(&id) else { return Ok(()) };
        let Some(leader) = family.leader().and_then(|leader| self.sequences.get(&leader)) else {
            return Ok(());
        };
        if !processors::reads_history(&family.chosen.config) || family.chosen.searches() {
            return Ok(());
        }
        let vocabulary = self.model.widths().vocabulary;
        let words = Sample::bitmap_words(vocabulary);
        for slot in &family.slots {
            self.counts[slot * vocabulary..(slot + 1) * vocabulary].fill(0);
            let row = &mut self.bitmap[slot * words..(slot + 1) * words];
            row.fill(0);
            for token in &leader.ids {
                row[token.0 as usize / 32] |= 1 << (token.0 % 32);
            }
        }
        self.device.write(self.workspace.bitmap.view_mut(), &self.bitmap)?;
        self.device.write(self.workspace.counts.view_mut(), &self.counts)?;
        Ok(())
    }

    /// Runs the tower over the media of a request, once.
    fn see(&mut self, id: SequenceId) -> Result<(), EngineError> {
        let Some(sequence) = self.sequences.get(&id) else { return Ok(()) };
        let Some(family) = self.families.get_mut(&sequence.family) else { return Ok(()) };
        let items = std::mem::take(&mut family.items);
        let row = sequence.image_row.filter(|_| !items.is_empty());
        let Some(row) = row else { return Ok(()) };
        let clock = Clock::start();
        let temporal = self.model.config().vision.temporal_patch_size;
        let items = visual::items(&items, self.plan.limits().patch_rows, temporal);
        let observe = &mut |_: &str, _: FloatView<'_>, _: usize| Ok(());
        self.model.see(&self.device, &mut self.workspace, &items, row, observe)?;
        self.device.synchronize()?;
        family.spent.0 += clock.elapsed();
        Ok(())
    }

    /// Takes back what a request holds; its outcomes stay.
    pub(super) fn release(&mut self, id: RequestId) {
        let Some(family) = self.families.get_mut(&id) else { return };
        family.left = 0;
        self.pool.give_back(std::mem::take(&mut family.pages).into_pages());
        self.copies.retain(|(owner, ..)| *owner != id);
        for member in &family.members {
            let sequence = self.sequences.remove(member);
            if let Some(row) = sequence.and_then(|sequence| sequence.image_row) {
                self.image_rows.give_back(row);
            }
            for slot in self.slots.iter_mut().filter(|slot| **slot == Some(*member)) {
                *slot = None;
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
