//! JPEG with the pixels of libjpeg-turbo, which are Pillow's (docs/spec.md, section 3.2).
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use libjpeg_turbo_rs::{ColorSpace, DecodeLimits, Decoder, JpegError, PixelFormat};

use super::{Format, Limits, MediaError, Size};

/// A JPEG whose markers are read.
pub(super) struct Jpeg<'a> {
    decoder: Decoder<'a>,
    size: Size,
}

impl<'a> Jpeg<'a> {
    /// Reads markers; no pixel is decoded.
    pub(super) fn new(bytes: &'a [u8], limits: &Limits) -> Result<Self, MediaError> {
        let side = usize::try_from(limits.side).unwrap_or(usize::MAX);
        let allowed = DecodeLimits {
            max_width: side,
            max_height: side,
            max_pixels: limits.pixels,
            max_scans: limits.jpeg_scans,
            max_memory: None,
        };
        let decoder = Decoder::new_with_limits(bytes, allowed).map_err(failed)?;
        let header = decoder.header();
        let size = Size { height: header.height.into(), width: header.width.into() };
        Ok(Self { decoder, size })
    }

    /// As stored, before the turn.
    pub(super) fn size(&self) -> Size {
        self.size
    }

    /// Content of the EXIF segment.
    pub(super) fn exif(&self) -> Option<&[u8]> {
        self.decoder.exif_data()
    }

    /// Content of the XMP segment.
    pub(super) fn xmp(&self) -> Option<&[u8]> {
        self.decoder.xmp_data()
    }

    /// `[height, width, 3]`.
    pub(super) fn rgb(mut self) -> Result<Vec<u8>, MediaError> {
        let four = matches!(self.decoder.jpeg_color_space(), ColorSpace::Cmyk | ColorSpace::Ycck);
        self.decoder.set_output_format(if four { PixelFormat::Cmyk } else { PixelFormat::Rgb });
        let image = self.decoder.decode_image().map_err(failed)?;
        if !four {
            return Ok(image.data);
        }
        let (pixels, _) = image.data.as_chunks::<4>();
        Ok(pixels.iter().flat_map(|pixel| from_cmyk(pixel.map(|ink| !ink))).collect())
    }
}

/// Pillow's conversion. It takes every CMYK file for one of Adobe's, which store inks inverted.
fn from_cmyk([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let white = u32::from(!black);
    [cyan, magenta, yellow].map(|ink| {
        let product = u32::from(ink).wrapping_mul(white).wrapping_add(128);
        let inked = (product >> 8).wrapping_add(product) >> 8;
        u8::try_from(white.saturating_sub(inked)).unwrap_or(u8::MAX)
    })
}

fn failed(error: JpegError) -> MediaError {
    match error {
        JpegError::LimitExceeded { what, actual, limit } => {
            MediaError::Limit { limit: what, got: actual, max: limit }
        }
        error => MediaError::Decode { format: Format::Jpeg, source: Box::new(error) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (inks, red green blue): no ink, full black, one full ink, rounding of the product
    const INKS: &[([u8; 4], [u8; 3])] = &[
        ([0, 0, 0, 0], [255, 255, 255]),
        ([9, 9, 9, 255], [0, 0, 0]),
        ([255, 0, 0, 0], [0, 255, 255]),
        ([100, 50, 3, 55], [122, 161, 198]),
    ];

    #[test]
    fn inks_become_colours_as_in_pillow() {
        for (inks, rgb) in INKS {
            assert_eq!(from_cmyk(*inks), *rgb, "{inks:?}");
        }
    }
}
