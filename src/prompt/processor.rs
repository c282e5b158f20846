//! A conversation with its media to the inputs of the model: the reference's processor
//! (docs/spec.md, sections 5.1 and 5.3).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Map, Value};

use super::media_inputs::{Depth, MediaInput, MediaKind, MediaUse};
use super::message::{Content, PartKind};
use super::templates::Templates;
use super::{
    ControlText, Conversation, Encoded, Grounding, Origin, PaddingSide, Part, Piece, PromptError,
    RenderOptions, Spot, Tokenizer, placeholders,
};
use crate::media::{
    Decoding, Ffmpeg, FrameWishes, Limits, MediaError, Preprocessor, Resizer, Resizing,
    VideoPreprocessor,
};
use crate::model::config::{Family, ModelConfig, VisionConfig, VisionTokens};
use crate::units::{TokenId, Tokens};

pub(super) const IMAGE_PAD: &str = "<|image_pad|>";
pub(super) const VIDEO_PAD: &str = "<|video_pad|>";
/// Bytes of a settings file or a template.
pub(super) const MAX_FILE: u64 = 16 << 20;

/// Tokenizer, chat template and picture processor of a checkpoint.
#[derive(Debug)]
pub struct Processor {
    tokenizer: Tokenizer,
    templates: Templates,
    pub(super) preprocessor: Preprocessor,
    pub(super) video: VideoPreprocessor,
    pub(super) decoding: Decoding,
    pub(super) ffmpeg: Ffmpeg,
    family: Family,
    tokens: VisionTokens,
    pad: Option<TokenId>,
    side: PaddingSide,
    pub(super) limits: PromptLimits,
}

/// Limits on a request, checked before work starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLimits {
    /// Messages of a conversation.
    pub messages: usize,
    /// Bytes of text of a conversation.
    pub text_bytes: usize,
    /// Pictures of a conversation.
    pub pictures: usize,
    /// Videos of a conversation.
    pub videos: usize,
    /// Each picture or video.
    pub media: Limits,
    /// Threads that read pictures and videos of a conversation; results do not depend on them.
    pub media_threads: usize,
}

/// The command line's and the library's.
impl Default for PromptLimits {
    fn default() -> Self {
        Self {
            messages: 4096,
            text_bytes: 16 << 20,
            pictures: 256,
            videos: 16,
            media: Limits::default(),
            media_threads: thread::available_parallelism().map_or(1, usize::from).min(4),
        }
    }
}

/// How a conversation is processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessOptions {
    /// What the template is told.
    pub render: RenderOptions,
    /// What control tokens in messages mean.
    pub control_text: ControlText,
}

/// Inputs of the model for one conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Processed {
    /// The prompt, one placeholder id for each visual token.
    pub input_ids: Vec<TokenId>,
    /// Pictures and videos in the order of their parts; those of a kind also in the order of its
    /// placeholders.
    pub media: Vec<MediaInput>,
    /// Strings of control tokens in messages that became ordinary text.
    pub escaped: usize,
}

impl Processed {
    /// What became of each picture and video, in order.
    pub fn used(&self) -> impl Iterator<Item = &MediaUse> {
        self.media.iter().map(|medium| &medium.used)
    }

    /// Pictures in the order of their placeholders.
    pub fn images(&self) -> impl Iterator<Item = &MediaInput> {
        self.of(MediaKind::Image)
    }

    /// Videos in the order of their placeholders.
    pub fn videos(&self) -> impl Iterator<Item = &MediaInput> {
        self.of(MediaKind::Video)
    }

    fn of(&self, kind: MediaKind) -> impl Iterator<Item = &MediaInput> {
        self.media.iter().filter(move |medium| medium.used.kind == kind)
    }
}

impl Processor {
    /// Reads the files of a checkpoint folder; weights are not looked at.
    ///
    /// # Errors
    /// [`PromptError::Config`], [`PromptError::Preprocessor`], [`PromptError::Tokenizer`],
    /// [`PromptError::UnsupportedTokenizer`], [`PromptError::NoTemplate`],
    /// [`PromptError::Template`], and [`PromptError::TokenId`] where config.json and the tokenizer
    /// disagree.
    pub fn from_dir(folder: &Path) -> Result<Self, PromptError> {
        Self::with_config(folder, &ModelConfig::load(folder)?)
    }

