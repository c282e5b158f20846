//! Dominators and loops of the blocks of a kernel.

use crate::lower::Code;

/// The dominator tree, with loop depths.
pub(super) struct Tree {
    /// Immediate dominator; that of the entry is itself.
    parent: Vec<usize>,
    /// Blocks in an order in which dominators come first.
    pub order: Vec<usize>,
    /// Numbers of first and last visit of a walk over the tree: an ancestor's span holds its
    /// descendants'.
    span: Vec<(u32, u32)>,
    /// Loops around each block.
    pub depth: Vec<u32>,
}

impl Tree {
    /// # Panics
    /// Never: block 0 is the entry, and every block can be reached.
    pub(super) fn of(code: &[Code]) -> Self {
        let count = code.len();
        let post = post_order(code);
        let mut number = vec![0; count];
        for (n, block) in post.iter().enumerate() {
            number[*block] = n;
        }
        let mut before = vec![Vec::new(); count];
        for (block, c) in code.iter().enumerate() {
            for next in &c.next {
                before[*next].push(block);
            }
        }
        const UNKNOWN: usize = usize::MAX;
        let mut parent = vec![UNKNOWN; count];
        parent[0] = 0;
        let mut changed = true;
        while changed {
            changed = false;
            for block in post.iter().rev().copied().filter(|b| *b != 0) {
                let mut found = UNKNOWN;
                for p in before[block].iter().copied().filter(|p| parent[*p] != UNKNOWN) {
                    found = if found == UNKNOWN { p } else { meet(&parent, &number, found, p) };
                }
                changed |= found != parent[block];
                parent[block] = found;
            }
        }
        let mut tree =
            Tree { parent, order: Vec::new(), span: vec![(0, 0); count], depth: vec![0; count] };
        tree.walk(&post);
        tree.find_loops(code, &before);
        tree
    }

    fn walk(&mut self, post: &[usize]) {
        let mut children = vec![Vec::new(); self.parent.len()];
        // The last in reverse post-order is pushed first, so that it is visited last.
        for block in post.iter().copied().filter(|b| *b != 0) {
            children[self.parent[block]].push(block);
        }
        let mut clock = 0;
        let mut stack = vec![(0, false)];
        while let Some((block, done)) = stack.pop() {
            clock += 1;
            if done {
                self.span[block].1 = clock;
                continue;
            }
            self.span[block].0 = clock;
            self.order.push(block);
            stack.push((block, true));
            stack.extend(children[block].iter().map(|c| (*c, false)));
        }
    }

    fn find_loops(&mut self, code: &[Code], before: &[Vec<usize>]) {
        for head in 0..code.len() {
            let mut inside = vec![false; code.len()];
            let mut stack: Vec<usize> =
                before[head].iter().copied().filter(|from| self.dominates(head, *from)).collect();
            if stack.is_empty() {
                continue;
            }
            inside[head] = true;
            while let Some(block) = stack.pop() {
                if !std::mem::replace(&mut inside[block], true) {
                    stack.extend(before[block].iter().copied());
                }
            }
            for (depth, inside) in self.depth.iter_mut().zip(inside) {
                *depth += u32::from(inside);
            }
        }
    }

    /// Whether every path to `b` passes `a`; also if they are the same.
    pub(super) fn dominates(&self, a: usize, b: usize) -> bool {
        self.span[a].0 <= self.span[b].0 && self.span[b].1 <= self.span[a].1
    }

    /// The immediate dominator of a block other than the entry.
    pub(super) fn parent(&self, block: usize) -> usize {
        self.parent[block]
    }
}

fn meet(parent: &[usize], number: &[usize], mut a: usize, mut b: usize) -> usize {
    while a != b {
        while number[a] < number[b] {
            a = parent[a];
        }
        while number[b] < number[a] {
            b = parent[b];
        }
    }
    a
}

fn post_order(code: &[Code]) -> Vec<usize> {
    let mut out = Vec::with_capacity(code.len());
    let mut seen = vec![false; code.len()];
    seen[0] = true;
    let mut stack = vec![(0, 0)];
    while let Some((block, at)) = stack.pop() {
        match code[block].next.get(at) {
            Some(next) => {
                stack.push((block, at + 1));
                if !std::mem::replace(&mut seen[*next], true) {
                    stack.push((*next, 0));
                }
            }
            None => out.push(block),
        }
    }
    out
}
