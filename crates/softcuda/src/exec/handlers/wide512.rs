//! AVX-512 forms of the hottest operations: 16 lanes at a time.

use std::arch::x86_64::*;

use crate::exec::op::{Op, Reg, put_mask};

/// Lanes `16·h..` of a register.
///
/// # Safety
/// `i` is a register of the kernel; the processor has AVX-512.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn get(r: *const Reg, i: u16, h: usize) -> __m512i {
    // SAFETY: registers are 128 bytes on a 128-byte boundary.
    unsafe { _mm512_load_si512(r.add(i as usize).cast::<i32>().add(16 * h).cast()) }
}

/// Writes lanes `16·h..` of a register, those of `m`.
///
/// # Safety
/// As [`get`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn set(r: *mut Reg, i: u16, h: usize, m: u32, v: __m512i) {
    // SAFETY: registers are 128 bytes on a 128-byte boundary.
    unsafe {
        let at = r.add(i as usize).cast::<i32>().add(16 * h);
        if m == !0 {
            _mm512_store_si512(at.cast(), v);
        } else {
            _mm512_mask_store_epi32(at, (m >> (16 * h)) as u16, v);
        }
    }
}

/// A function of 16 lanes.
pub(crate) trait V32 {
    /// The results.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ, VL.
    unsafe fn v(a: __m512i, b: __m512i, c: __m512i) -> __m512i;
}

/// A function of 16 lanes of 64 bits in low and high words.
pub(crate) trait V64 {
    /// The results.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ, VL.
    unsafe fn v(a: [__m512i; 2], b: [__m512i; 2], c: [__m512i; 2]) -> [__m512i; 2];
}

/// A comparison of 16 lanes.
pub(crate) trait K32 {
    /// The lanes for which it holds.
    ///
    /// # Safety
    /// The processor has AVX-512 F, BW, DQ, VL.
    unsafe fn k(a: __m512i, b: __m512i) -> u16;
}

/// `d = f(a, b, c)` of 32 bits.
///
/// # Safety
/// The operands are registers of the kernel; the processor has AVX-512 F, BW, DQ, VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) unsafe fn run32<F: V32>(r: *mut Reg, p: &Op, m: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let lo = F::v(get(r, p.a, 0), get(r, p.b, 0), get(r, p.c, 0));
        let hi = F::v(get(r, p.a, 1), get(r, p.b, 1), get(r, p.c, 1));
        set(r, p.d, 0, m, lo);
        set(r, p.d, 1, m, hi);
    }
}

/// `d = f(a, b, c)` of 64 bits, `A`, `B`, `C` say which operands are; narrow operands have zero high words.
///
/// # Safety
/// As [`run32`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) unsafe fn run64<F: V64, const A: bool, const B: bool, const C: bool>(
    r: *mut Reg,
    p: &Op,
    m: u32,
) {
    let zero = _mm512_setzero_si512();
    // SAFETY: the caller's promise.
    unsafe {
        let two = |i: u16, is_wide: bool, h: usize| {
            [get(r, i, h), if is_wide { get(r, i + 1, h) } else { zero }]
        };
        let lo = F::v(two(p.a, A, 0), two(p.b, B, 0), two(p.c, C, 0));
        let hi = F::v(two(p.a, A, 1), two(p.b, B, 1), two(p.c, C, 1));
        set(r, p.d, 0, m, lo[0]);
        set(r, p.d, 1, m, hi[0]);
        set(r, p.d + 1, 0, m, lo[1]);
        set(r, p.d + 1, 1, m, hi[1]);
    }
}

/// Predicate `d = f(a, b)`.
///
/// # Safety
/// As [`run32`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) unsafe fn compare<F: K32>(r: *mut Reg, p: &Op, m: u32) {
    // SAFETY: the caller's promise.
    unsafe {
        let lo = F::k(get(r, p.a, 0), get(r, p.b, 0));
        let hi = F::k(get(r, p.a, 1), get(r, p.b, 1));
        put_mask(r, p.d, m, u32::from(lo) | (u32::from(hi) << 16));
    }
}

