//! Moves: registers, immediates, addresses, packing, and address conversions.

use super::lanewise::{CW2, N1, V3, VW, W1, lane32, lane64};
use super::special;
use crate::exec::op::{Exec, Op, Reg, Simd, put_wide, reg};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, V, VOp, X};
use crate::memory;
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::RegClass;

lane32! {
    Id = |a, _, _, _| a;
    Low16 = |a, _, _, _| a & 0xffff;
    High16 = |a, _, _, _| a >> 16;
    Pack16 = |a, b, _, _| (a & 0xffff) | (b << 16);
    Byte = |a, _, _, i| (a >> (8 * i)) & 0xff;
    Sext8 = |a, _, _, _| a as u8 as i8 as i32 as u32;
    Sext8To16 = |a, _, _, _| a as u8 as i8 as i16 as u16 as u32;
    Sext16 = |a, _, _, _| a as u16 as i16 as i32 as u32;
}

lane64! {
    IdW = |a, _, _, _| a;
    AddImm = |a, _, _, i| a.wrapping_add(i);
    Sext32W = |a, _, _, _| a as u32 as i32 as i64 as u64;
    Zext32W = |a, _, _, _| a as u32 as u64;
    InSpace = |a, b, _, _| u64::from(memory::tag(a) == b);
}

/// 64-bit `d` from the words `a` and `b`.
pub(crate) struct Pair;

impl Exec for Pair {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel.
        unsafe {
            let (a, b) = (reg(r, p.a), reg(r, p.b));
            let mut v = [0u64; 32];
            for (l, v) in v.iter_mut().enumerate() {
                *v = u64::from(a[l]) | (u64::from(b[l]) << 32);
            }
            put_wide::<L>(r, p.d, m, &v);
        }
        true
    }
}

/// 64-bit `d` from the halves `a`, `b`, `c`, `x0`.
struct Pack4;

impl Exec for Pack4 {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel.
        unsafe {
            let parts = [reg(r, p.a), reg(r, p.b), reg(r, p.c), reg(r, p.x[0])];
            let mut v = [0u64; 32];
            for (l, v) in v.iter_mut().enumerate() {
                for (k, part) in parts.iter().enumerate() {
                    *v |= u64::from(part[l] & 0xffff) << (16 * k);
                }
            }
            put_wide::<L>(r, p.d, m, &v);
        }
        true
    }
}

/// Pushes `d = a` of one register.
pub(crate) fn copy32(cx: &mut Emit, d: V, a: V) {
    cx.push(VOp::of::<V3<Id>>(cx).def(D, d).src(A, a).copy());
}

/// Pushes `d = a` of two registers.
pub(crate) fn copy64(cx: &mut Emit, d: V, a: V) {
    cx.push(VOp::of::<VW<IdW, true, false, false>>(cx).def(D, d).src(A, a).copy());
}

/// Pushes the sign- or zero-extension of the 32-bit `a` to the 64-bit `d`.
pub(crate) fn extend(cx: &mut Emit, d: V, a: V, signed: bool) {
    let op = if signed {
        VOp::of::<VW<Sext32W, false, false, false>>(cx)
    } else {
        VOp::of::<VW<Zext32W, false, false, false>>(cx)
    };
    cx.push(op.def(D, d).src(A, a));
}

/// Pushes the sign extension of a byte or half to the class of its destination.
pub(crate) fn extend_small(cx: &mut Emit, d: V, a: V, bytes: u32, to16: bool) {
    let op = match (bytes, to16) {
        (1, true) => VOp::of::<N1<Sext8To16>>(cx),
        (1, false) => VOp::of::<N1<Sext8>>(cx),
        (_, false) => VOp::of::<N1<Sext16>>(cx),
        (_, true) => VOp::of::<V3<Low16>>(cx),
    };
    cx.push(op.def(D, d).src(A, a));
}

type Lowered = Result<bool, LoadError>;

fn pack(cx: &mut Emit, inst: &Inst, parts: &[Operand]) -> Lowered {
    let dest = cx.operand(inst, 0)?;
    let Operand::Reg(reg) = dest else {
        return Err(cx.error("destination is not supported here"));
    };
    match (cx.class(*reg)?, parts) {
        (RegClass::B64, [a, b]) => {
            let (d, a, b) = (cx.dst64(dest)?, cx.src32(a)?, cx.src32(b)?);
            cx.push(VOp::of::<Pair>(cx).def(D, d).src(A, a).src(B, b));
        }
        (RegClass::B64, [a, b, c, e]) => {
            let d = cx.dst64(dest)?;
            let (a, b, c, e) = (cx.src16(a)?, cx.src16(b)?, cx.src16(c)?, cx.src16(e)?);
            let op = VOp::of::<Pack4>(cx).def(D, d);
            cx.push(op.src(A, a).src(B, b).src(C, c).src(X, e));
        }
        (RegClass::B32, [a, b]) => {
            let (d, a, b) = (cx.dst32(dest)?, cx.src16(a)?, cx.src16(b)?);
            cx.push(VOp::of::<V3<Pack16>>(cx).def(D, d).src(A, a).src(B, b));
        }
        _ => return Err(cx.error("this packing is not supported")),
    }
    Ok(true)
}

