//! `qwen2vl render`: what the model sees of a conversation: the chat template's text or its ids, and
//! as JSON also the prompt with its placeholders repeated, positions, grids and resized pictures.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};

use super::answers::TimeArg;
use super::error::exit;
use super::prompts::{self, EndArgs, PictureArgs, PromptArgs};
use super::{CliError, ModelArgs, Output, warnings};
use crate::engine::prompt_positions;
use crate::model::config::ModelConfig;
use crate::prompt::{
    Conversation, MediaInput, Origin, Piece, ProcessOptions, Processed, Processor,
};
use crate::units::TokenId;

/// Arguments of `render`.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Conversation, or list of conversations, as JSON
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    end: EndArgs,
    /// How the seconds of videos become positions of Qwen2.5-VL
    #[arg(long, value_name = "RULE", default_value = "reference")]
    mrope_time: TimeArg,
    /// Print token ids instead of text
    #[arg(long)]
    ids: bool,
    /// Write the resized pictures, and frames of videos, into this folder as PNG
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    #[command(flatten)]
    pictures: PictureArgs,
}

/// Prints each prompt, in order.
pub(crate) fn run(arguments: &RenderArgs, out: &mut Output) -> Result<u8, CliError> {
    let conversations = prompts::conversations(&arguments.messages)?;
    let config = ModelConfig::load(&arguments.model.model)?;
    let config = config.with_time_rule(arguments.mrope_time.rule());
    let processor = Processor::with_config(&arguments.model.model, &config)?;
    let processor = arguments.prompt.apply(arguments.pictures.apply(processor)?)?;
    let options = arguments.end.apply(arguments.prompt.options());
    if let Some(folder) = &arguments.images {
        fs::create_dir_all(folder).map_err(|error| CliError::io(folder, &error))?;
    }
    let mut documents = Vec::new();
    for (index, conversation) in conversations.list.iter().enumerate() {
        let pieces = processor.render(index, conversation, options)?;
        let encoded = processor.encode(&pieces, options.control_text)?;
        let seen = match (&arguments.images, out.is_json()) {
            (Some(_), _) => Some(processor.process(index, conversation, options)?),
            (None, true) => counted(&processor, (index, conversation), options)?,
            (None, false) => None,
        };
        let batch = conversations.batch.then_some(index);
        let files = seen.as_ref().map(|seen| write(arguments, seen, batch)).transpose()?;
        let media = || seen.iter().flat_map(Processed::used);
        let found = warnings::of(media(), encoded.escaped);
        warnings::print(&found, out);
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        if out.is_json() {
            let mut document = json!({
                "text": text,
                "ids": numbers(&encoded.ids),
                "pieces": pieces.iter().map(piece).collect::<Vec<_>>(),
                "warnings": warnings::document(&found),
            });
            if let Some(seen) = &seen {
                document_of(&mut document, &config, seen)?;
                document["media"] = prompts::media(media());
                for (medium, names) in files.iter().flatten().enumerate() {
                    document["media"][medium]["files"] = json!(names);
                }
            }
            documents.push(document);
        } else if arguments.ids {
            out.line(&line(&encoded.ids))?;
        } else {
            out.piece(&text)?;
            out.line("")?;
        }
    }
    if out.is_json() {
        out.document(&document(documents, conversations.batch))?;
    }
    Ok(exit::DONE)
}

/// The prompt with its placeholders repeated, from headers of media; none where a part names no
/// medium, as in conversations that only show the template.
fn counted(
    processor: &Processor,
    (index, conversation): (usize, &Conversation),
    options: ProcessOptions,
) -> Result<Option<Processed>, CliError> {
    if !conversation.has_all_sources() {
        return Ok(None);
    }
    Ok(Some(processor.count(index, conversation, options)?))
}

/// Adds what the model gets.
fn document_of(
    document: &mut Value,
    config: &ModelConfig,
    seen: &Processed,
) -> Result<(), CliError> {
    let positions = prompt_positions(config, seen)?;
    let grids = |media: &mut dyn Iterator<Item = &MediaInput>| -> Value {
        media
            .map(|medium| json!([medium.used.grid.t, medium.used.grid.h, medium.used.grid.w]))
            .collect()
    };
    let values: Map<String, Value> = [
        ("input_ids", json!(numbers(&seen.input_ids))),
        ("position_ids", json!(positions.axes)),
        ("rope_delta", json!(positions.delta(seen.input_ids.len()))),
        ("image_grid_thw", grids(&mut seen.images())),
        ("video_grid_thw", grids(&mut seen.videos())),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value))
    .collect();
    if let Some(map) = document.as_object_mut() {
        map.extend(values);
    }
    Ok(())
}

/// Writes the resized frames where asked for; the files of each medium, in order.
fn write(
    arguments: &RenderArgs,
    seen: &Processed,
    batch: Option<usize>,
) -> Result<Vec<Vec<String>>, CliError> {
    let Some(folder) = &arguments.images else { return Ok(Vec::new()) };
    let conversation = batch.map_or_else(String::new, |index| format!("conversation-{index}-"));
    let mut files = Vec::new();
    for (index, medium) in seen.media.iter().enumerate() {
        let name = format!("{conversation}{}-{index}", medium.used.kind.name());
        let mut written = Vec::new();
        let frames = medium.prepared.as_ref().map(|prepared| &prepared.frames);
        let count = frames.map_or(0, |frames| frames.count());
        for frame in 0..count {
            let Some(rgb) = frames.and_then(|frames| frames.rgb(frame)) else { continue };
            let suffix = if count > 1 { format!("-{frame:04}") } else { String::new() };
            let file = folder.join(format!("{name}{suffix}.png"));
            fs::write(&file, rgb.png()?).map_err(|error| CliError::io(&file, &error))?;
            written.push(file.display().to_string());
        }
        files.push(written);
    }
    Ok(files)
}

/// A piece with who wrote it.
fn piece(piece: &Piece) -> Value {
    match piece.origin {
        Origin::Template => json!({ "text": piece.text, "origin": "template" }),
        Origin::Message(spot) => json!({
            "text": piece.text, "origin": "message", "message": spot.message, "part": spot.part,
        }),
    }
}

fn numbers(ids: &[TokenId]) -> Vec<u32> {
    ids.iter().map(|id| id.0).collect()
}

fn line(ids: &[TokenId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

/// One object, or for a batch a list of them under `results`.
fn document(mut documents: Vec<Value>, batch: bool) -> Value {
    let mut document = if batch {
        json!({ "results": documents })
    } else {
        documents.pop().unwrap_or_else(|| json!({}))
    };
    document["schema"] = "qwen2vl.render/1".into();
    document
}
