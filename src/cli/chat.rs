//! `qwen2vl chat`: several turns with media, for people at a terminal and scripts behind a pipe.

use std::{
    io::{self, BufRead, IsTerminal, Read},
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    CliError, Output,
    answers::{self, AnswerArgs},
    error::exit,
    interrupt::Interrupt,
    prompts::{PictureArgs, PromptArgs},
    warnings,
};
use crate::{
    engine::{Clock, Completion, Engine, Event, Request},
    prompt::{Conversation, Message, Part},
    settings,
};

/// Longest line that is read.
const MAX_LINE: usize = 16 << 20;

const HELP: &str = "\
/image FILE    show a picture with the next question
/video FILE    show a video with the next question
/system TEXT   what the model is told before everything; nothing takes it away
/reset         forget the conversation
/undo          forget the last question and its answer
/regen         answer the last question again
/tokens        count the tokens of the conversation
/save FILE     write the conversation as JSON, as generate reads it
/quit          end; so does the end of the input
//...           a question that begins with a slash";

/// Arguments of `chat`.
#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    /// Folder of the checkpoint, unless -m or QWEN2VL_MODEL names it
    #[arg(value_name = "MODEL")]
    folder: Option<PathBuf>,
    /// Folder of the checkpoint
    #[arg(short, long, value_name = "MODEL", conflicts_with = "folder")]
    model: Option<PathBuf>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// One JSON object a line for each answer and each error
    #[arg(long, conflicts_with = "json")]
    jsonl: bool,
    /// Let the model write vision tokens, which are no text
    #[arg(long)]
    allow_vision_tokens: bool,
    #[command(flatten)]
    prompt: PromptArgs,
    #[command(flatten)]
    pictures: PictureArgs,
    #[command(flatten)]
    answer: AnswerArgs,
}

/// A picture or a video beside a question.
#[derive(Clone, Debug)]
struct Medium {
    kind: &'static str,
    path: PathBuf,
}

/// A question and its answer.
#[derive(Clone, Debug)]
struct Turn {
    media: Vec<Medium>,
    question: String,
    answer: String,
}

/// What has been said, and what waits for the next question.
#[derive(Debug, Default)]
struct Chat {
    system: Option<String>,
    turns: Vec<Turn>,
    waiting: Vec<Medium>,
}

/// What a line of the input asks for.
enum Line<'a> {
    Question(&'a str),
    Command(&'a str, &'a str),
    Nothing,
}

/// What happens after a line.
enum Next {
    Read,
    Stop(u8),
}

/// Reads lines until the input ends. A line that fails is reported and left out; from a pipe the
/// first failure is the exit status.
pub(crate) fn run(arguments: &ChatArgs, out: &mut Output) -> Result<u8, CliError> {
    if out.is_json() {
        return Err(CliError::usage("chat takes --jsonl, one object for each answer"));
    }
    let model = arguments.folder.clone().or_else(|| arguments.model.clone());
    let model = model.or_else(|| settings::text(settings::MODEL).map(PathBuf::from));
    let model = model.ok_or_else(|| {
        CliError::usage("chat needs a checkpoint: qwen2vl chat MODEL, -m MODEL, or QWEN2VL_MODEL")
    })?;
    let settings = (&arguments.prompt, &arguments.pictures);
    let (engine, _) = arguments.answer.engine(&model, settings, out)?;
    let mut session = Session { arguments, engine, interrupt: Interrupt::listen()? };
    let mut chat = Chat { system: arguments.system.clone(), ..Chat::default() };
    let people = io::stdin().is_terminal();
    if people {
        out.note("(/help lists the commands)");
    }
    let mut status = exit::DONE;
    loop {
        if people {
            out.ask("> ");
        }
        let next = match read_line() {
            Ok(None) => return Ok(status),
            Ok(Some(line)) => session.take(&mut chat, &line, out),
            Err(error) => Err(error),
        };
        match next {
            Ok(Next::Read) => {}
            Ok(Next::Stop(asked)) => return Ok(if asked == exit::DONE { status } else { asked }),
            Err(error) => {
                session.report(&error, out)?;
                if !people && status == exit::DONE {
                    status = error.exit;
                }
            }
        }
    }
}

/// What stays the same between turns.
struct Session<'a> {
    arguments: &'a ChatArgs,
    engine: Engine,
    interrupt: Interrupt,
}

