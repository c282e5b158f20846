//! Liveness, linear scan, and the final array of ops.
//!
//! A value keeps its registers from its first to its last use in layout order, loops included.
//! Lanes are independent, so it does not matter that fragments of a warp run different paths: a
//! register is free for the lanes that take a path on which its value is dead.

use super::emit::{Emit, Mark, Slot, VOp};
use super::{Code, clear_ops};
use crate::exec::handlers::control;
use crate::exec::op::Op;
use crate::fault::LoadError;

/// Registers of a kernel at most.
const LIMIT: u32 = 4096;
/// The code of the error of a kernel that needs more.
pub(crate) const TOO_MANY: u32 = 701;
/// Ops of a chain of calls at most.
const CHAIN: usize = 256;

/// Physical code.
pub(crate) struct Assigned {
    pub preamble: Vec<Op>,
    pub ops: Vec<Op>,
    pub regs: u32,
    pub masks: u32,
    pub constants: Vec<(u16, u32)>,
}

/// A set of values and predicates: predicates come after values.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Set(Vec<u64>);

impl Set {
    fn new(count: usize) -> Self {
        Set(vec![0; count.div_ceil(64)])
    }
    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }
    pub(crate) fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 != 0
    }
    pub(crate) fn each(&self, mut f: impl FnMut(usize)) {
        for (w, bits) in self.0.iter().enumerate() {
            let mut left = *bits;
            while left != 0 {
                f(w * 64 + left.trailing_zeros() as usize);
                left &= left - 1;
            }
        }
    }
}

struct Live {
    values: usize,
    /// Variables that keep a place of their own: constants, results of the preamble.
    fixed: Vec<bool>,
}

impl Live {
    /// Calls `use_` and `def` for the variables of an op.
    fn visit(&self, op: &VOp, mut use_: impl FnMut(usize), mut def: impl FnMut(usize)) {
        for slot in &op.slots {
            match slot {
                Slot::Use(v) if !self.fixed[v.id as usize] => use_(v.id as usize),
                Slot::UseMask(m) if !self.fixed[self.values + m.0 as usize] => {
                    use_(self.values + m.0 as usize);
                }
                Slot::Def(v) => def(v.id as usize),
                Slot::DefMask(m) => def(self.values + m.0 as usize),
                _ => {}
            }
        }
    }
}

/// Variables that are read before they are written on some path: values, then predicates.
pub(crate) fn read_first(cx: &Emit, code: &[Code], preamble: &[VOp]) -> Set {
    let values = cx.widths.len();
    let total = values + cx.mask_count as usize;
    let live = Live { values, fixed: fixed(cx, preamble) };
    live_in(&live, total, code).swap_remove(0)
}

/// Which variables are constants or results of the preamble.
fn fixed(cx: &Emit, preamble: &[VOp]) -> Vec<bool> {
    let values = cx.widths.len();
    let mut fixed = vec![false; values + cx.mask_count as usize];
    for id in cx.constant_values() {
        fixed[id as usize] = true;
    }
    for slot in preamble.iter().flat_map(|op| &op.slots) {
        match slot {
            Slot::Def(v) => fixed[v.id as usize] = true,
            Slot::DefMask(m) => fixed[values + m.0 as usize] = true,
            _ => {}
        }
    }
    fixed
}

/// Live variables at the start of each block.
fn live_in(live: &Live, total: usize, code: &[Code]) -> Vec<Set> {
    let mut uses = Vec::with_capacity(code.len());
    let mut kills = Vec::with_capacity(code.len());
    for block in code {
        let (mut used, mut killed) = (Set::new(total), Set::new(total));
        for op in &block.ops {
            live.visit(
                op,
                |i| {
                    if !killed.has(i) {
                        used.insert(i);
                    }
                },
                |_| {},
            );
            if !op.guarded {
                live.visit(op, |_| {}, |i| killed.insert(i));
            }
        }
        uses.push(used);
        kills.push(killed);
    }
    let mut ins: Vec<Set> = uses.clone();
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..code.len()).rev() {
            let mut out = Set::new(total);
            for s in &code[b].next {
                for (o, i) in out.0.iter_mut().zip(&ins[*s].0) {
                    *o |= i;
                }
            }
            let (i, u, k) = (&mut ins[b], &uses[b], &kills[b]);
            for w in 0..out.0.len() {
                let new = u.0[w] | (out.0[w] & !k.0[w]);
                changed |= new != i.0[w];
                i.0[w] = new;
            }
        }
    }
    ins
}

/// First and last position of each variable; `None` for one that does not occur.
fn intervals(live: &Live, total: usize, code: &[Code], ins: &[Set]) -> Vec<Option<(u32, u32)>> {
    let mut spans: Vec<Option<(u32, u32)>> = vec![None; total];
    let mut grow = |i: usize, at: u32| {
        let span = spans[i].get_or_insert((at, at));
        span.0 = span.0.min(at);
        span.1 = span.1.max(at);
    };
    let mut position = 2;
    for (b, block) in code.iter().enumerate() {
        let start = position;
        // The prologue stands before position 2.
        ins[b].each(|i| grow(i, if b == 0 { 0 } else { start }));
        for op in &block.ops {
            let def_at = if op.early { position } else { position + 1 };
            live.visit(op, |i| grow(i, position), |_| {});
            live.visit(op, |_| {}, |i| grow(i, def_at));
            position += 2;
        }
        for s in &block.next {
            ins[*s].each(|i| grow(i, position));
        }
        position += 2;
    }
    spans
}