    /// The same for a config.json that is already read.
    ///
    /// # Errors
    /// As [`Processor::from_dir`].
    pub fn with_config(folder: &Path, config: &ModelConfig) -> Result<Self, PromptError> {
        let tokenizer = Tokenizer::from_dir(folder)?;
        let tokens = config.tokens;
        let wanted = [
            ("image_token_id", IMAGE_PAD, tokens.image),
            ("video_token_id", VIDEO_PAD, tokens.video),
            ("vision_start_token_id", "<|vision_start|>", tokens.start),
            ("vision_end_token_id", "<|vision_end|>", tokens.end),
        ];
        for (key, token, config) in wanted {
            let found = tokenizer.added_id(token);
            if found != Some(config) {
                return Err(PromptError::TokenId { key, token, config, tokenizer: found });
            }
        }
        let settings = settings(folder)?;
        let templates = Templates::from_dir(folder, &settings)?;
        let pad = settings.get("pad_token").and_then(token_text);
        let pad = pad.as_deref().unwrap_or("<|endoftext|>");
        let pad = tokenizer.added_id(pad);
        let right = settings.get("padding_side").is_some_and(|side| side == "right");
        let side = if right { PaddingSide::Right } else { PaddingSide::Left };
        let (preprocessor, video) = (preprocessor(folder)?, video_preprocessor(folder)?);
        let (decoding, limits) = (Decoding::default(), PromptLimits::default());
        let ffmpeg = Ffmpeg::default();
        Ok(Self {
            tokenizer,
            templates,
            preprocessor,
            video,
            decoding,
            ffmpeg,
            family: config.family,
            tokens,
            pad,
            side,
            limits,
        })
    }

    /// The architecture of its checkpoint.
    pub fn family(&self) -> Family {
        self.family
    }

    /// The same with other limits on resized pictures, each on its own. Videos keep theirs, as in
    /// the reference.
    ///
    /// # Errors
    /// [`MediaError::Budget`] where nothing is left between them.
    pub fn with_pixels(
        mut self,
        min_pixels: Option<u64>,
        max_pixels: Option<u64>,
    ) -> Result<Self, MediaError> {
        self.preprocessor = self.preprocessor.with_budget(min_pixels, max_pixels)?;
        Ok(self)
    }

    /// The same with other limits on each resized frame of videos.
    ///
    /// # Errors
    /// [`MediaError::Budget`] where nothing is left between them.
    pub fn with_video_pixels(
        mut self,
        min_pixels: Option<u64>,
        max_pixels: Option<u64>,
    ) -> Result<Self, MediaError> {
        self.video = self.video.with_budget(min_pixels, max_pixels)?;
        Ok(self)
    }

    /// The same with another program for video containers.
    #[must_use]
    pub fn with_ffmpeg(mut self, ffmpeg: Ffmpeg) -> Self {
        self.ffmpeg = ffmpeg;
        self
    }

    /// Limits on requests.
    pub fn limits(&self) -> PromptLimits {
        self.limits
    }

    /// The same with other sizes of pictures and frames that do not ask for their own.
    #[must_use]
    pub fn with_resizing(mut self, resizing: Resizing) -> Self {
        let apply = |frame: Preprocessor| match resizing {
            Resizing::Budget => frame,
            Resizing::To(size) => frame.with_target(Some(size)),
            Resizing::Off => frame.without_resize(),
        };
        self.preprocessor = apply(self.preprocessor);
        let frame = apply(self.video.frame().clone());
        self.video = self.video.with_frame(frame);
        self
    }

    /// The same with another sampling of videos that do not ask for their own.
    ///
    /// # Errors
    /// [`MediaError::SamplingChoice`], [`MediaError::Sampling`].
    pub fn with_sampling(mut self, wishes: FrameWishes) -> Result<Self, MediaError> {
        self.video = self.video.with_sampling(wishes)?;
        Ok(self)
    }

    /// The same with another resize and its arithmetic.
    #[must_use]
    pub fn with_resizer(mut self, resizer: Resizer) -> Self {
        self.preprocessor = self.preprocessor.with_resizer(resizer);
        self
    }

