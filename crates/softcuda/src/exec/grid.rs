//! Runs the blocks of launches on all cores.
//!
//! The thread that launches works on its own launch; the pool's threads help. So `threads` threads
//! compute when one thread launches at a time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::block::{BUDGET, BlockState, Progress, Worker};
use super::{Launch, Order};
use crate::fault::{Fault, FaultKind};

/// Blocks that a worker takes at once, at most.
const MOST_BLOCKS: u64 = 8;

/// How a launch is run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Blocks in progress at once, at most. It matters to blocks that wait for other blocks alone.
    pub resident: usize,
    /// All blocks on the launching thread, one after the other.
    pub alone: bool,
    /// A launch that takes longer fails.
    pub timeout: Option<Duration>,
}

/// Threads that run blocks.
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Buffers of launching threads.
    workers: Mutex<Vec<Worker>>,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    /// Running launches, the oldest first.
    jobs: VecDeque<Arc<Job>>,
    shutdown: bool,
}

/// A launch that runs.
struct Job {
    launch: Arc<Launch>,
    /// Blocks that have been handed out.
    next: AtomicU64,
    total: u64,
    /// Threads that may work on it.
    threads: u64,
    /// Blocks that have begun and not finished.
    resident: AtomicUsize,
    /// So many may at once.
    resident_limit: usize,
    /// Blocks that have finished.
    done: AtomicU64,
    /// Begun blocks that wait for other blocks.
    yielded: Mutex<VecDeque<BlockState>>,
    fault: Mutex<Option<Box<Fault>>>,
    /// Helpers inside [`Job::work`].
    helpers: Mutex<usize>,
    left: Condvar,
}

impl Pool {
    /// A pool in which `threads` threads compute, the launching one included.
    ///
    /// # Errors
    /// The host's error if it gives no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut helpers = Vec::new();
        for number in 1..threads.max(1) {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name(format!("softcuda-{number}"));
            helpers.push(builder.spawn(move || help(&shared))?);
        }
        Ok(Self { shared, helpers, workers: Mutex::default() })
    }

    /// Threads that compute, the launching one included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Runs a launch to its end.
    ///
    /// # Errors
    /// The first fault that a block met; other blocks then stop early.
    pub fn run(&self, launch: Arc<Launch>, limits: Limits) -> Result<(), Box<Fault>> {
        let total = launch.grid.iter().map(|blocks| u64::from(*blocks)).product();
        let job = Arc::new(Job {
            launch,
            next: AtomicU64::new(0),
            total,
            threads: self.threads() as u64,
            resident: AtomicUsize::new(0),
            resident_limit: limits.resident.max(self.threads()),
            done: AtomicU64::new(0),
            yielded: Mutex::default(),
            fault: Mutex::default(),
            helpers: Mutex::new(0),
            left: Condvar::new(),
        });
        let _cancellable = Cancellable::register(&job.launch.stop);
        let timed_out = match limits.timeout {
            None => {
                self.run_job(&job, limits.alone);
                false
            }
            Some(timeout) => {
                watched(&job.launch.stop, timeout, || self.run_job(&job, limits.alone))
            }
        };
        let mut fault = match lock(&job.fault).take() {
            Some(fault) => fault,
            None if job.done.load(Ordering::Relaxed) == total => return Ok(()),
            // Stopped where no block was running.
            None => {
                let detail = "the launch was stopped between blocks";
                let mut fault = Box::new(Fault::host(FaultKind::Cancelled, detail));
                fault.kernel.clone_from(&job.launch.kernel.name);
                fault
            }
        };
        if timed_out && fault.kind == FaultKind::Cancelled {
            fault.kind = FaultKind::Timeout;
            fault.code = fault.kind.code();
        }
        Err(fault)
    }

    fn run_job(&self, job: &Arc<Job>, alone: bool) {
        let alone = alone || job.total == 1 || self.helpers.is_empty();
        if !alone {
            lock(&self.shared.queue).jobs.push_back(job.clone());
            match job.total {
                2 => self.shared.wake.notify_one(),
                _ => self.shared.wake.notify_all(),
            }
        }
        let mut worker = lock(&self.workers).pop().unwrap_or_default();
        job.work(&mut worker);
        lock(&self.workers).push(worker);
        if !alone {
            lock(&self.shared.queue).jobs.retain(|other| !Arc::ptr_eq(other, job));
            job.wait_for_helpers();
        }
    }
}

