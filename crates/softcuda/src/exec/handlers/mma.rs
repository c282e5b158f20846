//! `mma.sync`: products of 16×8 tiles. Fragments and the order of sums: `simd::mma`.
//!
//! With AVX-512-BF16 the bf16 form may run on `vdpbf16ps`, which takes subnormal inputs for zero
//! and flushes subnormal results. That cannot matter when every nonzero element of A is at least
//! 2^-63, of B at least 2^-49 and every nonzero accumulator at least 2^-103 in magnitude: then all
//! partial sums are multiples of 2^-126, and so is the result, which the next op in the block need
//! not test again. The handler tests this, and takes the f32 form where it does not hold; a
//! self-test compares both before the first use.

use std::sync::OnceLock;

use crate::exec::op::{Exec, Handler, Level, Op, Reg, Simd, next, pick, put_wide, wide};
use crate::exec::simd::mma::{BF16, E4M3, E5M2, F16, Fragments, TF32, by_rows, integers};
use crate::exec::simd::round::{f16_near, f16_widen};
use crate::exec::simd::{avx2, avx512};
use crate::exec::warp::{Event, Warp};
use crate::fault::{FaultKind, LoadError};
use crate::lower::emit::{A, B, C, Emit, Mods, Slot, V, VOp, X, Y};
use crate::ptx::ast::{Inst, Operand};
use crate::ptx::types::ScalarType;

/// A matrix instruction is executed by all 32 lanes of a warp together: waits for the lanes that
/// run elsewhere, and fails if some have exited. Returns false.
#[cold]
#[inline(never)]
pub(crate) fn gather(w: &mut Warp, p: &Op, m: u32) -> bool {
    if w.live & !m != 0 {
        w.raise(Event::Sync);
        return false;
    }
    let detail = format!("the instruction needs all 32 lanes; {m:#010x} are left");
    w.fault(p, FaultKind::WarpSync, !m, detail)
}

/// f32 accumulators.
struct Mma<const KIND: u8, const KR: usize>;
impl<const KIND: u8, const KR: usize> Exec for Mma<KIND, KR> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if m != !0 {
            return gather(w, p, m);
        }
        // SAFETY: the arguments are those of a handler of this op.
        unsafe {
            if L::LEVEL != Level::Base && matches!(KIND, BF16 | F16 | TF32) {
                multiply::<L, KIND, KR>(&Fragments::of(r, p));
            } else {
                multiply_apart::<L, KIND, KR>(r, p);
            }
        }
        true
    }
}

/// [`multiply`] with its tables in a stack frame of its own: a handler must have none, since it
/// calls the next one in tail position.
///
/// # Safety
/// `p` is an `mma` op of the kernel whose registers begin at `r`; the processor has the level.
#[inline(never)]
unsafe fn multiply_apart<L: Simd, const KIND: u8, const KR: usize>(r: *mut Reg, p: &Op) {
    // SAFETY: the caller's promise.
    unsafe { multiply::<L, KIND, KR>(&Fragments::of(r, p)) };
}

/// # Safety
/// The fragments are live registers, and the processor has the level.
#[inline(always)]
unsafe fn multiply<L: Simd, const KIND: u8, const KR: usize>(f: &Fragments) {
    let vectors = matches!(KIND, BF16 | F16 | TF32);
    // SAFETY: the caller's promise.
    unsafe {
        match L::LEVEL {
            Level::Avx512 if vectors => avx512::mma::<KIND, KR>(f),
            Level::Avx2 if vectors => avx2::mma::<KIND, KR>(f),
            _ => by_rows::<L, KIND, KR>(f),
        }
    }
}

/// f16 accumulators: computed in f32, rounded once at the end.
struct MmaF16<const KIND: u8, const KR: usize>;
impl<const KIND: u8, const KR: usize> Exec for MmaF16<KIND, KR> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if m != !0 {
            return gather(w, p, m);
        }
        // SAFETY: the arguments are those of a handler of this op.
        unsafe { multiply_f16::<L, KIND, KR>(r, p) };
        true
    }
}

