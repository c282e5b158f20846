//! Animated WebP: each frame decoded as a picture of its own and laid over the ones before, in
//! libwebp's arithmetic. (The animation of the `image-webp` crate clears in the wrong places.)
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::Cursor;

use image::codecs::webp::WebPDecoder;
use image::{ColorType, ImageDecoder};

use super::decode::{allowed, failed, riff_chunks};
use super::{Format, Limits, MediaError, Rgb8, Size};

/// Header of a frame: its place, its size, its time, two flags.
struct Frame<'a> {
    left: usize,
    top: usize,
    size: Size,
    /// Laid over what is there; else it replaces it.
    blended: bool,
    /// Its place is cleared after it was shown.
    cleared: bool,
    /// Chunks of its picture.
    chunks: &'a [u8],
}

/// Hands the frames at `indices`, which ascend, to `each`.
pub(super) fn read(
    bytes: &[u8],
    limits: &Limits,
    indices: &[usize],
    each: &mut dyn FnMut(Rgb8) -> Result<(), MediaError>,
) -> Result<(), MediaError> {
    let canvas = riff_chunks(bytes).find(|(kind, _)| *kind == b"VP8X");
    let canvas = canvas.and_then(|(_, content)| canvas_size(content));
    let size = canvas.ok_or_else(|| broken("no size of its canvas"))?;
    limits.check_size(size)?;
    let pixels = size.pixels().ok_or(MediaError::Empty { size })?;
    let mut canvas = vec![[0_u8; 4]; pixels];
    let mut wanted = indices.iter().copied().peekable();
    let mut clear: Option<Frame<'_>> = None;
    let frames = riff_chunks(bytes).filter(|(kind, _)| *kind == b"ANMF");
    for (index, (_, content)) in frames.enumerate() {
        let Some(next) = wanted.peek().copied() else { return Ok(()) };
        let frame = header(content).ok_or_else(|| broken("a frame without a header"))?;
        let right = frame.left.checked_add(frame.size.width);
        let bottom = frame.top.checked_add(frame.size.height);
        if right.is_none_or(|right| right > size.width)
            || bottom.is_none_or(|bottom| bottom > size.height)
        {
            return Err(broken("a frame outside of the canvas"));
        }
        let picture = rgba(&frame, limits)?;
        if let Some(gone) = clear.take() {
            let blank = vec![[0; 4]; gone.size.pixels().unwrap_or(0)];
            paint(&mut canvas, size.width, &Frame { blended: false, ..gone }, &blank);
        }
        paint(&mut canvas, size.width, &frame, &picture);
        clear = frame.cleared.then_some(frame);
        if index == next {
            let rgb = canvas.iter().flat_map(|&[red, green, blue, _]| [red, green, blue]);
            let shown = Rgb8::new(size, rgb.collect())?;
            while wanted.next_if_eq(&index).is_some() {
                each(shown.clone())?;
            }
        }
    }
    match wanted.next() {
        Some(missing) => Err(MediaError::FrameMissing { frame: missing }),
        None => Ok(()),
    }
}

fn canvas_size(content: &[u8]) -> Option<Size> {
    let &[w, w1, w2, h, h1, h2] = content.get(4..10)?.first_chunk::<6>()?;
    Some(Size {
        height: whole([h, h1, h2])?.checked_add(1)?,
        width: whole([w, w1, w2])?.checked_add(1)?,
    })
}

fn whole([low, middle, high]: [u8; 3]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes([low, middle, high, 0])).ok()
}

fn header(content: &[u8]) -> Option<Frame<'_>> {
    const REPLACES: u8 = 2;
    const CLEARED: u8 = 1;
    let (header, chunks) = content.split_first_chunk::<16>()?;
    let &[x, x1, x2, y, y1, y2, w, w1, w2, h, h1, h2, _, _, _, flags] = header;
    Some(Frame {
        left: whole([x, x1, x2])?.checked_mul(2)?,
        top: whole([y, y1, y2])?.checked_mul(2)?,
        size: Size {
            height: whole([h, h1, h2])?.checked_add(1)?,
            width: whole([w, w1, w2])?.checked_add(1)?,
        },
        blended: flags & REPLACES == 0,
        cleared: flags & CLEARED != 0,
        chunks,
    })
}

