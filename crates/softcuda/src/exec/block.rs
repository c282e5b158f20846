//! Runs a block: its warps from barrier to barrier.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::handlers::copies::Flights;
use super::op::Reg;
use super::sched::Stop;
use super::warp::{
    Barrier, BarrierKind, Event, Failure, Fragment, FragmentState, GlobalView, Warp,
};
use super::{Kernel, Launch, Order};
use crate::fault::{Fault, FaultKind, SourceLoc};

/// Times that the warps of a block may come to barriers in one step: a loop of barriers uses up
/// no warp's budget between them.
const ROUNDS: u32 = 4096;

/// Warp instructions after which a block lets others run.
pub const BUDGET: u64 = 1 << 20;

/// What [`BlockState::step`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The block is finished.
    Done,
    /// The block used up its budget or waits for other blocks; step it again.
    Yielded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WarpState {
    Running,
    Waiting(Barrier),
    Done,
}

/// Memory of whole warp registers.
#[derive(Debug, Default)]
struct Store(Vec<Reg>);

impl Store {
    fn fit(&mut self, bytes: usize) -> *mut Reg {
        let regs = bytes.div_ceil(size_of::<Reg>()).max(1);
        if self.0.len() < regs {
            self.0.resize(regs, Reg([0; 32]));
        }
        self.0.as_mut_ptr()
    }
}

/// A block in progress. It belongs to one thread at a time and holds no native stack, so it may
/// be set aside and go on elsewhere.
#[derive(Debug, Default)]
pub struct BlockState {
    block: [u32; 3],
    warps: Vec<Warp>,
    states: Vec<WarpState>,
    regs: Store,
    shared: Store,
    local: Store,
    flights: Box<Flights>,
    /// Warps that arrived at each barrier without waiting.
    arrived: [u32; 16],
    /// What `regs` holds the fixed registers of.
    prepared: Option<Prepared>,
}

/// All that the constants and the preamble's results depend on.
#[derive(Debug)]
struct Prepared {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    processors: u32,
    params: Arc<[u8]>,
}

impl Prepared {
    fn of(launch: &Launch) -> Self {
        Prepared {
            kernel: Arc::clone(&launch.kernel),
            grid: launch.grid,
            block: launch.block,
            shared_bytes: launch.shared_bytes,
            processors: launch.processors,
            params: Arc::clone(&launch.params),
        }
    }

    /// The constants of `launch` are there.
    fn has_constants(&self, launch: &Launch) -> bool {
        // The number of warps decides where the registers of each are.
        Arc::ptr_eq(&self.kernel, &launch.kernel) && warps(self.block) == warps(launch.block)
    }

    /// The results of the preamble are there too.
    fn has_results(&self, launch: &Launch) -> bool {
        self.has_constants(launch)
            && (self.grid, self.block) == (launch.grid, launch.block)
            && (self.shared_bytes, self.processors) == (launch.shared_bytes, launch.processors)
            && (Arc::ptr_eq(&self.params, &launch.params) || self.params == launch.params)
    }
}

/// Warps of a block of threads.
fn warps([x, y, z]: [u32; 3]) -> usize {
    (x * y * z).div_ceil(32) as usize
}

// SAFETY: the pointers in the warps lead into the state's own buffers and into what the launch
// keeps alive; only the thread that has the state uses them.
unsafe impl Send for BlockState {}