impl Session<'_> {
    fn take(&mut self, chat: &mut Chat, line: &str, out: &mut Output) -> Result<Next, CliError> {
        match parse(line) {
            Line::Nothing => Ok(Next::Read),
            Line::Question(question) => {
                let media = std::mem::take(&mut chat.waiting);
                self.answer(chat, media, question.to_owned(), out)
            }
            Line::Command(name, rest) => self.command(chat, name, rest, out),
        }
    }

    fn command(
        &mut self,
        chat: &mut Chat,
        name: &str,
        rest: &str,
        out: &mut Output,
    ) -> Result<Next, CliError> {
        match (name, rest) {
            ("image", path) => chat.show("image", path)?,
            ("video", path) => chat.show("video", path)?,
            ("system", "") => chat.system = None,
            ("system", text) => chat.system = Some(text.to_owned()),
            ("reset", "") => {
                chat.turns.clear();
                chat.waiting.clear();
                out.note("(the conversation is forgotten)");
            }
            ("undo", "") => {
                chat.turns.pop().ok_or_else(|| CliError::usage("there is no turn to undo"))?;
            }
            ("regen", "") => {
                let nothing = || CliError::usage("there is no question to answer again");
                let last = chat.turns.pop().ok_or_else(nothing)?;
                let kept = last.clone();
                let done = self.answer(chat, last.media, last.question, out);
                if done.is_err() {
                    chat.turns.push(kept);
                }
                return done;
            }
            ("tokens", "") => self.count(chat, out)?,
            ("save", path) => chat.save(path)?,
            ("help", "") => out.note(HELP),
            ("quit" | "exit", "") => return Ok(Next::Stop(exit::DONE)),
            ("reset" | "undo" | "regen" | "tokens" | "help" | "quit" | "exit", _) => {
                return Err(CliError::usage(format!("/{name} takes nothing behind it")));
            }
            _ => {
                let what = format!("/{name} is no command; /help lists them, // begins a question");
                return Err(CliError::usage(what));
            }
        }
        Ok(Next::Read)
    }

    /// Streams the answer; the turn is kept when it ends.
    fn answer(
        &mut self,
        chat: &mut Chat,
        media: Vec<Medium>,
        question: String,
        out: &mut Output,
    ) -> Result<Next, CliError> {
        let clock = Clock::start();
        let asked = Turn { media, question, answer: String::new() };
        let request = Request::conversation(chat.conversation(Some(&asked)))
            .add_vision_id(self.arguments.prompt.add_vision_id)
            .control_text(self.arguments.prompt.control_text.into());
        let mut request = self.arguments.answer.sampling.apply(request)?;
        if !self.arguments.allow_vision_tokens {
            let tokens = self.engine.processor().vision_tokens();
            request = request.without([tokens.image, tokens.video, tokens.start, tokens.end]);
        }
        self.interrupt.forget();
        let mut generation = self.engine.submit(request)?;
        let streams = !self.arguments.jsonl;
        let mut text = String::new();
        for event in &mut generation {
            match event? {
                Event::Started(usage) => {
                    warnings::print(&warnings::of(&usage.media, usage.escaped), out);
                }
                Event::Token(token) if token.choice == 0 => {
                    text += &token.text;
                    if streams {
                        out.piece(&token.text)?;
                    }
                }
                _ => {}
            }
            if let Some(status) = self.interrupt.status() {
                generation.cancel();
                if streams {
                    out.line("")?;
                }
                out.note("(interrupted)");
                chat.turns.push(Turn { answer: text, ..asked });
                let people = io::stdin().is_terminal() && status == exit::INTERRUPTED;
                return Ok(if people { Next::Read } else { Next::Stop(status) });
            }
        }
        let completion = generation.finish()?;
        chat.turns.push(Turn { answer: completion.text.clone(), ..asked });
        self.show(&completion, clock, out)?;
        Ok(Next::Read)
    }

    fn show(
        &self,
        completion: &Completion,
        clock: Clock,
        out: &mut Output,
    ) -> Result<(), CliError> {
        if self.arguments.jsonl {
            let load = std::time::Duration::ZERO;
            for mut document in answers::answers("qwen2vl.chat/1", completion, &self.engine, load) {
                document["type"] = json!("answer");
                out.document(&document)?;
            }
            return out.flush();
        }
        out.line("")?;
        out.flush()?;
        let usage = &completion.usage;
        let (prompt, new) = (usage.prompt_tokens, usage.completion_tokens);
        let seconds = clock.elapsed().as_secs_f64();
        out.note(&format!("({seconds:.1} s; prompt tokens {prompt}, new tokens {new})"));
        Ok(())
    }

    fn count(&self, chat: &Chat, out: &mut Output) -> Result<(), CliError> {
        let conversation = chat.conversation(None);
        let processor = self.engine.processor();
        let tokens = if chat.turns.is_empty() && chat.system.is_none() {
            0
        } else {
            processor.count(0, &conversation, self.arguments.prompt.options())?.input_ids.len()
        };
        let limit = self.engine.plan().max_model_len().0;
        out.note(&format!("({tokens} tokens of {limit}; {} turns)", chat.turns.len()));
        Ok(())
    }

    fn report(&self, error: &CliError, out: &mut Output) -> Result<(), CliError> {
        if self.arguments.jsonl {
            let (code, message) = (error.code, error.message());
            let document = json!({ "type": "error", "code": code, "message": message });
            out.document(&document)?;
            out.flush()?;
        }
        out.report(error);
        Ok(())
    }
}

