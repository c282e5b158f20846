//! Activation buffers: how long each is, and their memory. Nothing else in a step allocates.
//!
//! The tower and the decoder use the same bytes one after the other:
//!
//! ```text
//! buffer      vision [R patch rows]              decoder [T token rows]
//! x           residual stream [R, E]             residual stream [T, C]
//! y           norms, attention [R, E]            norms [T, C], attention [T, H D]
//! wide        patch rows, qkv, fc1 or gate and     qkv [T, (H + 2G) D], gate and up [T, 2F]
//!             up [R, max]
//! act         silu(gate) * up [R, F] with a gate  silu(gate) * up [T, F]
//! image_rows  merged rows, from the tower to the last chunk of the prompt [rows, C]
//! logits      -                                  [rows asked for, V]
//! scores      -                                  edited logits, warped scores [B, V] each
//! ```

use super::{ModelError, config::ModelConfig, weights::WIDTH_STEP};
use crate::{
    device::{Buffer, Device, Element, Event, Floats, PinnedBuffer, View, as_bytes},
    ops::{
        attn_decode::{AttnPartLens, segments},
        kv::KvLayout,
        sample::{Sample, SampleResult},
        top_scores::{TOP_MAX, TopSummary},
    },
    units::{Bytes, FloatType, PAGE_TOKENS, Tokens},
};

/// Rows of a buffer are rounded up to the tallest tile.
const ROW_STEP: usize = 128;
/// Parts of the step data start on this boundary.
const PART_ALIGNMENT: usize = 256;
/// Ids that the lists of a request's settings may hold beside its own tokens.
const EDIT_LISTS: usize = 16_384;

/// The largest step that a workspace takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// R: patch rows of a run of the tower.
    pub patch_rows: usize,
    /// T: token rows of a step.
    pub token_rows: usize,
    /// B: sequences of a step.
    pub sequences: usize,
    /// Tokens of a sequence, answer included.
    pub sequence_tokens: usize,
    /// Merged image rows held at once.
    pub image_rows: usize,
    /// Rows of logits computed at once.
    pub logit_rows: usize,
    /// Pages of the key/value pool.
    pub pages: usize,
    /// Bytes of resized pixels of a run of the tower.
    pub pixel_bytes: usize,
}

/// Widths of a model that size its buffers, padded as its weights are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Widths {
    /// E: channels of a patch row.
    pub patch: usize,
    /// Columns of a row of pixels, padded.
    pub pixels: usize,
    /// F of the tower, padded.
    pub vision_mlp: usize,
    /// Rows of the tower's first feed-forward weight: F, or 2F with a gate.
    pub vision_up: usize,
    /// Patch rows of a merged row.
    pub merge: usize,
    /// Whether the tower has windows, and with them a gate and rows in another order.
    pub windowed: bool,
    /// Channels of a merged row before the merger.
    pub merged: usize,
    /// C: channels of a token row.
    pub token: usize,
    /// H D: channels of all query heads.
    pub queries: usize,
    /// (H + 2G) D: channels of queries, keys and values.
    pub qkv: usize,
    /// F of the decoder, padded.
    pub text_mlp: usize,
    /// V.
    pub vocabulary: usize,
    /// V padded: columns of the logits.
    pub logits: usize,
}

impl Widths {
    /// The widths of a configuration.
    pub fn new(config: &ModelConfig) -> Self {
        let (text, vision) = (&config.text, &config.vision);
        let pad = |width: usize| width.next_multiple_of(WIDTH_STEP);
        let kv = text.num_key_value_heads * text.head_dim;
        let queries = text.num_attention_heads * text.head_dim;
        Self {
            patch: vision.embed_dim,
            pixels: pad(vision.patch_width),
            vision_mlp: pad(vision.mlp_width),
            vision_up: pad(vision.mlp_width) * if vision.windowed.is_some() { 2 } else { 1 },
            merge: vision.spatial_merge_size * vision.spatial_merge_size,
            windowed: vision.windowed.is_some(),
            merged: vision.merged_width,
            token: text.hidden_size,
            queries,
            qkv: queries + 2 * kv,
            text_mlp: pad(text.intermediate_size),
            vocabulary: text.vocab_size,
            logits: pad(text.vocab_size),
        }
    }
}

