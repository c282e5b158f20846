//! `config.json` of Qwen2-VL in both layouts, every field checked (docs/spec.md, section 1).
//!
//! A value that would change the result and is not built is a [`ConfigError::Unsupported`] that
//! names its key; nothing is ignored silently but what the reference ignores too. This module
//! knows no device: prompts are made without one.

pub(super) mod fields;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

pub use fields::ConfigError;

use self::fields::{Fields, count_of};
use crate::units::{FloatType, TokenId};

/// Name of the file inside a checkpoint folder.
pub const CONFIG_FILE: &str = "config.json";
/// Widths of a vision head that the kernels are built for.
pub const VISION_HEAD_DIMS: [usize; 3] = [32, 64, 80];
/// Widths of a decoder head that the kernels are built for.
pub const TEXT_HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// All settings of a checkpoint that its forward pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The language model.
    pub text: TextConfig,
    /// The vision tower.
    pub vision: VisionConfig,
    /// Special tokens of the vocabulary.
    pub tokens: VisionTokens,
    /// Storage type that the file announces; the tensors' own types decide.
    pub stored_type: Option<FloatType>,
    /// What was odd and had no effect.
    pub warnings: Vec<ConfigWarning>,
}

/// Placeholders and marks of pictures and videos in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VisionTokens {
    /// Placeholder of one visual token of a picture.
    pub image: TokenId,
    /// Placeholder of one visual token of a video.
    pub video: TokenId,
    /// Stands before the placeholders.
    pub start: TokenId,
    /// Stands after the placeholders.
    pub end: TokenId,
}

/// Settings of the language model; field names are those of `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct TextConfig {
    /// Rows of the embedding table and of the head.
    pub vocab_size: usize,
    /// Channels of a token row.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_key_value_heads: usize,
    /// Width of a head, `hidden_size / num_attention_heads`: 32, 64 or 128.
    pub head_dim: usize,
    /// Positions that the model was trained for; a longer prompt only warns.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every norm.
    pub rms_norm_eps: f32,
    /// Whether the head is the embedding table.
    pub tie_word_embeddings: bool,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Frequencies that turn by time, height and width; their sum is `head_dim / 2`.
    pub mrope_section: [usize; 3],
}

/// Settings of the vision tower; field names are those of `vision_config`.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// Blocks.
    pub depth: usize,
    /// Channels of a patch row.
    pub embed_dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Width of a head, `embed_dim / num_heads`: 32, 64 or 80.
    pub head_dim: usize,
    /// Width of the feed-forward layer, `int(embed_dim * mlp_ratio)`.
    pub mlp_width: usize,
    /// Channels of a merged row: the language model's `hidden_size`.
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
}

/// A setting that has no effect and probably should.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigWarning {
    /// A key that nothing reads.
    UnknownKey {
        /// The file.
        file: PathBuf,
        /// Dotted path of the key.
        key: String,
    },
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey { file, key } => {
                let key = key.escape_debug();
                write!(f, "{}: unknown key {key} has no effect", file.display())
            }
        }
    }
}

impl ModelConfig {
    /// Reads `config.json` of a checkpoint folder.
    ///
    /// # Errors
    /// [`ConfigError`], which names the file, and for a bad value its key and the value.
    pub fn load(folder: &Path) -> Result<Self, ConfigError> {
        let file = folder.join(CONFIG_FILE);
        Self::from_object(&fields::read_object(&file)?, &file)
    }

