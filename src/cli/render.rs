//! `qwen2vl render`: a conversation through the chat template, as text or ids. Media are not read
//! and placeholders not repeated.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::error::exit;
use super::prompts::{self, EndArgs, PromptArgs};
use super::{CliError, ModelArgs, Output, warnings};
use crate::prompt::Processor;
use crate::units::TokenId;

/// Arguments of `render`.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Conversation, or list of conversations, as JSON
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    end: EndArgs,
    /// Print token ids instead of text
    #[arg(long)]
    ids: bool,
}

/// Prints each prompt, in order.
pub(crate) fn run(arguments: &RenderArgs, out: &mut Output) -> Result<u8, CliError> {
    let conversations = prompts::conversations(&arguments.messages)?;
    let processor = arguments.prompt.apply(Processor::from_dir(&arguments.model.model)?)?;
    let options = arguments.end.apply(arguments.prompt.options());
    let (mut documents, mut escaped) = (Vec::new(), 0);
    for (index, conversation) in conversations.list.iter().enumerate() {
        let pieces = processor.render(index, conversation, options)?;
        let encoded = processor.encode(&pieces, options.control_text)?;
        escaped += encoded.escaped;
        let text: String = pieces.iter().map(|piece| piece.text.as_str()).collect();
        if out.is_json() {
            let ids: Vec<u32> = encoded.ids.iter().map(|id| id.0).collect();
            documents.push(json!({ "text": text, "ids": ids }));
        } else if arguments.ids {
            out.line(&line(&encoded.ids))?;
        } else {
            out.piece(&text)?;
            out.line("")?;
        }
    }
    warnings::print(&warnings::of(&[], escaped), out);
    if out.is_json() {
        out.document(&document(documents, conversations.batch))?;
    }
    Ok(exit::DONE)
}

fn line(ids: &[TokenId]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    ids.join(" ")
}

/// One object, or for a batch a list of them under `results`.
fn document(mut documents: Vec<Value>, batch: bool) -> Value {
    let mut document = if batch {
        json!({ "results": documents })
    } else {
        documents.pop().unwrap_or_else(|| json!({}))
    };
    document["schema"] = "qwen2vl.render/1".into();
    document
}