/// Element counts of every buffer of a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkspacePlan {
    limits: StepLimits,
    dtype: FloatType,
    x: usize,
    y: usize,
    wide: usize,
    act: usize,
    image_rows: usize,
    logits: usize,
    scores: usize,
    parts: AttnPartLens,
    max_segments: usize,
    pool: usize,
    bitmap: usize,
    counts: usize,
    staging: usize,
    row_status: usize,
}

impl WorkspacePlan {
    /// Sizes everything for a model, its largest step and the type that it computes in.
    ///
    /// # Errors
    /// [`ModelError::StepTooLarge`] if a size passes the address space.
    pub fn new(
        config: &ModelConfig,
        limits: StepLimits,
        dtype: FloatType,
    ) -> Result<Self, ModelError> {
        let widths = Widths::new(config);
        let layout = kv_layout(config, limits.pages);
        let max_segments = segments(Tokens(limits.sequence_tokens));
        let heads = config.text.num_attention_heads;
        let parts = AttnPartLens::new(limits.sequences, heads, &layout, max_segments);
        let plan = || {
            let (r, t) = (rows(limits.patch_rows)?, rows(limits.token_rows)?);
            let vision_wide = widths.pixels.max(3 * widths.patch).max(widths.vision_up);
            let merged = r.div_ceil(widths.merge.max(1));
            // Merged rows wait there for their place.
            let merged_y = if widths.windowed { merged.checked_mul(widths.token)? } else { 0 };
            let vision_act = if widths.windowed { widths.vision_mlp } else { 0 };
            let text_wide = widths.qkv.max(2 * widths.text_mlp);
            let text_y = widths.token.max(widths.queries);
            Some(Self {
                limits,
                dtype,
                x: r.checked_mul(widths.patch)?.max(t.checked_mul(widths.token)?),
                y: r.checked_mul(widths.patch)?.max(t.checked_mul(text_y)?).max(merged_y),
                wide: r.checked_mul(vision_wide)?.max(t.checked_mul(text_wide)?),
                act: t.checked_mul(widths.text_mlp)?.max(r.checked_mul(vision_act)?),
                image_rows: rows(limits.image_rows)?.checked_mul(widths.token)?,
                logits: limits.logit_rows.checked_mul(widths.logits)?,
                scores: limits.sequences.checked_mul(widths.logits)?,
                parts: parts?,
                max_segments,
                pool: layout.elements()?,
                bitmap: limits.sequences.checked_mul(Sample::bitmap_words(widths.vocabulary))?,
                counts: limits.sequences.checked_mul(widths.vocabulary)?,
                staging: staging_bytes(limits, widths)?,
                row_status: limits.logit_rows.max(if widths.windowed { merged } else { 0 }),
            })
        };
        plan().ok_or(ModelError::StepTooLarge)
    }

    /// The type that it is for.
    pub fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// The largest step it is for.
    pub fn limits(&self) -> StepLimits {
        self.limits
    }

    /// Name and size of each buffer, the largest of which a refusal names.
    pub fn parts(&self) -> Vec<(&'static str, Bytes)> {
        let bytes = |count: usize, size: usize| Bytes(count as u64 * size as u64);
        let size = self.dtype.size();
        vec![
            ("key/value pages", bytes(self.pool, size)),
            ("activations", bytes(self.x + self.y + self.wide + self.act, size)),
            ("image rows", bytes(self.image_rows, size)),
            ("logits", bytes(self.logits, 4)),
            ("scores", bytes(self.scores, 8)),
            ("ranked tokens", bytes(self.limits.sequences * TOP_MAX, 12)),
            ("attention partials", bytes(self.parts.outputs + self.parts.states, 4)),
            ("sampling history", bytes(self.bitmap, 4)),
            ("sampling counts", bytes(self.counts, 2)),
            ("pixels", bytes(self.limits.pixel_bytes, 1)),
            ("step data", bytes(self.staging, 1)),
        ]
    }
}

