//! Encoded bytes to RGB8, as Pillow's `convert("RGB")` gives it (docs/spec.md, section 3.2).
//!
//! The kind is decided by content, never by name. Declared sizes are checked before a pixel is
//! allocated. EXIF orientation is applied and alpha dropped unless [`Decoding`] says otherwise.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::borrow::Cow;
use std::fmt;
use std::io::Cursor;

use image::codecs::{bmp, gif, png, pnm, webp};
use image::metadata::Orientation;
use image::{ColorType, ImageDecoder};

use super::gif::{Backdrop, widened};
#[cfg(feature = "jpeg-turbo")]
use super::jpeg::Jpeg;
use super::{Limits, MediaError, Rgb8, Size};

/// Bytes that a PNG may make its decoder take beside the picture: text, colour profiles, one row.
const ANCILLARY: u64 = 64 << 20;

/// A picture format, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Baseline and progressive, gray, YCbCr, RGB, CMYK, YCCK.
    Jpeg,
    /// All kinds; of an APNG the default picture.
    Png,
    /// Lossy and lossless; of an animation the first frame.
    WebP,
    /// The first frame.
    Gif,
    /// Windows bitmaps.
    Bmp,
    /// Portable bitmaps, graymaps and pixmaps of 8 bits.
    Pnm,
    /// Known, not built.
    Tiff,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Gif => "GIF",
            Self::Bmp => "BMP",
            Self::Pnm => "PNM",
            Self::Tiff => "TIFF",
        })
    }
}

impl Format {
    /// The format of `bytes`, none for an unknown one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        Some(match bytes {
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            [b'P', b'1'..=b'7', b' ' | b'\t' | b'\r' | b'\n' | b'#', ..] => Self::Pnm,
            [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Self::Tiff,
            _ => return None,
        })
    }
}

/// What EXIF orientation means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exif {
    /// The picture is turned, as the reference does.
    #[default]
    Apply,
    /// Nothing, as in qwen-vl-utils.
    Ignore,
}

/// What becomes of transparency.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Alpha {
    /// Dropped: the colour stands as it is, as in the reference.
    #[default]
    Drop,
    /// The picture is laid on white, as qwen-vl-utils does. A GIF has no alpha of its own.
    White,
}

/// How encoded bytes become RGB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// Orientation.
    pub exif: Exif,
    /// Transparency.
    pub alpha: Alpha,
}

impl Decoding {
    /// Reads a picture's header; no pixel is decoded.
    ///
    /// # Errors
    /// [`MediaError::UnknownFormat`], [`MediaError::UnsupportedFormat`], [`MediaError::Limit`],
    /// [`MediaError::Empty`], and [`MediaError::Decode`] for a broken header.
    pub fn open<'a>(self, bytes: &'a [u8], limits: &Limits) -> Result<Picture<'a>, MediaError> {
        let opened = Opened::new(bytes, limits)?;
        Ok(Picture { bytes, opened, decoding: self })
    }
}

/// A picture whose header is read and within the limits.
pub struct Picture<'a> {
    bytes: &'a [u8],
    opened: Opened<'a>,
    decoding: Decoding,
}

impl std::fmt::Debug for Picture<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Picture").field("format", &self.opened.format).finish_non_exhaustive()
    }
}

