//! `vision_config` of both families: the towers differ, and so do the names of their settings.

use serde_json::Value;

use super::{ConfigError, Fields, check_activation};
use crate::units::Activation;

/// Widths of a vision head that the kernels are built for.
pub const VISION_HEAD_DIMS: [usize; 3] = [32, 64, 80];

/// Which of the two architectures a checkpoint has (docs/spec.md, section 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `qwen2_vl`.
    Qwen2Vl,
    /// `qwen2_5_vl`: another tower, and videos that know how fast they are.
    Qwen25Vl,
}

impl Family {
    /// Its `model_type`.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Qwen2Vl => "qwen2_vl",
            Self::Qwen25Vl => "qwen2_5_vl",
        }
    }
}

/// `Qwen2-VL`, `Qwen2.5-VL`.
impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Qwen2Vl => "Qwen2-VL",
            Self::Qwen25Vl => "Qwen2.5-VL",
        })
    }
}

/// Settings of the vision tower; field names are those of `vision_config` of Qwen2-VL.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Channels of a patch row; `hidden_size` of Qwen2.5-VL.
    pub embed_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of a head, `embed_dim / num_heads`: 32, 64 or 80.
    pub head_dim: usize,
    /// Width of the feed-forward layer: `int(embed_dim * mlp_ratio)`, or `intermediate_size` of
    /// Qwen2.5-VL.
    pub mlp_width: usize,
    /// Channels of a merged row, the language model's `hidden_size`; `out_hidden_size` of
    /// Qwen2.5-VL.
    pub hidden_size: usize,
    /// Colour channels: 3.
    pub in_channels: usize,
    /// Pixels along each side of a patch.
    pub patch_size: usize,
    /// Patches along each side of a merged patch.
    pub spatial_merge_size: usize,
    /// Frames of a patch.
    pub temporal_patch_size: usize,
    /// Values of a patch row, `in_channels * temporal_patch_size * patch_size^2`.
    pub patch_width: usize,
    /// Channels of the rows that the merger reads, `embed_dim * spatial_merge_size^2`.
    pub merged_width: usize,
    /// `hidden_act`: between the layers of the feed-forward layer; of the gate in Qwen2.5-VL.
    pub activation: Activation,
    /// The tower of Qwen2.5-VL; `None` is that of Qwen2-VL.
    pub windowed: Option<WindowedConfig>,
}

/// What the tower of Qwen2.5-VL has beside: windows, RMSNorm, SwiGLU.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowedConfig {
    /// Merged patches along each side of a window, `window_size / spatial_merge_size / patch_size`.
    pub window: usize,
    /// Blocks whose attention sees the whole frame: `fullatt_block_indexes`.
    pub full_blocks: Vec<usize>,
    /// Positions of a second of video.
    pub tokens_per_second: f64,
    /// How seconds become positions; no setting of the file.
    pub time: TimeRule,
}

/// How the seconds between two groups of frames become positions (docs/spec.md, section 16.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimeRule {
    /// Seconds are cut to whole ones first, as the reference does it.
    #[default]
    Reference,
    /// The product is cut, as the model was trained.
    Exact,
}

impl VisionConfig {
    pub(super) fn read(fields: &Fields<'_>, family: Family) -> Result<Self, ConfigError> {
        let (width_key, width, rule) = match family {
            Family::Qwen2Vl => ("embed_dim", 1280, "embed_dim must be divisible by num_heads"),
            Family::Qwen25Vl => ("hidden_size", 3584, "hidden_size must be divisible by num_heads"),
        };
        let embed_dim = fields.positive(width_key, width)?;
        let num_heads = fields.positive("num_heads", 16)?;
        if !embed_dim.is_multiple_of(num_heads) {
            return Err(fields.conflict(width_key, ("num_heads", num_heads), rule));
        }
        let head_dim = embed_dim / num_heads;
        if !VISION_HEAD_DIMS.contains(&head_dim) {
            let have = match family {
                Family::Qwen2Vl => "embed_dim / num_heads of 32, 64 or 80",
                Family::Qwen25Vl => "hidden_size / num_heads of 32, 64 or 80",
            };
            return Err(fields.unsupported("num_heads", have));
        }
        let in_channels = fields.positive("in_channels", 3)?;
        if in_channels != 3 {
            return Err(fields.invalid("in_channels", "pictures have 3 channels"));
        }
        let patch_size = fields.positive("patch_size", 14)?;
        let spatial_merge_size = fields.positive("spatial_merge_size", 2)?;
        let temporal_patch_size = fields.positive("temporal_patch_size", 2)?;
        let patch_width = product(&[in_channels, temporal_patch_size, patch_size, patch_size])
            .ok_or_else(|| fields.invalid("patch_size", "a patch row is too wide"))?;
        let merged_width = product(&[embed_dim, spatial_merge_size, spatial_merge_size])
            .ok_or_else(|| fields.invalid("spatial_merge_size", "a merged row is too wide"))?;
        let depth = fields.positive("depth", 32)?;
        let mut activation = Activation::Silu;
        let (mlp_width, hidden_size, windowed) = match family {
            Family::Qwen2Vl => {
                activation = read_activation(fields)?;
                let hidden_size = fields.positive("hidden_size", 3584)?;
                (mlp_width(fields, embed_dim)?, hidden_size, None)
            }
            Family::Qwen25Vl => {
                check_activation(fields, "silu")?;
                let cell = spatial_merge_size.saturating_mul(patch_size);
                let windowed = WindowedConfig::read(fields, cell)?;
                let hidden_size = fields.positive("out_hidden_size", 3584)?;
                (fields.positive("intermediate_size", 3420)?, hidden_size, Some(windowed))
            }
        };
        Ok(Self {
            depth,
            embed_dim,
            num_heads,
            head_dim,
            mlp_width,
            hidden_size,
            in_channels,
            patch_size,
            spatial_merge_size,
            temporal_patch_size,
            patch_width,
            merged_width,
            activation,
            windowed,
        })
    }

