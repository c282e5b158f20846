//! `setp`, `set` and `slct` of float types; `selp` of all types is in `logic`.

use super::map::{MapTest, Select, Test, choose};
use super::modes::{FTZ, take_flag};
use crate::exec::op::{Exec, Handler, Level, Op, Reg, Simd, mask, pick, put, put_mask};
use crate::exec::simd::round::{bf16_widen, f16_widen, flush32};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, M, Mods, V, VOp, X};
use crate::ptx::ast::{Inst, Operand, RegId};
use crate::ptx::types::ScalarType;

/// Outcomes of a comparison: a relation is true for a set of them.
const LESS: u64 = 1;
const EQUAL: u64 = 2;
const GREATER: u64 = 4;
const UNORDERED: u64 = 8;

const RELATIONS: [(&str, u64); 14] = [
    ("eq", EQUAL),
    ("ne", LESS | GREATER),
    ("lt", LESS),
    ("le", LESS | EQUAL),
    ("gt", GREATER),
    ("ge", GREATER | EQUAL),
    ("equ", EQUAL | UNORDERED),
    ("neu", LESS | GREATER | UNORDERED),
    ("ltu", LESS | UNORDERED),
    ("leu", LESS | EQUAL | UNORDERED),
    ("gtu", GREATER | UNORDERED),
    ("geu", GREATER | EQUAL | UNORDERED),
    ("num", LESS | EQUAL | GREATER),
    ("nan", UNORDERED),
];

/// All ones if `a` and `b` stand in one of the relations of `set`.
#[inline(always)]
fn holds(a: f64, b: f64, set: u64) -> u32 {
    let unordered = a.is_nan() || b.is_nan();
    let yes = (set & LESS != 0 && a < b)
        || (set & EQUAL != 0 && a == b)
        || (set & GREATER != 0 && a > b)
        || (set & UNORDERED != 0 && unordered);
    0u32.wrapping_sub(u32::from(yes))
}

/// f32 without `.ftz`, the relation fixed.
struct Compare32<const SET: u64>;
impl<const SET: u64> Test for Compare32<SET> {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, _: u64) -> u32 {
        let (a, b) = (f32::from_bits(a), f32::from_bits(b));
        let unordered = a.is_nan() | b.is_nan();
        let yes = ((SET & LESS != 0) & (a < b))
            | ((SET & EQUAL != 0) & (a == b))
            | ((SET & GREATER != 0) & (a > b))
            | ((SET & UNORDERED != 0) & unordered);
        0u32.wrapping_sub(u32::from(yes))
    }
}

/// f32 with `.ftz`.
struct Compare32Flush;
impl Test for Compare32Flush {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, imm: u64) -> u32 {
        let value = |bits| f64::from(f32::from_bits(flush32(bits)));
        holds(value(a), value(b), imm)
    }
}

struct Compare64;
impl Test for Compare64 {
    type A = u64;
    #[inline(always)]
    fn lane<L: Simd>(a: u64, b: u64, imm: u64) -> u32 {
        holds(f64::from_bits(a), f64::from_bits(b), imm)
    }
}

/// f16 in bits `SHIFT` up.
struct CompareF16<const SHIFT: u32>;
impl<const SHIFT: u32> Test for CompareF16<SHIFT> {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, imm: u64) -> u32 {
        let value = |word: u32| {
            let half = word >> SHIFT & 0xffff;
            let small = half & 0x7c00 == 0 && imm & FTZ != 0;
            f64::from(f32::from_bits(f16_widen(if small { half & 0x8000 } else { half })))
        };
        holds(value(a), value(b), imm)
    }
}

/// bf16 in bits `SHIFT` up.
struct CompareBf16<const SHIFT: u32>;
impl<const SHIFT: u32> Test for CompareBf16<SHIFT> {
    type A = u32;
    #[inline(always)]
    fn lane<L: Simd>(a: u32, b: u32, imm: u64) -> u32 {
        let value = |word: u32| f64::from(f32::from_bits(bf16_widen(word >> SHIFT & 0xffff)));
        holds(value(a), value(b), imm)
    }
}

/// Mask `d = a op c` and mask `x[0] = !a op c`; `imm`: 0 and, 1 or, 2 xor, 3 neither.
struct Combine;
impl Exec for Combine {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `a` and `c` are masks of the kernel.
        let (a, c) = unsafe { (mask(r, p.a), mask(r, p.c)) };
        let join = |v: u32| match p.imm {
            0 => v & c,
            1 => v | c,
            2 => v ^ c,
            _ => v,
        };
        // SAFETY: `d` and `x[0]` are masks of the kernel.
        unsafe {
            put_mask(r, p.d, m, join(a));
            put_mask(r, p.x[0], m, join(!a));
        }
        true
    }
}

