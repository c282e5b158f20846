//! Operations between the lanes of a warp.

use super::control::{Meet, lanes};
use super::wide512::{get, set};
use crate::exec::op::{Exec, Level, Op, Reg, Simd, mask, put, put_mask, reg, wide};
use crate::exec::warp::Warp;
use crate::fault::{FaultKind, LoadError};
use crate::lower::emit::{A, B, C, D, Emit, M, Mods, V, VOp, X};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::ScalarType;

const UP: u8 = 0;
const DOWN: u8 = 1;
const BFLY: u8 = 2;
const IDX: u8 = 3;

/// `d|x0 = shfl(a, b, c)` with membermask `x1`.
struct Shuffle<const MODE: u8>;

impl<const MODE: u8> Exec for Shuffle<MODE> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if L::LEVEL == Level::Avx512 {
            // SAFETY: the operands are registers and a mask of the kernel.
            let bad = unsafe { shuffle512::<MODE>(r, p, m) };
            return bad == 0 || outside(w, p, bad);
        }
        // SAFETY: the operands are registers and a mask of the kernel.
        unsafe {
            let (a, b, c, members) = (reg(r, p.a), reg(r, p.b), reg(r, p.c), reg(r, p.x[1]));
            let mut v = [0u32; 32];
            let mut inside = 0u32;
            let mut bad = 0u32;
            for l in 0..32u32 {
                let at = l as usize;
                let (bval, cval, seg) = (b[at] & 31, c[at] & 31, (c[at] >> 8) & 31);
                let max = (l & seg) | (cval & !seg);
                let (j, p) = match MODE {
                    UP => (l.wrapping_sub(bval), l.wrapping_sub(bval) as i32 >= max as i32),
                    DOWN => (l + bval, l + bval <= max),
                    BFLY => (l ^ bval, (l ^ bval) <= max),
                    _ => {
                        let j = (l & seg) | (bval & !seg);
                        (j, j <= max)
                    }
                };
                let j = if p { j & 31 } else { l };
                inside |= u32::from(p) << l;
                bad |= (!(members[at] & m) >> j & 1) << l;
                v[at] = a[j as usize];
            }
            if bad & m != 0 {
                return outside(w, p, bad & m);
            }
            put::<L>(r, p.d, m, &v);
            put_mask(r, p.x[0], m, inside);
        }
        true
    }
}

/// [`Shuffle`] by vector permutes. Returns the lanes that read a lane that is not there; then
/// nothing is written.
///
/// # Safety
/// The operands are registers and a mask of the kernel; the processor has AVX-512.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
unsafe fn shuffle512<const MODE: u8>(r: *mut Reg, p: &Op, m: u32) -> u32 {
    use std::arch::x86_64::*;
    let (one, five) = (_mm512_set1_epi32(1), _mm512_set1_epi32(31));
    // SAFETY: the caller's promise.
    let a = unsafe { [get(r, p.a, 0), get(r, p.a, 1)] };
    let (mut out, mut inside, mut bad) = (a, 0u32, 0u32);
    for h in 0..2 {
        // SAFETY: the caller's promise.
        let (b, c, members) = unsafe { (get(r, p.b, h), get(r, p.c, h), get(r, p.x[1], h)) };
        let first = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let lane = _mm512_add_epi32(first, _mm512_set1_epi32(16 * h as i32));
        let (b, clamp) = (_mm512_and_si512(b, five), _mm512_and_si512(c, five));
        let seg = _mm512_and_si512(_mm512_srli_epi32::<8>(c), five);
        let low = _mm512_and_si512(lane, seg);
        let most = _mm512_or_si512(low, _mm512_andnot_si512(seg, clamp));
        let j = match MODE {
            UP => _mm512_sub_epi32(lane, b),
            DOWN => _mm512_add_epi32(lane, b),
            BFLY => _mm512_xor_si512(lane, b),
            _ => _mm512_or_si512(low, _mm512_andnot_si512(seg, b)),
        };
        let k = if MODE == UP {
            _mm512_cmpge_epi32_mask(j, most)
        } else {
            _mm512_cmple_epi32_mask(j, most)
        };
        let j = _mm512_and_si512(_mm512_mask_mov_epi32(lane, k, j), five);
        out[h] = _mm512_permutex2var_epi32(a[0], j, a[1]);
        let there = _mm512_and_si512(members, _mm512_set1_epi32(m as i32));
        let absent = _mm512_testn_epi32_mask(_mm512_srlv_epi32(there, j), one);
        inside |= u32::from(k) << (16 * h);
        bad |= u32::from(absent) << (16 * h);
    }
    if bad & m == 0 {
        // SAFETY: the caller's promise.
        unsafe {
            set(r, p.d, 0, m, out[0]);
            set(r, p.d, 1, m, out[1]);
            put_mask(r, p.x[0], m, inside);
        }
    }
    bad & m
}

