//! AVX-512 F, BW, DQ and VL; AVX-512-BF16 where the processor has it.
//!
//! A warp register is two vectors: lanes 0-15 and 16-31. In the fragments of `mma` (`super::mma`)
//! the four lanes of a 128-bit group hold one row of A, so an element of A reaches its row by a
//! shuffle inside groups. Columns of B are gathered over the whole register by one permutation of
//! two vectors, and serve all rows.
//!
//! Loops run over indices: an iterator that owns an array is a call where the crate is compiled in
//! parts.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::*;

use super::mma::{BF16, F16, Fragments, TF32};
use super::round::NAN32;
use crate::exec::op::Reg;

/// See [`super::top_bits`].
///
/// # Safety
/// The processor has AVX-512 F and DQ.
#[target_feature(enable = "avx512f,avx512dq")]
#[inline]
pub(crate) unsafe fn top_bits(lanes: &[u32; 32]) -> u32 {
    let half = |i: usize| {
        // SAFETY: 16 lanes follow lane `16·i`.
        let lanes = unsafe { _mm512_loadu_si512(lanes.as_ptr().add(16 * i).cast()) };
        u32::from(_mm512_movepi32_mask(lanes))
    };
    half(0) | half(1) << 16
}

/// The two vectors of a register.
///
/// # Safety
/// `reg` is a live register.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load(reg: *const Reg) -> [__m512i; 2] {
    // SAFETY: a register is 128 bytes, aligned.
    unsafe { [_mm512_load_si512(reg.cast()), _mm512_load_si512(reg.cast::<__m512i>().add(1))] }
}

/// The f32 values of the lower element of each word (`tf32`: of the word).
#[target_feature(enable = "avx512f")]
#[inline]
fn even<const KIND: u8>(words: __m512i) -> __m512 {
    match KIND {
        BF16 => _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)),
        F16 => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words)),
        _ => _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(!0x1fff))),
    }
}

/// The f32 values of the upper element of each word.
#[target_feature(enable = "avx512f")]
#[inline]
fn odd<const KIND: u8>(words: __m512i) -> __m512 {
    match KIND {
        F16 => _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words))),
        _ => _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(!0xffff))),
    }
}

/// The words of B for k word `J` of a register: columns 0, 2, 4, 6 and columns 1, 3, 5, 7, one for
/// each lane of a group.
#[target_feature(enable = "avx512f")]
#[inline]
fn columns<const J: i32>(b: [__m512i; 2]) -> [__m512i; 2] {
    let evens = _mm512_set4_epi32(24 + J, 16 + J, 8 + J, J);
    let odds = _mm512_set4_epi32(28 + J, 20 + J, 12 + J, 4 + J);
    [_mm512_permutex2var_epi32(b[0], evens, b[1]), _mm512_permutex2var_epi32(b[0], odds, b[1])]
}

/// The accumulators of a tile: registers c0 to c3, two vectors each.
type Tile = [__m512; 8];

/// # Safety
/// The fragments are live registers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn load_tile(c: [*const Reg; 4]) -> Tile {
    let mut tile = [_mm512_setzero_ps(); 8];
    for i in 0..8 {
        // SAFETY: a register is two aligned vectors.
        tile[i] = unsafe { _mm512_load_ps(c[i / 2].cast::<f32>().add(16 * (i % 2))) };
    }
    tile
}

/// Makes NaN canonical and stores.
///
/// # Safety
/// The fragments are live registers.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store_tile(d: [*mut Reg; 4], mut tile: Tile) {
    let unordered = |i: usize| _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(tile[i], tile[i + 1]);
    if unordered(0) | unordered(2) | unordered(4) | unordered(6) != 0 {
        let nan = _mm512_castsi512_ps(_mm512_set1_epi32(NAN32 as i32));
        for i in 0..8 {
            let unordered = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(tile[i], tile[i]);
            tile[i] = _mm512_mask_blend_ps(unordered, tile[i], nan);
        }
    }
    for i in 0..8 {
        // SAFETY: a register is two aligned vectors.
        unsafe { _mm512_store_ps(d[i / 2].cast::<f32>().add(16 * (i % 2)), tile[i]) };
    }
}

/// One k word of a register pair of A (rows g and g + 8) and a register of B.
#[target_feature(enable = "avx512f")]
#[inline]
fn step<const KIND: u8, const J: i32, const SPREAD: i32>(
    tile: &mut Tile,
    a: [[__m512i; 2]; 2],
    b: [__m512i; 2],
) {
    let [evens, odds] = columns::<J>(b);
    let (even_low, odd_low) = (even::<KIND>(evens), even::<KIND>(odds));
    let (even_high, odd_high) = (odd::<KIND>(evens), odd::<KIND>(odds));
    for r in 0..2 {
        for h in 0..2 {
            let words = _mm512_shuffle_epi32::<SPREAD>(a[r][h]);
            let at = 4 * r + h;
            if KIND != TF32 {
                let high = odd::<KIND>(words);
                tile[at] = _mm512_fmadd_ps(high, even_high, tile[at]);
                tile[at + 2] = _mm512_fmadd_ps(high, odd_high, tile[at + 2]);
            }
            let low = even::<KIND>(words);
            tile[at] = _mm512_fmadd_ps(low, even_low, tile[at]);
            tile[at + 2] = _mm512_fmadd_ps(low, odd_low, tile[at + 2]);
        }
    }
}

