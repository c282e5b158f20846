//! Videos: where frames come from, how many there are, and the chosen ones one at a time
//! (docs/spec.md, sections 4.1 and 4.5).

use std::path::{Path, PathBuf};

use super::animation::{self, Animation};
use super::{Decoding, Format, Limits, MediaError, Rgb8, Size, Source};

/// Where a video comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoSource {
    /// An animated picture, a picture (a video of one frame), or a folder of frames, in the order of
    /// their names.
    File(Source),
    /// One picture a frame, in order.
    Frames(Vec<Source>),
}

impl VideoSource {
    /// What to call it in a report: the path, or the number of frames or bytes.
    pub fn name(&self) -> String {
        match self {
            Self::File(source) => source.name(),
            Self::Frames(frames) => match frames.first() {
                Some(first) if frames.len() > 1 => {
                    format!("{} and {} more frames", first.name(), frames.len() - 1)
                }
                Some(first) => first.name(),
                None => "no frames".to_owned(),
            },
        }
    }
}

/// A video whose frames are counted and none decoded.
#[derive(Debug)]
pub struct Video {
    frames: usize,
    size: Size,
    fps: Option<f64>,
    content: Content,
    decoding: Decoding,
    limits: Limits,
}

#[derive(Debug)]
enum Content {
    List(Vec<Source>),
    Animation(Vec<u8>),
    Still(Vec<u8>),
}

impl Video {
    /// Reads headers: of the file, or of the first frame.
    ///
    /// # Errors
    /// [`MediaError::Io`]; [`MediaError::EmptyVideo`] for a list or folder without frames;
    /// [`MediaError::UnknownFormat`]; [`MediaError::Limit`]; those of [`decode()`].
    pub fn open(
        source: &VideoSource,
        decoding: Decoding,
        limits: &Limits,
    ) -> Result<Self, MediaError> {
        match source {
            VideoSource::Frames(frames) => Self::list(frames.clone(), decoding, limits),
            VideoSource::File(Source::Path(path)) if path.is_dir() => {
                Self::list(folder(path, limits)?, decoding, limits)
            }
            VideoSource::File(file) => Self::file(file, decoding, limits),
        }
    }

    fn list(frames: Vec<Source>, decoding: Decoding, limits: &Limits) -> Result<Self, MediaError> {
        limits.check_frames_read(frames.len())?;
        let first = frames.first().ok_or(MediaError::EmptyVideo)?;
        let size = decoding.open(&first.read(limits)?, limits)?.size();
        let (count, content) = (frames.len(), Content::List(frames));
        Ok(Self { frames: count, size, fps: None, content, decoding, limits: *limits })
    }

    fn file(file: &Source, decoding: Decoding, limits: &Limits) -> Result<Self, MediaError> {
        let bytes = file.read(limits)?;
        let limits = *limits;
        Ok(match animation::scan(&bytes, &limits)? {
            Some(Animation { frames, size, fps }) if frames > 1 => {
                Self { frames, size, fps, content: Content::Animation(bytes), decoding, limits }
            }
            _ => {
                let size = decoding.open(&bytes, &limits)?.size();
                Self {
                    frames: 1,
                    size,
                    fps: None,
                    content: Content::Still(bytes),
                    decoding,
                    limits,
                }
            }
        })
    }

    /// The same with a frame rate, where the source has none of its own.
    #[must_use]
    pub fn with_fps(mut self, fps: Option<f64>) -> Self {
        self.fps = self.fps.or(fps);
        self
    }

    /// Number of frames.
    pub fn frames(&self) -> usize {
        self.frames
    }

    /// Height and width of each.
    pub fn size(&self) -> Size {
        self.size
    }

    /// Frames a second, on average; none for frames without times.
    pub fn fps(&self) -> Option<f64> {
        self.fps
    }

    /// Hands the frames at `indices`, which ascend, to `each`, decoding one at a time.
    ///
    /// # Errors
    /// What `each` gives; [`MediaError::Decode`]; [`MediaError::FrameMissing`] where the content has
    /// fewer frames than the headers say; [`MediaError::FrameSize`] where one differs from the first.
    pub fn read(
        &self,
        indices: &[usize],
        each: &mut dyn FnMut(&Rgb8) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let mut frame = indices.iter();
        let mut checked = |picture: &Rgb8| {
            let frame = frame.next().copied().unwrap_or_default();
            if picture.size() != self.size {
                let (found, expected) = (picture.size(), self.size);
                return Err(MediaError::FrameSize { frame, found, expected });
            }
            each(picture)
        };
        match &self.content {
            Content::List(frames) => indices.iter().try_for_each(|index| {
                let source =
                    frames.get(*index).ok_or(MediaError::FrameMissing { frame: *index })?;
                let in_frame =
                    |source| MediaError::Frame { frame: *index, source: Box::new(source) };
                let picture = source.read(&self.limits).and_then(|bytes| self.decode(&bytes));
                checked(&picture.map_err(in_frame)?)
            }),
            Content::Animation(bytes) => {
                animation::read(bytes, &self.limits, indices, &mut |picture| checked(&picture))
            }
            Content::Still(bytes) => {
                let picture = self.decode(bytes)?;
                indices.iter().try_for_each(|_| checked(&picture))
            }
        }
    }
}

impl Video {
    fn decode(&self, bytes: &[u8]) -> Result<Rgb8, MediaError> {
        self.decoding.open(bytes, &self.limits)?.rgb()
    }
}

/// The pictures of a folder in the order of their names; other files are passed over.
fn folder(path: &Path, limits: &Limits) -> Result<Vec<Source>, MediaError> {
    let io = |source| MediaError::Io { path: path.to_owned(), source };
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in path.read_dir().map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.is_file() && is_picture(&file) {
            names.push(file);
            limits.check_frames_read(names.len())?;
        }
    }
    names.sort_unstable();
    Ok(names.into_iter().map(Source::Path).collect())
}

/// By the first bytes, never by the name.
fn is_picture(file: &Path) -> bool {
    use std::io::Read;
    const SIGNATURE: u64 = 16;
    let mut start = Vec::new();
    let read =
        std::fs::File::open(file).and_then(|open| open.take(SIGNATURE).read_to_end(&mut start));
    read.is_ok() && Format::of(&start).is_some()
}
