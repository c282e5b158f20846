//! The state of a warp, as handlers see it.

use std::sync::atomic::{AtomicBool, AtomicU16};

use super::handlers::copies::Copies;
use super::op::{Op, Reg};
use super::{CopyMode, Kernel};
use crate::fault::FaultKind;
use crate::memory::Memory;

/// A set of lanes of a warp that runs together. The running fragment is not in
/// [`Warp::waiting`]; its mask is [`Warp::active`].
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    /// Its lanes; no lane is in two fragments.
    pub mask: u32,
    /// The op at which it goes on.
    pub pc: *const Op,
    /// Whether it may run.
    pub state: FragmentState,
}

/// Why a fragment does or does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FragmentState {
    /// May run.
    Ready,
    /// Waits at the `.sync` op `pc` for other lanes.
    Sync,
    /// Waits at a block barrier; goes on at `pc`.
    Barrier(Barrier),
}

/// An arrival at a block barrier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// Which of the 16 barriers.
    pub id: u8,
    /// Expected threads; 0 for all of the block.
    pub count: u32,
    /// What the arrival asks for.
    pub kind: BarrierKind,
    /// The barrier's op, for reports.
    pub site: u32,
    /// For a reduction: the lanes whose predicate is true, and the register or mask that gets
    /// the result.
    pub input: u32,
    /// Destination of a reduction.
    pub dest: u16,
}

/// The kinds of barrier operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    /// Arrive and wait.
    Sync,
    /// Arrive only.
    Arrive,
    /// Wait; the destination register counts true predicates.
    Popc,
    /// Wait; the destination mask is the conjunction.
    And,
    /// Wait; the destination mask is the disjunction.
    Or,
}

/// What a handler tells the loop when it leaves a chain otherwise than by a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// The lanes of the active mask exit.
    Exit,
    /// The fragment waits at the returned op.
    Sync,
    /// The fragment arrived at a barrier and goes on at the returned op.
    Barrier(Barrier),
    /// The launch failed; [`Warp::failure`] says why.
    Fault,
    /// The fragment asks to let others run (`nanosleep`).
    Yield,
}

/// A fault as a handler records it.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What happened.
    pub kind: FaultKind,
    /// Index of the instruction in `Kernel::sites`.
    pub site: u32,
    /// Failing lanes.
    pub lanes: u32,
    /// More, in words.
    pub detail: String,
}

/// The arena as handlers see it. See `memory::Memory` for the meaning of the parts.
#[derive(Clone, Copy, Debug)]
pub struct GlobalView {
    /// Host address of arena offset 0.
    pub base: *mut u8,
    /// Bytes of the arena.
    pub size: u64,
    /// One entry for 256 bytes.
    pub granules: *const AtomicU16,
}

/// A warp of a running block.
#[derive(Debug)]
pub struct Warp {
    /// Register base; masks lie below it.
    pub regs: *mut Reg,
    /// Lanes of the running fragment.
    pub active: u32,
    /// Lanes that have not exited.
    pub live: u32,
    /// The loop looks at events and other fragments when a terminator returns an op at or
    /// behind this one. Null while an event is set.
    pub frontier: *const Op,
    /// Set by a handler that leaves its chain.
    pub event: Event,
    /// Warp instructions executed up to the start of the current block.
    pub clock: u64,
    /// Fragments other than the running one.
    pub waiting: Vec<Fragment>,
    /// Global memory.
    pub global: GlobalView,
    /// The device memory behind it: pinned regions, reports.
    pub memory: *const Memory,
    /// Shared memory of the block.
    pub shared: *mut u8,
    /// Bytes of it.
    pub shared_size: u32,
    /// Dynamic part of it.
    pub shared_dynamic: u32,
    /// Local memory: word w of lane l is at `(w·32 + l)·4`.
    pub local: *mut u8,
    /// Bytes of it for each lane.
    pub local_size: u32,
    /// The launch's parameter buffer.
    pub params: *const u8,
    /// Bytes of it.
    pub params_size: u32,
    /// Copies in flight, in the block's `Flights`, and those of the first warp.
    pub copies: *mut Copies,
    /// See `copies`.
    pub first_copies: *mut Copies,
    /// Entries among the block's copies whose sources are still to be read.
    pub late: *mut usize,
    /// When asynchronous copies land.
    pub copy_mode: CopyMode,
    /// Rows that a group of loads reads, and the number of the group (0: none).
    pub rows: [*const u8; 8],
    /// See `rows`.
    pub group: u16,
    /// Accumulators, by number in their block, that are sums of `vdpbf16ps` alone.
    pub dots: u64,
    /// The kernel.
    pub kernel: *const Kernel,
    /// Index of this warp in its block.
    pub index: u32,
    /// Warps of the block.
    pub count: u32,
    /// The block.
    pub block: [u32; 3],
    /// Blocks of the grid.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: [u32; 3],
    /// Launch number, `%gridid`.
    pub launch: u64,
    /// Multiprocessors of the device, `%nsmid`.
    pub processors: u32,
    /// Set while the launch is being stopped.
    pub stop: *const AtomicBool,
    /// The fault, once there is one.
    pub failure: Option<Box<Failure>>,
}

impl Warp {
    /// A warp for handlers that use nothing of it: pure ops on constants.
    pub(crate) fn scratch(regs: *mut Reg) -> Self {
        let nothing = std::ptr::null_mut();
        Warp {
            regs,
            active: !0,
            live: !0,
            frontier: std::ptr::null(),
            event: Event::None,
            clock: 0,
            waiting: Vec::new(),
            global: GlobalView { base: nothing, size: 0, granules: std::ptr::null() },
            memory: std::ptr::null(),
            shared: nothing,
            shared_size: 0,
            shared_dynamic: 0,
            local: nothing,
            local_size: 0,
            params: nothing,
            params_size: 0,
            copies: std::ptr::null_mut(),
            first_copies: std::ptr::null_mut(),
            late: std::ptr::null_mut(),
            copy_mode: CopyMode::Strict,
            rows: [std::ptr::null(); 8],
            group: 0,
            dots: 0,
            kernel: std::ptr::null(),
            index: 0,
            count: 1,
            block: [0; 3],
            grid: [1; 3],
            threads: [32, 1, 1],
            launch: 0,
            processors: 0,
            stop: std::ptr::null(),
            failure: None,
        }
    }

    /// Records a fault of the lanes `lanes` at `op`. The handler then returns false (or its op).
    #[cold]
    #[inline(never)]
    pub fn fault(&mut self, op: &Op, kind: FaultKind, lanes: u32, detail: String) -> bool {
        self.failure = Some(Box::new(Failure { kind, site: op.loc, lanes, detail }));
        self.raise(Event::Fault);
        false
    }

    /// Makes the loop look at `event` when the chain returns.
    #[inline]
    pub fn raise(&mut self, event: Event) {
        self.event = event;
        self.frontier = std::ptr::null();
    }

    /// `%tid` of a lane: x, y, z.
    #[must_use]
    pub fn thread(&self, lane: u32) -> [u32; 3] {
        let linear = self.index * 32 + lane;
        let [x, y, _] = self.threads;
        [linear % x, linear / x % y, linear / (x * y)]
    }
}
