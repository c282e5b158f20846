//! `ldmatrix`: 8×8 matrices of 16-bit elements from shared memory into fragments.
//!
//! Lanes 8i to 8i+7 hold the addresses of the rows of matrix i. Word t of row g goes to lane
//! 4g + t of register i, so the register is the eight rows one after the other; with `.trans` it
//! is the eight columns.

use std::arch::x86_64::{
    __m128i, _mm_load_si128, _mm_store_si128, _mm_unpackhi_epi16, _mm_unpackhi_epi32,
    _mm_unpackhi_epi64, _mm_unpacklo_epi16, _mm_unpacklo_epi32, _mm_unpacklo_epi64,
    _mm512_castsi128_si512, _mm512_inserti32x4,
};

use super::access::SHARED;
use super::address::address;
use super::mma::gather;
use super::wide512;
use crate::exec::op::{Exec, Level, Op, Reg, Simd, pick, reg};
use crate::exec::warp::Warp;
use crate::fault::{FaultKind, LoadError, Space};
use crate::lower::emit::{A, Emit, Mods, V, VOp, X};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::{ScalarType, Space as MemorySpace};

/// Bytes of a row.
const ROW: u32 = 16;

/// `ldmatrix` of `COUNT` matrices: `x[0..COUNT]` from the address `a` + `imm`.
struct LoadMatrix<const COUNT: usize, const TRANS: bool>;

impl<const COUNT: usize, const TRANS: bool> Exec for LoadMatrix<COUNT, TRANS> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if m != !0 {
            return gather(w, p, m);
        }
        let offset = p.imm as u32;
        // The last address at which a row fits; the device gives every block at least one row.
        let last = w.shared_size.wrapping_sub(ROW);
        // SAFETY: `a` is a register of the kernel.
        let addresses = unsafe { reg(r, p.a) };
        let mut bad = u32::from(w.shared_size < ROW);
        if L::LEVEL == Level::Avx512 {
            // SAFETY: `a` is a register of the kernel; the processor has the level.
            bad |= unsafe { wide512::beyond(r, p.a, offset, (last, ROW - 1)) };
            bad &= (u64::MAX >> (64 - 8 * COUNT)) as u32;
        } else {
            for address in &addresses[..8 * COUNT] {
                let address = address.wrapping_add(offset);
                bad |= u32::from(address > last) | address & (ROW - 1);
            }
        }
        if bad != 0 {
            return refuse(w, p, addresses, offset, COUNT);
        }
        if L::LEVEL == Level::Avx512 && !TRANS {
            // SAFETY: the addresses were checked; `x[..COUNT]` are registers of the kernel.
            unsafe { rows512::<COUNT>(r, p, w.shared, addresses, offset) };
            return true;
        }
        for i in 0..COUNT {
            // SAFETY: `x[i]` is a register of the kernel.
            let to = unsafe { r.add(p.x[i] as usize).cast::<__m128i>() };
            let row = |g: usize| {
                let address = addresses[8 * i + g].wrapping_add(offset);
                // SAFETY: the address is a multiple of 16 and at most `last`.
                unsafe { _mm_load_si128(w.shared.add(address as usize).cast()) }
            };
            let rows = [row(0), row(1), row(2), row(3), row(4), row(5), row(6), row(7)];
            let rows = if TRANS { transpose(rows) } else { rows };
            for (g, row) in rows.iter().enumerate() {
                // SAFETY: a register holds eight aligned rows.
                unsafe { _mm_store_si128(to.add(g), *row) };
            }
        }
        true
    }
}

/// The eight rows of each matrix, four to a vector.
///
/// # Safety
/// A row is readable at each address; `x[..COUNT]` are registers of the kernel; the processor has
/// AVX-512.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn rows512<const COUNT: usize>(
    r: *mut Reg,
    p: &Op,
    shared: *const u8,
    addresses: &[u32; 32],
    offset: u32,
) {
    for i in 0..COUNT {
        for h in 0..2 {
            let row = |g: usize| {
                let address = addresses[8 * i + 4 * h + g].wrapping_add(offset);
                // SAFETY: the caller's promise.
                unsafe { _mm_load_si128(shared.add(address as usize).cast()) }
            };
            let mut rows = _mm512_castsi128_si512(row(0));
            rows = _mm512_inserti32x4::<1>(rows, row(1));
            rows = _mm512_inserti32x4::<2>(rows, row(2));
            rows = _mm512_inserti32x4::<3>(rows, row(3));
            // SAFETY: the caller's promise.
            unsafe { wide512::set(r, p.x[i], h, !0, rows) };
        }
    }
}