impl Chat {
    /// Keeps a file for the next question; a file that is missing is an error at once.
    fn show(&mut self, kind: &'static str, path: &str) -> Result<(), CliError> {
        if path.is_empty() {
            return Err(CliError::usage(format!("/{kind} needs a file: /{kind} FILE")));
        }
        let path = Path::new(path);
        let path = path.canonicalize().map_err(|error| CliError::io(path, &error))?;
        self.waiting.push(Medium { kind, path });
        Ok(())
    }

    /// Everything said, and a question.
    fn conversation(&self, asked: Option<&Turn>) -> Conversation {
        let mut messages: Vec<Message> = self.system.iter().map(Message::system).collect();
        for turn in &self.turns {
            messages.push(turn.message());
            messages.push(Message::assistant(turn.answer.clone()));
        }
        messages.extend(asked.map(Turn::message));
        Conversation::new(messages)
    }

    fn save(&self, path: &str) -> Result<(), CliError> {
        if path.is_empty() {
            return Err(CliError::usage("/save needs a file: /save FILE"));
        }
        let system = |text: &String| json!({ "role": "system", "content": text });
        let mut messages: Vec<Value> = self.system.iter().map(system).collect();
        for turn in &self.turns {
            messages.push(json!({ "role": "user", "content": turn.parts_json() }));
            messages.push(json!({ "role": "assistant", "content": turn.answer }));
        }
        let path = Path::new(path);
        let text = format!("{:#}\n", Value::Array(messages));
        std::fs::write(path, text).map_err(|error| CliError::io(path, &error))
    }
}

impl Turn {
    fn message(&self) -> Message {
        let media = self.media.iter().map(|medium| match medium.kind {
            "video" => Part::video_file(&medium.path),
            _ => Part::image_file(&medium.path),
        });
        Message::user(media.chain([Part::text(self.question.clone())]))
    }

    fn parts_json(&self) -> Vec<Value> {
        let media = self.media.iter();
        let media = media.map(|medium| json!({ "type": medium.kind, "path": medium.path }));
        media.chain([json!({ "type": "text", "text": self.question })]).collect()
    }
}

/// The next line without its end; none at the end of the input.
fn read_line() -> Result<Option<String>, CliError> {
    let mut bytes = Vec::new();
    let mut input = io::stdin().lock();
    input.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes)?;
    if bytes.len() > MAX_LINE {
        // The rest of the line is no question of its own.
        while !bytes.ends_with(b"\n") && !bytes.is_empty() {
            bytes.clear();
            input.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut bytes)?;
        }
        let what = format!("a line of the input has more than {MAX_LINE} bytes");
        return Err(CliError::new("limit_exceeded", exit::INPUT, what));
    }
    if bytes.is_empty() {
        return Ok(None);
    }
    let line = String::from_utf8(bytes);
    let line = line.map_err(|_error| CliError::usage("a line of the input is no UTF-8"))?;
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

fn parse(line: &str) -> Line<'_> {
    let trimmed = line.trim();
    match trimmed.strip_prefix('/') {
        None if trimmed.is_empty() => Line::Nothing,
        None => Line::Question(line),
        Some(rest) if rest.starts_with('/') => Line::Question(rest),
        Some(rest) => {
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            Line::Command(name, rest.trim())
        }
    }
}
