//! Device memory: the arena, its allocator, pinned host regions, and what an address means.
//!
//! Everything here works on raw pointers. A Rust reference into the arena is never made: kernels
//! and host copies may touch the same bytes at once, which is a race of the CUDA program and is
//! confined to the arena.

mod alloc;
mod arena;
mod pinned;
mod window;

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

pub use alloc::Allocation;
pub use arena::{GRANULE, GRANULE_FREED, GRANULE_FULL, GRANULE_NONE};
pub use pinned::{PinnedKind, PinnedRegion};
pub use window::*;

use alloc::{Allocator, Evicted, distance};
use arena::Arena;
use pinned::Pinned;

/// Freed ranges of at least this size are given back to the host.
const RELEASE_FROM: u64 = 1 << 20;
/// Allocations of at least this size ask for large pages.
const LARGE_PAGES_FROM: u64 = 4 << 20;

/// The memory of one device. Shared by `Arc`; every method may be called from any thread.
pub struct Memory {
    arena: Arena,
    allocator: Mutex<Allocator>,
    pinned: RwLock<Pinned>,
}

impl Memory {
    /// Reserves an arena of `size` bytes, or of as much as the host lets us reserve.
    ///
    /// # Errors
    /// The host's error if not even a small arena can be mapped.
    pub fn new(size: u64) -> io::Result<Self> {
        let arena = Arena::reserve(size)?;
        let allocator = Mutex::new(Allocator::new(arena.size()));
        Ok(Self { arena, allocator, pinned: RwLock::default() })
    }

