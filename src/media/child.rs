//! A program that reads a file and writes a stream, held to limits: memory, time, and an end with
//! everything that it started.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, kill_process_group, prlimit, waitid,
};

use super::{Limits, MediaError};

/// What is wrong with a stream that ends within a frame.
pub(super) const CUT: &str = "a frame that ends early";
/// Bytes of a pipe that are read at a time.
const CHUNK: usize = 1 << 16;
/// Bytes of complaints that are kept.
const COMPLAINTS: u64 = 2048;
/// How long the complaints of a program that has ended may take to arrive.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One run of a program.
pub(super) struct Run<'a> {
    pub(super) program: &'a PathBuf,
    pub(super) arguments: Vec<String>,
    /// Its standard input.
    pub(super) input: File,
    pub(super) limits: &'a Limits,
}

impl Run<'_> {
    /// Starts the program, gives its standard output to `consume`, and ends it.
    ///
    /// # Errors
    /// What `consume` gives; [`MediaError::NoFfmpeg`] for a program that cannot be started;
    /// [`MediaError::VideoTimeout`]; [`MediaError::Ffmpeg`] where the program fails.
    pub(super) fn stream<T>(
        self,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, MediaError>,
    ) -> Result<T, MediaError> {
        let program = self.program.display().to_string();
        let missing = |source| MediaError::NoFfmpeg { program: program.clone(), source };
        let mut command = Command::new(self.program);
        command.args(&self.arguments).process_group(0);
        command.stdin(self.input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(missing)?;
        let group = Pid::from_child(&child);
        // The group ends on every way out of this function, before its leader's id is free again.
        let limited = limit(group, self.limits);
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (over, time) = mpsc::channel::<()>();
        let complaints = complaints(stderr);
        let seconds = self.limits.video_seconds;
        let watchdog = thread::spawn(move || {
            let late = time.recv_timeout(Duration::from_secs(seconds));
            late == Err(RecvTimeoutError::Timeout)
                && kill_process_group(group, Signal::KILL).is_ok()
        });
        let consumed = limited.map_err(missing).and_then(|()| match stdout {
            Some(stdout) => consume(&mut BufReader::with_capacity(CHUNK, stdout)),
            None => Err(missing(io::ErrorKind::BrokenPipe.into())),
        });
        // A stream that ends early is explained by how the program ends: it is waited for.
        let ended = matches!(
            consumed,
            Ok(_) | Err(MediaError::FrameMissing { .. } | MediaError::VideoStream { problem: CUT })
        );
        if !ended {
            end(group).map_err(missing)?;
        }
        // Not reaped yet: the id stays this program's while the watchdog may use it.
        waitid(WaitId::Pid(group), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            .map_err(|error| missing(error.into()))?;
        drop(over);
        let timed_out = watchdog.join().unwrap_or(false);
        end(group).map_err(missing)?;
        let status = child.wait().map_err(missing)?;
        if timed_out {
            return Err(MediaError::VideoTimeout { seconds });
        }
        if ended && !status.success() {
            let said = complaints.recv_timeout(LAST_WORDS).unwrap_or_default();
            let said = if said.is_empty() { status.to_string() } else { said };
            return Err(MediaError::Ffmpeg { said });
        }
        consumed
    }
}

/// No more memory than allowed, no files, no core dump.
fn limit(process: Pid, limits: &Limits) -> io::Result<()> {
    for (resource, most) in
        [(Resource::As, limits.video_memory), (Resource::Fsize, 0), (Resource::Core, 0)]
    {
        let bound = Rlimit { current: Some(most), maximum: Some(most) };
        match prlimit(Some(process), resource, bound) {
            // It has ended already.
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Ends the program and what it started.
fn end(group: Pid) -> io::Result<()> {
    match kill_process_group(group, Signal::KILL) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The beginning of what the program says on standard error; the rest is read and dropped.
fn complaints(stderr: Option<ChildStderr>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let Some(mut stderr) = stderr else { return };
        let mut start = Vec::new();
        let read = (&mut stderr).take(COMPLAINTS).read_to_end(&mut start);
        let rest = read.and_then(|_| io::copy(&mut stderr, &mut io::sink()));
        let text = String::from_utf8_lossy(&start);
        let shown = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
        let mut shown: String = shown.collect();
        if let Err(error) = rest {
            shown = format!("{shown} ({error})");
        }
        // Nobody listens where the stream was enough.
        drop(send.send(shown));
    });
    receive
}
