//! Videos: where frames come from, how many there are, and the chosen ones one at a time
//! (docs/spec.md, sections 4.1 and 4.5).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::animation::{self, Animation};
use super::ffmpeg::{self, Container};
use super::source::open_regular;
use super::{Decoding, Ffmpeg, Format, Limits, MediaError, Rgb8, Size, Source};

/// Where a video comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VideoSource {
    /// A container (mp4, mov, webm, mkv, avi), an animated picture, a picture (a video of one frame),
    /// or a folder of frames, in the order of their names.
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

/// How videos are read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VideoReader {
    /// How bytes of pictures become RGB.
    pub decoding: Decoding,
    /// The program for containers.
    pub ffmpeg: Ffmpeg,
    /// Checked before memory is taken.
    pub limits: Limits,
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
    Container(Container),
    List(Vec<Source>),
    Animation(Vec<u8>),
    Still(Vec<u8>),
}

impl Video {
    /// Reads headers: of the file, or of the first frame.
    ///
    /// # Errors
    /// [`MediaError::Io`]; [`MediaError::EmptyVideo`] for a list or folder without frames;
    /// [`MediaError::UnknownFormat`]; [`MediaError::Limit`]; those of [`decode()`](super::decode());
    /// for a container [`MediaError::NoFfmpeg`], [`MediaError::Ffmpeg`],
    /// [`MediaError::VideoTimeout`], [`MediaError::VideoStream`].
    pub fn open(source: &VideoSource, reader: &VideoReader) -> Result<Self, MediaError> {
        match source {
            VideoSource::Frames(frames) => Self::list(frames.clone(), reader),
            VideoSource::File(Source::Path(path)) if path.is_dir() => {
                Self::list(folder(path, &reader.limits)?, reader)
            }
            VideoSource::File(file) => match container(file, &reader.limits)? {
                Some((file, demuxer)) => {
                    let (ffmpeg, limits) = (&reader.ffmpeg, &reader.limits);
                    let container = Container::open(file, demuxer, ffmpeg, limits)?;
                    let Container { frames, size, fps, .. } = container;
                    Ok(Self::new(frames, size, fps, Content::Container(container), reader))
                }
                None => Self::picture(file, reader),
            },
        }
    }

    fn new(
        frames: usize,
        size: Size,
        fps: Option<f64>,
        content: Content,
        reader: &VideoReader,
    ) -> Self {
        let (decoding, limits) = (reader.decoding, reader.limits);
        Self { frames, size, fps, content, decoding, limits }
    }

    fn list(frames: Vec<Source>, reader: &VideoReader) -> Result<Self, MediaError> {
        let limits = &reader.limits;
        limits.check_frames_read(frames.len())?;
        let first = frames.first().ok_or(MediaError::EmptyVideo)?;
        let size = reader.decoding.open(&first.read(limits)?, limits)?.size();
        Ok(Self::new(frames.len(), size, None, Content::List(frames), reader))
    }

    fn picture(file: &Source, reader: &VideoReader) -> Result<Self, MediaError> {
        let limits = &reader.limits;
        let bytes = file.read(limits)?;
        Ok(match animation::scan(&bytes, limits)? {
            Some(Animation { frames, size, fps }) if frames > 1 => {
                Self::new(frames, size, fps, Content::Animation(bytes), reader)
            }
            _ => {
                let size = reader.decoding.open(&bytes, limits)?.size();
                Self::new(1, size, None, Content::Still(bytes), reader)
            }
        })
    }

    /// Counts frames by decoding, after [`MediaError::FrameMissing`]; whether there is another number
    /// of them than the headers say.
    ///
    /// # Errors
    /// As [`Video::open`].
    pub fn recount(&mut self) -> Result<bool, MediaError> {
        let Content::Container(container) = &mut self.content else { return Ok(false) };
        let changed = container.recount(&self.limits)?;
        self.frames = container.frames;
        Ok(changed)
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
            Content::Container(container) => container.read(indices, &self.limits, &mut checked),
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

/// The file as a container, opened at its start, with the name of its demuxer; none for a picture.
fn container(source: &Source, limits: &Limits) -> Result<Option<(File, &'static str)>, MediaError> {
    let path = match source {
        Source::Path(path) => path,
        Source::Bytes(bytes) => {
            let Some(demuxer) = ffmpeg::demuxer(bytes) else { return Ok(None) };
            limits.check_video(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
            // ffmpeg seeks: the bytes become a file without a name.
            let written = tempfile::tempfile().and_then(|mut file| {
                file.write_all(bytes)?;
                file.seek(SeekFrom::Start(0))?;
                Ok(file)
            });
            let io = |source| MediaError::Io { path: "a temporary file".into(), source };
            return written.map(|file| Some((file, demuxer))).map_err(io);
        }
    };
    let io = |source| MediaError::Io { path: path.clone(), source };
    let (mut file, metadata) = open_regular(path).map_err(io)?;
    let mut start = Vec::new();
    (&mut file).take(ffmpeg::SIGNATURE).read_to_end(&mut start).map_err(io)?;
    let Some(demuxer) = ffmpeg::demuxer(&start) else { return Ok(None) };
    limits.check_video(metadata.len())?;
    file.seek(SeekFrom::Start(0)).map_err(io)?;
    Ok(Some((file, demuxer)))
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
        open_regular(file).and_then(|(open, _)| open.take(SIGNATURE).read_to_end(&mut start));
    read.is_ok() && Format::of(&start).is_some()
}
