//! The `qwen2vl` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    qwen2vl::cli::main()
}
