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
        let request = Request::conversation(conversation)
            .add_vision_id(arguments.prompt.add_vision_id)
            .continue_final_message(arguments.continue_final_message)
            .control_text(arguments.prompt.control_text.into());
        let request = arguments.answer.sampling.apply(request)?;
        let submitted = engine.submit(request).map_err(CliError::from);
        generations.push(submitted.map_err(|error| {
            if conversations.batch { error.within(&format!("conversation {index}")) } else { error }
        })?);
    }
    let total = generations.len();
    let (mut documents, mut several) = (Vec::new(), conversations.batch);
    for (index, generation) in generations.into_iter().enumerate() {
        let completion = finish(generation, index, total, out)?;
        let usage = &completion.usage;
        warnings::print(&warnings::of(&usage.media, usage.escaped), out);
        let answers = answers::answers("qwen2vl.generate/1", &completion, &engine, load);
        if out.is_json() {
            several |= answers.len() > 1;
            documents.extend(answers);
        } else if arguments.jsonl {
            for document in &answers {
                out.document(document)?;
            }
        } else {
            for choice in completion.choices() {
                out.line(&choice.text)?;
            }
        }
    }
    if out.is_json() {
        let alone = if several { None } else { documents.pop() };
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
