//! `qwen2vl process`: what the reference's processor returns, as a file of tensors.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;

use super::error::exit;
use super::prompts::{self, EndArgs, PictureArgs, PromptArgs};
use super::{CliError, ModelArgs, Output, warnings};
use crate::model::config::Family;
use crate::prompt::{
    Batch, MediaInput, Padding, PaddingSide, Part, Processed, Processor, raw_prompts,
};

/// Arguments of `process`.
#[derive(Debug, Args)]
pub(crate) struct ProcessArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Conversation, or list of conversations, as JSON
    #[arg(long, value_name = "FILE", required_unless_present = "text", conflicts_with = "text")]
    messages: Option<PathBuf>,
    /// A prompt with its control tokens, as the reference's processor takes it; may be repeated
    #[arg(long, value_name = "PROMPT")]
    text: Vec<String>,
    /// A picture for the next placeholder of a picture in the prompts
    #[arg(long, value_name = "FILE", requires = "text")]
    image: Vec<PathBuf>,
    /// A video for the next placeholder of a video in the prompts
    #[arg(long, value_name = "FILE", requires = "text")]
    video: Vec<PathBuf>,
    /// Where the tensors go
    #[arg(long, value_name = "FILE.safetensors")]
    output: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    end: EndArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    padding: PaddingArgs,
    /// Also write mm_token_type_ids: 1 at placeholders of pictures
    #[arg(long)]
    mm_token_type_ids: bool,
}

/// How rows of several lengths become one table.
#[derive(Debug, Args)]
struct PaddingArgs {
    /// Where padding stands; without it as tokenizer_config.json says
    #[arg(long, value_name = "SIDE")]
    padding_side: Option<SideArg>,
    /// Pad each row to N ids, not to the longest row
    #[arg(long, value_name = "N")]
    max_length: Option<usize>,
    /// Round the length of rows up to a multiple of N
    #[arg(long, value_name = "N")]
    pad_to_multiple_of: Option<usize>,
}

/// Choices of `--padding-side`.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum SideArg {
    Left,
    Right,
}

impl PaddingArgs {
    fn padding(&self) -> Padding {
        let side = self.padding_side.map(|side| match side {
            SideArg::Left => PaddingSide::Left,
            SideArg::Right => PaddingSide::Right,
        });
        Padding { side, max_length: self.max_length, multiple_of: self.pad_to_multiple_of }
    }
}

