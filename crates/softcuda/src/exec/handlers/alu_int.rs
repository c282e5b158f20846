//! Integer arithmetic.

use super::lanewise::{
    F32w, F64w, N1, N2, N3, NfromW, V3, VW, W1, W2, W3, WideField, lane32, lane64,
};
use super::wide512::{V32, V64};
use crate::exec::op::{Exec, Op, Reg, Simd, mask, put, put_mask, put_wide, reg, wide};
use crate::exec::warp::Warp;
use crate::fault::LoadError;
use crate::lower::emit::{A, B, C, D, Emit, Mods, V, VOp, X};
use crate::ptx::ast::Inst;
use crate::ptx::types::ScalarType::{self, B32, B64, S16, S32, S64, U16, U32, U64};

/// Sign-extends 16 bits.
#[inline(always)]
fn s16(a: u32) -> i32 {
    i32::from(a as u16 as i16)
}

/// The low 16 bits of a result.
#[inline(always)]
fn lo16(a: i32) -> u32 {
    a as u32 & 0xffff
}

lane32! {
    Add = |a, b, _, _| a.wrapping_add(b);
    AddSat = |a, b, _, _| (a as i32).saturating_add(b as i32) as u32;
    Sub = |a, b, _, _| a.wrapping_sub(b);
    SubSat = |a, b, _, _| (a as i32).saturating_sub(b as i32) as u32;
    Mul = |a, b, _, _| a.wrapping_mul(b);
    MulHiU = |a, b, _, _| ((u64::from(a) * u64::from(b)) >> 32) as u32;
    MulHiS = |a, b, _, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32;
    Mad = |a, b, c, _| a.wrapping_mul(b).wrapping_add(c);
    MadHiU = |a, b, c, _| MulHiU::f(a, b, 0, 0).wrapping_add(c);
    MadHiS = |a, b, c, _| MulHiS::f(a, b, 0, 0).wrapping_add(c);
    MadHiSat = |a, b, c, _| (MulHiS::f(a, b, 0, 0) as i32).saturating_add(c as i32) as u32;
    DivU = |a, b, _, _| a.checked_div(b).unwrap_or(!0);
    DivS = |a, b, _, _| if b == 0 { !0 } else { (a as i32).wrapping_div(b as i32) as u32 };
    RemU = |a, b, _, _| a.checked_rem(b).unwrap_or(a);
    RemS = |a, b, _, _| if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 };
    Abs = |a, _, _, _| (a as i32).wrapping_abs() as u32;
    Neg = |a, _, _, _| a.wrapping_neg();
    MinU = |a, b, _, _| a.min(b);
    MaxU = |a, b, _, _| a.max(b);
    MinS = |a, b, _, _| (a as i32).min(b as i32) as u32;
    MaxS = |a, b, _, _| (a as i32).max(b as i32) as u32;
    MinRelu = |a, b, _, _| (a as i32).min(b as i32).max(0) as u32;
    MaxRelu = |a, b, _, _| (a as i32).max(b as i32).max(0) as u32;
    SadU = |a, b, c, _| c.wrapping_add(a.abs_diff(b));
    SadS = |a, b, c, _| c.wrapping_add((a as i32).abs_diff(b as i32));
    Popc = |a, _, _, _| a.count_ones();
    Clz = |a, _, _, _| a.leading_zeros();
    Brev = |a, _, _, _| a.reverse_bits();
    BfindU = |a, _, _, i| find(u64::from(a), 32, i);
    BfindS = |a, _, _, i| find(u64::from(if (a as i32) < 0 { !a } else { a }), 32, i);
    BfeU = |a, b, c, _| bfe(u64::from(a), b, c, 32, false) as u32;
    BfeS = |a, b, c, _| bfe(u64::from(a), b, c, 32, true) as u32;
    Szext = |a, b, _, i| szext(a, b, i);
    Bmsk = |a, b, _, i| bmsk(a, b, i);
    Dp4a = |a, b, c, i| dp(a, b, c, i, 8, 4);
    Dp2a = |a, b, c, i| dp2a(a, b, c, i);
    Add16 = |a, b, _, _| a.wrapping_add(b) & 0xffff;
    Sub16 = |a, b, _, _| a.wrapping_sub(b) & 0xffff;
    Mul16 = |a, b, _, _| a.wrapping_mul(b) & 0xffff;
    MulHiU16 = |a, b, _, _| ((a & 0xffff) * (b & 0xffff)) >> 16;
    MulHiS16 = |a, b, _, _| lo16((s16(a) * s16(b)) >> 16);
    MulWideU16 = |a, b, _, _| (a & 0xffff) * (b & 0xffff);
    MulWideS16 = |a, b, _, _| (s16(a) * s16(b)) as u32;
    Mad16 = |a, b, c, _| a.wrapping_mul(b).wrapping_add(c) & 0xffff;
    MadHiU16 = |a, b, c, _| MulHiU16::f(a, b, 0, 0).wrapping_add(c) & 0xffff;
    MadHiS16 = |a, b, c, _| MulHiS16::f(a, b, 0, 0).wrapping_add(c) & 0xffff;
    MadWideU16 = |a, b, c, _| ((a & 0xffff) * (b & 0xffff)).wrapping_add(c);
    MadWideS16 = |a, b, c, _| ((s16(a) * s16(b)) as u32).wrapping_add(c);
    DivU16 = |a, b, _, _| (a & 0xffff).checked_div(b & 0xffff).unwrap_or(0xffff);
    DivS16 = |a, b, _, _| if b & 0xffff == 0 { 0xffff } else { lo16(s16(a) / s16(b)) };
    RemU16 = |a, b, _, _| (a & 0xffff).checked_rem(b & 0xffff).unwrap_or(a & 0xffff);
    RemS16 = |a, b, _, _| if b & 0xffff == 0 { a & 0xffff } else { lo16(s16(a) % s16(b)) };
    Abs16 = |a, _, _, _| lo16(s16(a).wrapping_abs());
    Neg16 = |a, _, _, _| a.wrapping_neg() & 0xffff;
    MinU16 = |a, b, _, _| (a & 0xffff).min(b & 0xffff);
    MaxU16 = |a, b, _, _| (a & 0xffff).max(b & 0xffff);
    MinS16 = |a, b, _, _| lo16(s16(a).min(s16(b)));
    MaxS16 = |a, b, _, _| lo16(s16(a).max(s16(b)));
    SadU16 = |a, b, c, _| c.wrapping_add((a & 0xffff).abs_diff(b & 0xffff)) & 0xffff;
    SadS16 = |a, b, c, _| c.wrapping_add(s16(a).abs_diff(s16(b))) & 0xffff;
}