impl BlockState {
    /// Sets up `block` of `launch` in this state, whose buffers are used again.
    ///
    /// # Errors
    /// For a launch that the kernel does not allow.
    pub fn begin(&mut self, launch: &Launch, block: [u32; 3]) -> Result<(), Box<Fault>> {
        let kernel = &launch.kernel;
        check(launch)?;
        let [x, y, z] = launch.block;
        let threads = x * y * z;
        let count = warps(launch.block);
        let mask_regs = (kernel.masks as usize).div_ceil(32);
        let stride = mask_regs + kernel.regs as usize;
        let regs = self.regs.fit(stride * count * size_of::<Reg>());
        let constants = self.prepared.as_ref().is_some_and(|p| p.has_constants(launch));
        let results = self.prepared.as_ref().is_some_and(|p| p.has_results(launch));
        let shared_size = kernel.shared_size + launch.shared_bytes;
        let shared = self.shared.fit(shared_size as usize).cast::<u8>();
        // SAFETY: the buffer has at least this many bytes.
        unsafe { shared.write_bytes(0, shared_size as usize) };
        let local_size = kernel.local_size.next_multiple_of(4);
        let local = self.local.fit(local_size as usize * 32 * count).cast::<u8>();
        self.block = block;
        self.arrived = [0; 16];
        self.states.clear();
        self.states.resize(count, WarpState::Running);
        let global = GlobalView {
            base: launch.memory.base(),
            size: launch.memory.size(),
            granules: launch.memory.granules(),
        };
        self.flights.reset(count);
        let first_copies = self.flights.copies.as_mut_ptr();
        let mut old = std::mem::take(&mut self.warps).into_iter();
        for index in 0..count {
            // SAFETY: warp `index` has `stride` registers from here.
            let base = unsafe { regs.add(index * stride + mask_regs) };
            if !constants {
                for (reg, bits) in &kernel.constants {
                    // SAFETY: constants lie in registers of the kernel.
                    unsafe { (*base.add(*reg as usize)).0 = [*bits; 32] };
                }
            }
            let lanes = (threads - index as u32 * 32).min(32);
            let live = (u64::MAX >> (64 - lanes)) as u32;
            let mut waiting = old.next().map_or_else(|| Vec::with_capacity(32), |w| w.waiting);
            waiting.clear();
            waiting.push(Fragment {
                mask: live,
                pc: kernel.ops.as_ptr(),
                state: FragmentState::Ready,
            });
            self.warps.push(Warp {
                regs: base,
                active: 0,
                live,
                frontier: std::ptr::null(),
                event: Event::None,
                clock: 0,
                waiting,
                global,
                memory: Arc::as_ptr(&launch.memory),
                shared,
                shared_size,
                shared_dynamic: launch.shared_bytes,
                // SAFETY: each warp has its part of the buffer.
                local: unsafe { local.add(local_size as usize * 32 * index) },
                local_size,
                params: launch.params.as_ptr(),
                params_size: kernel.params_size,
                // SAFETY: there are the copies of `count` warps.
                copies: unsafe { first_copies.add(index) },
                first_copies,
                late: &raw mut self.flights.late,
                copy_mode: launch.settings.copies,
                rows: [std::ptr::null(); 8],
                group: 0,
                dots: 0,
                kernel: Arc::as_ptr(kernel),
                index: index as u32,
                count: count as u32,
                block,
                grid: launch.grid,
                threads: launch.block,
                launch: launch.number,
                processors: launch.processors,
                stop: &raw const launch.stop,
                failure: None,
            });
        }
        if !results {
            for warp in &mut self.warps {
                // SAFETY: the warp is set up for its kernel, whose level the processor has.
                unsafe { warp.prepare(&kernel.preamble) };
            }
            self.prepared = Some(Prepared::of(launch));
        }
        Ok(())
    }

