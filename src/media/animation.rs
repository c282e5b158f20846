//! Animated GIF, WebP and PNG as videos: counted by their headers, decoded one frame at a time.
//!
//! Frames are what a viewer shows: each laid over the one before as its file says. Where a GIF
//! shows nothing its first frame stands, or, if that is cleared, its transparent colour, as in Pillow.
//! Pixels of a PNG that are partly
//! transparent are blended as the standard says, which Pillow does not.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::io::Cursor;

use image::codecs::{gif as gif_codec, png};
use image::{AnimationDecoder, ImageDecoder};

use super::decode::{allowed, failed};
use super::{Format, Limits, MediaError, Rgb8, Size, decode, gif, webp};

/// What the headers of an animation say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Animation {
    /// Whole frames.
    pub(super) frames: usize,
    /// Of the screen that frames are painted on.
    pub(super) size: Size,
    /// Frames divided by the seconds that they are shown; none where no frame has a time.
    pub(super) fps: Option<f64>,
}

/// Counts frames; none for a picture that is no animation, or one of another format.
pub(super) fn scan(bytes: &[u8], limits: &Limits) -> Result<Option<Animation>, MediaError> {
    let counted = match Format::of(bytes) {
        Some(Format::Gif) => gif_frames(bytes),
        Some(Format::WebP) => webp_frames(bytes),
        Some(Format::Png) => png_frames(bytes),
        _ => None,
    };
    let Some(Counted { frames, seconds, size }) = counted else { return Ok(None) };
    limits.check_size(size)?;
    limits.check_frames_read(frames)?;
    let fps = (seconds > 0.0).then(|| frames as f64 / seconds);
    Ok(Some(Animation { frames, size, fps }))
}

/// Hands the frames at `indices`, which ascend, to `each`, with their places in `indices`.
pub(super) fn read(
    bytes: &[u8],
    limits: &Limits,
    indices: &[usize],
    each: &mut dyn FnMut(Rgb8) -> Result<(), MediaError>,
) -> Result<(), MediaError> {
    let Some(format) = Format::of(bytes) else { return Ok(()) };
    let blank = match format {
        Format::WebP => return webp::read(bytes, limits, indices, each),
        Format::Gif => match gif::Backdrop::of(bytes) {
            Some(backdrop) if backdrop.cleared => Blank::Color(backdrop.color),
            // The first frame stays under those that show nothing.
            _ => Blank::Under(decode(bytes, limits)?),
        },
        _ => Blank::Itself,
    };
    let mut wanted = indices.iter().copied().peekable();
    for (index, frame) in frames(bytes, format, limits)?.enumerate() {
        let Some(next) = wanted.peek() else { return Ok(()) };
        let frame = frame.map_err(|error| failed(format, error))?;
        if index != *next {
            continue;
        }
        let picture = frame.into_buffer();
        let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
        let size = Size { height: side(picture.height()), width: side(picture.width()) };
        let picture = Rgb8::new(size, opaque(picture.as_raw(), &blank))?;
        while wanted.next_if_eq(&index).is_some() {
            each(picture.clone())?;
        }
    }
    match wanted.next() {
        Some(missing) => Err(MediaError::FrameMissing { frame: missing }),
        None => Ok(()),
    }
}

/// What stands where a frame shows nothing.
enum Blank {
    /// The colour that its bytes have.
    Itself,
    Color([u8; 3]),
    Under(Rgb8),
}

/// RGBA to RGB: alpha is dropped; where it is 0, `blank` stands.
fn opaque(rgba: &[u8], blank: &Blank) -> Vec<u8> {
    let pixels = rgba.as_chunks::<4>().0.iter();
    let shown = |pixel: &[u8; 4], blank: [u8; 3]| match *pixel {
        [_, _, _, 0] => blank,
        [red, green, blue, _] => [red, green, blue],
    };
    match blank {
        Blank::Itself => pixels.flat_map(|&[red, green, blue, _]| [red, green, blue]).collect(),
        Blank::Color(color) => pixels.flat_map(|pixel| shown(pixel, *color)).collect(),
        Blank::Under(first) => {
            let under = first.data().as_chunks::<3>().0.iter();
            pixels.zip(under).flat_map(|(pixel, under)| shown(pixel, *under)).collect()
        }
    }
}

