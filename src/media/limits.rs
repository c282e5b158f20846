//! How much a stranger's picture may cost.

use super::{MediaError, Size};

/// Limits on one picture or video, checked on declared sizes before memory is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the encoded picture.
    pub encoded_bytes: u64,
    /// Width times height of the decoded picture.
    pub pixels: u64,
    /// Either side of the decoded picture.
    pub side: u64,
    /// Scans of a progressive JPEG.
    pub jpeg_scans: usize,
    /// Bytes of a video file.
    pub video_bytes: u64,
    /// Frames of a video, those that are not taken too.
    pub frames_read: usize,
    /// Frames taken of a video.
    pub frames_kept: usize,
    /// Pixels of all resized frames of a video.
    pub video_pixels: u64,
    /// Seconds that one run of the program that reads containers may take.
    pub video_seconds: u64,
    /// Bytes of address space of that program.
    pub video_memory: u64,
}

/// The command line's and the library's: 256 MiB, twice Pillow's bomb threshold, 65,535, 1,000;
/// videos of 4 GiB and a million frames, of which 768, or 2^29 resized pixels, are held; half an hour
/// and 8 GiB of address space for the program that reads them.
impl Default for Limits {
    fn default() -> Self {
        Self {
            encoded_bytes: 256 << 20,
            pixels: 178_956_970,
            side: 65_535,
            jpeg_scans: 1_000,
            video_bytes: 4 << 30,
            frames_read: 1_000_000,
            frames_kept: 768,
            video_pixels: 1 << 29,
            video_seconds: 1800,
            video_memory: 8 << 30,
        }
    }
}

impl Limits {
    /// Refuses an encoded picture of too many bytes.
    pub(crate) fn check_encoded(&self, bytes: u64) -> Result<(), MediaError> {
        check("encoded picture in bytes", bytes, self.encoded_bytes)
    }

    /// Refuses a decoded size that is empty or too large.
    pub(crate) fn check_size(&self, size: Size) -> Result<(), MediaError> {
        if size.height == 0 || size.width == 0 {
            return Err(MediaError::Empty { size });
        }
        check("side of a picture in pixels", wide(size.height.max(size.width)), self.side)?;
        check("decoded picture in pixels", size.pixels().map_or(u64::MAX, wide), self.pixels)
    }

    /// Refuses a video file of too many bytes.
    pub(crate) fn check_video(&self, bytes: u64) -> Result<(), MediaError> {
        check("video file in bytes", bytes, self.video_bytes)
    }

    /// Refuses a video of too many frames.
    pub(crate) fn check_frames_read(&self, frames: usize) -> Result<(), MediaError> {
        check("frames of a video", wide(frames), wide(self.frames_read))
    }

    /// Refuses a video of which too much is taken.
    pub(crate) fn check_kept(&self, frames: usize, resized: Size) -> Result<(), MediaError> {
        check("frames taken of a video", wide(frames), wide(self.frames_kept))?;
        let pixels = resized.pixels().and_then(|pixels| pixels.checked_mul(frames));
        check("resized video in pixels", pixels.map_or(u64::MAX, wide), self.video_pixels)
    }

    /// Refuses a resized size that is too large to hold: budgets come from requests and files.
    pub(crate) fn check_resized(&self, size: Size) -> Result<(), MediaError> {
        check("resized picture in pixels", size.pixels().map_or(u64::MAX, wide), self.pixels)
    }
}

fn wide(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

fn check(limit: &'static str, got: u64, max: u64) -> Result<(), MediaError> {
    if got > max { Err(MediaError::Limit { limit, got, max }) } else { Ok(()) }
}