/// A tensor of the result.
struct Tensor {
    name: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// Writes the tensors and prints what they are.
pub(crate) fn run(arguments: &ProcessArgs, out: &mut Output) -> Result<u8, CliError> {
    let conversations = match &arguments.messages {
        Some(file) => prompts::conversations(file)?.list,
        None => {
            let images = arguments.image.iter().map(Part::image_file);
            let videos = arguments.video.iter().map(Part::video_file);
            raw_prompts(&arguments.text, images.chain(videos))?
        }
    };
    let processor = arguments.pictures.apply(Processor::from_dir(&arguments.model.model)?)?;
    let processor = arguments.prompt.apply(processor)?;
    let options = arguments.end.apply(arguments.prompt.options());
    let rows = conversations.iter().enumerate();
    let rows = rows.map(|(index, conversation)| processor.process(index, conversation, options));
    let rows = rows.collect::<Result<Vec<_>, _>>()?;
    let batch = processor.pad_to(&rows, arguments.padding.padding())?;
    let mut tensors = tensors(&processor, &rows, &batch);
    if arguments.mm_token_type_ids {
        let types = processor.token_types(&batch);
        let data = types.iter().flat_map(|kind| i64::from(*kind).to_le_bytes()).collect();
        let (name, shape) = ("mm_token_type_ids", vec![batch.rows, batch.columns]);
        tensors.push(Tensor { name, dtype: Dtype::I64, shape, data });
    }
    save(&tensors, arguments)?;
    let media = || rows.iter().flat_map(Processed::used);
    let found = warnings::of(media(), rows.iter().map(|row| row.escaped).sum());
    warnings::print(&found, out);
    if out.is_json() {
        let shapes: serde_json::Map<String, serde_json::Value> =
            tensors.iter().map(|tensor| (tensor.name.into(), json!(tensor.shape))).collect();
        out.document(&json!({
            "schema": "qwen2vl.process/1",
            "output": arguments.output.display().to_string(),
            "tensors": shapes,
            "media": prompts::media(media()),
            "warnings": warnings::document(&found),
        }))?;
    } else {
        for tensor in &tensors {
            out.line(&format!("{:16}  {:?}  {:?}", tensor.name, tensor.dtype, tensor.shape))?;
        }
    }
    Ok(exit::DONE)
}

fn tensors(processor: &Processor, rows: &[Processed], batch: &Batch) -> Vec<Tensor> {
    let shape = vec![batch.rows, batch.columns];
    let long = |values: &mut dyn Iterator<Item = i64>| values.flat_map(i64::to_le_bytes).collect();
    let mut tensors = vec![
        Tensor {
            name: "input_ids",
            dtype: Dtype::I64,
            shape: shape.clone(),
            data: long(&mut batch.input_ids.iter().map(|id| i64::from(id.0))),
        },
        Tensor {
            name: "attention_mask",
            dtype: Dtype::I64,
            shape,
            data: long(&mut batch.attention_mask.iter().map(|mask| i64::from(*mask))),
        },
    ];
    let images: Vec<&MediaInput> = rows.iter().flat_map(Processed::images).collect();
    let videos: Vec<&MediaInput> = rows.iter().flat_map(Processed::videos).collect();
    for (names, media) in [
        (["pixel_values", "image_grid_thw"], images),
        (["pixel_values_videos", "video_grid_thw"], videos),
    ] {
        if media.is_empty() {
            continue;
        }
        let sides = media
            .iter()
            .flat_map(|medium| [medium.used.grid.t, medium.used.grid.h, medium.used.grid.w]);
        let data = long(&mut sides.map(|side| i64::try_from(side).unwrap_or(i64::MAX)));
        let shape = vec![media.len(), 3];
        let grids = Tensor { name: names[1], dtype: Dtype::I64, shape, data };
        let mut pixels = Vec::new();
        let mut count = 0;
        for values in media.iter().filter_map(|medium| processor.pixel_values(medium)) {
            pixels.reserve_exact(values.len() * size_of::<f32>());
            values.iter().for_each(|value| pixels.extend_from_slice(&value.to_le_bytes()));
            count += values.len();
        }
        let patches = media.iter().filter_map(|medium| medium.used.grid.patch_rows());
        let patches: usize = patches.map(|rows| rows.0).sum();
        let shape = vec![patches, count.checked_div(patches).unwrap_or(0)];
        tensors.push(Tensor { name: names[0], dtype: Dtype::F32, shape, data: pixels });
        tensors.push(grids);
    }
    let frames =
        rows.iter().flat_map(Processed::videos).filter_map(|video| video.used.frames.as_ref());
    let seconds: Vec<f64> = frames.map(|frames| frames.seconds_per_group).collect();
    if processor.family() == Family::Qwen25Vl && !seconds.is_empty() {
        #[expect(clippy::cast_possible_truncation, reason = "the type of the tensor")]
        let data = seconds.iter().flat_map(|seconds| (*seconds as f32).to_le_bytes()).collect();
        let (name, shape) = ("second_per_grid_ts", vec![seconds.len()]);
        tensors.push(Tensor { name, dtype: Dtype::F32, shape, data });
    }
    tensors
}

fn save(tensors: &[Tensor], arguments: &ProcessArgs) -> Result<(), CliError> {
    let internal = |error| CliError::new("internal", exit::INTERNAL, Box::new(error));
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.data);
        Ok((tensor.name, view.map_err(internal)?))
    });
    let views = views.collect::<Result<Vec<_>, CliError>>()?;
    let bytes = serialize(views, None).map_err(internal)?;
    // In place, not by a rename: the path may be a device, a pipe or a link.
    fs::write(&arguments.output, bytes).map_err(|error| CliError::io(&arguments.output, &error))
}
