//! The engine: a checkpoint on a device, ready for requests.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    Clock, EngineError, Generation, MAX_LOGPROBS, MemoryLimit, MemoryPlan, Request, Timings, Usage,
    placed::prompt_positions,
    plan::{MAX_BATCH, PREFILL_CHUNK, Wishes},
    processors,
    sampling::{self, Chosen, invalid},
    step::{Core, Stats, Submission},
    stopping::Stopping,
    visual,
};
use crate::{
    device::{Device, DeviceChoice},
    media::{Decoding, Ffmpeg, FrameWishes, Resizer, Resizing},
    model::{
        Model, ModelOptions,
        checkpoint::Checkpoint,
        config::{ModelConfig, TimeRule},
        generation_config::GenerationConfig,
        weights,
        workspace::{Workspace, edit_entries},
    },
    prompt::{Grounding, MediaKind, MediaUse, Processed, Processor, PromptLimits},
    units::{FloatType, Tokens},
};

/// Tokens of an answer where neither the request nor the checkpoint says.
const MAX_NEW_TOKENS: usize = 1024;

/// Settings of an engine; [`EngineBuilder::build`] loads it.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    folder: PathBuf,
    device: DeviceChoice,
    dtype: Option<FloatType>,
    time_rule: TimeRule,
    memory: Option<MemoryLimit>,
    max_model_len: Option<Tokens>,
    max_batch: Option<usize>,
    prefill_chunk: usize,
    resizer: Option<Resizer>,
    min_pixels: Option<u64>,
    max_pixels: Option<u64>,
    decoding: Decoding,
    grounding: Grounding,
    chat_template: Option<String>,
    video_pixels: (Option<u64>, Option<u64>),
    frames: FrameWishes,
    ffmpeg: Ffmpeg,
    resizing: Resizing,
    limits: PromptLimits,
}

/// A loaded checkpoint. Cheap to clone: all clones share one device and its memory.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What an engine and its generations share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) core: Mutex<Core>,
    pub(super) processor: Arc<Processor>,
    config: ModelConfig,
    generation: GenerationConfig,
    plan: MemoryPlan,
    device: String,
    device_name: String,
    warnings: Vec<String>,
}

impl EngineBuilder {
    /// Which device; without it, `Auto`.
    #[must_use]
    pub fn device(mut self, choice: DeviceChoice) -> Self {
        self.device = choice;
        self
    }

    /// What to compute in, weights, activations, keys and values alike; without it the
    /// checkpoint's own type. F32 is exact mode: without tensor cores, for comparisons.
    #[must_use]
    pub fn dtype(mut self, dtype: FloatType) -> Self {
        self.dtype = Some(dtype);
        self
    }

    /// How the seconds of videos become positions of Qwen2.5-VL; without it as in the reference.
    #[must_use]
    pub fn time_rule(mut self, rule: TimeRule) -> Self {
        self.time_rule = rule;
        self
    }

    /// How much device memory; without it nine tenths of a card's free memory, half of the
    /// machine's on the software device.
    #[must_use]
    pub fn memory(mut self, limit: MemoryLimit) -> Self {
        self.memory = Some(limit);
        self
    }

    /// Longest sequence, answer included; without it the checkpoint's `max_position_embeddings`, at
    /// least 4,096 and at most 32,768, or what fits.
    #[must_use]
    pub fn max_model_len(mut self, tokens: usize) -> Self {
        self.max_model_len = Some(Tokens(tokens));
        self
    }

    /// Sequences at once; without it 8, or as many as the checkpoint's settings ask for in one
    /// request.
    #[must_use]
    pub fn max_batch(mut self, sequences: usize) -> Self {
        self.max_batch = Some(sequences);
        self
    }

    /// Rows of prompts in one step; without it 2,048. Shows in no result.
    #[must_use]
    pub fn prefill_chunk(mut self, tokens: usize) -> Self {
        self.prefill_chunk = tokens;
        self
    }

    /// How pictures are resized; without it as torchvision does.
    #[must_use]
    pub fn resizer(mut self, resizer: Resizer) -> Self {
        self.resizer = Some(resizer);
        self
    }

    /// How frames of videos are chosen that do not say themselves, over what the checkpoint says.
    #[must_use]
    pub fn frames(mut self, wishes: FrameWishes) -> Self {
        self.frames = wishes;
        self
    }

    /// The program for video containers; without it `ffmpeg`.
    #[must_use]
    pub fn ffmpeg(mut self, ffmpeg: Ffmpeg) -> Self {
        self.ffmpeg = ffmpeg;
        self
    }

    /// What decides the size of pictures and frames that do not ask for their own.
    #[must_use]
    pub fn resizing(mut self, resizing: Resizing) -> Self {
        self.resizing = resizing;
        self
    }