impl Picture<'_> {
    /// Height and width, turned as the orientation says where that counts.
    pub fn size(&self) -> Size {
        let Size { height, width } = self.opened.size;
        if swaps(self.turn()) { Size { height: width, width: height } } else { self.opened.size }
    }

    /// Whether the orientation turns or mirrors the picture.
    pub fn is_turned(&self) -> bool {
        self.turn() != Orientation::NoTransforms
    }

    /// Whether it has transparency.
    pub fn has_alpha(&self) -> bool {
        match &self.opened.decoder {
            #[cfg(feature = "jpeg-turbo")]
            Decoder::Jpeg(_) => false,
            // The decoder gives each GIF alpha.
            Decoder::Image(_) if self.opened.format == Format::Gif => false,
            Decoder::Image(decoder) => decoder.color_type().has_alpha(),
        }
    }

    /// Decodes the pixels.
    ///
    /// # Errors
    /// [`MediaError::Decode`] for a truncated or corrupt file, [`MediaError::UnsupportedFormat`] for
    /// a form that is not built.
    pub fn rgb(self) -> Result<Rgb8, MediaError> {
        let (turn, has_alpha) = (self.turn(), self.has_alpha());
        let alpha = if has_alpha { self.decoding.alpha } else { Alpha::Drop };
        let Opened { format, size, decoder, .. } = self.opened;
        let data = match decoder {
            #[cfg(feature = "jpeg-turbo")]
            Decoder::Jpeg(jpeg) => jpeg.rgb()?,
            Decoder::Image(decoder) => {
                let color = decoder.color_type();
                let total = usize::try_from(decoder.total_bytes())
                    .map_err(|source| MediaError::Decode { format, source: Box::new(source) })?;
                let mut data = vec![0; total];
                decoder.read_image_boxed(&mut data).map_err(|error| failed(format, error))?;
                let mut rgb = to_rgb(format, color, gray_16(format, self.bytes), &data)?;
                if alpha == Alpha::White {
                    on_white(&mut rgb, color, &data);
                }
                if format == Format::Gif
                    && let Some(backdrop) = Backdrop::of(self.bytes)
                {
                    backdrop.fill(size.width, &mut rgb);
                }
                rgb
            }
        };
        Ok(turned(Rgb8::new(size, data)?, turn))
    }

    fn turn(&self) -> Orientation {
        match self.decoding.exif {
            Exif::Apply => self.opened.turn,
            Exif::Ignore => Orientation::NoTransforms,
        }
    }
}

/// Height and width that [`decode`] would give; no pixel is decoded.
///
/// # Errors
/// Those of [`Decoding::open`].
pub fn probe(bytes: &[u8], limits: &Limits) -> Result<Size, MediaError> {
    Ok(Decoding::default().open(bytes, limits)?.size())
}

/// The picture as RGB8, turned as its EXIF says.
///
/// # Errors
/// Those of [`Decoding::open`] and [`Picture::rgb`].
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Rgb8, MediaError> {
    Decoding::default().open(bytes, limits)?.rgb()
}

/// A decoder that has read its header.
struct Opened<'a> {
    format: Format,
    size: Size,
    turn: Orientation,
    decoder: Decoder<'a>,
}

enum Decoder<'a> {
    #[cfg(feature = "jpeg-turbo")]
    Jpeg(Box<Jpeg<'a>>),
    Image(Box<dyn ImageDecoder + 'a>),
}

impl<'a> Opened<'a> {
    fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self, MediaError> {
        limits.check_encoded(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
        let Some(format) = Format::of(bytes) else {
            let start = bytes.iter().take(8).copied().collect();
            return Err(MediaError::UnknownFormat { bytes: bytes.len(), start });
        };
        let reader = Cursor::new(match format {
            Format::Gif => widened(bytes),
            _ => Cow::Borrowed(bytes),
        });
        let decoder: Result<Box<dyn ImageDecoder>, image::ImageError> = match format {
            #[cfg(not(feature = "jpeg-turbo"))]
            Format::Jpeg => {
                image::codecs::jpeg::JpegDecoder::new(reader).map(|jpeg| Box::new(jpeg) as _)
            }
            #[cfg(feature = "jpeg-turbo")]
            Format::Jpeg => {
                let jpeg = Jpeg::new(bytes, limits)?;
                limits.check_size(jpeg.size())?;
                let (size, turn) = (jpeg.size(), orientation(jpeg.exif(), jpeg.xmp()));
                return Ok(Self { format, size, turn, decoder: Decoder::Jpeg(Box::new(jpeg)) });
            }
            Format::Tiff => {
                let what = "the format is not built; convert the picture to PNG";
                return Err(MediaError::UnsupportedFormat { format, what });
            }
            Format::Png => png::PngDecoder::with_limits(reader, allowed(ANCILLARY))
                .map(|png| Box::new(png) as _),
            Format::WebP => webp::WebPDecoder::new(reader).map(|webp| Box::new(webp) as _),
            Format::Gif => gif::GifDecoder::new(reader).map(|gif| Box::new(gif) as _),
            Format::Bmp => bmp::BmpDecoder::new(reader).map(|bmp| Box::new(bmp) as _),
            Format::Pnm => pnm::PnmDecoder::new(reader).map(|pnm| Box::new(pnm) as _),
        };
        let mut decoder = decoder.map_err(|error| failed(format, error))?;
        let side = |side: u32| usize::try_from(side).unwrap_or(usize::MAX);
        let (width, height) = decoder.dimensions();
        let size = Size { height: side(height), width: side(width) };
        limits.check_size(size)?;
        // What a decoder may take beside the picture itself: its own copy, at 8 bytes a pixel.
        let copy = allowed(limits.pixels.saturating_mul(16));
        decoder.set_limits(copy).map_err(|error| failed(format, error))?;
        let turn = if format == Format::WebP {
            // The decoder takes the declared size of a chunk before it looks whether it is there.
            orientation(riff_chunk(bytes, b"EXIF"), riff_chunk(bytes, b"XMP "))
        } else {
            let (exif, xmp) = (decoder.exif_metadata(), decoder.xmp_metadata());
            orientation(exif.ok().flatten().as_deref(), xmp.ok().flatten().as_deref())
        };
        Ok(Self { format, size, turn, decoder: Decoder::Image(decoder) })
    }
}

pub(super) fn allowed(bytes: u64) -> image::Limits {
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(bytes);
    limits
}

/// Content of the first chunk of a kind in a RIFF file, if all of it is there.
fn riff_chunk<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Option<&'a [u8]> {
    riff_chunks(bytes).find(|(found, _)| *found == kind).map(|(_, content)| content)
}

/// Kind and content of each whole chunk of a RIFF file, in order.
pub(super) fn riff_chunks(bytes: &[u8]) -> impl Iterator<Item = (&[u8; 4], &[u8])> {
    const HEADER: usize = 12; // RIFF, its size, WEBP
    let mut rest = bytes.get(HEADER..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (kind, after) = rest.split_first_chunk::<4>()?;
        let (size, after) = after.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        let content = after.get(..size)?;
        rest = after.get(size.checked_next_multiple_of(2)?..).unwrap_or_default();
        Some((kind, content))
    })
}

