//! Every byte of device memory, before the first is allocated.

use super::EngineError;
use crate::{
    model::{
        config::ModelConfig,
        rope::{Rope, RopeBlocks},
        vision::LARGEST_SIDE,
        weights,
        workspace::{StepLimits, WorkspacePlan, kv_layout},
    },
    units::{Bytes, FloatType, PAGE_TOKENS, Tokens},
};

/// Rows of a prompt in one step.
pub(crate) const PREFILL_CHUNK: usize = 2048;
/// Sequences at once.
pub(crate) const MAX_BATCH: usize = 8;
/// Longest sequence by default: what the published checkpoints were made for.
pub(crate) const MAX_MODEL_LEN: usize = 32_768;
/// Rows of a block of the rotary table.
const MAX_POSITIONS: usize = 1 << 20;
/// Longest sequence by default of a checkpoint for fewer positions: its rotation may be made for more.
const MIN_MODEL_LEN: usize = 4096;
/// Patches of the largest picture: the published checkpoints' own limit.
const MAX_PATCHES: usize = 65_536;
/// Part of a card's free memory that is used by default.
const FRACTION: f64 = 0.9;
/// The same of the software device, whose memory is the machine's.
const SOFTWARE_FRACTION: f64 = 0.5;

/// How much device memory an engine may use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum MemoryLimit {
    /// A part of what is free, above 0 and at most 1.
    Fraction(f64),
    /// So many bytes.
    Bytes(Bytes),
}

impl MemoryLimit {
    /// What an engine uses if it is not told.
    pub(crate) fn of_device(software: bool) -> Self {
        Self::Fraction(if software { SOFTWARE_FRACTION } else { FRACTION })
    }
}

/// What a plan is made for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) max_model_len: Option<Tokens>,
    pub(crate) max_batch: usize,
    pub(crate) prefill_chunk: usize,
    pub(crate) memory: MemoryLimit,
    /// Free device memory.
    pub(crate) free: Bytes,
    /// Largest picture of the processor.
    pub(crate) max_pixels: u64,
    /// What the model computes in.
    pub(crate) dtype: FloatType,
}

/// Device memory of an engine by purpose.
#[derive(Clone, Debug)]
pub struct MemoryPlan {
    workspace: WorkspacePlan,
    weights: Bytes,
    rope: RopeBlocks,
    rope_bytes: Bytes,
    budget: Bytes,
    prefill_chunk: usize,
}