    /// Limits on requests and their media.
    #[must_use]
    pub fn limits(mut self, limits: PromptLimits) -> Self {
        self.limits = limits;
        self
    }

    /// Bounds of each resized frame of a video in pixels, each over the checkpoint's.
    #[must_use]
    pub fn video_pixels(mut self, min: Option<u64>, max: Option<u64>) -> Self {
        self.video_pixels = (min, max);
        self
    }

    /// Bounds of resized pictures in pixels, each over the checkpoint's.
    #[must_use]
    pub fn pixels(mut self, min: Option<u64>, max: Option<u64>) -> Self {
        (self.min_pixels, self.max_pixels) = (min, max);
        self
    }

    /// How files become RGB; without it as in the reference.
    #[must_use]
    pub fn decoding(mut self, decoding: Decoding) -> Self {
        self.decoding = decoding;
        self
    }

    /// What grounding tokens in messages mean; without it themselves.
    #[must_use]
    pub fn grounding(mut self, grounding: Grounding) -> Self {
        self.grounding = grounding;
        self
    }

    /// Another chat template: the name of one of the checkpoint's, or its source.
    #[must_use]
    pub fn chat_template(mut self, template: impl Into<String>) -> Self {
        self.chat_template = Some(template.into());
        self
    }

    /// Loads the checkpoint and plans and allocates all device memory.
    ///
    /// # Errors
    /// [`EngineError`]: a file of the checkpoint, a setting that is not built, no device, or not
    /// enough memory.
    pub fn build(self) -> Result<Engine, EngineError> {
        let config = ModelConfig::load(&self.folder)?.with_time_rule(self.time_rule);
        let generation = GenerationConfig::load(&self.folder)?;
        let processor = Processor::with_config(&self.folder, &config)?
            .with_decoding(self.decoding)
            .with_grounding(self.grounding);
        let processor = match &self.chat_template {
            Some(template) => processor.with_chat_template(template)?,
            None => processor,
        };
        processor.check_vision(&config.vision)?;
        let processor = processor.with_pixels(self.min_pixels, self.max_pixels)?;
        let processor = match self.resizer {
            Some(resizer) => processor.with_resizer(resizer),
            None => processor,
        };
        let processor = processor.with_sampling(self.frames)?;
        let processor = processor.with_ffmpeg(self.ffmpeg).with_limits(self.limits);
        let processor = processor.with_resizing(self.resizing);
        let (min, max) = self.video_pixels;
        let processor = processor.with_video_pixels(min, max)?;
        let checkpoint = Checkpoint::open(&self.folder)?;
        let dtype = self.dtype.unwrap_or_else(|| weights::own_type(&config, &checkpoint));
        let device = Device::open(self.device)?;
        let software = device.located().software;
        let wishes = Wishes {
            max_model_len: self.max_model_len,
            max_batch: self.max_batch.unwrap_or_else(|| {
                generation.num_beams.max(generation.num_return_sequences).max(MAX_BATCH)
            }),
            prefill_chunk: self.prefill_chunk,
            memory: self.memory.unwrap_or_else(|| MemoryLimit::of_device(software)),
            free: device.memory()?.free,
            max_pixels: {
                let frame = processor.video_preprocessor().frame().budget();
                processor.preprocessor().budget().max.max(frame.max)
            },
            dtype,
        };
        let plan = MemoryPlan::new(&config, wishes)?;
        let values = byte_values(&processor)?;
        let options = ModelOptions {
            rope: &plan.rope().values(),
            pages: plan.limits().pages,
            dtype,
            byte_values: Some(&values),
        };
        let (model, loaded) = Model::load(&device, &config, &checkpoint, options)?;
        let workspace = Workspace::new(&device, plan.workspace())?;
        let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        warnings.extend(loaded.iter().map(ToString::to_string));
        let trained = config.text.max_position_embeddings;
        if self.max_model_len.is_some_and(|asked| asked.0 > trained) {
            warnings.push(format!(
                "sequences may pass the {trained} positions that the model was trained for"
            ));
        }
        let (name, device_name) = (device.located().to_string(), device.name().to_owned());
        let core = Mutex::new(Core::new(device, model, workspace, plan.clone())?);
        let shared = Shared {
            core,
            processor: Arc::new(processor),
            config,
            generation,
            plan,
            device: name,
            device_name,
            warnings,
        };
        Ok(Engine { shared: Arc::new(shared) })
    }
}