    /// The key of `hidden_size` in the file of a family.
    pub(super) fn hidden_size_key(family: Family) -> &'static str {
        match family {
            Family::Qwen2Vl => "hidden_size",
            Family::Qwen25Vl => "out_hidden_size",
        }
    }
}

impl WindowedConfig {
    /// `cell` is the side of a merged patch in pixels.
    fn read(fields: &Fields<'_>, cell: usize) -> Result<Self, ConfigError> {
        let window = fields.positive("window_size", 112)? / cell;
        if window == 0 {
            return Err(fields.invalid("window_size", "a window must hold a merged patch"));
        }
        let full_blocks = match fields.raw("fullatt_block_indexes") {
            None => vec![7, 15, 23, 31],
            Some(Value::Array(list)) => {
                let index = |value: &Value| value.as_u64().and_then(|i| usize::try_from(i).ok());
                let list: Option<Vec<usize>> = list.iter().map(index).collect();
                list.ok_or_else(|| {
                    fields.wrong_type("fullatt_block_indexes", "a list of block numbers")
                })?
            }
            Some(_) => {
                let expected = "a list of block numbers";
                return Err(fields.wrong_type("fullatt_block_indexes", expected));
            }
        };
        let tokens_per_second = match fields.number("tokens_per_second")? {
            None => 4.0,
            Some(rate) if (0.0..=1e6).contains(&rate) => rate,
            Some(_) => return Err(fields.invalid("tokens_per_second", "it must be a rate")),
        };
        Ok(Self { window, full_blocks, tokens_per_second, time: TimeRule::default() })
    }
}

fn read_activation(fields: &Fields<'_>) -> Result<Activation, ConfigError> {
    match fields.raw("hidden_act") {
        None => Ok(Activation::QuickGelu),
        Some(Value::String(name)) => Activation::of_name(name).ok_or_else(|| {
            let have =
                "quick_gelu, the gelu family, silu, the relu family, sigmoid, tanh, mish, linear";
            fields.unsupported("hidden_act", have)
        }),
        Some(_) => Err(fields.wrong_type("hidden_act", "a text")),
    }
}

/// `int(embed_dim * mlp_ratio)`.
fn mlp_width(fields: &Fields<'_>, embed_dim: usize) -> Result<usize, ConfigError> {
    let ratio = match fields.raw("mlp_ratio") {
        None => 4.0,
        Some(_) => fields
            .number("mlp_ratio")?
            .ok_or_else(|| fields.wrong_type("mlp_ratio", "a finite number"))?,
    };
    #[expect(clippy::cast_precision_loss, reason = "embed_dim is below 2^31")]
    let width = (embed_dim as f64 * ratio).floor();
    if !(1.0..=f64::from(i32::MAX)).contains(&width) {
        return Err(fields.invalid("mlp_ratio", "embed_dim * mlp_ratio must be a width"));
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 1 and 2^31 - 1"
    )]
    Ok(width as usize)
}

/// Product that stays a 32-bit dimension.
fn product(factors: &[usize]) -> Option<usize> {
    let product =
        factors.iter().try_fold(1usize, |product, factor| product.checked_mul(*factor))?;
    i32::try_from(product).is_ok().then_some(product)
}
