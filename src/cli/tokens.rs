//! `qwen2vl tokens`: how many tokens a prompt has, part by part. Weights are not needed, and of
//! pictures only headers are read.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::exit;
use super::media_flags::MediaFlags;
use super::prompts::{self, EndArgs, PictureArgs, PromptArgs};
use super::{CliError, ModelArgs, Output, warnings};
use crate::media::PixelBudget;
use crate::prompt::{Conversation, Conversations, Message, Part, Processed, Processor};

/// Arguments of `tokens`.
#[derive(Debug, Args)]
pub(crate) struct TokensArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Conversation, or list of conversations, as JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["image", "video", "text"])]
    messages: Option<PathBuf>,
    #[command(flatten)]
    media: MediaFlags,
    /// The question
    #[arg(value_name = "PROMPT")]
    text: Option<String>,
    /// Print the largest --max-pixels with which the prompt has at most N tokens
    #[arg(long, value_name = "N")]
    fit: Option<usize>,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    end: EndArgs,
    #[command(flatten)]
    pictures: PictureArgs,
}

/// Prints a table, or one JSON document.
pub(crate) fn run(arguments: &TokensArgs, out: &mut Output) -> Result<u8, CliError> {
    let conversations = match (&arguments.messages, &arguments.text) {
        (Some(file), _) => prompts::conversations(file)?,
        (None, None) if arguments.media.is_empty() => {
            return Err(CliError::usage("give --messages FILE, or --image FILE and a prompt"));
        }
        (None, text) => {
            let message = Message::user(arguments.media.parts().chain(text.iter().map(Part::text)));
            Conversations { list: vec![Conversation::new([message])], batch: false }
        }
    };
    let processor = arguments.pictures.apply(Processor::from_dir(&arguments.model.model)?)?;
    let processor = arguments.prompt.apply(processor)?;
    let options = arguments.end.apply(arguments.prompt.options());
    let mut documents = Vec::new();
    for (index, conversation) in conversations.list.iter().enumerate() {
        let counted = processor.count(index, conversation, options)?;
        let total = counted.input_ids.len();
        let image: usize = counted.images().map(|medium| medium.used.tokens.0).sum();
        let video: usize = counted.videos().map(|medium| medium.used.tokens.0).sum();
        let visual: usize = image + video;
        let fit = arguments.fit.map(|tokens| fit(&processor, &counted, tokens)).transpose()?;
        let found = warnings::of(counted.used(), counted.escaped);
        warnings::print(&found, out);
        if out.is_json() {
            documents.push(json!({
                "prompt_tokens": total, "text_tokens": total - visual, "image_tokens": image,
                "video_tokens": video, "media": prompts::media(counted.used()),
                "fitting_max_pixels": fit, "warnings": warnings::document(&found),
            }));
        } else {
            table(&counted, total - visual, out)?;
            if let Some(pixels) = fit {
                out.line(&format!("--max-pixels {pixels} fits"))?;
            }
        }
    }
    if out.is_json() {
        let mut document = if conversations.batch {
            json!({ "results": documents })
        } else {
            documents.pop().unwrap_or_else(|| json!({}))
        };
        document["schema"] = "qwen2vl.tokens/1".into();
        out.document(&document)?;
    }
    Ok(exit::DONE)
}

fn table(counted: &Processed, text: usize, out: &mut Output) -> Result<(), CliError> {
    let width =
        counted.media.iter().map(|medium| medium.used.source.chars().count()).max().unwrap_or(0);
    let width = width.max("source".len());
    let mut row = |part: &str, source: &str, sizes: [&str; 3], tokens: &str| {
        let [decoded, resized, grid] = sizes;
        out.line(&format!(
            "{part:6} {source:width$}  {decoded:>11}  {resized:>11}  {grid:>11}  {tokens:>8}"
        ))
    };
    row("part", "source", ["decoded", "resized", "grid_thw"], "tokens")?;
    for medium in &counted.media {
        let size = |size: crate::media::Size| format!("{}x{}", size.width, size.height);
        let sizes =
            [size(medium.used.decoded), size(medium.used.resized), medium.used.grid.to_string()];
        let sizes = [sizes[0].as_str(), sizes[1].as_str(), sizes[2].as_str()];
        row(medium.used.kind.name(), &medium.used.source, sizes, &medium.used.tokens.to_string())?;
    }
    row("text", "-", ["-"; 3], &text.to_string())?;
    row("total", "", [""; 3], &counted.input_ids.len().to_string())
}

/// The largest max_pixels, in whole visual tokens, with which the prompt fits.
fn fit(processor: &Processor, counted: &Processed, tokens: usize) -> Result<u64, CliError> {
    // Videos have bounds of their own.
    let visual: usize = counted.images().map(|medium| medium.used.tokens.0).sum();
    let text = counted.input_ids.len() - visual;
    let preprocessor = processor.preprocessor();
    let factor = preprocessor.patch_size() * preprocessor.merge_size();
    let area = u64::try_from(factor * factor).unwrap_or(u64::MAX);
    let PixelBudget { min, max } = preprocessor.budget();
    let needed = |max_pixels: u64| -> Result<usize, CliError> {
        let limited =
            preprocessor.clone().with_budget(Some(min.min(max_pixels)), Some(max_pixels))?;
        let mut sum = text;
        for image in counted.images() {
            let grid = limited.grid(1, limited.resized(image.used.decoded)?);
            sum += grid.merged_tokens(preprocessor.merge_size()).map_or(usize::MAX - sum, |t| t.0);
        }
        Ok(sum)
    };
    // A larger budget never makes a picture smaller: the largest that fits is found by halving.
    let (mut fits, mut fails) = (0, max / area + 1);
    while fits + 1 < fails {
        let middle = fits + (fails - fits) / 2;
        if needed(middle * area)? <= tokens { fits = middle } else { fails = middle }
    }
    if fits == 0 {
        let what =
            format!("no --max-pixels makes the prompt fit {tokens} tokens: the rest takes {text}");
        return Err(CliError::new("context_length_exceeded", exit::INPUT, what));
    }
    Ok(fits * area)
}
