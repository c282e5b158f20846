//! Where the lanes of a memory operation point: bounds, alignment, faults.

use std::sync::atomic::Ordering;

use crate::exec::op::{Op, Reg, reg, wide};
use crate::exec::warp::{GlobalView, Warp};
use crate::fault::{FaultKind, Space};
use crate::memory::{self, NULL_PAGE, TAG_GLOBAL, TAG_HOST, TAG_LOCAL, TAG_PARAM, TAG_SHARED};

/// Global memory and constants; 64-bit addresses with a tag.
pub(crate) const GLOBAL: u8 = 0;
/// Shared memory; offsets.
pub(crate) const SHARED: u8 = 1;
/// Local memory; offsets.
pub(crate) const LOCAL: u8 = 2;
/// Parameters of the kernel; offsets.
pub(crate) const PARAM: u8 = 3;
/// Any of them, by tag.
pub(crate) const GENERIC: u8 = 4;

impl GlobalView {
    /// Whether the first and the last byte of `[address, address + size)` may be accessed: enough
    /// up to 512 bytes, since allocations are that far apart.
    #[inline(always)]
    pub(crate) fn allows(&self, address: u64, size: u64) -> bool {
        let start = address.wrapping_sub(memory::GLOBAL_BASE);
        start < self.size
            && size <= self.size - start
            && self.byte(start)
            && self.byte(start + size - 1)
    }

    /// How many bytes of the granule of an offset may be accessed; `None` outside the arena and in
    /// freed memory.
    #[inline(always)]
    pub(crate) fn valid(&self, offset: u64) -> Option<u64> {
        if offset >= self.size {
            return None;
        }
        // SAFETY: the offset is inside the arena, and the table covers it.
        let valid = unsafe { &*self.granules.add((offset >> 8) as usize) }.load(Ordering::Relaxed);
        (valid <= memory::GRANULE_FULL).then_some(valid.into())
    }

    #[inline(always)]
    fn byte(&self, offset: u64) -> bool {
        // SAFETY: the offset is inside the arena, and the table covers it.
        let valid = unsafe { &*self.granules.add((offset >> 8) as usize) }.load(Ordering::Relaxed);
        valid <= memory::GRANULE_FULL && (offset & 255) < u64::from(valid)
    }

    /// Whether all of `[start, end)` is full granules, if that is quickly found out.
    #[inline(always)]
    pub(crate) fn allows_all(&self, start: u64, end: u64) -> bool {
        let (start, end) =
            (start.wrapping_sub(memory::GLOBAL_BASE), end.wrapping_sub(memory::GLOBAL_BASE));
        if start >= end || end > self.size || end - start > 1 << 16 {
            return false;
        }
        let first = (start >> 8) as usize;
        let count = ((end - 1) >> 8) as usize - first + 1;
        // SAFETY: the table covers the arena. Its entries are whole words of x86 memory: reading
        // them while the host allocates or frees elsewhere gives the old or the new one.
        let entries =
            unsafe { std::slice::from_raw_parts(self.granules.cast::<u16>().add(first), count) };
        let mut other = 0;
        for entry in entries {
            other |= entry ^ memory::GRANULE_FULL;
        }
        other == 0
    }

    /// Host address of a global address that is allowed.
    #[inline(always)]
    pub(crate) fn host(&self, address: u64) -> *mut u8 {
        self.base.wrapping_add((address.wrapping_sub(memory::GLOBAL_BASE)) as usize)
    }
}

/// The addresses of all lanes: register `a` (a pair if `WIDE`) plus `imm`.
///
/// # Safety
/// `a` is a register of the kernel.
#[inline(always)]
pub(crate) unsafe fn addresses<const WIDE: bool>(r: *mut Reg, p: &Op) -> [u64; 32] {
    let mut v = [0u64; 32];
    // SAFETY: the caller's promise.
    unsafe {
        if WIDE {
            for (lane, v) in v.iter_mut().enumerate() {
                *v = wide(r, p.a, lane).wrapping_add(p.imm);
            }
        } else {
            let a = reg(r, p.a);
            for (lane, v) in v.iter_mut().enumerate() {
                *v = u64::from(a[lane].wrapping_add(p.imm as u32));
            }
        }
    }
    v
}

/// A lane's place in host memory: words of four bytes are `stride` bytes apart.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// First byte.
    pub host: *mut u8,
    /// 4, or 128 in local memory.
    pub stride: usize,
}

