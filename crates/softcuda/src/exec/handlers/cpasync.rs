//! `cp.async`: copies from global to shared memory that a thread waits for in groups.
//!
//! In the mode [`CopyMode::Strict`] an instruction reads its source and fills the destination with
//! 0xff bytes; the data lands at the wait of the issuing thread that covers its group, or when the
//! thread exits. So a kernel that forgets a wait or a barrier reads NaN or stale data here, where a
//! device might let it pass. In the mode [`CopyMode::Eager`] data lands at once.
//!
//! Each thread counts the groups it has committed. A copy carries, for each lane, the number of the
//! group that it will belong to, which is the count at its issue; `wait_group N` lands what has a
//! number below count - N.
//!
//! Loops run over indices: an iterator over two arrays is a call where the crate is compiled in parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::{
    __m128i, _MM_HINT_T0, _mm_loadu_si128, _mm_prefetch, _mm_set1_epi8, _mm_storeu_si128,
};
use std::sync::atomic::Ordering;

use super::ldsm::shared_address;
use super::mem;
use crate::exec::CopyMode;
use crate::exec::op::{Exec, Level, Op, Reg, Simd, mask, pick, reg, wide};
use crate::exec::simd::avx512;
use crate::exec::warp::Warp;
use crate::fault::{FaultKind, LoadError, Space};
use crate::lower::emit::{A, B, Emit, Mods, VOp, X};
use crate::memory::{GLOBAL_BASE, GRANULE, GRANULE_FULL};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::{RegClass, Space as MemorySpace};

/// The copies of one instruction that have not landed.
#[derive(Clone)]
#[repr(C, align(64))]
struct Entry {
    /// What the destinations will hold, 16 bytes a lane.
    data: [[u8; 16]; 32],
    /// Offset of each lane in shared memory. With `blocks`, the first eight are those of blocks of
    /// 64 bytes, whose data lies in the order of the destination.
    to: [u32; 32],
    /// Group of each lane; with `even`, that of lane 0 is that of all.
    group: [u32; 32],
    /// Lanes whose data has not landed.
    mask: u32,
    /// Bytes a lane.
    size: u32,
    even: bool,
    blocks: bool,
    /// Of each block: lane `i` of its four wrote the 16 bytes at place `i ^ order`.
    order: [u8; 8],
}

/// Copies in flight of a warp: a ring of entries in order of issue.
pub struct Copies {
    /// The ring; a power of two of entries, or none before the first copy.
    ring: Vec<Entry>,
    /// Number of the oldest entry that may be in flight.
    head: usize,
    /// Number of the next entry.
    tail: usize,
    /// Groups that each lane has committed.
    committed: [u32; 32],
    /// All lanes have committed as many as lane 0.
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

impl Copies {
    /// Forgets everything: a new block begins.
    pub fn reset(&mut self) {
        (self.head, self.tail) = (0, 0);
        self.committed = [0; 32];
        self.even = true;
    }

    /// An entry behind all others, with its groups.
    #[inline(always)]
    fn push(&mut self) -> &mut Entry {
        if self.tail - self.head == self.ring.len() {
            self.grow();
        }
        let slot = self.tail & (self.ring.len() - 1);
        self.tail += 1;
        let entry = &mut self.ring[slot];
        entry.even = self.even;
        if self.even {
            entry.group[0] = self.committed[0];
        } else {
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
            data: [[0; 16]; 32],
            to: [0; 32],
            group: [0; 32],
            mask: 0,
            size: 0,
            even: true,
            blocks: false,
            order: [0; 8],
        };
        let at = |i: usize| self.ring[i & (old - 1)].clone();
        let mut ring: Vec<Entry> = (self.head..self.tail).map(at).collect();
        ring.resize((2 * old).max(16), empty);
        self.tail -= self.head;
        self.head = 0;
        self.ring = ring;
    }

