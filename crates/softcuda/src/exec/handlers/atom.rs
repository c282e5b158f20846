//! Atomic operations: lanes in order, each a host atomic read-modify-write.

use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use super::access::{SHARED, addresses, places};
use super::address::{address, drop_hints, take_space};
use super::copies;
use crate::exec::op::{Exec, Op, Reg, Simd, put, put_wide, reg, wide};
use crate::exec::simd::round::{
    bf16_near, bf16_widen, canon32, canon64, f16_near, f16_widen, flush32,
};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, VOp, X};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::ScalarType;

/// What an atomic does; the number travels in the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Rmw {
    Add,
    Inc,
    Dec,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
    Exchange,
    Compare,
    AddF32,
    AddF32Flush,
    AddF64,
    AddF16,
    AddF16x2,
    AddBf16,
    AddBf16x2,
}

const ALL: [Rmw; 19] = [
    Rmw::Add,
    Rmw::Inc,
    Rmw::Dec,
    Rmw::MinU,
    Rmw::MaxU,
    Rmw::MinS,
    Rmw::MaxS,
    Rmw::And,
    Rmw::Or,
    Rmw::Xor,
    Rmw::Exchange,
    Rmw::Compare,
    Rmw::AddF32,
    Rmw::AddF32Flush,
    Rmw::AddF64,
    Rmw::AddF16,
    Rmw::AddF16x2,
    Rmw::AddBf16,
    Rmw::AddBf16x2,
];

fn half(old: u64, b: u64, widen: fn(u32) -> u32, near: fn(u32) -> u32) -> u64 {
    let sum = f32::from_bits(widen(old as u32 & 0xffff)) + f32::from_bits(widen(b as u32 & 0xffff));
    u64::from(near(canon32(sum)) & 0xffff)
}

fn halves(old: u64, b: u64, widen: fn(u32) -> u32, near: fn(u32) -> u32) -> u64 {
    half(old, b, widen, near) | half(old >> 16, b >> 16, widen, near) << 16
}

/// The new value. `signed` operands of 32 bits come zero-extended.
fn apply(op: Rmw, size: u16, old: u64, b: u64, c: u64) -> u64 {
    let sign = |v: u64| if size == 4 { i64::from(v as u32 as i32) } else { v as i64 };
    let float = |v: u64| f32::from_bits(v as u32);
    match op {
        Rmw::Add => old.wrapping_add(b),
        Rmw::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        Rmw::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        Rmw::MinU => old.min(b),
        Rmw::MaxU => old.max(b),
        Rmw::MinS => sign(old).min(sign(b)) as u64,
        Rmw::MaxS => sign(old).max(sign(b)) as u64,
        Rmw::And => old & b,
        Rmw::Or => old | b,
        Rmw::Xor => old ^ b,
        Rmw::Exchange => b,
        Rmw::Compare => {
            if old == b {
                c
            } else {
                old
            }
        }
        Rmw::AddF32 => u64::from(canon32(float(old) + float(b))),
        Rmw::AddF32Flush => {
            let flushed = |v: u64| f32::from_bits(flush32(v as u32));
            u64::from(flush32(canon32(flushed(old) + flushed(b))))
        }
        Rmw::AddF64 => canon64(f64::from_bits(old) + f64::from_bits(b)),
        Rmw::AddF16 => half(old, b, f16_widen, f16_near),
        Rmw::AddF16x2 => halves(old, b, f16_widen, f16_near),
        Rmw::AddBf16 => half(old, b, bf16_widen, bf16_near),
        Rmw::AddBf16x2 => halves(old, b, bf16_widen, bf16_near),
    }
}

/// Updates `size` bytes at a checked, aligned host address; returns the old value.
unsafe fn update(host: *mut u8, size: u16, f: impl Fn(u64) -> u64) -> u64 {
    let order = Ordering::SeqCst;
    // SAFETY: the access was checked; the alignment is natural.
    unsafe {
        match size {
            2 => {
                let cell = AtomicU16::from_ptr(host.cast());
                let done = cell.fetch_update(order, order, |v| Some(f(u64::from(v)) as u16));
                u64::from(done.unwrap_or_else(|v| v))
            }
            4 => {
                let cell = AtomicU32::from_ptr(host.cast());
                let done = cell.fetch_update(order, order, |v| Some(f(u64::from(v)) as u32));
                u64::from(done.unwrap_or_else(|v| v))
            }
            _ => {
                let cell = AtomicU64::from_ptr(host.cast());
                cell.fetch_update(order, order, |v| Some(f(v))).unwrap_or_else(|v| v)
            }
        }
    }
}

/// `d = old; [a] = op(old, b, c)`. `x0`: space, `x1`: operation, `x2`: size, `x3`: 64-bit address,
/// `x4`: the result is wanted.
struct Atomic;

impl Exec for Atomic {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel; accesses are checked.
        unsafe {
            if *w.late != 0 {
                copies::read_sources(w);
            }
            let mut old = [0u64; 32];
            if !atomic(r, p, w, m, &mut old) {
                return false;
            }
            if p.x[4] == 1 {
                if p.x[2] == 8 {
                    put_wide::<L>(r, p.d, m, &old);
                } else {
                    put::<L>(r, p.d, m, &old.map(|v| v as u32));
                }
            }
        }
        true
    }
}

