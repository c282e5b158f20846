//! The allocator of arena offsets: best fit, red zones, quarantine. It knows nothing of host
//! addresses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::arena::GRANULE;

/// Unallocated bytes after each allocation, so that an access of a whole warp past an end hits
/// nothing.
pub(super) const RED_ZONE: u64 = 512;
/// First offset that is handed out: address 0 of the arena is never a valid pointer.
const FIRST: u64 = 4096;

/// One allocation, live or freed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Offset in the arena.
    pub start: u64,
    /// Bytes that may be accessed.
    pub bytes: u64,
    /// Number in order of allocation, from 1.
    pub number: u64,
    /// What made it: a driver function, or a module variable's name.
    pub origin: String,
}

impl Allocation {
    /// Bytes taken from the arena: the allocation, rounded up, and its red zone.
    fn reserved(&self) -> u64 {
        reserved(self.bytes)
    }

    /// First offset after the accessible bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.bytes
    }
}

fn reserved(bytes: u64) -> u64 {
    bytes.next_multiple_of(GRANULE) + RED_ZONE
}

/// A range that left the quarantine and may be reused.
pub(super) struct Evicted {
    pub start: u64,
    pub bytes: u64,
}

pub(super) struct Allocator {
    size: u64,
    live: BTreeMap<u64, Allocation>,
    freed: BTreeMap<u64, Allocation>,
    quarantine: VecDeque<u64>,
    quarantined: u64,
    quarantine_limit: u64,
    free_by_start: BTreeMap<u64, u64>,
    free_by_size: BTreeSet<(u64, u64)>,
    used: u64,
    next_number: u64,
}

impl Allocator {
    pub(super) fn new(size: u64) -> Self {
        let mut allocator = Self {
            size,
            live: BTreeMap::new(),
            freed: BTreeMap::new(),
            quarantine: VecDeque::new(),
            quarantined: 0,
            quarantine_limit: (64 << 20).min(size / 16),
            free_by_start: BTreeMap::new(),
            free_by_size: BTreeSet::new(),
            used: 0,
            next_number: 1,
        };
        allocator.insert_free(FIRST, size.saturating_sub(FIRST));
        allocator
    }

    /// Bytes not taken by live allocations; what is in quarantine can be had.
    pub(super) fn free_bytes(&self) -> u64 {
        self.size - FIRST - self.used
    }

    pub(super) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// Takes the smallest free range that holds `bytes`. `evicted` receives what left the
    /// quarantine for it.
    pub(super) fn allocate(
        &mut self,
        bytes: u64,
        origin: &str,
        evicted: &mut Vec<Evicted>,
    ) -> Option<u64> {
        if bytes == 0 || bytes > self.size {
            return None;
        }
        let wanted = reserved(bytes);
        let found = match self.best_fit(wanted) {
            Some(found) => found,
            None => {
                while let Some(range) = self.evict() {
                    evicted.push(range);
                }
                self.best_fit(wanted)?
            }
        };
        let (length, start) = found;
        self.remove_free(start, length);
        if length > wanted {
            self.insert_free(start + wanted, length - wanted);
        }
        let number = self.next_number;
        self.next_number += 1;
        self.used += wanted;
        self.live.insert(start, Allocation { start, bytes, number, origin: origin.to_owned() });
        Some(start)
    }

    /// Moves the allocation at `start` into the quarantine; `None` if no live allocation begins
    /// there.
    pub(super) fn free(&mut self, start: u64, evicted: &mut Vec<Evicted>) -> Option<Allocation> {
        let allocation = self.live.remove(&start)?;
        self.used -= allocation.reserved();
        self.quarantined += allocation.reserved();
        self.quarantine.push_back(start);
        self.freed.insert(start, allocation.clone());
        while self.quarantined > self.quarantine_limit {
            match self.evict() {
                Some(range) => evicted.push(range),
                None => break,
            }
        }
        Some(allocation)
    }

    /// The live allocation that holds the byte at `offset`.
    pub(super) fn find(&self, offset: u64) -> Option<&Allocation> {
        let (_, allocation) = self.live.range(..=offset).next_back()?;
        (offset < allocation.end()).then_some(allocation)
    }

    /// The allocation nearest to `offset`, and whether it is live.
    pub(super) fn nearest(&self, offset: u64) -> Option<(&Allocation, bool)> {
        let around = |map: &BTreeMap<u64, Allocation>| {
            let below = map.range(..=offset).next_back().map(|(&start, _)| start);
            let above = map.range(offset..).next().map(|(&start, _)| start);
            [below, above]
        };
        let live = around(&self.live).into_iter().flatten().map(|start| (&self.live[&start], true));
        let freed =
            around(&self.freed).into_iter().flatten().map(|start| (&self.freed[&start], false));
        live.chain(freed).min_by_key(|(allocation, _)| distance(allocation, offset))
    }

