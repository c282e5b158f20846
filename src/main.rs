//! The `qwen2vl` program.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use qwen2vl::cli::{self, Stdout};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Runs before Rust's start-up, which opens `/dev/null` in the place of a closed standard output.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the only place from which a closed standard output is seen")]
#[used]
// SAFETY: functions in this section take no argument that this one reads and return nothing; the
// C library calls them once, after its own start-up, so files can be asked about.
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

#[cfg(target_os = "linux")]
extern "C" fn look() {
    let open = std::fs::symlink_metadata("/proc/self/fd/1").is_ok()
        || std::fs::symlink_metadata("/proc/self/fd").is_err();
    CLOSED.store(!open, Ordering::Relaxed);
}

fn main() -> ExitCode {
    let closed = CLOSED.load(Ordering::Relaxed);
    cli::main(if closed { Stdout::Closed } else { Stdout::Given })
}
