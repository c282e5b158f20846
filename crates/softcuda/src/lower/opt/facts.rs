//! Which values are in SSA form, and versions of those that are not.

use super::graph::Tree;
use crate::lower::Code;
use crate::lower::emit::{Emit, Slot, V, VOp};

/// A predicate or value by number: values come after predicates, since folding makes new ones.
pub(super) type Var = usize;

/// What is known of each variable.
pub(super) struct Facts {
    masks: usize,
    /// Constant, or with one definition without a guard that dominates all uses.
    single: Vec<bool>,
    /// Block of the definition of a single one that is not constant.
    pub home: Vec<usize>,
    /// Holds the same bits in every lane, always.
    pub constant: Vec<bool>,
}

impl Facts {
    pub(super) fn of(cx: &Emit, code: &[Code], tree: &Tree) -> Self {
        let masks = cx.mask_count as usize;
        let total = masks + cx.widths.len();
        let mut constant = vec![false; total];
        for id in cx.constant_values() {
            constant[masks + id as usize] = true;
        }
        let mut facts =
            Facts { masks, single: constant.clone(), home: vec![usize::MAX; total], constant };
        let mut count = vec![0u32; total];
        let mut place = vec![(0, 0); total];
        for (b, block) in code.iter().enumerate() {
            for (i, op) in block.ops.iter().enumerate() {
                for slot in &op.slots {
                    let Some((var, part)) = facts.defined(slot) else { continue };
                    let odd =
                        op.guarded || part != 0 || (var >= masks && cx.widths[var - masks] > 2);
                    count[var] += if odd { 2 } else { 1 };
                    place[var] = (b, i);
                    facts.home[var] = b;
                }
            }
        }
        for var in 0..total {
            facts.single[var] |= count[var] == 1;
        }
        for (b, block) in code.iter().enumerate() {
            for (i, op) in block.ops.iter().enumerate() {
                for slot in &op.slots {
                    let Some(var) = facts.used(slot).filter(|v| !facts.constant[*v]) else {
                        continue;
                    };
                    let (home, at) = place[var];
                    let after = if home == b { at < i } else { tree.dominates(home, b) };
                    facts.single[var] &= after;
                }
            }
        }
        facts
    }

    /// The variable that a slot reads.
    pub(super) fn used(&self, slot: &Slot) -> Option<Var> {
        match slot {
            Slot::Use(v) => Some(self.masks + v.id as usize),
            Slot::UseMask(m) => Some(m.0 as usize),
            _ => None,
        }
    }

    /// The variable that a slot writes, and from which register of it on.
    pub(super) fn defined(&self, slot: &Slot) -> Option<(Var, u8)> {
        match slot {
            Slot::Def(v) => Some((self.masks + v.id as usize, v.part)),
            Slot::DefMask(m) => Some((m.0 as usize, 0)),
            _ => None,
        }
    }

    /// Whether a variable is constant or has one definition, which dominates its uses. Those that
    /// came after the facts are constants.
    pub(super) fn is_single(&self, var: Var) -> bool {
        self.single.get(var).is_none_or(|single| *single)
    }

    /// As [`Facts::is_single`] of a value.
    pub(super) fn is_single_value(&self, v: V) -> bool {
        self.is_single(self.masks + v.id as usize)
    }

    /// Whether an op may be moved, merged or dropped.
    pub(super) fn is_free(&self, op: &VOp) -> bool {
        op.pure
            && !op.guarded
            && op.slots.iter().filter_map(|s| self.defined(s)).all(|(var, _)| self.is_single(var))
    }
}

/// A definition of a variable that is not single, or a place where definitions meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Version(u32);

impl Version {
    const UNKNOWN: Self = Version(u32::MAX);
    /// Before any definition.
    const FIRST: Self = Version(0);

    fn met(block: usize) -> Self {
        Version(1 + 2 * block as u32)
    }

    fn made(number: u32) -> Self {
        Version(2 + 2 * number)
    }

