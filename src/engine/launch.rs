//! A step on the device: rows up, logits, tokens back.

use super::{
    EngineError,
    batch::{Batch, Bounds, Chunk, Wanted},
    family::TokenLogprobs,
    processors::{self, History, Program},
    scheduler::Share,
    sequence::Sequence,
    step::Core,
};
use crate::{
    device::FloatView,
    model::{
        decoder::DecoderStep,
        workspace::{Part, Workspace, kv_layout},
    },
    ops::{
        attn_decode, attn_prefill,
        kv_copy::KvCopyPages,
        sample::{EDITED, Rows, Sample, SampleResult, SampleSettings, WANTS_LOGPROB, WarpScores},
        score_edits::{ScoreEdit, ScoreEdits},
        top_scores::{NORMALIZES, PERTURBS, TOP_MAX, TopQuery, TopScores},
    },
    units::{RequestId, SequenceId, TokenId, Tokens},
};

/// A token to be chosen: by one answer of a request, from the logits of a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lane {
    pub(super) family: RequestId,
    /// The sequence whose logits are read: until answers part, the one that read the prompt.
    pub(super) sequence: SequenceId,
    /// Row of the logits.
    pub(super) row: usize,
    pub(super) choice: usize,
    /// Whether the beams of a search are ranked rather than a token chosen.
    pub(super) searches: bool,
}

/// The best tokens of a row.
#[derive(Clone, Debug)]
pub(super) struct Top {
    /// Token, score, rank; best first.
    pub(super) tokens: Vec<(TokenId, f32, f32)>,
    /// Score of the token that was asked about.
    target: f32,
    pub(super) status: u32,
}

/// What a step brings back.
#[derive(Debug)]
pub(super) struct Brought {
    /// For each lane.
    pub(super) results: Vec<SampleResult>,
    /// For each lane; empty lists where nothing was asked for.
    pub(super) tops: Vec<Top>,
}

/// The parts of the step data that follow the packed rows.
struct Parts {
    rows: Part<i32>,
    settings: Part<SampleSettings>,
    first: Part<i32>,
    edits: Part<ScoreEdit>,
    ids: Part<i32>,
    values: Part<f32>,
    queries: Part<TopQuery>,
    copies: [Part<i32>; 2],
    pieces: Vec<Piece>,
}

/// Rows of a prompt whose tokens' log probabilities are asked for.
struct Piece {
    family: RequestId,
    rows: Part<i32>,
    queries: Part<TopQuery>,
    targets: Vec<TokenId>,
    top: usize,
}

/// Which scores a ranking reads.
#[derive(Clone, Copy)]
enum Scores {
    Logits,
    Warped,
}

impl Core {
    /// Who gets a token in this step: plain answers, then beams.
    pub(super) fn lanes(&self, shares: &[Share]) -> Vec<Lane> {
        let mut lanes = Vec::new();
        for (row, share) in shares.iter().filter(|share| share.sampled).enumerate() {
            let Some(sequence) = self.sequences.get(&share.sequence) else { continue };
            let Some(family) = self.families.get(&sequence.family) else { continue };
            let choices = match sequence.new_tokens() {
                0 => 0..family.members.len(),
                _ => sequence.choice..sequence.choice + 1,
            };
            let searches = family.search.is_some();
            let (family, sequence) = (sequence.family, share.sequence);
            lanes.extend(choices.map(|choice| Lane { family, sequence, row, choice, searches }));
        }
        lanes.sort_by_key(|lane| lane.searches);
        lanes
    }