/// # Safety
/// As [`multiply_apart`].
#[inline(never)]
unsafe fn multiply_f16<L: Simd, const KIND: u8, const KR: usize>(r: *mut Reg, p: &Op) {
    let mut sums = [Reg([0; 32]); 4];
    // SAFETY: the caller's promise.
    let mut f = unsafe { Fragments::of(r, p) };
    for q in 0..2 {
        for lane in 0..32 {
            // SAFETY: C is a register of the kernel.
            let word = unsafe { (*f.c[q]).0[lane] };
            sums[2 * q].0[lane] = f16_widen(word & 0xffff);
            sums[2 * q + 1].0[lane] = f16_widen(word >> 16);
        }
    }
    let d = f.d;
    let base = sums.as_mut_ptr();
    // SAFETY: `sums` has four registers.
    f.d = unsafe { [base, base.add(1), base.add(2), base.add(3)] };
    f.c = [f.d[0], f.d[1], f.d[2], f.d[3]];
    // SAFETY: A and B are registers of the kernel, C and D those of `sums`.
    unsafe { multiply::<L, KIND, KR>(&f) };
    for q in 0..2 {
        for lane in 0..32 {
            let (low, high) = (sums[2 * q].0[lane], sums[2 * q + 1].0[lane]);
            // SAFETY: D is a register of the kernel.
            unsafe { (*d[q]).0[lane] = f16_near(low) | f16_near(high) << 16 };
        }
    }
}

/// 8-bit integers; the bits of `a`: A signed, B signed, `.satfinite`.
struct MmaInt<const KR: usize>;
impl<const KR: usize> Exec for MmaInt<KR> {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if m != !0 {
            return gather(w, p, m);
        }
        // SAFETY: the arguments are those of a handler of this op.
        unsafe { multiply_integers::<KR>(r, p) };
        true
    }
}

/// # Safety
/// As [`multiply_apart`].
#[inline(never)]
unsafe fn multiply_integers<const KR: usize>(r: *mut Reg, p: &Op) {
    let (signed, clamp) = ((p.a & 1 != 0, p.a & 2 != 0), p.a & 4 != 0);
    // SAFETY: the caller's promise.
    unsafe { integers::<KR>(&Fragments::of(r, p), signed, clamp) };
}

/// bf16 by `vdpbf16ps` where it gives the same bits: all ops of a run of such ops, whose `jmp` says
/// what to test ([`plan_runs`]).
///
/// # Safety
/// The arguments are those of a handler of an `mma` op; the processor has AVX-512-BF16.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c,bmi1,bmi2,lzcnt,popcnt"
)]
unsafe extern "C" fn mma_dot<const KR: usize>(
    r: *mut Reg,
    p: *const Op,
    w: &mut Warp,
    m: u32,
) -> *const Op {
    let mut p = p;
    if m != !0 {
        // SAFETY: the caller's promise.
        gather(w, unsafe { &*p }, m);
        return p;
    }
    let mut clean = 0;
    loop {
        // SAFETY: the ops of a run stand one after the other.
        unsafe {
            let op = &*p;
            clean = multiply_dot::<KR>(r, op, w, clean);
            if op.jmp as u32 & MORE == 0 {
                return next(r, p, w, m);
            }
            p = p.add(1);
        }
    }
}

/// Bit of [`multiply_dot`]'s state for A.
const CLEAN_A: u64 = 1 << 32;

/// One op of a run. Takes and returns which operands of the run are known to be clean: a bit for
/// each B, and [`CLEAN_A`]. Not inlined: around a loop the constants of an op would be kept on the
/// stack.
///
/// # Safety
/// As [`mma_dot`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline(never)]
unsafe fn multiply_dot<const KR: usize>(r: *mut Reg, op: &Op, w: &mut Warp, clean: u64) -> u64 {
    let plan = op.jmp as u32;
    let b_bit = 1 << (plan >> PLACE_B & 31);
    let mut clean = clean;
    // SAFETY: the caller's promise.
    unsafe {
        let f = Fragments::of(r, op);
        if plan & NEW_A != 0 {
            let [a0, a1, a2, a3] = f.a;
            let is_clean = if KR == 2 {
                avx512::is_clean::<{ avx512::CLEAN_A }, 4>([a0, a1, a2, a3])
            } else {
                avx512::is_clean::<{ avx512::CLEAN_A }, 2>([a0, a1])
            };
            clean = if is_clean { clean | CLEAN_A } else { clean & !CLEAN_A };
        }
        if plan & NEW_B != 0 {
            let is_clean = if KR == 2 {
                avx512::is_clean::<{ avx512::CLEAN_B }, 2>([f.b[0], f.b[1]])
            } else {
                avx512::is_clean::<{ avx512::CLEAN_B }, 1>([f.b[0]])
            };
            clean = if is_clean { clean | b_bit } else { clean & !b_bit };
        }
        let number = op.a & NUMBER;
        let mut dot = false;
        if clean & (CLEAN_A | b_bit) == CLEAN_A | b_bit {
            // With all lanes here they were all at the op that made C: no part of the warp came
            // between.
            let known = op.a & CHAIN != 0 && w.dots >> number & 1 != 0;
            dot = avx512::mma_dot::<KR>(&f, known);
        } else {
            avx512::mma::<BF16, KR>(&f);
        }
        w.dots = w.dots & !(1 << number) | u64::from(dot) << number;
    }
    clean
}

