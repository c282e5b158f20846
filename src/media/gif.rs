//! The blocks of a GIF: a first frame that is not its screen, and the number of frames.
//!
//! Where the frame is smaller Pillow fills the screen with the frame's transparent colour, without
//! one with colour 0; the decoder of the `image` crate leaves zeros there. Where the frame reaches
//! out of the screen Pillow enlarges the screen; the crate cuts the frame.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::borrow::Cow;
use std::ops::Range;

/// Colour of the screen, and the part of it that the first frame covers.
pub(super) struct Backdrop {
    /// The transparent colour, without one colour 0.
    pub(super) color: [u8; 3],
    /// Whether the first frame's place is cleared after it was shown.
    pub(super) cleared: bool,
    rows: Range<usize>,
    columns: Range<usize>,
}

impl Backdrop {
    /// Read from the blocks before the first frame; none where they end early.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes.get(10..)?;
        let screen = *take(&mut rest, 3)?.first()?;
        let global = palette(&mut rest, screen)?;
        let (mut transparent, mut cleared) = (None, false);
        loop {
            match *take(&mut rest, 1)?.first()? {
                EXTENSION => {
                    let label = *take(&mut rest, 1)?.first()?;
                    loop {
                        let length = usize::from(*take(&mut rest, 1)?.first()?);
                        let block = take(&mut rest, length)?;
                        if length == 0 {
                            break;
                        }
                        if let (GRAPHIC_CONTROL, &[flags, _, _, index]) = (label, block) {
                            transparent = (flags & 1 == 1).then_some(index);
                            cleared = flags >> 2 & 7 == CLEARED;
                        }
                    }
                }
                IMAGE => {
                    let &[x, x1, y, y1, w, w1, h, h1, flags] = take(&mut rest, 9)? else {
                        return None;
                    };
                    let word = |low, high| usize::from(u16::from_le_bytes([low, high]));
                    let local = palette(&mut rest, flags)?;
                    let colors = if local.is_empty() { global } else { local };
                    let start = usize::from(transparent.unwrap_or(0)).checked_mul(3)?;
                    let color = colors.get(start..).and_then(|rest| rest.first_chunk::<3>());
                    return Some(Self {
                        color: color.copied().unwrap_or_default(),
                        cleared,
                        rows: word(y, y1)..word(y, y1).checked_add(word(h, h1))?,
                        columns: word(x, x1)..word(x, x1).checked_add(word(w, w1))?,
                    });
                }
                _ => return None,
            }
        }
    }

    /// Colours what the frame leaves of `[height, width, 3]`.
    pub(super) fn fill(&self, width: usize, rgb: &mut [u8]) {
        let (pixels, _) = rgb.as_chunks_mut::<3>();
        for (y, row) in pixels.chunks_mut(width.max(1)).enumerate() {
            for (x, pixel) in row.iter_mut().enumerate() {
                if !(self.rows.contains(&y) && self.columns.contains(&x)) {
                    *pixel = self.color;
                }
            }
        }
    }
}

/// The file with a screen that holds its first frame.
pub(super) fn widened(bytes: &[u8]) -> Cow<'_, [u8]> {
    const SIDES: Range<usize> = 6..10;
    let screen = bytes.get(SIDES).and_then(|sides| sides.first_chunk::<4>());
    let (Some(&[w, w1, h, h1]), Some(frame)) = (screen, Backdrop::of(bytes)) else {
        return Cow::Borrowed(bytes);
    };
    let (width, height) = (u16::from_le_bytes([w, w1]), u16::from_le_bytes([h, h1]));
    // A frame whose far side passes 16 bits is left to the decoder, which refuses it.
    let reach = |end: usize, side: u16| u16::try_from(end).map_or(side, |end| end.max(side));
    let wide = (reach(frame.columns.end, width), reach(frame.rows.end, height));
    if wide == (width, height) {
        return Cow::Borrowed(bytes);
    }
    let mut bytes = bytes.to_vec();
    if let Some(sides) = bytes.get_mut(SIDES) {
        sides.copy_from_slice(&[wide.0.to_le_bytes(), wide.1.to_le_bytes()].concat());
    }
    Cow::Owned(bytes)
}

