//! Streams. A command runs when it is queued, on the calling thread, in the order of its stream.
//!
//! That is one of the schedules that CUDA allows: whatever a command may depend on was queued
//! before it, and so has already run. Locks keep the order where several threads queue at once.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use super::context::{Context, current, current_even_failed, lookup, next_id};
use super::error::{Code, INVALID_HANDLE, INVALID_VALUE, NOT_SUPPORTED};
use super::handle::Handle;
use super::state::{Driver, driver};
use super::{IN_COMMAND, In, Out, Status, entry};

pub(super) const LEAST_PRIORITY: i32 = 0;
pub(super) const GREATEST_PRIORITY: i32 = -5;
const NON_BLOCKING: u32 = 1;
const LEGACY: Handle = Handle(1);
const PER_THREAD: Handle = Handle(2);

/// How a stream is ordered against the legacy stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Legacy,
    Blocking,
    NonBlocking,
}

/// A stream.
pub(super) struct Stream {
    pub(super) id: u64,
    /// Null for the two streams that every context has.
    pub(super) context: Handle,
    kind: Kind,
    priority: i32,
    order: Mutex<()>,
}

impl Stream {
    pub(super) fn legacy(driver: &Driver) -> Self {
        Self::new(driver, Handle::NULL, Kind::Legacy, 0)
    }

    /// The stream of each thread. All threads share one, which only orders more than it must.
    pub(super) fn per_thread(driver: &Driver) -> Self {
        Self::new(driver, Handle::NULL, Kind::Blocking, 0)
    }

    fn new(driver: &Driver, context: Handle, kind: Kind, priority: i32) -> Self {
        Self { id: next_id(&driver.next_id), context, kind, priority, order: Mutex::default() }
    }

    fn flags(&self) -> u32 {
        if self.kind == Kind::NonBlocking { NON_BLOCKING } else { 0 }
    }
}

/// A stream and its context, ready to take a command.
pub(super) struct Queue {
    pub(super) context: Arc<Context>,
    pub(super) stream: Arc<Stream>,
}

impl Queue {
    /// The stream of a handle; the context has not failed.
    pub(super) fn of(handle: Handle) -> Result<Self, Code> {
        let queue = Self::even_failed(handle)?;
        queue.context.check()?;
        Ok(queue)
    }

    /// The legacy stream of the current context.
    pub(super) fn legacy() -> Result<Self, Code> {
        Self::of(Handle::NULL)
    }

    fn even_failed(handle: Handle) -> Result<Self, Code> {
        if handle.is_null() || handle == LEGACY || handle == PER_THREAD {
            let context = current_even_failed()?;
            let stream = if handle == PER_THREAD {
                context.per_thread.clone()
            } else {
                context.legacy.clone()
            };
            return Ok(Self { context, stream });
        }
        let driver = driver()?;
        let stream = driver.streams.get(handle)?;
        let context = lookup(driver, stream.context)?;
        Ok(Self { context, stream })
    }

    /// Runs one command in the order of the stream.
    pub(super) fn run<R>(&self, command: impl FnOnce() -> R) -> R {
        let _work = self.context.work.read().unwrap_or_else(PoisonError::into_inner);
        if self.stream.kind == Kind::Legacy {
            let _joins = self.context.joins.write().unwrap_or_else(PoisonError::into_inner);
            return as_command(command);
        }
        let _joins = (self.stream.kind == Kind::Blocking)
            .then(|| self.context.joins.read().unwrap_or_else(PoisonError::into_inner));
        let _order = self.stream.order.lock().unwrap_or_else(PoisonError::into_inner);
        as_command(command)
    }
}

/// Marks this thread as one that runs a command; calls that it makes meanwhile are refused.
fn as_command<R>(command: impl FnOnce() -> R) -> R {
    IN_COMMAND.set(true);
    let result = command();
    IN_COMMAND.set(false);
    result
}

/// `CUhostFn`.
type HostFunction = Option<unsafe extern "C" fn(*mut c_void)>;
/// `CUstreamCallback`.
type StreamCallback = Option<unsafe extern "C" fn(Handle, i32, *mut c_void)>;