    /// Lands what `select` picks of each entry, up to the first for which it is `None`, and steps
    /// over entries that are done.
    ///
    /// # Safety
    /// `shared` is the memory of the block whose bounds the copies were checked against.
    #[inline(always)]
    unsafe fn land(&mut self, shared: *mut u8, select: impl Fn(&Entry) -> Option<u32>) {
        let mask = self.ring.len().wrapping_sub(1);
        for i in self.head..self.tail {
            let entry = &mut self.ring[i & mask];
            let Some(lanes) = select(entry) else { break };
            let lanes = lanes & entry.mask;
            if lanes != 0 {
                // SAFETY: the caller's promise.
                unsafe { entry.land(shared, lanes) };
            }
            if entry.mask == 0 && i == self.head {
                self.head += 1;
            }
        }
    }
}

impl Entry {
    /// Writes the data of `lanes`, which are in flight.
    ///
    /// # Safety
    /// As [`Copies::land`].
    #[inline(always)]
    unsafe fn land(&mut self, shared: *mut u8, lanes: u32) {
        self.mask &= !lanes;
        if self.blocks {
            if lanes != !0 {
                self.spread();
            } else {
                for block in 0..8 {
                    let from = self.data[4 * block].as_ptr();
                    // SAFETY: the destination was checked at issue; four elements of `data`
                    // follow.
                    unsafe {
                        let to = shared.add(self.to[block] as usize);
                        to.copy_from_nonoverlapping(from, 64);
                    }
                }
                return;
            }
        }
        let mut left = lanes;
        while left != 0 {
            let lane = left.trailing_zeros() as usize;
            left &= left - 1;
            // SAFETY: the destination was checked at issue.
            unsafe {
                let to = shared.add(self.to[lane] as usize);
                to.copy_from_nonoverlapping(self.data[lane].as_ptr(), self.size as usize);
            }
        }
    }

    /// From blocks to lanes: the lanes of a warp parted between issue and wait.
    #[cold]
    #[inline(never)]
    fn spread(&mut self) {
        let (data, to) = (self.data, self.to);
        for lane in 0..32 {
            let place = lane ^ usize::from(self.order[lane / 4]);
            self.data[lane] = data[place];
            self.to[lane] = to[lane / 4] + 16 * (place as u32 % 4);
        }
        self.blocks = false;
    }
}

/// The lanes of `mask` exit: their copies land.
pub fn lanes_exit(warp: &mut Warp, mask: u32) {
    // SAFETY: `shared` is the memory of the warp's block.
    unsafe { warp.copies.land(warp.shared, |_| Some(mask)) };
}

/// A copy: destination `a` + low half of `imm`, source `b` + high half of `imm` (signed). `x[0]`
/// holds the source bytes, or is read as a mask of lanes that ignore the source, as the const
/// parameter says.
struct Copy<const SIZE: u32, const FORM: u8>;

/// All bytes come from the source.
const WHOLE: u8 = 0;
/// A register holds how many bytes come from the source.
const SOURCE_SIZE: u8 = 1;
/// Lanes of a mask take zeros.
const IGNORE: u8 = 2;

/// Addresses of the lanes of a copy.
struct Lanes {
    to: [u32; 32],
    from: [u64; 32],
    bytes: [u32; 32],
}

impl Lanes {
    /// # Safety
    /// The operands of `p` are registers or a mask of the kernel, by the form.
    #[inline(always)]
    unsafe fn of<const SIZE: u32, const FORM: u8>(r: *mut Reg, p: &Op) -> Self {
        let mut lanes = Lanes { to: [0; 32], from: [0; 32], bytes: [SIZE; 32] };
        let (to_offset, from_offset) = (p.imm as u32, (p.imm >> 32) as i32 as u64);
        // SAFETY: the caller's promise.
        unsafe {
            for lane in 0..32 {
                lanes.to[lane] = reg(r, p.a)[lane].wrapping_add(to_offset);
                lanes.from[lane] = wide(r, p.b, lane).wrapping_add(from_offset);
            }
            if FORM == SOURCE_SIZE {
                lanes.bytes = *reg(r, p.x[0]);
            }
            if FORM == IGNORE {
                let ignored = mask(r, p.x[0]);
                for lane in 0..32 {
                    lanes.bytes[lane] = if ignored >> lane & 1 == 1 { 0 } else { SIZE };
                }
            }
        }
        lanes
    }
}

impl<const SIZE: u32, const FORM: u8> Exec for Copy<SIZE, FORM> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers or a mask of the kernel, by the form; the warp's
        // memory is that of its block and device; the processor has the level.
        unsafe {
            let lanes = Lanes::of::<SIZE, FORM>(r, p);
            let whole = FORM == WHOLE || all_are(&lanes.bytes, SIZE);
            if SIZE == 16 && m == !0 && whole && copy_blocks::<L>(w, &lanes) {
                return true;
            }
            copy::<SIZE, FORM>(r, w, p, m)
        }
    }
}

