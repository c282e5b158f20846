//! Loads and stores.
//!
//! Fast paths walk arrays by index: an iterator over two of them is a call where the crate is
//! compiled in parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

use super::access::{GENERIC, GLOBAL, LOCAL, PARAM, SHARED, addresses, places};
use super::copies;
use super::mov::{extend, extend_small};
use super::wide512;
use crate::exec::op::{Exec, Level, Op, Reg, Simd, pick, put, reg};
use crate::exec::simd::avx2;
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, D, Emit, Kind, Mods, Slot, V, VOp, X};
use crate::memory::{GLOBAL_BASE, GRANULE};
use crate::ptx::ast::{AddressBase, Inst, Operand, Symbol};
use crate::ptx::types::{RegClass, ScalarType, Space};

/// Loads `N` elements of `SZ` bytes into the registers `x[0..N]` (pairs of 8 bytes).
struct Load<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>;
/// Stores them.
struct Store<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>;

/// The register of word `k` of an access of elements of `size` bytes.
#[inline(always)]
fn word_reg(p: &Op, size: usize, k: usize) -> u16 {
    if size == 8 { p.x[k / 2] + (k % 2) as u16 } else { p.x[k] }
}

/// The host address if the lanes of a full warp access consecutive elements.
#[inline(always)]
unsafe fn consecutive<const S: u8, const WIDE: bool, L: Simd>(
    r: *mut Reg,
    p: &Op,
    w: &Warp,
    size: usize,
) -> Option<*mut u8> {
    if size > 16 {
        return None;
    }
    let bytes = 32 * size as u64;
    // SAFETY: the operands are registers of the kernel.
    unsafe {
        let first = if L::LEVEL == Level::Avx512 {
            wide512::consecutive::<WIDE>(r, p.a, size as u32)?
        } else {
            let (lo, hi) = (reg(r, p.a), reg(r, p.a + u16::from(WIDE)));
            let (lo0, hi0) = (lo[0], if WIDE { hi[0] } else { 0 });
            let mut differs = 0;
            for l in 0..32 {
                differs |= lo[l] ^ lo0.wrapping_add((l * size) as u32);
                if WIDE {
                    differs |= hi[l] ^ hi0;
                }
            }
            if differs != 0 || lo0 > u32::MAX - 32 * size as u32 {
                return None;
            }
            u64::from(lo0) | (u64::from(hi0) << 32)
        };
        if S == SHARED {
            let first = first.wrapping_add(p.imm) & if WIDE { !0 } else { 0xffff_ffff };
            let fits = first & (size as u64 - 1) == 0
                && first <= u64::from(w.shared_size)
                && bytes <= u64::from(w.shared_size) - first;
            return fits.then(|| w.shared.add(first as usize));
        }
        let first = first.wrapping_add(p.imm);
        let fits = first & (size as u64 - 1) == 0 && w.global.allows(first, bytes);
        fits.then(|| w.global.host(first))
    }
}

/// Host addresses of an access that is right in every lane of `m`; other lanes get the address of
/// one that is. `None`: the slow way finds out what is wrong, or where else the lanes point.
#[inline(always)]
unsafe fn hosts<const S: u8, const WIDE: bool>(
    r: *mut Reg,
    p: &Op,
    w: &Warp,
    size: usize,
    m: u32,
) -> Option<[*mut u8; 32]> {
    // SAFETY: the operands are registers of the kernel.
    let mut address = unsafe { addresses::<WIDE>(r, p) };
    if m != !0 {
        let spare = address[m.trailing_zeros() as usize & 31];
        for l in 0..32 {
            let on = 0u64.wrapping_sub(u64::from(m >> l & 1));
            address[l] = (address[l] & on) | (spare & !on);
        }
    }
    let (mut askew, mut least, mut most) = (0, u64::MAX, 0);
    for l in 0..32 {
        askew |= address[l];
        least = least.min(address[l]);
        most = most.max(address[l]);
    }
    if askew & (size as u64 - 1) != 0 {
        return None;
    }
    let mut out = [std::ptr::null_mut(); 32];
    if S == SHARED {
        if most > u64::from(w.shared_size).checked_sub(size as u64)? {
            return None;
        }
        for l in 0..32 {
            out[l] = w.shared.wrapping_add(address[l] as usize);
        }
        return Some(out);
    }
    if w.global.allows_all(least, most + size as u64) {
        for l in 0..32 {
            out[l] = w.global.host(address[l]);
        }
        return Some(out);
    }
    // One granule holds the whole access of a lane, which is aligned to its size; neighbours often
    // share it.
    let (mut granule, mut valid) = (u64::MAX, 0);
    for l in 0..32 {
        let offset = address[l].wrapping_sub(GLOBAL_BASE);
        if offset / GRANULE != granule {
            granule = offset / GRANULE;
            valid = w.global.valid(offset)?;
        }
        if offset % GRANULE + size as u64 > valid {
            return None;
        }
        out[l] = w.global.base.wrapping_add(offset as usize);
    }
    Some(out)
}

