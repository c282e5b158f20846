//! The inner loops of a resize: weighted sums along rows and along columns, and interleaved bytes to
//! planes. Plain Rust, and AVX2 where the machine has it; both give the same bytes.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "calls of functions that need AVX2, after asking for it")
)]

use super::resize::FixedAxis;
use super::{Rgb8, Size};

/// Bytes of a pixel where vectors read it.
const PIXEL: usize = 4;
/// Rows that share their weights in the pass along rows.
const ROWS: usize = 4;

/// Gives the rows of a picture, `[w, 3]`, to whoever takes them.
pub(super) type Rows<'a> = dyn FnMut(&[u8]) + 'a;

/// The pass along rows, then the pass along columns, as far as there are weights for them. Rows come
/// out in order; between the passes only those are held that the next output needs.
pub(super) fn resize(
    picture: &Rgb8,
    columns: Option<&FixedAxis>,
    rows: Option<&FixedAxis>,
    emit: &mut Rows<'_>,
) {
    resize_at(Level::of_machine(), picture, columns, rows, emit);
}

/// The pass along columns alone, as a picture.
pub(super) fn down(picture: &Rgb8, axis: &FixedAxis) -> Rgb8 {
    let width = picture.size().width;
    let mut data = Vec::with_capacity(axis.spans.len() * width * 3);
    resize(picture, None, Some(axis), &mut |row| data.extend_from_slice(row));
    Rgb8 { size: Size { height: axis.spans.len(), width }, data }
}

/// Red, green and blue of a row `[width, 3]`, each to a row at least as long.
pub(super) fn split(row: &[u8], planes: [&mut [u8]; 3]) {
    match Level::of_machine() {
        Level::Plain => split_plain(row, planes),
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `of_machine` found AVX2.
        Level::Avx2 => unsafe { avx2::split(row, planes) },
    }
}

/// Which instructions there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Plain,
    #[cfg(target_arch = "x86_64")]
    Avx2,
}

impl Level {
    fn of_machine() -> Self {
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            return Self::Avx2;
        }
        Self::Plain
    }
}

/// Weights of a row, two at a time: the first pixel's three times, 0, the second's three times, 0.
struct Taps {
    precision: u32,
    /// First byte of a row of [`PIXEL`] bytes a pixel, and the pairs, of each output.
    spans: Vec<(usize, std::ops::Range<usize>)>,
    pairs: Vec<[i32; 8]>,
}

impl Taps {
    fn new(axis: &FixedAxis) -> Self {
        let mut pairs = Vec::new();
        let spans = axis.spans.iter().map(|(first, weights)| {
            let start = pairs.len();
            pairs.extend(weights.chunks(2).map(|pair| {
                let (first, second) = (pair[0], pair.get(1).copied().unwrap_or(0));
                [first, first, first, 0, second, second, second, 0]
            }));
            (first * PIXEL, start..pairs.len())
        });
        let spans = spans.collect();
        Self { precision: axis.precision, spans, pairs }
    }
}

fn resize_at(
    level: Level,
    picture: &Rgb8,
    columns: Option<&FixedAxis>,
    rows: Option<&FixedAxis>,
    emit: &mut Rows<'_>,
) {
    let Some(columns) = columns else {
        let inputs = picture.size().width * 3;
        let all: Vec<&[u8]> = picture.data().chunks_exact(inputs).collect();
        let Some(axis) = rows else { return all.into_iter().for_each(emit) };
        let mut to = vec![0; inputs];
        for (first, weights) in &axis.spans {
            down_row(level, &all[*first..][..weights.len()], weights, axis.precision, &mut to);
            emit(&to);
        }
        return;
    };
    let longest = rows.map_or(1, |axis| axis.spans.iter().map(|(_, w)| w.len()).max().unwrap_or(1));
    let mut ring = Ring::new(level, picture, columns, longest);
    let Some(axis) = rows else {
        (0..picture.size().height).for_each(|row| {
            ring.advance(row);
            emit(ring.row(row));
        });
        return;
    };
    let mut to = vec![0; columns.spans.len() * 3];
    for (first, weights) in &axis.spans {
        ring.advance(first + weights.len() - 1);
        let from: Vec<&[u8]> = (*first..first + weights.len()).map(|row| ring.row(row)).collect();
        down_row(level, &from, weights, axis.precision, &mut to);
        emit(&to);
    }
}

