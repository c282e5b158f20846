//! What is asked of the engine.

use std::time::Instant;

use super::{EngineError, Sampling};
use crate::prompt::{ControlText, Conversation, Message, Part, ProcessOptions, raw_prompts};
use crate::units::Tokens;

/// One question: a conversation, and how to answer it.
#[derive(Clone, Debug)]
pub struct Request {
    pub(super) conversation: Conversation,
    pub(super) options: ProcessOptions,
    pub(super) sampling: Sampling,
    pub(super) max_new_tokens: Option<Tokens>,
    pub(super) deadline: Option<Instant>,
}

impl Request {
    /// The next turn of the assistant in a conversation.
    pub fn chat(messages: impl IntoIterator<Item = Message>) -> Self {
        Self::conversation(Conversation::new(messages))
    }

    /// The same for a conversation read from JSON.
    pub fn conversation(conversation: Conversation) -> Self {
        let options = ProcessOptions::default();
        let sampling = Sampling::default();
        Self { conversation, options, sampling, max_new_tokens: None, deadline: None }
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
