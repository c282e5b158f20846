//! Logic, shifts, permutes, comparisons, selects.

use super::alu_int::{h2, n1, n2, n3, v1, v2, vw2, w1};
use super::lanewise::{C2, CW2, N3, VC, VW, WideShift, lane32, lane64};
use super::map::Select;
use crate::exec::op::{Exec, Op, Reg, Simd, mask, put_mask};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, M, Mods, VOp};
use crate::ptx::ast::{Inst, Operand, RegId};
use crate::ptx::types::ScalarType;

lane32! {
    And = |a, b, _, _| a & b;
    Or = |a, b, _, _| a | b;
    Xor = |a, b, _, _| a ^ b;
    Not = |a, _, _, _| !a;
    Not16 = |a, _, _, _| !a & 0xffff;
    Cnot = |a, _, _, _| u32::from(a == 0);
    Lop3 = |a, b, c, i| lop3(a, b, c, i);
    Shl = |a, b, _, _| if b > 31 { 0 } else { a << b };
    ShrU = |a, b, _, _| if b > 31 { 0 } else { a >> b };
    ShrS = |a, b, _, _| ((a as i32) >> b.min(31)) as u32;
    Shl16 = |a, b, _, _| if b > 15 { 0 } else { (a << b) & 0xffff };
    ShrU16 = |a, b, _, _| if b > 15 { 0 } else { (a & 0xffff) >> b };
    ShrS16 = |a, b, _, _| (i32::from(a as u16 as i16) >> b.min(15)) as u32 & 0xffff;
    ShfLW = |a, b, c, _| ((pair(a, b) << (c & 31)) >> 32) as u32;
    ShfLC = |a, b, c, _| ((u128::from(pair(a, b)) << c.min(32)) >> 32) as u32;
    ShfRW = |a, b, c, _| (pair(a, b) >> (c & 31)) as u32;
    ShfRC = |a, b, c, _| (pair(a, b) >> c.min(32)) as u32;
    Prmt = |a, b, c, i| prmt(a, b, c, i);
    Eq = |a, b, _, _| u32::from(a == b);
    Ne = |a, b, _, _| u32::from(a != b);
    LtU = |a, b, _, _| u32::from(a < b);
    LeU = |a, b, _, _| u32::from(a <= b);
    LtS = |a, b, _, _| u32::from((a as i32) < b as i32);
    LeS = |a, b, _, _| u32::from(a as i32 <= b as i32);
    Eq16 = |a, b, _, _| u32::from(a as u16 == b as u16);
    Ne16 = |a, b, _, _| u32::from(a as u16 != b as u16);
    LtU16 = |a, b, _, _| u32::from((a as u16) < b as u16);
    LeU16 = |a, b, _, _| u32::from(a as u16 <= b as u16);
    LtS16 = |a, b, _, _| u32::from((a as u16 as i16) < b as u16 as i16);
    LeS16 = |a, b, _, _| u32::from(a as u16 as i16 <= b as u16 as i16);
    Slct = |a, b, c, _| if c as i32 >= 0 { a } else { b };
}

lane64! {
    AndW = |a, b, _, _| a & b;
    OrW = |a, b, _, _| a | b;
    XorW = |a, b, _, _| a ^ b;
    NotW = |a, _, _, _| !a;
    CnotW = |a, _, _, _| u64::from(a == 0);
    ShlW = |a, _, c, _| if c > 63 { 0 } else { a << c };
    ShrUW = |a, _, c, _| if c > 63 { 0 } else { a >> c };
    ShrSW = |a, _, c, _| ((a as i64) >> c.min(63)) as u64;
    EqW = |a, b, _, _| u64::from(a == b);
    NeW = |a, b, _, _| u64::from(a != b);
    LtUW = |a, b, _, _| u64::from(a < b);
    LeUW = |a, b, _, _| u64::from(a <= b);
    LtSW = |a, b, _, _| u64::from((a as i64) < b as i64);
    LeSW = |a, b, _, _| u64::from(a as i64 <= b as i64);
    SlctW = |a, b, c, _| if c as u32 as i32 >= 0 { a } else { b };
}

