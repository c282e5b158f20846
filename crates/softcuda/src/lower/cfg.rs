//! Basic blocks and their order.
//!
//! Blocks are laid out in a topological order in which every loop is contiguous: then the
//! fragment at the lowest address is the one that others wait for (thread frontiers).

use super::flatten::{Flat, Step};

/// A basic block: items `start..end`, the last of which may end it.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub start: usize,
    pub end: usize,
    /// Blocks that may follow. Without a jump or exit, the block after it in the text is the last.
    pub next: Vec<usize>,
}

/// Blocks of a list; `order` is the layout, the entry first. Unreachable blocks are left out.
#[derive(Debug)]
pub(crate) struct Graph {
    pub blocks: Vec<Block>,
    pub order: Vec<usize>,
    /// The block that begins at an item.
    pub at: Vec<Option<usize>>,
}

fn ends_block(step: &Step) -> bool {
    matches!(
        step,
        Step::Jump(_)
            | Step::Branch(..)
            | Step::Index(..)
            | Step::Barrier(_)
            | Step::Exit
            | Step::Trap
            | Step::Assert
            | Step::Pause
    )
}

/// Cuts a list into blocks and orders them.
pub(crate) fn build(flat: &Flat) -> Graph {
    let count = flat.items.len();
    let mut leader = vec![false; count + 1];
    leader[0] = true;
    for target in &flat.targets {
        if *target <= count {
            leader[*target] = true;
        }
    }
    for (position, item) in flat.items.iter().enumerate() {
        if ends_block(&item.step) {
            leader[position + 1] = true;
        }
    }
    let mut blocks = Vec::new();
    let mut at = vec![None; count + 1];
    let mut start = 0;
    for (end, leads) in leader.iter().enumerate().skip(1) {
        if *leads || end == count {
            at[start] = Some(blocks.len());
            blocks.push(Block { start, end, next: Vec::new() });
            start = end;
        }
    }
    let total = blocks.len();
    for (index, block) in blocks.iter_mut().enumerate() {
        let end = block.end;
        let block_of = |t: &super::flatten::Target| {
            flat.targets.get(t.0).and_then(|p| at.get(*p).copied().flatten())
        };
        let mut next = Vec::new();
        let through = (index + 1 < total).then_some(index + 1);
        match &flat.items[end - 1].step {
            Step::Jump(to) => next.extend(block_of(to)),
            Step::Branch(_, to) => {
                next.extend(block_of(to));
                next.extend(through);
            }
            Step::Index(_, list) => next.extend(list.iter().filter_map(block_of)),
            Step::Exit | Step::Trap | Step::Assert => {}
            _ => next.extend(through),
        }
        block.next = next;
    }
    let order = order(&blocks);
    Graph { blocks, order, at }
}

/// The layout order.
fn order(blocks: &[Block]) -> Vec<usize> {
    let mut reachable = vec![false; blocks.len()];
    let mut stack = vec![0];
    while let Some(b) = stack.pop() {
        if std::mem::replace(&mut reachable[b], true) {
            continue;
        }
        stack.extend(blocks[b].next.iter().copied());
    }
    let all: Vec<usize> = (0..blocks.len()).filter(|b| reachable[*b]).collect();
    let mut out = Vec::with_capacity(all.len());
    // Work list of regions: (nodes, entry). A region is split into strongly connected
    // components; each is a smaller region without the edges to its own entry.
    let mut work = vec![(all, 0usize, 0usize)];
    let mut region_of = vec![usize::MAX; blocks.len()];
    let mut serial = 0;
    while let Some((nodes, entry, depth)) = work.pop() {
        if nodes.len() == 1 {
            out.push(nodes[0]);
            continue;
        }
        // Deep nests of loops occur only in hostile input: text order is right, only slower.
        if depth > 64 {
            out.extend(nodes);
            continue;
        }
        serial += 1;
        for n in &nodes {
            region_of[*n] = serial;
        }
        let components = components(blocks, entry, &nodes, &region_of, serial);
        // Tarjan's order is reverse topological; the work list is a stack, so push the last first.
        for component in components {
            let head = if component.len() == 1 {
                component[0]
            } else {
                head_of(blocks, &component, &nodes, entry)
            };
            work.push((component, head, depth + 1));
        }
    }
    out
}

/// The block through which a loop is entered.
fn head_of(blocks: &[Block], component: &[usize], nodes: &[usize], entry: usize) -> usize {
    if component.contains(&entry) {
        return entry;
    }
    let inside: std::collections::HashSet<usize> = component.iter().copied().collect();
    let mut head = usize::MAX;
    for n in nodes.iter().filter(|n| !inside.contains(n)) {
        for s in blocks[*n].next.iter().filter(|s| inside.contains(s)) {
            head = head.min(*s);
        }
    }
    if head == usize::MAX { component.iter().copied().min().unwrap_or(entry) } else { head }
}

/// Strongly connected components of a region without the edges to its entry, in reverse
/// topological order.
fn components(
    blocks: &[Block],
    entry: usize,
    nodes: &[usize],
    region_of: &[usize],
    region: usize,
) -> Vec<Vec<usize>> {
    let mut index = std::collections::HashMap::new();
    let mut low: Vec<usize> = Vec::new();
    let mut on_stack: Vec<bool> = Vec::new();
    let mut stack: Vec<usize> = Vec::new();
    let mut out = Vec::new();
    let edges = |n: usize| {
        blocks[n].next.iter().copied().filter(|s| region_of[*s] == region && *s != entry)
    };
    let mut roots = vec![entry];
    roots.extend(nodes.iter().copied());
    for root in roots {
        if index.contains_key(&root) {
            continue;
        }
        // (node, its successors not yet visited)
        let mut frames: Vec<(usize, Vec<usize>)> = Vec::new();
        let mut enter = Some(root);
        loop {
            if let Some(n) = enter.take() {
                let number = low.len();
                index.insert(n, number);
                low.push(number);
                on_stack.push(true);
                stack.push(n);
                // Popped from the back: the branch target first, what follows in the text last,
                // so that the latter comes first in the order.
                let mut next: Vec<usize> = edges(n).collect();
                next.reverse();
                frames.push((n, next));
            }
            let Some((n, next)) = frames.last_mut() else { break };
            let n = *n;
            let my = index[&n];
            if let Some(s) = next.pop() {
                match index.get(&s) {
                    None => enter = Some(s),
                    Some(&number) if on_stack[number] => low[my] = low[my].min(number),
                    Some(_) => {}
                }
                continue;
            }
            frames.pop();
            if let Some((parent, _)) = frames.last() {
                let parent = index[parent];
                low[parent] = low[parent].min(low[my]);
            }
            if low[my] == my {
                let mut component = Vec::new();
                while let Some(m) = stack.pop() {
                    on_stack[index[&m]] = false;
                    component.push(m);
                    if m == n {
                        break;
                    }
                }
                component.sort_unstable();
                out.push(component);
            }
        }
    }
    out
}