    /// Runs the block on, for about `budget` instructions of each warp.
    ///
    /// `launch` is the one that the block was begun with.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub fn step(&mut self, launch: &Launch, budget: u64) -> Result<Progress, Box<Fault>> {
        for _ in 0..ROUNDS {
            let mut ran = false;
            let mut yielded = false;
            for at in 0..self.warps.len() {
                let index = match launch.settings.warps {
                    Order::Ascending => at,
                    Order::Descending => self.warps.len() - 1 - at,
                };
                if self.states[index] != WarpState::Running {
                    continue;
                }
                ran = true;
                let warp = &mut self.warps[index];
                let until = warp.clock.saturating_add(budget);
                // SAFETY: `begin` set the warp up; levels are detected before lowering.
                match unsafe { warp.run(until) } {
                    Stop::Done => {
                        self.states[index] = WarpState::Done;
                        self.complete(launch, None)?;
                    }
                    Stop::Barrier(barrier) if barrier.kind == BarrierKind::Arrive => {
                        self.arrived[usize::from(barrier.id)] += 1;
                        self.warps[index].release(&|_| 0);
                        self.complete(launch, Some(index))?;
                    }
                    Stop::Barrier(barrier) => {
                        self.states[index] = WarpState::Waiting(barrier);
                        self.complete(launch, Some(index))?;
                    }
                    Stop::Yielded => yielded = true,
                    Stop::Fault => return Err(self.fault(launch, index)),
                }
                if launch.stop.load(Ordering::Relaxed) {
                    return Err(self.cancelled(launch, index));
                }
            }
            if self.states.iter().all(|s| *s == WarpState::Done) {
                return Ok(Progress::Done);
            }
            if !ran {
                return Err(self.deadlock(launch));
            }
            if yielded {
                return Ok(Progress::Yielded);
            }
        }
        Ok(Progress::Yielded)
    }

    /// Lets go the warps of each barrier that is complete. `arrived` has just come to one.
    fn complete(&mut self, launch: &Launch, arrived: Option<usize>) -> Result<(), Box<Fault>> {
        let mut ids = 0u16;
        for state in &self.states {
            if let WarpState::Waiting(b) = state {
                ids |= 1 << b.id;
            }
        }
        while ids != 0 {
            let id = ids.trailing_zeros() as u8;
            ids &= ids - 1;
            let waits = |s: &WarpState| matches!(s, WarpState::Waiting(b) if b.id == id);
            let Some(first) = self.states.iter().find_map(|s| match s {
                WarpState::Waiting(b) if b.id == id => Some(*b),
                _ => None,
            }) else {
                continue;
            };
            let waiting = self.states.iter().filter(|s| waits(s)).count() as u32;
            let here = waiting + self.arrived[usize::from(id)];
            let expected = if first.count == 0 {
                self.states.iter().filter(|s| **s != WarpState::Done).count() as u32
            } else {
                first.count / 32
            };
            let agree = self.states.iter().all(|s| match s {
                WarpState::Waiting(b) if b.id == id => b.count == first.count,
                _ => true,
            });
            if !agree || here > expected {
                let index = arrived.unwrap_or(0);
                return Err(self.barrier_fault(launch, index, first.site));
            }
            if here < expected {
                continue;
            }
            let (mut count, mut all, mut any) = (0, true, false);
            for (state, warp) in self.states.iter().zip(&self.warps) {
                if let WarpState::Waiting(b) = state
                    && b.id == id
                {
                    count += (b.input & warp.live).count_ones();
                    all &= b.input & warp.live == warp.live;
                    any |= b.input & warp.live != 0;
                }
            }
            let result = |b: &Barrier| match b.kind {
                BarrierKind::Popc => count,
                BarrierKind::And => {
                    if all {
                        !0
                    } else {
                        0
                    }
                }
                BarrierKind::Or => {
                    if any {
                        !0
                    } else {
                        0
                    }
                }
                BarrierKind::Sync | BarrierKind::Arrive => 0,
            };
            self.arrived[usize::from(id)] = 0;
            for (state, warp) in self.states.iter_mut().zip(&mut self.warps) {
                if waits(state) {
                    *state = WarpState::Running;
                    warp.release(&result);
                }
            }
        }
        Ok(())
    }

    fn fault(&mut self, launch: &Launch, index: usize) -> Box<Fault> {
        let failure = self.warps[index].failure.take().unwrap_or_else(|| {
            Box::new(Failure { kind: FaultKind::Trap, site: 0, lanes: 0, detail: String::new() })
        });
        self.report(launch, index, &failure)
    }

    fn report(&self, launch: &Launch, index: usize, failure: &Failure) -> Box<Fault> {
        let kernel = &launch.kernel;
        let warp = &self.warps[index];
        let site = kernel.sites.get(failure.site as usize);
        let line = site.map_or(0, |s| s.line);
        let lane = if failure.lanes == 0 { 0 } else { failure.lanes.trailing_zeros() };
        Box::new(Fault {
            code: failure.kind.code(),
            kernel: kernel.name.clone(),
            loc: site.and_then(|s| source(kernel, s.loc)),
            ptx_line: line,
            ptx_text: kernel.module.line_text(line),
            block: self.block,
            grid: launch.grid,
            warp: index as u32,
            lanes: failure.lanes,
            thread: warp.thread(lane),
            kind: failure.kind,
            detail: failure.detail.clone(),
        })
    }

    fn cancelled(&self, launch: &Launch, index: usize) -> Box<Fault> {
        let detail = "the launch was stopped".to_owned();
        let failure = Failure { kind: FaultKind::Cancelled, site: 0, lanes: 0, detail };
        self.report(launch, index, &failure)
    }

    fn barrier_fault(&self, launch: &Launch, index: usize, site: u32) -> Box<Fault> {
        let detail = format!("warps disagree on a barrier's count; {}", self.barriers(launch));
        let failure =
            Failure { kind: FaultKind::Barrier, site, lanes: self.warps[index].live, detail };
        self.report(launch, index, &failure)
    }

    fn deadlock(&self, launch: &Launch) -> Box<Fault> {
        let index = self.states.iter().position(|s| *s != WarpState::Done).unwrap_or(0);
        let site = match self.states[index] {
            WarpState::Waiting(b) => b.site,
            _ => 0,
        };
        let detail = format!("barrier deadlock: {}", self.barriers(launch));
        let failure =
            Failure { kind: FaultKind::Barrier, site, lanes: self.warps[index].live, detail };
        self.report(launch, index, &failure)
    }

    /// The barrier and line of each warp.
    fn barriers(&self, launch: &Launch) -> String {
        let kernel = &launch.kernel;
        let lines: Vec<String> = self
            .states
            .iter()
            .enumerate()
            .map(|(index, state)| match state {
                WarpState::Running => format!("warp {index} runs"),
                WarpState::Done => format!("warp {index} exited"),
                WarpState::Waiting(b) => {
                    let line = kernel.sites.get(b.site as usize).map_or(0, |s| s.line);
                    format!("warp {index} waits at barrier {} (PTX line {line})", b.id)
                }
            })
            .collect();
        lines.join(", ")
    }
}

