//! Names and shapes of all tensors of a model, and both naming schemes brought to one
//! (docs/spec.md, sections 2.2 and 2.3).
//!
//! Everywhere else a tensor is called by its published name: `visual.…`, `model.…`,
//! `lm_head.weight`.

use super::config::{ModelConfig, TextConfig, VisionConfig};

/// The patch embedding, a convolution without bias.
pub const PATCH_EMBED: &str = "visual.patch_embed.proj.weight";
/// The embedding table.
pub const EMBED: &str = "model.embed_tokens.weight";
/// The norm after the last layer.
pub const NORM: &str = "model.norm.weight";
/// The head; absent where it is the embedding table.
pub const HEAD: &str = "lm_head.weight";

/// A tensor that a model must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Published name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
}

/// The published name of a stored tensor; `None` for buffers that old files hold and nothing
/// reads.
///
/// Files of later library versions say `model.visual.…` and `model.language_model.…`, those of a
/// base model `language_model.…`.
pub fn published(stored: &str) -> Option<String> {
    if stored.ends_with("rotary_emb.inv_freq") || stored.ends_with("rotary_pos_emb.inv_freq") {
        return None;
    }
    let inner = stored.strip_prefix("model.").unwrap_or(stored);
    if let Some(rest) = inner.strip_prefix("language_model.") {
        return Some(format!("model.{rest}"));
    }
    if inner.starts_with("visual.") {
        return Some(inner.to_owned());
    }
    Some(stored.to_owned())
}

/// All tensors of a model, made one by one: a configuration may claim any number of layers.
pub fn expected(config: &ModelConfig) -> impl Iterator<Item = Expected> {
    let (vision, text) = (&config.vision, &config.text);
    let head = (!text.tie_word_embeddings)
        .then(|| one(HEAD.to_owned(), &[text.vocab_size, text.hidden_size]));
    vision_head(vision)
        .into_iter()
        .chain((0..vision.depth).flat_map(|block| vision_block_tensors(vision, block)))
        .chain(merger_tensors(vision))
        .chain([one(EMBED.to_owned(), &[text.vocab_size, text.hidden_size])])
        .chain((0..text.num_hidden_layers).flat_map(|layer| text_layer_tensors(text, layer)))
        .chain([one(NORM.to_owned(), &[text.hidden_size])])
        .chain(head)
}

/// Tensors of everything but the repeated blocks and layers.
pub(super) fn expected_once(config: &ModelConfig) -> impl Iterator<Item = Expected> {
    let mut single = config.clone();
    (single.vision.depth, single.text.num_hidden_layers) = (0, 0);
    expected(&single).collect::<Vec<_>>().into_iter()
}

/// Name of a tensor of a vision block.
pub(super) fn vision_block(block: usize, tensor: &str) -> String {
    format!("visual.blocks.{block}.{tensor}")
}

/// Name of a tensor of the merger.
pub(super) fn merger(tensor: &str) -> String {
    format!("visual.merger.{tensor}")
}

/// Name of a tensor of a decoder layer.
pub(super) fn text_layer(layer: usize, tensor: &str) -> String {
    format!("model.layers.{layer}.{tensor}")
}

fn one(name: String, shape: &[usize]) -> Expected {
    Expected { name, shape: shape.to_vec() }
}

fn vision_head(vision: &VisionConfig) -> [Expected; 1] {
    let (patch, frames) = (vision.patch_size, vision.temporal_patch_size);
    let shape = [vision.embed_dim, vision.in_channels, frames, patch, patch];
    [one(PATCH_EMBED.to_owned(), &shape)]
}