    /// Runs the step and waits for it.
    pub(super) fn launch(
        &mut self,
        shares: &[Share],
        lanes: &[Lane],
    ) -> Result<Brought, EngineError> {
        let batch = self.pack(shares)?;
        let staged = stage(&mut self.workspace, &batch)?;
        let (settings, program, queries) = self.asked(lanes)?;
        let width = queries.iter().map(|query| query.n).max().unwrap_or(0);
        let parts = self.push(shares, &batch, &settings, &program, &queries)?;
        self.workspace.staging.send(&self.device)?;
        self.copy_pages(&parts)?;
        let observe = &mut |_: &str, _: FloatView<'_>, _: usize| Ok(());
        self.model.decoder().forward(&self.device, &mut self.workspace, &staged, observe)?;
        for piece in &parts.pieces {
            self.prompt_logprobs(staged.rows, piece)?;
        }
        let decoder = self.model.decoder();
        decoder.logits(&self.device, &mut self.workspace, staged.rows, parts.rows, observe)?;

        let edited = settings.iter().any(|settings| settings.flags & EDITED != 0);
        if edited {
            self.edit(&parts, batch.logit_rows.len(), lanes.len())?;
        }
        let plain = lanes.iter().filter(|lane| !lane.searches).count();
        self.choose(&parts, batch.logit_rows.len(), 0..plain, false)?;
        self.choose(&parts, batch.logit_rows.len(), plain..lanes.len(), true)?;
        let view = self.workspace.results.view().slice(0..lanes.len())?;
        let results = self.device.download_view(view)?;
        let mut tops = Vec::with_capacity(lanes.len());
        for (range, scores) in [(0..plain, Scores::Logits), (plain..lanes.len(), Scores::Warped)] {
            let queries = &queries[range.clone()];
            if queries.iter().all(|query| query.n == 0) {
                let none = Top { tokens: Vec::new(), target: 0.0, status: 0 };
                tops.extend(vec![none; queries.len()]);
            } else {
                self.rank(parts.queries, range, width, scores, batch.logit_rows.len())?;
                tops.extend(self.ranked(queries, width)?);
            }
        }
        Ok(Brought { results, tops })
    }

    /// What the lanes ask of the sampler: settings, edits, and rankings.
    fn asked(
        &self,
        lanes: &[Lane],
    ) -> Result<(Vec<SampleSettings>, Program, Vec<TopQuery>), EngineError> {
        let mut program = Program::new();
        let (mut settings, mut queries) = (Vec::new(), Vec::new());
        let gone = || EngineError::internal("a lane of a sequence that is gone".to_owned());
        let mut beam = 0;
        for lane in lanes {
            let sequence = self.sequences.get(&lane.sequence).ok_or_else(gone)?;
            let family = self.families.get(&lane.family).ok_or_else(gone)?;
            let (chosen, config) = (&family.chosen, &family.chosen.config);
            let max_length = family.prompt.0 + chosen.max_new().0;
            let history = History { ids: &sequence.ids, prompt: family.prompt.0, max_length };
            let edited = program.push(config, history, lane.searches)?;
            let mut asked = processors::settings(config, lane.searches);
            asked.seed = chosen.seed;
            asked.step = u32::try_from(sequence.new_tokens()).unwrap_or(u32::MAX);
            asked.choice = u32::try_from(lane.choice).unwrap_or(u32::MAX);
            asked.row = int(lane.row)?;
            if processors::reads_history(config) && !lane.searches {
                let slot = family.slots.get(lane.choice).ok_or_else(gone)?;
                asked.slot = int(*slot)?;
            }
            asked.flags |= if edited { EDITED } else { 0 };
            asked.flags |= if chosen.logprobs.is_some() { WANTS_LOGPROB } else { 0 };
            let mut query = query(lane.row, chosen.logprobs.unwrap_or(0))?;
            query.flags = NORMALIZES;
            if let Some(search) = &family.search {
                let n = search.keep().min(self.model.widths().vocabulary);
                query = TopQuery { n: int(n)?, row: int(beam)?, ..query };
                query.flags = if config.do_sample { PERTURBS } else { 0 };
                query.offset = search.running().get(lane.choice).copied().unwrap_or_default();
                (query.seed, query.step, query.choice) = (asked.seed, asked.step, asked.choice);
                beam += 1;
            }
            settings.push(asked);
            queries.push(query);
        }
        Ok((settings, program, queries))
    }

    fn push(
        &mut self,
        shares: &[Share],
        batch: &Batch,
        settings: &[SampleSettings],
        program: &Program,
        queries: &[TopQuery],
    ) -> Result<Parts, EngineError> {
        let pieces = self.pieces(shares, batch)?;
        let page = |page: crate::units::PageId| page.0.cast_signed();
        let from: Vec<i32> = self.copies.iter().map(|(_, from, _)| page(*from)).collect();
        let to: Vec<i32> = self.copies.iter().map(|(.., to)| page(*to)).collect();
        let staging = &mut self.workspace.staging;
        Ok(Parts {
            rows: staging.push(&batch.logit_rows)?,
            settings: staging.push(settings)?,
            first: staging.push(&program.first)?,
            edits: staging.push(&program.edits)?,
            ids: staging.push(&program.ids)?,
            values: staging.push(&program.values)?,
            queries: staging.push(queries)?,
            copies: [staging.push(&from)?, staging.push(&to)?],
            pieces,
        })
    }