    /// Reads the content of a `config.json`; `file` is the name that errors show.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn parse(json: &[u8], file: &Path) -> Result<Self, ConfigError> {
        Self::from_object(&fields::parse_object(json, file)?, file)
    }

    fn from_object(object: &Map<String, Value>, file: &Path) -> Result<Self, ConfigError> {
        let top = Fields::new(file, object);
        check_model_type(&top)?;
        if top.set("quantization_config").is_some() {
            return Err(top.unsupported("quantization_config", "unquantised weights"));
        }
        // With a `text_config` it alone counts, even for keys that stand only at the top level.
        let text_fields = match top.object("text_config")? {
            Some(inner) => top.inner("text_config.", inner),
            None => top,
        };
        let empty = Map::new();
        let vision_object = top.object("vision_config")?.unwrap_or(&empty);
        let vision_fields = top.inner("vision_config.", vision_object);
        let mut warnings = Vec::new();
        let text = TextConfig::read(&text_fields, &mut warnings)?;
        let vision = VisionConfig::read(&vision_fields)?;
        if vision.hidden_size != text.hidden_size {
            let rule = "the merger's rows and the token rows must have one width";
            return Err(vision_fields.conflict(
                "hidden_size",
                ("hidden_size of the text", text.hidden_size),
                rule,
            ));
        }
        let tokens = VisionTokens::read(&top, &text_fields)?;
        let stored_type = match stored_type(&top)? {
            Some(given) => Some(given),
            None => stored_type(&text_fields)?,
        };
        Ok(Self { text, vision, tokens, stored_type, warnings })
    }
}

fn check_model_type(top: &Fields<'_>) -> Result<(), ConfigError> {
    match top.text("model_type")? {
        Some("qwen2_vl") => Ok(()),
        Some(_) => Err(top.unsupported("model_type", "qwen2_vl")),
        None => Err(top.missing("model_type")),
    }
}

impl VisionTokens {
    fn read(top: &Fields<'_>, text: &Fields<'_>) -> Result<Self, ConfigError> {
        let token = |key: &str, default: u32| -> Result<TokenId, ConfigError> {
            let given = match top.token(key)? {
                Some(id) => Some(id),
                None => text.token(key)?,
            };
            Ok(given.unwrap_or(TokenId(default)))
        };
        Ok(Self {
            image: token("image_token_id", 151_655)?,
            video: token("video_token_id", 151_656)?,
            start: token("vision_start_token_id", 151_652)?,
            end: token("vision_end_token_id", 151_653)?,
        })
    }
}

/// `dtype`, or `torch_dtype` as it was once called.
fn stored_type(fields: &Fields<'_>) -> Result<Option<FloatType>, ConfigError> {
    let key = if fields.set("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match fields.text(key)? {
        None => Ok(None),
        Some("float32") => Ok(Some(FloatType::F32)),
        Some("bfloat16") => Ok(Some(FloatType::Bf16)),
        Some("float16") => Ok(Some(FloatType::F16)),
        Some(_) => Err(fields.invalid(key, "it must be float32, bfloat16 or float16")),
    }
}

impl TextConfig {
    fn read(fields: &Fields<'_>, warnings: &mut Vec<ConfigWarning>) -> Result<Self, ConfigError> {
        let hidden_size = fields.positive("hidden_size", 8192)?;
        let heads = fields.positive("num_attention_heads", 64)?;
        if !hidden_size.is_multiple_of(heads) {
            let rule = "hidden_size must be divisible by num_attention_heads";
            return Err(fields.conflict("hidden_size", ("num_attention_heads", heads), rule));
        }
        let head_dim = hidden_size / heads;
        let kv_heads = match fields.raw("num_key_value_heads") {
            Some(Value::Null) => heads,
            _ => fields.positive("num_key_value_heads", 8)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            let rule = "num_attention_heads must be a multiple of num_key_value_heads";
            let other = ("num_key_value_heads", kv_heads);
            return Err(fields.conflict("num_attention_heads", other, rule));
        }
        check_head_dim(fields, head_dim)?;
        check_activation(fields, "silu")?;
        let num_hidden_layers = fields.positive("num_hidden_layers", 80)?;
        check_layers(fields, num_hidden_layers)?;
        let rope = RopeFields::read(fields)?;
        let mrope_section = rope.check(fields, head_dim, warnings)?;
        Ok(Self {
            vocab_size: fields.positive("vocab_size", 152_064)?,
            hidden_size,
            intermediate_size: fields.positive("intermediate_size", 29_568)?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            max_position_embeddings: fields.positive("max_position_embeddings", 32_768)?,
            rms_norm_eps: epsilon(fields)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            rope_theta: rope.theta(fields)?,
            mrope_section,
        })
    }