/// Runs `body`; sets `stop` if it takes longer than `timeout`. Returns whether it did.
fn watched(stop: &AtomicBool, timeout: Duration, body: impl FnOnce()) -> bool {
    let done = Mutex::new(false);
    let wake = Condvar::new();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let (done, _) = wake
                .wait_timeout_while(lock(&done), timeout, |done| !*done)
                .unwrap_or_else(PoisonError::into_inner);
            if !*done {
                stop.store(true, Ordering::Relaxed);
            }
            !*done
        });
        body();
        *lock(&done) = true;
        wake.notify_all();
        watch.join().unwrap_or(false)
    })
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.queue).shutdown = true;
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper does not panic; if it did, its launch has reported it.
            drop(helper.join());
        }
    }
}

/// A helper's life.
fn help(shared: &Shared) {
    let mut worker = Worker::new();
    let mut queue = lock(&shared.queue);
    while !queue.shutdown {
        let Some(job) = queue.jobs.iter().find(|job| job.wants_help()).cloned() else {
            queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        // Counted while the queue is locked: the launching thread takes the job off the queue
        // before it counts.
        *lock(&job.helpers) += 1;
        drop(queue);
        job.work(&mut worker);
        *lock(&job.helpers) -= 1;
        job.left.notify_all();
        drop(job);
        queue = lock(&shared.queue);
    }
}

impl Job {
    fn wants_help(&self) -> bool {
        !self.stopped()
            && (self.next.load(Ordering::Relaxed) < self.total || !lock(&self.yielded).is_empty())
    }

    fn stopped(&self) -> bool {
        self.launch.stop.load(Ordering::Relaxed)
    }

    fn wait_for_helpers(&self) {
        let mut helpers = lock(&self.helpers);
        while *helpers > 0 {
            helpers = self.left.wait(helpers).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Runs blocks until there is none to begin and none that waits.
    fn work(&self, worker: &mut Worker) {
        let control = set_float_control(DEFAULT_FLOAT_CONTROL);
        // Blocks taken and not begun.
        let mut taken = 0..0;
        let mut old_first = false;
        while !self.stopped() {
            let old = if old_first || taken.is_empty() && !self.may_begin() {
                lock(&self.yielded).pop_front()
            } else {
                None
            };
            old_first = !old_first;
            let state = match old {
                Some(state) => Some(state),
                None => self.begin_next(worker, &mut taken),
            };
            match state {
                Some(state) => self.step(worker, state),
                None if lock(&self.yielded).is_empty() => break,
                None => old_first = true,
            }
        }
        set_float_control(control);
    }

    fn may_begin(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.total
            && self.resident.load(Ordering::Relaxed) < self.resident_limit
    }

    /// The next blocks to begin; fewer towards the end, so that all threads finish at about the
    /// same time.
    fn take_blocks(&self) -> Range<u64> {
        let chunk = |first: u64| ((self.total - first) / (4 * self.threads)).clamp(1, MOST_BLOCKS);
        let taken = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| {
            (first < self.total).then(|| first + chunk(first))
        });
        taken.map_or(0..0, |first| first..first + chunk(first))
    }

    /// The state of the next block, set up.
    fn begin_next(&self, worker: &mut Worker, taken: &mut Range<u64>) -> Option<BlockState> {
        if taken.is_empty() {
            if !self.may_begin() {
                return None;
            }
            *taken = self.take_blocks();
        }
        let index = taken.next()?;
        self.resident.fetch_add(1, Ordering::Relaxed);
        let mut state = worker.take();
        match state.begin(&self.launch, self.block(index)) {
            Ok(()) => Some(state),
            Err(fault) => {
                self.fail(fault);
                None
            }
        }
    }

    /// Runs a block until it is done or waits for others.
    fn step(&self, worker: &mut Worker, mut state: BlockState) {
        match state.step(&self.launch, BUDGET) {
            Ok(Progress::Done) => {
                self.resident.fetch_sub(1, Ordering::Relaxed);
                self.done.fetch_add(1, Ordering::Relaxed);
                worker.put_back(state);
            }
            Ok(Progress::Yielded) => lock(&self.yielded).push_back(state),
            Err(fault) => self.fail(fault),
        }
    }

    /// Keeps the fault and stops the launch. Blocks that only stopped because of it do not count.
    fn fail(&self, fault: Box<Fault>) {
        let mut kept = lock(&self.fault);
        let replaces = match &*kept {
            None => true,
            Some(kept) => kept.kind == FaultKind::Cancelled && fault.kind != FaultKind::Cancelled,
        };
        if replaces {
            *kept = Some(fault);
        }
        self.launch.stop.store(true, Ordering::Relaxed);
    }

    /// The block that comes at place `index` in the order of the schedule.
    fn block(&self, index: u64) -> [u32; 3] {
        let linear = match self.launch.settings.blocks {
            Order::Ascending => index,
            Order::Descending => self.total - 1 - index,
        };
        let [x, y, _] = self.launch.grid.map(u64::from);
        [linear % x, linear / x % y, linear / (x * y)].map(|index| index as u32)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Round to nearest, keep subnormals, no exceptions.
const DEFAULT_FLOAT_CONTROL: u32 = 0x1f80;

/// Sets MXCSR; returns what it was.
fn set_float_control(control: u32) -> u32 {
    let mut before = 0_u32;
    // SAFETY: stores MXCSR to a live u32.
    unsafe { std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack)) };
    // Only the modes count, not the sticky flags.
    if before & 0xffc0 != control & 0xffc0 {
        // SAFETY: loads a value that this function has read, or the default one.
        unsafe { std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack)) };
    }
    before
}