/// C is what the op before with this number in its block made, in the same registers.
const CHAIN: u16 = 1 << 8;
/// Number of the accumulators, of as many as `Warp::dots` has bits; the last is that of all others.
const NUMBER: u16 = 63;

/// Whether an op is one of those that are quicker in runs.
fn is_dot(op: &VOp) -> bool {
    let handlers = [mma_dot::<1> as Handler as usize, mma_dot::<2> as Handler as usize];
    handlers.contains(&(op.handler as usize))
}

/// Puts `mma` ops of a block together, by delaying them past ops that do not depend on them:
/// `ldmatrix`, loads and pure ops, behind an `ldmatrix` or `mma` of the block, where the warp is
/// together. None of those stores, so a fault in one of them leaves the same memory.
pub(crate) fn collect(ops: &mut Vec<VOp>) {
    if ops.iter().filter(|op| is_dot(op)).count() < 2 {
        return;
    }
    let mut out = Vec::with_capacity(ops.len());
    let mut waiting: Vec<VOp> = Vec::new();
    for op in ops.drain(..) {
        let passes = !op.guarded && !op.ends && (op.pure || op.loads || is_dot(&op));
        if !passes || waiting.iter().any(|before| depends(&op, before)) || waiting.len() >= WAIT {
            out.append(&mut waiting);
        }
        if is_dot(&op) { waiting.push(op) } else { out.push(op) }
    }
    out.append(&mut waiting);
    *ops = out;
}

/// Ops that [`collect`] delays at once.
const WAIT: usize = 8;

/// Whether `op`, which stands behind `before`, must stay there.
fn depends(op: &VOp, before: &VOp) -> bool {
    let value = |slot: &Slot| match slot {
        Slot::Use(v) => Some((v.id, false)),
        Slot::Def(v) => Some((v.id, true)),
        _ => None,
    };
    let theirs = || before.slots.iter().filter_map(value);
    op.slots
        .iter()
        .filter_map(value)
        .any(|(id, written)| theirs().any(|(other, made)| id == other && (written || made)))
}

/// Numbers the accumulators of a block of ops: those whose sums are known to be multiples of 2^-126
/// need no test.
pub(crate) fn chain(ops: &mut [VOp]) {
    let mut open: Vec<Option<[Slot; 4]>> = Vec::new();
    for op in ops {
        if !is_dot(op) {
            for slot in &op.slots {
                if let Slot::Def(v) = slot {
                    forget(&mut open, v.id);
                }
            }
            continue;
        }
        let four = |slots: &[Slot]| [slots[0], slots[1], slots[2], slots[3]].map(source);
        let (sum, result) = (four(&op.slots[Y..]), four(&op.slots[X..]));
        let known = open.iter().position(|o| *o == Some(sum));
        for slot in result {
            if let Slot::Use(v) = slot {
                forget(&mut open, v.id);
            }
        }
        let free = open.iter().position(Option::is_none).unwrap_or(open.len());
        let number = known.unwrap_or(free);
        if number >= usize::from(NUMBER) {
            op.slots[A] = Slot::Raw(NUMBER);
            continue;
        }
        if number == open.len() {
            open.push(None);
        }
        open[number] = Some(result);
        op.slots[A] = Slot::Raw(number as u16 | if known.is_some() { CHAIN } else { 0 });
    }
}

/// A definition as a source.
fn source(slot: Slot) -> Slot {
    if let Slot::Def(v) = slot { Slot::Use(v) } else { slot }
}