/// An access of 32 lanes side by side.
#[repr(C, align(64))]
struct Lanes([u8; 1024]);

/// Copies the elements of the lanes from where they are side by side to the registers.
#[inline(always)]
unsafe fn spread<const SZ: usize, const N: usize, L: Simd>(
    r: *mut Reg,
    p: &Op,
    m: u32,
    from: *const u8,
) {
    // SAFETY: 32 elements are readable, the operands are registers of the kernel.
    unsafe {
        if SZ < 4 {
            for k in 0..N {
                let mut v = [0u32; 32];
                for (l, v) in v.iter_mut().enumerate() {
                    *v = element(from.add((l * N + k) * SZ), SZ);
                }
                put::<L>(r, p.x[k], m, &v);
            }
        } else if L::LEVEL == Level::Avx512 && SZ * N <= 16 {
            spread512::<SZ, N>(r, p, m, from);
        } else {
            let words = SZ * N / 4;
            if L::LEVEL == Level::Avx2 && m == !0 && words == 4 {
                let to: [u16; 4] = std::array::from_fn(|k| word_reg(p, SZ, k));
                return avx2::spread_fours(from, to.map(|i| r.add(usize::from(i)).cast()));
            }
            for k in 0..words {
                let mut v = [0u32; 32];
                for (l, v) in v.iter_mut().enumerate() {
                    *v = from.cast::<u32>().add(l * words + k).read();
                }
                put::<L>(r, word_reg(p, SZ, k), m, &v);
            }
        }
    }
}