/// EXIF counts, and where it has none, XMP, as in Pillow. What is unreadable is none.
fn orientation(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    let tiff = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    let turn = tiff.and_then(Orientation::from_exif_chunk);
    turn.or_else(|| xmp.and_then(xmp_orientation)).unwrap_or(Orientation::NoTransforms)
}

/// The digit after the first `tiff:Orientation="` or `tiff:Orientation>`.
fn xmp_orientation(xmp: &[u8]) -> Option<Orientation> {
    const TAG: &[u8] = b"tiff:Orientation";
    let values = xmp.windows(TAG.len()).enumerate().filter(|(_, window)| *window == TAG);
    let mut values = values.filter_map(|(at, _)| xmp.get(at..)?.get(TAG.len()..));
    values.find_map(|value| match value {
        [b'=', b'"', digit @ b'0'..=b'9', ..] | [b'>', digit @ b'0'..=b'9', ..] => {
            Orientation::from_exif(digit.wrapping_sub(b'0'))
        }
        _ => None,
    })
}

fn swaps(turn: Orientation) -> bool {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    matches!(turn, Rotate90 | Rotate270 | Rotate90FlipH | Rotate270FlipH)
}

/// Whether the file is a gray PNG of 16 bits, which Pillow clamps instead of scaling.
fn gray_16(format: Format, bytes: &[u8]) -> bool {
    const DEPTH_AND_KIND: usize = 24; // of IHDR, after the signature, its length and its sides
    format == Format::Png
        && bytes.get(DEPTH_AND_KIND..).is_some_and(|rest| rest.starts_with(&[16, 0]))
}