/// Shape of the page pool.
pub fn kv_layout(config: &ModelConfig, pages: usize) -> KvLayout {
    let text = &config.text;
    KvLayout {
        pages,
        layers: text.num_hidden_layers,
        kv_heads: text.num_key_value_heads,
        head_dim: text.head_dim,
    }
}

fn rows(count: usize) -> Option<usize> {
    count.checked_next_multiple_of(ROW_STEP)
}

/// Most ids that the edits of one sequence's scores may list.
pub fn edit_entries(limits: StepLimits) -> usize {
    4 * limits.sequence_tokens + EDIT_LISTS
}

/// An upper bound of what a step uploads: rows, page tables, work lists, settings.
fn staging_bytes(limits: StepLimits, widths: Widths) -> Option<usize> {
    let pages = limits.sequence_tokens.div_ceil(PAGE_TOKENS);
    let text_words = limits.token_rows.checked_mul(7)?;
    let sequence_words = limits.sequences.checked_mul(pages.checked_add(32)?)?;
    // Work items of 4 words: tiles of 64 rows, segments of 256 keys.
    let tiles = limits.token_rows / 64 + limits.sequences;
    let segments = limits.sequences.checked_mul(limits.sequence_tokens.div_ceil(256))?;
    let work_words = tiles.checked_add(segments)?.checked_mul(4)?;
    // The tower: positions (2), frame starts (1 at most), items (4 for each frame or tile); windows
    // have starts and items of their own (5), and their order there and back (2 at most).
    let vision_words = limits.patch_rows.checked_mul(if widths.windowed { 14 } else { 7 })?;
    let text = text_words.checked_add(sequence_words)?.checked_add(work_words)?;
    // Edits: an id and a value for each entry. Log probabilities of a prompt: a query for each row.
    let edit_words = limits.sequences.checked_mul(2 * edit_entries(limits) + 64)?;
    let query_words = limits.token_rows.checked_add(limits.sequences)?.checked_mul(11)?;
    let words = text.max(vision_words).checked_add(limits.logit_rows)?;
    let words = words.checked_add(edit_words)?.checked_add(query_words)?;
    // Parts of fixed number, and two for each piece of a prompt's rows.
    let pieces = limits.token_rows.div_ceil(limits.sequences.max(1));
    words.checked_mul(4)?.checked_add((32 + 2 * pieces) * PART_ALIGNMENT)
}

/// The buffers of one engine.
#[derive(Debug)]
pub struct Workspace {
    /// The largest step that it takes.
    pub(super) limits: StepLimits,
    pub(super) x: Floats,
    pub(super) y: Floats,
    pub(super) wide: Floats,
    pub(super) act: Floats,
    /// Merged rows of pictures, `[image rows, C]`.
    pub image_rows: Floats,
    /// `[logit rows, V padded]`.
    pub logits: Buffer<f32>,
    /// Logits that processors have edited, `[B, V padded]`.
    pub scores: Buffer<f32>,
    /// Scores after the filters, `[B, V padded]`.
    pub warped: Buffer<f32>,
    /// Best tokens of rows of scores, `[B, TOP_MAX]` at most.
    pub top_ids: Buffer<i32>,
    /// Their scores.
    pub top_values: Buffer<f32>,
    /// What they are ordered by.
    pub top_ranks: Buffer<f32>,
    /// `[B]`.
    pub top_summary: Buffer<TopSummary>,
    pub(super) part_outputs: Buffer<f32>,
    pub(super) part_states: Buffer<f32>,
    pub(super) part_counters: Buffer<u32>,
    pub(super) max_segments: usize,
    /// Keys and values.
    pub pool: Floats,
    /// The sampler's history: tokens that occurred, `[B, words]`.
    pub bitmap: Buffer<u32>,
    /// The sampler's history: how often, `[B, V]`.
    pub counts: Buffer<u16>,
    /// Faults found in data, `[B]`.
    pub status: Buffer<u32>,
    /// Faults of row numbers, which the host has checked, `[logit rows or merged rows]`.
    pub(super) row_status: Buffer<u32>,
    /// What a step ends with, `[B]`.
    pub results: Buffer<SampleResult>,
    pub(super) pixels: Buffer<u8>,
    /// What the host tells a step.
    pub staging: Staging,
}