/// The inverse of [`spread`], of all lanes.
#[inline(always)]
unsafe fn collect<const SZ: usize, const N: usize, L: Simd>(r: *mut Reg, p: &Op, to: *mut u8) {
    // SAFETY: 32 elements are writable, the operands are registers of the kernel.
    unsafe {
        if SZ < 4 {
            for k in 0..N {
                let v = reg(r, p.x[k]);
                for (l, v) in v.iter().enumerate() {
                    set_element(to.add((l * N + k) * SZ), SZ, *v);
                }
            }
        } else if L::LEVEL == Level::Avx512 && SZ * N <= 16 {
            collect512::<SZ, N>(r, p, to);
        } else {
            let words = SZ * N / 4;
            if L::LEVEL == Level::Avx2 && words == 4 {
                let v: [u16; 4] = std::array::from_fn(|k| word_reg(p, SZ, k));
                return avx2::collect_fours(
                    to,
                    v.map(|i| r.add(usize::from(i)).cast_const().cast()),
                );
            }
            for k in 0..words {
                let v = reg(r, word_reg(p, SZ, k));
                for (l, v) in v.iter().enumerate() {
                    to.cast::<u32>().add(l * words + k).write(*v);
                }
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn spread512<const SZ: usize, const N: usize>(r: *mut Reg, p: &Op, m: u32, from: *const u8) {
    let words = SZ * N / 4;
    for h in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let from = from.add(64 * words * h);
            let v = match words {
                1 => wide512::load_words::<1>(from),
                2 => wide512::load_words::<2>(from),
                _ => wide512::load_words::<4>(from),
            };
            for (k, v) in v.iter().enumerate().take(words) {
                wide512::set(r, word_reg(p, SZ, k), h, m, *v);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn collect512<const SZ: usize, const N: usize>(r: *mut Reg, p: &Op, to: *mut u8) {
    let words = SZ * N / 4;
    for h in 0..2 {
        // SAFETY: the caller's promise.
        unsafe {
            let mut v = [wide512::get(r, word_reg(p, SZ, 0), h); 4];
            for (k, v) in v.iter_mut().enumerate().take(words) {
                *v = wide512::get(r, word_reg(p, SZ, k), h);
            }
            let to = to.add(64 * words * h);
            match words {
                1 => wide512::store_words::<1>(to, v),
                2 => wide512::store_words::<2>(to, v),
                _ => wide512::store_words::<4>(to, v),
            }
        }
    }
}

impl<const S: u8, const SZ: usize, const N: usize, const WIDE: bool> Exec for Load<S, SZ, N, WIDE> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel; accesses are checked.
        unsafe {
            if S == GLOBAL || S == SHARED || S == GENERIC {
                if m == !0
                    && let Some(host) = consecutive::<S, WIDE, L>(r, p, w, SZ * N)
                {
                    spread::<SZ, N, L>(r, p, !0, host);
                    return true;
                }
                if S == GLOBAL
                    && SZ == 4
                    && N == 1
                    && m == !0
                    && let Some(rows) = fours::<L>(r, p, w, (0, 16))
                {
                    load_rows::<L>(r, p.x[0], &rows, 0);
                    return true;
                }
                if let Some(host) = hosts::<S, WIDE>(r, p, w, SZ * N, m) {
                    if SZ * N <= 8 {
                        load_words::<SZ, N, L>(r, p, m, &host);
                        return true;
                    }
                    let mut lanes = std::mem::MaybeUninit::<Lanes>::uninit();
                    let side = lanes.as_mut_ptr().cast::<u8>();
                    for l in 0..32 {
                        side.add(l * SZ * N).copy_from_nonoverlapping(host[l], SZ * N);
                    }
                    spread::<SZ, N, L>(r, p, m, side);
                    return true;
                }
            }
            load_lanes::<S, SZ, N, WIDE>(r, p, w, m)
        }
    }
}

/// The host addresses of eight rows of 16 bytes, plus `imm`, if each four lanes read 16 bytes in
/// order: rows of a matrix fragment. The `span` bytes (16 to 512) from `ahead` behind them may be
/// read. `None` for all else, wrong addresses included.
#[inline(always)]
unsafe fn fours<L: Simd>(
    r: *mut Reg,
    p: &Op,
    w: &Warp,
    (ahead, span): (i64, u64),
) -> Option<[*const u8; 8]> {
    // SAFETY: the address is a pair of registers of the kernel.
    let (low, high) = unsafe { (reg(r, p.a), reg(r, p.a + 1)) };
    let in_order = if L::LEVEL == Level::Avx512 {
        // SAFETY: as above; the processor has the level.
        unsafe { wide512::in_fours(r, p.a) }
    } else {
        let mut different = 0;
        for l in 0..32 {
            different |= low[l].wrapping_sub(low[l & !3]) ^ (4 * (l as u32 & 3));
            different |= high[l] ^ high[l & !3];
        }
        different == 0
    };
    if !in_order {
        return None;
    }
    let mut rows = [std::ptr::null(); 8];
    for four in 0..8 {
        let (low, high) = (low[4 * four], high[4 * four]);
        let at = (u64::from(low) | u64::from(high) << 32).wrapping_add(p.imm);
        // The low words of the four must not wrap.
        if low > u32::MAX - 12
            || at & 3 != 0
            || !w.global.allows(at.wrapping_add_signed(ahead), span)
        {
            return None;
        }
        rows[four] = w.global.host(at).cast_const();
    }
    Some(rows)
}

/// Writes eight rows of 16 bytes, from `distance` behind `rows`, to register `d`.
#[inline(always)]
unsafe fn load_rows<L: Simd>(r: *mut Reg, d: u16, rows: &[*const u8; 8], distance: isize) {
    // SAFETY: the rows were checked; `d` is a register of the kernel.
    unsafe {
        if L::LEVEL == Level::Avx512 {
            return wide512::load_rows(r, d, rows, distance);
        }
        let to = r.add(usize::from(d)).cast::<__m128i>();
        for four in 0..8 {
            let row = rows[four].wrapping_offset(distance);
            _mm_storeu_si128(to.add(four), _mm_loadu_si128(row.cast()));
        }
    }
}

/// `ld.global` of 4 bytes, the first of several of its block from the same register: notes in the
/// warp where its rows are ([`fours`]). `x1`: where the first of them begins, from here, signed;
/// `x2`: bytes from there to the end of the last; `x3`: number of the group.
struct LoadFirst;
/// Another of them: `x1` is its distance from the first, signed.
struct LoadNext;

impl Exec for LoadFirst {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel; accesses are checked.
        unsafe {
            w.group = 0;
            if m == !0 {
                let span = (i64::from(p.x[1] as i16), u64::from(p.x[2]));
                if let Some(rows) = fours::<L>(r, p, w, span) {
                    w.rows = rows;
                    w.group = p.x[3];
                    load_rows::<L>(r, p.x[0], &rows, 0);
                    return true;
                }
            }
            Load::<GLOBAL, 4, 1, true>::run::<L>(r, p, w, m)
        }
    }
}

impl Exec for LoadNext {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // With all lanes here they were all at the first of the group: no part of the warp came
        // between.
        // SAFETY: the operands are registers of the kernel; accesses are checked.
        unsafe {
            if m == !0 && w.group == p.x[3] {
                load_rows::<L>(r, p.x[0], &w.rows, isize::from(p.x[1] as i16));
                return true;
            }
            Load::<GLOBAL, 4, 1, true>::run::<L>(r, p, w, m)
        }
    }
}

/// Makes loads of 4 bytes a group of which the first looks at the addresses for all. `loads` are
/// loads of a block from the same, unchanged register, with immediates at most 496 apart; `number`
/// is another for each group of a block, and not 0.
pub(crate) fn group_loads(level: Level, loads: &mut [&mut VOp], number: u16) {
    let least = loads.iter().map(|op| op.imm as i64).min().unwrap_or(0);
    let most = loads.iter().map(|op| op.imm as i64).max().unwrap_or(0);
    let Some(start) = loads.first().map(|op| op.imm as i64) else { return };
    for (i, op) in loads.iter_mut().enumerate() {
        let distance = if i == 0 { least - start } else { op.imm as i64 - start };
        op.handler = if i == 0 { pick::<LoadFirst>(level) } else { pick::<LoadNext>(level) };
        op.name = if i == 0 { "LoadFirst" } else { "LoadNext" };
        op.slots[X + 1] = Slot::Raw(distance as i16 as u16);
        op.slots[X + 2] = Slot::Raw((most - least + 16) as u16);
        op.slots[X + 3] = Slot::Raw(number);
    }
}

/// Loads elements of together at most 8 bytes a lane, word by word.
#[inline(always)]
unsafe fn load_words<const SZ: usize, const N: usize, L: Simd>(
    r: *mut Reg,
    p: &Op,
    m: u32,
    host: &[*mut u8; 32],
) {
    for k in 0..(SZ * N).div_ceil(4).max(if SZ < 4 { N } else { 0 }) {
        let mut v = [0u32; 32];
        for l in 0..32 {
            // SAFETY: the access of each lane was checked.
            v[l] = unsafe {
                if SZ < 4 {
                    element(host[l].add(k * SZ), SZ)
                } else {
                    host[l].cast::<u32>().add(k).read()
                }
            };
        }
        let to = if SZ < 4 { p.x[k] } else { word_reg(p, SZ, k) };
        // SAFETY: the destinations are registers of the kernel.
        unsafe { put::<L>(r, to, m, &v) };
    }
}

/// Reads an element of 1 or 2 bytes.
#[inline(always)]
unsafe fn element(host: *const u8, size: usize) -> u32 {
    // SAFETY: the access was checked.
    unsafe { if size == 1 { u32::from(host.read()) } else { u32::from(host.cast::<u16>().read()) } }
}

/// The slow way. It takes no array of the handler, whose stack frame would then have to outlive its
/// call of the next handler.
#[inline(never)]
unsafe fn load_lanes<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>(
    r: *mut Reg,
    p: &Op,
    w: &mut Warp,
    m: u32,
) -> bool {
    // SAFETY: the operands are registers of the kernel.
    let address = &unsafe { addresses::<WIDE>(r, p) };
    let Some(at) = places(w, p, S, address, ((SZ * N) as u64, m, false)) else { return false };
    // SAFETY: the places were checked.
    unsafe {
        for (l, at) in at.iter().enumerate() {
            if (m >> l) & 1 == 0 {
                continue;
            }
            if SZ < 4 {
                for k in 0..N {
                    let byte = k * SZ;
                    let host = at.host.add(byte / 4 * at.stride + byte % 4);
                    (*r.add(p.x[k] as usize)).0[l] = element(host, SZ);
                }
            } else {
                for k in 0..SZ * N / 4 {
                    let v = at.host.add(k * at.stride).cast::<u32>().read();
                    (*r.add(word_reg(p, SZ, k) as usize)).0[l] = v;
                }
            }
        }
    }
    true
}

impl<const S: u8, const SZ: usize, const N: usize, const WIDE: bool> Exec
    for Store<S, SZ, N, WIDE>
{
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel; accesses are checked.
        unsafe {
            if (S == GLOBAL || S == GENERIC) && *w.late != 0 {
                copies::read_sources(w);
            }
            if S == GLOBAL || S == SHARED || S == GENERIC {
                if m == !0
                    && let Some(host) = consecutive::<S, WIDE, L>(r, p, w, SZ * N)
                {
                    collect::<SZ, N, L>(r, p, host);
                    return true;
                }
                if L::LEVEL == Level::Avx512
                    && S == SHARED
                    && !WIDE
                    && SZ == 4
                    && N == 1
                    && m == !0
                    && wide512::beyond(r, p.a, p.imm as u32, (w.shared_size.wrapping_sub(4), 3))
                        == 0
                    && w.shared_size >= 4
                {
                    let (address, v) = (reg(r, p.a), reg(r, p.x[0]));
                    for l in 0..32 {
                        let at = address[l].wrapping_add(p.imm as u32);
                        w.shared.add(at as usize).cast::<u32>().write(v[l]);
                    }
                    return true;
                }
                if let Some(host) = hosts::<S, WIDE>(r, p, w, SZ * N, m) {
                    let mut lanes = std::mem::MaybeUninit::<Lanes>::uninit();
                    let side = lanes.as_mut_ptr().cast::<u8>();
                    collect::<SZ, N, L>(r, p, side);
                    let mut left = m;
                    while left != 0 {
                        let l = left.trailing_zeros() as usize;
                        left &= left - 1;
                        host[l].copy_from_nonoverlapping(side.add(l * SZ * N), SZ * N);
                    }
                    return true;
                }
            }
            store_lanes::<S, SZ, N, WIDE>(r, p, w, m)
        }
    }
}

#[inline(always)]
unsafe fn set_element(host: *mut u8, size: usize, v: u32) {
    // SAFETY: the access was checked.
    unsafe {
        if size == 1 {
            host.write(v as u8);
        } else {
            host.cast::<u16>().write(v as u16);
        }
    }
}

/// The slow way. It takes no array of the handler, whose stack frame would then have to outlive its
/// call of the next handler.
#[inline(never)]
unsafe fn store_lanes<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>(
    r: *mut Reg,
    p: &Op,
    w: &mut Warp,
    m: u32,
) -> bool {
    // SAFETY: the operands are registers of the kernel.
    let address = &unsafe { addresses::<WIDE>(r, p) };
    let Some(at) = places(w, p, S, address, ((SZ * N) as u64, m, true)) else { return false };
    // SAFETY: the places were checked.
    unsafe {
        for (l, at) in at.iter().enumerate() {
            if (m >> l) & 1 == 0 {
                continue;
            }
            if SZ < 4 {
                for k in 0..N {
                    let byte = k * SZ;
                    let host = at.host.add(byte / 4 * at.stride + byte % 4);
                    set_element(host, SZ, reg(r, p.x[k])[l]);
                }
            } else {
                for k in 0..SZ * N / 4 {
                    let v = reg(r, word_reg(p, SZ, k))[l];
                    at.host.add(k * at.stride).cast::<u32>().write(v);
                }
            }
        }
    }
    true
}

/// Broadcasts the parameter of `x0` bytes at offset `imm`; lowering checked the bounds.
struct LoadParam<const WIDE: bool>;

impl<const WIDE: bool> Exec for LoadParam<WIDE> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the offset is inside the parameter buffer.
        unsafe {
            let host = w.params.add(p.imm as usize);
            if WIDE {
                let v = host.cast::<u64>().read_unaligned();
                put::<L>(r, p.d, m, &[v as u32; 32]);
                put::<L>(r, p.d + 1, m, &[(v >> 32) as u32; 32]);
            } else {
                let v = match p.x[0] {
                    1 => u32::from(host.read()),
                    2 => u32::from(host.cast::<u16>().read_unaligned()),
                    _ => host.cast::<u32>().read_unaligned(),
                };
                put::<L>(r, p.d, m, &[v; 32]);
            }
        }
        true
    }
}