/// `a` is the low word.
#[inline(always)]
fn pair(a: u32, b: u32) -> u64 {
    u64::from(a) | (u64::from(b) << 32)
}

#[inline(always)]
fn lop3(a: u32, b: u32, c: u32, table: u64) -> u32 {
    let mut out = 0;
    for k in 0..8 {
        let pick = 0u32.wrapping_sub((table >> k) as u32 & 1);
        let x = if k & 4 != 0 { a } else { !a };
        let y = if k & 2 != 0 { b } else { !b };
        let z = if k & 1 != 0 { c } else { !c };
        out |= x & y & z & pick;
    }
    out
}

/// Modes: 0 default, 1 f4e, 2 b4e, 3 rc8, 4 ecl, 5 ecr, 6 rc16.
#[inline(always)]
fn prmt(a: u32, b: u32, c: u32, mode: u64) -> u32 {
    let bytes = pair(a, b);
    let mut out = 0;
    for k in 0..4u32 {
        let low = c & 3;
        let (from, sign) = match mode {
            0 => ((c >> (4 * k)) & 7, (c >> (4 * k)) & 8 != 0),
            1 => (low + k, false),
            2 => (low.wrapping_sub(k) & 7, false),
            3 => (low, false),
            4 => (low.max(k), false),
            5 => (low.min(k), false),
            _ => ((low & 1) * 2 + (k & 1), false),
        };
        let byte = (bytes >> (8 * from)) as u32 & 0xff;
        let byte = if sign { 0xffu32 * (byte >> 7) } else { byte };
        out |= byte << (8 * k);
    }
    out
}

/// Predicate logic: `imm` is the truth table of (a, b): bit `2a + b`.
struct MaskLogic;

impl Exec for MaskLogic {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are masks of the kernel.
        unsafe {
            let (a, b) = (mask(r, p.a), mask(r, p.b));
            let pick = |k: u32| 0u32.wrapping_sub((p.imm >> k) as u32 & 1);
            let v =
                (a & b & pick(3)) | (a & !b & pick(2)) | (!a & b & pick(1)) | (!a & !b & pick(0));
            put_mask(r, p.d, m, v);
        }
        true
    }
}

type Lowered = Result<bool, LoadError>;

/// Pushes `d = a OP b` of predicates; `table` bit `2a + b`.
pub(crate) fn mask_logic(cx: &mut Emit, d: M, a: M, b: M, table: u64) {
    cx.push(VOp::of::<MaskLogic>(cx).def_mask(D, d).src_mask(A, a).src_mask(B, b).imm(table));
}

/// Finishes a `setp` whose comparison `compare` pushes into the mask that it is given: handles
/// `p|q` destinations and the boolean operation with operand 3. Takes `.and .or .xor` from `mods`.
///
/// # Errors
/// For operands that are no predicates.
pub(crate) fn setp(
    cx: &mut Emit,
    inst: &Inst,
    mods: &mut Mods,
    compare: impl FnOnce(&mut Emit, M) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let (p, q) = match cx.operand(inst, 0)? {
        Operand::Pair(p, q) => {
            let get = |cx: &mut Emit, r: &Option<RegId>| -> Result<M, LoadError> {
                match r {
                    Some(r) => cx.mask_of(*r),
                    None => Ok(cx.temp_mask()),
                }
            };
            (get(cx, p)?, Some(get(cx, q)?))
        }
        one => (cx.dst_mask(one)?, None),
    };
    let table = match mods.take_any(&["and", "or", "xor"]) {
        None => None,
        Some("and") => Some(0b1000),
        Some("or") => Some(0b1110),
        Some(_) => Some(0b0110),
    };
    if table.is_none() && q.is_none() {
        return compare(cx, p);
    }
    // With a boolean operation, p = (a CMP b) OP c and q = !(a CMP b) OP c.
    let c = match table {
        Some(_) => Some(cx.src_mask(cx.operand(inst, 3)?)?),
        None => None,
    };
    let result = cx.temp_mask();
    compare(cx, result)?;
    let (c, table) = match (c, table) {
        (Some(c), Some(table)) => (c, table),
        _ => (result, 0b1100),
    };
    // c may be p itself: q first needs the old one.
    if let Some(q) = q {
        let swapped = ((table & 0b0011) << 2) | ((table & 0b1100) >> 2);
        let q_value = cx.temp_mask();
        mask_logic(cx, q_value, result, c, swapped);
        mask_logic(cx, p, result, c, table);
        mask_logic(cx, q, q_value, q_value, 0b1100);
    } else {
        mask_logic(cx, p, result, c, table);
    }
    Ok(())
}