#[inline(never)]
unsafe fn atomic(r: *mut Reg, p: &Op, w: &mut Warp, m: u32, old: &mut [u64; 32]) -> bool {
    // SAFETY: the operands are registers of the kernel; accesses are checked.
    unsafe {
        let size = p.x[2];
        let address = if p.x[3] == 1 { addresses::<true>(r, p) } else { addresses::<false>(r, p) };
        let Some(at) = places(w, p, p.x[0] as u8, &address, (u64::from(size), m, true)) else {
            return false;
        };
        let op = ALL[usize::from(p.x[1])];
        let value = |i: u16, lane: usize| {
            if size == 8 { wide(r, i, lane) } else { u64::from(reg(r, i)[lane]) }
        };
        // A 16-bit operand may stand in a register whose upper half is not zero.
        let keep = if size == 2 { 0xffff } else { !0 };
        for lane in 0..32 {
            if (m >> lane) & 1 != 0 {
                let (b, c) = (value(p.b, lane) & keep, value(p.c, lane) & keep);
                old[lane] = update(at[lane].host, size, |v| apply(op, size, v, b, c));
            }
        }
    }
    true
}

type Lowered = Result<bool, LoadError>;

fn operation(cx: &Emit, name: &str, ty: ScalarType, space: u8) -> Result<Rmw, LoadError> {
    use ScalarType as T;
    Ok(match (name, ty) {
        ("add", T::U32 | T::S32 | T::U64 | T::S64) => Rmw::Add,
        ("add", T::F32) if space == SHARED => Rmw::AddF32,
        ("add", T::F32) => Rmw::AddF32Flush,
        ("add", T::F64) => Rmw::AddF64,
        ("add", T::F16) => Rmw::AddF16,
        ("add", T::F16x2) => Rmw::AddF16x2,
        ("add", T::Bf16) => Rmw::AddBf16,
        ("add", T::Bf16x2) => Rmw::AddBf16x2,
        ("inc", T::U32) => Rmw::Inc,
        ("dec", T::U32) => Rmw::Dec,
        ("min", T::U32 | T::U64) => Rmw::MinU,
        ("max", T::U32 | T::U64) => Rmw::MaxU,
        ("min", T::S32 | T::S64) => Rmw::MinS,
        ("max", T::S32 | T::S64) => Rmw::MaxS,
        ("and", T::B32 | T::B64 | T::U32 | T::U64) => Rmw::And,
        ("or", T::B32 | T::B64 | T::U32 | T::U64) => Rmw::Or,
        ("xor", T::B32 | T::B64 | T::U32 | T::U64) => Rmw::Xor,
        ("exch", T::B32 | T::B64 | T::U32 | T::U64 | T::S32 | T::F32) => Rmw::Exchange,
        ("cas", T::B16 | T::B32 | T::B64 | T::U32 | T::U64 | T::S32) => Rmw::Compare,
        _ => return Err(cx.error("type is not supported")),
    })
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let returns = match opcode {
        "atom" => true,
        "red" => false,
        _ => return Ok(false),
    };
    let mut mods = Mods::new(cx.module, inst);
    if mods.has("async") || mods.has("shared::cluster") {
        return Err(cx.error("this form is not supported"));
    }
    drop_hints(&mut mods);
    let space = take_space(&mut mods);
    let names = ["add", "inc", "dec", "min", "max", "and", "or", "xor", "exch", "cas"];
    let Some(name) = mods.take_any(&names) else {
        return Err(cx.error("the operation is not supported"));
    };
    let Some(ty) = mods.take_type() else { return Err(cx.error("a type is needed")) };
    mods.finish(cx)?;
    let first = usize::from(returns);
    let at = address(cx, cx.operand(inst, first)?, space)?;
    let op = operation(cx, name, ty, at.space)?;
    let size = ty.bytes();
    let get = |cx: &mut Emit, at: usize| -> Result<_, LoadError> {
        let operand = cx.operand(inst, at)?;
        match size {
            8 => cx.src64(operand),
            2 => cx.src16(operand),
            _ => cx.src32(operand),
        }
    };
    let b = get(cx, first + 1)?;
    let c = if op == Rmw::Compare { get(cx, first + 2)? } else { b };
    let mut v = VOp::of::<Atomic>(cx).src(A, at.base).imm(at.offset).src(B, b).src(C, c);
    let wanted = returns && *cx.operand(inst, 0)? != Operand::Sink;
    if wanted {
        let dest = cx.operand(inst, 0)?;
        let d = if size == 8 { cx.dst64(dest)? } else { cx.dst32(dest)? };
        v = v.def(D, d);
    }
    let v = v.raw(X, u16::from(at.space)).raw(X + 1, op as u16).raw(X + 2, size as u16);
    cx.push(v.raw(X + 3, u16::from(at.is_wide)).raw(X + 4, u16::from(wanted)));
    Ok(true)
}
