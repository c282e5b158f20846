//! Lowering of loads and stores to the handlers of `mem.rs`.

use super::access::{GENERIC, GLOBAL, LOCAL, PARAM, SHARED};
use super::address::{address, drop_hints, take_space};
use super::mem::{Fence, Load, LoadParam, Store};
use super::mov::{extend, extend_small};
use crate::fault::LoadError;
use crate::lower::emit::{A, D, Emit, Kind, Mods, Slot, V, VOp, X};
use crate::ptx::ast::{AddressBase, Inst, Operand, Symbol};
use crate::ptx::types::{RegClass, ScalarType};

type Lowered = Result<bool, LoadError>;

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