    /// Rows of the query projection.
    pub fn query_width(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Rows of the key projection, and of the value projection.
    pub fn kv_width(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }
}

fn check_head_dim(fields: &Fields<'_>, head_dim: usize) -> Result<(), ConfigError> {
    if let Some(given) = fields.count("head_dim")?
        && given != head_dim
    {
        let rule = "head_dim must be the quotient";
        let other = ("hidden_size / num_attention_heads", head_dim);
        return Err(fields.conflict("head_dim", other, rule));
    }
    if let Some(factor) = fields.number("partial_rotary_factor")?
        && factor != 1.0
    {
        return Err(fields.unsupported("partial_rotary_factor", "1"));
    }
    if TEXT_HEAD_DIMS.contains(&head_dim) {
        return Ok(());
    }
    let have = "hidden_size / num_attention_heads of 32, 64 or 128";
    Err(fields.unsupported("num_attention_heads", have))
}

fn check_activation(fields: &Fields<'_>, built: &'static str) -> Result<(), ConfigError> {
    match fields.raw("hidden_act") {
        None => Ok(()),
        Some(Value::String(name)) if name == built => Ok(()),
        Some(Value::String(_)) => Err(fields.unsupported("hidden_act", built)),
        Some(_) => Err(fields.wrong_type("hidden_act", "a text")),
    }
}

fn epsilon(fields: &Fields<'_>) -> Result<f32, ConfigError> {
    match fields.number("rms_norm_eps")? {
        None => Ok(1e-5),
        Some(eps) if (0.0..=1.0).contains(&eps) =>
        {
            #[expect(clippy::cast_possible_truncation, reason = "rounds to the kernels' type")]
            Ok(eps as f32)
        }
        Some(_) => Err(fields.invalid("rms_norm_eps", "it must lie between 0 and 1")),
    }
}

/// Refuses every form of sliding window that would reach a layer (docs/spec.md, section 1.5).
fn check_layers(fields: &Fields<'_>, layers: usize) -> Result<(), ConfigError> {
    let windowed = fields.flag("use_sliding_window")?.unwrap_or(false);
    if windowed {
        match fields.raw("sliding_window") {
            None | Some(Value::Null) => {}
            Some(value) if count_of(value).is_some_and(|window| window > 0) => {}
            Some(_) => {
                return Err(fields.invalid("sliding_window", "sliding_window must be positive"));
            }
        }
    }
    let Some(types) = fields.set("layer_types") else {
        let null = matches!(fields.raw("sliding_window"), Some(Value::Null));
        let first = fields.count("max_window_layers")?.unwrap_or(80);
        if windowed && !null && first < layers {
            let have = "false, or max_window_layers of at least num_hidden_layers";
            return Err(fields.unsupported("use_sliding_window", have));
        }
        return Ok(());
    };
    let Value::Array(types) = types else {
        return Err(fields.wrong_type("layer_types", "a list of texts"));
    };
    if types.len() != layers {
        let rule = "layer_types must have one entry for each layer";
        return Err(fields.conflict("layer_types", ("num_hidden_layers", layers), rule));
    }
    for entry in types {
        match entry.as_str() {
            Some("full_attention") => {}
            Some("sliding_attention") => {
                return Err(fields.unsupported("layer_types", "full_attention"));
            }
            _ => return Err(fields.invalid("layer_types", "it holds an unknown layer type")),
        }
    }
    Ok(())
}

/// `rope_scaling`, or the `rope_parameters` of later library versions.
struct RopeFields<'a> {
    fields: Fields<'a>,
    later_layout: bool,
}

impl<'a> RopeFields<'a> {
    fn read(text: &Fields<'a>) -> Result<Self, ConfigError> {
        if let Some(object) = text.object("rope_scaling")? {
            let fields = text.inner("rope_scaling.", object);
            return Ok(Self { fields, later_layout: false });
        }
        match text.object("rope_parameters")? {
            Some(object) => {
                let fields = text.inner("rope_parameters.", object);
                Ok(Self { fields, later_layout: true })
            }
            None => Err(text.missing("rope_scaling")),
        }
    }