/// Whole frames, and hundredths of a second that they are shown together.
pub(super) fn count(bytes: &[u8]) -> Option<(usize, u64)> {
    let mut rest = bytes.get(10..)?;
    let screen = *take(&mut rest, 3)?.first()?;
    palette(&mut rest, screen)?;
    let (mut frames, mut centiseconds, mut delay) = (0_usize, 0_u64, 0_u16);
    while let Some(kind) = block(&mut rest, &mut delay) {
        if kind == IMAGE {
            frames = frames.checked_add(1)?;
            centiseconds = centiseconds.checked_add(delay.into())?;
            delay = 0;
        }
    }
    Some((frames, centiseconds))
}

/// Steps over a block; none at the end of the file, or of what is whole of it.
fn block(rest: &mut &[u8], delay: &mut u16) -> Option<u8> {
    let kind = *take(rest, 1)?.first()?;
    let label = match kind {
        EXTENSION => *take(rest, 1)?.first()?,
        IMAGE => {
            let flags = *take(rest, 9)?.last()?;
            palette(rest, flags)?;
            take(rest, 1)?; // width of the first codes
            0
        }
        _ => return None,
    };
    loop {
        let length = usize::from(*take(rest, 1)?.first()?);
        match (label, take(rest, length)?) {
            (_, []) => return Some(kind),
            (GRAPHIC_CONTROL, &[_, low, high, _]) => *delay = u16::from_le_bytes([low, high]),
            _ => {}
        }
    }
}

const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xf9;
const IMAGE: u8 = 0x2c;
/// The disposal that fills a frame's place with the background.
const CLEARED: u8 = 2;

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    rest.split_off(..count)
}

/// A colour table, where the flags say that there is one.
fn palette<'a>(rest: &mut &'a [u8], flags: u8) -> Option<&'a [u8]> {
    const PRESENT: u8 = 0x80;
    let entries = 2_usize << (flags & 7);
    take(rest, if flags & PRESENT == 0 { 0 } else { entries.checked_mul(3)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen of 3 x 2 with the palette black, red; a frame of 1 x 1 at (1, 1).
    fn file(transparent: bool) -> Vec<u8> {
        let mut bytes = b"GIF89a".to_vec();
        bytes.extend([3, 0, 2, 0, 0x80, 0, 0, 0, 0, 0, 255, 0, 0]);
        bytes.extend([EXTENSION, GRAPHIC_CONTROL, 4, u8::from(transparent), 0, 0, 1, 0]);
        bytes.extend([IMAGE, 1, 0, 1, 0, 1, 0, 1, 0, 0]);
        bytes
    }

    #[test]
    fn the_screen_has_the_transparent_colour_or_colour_0() {
        for (transparent, color) in [(true, [255, 0, 0]), (false, [0, 0, 0])] {
            let mut rgb = vec![7; 3 * 2 * 3];
            Backdrop::of(&file(transparent)).unwrap().fill(3, &mut rgb);
            let (pixels, _) = rgb.as_chunks::<3>();
            assert_eq!(pixels[4], [7; 3], "the frame stays");
            assert!(pixels.iter().enumerate().all(|(i, p)| i == 4 || *p == color), "{transparent}");
        }
    }

    #[test]
    fn the_screen_grows_with_the_frame() {
        let fits = file(false);
        assert!(matches!(widened(&fits), Cow::Borrowed(_)));
        let mut far = fits.clone();
        let frame = far.len() - 9;
        far[frame] = 9; // column of the frame
        assert_eq!(widened(&far)[6..10], [10, 0, 2, 0]);
    }

    #[test]
    fn a_file_that_ends_early_has_none() {
        let whole = file(true);
        for length in 0..whole.len() {
            assert!(Backdrop::of(&whole[..length]).is_none(), "{length} bytes");
        }
    }
}