/// `d = (a ? low half of imm : 0) | (b ? high half of imm : 0)` by masks `a` and `b`.
struct FromMasks;
impl Exec for FromMasks {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `a` and `b` are masks of the kernel.
        let (a, b) = unsafe { (mask(r, p.a), mask(r, p.b)) };
        let (low, high) = (p.imm as u32 & 0xffff, p.imm as u32 & 0xffff_0000);
        let mut d = [0; 32];
        for (lane, d) in d.iter_mut().enumerate() {
            *d = choose(a, lane, low, 0) | choose(b, lane, high, 0);
        }
        // SAFETY: `d` is a register of the kernel.
        unsafe { put::<L>(r, p.d, m, &d) };
        true
    }
}

/// The comparison of `x2` types takes two: of the low halves and of the high halves.
fn comparison(ty: ScalarType, set: u64, level: Level, high: bool) -> Handler {
    match (ty, high) {
        (ScalarType::F64, _) => pick::<MapTest<Compare64>>(level),
        (ScalarType::F16 | ScalarType::F16x2, false) => pick::<MapTest<CompareF16<0>>>(level),
        (ScalarType::F16x2, true) => pick::<MapTest<CompareF16<16>>>(level),
        (ScalarType::Bf16 | ScalarType::Bf16x2, false) => pick::<MapTest<CompareBf16<0>>>(level),
        (ScalarType::Bf16x2, true) => pick::<MapTest<CompareBf16<16>>>(level),
        _ if set & FTZ != 0 => pick::<MapTest<Compare32Flush>>(level),
        _ => compare32(set, level),
    }
}

fn compare32(set: u64, level: Level) -> Handler {
    macro_rules! by_relation {
        ($($n:literal)*) => {
            match set {
                $($n => pick::<MapTest<Compare32<$n>>>(level),)*
                _ => pick::<MapTest<Compare32<0>>>(level),
            }
        };
    }
    by_relation!(1 2 3 4 5 6 7 8 9 10 11 12 13 14)
}

