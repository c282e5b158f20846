//! AVX2 with FMA and F16C.
//!
//! A warp register is four vectors of eight lanes, two rows of an `mma` fragment each. Loops run
//! over indices: see `super::avx512`.
#![expect(clippy::needless_range_loop, reason = "see above")]

use std::arch::x86_64::*;

use super::mma::{BF16, F16, Fragments, TF32};
use super::round::NAN32;
use crate::exec::op::Reg;

/// See [`super::top_bits`].
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn top_bits(lanes: &[u32; 32]) -> u32 {
    let mut bits = 0;
    for (i, part) in lanes.as_chunks::<8>().0.iter().enumerate() {
        // SAFETY: `part` holds 32 bytes.
        let eight = unsafe { _mm256_loadu_ps(part.as_ptr().cast()) };
        bits |= (_mm256_movemask_ps(eight) as u32) << (8 * i);
    }
    bits
}

/// The f32 values of the lower 16 bits of each word, as f16.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn widen_f16(words: __m256i) -> __m256 {
    // The lower halves of each group move to its first eight bytes, then the groups together.
    let gather = _mm256_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, 0, 1, 4, 5, 8, 9, 12, 13, -1, -1,
        -1, -1, -1, -1, -1, -1,
    );
    let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_shuffle_epi8(words, gather));
    _mm256_cvtph_ps(_mm256_castsi256_si128(packed))
}

/// The f32 values of the lower element of each word (`tf32`: of the word).
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn even<const KIND: u8>(words: __m256i) -> __m256 {
    match KIND {
        BF16 => _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words)),
        F16 => widen_f16(words),
        _ => _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(!0x1fff))),
    }
}

/// The f32 values of the upper element of each word.
#[target_feature(enable = "avx2,f16c")]
#[inline]
fn odd<const KIND: u8>(words: __m256i) -> __m256 {
    match KIND {
        F16 => widen_f16(_mm256_srli_epi32::<16>(words)),
        _ => _mm256_castsi256_ps(_mm256_and_si256(words, _mm256_set1_epi32(!0xffff))),
    }
}

/// B decoded: for each k word and column parity, columns of that parity for the four lanes of a
/// group, lower and upper elements.
type Columns = [[[__m256; 2]; 2]; 8];

/// # Safety
/// The fragments are live registers.
#[target_feature(enable = "avx2,f16c")]
#[inline]
unsafe fn columns<const KIND: u8, const KR: usize>(b: [*const Reg; 2]) -> Columns {
    let mut decoded = [[[_mm256_setzero_ps(); 2]; 2]; 8];
    for kr in 0..KR {
        // Vector i of a register holds columns 2i and 2i + 1, four k words each: a transposition
        // inside the halves gathers the columns of one parity in each half.
        // SAFETY: a register is four aligned vectors.
        let column = |i: usize| unsafe { _mm256_load_si256(b[kr].cast::<__m256i>().add(i)) };
        let (c0, c1, c2, c3) = (column(0), column(1), column(2), column(3));
        let (low, high) = (_mm256_unpacklo_epi32(c0, c1), _mm256_unpackhi_epi32(c0, c1));
        let (low2, high2) = (_mm256_unpacklo_epi32(c2, c3), _mm256_unpackhi_epi32(c2, c3));
        let words = [
            _mm256_unpacklo_epi64(low, low2),
            _mm256_unpackhi_epi64(low, low2),
            _mm256_unpacklo_epi64(high, high2),
            _mm256_unpackhi_epi64(high, high2),
        ];
        for j in 0..4 {
            let parities = [
                _mm256_permute2x128_si256::<0x00>(words[j], words[j]),
                _mm256_permute2x128_si256::<0x11>(words[j], words[j]),
            ];
            for parity in 0..2 {
                let words = parities[parity];
                let high = if KIND == TF32 { _mm256_setzero_ps() } else { odd::<KIND>(words) };
                decoded[4 * kr + j][parity] = [even::<KIND>(words), high];
            }
        }
    }
    decoded
}

/// One k word for the rows of register pair `r`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn step<const KIND: u8, const SPREAD: i32>(
    tile: &mut [__m256; 8],
    a: [__m256i; 4],
    b: &[[__m256; 2]; 2],
) {
    for h in 0..4 {
        let words = _mm256_shuffle_epi32::<SPREAD>(a[h]);
        if KIND != TF32 {
            let high = odd::<KIND>(words);
            tile[h] = _mm256_fmadd_ps(high, b[0][1], tile[h]);
            tile[4 + h] = _mm256_fmadd_ps(high, b[1][1], tile[4 + h]);
        }
        let low = even::<KIND>(words);
        tile[h] = _mm256_fmadd_ps(low, b[0][0], tile[h]);
        tile[4 + h] = _mm256_fmadd_ps(low, b[1][0], tile[4 + h]);
    }
}

