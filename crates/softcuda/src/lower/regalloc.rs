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
/// Ops of a chain of calls at most.
const CHAIN: usize = 256;

/// Physical code.
pub(crate) struct Assigned {
    pub ops: Vec<Op>,
    pub regs: u32,
    pub masks: u32,
    pub constants: Vec<(u16, u32)>,
}

/// A set of values and predicates: predicates come after values.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(count: usize) -> Self {
        Set(vec![0; count.div_ceil(64)])
    }
    fn insert(&mut self, i: usize) {
        self.0[i / 64] |= 1 << (i % 64);
    }
    fn has(&self, i: usize) -> bool {
        self.0[i / 64] >> (i % 64) & 1 != 0
    }
    fn each(&self, mut f: impl FnMut(usize)) {
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
    constant: Vec<bool>,
}

impl Live {
    /// Calls `use_` and `def` for the variables of an op.
    fn visit(&self, op: &VOp, mut use_: impl FnMut(usize), mut def: impl FnMut(usize)) {
        for slot in &op.slots {
            match slot {
                Slot::Use(v) if !self.constant[v.id as usize] => use_(v.id as usize),
                Slot::UseMask(m) => use_(self.values + m.0 as usize),
                Slot::Def(v) => def(v.id as usize),
                Slot::DefMask(m) => def(self.values + m.0 as usize),
                _ => {}
            }
        }
    }
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

/// Assigns registers and writes the ops.
pub(crate) fn assign(cx: &Emit, code: Vec<Code>) -> Result<Assigned, LoadError> {
    let values = cx.widths.len();
    let total = values + cx.mask_count as usize;
    let mut constant = vec![false; values];
    // Constants in a fixed order.
    let mut sorted: Vec<_> = cx.constants.iter().collect();
    sorted.sort_unstable();
    for (_, v) in &sorted {
        constant[v.id as usize] = true;
    }
    let live = Live { values, constant };
    let ins = live_in(&live, total, &code);
    let spans = intervals(&live, total, &code, &ins);
    let (mut place, regs, masks) = scan(cx, values, &spans);
    // Constants come after the rest.
    let mut constants = Vec::new();
    let mut next = regs.used.len() as u32;
    for ((bits, width), v) in sorted {
        if next + u32::from(*width) > LIMIT {
            break;
        }
        place[v.id as usize] = next as u16;
        for part in 0..u32::from(*width) {
            constants.push(((next + part) as u16, (bits >> (32 * part)) as u32));
        }
        next += u32::from(*width);
    }
    if next >= LIMIT || masks.used.len() as u32 >= LIMIT {
        return Err(LoadError {
            code: 701,
            function: cx.kernel.clone(),
            line: 0,
            message: format!("the kernel needs more than {LIMIT} registers of a warp"),
        });
    }
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
        ops: writer.ops, // Unused operands are read as registers 0 and 1.
        regs: next.max(2),
        masks: masks.used.len() as u32,
        constants,
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