fn unpack(cx: &mut Emit, inst: &Inst, parts: &[Operand]) -> Lowered {
    let source = cx.operand(inst, 1)?;
    let is_wide = match source {
        Operand::Reg(reg) => cx.class(*reg)? == RegClass::B64,
        _ => parts.len() == 4,
    };
    let source = if is_wide { cx.src64(source)? } else { cx.src32(source)? };
    let count = parts.len();
    // A part may be the source's own register (`mov.b32 {%rs1, _}, %r1` never is, but 32-bit
    // parts of a pair cannot be either): classes differ, so the parts can be written one by one.
    for (k, part) in parts.iter().enumerate() {
        if *part == Operand::Sink {
            continue;
        }
        let d = cx.dst32(part)?;
        let op = match (is_wide, count) {
            (true, 2) => VOp::of::<V3<Id>>(cx).src(A, source.part(k as u8)).copy(),
            (true, 4) if k % 2 == 0 => VOp::of::<V3<Low16>>(cx).src(A, source.part(k as u8 / 2)),
            (true, 4) => VOp::of::<V3<High16>>(cx).src(A, source.part(k as u8 / 2)),
            (false, 2) if k == 0 => VOp::of::<V3<Low16>>(cx).src(A, source),
            (false, 2) => VOp::of::<V3<High16>>(cx).src(A, source),
            (false, 4) => VOp::of::<N1<Byte>>(cx).src(A, source).imm(k as u64),
            _ => return Err(cx.error("this unpacking is not supported")),
        };
        cx.push(op.def(D, d));
    }
    Ok(true)
}

fn lower_mov(cx: &mut Emit, inst: &Inst) -> Lowered {
    let (dest, source) = (cx.operand(inst, 0)?, cx.operand(inst, 1)?);
    if let Operand::Vector(parts) = source {
        return pack(cx, inst, parts);
    }
    if let Operand::Vector(parts) = dest {
        return unpack(cx, inst, parts);
    }
    let Operand::Reg(reg) = dest else {
        return Err(cx.error("destination is not supported here"));
    };
    let class = cx.class(*reg)?;
    if class == RegClass::Pred {
        let d = cx.dst_mask(dest)?;
        match source {
            Operand::Int(n) => {
                let table = if *n == 0 { 0 } else { 0b1111 };
                super::logic::mask_logic(cx, d, d, d, table);
            }
            _ => {
                let a = cx.src_mask(source)?;
                super::logic::mask_logic(cx, d, a, a, 0b1100);
            }
        }
        return Ok(true);
    }
    match source {
        Operand::Special(which) => special::read(cx, *reg, *which)?,
        Operand::Symbol(symbol, offset) => {
            let (_, address) = cx.symbol(*symbol)?;
            let address = address.wrapping_add(*offset as u64);
            if class == RegClass::B64 {
                let (d, a) = (cx.dst64(dest)?, cx.const64(address));
                copy64(cx, d, a);
            } else {
                let (d, a) = (cx.dst32(dest)?, cx.const32(address as u32));
                copy32(cx, d, a);
            }
        }
        _ if class == RegClass::B64 => {
            let (d, a) = (cx.dst64(dest)?, cx.src64(source)?);
            copy64(cx, d, a);
        }
        _ if class == RegClass::B16 => {
            let (d, a) = (cx.dst32(dest)?, cx.src16(source)?);
            copy32(cx, d, a);
        }
        _ => {
            let (d, a) = (cx.dst32(dest)?, cx.src32(source)?);
            copy32(cx, d, a);
        }
    }
    Ok(true)
}

fn lower_cvta(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    let to = mods.take("to");
    let space = mods.take_any(&[
        "global",
        "const",
        "shared",
        "shared::cta",
        "local",
        "param",
        "param::entry",
    ]);
    let Some(ty) = mods.take_type() else { return Ok(false) };
    mods.finish(cx)?;
    let (dest, source) = (cx.operand(inst, 0)?, cx.operand(inst, 1)?);
    let base = match space {
        Some("global" | "const") => 0,
        Some("shared" | "shared::cta") => memory::SHARED_BASE,
        Some("local") => memory::LOCAL_BASE,
        Some("param" | "param::entry") if cx.in_entry() => memory::PARAM_BASE,
        Some("param") => memory::LOCAL_BASE,
        _ => return Err(cx.error("a space is needed")),
    };
    if ty.bits() == 32 {
        // 32-bit addresses exist in shared and local memory alone; their offsets are the same.
        return Err(cx.error("generic addresses have 64 bits"));
    }
    let source = match source {
        Operand::Symbol(symbol, offset) => {
            let (_, address) = cx.symbol(*symbol)?;
            cx.const64(address.wrapping_add(*offset as u64))
        }
        other => cx.src64(other)?,
    };
    let d = cx.dst64(dest)?;
    let step = if to { base.wrapping_neg() } else { base };
    if step == 0 {
        copy64(cx, d, source);
    } else {
        cx.push(VOp::of::<W1<AddImm>>(cx).def(D, d).src(A, source).imm(step));
    }
    Ok(true)
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let mut mods = Mods::new(cx.module, inst);
    match opcode {
        "mov" => {
            mods.take_type();
            mods.finish(cx)?;
            lower_mov(cx, inst)
        }
        "cvta" => lower_cvta(cx, inst, mods),
        "isspacep" => {
            let tag = match mods.take_any(&[
                "global",
                "const",
                "shared",
                "shared::cta",
                "local",
                "param",
                "param::entry",
            ]) {
                Some("global") => memory::TAG_GLOBAL,
                Some("shared" | "shared::cta") => memory::TAG_SHARED,
                Some("local") => memory::TAG_LOCAL,
                Some("param" | "param::entry") => memory::TAG_PARAM,
                _ => return Err(cx.error("space is not supported")),
            };
            mods.finish(cx)?;
            let d = cx.dst_mask(cx.operand(inst, 0)?)?;
            let a = cx.src64(cx.operand(inst, 1)?)?;
            let tag = cx.const64(tag);
            cx.push(VOp::of::<CW2<InSpace>>(cx).def_mask(D, d).src(A, a).src(B, tag));
            Ok(true)
        }
        _ => Ok(false),
    }
}
