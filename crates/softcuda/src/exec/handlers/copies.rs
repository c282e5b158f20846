//! Copies in flight: what `cp.async` has begun and no wait has landed.
//!
//! Each thread counts the groups it has committed. A copy carries, for each lane, the number of the
//! group that it will belong to, which is the count at its issue; `wait_group N` lands what has a
//! number below count - N.
//!
//! The source is that of the issue. A copy of whole blocks from device memory is not made at once,
//! though: its source is fetched into the caches and read when the copy lands, or before that when the
//! block of threads is about to store to global memory.
//!
//! Loops run over indices: an iterator over two arrays is a call where the crate is compiled in parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::{_MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_storeu_si128};

use crate::exec::op::{Level, Simd};
use crate::exec::simd::avx512;
use crate::exec::warp::Warp;

/// How an entry holds its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `data` and `to` by lane.
    Lanes,
    /// Eight blocks of 64 bytes: `data` in the order of the destination, `to` by block.
    Blocks,
    /// Eight blocks of 64 bytes, whose sources are still to be read.
    Late,
}

/// The copies of one instruction that have not landed. The fields that a late copy needs come first:
/// two lines of the cache.
#[derive(Clone)]
#[repr(C, align(64))]
pub(crate) struct Entry {
    /// Of [`Form::Late`]: offset of each block's source in the arena.
    pub from: [u64; 8],
    /// Of blocks: offset in shared memory of the first of its four lanes, of which lane `j` writes 16
    /// bytes at place `(j ^ offset / 16) % 4`.
    pub block: [u32; 8],
    /// Lanes whose data has not landed.
    pub mask: u32,
    /// Bytes a lane.
    pub size: u32,
    /// Group of lane 0.
    first_group: u32,
    form: Form,
    /// The group of lane 0 is that of all.
    even: bool,
    /// Of [`Form::Lanes`]: offset of each lane in shared memory.
    pub to: [u32; 32],
    group: [u32; 32],
    /// What the destinations will hold, 16 bytes a lane.
    pub data: [[u8; 16]; 32],
}

/// Where copies come from and go to.
#[derive(Clone, Copy)]
pub(crate) struct Places {
    /// Shared memory of the block.
    shared: *mut u8,
    /// The arena.
    base: *const u8,
    /// See [`Flights`].
    late: *mut usize,
}

impl Places {
    /// Those of a warp.
    #[inline(always)]
    pub(crate) fn of(w: &Warp) -> Self {
        Places { shared: w.shared, base: w.global.base, late: w.late }
    }
}

/// Copies in flight of a warp: a ring of entries in order of issue.
pub struct Copies {
    /// The ring; a power of two of entries, or none before the first copy.
    ring: Vec<Entry>,
    /// Number of the oldest entry that may be in flight.
    head: usize,
    /// Number of the next entry.
    tail: usize,
    /// Groups that each lane has committed; with `even`, lane 0 stands for all.
    committed: [u32; 32],
    even: bool,
}

impl Default for Copies {
    fn default() -> Self {
        Copies { ring: Vec::new(), head: 0, tail: 0, committed: [0; 32], even: true }
    }
}

impl std::fmt::Debug for Copies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let in_flight = self.tail - self.head;
        f.debug_struct("Copies").field("in_flight", &in_flight).finish_non_exhaustive()
    }
}

/// Copies in flight of all warps of a block.
#[derive(Debug, Default)]
pub struct Flights {
    /// Entries whose sources are still to be read.
    pub late: usize,
    /// By warp.
    pub copies: Vec<Copies>,
}

impl Flights {
    /// Makes room for the warps of a new block, with nothing in flight.
    pub fn reset(&mut self, warps: usize) {
        self.late = 0;
        if self.copies.len() < warps {
            self.copies.resize_with(warps, Copies::default);
        }
        for copies in &mut self.copies[..warps] {
            copies.reset();
        }
    }
}

/// Reads the sources of all copies of the block of `w`, which is about to write to global memory.
#[cold]
#[inline(never)]
pub(crate) fn read_sources(w: &mut Warp) {
    for warp in 0..w.count as usize {
        // SAFETY: the block keeps the copies of each of its warps; no other reference to them lives.
        let copies = unsafe { &mut *w.first_copies.add(warp) };
        let mask = copies.ring.len().wrapping_sub(1);
        for i in copies.head..copies.tail {
            let entry = &mut copies.ring[i & mask];
            if entry.form == Form::Late {
                // SAFETY: the sources were checked at issue, and the arena is there.
                unsafe { entry.read_source(w.global.base) };
            }
        }
    }
    // SAFETY: the block keeps the counter.
    unsafe { *w.late = 0 };
}

