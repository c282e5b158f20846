//! Runs one warp: which of its fragments goes on, and when it stops.
//!
//! The ready fragment with the lowest op address runs (blocks are laid out so that loops are
//! contiguous and joins come after what they join); fragments that meet merge. After 4,096
//! blocks, if others are ready, the one above that whose turn it was before gets a turn.

use std::sync::atomic::Ordering;

use super::handlers::cpasync;
use super::op::Op;
use super::warp::{Barrier, Event, Fragment, FragmentState, Warp};
use crate::fault::FaultKind;

/// Blocks that a warp runs before another ready fragment gets a turn, and between looks at the
/// budget and the flag that stops the launch.
const TURN: u32 = 4096;

/// Why a warp stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// All lanes exited.
    Done,
    /// All live lanes wait at the same barrier.
    Barrier(Barrier),
    /// The budget is used up, or a lane asked to let others run.
    Yielded,
    /// `Warp::failure` is set.
    Fault,
}

const NOWHERE: *const Op = usize::MAX as *const Op;

impl Warp {
    /// Makes a branch: the lanes `taken` go to `target`, the others of the active ones to `rest`.
    /// Neither is empty. Returns where the running fragment goes on.
    pub(crate) fn split(&mut self, taken: u32, target: *const Op, rest: *const Op) -> *const Op {
        let other = self.active & !taken;
        let (mask, pc, later, wait) =
            if target < rest { (taken, target, other, rest) } else { (other, rest, taken, target) };
        self.waiting.push(Fragment { mask: later, pc: wait, state: FragmentState::Ready });
        self.active = mask;
        self.frontier = self.frontier.min(wait);
        pc
    }

    fn park(&mut self, pc: *const Op, state: FragmentState) {
        if let Some(other) = self.waiting.iter_mut().find(|f| f.pc == pc && f.state == state) {
            other.mask |= self.active;
            if state == FragmentState::Sync {
                other.state = FragmentState::Ready;
            }
        } else {
            self.waiting.push(Fragment { mask: self.active, pc, state });
        }
        self.active = 0;
    }

    /// Takes the ready fragment with the lowest position that is above `after`, or the lowest
    /// of all, merges what waits at the same op, and sets the frontier.
    fn pick(&mut self, after: *const Op) -> Option<*const Op> {
        let ready = |f: &&Fragment| f.state == FragmentState::Ready;
        let lowest = self.waiting.iter().filter(ready).map(|f| f.pc).min()?;
        let higher = self.waiting.iter().filter(ready).map(|f| f.pc).filter(|pc| *pc > after).min();
        let pc = higher.unwrap_or(lowest);
        self.active = 0;
        let mut frontier = NOWHERE;
        let active = &mut self.active;
        self.waiting.retain(|f| {
            let ready = f.state == FragmentState::Ready;
            if ready && f.pc == pc {
                *active |= f.mask;
                return false;
            }
            if ready && f.pc > pc {
                frontier = frontier.min(f.pc);
            }
            true
        });
        self.frontier = frontier;
        Some(pc)
    }

    fn others_ready(&self) -> bool {
        self.waiting.iter().any(|f| f.state == FragmentState::Ready)
    }

    /// Runs a preamble for all lanes. Its ops are pure and end with a jump to itself.
    ///
    /// # Safety
    /// As [`Warp::run`].
    pub(crate) unsafe fn prepare(&mut self, preamble: &[Op]) {
        let Some(last) = preamble.last() else { return };
        let mut pc = preamble.as_ptr();
        while !std::ptr::eq(pc, last) {
            // SAFETY: `pc` is an op of the preamble: its first, or where a jump leads.
            pc = unsafe { ((*pc).handler)(self.regs, pc, self, !0) };
        }
    }

