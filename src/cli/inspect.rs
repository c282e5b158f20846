//! `qwen2vl inspect`: what a checkpoint folder holds, and what is wrong with it. Needs no device.

use clap::Args;
use serde_json::{Value, json};

use super::{CliError, ModelArgs, Output, error::exit};
use crate::{
    engine::{
        checkpoint::{Checkpoint, CheckpointError, Tensor},
        generation_config::GenerationConfig,
        weights,
    },
    model::config::{ModelConfig, TextConfig},
    units::{Bytes, TokenId},
};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

/// A checkpoint whose files could be read.
struct Report {
    folder: String,
    config: ModelConfig,
    generation: GenerationConfig,
    checkpoint: Checkpoint,
    problems: Vec<CheckpointError>,
}

/// Reads settings and headers and reports; a checkpoint that does not fit its configuration is
/// exit status 4.
pub(crate) fn run(arguments: &InspectArgs, out: &mut Output) -> Result<u8, CliError> {
    let folder = &arguments.model.model;
    let config = ModelConfig::load(folder)?;
    let generation = GenerationConfig::load(folder)?;
    let checkpoint = Checkpoint::open(folder)?;
    let problems = weights::problems(&config, &checkpoint);
    let folder = folder.display().to_string();
    let report = Report { folder, config, generation, checkpoint, problems };
    for warning in &report.config.warnings {
        out.warn("unknown_key", &warning.to_string());
    }
    if out.is_json() {
        out.document(&report.document())?;
    } else {
        for line in report.lines() {
            out.line(&line)?;
        }
        if arguments.tensors {
            out.line("")?;
            for line in report.tensor_table() {
                out.line(&line)?;
            }
        }
    }
    Ok(if report.problems.is_empty() { exit::DONE } else { exit::CHECKPOINT })
}

impl Report {
    fn lines(&self) -> Vec<String> {
        let (text, vision) = (&self.config.text, &self.config.vision);
        let tokens = &self.config.tokens;
        let [time, height, width] = text.mrope_section;
        let head = if text.tie_word_embeddings { "tied" } else { "of its own" };
        let mut lines = vec![
            format!("model       {} in {}", self.config.family, self.folder),
            format!(
                "text        {} layers, {} channels, {} query and {} key/value heads of {}",
                text.num_hidden_layers,
                text.hidden_size,
                text.num_attention_heads,
                text.num_key_value_heads,
                text.head_dim
            ),
            format!(
                "            feed-forward {}, vocabulary {}, head {head}, norm epsilon {:e}",
                text.intermediate_size, text.vocab_size, text.rms_norm_eps
            ),
            format!(
                "positions   {}, rotary base {}, type {}, sections {time}/{height}/{width}",
                text.max_position_embeddings,
                text.rope_theta,
                text.rope_scaling.name()
            ),
            windows(text),
            format!(
                "vision      {} blocks, {} channels, {} heads of {}, feed-forward {}",
                vision.depth, vision.embed_dim, vision.num_heads, vision.head_dim, vision.mlp_width
            ),
            format!(
                "            patch {0}x{0}x{1}, merge {2}x{2}",
                vision.patch_size, vision.temporal_patch_size, vision.spatial_merge_size
            ),
            format!(
                "tokens      image {}, video {}, vision start {}, vision end {}",
                tokens.image, tokens.video, tokens.start, tokens.end
            ),
            format!("generation  {}", self.generation_line()),
            format!("weights     {}", self.weights_line()),
        ];
        let dtype = weights::own_type(&self.config, &self.checkpoint);
        match weights::planned_bytes(&self.config, dtype) {
            Some(bytes) => lines.push(format!("on device   {bytes} of {dtype}, padded")),
            None => lines.push("on device   more bytes than can be counted".to_owned()),
        }
        if self.problems.is_empty() {
            lines.push("problems    none".to_owned());
        }
        for (number, problem) in self.problems.iter().enumerate() {
            let label = if number == 0 { "problems" } else { "" };
            lines.push(format!("{label:<12}{problem}"));
        }
        if self.problems.len() == weights::MAX_PROBLEMS {
            lines.push(format!("{:<12}and perhaps more", ""));
        }
        lines
    }

    fn generation_line(&self) -> String {
        let generation = &self.generation;
        let mut parts = vec![match generation.do_sample {
            true => format!("sampling at temperature {}", generation.temperature),
            false => "greedy".to_owned(),
        }];
        if generation.do_sample {
            parts.extend(generation.top_k.map(|k| format!("top-k {k}")));
            parts.push(format!("top-p {}", generation.top_p));
        }
        parts.push(format!("repetition penalty {}", generation.repetition_penalty));
        let eos: Vec<_> = generation.eos.iter().map(TokenId::to_string).collect();
        parts.push(if eos.is_empty() { "no end".into() } else { format!("end {}", eos.join(" ")) });
        parts.join(", ")
    }