fn frames<'a>(
    bytes: &'a [u8],
    format: Format,
    limits: &Limits,
) -> Result<image::Frames<'a>, MediaError> {
    let failed = |error| failed(format, error);
    // The canvas, the canvas before, and the frame, at 4 bytes a pixel.
    let memory = allowed(limits.pixels.saturating_mul(16));
    Ok(match format {
        Format::Gif => {
            let mut decoder =
                gif_codec::GifDecoder::new(Cursor::new(gif::widened(bytes))).map_err(failed)?;
            decoder.set_limits(memory).map_err(failed)?;
            decoder.into_frames()
        }
        _ => {
            let decoder = png::PngDecoder::with_limits(Cursor::new(bytes), memory);
            decoder.and_then(png::PngDecoder::apng).map_err(failed)?.into_frames()
        }
    })
}

/// What a walk over the headers counts.
struct Counted {
    frames: usize,
    seconds: f64,
    size: Size,
}

fn gif_frames(bytes: &[u8]) -> Option<Counted> {
    let widened = gif::widened(bytes);
    let sides = widened.get(6..10)?.first_chunk::<4>()?;
    let [w, w1, h, h1] = *sides;
    let size = Size {
        height: u16::from_le_bytes([h, h1]).into(),
        width: u16::from_le_bytes([w, w1]).into(),
    };
    let (frames, centiseconds) = gif::count(bytes)?;
    Some(Counted { frames, seconds: centiseconds as f64 / 100.0, size })
}

fn webp_frames(bytes: &[u8]) -> Option<Counted> {
    const ANIMATED: u8 = 2; // bit of VP8X
    let word = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    let (mut frames, mut milliseconds, mut size) = (0_usize, 0_u64, None);
    for (kind, content) in super::decode::riff_chunks(bytes) {
        match kind {
            b"VP8X" => {
                let &[flags, _, _, _, w, w1, w2, h, h1, h2, ..] = content else { return None };
                if flags & ANIMATED == 0 {
                    return None;
                }
                let side = |low: u32| usize::try_from(low).ok()?.checked_add(1);
                let (height, width) = (side(word([h, h1, h2]))?, side(word([w, w1, w2]))?);
                size = Some(Size { height, width });
            }
            b"ANMF" => {
                let duration = content.get(12..)?.first_chunk::<3>()?;
                frames = frames.checked_add(1)?;
                milliseconds = milliseconds.checked_add(word(*duration).into())?;
            }
            _ => {}
        }
    }
    let seconds = milliseconds as f64 / 1000.0;
    size.filter(|_| frames > 0).map(|size| Counted { frames, seconds, size })
}

fn png_frames(bytes: &[u8]) -> Option<Counted> {
    let mut rest = bytes.get(8..)?;
    let (mut declared, mut frames, mut seconds, mut size) = (None, 0_usize, 0.0_f64, None);
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (kind, after) = after.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
        let Some(content) = after.get(..length) else { break };
        match kind {
            b"IHDR" => {
                let (sides, _) = content.as_chunks::<4>();
                let &[width, height, ..] = sides else { return None };
                let side = |bytes| usize::try_from(u32::from_be_bytes(bytes)).ok();
                size = Some(Size { height: side(height)?, width: side(width)? });
            }
            b"acTL" => {
                let count = u32::from_be_bytes(*content.first_chunk::<4>()?);
                declared = Some(usize::try_from(count).ok()?);
            }
            // An animation is declared before the picture.
            b"IDAT" if declared.is_none() => return None,
            b"fcTL" => {
                let &[a, b, c, d, ..] = content.get(20..)? else { return None };
                let (numerator, denominator) =
                    (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                // The standard reads 0 as 100.
                let denominator = if denominator == 0 { 100 } else { denominator };
                seconds += f64::from(numerator) / f64::from(denominator);
                frames = frames.checked_add(1)?;
            }
            _ => {}
        }
        rest = after.get(length.checked_add(4)?..).unwrap_or_default(); // and the checksum
    }
    let frames = frames.min(declared?);
    size.filter(|_| frames > 0).map(|size| Counted { frames, seconds, size })
}
