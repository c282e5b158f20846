//! Ops that do the work of several.

use std::collections::HashMap;

use crate::exec::handlers::{mma, rows};
use crate::lower::Code;
use crate::lower::emit::{A, Emit, Kind, Slot, V};

/// Bytes that the loads of a group may span.
const SPAN: i64 = 512;

/// Groups the loads of a block that read from the same register, so that one looks at the
/// addresses for all.
pub(super) fn run(cx: &Emit, code: &mut [Code]) {
    let mut number: u16 = 0;
    for block in code {
        mma::collect(&mut block.ops);
        mma::chain(&mut block.ops);
        let mut open: HashMap<V, Vec<usize>> = HashMap::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for (at, op) in block.ops.iter().enumerate() {
            if op.kind == Kind::LoadWord
                && !op.guarded
                && let Slot::Use(base) = op.slots[A]
            {
                let group = open.entry(base).or_default();
                let near = |i: &usize| {
                    (block.ops[*i].imm as i64).abs_diff(op.imm as i64) + 16 <= SPAN as u64
                };
                if !group.iter().all(near) {
                    groups.push(std::mem::take(group));
                }
                group.push(at);
            }
            for slot in &op.slots {
                if let Slot::Def(v) = slot {
                    // A load may write the register that it reads from.
                    groups.extend((0..4).filter_map(|part| open.remove(&V { id: v.id, part })));
                }
            }
        }
        let mut rest: Vec<_> = open.into_values().collect();
        rest.sort_unstable();
        groups.extend(rest);
        for group in groups.into_iter().filter(|g| g.len() > 1) {
            let Some(next) = number.checked_add(1) else { return };
            number = next;
            let mut members = group.into_iter().peekable();
            let mut loads = Vec::new();
            for (at, op) in block.ops.iter_mut().enumerate() {
                if members.next_if_eq(&at).is_some() {
                    loads.push(op);
                }
            }
            rows::group_loads(cx.level, &mut loads, number);
        }
    }
}
