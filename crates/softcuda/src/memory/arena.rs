//! The reserved range that device memory lives in, and the granule table beside it.

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicU16, Ordering};

/// Bytes that one entry of the granule table stands for; also the alignment of every allocation.
pub const GRANULE: u64 = 256;
/// Granule value: nothing allocated here.
pub const GRANULE_NONE: u16 = 0;
/// Granule value: all 256 bytes may be accessed. 1 to 255: only so many of them.
pub const GRANULE_FULL: u16 = 256;
/// Granule value: freed, held back in the quarantine.
pub const GRANULE_FREED: u16 = 0xffff;

/// An anonymous mapping, given back on drop.
pub(super) struct Mapping {
    base: *mut u8,
    bytes: usize,
}

// SAFETY: the mapping is plain memory; who may access which byte is decided by the allocator above
// it.
unsafe impl Send for Mapping {}
// SAFETY: as above; no Rust reference into the mapping is ever made.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Reserves `bytes` of zeros; pages are taken when they are first touched.
    pub(super) fn reserve(bytes: usize) -> io::Result<Self> {
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice touches no other
        // memory.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { base: base.cast(), bytes })
    }

    pub(super) const fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives whole pages of `[start, start + length)` back to the host; they read as zeros
    /// afterwards.
    pub(super) fn release(&self, start: u64, length: u64) {
        const PAGE: u64 = 4096;
        let first = start.next_multiple_of(PAGE);
        let end = (start + length) / PAGE * PAGE;
        if end > first {
            // SAFETY: `[first, end)` lies inside this mapping, because the allocator hands out only
            // such ranges.
            let start = unsafe { self.base.add(first as usize) };
            // SAFETY: as above; the range is freed, nobody may read its old contents.
            // A refusal only keeps the pages: no result depends on it.
            unsafe { libc::madvise(start.cast(), (end - first) as usize, libc::MADV_DONTNEED) };
        }
    }

    /// Asks for large pages in `[start, start + length)`: fewer faults at the first touch, fewer
    /// table walks later.
    pub(super) fn prefer_large_pages(&self, start: u64, length: u64) {
        const LARGE: u64 = 2 << 20;
        let base = self.base as u64;
        let first = (base + start).next_multiple_of(LARGE);
        let end = (base + start + length) / LARGE * LARGE;
        if end > first {
            // SAFETY: the range lies inside this mapping; the advice changes no contents.
            // A refusal is of no consequence: pages are then small.
            unsafe {
                libc::madvise(
                    first as *mut libc::c_void,
                    (end - first) as usize,
                    libc::MADV_HUGEPAGE,
                )
            };
        }
    }

    /// Makes a page-aligned range inaccessible.
    fn protect(&self, start: usize, length: usize) -> io::Result<()> {
        // SAFETY: `start` is inside the mapping (the caller's guard pages).
        let first = unsafe { self.base.add(start) };
        // SAFETY: the range lies inside the mapping and nothing has been placed there.
        if unsafe { libc::mprotect(first.cast(), length, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `bytes` are those of the successful mmap; the owner is going away.
        unsafe { libc::munmap(self.base.cast(), self.bytes) };
    }
}

/// The arena: guard pages, device memory, guard pages; and one u16 for each 256 bytes.
pub(super) struct Arena {
    memory: Mapping,
    table: Mapping,
    size: u64,
}

/// Inaccessible bytes before and after the arena.
const GUARD: usize = 1 << 16;
/// Below this the reservation is not halved any more.
const SMALLEST: u64 = 1 << 20;

impl Arena {
    /// Reserves `size` bytes, or half of it, or a quarter, …: hosts without overcommit refuse large
    /// reservations.
    pub(super) fn reserve(size: u64) -> io::Result<Self> {
        let mut size = size.next_multiple_of(4096).max(SMALLEST);
        loop {
            match Self::reserve_exactly(size) {
                Err(error) if size <= SMALLEST => return Err(error),
                Err(_) => size = (size / 2).next_multiple_of(4096).max(SMALLEST),
                Ok(arena) => return Ok(arena),
            }
        }
    }

    fn reserve_exactly(size: u64) -> io::Result<Self> {
        let memory = Mapping::reserve(size as usize + 2 * GUARD)?;
        memory.protect(0, GUARD)?;
        memory.protect(GUARD + size as usize, GUARD)?;
        let table = Mapping::reserve((size / GRANULE) as usize * 2)?;
        Ok(Self { memory, table, size })
    }

    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// Host address of arena offset 0.
    pub(super) fn base(&self) -> *mut u8 {
        // SAFETY: the mapping is `GUARD + size + GUARD` bytes long.
        unsafe { self.memory.base().add(GUARD) }
    }

    pub(super) fn table(&self) -> *const AtomicU16 {
        self.table.base().cast::<AtomicU16>().cast_const()
    }

    pub(super) fn release(&self, start: u64, length: u64) {
        self.memory.release(start + GUARD as u64, length);
    }

    pub(super) fn prefer_large_pages(&self, start: u64, length: u64) {
        self.memory.prefer_large_pages(start + GUARD as u64, length);
    }

    /// Marks `[start, start + bytes)` as accessible; `start` is a multiple of [`GRANULE`].
    pub(super) fn mark_live(&self, start: u64, bytes: u64) {
        self.fill(start, bytes / GRANULE, GRANULE_FULL);
        let tail = bytes % GRANULE;
        if tail != 0 {
            self.fill(start + bytes - tail, 1, tail as u16);
        }
    }

    /// Marks all granules of `[start, start + bytes)` with one value.
    pub(super) fn mark(&self, start: u64, bytes: u64, value: u16) {
        self.fill(start, bytes.div_ceil(GRANULE), value);
    }

    fn fill(&self, start: u64, count: u64, value: u16) {
        let first = (start / GRANULE) as usize;
        for index in first..(first + count as usize).min(self.table.bytes() / 2) {
            // SAFETY: `index` is inside the table, by the bound of the loop.
            let entry = unsafe { &*self.table().add(index) };
            entry.store(value, Ordering::Relaxed);
        }
    }
}

/// The arena's size: the profile's memory, at most three quarters of what the host has available,
/// at most the control group's limit.
pub(super) fn default_size(profile_bytes: u64) -> u64 {
    let mut size = profile_bytes;
    if let Some(available) = available_memory() {
        size = size.min(available / 4 * 3);
    }
    if let Some(limit) = control_group_limit() {
        size = size.min(limit);
    }
    size
}

/// `MemAvailable` of /proc/meminfo, in bytes.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The memory limit of this process's control group, version 2 or 1.
fn control_group_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| std::fs::read_to_string(path).ok()?.trim().parse().ok())
}