/// Whether all lanes are `value`.
#[inline(always)]
fn all_are(lanes: &[u32; 32], value: u32) -> bool {
    lanes.iter().fold(0, |different, lane| different | (lane ^ value)) == 0
}

/// The copy of 16 bytes in every lane, if each four lanes read 64 bytes in order and write a block
/// of 64 bytes, each lane at its place exclusive-or a number: what swizzled tiles do. False without
/// any effect for all else, wrong addresses included.
///
/// # Safety
/// `w` is a warp of a running block; the processor has the level.
#[inline(always)]
unsafe fn copy_blocks<L: Simd>(w: &mut Warp, lanes: &Lanes) -> bool {
    // SAFETY: the caller's promise.
    if w.copy_mode == CopyMode::Eager || !unsafe { in_fours::<L>(&lanes.to, &lanes.from) } {
        return false;
    }
    let mut offsets = [0u64; 8];
    for block in 0..8 {
        let (to, from) = (lanes.to[4 * block], lanes.from[4 * block]);
        let offset = from.wrapping_sub(GLOBAL_BASE);
        let fits = u64::from(to & !63) + 64 <= u64::from(w.shared_size);
        if (to | from as u32) & 15 != 0 || !fits || offset >= w.global.size {
            return false;
        }
        // SAFETY: the table has an entry for each 256 bytes of the arena.
        let granule = unsafe { &*w.global.granules.add((offset / GRANULE) as usize) };
        let valid = granule.load(Ordering::Relaxed);
        if valid > GRANULE_FULL || (offset % GRANULE) + 64 > u64::from(valid) {
            return false;
        }
        offsets[block] = offset;
    }
    let (shared, base) = (w.shared, w.global.base);
    let entry = w.copies.push();
    entry.mask = !0;
    entry.size = 16;
    entry.blocks = true;
    for block in 0..8 {
        let to = lanes.to[4 * block];
        let order = to >> 4 & 3;
        entry.order[block] = order as u8;
        entry.to[block] = to & !63;
        // SAFETY: source and destination were checked above; four elements of `data` follow; the
        // next rows of a tile may be fetched ahead from any address.
        unsafe {
            let from = base.add(offsets[block] as usize);
            _mm_prefetch::<_MM_HINT_T0>(from.wrapping_add(AHEAD).cast());
            let data = entry.data.as_mut_ptr().add(4 * block).cast::<u8>();
            load_ordered::<L>(data, from, order as usize);
            shared.add((to & !63) as usize).write_bytes(0xff, 64);
        }
    }
    true
}

/// How far ahead of a copy its source is fetched: tiles go along rows by this much in one or two
/// steps.
const AHEAD: usize = 256;

/// Copies 64 bytes; those of 16-byte part `i` go to part `i ^ order`.
///
/// # Safety
/// Both pointers lead to 64 bytes; the processor has the level.
#[inline(always)]
unsafe fn load_ordered<L: Simd>(to: *mut u8, from: *const u8, order: usize) {
    if L::LEVEL == Level::Avx512 {
        // SAFETY: the caller's promise.
        return unsafe { avx512::copy_ordered(to, from, order) };
    }
    for i in 0..4 {
        // SAFETY: the caller's promise.
        unsafe {
            let part = _mm_loadu_si128(from.add(16 * i).cast());
            _mm_storeu_si128(to.add(16 * (i ^ order)).cast::<__m128i>(), part);
        }
    }
}

