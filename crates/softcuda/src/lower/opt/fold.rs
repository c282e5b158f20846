//! Copies, constants, and values that are there already.

use std::collections::HashMap;

use super::facts::{Facts, State, Versions};
use super::graph::Tree;
use crate::exec::handlers::control;
use crate::exec::op::{Op, Reg};
use crate::exec::warp::Warp;
use crate::lower::Code;
use crate::lower::emit::{A, Emit, Kind, M, Slot, V, VOp, Y};

/// What an op computes: equal keys give equal results.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    handler: usize,
    imm: u64,
    slots: [(u8, u32, u32); 16],
}

/// What to read instead of a variable.
#[derive(Default)]
struct Instead {
    values: HashMap<u32, V>,
    masks: HashMap<u32, M>,
}

pub(super) fn run(cx: &mut Emit, code: &mut [Code], tree: &Tree, facts: &Facts) {
    let versions = Versions::of(facts, code);
    let mut known: HashMap<Key, (usize, [Slot; 16])> = HashMap::new();
    let mut instead = Instead::default();
    let mut constants: HashMap<u32, u64> =
        cx.constants.iter().map(|((bits, _), v)| (v.id, *bits)).collect();
    for block in tree.order.iter().copied() {
        let mut state = versions.at(block);
        let mut ops = std::mem::take(&mut code[block].ops);
        for op in &mut ops {
            instead.apply(op);
            if param_load_is_fixed(cx, op, &constants) {
                op.pure = true;
            }
            if facts.is_free(op) {
                if let Some(bits) = copied_or_folded(cx, op, facts, &constants, &mut instead) {
                    constants.insert(bits.0.id, bits.1);
                }
                if !op.dropped {
                    repeat(op, block, tree, &mut known, &mut instead, &|slot| {
                        token(slot, facts, &versions, &state)
                    });
                }
            }
            if !op.dropped {
                state.pass(&versions, facts, op);
            }
        }
        ops.retain(|op| !op.dropped);
        code[block].ops = ops;
    }
}

impl Instead {
    fn apply(&self, op: &mut VOp) {
        for slot in &mut op.slots {
            match slot {
                Slot::Use(v) => {
                    if let Some(to) = self.values.get(&v.id) {
                        *slot = Slot::Use(to.part(v.part));
                    }
                }
                Slot::UseMask(m) => {
                    if let Some(to) = self.masks.get(&m.0) {
                        *slot = Slot::UseMask(*to);
                    }
                }
                _ => {}
            }
        }
    }
}

/// The key's form of an operand.
fn token(slot: &Slot, facts: &Facts, versions: &Versions, state: &State) -> (u8, u32, u32) {
    let version = |var: usize| {
        if facts.is_single(var) { 0 } else { 1 + state.of(versions, var).number() }
    };
    match slot {
        Slot::None => (0, 0, 0),
        Slot::Raw(n) => (1, u32::from(*n), 0),
        Slot::Def(_) => (2, 0, 0),
        Slot::DefMask(_) => (3, 0, 0),
        Slot::Use(v) => (4 + v.part, v.id, facts.used(slot).map_or(0, version)),
        Slot::UseMask(m) => (8, m.0, facts.used(slot).map_or(0, version)),
    }
}

/// Drops an op that repeats one which dominates it; else remembers it.
fn repeat(
    op: &mut VOp,
    block: usize,
    tree: &Tree,
    known: &mut HashMap<Key, (usize, [Slot; 16])>,
    instead: &mut Instead,
    token: &dyn Fn(&Slot) -> (u8, u32, u32),
) {
    let mut slots = [(0, 0, 0); 16];
    for (to, slot) in slots.iter_mut().zip(&op.slots) {
        *to = token(slot);
    }
    let key = Key { handler: op.handler as usize, imm: op.imm, slots };
    if let Some((home, results)) = known.get(&key)
        && tree.dominates(*home, block)
    {
        for (mine, theirs) in op.slots.iter().zip(results) {
            match (mine, theirs) {
                (Slot::Def(d), Slot::Def(v)) => {
                    instead.values.insert(d.id, *v);
                }
                (Slot::DefMask(d), Slot::DefMask(m)) => {
                    instead.masks.insert(d.0, *m);
                }
                _ => {}
            }
        }
        op.dropped = true;
        return;
    }
    known.insert(key, (block, op.slots));
}