impl Engine {
    /// An engine for the checkpoint in `folder`.
    pub fn builder(folder: impl AsRef<Path>) -> EngineBuilder {
        EngineBuilder {
            folder: folder.as_ref().to_owned(),
            device: DeviceChoice::Auto,
            dtype: None,
            time_rule: TimeRule::default(),
            memory: None,
            max_model_len: None,
            max_batch: None,
            prefill_chunk: PREFILL_CHUNK,
            resizer: None,
            min_pixels: None,
            max_pixels: None,
            decoding: Decoding::default(),
            grounding: Grounding::default(),
            chat_template: None,
            video_pixels: (None, None),
            frames: FrameWishes::default(),
            ffmpeg: Ffmpeg::default(),
            resizing: Resizing::default(),
            limits: PromptLimits::default(),
        }
    }

    /// Takes a request: its media are read and its prompt is made before this returns; device work
    /// begins when the generation is polled.
    ///
    /// # Errors
    /// [`EngineError`]: bad media, prompt or settings; [`EngineError::ContextLength`] for a prompt
    /// and answer that pass the engine's limit; [`EngineError::Deadline`].
    pub fn submit(&self, request: Request) -> Result<Generation, EngineError> {
        if request.deadline.is_some_and(super::timing::is_past) {
            return Err(EngineError::Deadline);
        }
        let clock = Clock::start();
        let shared = &self.shared;
        let config = self.config(&request)?;
        // Headers say how large a request is: one that does not fit costs no pixel work.
        let counted = shared.processor.count(0, &request.conversation, request.options)?;
        let usage = usage(&counted);
        let chosen = self.chosen(&request, config, &usage, clock)?;
        self.check_pictures(&counted)?;
        let processed = shared.processor.complete(0, &request.conversation, counted)?;
        let seed = chosen.config.do_sample.then_some(chosen.seed);
        let answers = chosen.config.num_return_sequences;
        let submission = self.submission(processed, chosen)?;
        let timings = Timings { media: clock.elapsed(), ..Timings::default() };
        let id = shared.core.lock().unwrap_or_else(PoisonError::into_inner).submit(submission)?;
        let generation = Generation::new(shared.clone(), id, usage, timings, seed, answers);
        Ok(generation.until(request.deadline))
    }

    /// Name of the device in use, `cuda:N` or `software`.
    pub fn device(&self) -> &str {
        &self.shared.device
    }

    /// The driver's name of the device.
    pub fn device_name(&self) -> &str {
        &self.shared.device_name
    }

    /// What it computes in.
    pub fn dtype(&self) -> FloatType {
        self.shared.plan.dtype()
    }

    /// Device memory by purpose.
    pub fn plan(&self) -> &MemoryPlan {
        &self.shared.plan
    }