/// Whether in each four lanes the destinations differ from the first by exclusive-or of 16, 32 and
/// 48, and the sources by addition.
///
/// # Safety
/// The processor has the level.
#[inline(always)]
unsafe fn in_fours<L: Simd>(to: &[u32; 32], from: &[u64; 32]) -> bool {
    if L::LEVEL == Level::Avx512 {
        // SAFETY: the caller's promise.
        return unsafe { avx512::in_fours(to, from) };
    }
    let mut different = 0;
    for first in (0..32).step_by(4) {
        for i in 1..4 {
            different |= u64::from(to[first + i] ^ to[first] ^ (16 * i as u32));
            different |= from[first + i].wrapping_sub(from[first]) ^ (16 * i as u64);
        }
    }
    different == 0
}

/// Any copy, lane by lane. Not inlined, and without arguments on the handler's stack: the handler
/// calls the next one in tail position.
///
/// # Safety
/// `w` is a warp of a running block, `p` an op of its kernel, `r` its registers.
#[inline(never)]
unsafe fn copy<const SIZE: u32, const FORM: u8>(r: *mut Reg, w: &mut Warp, p: &Op, m: u32) -> bool {
    // SAFETY: the caller's promise.
    let lanes = &unsafe { Lanes::of::<SIZE, FORM>(r, p) };
    let last = w.shared_size.wrapping_sub(SIZE);
    let mut bad = u32::from(w.shared_size < SIZE);
    for lane in 0..32 {
        let active = 0u32.wrapping_sub(m >> lane & 1);
        let misaligned = (lanes.to[lane] | lanes.from[lane] as u32) & (SIZE - 1);
        let outside = u32::from(lanes.to[lane] > last) | u32::from(lanes.bytes[lane] > SIZE);
        bad |= (misaligned | outside) & active;
    }
    let mut from = [std::ptr::null(); 32];
    for lane in 0..32 {
        if m >> lane & 1 == 1 && lanes.bytes[lane] != 0 {
            from[lane] = source(w, lanes.from[lane], lanes.bytes[lane].min(SIZE));
            bad |= u32::from(from[lane].is_null());
        }
    }
    if bad != 0 {
        return refuse(w, p, m, lanes, SIZE);
    }
    let eager = w.copy_mode == CopyMode::Eager;
    let shared = w.shared;
    let entry = w.copies.push();
    entry.mask = m;
    entry.size = SIZE;
    entry.blocks = false;
    entry.to = lanes.to;
    for lane in 0..32 {
        if m >> lane & 1 == 0 {
            continue;
        }
        let data = entry.data[lane].as_mut_ptr();
        // SAFETY: source and destination were checked above; `data` has 16 bytes.
        unsafe {
            if SIZE == 16 && lanes.bytes[lane] == 16 {
                _mm_storeu_si128(data.cast(), _mm_loadu_si128(from[lane].cast()));
            } else {
                entry.data[lane] = [0; 16];
                let data = entry.data[lane].as_mut_ptr();
                if !from[lane].is_null() {
                    data.copy_from_nonoverlapping(from[lane], lanes.bytes[lane] as usize);
                }
            }
            let to = shared.add(lanes.to[lane] as usize);
            if SIZE == 16 {
                _mm_storeu_si128(to.cast(), _mm_set1_epi8(-1));
            } else {
                to.write_bytes(0xff, SIZE as usize);
            }
        }
    }
    if eager {
        lanes_exit(w, m);
    }
    true
}

/// The host address of `bytes` (1 to 16, aligned) bytes of global or pinned memory, or null.
#[inline(always)]
fn source(w: &Warp, address: u64, bytes: u32) -> *const u8 {
    let offset = address.wrapping_sub(GLOBAL_BASE);
    if offset >= w.global.size {
        return pinned(w, address, bytes);
    }
    // SAFETY: the table has an entry for each 256 bytes of the arena.
    let granule = unsafe { &*w.global.granules.add((offset / GRANULE) as usize) };
    let valid = granule.load(Ordering::Relaxed);
    // An aligned access of at most 16 bytes lies in one granule.
    let end = (offset % GRANULE) as u32 + bytes;
    if valid > GRANULE_FULL || end > u32::from(valid) {
        return std::ptr::null();
    }
    // SAFETY: `offset` is inside the arena.
    unsafe { w.global.base.add(offset as usize).cast_const() }
}