/// Host place of one lane's access.
#[inline(always)]
fn place(w: &Warp, space: u8, address: u64, size: u64, lane: usize, write: bool) -> Option<Place> {
    let at = |host| Some(Place { host, stride: 4 });
    match space {
        GLOBAL => {
            if w.global.allows(address, size) {
                return at(w.global.host(address));
            }
            if memory::tag(address) == TAG_HOST && address >= NULL_PAGE {
                // SAFETY: the memory outlives the launch.
                let memory = unsafe { &*w.memory };
                return memory.pinned_region(address, size).and_then(|_| at(address as *mut u8));
            }
            None
        }
        SHARED => {
            let end = address.checked_add(size)?;
            if end > u64::from(w.shared_size) {
                return None;
            }
            at(w.shared.wrapping_add(address as usize))
        }
        LOCAL => {
            let end = address.checked_add(size)?;
            if end > u64::from(w.local_size) {
                return None;
            }
            let byte = address as usize;
            let host = w.local.wrapping_add((byte / 4 * 32 + lane) * 4 + byte % 4);
            Some(Place { host, stride: 128 })
        }
        PARAM => {
            let end = address.checked_add(size)?;
            if write || end > u64::from(w.params_size) {
                return None;
            }
            at(w.params.cast_mut().wrapping_add(address as usize))
        }
        _ => {
            let offset = memory::offset(address);
            match memory::tag(address) {
                TAG_GLOBAL | TAG_HOST => place(w, GLOBAL, address, size, lane, write),
                TAG_SHARED => place(w, SHARED, offset, size, lane, write),
                TAG_LOCAL => place(w, LOCAL, offset, size, lane, write),
                TAG_PARAM => place(w, PARAM, offset, size, lane, write),
                _ => None,
            }
        }
    }
}

/// The places of the lanes of `m`; `None` after a fault. `size` bytes a lane, a power of two.
#[inline(always)]
pub(crate) fn places(
    w: &mut Warp,
    p: &Op,
    space: u8,
    address: &[u64; 32],
    (size, m, write): (u64, u32, bool),
) -> Option<[Place; 32]> {
    let mut out = [Place { host: std::ptr::null_mut(), stride: 4 }; 32];
    let mut left = m;
    while left != 0 {
        let lane = left.trailing_zeros() as usize;
        left &= left - 1;
        if address[lane] & (size - 1) != 0 {
            access_fault(w, p, space, address, (size, m, write));
            return None;
        }
        match place(w, space, address[lane], size, lane, write) {
            Some(at) => out[lane] = at,
            None => {
                access_fault(w, p, space, address, (size, m, write));
                return None;
            }
        }
    }
    Some(out)
}

/// Records the fault of an access of which at least one lane is wrong. Returns false.
#[cold]
#[inline(never)]
pub(crate) fn access_fault(
    w: &mut Warp,
    p: &Op,
    space: u8,
    address: &[u64; 32],
    (size, m, write): (u64, u32, bool),
) -> bool {
    let mut misaligned = 0u32;
    let mut outside = 0u32;
    for (lane, at) in address.iter().enumerate() {
        if (m >> lane) & 1 == 0 {
            continue;
        }
        if at & (size - 1) != 0 {
            misaligned |= 1 << lane;
        } else if place(w, space, *at, size, lane, write).is_none() {
            outside |= 1 << lane;
        }
    }
    let name = match space {
        GLOBAL => Space::Global,
        SHARED => Space::Shared,
        LOCAL => Space::Local,
        PARAM => Space::Param,
        _ => Space::Generic,
    };
    // A misaligned address that is also outside is reported as outside.
    let lanes = if outside != 0 { outside } else { misaligned };
    let lane = lanes.trailing_zeros() as usize & 31;
    let addr = address[lane];
    let bytes = size as u32;
    let kind = if outside != 0 {
        FaultKind::IllegalAddress { addr, size: bytes, space: name }
    } else {
        FaultKind::Misaligned { addr, size: bytes, space: name }
    };
    let detail = match space {
        // SAFETY: the memory outlives the launch.
        GLOBAL | GENERIC => unsafe { &*w.memory }.describe(addr),
        SHARED => format!("the block has {} bytes of shared memory", w.shared_size),
        LOCAL => format!("a lane has {} bytes of local memory", w.local_size),
        _ if write => "kernel parameters are constant".to_owned(),
        _ => format!("the kernel has {} bytes of parameters", w.params_size),
    };
    w.fault(p, kind, lanes, detail)
}