/// The last rows that came out of the pass along rows.
struct Ring<'a> {
    level: Level,
    picture: &'a Rgb8,
    axis: &'a FixedAxis,
    taps: Taps,
    /// [`ROWS`] rows of [`PIXEL`] bytes a pixel.
    wide: Vec<u8>,
    /// A multiple of [`ROWS`] rows, row r in slot r modulo their number.
    rows: Vec<u8>,
    slots: usize,
    /// Rows of the picture that are done.
    done: usize,
}

impl<'a> Ring<'a> {
    /// Keeps at least `longest` rows.
    fn new(level: Level, picture: &'a Rgb8, axis: &'a FixedAxis, longest: usize) -> Self {
        let slots = (longest + ROWS).next_multiple_of(ROWS);
        // An odd number of weights reads a pixel behind the last.
        let wide = vec![0; ROWS * (picture.size().width + 1) * PIXEL];
        let rows = vec![0; slots * axis.spans.len() * 3];
        Self { level, picture, axis, taps: Taps::new(axis), wide, rows, slots, done: 0 }
    }

    fn row(&self, row: usize) -> &[u8] {
        let length = self.axis.spans.len() * 3;
        &self.rows[row % self.slots * length..][..length]
    }

    /// Does rows until row `last` is done.
    fn advance(&mut self, last: usize) {
        let (inputs, outputs) = (self.picture.size().width * 3, self.axis.spans.len() * 3);
        while self.done <= last {
            let from = &self.picture.data()[self.done * inputs..];
            let from = &from[..from.len().min(ROWS * inputs)];
            let count = from.len() / inputs;
            let slot = self.done % self.slots;
            let to = &mut self.rows[slot * outputs..][..count * outputs];
            match self.level {
                Level::Plain => {
                    for (from, to) in from.chunks_exact(inputs).zip(to.chunks_exact_mut(outputs)) {
                        across_plain(from, self.axis, to);
                    }
                }
                #[cfg(target_arch = "x86_64")]
                Level::Avx2 => {
                    let wide = self.wide.chunks_exact_mut(inputs / 3 * PIXEL + PIXEL);
                    for (to, from) in wide.zip(from.chunks_exact(inputs)) {
                        let (to, from) = (to.as_chunks_mut::<PIXEL>().0, from.as_chunks::<3>().0);
                        for (to, [red, green, blue]) in to.iter_mut().zip(from) {
                            *to = [*red, *green, *blue, 0];
                        }
                    }
                    // SAFETY: `of_machine` found AVX2.
                    unsafe { avx2::across(&self.wide, &self.taps, to) };
                }
            }
            self.done += count;
        }
    }
}

fn across_plain(from: &[u8], axis: &FixedAxis, to: &mut [u8]) {
    let (pixels, _) = from.as_chunks::<3>();
    for ((first, weights), to) in axis.spans.iter().zip(to.as_chunks_mut::<3>().0) {
        let [mut red, mut green, mut blue] = [1_i32 << (axis.precision - 1); 3];
        for (pixel, weight) in pixels[*first..].iter().zip(weights) {
            red += i32::from(pixel[0]) * weight;
            green += i32::from(pixel[1]) * weight;
            blue += i32::from(pixel[2]) * weight;
        }
        *to = [red, green, blue].map(|sum| clamp(sum >> axis.precision));
    }
}

/// One row out of as many as there are weights.
fn down_row(level: Level, from: &[&[u8]], weights: &[i32], precision: u32, to: &mut [u8]) {
    match level {
        Level::Plain => down_plain(from, weights, precision, to, 0),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => {
            // SAFETY: `of_machine` found AVX2.
            let done = unsafe { avx2::down(from, weights, precision, to) };
            down_plain(from, weights, precision, to, done);
        }
    }
}