#[cold]
#[inline(never)]
fn outside(w: &mut Warp, p: &Op, bad: u32) -> bool {
    let detail = "shfl reads a lane that is not in the membermask or has exited".to_owned();
    w.fault(p, FaultKind::WarpSync, bad, detail)
}

const ALL: u8 = 0;
const ANY: u8 = 1;
const UNI: u8 = 2;
const BALLOT: u8 = 3;

/// `d = vote(mask a)` with membermask `b`.
struct Vote<const MODE: u8>;

impl<const MODE: u8> Exec for Vote<MODE> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and masks of the kernel.
        unsafe {
            let (value, members) = (mask(r, p.a), reg(r, p.b));
            let mut v = [0u32; 32];
            for (v, members) in v.iter_mut().zip(members) {
                let group = members & m;
                let yes = value & group;
                *v = match MODE {
                    ALL => u32::from(yes == group),
                    ANY => u32::from(yes != 0),
                    UNI => u32::from(yes == 0 || yes == group),
                    _ => yes,
                };
            }
            if MODE == BALLOT {
                put::<L>(r, p.d, m, &v);
            } else {
                put_mask(r, p.d, m, lanes(!0, |l| v[l] != 0));
            }
        }
        true
    }
}

/// `d = match(a)` with membermask `b`; `ALL_EQUAL`: predicate `x0`.
struct Match<const WIDE: bool, const ALL_EQUAL: bool>;

impl<const WIDE: bool, const ALL_EQUAL: bool> Exec for Match<WIDE, ALL_EQUAL> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and masks of the kernel.
        unsafe {
            let members = reg(r, p.b);
            let value = |l: usize| if WIDE { wide(r, p.a, l) } else { u64::from(reg(r, p.a)[l]) };
            let mut v = [0u32; 32];
            let mut yes = 0;
            for (l, v) in v.iter_mut().enumerate() {
                let group = members[l] & m;
                let same = lanes(group, |k| value(k) == value(l));
                if ALL_EQUAL {
                    *v = if same == group { group } else { 0 };
                    yes |= u32::from(same == group) << l;
                } else {
                    *v = same;
                }
            }
            put::<L>(r, p.d, m, &v);
            if ALL_EQUAL {
                put_mask(r, p.x[0], m, yes);
            }
        }
        true
    }
}

/// `d = redux(a)` with membermask `b`; `x0`: 0 add, 1 min u32, 2 max u32, 3 min s32, 4 max s32, 5 and, 6 or, 7 xor.
struct Redux;

impl Exec for Redux {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers of the kernel.
        unsafe {
            let (a, members) = (reg(r, p.a), reg(r, p.b));
            let mut v = [0u32; 32];
            let mut left = m;
            while left != 0 {
                let first = left.trailing_zeros() as usize;
                let group = members[first] & m;
                let mut total: Option<u32> = None;
                for (l, a) in a.iter().enumerate() {
                    if (group >> l) & 1 != 0 {
                        total = Some(total.map_or(*a, |t| reduce(p.x[0], t, *a)));
                    }
                }
                for (l, v) in v.iter_mut().enumerate() {
                    if (group >> l) & 1 != 0 {
                        *v = total.unwrap_or(0);
                    }
                }
                left &= !(group | 1 << first);
            }
            put::<L>(r, p.d, m, &v);
        }
        true
    }
}