    fn weights_line(&self) -> String {
        let files = self.checkpoint.files();
        let size = files.iter().try_fold(Bytes(0), |sum, file| sum.checked_add(file.size()));
        let mut types: Vec<(String, usize)> = Vec::new();
        for (_, tensor) in self.checkpoint.tensors() {
            let name = tensor.dtype.to_string();
            match types.iter_mut().find(|(known, _)| *known == name) {
                Some((_, count)) => *count += 1,
                None => types.push((name, 1)),
            }
        }
        let types: Vec<_> = types.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let plural = if files.len() == 1 { "file" } else { "files" };
        let size = size.map_or_else(|| "many bytes".to_owned(), |size| size.to_string());
        format!("{} {plural}, {size}; tensors: {}", files.len(), types.join(", "))
    }

    fn tensor_table(&self) -> Vec<String> {
        let tensors: Vec<_> = self.checkpoint.tensors().collect();
        let wide = tensors.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let row = |name: &str, [dtype, size, shape]: [&str; 3]| {
            format!("{name:<wide$}  {dtype:<4}  {size:>9}  {shape}")
        };
        let mut lines = vec![row("tensor", ["type", "size", "shape"])];
        lines.extend(tensors.iter().map(|(name, tensor)| {
            let (dtype, size) = (tensor.dtype.to_string(), size_of_tensor(tensor).to_string());
            row(name, [&dtype, &size, &format!("{:?}", tensor.shape)])
        }));
        lines
    }

    fn document(&self) -> Value {
        let (text, vision, tokens) = (&self.config.text, &self.config.vision, &self.config.tokens);
        let dtype = weights::own_type(&self.config, &self.checkpoint);
        let generation = &self.generation;
        let ids = |ids: &[TokenId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let files = self.checkpoint.files().iter().map(
            |file| json!({ "file": file.path().display().to_string(), "bytes": file.size().0 }),
        );
        let tensors = self.checkpoint.tensors().map(|(name, tensor)| {
            json!({
                "name": name, "stored_as": tensor.name, "dtype": tensor.dtype.to_string(),
                "shape": tensor.shape, "bytes": tensor.bytes.len(),
                "file": tensor.file.display().to_string(),
            })
        });
        json!({
            "schema": "qwen2vl.inspect/1",
            "model_type": self.config.family.model_type(),
            "folder": self.folder,
            "text": {
                "vocab_size": text.vocab_size,
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "num_hidden_layers": text.num_hidden_layers,
                "num_attention_heads": text.num_attention_heads,
                "num_key_value_heads": text.num_key_value_heads,
                "head_dim": text.head_dim,
                "max_position_embeddings": text.max_position_embeddings,
                "rms_norm_eps": short(text.rms_norm_eps),
                "rope_theta": text.rope_theta,
                "mrope_section": text.mrope_section,
                "rope_type": text.rope_scaling.name(),
                "windows": text.windows.iter().map(|w| w.map(|w| w.0)).collect::<Vec<_>>(),
                "tie_word_embeddings": text.tie_word_embeddings,
            },
            "vision": {
                "depth": vision.depth,
                "embed_dim": vision.embed_dim,
                "num_heads": vision.num_heads,
                "head_dim": vision.head_dim,
                "mlp_width": vision.mlp_width,
                "hidden_size": vision.hidden_size,
                "patch_size": vision.patch_size,
                "temporal_patch_size": vision.temporal_patch_size,
                "spatial_merge_size": vision.spatial_merge_size,
            },
            "tokens": {
                "image": tokens.image.0, "video": tokens.video.0,
                "vision_start": tokens.start.0, "vision_end": tokens.end.0,
            },
            "generation": {
                "do_sample": generation.do_sample,
                "temperature": short(generation.temperature),
                "top_k": generation.top_k,
                "top_p": short(generation.top_p),
                "repetition_penalty": short(generation.repetition_penalty),
                "eos_token_id": ids(&generation.eos),
                "max_new_tokens": generation.max_new_tokens.map(|tokens| tokens.0),
            },
            "files": files.collect::<Vec<_>>(),
            "tensors": tensors.collect::<Vec<_>>(),
            "dtype": dtype.to_string(),
            "device_bytes": weights::planned_bytes(&self.config, dtype).map(|bytes| bytes.0),
            "problems": self.problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "warnings": self.config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    }
}

fn size_of_tensor(tensor: &Tensor<'_>) -> Bytes {
    Bytes(u64::try_from(tensor.bytes.len()).unwrap_or(u64::MAX))
}

/// The shortest decimal number that rounds to `value`: 1e-6, not 9.999999974752427e-7.
fn short(value: f32) -> Option<f64> {
    value.to_string().parse().ok()
}

/// Which layers see a window of the tokens alone.
fn windows(text: &TextConfig) -> String {
    let sliding: Vec<usize> =
        (0..).zip(&text.windows).filter(|(_, w)| w.is_some()).map(|(i, _)| i).collect();
    match (sliding.first(), text.windows.iter().find_map(|window| *window)) {
        (Some(first), Some(window)) => {
            let count = sliding.len();
            format!("            window of {} tokens in {count} layers from {first} on", window.0)
        }
        _ => "            every layer sees all tokens before it".to_owned(),
    }
}
