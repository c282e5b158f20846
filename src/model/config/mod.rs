//! `config.json` of Qwen2-VL and Qwen2.5-VL in both layouts, every field checked (docs/spec.md, section 1).
//!
//! A value that would change the result and is not built is a [`ConfigError::Unsupported`] that
//! names its key; nothing is ignored silently but what the reference ignores too. This module
//! knows no device: prompts are made without one.

pub(super) mod fields;
mod layers;
mod rope;
mod vision;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

pub use fields::ConfigError;
pub use rope::RopeScaling;
pub use vision::{Family, TimeRule, VISION_HEAD_DIMS, VisionConfig, WindowedConfig};

use self::{fields::Fields, rope::RopeFields};
use crate::units::{Activation, FloatType, TokenId, Tokens};

/// Name of the file inside a checkpoint folder.
pub const CONFIG_FILE: &str = "config.json";
/// Most layers of a model: settings of each are held before a weight file is opened.
const MOST_LAYERS: usize = 65_536;
/// Widths of a decoder head that the kernels are built for.
pub const TEXT_HEAD_DIMS: [usize; 3] = [32, 64, 128];

/// All settings of a checkpoint that its forward pass depends on.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// The architecture.
    pub family: Family,
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
    /// What becomes of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// For each layer the tokens that a row sees, itself included; `None`: all up to itself.
    pub windows: Vec<Option<Tokens>>,
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

    /// Reads another file of settings for a checkpoint folder: in place of `config.json` if it has a
    /// `model_type`, else its keys lie over those of `config.json`, and the keys of its
    /// `text_config` and `vision_config` over those of the same objects there.
    ///
    /// # Errors
    /// As [`ModelConfig::load`]; errors of values name `file`.
    pub fn load_over(folder: &Path, file: &Path) -> Result<Self, ConfigError> {
        let over = fields::read_object(file)?;
        if over.contains_key("model_type") {
            return Self::from_object(&over, file);
        }
        let mut object = fields::read_object(&folder.join(CONFIG_FILE))?;
        fields::lay_over(&mut object, over);
        Self::from_object(&object, file)
    }

    /// Reads the content of a `config.json`; `file` is the name that errors show.
    ///
    /// # Errors
    /// As [`ModelConfig::load`].
    pub fn parse(json: &[u8], file: &Path) -> Result<Self, ConfigError> {
        Self::from_object(&fields::parse_object(json, file)?, file)
    }

    /// The same with another rule for the seconds of videos; of Qwen2-VL, which counts frames, the
    /// same.
    #[must_use]
    pub fn with_time_rule(mut self, rule: TimeRule) -> Self {
        if let Some(windowed) = &mut self.vision.windowed {
            windowed.time = rule;
        }
        self
    }

    fn from_object(object: &Map<String, Value>, file: &Path) -> Result<Self, ConfigError> {
        let top = Fields::new(file, object);
        let family = family(&top)?;
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
        let vision = VisionConfig::read(&vision_fields, family)?;
        if vision.hidden_size != text.hidden_size {
            let rule = "the merger's rows and the token rows must have one width";
            return Err(vision_fields.conflict(
                VisionConfig::hidden_size_key(family),
                ("hidden_size of the text", text.hidden_size),
                rule,
            ));
        }
        let tokens = VisionTokens::read(&top, &text_fields)?;
        let stored_type = match stored_type(&top)? {
            Some(given) => Some(given),
            None => stored_type(&text_fields)?,
        };
        Ok(Self { family, text, vision, tokens, stored_type, warnings })
    }
}

fn family(top: &Fields<'_>) -> Result<Family, ConfigError> {
    match top.text("model_type")? {
        Some("qwen2_vl") => Ok(Family::Qwen2Vl),
        Some("qwen2_5_vl") => Ok(Family::Qwen25Vl),
        Some(_) => Err(top.unsupported("model_type", "qwen2_vl and qwen2_5_vl")),
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
        if num_hidden_layers > MOST_LAYERS {
            return Err(fields.invalid("num_hidden_layers", "a model has at most 65,536 layers"));
        }
        let windows = layers::windows(fields, num_hidden_layers)?;
        let max_position_embeddings = fields.positive("max_position_embeddings", 32_768)?;
        let rope = RopeFields::read(fields)?;
        let (kind, mrope_section) = rope.check(fields, head_dim, warnings)?;
        let rope_scaling = rope.scaling(fields, kind, head_dim, max_position_embeddings)?;
        let config = Self {
            vocab_size: fields.positive("vocab_size", 152_064)?,
            hidden_size,
            intermediate_size: fields.positive("intermediate_size", 29_568)?,
            num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: kv_heads,
            head_dim,
            max_position_embeddings,
            rms_norm_eps: epsilon(fields)?,
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            rope_theta: rope.theta(fields)?,
            mrope_section,
            rope_scaling,
            windows,
        };
        rope.check_frequencies(&config)?;
        Ok(config)
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
        Some(Value::String(name)) if Activation::of_name(name) == Activation::of_name(built) => {
            Ok(())
        }
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

#[cfg(test)]
mod tests;
