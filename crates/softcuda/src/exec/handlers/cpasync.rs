//! `cp.async`: copies from global to shared memory that a thread waits for in groups.
//!
//! In the mode [`CopyMode::Strict`] an instruction reads its source (`copies`) and fills the destination with
//! 0xff bytes; the data lands at the wait of the issuing thread that covers its group, or when the
//! thread exits. So a kernel that forgets a wait or a barrier reads NaN or stale data here, where a
//! device might let it pass. In the mode [`CopyMode::Eager`] data lands at once.
//!
//! Loops run over indices: an iterator over two arrays is a call where the crate is compiled in parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::{_mm_loadu_si128, _mm_set1_epi8, _mm_storeu_si128};
use std::sync::atomic::Ordering;

use super::address::address;
use super::copies::Places;
use super::ldsm::shared_address;
use crate::exec::CopyMode;
use crate::exec::op::{Base, Exec, Level, Op, Reg, Simd, mask, pick, reg, wide};
use crate::exec::simd::avx512;
use crate::exec::warp::Warp;
use crate::fault::{FaultKind, LoadError, Space};
use crate::lower::emit::{A, B, Emit, Mods, VOp, X};
use crate::memory::{GLOBAL_BASE, GRANULE, GRANULE_FULL};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::{RegClass, Space as MemorySpace};

/// The lanes of `mask` exit: their copies land.
pub fn lanes_exit(warp: &mut Warp, mask: u32) {
    // SAFETY: the block keeps the warp's copies, whose places are those of the warp.
    unsafe { (*warp.copies).land_all::<Base>(Places::of(warp), mask) };
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
            let whole = match FORM {
                WHOLE => true,
                SOURCE_SIZE => all_are(reg(r, p.x[0]), SIZE),
                _ => mask(r, p.x[0]) == 0,
            };
            if SIZE == 16 && m == !0 && whole && copy_blocks::<L>(r, p, w) {
                return true;
            }
            copy::<SIZE, FORM>(r, w, p, m)
        }
    }
}

/// Whether all lanes are `value`.
#[inline(always)]
fn all_are(lanes: &[u32; 32], value: u32) -> bool {
    let mut different = 0;
    for lane in 0..32 {
        different |= lanes[lane] ^ value;
    }
    different == 0
}

/// The copy of 16 bytes in every lane, if each four lanes read 64 bytes in order and write a block
/// of 64 bytes, each lane at its place exclusive-or a number: what swizzled tiles do. False without
/// any effect for all else, wrong addresses included.
///
/// # Safety
/// As [`Copy::run`].
#[inline(always)]
unsafe fn copy_blocks<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp) -> bool {
    if w.copy_mode == CopyMode::Eager {
        return false;
    }
    // SAFETY: the block keeps the warp's copies.
    let copies = unsafe { &mut *w.copies };
    // Straight into the entry, whose lines are whole: the parts of what is written are read at once.
    let entry = copies.next();
    let to_offset = p.imm as u32;
    let from_offset = ((p.imm >> 32) as i32 as u64).wrapping_sub(GLOBAL_BASE);
    let offsets = (to_offset, from_offset, w.shared_size);
    // SAFETY: the caller's promise.
    let good = unsafe {
        if L::LEVEL == Level::Avx512 {
            let into = (&mut entry.block, &mut entry.from);
            avx512::find_blocks(r, (p.a, p.b), offsets, into)
        } else {
            find_blocks(r, p, offsets, (&mut entry.block, &mut entry.from))
        }
    };
    if !good {
        return false;
    }
    let (mut last, mut crosses) = (u64::MAX, false);
    for block in 0..8 {
        let offset = entry.from[block];
        crosses |= offset % GRANULE > GRANULE - 64;
        // Neighbours often share a granule.
        if offset / GRANULE != last {
            last = offset / GRANULE;
            if w.global.valid(offset) != Some(u64::from(GRANULE_FULL)) {
                return false;
            }
        }
    }
    let full = |offset: u64| w.global.valid(offset) == Some(u64::from(GRANULE_FULL));
    if crosses && !entry.from.iter().all(|offset| full(offset + 63)) {
        return false;
    }
    let places = Places::of(w);
    // SAFETY: sources and destinations are in the entry, and were checked.
    unsafe { copies.push().begin_blocks::<L>(places) };
    true
}

/// Whether in each four lanes the destinations differ from the first by exclusive-or of 16, 32 and
/// 48, and the sources by addition, aligned, and the former inside shared memory; the destinations
/// of the first of the fours, and offsets of their sources. Added: to destinations and to sources;
/// the latter makes an offset in the arena of an address.
///
/// # Safety
/// The operands are registers of the kernel.
#[inline(always)]
unsafe fn find_blocks(
    r: *mut Reg,
    p: &Op,
    (to_offset, from_offset, shared_size): (u32, u64, u32),
    (first_to, first_from): (&mut [u32; 8], &mut [u64; 8]),
) -> bool {
    // SAFETY: the caller's promise.
    let (to, low, high) = unsafe { (reg(r, p.a), reg(r, p.b), reg(r, p.b + 1)) };
    let mut different = 0;
    for four in 0..8 {
        let at = 4 * four;
        let start = to[at].wrapping_add(to_offset);
        for i in 1..4 {
            let step = 16 * i as u32;
            different |= to[at + i].wrapping_add(to_offset) ^ start ^ step;
            different |= low[at + i].wrapping_sub(low[at]) ^ step;
            different |= high[at + i] ^ high[at];
        }
        let address = u64::from(low[at]) | u64::from(high[at]) << 32;
        let offset = address.wrapping_add(from_offset);
        different |= (start | offset as u32) & 15;
        // The low words must not wrap.
        different |= u32::from(low[at] > u32::MAX - 48);
        different |= u32::from(start | 63 >= shared_size);
        first_to[four] = start;
        first_from[four] = offset;
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
    // SAFETY: the block keeps the warp's copies.
    let entry = unsafe { (*w.copies).push() };
    entry.mask = m;
    entry.size = SIZE;
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
        // SAFETY: the block keeps the warp's copies.
        unsafe { (*w.copies).commit(m) };
        true
    }
}

/// `wait_group imm`.
struct WaitGroup;
impl Exec for WaitGroup {
    #[inline(always)]
    unsafe fn run<L: Simd>(_r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        let newest = u32::try_from(p.imm).unwrap_or(u32::MAX);
        // SAFETY: the block keeps the warp's copies, whose places are those of the warp.
        unsafe { (*w.copies).land_groups::<L>(Places::of(w), m, newest) };
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
    let from = address(cx, from, Some(MemorySpace::Global))?;
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
    let op = VOp::new(handler).named("cp.async").src(A, to).src(B, from.base).imm(imm);
    let op = match (form, extra) {
        (SOURCE_SIZE, Some(bytes)) => op.src(X, cx.src32(bytes)?),
        (IGNORE, Some(predicate)) => op.src_mask(X, cx.src_mask(predicate)?),
        _ => op,
    };
    cx.push(op);
    Ok(())
}