lane64! {
    AddW = |a, b, _, _| a.wrapping_add(b);
    SubW = |a, b, _, _| a.wrapping_sub(b);
    MulW = |a, b, _, _| a.wrapping_mul(b);
    MulHiUW = |a, b, _, _| ((u128::from(a) * u128::from(b)) >> 64) as u64;
    MulHiSW = |a, b, _, _| ((i128::from(a as i64) * i128::from(b as i64)) >> 64) as u64;
    MadW = |a, b, c, _| a.wrapping_mul(b).wrapping_add(c);
    MadHiUW = |a, b, c, _| MulHiUW::f(a, b, 0, 0).wrapping_add(c);
    MadHiSW = |a, b, c, _| MulHiSW::f(a, b, 0, 0).wrapping_add(c);
    MulWideS = |a, b, _, _| (i64::from(a as i32) * i64::from(b as i32)) as u64;
    MadWideU = |a, b, c, _| (a * b).wrapping_add(c);
    MadWideS = |a, b, c, _| MulWideS::f(a, b, 0, 0).wrapping_add(c);
    DivUW = |a, b, _, _| a.checked_div(b).unwrap_or(!0);
    DivSW = |a, b, _, _| if b == 0 { !0 } else { (a as i64).wrapping_div(b as i64) as u64 };
    RemUW = |a, b, _, _| a.checked_rem(b).unwrap_or(a);
    RemSW = |a, b, _, _| if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 };
    AbsW = |a, _, _, _| (a as i64).wrapping_abs() as u64;
    NegW = |a, _, _, _| a.wrapping_neg();
    MinUW = |a, b, _, _| a.min(b);
    MaxUW = |a, b, _, _| a.max(b);
    MinSW = |a, b, _, _| (a as i64).min(b as i64) as u64;
    MaxSW = |a, b, _, _| (a as i64).max(b as i64) as u64;
    SadUW = |a, b, c, _| c.wrapping_add(a.abs_diff(b));
    SadSW = |a, b, c, _| c.wrapping_add((a as i64).abs_diff(b as i64));
    PopcW = |a, _, _, _| u64::from(a.count_ones());
    ClzW = |a, _, _, _| u64::from(a.leading_zeros());
    BrevW = |a, _, _, _| a.reverse_bits();
    BfindUW = |a, _, _, i| u64::from(find(a, 64, i));
    BfindSW = |a, _, _, i| u64::from(find(if (a as i64) < 0 { !a } else { a }, 64, i));
    BfeUW = |a, b, c, _| bfe(a, b as u32, c as u32, 64, false);
    BfeSW = |a, b, c, _| bfe(a, b as u32, c as u32, 64, true);
}

