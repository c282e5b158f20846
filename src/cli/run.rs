//! `qwen2vl run`: one question, one answer, streamed.

use std::{io::Read, path::PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::{
    CliError, Output,
    answers::{self, AnswerArgs},
    error::exit,
    interrupt::Interrupt,
    media_flags::MediaFlags,
    prompts::{PictureArgs, PromptArgs},
    warnings,
};
use crate::{
    engine::{Clock, Completion, Event, Request},
    prompt::{Message, Part},
    settings,
};

/// Longest prompt that is read from standard input.
const MAX_PROMPT: u64 = 16 << 20;

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(
    override_usage = "qwen2vl run [OPTIONS] MODEL PROMPT\n       qwen2vl run [OPTIONS] -m MODEL PROMPT"
)]
pub(crate) struct RunArgs {
    /// Folder of the checkpoint, unless -m or QWEN2VL_MODEL names it, and the question ("-": read it
    /// from standard input)
    #[arg(value_name = "MODEL> <PROMPT", num_args = 1..=2, required = true)]
    words: Vec<String>,
    /// Folder of the checkpoint
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    #[command(flatten)]
    media: MediaFlags,
    /// What the model is told before the question
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// One JSON object a line as the answer comes
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// Streams the answer and sums it up.
pub(crate) fn run(arguments: &RunArgs, out: &mut Output) -> Result<u8, CliError> {
    let clock = Clock::start();
    let (model, question) = words(arguments)?;
    let request = request(arguments, question)?;
    let settings = (&arguments.prompt, &arguments.pictures);
    let (engine, load) = arguments.answer.engine(&model, settings, out)?;
    let interrupt = Interrupt::listen()?;
    let mut generation = engine.submit(request)?;
    let streams = !out.is_json() && !arguments.jsonl;
    for event in &mut generation {
        match event? {
            Event::Started(usage) => {
                warnings::print(&warnings::of(&usage.media, usage.escaped), out);
            }
            // Of several answers the first is streamed.
            Event::Token(token) if streams && token.choice == 0 => out.piece(&token.text)?,
            Event::Token(token) if arguments.jsonl => {
                let mut document = json!({
                    "type": "token",
                    "choice": token.choice,
                    "index": token.index,
                    "id": token.id.0,
                    "text": token.text,
                });
                if let Some(logprobs) = &token.logprobs {
                    document["logprobs"] = answers::logprobs(logprobs, &engine);
                }
                out.document(&document)?;
                out.flush()?;
            }
            _ => {}
        }
        if let Some(status) = interrupt.status() {
            generation.cancel();
            if streams {
                out.line("")?;
            }
            out.note("(interrupted)");
            return Ok(status);
        }
    }
    let completion = generation.finish()?;
    if streams {
        out.line("")?;
        for other in &completion.others {
            out.line(&other.text)?;
        }
        out.note(&summary(&completion, engine.device_name(), clock));
        return Ok(exit::DONE);
    }
    let mut documents = answers::answers("qwen2vl.run/1", &completion, &engine, load);
    if arguments.jsonl {
        for document in &mut documents {
            document["type"] = json!("done");
            out.document(document)?;
        }
    } else {
        let alone = if documents.len() == 1 { documents.pop() } else { None };
        out.document(&alone.unwrap_or(Value::Array(documents)))?;
    }
    Ok(exit::DONE)
}

/// The checkpoint and the question from the positional words.
fn words(arguments: &RunArgs) -> Result<(PathBuf, String), CliError> {
    let named = arguments.model.clone();
    let named = named.or_else(|| settings::text(settings::MODEL).map(PathBuf::from));
    let (model, question) = match (arguments.words.as_slice(), named) {
        ([model, question], None) => (PathBuf::from(model), question),
        ([question], Some(model)) => (model, question),
        ([_, _], Some(_)) if arguments.model.is_none() => {
            let [model, question] = arguments.words.as_slice() else {
                return Err(CliError::usage("two words at most"));
            };
            (PathBuf::from(model), question)
        }
        ([_], None) => {
            let message = "run needs a checkpoint and a question: qwen2vl run MODEL \"PROMPT\", or \
                           -m MODEL, or QWEN2VL_MODEL";
            return Err(CliError::usage(message));
        }
        _ => {
            return Err(CliError::usage("-m names the checkpoint: give the question alone"));
        }
    };
    if question != "-" {
        return Ok((model, question.clone()));
    }
    let mut text = String::new();
    std::io::stdin().take(MAX_PROMPT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_PROMPT {
        let what = format!("the question on standard input has more than {MAX_PROMPT} bytes");
        return Err(CliError::new("limit_exceeded", exit::INPUT, what));
    }
    Ok((model, text))
}

fn request(arguments: &RunArgs, question: String) -> Result<Request, CliError> {
    let parts: Vec<Part> = arguments.media.parts().chain([Part::text(question)]).collect();
    let system = arguments.system.iter().map(Message::system);
    let request = Request::chat(system.chain([Message::user(parts)]))
        .add_vision_id(arguments.prompt.add_vision_id)
        .control_text(arguments.prompt.control_text.into());
    arguments.answer.sampling.apply(request)
}

fn summary(completion: &Completion, device: &str, clock: Clock) -> String {
    let usage = &completion.usage;
    let (image, new) = (usage.image_tokens, usage.completion_tokens);
    let video = match usage.video_tokens {
        0 => String::new(),
        video => format!("video tokens {video}, "),
    };
    let seconds = clock.elapsed().as_secs_f64();
    let seed = completion.seed.map(|seed| format!("; seed {seed}")).unwrap_or_default();
    format!(
        "(device: {device}; {seconds:.1} s; image tokens {image}, {video}new tokens {new}{seed})"
    )
}