type Lowered = Result<bool, LoadError>;

/// An address operand: its space, the register that it starts from, and an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    /// A constant of this module.
    pub space: u8,
    /// Register (pair if `is_wide`).
    pub base: V,
    /// 64-bit register.
    pub is_wide: bool,
    /// Goes into `imm`.
    pub offset: u64,
}

/// Takes the state space of a memory operation; `None` is generic.
pub(crate) fn take_space(mods: &mut Mods) -> Option<Space> {
    match mods.take_any(&[
        "global",
        "shared",
        "shared::cta",
        "local",
        "const",
        "param",
        "param::entry",
        "param::func",
    ])? {
        "global" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "const" => Some(Space::Const),
        _ => Some(Space::Param),
    }
}

/// Resolves an address operand of a space.
///
/// # Errors
/// For an operand that is no address.
pub(crate) fn address(
    cx: &mut Emit,
    operand: &Operand,
    space: Option<Space>,
) -> Result<Address, LoadError> {
    let Operand::Address(base, offset) = operand else {
        return Err(cx.error("an address is needed"));
    };
    let kind = |cx: &Emit, space: Option<Space>| match space {
        Some(Space::Global | Space::Const) => GLOBAL,
        Some(Space::Shared) => SHARED,
        Some(Space::Local) => LOCAL,
        Some(Space::Param) if cx.in_entry() => PARAM,
        Some(Space::Param) => LOCAL,
        _ => GENERIC,
    };
    match base {
        AddressBase::Reg(reg) => {
            let is_wide = cx.class(*reg)? == RegClass::B64;
            let space = kind(cx, space);
            if !is_wide && (space == GLOBAL || space == GENERIC) {
                return Err(cx.error("the address must have 64 bits"));
            }
            Ok(Address { space, base: cx.value(*reg)?, is_wide, offset: *offset as u64 })
        }
        AddressBase::Symbol(symbol) => {
            let (found, address) = cx.symbol(*symbol)?;
            let address = address.wrapping_add(*offset as u64);
            if matches!(found, GLOBAL | GENERIC) {
                return Ok(Address {
                    space: found,
                    base: cx.const64(address),
                    is_wide: true,
                    offset: 0,
                });
            }
            Ok(Address {
                space: found,
                base: cx.const32(address as u32),
                is_wide: false,
                offset: 0,
            })
        }
        AddressBase::Absolute => {
            let space = kind(cx, space);
            let base = cx.const64(*offset as u64);
            Ok(Address { space, base, is_wide: true, offset: 0 })
        }
    }
}