/// Position of the highest set bit of `a`; with `shift` its distance from the top.
#[inline(always)]
fn find(a: u64, bits: u32, shift: u64) -> u32 {
    if a == 0 {
        return !0;
    }
    let at = 63 - a.leading_zeros();
    if shift == 1 { bits - 1 - at } else { at }
}

#[inline(always)]
fn bfe(a: u64, pos: u32, len: u32, bits: u32, signed: bool) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if len == 0 {
        return 0;
    }
    let sign = if signed { (a >> (pos + len - 1).min(bits - 1)) & 1 } else { 0 };
    let field = if pos >= bits { 0 } else { a >> pos };
    let valid = bits.saturating_sub(pos).min(len);
    let keep = if valid >= 64 { !0 } else { (1u64 << valid) - 1 };
    (field & keep) | (0u64.wrapping_sub(sign) & !keep)
}

/// Inserts the low `len` bits of `a` into `b` at `pos`.
#[inline(always)]
fn bfi(a: u64, b: u64, pos: u32, len: u32, bits: u32) -> u64 {
    let (pos, len) = (pos & 255, len & 255);
    if pos >= bits || len == 0 {
        return b;
    }
    let len = len.min(bits - pos);
    let keep = if len >= 64 { !0 } else { (1u64 << len) - 1 } << pos;
    (b & !keep) | ((a << pos) & keep)
}

/// Bit 0 of `i`: signed; bit 1: wrap.
#[inline(always)]
fn szext(a: u32, b: u32, i: u64) -> u32 {
    let n = if i & 2 == 0 { b.min(32) } else { b & 31 };
    if n == 0 {
        return 0;
    }
    let shift = 32 - n;
    if i & 1 == 0 { (a << shift) >> shift } else { (((a << shift) as i32) >> shift) as u32 }
}

/// A mask of `b` bits from bit `a`; `i` 1: wrap.
#[inline(always)]
fn bmsk(a: u32, b: u32, i: u64) -> u32 {
    let (a, b) = if i == 1 { (a & 31, b & 31) } else { (a.min(32), b.min(32)) };
    (((1u64 << b) - 1) << a) as u32
}

/// Bit 0 of `i`: `a` is signed; bit 1: `b` is.
#[inline(always)]
fn dp(a: u32, b: u32, c: u32, i: u64, bits: u32, n: u32) -> u32 {
    let part = |v: u32, k: u32, signed: bool| {
        let v = v << (32 - bits * (k + 1));
        if signed { (v as i32) >> (32 - bits) } else { (v >> (32 - bits)) as i32 }
    };
    let mut sum = c;
    for k in 0..n {
        let product = part(a, k, i & 1 != 0).wrapping_mul(part(b, k, i & 2 != 0));
        sum = sum.wrapping_add(product as u32);
    }
    sum
}

/// As [`dp`] for halves of `a` and two bytes of `b`, the upper ones if bit 2 of `i` is set.
#[inline(always)]
fn dp2a(a: u32, b: u32, c: u32, i: u64) -> u32 {
    let b = if i & 4 == 0 { b } else { b >> 16 };
    let mut sum = c;
    for k in 0..2 {
        let x = (a >> (16 * k)) as u16;
        let y = (b >> (8 * k)) as u8;
        let x = if i & 1 != 0 { i32::from(x as i16) } else { i32::from(x) };
        let y = if i & 2 != 0 { i32::from(y as i8) } else { i32::from(y) };
        sum = sum.wrapping_add(x.wrapping_mul(y) as u32);
    }
    sum
}

/// `d = bfi(a, b, c, x0)`; `WIDE`: 64-bit `d`, `a`, `b`.
struct Bfi<const WIDE: bool>;