/// Pushes the comparison of operands `at` and `at + 1` into `d`.
fn compare(cx: &mut Emit, inst: &Inst, cmp: &str, ty: ScalarType, d: M) -> Result<(), LoadError> {
    let (x, y) = (cx.operand(inst, 1)?, cx.operand(inst, 2)?);
    let signed = ty.is_signed();
    let (cmp, swap) = match cmp {
        "gt" => ("lt", true),
        "ge" => ("le", true),
        "hi" => ("lo", true),
        "hs" => ("ls", true),
        other => (other, false),
    };
    let signed = signed && !matches!(cmp, "lo" | "ls");
    let bits = ty.bits();
    let (a, b) = match bits {
        64 => (cx.src64(x)?, cx.src64(y)?),
        16 => (cx.src16(x)?, cx.src16(y)?),
        _ => (cx.src32(x)?, cx.src32(y)?),
    };
    let (a, b) = if swap { (b, a) } else { (a, b) };
    let op = match (bits, cmp, signed) {
        (32, "eq", _) => VOp::of::<VC<Eq>>(cx),
        (32, "ne", _) => VOp::of::<VC<Ne>>(cx),
        (32, "lt" | "lo", false) => VOp::of::<VC<LtU>>(cx),
        (32, "le" | "ls", false) => VOp::of::<VC<LeU>>(cx),
        (32, "lt", true) => VOp::of::<VC<LtS>>(cx),
        (32, "le", true) => VOp::of::<VC<LeS>>(cx),
        (16, "eq", _) => VOp::of::<C2<Eq16>>(cx),
        (16, "ne", _) => VOp::of::<C2<Ne16>>(cx),
        (16, "lt" | "lo", false) => VOp::of::<C2<LtU16>>(cx),
        (16, "le" | "ls", false) => VOp::of::<C2<LeU16>>(cx),
        (16, "lt", true) => VOp::of::<C2<LtS16>>(cx),
        (16, "le", true) => VOp::of::<C2<LeS16>>(cx),
        (64, "eq", _) => VOp::of::<CW2<EqW>>(cx),
        (64, "ne", _) => VOp::of::<CW2<NeW>>(cx),
        (64, "lt" | "lo", false) => VOp::of::<CW2<LtUW>>(cx),
        (64, "le" | "ls", false) => VOp::of::<CW2<LeUW>>(cx),
        (64, "lt", true) => VOp::of::<CW2<LtSW>>(cx),
        (64, "le", true) => VOp::of::<CW2<LeSW>>(cx),
        _ => return Err(cx.error("comparison is not supported")),
    };
    cx.push(op.def_mask(D, d).src(A, a).src(B, b));
    Ok(())
}

const COMPARISONS: [&str; 10] = ["eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs"];

fn lower_setp(cx: &mut Emit, opcode: &str, inst: &Inst, mut mods: Mods) -> Lowered {
    // set: the first type is the result's, the last the operands'.
    let Some(ty) = mods.last_type().filter(|t| !t.is_float()) else { return Ok(false) };
    if opcode == "set" {
        let Some(dest) = mods.take_type() else { return Ok(false) };
        if mods.take_type() != Some(ty)
            || !(dest.bits() == 32 && (!dest.is_float() || dest == ScalarType::F32))
        {
            return Err(cx.error("type is not supported"));
        }
        let Some(cmp) = mods.take_any(&COMPARISONS) else {
            return Err(cx.error("comparison is not supported"));
        };
        mods.finish(cx)?;
        let result = cx.temp_mask();
        compare(cx, inst, cmp, ty, result)?;
        set_result(cx, inst, result, dest)?;
        return Ok(true);
    }
    mods.take_type();
    let Some(cmp) = mods.take_any(&COMPARISONS) else {
        return Err(cx.error("comparison is not supported"));
    };
    setp(cx, inst, &mut mods, |cx, d| compare(cx, inst, cmp, ty, d))?;
    mods.finish(cx)?;
    Ok(true)
}

