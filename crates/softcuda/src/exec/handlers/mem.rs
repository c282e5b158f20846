//! Loads and stores.
//!
//! Fast paths walk arrays by index: an iterator over two of them is a call where the crate is
//! compiled in parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use super::access::{GENERIC, GLOBAL, SHARED, addresses, places};
use super::copies;
use super::rows::{fours, load_rows};
use super::wide512;
use crate::exec::op::{Exec, Level, Op, Reg, Simd, put, reg};
use crate::exec::simd::avx2;
use crate::exec::warp::Warp;
use crate::memory::{GLOBAL_BASE, GRANULE};

/// Loads `N` elements of `SZ` bytes into the registers `x[0..N]` (pairs of 8 bytes).
pub(super) struct Load<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>;
/// Stores them.
pub(super) struct Store<const S: u8, const SZ: usize, const N: usize, const WIDE: bool>;

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
pub(super) struct LoadParam<const WIDE: bool>;

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

/// `membar`, `fence`.
pub(super) struct Fence;

impl Exec for Fence {
    #[inline(always)]
    unsafe fn run<L: Simd>(_: *mut Reg, _: &Op, _: &mut Warp, _: u32) -> bool {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        true
    }
}