    /// For a key.
    pub(super) fn number(self) -> u32 {
        self.0
    }
}

/// Versions of the variables that are not single.
pub(super) struct Versions {
    /// Index of each variable among them; `u32::MAX` for others.
    index: Vec<u32>,
    entry: Vec<Vec<Version>>,
    exit: Vec<Vec<Version>>,
    /// Definitions before each block.
    made: Vec<u32>,
    /// Block of each definition.
    homes: Vec<usize>,
}

impl Versions {
    pub(super) fn of(facts: &Facts, code: &[Code]) -> Self {
        let mut count = 0;
        let mut index = vec![u32::MAX; facts.single.len()];
        let mut homes = Vec::new();
        let mut made = Vec::with_capacity(code.len());
        for (b, block) in code.iter().enumerate() {
            made.push(homes.len() as u32);
            for slot in block.ops.iter().flat_map(|op| &op.slots) {
                let Some((var, _)) = facts.defined(slot).filter(|(v, _)| !facts.is_single(*v))
                else {
                    continue;
                };
                homes.push(b);
                if index[var] == u32::MAX {
                    index[var] = count;
                    count += 1;
                }
            }
        }
        let unknown = vec![Version::UNKNOWN; count as usize];
        let mut versions = Versions {
            index,
            entry: vec![unknown.clone(); code.len()],
            exit: vec![unknown; code.len()],
            made,
            homes,
        };
        versions.entry[0].fill(Version::FIRST);
        versions.solve(facts, code);
        versions
    }

    fn solve(&mut self, facts: &Facts, code: &[Code]) {
        let mut waiting = vec![true; code.len()];
        while waiting.contains(&true) {
            for b in 0..code.len() {
                if !std::mem::replace(&mut waiting[b], false) {
                    continue;
                }
                let mut state = self.at(b);
                for op in &code[b].ops {
                    state.pass(self, facts, op);
                }
                let exit = state.now;
                for next in &code[b].next {
                    let met = Version::met(*next);
                    for (entry, exit) in self.entry[*next].iter_mut().zip(&exit) {
                        let new = match *entry {
                            Version::UNKNOWN => *exit,
                            old if old == *exit || *exit == Version::UNKNOWN => old,
                            _ => met,
                        };
                        if new != *entry {
                            *entry = new;
                            waiting[*next] = true;
                        }
                    }
                }
                self.exit[b] = exit;
            }
        }
    }

    /// The state at the start of a block.
    pub(super) fn at(&self, block: usize) -> State {
        State { now: self.entry[block].clone(), made: self.made[block] }
    }

    fn index(&self, var: Var) -> Option<usize> {
        self.index.get(var).copied().filter(|i| *i != u32::MAX).map(|i| i as usize)
    }

    /// The version of a variable at the end of a block.
    pub(super) fn at_end(&self, block: usize, var: Var) -> Version {
        self.index(var).map_or(Version::FIRST, |i| self.exit[block][i])
    }

    /// The block from whose start, or a place in which, a version is there.
    pub(super) fn home(&self, version: Version) -> usize {
        match version.0 {
            0 | u32::MAX => 0,
            n if n % 2 == 1 => (n as usize - 1) / 2,
            n => self.homes[(n as usize - 2) / 2],
        }
    }
}

/// Versions at a place of the code.
pub(super) struct State {
    now: Vec<Version>,
    made: u32,
}

impl State {
    /// Goes past an op.
    pub(super) fn pass(&mut self, versions: &Versions, facts: &Facts, op: &VOp) {
        for slot in &op.slots {
            let Some((var, _)) = facts.defined(slot).filter(|(v, _)| !facts.is_single(*v)) else {
                continue;
            };
            if let Some(at) = versions.index(var) {
                self.now[at] = Version::made(self.made);
            }
            self.made += 1;
        }
    }

    /// The version of a variable that is not single.
    pub(super) fn of(&self, versions: &Versions, var: Var) -> Version {
        versions.index(var).map_or(Version::FIRST, |i| self.now[i])
    }
}