#[cold]
#[inline(never)]
fn pinned(w: &Warp, address: u64, bytes: u32) -> *const u8 {
    // SAFETY: the device memory outlives the launch.
    let memory = unsafe { &*w.memory };
    let region = memory.pinned_region(address, u64::from(bytes));
    region.map_or(std::ptr::null(), |_| address as *const u8)
}

/// Reports why a copy cannot be done, by the first reason that some lane has.
#[cold]
#[inline(never)]
fn refuse(w: &mut Warp, p: &Op, m: u32, lanes: &Lanes, size: u32) -> bool {
    let select = |test: &dyn Fn(usize) -> bool| {
        (0..32).filter(|i| m >> i & 1 == 1 && test(*i)).fold(0u32, |mask, i| mask | 1 << i)
    };
    let first = |mask: u32| mask.trailing_zeros() as usize % 32;
    let too_many = select(&|i| lanes.bytes[i] > size);
    if too_many != 0 {
        let detail = format!("src-size {} is above {size}", lanes.bytes[first(too_many)]);
        return w.fault(p, FaultKind::InvalidOperand, too_many, detail);
    }
    let align = u64::from(size);
    let to = |mask| u64::from(lanes.to[first(mask)]);
    let from = |mask| lanes.from[first(mask)];
    let mask = select(&|i| !lanes.to[i].is_multiple_of(size));
    if mask != 0 {
        let kind = FaultKind::Misaligned { addr: to(mask), size, space: Space::Shared };
        return w.fault(p, kind, mask, String::new());
    }
    let mask = select(&|i| !lanes.from[i].is_multiple_of(align));
    if mask != 0 {
        let kind = FaultKind::Misaligned { addr: from(mask), size, space: Space::Global };
        return w.fault(p, kind, mask, String::new());
    }
    let mask = select(&|i| u64::from(lanes.to[i]) + align > u64::from(w.shared_size));
    if mask != 0 {
        let kind = FaultKind::IllegalAddress { addr: to(mask), size, space: Space::Shared };
        let detail = format!("the block has {} bytes of shared memory", w.shared_size);
        return w.fault(p, kind, mask, detail);
    }
    let mask =
        select(&|i| lanes.bytes[i] != 0 && source(w, lanes.from[i], lanes.bytes[i]).is_null());
    let kind = FaultKind::IllegalAddress { addr: from(mask), size, space: Space::Global };
    // SAFETY: the device memory outlives the launch.
    let detail = unsafe { &*w.memory }.describe(from(mask));
    w.fault(p, kind, mask, detail)
}

struct Commit;
impl Exec for Commit {
    #[inline(always)]
    unsafe fn run<L: Simd>(_r: *mut Reg, _p: &Op, w: &mut Warp, m: u32) -> bool {
        let copies = &mut w.copies;
        if copies.even && m == !0 {
            copies.committed[0] = copies.committed[0].wrapping_add(1);
            return true;
        }
        if copies.even {
            copies.committed = [copies.committed[0]; 32];
            copies.even = false;
        }
        for (lane, count) in copies.committed.iter_mut().enumerate() {
            *count = count.wrapping_add(m >> lane & 1);
        }
        true
    }
}

/// `wait_group imm`.
struct WaitGroup;
impl Exec for WaitGroup {
    #[inline(always)]
    unsafe fn run<L: Simd>(_r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        let newest = u32::try_from(p.imm).unwrap_or(u32::MAX);
        let (even, shared) = (w.copies.even, w.shared);
        if even {
            let committed = w.copies.committed[0];
            // Of `age` groups that were committed since, the newest stay in flight, and with them
            // all later copies.
            // SAFETY: `shared` is the memory of the warp's block.
            unsafe {
                w.copies.land(shared, |entry| {
                    (committed.wrapping_sub(entry.group[0]) > newest).then_some(m)
                });
            }
            return true;
        }
        let committed = w.copies.committed;
        // SAFETY: `shared` is the memory of the warp's block.
        unsafe {
            w.copies.land(shared, |entry| {
                let mut done = 0;
                for lane in 0..32 {
                    let group = entry.group[if entry.even { 0 } else { lane }];
                    let age = committed[lane].wrapping_sub(group);
                    done |= u32::from(age > newest) << lane;
                }
                Some(done & m)
            });
        }
        true
    }
}