fn reduce(op: u16, t: u32, a: u32) -> u32 {
    match op {
        0 => t.wrapping_add(a),
        1 => t.min(a),
        2 => t.max(a),
        3 => (t as i32).min(a as i32) as u32,
        4 => (t as i32).max(a as i32) as u32,
        5 => t & a,
        6 => t | a,
        _ => t ^ a,
    }
}

/// `d` = the lanes that run together.
struct ActiveMask;

impl Exec for ActiveMask {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: `d` is a register of the kernel.
        unsafe { put::<L>(r, p.d, m, &[m; 32]) };
        true
    }
}

/// `d` = the lowest lane of the membermask `b`, predicate `x0` true in it.
struct Elect;

impl Exec for Elect {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, _w: &mut Warp, m: u32) -> bool {
        // SAFETY: the operands are registers and a mask of the kernel.
        unsafe {
            let members = reg(r, p.b);
            let mut v = [0u32; 32];
            for (v, members) in v.iter_mut().zip(members) {
                *v = (members & m).trailing_zeros();
            }
            put::<L>(r, p.d, m, &v);
            put_mask(r, p.x[0], m, lanes(!0, |l| v[l] == l as u32));
        }
        true
    }
}

/// Pushes the wait for the lanes of a membermask; returns the register that holds it.
///
/// # Errors
/// For an operand that is no value.
pub(crate) fn meet(cx: &mut Emit, operand: &Operand) -> Result<V, LoadError> {
    let members = cx.src32(operand)?;
    let full = matches!(operand, Operand::Int(n) if *n as u32 == !0);
    let op = VOp::of::<Meet>(cx).src(A, members).raw(B, u16::from(full));
    cx.push(op);
    Ok(members)
}

type Lowered = Result<bool, LoadError>;

/// Destination `d|p` of a value and a predicate.
fn value_and_mask(cx: &mut Emit, operand: &Operand) -> Result<(V, M), LoadError> {
    match operand {
        Operand::Pair(d, p) => {
            let d = match d {
                Some(reg) => cx.dst32(&Operand::Reg(*reg))?,
                None => cx.temp(1),
            };
            let p = match p {
                Some(reg) => cx.mask_of(*reg)?,
                None => cx.temp_mask(),
            };
            Ok((d, p))
        }
        one => Ok((cx.dst32(one)?, cx.temp_mask())),
    }
}