/// Rows to columns of an 8×8 matrix of 16-bit elements.
#[inline(always)]
fn transpose(m: [__m128i; 8]) -> [__m128i; 8] {
    // SAFETY: every x86-64 has SSE2.
    unsafe {
        let low = |i: usize| _mm_unpacklo_epi16(m[i], m[i + 1]);
        let high = |i: usize| _mm_unpackhi_epi16(m[i], m[i + 1]);
        let a = [low(0), low(2), low(4), low(6)];
        let b = [high(0), high(2), high(4), high(6)];
        let pairs = |x: [__m128i; 4]| {
            [
                _mm_unpacklo_epi32(x[0], x[1]),
                _mm_unpackhi_epi32(x[0], x[1]),
                _mm_unpacklo_epi32(x[2], x[3]),
                _mm_unpackhi_epi32(x[2], x[3]),
            ]
        };
        let (a, b) = (pairs(a), pairs(b));
        [
            _mm_unpacklo_epi64(a[0], a[2]),
            _mm_unpackhi_epi64(a[0], a[2]),
            _mm_unpacklo_epi64(a[1], a[3]),
            _mm_unpackhi_epi64(a[1], a[3]),
            _mm_unpacklo_epi64(b[0], b[2]),
            _mm_unpackhi_epi64(b[0], b[2]),
            _mm_unpacklo_epi64(b[1], b[3]),
            _mm_unpackhi_epi64(b[1], b[3]),
        ]
    }
}

/// Reports the lanes whose rows are misaligned, or else those out of bounds.
#[cold]
#[inline(never)]
fn refuse(w: &mut Warp, p: &Op, addresses: &[u32; 32], offset: u32, count: usize) -> bool {
    let size = w.shared_size;
    let lanes = |test: &dyn Fn(u32) -> bool| {
        let bits = (0..8 * count).filter(|i| test(addresses[*i].wrapping_add(offset)));
        bits.fold(0u32, |mask, i| mask | 1 << i)
    };
    let misaligned = lanes(&|a| a % ROW != 0);
    let outside = lanes(&|a| u64::from(a) + u64::from(ROW) > u64::from(size));
    let mask = if misaligned != 0 { misaligned } else { outside };
    let first = addresses[mask.trailing_zeros() as usize % 32].wrapping_add(offset);
    let (addr, size, space) = (u64::from(first), ROW, Space::Shared);
    let kind = if misaligned != 0 {
        FaultKind::Misaligned { addr, size, space }
    } else {
        FaultKind::IllegalAddress { addr, size, space }
    };
    let detail = format!("the block has {} bytes of shared memory", w.shared_size);
    w.fault(p, kind, mask, detail)
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    if opcode != "ldmatrix" {
        return Ok(false);
    }
    let mut mods = Mods::new(cx.module, inst);
    let whole = mods.take("sync") && mods.take("aligned");
    let form = mods.take("m8n8") && (mods.take("shared") || mods.take("shared::cta"));
    let count = mods.take_any(&["x1", "x2", "x4"]);
    let trans = mods.take("trans");
    let ty = mods.take_type();
    mods.finish(cx)?;
    let level = cx.level;
    let (handler, count) = match (count, trans) {
        _ if !whole || !form || ty != Some(ScalarType::B16) => {
            return Err(cx.error("ldmatrix of this form is not supported"));
        }
        (Some("x1"), false) => (pick::<LoadMatrix<1, false>>(level), 1),
        (Some("x1"), true) => (pick::<LoadMatrix<1, true>>(level), 1),
        (Some("x2"), false) => (pick::<LoadMatrix<2, false>>(level), 2),
        (Some("x2"), true) => (pick::<LoadMatrix<2, true>>(level), 2),
        (_, false) => (pick::<LoadMatrix<4, false>>(level), 4),
        (_, true) => (pick::<LoadMatrix<4, true>>(level), 4),
    };
    let [d, address] = &*inst.operands else {
        return Err(cx.error("wrong number of operands"));
    };
    let list = cx.elements(d).to_vec();
    let dest: Vec<V> = list.iter().map(|o| cx.dst32(o)).collect::<Result<_, _>>()?;
    if dest.len() != count {
        return Err(cx.error("wrong number of destination registers"));
    }
    let (base, offset) = shared_address(cx, address)?;
    // Registers are written while the addresses of later rows are still needed.
    let op = VOp::new(handler).named("ldmatrix");
    let mut op = op.src(A, base).imm(u64::from(offset)).early();
    op.loads = true;
    for (i, dest) in dest.into_iter().enumerate() {
        op = op.def(X + i, dest);
    }
    cx.push(op);
    Ok(true)
}

/// A register that holds an offset in shared memory, and what is added to it.
pub(crate) fn shared_address(cx: &mut Emit, operand: &Operand) -> Result<(V, u32), LoadError> {
    let address = address(cx, operand, Some(MemorySpace::Shared))?;
    if address.is_wide || address.space != SHARED {
        return Err(cx.error("a shared address of 32 bits is needed"));
    }
    Ok((address.base, address.offset as u32))
}