/// The twelve tensors of one vision block: two norms, an attention, a feed-forward layer. In the
/// windowed tower norms have no bias, and the feed-forward layer a gate.
pub(super) fn vision_block_tensors(vision: &VisionConfig, block: usize) -> [Expected; 12] {
    let (channels, width) = (vision.embed_dim, vision.mlp_width);
    let qkv = channels.saturating_mul(3);
    let attention: [(&str, &[usize]); 4] = [
        ("attn.qkv.weight", &[qkv, channels]),
        ("attn.qkv.bias", &[qkv]),
        ("attn.proj.weight", &[channels, channels]),
        ("attn.proj.bias", &[channels]),
    ];
    let others: [(&str, &[usize]); 8] = match vision.windowed {
        None => [
            ("norm1.weight", &[channels]),
            ("norm1.bias", &[channels]),
            ("norm2.weight", &[channels]),
            ("norm2.bias", &[channels]),
            ("mlp.fc1.weight", &[width, channels]),
            ("mlp.fc1.bias", &[width]),
            ("mlp.fc2.weight", &[channels, width]),
            ("mlp.fc2.bias", &[channels]),
        ],
        Some(_) => [
            ("norm1.weight", &[channels]),
            ("norm2.weight", &[channels]),
            ("mlp.gate_proj.weight", &[width, channels]),
            ("mlp.gate_proj.bias", &[width]),
            ("mlp.up_proj.weight", &[width, channels]),
            ("mlp.up_proj.bias", &[width]),
            ("mlp.down_proj.weight", &[channels, width]),
            ("mlp.down_proj.bias", &[channels]),
        ],
    };
    let [a, b, c, d] = attention;
    let [e, f, g, h, i, j, k, l] = others;
    let shapes = [a, b, c, d, e, f, g, h, i, j, k, l];
    shapes.map(|(tensor, shape)| one(vision_block(block, tensor), shape))
}

fn merger_tensors(vision: &VisionConfig) -> Vec<Expected> {
    let (channels, merged) = (vision.embed_dim, vision.merged_width);
    let shapes: [(&str, &[usize]); 6] = [
        ("ln_q.weight", &[channels]),
        ("ln_q.bias", &[channels]),
        ("mlp.0.weight", &[merged, merged]),
        ("mlp.0.bias", &[merged]),
        ("mlp.2.weight", &[vision.hidden_size, merged]),
        ("mlp.2.bias", &[vision.hidden_size]),
    ];
    let shapes = shapes.into_iter();
    let kept = shapes.filter(|(tensor, _)| vision.windowed.is_none() || *tensor != "ln_q.bias");
    kept.map(|(tensor, shape)| one(merger(tensor), shape)).collect()
}

/// The twelve tensors of one decoder layer.
pub(super) fn text_layer_tensors(text: &TextConfig, layer: usize) -> [Expected; 12] {
    let (channels, width) = (text.hidden_size, text.intermediate_size);
    let (query, kv) = (text.query_width(), text.kv_width());
    let shapes: [(&str, &[usize]); 12] = [
        ("input_layernorm.weight", &[channels]),
        ("self_attn.q_proj.weight", &[query, channels]),
        ("self_attn.q_proj.bias", &[query]),
        ("self_attn.k_proj.weight", &[kv, channels]),
        ("self_attn.k_proj.bias", &[kv]),
        ("self_attn.v_proj.weight", &[kv, channels]),
        ("self_attn.v_proj.bias", &[kv]),
        ("self_attn.o_proj.weight", &[channels, query]),
        ("post_attention_layernorm.weight", &[channels]),
        ("mlp.gate_proj.weight", &[width, channels]),
        ("mlp.up_proj.weight", &[width, channels]),
        ("mlp.down_proj.weight", &[channels, width]),
    ];
    shapes.map(|(tensor, shape)| one(text_layer(layer, tensor), shape))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemes_and_base_models_lead_to_the_published_name() {
        let cases = [
            ("visual.merger.ln_q.weight", Some("visual.merger.ln_q.weight")),
            ("model.visual.merger.ln_q.weight", Some("visual.merger.ln_q.weight")),
            ("model.norm.weight", Some("model.norm.weight")),
            ("model.language_model.norm.weight", Some("model.norm.weight")),
            ("language_model.norm.weight", Some("model.norm.weight")),
            ("lm_head.weight", Some("lm_head.weight")),
            ("model.layers.0.self_attn.rotary_emb.inv_freq", None),
            ("visual.rotary_pos_emb.inv_freq", None),
        ];
        for (stored, name) in cases {
            assert_eq!(published(stored).as_deref(), name, "{stored}");
        }
    }
}