    /// Runs until all lanes exited or wait at a block barrier, or the clock passes `until`.
    ///
    /// # Safety
    /// The warp is set up for its kernel, and the processor has the kernel's level.
    pub(crate) unsafe fn run(&mut self, until: u64) -> Stop {
        let mut after = std::ptr::null();
        // Counts over all fragments: they may split and meet in each round of an endless loop.
        let mut blocks = 0;
        let mut turn: Option<*const Op> = None;
        let mut rotated = false;
        loop {
            let Some(mut pc) = self.pick(after) else { return self.blocked() };
            after = std::ptr::null();
            if std::mem::take(&mut rotated) {
                turn = Some(pc);
            }
            let event = loop {
                let m = self.active;
                // SAFETY: `pc` is the start of a block or a parked op of the kernel.
                pc = unsafe { ((*pc).handler)(self.regs, pc, self, m) };
                blocks += 1;
                if pc >= self.frontier || blocks >= TURN {
                    break std::mem::replace(&mut self.event, Event::None);
                }
            };
            match event {
                Event::None => self.park(pc, FragmentState::Ready),
                Event::Exit => {
                    cpasync::lanes_exit(self, self.active);
                    self.live &= !self.active;
                    self.active = 0;
                    for f in &mut self.waiting {
                        if f.state == FragmentState::Sync {
                            f.state = FragmentState::Ready;
                        }
                    }
                }
                Event::Sync => self.park(pc, FragmentState::Sync),
                Event::Barrier(barrier) => self.park(pc, FragmentState::Barrier(barrier)),
                Event::Yield => {
                    after = pc;
                    self.park(pc, FragmentState::Ready);
                    if self.waiting.iter().filter(|f| f.state == FragmentState::Ready).count() == 1
                    {
                        return Stop::Yielded;
                    }
                }
                Event::Fault => return Stop::Fault,
            }
            if blocks >= TURN {
                blocks = 0;
                if self.others_ready() {
                    after = turn.unwrap_or(pc);
                    rotated = true;
                }
                // SAFETY: the flag lives as long as the launch, which the block borrows.
                if unsafe { &*self.stop }.load(Ordering::Relaxed) || self.clock >= until {
                    return Stop::Yielded;
                }
            }
        }
    }

    /// No fragment is ready: all exited, all at one barrier, or lanes that never meet.
    fn blocked(&mut self) -> Stop {
        if self.waiting.is_empty() {
            return Stop::Done;
        }
        if let Some(stuck) = self.waiting.iter().find(|f| f.state == FragmentState::Sync) {
            let (pc, lanes) = (stuck.pc, stuck.mask);
            let detail = self.describe_waiting();
            // SAFETY: a parked position is an op of the kernel.
            self.fault(unsafe { &*pc }, FaultKind::WarpSync, lanes, detail);
            self.event = Event::None;
            return Stop::Fault;
        }
        let mut merged: Option<Barrier> = None;
        for f in &self.waiting {
            let FragmentState::Barrier(b) = f.state else { continue };
            match &mut merged {
                None => merged = Some(b),
                Some(first)
                    if first.id == b.id && first.count == b.count && first.kind == b.kind =>
                {
                    first.input |= b.input;
                }
                Some(_) => {
                    let (pc, lanes) = (f.pc, f.mask);
                    let detail = self.describe_waiting();
                    // SAFETY: the op before the position is the barrier.
                    self.fault(unsafe { &*pc.sub(1) }, FaultKind::Barrier, lanes, detail);
                    self.event = Event::None;
                    return Stop::Fault;
                }
            }
        }
        merged.map_or(Stop::Done, Stop::Barrier)
    }

    /// The lanes that wait at a barrier go on.
    pub(crate) fn release(&mut self, result: &dyn Fn(&Barrier) -> u32) {
        let regs = self.regs;
        for f in &mut self.waiting {
            if let FragmentState::Barrier(b) = f.state {
                super::handlers::control::barrier_result(regs, &b, f.mask, result(&b));
                f.state = FragmentState::Ready;
            }
        }
    }

    /// Where the parts of the warp wait, for reports.
    pub(crate) fn describe_waiting(&self) -> String {
        // SAFETY: the kernel outlives its warps.
        let kernel = unsafe { &*self.kernel };
        let mut text = String::from("lanes of the warp wait for each other:");
        for f in &self.waiting {
            let (what, site) = match f.state {
                FragmentState::Ready => ("run at", None),
                // SAFETY: a parked position is an op of the kernel.
                FragmentState::Sync => ("wait at", Some(unsafe { (*f.pc).loc })),
                FragmentState::Barrier(b) => ("wait at", Some(b.site)),
            };
            let place = site.and_then(|s| kernel.sites.get(s as usize)).map_or_else(
                || "an unknown line".to_owned(),
                |s| format!("PTX line {}: {}", s.line, kernel.module.line_text(s.line)),
            );
            text.push_str(&format!(" lanes {:#010x} {what} {place};", f.mask));
        }
        text.pop();
        text
    }
}
