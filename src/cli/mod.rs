//! The command line: arguments, dispatch, exit codes. One file for each command; `output` alone
//! prints.

mod answers;
mod chat;
mod compare;
mod decode;
mod doctor;
mod error;
mod forward;
mod forward_inputs;
mod frames;
mod generate;
mod inspect;
mod interrupt;
mod media_flags;
mod output;
mod process;
mod process_logits;
mod prompts;
mod render;
mod run;
mod sampling_flags;
mod tensors;
mod tokens;
mod warnings;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand, ValueEnum};

pub(crate) use error::CliError;
pub(crate) use output::Output;
pub use output::Stdout;

use crate::{device::DeviceChoice, settings};

/// Qwen2-VL on hand-written CUDA kernels, with or without a GPU.
#[derive(Debug, Parser)]
#[command(name = "qwen2vl", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a question about pictures and stream the answer
    Run(run::RunArgs),
    /// Talk in several turns, with pictures and videos
    Chat(chat::ChatArgs),
    /// Answer a conversation, or a batch of them
    Generate(generate::GenerateArgs),
    /// Run one forward pass over given tensors
    Forward(forward::ForwardArgs),
    /// Compare a forward pass with a dump of the reference, tensor by tensor
    Compare(compare::CompareArgs),
    /// Say which driver, device and kernels would be used, and why
    Doctor(doctor::DoctorArgs),
    /// Show what a checkpoint holds and what is wrong with it
    Inspect(inspect::InspectArgs),
    /// Write what the reference's processor returns: ids, masks, pixels, grids
    Process(process::ProcessArgs),
    /// Apply the logits processors of a generation_config.json to given scores
    ProcessLogits(process_logits::ProcessLogitsArgs),
    /// Print a conversation as the chat template renders it
    Render(render::RenderArgs),
    /// Turn token ids into text
    Decode(decode::DecodeArgs),
    /// Count the tokens of a prompt, part by part, without weights
    Tokens(tokens::TokensArgs),
    /// Say which frames of a video are taken
    Frames(frames::FramesArgs),
}

/// Flags that every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    json: bool,
    /// When to colour: auto is on a terminal
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
    /// When to show progress on standard error: auto is on a terminal
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    progress: When,
    /// Say nothing but the result and errors
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// When to do something that only people want.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

/// The device flag of commands that run kernels.
#[derive(Debug, Args)]
pub(crate) struct DeviceArgs {
    /// auto, cuda, cuda:N or software [env: QWEN2VL_DEVICE]
    #[arg(long, value_name = "DEVICE")]
    device: Option<DeviceChoice>,
}

impl DeviceArgs {
    /// The flag, else the environment, else `auto`.
    pub(crate) fn choice(&self) -> Result<DeviceChoice, CliError> {
        match (self.device, settings::text(settings::DEVICE)) {
            (Some(choice), _) => Ok(choice),
            (None, Some(text)) => Ok(text.parse()?),
            (None, None) => Ok(DeviceChoice::Auto),
        }
    }
}

/// The checkpoint argument.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// Folder of the checkpoint: config.json, *.safetensors, tokenizer files
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
}

/// Runs the program with the process's arguments.
pub fn main(stdout: Stdout) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error, stdout),
    };
    let mut out = Output::new(&cli.common, stdout);
    let done = match cli.command {
        Command::Run(arguments) => run::run(&arguments, &mut out),
        Command::Chat(arguments) => chat::run(&arguments, &mut out),
        Command::Generate(arguments) => generate::run(&arguments, &mut out),
        Command::Forward(arguments) => forward::run(&arguments, &mut out),
        Command::Compare(arguments) => compare::run(&arguments, &mut out),
        Command::Doctor(arguments) => doctor::run(&arguments, &mut out),
        Command::Inspect(arguments) => inspect::run(&arguments, &mut out),
        Command::Process(arguments) => process::run(&arguments, &mut out),
        Command::Decode(arguments) => decode::run(&arguments, &mut out),
        Command::ProcessLogits(arguments) => process_logits::run(&arguments, &mut out),
        Command::Render(arguments) => render::run(&arguments, &mut out),
        Command::Tokens(arguments) => tokens::run(&arguments, &mut out),
        Command::Frames(arguments) => frames::run(&arguments, &mut out),
    };
    match done.and_then(|code| out.flush().map(|()| code)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => out.fail(&error),
    }
}