/// The source place of an index of the line table.
fn source(kernel: &Kernel, loc: u32) -> Option<SourceLoc> {
    let module = &kernel.module;
    let mut place = None;
    for (path, line, _) in module.lines.chain(&module.names, loc).into_iter().rev() {
        let inlined_at = place.take().map(Box::new);
        place = Some(SourceLoc { file: path.to_owned(), line, column: 0, inlined_at });
    }
    if let (Some(place), Some(loc)) = (&mut place, module.lines.get(loc)) {
        place.column = loc.column;
    }
    place
}

/// Refuses what no block of this kernel can run with.
fn check(launch: &Launch) -> Result<(), Box<Fault>> {
    let refuse = |detail: String| {
        let mut fault = Fault::host(FaultKind::InvalidValue, detail);
        fault.kernel.clone_from(&launch.kernel.name);
        Err(Box::new(fault))
    };
    let threads = launch.block.iter().map(|n| u64::from(*n)).product::<u64>();
    if threads == 0 || threads > 1024 || launch.block[2] > 64 {
        return refuse(format!("a block of {:?} threads", launch.block));
    }
    if threads > u64::from(launch.kernel.max_threads) {
        return refuse(format!(
            "{threads} threads, the kernel allows {}",
            launch.kernel.max_threads
        ));
    }
    if launch.kernel.required_threads.is_some_and(|r| r != launch.block) {
        return refuse(format!(
            "a block of {:?} threads, the kernel requires another",
            launch.block
        ));
    }
    if launch.params.len() < launch.kernel.params_size as usize {
        return refuse(format!(
            "{} bytes of parameters of {}",
            launch.params.len(),
            launch.kernel.params_size
        ));
    }
    if u64::from(launch.kernel.shared_size) + u64::from(launch.shared_bytes) > 227 * 1024 {
        return refuse("more shared memory than a block may have".to_owned());
    }
    Ok(())
}

/// What one thread runs blocks with.
#[derive(Debug, Default)]
pub struct Worker {
    spare: Vec<BlockState>,
}

impl Worker {
    /// A worker without buffers; they grow as kernels need them.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A state to begin a block in.
    pub fn take(&mut self) -> BlockState {
        self.spare.pop().unwrap_or_default()
    }

    /// Keeps the buffers of a finished block.
    pub fn put_back(&mut self, state: BlockState) {
        if self.spare.len() < 8 {
            self.spare.push(state);
        }
    }

    /// Runs a block to its end, never letting another block run meanwhile.
    ///
    /// # Errors
    /// The fault that ends the launch.
    pub fn run_block(&mut self, launch: &Launch, block: [u32; 3]) -> Result<(), Box<Fault>> {
        let mut state = self.take();
        state.begin(launch, block)?;
        while state.step(launch, BUDGET)? == Progress::Yielded {}
        self.put_back(state);
        Ok(())
    }
}