fn forget(open: &mut [Option<[Slot; 4]>], id: u32) {
    for four in open {
        if four.is_some_and(|f| f.iter().any(|s| matches!(s, Slot::Use(v) if v.id == id))) {
            *four = None;
        }
    }
}

/// A is not that of the op before in the run.
const NEW_A: u32 = 1;
/// B has not been tested in the run.
const NEW_B: u32 = 2;
/// The run goes on with the next op.
const MORE: u32 = 4;
/// Where the number of B among those of the run lies.
const PLACE_B: u32 = 8;

/// Finds the runs of `mma` ops that one handler call does together, and notes in each op which of
/// its operands need a test: those not tested before in the run, or overwritten since.
pub(crate) fn plan_runs(ops: &mut [Op]) {
    let handlers = [mma_dot::<1> as Handler as usize, mma_dot::<2> as Handler as usize];
    let is_dot = |op: &Op| handlers.contains(&(op.handler as usize));
    let mut at = 0;
    while at < ops.len() {
        let same = |op: &&Op| op.handler as usize == ops[at].handler as usize;
        let length = if is_dot(&ops[at]) { ops[at..].iter().take_while(same).count() } else { 0 };
        plan_run(&mut ops[at..at + length]);
        at += length.max(1);
    }
}

fn plan_run(run: &mut [Op]) {
    let last = run.len().saturating_sub(1);
    let mut tested_a: Option<[u16; 4]> = None;
    let mut tested_b: Vec<Option<[u16; 2]>> = Vec::new();
    for (i, op) in run.iter_mut().enumerate() {
        let a = [op.x[4], op.x[5], op.x[6], op.x[7]];
        let b = [op.b, op.c];
        let mut plan = if i < last { MORE } else { 0 };
        if tested_a != Some(a) {
            plan |= NEW_A;
            tested_a = Some(a);
        }
        let place = tested_b.iter().position(|t| *t == Some(b)).unwrap_or_else(|| {
            plan |= NEW_B;
            let free = tested_b.iter().position(Option::is_none);
            // More operands than bits: the last place is tested each time.
            let place = free.unwrap_or(tested_b.len()).min(31);
            if place == tested_b.len() {
                tested_b.push(None);
            }
            tested_b[place] = Some(b);
            place
        });
        op.jmp = (plan | (place as u32) << PLACE_B) as i32;
        let written = &op.x[..4];
        let overwritten = |registers: &[u16]| registers.iter().any(|r| written.contains(r));
        if tested_a.is_some_and(|a| overwritten(&a)) {
            tested_a = None;
        }
        for tested in &mut tested_b {
            if tested.is_some_and(|b| overwritten(&b)) {
                *tested = None;
            }
        }
    }
}

/// Whether the processor has `vdpbf16ps` and it gives the defined bits.
fn dot_is_exact() -> bool {
    static EXACT: OnceLock<bool> = OnceLock::new();
    *EXACT.get_or_init(|| {
        Level::detect() == Level::Avx512
            && is_x86_feature_detected!("avx512bf16")
            // SAFETY: the features are there.
            && unsafe { self_test() }
    })
}

/// Compares `vdpbf16ps` with the f32 form on 4,096 vectors whose magnitudes lie at the edges
/// of what it takes, with zeros, cancellation, infinities and NaN among them.
///
/// # Safety
/// The processor has AVX-512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
unsafe fn self_test() -> bool {
    const TILES: usize = 4096 / 8;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as u32
    };
    let mut registers = [Reg([0; 32]); 18];
    for tile in 0..TILES {
        let spread = 1 + (tile % 8) as u32 * 12;
        for (i, register) in registers.iter_mut().take(10).enumerate() {
            for word in &mut register.0 {
                let bits = random();
                *word = if i < 6 {
                    let half = |x: u32| {
                        let special = x >> 3 & 0x3f == 0x3f;
                        let least =
                            u32::from(if i < 4 { avx512::CLEAN_A } else { avx512::CLEAN_B });
                        let exponent = if special { 255 } else { least + (x >> 8) % spread };
                        x & 0x8000 | if x & 7 == 0 { 0 } else { exponent << 7 | x & 0x7f }
                    };
                    half(bits & 0xffff) | half(bits >> 16) << 16
                } else if bits % 9 == 0 {
                    bits & 0x8000_0000
                } else {
                    bits & 0x807f_ffff | (24 + bits.rotate_left(9) % (2 * spread)) << 23
                };
            }
        }
        let base = registers.as_mut_ptr();
        // SAFETY: the indices are below the 18 registers.
        let at = |i: usize| unsafe { base.add(i) };
        let tile = |d: usize| Fragments {
            a: [0, 1, 2, 3].map(|i| at(i).cast_const()),
            b: [4, 5].map(|i| at(i).cast_const()),
            c: [6, 7, 8, 9].map(|i| at(i).cast_const()),
            d: [0, 1, 2, 3].map(|i| at(d + i)),
        };
        // SAFETY: the fragments lie in `registers`; the caller has the features.
        unsafe {
            let f = tile(10);
            let clean_a = avx512::is_clean::<{ avx512::CLEAN_A }, 4>(f.a);
            if !clean_a || !avx512::is_clean::<{ avx512::CLEAN_B }, 2>(f.b) {
                return false;
            }
            if !avx512::mma_dot::<2>(&f, false) {
                return false;
            }
            avx512::mma::<BF16, 2>(&tile(14));
        }
        if (0..4).any(|i| registers[10 + i].0 != registers[14 + i].0) {
            return false;
        }
    }
    true
}

