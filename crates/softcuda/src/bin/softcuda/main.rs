//! The `softcuda` command: looks into PTX and runs single kernels.
//!
//! Exit status: 0 ok, 1 fault in the kernel, 2 usage, 3 load error.

mod listing;
mod run;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use softcuda::profile::Profile;

const USAGE: &str = "\
usage: softcuda ptx FILE           list functions, registers, memory and instructions of PTX or a fatbin,
                                   and what of its kernels is not supported
       softcuda dump FILE -f KERNEL [--level base|avx2|avx512] [--plain]
                                   list the ops of a kernel; with --plain, without the optimiser
       softcuda run FILE -f KERNEL [--grid X,Y,Z] [--block X,Y,Z] [--shared BYTES] [--profile NAME]
                         [--level base|avx2|avx512] [--arg ARGUMENT]... [--out INDEX]...
                                   run a kernel once and print buffers (arguments count from 0)
       softcuda profile list       the GPUs that the device can say it is
       softcuda profile show NAME  limits and figures of one of them

ARGUMENT is TYPE:VALUE, or buf:TYPE:COUNT[:FILL] for the address of a buffer; FILL is a number or `iota`.
TYPE is one of u8 u16 u32 u64 s8 s16 s32 s64 f32 f64 bf16. Arguments are laid out as C lays out a
structure, so they fit separate parameters and one structure passed by value.

Exit status: 0 ok, 1 fault in the kernel, 2 usage, 3 load error.
";

/// Why the command fails.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Exit status 2.
    Usage(String),
    /// Exit status 3.
    Load(String),
    /// Exit status 1: the report of a fault.
    Fault(String),
    /// Standard output cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Output(error)
    }
}

impl Failure {
    /// A load error of a file.
    pub(crate) fn load(file: &str, why: impl Display) -> Self {
        let why = why.to_string();
        Failure::Load(format!("{file}: {}", why.strip_prefix("softcuda: ").unwrap_or(&why)))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut output = io::stdout().lock();
    let result = command(&words, &mut output).and_then(|()| Ok(output.flush()?));
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Usage(why)) => (format!("softcuda: {why}\n{USAGE}"), 2),
        Err(Failure::Load(why)) => (format!("softcuda: {why}\n"), 3),
        // A report names softcuda itself.
        Err(Failure::Fault(report)) => (format!("{report}\n"), 1),
        // A reader such as `head` that has seen enough is no error.
        Err(Failure::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        Err(Failure::Output(e)) => (format!("softcuda: standard output: {e}\n"), 3),
    };
    // Nothing is left to be told if standard error is closed too.
    drop(io::stderr().write_all(message.as_bytes()));
    ExitCode::from(code)
}

fn command(words: &[&str], output: &mut impl Write) -> Result<(), Failure> {
    match words {
        ["ptx", file] => listing::list(file, output),
        ["dump", file, rest @ ..] => listing::dump(file, rest, output),
        ["run", rest @ ..] => run::run(rest, output),
        ["profile", "list"] => {
            for profile in Profile::ALL {
                writeln!(output, "{:10}{}", profile.name, profile.device_name())?;
            }
            Ok(())
        }
        ["profile", "show", name] => match Profile::by_name(name) {
            Some(profile) => show(profile, output),
            None => Err(Failure::Usage(format!("no profile is called {name}"))),
        },
        ["help" | "--help" | "-h"] => Ok(output.write_all(USAGE.as_bytes())?),
        [] => Err(Failure::Usage("a command is missing".into())),
        [first, ..] => Err(Failure::Usage(format!("what is meant by {first}?"))),
    }
}

fn show(profile: &Profile, output: &mut impl Write) -> Result<(), Failure> {
    let (major, minor) = profile.capability;
    let mut row = |name: &str, value: &dyn Display| writeln!(output, "{name:36}{value}");
    row("name", &profile.device_name())?;
    row("compute capability", &format!("{major}.{minor}"))?;
    row("multiprocessors", &profile.processors)?;
    row("threads of a multiprocessor", &profile.threads_per_processor)?;
    row("blocks of a multiprocessor", &profile.blocks_per_processor)?;
    row("shared memory of a multiprocessor", &profile.shared_per_processor)?;
    row("shared memory of a block, opted in", &profile.shared_per_block_optin)?;
    row("L2 bytes", &profile.l2_bytes)?;
    row("clock kHz", &profile.clock_khz)?;
    row("memory clock kHz", &profile.memory_clock_khz)?;
    row("memory bus bits", &profile.memory_bus_bits)?;
    row("memory bytes", &profile.memory_bytes)?;
    row("memory bandwidth GB/s", &(profile.memory_bandwidth / 1e9))?;
    row("bf16 TFLOP/s", &(profile.bf16_flops / 1e12))?;
    row("f32 TFLOP/s", &(profile.f32_flops / 1e12))?;
    row("blocks of a cluster", &profile.max_cluster)?;
    Ok(())
}