fn create(stream: &Out<Handle>, flags: u32, priority: i32) -> Status {
    let context = current()?;
    stream.check()?;
    let kind = match flags {
        0 => Kind::Blocking,
        NON_BLOCKING => Kind::NonBlocking,
        _ => return Err(INVALID_VALUE),
    };
    let driver = driver()?;
    let priority = priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY);
    let made = Stream::new(driver, context.handle(), kind, priority);
    stream.set(driver.streams.insert(Arc::new(made)))
}

fn synchronize(queue: &Queue) -> Status {
    queue.run(|| ());
    queue.context.check()
}

entry! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        create(&stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        create(&stream, flags, priority)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        let driver = driver()?;
        let queue = Queue::even_failed(stream)?;
        if queue.stream.context.is_null() {
            return Err(INVALID_HANDLE);
        }
        queue.run(|| ());
        driver.streams.remove(stream)?;
        Ok(())
    }

    fn cuStreamSynchronize(stream: Handle) {
        synchronize(&Queue::of(stream)?)
    }

    /// Whoever asks has queued its work by calls that returned when it was done.
    fn cuStreamQuery(stream: Handle) {
        Queue::of(stream).map(|_| ())
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        Queue::of(stream)?;
        driver()?.events.get(event)?;
        // CU_EVENT_WAIT_EXTERNAL is for captures.
        if flags > 1 { Err(INVALID_VALUE) } else { Ok(()) }
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        priority.set(Queue::of(stream)?.stream.priority)
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        flags.set(Queue::of(stream)?.stream.flags())
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        id.set(Queue::of(stream)?.stream.id)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        context.set(Queue::of(stream)?.context.handle())
    }

    fn cuStreamGetCtx_v2(stream: Handle, context: Out<Handle>, green: Out<Handle>) {
        context.set(Queue::of(stream)?.context.handle())?;
        green.offer(Handle::NULL);
        Ok(())
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        device.set(Queue::of(stream)?.context.device as i32)
    }

    /// No stream captures: graphs are not here.
    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        Queue::of(stream)?;
        status.set(0)
    }

    fn cuStreamCopyAttributes(to: Handle, from: Handle) {
        Queue::of(to)?;
        Queue::of(from)?;
        Ok(())
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, _length: usize, flags: u32) {
        Queue::of(stream)?;
        let managed = driver()?.memory.pinned_region(address, 1).is_some();
        if managed && matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(INVALID_VALUE) }
    }

    fn cuLaunchHostFunc(stream: Handle, function: HostFunction, data: *mut c_void) {
        let queue = Queue::of(stream)?;
        let function = function.ok_or(INVALID_VALUE)?;
        // SAFETY: the C caller promises that the function may be called with this data.
        queue.run(|| unsafe { function(data) });
        Ok(())
    }

    fn cuStreamAddCallback(stream: Handle, function: StreamCallback, data: *mut c_void, flags: u32) {
        let queue = Queue::of(stream)?;
        let function = function.ok_or(INVALID_VALUE)?;
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        // SAFETY: the C caller promises that the function may be called with this data.
        queue.run(|| unsafe { function(stream, 0, data) });
        Ok(())
    }

    fn cuStreamWriteValue32_v2(stream: Handle, address: u64, value: u32, flags: u32) {
        write_value(stream, address, &value.to_ne_bytes(), flags)
    }

    fn cuStreamWriteValue64_v2(stream: Handle, address: u64, value: u64, flags: u32) {
        write_value(stream, address, &value.to_ne_bytes(), flags)
    }
}

fn write_value(stream: Handle, address: u64, value: &[u8], flags: u32) -> Status {
    let queue = Queue::of(stream)?;
    if !address.is_multiple_of(value.len() as u64) {
        return Err(INVALID_VALUE);
    }
    if flags > 1 {
        return Err(NOT_SUPPORTED);
    }
    let place = driver()?.memory.host_range(address, value.len() as u64).ok_or(INVALID_VALUE)?;
    let source: In<u8> = In(value.as_ptr());
    // SAFETY: `host_range` says that these bytes may be accessed; `value` holds as many.
    queue.run(|| unsafe { source.0.copy_to(place, value.len()) });
    Ok(())
}