/// The stop flags of running launches.
static RUNNING: [Slot; 64] =
    [const { Slot { readers: AtomicU32::new(0), stop: AtomicPtr::new(std::ptr::null_mut()) } }; 64];

struct Slot {
    /// Calls of [`cancel`] that look at `stop`.
    readers: AtomicU32,
    stop: AtomicPtr<AtomicBool>,
}

/// A launch that [`cancel`] reaches, until it is dropped.
struct Cancellable(Option<&'static Slot>);

impl Cancellable {
    /// With 64 launches at once already, the launch cannot be cancelled.
    fn register(stop: &AtomicBool) -> Self {
        let stop = std::ptr::from_ref(stop).cast_mut();
        let null = std::ptr::null_mut();
        let order = Ordering::SeqCst;
        Self(
            RUNNING
                .iter()
                .find(|slot| slot.stop.compare_exchange(null, stop, order, order).is_ok()),
        )
    }
}

impl Drop for Cancellable {
    fn drop(&mut self) {
        if let Some(slot) = self.0 {
            slot.stop.store(std::ptr::null_mut(), Ordering::SeqCst);
            while slot.readers.load(Ordering::SeqCst) != 0 {
                std::hint::spin_loop();
            }
        }
    }
}

/// Stops the launches that run now; they fail with 719, "cancelled". Takes no lock and allocates
/// nothing, so that a signal handler may call it.
pub fn cancel() {
    for slot in &RUNNING {
        slot.readers.fetch_add(1, Ordering::SeqCst);
        let stop = slot.stop.load(Ordering::SeqCst);
        if !stop.is_null() {
            // SAFETY: whoever takes the pointer out of the slot waits for `readers` to be 0 before
            // the flag goes.
            let stop = unsafe { &*stop };
            stop.store(true, Ordering::Relaxed);
        }
        slot.readers.fetch_sub(1, Ordering::SeqCst);
    }
}