/// Pushes the result of a `set` into operand 0: 1.0 or all ones, or zero.
///
/// # Errors
/// For a destination that is no register of 32 bits.
pub(crate) fn set_result(
    cx: &mut Emit,
    inst: &Inst,
    result: M,
    dest: ScalarType,
) -> Result<(), LoadError> {
    let yes = match dest {
        ScalarType::F32 => 0x3f80_0000,
        ScalarType::F16 => 0x3c00,
        ScalarType::Bf16 => 0x3f80,
        ScalarType::U16 | ScalarType::S16 => 0xffff,
        _ => !0,
    };
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let (yes, no) = (cx.const32(yes), cx.const32(0));
    cx.push(VOp::of::<Select<u32>>(cx).def(D, d).src_mask(A, result).src(B, yes).src(C, no));
    Ok(())
}

fn lower_select(cx: &mut Emit, opcode: &str, inst: &Inst, mut mods: Mods) -> Lowered {
    let Some(ty) = mods.take_type() else { return Ok(false) };
    let is_wide = ty.bits() == 64;
    let (o0, o1, o2, o3) =
        (cx.operand(inst, 0)?, cx.operand(inst, 1)?, cx.operand(inst, 2)?, cx.operand(inst, 3)?);
    let (d, a, b) = if is_wide {
        (cx.dst64(o0)?, cx.src64(o1)?, cx.src64(o2)?)
    } else if ty.bits() == 16 {
        (cx.dst32(o0)?, cx.src16(o1)?, cx.src16(o2)?)
    } else {
        (cx.dst32(o0)?, cx.src32(o1)?, cx.src32(o2)?)
    };
    if opcode == "selp" {
        mods.finish(cx)?;
        let k = cx.src_mask(o3)?;
        let op = if is_wide { VOp::of::<Select<u64>>(cx) } else { VOp::of::<Select<u32>>(cx) };
        cx.push(op.def(D, d).src_mask(A, k).src(B, a).src(C, b));
        return Ok(true);
    }
    if mods.take_type() != Some(ScalarType::S32) {
        return Err(cx.error("type is not supported"));
    }
    mods.finish(cx)?;
    let c = cx.src32(o3)?;
    let op = if is_wide { VOp::of::<WideShift<SlctW>>(cx) } else { VOp::of::<N3<Slct>>(cx) };
    cx.push(op.def(D, d).src(A, a).src(B, b).src(C, c));
    Ok(true)
}

fn lower_logic(cx: &mut Emit, opcode: &str, inst: &Inst, ty: ScalarType) -> Lowered {
    if ty == ScalarType::Pred {
        let d = cx.dst_mask(cx.operand(inst, 0)?)?;
        let a = cx.src_mask(cx.operand(inst, 1)?)?;
        if opcode == "not" {
            mask_logic(cx, d, a, a, 0b0011);
            return Ok(true);
        }
        let b = cx.src_mask(cx.operand(inst, 2)?)?;
        let table = match opcode {
            "and" => 0b1000,
            "or" => 0b1110,
            "xor" => 0b0110,
            _ => return Err(cx.error("type is not supported")),
        };
        mask_logic(cx, d, a, b, table);
        return Ok(true);
    }
    match (opcode, ty.bits()) {
        ("and", 16) => h2::<And>(cx, inst),
        ("or", 16) => h2::<Or>(cx, inst),
        ("xor", 16) => h2::<Xor>(cx, inst),
        ("not", 16) => n1::<Not16>(cx, inst, 0),
        ("and", 32) => v2::<And>(cx, inst),
        ("or", 32) => v2::<Or>(cx, inst),
        ("xor", 32) => v2::<Xor>(cx, inst),
        ("not", 32) => v1::<Not>(cx, inst),
        ("cnot", 16 | 32) => n1::<Cnot>(cx, inst, 0),
        ("and", 64) => vw2::<AndW>(cx, inst),
        ("or", 64) => vw2::<OrW>(cx, inst),
        ("xor", 64) => vw2::<XorW>(cx, inst),
        ("not", 64) => w1::<NotW>(cx, inst),
        ("cnot", 64) => w1::<CnotW>(cx, inst),
        _ => Err(cx.error("type is not supported")),
    }
}