macro_rules! by_shape {
    ($cx:expr, $what:ident, $space:expr, $wide:expr, $size:expr, $count:expr) => {
        match ($space, $wide) {
            (GLOBAL, _) => by_shape!(@ $cx, $what, GLOBAL, true, $size, $count),
            (SHARED, false) => by_shape!(@ $cx, $what, SHARED, false, $size, $count),
            (SHARED, true) => by_shape!(@ $cx, $what, SHARED, true, $size, $count),
            (LOCAL, false) => by_shape!(@ $cx, $what, LOCAL, false, $size, $count),
            (LOCAL, true) => by_shape!(@ $cx, $what, LOCAL, true, $size, $count),
            (PARAM, false) => by_shape!(@ $cx, $what, PARAM, false, $size, $count),
            (PARAM, true) => by_shape!(@ $cx, $what, PARAM, true, $size, $count),
            _ => by_shape!(@ $cx, $what, GENERIC, true, $size, $count),
        }
    };
    (@ $cx:expr, $what:ident, $s:ident, $w:literal, $size:expr, $count:expr) => {
        match ($size, $count) {
            (1, 1) => Some(VOp::of::<$what<$s, 1, 1, $w>>($cx)),
            (1, 2) => Some(VOp::of::<$what<$s, 1, 2, $w>>($cx)),
            (1, 4) => Some(VOp::of::<$what<$s, 1, 4, $w>>($cx)),
            (2, 1) => Some(VOp::of::<$what<$s, 2, 1, $w>>($cx)),
            (2, 2) => Some(VOp::of::<$what<$s, 2, 2, $w>>($cx)),
            (2, 4) => Some(VOp::of::<$what<$s, 2, 4, $w>>($cx)),
            (4, 1) => Some(VOp::of::<$what<$s, 4, 1, $w>>($cx)),
            (4, 2) => Some(VOp::of::<$what<$s, 4, 2, $w>>($cx)),
            (4, 4) => Some(VOp::of::<$what<$s, 4, 4, $w>>($cx)),
            (4, 8) => Some(VOp::of::<$what<$s, 4, 8, $w>>($cx)),
            (8, 1) => Some(VOp::of::<$what<$s, 8, 1, $w>>($cx)),
            (8, 2) => Some(VOp::of::<$what<$s, 8, 2, $w>>($cx)),
            (8, 4) => Some(VOp::of::<$what<$s, 8, 4, $w>>($cx)),
            _ => None,
        }
    };
}

