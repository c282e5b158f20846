//! Drops pure ops whose results nobody reads.

use crate::lower::Code;
use crate::lower::emit::{Emit, Slot};

pub(super) fn run(cx: &Emit, code: &mut [Code]) {
    let values = cx.widths.len();
    let mut readers = vec![0u32; values + cx.mask_count as usize];
    let read = |slot: &Slot| match slot {
        Slot::Use(v) => Some(v.id as usize),
        Slot::UseMask(m) => Some(values + m.0 as usize),
        _ => None,
    };
    let written = |slot: &Slot| match slot {
        Slot::Def(v) => Some(v.id as usize),
        Slot::DefMask(m) => Some(values + m.0 as usize),
        _ => None,
    };
    for var in code.iter().flat_map(|b| &b.ops).flat_map(|op| &op.slots).filter_map(read) {
        readers[var] += 1;
    }
    let mut changed = true;
    while changed {
        changed = false;
        for block in code.iter_mut().rev() {
            // From the back: the readers of a value are mostly behind it.
            for op in block.ops.iter_mut().rev().filter(|op| op.pure) {
                if op.slots.iter().filter_map(written).any(|var| readers[var] != 0) {
                    continue;
                }
                for var in op.slots.iter().filter_map(read) {
                    readers[var] -= 1;
                }
                op.pure = false;
                op.dropped = true;
                changed = true;
            }
        }
    }
    for block in code {
        block.ops.retain(|op| !op.dropped);
    }
}