struct WaitAll;
impl Exec for WaitAll {
    #[inline(always)]
    unsafe fn run<L: Simd>(_r: *mut Reg, _p: &Op, w: &mut Warp, m: u32) -> bool {
        lanes_exit(w, m);
        true
    }
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    if opcode != "cp" {
        return Ok(false);
    }
    let mut mods = Mods::new(cx.module, inst);
    if !mods.take("async") {
        return Ok(false);
    }
    if mods.take("commit_group") {
        mods.finish(cx)?;
        let op = VOp::of::<Commit>(cx);
        cx.push(op);
        return Ok(true);
    }
    if mods.take("wait_all") {
        mods.finish(cx)?;
        let op = VOp::of::<WaitAll>(cx);
        cx.push(op);
        return Ok(true);
    }
    if mods.take("wait_group") {
        mods.finish(cx)?;
        let [Operand::Int(newest)] = &*inst.operands else {
            return Err(cx.error("wait_group needs a number"));
        };
        let op = VOp::of::<WaitGroup>(cx).imm(*newest);
        cx.push(op);
        return Ok(true);
    }
    let cached = mods.take("ca");
    let form = (cached || mods.take("cg"))
        && (mods.take("shared") || mods.take("shared::cta"))
        && mods.take("global");
    mods.drop_if(|m| m.starts_with("L2::"));
    mods.finish(cx)?;
    let [to, from, Operand::Int(size), rest @ ..] = &*inst.operands else {
        return Err(cx.error("cp.async of this form is not supported"));
    };
    if !form || !(matches!(size, 4 | 8) && cached || *size == 16) {
        return Err(cx.error("cp.async of this form is not supported"));
    }
    issue(cx, to, from, *size, rest)?;
    Ok(true)
}

fn issue(
    cx: &mut Emit,
    to: &Operand,
    from: &Operand,
    size: u64,
    rest: &[Operand],
) -> Result<(), LoadError> {
    let (to, to_offset) = shared_address(cx, to)?;
    let from = mem::address(cx, from, Some(MemorySpace::Global))?;
    let from_offset = i32::try_from(from.offset as i64)
        .ok()
        .ok_or_else(|| cx.error("the offset is too large"))?;
    // A 64-bit register at the end is a cache policy.
    let (form, extra) = match rest.first() {
        None => (WHOLE, None),
        Some(o @ Operand::Int(_)) => (SOURCE_SIZE, Some(o)),
        Some(o @ Operand::NotReg(_)) => (IGNORE, Some(o)),
        Some(o @ Operand::Reg(reg)) => match cx.class(*reg)? {
            RegClass::Pred => (IGNORE, Some(o)),
            RegClass::B32 => (SOURCE_SIZE, Some(o)),
            _ => (WHOLE, None),
        },
        Some(_) => return Err(cx.error("cp.async of this form is not supported")),
    };
    macro_rules! by_form {
        ($size:literal) => {
            match form {
                WHOLE => pick::<Copy<$size, WHOLE>>(cx.level),
                SOURCE_SIZE => pick::<Copy<$size, SOURCE_SIZE>>(cx.level),
                _ => pick::<Copy<$size, IGNORE>>(cx.level),
            }
        };
    }
    let handler = match size {
        4 => by_form!(4),
        8 => by_form!(8),
        _ => by_form!(16),
    };
    let imm = u64::from(to_offset) | u64::from(from_offset as u32) << 32;
    let op = VOp::new(handler).src(A, to).src(B, from.base).imm(imm);
    let op = match (form, extra) {
        (SOURCE_SIZE, Some(bytes)) => op.src(X, cx.src32(bytes)?),
        (IGNORE, Some(predicate)) => op.src_mask(X, cx.src_mask(predicate)?),
        _ => op,
    };
    cx.push(op);
    Ok(())
}
