//! An answer as it comes: an iterator of events. Dropping it cancels the request.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Instant,
};

use super::{
    EngineError, FinishReason, Timings, TokenLogprobs, engine::Shared, step::Outcome, timing,
};
use crate::{
    prompt::{Detokenizer, MediaUse},
    units::{RequestId, TokenId},
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
    Done(Box<Completion>),
}

/// One token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Which answer of the request.
    pub choice: usize,
    /// Its place in the answer.
    pub index: usize,
    /// Its id.
    pub id: TokenId,
    /// Text that is complete with it; bytes of an unfinished character wait.
    pub text: String,
    /// Its log probability, and the best tokens in its place, if they were asked for.
    pub logprobs: Option<TokenLogprobs>,
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

/// A whole answer; of several the first, which in a beam search is the best.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Its text without control tokens.
    pub text: String,
    /// Its tokens, the end token included.
    pub token_ids: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Log probabilities of its tokens, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of a beam: its log probability over its length to the power of the length penalty.
    pub score: Option<f32>,
    /// The other answers of the request, in order.
    pub others: Vec<Choice>,
    /// Log probabilities of the prompt's tokens from the second on, if they were asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Key of the random numbers: with it the request gives the same answers again. None where
    /// nothing was drawn.
    pub seed: Option<u64>,
    /// What was counted.
    pub usage: Usage,
    /// Where the time went.
    pub timings: Timings,
}

/// One of several answers.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Its text without control tokens.
    pub text: String,
    /// Its tokens, the end token included.
    pub token_ids: Vec<TokenId>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Log probabilities of its tokens, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of a beam: its log probability over its length to the power of the length penalty.
    pub score: Option<f32>,
}

impl Completion {
    /// All answers in order.
    pub fn choices(&self) -> Vec<Choice> {
        let first = Choice {
            text: self.text.clone(),
            token_ids: self.token_ids.clone(),
            finish_reason: self.finish_reason,
            logprobs: self.logprobs.clone(),
            score: self.score,
        };
        std::iter::once(first).chain(self.others.iter().cloned()).collect()
    }
}

/// An answer on its way.
#[derive(Debug)]
struct Draft {
    detokenizer: Detokenizer,
    text: String,
    token_ids: Vec<TokenId>,
    logprobs: Vec<TokenLogprobs>,
    score: Option<f32>,
    finish_reason: Option<FinishReason>,
}

/// A running request: an iterator of [`Event`]s that runs steps of the engine as it needs them.
#[derive(Debug)]
pub struct Generation {
    shared: Arc<Shared>,
    id: RequestId,
    events: VecDeque<Event>,
    drafts: Vec<Draft>,
    prompt_logprobs: Vec<TokenLogprobs>,
    seed: Option<u64>,
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
        id: RequestId,
        usage: Usage,
        timings: Timings,
        seed: Option<u64>,
        answers: usize,
    ) -> Self {
        let draft = || Draft {
            detokenizer: Detokenizer::new(true),
            text: String::new(),
            token_ids: Vec::new(),
            logprobs: Vec::new(),
            score: None,
            finish_reason: None,
        };
        Self {
            shared,
            id,
            events: VecDeque::from([Event::Started(usage.clone())]),
            drafts: std::iter::repeat_with(draft).take(answers).collect(),
            prompt_logprobs: Vec::new(),
            seed,
            usage,
            timings,
            deadline: None,
            completion: None,
            ended: false,
        }
    }

    /// The same with a deadline.
    pub(super) fn until(mut self, deadline: Option<Instant>) -> Self {
        self.deadline = deadline;
        self
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
        let begun = self.drafts.iter().any(|draft| !draft.token_ids.is_empty());
        if self.deadline.is_some_and(timing::is_past) {
            if !begun {
                return Err(EngineError::Deadline);
            }
            self.cancel();
            return self.complete(FinishReason::Deadline);
        }
        let outcome = self.outcome()?;
        self.timings.vision += outcome.vision;
        if begun {
            self.timings.decode += outcome.decoder;
        } else {
            self.timings.prefill += outcome.decoder;
        }
        self.prompt_logprobs.extend(outcome.prompt_logprobs);
        let gone = || EngineError::internal("an answer that was not asked for".to_owned());
        let draft = self.drafts.get_mut(outcome.choice).ok_or_else(gone)?;
        let mut text = String::new();
        if let Some(token) = outcome.token {
            text = draft.detokenizer.push(self.shared.processor.tokenizer(), token);
        }
        if outcome.finished.is_some() {
            (draft.finish_reason, draft.score) = (outcome.finished, outcome.score);
            text += &draft.detokenizer.finish();
        }
        draft.text += &text;
        if let Some(id) = outcome.token {
            let (choice, index) = (outcome.choice, draft.token_ids.len());
            draft.token_ids.push(id);
            draft.logprobs.extend(outcome.logprobs.clone());
            let logprobs = outcome.logprobs;
            self.events.push_back(Event::Token(Token { choice, index, id, text, logprobs }));
        }
        if outcome.last {
            self.ended = true;
            return self.complete(FinishReason::Length);
        }
        Ok(())
    }

    /// Answers that have not ended by themselves end for `reason`.
    fn complete(&mut self, reason: FinishReason) -> Result<(), EngineError> {
        let mut usage = self.usage.clone();
        usage.completion_tokens = self.drafts.iter().map(|draft| draft.token_ids.len()).sum();
        let mut choices = self.drafts.drain(..).map(|mut draft| Choice {
            text: draft.text + &draft.detokenizer.finish(),
            token_ids: draft.token_ids,
            finish_reason: draft.finish_reason.unwrap_or(reason),
            logprobs: draft.logprobs,
            score: draft.score,
        });
        let none = || EngineError::internal("a request without answers".to_owned());
        let first = choices.next().ok_or_else(none)?;
        let completion = Completion {
            text: first.text,
            token_ids: first.token_ids,
            finish_reason: first.finish_reason,
            logprobs: first.logprobs,
            score: first.score,
            others: choices.collect(),
            prompt_logprobs: std::mem::take(&mut self.prompt_logprobs),
            seed: self.seed,
            usage,
            timings: self.timings,
        };
        self.completion = Some(completion.clone());
        self.events.push_back(Event::Done(Box::new(completion)));
        Ok(())
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