/// Free places of a file of registers.
#[derive(Default)]
struct File {
    used: Vec<bool>,
    /// Everything below is used.
    first: usize,
}

impl File {
    fn take(&mut self, width: usize) -> usize {
        let mut at = self.first;
        loop {
            let run = (0..width).take_while(|k| !self.used.get(at + k).copied().unwrap_or(false));
            let run = run.count();
            if run == width {
                break;
            }
            at += run + 1;
        }
        if self.used.len() < at + width {
            self.used.resize(at + width, false);
        }
        for k in 0..width {
            self.used[at + k] = true;
        }
        while self.used.get(self.first).copied().unwrap_or(false) {
            self.first += 1;
        }
        at
    }

    fn free(&mut self, at: usize, width: usize) {
        for k in 0..width {
            self.used[at + k] = false;
        }
        self.first = self.first.min(at);
    }
}

/// Places of variables by linear scan.
fn scan(cx: &Emit, values: usize, spans: &[Option<(u32, u32)>]) -> (Vec<u16>, File, File) {
    use std::cmp::Reverse;
    use std::collections::BinaryHeap;
    let mut order: Vec<(u32, u32, usize)> =
        spans.iter().enumerate().filter_map(|(i, s)| s.map(|(a, b)| (a, b, i))).collect();
    order.sort_unstable();
    let (mut regs, mut masks) = (File::default(), File::default());
    let mut place = vec![0u16; spans.len()];
    let mut ends: BinaryHeap<Reverse<(u32, usize, usize)>> = BinaryHeap::new();
    for (start, end, i) in order {
        while let Some(Reverse((e, j, at))) = ends.peek().copied() {
            if e >= start {
                break;
            }
            ends.pop();
            if j < values {
                regs.free(at, usize::from(cx.widths[j]));
            } else {
                masks.free(at, 1);
            }
        }
        let at = if i < values { regs.take(usize::from(cx.widths[i])) } else { masks.take(1) };
        place[i] = at.min(usize::from(u16::MAX)) as u16;
        ends.push(Reverse((end, i, at)));
    }
    (place, regs, masks)
}

/// Places of what the code reads and never writes: constants and results of the preamble. They lie
/// behind the registers that the scan gave out; what the preamble alone reads lies among them.
struct Fixed {
    regs: u32,
    masks: u32,
    constants: Vec<(u16, u32)>,
}

fn place_fixed(
    cx: &Emit,
    (code, preamble): (&[Code], &[VOp]),
    place: &mut [u16],
    (regs, masks): (u32, u32),
) -> Result<Fixed, LoadError> {
    let values = cx.widths.len();
    let mut read = vec![false; place.len()];
    let mut needed = vec![false; place.len()];
    let variable = |slot: &Slot| match slot {
        Slot::Use(v) => Some(v.id as usize),
        Slot::UseMask(m) => Some(values + m.0 as usize),
        _ => None,
    };
    for var in code.iter().flat_map(|b| &b.ops).flat_map(|op| &op.slots).filter_map(variable) {
        read[var] = true;
        needed[var] = true;
    }
    for var in preamble.iter().flat_map(|op| &op.slots).filter_map(variable) {
        needed[var] = true;
    }
    // (registers, masks) behind the scan's, and below for what lives in the preamble alone.
    let (mut next, mut next_mask) = (regs, masks);
    let (mut low, mut low_mask) = (0, 0);
    let too_many = || LoadError {
        code: TOO_MANY,
        function: cx.kernel.clone(),
        line: 0,
        message: format!("the kernel needs more than {LIMIT} registers of a warp"),
    };
    let take = |counter: &mut u32, width: u32| {
        let at = *counter;
        *counter += width;
        if *counter < LIMIT { Ok(at as u16) } else { Err(too_many()) }
    };
    let mut constants = Vec::new();
    let mut sorted: Vec<_> = cx.constants.iter().collect();
    sorted.sort_unstable();
    for ((bits, width), v) in sorted {
        if !needed[v.id as usize] {
            continue;
        }
        let at = take(&mut next, u32::from(*width))?;
        place[v.id as usize] = at;
        for part in 0..u16::from(*width) {
            constants.push((at + part, (bits >> (32 * part)) as u32));
        }
    }
    for slot in preamble.iter().flat_map(|op| &op.slots) {
        match slot {
            Slot::Def(v) => {
                let var = v.id as usize;
                let counter = if read[var] { &mut next } else { &mut low };
                place[var] = take(counter, u32::from(cx.widths[var]))?;
            }
            Slot::DefMask(m) => {
                let var = values + m.0 as usize;
                let counter = if read[var] { &mut next_mask } else { &mut low_mask };
                place[var] = take(counter, 1)?;
            }
            _ => {}
        }
    }
    if low > regs || low_mask > masks {
        // Nothing else lies there: the places behind all others.
        for slot in preamble.iter().flat_map(|op| &op.slots) {
            match slot {
                Slot::Def(v) if !read[v.id as usize] => place[v.id as usize] += next as u16,
                Slot::DefMask(m) if !read[values + m.0 as usize] => {
                    place[values + m.0 as usize] += next_mask as u16;
                }
                _ => {}
            }
        }
        take(&mut next, low)?;
        take(&mut next_mask, low_mask)?;
    }
    Ok(Fixed { regs: next, masks: next_mask, constants })
}

