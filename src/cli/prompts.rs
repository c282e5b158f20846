//! What commands that make prompts share: flags, messages files, warnings.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use super::CliError;
use super::error::{exit, status};
use super::frames::{ReaderArgs, SamplingArgs};
use crate::engine::EngineBuilder;
use crate::media::{Alpha, Decoding, Exif, MediaError, Resizer, Resizing, Size};
use crate::prompt::{
    ControlText, Conversations, Grounding, MediaUse, ProcessOptions, Processor, PromptError,
    PromptLimits, RenderOptions,
};

/// Bytes of a messages file: some pictures of the largest size, as base64.
const MAX_MESSAGES: u64 = 1 << 30;
/// Bytes of a chat template.
const MAX_TEMPLATE: u64 = 16 << 20;

/// How a conversation becomes a prompt.
#[derive(Debug, Args)]
pub(crate) struct PromptArgs {
    /// Number pictures in the prompt: "Picture 1: "
    #[arg(long)]
    pub(crate) add_vision_id: bool,
    /// What strings of control tokens in messages mean
    #[arg(long, value_name = "POLICY", default_value = "literal")]
    pub(crate) control_text: ControlTextArg,
    /// Which control tokens messages may hold all the same: grounding are object_ref, box and quad
    #[arg(long, value_name = "TOKENS", default_value = "grounding")]
    control_text_allow: AllowArg,
    /// Another chat template: a file, the name of one of the checkpoint's, or its text
    #[arg(long, value_name = "TEMPLATE")]
    chat_template: Option<String>,
}

impl PromptArgs {
    /// Options that end the prompt with the head of the answer.
    pub(crate) fn options(&self) -> ProcessOptions {
        let render =
            RenderOptions { add_vision_id: self.add_vision_id, ..RenderOptions::default() };
        ProcessOptions { render, control_text: self.control_text.into() }
    }

    /// The processor with these settings.
    pub(crate) fn apply(&self, processor: Processor) -> Result<Processor, CliError> {
        let processor = processor.with_grounding(self.control_text_allow.into());
        match self.chat_template()? {
            Some(template) => Ok(processor.with_chat_template(&template)?),
            None => Ok(processor),
        }
    }

    /// The same for an engine that is not built yet.
    pub(crate) fn configure(&self, builder: EngineBuilder) -> Result<EngineBuilder, CliError> {
        let builder = builder.grounding(self.control_text_allow.into());
        Ok(match self.chat_template()? {
            Some(template) => builder.chat_template(template),
            None => builder,
        })
    }

    /// Source or name of another template.
    fn chat_template(&self) -> Result<Option<String>, CliError> {
        let Some(text) = &self.chat_template else { return Ok(None) };
        let file = Path::new(text);
        if !file.is_file() {
            return Ok(Some(text.clone()));
        }
        let mut source = String::new();
        let read = File::open(file)
            .and_then(|open| open.take(MAX_TEMPLATE + 1).read_to_string(&mut source));
        read.map_err(|error| CliError::io(file, &error))?;
        if source.len() as u64 > MAX_TEMPLATE {
            let what = format!("{}: a template of more than {MAX_TEMPLATE} bytes", file.display());
            return Err(CliError::new("limit_exceeded", exit::INPUT, what));
        }
        Ok(Some(source))
    }
}

/// How a prompt ends.
#[derive(Debug, Args)]
pub(crate) struct EndArgs {
    /// Do not end with the head of the answer
    #[arg(long)]
    no_generation_prompt: bool,
    /// End within the last message, for the model to go on
    #[arg(long)]
    continue_final_message: bool,
}

impl EndArgs {
    /// The options with this end.
    pub(crate) fn apply(&self, mut options: ProcessOptions) -> ProcessOptions {
        let continues = self.continue_final_message;
        options.render.add_generation_prompt = !self.no_generation_prompt && !continues;
        options.render.continue_final_message = continues;
        options
    }
}

/// Choices of `--control-text-allow`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AllowArg {
    /// The grounding tokens
    Grounding,
    /// No control token
    None,
}

impl From<AllowArg> for Grounding {
    fn from(allow: AllowArg) -> Self {
        match allow {
            AllowArg::Grounding => Self::Active,
            AllowArg::None => Self::Control,
        }
    }
}