/// The decoder's samples as RGB8.
fn to_rgb(
    format: Format,
    color: ColorType,
    gray_16: bool,
    data: &[u8],
) -> Result<Vec<u8>, MediaError> {
    let wide = |sample: &[u8]| match sample {
        &[a, b] => u16::from_ne_bytes([a, b]),
        _ => 0,
    };
    let clamped = |sample: &[u8]| u8::try_from(wide(sample)).unwrap_or(u8::MAX);
    let high = |sample: &[u8]| wide(sample).to_be_bytes()[0];
    let gray = |value: u8| [value; 3];
    let rgb = match color {
        ColorType::L8 => data.iter().copied().flat_map(gray).collect(),
        ColorType::La8 => data.iter().step_by(2).copied().flat_map(gray).collect(),
        ColorType::Rgb8 => data.to_vec(),
        ColorType::Rgba8 => {
            data.as_chunks::<4>().0.iter().flat_map(|p| [p[0], p[1], p[2]]).collect()
        }
        _ if format != Format::Png => {
            let what = "samples of more than 8 bits; convert the picture to 8 bits or to PNG";
            return Err(MediaError::UnsupportedFormat { format, what });
        }
        // With a transparent value the decoder adds alpha to such a picture.
        ColorType::L16 if gray_16 => data.chunks(2).map(clamped).flat_map(gray).collect(),
        ColorType::La16 if gray_16 => {
            data.chunks(2).step_by(2).map(clamped).flat_map(gray).collect()
        }
        ColorType::L16 => data.chunks(2).map(high).flat_map(gray).collect(),
        ColorType::La16 => data.chunks(2).step_by(2).map(high).flat_map(gray).collect(),
        ColorType::Rgb16 => data.chunks(2).map(high).collect(),
        ColorType::Rgba16 => data.chunks(8).flat_map(|p| p.chunks(2).take(3).map(high)).collect(),
        _ => {
            let what = "this kind of samples";
            return Err(MediaError::UnsupportedFormat { format, what });
        }
    };
    Ok(rgb)
}

/// Lays the picture on white: Pillow's `paste` with the alpha as its mask, in whole numbers.
fn on_white(rgb: &mut [u8], color: ColorType, data: &[u8]) {
    let (samples, bytes) = match color {
        ColorType::La8 => (2, 1),
        ColorType::La16 => (2, 2),
        ColorType::Rgba8 => (4, 1),
        _ => (4, 2),
    };
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut();
    for (pixel, data) in pixels.zip(data.chunks_exact(usize::strict_mul(samples, bytes))) {
        // Of 16 bits Pillow keeps the high byte.
        let alpha = match *data {
            [.., low, high] if bytes == 2 => u16::from_ne_bytes([low, high]).to_be_bytes()[0],
            [.., alpha] => alpha,
            [] => u8::MAX,
        };
        let (alpha, white) = (u32::from(alpha), u32::from(u8::MAX));
        for value in pixel {
            let sum = white
                .wrapping_mul(white.wrapping_sub(alpha))
                .wrapping_add(u32::from(*value).wrapping_mul(alpha))
                .wrapping_add(128);
            let blended = sum.wrapping_add(sum >> 8) >> 8;
            *value = u8::try_from(blended).unwrap_or(u8::MAX);
        }
    }
}

/// The picture turned: output pixel (y, x) comes from where the orientation says.
fn turned(picture: Rgb8, turn: Orientation) -> Rgb8 {
    use Orientation::{
        FlipHorizontal, FlipVertical, NoTransforms, Rotate90, Rotate90FlipH, Rotate180, Rotate270,
        Rotate270FlipH,
    };
    if turn == NoTransforms {
        return picture;
    }
    let Size { height, width } = picture.size();
    let (pixels, _) = picture.data().as_chunks::<3>();
    let rows: Vec<&[[u8; 3]]> = pixels.chunks(width).collect();
    // Whether source columns, taken right to left, or source rows, taken bottom up, come first.
    let (columns_reversed, rows_reversed) = match turn {
        NoTransforms | Rotate90FlipH => (false, false),
        FlipHorizontal | Rotate270 => (true, false),
        FlipVertical | Rotate90 => (false, true),
        Rotate180 | Rotate270FlipH => (true, true),
    };
    let order = |length: usize, reversed: bool| -> Vec<usize> {
        if reversed { (0..length).rev().collect() } else { (0..length).collect() }
    };
    let (ys, xs) = (order(height, rows_reversed), order(width, columns_reversed));
    let pixel = |y: &usize, x: &usize| rows.get(*y).and_then(|row| row.get(*x)).copied();
    let (size, data) = if swaps(turn) {
        let of_column = |x| ys.iter().filter_map(move |y| pixel(y, x)).flatten();
        (Size { height: width, width: height }, xs.iter().flat_map(of_column).collect())
    } else {
        let of_row = |y| xs.iter().filter_map(move |x| pixel(y, x)).flatten();
        (Size { height, width }, ys.iter().flat_map(of_row).collect())
    };
    Rgb8 { size, data }
}

