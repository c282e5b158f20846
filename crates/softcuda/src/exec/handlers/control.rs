//! Control flow: terminators of blocks, guards, barriers.
//!
//! A terminator adds the instructions of its block (`imm`) to the warp's clock and returns the
//! op at which the warp goes on.

use crate::exec::op::{Exec, Op, Reg, Simd, mask, next, put_mask, reg};
use crate::exec::warp::{Barrier, BarrierKind, Event, Fragment, FragmentState, Warp};
use crate::fault::FaultKind;

/// Distance to the op where lanes go on that do not branch: `x[0]`, `x[1]`.
#[inline(always)]
fn rest(op: &Op) -> isize {
    (u32::from(op.x[0]) | (u32::from(op.x[1]) << 16)) as i32 as isize
}

/// Sets [`rest`].
pub(crate) fn set_rest(op: &mut Op, distance: i32) {
    op.x[0] = distance as u16;
    op.x[1] = (distance as u32 >> 16) as u16;
}

/// Goes to the op at `jmp`.
pub(crate) unsafe extern "C" fn jump(_: *mut Reg, p: *const Op, w: &mut Warp, _: u32) -> *const Op {
    // SAFETY: lowering sets `jmp` to an op of the kernel.
    unsafe {
        w.clock += (*p).imm;
        p.offset((*p).jmp as isize)
    }
}

/// The lanes of mask `a` (inverted if `b` is 1) go to `jmp`, the others to `rest`.
pub(crate) unsafe extern "C" fn branch(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    m: u32,
) -> *const Op {
    // SAFETY: lowering sets the distances to ops of the kernel, and `a` to a mask of it.
    unsafe {
        let op = &*p;
        w.clock += op.imm;
        let taken = m & (mask(r, op.a) ^ 0u32.wrapping_sub(u32::from(op.b)));
        if taken == m {
            return p.offset(op.jmp as isize);
        }
        let other = p.offset(rest(op));
        if taken == 0 {
            return other;
        }
        w.split(taken, p.offset(op.jmp as isize), other)
    }
}

/// Indirect branch: register `a` is an index into the jumps that follow this op, `b` of them.
pub(crate) unsafe extern "C" fn branch_index(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    m: u32,
) -> *const Op {
    // SAFETY: `a` is a register of the kernel; `b` jumps follow.
    unsafe {
        let op = &*p;
        w.clock += op.imm;
        let index = reg(r, op.a);
        let bad = lanes(m, |lane| index[lane] >= u32::from(op.b));
        if bad != 0 {
            let detail = format!("branch index {}", index[bad.trailing_zeros() as usize]);
            w.fault(op, FaultKind::InvalidPc, bad, detail);
            return p;
        }
        let mut left = m;
        loop {
            let value = index[left.trailing_zeros() as usize];
            let same = lanes(left, |lane| index[lane] == value);
            let jump = p.add(1 + value as usize);
            let pc = jump.offset((*jump).jmp as isize);
            left &= !same;
            if left == 0 {
                w.active = same;
                if !w.waiting.is_empty() {
                    // The loop picks anew.
                    w.frontier = std::ptr::null();
                }
                return pc;
            }
            w.waiting.push(Fragment { mask: same, pc, state: FragmentState::Ready });
        }
    }
}

/// The lanes of `m` for which a condition holds.
#[inline(always)]
pub(crate) fn lanes(m: u32, f: impl Fn(usize) -> bool) -> u32 {
    let mut bits = 0;
    for lane in 0..32 {
        bits |= u32::from(f(lane)) << lane;
    }
    bits & m
}

/// The active lanes exit.
pub(crate) unsafe extern "C" fn exit(_: *mut Reg, p: *const Op, w: &mut Warp, _: u32) -> *const Op {
    // SAFETY: `p` is an op.
    w.clock += unsafe { (*p).imm };
    w.raise(Event::Exit);
    p
}

/// `trap` and `brkpt`; a failed assertion if `a` is 1.
pub(crate) unsafe extern "C" fn trap(_: *mut Reg, p: *const Op, w: &mut Warp, m: u32) -> *const Op {
    // SAFETY: `p` is an op.
    let op = unsafe { &*p };
    let kind = if op.a == 1 { FaultKind::Assert } else { FaultKind::Trap };
    w.fault(op, kind, m, String::new());
    p
}

/// Lets other fragments, warps and blocks run; goes on at `jmp`.
pub(crate) unsafe extern "C" fn pause(
    _: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    _: u32,
) -> *const Op {
    w.raise(Event::Yield);
    // SAFETY: lowering sets `jmp` to an op of the kernel.
    unsafe {
        w.clock += (*p).imm;
        p.offset((*p).jmp as isize)
    }
}