/// Reads through a copy, or does an op on constants now: the op is then dropped. A new constant is
/// returned.
fn copied_or_folded(
    cx: &mut Emit,
    op: &mut VOp,
    facts: &Facts,
    constants: &HashMap<u32, u64>,
    instead: &mut Instead,
) -> Option<(V, u64)> {
    let Slot::Def(d) = op.slots[crate::lower::emit::D] else { return None };
    if op.kind == Kind::Copy
        && let Slot::Use(from) = op.slots[A]
    {
        if facts.is_single_value(from) {
            instead.values.insert(d.id, from);
            op.dropped = true;
        }
        return None;
    }
    let width = cx.widths[d.id as usize];
    let bits = evaluate(cx, op, constants, width)?;
    let v = if width == 2 { cx.const64(bits) } else { cx.const32(bits as u32) };
    instead.values.insert(d.id, v);
    op.dropped = true;
    Some((v, bits))
}

/// The result of an op whose operands are constants.
fn evaluate(cx: &Emit, op: &VOp, constants: &HashMap<u32, u64>, width: u8) -> Option<u64> {
    let mut regs = [Reg([0; 32]); 34];
    let mut places = [0u16; 16];
    let (mut next, mut reads, mut results) = (2, 0, 0);
    for (place, slot) in places.iter_mut().zip(&op.slots) {
        match slot {
            Slot::None => {}
            Slot::Raw(n) => *place = *n,
            Slot::Use(v) => {
                let bits = constants.get(&v.id)?;
                regs[next].0 = [*bits as u32; 32];
                regs[next + 1].0 = [(*bits >> 32) as u32; 32];
                *place = next as u16 + u16::from(v.part);
                next += 2;
                reads += 1;
            }
            // Registers 0 and 1.
            Slot::Def(_) => results += 1,
            Slot::UseMask(_) | Slot::DefMask(_) => return None,
        }
    }
    if reads == 0 || results != 1 || cx.widths.is_empty() {
        return None;
    }
    let mut x = [0; 8];
    x.copy_from_slice(&places[4..12]);
    let mut imm = op.imm;
    for k in 0..4 {
        if op.slots[Y + k] != Slot::None {
            imm |= u64::from(places[Y + k]) << (16 * k);
        }
    }
    let [d, a, b, c] = [places[0], places[1], places[2], places[3]];
    let this = Op { handler: op.handler, d, a, b, c, x, imm, jmp: 0, loc: 0 };
    let stop =
        Op { handler: control::jump, d: 0, a: 0, b: 0, c: 0, x: [0; 8], imm: 0, jmp: 0, loc: 0 };
    let ops = [this, stop];
    let mut warp = Warp::scratch(regs.as_mut_ptr());
    // SAFETY: a pure op reads and writes the registers of its operands alone, which are those of
    // `regs`; a jump ends the chain; ops of a level are made where the processor has it.
    unsafe { (this.handler)(regs.as_mut_ptr(), ops.as_ptr(), &mut warp, !0) };
    let same = |r: &Reg| r.0.iter().all(|lane| *lane == r.0[0]);
    if !same(&regs[0]) || !same(&regs[1]) {
        return None;
    }
    let high = if width == 2 { regs[1].0[0] } else { 0 };
    Some(u64::from(regs[0].0[0]) | u64::from(high) << 32)
}

/// Whether a load by register from the kernel's parameters has a constant address that is right.
fn param_load_is_fixed(cx: &Emit, op: &VOp, constants: &HashMap<u32, u64>) -> bool {
    let (Kind::ParamLoad(bytes), Slot::Use(base)) = (op.kind, op.slots[A]) else { return false };
    let Some(base_bits) = constants.get(&base.id) else { return false };
    let start = if cx.widths[base.id as usize] == 2 {
        base_bits.wrapping_add(op.imm)
    } else {
        u64::from((*base_bits as u32).wrapping_add(op.imm as u32))
    };
    let bytes = u64::from(bytes);
    start % bytes == 0 && start.checked_add(bytes).is_some_and(|e| e <= u64::from(cx.params_size))
}