impl Workspace {
    /// Allocates what the plan says. Activations and pages are undefined at first: a kernel writes
    /// what it reads.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn new(device: &Device, plan: &WorkspacePlan) -> Result<Self, ModelError> {
        let floats = |len: usize| device.alloc_floats(plan.dtype, len);
        Ok(Self {
            limits: plan.limits,
            x: floats(plan.x)?,
            y: floats(plan.y)?,
            wide: floats(plan.wide)?,
            act: floats(plan.act)?,
            image_rows: floats(plan.image_rows)?,
            logits: device.alloc(plan.logits)?,
            scores: device.alloc(plan.scores)?,
            warped: device.alloc(plan.scores)?,
            top_ids: device.alloc(plan.limits.sequences * TOP_MAX)?,
            top_values: device.alloc(plan.limits.sequences * TOP_MAX)?,
            top_ranks: device.alloc(plan.limits.sequences * TOP_MAX)?,
            top_summary: device.alloc(plan.limits.sequences)?,
            part_outputs: device.alloc(plan.parts.outputs)?,
            part_states: device.alloc(plan.parts.states)?,
            part_counters: device.zeros(plan.parts.counters)?,
            max_segments: plan.max_segments,
            pool: floats(plan.pool)?,
            bitmap: device.zeros(plan.bitmap)?,
            counts: device.zeros(plan.counts)?,
            status: device.zeros(plan.limits.sequences)?,
            row_status: device.zeros(plan.row_status)?,
            results: device.zeros(plan.limits.sequences)?,
            pixels: device.alloc(plan.limits.pixel_bytes)?,
            staging: Staging::new(device, plan.staging)?,
        })
    }
}

/// Step data on its way to the device: parts gathered in pinned memory, copied at once.
#[derive(Debug)]
pub struct Staging {
    host: PinnedBuffer,
    device: Buffer<u8>,
    used: usize,
    /// The copy that may still read `host`.
    copied: Option<Event>,
}

/// A part of the step data, by its place.
#[derive(Debug)]
pub struct Part<T> {
    start: usize,
    bytes: usize,
    element: std::marker::PhantomData<T>,
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Part<T> {}

impl Staging {
    fn new(device: &Device, bytes: usize) -> Result<Self, ModelError> {
        let (host, memory) = (device.pinned(bytes)?, device.alloc(bytes)?);
        Ok(Self { host, device: memory, used: 0, copied: None })
    }

    /// Begins the data of a new step; waits until the last copy has been read.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn begin(&mut self) -> Result<(), ModelError> {
        if let Some(copied) = self.copied.take() {
            copied.wait()?;
        }
        self.used = 0;
        Ok(())
    }

    /// Adds a part.
    ///
    /// # Errors
    /// [`ModelError::StepTooLarge`] if the plan did not foresee so much.
    pub fn push<T: Element>(&mut self, values: &[T]) -> Result<Part<T>, ModelError> {
        let (start, source) = (self.used, as_bytes(values));
        let room = self.host.bytes_mut()?.get_mut(start..start + source.len());
        room.ok_or(ModelError::StepTooLarge)?.copy_from_slice(source);
        self.used = (start + source.len()).next_multiple_of(PART_ALIGNMENT).min(self.host.len());
        Ok(Part { start, bytes: source.len(), element: std::marker::PhantomData })
    }

    /// Copies all parts to the device.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn send(&mut self, device: &Device) -> Result<(), ModelError> {
        device.write_pinned(self.device.view_mut().slice(0..self.used)?, &self.host)?;
        self.copied = Some(device.record()?);
        Ok(())
    }

    /// A part on the device, after [`Staging::send`].
    ///
    /// # Errors
    /// [`ModelError::Device`] if the part is of another step.
    pub fn view<T: Element>(&self, part: Part<T>) -> Result<View<'_, T>, ModelError> {
        Ok(self.device.view().slice(part.start..part.start + part.bytes)?.cast()?)
    }
}
