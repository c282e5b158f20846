//! Checks what the optimiser made, in every build: an error here is a fault of ours, not of the text.

use super::Code;
use super::emit::{Emit, Slot, VOp};
use super::regalloc::{self, Set};
use crate::fault::LoadError;

/// Variables that are read before they are written on some path, and the number of values then.
pub(crate) struct Open(Set, usize);

/// Finds them.
pub(crate) fn read_first(cx: &Emit, code: &[Code]) -> Open {
    Open(regalloc::read_first(cx, code, &[]), cx.widths.len())
}

/// Whether each operand is a register of its value, whether the preamble reads nothing but constants
/// and its own results, which no other op writes, and whether nothing is read before it is written that was not so
/// in the text (`open`): moved and merged ops come before their readers on every path.
pub(crate) fn check(
    cx: &Emit,
    code: &[Code],
    preamble: &[VOp],
    Open(open, old_values): &Open,
) -> Result<(), LoadError> {
    let error = |what: &str| LoadError {
        code: 999,
        function: cx.kernel.clone(),
        line: 0,
        message: format!("the optimiser is wrong: {what}"),
    };
    for slot in code.iter().flat_map(|b| &b.ops).chain(preamble).flat_map(|op| &op.slots) {
        if let Slot::Use(v) | Slot::Def(v) = slot
            && cx.widths.get(v.id as usize).is_none_or(|width| v.part >= *width)
        {
            return Err(error(&format!("value {} has no register {}", v.id, v.part)));
        }
    }
    let values = cx.widths.len();
    let mut made = vec![false; values + cx.mask_count as usize];
    for id in cx.constant_values() {
        made[id as usize] = true;
    }
    for op in preamble {
        for slot in &op.slots {
            let read = match slot {
                Slot::Use(v) => v.id as usize,
                Slot::UseMask(m) => values + m.0 as usize,
                _ => continue,
            };
            if !made[read] {
                return Err(error(&format!("the preamble reads variable {read} too early")));
            }
        }
        for slot in &op.slots {
            match slot {
                Slot::Def(v) => made[v.id as usize] = true,
                Slot::DefMask(m) => made[values + m.0 as usize] = true,
                _ => {}
            }
        }
    }
    for slot in code.iter().flat_map(|b| &b.ops).flat_map(|op| &op.slots) {
        let written = match slot {
            Slot::Def(v) => v.id as usize,
            Slot::DefMask(m) => values + m.0 as usize,
            _ => continue,
        };
        if made[written] {
            return Err(error(&format!("variable {written} is fixed and written")));
        }
    }
    // New constants stand between the values and the predicates of the first count.
    let mut wrong = None;
    regalloc::read_first(cx, code, preamble).each(|var| {
        let before = if var < values { var } else { var - values + old_values };
        if var < values && var >= *old_values || !open.has(before) {
            wrong = Some(var);
        }
    });
    match wrong {
        Some(var) => Err(error(&format!("variable {var} is read before it is written"))),
        None => Ok(()),
    }
}
