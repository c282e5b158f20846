//! What a forward pass takes, named as the reference names it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    device::DeviceChoice,
    model::config::{ConfigError, ModelConfig, TimeRule},
    units::{FloatType, GridThw, TokenId},
};

/// Inputs of a forward pass. Letters: B rows, S slots of a row, P slots of the cache, C channels of
/// a token row, L layers, G key/value heads, D head width.
#[derive(Clone, Debug, Default)]
pub struct ForwardInput {
    /// B.
    pub batch: usize,
    /// S.
    pub length: usize,
    /// `[B, S]`; empty with `inputs_embeds`.
    pub input_ids: Vec<TokenId>,
    /// `[B, S, C]` in place of ids. Positions are then those of text, as in the reference, unless
    /// they are given; placeholders are the rows that equal the placeholder's own embedding.
    pub inputs_embeds: Option<Vec<f32>>,
    /// Which slots hold tokens: `[B, S]`, or `[B, P + S]` behind a cache. None is all, and of a
    /// cache what it says itself.
    pub attention_mask: Option<Vec<bool>>,
    /// Positions in place of the computed ones.
    pub position_ids: Option<PositionIds>,
    /// `[B]`: what the slots of a cache lack to their positions; the output of the pass that made
    /// it.
    pub rope_deltas: Option<Vec<i64>>,
    /// `[S]`: P, P + 1, …; anything else is refused.
    pub cache_position: Option<Vec<i64>>,
    /// Keys and values of earlier tokens.
    pub past: Option<PastKeyValues>,
    /// `[patch rows, patch width]` of all pictures.
    pub pixel_values: Option<Vec<f32>>,
    /// Grid of each picture.
    pub image_grid_thw: Option<Vec<GridThw>>,
    /// `[merged rows, C]` in place of `pixel_values`: what the tower makes of all pictures.
    pub image_embeds: Option<Vec<f32>>,
    /// `[patch rows, patch width]` of all videos.
    pub pixel_values_videos: Option<Vec<f32>>,
    /// Grid of each video; without pixels positions alone depend on it.
    pub video_grid_thw: Option<Vec<GridThw>>,
    /// `[videos]`: seconds from one group of frames to the next, for Qwen2.5-VL; none is 1.
    pub second_per_grid_ts: Option<Vec<f32>>,
    /// `[merged rows, C]` in place of `pixel_values_videos`.
    pub video_embeds: Option<Vec<f32>>,
    /// `[B, S]`: the token of each slot, -100 where it does not count. Slot s predicts slot s + 1.
    pub labels: Option<Vec<i64>>,
    /// What the sum of the losses is divided by; without it the number of labels that count.
    pub num_items_in_batch: Option<u64>,
    /// Which slots get logits.
    pub logits_to_keep: LogitsToKeep,
    /// `[B, S, C]` by layer: what layer i reads in place of what the layers before it made.
    pub hidden_states: BTreeMap<usize, Vec<f32>>,
}

/// Positions of every slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PositionIds {
    /// 1: the same on all axes. 3: time, height, width. 4: text positions before these three; they
    /// part a row without an attention mask into sequences wherever they do not go up by one.
    pub axes: usize,
    /// `[axes, B, S]`.
    pub values: Vec<i64>,
}

/// Keys and values of tokens before this pass, keys after their rotation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PastKeyValues {
    /// B, G, P, D.
    pub shape: [usize; 4],
    /// `[B, P]`: which slots hold tokens; none is all.
    pub mask: Option<Vec<bool>>,
    /// L of them.
    pub layers: Vec<LayerKeyValues>,
}

impl PastKeyValues {
    /// P.
    pub fn length(&self) -> usize {
        self.shape[2]
    }
}

/// Keys and values of one layer, `[B, G, P, D]` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerKeyValues {
    /// Keys.
    pub keys: Vec<f32>,
    /// Values.
    pub values: Vec<f32>,
}

/// Which slots of each row get logits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogitsToKeep {
    /// All.
    #[default]
    All,
    /// The last ones.
    Last(usize),
    /// These, in this order.
    Slots(Vec<usize>),
}

/// What a forward pass runs on and what it returns beside logits, positions and the tower's
/// tensors.
#[derive(Clone, Debug, Default)]
pub struct ForwardOptions {
    /// The device.
    pub device: DeviceChoice,
    /// What the model computes in; none is the checkpoint's own type.
    pub dtype: Option<FloatType>,
    /// How the seconds of videos become positions of Qwen2.5-VL.
    pub time_rule: TimeRule,
    /// `hidden_states/0` to `hidden_states/L`.
    pub hidden_states: bool,
    /// `attentions/0` to `attentions/L-1`, by kernels of their own.
    pub attentions: bool,
    /// `past/i/keys`, `past/i/values` and the mask of their slots.
    pub key_values: bool,
    /// `image_features/i`, `video_features/i`: the tower's rows of each item.
    pub vision_features: bool,
    /// A JSON file of settings: in place of `config.json` if it has a `model_type`, else laid over
    /// it key by key.
    pub config: Option<PathBuf>,
    /// Stateful rotary types follow the longest row of the batch, as in the reference, and not each
    /// row its own length.
    pub batch_rope_length: bool,
}

impl ForwardOptions {
    pub(super) fn read_config(&self, folder: &Path) -> Result<ModelConfig, ConfigError> {
        let config = match &self.config {
            None => ModelConfig::load(folder),
            Some(file) => ModelConfig::load_over(folder, file),
        };
        Ok(config?.with_time_rule(self.time_rule))
    }
}