/// Arrives at a barrier: `a` register of its number, `b` register of its count (if `x[2]` is 1),
/// `c` mask of the predicate (inverted if `x[4]` is 1), `d` destination, `x[3]` kind; goes on at the
/// next op, which is a jump.
pub(crate) unsafe extern "C" fn barrier(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    m: u32,
) -> *const Op {
    // SAFETY: the operands are registers and masks of the kernel.
    unsafe {
        let op = &*p;
        let id = reg(r, op.a);
        let first = m.trailing_zeros() as usize;
        let kind = match op.x[3] {
            0 => BarrierKind::Sync,
            1 => BarrierKind::Arrive,
            2 => BarrierKind::Popc,
            3 => BarrierKind::And,
            _ => BarrierKind::Or,
        };
        let number = id[first];
        let count = if op.x[2] == 1 { reg(r, op.b)[first] } else { 0 };
        let differ =
            lanes(m, |lane| id[lane] != number || (op.x[2] == 1 && reg(r, op.b)[lane] != count));
        if number >= 16 || differ != 0 || !count.is_multiple_of(32) || (op.x[2] == 1 && count == 0)
        {
            let detail = format!("barrier {number} of {count} threads");
            w.fault(op, FaultKind::Barrier, if differ == 0 { m } else { differ }, detail);
            return p;
        }
        let input = match kind {
            BarrierKind::Sync | BarrierKind::Arrive => 0,
            _ => mask(r, op.c) ^ 0u32.wrapping_sub(u32::from(op.x[4])),
        };
        w.raise(Event::Barrier(Barrier {
            id: number as u8,
            count,
            kind,
            site: op.loc,
            input: input & m,
            dest: op.d,
        }));
        p.add(1)
    }
}

/// Writes the result of a barrier reduction for the lanes of `m`.
pub(crate) fn barrier_result(r: *mut Reg, barrier: &Barrier, m: u32, result: u32) {
    match barrier.kind {
        BarrierKind::Sync | BarrierKind::Arrive => {}
        BarrierKind::Popc => {
            // SAFETY: the destination is a register of the kernel.
            unsafe {
                crate::exec::op::put::<crate::exec::op::Base>(r, barrier.dest, m, &[result; 32])
            }
        }
        BarrierKind::And | BarrierKind::Or => {
            // SAFETY: the destination is a mask of the kernel.
            unsafe { put_mask(r, barrier.dest, m, result) }
        }
    }
}

/// The ops up to the next [`unguard`] run for the lanes of mask `a` (inverted if `b` is 1). With
/// none of them, the warp goes on at `jmp`, which is behind the `unguard`.
pub(crate) unsafe extern "C" fn guard(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    m: u32,
) -> *const Op {
    // SAFETY: `a` is a mask; `jmp` leads to an op of the same block.
    unsafe {
        let op = &*p;
        let k = m & (mask(r, op.a) ^ 0u32.wrapping_sub(u32::from(op.b)));
        if k == 0 {
            let n = p.offset(op.jmp as isize);
            return ((*n).handler)(r, n, w, m);
        }
        next(r, p, w, k)
    }
}

/// Ends a guard: all lanes of the fragment run again.
pub(crate) unsafe extern "C" fn unguard(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    _: u32,
) -> *const Op {
    let m = w.active;
    // SAFETY: a terminator follows at the latest.
    unsafe { next(r, p, w, m) }
}

/// Waits until the lanes of a membermask are together: register `a`, or all lanes if `b` is 1.
/// Stands before each `.sync` operation.
#[derive(Debug)]
pub(crate) struct Meet;

impl Exec for Meet {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if p.b == 1 && m == w.live {
            return true;
        }
        // SAFETY: `a` is a register of the kernel.
        unsafe { meet(r, p, w, m) }
    }
}

#[inline(never)]
unsafe fn meet(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
    // SAFETY: `a` is a register of the kernel.
    let members = unsafe { reg(r, p.a) };
    let absent = lanes(m, |lane| members[lane] >> lane & 1 == 0);
    if absent != 0 {
        let detail = "a lane runs the operation that its membermask leaves out".to_owned();
        return w.fault(p, FaultKind::WarpSync, absent, detail);
    }
    if lanes(m, |lane| members[lane] & w.live & !m != 0) != 0 {
        w.raise(Event::Sync);
        return false;
    }
    true
}
