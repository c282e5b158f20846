//! Fragments of `mma.sync` and the plain form of its arithmetic.
//!
//! With g = lane / 4 and t = lane mod 4, a word of A (register q) holds row g + 8·(q mod 2) and k
//! word t + 4·(q / 2); a word of B holds column g and k word t + 4·q; accumulator q holds row
//! g + 8·(q / 2) and column 2t + (q mod 2). A k word is one tf32, two 16-bit or four 8-bit
//! elements, the lower index in the lower bits.
//!
//! The order of a sum is fixed: over pairs of k ascending, the odd element of each pair first
//! (the order of `vdpbf16ps`); for tf32 k ascending. Each step is one f32 fused multiply-add.

use super::fma32;
use super::round::{bf16_widen, canon32, f16_widen};
use crate::exec::op::{Op, Reg, Simd};

/// Element types as const parameters.
pub(crate) const BF16: u8 = 0;
/// f16.
pub(crate) const F16: u8 = 1;
/// tf32: the low 13 bits are ignored.
pub(crate) const TF32: u8 = 2;
/// 8-bit floats of 4 exponent bits.
pub(crate) const E4M3: u8 = 3;
/// 8-bit floats of 5 exponent bits.
pub(crate) const E5M2: u8 = 4;

/// The registers of one instruction. Those that a shape does not have repeat others.
pub(crate) struct Fragments {
    pub(crate) a: [*const Reg; 4],
    pub(crate) b: [*const Reg; 2],
    pub(crate) c: [*const Reg; 4],
    pub(crate) d: [*mut Reg; 4],
}

impl Fragments {
    /// The registers of an op: `x[0..4]` D, `x[4..8]` A, `b` and `c` B, `y(0..4)` C.
    ///
    /// # Safety
    /// The op is an `mma` of the kernel whose registers begin at `r`.
    #[inline(always)]
    pub(crate) unsafe fn of(r: *mut Reg, p: &Op) -> Self {
        // SAFETY: the indices are registers of the kernel.
        let at = |i: u16| unsafe { r.add(i as usize) };
        Fragments {
            a: [at(p.x[4]), at(p.x[5]), at(p.x[6]), at(p.x[7])],
            b: [at(p.b), at(p.c)],
            c: [at(p.y(0)), at(p.y(1)), at(p.y(2)), at(p.y(3))],
            d: [at(p.x[0]), at(p.x[1]), at(p.x[2]), at(p.x[3])],
        }
    }
}

/// Elements in a word.
#[inline(always)]
pub(crate) const fn per_word(kind: u8) -> usize {
    match kind {
        TF32 => 1,
        BF16 | F16 => 2,
        _ => 4,
    }
}

/// Element `e` of a word as f32.
#[inline(always)]
fn decode<const KIND: u8>(word: u32, e: usize) -> f32 {
    let half = word >> (16 * (e & 1)) & 0xffff;
    let byte = word >> (8 * e) & 0xff;
    f32::from_bits(match KIND {
        BF16 => bf16_widen(half),
        F16 => f16_widen(half),
        TF32 => word & !0x1fff,
        E4M3 => crate::exec::handlers::cvt::e4m3_widen(byte),
        _ => crate::exec::handlers::cvt::e5m2_widen(byte),
    })
}

/// `mma` with f32 accumulators by rows of the tile; `KR` registers of B.
///
/// # Safety
/// The fragments are live registers.
#[inline(always)]
pub(crate) unsafe fn by_rows<L: Simd, const KIND: u8, const KR: usize>(f: &Fragments) {
    // SAFETY: the caller's promise.
    let word = |register: *const Reg, lane: usize| unsafe { (*register).0[lane] };
    let per = per_word(KIND);
    let depth = 4 * KR * per;
    let mut a = [[0f32; 32]; 16];
    let mut b = [[0f32; 8]; 32];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for q in 0..2 * KR {
            for e in 0..per {
                let k = (t + 4 * (q / 2)) * per + e;
                a[g + 8 * (q % 2)][k] = decode::<KIND>(word(f.a[q], lane), e);
            }
        }
        for q in 0..KR {
            for e in 0..per {
                b[(t + 4 * q) * per + e][g] = decode::<KIND>(word(f.b[q], lane), e);
            }
        }
    }
    let mut result = [[0u32; 32]; 4];
    for (row, a) in a.iter().enumerate() {
        let mut sums = [0f32; 8];
        let place = |column: usize| (column % 2 + 2 * (row / 8), 4 * (row % 8) + column / 2);
        for (column, sum) in sums.iter_mut().enumerate() {
            let (q, lane) = place(column);
            *sum = f32::from_bits(word(f.c[q], lane));
        }
        for i in 0..depth {
            // 1, 0, 3, 2, …
            let k = if per == 1 { i } else { i ^ 1 };
            for (sum, b) in sums.iter_mut().zip(&b[k]) {
                *sum = fma32::<L>(a[k], *b, *sum);
            }
        }
        for (column, sum) in sums.iter().enumerate() {
            let (q, lane) = place(column);
            result[q][lane] = canon32(*sum);
        }
    }
    for (d, value) in f.d.iter().zip(&result) {
        // SAFETY: the caller's promise.
        unsafe { (**d).0 = *value };
    }
}

/// `mma` of 8-bit integers: exact sums that wrap, or clamp at the end; `KR` registers of B.
///
/// # Safety
/// The fragments are live registers.
#[inline(always)]
pub(crate) unsafe fn integers<const KR: usize>(
    f: &Fragments,
    (a_signed, b_signed): (bool, bool),
    clamp: bool,
) {
    // SAFETY: the caller's promise.
    let word = |register: *const Reg, lane: usize| unsafe { (*register).0[lane] };
    let byte = |word: u32, e: usize, signed: bool| {
        let byte = (word >> (8 * e)) as u8;
        if signed { i32::from(byte as i8) } else { i32::from(byte) }
    };
    let mut result = [[0u32; 32]; 4];
    for (q, result) in result.iter_mut().enumerate() {
        for (lane, result) in result.iter_mut().enumerate() {
            let (g, column) = (lane / 4, 2 * (lane % 4) + q % 2);
            // At most 32 products of 16 bits: no overflow.
            let mut sum = 0i32;
            for kw in 0..4 * KR {
                let x = word(f.a[q / 2 + 2 * (kw / 4)], 4 * g + kw % 4);
                let y = word(f.b[kw / 4], 4 * column + kw % 4);
                for e in 0..4 {
                    sum += byte(x, e, a_signed) * byte(y, e, b_signed);
                }
            }
            let c = word(f.c[q], lane) as i32;
            *result = if clamp { c.saturating_add(sum) } else { c.wrapping_add(sum) } as u32;
        }
    }
    for (d, value) in f.d.iter().zip(&result) {
        // SAFETY: the caller's promise.
        unsafe { (**d).0 = *value };
    }
}