/// m8n8k4 in f64: `x[0..2]` D, `x[4]` A, `b` B, `y(0..2)` C, all of 64 bits. Ascending k.
struct MmaF64;
impl Exec for MmaF64 {
    #[inline(always)]
    unsafe fn run<L: Simd>(r: *mut Reg, p: &Op, w: &mut Warp, m: u32) -> bool {
        if m != !0 {
            return gather(w, p, m);
        }
        // SAFETY: the indices are register pairs of the kernel.
        let read = |i: u16, lane: usize| f64::from_bits(unsafe { wide(r, i, lane) });
        let mut d = [[0u64; 32]; 2];
        for (column, d) in d.iter_mut().enumerate() {
            for (lane, d) in d.iter_mut().enumerate() {
                let (row, col) = (lane & !3, 2 * (lane & 3) + column);
                let mut sum = read(p.y(column), lane);
                for k in 0..4 {
                    sum = read(p.x[4], row + k).mul_add(read(p.b, 4 * col + k), sum);
                }
                *d = if sum.is_nan() { 0x7fff_ffff_ffff_ffff } else { sum.to_bits() };
            }
        }
        // SAFETY: as above.
        unsafe {
            put_wide::<L>(r, p.x[0], m, &d[0]);
            put_wide::<L>(r, p.x[1], m, &d[1]);
        }
        true
    }
}

/// Lowers the f64 form.
fn lower_f64(cx: &mut Emit, inst: &Inst) -> Result<bool, LoadError> {
    let [d, a, b, c] = &*inst.operands else {
        return Err(cx.error("wrong number of operands"));
    };
    let parts = [(d, 2), (a, 1), (b, 1), (c, 2)].map(|(operand, count)| {
        let list = cx.elements(operand);
        (list.len() == count).then(|| list.to_vec())
    });
    let [Some(d), Some(a), Some(b), Some(c)] = parts else {
        return Err(cx.error("wrong number of registers in a fragment"));
    };
    let op = VOp::of::<MmaF64>(cx)
        .src(X + 4, cx.src64(&a[0])?)
        .src(B, cx.src64(&b[0])?)
        .src(Y, cx.src64(&c[0])?)
        .src(Y + 1, cx.src64(&c[1])?)
        .def(X, cx.dst64(&d[0])?)
        .def(X + 1, cx.dst64(&d[1])?);
    cx.push(op);
    Ok(true)
}

/// What an instruction is: element kind, registers of B, handler.
struct Shape {
    handler: Handler,
    /// Registers of B; A has twice as many.
    depth: usize,
    /// Registers of C and D.
    sums: usize,
    /// Flags of the integer form.
    flags: u16,
}