/// Drops modifiers that have no effect on values.
pub(crate) fn drop_hints(mods: &mut Mods) {
    mods.drop_if(|m| {
        matches!(
            m,
            "weak"
                | "relaxed"
                | "acquire"
                | "release"
                | "acq_rel"
                | "volatile"
                | "mmio"
                | "cta"
                | "cluster"
                | "gpu"
                | "sys"
                | "ca"
                | "cg"
                | "cs"
                | "lu"
                | "cv"
                | "nc"
                | "wb"
                | "wt"
                | "noftz"
        ) || m.starts_with("L1::")
            || m.starts_with("L2::")
    });
}

fn take_count(mods: &mut Mods) -> usize {
    match mods.take_any(&["v2", "v4", "v8"]) {
        Some("v2") => 2,
        Some("v4") => 4,
        Some(_) => 8,
        None => 1,
    }
}

/// Where a loaded element goes: the register that the load writes, and what follows it.
fn load_slot(
    cx: &mut Emit,
    operand: &Operand,
    ty: ScalarType,
) -> Result<(V, Option<VOp>), LoadError> {
    let mut after = Vec::new();
    std::mem::swap(&mut after, &mut cx.out);
    let loaded = load_dest(cx, operand, ty);
    std::mem::swap(&mut after, &mut cx.out);
    Ok((loaded?, after.pop()))
}