impl MemoryPlan {
    /// The largest plan that fits: all sequences at full length if there is room, else as many
    /// pages as there are.
    ///
    /// # Errors
    /// [`EngineError::Memory`] if one sequence does not fit, with the largest part;
    /// [`EngineError::InvalidRequest`] for a wish out of its range.
    pub(crate) fn new(config: &ModelConfig, wishes: Wishes) -> Result<Self, EngineError> {
        let budget = budget(wishes)?;
        let trained = config.text.max_position_embeddings.clamp(MIN_MODEL_LEN, MAX_MODEL_LEN);
        let asked = wishes.max_model_len.map_or(trained, |tokens| tokens.0);
        check("max_model_len", asked, 1..=MAX_POSITIONS, "1 to 1048576")?;
        check("max_batch", wishes.max_batch, 1..=256, "1 to 256")?;
        check("prefill_chunk", wishes.prefill_chunk, 1..=MAX_MODEL_LEN, "1 to 32768")?;
        let mut length = asked;
        loop {
            match Self::with_length(config, &wishes, length, budget) {
                Ok(plan) => return Ok(plan),
                // A shorter limit that fits is better than none, unless this one was asked for.
                Err(EngineError::Memory { .. })
                    if wishes.max_model_len.is_none() && length > PAGE_TOKENS =>
                {
                    length /= 2;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn with_length(
        config: &ModelConfig,
        wishes: &Wishes,
        length: usize,
        budget: Bytes,
    ) -> Result<Self, EngineError> {
        let sequence_pages = Tokens(length).pages().0;
        let weights = weights::planned_bytes(config, wishes.dtype);
        let weights = weights.ok_or_else(|| too_large("weights", budget))?;
        let rope = RopeBlocks::new(Rope::new(&config.text), length, wishes.max_batch);
        let rope_bytes = rope_bytes(config, &rope, wishes.dtype);
        let rope_bytes = rope_bytes.ok_or_else(|| too_large("rotary tables", budget))?;
        let limits = step_limits(config, wishes, length);
        let one_page = kv_layout(config, 1).page_bytes(wishes.dtype).unwrap_or(Bytes(u64::MAX));
        let smallest = WorkspacePlan::new(
            config,
            StepLimits { pages: sequence_pages, ..limits },
            wishes.dtype,
        )?;
        let fixed: u64 = smallest.parts().iter().map(|(_, bytes)| bytes.0).sum();
        let fixed = fixed.saturating_add(weights.0).saturating_add(rope_bytes.0);
        if fixed > budget.0 {
            let mut parts = smallest.parts();
            parts.extend([("weights", weights), ("rotary tables", rope_bytes)]);
            let largest = parts.into_iter().max_by_key(|(_, bytes)| *bytes);
            let (largest, bytes) = largest.unwrap_or(("weights", weights));
            let need = Bytes(fixed);
            return Err(EngineError::Memory { need, budget, largest, bytes });
        }
        let more = usize::try_from((budget.0 - fixed) / one_page.0.max(1)).unwrap_or(usize::MAX);
        let wanted = sequence_pages.saturating_mul(wishes.max_batch);
        let pages = sequence_pages.saturating_add(more).min(wanted);
        let workspace = WorkspacePlan::new(config, StepLimits { pages, ..limits }, wishes.dtype)?;
        let prefill_chunk = wishes.prefill_chunk.min(length);
        Ok(Self { workspace, weights, rope, rope_bytes, budget, prefill_chunk })
    }

    /// What the model computes in.
    pub(crate) fn dtype(&self) -> FloatType {
        self.workspace.dtype()
    }

    /// The largest step.
    pub(crate) fn limits(&self) -> StepLimits {
        self.workspace.limits()
    }

    /// Sizes of the workspace.
    pub(crate) fn workspace(&self) -> &WorkspacePlan {
        &self.workspace
    }

    /// The rotary table.
    pub(crate) fn rope(&self) -> &RopeBlocks {
        &self.rope
    }

    /// Rows of prompts in one step.
    pub(crate) fn prefill_chunk(&self) -> usize {
        self.prefill_chunk
    }

    /// Longest sequence, answer included.
    pub fn max_model_len(&self) -> Tokens {
        Tokens(self.limits().sequence_tokens)
    }

    /// Tokens of all sequences together.
    pub fn kv_tokens(&self) -> Tokens {
        Tokens(self.limits().pages * PAGE_TOKENS)
    }

    /// Memory that the plan may use.
    pub fn budget(&self) -> Bytes {
        self.budget
    }

    /// Name and size of each part.
    pub fn parts(&self) -> Vec<(&'static str, Bytes)> {
        let mut parts = vec![("weights", self.weights), ("rotary tables", self.rope_bytes)];
        parts.extend(self.workspace.parts());
        parts
    }

    /// Sum of all parts.
    pub fn total(&self) -> Bytes {
        Bytes(self.parts().iter().map(|(_, bytes)| bytes.0).sum())
    }
}

/// The largest step of an engine; `pages` is left for the caller.
fn step_limits(config: &ModelConfig, wishes: &Wishes, length: usize) -> StepLimits {
    let side = config.vision.patch_size;
    let merge = config.vision.spatial_merge_size * config.vision.spatial_merge_size;
    let patch = (side * side) as u64;
    let picture = usize::try_from(wishes.max_pixels / patch).unwrap_or(usize::MAX);
    // Narrow pictures may pass the budget by one merged row; a prompt holds no more than its length.
    let picture = picture.saturating_add(merge * 512).min(MAX_PATCHES);
    let patch_rows = picture.min(length.saturating_mul(merge)).max(merge);
    let frames = config.vision.temporal_patch_size;
    StepLimits {
        patch_rows,
        token_rows: wishes.prefill_chunk.min(length) + wishes.max_batch,
        sequences: wishes.max_batch,
        sequence_tokens: length,
        image_rows: length,
        logit_rows: wishes.max_batch,
        pages: 0,
        // Rows of pixels start on 16 bytes: at most one merged patch more.
        pixel_bytes: patch_rows * (side + 16) * side * 3 * frames + 4096,
    }
}

fn rope_bytes(config: &ModelConfig, rope: &RopeBlocks, dtype: FloatType) -> Option<Bytes> {
    let text = rope.total_rows().checked_mul(config.text.head_dim)?.checked_mul(dtype.size())?;
    let vision = LARGEST_SIDE.checked_mul(config.vision.head_dim)?.checked_mul(2)?;
    Bytes::of::<u8>(text.checked_add(vision)?)
}

fn budget(wishes: Wishes) -> Result<Bytes, EngineError> {
    match wishes.memory {
        MemoryLimit::Bytes(bytes) => Ok(bytes),
        MemoryLimit::Fraction(part) => {
            if !(part > 0.0 && part <= 1.0) {
                let (got, allowed) = (part.to_string(), "above 0 and at most 1");
                return Err(EngineError::InvalidRequest { field: "memory", got, allowed });
            }
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a part of a u64, positive"
            )]
            let bytes = (wishes.free.0 as f64 * part) as u64;
            Ok(Bytes(bytes))
        }
    }
}

fn check(
    field: &'static str,
    got: usize,
    range: std::ops::RangeInclusive<usize>,
    allowed: &'static str,
) -> Result<(), EngineError> {
    if range.contains(&got) {
        return Ok(());
    }
    Err(EngineError::InvalidRequest { field, got: got.to_string(), allowed })
}

fn too_large(largest: &'static str, budget: Bytes) -> EngineError {
    EngineError::Memory { need: Bytes(u64::MAX), budget, largest, bytes: Bytes(u64::MAX) }
}