    /// Lets the oldest freed range be reused.
    fn evict(&mut self) -> Option<Evicted> {
        let start = self.quarantine.pop_front()?;
        let allocation = self.freed.remove(&start)?;
        let bytes = allocation.reserved();
        self.quarantined -= bytes;
        self.insert_free(start, bytes);
        Some(Evicted { start, bytes })
    }

    fn best_fit(&self, wanted: u64) -> Option<(u64, u64)> {
        self.free_by_size.range((wanted, 0)..).next().copied()
    }

    fn remove_free(&mut self, start: u64, length: u64) {
        self.free_by_start.remove(&start);
        self.free_by_size.remove(&(length, start));
    }

    /// Adds a free range and joins it with its neighbours.
    fn insert_free(&mut self, start: u64, length: u64) {
        let (mut start, mut length) = (start, length);
        if let Some((&before, &before_length)) = self.free_by_start.range(..start).next_back()
            && before + before_length == start
        {
            self.remove_free(before, before_length);
            start = before;
            length += before_length;
        }
        if let Some(&after_length) = self.free_by_start.get(&(start + length)) {
            self.remove_free(start + length, after_length);
            length += after_length;
        }
        if length > 0 {
            self.free_by_start.insert(start, length);
            self.free_by_size.insert((length, start));
        }
    }
}

/// Bytes between `offset` and the allocation; 0 inside it.
pub(super) fn distance(allocation: &Allocation, offset: u64) -> u64 {
    if offset < allocation.start {
        allocation.start - offset
    } else {
        (offset + 1).saturating_sub(allocation.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(allocator: &mut Allocator, bytes: u64) -> u64 {
        allocator.allocate(bytes, "test", &mut Vec::new()).expect("there is room")
    }

    #[test]
    fn neighbours_are_a_red_zone_apart() {
        let mut allocator = Allocator::new(1 << 20);
        let first = take(&mut allocator, 100);
        let second = take(&mut allocator, 256);
        let third = take(&mut allocator, 1);
        assert_eq!(first % GRANULE, 0);
        assert_eq!(second, first + 256 + RED_ZONE);
        assert_eq!(third, second + 256 + RED_ZONE);
    }

    #[test]
    fn smallest_hole_that_fits_is_taken() {
        let mut allocator = Allocator::new(1 << 20);
        let large = take(&mut allocator, 8192);
        let _keep = take(&mut allocator, 1);
        let small = take(&mut allocator, 1024);
        let _keep = take(&mut allocator, 1);
        allocator.quarantine_limit = 0;
        assert!(allocator.free(large, &mut Vec::new()).is_some());
        assert!(allocator.free(small, &mut Vec::new()).is_some());
        assert_eq!(take(&mut allocator, 1000), small);
        assert_eq!(take(&mut allocator, 2000), large);
    }

    #[test]
    fn quarantine_holds_back_and_gives_way_when_memory_is_short() {
        let mut allocator = Allocator::new(1 << 20);
        let first = take(&mut allocator, 16 << 10);
        assert!(allocator.free(first, &mut Vec::new()).is_some());
        assert!(allocator.free(first, &mut Vec::new()).is_none(), "freed twice");
        assert_ne!(take(&mut allocator, 16 << 10), first);
        let rest = allocator.free_bytes();
        let mut evicted = Vec::new();
        // More than the largest hole without the quarantined range.
        assert!(allocator.allocate(rest - RED_ZONE - (33 << 10), "test", &mut evicted).is_some());
        assert!(evicted.is_empty());
        assert!(allocator.allocate(15 << 10, "test", &mut evicted).is_some());
        assert!(allocator.allocate(15 << 10, "test", &mut evicted).is_some());
        assert_eq!(evicted.len(), 1);
    }

    #[test]
    fn everything_can_be_taken_again_after_everything_is_freed() {
        let mut allocator = Allocator::new(1 << 20);
        let before = allocator.free_bytes();
        let starts: Vec<u64> = (1..100).map(|index| take(&mut allocator, index * 37)).collect();
        for start in starts.iter().rev().step_by(2).chain(starts.iter().rev().skip(1).step_by(2)) {
            assert!(allocator.free(*start, &mut Vec::new()).is_some());
        }
        assert_eq!(allocator.free_bytes(), before);
        assert!(allocator.allocate(before - RED_ZONE, "test", &mut Vec::new()).is_some());
        assert!(allocator.allocate(1, "test", &mut Vec::new()).is_none());
    }

    #[test]
    fn nearest_sees_both_sides_and_the_freed() {
        let mut allocator = Allocator::new(1 << 20);
        let first = take(&mut allocator, 100);
        let second = take(&mut allocator, 100);
        let past = allocator.nearest(first + 107).expect("two are live");
        assert_eq!((past.0.start, past.1, distance(past.0, first + 107)), (first, true, 8));
        let before = allocator.nearest(second - 4).expect("two are live");
        assert_eq!((before.0.start, distance(before.0, second - 4)), (second, 4));
        assert!(allocator.free(second, &mut Vec::new()).is_some());
        let inside = allocator.nearest(second + 4).expect("one is live, one freed");
        assert_eq!((inside.0.start, inside.1), (second, false));
    }
}