fn load_dest(cx: &mut Emit, operand: &Operand, ty: ScalarType) -> Result<V, LoadError> {
    let bytes = ty.bytes();
    if bytes == 8 {
        return cx.dst64(operand);
    }
    let Operand::Reg(reg) = operand else { return cx.dst32(operand) };
    let d = cx.value(*reg)?;
    let class = cx.class(*reg)?;
    match class {
        RegClass::B64 => {
            let t = cx.temp(1);
            if ty.is_signed() && bytes < 4 {
                return Err(cx.error("sign extension to 64 bits is not supported"));
            }
            extend(cx, d, t, ty.is_signed());
            Ok(t)
        }
        RegClass::B16 if bytes == 4 => Err(cx.error("the register is narrower than the load")),
        _ if ty.is_signed() && bytes * 8 < class.bits() => {
            let t = cx.temp(1);
            extend_small(cx, d, t, bytes, class == RegClass::B16);
            Ok(t)
        }
        _ => Ok(d),
    }
}

fn lower_load(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    drop_hints(&mut mods);
    let space = take_space(&mut mods);
    let count = take_count(&mut mods);
    let Some(ty) = mods.take_type() else { return Ok(false) };
    mods.finish(cx)?;
    if ty == ScalarType::B128 || ty == ScalarType::Pred {
        return Err(cx.error("type is not supported"));
    }
    let (dest, source) = (cx.operand(inst, 0)?, cx.operand(inst, 1)?);
    let elements = cx.elements(dest);
    if elements.len() != count {
        return Err(cx.error("the vector has the wrong number of elements"));
    }
    let size = ty.bytes() as usize;
    if let (true, Operand::Address(AddressBase::Symbol(Symbol::Param(_)), _)) =
        (cx.in_entry(), source)
    {
        return load_param(cx, inst, elements, ty);
    }
    let at = address(cx, source, space)?;
    let Some(mut op) = by_shape!(cx, Load, at.space, at.is_wide, size, count) else {
        return Err(cx.error("vector is too wide"));
    };
    op = op.src(A, at.base).imm(at.offset);
    if at.space == PARAM {
        op.kind = Kind::ParamLoad((size * count) as u32);
    } else if at.space == GLOBAL && (size, count) == (4, 1) {
        op.kind = Kind::LoadWord;
        op.loads = true;
    }
    let mut after = Vec::new();
    for (k, element) in elements.iter().enumerate() {
        let (v, extra) = load_slot(cx, element, ty)?;
        op.slots[X + k] = Slot::Def(v);
        after.extend(extra);
    }
    cx.push(op);
    for op in after {
        cx.push(op);
    }
    Ok(true)
}