impl Copies {
    fn reset(&mut self) {
        (self.head, self.tail) = (0, 0);
        self.committed[0] = 0;
        self.even = true;
    }

    /// The entry behind all others, which [`Copies::push`] makes one of them.
    #[inline(always)]
    pub(crate) fn next(&mut self) -> &mut Entry {
        if self.tail - self.head == self.ring.len() {
            self.grow();
        }
        let slot = self.tail & (self.ring.len() - 1);
        &mut self.ring[slot]
    }

    /// An entry behind all others, with its groups; by lanes.
    #[inline(always)]
    pub(crate) fn push(&mut self) -> &mut Entry {
        if self.tail - self.head == self.ring.len() {
            self.grow();
        }
        let slot = self.tail & (self.ring.len() - 1);
        self.tail += 1;
        let entry = &mut self.ring[slot];
        entry.even = self.even;
        entry.form = Form::Lanes;
        entry.first_group = self.committed[0];
        if !self.even {
            entry.group = self.committed;
        }
        entry
    }

    /// Doubles the ring.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        let old = self.ring.len();
        let empty = Entry {
            mask: 0,
            size: 0,
            form: Form::Lanes,
            even: true,
            first_group: 0,
            from: [0; 8],
            block: [0; 8],
            to: [0; 32],
            group: [0; 32],
            data: [[0; 16]; 32],
        };
        let at = |i: usize| self.ring[i & (old - 1)].clone();
        let mut ring: Vec<Entry> = (self.head..self.tail).map(at).collect();
        ring.resize((2 * old).max(16), empty);
        self.tail -= self.head;
        self.head = 0;
        self.ring = ring;
    }

    /// Commits a group for the lanes of `m`.
    #[inline(always)]
    pub(crate) fn commit(&mut self, m: u32) {
        if self.even && m == !0 {
            self.committed[0] = self.committed[0].wrapping_add(1);
            return;
        }
        if self.even {
            self.committed = [self.committed[0]; 32];
            self.even = false;
        }
        for lane in 0..32 {
            self.committed[lane] = self.committed[lane].wrapping_add(m >> lane & 1);
        }
    }

    /// Lands all copies of the lanes of `m`.
    ///
    /// # Safety
    /// `places` are those that the copies were checked against.
    #[inline(always)]
    pub(crate) unsafe fn land_all<L: Simd>(&mut self, places: Places, m: u32) {
        // SAFETY: the caller's promise.
        unsafe { self.land::<L>(places, |_| Some(m)) };
    }

    /// Lands the copies of the lanes of `m` but those of their `newest` groups.
    ///
    /// # Safety
    /// As [`Copies::land_all`].
    #[inline(always)]
    pub(crate) unsafe fn land_groups<L: Simd>(&mut self, places: Places, m: u32, newest: u32) {
        if self.even {
            let committed = self.committed[0];
            // Of `age` groups that were committed since, the newest stay in flight, and with them
            // all later copies.
            // SAFETY: the caller's promise.
            unsafe {
                self.land::<L>(places, |entry| {
                    (committed.wrapping_sub(entry.first_group) > newest).then_some(m)
                });
            }
            return;
        }
        let committed = self.committed;
        // SAFETY: the caller's promise.
        unsafe {
            self.land::<L>(places, |entry| {
                let mut done = 0;
                for lane in 0..32 {
                    let group = if entry.even { entry.first_group } else { entry.group[lane] };
                    let age = committed[lane].wrapping_sub(group);
                    done |= u32::from(age > newest) << lane;
                }
                Some(done & m)
            });
        }
    }

    /// Lands what `select` picks of each entry, up to the first for which it is `None`, and steps
    /// over entries that are done.
    #[inline(always)]
    unsafe fn land<L: Simd>(&mut self, places: Places, select: impl Fn(&Entry) -> Option<u32>) {
        let mask = self.ring.len().wrapping_sub(1);
        for i in self.head..self.tail {
            let entry = &mut self.ring[i & mask];
            let Some(lanes) = select(entry) else { break };
            let lanes = lanes & entry.mask;
            if lanes != 0 {
                // SAFETY: the caller's promise.
                unsafe { entry.land::<L>(places, lanes) };
            }
            if entry.mask == 0 && i == self.head {
                self.head += 1;
            }
        }
    }
}

