//! Predicate inversion and special registers.

use crate::exec::op::{Exec, Op, Reg, Simd, mask, put, put_mask, put_wide};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{D, Emit, VOp, X};
use crate::ptx::ast::RegId;
use crate::ptx::types::{RegClass, Special};

/// `d = !a` of predicates.
#[derive(Debug)]
pub struct NotMask;

impl Exec for NotMask {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `d` and `a` are masks of the kernel.
        unsafe { put_mask(r, p.d, m, !mask(r, p.a)) };
        true
    }
}

/// Sets register `d` (`WIDE`: a pair) to zero. For registers that may be read before they are
/// written.
pub(crate) struct Clear;

impl Exec for Clear {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `d` is a register of the kernel.
        unsafe { put::<L>(r, p.d, m, &[0; 32]) };
        true
    }
}

/// Sets mask `d` to zero.
pub(crate) struct ClearMask;

impl Exec for ClearMask {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `d` is a mask of the kernel.
        unsafe { put_mask(r, p.d, m, 0) };
        true
    }
}

/// Reads a special register: `x0` says which ([`code`]), `imm` how many instructions of the block
/// went before.
struct ReadSpecial<const WIDE: bool>;

impl<const WIDE: bool> Exec for ReadSpecial<WIDE> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        let v = values(w, p.x[0], p.imm);
        // SAFETY: `d` is a register of the kernel.
        unsafe {
            if WIDE {
                put_wide::<L>(r, p.d, m, &v);
            } else {
                put::<L>(r, p.d, m, &v.map(|v| v as u32));
            }
        }
        true
    }
}

/// A number for each special register that we have.
fn code(which: Special) -> Option<u16> {
    let axis = |base: u16, axis: crate::ptx::types::Axis| Some(base + axis.index() as u16);
    match which {
        Special::Tid(a) => axis(0, a),
        Special::Ntid(a) => axis(4, a),
        Special::Ctaid(a) => axis(8, a),
        Special::Nctaid(a) => axis(12, a),
        Special::Laneid => Some(16),
        Special::Warpid => Some(17),
        Special::Nwarpid => Some(18),
        Special::Smid => Some(19),
        Special::Nsmid => Some(20),
        Special::Gridid => Some(21),
        Special::LanemaskEq => Some(22),
        Special::LanemaskLe => Some(23),
        Special::LanemaskLt => Some(24),
        Special::LanemaskGe => Some(25),
        Special::LanemaskGt => Some(26),
        Special::Clock | Special::Clock64 | Special::GlobaltimerLo | Special::Globaltimer => {
            Some(27)
        }
        Special::ClockHi | Special::GlobaltimerHi => Some(28),
        Special::DynamicSmemSize => Some(29),
        Special::TotalSmemSize => Some(30),
        Special::Envreg(_) | Special::Pm(_) => Some(31),
        _ => None,
    }
}

#[inline(never)]
fn values(w: &Warp, code: u16, position: u64) -> [u64; 32] {
    let clock = w.clock + position;
    let [gx, gy, _] = w.grid;
    let [bx, by, bz] = w.block.map(u64::from);
    let linear = bx + u64::from(gx) * (by + u64::from(gy) * bz);
    let mut v = [0u64; 32];
    for (lane, v) in v.iter_mut().enumerate() {
        let axis = (code % 4) as usize;
        let pick = |t: [u32; 3], none: u32| u64::from(t.get(axis).copied().unwrap_or(none));
        let below = (1u64 << lane) - 1;
        *v = match code {
            0..4 => pick(w.thread(lane as u32), 0),
            4..8 => pick(w.threads, 0),
            8..12 => pick(w.block, 0),
            12..16 => pick(w.grid, 0),
            16 => lane as u64,
            17 => u64::from(w.index),
            18 => u64::from(w.count),
            19 => linear % u64::from(w.processors.max(1)),
            20 => u64::from(w.processors),
            21 => w.launch,
            22 => below + 1,
            23 => below << 1 | 1,
            24 => below,
            25 => u64::from(!(below as u32)),
            26 => u64::from(!((below << 1 | 1) as u32)),
            27 => clock,
            28 => clock >> 32,
            29 => u64::from(w.shared_dynamic),
            30 => u64::from(w.shared_size),
            _ => 0,
        };
    }
    v
}

/// Pushes the read of a special register into `reg`.
///
/// # Errors
/// For one that we do not have.
pub(crate) fn read(cx: &mut Emit, reg: RegId, which: Special) -> Result<(), LoadError> {
    let Some(code) = code(which) else {
        return Err(cx.error("special register is not supported"));
    };
    let d = cx.value(reg)?;
    let op = if cx.class(reg)? == RegClass::B64 {
        VOp::of::<ReadSpecial<true>>(cx)
    } else {
        VOp::of::<ReadSpecial<false>>(cx)
    };
    let position = u64::from(cx.position);
    cx.push(op.def(D, d).raw(X, code).imm(position));
    Ok(())
}