/// `ld.param` of a kernel parameter by name.
fn load_param(cx: &mut Emit, inst: &Inst, elements: &[Operand], ty: ScalarType) -> Lowered {
    let Operand::Address(AddressBase::Symbol(symbol), offset) = cx.operand(inst, 1)? else {
        return Ok(false);
    };
    let (_, base) = cx.symbol(*symbol)?;
    let start = base.wrapping_add(*offset as u64);
    let bytes = u64::from(ty.bytes());
    let end = start.saturating_add(bytes * elements.len() as u64);
    if end > u64::from(cx.params_size) {
        return Err(cx.error("the load goes past the kernel's parameters"));
    }
    for (k, element) in elements.iter().enumerate() {
        let (v, extra) = load_slot(cx, element, ty)?;
        let op = if bytes == 8 {
            VOp::of::<LoadParam<true>>(cx)
        } else {
            VOp::of::<LoadParam<false>>(cx).raw(X, bytes as u16)
        };
        cx.push(op.def(D, v).imm(start + k as u64 * bytes));
        if let Some(op) = extra {
            cx.push(op);
        }
    }
    Ok(true)
}

/// Pushes the store of an argument to a local slot.
///
/// # Errors
/// For an operand that is no value.
pub(crate) fn store_slot(
    cx: &mut Emit,
    offset: u64,
    ty: ScalarType,
    from: &Operand,
) -> Result<(), LoadError> {
    let base = cx.const32(offset as u32);
    let (v, op) = match ty.bytes() {
        8 => (cx.src64(from)?, VOp::of::<Store<LOCAL, 8, 1, false>>(cx)),
        2 => (cx.src16(from)?, VOp::of::<Store<LOCAL, 2, 1, false>>(cx)),
        1 => (cx.src16(from)?, VOp::of::<Store<LOCAL, 1, 1, false>>(cx)),
        _ => (cx.src32(from)?, VOp::of::<Store<LOCAL, 4, 1, false>>(cx)),
    };
    cx.push(op.src(A, base).src(X, v));
    Ok(())
}

/// Pushes the load of a result from a local slot.
///
/// # Errors
/// For a destination of another width.
pub(crate) fn load_slot_at(
    cx: &mut Emit,
    offset: u64,
    ty: ScalarType,
    to: &Operand,
) -> Result<(), LoadError> {
    let base = cx.const32(offset as u32);
    let op = match ty.bytes() {
        8 => VOp::of::<Load<LOCAL, 8, 1, false>>(cx),
        2 => VOp::of::<Load<LOCAL, 2, 1, false>>(cx),
        1 => VOp::of::<Load<LOCAL, 1, 1, false>>(cx),
        _ => VOp::of::<Load<LOCAL, 4, 1, false>>(cx),
    };
    let (v, after) = load_slot(cx, to, ty)?;
    cx.push(op.src(A, base).def(X, v));
    if let Some(op) = after {
        cx.push(op);
    }
    Ok(())
}

fn lower_store(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    drop_hints(&mut mods);
    let space = take_space(&mut mods);
    let count = take_count(&mut mods);
    let Some(ty) = mods.take_type() else { return Ok(false) };
    mods.finish(cx)?;
    if ty == ScalarType::B128 || ty == ScalarType::Pred {
        return Err(cx.error("type is not supported"));
    }
    let (dest, source) = (cx.operand(inst, 0)?, cx.operand(inst, 1)?);
    let elements = cx.elements(source);
    if elements.len() != count {
        return Err(cx.error("the vector has the wrong number of elements"));
    }
    let at = address(cx, dest, space)?;
    let Some(mut op) = by_shape!(cx, Store, at.space, at.is_wide, ty.bytes(), count) else {
        return Err(cx.error("vector is too wide"));
    };
    op = op.src(A, at.base).imm(at.offset);
    for (k, element) in elements.iter().enumerate() {
        let v = match ty.bytes() {
            8 => cx.src64(element)?,
            1 | 2 => cx.src16(element)?,
            _ => cx.src32(element)?,
        };
        op.slots[X + k] = Slot::Use(v);
    }
    cx.push(op);
    Ok(true)
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let mods = Mods::new(cx.module, inst);
    match opcode {
        "ld" | "ldu" => lower_load(cx, inst, mods),
        "st" => lower_store(cx, inst, mods),
        // No effect on values; addresses of prefetches may be anything.
        "prefetch" | "prefetchu" | "discard" | "applypriority" => Ok(true),
        // A block runs on one thread, and x86 keeps the order of stores and of loads.
        "membar" | "fence" => {
            cx.push(VOp::of::<Fence>(cx));
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// `membar`, `fence`.
struct Fence;

impl Exec for Fence {
    #[inline(always)]
    unsafe fn run<L: Simd>(_: *mut Reg, _: &Op, _: &mut Warp, _: u32) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        true
    }
}
