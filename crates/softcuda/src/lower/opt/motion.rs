//! Where pure ops run: in the preamble, in front of a loop, or where they stand.

use super::facts::{Facts, State, Var, Version, Versions};
use super::graph::Tree;
use crate::lower::Code;
use crate::lower::emit::VOp;

/// Moves ops; returns those of the preamble, in order.
pub(super) fn run(code: &mut [Code], tree: &Tree, facts: &Facts) -> Vec<VOp> {
    let versions = Versions::of(facts, code);
    let mut motion = Motion {
        tree,
        facts,
        versions: &versions,
        fixed: facts.constant.clone(),
        home: facts.home.clone(),
    };
    let mut preamble = Vec::new();
    let mut moved: Vec<Vec<VOp>> = vec![Vec::new(); code.len()];
    for block in tree.order.iter().copied() {
        let mut state = versions.at(block);
        let ops = std::mem::take(&mut code[block].ops);
        let mut kept = Vec::with_capacity(ops.len());
        for op in ops {
            state.pass(&versions, facts, &op);
            if !facts.is_free(&op) {
                kept.push(op);
            } else if motion.is_fixed(&op) {
                for (var, _) in op.slots.iter().filter_map(|s| facts.defined(s)) {
                    motion.fixed[var] = true;
                }
                preamble.push(op);
            } else {
                match motion.better_place(&op, block, &state) {
                    Some(place) => {
                        for (var, _) in op.slots.iter().filter_map(|s| facts.defined(s)) {
                            motion.home[var] = place;
                        }
                        moved[place].push(op);
                    }
                    None => kept.push(op),
                }
            }
        }
        code[block].ops = kept;
    }
    for (block, moved) in code.iter_mut().zip(moved) {
        let end = block.ops.iter().rposition(|op| !op.ends).map_or(0, |last| last + 1);
        block.ops.splice(end..end, moved);
    }
    preamble
}

struct Motion<'a> {
    tree: &'a Tree,
    facts: &'a Facts,
    versions: &'a Versions,
    /// The same for all blocks of a launch.
    fixed: Vec<bool>,
    /// Block of the definition, where it is now.
    home: Vec<usize>,
}

impl Motion<'_> {
    fn is_fixed(&self, op: &VOp) -> bool {
        !op.per_block
            && op.slots.iter().filter_map(|s| self.facts.used(s)).all(|var| self.fixed[var])
    }

    /// A dominating block in fewer loops at whose end the op may run, the nearest of those in the
    /// fewest.
    fn better_place(&self, op: &VOp, block: usize, state: &State) -> Option<usize> {
        if self.tree.depth[block] == 0 {
            return None;
        }
        // The operands' definitions lie on the way to the entry; the op cannot go above the lowest.
        let mut highest = 0;
        let mut changing: Vec<(Var, Version)> = Vec::new();
        for var in op.slots.iter().filter_map(|s| self.facts.used(s)) {
            let home = if self.fixed[var] {
                0
            } else if self.facts.is_single(var) {
                self.home[var]
            } else {
                let version = state.of(self.versions, var);
                changing.push((var, version));
                self.versions.home(version)
            };
            if self.tree.dominates(highest, home) {
                highest = home;
            }
        }
        let fits = |place: usize| {
            changing.iter().all(|(var, version)| self.versions.at_end(place, *var) == *version)
        };
        let mut best = None;
        let mut least = self.tree.depth[block];
        let mut place = block;
        while place != highest {
            place = self.tree.parent(place);
            if self.tree.depth[place] < least && fits(place) {
                least = self.tree.depth[place];
                best = Some(place);
            }
        }
        best
    }
}