/// `mma` of `KIND` with f32 accumulators; `KR` registers of B.
///
/// # Safety
/// The fragments are live registers; the processor has AVX-512 F.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[inline]
pub(crate) unsafe fn mma<const KIND: u8, const KR: usize>(f: &Fragments) {
    // SAFETY: the caller's promise.
    let mut tile = unsafe { load_tile(f.c) };
    for kr in 0..KR {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { ([load(f.a[2 * kr]), load(f.a[2 * kr + 1])], load(f.b[kr])) };
        step::<KIND, 0, 0x00>(&mut tile, a, b);
        step::<KIND, 1, 0x55>(&mut tile, a, b);
        step::<KIND, 2, 0xaa>(&mut tile, a, b);
        step::<KIND, 3, 0xff>(&mut tile, a, b);
    }
    // SAFETY: the caller's promise.
    unsafe { store_tile(f.d, tile) };
}

/// As [`step`], two elements at a time. `vdpbf16ps` adds the product of the upper elements first.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn step_dot<const J: i32, const SPREAD: i32>(
    tile: &mut Tile,
    a: [[__m512i; 2]; 2],
    b: [__m512i; 2],
) {
    let [evens, odds] = columns::<J>(b);
    let (evens, odds) = (halves(evens), halves(odds));
    for r in 0..2 {
        for h in 0..2 {
            let words = halves(_mm512_shuffle_epi32::<SPREAD>(a[r][h]));
            let at = 4 * r + h;
            tile[at] = _mm512_dpbf16_ps(tile[at], words, evens);
            tile[at + 2] = _mm512_dpbf16_ps(tile[at + 2], words, odds);
        }
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
fn halves(words: __m512i) -> __m512bh {
    // SAFETY: both are 64 bytes without structure.
    unsafe { std::mem::transmute(words) }
}

/// `mma` of bf16 by `vdpbf16ps` if C allows it, else by fused multiply-adds; returns whether it did
/// so. A and B must be clean ([`is_clean`]). C allows it if `known`, or if every lane is zero or at
/// least 2^-103 in magnitude: it is then a multiple of 2^-126, as the result is.
///
/// # Safety
/// The fragments are live registers; the processor has AVX-512-BF16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
#[inline]
pub(crate) unsafe fn mma_dot<const KR: usize>(f: &Fragments, known: bool) -> bool {
    // SAFETY: the caller's promise.
    let mut tile = unsafe { load_tile(f.c) };
    if !known {
        // Twice the bits drop the sign; less one, a zero becomes the largest number.
        let minus_one = _mm512_set1_epi32(-1);
        let mut least = minus_one;
        for i in 0..8 {
            let bits = _mm512_castps_si512(tile[i]);
            let magnitude = _mm512_add_epi32(bits, _mm512_add_epi32(bits, minus_one));
            least = _mm512_min_epu32(least, magnitude);
        }
        if _mm512_cmplt_epu32_mask(least, _mm512_set1_epi32((24 << 24) - 1)) != 0 {
            // SAFETY: the caller's promise.
            unsafe { mma::<BF16, KR>(f) };
            return false;
        }
    }
    for kr in 0..KR {
        // SAFETY: the caller's promise.
        let (a, b) = unsafe { ([load(f.a[2 * kr]), load(f.a[2 * kr + 1])], load(f.b[kr])) };
        step_dot::<0, 0x00>(&mut tile, a, b);
        step_dot::<1, 0x55>(&mut tile, a, b);
        step_dot::<2, 0xaa>(&mut tile, a, b);
        step_dot::<3, 0xff>(&mut tile, a, b);
    }
    // SAFETY: the caller's promise.
    unsafe { store_tile(f.d, tile) };
    true
}

/// Exponent from which an element of A is clean: 2^-63.
pub(crate) const CLEAN_A: u16 = 64;
/// Exponent from which an element of B is clean: 2^-49. A product of clean elements is zero or a
/// multiple of 2^-126.
pub(crate) const CLEAN_B: u16 = 78;

/// Whether every bf16 element of the registers is zero or has at least the exponent `LEAST`.
///
/// # Safety
/// The registers are live; the processor has AVX-512 BW.
#[target_feature(enable = "avx512f,avx512bw")]
#[inline]
pub(crate) unsafe fn is_clean<const LEAST: u16, const N: usize>(
    registers: [*const Reg; N],
) -> bool {
    if LEAST == CLEAN_A {
        // Exponents from 64 to 127 have a bit in common: what weights below 2 have.
        let mut common = _mm512_set1_epi16(1 << 13);
        for i in 0..N {
            // SAFETY: the caller's promise.
            let words = unsafe { load(registers[i]) };
            common = _mm512_ternarylogic_epi32::<0x80>(common, words[0], words[1]);
        }
        if _mm512_testn_epi16_mask(common, common) == 0 {
            return true;
        }
    }
    let minus_one = _mm512_set1_epi16(-1);
    let mut least = minus_one;
    for i in 0..N {
        // SAFETY: the caller's promise.
        let words = unsafe { load(registers[i]) };
        for h in 0..2 {
            // Twice the bits drop the sign; less one, a zero becomes the largest number.
            let magnitude = _mm512_add_epi16(words[h], _mm512_add_epi16(words[h], minus_one));
            least = _mm512_min_epu16(least, magnitude);
        }
    }
    _mm512_cmplt_epu16_mask(least, _mm512_set1_epi16(((LEAST << 8) - 1) as i16)) == 0
}

/// `cpasync::find_blocks` for the registers `a` and `b`.
///
/// # Safety
/// `a`, `b` and `b + 1` are live registers from `r`; the processor has AVX-512 F and VL.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
pub(crate) unsafe fn find_blocks(
    r: *const Reg,
    (a, b): (u16, u16),
    (to_offset, from_offset, shared_size): (u32, u64, u32),
    (to, from): (&mut [u32; 8], &mut [u64; 8]),
) -> bool {
    let steps = _mm512_set4_epi32(48, 32, 16, 0);
    let offset = _mm512_set1_epi32(to_offset as i32);
    // SAFETY: the caller's promise.
    let (to_words, low, high) = unsafe {
        let at = |i: u16| load(r.add(usize::from(i)));
        (at(a), at(b), at(b + 1))
    };
    let mut different = _mm512_setzero_si512();
    let mut places = to_words;
    for h in 0..2 {
        places[h] = _mm512_add_epi32(to_words[h], offset);
        let apart = _mm512_xor_si512(places[h], _mm512_shuffle_epi32::<0>(places[h]));
        let ahead = _mm512_sub_epi32(low[h], _mm512_shuffle_epi32::<0>(low[h]));
        let elsewhere = _mm512_xor_si512(high[h], _mm512_shuffle_epi32::<0>(high[h]));
        different = _mm512_or_si512(different, _mm512_xor_si512(apart, steps));
        different = _mm512_or_si512(different, _mm512_xor_si512(ahead, steps));
        different = _mm512_or_si512(different, elsewhere);
    }
    let firsts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 0, 0, 0, 0, 0, 0, 0);
    let pick =
        |v: [__m512i; 2]| _mm512_castsi512_si256(_mm512_permutex2var_epi32(v[0], firsts, v[1]));
    let (first_to, first_low, first_high) = (pick(places), pick(low), pick(high));
    let wide = _mm512_or_si512(
        _mm512_cvtepu32_epi64(first_low),
        _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(first_high)),
    );
    let offsets = _mm512_add_epi64(wide, _mm512_set1_epi64(from_offset as i64));
    // SAFETY: both arrays are as long as the vectors.
    unsafe {
        _mm256_storeu_si256(to.as_mut_ptr().cast(), first_to);
        _mm512_storeu_si512(from.as_mut_ptr().cast(), offsets);
    }
    let ends = _mm256_or_si256(first_to, _mm256_set1_epi32(63));
    let limit = _mm256_set1_epi32(shared_size as i32);
    let wrong = _mm256_cmpgt_epu32_mask(first_low, _mm256_set1_epi32(-49))
        | _mm256_cmpge_epu32_mask(ends, limit)
        | _mm256_test_epi32_mask(first_to, _mm256_set1_epi32(15))
        | _mm512_test_epi64_mask(offsets, _mm512_set1_epi64(15));
    _mm512_test_epi32_mask(different, different) == 0 && wrong == 0
}

/// Fills 64 bytes with 0xff.
///
/// # Safety
/// `to` leads to 64 bytes; the processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn fill(to: *mut u8) {
    // SAFETY: the caller's promise.
    unsafe { _mm512_storeu_si512(to.cast(), _mm512_set1_epi32(-1)) };
}

/// For `cpasync`: copies 64 bytes; those of 16-byte part `i` go to part `i ^ order`.
///
/// # Safety
/// Both pointers lead to 64 bytes; the processor has AVX-512 F.
#[target_feature(enable = "avx512f")]
#[inline]
pub(crate) unsafe fn copy_ordered(to: *mut u8, from: *const u8, order: usize) {
    static ORDERS: [[u64; 8]; 4] = [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [2, 3, 0, 1, 6, 7, 4, 5],
        [4, 5, 6, 7, 0, 1, 2, 3],
        [6, 7, 4, 5, 2, 3, 0, 1],
    ];
    // SAFETY: the caller's promise; an order has 64 bytes.
    unsafe {
        let places = _mm512_loadu_si512(ORDERS[order & 3].as_ptr().cast());
        let parts = _mm512_permutexvar_epi64(places, _mm512_loadu_si512(from.cast()));
        _mm512_storeu_si512(to.cast(), parts);
    }
}