    /// The same with another way from files to RGB.
    #[must_use]
    pub fn with_decoding(mut self, decoding: Decoding) -> Self {
        self.decoding = decoding;
        self
    }

    /// The same with another meaning of grounding tokens in messages.
    #[must_use]
    pub fn with_grounding(mut self, grounding: Grounding) -> Self {
        self.tokenizer = self.tokenizer.with_grounding(grounding);
        self
    }

    /// The same with other limits on requests.
    #[must_use]
    pub fn with_limits(mut self, limits: PromptLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The same with another chat template: the name of one of the checkpoint's, or its source.
    ///
    /// # Errors
    /// [`PromptError::Template`], [`PromptError::NoNamedTemplate`].
    pub fn with_chat_template(mut self, template: &str) -> Result<Self, PromptError> {
        self.templates.choose(template)?;
        Ok(self)
    }

    /// Refuses a checkpoint whose vision tower cuts pictures in another way.
    ///
    /// # Errors
    /// [`PromptError::Patch`].
    pub fn check_vision(&self, vision: &VisionConfig) -> Result<(), PromptError> {
        for ours in [&self.preprocessor, self.video.frame()] {
            for (key, processor, vision) in [
                ("patch_size", ours.patch_size(), vision.patch_size),
                ("merge_size", ours.merge_size(), vision.spatial_merge_size),
                ("temporal_patch_size", ours.temporal_patch_size(), vision.temporal_patch_size),
            ] {
                if processor != vision {
                    return Err(PromptError::Patch { key, processor, vision });
                }
            }
        }
        Ok(())
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Ids of the tokens that stand for pictures and videos.
    pub fn vision_tokens(&self) -> VisionTokens {
        self.tokens
    }

    /// What rows are padded with.
    pub(super) fn pad_id(&self) -> Option<TokenId> {
        self.pad
    }

    /// Where rows are padded unless asked otherwise.
    pub(super) fn padding_side(&self) -> PaddingSide {
        self.side
    }

    /// The picture processor.
    pub fn preprocessor(&self) -> &Preprocessor {
        &self.preprocessor
    }

    /// The video processor.
    pub fn video_preprocessor(&self) -> &VideoPreprocessor {
        &self.video
    }

    /// `pixel_values` of a medium, `[t * h * w, row_values]`; none where only tokens were counted.
    pub fn pixel_values(&self, medium: &MediaInput) -> Option<Vec<f32>> {
        let frame = match medium.used.kind {
            MediaKind::Image => &self.preprocessor,
            MediaKind::Video => self.video.frame(),
        };
        medium.prepared.as_ref().map(|prepared| frame.pixel_values(prepared))
    }

    /// The prompt in pieces by who wrote them; media are not looked at.
    ///
    /// # Errors
    /// [`PromptError::Template`], [`PromptError::Limit`], [`PromptError::Empty`]; unless messages are
    /// trusted also [`PromptError::UnknownRole`], [`PromptError::UnknownPart`],
    /// [`PromptError::TemplateChangesText`], [`PromptError::TemplateText`],
    /// [`PromptError::ControlTokenInField`].
    pub fn render(
        &self,
        index: usize,
        conversation: &Conversation,
        options: ProcessOptions,
    ) -> Result<Vec<Piece>, PromptError> {
        self.check_limits(conversation)?;
        if let Some(text) = &conversation.raw {
            return Ok(vec![Piece { text: text.clone(), origin: Origin::Template }]);
        }
        if options.control_text == ControlText::Trusted {
            let text = self.templates.chosen()?.render(conversation, options.render)?;
            return Ok(vec![Piece { text, origin: Origin::Template }]);
        }
        let template = self.templates.chosen()?;
        self.check_fields(index, conversation)?;
        for (message, value) in conversation.messages.iter().enumerate() {
            let spot = Spot { conversation: index, message, part: None };
            value.check_known(spot, template.source())?;
        }
        template.pieces(index, conversation, options.render)
    }

    /// Ids of a rendered prompt, one for each placeholder of the template.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode_pieces`].
    pub fn encode(
        &self,
        pieces: &[Piece],
        control_text: ControlText,
    ) -> Result<Encoded, PromptError> {
        self.tokenizer.encode_pieces(pieces, control_text)
    }

    /// Everything that the model needs. `index` is the place in a batch, for messages.
    ///
    /// # Errors
    /// Those of [`Processor::render`] and [`Processor::encode`]; [`PromptError::Media`],
    /// [`PromptError::UnknownKey`], [`PromptError::Value`], [`PromptError::Placeholders`].
    pub fn process(
        &self,
        index: usize,
        conversation: &Conversation,
        options: ProcessOptions,
    ) -> Result<Processed, PromptError> {
        self.inputs(index, conversation, options, Depth::Pixels)
    }

    /// The same without pixels: only headers of pictures are read.
    ///
    /// # Errors
    /// As [`Processor::process`].
    pub fn count(
        &self,
        index: usize,
        conversation: &Conversation,
        options: ProcessOptions,
    ) -> Result<Processed, PromptError> {
        self.inputs(index, conversation, options, Depth::Headers)
    }

    /// The pixels of a conversation that [`Processor::count`] has counted.
    ///
    /// # Errors
    /// [`PromptError::Media`]; [`PromptError::Placeholders`] if a file has another size by now.
    pub fn complete(
        &self,
        index: usize,
        conversation: &Conversation,
        counted: Processed,
    ) -> Result<Processed, PromptError> {
        let media = self.media(index, conversation, Depth::Pixels)?;
        for (kind, name) in [(MediaKind::Image, IMAGE_PAD), (MediaKind::Video, VIDEO_PAD)] {
            let of = |media: &[MediaInput]| -> usize {
                media
                    .iter()
                    .filter(|medium| medium.used.kind == kind)
                    .map(|m| m.used.tokens.0)
                    .sum()
            };
            let (placeholders, found) = (of(&counted.media), of(&media));
            if placeholders != found {
                return Err(PromptError::Placeholders { token: name, placeholders, media: found });
            }
        }
        Ok(Processed { media, ..counted })
    }

    fn inputs(
        &self,
        index: usize,
        conversation: &Conversation,
        options: ProcessOptions,
        depth: Depth,
    ) -> Result<Processed, PromptError> {
        let pieces = self.render(index, conversation, options)?;
        let encoded = self.encode(&pieces, options.control_text)?;
        let media = self.media(index, conversation, depth)?;
        let escaped = encoded.escaped;
        let mut done = Processed { input_ids: encoded.ids, media, escaped };
        for (kind, id, name) in [
            (MediaKind::Image, self.tokens.image, IMAGE_PAD),
            (MediaKind::Video, self.tokens.video, VIDEO_PAD),
        ] {
            let counts: Vec<Tokens> = done.of(kind).map(|medium| medium.used.tokens).collect();
            done.input_ids = placeholders::expand(&done.input_ids, (id, name), &counts)?;
        }
        Ok(done)
    }

    fn check_limits(&self, conversation: &Conversation) -> Result<(), PromptError> {
        if conversation.messages.is_empty() {
            return Err(PromptError::Empty);
        }
        let text_of =
            |part: &Part| part.json.get("text").and_then(Value::as_str).map_or(0, str::len);
        let raw_bytes = conversation.raw.as_ref().map_or(0, String::len);
        let (mut text_bytes, mut pictures, mut videos) = (raw_bytes, 0, 0);
        for message in &conversation.messages {
            if let Content::Text(text) = &message.content {
                text_bytes += text.len();
            }
            text_bytes += message.parts().iter().map(text_of).sum::<usize>();
            let of = |kind| message.parts().iter().filter(move |part| part.kind() == kind).count();
            pictures += of(PartKind::Image);
            videos += of(PartKind::Video);
        }
        for (limit, got, max) in [
            ("messages of a conversation", conversation.messages.len(), self.limits.messages),
            ("text of a conversation in bytes", text_bytes, self.limits.text_bytes),
            ("pictures of a conversation", pictures, self.limits.pictures),
            ("videos of a conversation", videos, self.limits.videos),
        ] {
            if got > max {
                return Err(PromptError::Limit { limit, got, max });
            }
        }
        Ok(())
    }

    /// A template may insert roles and other fields as they are: they hold no control tokens.
    fn check_fields(&self, index: usize, conversation: &Conversation) -> Result<(), PromptError> {
        for (number, message) in conversation.messages.iter().enumerate() {
            let spot = Spot { conversation: index, message: number, part: None };
            self.check_field(spot, "role", &Value::from(message.role.as_str()))?;
            for (key, value) in &message.extra {
                self.check_field(spot, key, value)?;
            }
            for (part, value) in message.parts().iter().enumerate() {
                let spot = Spot { part: Some(part), ..spot };
                let text = value.kind() == PartKind::Text;
                for (key, value) in value.json.iter().filter(|(key, _)| !(text && *key == "text")) {
                    self.check_field(spot, key, value)?;
                }
            }
        }
        Ok(())
    }

    fn check_field(&self, spot: Spot, key: &str, value: &Value) -> Result<(), PromptError> {
        let refused = |text: &str| match self.tokenizer.control_token(text) {
            Some((token, _)) => {
                let (key, token) = (key.to_owned(), token.to_owned());
                Err(PromptError::ControlTokenInField { spot, key, token })
            }
            None => Ok(()),
        };
        refused(key)?;
        match value {
            Value::String(text) => refused(text),
            Value::Array(list) => {
                list.iter().try_for_each(|item| self.check_field(spot, key, item))
            }
            Value::Object(map) => {
                map.iter().try_for_each(|(key, item)| self.check_field(spot, key, item))
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
        }
    }
}

/// A service shares one processor among its threads.
const fn shared<T: Send + Sync>() {}
const _: () = shared::<Processor>();

/// preprocessor_config.json; without one the class defaults, as in the reference.
fn preprocessor(folder: &Path) -> Result<Preprocessor, PromptError> {
    let file = folder.join("preprocessor_config.json");
    if !file.exists() {
        return Ok(Preprocessor::default());
    }
    let bytes = read_limited(&file, MAX_FILE)?;
    Preprocessor::from_json(&bytes).map_err(|source| PromptError::Preprocessor { file, source })
}

/// video_preprocessor_config.json, else preprocessor_config.json, as in the reference.
fn video_preprocessor(folder: &Path) -> Result<VideoPreprocessor, PromptError> {
    for name in ["video_preprocessor_config.json", "preprocessor_config.json"] {
        let file = folder.join(name);
        if file.exists() {
            let bytes = read_limited(&file, MAX_FILE)?;
            return VideoPreprocessor::from_json(&bytes)
                .map_err(|source| PromptError::Preprocessor { file, source });
        }
    }
    Ok(VideoPreprocessor::default())
}

/// tokenizer_config.json; without one, nothing.
pub(super) fn settings(folder: &Path) -> Result<Map<String, Value>, PromptError> {
    let file = folder.join("tokenizer_config.json");
    if !file.exists() {
        return Ok(Map::new());
    }
    object(&file)
}

/// A token is its text, or an object that holds it.
pub(super) fn token_text(value: &Value) -> Option<String> {
    value.get("content").unwrap_or(value).as_str().map(str::to_owned)
}

pub(super) fn object(file: &Path) -> Result<Map<String, Value>, PromptError> {
    let problem = |problem: String| PromptError::Tokenizer { file: file.to_owned(), problem };
    match serde_json::from_slice(&read_limited(file, MAX_FILE)?) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(problem("not a JSON object".into())),
        Err(error) => Err(problem(error.to_string())),
    }
}

/// A whole file of bounded size.
pub(super) fn read_limited(file: &Path, max: u64) -> Result<Vec<u8>, PromptError> {
    let io = |source| PromptError::Io { file: PathBuf::from(file), source };
    let mut bytes = Vec::new();
    File::open(file).and_then(|open| open.take(max + 1).read_to_end(&mut bytes)).map_err(io)?;
    let (max, got) = (usize::try_from(max).unwrap_or(usize::MAX), bytes.len());
    if got > max {
        return Err(PromptError::Limit { limit: "tokenizer or settings file in bytes", got, max });
    }
    Ok(bytes)
}