    /// An arena as large as the profile's memory, but at most three quarters of what the host has
    /// available.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn for_profile(profile_bytes: u64) -> io::Result<Self> {
        Self::new(arena::default_size(profile_bytes))
    }

    /// Host address of arena offset 0: the byte at generic address `GLOBAL_BASE + n` is at `base()
    /// + n`.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.arena.base()
    }

    /// Bytes of the arena.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.arena.size()
    }

    /// The granule table: entry `n` stands for the arena bytes `256·n ..= 256·n + 255`; `size() /
    /// 256` entries.
    #[must_use]
    pub fn granules(&self) -> *const AtomicU16 {
        self.arena.table()
    }

    /// Whether `[offset, offset + size)` of the arena may be accessed. Checks the first and the
    /// last byte, which is enough up to 512 bytes: allocations are that far apart.
    #[inline]
    #[must_use]
    pub fn accessible(&self, offset: u64, size: u64) -> bool {
        let Some(last) = offset.checked_add(size.saturating_sub(1)) else { return false };
        self.byte_accessible(offset) && self.byte_accessible(last)
    }

    #[inline]
    fn byte_accessible(&self, offset: u64) -> bool {
        if offset >= self.arena.size() {
            return false;
        }
        // SAFETY: `offset` is below the arena's size, and the table has an entry for each of its
        // granules.
        let entry = unsafe { &*self.granules().add((offset / GRANULE) as usize) };
        let valid = entry.load(Ordering::Relaxed);
        valid <= GRANULE_FULL && (offset % GRANULE) as u16 <= valid.wrapping_sub(1) && valid != 0
    }

    /// Host address of `[address, address + size)` if all of it is inside one live allocation or
    /// pinned region.
    #[must_use]
    pub fn host_range(&self, address: u64, size: u64) -> Option<*mut u8> {
        match tag(address) {
            TAG_GLOBAL => {
                let start = offset(address);
                let end = start.checked_add(size)?;
                let allocator = self.allocator();
                let allocation = allocator.find(start)?;
                if end > allocation.end() {
                    return None;
                }
                // SAFETY: the allocation lies inside the arena, and `start` inside the allocation.
                Some(unsafe { self.base().add(start as usize) })
            }
            TAG_HOST => self.pinned_region(address, size).map(|_| address as *mut u8),
            _ => None,
        }
    }

    /// Allocates `bytes` bytes, aligned to 256. Returns the generic address; `None` if there is no
    /// room.
    #[must_use]
    pub fn allocate(&self, bytes: u64, origin: &str) -> Option<u64> {
        let mut evicted = Vec::new();
        let mut allocator = self.allocator();
        let start = allocator.allocate(bytes, origin, &mut evicted);
        self.forget(&evicted);
        let start = start?;
        self.arena.mark_live(start, bytes);
        drop(allocator);
        if bytes >= LARGE_PAGES_FROM {
            self.arena.prefer_large_pages(start, bytes);
        }
        Some(GLOBAL_BASE + start)
    }

    /// Frees the allocation that begins at `address`; false if there is none.
    pub fn free(&self, address: u64) -> bool {
        if tag(address) != TAG_GLOBAL {
            return false;
        }
        let mut evicted = Vec::new();
        let mut allocator = self.allocator();
        let Some(allocation) = allocator.free(offset(address), &mut evicted) else { return false };
        self.arena.mark(allocation.start, allocation.bytes, GRANULE_FREED);
        self.forget(&evicted);
        true
    }

    /// Marks what left the quarantine as unallocated and gives large ranges back to the host.
    fn forget(&self, evicted: &[Evicted]) {
        for range in evicted {
            self.arena.mark(range.start, range.bytes, GRANULE_NONE);
            if range.bytes >= RELEASE_FROM {
                self.arena.release(range.start, range.bytes);
            }
        }
    }

    /// The live allocation that holds `address`.
    #[must_use]
    pub fn allocation(&self, address: u64) -> Option<Allocation> {
        if tag(address) != TAG_GLOBAL {
            return None;
        }
        self.allocator().find(offset(address)).cloned()
    }

    /// Bytes that can still be allocated, and all bytes of the arena.
    #[must_use]
    pub fn info(&self) -> (u64, u64) {
        (self.allocator().free_bytes(), self.arena.size())
    }

    /// Number of live allocations.
    #[must_use]
    pub fn live_allocations(&self) -> usize {
        self.allocator().live_count()
    }

    /// Allocates pinned host memory, zeroed. Returns its address; `None` if the host refuses.
    #[must_use]
    pub fn allocate_pinned(&self, bytes: u64, kind: PinnedKind, flags: u32) -> Option<u64> {
        self.pinned.write().unwrap_or_else(PoisonError::into_inner).allocate(bytes, kind, flags)
    }

    /// Makes host memory of the caller accessible; false if part of it already is.
    pub fn register_pinned(&self, start: u64, bytes: u64, flags: u32) -> bool {
        self.pinned.write().unwrap_or_else(PoisonError::into_inner).register(start, bytes, flags)
    }

    /// Removes the pinned region that begins at `start`; false if there is none of this kind.
    pub fn remove_pinned(&self, start: u64, kind: PinnedKind) -> bool {
        self.pinned.write().unwrap_or_else(PoisonError::into_inner).remove(start, kind)
    }

    /// The pinned region that holds `[address, address + size)`.
    #[must_use]
    pub fn pinned_region(&self, address: u64, size: u64) -> Option<PinnedRegion> {
        self.pinned.read().unwrap_or_else(PoisonError::into_inner).find(address, size)
    }

    /// What lies at or near `address`, for error reports.
    #[must_use]
    pub fn describe(&self, address: u64) -> String {
        match tag(address) {
            TAG_HOST if address < NULL_PAGE => "null pointer".to_owned(),
            TAG_HOST => self.describe_host(address),
            TAG_GLOBAL => self.describe_global(offset(address)),
            TAG_SHARED => format!("offset {} of the shared window", offset(address)),
            TAG_LOCAL => format!("offset {} of the local window", offset(address)),
            TAG_FUNCTION => "a function, not memory".to_owned(),
            TAG_PARAM => format!("offset {} of the kernel parameters", offset(address)),
            _ => "not an address of this device".to_owned(),
        }
    }

    fn describe_host(&self, address: u64) -> String {
        let pinned = self.pinned.read().unwrap_or_else(PoisonError::into_inner);
        match pinned.nearest(address) {
            Some(region) if address >= region.start => {
                let inside = address - region.start;
                if inside < region.bytes {
                    format!("byte {inside} of {} of pinned host memory", bytes(region.bytes))
                } else {
                    let (past, size) = (bytes(inside - region.bytes + 1), bytes(region.bytes));
                    format!("not device memory: {past} past {size} of pinned host memory")
                }
            }
            _ => "not device memory: a host address".to_owned(),
        }
    }

    fn describe_global(&self, offset: u64) -> String {
        let allocator = self.allocator();
        let Some((allocation, live)) = allocator.nearest(offset) else {
            return "no allocation is near".to_owned();
        };
        let place = if offset < allocation.start {
            format!("{} before", bytes(distance(allocation, offset)))
        } else if offset < allocation.end() {
            format!("byte {} of", offset - allocation.start)
        } else {
            format!("{} past", bytes(distance(allocation, offset)))
        };
        let state = if live { "" } else { "freed " };
        let Allocation { number, bytes: size, origin, .. } = allocation;
        format!("{place} {state}allocation #{number} ({}, from {origin})", bytes(*size))
    }

    fn allocator(&self) -> MutexGuard<'_, Allocator> {
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `1 byte`, `2 bytes`.
fn bytes(count: u64) -> String {
    if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> Memory {
        Memory::new(4 << 20).expect("4 MiB can be mapped")
    }

    #[test]
    fn accessible_is_exact_to_the_byte() {
        let memory = memory();
        for bytes in [1, 255, 256, 257, 1000, 4096] {
            let start = offset(memory.allocate(bytes, "test").expect("there is room"));
            for inside in [0, bytes / 2, bytes - 1] {
                assert!(memory.accessible(start + inside, 1), "{inside} of {bytes}");
            }
            assert!(!memory.accessible(start + bytes, 1), "one past {bytes}");
            assert!(!memory.accessible(start + bytes - 1, 2), "over the end of {bytes}");
            assert!(!memory.accessible(start + bytes - 1, 512), "a warp over the end of {bytes}");
            assert!(!memory.accessible(start - 1, 2), "over the start of {bytes}");
        }
        assert!(!memory.accessible(memory.size() - 1, 2));
        assert!(!memory.accessible(u64::MAX, 4));
        assert!(!memory.accessible(0, 1));
    }

    #[test]
    fn freed_memory_is_not_accessible_and_is_named() {
        let memory = memory();
        let address = memory.allocate(4096, "cuMemAlloc_v2").expect("there is room");
        assert!(memory.accessible(offset(address), 4));
        assert!(memory.free(address));
        assert!(!memory.free(address), "freed twice");
        assert!(!memory.accessible(offset(address), 4));
        assert_eq!(
            memory.describe(address + 8),
            "byte 8 of freed allocation #1 (4096 bytes, from cuMemAlloc_v2)"
        );
    }

    #[test]
    fn describe_gives_distance() {
        let memory = memory();
        let address = memory.allocate(4096, "cuMemAlloc_v2").expect("there is room");
        assert_eq!(
            memory.describe(address + 4096 + 7),
            "8 bytes past allocation #1 (4096 bytes, from cuMemAlloc_v2)"
        );
        assert_eq!(memory.describe(0x10), "null pointer");
        assert_eq!(memory.describe(0x7fff_0000_0000), "not device memory: a host address");
    }

    #[test]
    fn host_range_wants_one_whole_allocation() {
        let memory = memory();
        let address = memory.allocate(100, "test").expect("there is room");
        assert!(memory.host_range(address, 100).is_some());
        assert!(memory.host_range(address + 10, 90).is_some());
        assert!(memory.host_range(address, 101).is_none());
        assert!(memory.host_range(address + 100, 0).is_none());
        assert!(memory.host_range(12345, 1).is_none());
    }

    #[test]
    fn pinned_regions_are_found_and_freed_by_kind() {
        let memory = memory();
        let start =
            memory.allocate_pinned(100, PinnedKind::Allocated, 0).expect("the host has 100 bytes");
        assert!(memory.pinned_region(start + 50, 50).is_some());
        assert!(memory.pinned_region(start + 50, 51).is_none());
        assert_eq!(memory.host_range(start, 100), Some(start as *mut u8));
        assert!(!memory.register_pinned(start + 10, 10, 0), "overlaps");
        assert!(!memory.remove_pinned(start, PinnedKind::Registered));
        assert!(memory.remove_pinned(start, PinnedKind::Allocated));
        assert!(memory.pinned_region(start, 1).is_none());
    }

    #[test]
    fn large_freed_ranges_read_as_zeros_when_they_come_back() {
        let memory = Memory::new(64 << 20).expect("64 MiB can be mapped");
        let address = memory.allocate(32 << 20, "test").expect("there is room");
        let host = memory.host_range(address, 32 << 20).expect("just allocated");
        // SAFETY: the range was checked by `host_range`.
        unsafe { host.add(1 << 20).write(7) };
        assert!(memory.free(address));
        let again = memory.allocate(32 << 20, "test").expect("the quarantine gives way");
        assert_eq!(again, address);
        // SAFETY: the same range, allocated again.
        assert_eq!(unsafe { host.add(1 << 20).read() }, 0);
    }
}