/// The lanes whose value of register `a` plus `offset` is above `last` or has a bit of `low`.
///
/// # Safety
/// As [`run32`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn beyond(r: *const Reg, a: u16, offset: u32, (last, low): (u32, u32)) -> u32 {
    let (offset, last) = (_mm512_set1_epi32(offset as i32), _mm512_set1_epi32(last as i32));
    let low = _mm512_set1_epi32(low as i32);
    let half = |h: usize| {
        // SAFETY: the caller's promise.
        let v = _mm512_add_epi32(unsafe { get(r, a, h) }, offset);
        u32::from(_mm512_cmpgt_epu32_mask(v, last) | _mm512_test_epi32_mask(v, low))
    };
    half(0) | half(1) << 16
}

/// Whether each four lanes of the 64-bit register `a` are 4 apart, but for a carry.
///
/// # Safety
/// As [`run32`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn in_fours(r: *const Reg, a: u16) -> bool {
    let steps = _mm512_set4_epi32(12, 8, 4, 0);
    let mut different = _mm512_setzero_si512();
    for h in 0..2 {
        // SAFETY: the caller's promise.
        let (low, high) = unsafe { (get(r, a, h), get(r, a + 1, h)) };
        let ahead = _mm512_sub_epi32(low, _mm512_shuffle_epi32::<0>(low));
        let elsewhere = _mm512_xor_si512(high, _mm512_shuffle_epi32::<0>(high));
        let wrong = _mm512_or_si512(_mm512_xor_si512(ahead, steps), elsewhere);
        different = _mm512_or_si512(different, wrong);
    }
    _mm512_test_epi32_mask(different, different) == 0
}

/// Eight rows of 16 bytes, from `distance` behind `rows`, to register `d`.
///
/// # Safety
/// The rows are readable; otherwise as [`run32`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn load_rows(r: *mut Reg, d: u16, rows: &[*const u8; 8], distance: isize) {
    for h in 0..2 {
        // SAFETY: the caller's promise.
        let row = |g: usize| unsafe {
            _mm_loadu_si128(rows[4 * h + g].wrapping_offset(distance).cast::<__m128i>())
        };
        let mut v = _mm512_castsi128_si512(row(0));
        v = _mm512_inserti32x4::<1>(v, row(1));
        v = _mm512_inserti32x4::<2>(v, row(2));
        v = _mm512_inserti32x4::<3>(v, row(3));
        // SAFETY: the caller's promise.
        unsafe { set(r, d, h, !0, v) };
    }
}

/// Low and high words of 16 lanes as two vectors of 8 lanes of 64 bits.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn join(v: [__m512i; 2]) -> [__m512i; 2] {
    let first = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let last = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    [_mm512_permutex2var_epi32(v[0], first, v[1]), _mm512_permutex2var_epi32(v[0], last, v[1])]
}

/// The inverse of [`join`].
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) fn part(v: [__m512i; 2]) -> [__m512i; 2] {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    [_mm512_permutex2var_epi32(v[0], even, v[1]), _mm512_permutex2var_epi32(v[0], odd, v[1])]
}

/// The address of lane 0 if all lanes access consecutive elements of `size` bytes.
///
/// # Safety
/// `a` (and, of 64 bits, `a + 1`) are registers of the kernel; the processor has AVX-512.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn consecutive<const WIDE: bool>(
    r: *const Reg,
    a: u16,
    size: u32,
) -> Option<u64> {
    // SAFETY: the caller's promise.
    unsafe {
        let (l0, l1) = (get(r, a, 0), get(r, a, 1));
        let (h0, h1) = if WIDE {
            (get(r, a + 1, 0), get(r, a + 1, 1))
        } else {
            (_mm512_setzero_si512(), _mm512_setzero_si512())
        };
        let lo = _mm512_cvtsi512_si32(l0) as u32;
        let hi = _mm512_cvtsi512_si32(h0) as u32;
        let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let step = _mm512_mullo_epi32(lane, _mm512_set1_epi32(size as i32));
        let first = _mm512_add_epi32(_mm512_set1_epi32(lo as i32), step);
        let second = _mm512_add_epi32(first, _mm512_set1_epi32(16 * size as i32));
        let high = _mm512_set1_epi32(hi as i32);
        let differs = _mm512_cmpneq_epi32_mask(l0, first)
            | _mm512_cmpneq_epi32_mask(l1, second)
            | _mm512_cmpneq_epi32_mask(h0, high)
            | _mm512_cmpneq_epi32_mask(h1, high);
        if differs != 0 || lo > u32::MAX - 32 * size {
            return None;
        }
        Some(u64::from(lo) | (u64::from(hi) << 32))
    }
}