/// Assigns registers and writes the ops.
pub(crate) fn assign(cx: &Emit, code: Vec<Code>, preamble: &[VOp]) -> Result<Assigned, LoadError> {
    let values = cx.widths.len();
    let total = values + cx.mask_count as usize;
    let live = Live { values, fixed: fixed(cx, preamble) };
    let ins = live_in(&live, total, &code);
    let spans = intervals(&live, total, &code, &ins);
    let (mut place, regs, masks) = scan(cx, values, &spans);
    let used = (regs.used.len() as u32, masks.used.len() as u32);
    let fixed = place_fixed(cx, (&code, preamble), &mut place, used)?;
    let (mut first_values, mut first_masks) = (Vec::new(), Vec::new());
    if let Some(entry) = ins.first() {
        entry.each(|i| {
            if i < values {
                first_values.push(i as u32);
            } else {
                first_masks.push((i - values) as u32);
            }
        });
    }
    let mut writer =
        Writer { place, values, ops: Vec::new(), starts: Vec::new(), jumps: Vec::new() };
    if !preamble.is_empty() {
        writer.block(preamble);
        writer.op(&VOp::new(control::jump));
    }
    let preamble = std::mem::take(&mut writer.ops);
    let prologue = clear_ops(cx, &first_values, &first_masks);
    if !prologue.is_empty() {
        writer.block(&prologue);
        let mut jump = VOp::new(control::jump);
        jump.target = Some(0);
        writer.op(&jump);
    }
    for block in &code {
        writer.starts.push(writer.ops.len());
        writer.block(&block.ops);
    }
    writer.finish();
    Ok(Assigned {
        preamble,
        ops: writer.ops, // Unused operands are read as registers 0 and 1.
        regs: fixed.regs.max(2),
        masks: fixed.masks,
        constants: fixed.constants,
    })
}

struct Writer {
    place: Vec<u16>,
    values: usize,
    ops: Vec<Op>,
    starts: Vec<usize>,
    /// (op, block of `jmp`, block of the rest)
    jumps: Vec<(usize, Option<u32>, Option<u32>)>,
}

impl Writer {
    /// Writes the ops of a block: links guards to their ends, cuts long chains.
    fn block(&mut self, ops: &[VOp]) {
        let mut chain = 0;
        let mut guard: Option<usize> = None;
        for op in ops {
            if op.mark == Mark::Guard {
                guard = Some(self.ops.len());
            }
            self.op(op);
            if op.mark == Mark::Unguard
                && let Some(at) = guard.take()
            {
                self.ops[at].jmp = (self.ops.len() - at) as i32;
            }
            chain += 1;
            if chain >= CHAIN && guard.is_none() {
                chain = 0;
                let mut jump = VOp::new(control::jump);
                jump.site = op.site;
                self.op(&jump);
                if let Some(op) = self.ops.last_mut() {
                    op.jmp = 1;
                }
            }
        }
    }

    fn op(&mut self, v: &VOp) {
        let index = |slot: &Slot| match slot {
            Slot::None => 0,
            Slot::Raw(n) => *n,
            Slot::Use(v) | Slot::Def(v) => self.place[v.id as usize] + u16::from(v.part),
            Slot::UseMask(m) | Slot::DefMask(m) => self.place[self.values + m.0 as usize],
        };
        let n: Vec<u16> = v.slots.iter().map(index).collect();
        let mut imm = v.imm;
        for k in 0..4 {
            if v.slots[super::emit::Y + k] != Slot::None {
                imm |= u64::from(n[super::emit::Y + k]) << (16 * k);
            }
        }
        let mut x = [0; 8];
        x.copy_from_slice(&n[4..12]);
        if v.target.is_some() || v.rest.is_some() {
            self.jumps.push((self.ops.len(), v.target, v.rest));
        }
        let [d, a, b, c] = [n[0], n[1], n[2], n[3]];
        self.ops.push(Op { handler: v.handler, d, a, b, c, x, imm, jmp: 0, loc: v.site });
    }

    fn finish(&mut self) {
        for (at, target, rest) in std::mem::take(&mut self.jumps) {
            let distance = |block: u32| self.starts[block as usize] as i32 - at as i32;
            let (jmp, other) = (target.map(distance), rest.map(distance));
            let op = &mut self.ops[at];
            if let Some(jmp) = jmp {
                op.jmp = jmp;
            }
            if let Some(other) = other {
                control::set_rest(op, other);
            }
        }
    }
}
