//! Events: marks in a stream, with the time at which they were passed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::context::{current, lookup};
use super::error::{Code, INVALID_HANDLE, INVALID_VALUE};
use super::handle::Handle;
use super::state::driver;
use super::stream::Queue;
use super::{Out, Status, entry};

const BLOCKING_SYNC: u32 = 1;
const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;

/// An event.
pub(super) struct Event {
    pub(super) context: Handle,
    timing: bool,
    /// When the last record was passed; `None` before the first.
    passed: Mutex<Option<Instant>>,
}

/// The event of a handle, in a context that has not failed.
fn find(event: Handle) -> Result<Arc<Event>, Code> {
    let driver = driver()?;
    let event = driver.events.get(event)?;
    lookup(driver, event.context)?.check()?;
    Ok(event)
}

fn record(event: Handle, stream: Handle) -> Status {
    let event = find(event)?;
    let queue = Queue::of(stream)?;
    if queue.context.handle() != event.context {
        return Err(INVALID_HANDLE);
    }
    queue.run(|| {
        #[expect(clippy::disallowed_methods, reason = "events are how a CUDA program reads time")]
        let now = Instant::now();
        *event.passed.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    });
    Ok(())
}

/// When the event was passed; it must have been recorded and keep times.
fn passed(event: Handle) -> Result<Instant, Code> {
    let event = find(event)?;
    if !event.timing {
        return Err(INVALID_HANDLE);
    }
    let passed = *event.passed.lock().unwrap_or_else(PoisonError::into_inner);
    passed.ok_or(INVALID_HANDLE)
}

entry! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        let context = current()?;
        event.check()?;
        let interprocess = flags & INTERPROCESS != 0;
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 || interprocess {
            return Err(INVALID_VALUE);
        }
        let timing = flags & DISABLE_TIMING == 0;
        let made = Event { context: context.handle(), timing, passed: Mutex::new(None) };
        event.set(driver()?.events.insert(Arc::new(made)))
    }

    fn cuEventDestroy_v2(event: Handle) {
        driver()?.events.remove(event)?;
        Ok(())
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(event, stream)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        if flags > 1 {
            return Err(INVALID_VALUE);
        }
        record(event, stream)
    }

    /// A record has been passed when its call returns, so no event is ever pending.
    fn cuEventQuery(event: Handle) {
        find(event).map(|_| ())
    }

    fn cuEventSynchronize(event: Handle) {
        find(event).map(|_| ())
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.check()?;
        let (start, end) = (passed(start)?, passed(end)?);
        let elapsed = if end >= start {
            (end - start).as_secs_f64()
        } else {
            -(start - end).as_secs_f64()
        };
        milliseconds.set((elapsed * 1e3) as f32)
    }
}