/// Loads 16 lanes of `words` consecutive words: word k of the lanes in `out[k]`.
///
/// # Safety
/// `64 * WORDS` bytes are readable.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn load_words<const WORDS: usize>(host: *const u8) -> [__m512i; 4] {
    // SAFETY: the caller's promise.
    unsafe {
        let get = |k: usize| _mm512_loadu_si512(host.add(64 * k).cast());
        let zero = _mm512_setzero_si512();
        match WORDS {
            1 => [get(0), zero, zero, zero],
            2 => {
                let [a, b] = part([get(0), get(1)]);
                [a, b, zero, zero]
            }
            _ => {
                let e = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
                let g =
                    _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
                let (v0, v1, v2, v3) = (get(0), get(1), get(2), get(3));
                let x0 = _mm512_permutex2var_epi32(v0, e, v1);
                let x1 = _mm512_permutex2var_epi32(v2, e, v3);
                let y0 = _mm512_permutex2var_epi32(v0, g, v1);
                let y1 = _mm512_permutex2var_epi32(v2, g, v3);
                [
                    _mm512_shuffle_i64x2::<0x44>(x0, x1),
                    _mm512_shuffle_i64x2::<0xee>(x0, x1),
                    _mm512_shuffle_i64x2::<0x44>(y0, y1),
                    _mm512_shuffle_i64x2::<0xee>(y0, y1),
                ]
            }
        }
    }
}

/// The inverse of [`load_words`].
///
/// # Safety
/// `64 * WORDS` bytes are writable.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn store_words<const WORDS: usize>(host: *mut u8, v: [__m512i; 4]) {
    // SAFETY: the caller's promise.
    unsafe {
        let put = |k: usize, v: __m512i| _mm512_storeu_si512(host.add(64 * k).cast(), v);
        match WORDS {
            1 => put(0, v[0]),
            2 => {
                let [a, b] = join([v[0], v[1]]);
                put(0, a);
                put(1, b);
            }
            _ => {
                // Pairs of words of a lane, then quads.
                let ab = join([v[0], v[1]]);
                let cd = join([v[2], v[3]]);
                let low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
                let high = _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15);
                put(0, _mm512_permutex2var_epi64(ab[0], low, cd[0]));
                put(1, _mm512_permutex2var_epi64(ab[0], high, cd[0]));
                put(2, _mm512_permutex2var_epi64(ab[1], low, cd[1]));
                put(3, _mm512_permutex2var_epi64(ab[1], high, cd[1]));
            }
        }
    }
}

macro_rules! v32 {
    ($($name:ty = |$a:pat_param, $b:pat_param, $c:pat_param| $e:expr;)*) => {$(
        impl V32 for $name {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            #[inline]
            unsafe fn v($a: __m512i, $b: __m512i, $c: __m512i) -> __m512i { $e }
        }
    )*};
}
macro_rules! v64 {
    ($($name:ty = |$a:pat_param, $b:pat_param, $c:pat_param| $e:expr;)*) => {$(
        impl V64 for $name {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            #[inline]
            unsafe fn v($a: [__m512i; 2], $b: [__m512i; 2], $c: [__m512i; 2]) -> [__m512i; 2] { $e }
        }
    )*};
}
macro_rules! k32 {
    ($($name:ty = |$a:pat_param, $b:pat_param| $e:expr;)*) => {$(
        impl K32 for $name {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            #[inline]
            unsafe fn k($a: __m512i, $b: __m512i) -> u16 { $e }
        }
    )*};
}

use super::alu_int as int;
use super::logic;
use super::mov;