impl<const WIDE: bool> Exec for Bfi<WIDE> {
    const PURE: bool = true;

    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel.
        unsafe {
            let (pos, len) = (reg(r, p.c), reg(r, p.x[0]));
            if WIDE {
                let mut v = [0u64; 32];
                for (l, v) in v.iter_mut().enumerate() {
                    *v = bfi(wide(r, p.a, l), wide(r, p.b, l), pos[l], len[l], 64);
                }
                put_wide::<L>(r, p.d, m, &v);
            } else {
                let (a, b) = (reg(r, p.a), reg(r, p.b));
                let mut v = [0u32; 32];
                for (l, v) in v.iter_mut().enumerate() {
                    *v = bfi(u64::from(a[l]), u64::from(b[l]), pos[l], len[l], 32) as u32;
                }
                put::<L>(r, p.d, m, &v);
            }
        }
        true
    }
}

/// `d = a ± b ± carry`; carry in: mask `c` if `imm` bit 0; carry out: mask `x0` if bit 1;
/// subtracts if bit 2.
struct Carry<const WIDE: bool>;

impl<const WIDE: bool> Exec for Carry<WIDE> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and masks of the kernel.
        unsafe {
            let carry = if p.imm & 1 == 0 { 0 } else { mask(r, p.c) };
            let mut out = 0u32;
            let mut v = [0u64; 32];
            for (l, v) in v.iter_mut().enumerate() {
                let k = u128::from((carry >> l) & 1);
                let (a, b) = if WIDE {
                    (wide(r, p.a, l), wide(r, p.b, l))
                } else {
                    (u64::from(reg(r, p.a)[l]), u64::from(reg(r, p.b)[l]))
                };
                let (a, b) = (u128::from(a), u128::from(b));
                let sum =
                    if p.imm & 4 == 0 { a + b + k } else { a.wrapping_sub(b).wrapping_sub(k) };
                let top = if WIDE { 64 } else { 32 };
                out |= ((sum >> top) as u32 & 1) << l;
                *v = sum as u64;
            }
            if WIDE {
                put_wide::<L>(r, p.d, m, &v);
            } else {
                put::<L>(r, p.d, m, &v.map(|v| v as u32));
            }
            if p.imm & 2 != 0 {
                put_mask(r, p.x[0], m, out);
            }
        }
        true
    }
}

type Lowered = Result<bool, LoadError>;

/// `d = f(a)` of 32 bits by the handler `E`.
fn one<E: Exec>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    cx.push(VOp::of::<E>(cx).def(D, d).src(A, a).imm(imm));
    Ok(true)
}

/// `d = f(a, b)` of 32 bits by the handler `E`.
fn two<E: Exec>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    let b = cx.src32(cx.operand(inst, 2)?)?;
    cx.push(VOp::of::<E>(cx).def(D, d).src(A, a).src(B, b).imm(imm));
    Ok(true)
}

pub(crate) fn n1<F: F32w>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    one::<N1<F>>(cx, inst, imm)
}

/// As [`n1`] with an AVX-512 form.
pub(crate) fn v1<F: F32w + V32>(cx: &mut Emit, inst: &Inst) -> Lowered {
    one::<V3<F>>(cx, inst, 0)
}

pub(crate) fn n2<F: F32w>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    two::<N2<F>>(cx, inst, imm)
}

/// As [`n2`] with an AVX-512 form.
pub(crate) fn v2<F: F32w + V32>(cx: &mut Emit, inst: &Inst) -> Lowered {
    two::<V3<F>>(cx, inst, 0)
}

/// [`w2`] with an AVX-512 form.
pub(crate) fn vw2<F: F64w + V64>(cx: &mut Emit, inst: &Inst) -> Lowered {
    let d = cx.dst64(cx.operand(inst, 0)?)?;
    let a = cx.src64(cx.operand(inst, 1)?)?;
    let b = cx.src64(cx.operand(inst, 2)?)?;
    cx.push(VOp::of::<VW<F, true, true, false>>(cx).def(D, d).src(A, a).src(B, b));
    Ok(true)
}

/// As [`n2`] for 16-bit operands: immediates keep 16 bits.
pub(crate) fn h2<F: F32w>(cx: &mut Emit, inst: &Inst) -> Lowered {
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src16(cx.operand(inst, 1)?)?;
    let b = cx.src16(cx.operand(inst, 2)?)?;
    cx.push(VOp::of::<N2<F>>(cx).def(D, d).src(A, a).src(B, b));
    Ok(true)
}

