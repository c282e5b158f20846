//! Resized frames for the device, and patch rows as the reference's processor gives them
//! (docs/spec.md, section 3.8).

use super::passes::{Rows, split};
use super::{MediaError, Normalization, Preprocessor, Rgb8, Size};

/// Rows of a plane start at multiples of this many bytes: the kernel moves 16 at a time.
pub const PATCH_ROW_PITCH: usize = 16;

/// Resized frames as the device reads them: planar bytes, `[frames][3][height][row_pitch]`.
///
/// A picture is one frame; the temporal patch repeats it. Bytes past the width are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frames {
    count: usize,
    size: Size,
    data: Vec<u8>,
}

impl Frames {
    /// Frames of one size, at least one.
    ///
    /// # Errors
    /// [`MediaError::FrameSize`] where one differs; [`MediaError::Empty`] for none.
    pub fn new(frames: &[Rgb8]) -> Result<Self, MediaError> {
        let empty = MediaError::Empty { size: Size { height: 0, width: 0 } };
        let mut this = Self::empty(frames.first().ok_or(empty)?.size(), frames.len());
        frames.iter().try_for_each(|frame| this.push(frame))?;
        Ok(this)
    }

    /// Room for `capacity` frames of a size.
    pub(super) fn empty(size: Size, capacity: usize) -> Self {
        let data = Vec::with_capacity(capacity * 3 * size.height * pitch(size));
        Self { count: 0, size, data }
    }

    /// Adds a frame.
    fn push(&mut self, frame: &Rgb8) -> Result<(), MediaError> {
        if frame.size() != self.size {
            let (found, expected) = (frame.size(), self.size);
            return Err(MediaError::FrameSize { frame: self.count, found, expected });
        }
        self.push_rows(|emit| {
            frame.data().chunks_exact(frame.size().width * 3).for_each(emit);
            Ok(())
        })
    }

    /// Adds a frame whose rows, `[width, 3]`, `rows` gives in order.
    pub(super) fn push_rows(
        &mut self,
        rows: impl FnOnce(&mut Rows<'_>) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let (pitch, plane_bytes) = (self.row_pitch(), self.plane_bytes());
        let start = self.data.len();
        self.data.resize(start + 3 * plane_bytes, 0);
        let (red, rest) = self.data[start..].split_at_mut(plane_bytes);
        let (green, blue) = rest.split_at_mut(plane_bytes);
        let planes = red.chunks_exact_mut(pitch).zip(green.chunks_exact_mut(pitch));
        let mut planes = planes.zip(blue.chunks_exact_mut(pitch));
        rows(&mut |row| {
            if let Some(((red, green), blue)) = planes.next() {
                split(row, [red, green, blue]);
            }
        })?;
        self.count += 1;
        Ok(())
    }

    /// Frames stored.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Height and width of each, in pixels.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Bytes from a row to the next, a multiple of [`PATCH_ROW_PITCH`].
    pub fn row_pitch(&self) -> usize {
        pitch(self.size)
    }

    /// Bytes from a channel to the next.
    pub fn plane_bytes(&self) -> usize {
        self.size.height * self.row_pitch()
    }

    /// `[frames][3][height][row_pitch]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// One row of one channel of one frame, `[width]`.
    pub(super) fn row(&self, frame: usize, channel: usize, y: usize) -> &[u8] {
        let start = ((frame * 3 + channel) * self.size.height + y) * self.row_pitch();
        &self.data[start..][..self.size.width]
    }
}

fn pitch(size: Size) -> usize {
    size.width.next_multiple_of(PATCH_ROW_PITCH)
}

/// `pixel_values`, `[t * h * w, 3 * temporal_patch * patch * patch]`.
///
/// The frames' sides must be multiples of patch times merge, as [`Preprocessor::image`] makes them.
/// Where their number is no multiple of the temporal patch, the last is repeated.
pub fn patch_rows(
    frames: &Frames,
    preprocessor: &Preprocessor,
    normalization: &Normalization,
) -> Vec<f32> {
    let (patch, merge) = (preprocessor.patch_size(), preprocessor.merge_size());
    let temporal = preprocessor.temporal_patch_size();
    let table = normalization.table();
    let (rows, columns) = (frames.size.height / patch, frames.size.width / patch);
    let slices = frames.count.div_ceil(temporal);
    let mut values =
        Vec::with_capacity(slices * temporal * 3 * frames.size.height * frames.size.width);
    for slice in 0..slices {
        for (block_row, block_column) in product(rows / merge, columns / merge) {
            for (inner_row, inner_column) in product(merge, merge) {
                let y = (block_row * merge + inner_row) * patch;
                let x = (block_column * merge + inner_column) * patch;
                for (channel, inner) in product(3, temporal) {
                    let frame = (slice * temporal + inner).min(frames.count - 1);
                    for line in y..y + patch {
                        let bytes = &frames.row(frame, channel, line)[x..x + patch];
                        values.extend(bytes.iter().map(|b| table[channel][usize::from(*b)]));
                    }
                }
            }
        }
    }
    values
}

fn product(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..columns).map(move |column| (row, column)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_device_starts_on_16_bytes() {
        let data = (0..2 * 28 * 3).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let picture = Rgb8::new(Size { height: 2, width: 28 }, data).unwrap();
        let frames = Frames::new(&[picture.clone(), picture]).unwrap();
        assert_eq!((frames.row_pitch(), frames.plane_bytes()), (32, 64));
        assert_eq!(frames.data().len(), 2 * 3 * 64);
        // Green of pixel (1, 3) of frame 1: byte (28 + 3) * 3 + 1 of the interleaved picture.
        assert_eq!(frames.data()[(3 + 1) * 64 + 32 + 3], 94);
        assert_eq!(&frames.data()[28..32], [0; 4]);
    }

    #[test]
    fn frames_of_two_sizes_are_refused() {
        let frame = |width| Rgb8::new(Size { height: 1, width }, vec![0; 3 * width]).unwrap();
        let error = Frames::new(&[frame(2), frame(3)]).unwrap_err();
        assert_eq!(error.to_string(), "frame 1 is 1x3, the first is 1x2");
    }
}