pub(super) fn failed(format: Format, error: image::ImageError) -> MediaError {
    MediaError::Decode { format, source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (orientation, rows after the turn of [[1 2 3] [4 5 6]])
    const TURNS: &[(u8, &[&[u8]])] = &[
        (1, &[&[1, 2, 3], &[4, 5, 6]]),
        (2, &[&[3, 2, 1], &[6, 5, 4]]),
        (3, &[&[6, 5, 4], &[3, 2, 1]]),
        (4, &[&[4, 5, 6], &[1, 2, 3]]),
        (5, &[&[1, 4], &[2, 5], &[3, 6]]),
        (6, &[&[4, 1], &[5, 2], &[6, 3]]),
        (7, &[&[6, 3], &[5, 2], &[4, 1]]),
        (8, &[&[3, 6], &[2, 5], &[1, 4]]),
    ];

    #[test]
    fn all_eight_orientations() {
        for (number, rows) in TURNS {
            let data = (1..=6).flat_map(|v| [v; 3]).collect();
            let picture = Rgb8::new(Size { height: 2, width: 3 }, data).unwrap();
            let out = turned(picture, Orientation::from_exif(*number).unwrap());
            let size = Size { height: rows.len(), width: rows[0].len() };
            let expected: Vec<u8> =
                rows.iter().flat_map(|row| row.iter()).flat_map(|v| [*v; 3]).collect();
            assert_eq!(
                (out.size(), out.data()),
                (size, expected.as_slice()),
                "orientation {number}"
            );
        }
    }

    #[test]
    fn gray_of_16_bits_is_clamped_and_colour_keeps_its_high_byte() {
        let words: Vec<u8> = [0_u16, 255, 256, 1000, 65535].map(u16::to_ne_bytes).concat();
        let rgb = |color, gray| to_rgb(Format::Png, color, gray, &words).unwrap();
        let gray: Vec<u8> = rgb(ColorType::L16, true).into_iter().step_by(3).collect();
        assert_eq!(gray, [0, 255, 255, 255, 255]);
        assert_eq!(rgb(ColorType::Rgb16, false), [0, 0, 1, 3, 255]);
    }

    #[test]
    fn xmp_counts_where_exif_has_no_orientation() {
        for xmp in ["<x tiff:Orientation=\"6\"/>", "<tiff:Orientation>6</tiff:Orientation>"] {
            assert_eq!(orientation(None, Some(xmp.as_bytes())), Orientation::Rotate90);
            let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0";
            assert_eq!(orientation(Some(exif), Some(xmp.as_bytes())), Orientation::Rotate180);
        }
        let other = b"tiff:OrientationX tiff:Orientation";
        assert_eq!(orientation(None, Some(other)), Orientation::NoTransforms);
    }

    #[test]
    fn transparency_is_laid_on_white_as_pillow_does() {
        // Image.new("RGB", size, (255, 255, 255)).paste(picture, mask=picture.split()[3])
        let mut rgb = [[0, 100, 200], [0, 100, 200], [0, 100, 200], [7, 8, 9]].concat();
        let data = [[0, 100, 200, 0], [0, 100, 200, 255], [0, 100, 200, 100], [7, 8, 9, 1]];
        on_white(&mut rgb, ColorType::Rgba8, &data.concat());
        assert_eq!(rgb, [255, 255, 255, 0, 100, 200, 155, 194, 233, 254, 254, 254]);
        let mut gray = [[50_u8; 3], [50; 3]].concat();
        let words: Vec<u8> = [0, 0x80ff, 0, 0xffff_u16].map(u16::to_ne_bytes).concat();
        on_white(&mut gray, ColorType::La16, &words);
        assert_eq!(gray, [152, 152, 152, 50, 50, 50]);
    }

    #[test]
    fn other_formats_are_named() {
        let limits = Limits::default();
        let error = decode(b"II*\0....", &limits).unwrap_err().to_string();
        assert!(error.starts_with("unsupported TIFF"), "{error}");
        let error = decode(b"hello", &limits).unwrap_err().to_string();
        assert!(error.starts_with("unknown picture format: 5 bytes"), "{error}");
    }
}
