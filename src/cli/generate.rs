//! `qwen2vl generate`: answers to a conversation, or to a list of them as one batch.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::warnings;
use super::{
    CliError, ModelArgs, Output,
    answers::{self, AnswerArgs},
    error::exit,
    prompts::{self, PictureArgs, PromptArgs},
};
use crate::engine::{Generation, Request};

/// Arguments of `generate`.
#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Conversation, or list of conversations, as JSON
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// One JSON object a line
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    /// Go on with the last message instead of answering it
    #[arg(long)]
    continue_final_message: bool,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Answers all conversations together and prints them in order.
pub(crate) fn run(arguments: &GenerateArgs, out: &mut Output) -> Result<u8, CliError> {
    let conversations = prompts::conversations(&arguments.messages)?;
    let settings = (&arguments.prompt, &arguments.pictures);
    let (engine, load) = arguments.answer.engine(&arguments.model.model, settings, out)?;
    let mut generations = Vec::new();
    for (index, conversation) in conversations.list.into_iter().enumerate() {
        let mut request = Request::conversation(conversation)
            .sampling(arguments.answer.sampling())
            .add_vision_id(arguments.prompt.add_vision_id)
            .continue_final_message(arguments.continue_final_message)
            .control_text(arguments.prompt.control_text.into());
        if let Some(tokens) = arguments.answer.max_new_tokens {
            request = request.max_new_tokens(tokens);
        }
        let submitted = engine.submit(request).map_err(CliError::from);
        generations.push(submitted.map_err(|error| {
            if conversations.batch { error.within(&format!("conversation {index}")) } else { error }
        })?);
    }
    let total = generations.len();
    let mut documents = Vec::new();
    for (index, generation) in generations.into_iter().enumerate() {
        let completion = finish(generation, index, total, out)?;
        let usage = &completion.usage;
        warnings::print(&warnings::of(&usage.media, usage.escaped), out);
        if out.is_json() {
            documents.push(answers::answer("qwen2vl.generate/1", &completion, &engine, load));
        } else if arguments.jsonl {
            let document = answers::answer("qwen2vl.generate/1", &completion, &engine, load);
            out.document(&document)?;
        } else {
            out.line(&completion.text)?;
        }
    }
    if out.is_json() {
        let alone = if conversations.batch { None } else { documents.pop() };
        out.document(&alone.unwrap_or(Value::Array(documents)))?;
    }
    Ok(exit::DONE)
}

fn finish(
    generation: Generation,
    index: usize,
    total: usize,
    out: &mut Output,
) -> Result<crate::engine::Completion, CliError> {
    out.status(&format!("answer {} of {total}", index + 1));
    let completion = generation.finish();
    out.status("");
    Ok(completion?)
}