/// How pictures are resized.
#[derive(Debug, Args)]
pub(crate) struct PictureArgs {
    /// Whose resize and arithmetic
    #[arg(long, value_name = "RULE", default_value = "torchvision")]
    resize: ResizeArg,
    /// Least pixels of a resized picture: 3136, 4x28x28, 3k
    #[arg(long, value_name = "N", value_parser = pixels)]
    min_pixels: Option<u64>,
    /// Most pixels of a resized picture: 1003520, 1280x28x28, 1M
    #[arg(long, value_name = "N", value_parser = pixels)]
    max_pixels: Option<u64>,
    /// The same as --min-pixels in visual tokens of 28x28 pixels
    #[arg(
        long,
        value_name = "N",
        alias = "image-min-tokens",
        value_parser = tokens,
        conflicts_with = "min_pixels"
    )]
    min_image_tokens: Option<u64>,
    /// The same as --max-pixels in visual tokens of 28x28 pixels
    #[arg(
        long,
        value_name = "N",
        alias = "image-max-tokens",
        value_parser = tokens,
        conflicts_with = "max_pixels"
    )]
    max_image_tokens: Option<u64>,
    /// Whether pictures are turned as their EXIF says
    #[arg(long, value_name = "WHAT", default_value = "apply")]
    exif: ExifArg,
    /// What becomes of transparency: dropped, or laid on white
    #[arg(long, value_name = "WHAT", default_value = "drop")]
    alpha: AlphaArg,
    /// Height to resize to, before it is rounded and brought into the bounds
    #[arg(long, value_name = "N", requires = "resized_width")]
    resized_height: Option<u16>,
    /// Width to resize to, the same
    #[arg(long, value_name = "N", requires = "resized_height")]
    resized_width: Option<u16>,
    /// Leave pictures and frames as they are; they must be whole merged patches
    #[arg(long, conflicts_with_all = ["resized_height", "resized_width"])]
    no_resize: bool,
    /// Least pixels of a resized frame of a video
    #[arg(long, value_name = "N", value_parser = pixels)]
    video_min_pixels: Option<u64>,
    /// Most pixels of a resized frame of a video
    #[arg(long, value_name = "N", value_parser = pixels)]
    video_max_pixels: Option<u64>,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    reader: ReaderArgs,
}

impl PictureArgs {
    /// The checkpoint's processor with these settings over its own.
    pub(crate) fn apply(&self, processor: Processor) -> Result<Processor, CliError> {
        let processor = processor.with_resizer(self.resize.into()).with_decoding(self.decoding());
        let processor = processor.with_sampling(self.sampling.wishes())?;
        let limits = PromptLimits { media: self.reader.limits(), ..processor.limits() };
        let processor = processor.with_ffmpeg(ReaderArgs::program()).with_limits(limits);
        let processor = processor.with_resizing(self.resizing());
        let processor =
            processor.with_video_pixels(self.video_min_pixels, self.video_max_pixels)?;
        let (min, max) = self.pixels();
        processor.with_pixels(min, max).map_err(CliError::from)
    }

    /// The same for an engine that is not built yet.
    pub(crate) fn configure(&self, builder: EngineBuilder) -> EngineBuilder {
        let (min, max) = self.pixels();
        let builder = builder.resizer(self.resize.into()).decoding(self.decoding());
        let builder = builder.video_pixels(self.video_min_pixels, self.video_max_pixels);
        let limits = PromptLimits { media: self.reader.limits(), ..PromptLimits::default() };
        let builder = builder.ffmpeg(ReaderArgs::program()).limits(limits);
        let builder = builder.resizing(self.resizing());
        builder.frames(self.sampling.wishes()).pixels(min, max)
    }

    fn pixels(&self) -> (Option<u64>, Option<u64>) {
        (self.min_pixels.or(self.min_image_tokens), self.max_pixels.or(self.max_image_tokens))
    }

    fn resizing(&self) -> Resizing {
        match (self.no_resize, self.resized_height, self.resized_width) {
            (true, ..) => Resizing::Off,
            (false, Some(height), Some(width)) => {
                Resizing::To(Size { height: height.into(), width: width.into() })
            }
            _ => Resizing::Budget,
        }
    }

    fn decoding(&self) -> Decoding {
        Decoding { exif: self.exif.into(), alpha: self.alpha.into() }
    }
}

/// Choices of `--exif`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ExifArg {
    Apply,
    Ignore,
}

impl From<ExifArg> for Exif {
    fn from(exif: ExifArg) -> Self {
        match exif {
            ExifArg::Apply => Self::Apply,
            ExifArg::Ignore => Self::Ignore,
        }
    }
}

/// Choices of `--alpha`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum AlphaArg {
    Drop,
    White,
}

impl From<AlphaArg> for Alpha {
    fn from(alpha: AlphaArg) -> Self {
        match alpha {
            AlphaArg::Drop => Self::Drop,
            AlphaArg::White => Self::White,
        }
    }
}

/// Policies of `--control-text`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ControlTextArg {
    /// Text like any other
    Literal,
    /// An error
    Refuse,
    /// Control tokens, as in the reference
    Trusted,
}