    /// Rows of prompts that tell the log probabilities of the tokens behind them.
    fn pieces(&mut self, shares: &[Share], batch: &Batch) -> Result<Vec<Piece>, EngineError> {
        let most = self.plan.limits().logit_rows.min(self.plan.limits().sequences);
        let mut pieces = Vec::new();
        for (share, packed) in shares.iter().zip(&batch.cu_rows) {
            let Some(sequence) = self.sequences.get(&share.sequence) else { continue };
            let Some(family) = self.families.get(&sequence.family) else { continue };
            let Some(top) = family.chosen.prompt_logprobs else { continue };
            let end = (share.start + share.rows).min(family.prompt.0 - 1);
            let packed = usize::try_from(*packed).unwrap_or(0);
            let tokens: Vec<usize> = (share.start..end).collect();
            for tokens in tokens.chunks(most) {
                let (mut rows, mut queries, mut targets) = (Vec::new(), Vec::new(), Vec::new());
                for (row, token) in tokens.iter().enumerate() {
                    let target = sequence.ids[token + 1];
                    rows.push(int(packed + token - share.start)?);
                    let asked = TopQuery { flags: NORMALIZES, ..query(row, top)? };
                    queries.push(TopQuery { target: target.0.cast_signed(), ..asked });
                    targets.push(target);
                }
                let family = sequence.family;
                let rows = self.workspace.staging.push(&rows)?;
                let queries = self.workspace.staging.push(&queries)?;
                pieces.push(Piece { family, rows, queries, targets, top });
            }
        }
        Ok(pieces)
    }

    fn prompt_logprobs(&mut self, step_rows: usize, piece: &Piece) -> Result<(), EngineError> {
        let observe = &mut |_: &str, _: FloatView<'_>, _: usize| Ok(());
        let decoder = self.model.decoder();
        decoder.logits(&self.device, &mut self.workspace, step_rows, piece.rows, observe)?;
        let (count, width) = (piece.targets.len(), int(piece.top)?);
        self.rank(piece.queries, 0..count, width, Scores::Logits, count)?;
        let asked = (0..count).map(|row| query(row, piece.top)).collect::<Result<Vec<_>, _>>()?;
        let tops = self.ranked(&asked, width)?;
        let Some(family) = self.families.get_mut(&piece.family) else { return Ok(()) };
        for (id, top) in piece.targets.iter().zip(tops) {
            family.prompt_logprobs.push(top.logprobs(*id, top.target));
        }
        Ok(())
    }

    /// Copies the pages that forks write to, before anything is written.
    fn copy_pages(&mut self, parts: &Parts) -> Result<(), EngineError> {
        self.copies.clear();
        let layout = kv_layout(self.model.config(), self.plan.limits().pages);
        let Workspace { pool, staging, .. } = &mut self.workspace;
        let (src, dst) = (staging.view(parts.copies[0])?, staging.view(parts.copies[1])?);
        Ok(KvCopyPages { pool: pool.view_mut(), layout, src, dst }.launch(&self.device)?)
    }

    fn edit(&mut self, parts: &Parts, rows: usize, lanes: usize) -> Result<(), EngineError> {
        let widths = self.model.widths();
        let Workspace { logits, scores, bitmap, counts, staging, .. } = &mut self.workspace;
        ScoreEdits {
            logits: logits.view().slice(0..rows * widths.logits)?,
            scores: scores.view_mut().slice(0..lanes * widths.logits)?,
            settings: staging.view(parts.settings)?,
            first: staging.view(parts.first)?,
            edits: staging.view(parts.edits)?,
            ids: staging.view(parts.ids)?,
            values: staging.view(parts.values)?,
            bitmap: bitmap.view_mut(),
            counts: counts.view_mut(),
            sequences: lanes,
            rows,
            vocabulary: widths.vocabulary,
            stride: widths.logits,
            slots: self.slots.len(),
        }
        .launch(&self.device)?;
        Ok(())
    }

