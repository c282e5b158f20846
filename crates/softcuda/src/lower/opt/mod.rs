//! The optimiser: fewer ops for the same results.
//!
//! It works on ops whose operands are values. A value with one definition that comes before all of
//! its uses is taken as in SSA form; nvcc writes nearly all so. Other values (loop counters, sums) keep their
//! places and are told apart by versions. Only pure ops (`Exec::PURE`) without a guard are touched:
//!
//! 1. [`fold`]: copies are read through, ops on constants are done now, and an op that repeats one
//!    that dominates it is dropped.
//! 2. [`dead`]: ops without a reader go.
//! 3. [`motion`]: what is the same for all blocks of a launch goes to the preamble, which a worker
//!    runs once for each warp and launch; what a loop does not change goes in front of it.
//! 4. [`select`]: loads that go by the same register share the look at its addresses.
//!
//! Lanes do not depend on each other in a pure op, so all reasoning is that of one lane's path, with
//! the warp's registers written under a mask: where fragments of a warp are does not matter.

mod dead;
mod facts;
mod fold;
mod graph;
mod motion;
mod select;

use super::Code;
use super::emit::{Emit, VOp};
use facts::Facts;
use graph::Tree;

/// Optimises the blocks of a kernel. Returns the preamble: ops that run before any block, whose
/// results hold for a launch.
pub(crate) fn run(cx: &mut Emit, code: &mut [Code]) -> Vec<VOp> {
    let tree = Tree::of(code);
    let facts = Facts::of(cx, code, &tree);
    fold::run(cx, code, &tree, &facts);
    dead::run(cx, code);
    // Folding may have made uses of the other kind: facts are cheap.
    let facts = Facts::of(cx, code, &tree);
    let preamble = motion::run(code, &tree, &facts);
    select::run(cx, code);
    preamble
}
