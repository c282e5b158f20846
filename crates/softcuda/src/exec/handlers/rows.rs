//! Loads of matrix fragments: eight rows of 16 bytes a warp, four lanes to a row. Several of a block
//! from the same register are a group, of which the first looks at the addresses for all.
#![expect(
    clippy::needless_range_loop,
    reason = "an iterator over two arrays is a call, as in mem.rs"
)]

use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_storeu_si128};

use super::access::GLOBAL;
use super::mem::Load;
use super::wide512;
use crate::exec::op::{Exec, Level, Op, Reg, Simd, pick, reg};
use crate::exec::warp::Warp;
use crate::lower::emit::{Slot, VOp, X};

/// The host addresses of eight rows of 16 bytes, plus `imm`, if each four lanes read 16 bytes in
/// order: rows of a matrix fragment. The `span` bytes (16 to 512) from `ahead` behind them may be
/// read. `None` for all else, wrong addresses included.
#[inline(always)]
pub(super) unsafe fn fours<L: Simd>(
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
pub(super) unsafe fn load_rows<L: Simd>(
    r: *mut Reg,
    d: u16,
    rows: &[*const u8; 8],
    distance: isize,
) {
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