pub(crate) fn n3<F: F32w>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    three::<N3<F>>(cx, inst, imm)
}

/// `d = f(a, b, c)` of 32 bits by the handler `E`.
fn three<E: Exec>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    let b = cx.src32(cx.operand(inst, 2)?)?;
    let c = cx.src32(cx.operand(inst, 3)?)?;
    cx.push(VOp::of::<E>(cx).def(D, d).src(A, a).src(B, b).src(C, c).imm(imm));
    Ok(true)
}

pub(crate) fn w1<F: F64w>(cx: &mut Emit, inst: &Inst) -> Lowered {
    let d = cx.dst64(cx.operand(inst, 0)?)?;
    let a = cx.src64(cx.operand(inst, 1)?)?;
    cx.push(VOp::of::<W1<F>>(cx).def(D, d).src(A, a));
    Ok(true)
}

pub(crate) fn w2<F: F64w>(cx: &mut Emit, inst: &Inst) -> Lowered {
    let d = cx.dst64(cx.operand(inst, 0)?)?;
    let a = cx.src64(cx.operand(inst, 1)?)?;
    let b = cx.src64(cx.operand(inst, 2)?)?;
    cx.push(VOp::of::<W2<F>>(cx).def(D, d).src(A, a).src(B, b));
    Ok(true)
}

fn w3<F: F64w>(cx: &mut Emit, inst: &Inst) -> Lowered {
    let d = cx.dst64(cx.operand(inst, 0)?)?;
    let a = cx.src64(cx.operand(inst, 1)?)?;
    let b = cx.src64(cx.operand(inst, 2)?)?;
    let c = cx.src64(cx.operand(inst, 3)?)?;
    cx.push(VOp::of::<W3<F>>(cx).def(D, d).src(A, a).src(B, b).src(C, c));
    Ok(true)
}

/// 32-bit result of a 64-bit source.
fn narrow<F: F64w>(cx: &mut Emit, inst: &Inst, imm: u64) -> Lowered {
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src64(cx.operand(inst, 1)?)?;
    cx.push(VOp::of::<NfromW<F>>(cx).def(D, d).src(A, a).imm(imm));
    Ok(true)
}