    fn theta(&self, text: &Fields<'_>) -> Result<f64, ConfigError> {
        let inner = self.later_layout && self.fields.set("rope_theta").is_some();
        let fields = if inner { &self.fields } else { text };
        match fields.number("rope_theta")? {
            None => Ok(1e6),
            // f32 is what the reference raises to a power.
            Some(theta) if theta > 0.0 && theta <= f64::from(f32::MAX) => Ok(theta),
            Some(_) => Err(fields.invalid("rope_theta", "it must be a positive number")),
        }
    }

    /// Checks type, required keys and sections (docs/spec.md, section 1.4).
    fn check(
        &self,
        text: &Fields<'_>,
        head_dim: usize,
        warnings: &mut Vec<ConfigWarning>,
    ) -> Result<[usize; 3], ConfigError> {
        let fields = &self.fields;
        let key = if fields.raw("type").is_some() { "type" } else { "rope_type" };
        let given = match fields.raw(key) {
            Some(_) => fields.text(key)?.ok_or_else(|| fields.wrong_type(key, "a text"))?,
            None => return Err(fields.missing("rope_type")),
        };
        let required: &[&str] = match given {
            "mrope" | "default" => &[],
            "linear" | "dynamic" | "yarn" => &["factor"],
            "longrope" if text.set("original_max_position_embeddings").is_some() => {
                &["short_factor", "long_factor"]
            }
            "longrope" => &["short_factor", "long_factor", "factor"],
            "llama3" => &[
                "factor",
                "original_max_position_embeddings",
                "low_freq_factor",
                "high_freq_factor",
            ],
            _ => return Err(fields.invalid(key, "it is an unsupported rope_type")),
        };
        if let Some(absent) = required.iter().find(|required| fields.set(required).is_none()) {
            return Err(fields.missing(absent));
        }
        if !required.is_empty() {
            return Err(fields.unsupported(key, "mrope and default"));
        }
        for unknown in fields.keys().filter(|key| !self.is_known(key)) {
            let (file, key) = (text.file().to_owned(), fields.path(unknown));
            warnings.push(ConfigWarning::UnknownKey { file, key });
        }
        self.sections(head_dim)
    }

    fn is_known(&self, key: &str) -> bool {
        matches!(key, "type" | "rope_type" | "mrope_section")
            || (self.later_layout && key == "rope_theta")
    }

    fn sections(&self, head_dim: usize) -> Result<[usize; 3], ConfigError> {
        let fields = &self.fields;
        let entries = match fields.set("mrope_section") {
            None => return Err(fields.missing("mrope_section")),
            Some(Value::Array(entries)) => entries.iter().map(count_of).collect(),
            Some(_) => None,
        };
        let Some(sections) = entries.and_then(|list: Vec<_>| <[usize; 3]>::try_from(list).ok())
        else {
            return Err(fields.wrong_type("mrope_section", "a list of three counts"));
        };
        // Three counts below 2^31 cannot overflow.
        if sections.iter().sum::<usize>() != head_dim / 2 {
            let rule = "mrope_section must sum to head_dim/2";
            return Err(fields.conflict("mrope_section", ("head_dim", head_dim), rule));
        }
        Ok(sections)
    }
}

impl VisionConfig {
    fn read(fields: &Fields<'_>) -> Result<Self, ConfigError> {
        let embed_dim = fields.positive("embed_dim", 1280)?;
        let num_heads = fields.positive("num_heads", 16)?;
        if !embed_dim.is_multiple_of(num_heads) {
            let rule = "embed_dim must be divisible by num_heads";
            return Err(fields.conflict("embed_dim", ("num_heads", num_heads), rule));
        }
        let head_dim = embed_dim / num_heads;
        if !VISION_HEAD_DIMS.contains(&head_dim) {
            let have = "embed_dim / num_heads of 32, 64 or 80";
            return Err(fields.unsupported("num_heads", have));
        }
        check_activation(fields, "quick_gelu")?;
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
        Ok(Self {
            depth: fields.positive("depth", 32)?,
            embed_dim,
            num_heads,
            head_dim,
            mlp_width: mlp_width(fields, embed_dim)?,
            hidden_size: fields.positive("hidden_size", 3584)?,
            in_channels,
            patch_size,
            spatial_merge_size,
            temporal_patch_size,
            patch_width,
            merged_width,
        })
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

#[cfg(test)]
mod tests;