/// The picture of a frame, as if its chunks were a file.
fn rgba(frame: &Frame<'_>, limits: &Limits) -> Result<Vec<[u8; 4]>, MediaError> {
    let error = |error| failed(Format::WebP, error);
    let mut content = b"WEBP".to_vec();
    if frame.chunks.starts_with(b"ALPH") {
        const ALPHA: u8 = 0x10;
        let side = |side: usize| {
            let bytes = u32::try_from(side.saturating_sub(1)).unwrap_or(u32::MAX).to_le_bytes();
            [bytes[0], bytes[1], bytes[2]]
        };
        content.extend_from_slice(b"VP8X\x0a\0\0\0");
        content.extend_from_slice(&[ALPHA, 0, 0, 0]);
        content.extend_from_slice(&side(frame.size.width));
        content.extend_from_slice(&side(frame.size.height));
    }
    content.extend_from_slice(frame.chunks);
    let length = u32::try_from(content.len()).map_err(|_long| broken("a frame of 4 GiB"))?;
    let file = [&b"RIFF"[..], &length.to_le_bytes(), &content].concat();
    let mut decoder = WebPDecoder::new(Cursor::new(file)).map_err(error)?;
    let (width, height) = decoder.dimensions();
    let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
    if (Size { height: side(height), width: side(width) }) != frame.size {
        return Err(broken("a frame of another size than its header says"));
    }
    decoder.set_limits(allowed(limits.pixels.saturating_mul(16))).map_err(error)?;
    let color = decoder.color_type();
    let mut data = vec![0; usize::try_from(decoder.total_bytes()).unwrap_or(usize::MAX)];
    decoder.read_image(&mut data).map_err(error)?;
    Ok(match color {
        ColorType::Rgba8 => data.as_chunks::<4>().0.to_vec(),
        _ => {
            let pixels = data.as_chunks::<3>().0.iter();
            pixels.map(|&[red, green, blue]| [red, green, blue, u8::MAX]).collect()
        }
    })
}

/// Lays a picture on the canvas; it is inside.
fn paint(canvas: &mut [[u8; 4]], width: usize, frame: &Frame<'_>, picture: &[[u8; 4]]) {
    let rows = canvas.chunks_exact_mut(width).skip(frame.top).take(frame.size.height);
    for (row, from) in rows.zip(picture.chunks_exact(frame.size.width)) {
        for (to, from) in row.iter_mut().skip(frame.left).zip(from) {
            *to = if frame.blended { over(*from, *to) } else { *from };
        }
    }
}

/// libwebp's blend of colours that are not multiplied by their alpha.
fn over(from: [u8; 4], to: [u8; 4]) -> [u8; 4] {
    let [from_alpha, to_alpha] = [from[3], to[3]].map(u32::from);
    match from_alpha {
        0 => return to,
        255 => return from,
        _ => {}
    }
    // Each product is below 2^16, each sum below 2^17.
    let kept = to_alpha.wrapping_mul(256_u32.wrapping_sub(from_alpha)) >> 8;
    let alpha = from_alpha.wrapping_add(kept);
    let scale = (1_u32 << 24).checked_div(alpha).unwrap_or(0);
    let channel = |from: u8, to: u8| {
        let sum = u32::from(from).wrapping_mul(from_alpha);
        let sum = sum.wrapping_add(u32::from(to).wrapping_mul(kept));
        let value = u64::from(sum).wrapping_mul(scale.into()) >> 24;
        u8::try_from(value).unwrap_or(u8::MAX)
    };
    let [red, green, blue, _] = from;
    let [to_red, to_green, to_blue, _] = to;
    let alpha = u8::try_from(alpha).unwrap_or(u8::MAX);
    [channel(red, to_red), channel(green, to_green), channel(blue, to_blue), alpha]
}

fn broken(what: &'static str) -> MediaError {
    MediaError::Decode { format: Format::WebP, source: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blend_is_between_its_colours() {
        let under = [10, 20, 30, 255];
        assert_eq!(over([200, 100, 0, 0], under), under, "nothing is laid over it");
        assert_eq!(over([200, 100, 0, 255], under), [200, 100, 0, 255], "all of it");
        let half = over([200, 100, 0, 128], under);
        assert!(half[0] > 100 && half[0] < 110 && half[3] == 255, "{half:?}");
        assert_eq!(over([200, 100, 0, 128], [0; 4])[3], 128);
    }
}