    /// What the engine holds at this moment.
    pub fn stats(&self) -> Stats {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner).stats()
    }

    /// The checkpoint's processor.
    pub fn processor(&self) -> &Processor {
        &self.shared.processor
    }

    /// What was odd about the checkpoint and did not stop it.
    pub fn warnings(&self) -> &[String] {
        &self.shared.warnings
    }

    /// Settings of a request over its own, else over the checkpoint's.
    fn config(&self, request: &Request) -> Result<GenerationConfig, EngineError> {
        let base = request.config.as_ref().unwrap_or(&self.shared.generation);
        let vocabulary = self.shared.config.text.vocab_size;
        let mut config = request.sampling.over(base, vocabulary)?;
        config.min_new_tokens = request.min_new_tokens.unwrap_or(config.min_new_tokens);
        config.max_length = request.max_length.or(config.max_length);
        if !request.stop.is_empty() {
            config.stop_strings.clone_from(&request.stop);
        }
        if config.stop_strings.iter().any(String::is_empty) {
            return Err(invalid("stop", "\"\"".to_owned(), "texts that are not empty"));
        }
        for (field, asked) in
            [("logprobs", request.logprobs), ("prompt_logprobs", request.prompt_logprobs)]
        {
            let most = MAX_LOGPROBS.min(vocabulary);
            if let Some(k) = asked.filter(|k| *k > most) {
                return Err(invalid(field, k.to_string(), "at most 20 alternatives"));
            }
        }
        if request.logprobs.is_some() && config.num_beams > 1 {
            let allowed = "off in a beam search, whose answers have scores";
            return Err(invalid("logprobs", "on".to_owned(), allowed));
        }
        let limits = self.shared.plan.limits();
        let most = edit_entries(limits);
        let entries = processors::most_entries(&config, limits.sequence_tokens);
        if entries > most {
            let got = format!("{entries} listed tokens");
            return Err(invalid(
                "generation_config",
                got,
                "lists of at most 16,384 tokens together",
            ));
        }
        Ok(config)
    }

    fn chosen(
        &self,
        request: &Request,
        config: GenerationConfig,
        usage: &Usage,
        clock: Clock,
    ) -> Result<Chosen, EngineError> {
        let stopping = Stopping {
            eos: config.eos.clone(),
            max_new: self.max_new(request, &config, usage)?,
            strings: config.stop_strings.clone(),
            max_time: config.max_time,
            clock,
            processor: self.shared.processor.clone(),
        };
        Ok(Chosen {
            config,
            stopping,
            seed: request.sampling.seed.unwrap_or_else(sampling::drawn_seed),
            logprobs: request.logprobs,
            prompt_logprobs: request.prompt_logprobs,
        })
    }

    /// The longest answer: of `max_new_tokens` and `max_length` the first counts, as in the
    /// reference.
    fn max_new(
        &self,
        request: &Request,
        config: &GenerationConfig,
        usage: &Usage,
    ) -> Result<Tokens, EngineError> {
        let limit = self.shared.plan.max_model_len();
        let prompt = Tokens(usage.prompt_tokens);
        let left = limit.0.saturating_sub(prompt.0);
        let too_long = |max_new| EngineError::ContextLength {
            prompt,
            image: Tokens(usage.image_tokens + usage.video_tokens),
            max_new,
            limit,
        };
        if request.max_new_tokens == Some(Tokens(0)) {
            return Err(invalid("max_new_tokens", "0".to_owned(), "above 0"));
        }
        if let Some(asked) = request.max_new_tokens {
            return if asked.0 > left { Err(too_long(asked)) } else { Ok(asked) };
        }
        if left == 0 {
            return Err(too_long(Tokens(1)));
        }
        match (config.max_new_tokens, config.max_length) {
            (Some(asked), _) => Ok(Tokens(asked.0.min(left))),
            (None, Some(length)) if length.0 <= prompt.0 => {
                let got = format!("{} with {} prompt tokens", length.0, prompt.0);
                Err(invalid("max_length", got, "above the length of the prompt"))
            }
            (None, Some(length)) => Ok(Tokens((length.0 - prompt.0).min(left))),
            // Without a wish the answer is as long as fits.
            (None, None) => Ok(Tokens(MAX_NEW_TOKENS.min(left))),
        }
    }

    /// A picture may have a budget of its own, above the one that the workspace is planned for.
    fn check_pictures(&self, processed: &Processed) -> Result<(), EngineError> {
        let limit = self.shared.plan.limits().patch_rows;
        for medium in &processed.media {
            // The tower sees a video in stretches: one temporal patch is all that must fit.
            let patches = medium.used.grid.frame_rows().map_or(usize::MAX, |rows| rows.0);
            if patches > limit {
                let source_name = medium.used.source.clone();
                return Err(EngineError::PictureTooLarge { source_name, patches, limit });
            }
        }
        Ok(())
    }

    /// In Qwen2.5-VL a slow video may take more positions than tokens, and the rotary table ends.
    fn check_positions(&self, span: usize, max_new: Tokens) -> Result<(), EngineError> {
        let limit = self.shared.plan.max_model_len().0;
        if span.saturating_add(max_new.0) <= limit || self.shared.config.vision.windowed.is_none() {
            return Ok(());
        }
        let (got, allowed) = (format!("positions up to {span}"), "positions that fit the context");
        Err(EngineError::InvalidRequest { field: "fps", got, allowed })
    }

    fn submission(&self, processed: Processed, chosen: Chosen) -> Result<Submission, EngineError> {
        let shared = &self.shared;
        let placed = prompt_positions(&shared.config, &processed)?;
        self.check_positions(placed.span(), chosen.max_new())?;
        let ids = processed.input_ids.clone();
        let visual = visual::rows(shared.config.tokens, &ids);
        let items = visual::inputs(&shared.processor, processed);
        Ok(Submission {
            ids,
            positions: placed.axes,
            next_position: placed.next,
            visual,
            items,
            chosen,
        })
    }
}

/// What the processor makes of each byte of each channel.
fn byte_values(processor: &Processor) -> Result<[[f32; 256]; 3], EngineError> {
    let normalization = processor.preprocessor().normalization();
    let table = normalization.table();
    let table: Result<[[f32; 256]; 3], _> = table.try_into();
    table.map_err(|_error| EngineError::internal("a byte table that is not 3 x 256".to_owned()))
}

fn usage(processed: &Processed) -> Usage {
    let media: Vec<MediaUse> = processed.used().cloned().collect();
    let tokens = |kind: MediaKind| {
        media.iter().filter(|item| item.kind == kind).map(|item| item.tokens.0).sum()
    };
    Usage {
        prompt_tokens: processed.input_ids.len(),
        image_tokens: tokens(MediaKind::Image),
        video_tokens: tokens(MediaKind::Video),
        completion_tokens: 0,
        escaped: processed.escaped,
        media,
    }
}
