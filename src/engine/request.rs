//! What is asked of the engine.

use std::time::Instant;

use super::{EngineError, Sampling};
use crate::model::generation_config::GenerationConfig;
use crate::prompt::{ControlText, Conversation, Message, Part, ProcessOptions, raw_prompts};
use crate::units::{TokenId, Tokens};

/// One question: a conversation, and how to answer it.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) conversation: Conversation,
    pub(super) options: ProcessOptions,
    pub(super) sampling: Sampling,
    /// In place of the checkpoint's.
    pub(super) config: Option<GenerationConfig>,
    pub(super) max_new_tokens: Option<Tokens>,
    pub(super) max_length: Option<Tokens>,
    pub(super) min_new_tokens: Option<usize>,
    pub(super) stop: Vec<String>,
    pub(super) logprobs: Option<usize>,
    pub(super) prompt_logprobs: Option<usize>,
    pub(super) deadline: Option<Instant>,
}

impl Request {
    /// The next turn of the assistant in a conversation.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::conversation(Conversation::new(messages))
    }

    /// The same for a conversation read from JSON.
    pub fn conversation(conversation: Conversation) -> Self {
        Self {
            conversation,
            options: ProcessOptions::default(),
            sampling: Sampling::default(),
            config: None,
            max_new_tokens: None,
            max_length: None,
            min_new_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            deadline: None,
        }
    }

    /// Settings in place of the checkpoint's `generation_config.json`; [`Request::sampling`] and the
    /// others still win over them.
    #[must_use]
    pub fn generation_config(mut self, config: GenerationConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Longest sequence, the prompt included, where neither the request nor the settings say how
    /// long an answer may be.
    #[must_use]
    pub fn max_length(mut self, tokens: usize) -> Self {
        self.max_length = Some(Tokens(tokens));
        self
    }

    /// No end token before so many tokens of an answer.
    #[must_use]
    pub fn min_new_tokens(mut self, tokens: usize) -> Self {
        self.min_new_tokens = Some(tokens);
        self
    }

    /// Texts that end an answer, themselves part of it, in place of the settings'.
    #[must_use]
    pub fn stop(mut self, strings: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.stop = strings.into_iter().map(Into::into).collect();
        self
    }

    /// Tokens that never come, beside those of the settings. After [`Request::sampling`], which has
    /// a list of its own.
    #[must_use]
    pub fn without(mut self, tokens: impl IntoIterator<Item = TokenId>) -> Self {
        self.sampling.bad_words_ids.extend(tokens.into_iter().map(|id| vec![id]));
        self
    }

    /// So many answers: drawn independently, or the best beams.
    #[must_use]
    pub fn n(mut self, answers: usize) -> Self {
        self.sampling.num_return_sequences = Some(answers);
        self
    }

    /// The log probability of each token of an answer, and of the `k` best in its place, at most
    /// [`super::MAX_LOGPROBS`]; under the logits before any processor.
    #[must_use]
    pub fn logprobs(mut self, k: usize) -> Self {
        self.logprobs = Some(k);
        self
    }

    /// The same of the prompt's tokens from the second on.
    #[must_use]
    pub fn prompt_logprobs(mut self, k: usize) -> Self {
        self.prompt_logprobs = Some(k);
        self
    }

    /// A prompt with its control tokens, as the reference's processor takes it; media are bound to
    /// its placeholders in order. Whoever writes such a prompt is trusted.
    ///
    /// # Errors
    /// Those of [`raw_prompts`].
    pub fn raw_prompt(
        text: impl Into<String>,
        media: impl IntoIterator<Item = Part>,
    ) -> Result<Self, EngineError> {
        let mut prompts = raw_prompts([text], media)?;
        Ok(Self::conversation(prompts.remove(0)))
    }

    /// Longest answer; without it the checkpoint's, else 1,024, and no more than fits.
    #[must_use]
    pub fn max_new_tokens(mut self, tokens: usize) -> Self {
        self.max_new_tokens = Some(Tokens(tokens));
        self
    }

    /// How tokens are chosen; without it as the checkpoint says.
    #[must_use]
    pub fn sampling(mut self, sampling: Sampling) -> Self {
        self.sampling = sampling;
        self
    }

    /// Writes `Picture N:` before pictures.
    #[must_use]
    pub fn add_vision_id(mut self, add: bool) -> Self {
        self.options.render.add_vision_id = add;
        self
    }

    /// Goes on with the last message instead of answering it: begun answers are given so.
    #[must_use]
    pub fn continue_final_message(mut self, go_on: bool) -> Self {
        self.options.render.continue_final_message = go_on;
        self.options.render.add_generation_prompt = !go_on;
        self
    }

    /// What the strings of control tokens in messages mean.
    #[must_use]
    pub fn control_text(mut self, policy: ControlText) -> Self {
        self.options.control_text = policy;
        self
    }

    /// When the answer is of no use any more: nothing runs after it, what there is comes back.
    #[must_use]
    pub fn deadline(mut self, deadline: Instant) -> Self {
        self.deadline = Some(deadline);
        self
    }
}
