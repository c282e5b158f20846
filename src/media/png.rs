//! Frames as files for people: what the model saw.

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};

use super::{Format, Frames, MediaError, Rgb8, Size};

impl Rgb8 {
    /// The picture as PNG.
    ///
    /// # Errors
    /// [`MediaError::Encode`] for sides that PNG cannot hold.
    pub fn png(&self) -> Result<Vec<u8>, MediaError> {
        let Size { height, width } = self.size();
        let side = |side: usize| u32::try_from(side).unwrap_or(0);
        let mut bytes = Vec::new();
        PngEncoder::new(&mut bytes)
            .write_image(self.data(), side(width), side(height), ExtendedColorType::Rgb8)
            .map_err(|error| MediaError::Encode { format: Format::Png, source: Box::new(error) })?;
        Ok(bytes)
    }
}

impl Frames {
    /// One frame as it goes to the device; none past the last.
    pub fn rgb(&self, frame: usize) -> Option<Rgb8> {
        if frame >= self.count() {
            return None;
        }
        let Size { height, width } = self.size();
        let mut data = Vec::with_capacity(3 * height * width);
        for y in 0..height {
            let [red, green, blue] = [0, 1, 2].map(|channel| self.row(frame, channel, y));
            for x in 0..width {
                data.extend([red[x], green[x], blue[x]]);
            }
        }
        Rgb8::new(self.size(), data).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Limits, decode};

    #[test]
    fn frames_come_back_from_png_as_they_were() {
        let size = Size { height: 5, width: 17 };
        let picture = |seed: u8| {
            let bytes = (0..5 * 17 * 3).map(|i: u32| u8::try_from(i % 251).unwrap() ^ seed);
            Rgb8::new(size, bytes.collect()).unwrap()
        };
        let frames = Frames::new(&[picture(0), picture(9)]).unwrap();
        for (index, seed) in [0, 9].into_iter().enumerate() {
            let png = frames.rgb(index).unwrap().png().unwrap();
            assert_eq!(decode(&png, &Limits::default()).unwrap(), picture(seed));
        }
        assert!(frames.rgb(2).is_none());
    }
}