impl Entry {
    /// Makes this the copy of eight blocks of 64 bytes from offsets of the arena; block `i` goes to
    /// `block[i]`, where lane `j` of its four writes the 16 bytes at place `(j ^ block[i] / 16) % 4`.
    /// The sources are fetched and not read.
    ///
    /// # Safety
    /// `from` and `block` are set, and were checked.
    #[inline(always)]
    pub(crate) unsafe fn begin_blocks<L: Simd>(&mut self, places: Places) {
        self.mask = !0;
        self.size = 16;
        self.form = Form::Late;
        // SAFETY: the caller's promise; the block keeps the counter.
        unsafe {
            *places.late += 1;
            for block in 0..8 {
                _mm_prefetch::<_MM_HINT_T0>(places.base.add(self.from[block] as usize).cast());
            }
            for block in 0..8 {
                let at = places.shared.add(self.place(block).0);
                if L::LEVEL == Level::Avx512 {
                    avx512::fill(at);
                } else {
                    at.write_bytes(0xff, 64);
                }
            }
        }
    }

    /// Writes the data of `lanes`, which are in flight.
    #[inline(always)]
    unsafe fn land<L: Simd>(&mut self, places: Places, lanes: u32) {
        if lanes == !0 && self.form != Form::Lanes {
            self.mask = 0;
            // SAFETY: sources and destinations were checked at issue.
            unsafe {
                if self.form == Form::Late {
                    *places.late -= 1;
                    for block in 0..8 {
                        let (start, order) = self.place(block);
                        let from = places.base.add(self.from[block] as usize);
                        load_ordered::<L>(places.shared.add(start), from, order);
                    }
                } else {
                    for block in 0..8 {
                        let to = places.shared.add(self.place(block).0);
                        to.copy_from_nonoverlapping(self.data[4 * block].as_ptr(), 64);
                    }
                }
            }
            return;
        }
        // SAFETY: the caller's promise.
        unsafe { self.land_lanes(places, lanes) };
    }

    #[inline(never)]
    unsafe fn land_lanes(&mut self, places: Places, lanes: u32) {
        self.mask &= !lanes;
        if self.form != Form::Lanes {
            if self.form == Form::Late {
                // SAFETY: the block keeps the counter; the sources were checked at issue.
                unsafe {
                    *places.late -= 1;
                    self.read_source(places.base);
                }
            }
            self.spread();
        }
        let mut left = lanes;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: the destination was checked at issue.
            unsafe {
                let to = places.shared.add(self.to[lane] as usize);
                to.copy_from_nonoverlapping(self.data[lane].as_ptr(), self.size as usize);
            }
        }
    }

    /// Where a block begins in shared memory, and its order.
    #[inline(always)]
    fn place(&self, block: usize) -> (usize, usize) {
        let start = self.block[block] as usize;
        (start & !63, start / 16 % 4)
    }

    /// From late blocks to blocks.
    unsafe fn read_source(&mut self, base: *const u8) {
        for block in 0..8 {
            // SAFETY: the sources were checked at issue; four elements of `data` follow.
            unsafe {
                let to = self.data.as_mut_ptr().add(4 * block).cast::<u8>();
                let from = base.add(self.from[block] as usize);
                load_parts(to, from, self.place(block).1);
            }
        }
        self.form = Form::Blocks;
    }

    /// From blocks to lanes: the lanes of a warp parted between issue and wait.
    fn spread(&mut self) {
        let data = self.data;
        for lane in 0..32 {
            let start = self.block[lane / 4];
            let place = lane ^ (start as usize / 16 % 4);
            self.data[lane] = data[place];
            self.to[lane] = (start & !63) + 16 * (place as u32 % 4);
        }
        self.form = Form::Lanes;
    }
}

/// Copies 64 bytes; those of 16-byte part `i` go to part `i ^ order`.
///
/// # Safety
/// Both pointers lead to 64 bytes; the processor has the level.
#[inline(always)]
unsafe fn load_ordered<L: Simd>(to: *mut u8, from: *const u8, order: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if L::LEVEL == Level::Avx512 {
            avx512::copy_ordered(to, from, order);
        } else {
            load_parts(to, from, order);
        }
    }
}

#[inline(always)]
unsafe fn load_parts(to: *mut u8, from: *const u8, order: usize) {
    for i in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let part = _mm_loadu_si128(from.add(16 * i).cast());
            _mm_storeu_si128(to.add(16 * (i ^ order)).cast(), part);
        }
    }
}