fn lower_shfl(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    let mode = mods.take_any(&["up", "down", "bfly", "idx"]);
    mods.take("b32");
    mods.finish(cx)?;
    let members = meet(cx, cx.operand(inst, 4)?)?;
    let (d, p) = value_and_mask(cx, cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    let b = cx.src32(cx.operand(inst, 2)?)?;
    let c = cx.src32(cx.operand(inst, 3)?)?;
    let op = match mode {
        Some("up") => VOp::of::<Shuffle<UP>>(cx),
        Some("down") => VOp::of::<Shuffle<DOWN>>(cx),
        Some("bfly") => VOp::of::<Shuffle<BFLY>>(cx),
        Some(_) => VOp::of::<Shuffle<IDX>>(cx),
        None => return Err(cx.error("a mode is needed")),
    };
    cx.push(op.def(D, d).def_mask(X, p).src(A, a).src(B, b).src(C, c).src(X + 1, members));
    Ok(true)
}

fn lower_vote(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    let mode = mods.take_any(&["all", "any", "uni", "ballot"]);
    mods.take_any(&["pred", "b32"]);
    mods.finish(cx)?;
    let members = meet(cx, cx.operand(inst, 2)?)?;
    let a = match cx.operand(inst, 1)? {
        Operand::Int(n) => {
            let a = cx.temp_mask();
            super::logic::mask_logic(cx, a, a, a, if *n == 0 { 0 } else { 0b1111 });
            a
        }
        other => cx.src_mask(other)?,
    };
    let op = match mode {
        Some("ballot") => {
            let d = cx.dst32(cx.operand(inst, 0)?)?;
            VOp::of::<Vote<BALLOT>>(cx).def(D, d)
        }
        Some(mode) => {
            let d = cx.dst_mask(cx.operand(inst, 0)?)?;
            let op = match mode {
                "all" => VOp::of::<Vote<ALL>>(cx),
                "any" => VOp::of::<Vote<ANY>>(cx),
                _ => VOp::of::<Vote<UNI>>(cx),
            };
            op.def_mask(D, d)
        }
        None => return Err(cx.error("a mode is needed")),
    };
    cx.push(op.src_mask(A, a).src(B, members));
    Ok(true)
}

fn lower_match(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    let all = mods.take_any(&["any", "all"]) == Some("all");
    let Some(ty) = mods.take_type() else { return Ok(false) };
    mods.finish(cx)?;
    let members = meet(cx, cx.operand(inst, 2)?)?;
    let (d, p) = value_and_mask(cx, cx.operand(inst, 0)?)?;
    let is_wide = ty.bits() == 64;
    let source = cx.operand(inst, 1)?;
    let a = if is_wide { cx.src64(source)? } else { cx.src32(source)? };
    let op = match (is_wide, all) {
        (false, false) => VOp::of::<Match<false, false>>(cx),
        (false, true) => VOp::of::<Match<false, true>>(cx).def_mask(X, p),
        (true, false) => VOp::of::<Match<true, false>>(cx),
        (true, true) => VOp::of::<Match<true, true>>(cx).def_mask(X, p),
    };
    cx.push(op.def(D, d).src(A, a).src(B, members));
    Ok(true)
}

fn lower_redux(cx: &mut Emit, inst: &Inst, mut mods: Mods) -> Lowered {
    let op = mods.take_any(&["add", "min", "max", "and", "or", "xor"]);
    let Some(ty) = mods.take_type() else { return Ok(false) };
    mods.finish(cx)?;
    if !matches!(ty, ScalarType::U32 | ScalarType::S32 | ScalarType::B32) {
        return Err(cx.error("type is not supported"));
    }
    let code = match (op, ty.is_signed()) {
        (Some("add"), _) => 0,
        (Some("min"), false) => 1,
        (Some("max"), false) => 2,
        (Some("min"), true) => 3,
        (Some("max"), true) => 4,
        (Some("and"), _) => 5,
        (Some("or"), _) => 6,
        (Some("xor"), _) => 7,
        _ => return Err(cx.error("an operation is needed")),
    };
    let members = meet(cx, cx.operand(inst, 2)?)?;
    let d = cx.dst32(cx.operand(inst, 0)?)?;
    let a = cx.src32(cx.operand(inst, 1)?)?;
    cx.push(VOp::of::<Redux>(cx).def(D, d).src(A, a).src(B, members).raw(X, code));
    Ok(true)
}

/// Lowers an instruction of this family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Lowered {
    let mut mods = Mods::new(cx.module, inst);
    if opcode == "activemask" {
        mods.take("b32");
        mods.finish(cx)?;
        let d = cx.dst32(cx.operand(inst, 0)?)?;
        cx.push(VOp::of::<ActiveMask>(cx).def(D, d));
        return Ok(true);
    }
    let sync = mods.take("sync");
    match opcode {
        "shfl" | "vote" | "match" | "redux" | "elect" if !sync => {
            Err(cx.error("only the .sync form is supported"))
        }
        "shfl" => lower_shfl(cx, inst, mods),
        "vote" => lower_vote(cx, inst, mods),
        "match" => lower_match(cx, inst, mods),
        "redux" => lower_redux(cx, inst, mods),
        "elect" => {
            mods.finish(cx)?;
            let members = meet(cx, cx.operand(inst, 1)?)?;
            let (d, p) = value_and_mask(cx, cx.operand(inst, 0)?)?;
            cx.push(VOp::of::<Elect>(cx).def(D, d).def_mask(X, p).src(B, members));
            Ok(true)
        }
        _ => Ok(false),
    }
}