fn is_packed(ty: ScalarType) -> bool {
    matches!(ty, ScalarType::F16x2 | ScalarType::Bf16x2)
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    let mut mods = Mods::new(cx.module, inst);
    let Some(ty) = mods.last_type().filter(|ty| ty.is_float()) else { return Ok(false) };
    match opcode {
        "setp" => setp(cx, &mut mods, ty, &inst.operands)?,
        "set" => set(cx, &mut mods, ty, &inst.operands)?,
        "slct" if ty == ScalarType::F32 => slct(cx, &mut mods, &inst.operands)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Takes relation, boolean operation (3: none) and `.ftz`.
fn take_relation(cx: &Emit, mods: &mut Mods) -> Result<(u64, u64), LoadError> {
    let relation = RELATIONS.into_iter().find(|(name, _)| mods.take(name));
    let (_, set) = relation.ok_or_else(|| cx.error("a comparison is missing"))?;
    let join = match mods.take_any(&["and", "or", "xor"]) {
        Some("and") => 0,
        Some("or") => 1,
        Some(_) => 2,
        None => 3,
    };
    Ok((set | take_flag(mods, "ftz", FTZ), join))
}

/// Pushes one comparison into a fresh mask.
fn compare(cx: &mut Emit, ty: ScalarType, set: u64, sources: (V, V), high: bool) -> M {
    let result = cx.temp_mask();
    push_compare(cx, ty, set, sources, high, result);
    result
}

fn push_compare(cx: &mut Emit, ty: ScalarType, set: u64, (a, b): (V, V), high: bool, result: M) {
    let op = VOp::new(comparison(ty, set, cx.level, high)).pure("compare");
    cx.push(op.def_mask(D, result).src(A, a).src(B, b).imm(set));
}

fn sources(cx: &mut Emit, ty: ScalarType, a: &Operand, b: &Operand) -> Result<(V, V), LoadError> {
    Ok(match ty.bits() {
        64 => (cx.src64(a)?, cx.src64(b)?),
        16 => (cx.src16(a)?, cx.src16(b)?),
        _ => (cx.src32(a)?, cx.src32(b)?),
    })
}

/// Pushes `combined = compared op c`, `other = !compared op c`.
fn push_combine(cx: &mut Emit, compared: M, join: u64, c: M, to: (M, M)) {
    let op = VOp::of::<Combine>(cx).imm(join).src_mask(A, compared).src_mask(C, c);
    cx.push(op.def_mask(D, to.0).def_mask(X, to.1));
}

fn setp(cx: &mut Emit, mods: &mut Mods, ty: ScalarType, o: &[Operand]) -> Result<(), LoadError> {
    let (set, join) = take_relation(cx, mods)?;
    mods.take_type();
    mods.finish(cx)?;
    let (dest, a, b, c) = match (o, join) {
        ([d, a, b], 3) => (d, a, b, None),
        ([d, a, b, c], 0..3) => (d, a, b, Some(cx.src_mask(c)?)),
        _ => return Err(cx.error("wrong number of operands")),
    };
    let from = sources(cx, ty, a, b)?;
    let (first, second) = match dest {
        Operand::Pair(p, q) => {
            let mut dest = |reg: &Option<RegId>| match reg {
                Some(reg) => cx.mask_of(*reg),
                None => Ok(cx.temp_mask()),
            };
            (dest(p)?, Some(dest(q)?))
        }
        other => (cx.dst_mask(other)?, None),
    };
    if is_packed(ty) {
        for (high, dest) in [(false, Some(first)), (true, second)] {
            let Some(dest) = dest else { continue };
            let compared = compare(cx, ty, set, from, high);
            let unused = cx.temp_mask();
            push_combine(cx, compared, join, c.unwrap_or(compared), (dest, unused));
        }
    } else if second.is_none() && c.is_none() {
        push_compare(cx, ty, set, from, false, first);
    } else {
        let compared = compare(cx, ty, set, from, false);
        let second = second.unwrap_or_else(|| cx.temp_mask());
        push_combine(cx, compared, join, c.unwrap_or(compared), (first, second));
    }
    Ok(())
}

fn set(cx: &mut Emit, mods: &mut Mods, ty: ScalarType, o: &[Operand]) -> Result<(), LoadError> {
    let (set, join) = take_relation(cx, mods)?;
    let dest_type = mods.take_type();
    let source_type = mods.take_type();
    mods.finish(cx)?;
    if source_type.is_none() {
        return Err(cx.error("set needs two types"));
    }
    let yes: u32 = match dest_type {
        Some(ScalarType::U32 | ScalarType::S32) => u32::MAX,
        Some(ScalarType::F32) => 0x3f80_0000,
        Some(ScalarType::U16 | ScalarType::S16) => 0xffff,
        Some(ScalarType::F16) => 0x3c00,
        Some(ScalarType::Bf16) => 0x3f80,
        Some(ScalarType::F16x2) => 0x3c00_3c00,
        Some(ScalarType::Bf16x2) => 0x3f80_3f80,
        _ => return Err(cx.error("set of this type is not supported")),
    };
    let (dest, a, b, c) = match (o, join) {
        ([d, a, b], 3) => (d, a, b, None),
        ([d, a, b, c], 0..3) => (d, a, b, Some(cx.src_mask(c)?)),
        _ => return Err(cx.error("wrong number of operands")),
    };
    let from = sources(cx, ty, a, b)?;
    let mut results = [M(0); 2];
    for (high, result) in [false, true].into_iter().zip(&mut results) {
        let compared = compare(cx, ty, set, from, high && is_packed(ty));
        *result = cx.temp_mask();
        let unused = cx.temp_mask();
        push_combine(cx, compared, join, c.unwrap_or(compared), (*result, unused));
    }
    let dest = cx.dst32(dest)?;
    let op = VOp::of::<FromMasks>(cx).imm(u64::from(yes)).def(D, dest);
    cx.push(op.src_mask(A, results[0]).src_mask(B, results[1]));
    Ok(())
}

fn push_select(
    cx: &mut Emit,
    ty: ScalarType,
    dest: &Operand,
    (a, b): (&Operand, &Operand),
    choice: M,
) -> Result<(), LoadError> {
    let (yes, no) = sources(cx, ty, a, b)?;
    let op = if ty.bits() == 64 {
        VOp::of::<Select<u64>>(cx).def(D, cx.dst64(dest)?)
    } else {
        VOp::of::<Select<u32>>(cx).def(D, cx.dst32(dest)?)
    };
    cx.push(op.src_mask(A, choice).src(B, yes).src(C, no));
    Ok(())
}

fn slct(cx: &mut Emit, mods: &mut Mods, o: &[Operand]) -> Result<(), LoadError> {
    let flush = take_flag(mods, "ftz", FTZ);
    let ty = mods.take_type().ok_or_else(|| cx.error("slct needs two types"))?;
    mods.take_type();
    mods.finish(cx)?;
    let [d, a, b, c] = o else { return Err(cx.error("wrong number of operands")) };
    let set = GREATER | EQUAL | flush;
    let from = (cx.src32(c)?, cx.const32(0));
    let choice = compare(cx, ScalarType::F32, set, from, false);
    push_select(cx, ty, d, (a, b), choice)
}
