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
    const PURE: bool = true;

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
        if let Some(v) = uniform(w, p.x[0]) {
            // SAFETY: `d` is a register of the kernel.
            unsafe {
                put::<L>(r, p.d, m, &[v; 32]);
                if WIDE {
                    put::<L>(r, p.d + 1, m, &[0; 32]);
                }
            }
            return true;
        }
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

const CLOCK: u16 = 27;
const CLOCK_HIGH: u16 = 28;

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
            Some(CLOCK)
        }
        Special::ClockHi | Special::GlobaltimerHi => Some(CLOCK_HIGH),
        Special::DynamicSmemSize => Some(29),
        Special::TotalSmemSize => Some(30),
        Special::Envreg(_) | Special::Pm(_) => Some(31),
        _ => None,
    }
}

/// Those that are the same in all lanes and read often, of 32 bits.
#[inline(always)]
fn uniform(w: &Warp, code: u16) -> Option<u32> {
    let axis = usize::from(code % 4);
    match code / 4 {
        1 => w.threads.get(axis).copied(),
        2 => w.block.get(axis).copied(),
        3 => w.grid.get(axis).copied(),
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
            CLOCK => clock,
            CLOCK_HIGH => clock >> 32,
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
    let mut op = op.def(D, d).raw(X, code);
    if matches!(code, CLOCK | CLOCK_HIGH) {
        op = op.imm(u64::from(cx.position));
    } else {
        op.pure = true;
        // The block's index, the processor, the launch's number.
        op.per_block = matches!(code, 8..12 | 19 | 21);
    }
    cx.push(op);
    Ok(())
}