impl From<ControlTextArg> for ControlText {
    fn from(policy: ControlTextArg) -> Self {
        match policy {
            ControlTextArg::Literal => Self::Literal,
            ControlTextArg::Refuse => Self::Refuse,
            ControlTextArg::Trusted => Self::Trusted,
        }
    }
}

/// Rules of `--resize`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum ResizeArg {
    /// The reference's default
    #[value(alias = "fast")]
    Torchvision,
    /// Pillow up to release 12
    #[value(aliases = ["pil", "slow"])]
    Pillow,
    /// Pillow from release 13 on
    Pillow13,
}

impl From<ResizeArg> for Resizer {
    fn from(rule: ResizeArg) -> Self {
        match rule {
            ResizeArg::Torchvision => Self::Torchvision,
            ResizeArg::Pillow => Self::Pillow,
            ResizeArg::Pillow13 => Self::Pillow13,
        }
    }
}

/// Reads a messages file; paths in it are relative to its folder.
pub(crate) fn conversations(file: &Path) -> Result<Conversations, CliError> {
    let mut bytes = Vec::new();
    let read =
        File::open(file).and_then(|open| open.take(MAX_MESSAGES + 1).read_to_end(&mut bytes));
    read.map_err(|error| CliError::io(file, &error))?;
    if bytes.len() as u64 > MAX_MESSAGES {
        let limit = "messages file in bytes";
        let max = usize::try_from(MAX_MESSAGES).unwrap_or(usize::MAX);
        return Err(PromptError::Limit { limit, got: bytes.len(), max }.into());
    }
    let folder = file.parent().map_or_else(PathBuf::new, Path::to_owned);
    Conversations::from_json(&bytes, &folder)
        .map_err(|error| CliError::from(error).within(&file.display().to_string()))
}

/// One medium as results report it, with the settings that were used.
fn medium(index: usize, item: &MediaUse) -> Value {
    let mut medium = json!({
        "index": index,
        "kind": item.kind.name(),
        "source": item.source,
        "decoded": [item.decoded.width, item.decoded.height],
        "resized": [item.resized.width, item.resized.height],
        "min_pixels": item.budget.min,
        "max_pixels": item.budget.max,
        "grid_thw": [item.grid.t, item.grid.h, item.grid.w],
        "tokens": item.tokens.0,
    });
    if let Some(frames) = &item.frames {
        let sampling = frames.sampling;
        medium["frames"] = json!({
            "total": frames.total,
            "source_fps": frames.source_fps,
            "fps": sampling.fps,
            "num_frames": sampling.num_frames,
            "min_frames": sampling.min_frames,
            "max_frames": sampling.max_frames,
            "start": sampling.start,
            "end": sampling.end,
            "indices": frames.indices,
            "timestamps": frames.timestamps(),
        });
    }
    medium
}

/// The media of a prompt as results report them.
pub(crate) fn media<'a>(items: impl IntoIterator<Item = &'a MediaUse>) -> Value {
    items.into_iter().enumerate().map(|(index, item)| medium(index, item)).collect()
}

impl From<PromptError> for CliError {
    fn from(error: PromptError) -> Self {
        let code = error.code();
        Self::new(code, status(code), error)
    }
}

impl From<MediaError> for CliError {
    fn from(error: MediaError) -> Self {
        let code = error.code();
        Self::new(code, status(code), error)
    }
}

/// Visual tokens as pixels.
fn tokens(text: &str) -> Result<u64, String> {
    /// Of a merged patch of the published models.
    const PIXELS: u64 = 28 * 28;
    let product = text.parse::<u64>().ok().and_then(|tokens| tokens.checked_mul(PIXELS));
    let expected = || format!("{text:?} is no number of visual tokens, such as 1280");
    product.filter(|pixels| *pixels > 0).ok_or_else(expected)
}

/// `784`, `1280x28x28`, `512k`, `12M`.
fn pixels(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is no number of pixels, such as 1003520, 1280x28x28 or 1M");
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        _ => (text, 1),
    };
    let product = digits
        .split('x')
        .try_fold(unit, |product: u64, factor| product.checked_mul(factor.parse::<u64>().ok()?));
    product.filter(|pixels| *pixels > 0).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_pixels() {
        let cases = [("784", 784), ("1280x28x28", 1_003_520), ("3k", 3_000), ("2M", 2_000_000)];
        for (text, expected) in cases {
            assert_eq!(pixels(text), Ok(expected), "{text}");
        }
        assert_eq!((tokens("4"), tokens("0").is_err()), (Ok(3_136), true));
        for text in ["", "0", "x", "k", "-3", "28x", "99999999999M99", "4294967296x4294967296"] {
            assert!(pixels(text).is_err(), "{text}");
        }
    }
}