/// `mma` of `KIND` with f32 accumulators; `KR` registers of B.
///
/// # Safety
/// The fragments are live registers; the processor has AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c,bmi1,bmi2")]
#[inline]
pub(crate) unsafe fn mma<const KIND: u8, const KR: usize>(f: &Fragments) {
    // SAFETY: the caller's promise.
    let b = unsafe { columns::<KIND, KR>(f.b) };
    // A destination may be a register of A or C: nothing is stored before the last load.
    let mut tiles = [[_mm256_setzero_ps(); 8]; 2];
    for r in 0..2 {
        let tile = &mut tiles[r];
        for i in 0..8 {
            let register = f.c[2 * r + i / 4].cast::<f32>();
            // SAFETY: a register is four aligned vectors.
            tile[i] = unsafe { _mm256_load_ps(register.add(8 * (i % 4))) };
        }
        for kr in 0..KR {
            let mut a = [_mm256_castps_si256(_mm256_setzero_ps()); 4];
            for h in 0..4 {
                // SAFETY: a register is four aligned vectors.
                a[h] = unsafe { _mm256_load_si256(f.a[2 * kr + r].cast::<__m256i>().add(h)) };
            }
            step::<KIND, 0x00>(tile, a, &b[4 * kr]);
            step::<KIND, 0x55>(tile, a, &b[4 * kr + 1]);
            step::<KIND, 0xaa>(tile, a, &b[4 * kr + 2]);
            step::<KIND, 0xff>(tile, a, &b[4 * kr + 3]);
        }
    }
    let nan = _mm256_castsi256_ps(_mm256_set1_epi32(NAN32 as i32));
    for r in 0..2 {
        for i in 0..8 {
            let value = tiles[r][i];
            let unordered = _mm256_cmp_ps::<_CMP_UNORD_Q>(value, value);
            let value = _mm256_blendv_ps(value, nan, unordered);
            let register = f.d[2 * r + i / 4].cast::<f32>();
            // SAFETY: a register is four aligned vectors.
            unsafe { _mm256_store_ps(register.add(8 * (i % 4)), value) };
        }
    }
}

/// Four words of each of 32 lanes, 16 bytes a lane, to a register for each word.
///
/// # Safety
/// 512 bytes are readable, the registers live; the processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn spread_fours(from: *const u8, to: [*mut __m256i; 4]) {
    for eight in 0..4 {
        // SAFETY: the caller's promise.
        let lane = |l: usize| unsafe {
            let at = from.add(128 * eight + 16 * l).cast::<__m128i>();
            _mm256_loadu2_m128i(at.add(4), at)
        };
        let words = transpose([lane(0), lane(1), lane(2), lane(3)]);
        for k in 0..4 {
            // SAFETY: the caller's promise: a register is four vectors.
            unsafe { _mm256_storeu_si256(to[k].add(eight), words[k]) };
        }
    }
}

/// The inverse of [`spread_fours`].
///
/// # Safety
/// As there, with 512 bytes that are writable.
#[target_feature(enable = "avx2")]
#[inline]
pub(crate) unsafe fn collect_fours(to: *mut u8, from: [*const __m256i; 4]) {
    for eight in 0..4 {
        // SAFETY: the caller's promise: a register is four vectors.
        let word = |k: usize| unsafe { _mm256_loadu_si256(from[k].add(eight)) };
        let lanes = transpose([word(0), word(1), word(2), word(3)]);
        for l in 0..4 {
            // SAFETY: the caller's promise.
            unsafe {
                let at = to.add(128 * eight + 16 * l).cast::<__m128i>();
                _mm256_storeu2_m128i(at.add(4), at, lanes[l]);
            }
        }
    }
}

/// The transpose of 4×4 words in both halves.
#[target_feature(enable = "avx2")]
#[inline]
fn transpose(v: [__m256i; 4]) -> [__m256i; 4] {
    let (a, b) = (_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    let (c, d) = (_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    [
        _mm256_unpacklo_epi64(a, c),
        _mm256_unpackhi_epi64(a, c),
        _mm256_unpacklo_epi64(b, d),
        _mm256_unpackhi_epi64(b, d),
    ]
}