fn lower_shift(cx: &mut Emit, opcode: &str, inst: &Inst, ty: ScalarType) -> Lowered {
    let signed = ty.is_signed();
    match (opcode, ty.bits()) {
        ("shl", 32) => v2::<Shl>(cx, inst),
        ("shr", 32) if signed => v2::<ShrS>(cx, inst),
        ("shr", 32) => v2::<ShrU>(cx, inst),
        ("shl", 16) => n2::<Shl16>(cx, inst, 0),
        ("shr", 16) if signed => n2::<ShrS16>(cx, inst, 0),
        ("shr", 16) => n2::<ShrU16>(cx, inst, 0),
        (_, 64) => {
            let d = cx.dst64(cx.operand(inst, 0)?)?;
            let a = cx.src64(cx.operand(inst, 1)?)?;
            let c = cx.src32(cx.operand(inst, 2)?)?;
            let op = match (opcode, signed) {
                ("shl", _) => VOp::of::<VW<ShlW, true, true, false>>(cx),
                (_, true) => VOp::of::<VW<ShrSW, true, true, false>>(cx),
                (_, false) => VOp::of::<VW<ShrUW, true, true, false>>(cx),
            };
            cx.push(op.def(D, d).src(A, a).src(B, a).src(C, c));
            Ok(true)
        }
        _ => Err(cx.error("type is not supported")),
    }
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let mut mods = Mods::new(cx.module, inst);
    match opcode {
        "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" => {
            let Some(ty) = mods.take_type() else { return Ok(false) };
            mods.finish(cx)?;
            if opcode.starts_with("sh") {
                lower_shift(cx, opcode, inst, ty)
            } else {
                lower_logic(cx, opcode, inst, ty)
            }
        }
        "lop3" => {
            mods.take("b32");
            mods.finish(cx)?;
            let Operand::Int(table) = *cx.operand(inst, 4)? else {
                return Err(cx.error("the table must be a constant"));
            };
            n3::<Lop3>(cx, inst, table)
        }
        "shf" => {
            let left = mods.take_any(&["l", "r"]) == Some("l");
            let wrap = mods.take_any(&["wrap", "clamp"]) == Some("wrap");
            mods.take("b32");
            mods.finish(cx)?;
            match (left, wrap) {
                (true, true) => n3::<ShfLW>(cx, inst, 0),
                (true, false) => n3::<ShfLC>(cx, inst, 0),
                (false, true) => n3::<ShfRW>(cx, inst, 0),
                (false, false) => n3::<ShfRC>(cx, inst, 0),
            }
        }
        "prmt" => {
            mods.take("b32");
            let mode = match mods.take_any(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
                None => 0,
                Some("f4e") => 1,
                Some("b4e") => 2,
                Some("rc8") => 3,
                Some("ecl") => 4,
                Some("ecr") => 5,
                Some(_) => 6,
            };
            mods.finish(cx)?;
            n3::<Prmt>(cx, inst, mode)
        }
        "setp" | "set" => lower_setp(cx, opcode, inst, mods),
        "selp" | "slct" => {
            if opcode == "slct" && mods.last_type() == Some(ScalarType::F32) {
                return Ok(false);
            }
            lower_select(cx, opcode, inst, mods)
        }
        _ => Ok(false),
    }
}
