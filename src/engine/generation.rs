//! An answer as it comes: an iterator of events. Dropping it cancels the request.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{EngineError, FinishReason, Timings, engine::Shared, step::Outcome, timing};
use crate::{
    media::{PixelBudget, Size},
    prompt::{Detokenizer, MediaInput, MediaKind, SampledFrames},
    units::{GridThw, SequenceId, TokenId, Tokens},
};

/// What happens to a request, in this order: started, tokens, done.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The prompt is counted.
    Started(Usage),
    /// A token of the answer.
    Token(Token),
    /// The end, with everything.
    Done(Completion),
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its place in the answer.
    pub index: usize,
    /// Its id.
    pub id: TokenId,
    /// Text that is complete with it; bytes of an unfinished character wait.
    pub text: String,
}

/// Tokens of a request by kind.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// All tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that stand for pictures.
    pub image_tokens: usize,
    /// Those of them that stand for videos.
    pub video_tokens: usize,
    /// Tokens of the answer, the end token included.
    pub completion_tokens: usize,
    /// Strings of control tokens in messages that were taken as text.
    pub escaped: usize,
    /// Each picture and video, in order.
    pub media: Vec<MediaUse>,
}

/// One picture or video of a request, with the settings that were used for it.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaUse {
    /// Picture or video.
    pub kind: MediaKind,
    /// Path or size of its source.
    pub source: String,
    /// Height and width before the resize.
    pub decoded: Size,
    /// Height and width as the model saw it.
    pub resized: Size,
    /// Bounds of the resize.
    pub budget: PixelBudget,
    /// In patches.
    pub grid: GridThw,
    /// Visual tokens.
    pub tokens: Tokens,
    /// Whether EXIF turned it.
    pub turned: bool,
    /// Whether transparency was dropped from it.
    pub alpha_dropped: bool,
    /// Which frames were taken of a video.
    pub frames: Option<SampledFrames>,
}

impl From<&MediaInput> for MediaUse {
    fn from(input: &MediaInput) -> Self {
        let MediaInput { kind, decoded, resized, budget, grid, tokens, .. } = *input;
        let (turned, alpha_dropped) = (input.turned, input.alpha_dropped);
        let (source, frames) = (input.source.clone(), input.frames.clone());
        Self { kind, source, decoded, resized, budget, grid, tokens, turned, alpha_dropped, frames }
    }
}

/// A whole answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its text without control tokens.
    pub text: String,
    /// Its tokens, the end token included.
    pub token_ids: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// What was counted.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// A running request: an iterator of [`Event`]s that runs steps of the engine as it needs them.
#[derive(Debug)]
pub struct Generation {
    shared: Arc<Shared>,
    id: SequenceId,
    events: VecDeque<Event>,
    detokenizer: Detokenizer,
    text: String,
    token_ids: Vec<TokenId>,
    usage: Usage,
    timings: Timings,
    deadline: Option<Instant>,
    completion: Option<Completion>,
    /// Nothing more comes: done, failed or cancelled.
    ended: bool,
}

impl Generation {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: SequenceId,
        usage: Usage,
        timings: Timings,
        deadline: Option<Instant>,
    ) -> Self {
        Self {
            shared,
            id,
            events: VecDeque::from([Event::Started(usage.clone())]),
            detokenizer: Detokenizer::new(true),
            text: String::new(),
            token_ids: Vec::new(),
            usage,
            timings,
            deadline,
            completion: None,
            ended: false,
        }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What the iterator would give: [`EngineError`].
    pub fn finish(mut self) -> Result<Completion, EngineError> {
        for event in &mut self {
            event?;
        }
        let ended = || EngineError::internal("a generation that was polled to its end".to_owned());
        self.completion.take().ok_or_else(ended)
    }

    /// Ends the request; its pages are free at once.
    pub fn cancel(&mut self) {
        if !self.ended {
            self.ended = true;
            self.shared.core.lock().unwrap_or_else(PoisonError::into_inner).cancel(self.id);
        }
    }

    /// The next outcome of this sequence, running steps until there is one.
    fn outcome(&self) -> Result<Outcome, EngineError> {
        let mut core = self.shared.core.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = core.take(self.id) {
                return outcome;
            }
            core.step()?;
        }
    }

    fn advance(&mut self) -> Result<(), EngineError> {
        if self.deadline.is_some_and(timing::is_past) {
            if self.token_ids.is_empty() {
                return Err(EngineError::Deadline);
            }
            self.cancel();
            self.complete(FinishReason::Deadline);
            return Ok(());
        }
        let outcome = self.outcome()?;
        self.timings.vision += outcome.vision;
        if self.token_ids.is_empty() {
            self.timings.prefill += outcome.decoder;
        } else {
            self.timings.decode += outcome.decoder;
        }
        let text = self.detokenizer.push(self.shared.processor.tokenizer(), outcome.token);
        let index = self.token_ids.len();
        self.token_ids.push(outcome.token);
        self.add_text(index, outcome.token, text, outcome.finished.is_some());
        if let Some(reason) = outcome.finished {
            self.ended = true;
            self.complete(reason);
        }
        Ok(())
    }

    fn add_text(&mut self, index: usize, id: TokenId, mut text: String, last: bool) {
        if last {
            text += &self.detokenizer.finish();
        }
        self.text += &text;
        self.events.push_back(Event::Token(Token { index, id, text }));
    }

    fn complete(&mut self, finish_reason: FinishReason) {
        let mut usage = self.usage.clone();
        usage.completion_tokens = self.token_ids.len();
        self.text += &self.detokenizer.finish();
        let completion = Completion {
            text: self.text.clone(),
            token_ids: self.token_ids.clone(),
            finish_reason,
            usage,
            timings: self.timings,
        };
        self.completion = Some(completion.clone());
        self.events.push_back(Event::Done(completion));
    }
}

impl Iterator for Generation {
    type Item = Result<Event, EngineError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.events.is_empty()
            && !self.ended
            && let Err(error) = self.advance()
        {
            self.cancel();
            return Some(Err(error));
        }
        self.events.pop_front().map(Ok)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.cancel();
    }
}