/// The same from byte `start` of the row on.
fn down_plain(from: &[&[u8]], weights: &[i32], precision: u32, to: &mut [u8], start: usize) {
    const BLOCK: usize = 64;
    for (block, to) in to[start..].chunks_mut(BLOCK).enumerate() {
        let mut sums = [1_i32 << (precision - 1); BLOCK];
        for (row, weight) in from.iter().zip(weights) {
            for (sum, value) in sums.iter_mut().zip(&row[start + block * BLOCK..]) {
                *sum += i32::from(*value) * weight;
            }
        }
        for (to, sum) in to.iter_mut().zip(sums) {
            *to = clamp(sum >> precision);
        }
    }
}

fn split_plain(row: &[u8], [red, green, blue]: [&mut [u8]; 3]) {
    let pixels = row.as_chunks::<3>().0.iter();
    let to = red.iter_mut().zip(green.iter_mut()).zip(blue.iter_mut());
    for (pixel, ((red, green), blue)) in pixels.zip(to) {
        [*red, *green, *blue] = *pixel;
    }
}

#[expect(clippy::cast_sign_loss, reason = "between 0 and 255 after the clamp")]
fn clamp(value: i32) -> u8 {
    value.clamp(0, 255) as u8
}

/// The same loops with 256-bit vectors. Sums are exact in both: 32-bit wholes in any order.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _mm_add_epi32, _mm_cvtsi32_si128, _mm_cvtsi64_si128, _mm_loadu_si128,
        _mm_or_si128, _mm_packs_epi32, _mm_packus_epi16, _mm_set1_epi32, _mm_shuffle_epi8,
        _mm_sra_epi32, _mm_storeu_si128, _mm256_add_epi32, _mm256_castsi256_si128,
        _mm256_cvtepu8_epi32, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_mullo_epi32,
        _mm256_packs_epi32, _mm256_packus_epi16, _mm256_permutevar8x32_epi32, _mm256_set1_epi32,
        _mm256_setr_epi32, _mm256_setzero_si256, _mm256_sra_epi32, _mm256_storeu_si256,
    };

    use super::{ROWS, Taps};

    /// [`ROWS`] rows of four bytes a pixel to as many rows of three as `to` holds. Loops over
    /// vectors are plain: a closure inside a generic function is not inlined here.
    #[target_feature(enable = "avx2")]
    pub(super) fn across(rows: &[u8], taps: &Taps, to: &mut [u8]) {
        let half = _mm_set1_epi32(1 << (taps.precision - 1));
        let shift = _mm_cvtsi32_si128(taps.precision.cast_signed());
        let (padded, outputs) = (rows.len() / ROWS, taps.spans.len() * 3);
        let (a, rest) = rows.split_at(padded);
        let (b, rest) = rest.split_at(padded);
        let (c, d) = rest.split_at(padded);
        for (output, (first, pairs)) in taps.spans.iter().enumerate() {
            let weights = &taps.pairs[pairs.clone()];
            let (count, end) = (weights.len(), first + weights.len() * 8);
            // Two pixels each; equal lengths, so that the loop below checks nothing.
            let a = &a[*first..end].as_chunks::<8>().0[..count];
            let b = &b[*first..end].as_chunks::<8>().0[..count];
            let c = &c[*first..end].as_chunks::<8>().0[..count];
            let d = &d[*first..end].as_chunks::<8>().0[..count];
            let mut sums = [_mm256_setzero_si256(); ROWS];
            for pair in 0..count {
                let weights = weights_of(&weights[pair]);
                sums[0] = add_product(sums[0], &a[pair], weights);
                sums[1] = add_product(sums[1], &b[pair], weights);
                sums[2] = add_product(sums[2], &c[pair], weights);
                sums[3] = add_product(sums[3], &d[pair], weights);
            }
            let mut halves = [half; ROWS];
            for row in 0..ROWS {
                let both = _mm_add_epi32(
                    _mm256_castsi256_si128(sums[row]),
                    _mm256_extracti128_si256::<1>(sums[row]),
                );
                halves[row] = _mm_sra_epi32(_mm_add_epi32(both, half), shift);
            }
            let words = _mm_packs_epi32(halves[0], halves[1]);
            let more = _mm_packs_epi32(halves[2], halves[3]);
            let mut found = [0; 16];
            store16(&mut found, _mm_packus_epi16(words, more));
            let (found, _) = found.as_chunks::<4>();
            for (row, to) in to.chunks_exact_mut(outputs).enumerate() {
                let to = &mut to[output * 3..][..3];
                to[0] = found[row][0];
                to[1] = found[row][1];
                to[2] = found[row][2];
            }
        }
    }

    /// Two pixels of four bytes by their weights.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn add_product(sum: __m256i, pixels: &[u8; 8], weights: __m256i) -> __m256i {
        let pixels = _mm_cvtsi64_si128(i64::from_le_bytes(*pixels));
        _mm256_add_epi32(sum, _mm256_mullo_epi32(_mm256_cvtepu8_epi32(pixels), weights))
    }

    /// Rows `from` to one row; gives the bytes that it did, a multiple of 32.
    #[target_feature(enable = "avx2")]
    pub(super) fn down(from: &[&[u8]], weights: &[i32], precision: u32, to: &mut [u8]) -> usize {
        let half = _mm256_set1_epi32(1 << (precision - 1));
        let shift = _mm_cvtsi32_si128(precision.cast_signed());
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let (blocks, _) = to.as_chunks_mut::<32>();
        for (block, to) in blocks.iter_mut().enumerate() {
            let mut sums = [half; 4];
            for (row, weight) in from.iter().zip(weights) {
                let weight = _mm256_set1_epi32(*weight);
                let Some(bytes) = row[block * 32..].first_chunk::<32>() else { break };
                let (parts, _) = bytes.as_chunks::<8>();
                for part in 0..4 {
                    let bytes = _mm_cvtsi64_si128(i64::from_le_bytes(parts[part]));
                    let product = _mm256_mullo_epi32(_mm256_cvtepu8_epi32(bytes), weight);
                    sums[part] = _mm256_add_epi32(sums[part], product);
                }
            }
            for sum in &mut sums {
                *sum = _mm256_sra_epi32(*sum, shift);
            }
            let [a, b, c, d] = sums;
            let bytes = _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
            store32(to, _mm256_permutevar8x32_epi32(bytes, order));
        }
        blocks.len() * 32
    }

    /// Sixteen pixels at a time: each plane gathers its bytes from three vectors.
    #[target_feature(enable = "avx2")]
    pub(super) fn split(row: &[u8], [red, green, blue]: [&mut [u8]; 3]) {
        let (blocks, rest) = row.as_chunks::<48>();
        let done = blocks.len() * 16;
        for (block, pixels) in blocks.iter().enumerate() {
            let (parts, _) = pixels.as_chunks::<16>();
            let (a, b, c) = (load16(&parts[0]), load16(&parts[1]), load16(&parts[2]));
            let planes = [&mut *red, &mut *green, &mut *blue];
            for (plane, orders) in planes.into_iter().zip(&ORDERS) {
                let a = _mm_shuffle_epi8(a, load16(&orders[0]));
                let b = _mm_shuffle_epi8(b, load16(&orders[1]));
                let c = _mm_shuffle_epi8(c, load16(&orders[2]));
                if let Some(to) = plane[block * 16..].first_chunk_mut::<16>() {
                    store16(to, _mm_or_si128(_mm_or_si128(a, b), c));
                }
            }
        }
        super::split_plain(rest, [&mut red[done..], &mut green[done..], &mut blue[done..]]);
    }

    /// For each plane and each of three vectors, the place of a byte in the plane's; 0x80 is none.
    const ORDERS: [[[u8; 16]; 3]; 3] = {
        let mut orders = [[[0x80; 16]; 3]; 3];
        let mut byte = 0_u8;
        while byte < 48 {
            let place = byte as usize;
            orders[place % 3][place / 16][place / 3] = byte % 16;
            byte += 1;
        }
        orders
    };

    #[target_feature(enable = "avx2")]
    #[inline]
    fn weights_of(pair: &[i32; 8]) -> __m256i {
        // SAFETY: 32 bytes behind a reference; the load needs no alignment.
        unsafe { _mm256_loadu_si256(pair.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load16(bytes: &[u8; 16]) -> __m128i {
        // SAFETY: 16 bytes behind a reference; the load needs no alignment.
        unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn store16(to: &mut [u8; 16], vector: __m128i) {
        // SAFETY: 16 bytes behind an exclusive reference; the store needs no alignment.
        unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), vector) };
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn store32(to: &mut [u8; 32], vector: __m256i) {
        // SAFETY: 32 bytes behind an exclusive reference; the store needs no alignment.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::Filter;
    use super::super::resize::Axis;
    use super::*;

    /// Bytes that look random.
    fn picture(height: usize, width: usize) -> Rgb8 {
        let mut state = (height * 65_537 + width) as u64;
        let mut byte = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        let data = (0..height * width * 3).map(|_| byte()).collect();
        Rgb8::new(Size { height, width }, data).unwrap()
    }

    fn bytes(
        level: Level,
        picture: &Rgb8,
        columns: Option<&FixedAxis>,
        rows: Option<&FixedAxis>,
    ) -> Vec<u8> {
        let mut data = Vec::new();
        resize_at(level, picture, columns, rows, &mut |row| data.extend_from_slice(row));
        data
    }

    #[test]
    fn vectors_give_the_bytes_of_the_plain_loops() {
        let level = Level::of_machine();
        println!("level: {level:?}");
        let sizes = [(1, 1), (1, 7), (7, 3), (31, 64), (64, 31), (100, 99), (5, 97), (97, 2)];
        let axes = |from, to| {
            let filters = [Filter::Bilinear, Filter::Bicubic, Filter::Lanczos, Filter::Box];
            let both = |filter| [14, 22].map(|bits| Axis::new(from, to, filter).fixed(bits));
            filters.into_iter().flat_map(both).collect::<Vec<_>>()
        };
        for (from, to) in sizes {
            for axis in axes(from, to) {
                for (height, width) in [(1, from), (3, from), (9, from)] {
                    let wide = picture(height, width);
                    let plain = bytes(Level::Plain, &wide, Some(&axis), None);
                    assert_eq!(bytes(level, &wide, Some(&axis), None), plain, "{from} to {to}");
                }
                for width in [1, 10, 11, 21, 40] {
                    let tall = picture(from, width);
                    let plain = bytes(Level::Plain, &tall, None, Some(&axis));
                    assert_eq!(bytes(level, &tall, None, Some(&axis)), plain, "{from} to {to}");
                }
            }
        }
    }

    #[test]
    fn both_passes_in_one_are_one_after_the_other() {
        for ((height, rows), (width, columns)) in
            [((40, 17), (33, 50)), ((3, 90), (90, 3)), ((64, 5), (5, 64)), ((1, 9), (9, 1))]
        {
            let picture = picture(height, width);
            let columns = Axis::new(width, columns, Filter::Lanczos).fixed(22);
            let rows = Axis::new(height, rows, Filter::Lanczos).fixed(22);
            for level in [Level::Plain, Level::of_machine()] {
                let data = bytes(level, &picture, Some(&columns), None);
                let size = Size { height, width: columns.spans.len() };
                let wide = Rgb8::new(size, data).unwrap();
                let apart = bytes(level, &wide, None, Some(&rows));
                assert_eq!(bytes(level, &picture, Some(&columns), Some(&rows)), apart, "{level:?}");
            }
        }
    }

    #[test]
    fn planes_hold_every_byte_of_a_row() {
        for width in [1, 15, 16, 17, 47, 48, 100] {
            let row = picture(1, width);
            let mut planes = [vec![9; width + 3], vec![9; width + 3], vec![9; width + 3]];
            split(row.data(), planes.each_mut().map(Vec::as_mut_slice));
            for (c, plane) in planes.iter().enumerate() {
                let want: Vec<u8> = row.data().iter().skip(c).step_by(3).copied().collect();
                assert_eq!((&plane[..width], &plane[width..]), (&want[..], &[9; 3][..]), "{width}");
            }
        }
    }
}