v32! {
    int::Add = |a, b, _| _mm512_add_epi32(a, b);
    int::Sub = |a, b, _| _mm512_sub_epi32(a, b);
    int::Mul = |a, b, _| _mm512_mullo_epi32(a, b);
    int::Mad = |a, b, c| _mm512_add_epi32(_mm512_mullo_epi32(a, b), c);
    int::MinU = |a, b, _| _mm512_min_epu32(a, b);
    int::MaxU = |a, b, _| _mm512_max_epu32(a, b);
    int::MinS = |a, b, _| _mm512_min_epi32(a, b);
    int::MaxS = |a, b, _| _mm512_max_epi32(a, b);
    int::Neg = |a, _, _| _mm512_sub_epi32(_mm512_setzero_si512(), a);
    logic::And = |a, b, _| _mm512_and_si512(a, b);
    logic::Or = |a, b, _| _mm512_or_si512(a, b);
    logic::Xor = |a, b, _| _mm512_xor_si512(a, b);
    logic::Not = |a, _, _| _mm512_xor_si512(a, _mm512_set1_epi32(-1));
    logic::Shl = |a, b, _| _mm512_sllv_epi32(a, b);
    logic::ShrU = |a, b, _| _mm512_srlv_epi32(a, b);
    logic::ShrS = |a, b, _| _mm512_srav_epi32(a, b);
    mov::Id = |a, _, _| a;
    mov::Low16 = |a, _, _| _mm512_and_si512(a, _mm512_set1_epi32(0xffff));
    mov::High16 = |a, _, _| _mm512_srli_epi32::<16>(a);
    mov::Pack16 = |a, b, _| _mm512_mask_blend_epi16(0xaaaa_aaaa, a, _mm512_slli_epi32::<16>(b));
}

v64! {
    int::AddW = |a, b, _| {
        let lo = _mm512_add_epi32(a[0], b[0]);
        let hi = _mm512_add_epi32(a[1], b[1]);
        let carry = _mm512_cmplt_epu32_mask(lo, a[0]);
        [lo, _mm512_mask_sub_epi32(hi, carry, hi, _mm512_set1_epi32(-1))]
    };
    int::SubW = |a, b, _| {
        let lo = _mm512_sub_epi32(a[0], b[0]);
        let hi = _mm512_sub_epi32(a[1], b[1]);
        let borrow = _mm512_cmplt_epu32_mask(a[0], b[0]);
        [lo, _mm512_mask_add_epi32(hi, borrow, hi, _mm512_set1_epi32(-1))]
    };
    int::MulW = |a, b, _| {
        let (a, b) = (join(a), join(b));
        part([_mm512_mullo_epi64(a[0], b[0]), _mm512_mullo_epi64(a[1], b[1])])
    };
    int::MadWideU = |a, b, c| {
        let (a, b, c) = (join(a), join(b), join(c));
        let f = |k: usize| _mm512_add_epi64(_mm512_mul_epu32(a[k], b[k]), c[k]);
        part([f(0), f(1)])
    };
    int::MadWideS = |a, b, c| {
        let (a, b, c) = (join(a), join(b), join(c));
        let f = |k: usize| _mm512_add_epi64(_mm512_mul_epi32(a[k], b[k]), c[k]);
        part([f(0), f(1)])
    };
    logic::AndW = |a, b, _| [_mm512_and_si512(a[0], b[0]), _mm512_and_si512(a[1], b[1])];
    logic::OrW = |a, b, _| [_mm512_or_si512(a[0], b[0]), _mm512_or_si512(a[1], b[1])];
    logic::XorW = |a, b, _| [_mm512_xor_si512(a[0], b[0]), _mm512_xor_si512(a[1], b[1])];
    logic::ShlW = |a, _, c| {
        let (a, c) = (join(a), join(c));
        part([_mm512_sllv_epi64(a[0], c[0]), _mm512_sllv_epi64(a[1], c[1])])
    };
    logic::ShrUW = |a, _, c| {
        let (a, c) = (join(a), join(c));
        part([_mm512_srlv_epi64(a[0], c[0]), _mm512_srlv_epi64(a[1], c[1])])
    };
    logic::ShrSW = |a, _, c| {
        let (a, c) = (join(a), join(c));
        part([_mm512_srav_epi64(a[0], c[0]), _mm512_srav_epi64(a[1], c[1])])
    };
    mov::IdW = |a, _, _| a;
    mov::Sext32W = |a, _, _| [a[0], _mm512_srai_epi32::<31>(a[0])];
    mov::Zext32W = |a, _, _| [a[0], _mm512_setzero_si512()];
}

k32! {
    logic::Eq = |a, b| _mm512_cmpeq_epi32_mask(a, b);
    logic::Ne = |a, b| _mm512_cmpneq_epi32_mask(a, b);
    logic::LtU = |a, b| _mm512_cmplt_epu32_mask(a, b);
    logic::LeU = |a, b| _mm512_cmple_epu32_mask(a, b);
    logic::LtS = |a, b| _mm512_cmplt_epi32_mask(a, b);
    logic::LeS = |a, b| _mm512_cmple_epi32_mask(a, b);
}