/// `mul.wide` and `mad.wide` of 32 bits.
fn wide_product(cx: &mut Emit, inst: &Inst, signed: bool, add: bool) -> Lowered {
    let d = cx.dst64(cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    let b = cx.src32(cx.operand(inst, 2)?)?;
    let c = if add { cx.src64(cx.operand(inst, 3)?)? } else { cx.const64(0) };
    let op = if signed {
        VOp::of::<VW<MadWideS, false, false, true>>(cx)
    } else {
        VOp::of::<VW<MadWideU, false, false, true>>(cx)
    };
    cx.push(op.def(D, d).src(A, a).src(B, b).src(C, c));
    Ok(true)
}

struct Flags {
    input: bool,
    output: bool,
    subtract: bool,
}

/// `d = a ± b ± carry` with the carry flag of the function.
fn carry(cx: &mut Emit, is_wide: bool, d: V, (a, b): (V, V), flags: &Flags) {
    let flag = cx.carry_flag();
    let bits =
        u64::from(flags.input) | u64::from(flags.output) << 1 | u64::from(flags.subtract) << 2;
    let op = if is_wide { VOp::of::<Carry<true>>(cx) } else { VOp::of::<Carry<false>>(cx) };
    let mut op = op.def(D, d).src(A, a).src(B, b).imm(bits);
    if flags.input {
        op = op.src_mask(C, flag);
    }
    if flags.output {
        op = op.def_mask(X, flag);
    }
    cx.push(op);
}

/// `add.cc addc sub.cc subc mad.cc madc`.
fn lower_carry(
    cx: &mut Emit,
    opcode: &str,
    inst: &Inst,
    mut mods: Mods,
    ty: ScalarType,
) -> Lowered {
    let output = mods.take("cc");
    let flags = Flags { input: opcode.ends_with('c'), output, subtract: opcode.starts_with("sub") };
    let is_wide = ty.bits() == 64;
    let get = |cx: &mut Emit, at: usize| -> Result<V, LoadError> {
        if is_wide { cx.src64(cx.operand(inst, at)?) } else { cx.src32(cx.operand(inst, at)?) }
    };
    let first = cx.operand(inst, 0)?;
    let d = if is_wide { cx.dst64(first)? } else { cx.dst32(first)? };
    let (a, b) = (get(cx, 1)?, get(cx, 2)?);
    if opcode.starts_with("mad") {
        let hi = match mods.take_any(&["lo", "hi"]) {
            Some("lo") => false,
            Some(_) => true,
            None => return Err(cx.error("mad.cc needs .lo or .hi")),
        };
        mods.finish(cx)?;
        let c = get(cx, 3)?;
        let product = cx.temp(if is_wide { 2 } else { 1 });
        let op = match (is_wide, hi, ty.is_signed()) {
            (false, false, _) => VOp::of::<N2<Mul>>(cx),
            (false, true, false) => VOp::of::<N2<MulHiU>>(cx),
            (false, true, true) => VOp::of::<N2<MulHiS>>(cx),
            (true, false, _) => VOp::of::<W2<MulW>>(cx),
            (true, true, false) => VOp::of::<W2<MulHiUW>>(cx),
            (true, true, true) => VOp::of::<W2<MulHiSW>>(cx),
        };
        cx.push(op.def(D, product).src(A, a).src(B, b));
        carry(cx, is_wide, d, (product, c), &flags);
    } else {
        mods.finish(cx)?;
        carry(cx, is_wide, d, (a, b), &flags);
    }
    Ok(true)
}

/// `bfe bfi szext bmsk dp4a dp2a`.
fn lower_bits(cx: &mut Emit, opcode: &str, inst: &Inst, mut mods: Mods) -> Lowered {
    let Some(ty) = mods.take_type() else { return Ok(false) };
    match opcode {
        "bfe" => {
            mods.finish(cx)?;
            match ty {
                U32 => n3::<BfeU>(cx, inst, 0),
                S32 => n3::<BfeS>(cx, inst, 0),
                U64 | S64 => {
                    let d = cx.dst64(cx.operand(inst, 0)?)?;
                    let a = cx.src64(cx.operand(inst, 1)?)?;
                    let b = cx.src32(cx.operand(inst, 2)?)?;
                    let c = cx.src32(cx.operand(inst, 3)?)?;
                    let op = if ty == U64 {
                        VOp::of::<WideField<BfeUW>>(cx)
                    } else {
                        VOp::of::<WideField<BfeSW>>(cx)
                    };
                    cx.push(op.def(D, d).src(A, a).src(B, b).src(C, c));
                    Ok(true)
                }
                _ => Err(cx.error("type is not supported")),
            }
        }
        "bfi" => {
            mods.finish(cx)?;
            let (c, x) = (cx.src32(cx.operand(inst, 3)?)?, cx.src32(cx.operand(inst, 4)?)?);
            let op = if ty == B64 {
                let d = cx.dst64(cx.operand(inst, 0)?)?;
                let a = cx.src64(cx.operand(inst, 1)?)?;
                let b = cx.src64(cx.operand(inst, 2)?)?;
                VOp::of::<Bfi<true>>(cx).def(D, d).src(A, a).src(B, b)
            } else {
                let d = cx.dst32(cx.operand(inst, 0)?)?;
                let a = cx.src32(cx.operand(inst, 1)?)?;
                let b = cx.src32(cx.operand(inst, 2)?)?;
                VOp::of::<Bfi<false>>(cx).def(D, d).src(A, a).src(B, b)
            };
            cx.push(op.src(C, c).src(X, x));
            Ok(true)
        }
        "szext" | "bmsk" => {
            let wrap = mods.take_any(&["wrap", "clamp"]) == Some("wrap");
            mods.finish(cx)?;
            if opcode == "bmsk" {
                n2::<Bmsk>(cx, inst, u64::from(wrap))
            } else {
                n2::<Szext>(cx, inst, u64::from(ty.is_signed()) | u64::from(wrap) << 1)
            }
        }
        _ => {
            let Some(other) = mods.take_type() else { return Ok(false) };
            let hi = mods.take_any(&["lo", "hi"]) == Some("hi");
            mods.finish(cx)?;
            let signs = u64::from(ty.is_signed()) | u64::from(other.is_signed()) << 1;
            if opcode == "dp4a" {
                n3::<Dp4a>(cx, inst, signs)
            } else {
                n3::<Dp2a>(cx, inst, signs | u64::from(hi) << 2)
            }
        }
    }
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let mut mods = Mods::new(cx.module, inst);
    match opcode {
        "bfe" | "bfi" | "szext" | "bmsk" | "dp4a" | "dp2a" => {
            return lower_bits(cx, opcode, inst, mods);
        }
        "add" | "addc" | "sub" | "subc" | "mul" | "mad" | "madc" | "div" | "rem" | "abs"
        | "neg" | "min" | "max" | "sad" | "popc" | "clz" | "bfind" | "brev" => {}
        _ => return Ok(false),
    }
    let Some(ty) = mods.take_type() else { return Ok(false) };
    if ty.is_float() || matches!(ty, ScalarType::U16x2 | ScalarType::S16x2) {
        return Ok(false);
    }
    if opcode == "addc" || opcode == "subc" || opcode == "madc" || mods.has("cc") {
        return lower_carry(cx, opcode, inst, mods, ty);
    }
    let sat = mods.take("sat");
    let relu = mods.take("relu");
    let shift = u64::from(mods.take("shiftamt"));
    let part = mods.take_any(&["lo", "hi", "wide"]).unwrap_or("");
    mods.finish(cx)?;
    if (sat && !(ty == S32 && (matches!(opcode, "add" | "sub") || (opcode, part) == ("mad", "hi"))))
        || (relu && !(ty == S32 && matches!(opcode, "min" | "max")))
        || (shift == 1 && opcode != "bfind")
        || (part.is_empty() == matches!(opcode, "mul" | "mad"))
    {
        return Err(cx.error("this combination of modifiers is not PTX"));
    }
    if sat || relu {
        return match opcode {
            "add" => n2::<AddSat>(cx, inst, 0),
            "sub" => n2::<SubSat>(cx, inst, 0),
            "mad" => n3::<MadHiSat>(cx, inst, 0),
            "min" => n2::<MinRelu>(cx, inst, 0),
            _ => n2::<MaxRelu>(cx, inst, 0),
        };
    }
    match ty.bits() {
        16 => lower16(cx, (opcode, part, ty), inst),
        32 => lower32(cx, (opcode, part, ty), inst, shift),
        64 => lower64(cx, (opcode, part, ty), inst, shift),
        _ => Err(cx.error("type is not supported")),
    }
}

type Key<'a> = (&'a str, &'a str, ScalarType);

fn lower16(cx: &mut Emit, key: Key, inst: &Inst) -> Lowered {
    match key {
        ("add", _, _) => h2::<Add16>(cx, inst),
        ("sub", _, _) => h2::<Sub16>(cx, inst),
        ("mul", "lo", _) => h2::<Mul16>(cx, inst),
        ("mul", "hi", U16) => h2::<MulHiU16>(cx, inst),
        ("mul", "hi", S16) => h2::<MulHiS16>(cx, inst),
        ("mul", "wide", U16) => h2::<MulWideU16>(cx, inst),
        ("mul", "wide", S16) => h2::<MulWideS16>(cx, inst),
        ("mad", "lo", _) => n3::<Mad16>(cx, inst, 0),
        ("mad", "hi", U16) => n3::<MadHiU16>(cx, inst, 0),
        ("mad", "hi", S16) => n3::<MadHiS16>(cx, inst, 0),
        ("mad", "wide", U16) => n3::<MadWideU16>(cx, inst, 0),
        ("mad", "wide", S16) => n3::<MadWideS16>(cx, inst, 0),
        ("div", _, U16) => h2::<DivU16>(cx, inst),
        ("div", _, S16) => h2::<DivS16>(cx, inst),
        ("rem", _, U16) => h2::<RemU16>(cx, inst),
        ("rem", _, S16) => h2::<RemS16>(cx, inst),
        ("abs", _, S16) => n1::<Abs16>(cx, inst, 0),
        ("neg", _, S16) => n1::<Neg16>(cx, inst, 0),
        ("min", _, U16) => h2::<MinU16>(cx, inst),
        ("max", _, U16) => h2::<MaxU16>(cx, inst),
        ("min", _, S16) => h2::<MinS16>(cx, inst),
        ("max", _, S16) => h2::<MaxS16>(cx, inst),
        ("sad", _, U16) => n3::<SadU16>(cx, inst, 0),
        ("sad", _, S16) => n3::<SadS16>(cx, inst, 0),
        _ => Err(cx.error("type is not supported")),
    }
}

fn lower32(cx: &mut Emit, key: Key, inst: &Inst, shift: u64) -> Lowered {
    match key {
        ("add", _, U32 | S32) => v2::<Add>(cx, inst),
        ("sub", _, U32 | S32) => v2::<Sub>(cx, inst),
        ("mul", "lo", _) => v2::<Mul>(cx, inst),
        ("mul", "hi", U32) => n2::<MulHiU>(cx, inst, 0),
        ("mul", "hi", S32) => n2::<MulHiS>(cx, inst, 0),
        ("mul", "wide", _) => wide_product(cx, inst, key.2 == S32, false),
        ("mad", "lo", _) => three::<V3<Mad>>(cx, inst, 0),
        ("mad", "hi", U32) => n3::<MadHiU>(cx, inst, 0),
        ("mad", "hi", S32) => n3::<MadHiS>(cx, inst, 0),
        ("mad", "wide", _) => wide_product(cx, inst, key.2 == S32, true),
        ("div", _, U32) => n2::<DivU>(cx, inst, 0),
        ("div", _, S32) => n2::<DivS>(cx, inst, 0),
        ("rem", _, U32) => n2::<RemU>(cx, inst, 0),
        ("rem", _, S32) => n2::<RemS>(cx, inst, 0),
        ("abs", _, S32) => n1::<Abs>(cx, inst, 0),
        ("neg", _, S32) => v1::<Neg>(cx, inst),
        ("min", _, U32) => v2::<MinU>(cx, inst),
        ("max", _, U32) => v2::<MaxU>(cx, inst),
        ("min", _, S32) => v2::<MinS>(cx, inst),
        ("max", _, S32) => v2::<MaxS>(cx, inst),
        ("sad", _, U32) => n3::<SadU>(cx, inst, 0),
        ("sad", _, S32) => n3::<SadS>(cx, inst, 0),
        ("popc", _, B32) => n1::<Popc>(cx, inst, 0),
        ("clz", _, B32) => n1::<Clz>(cx, inst, 0),
        ("brev", _, B32) => n1::<Brev>(cx, inst, 0),
        ("bfind", _, U32) => n1::<BfindU>(cx, inst, shift),
        ("bfind", _, S32) => n1::<BfindS>(cx, inst, shift),
        _ => Err(cx.error("type is not supported")),
    }
}

fn lower64(cx: &mut Emit, key: Key, inst: &Inst, shift: u64) -> Lowered {
    match key {
        ("add", _, U64 | S64) => vw2::<AddW>(cx, inst),
        ("sub", _, U64 | S64) => vw2::<SubW>(cx, inst),
        ("mul", "lo", _) => vw2::<MulW>(cx, inst),
        ("mul", "hi", U64) => w2::<MulHiUW>(cx, inst),
        ("mul", "hi", S64) => w2::<MulHiSW>(cx, inst),
        ("mad", "lo", _) => w3::<MadW>(cx, inst),
        ("mad", "hi", U64) => w3::<MadHiUW>(cx, inst),
        ("mad", "hi", S64) => w3::<MadHiSW>(cx, inst),
        ("div", _, U64) => w2::<DivUW>(cx, inst),
        ("div", _, S64) => w2::<DivSW>(cx, inst),
        ("rem", _, U64) => w2::<RemUW>(cx, inst),
        ("rem", _, S64) => w2::<RemSW>(cx, inst),
        ("abs", _, S64) => w1::<AbsW>(cx, inst),
        ("neg", _, S64) => w1::<NegW>(cx, inst),
        ("min", _, U64) => w2::<MinUW>(cx, inst),
        ("max", _, U64) => w2::<MaxUW>(cx, inst),
        ("min", _, S64) => w2::<MinSW>(cx, inst),
        ("max", _, S64) => w2::<MaxSW>(cx, inst),
        ("sad", _, U64) => w3::<SadUW>(cx, inst),
        ("sad", _, S64) => w3::<SadSW>(cx, inst),
        ("popc", _, B64) => narrow::<PopcW>(cx, inst, 0),
        ("clz", _, B64) => narrow::<ClzW>(cx, inst, 0),
        ("brev", _, B64) => w1::<BrevW>(cx, inst),
        ("bfind", _, U64) => narrow::<BfindUW>(cx, inst, shift),
        ("bfind", _, S64) => narrow::<BfindSW>(cx, inst, shift),
        _ => Err(cx.error("type is not supported")),
    }
}