fn shape(name: &str, types: [ScalarType; 4], satfinite: bool, level: Level) -> Option<Shape> {
    use ScalarType as T;
    let [d, a, b, c] = types;
    macro_rules! floats {
        ($kind:ident, $depth:literal) => {
            match (d, c) {
                (T::F32, T::F32) => (pick::<Mma<$kind, $depth>>(level), $depth, 4),
                (T::F16, T::F16) => (pick::<MmaF16<$kind, $depth>>(level), $depth, 2),
                _ => return None,
            }
        };
    }
    let dot = level == Level::Avx512 && dot_is_exact();
    let integer = |ty| matches!(ty, T::S8 | T::U8);
    if integer(a) && integer(b) && (d, c) == (T::S32, T::S32) {
        let (handler, depth) = match name {
            "m16n8k32" => (pick::<MmaInt<2>>(level), 2),
            "m16n8k16" => (pick::<MmaInt<1>>(level), 1),
            _ => return None,
        };
        let signed = |ty, flag| if ty == T::S8 { flag } else { 0 };
        let flags = signed(a, 1) | signed(b, 2) | if satfinite { 4 } else { 0 };
        return Some(Shape { handler, depth, sums: 4, flags });
    }
    if satfinite || a != b {
        return None;
    }
    let (handler, depth, sums) = match (name, a) {
        ("m16n8k16", T::Bf16) if dot && d == T::F32 && c == T::F32 => {
            (mma_dot::<2> as Handler, 2, 4)
        }
        ("m16n8k8", T::Bf16) if dot && d == T::F32 && c == T::F32 => {
            (mma_dot::<1> as Handler, 1, 4)
        }
        ("m16n8k16", T::Bf16) if d == T::F32 => floats!(BF16, 2),
        ("m16n8k8", T::Bf16) if d == T::F32 => floats!(BF16, 1),
        ("m16n8k16", T::F16) => floats!(F16, 2),
        ("m16n8k8", T::F16) => floats!(F16, 1),
        ("m16n8k8", T::Tf32) if d == T::F32 => floats!(TF32, 2),
        ("m16n8k4", T::Tf32) if d == T::F32 => floats!(TF32, 1),
        ("m16n8k32", T::E4m3) => floats!(E4M3, 2),
        ("m16n8k32", T::E5m2) => floats!(E5M2, 2),
        _ => return None,
    };
    Some(Shape { handler, depth, sums, flags: 0 })
}

/// Lowers an instruction of the family.
pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError> {
    if opcode != "mma" {
        return Ok(false);
    }
    let mut mods = Mods::new(cx.module, inst);
    let name = mods.take_any(&["m16n8k16", "m16n8k8", "m16n8k32", "m16n8k4", "m8n8k4"]);
    let layout = mods.take("row") && mods.take("col");
    let satfinite = mods.take("satfinite");
    let whole = mods.take("sync") && mods.take("aligned");
    let types = [(); 4].map(|()| mods.take_type());
    mods.finish(cx)?;
    let (Some(name), true, true, [Some(d), Some(a), Some(b), Some(c)]) =
        (name, layout, whole, types)
    else {
        return Err(cx.error("mma of this form is not supported"));
    };
    if name == "m8n8k4" && [d, a, b, c] == [ScalarType::F64; 4] && !satfinite {
        return lower_f64(cx, inst);
    }
    let Some(shape) = shape(name, [d, a, b, c], satfinite, cx.level) else {
        return Err(cx.error("mma of this shape and these types is not supported"));
    };
    let [d, a, b, c] = &*inst.operands else {
        return Err(cx.error("wrong number of operands"));
    };
    let a = registers(cx, a, 2 * shape.depth)?;
    let b = registers(cx, b, shape.depth)?;
    let c = registers(cx, c, shape.sums)?;
    let dest: Vec<V> =
        cx.elements(d).to_vec().iter().map(|o| cx.dst32(o)).collect::<Result<_, _>>()?;
    if dest.len() != shape.sums {
        return Err(cx.error("wrong number of destination registers"));
    }
    let mut op = VOp::new(shape.handler).named("mma").raw(crate::lower::emit::A, shape.flags);
    for i in 0..4 {
        op = op.src(X + 4 + i, a[i % a.len()]).src(Y + i, c[i % c.len()]);
        if i < dest.len() {
            op = op.def(X + i, dest[i]);
        }
    }
    op = op.src(B, b[0]).src(C, b[b.len() - 1]);
    cx.push(op);
    Ok(true)
}

fn registers(cx: &mut Emit, operand: &Operand, count: usize) -> Result<Vec<V>, LoadError> {
    let list: Vec<Operand> = cx.elements(operand).to_vec();
    if list.len() != count {
        return Err(cx.error("wrong number of registers in a fragment"));
    }
    list.iter().map(|o| cx.src32(o)).collect()
}
