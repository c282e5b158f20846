//! The only place that reads time. Times are reported; nothing is decided by them but deadlines.

use std::time::{Duration, Instant};

/// A running clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    pub fn start() -> Self {
        Self(now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Time since the start; starts anew.
    pub fn lap(&mut self) -> Duration {
        let elapsed = self.elapsed();
        *self = Self::start();
        elapsed
    }
}

/// Whether `deadline` has come.
pub(crate) fn is_past(deadline: Instant) -> bool {
    now() >= deadline
}

fn now() -> Instant {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads time")]
    let now = Instant::now();
    now
}

/// Where the time of one request went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Reading, decoding and resizing media, and the prompt.
    pub media: Duration,
    /// The vision tower.
    pub vision: Duration,
    /// The prompt through the decoder, to the first token.
    pub prefill: Duration,
    /// All later tokens.
    pub decode: Duration,
}