    /// Tokens of plain lanes, or the warped scores of beams.
    fn choose(
        &mut self,
        parts: &Parts,
        rows: usize,
        lanes: std::ops::Range<usize>,
        searches: bool,
    ) -> Result<(), EngineError> {
        let widths = self.model.widths();
        let columns = lanes.start * widths.logits..lanes.end * widths.logits;
        let Workspace { logits, scores, warped, bitmap, counts, status, results, staging, .. } =
            &mut self.workspace;
        let chosen = Rows {
            logits: logits.view().slice(0..rows * widths.logits)?,
            scores: Some(scores.view().slice(columns)?),
            settings: staging.view(parts.settings)?.slice(lanes.clone())?,
            bitmap: bitmap.view_mut(),
            counts: counts.view_mut(),
            // Sampled sequences stand first in a step, and so do their status words.
            status: status.view().slice(0..rows)?,
            result: results.view_mut().slice(lanes.clone())?,
            sequences: lanes.len(),
            rows,
            vocabulary: widths.vocabulary,
            stride: widths.logits,
            slots: self.slots.len(),
        };
        if !searches {
            Sample(chosen).launch(&self.device)?;
        } else {
            let out = warped.view_mut().slice(0..lanes.len() * widths.logits)?;
            WarpScores { rows: chosen, out }.launch(&self.device)?;
        }
        Ok(())
    }

    /// Queues a ranking of `queries`, a range of a part.
    fn rank(
        &mut self,
        part: Part<TopQuery>,
        queries: std::ops::Range<usize>,
        width: i32,
        scores: Scores,
        rows: usize,
    ) -> Result<(), EngineError> {
        let widths = self.model.widths();
        let width = usize::try_from(width).unwrap_or(TOP_MAX);
        let cells = queries.len() * width;
        let rows = match scores {
            Scores::Logits => rows,
            Scores::Warped => queries.len(),
        };
        let Workspace {
            logits, warped, staging, top_ids, top_values, top_ranks, top_summary, ..
        } = &mut self.workspace;
        let scores = match scores {
            Scores::Logits => logits.view(),
            Scores::Warped => warped.view(),
        };
        let count = queries.len();
        TopScores {
            scores: scores.slice(0..rows * widths.logits)?,
            queries: staging.view(part)?.slice(queries)?,
            ids: top_ids.view_mut().slice(0..cells)?,
            values: top_values.view_mut().slice(0..cells)?,
            ranks: top_ranks.view_mut().slice(0..cells)?,
            summary: top_summary.view_mut().slice(0..count)?,
            rows,
            vocabulary: widths.vocabulary,
            stride: widths.logits,
            width,
        }
        .launch(&self.device)?;
        Ok(())
    }

    /// Waits for a ranking.
    fn ranked(&self, queries: &[TopQuery], width: i32) -> Result<Vec<Top>, EngineError> {
        let width = usize::try_from(width).unwrap_or(TOP_MAX);
        let cells = queries.len() * width;
        let Workspace { top_ids, top_values, top_ranks, top_summary, .. } = &self.workspace;
        let ids: Vec<i32> = self.device.download_view(top_ids.view().slice(0..cells)?)?;
        let values: Vec<f32> = self.device.download_view(top_values.view().slice(0..cells)?)?;
        let ranks: Vec<f32> = self.device.download_view(top_ranks.view().slice(0..cells)?)?;
        let summary = self.device.download_view(top_summary.view().slice(0..queries.len())?)?;
        let tokens = |row: usize, n: i32| {
            let cells = row * width..row * width + usize::try_from(n).unwrap_or(0);
            cells.map(|at| (TokenId(ids[at].cast_unsigned()), values[at], ranks[at])).collect()
        };
        let rows = queries.iter().zip(summary).enumerate();
        let top =
            |(row, (query, summary)): (usize, (&TopQuery, crate::ops::top_scores::TopSummary))| {
                let read = if summary.status == 0 { query.n } else { 0 };
                Top { tokens: tokens(row, read), target: summary.target, status: summary.status }
            };
        Ok(rows.map(top).collect())
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
}

impl Top {
    /// As a caller reads it.
    pub(super) fn logprobs(&self, id: TokenId, logprob: f32) -> TokenLogprobs {
        let top = self.tokens.iter().map(|(id, value, _)| (*id, *value)).collect();
        TokenLogprobs { id, logprob, top }
    }
}

/// The `n` best tokens of a row.
fn query(row: usize, n: usize) -> Result<TopQuery, EngineError> {
    let (row, n) = (int(row)?, int(n)?);
    let (seed, step, choice, target, offset, flags) = (0, 0, 0, -1, 0.0, 0);
    Ok(TopQuery { seed, step, choice, row, n, target, offset, flags, pad: [0; 3] })
}

fn int(value: usize) -> Result<i32, EngineError> {
    let too_large = |_error| EngineError::internal(format!("{value} passes 2^31 in a step"));
    i32::try_from(value).map_err(too_large)
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
