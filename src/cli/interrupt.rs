//! Ctrl-C: the first one ends an answer at the next step, the second one the program.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
};

use super::{CliError, error::exit};

/// Whether the user has asked to stop.
#[derive(Debug)]
pub(crate) struct Interrupt {
    asked: Arc<AtomicBool>,
    terminated: Arc<AtomicBool>,
}

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// If the system refuses a handler.
    pub(crate) fn listen() -> Result<Self, CliError> {
        let asked = Arc::new(AtomicBool::new(false));
        let terminated = Arc::new(AtomicBool::new(false));
        for (signal, status) in [(SIGINT, exit::INTERRUPTED), (SIGTERM, exit::TERMINATED)] {
            // In this order: the handler that ends the program looks before the flag is set.
            flag::register_conditional_shutdown(signal, i32::from(status), asked.clone())?;
        }
        flag::register(SIGTERM, terminated.clone())?;
        for signal in [SIGINT, SIGTERM] {
            flag::register(signal, asked.clone())?;
        }
        Ok(Self { asked, terminated })
    }

    /// A wish that came before this answer is none to end it; the one to end the program stays.
    pub(crate) fn forget(&self) {
        let terminated = self.terminated.load(Ordering::Relaxed);
        self.asked.store(terminated, Ordering::Relaxed);
    }

    /// The exit status that the user has asked for.
    pub(crate) fn status(&self) -> Option<u8> {
        let terminated = self.terminated.load(Ordering::Relaxed);
        let status = if terminated { exit::TERMINATED } else { exit::INTERRUPTED };
        self.asked.load(Ordering::Relaxed).then_some(status)
    }
}
