//! Pictures and videos: encoded bytes to resized frames and patch rows (docs/spec.md, sections 3 and
//! 4).
//!
//! The path of one picture is [`Source`] (path, bytes, `data:` URL) to [`decode()`] (RGB8, turned as
//! its EXIF says) to [`smart_resize()`] (the size that the pixel budget allows) to [`Filter`]'s
//! resize to [`Frames`] (what the device reads) and, where asked, patch rows as the reference's
//! processor gives them. Nothing here knows of prompts, tokens or devices. Every byte that comes in
//! is hostile: sizes are checked on declared values before memory is taken.

mod animation;
mod child;
mod decode;
mod ffmpeg;
mod gif;
#[cfg(feature = "jpeg-turbo")]
mod jpeg;
mod limits;
mod normalize;
mod passes;
mod patches;
mod png;
mod preprocessor;
mod resize;
mod resize_pillow;
mod sampling;
mod smart_resize;
mod source;
mod video;
mod video_preprocessor;
mod webp;

#[cfg(not(any(feature = "jpeg-turbo", feature = "jpeg-zune")))]
compile_error!("one of the features jpeg-turbo and jpeg-zune decodes JPEG");

use std::path::PathBuf;

pub use decode::{Alpha, Decoding, Exif, Format, Picture, decode, probe};
pub use ffmpeg::Ffmpeg;
pub use limits::Limits;
pub use normalize::Normalization;
pub use patches::{Frames, PATCH_ROW_PITCH, patch_rows};
pub use preprocessor::{Prepared, Preprocessor, Resizer, Resizing};
pub use resize::Filter;
pub use sampling::{FrameSampling, FrameWishes};
pub use smart_resize::{PixelBudget, smart_resize};
pub use source::Source;
pub use video::{Video, VideoReader, VideoSource};
pub use video_preprocessor::VideoPreprocessor;

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// `height * width`; `None` on overflow.
    pub fn pixels(self) -> Option<usize> {
        self.height.checked_mul(self.width)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.height, self.width)
    }
}

/// Where the channels of a raw picture stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelOrder {
    /// `[channels, height, width]`.
    First,
    /// `[height, width, channels]`.
    Last,
}

/// A decoded picture: rows of red, green, blue bytes, `[height, width, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb8 {
    size: Size,
    data: Vec<u8>,
}

impl Rgb8 {
    /// A picture from its bytes, `[height, width, 3]`, nothing between rows.
    ///
    /// # Errors
    /// [`MediaError::Empty`] without pixels, [`MediaError::Length`] where `data` is no such array.
    pub fn new(size: Size, data: Vec<u8>) -> Result<Self, MediaError> {
        if size.height == 0 || size.width == 0 {
            return Err(MediaError::Empty { size });
        }
        let expected = size.pixels().and_then(|pixels| pixels.checked_mul(3));
        if expected != Some(data.len()) {
            return Err(MediaError::Length { size, bytes: data.len() });
        }
        Ok(Self { size, data })
    }

    /// A picture from an array of three axes, channels first or last, of one channel or three; one
    /// channel stands for all. Without an order, as the reference infers it: channels are first if
    /// the first axis is 1 or 3 long, else last.
    ///
    /// # Errors
    /// [`MediaError::ChannelOrder`] where no axis has 1 or 3 channels, [`MediaError::Length`],
    /// [`MediaError::Empty`].
    pub fn from_array(
        shape: [usize; 3],
        order: Option<ChannelOrder>,
        data: &[u8],
    ) -> Result<Self, MediaError> {
        let channels = |length: usize| length == 1 || length == 3;
        let order = match order {
            Some(order) => order,
            None if channels(shape[0]) => ChannelOrder::First,
            None => ChannelOrder::Last,
        };
        let (count, height, width) = match order {
            ChannelOrder::First => (shape[0], shape[1], shape[2]),
            ChannelOrder::Last => (shape[2], shape[0], shape[1]),
        };
        if !channels(count) {
            return Err(MediaError::ChannelOrder { shape });
        }
        let size = Size { height, width };
        let pixels = size.pixels();
        let values = pixels.and_then(|pixels| pixels.checked_mul(count));
        let (Some(pixels), true) = (pixels, values == Some(data.len())) else {
            return Err(MediaError::Length { size, bytes: data.len() });
        };
        let interleaved = match (order, count) {
            (_, 1) => data.iter().flat_map(|value| [*value; 3]).collect(),
            (ChannelOrder::Last, _) => data.to_vec(),
            (ChannelOrder::First, _) if pixels > 0 => {
                let (red, rest) = data.split_at(pixels);
                let (green, blue) = rest.split_at(pixels);
                let pixels = red.iter().zip(green).zip(blue);
                pixels.flat_map(|((red, green), blue)| [*red, *green, *blue]).collect()
            }
            (ChannelOrder::First, _) => Vec::new(),
        };
        Self::new(size, interleaved)
    }

    /// The picture as a portable pixmap: bytes that any decoder gives back as they are.
    pub fn to_pixmap(&self) -> Vec<u8> {
        let mut bytes = format!("P6\n{} {}\n255\n", self.size.width, self.size.height).into_bytes();
        bytes.extend_from_slice(&self.data);
        bytes
    }

    /// Height and width.
    pub fn size(&self) -> Size {
        self.size
    }

    /// `[height, width, 3]`.
    pub fn data(&self) -> &[u8] {
        &self.data
    }
}

/// What can be wrong with a picture, its source, or the settings of the processor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    /// A file that cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// A picture on another machine.
    #[error("network sources are disabled: {url} is not fetched; give a path or a data: URL")]
    NetworkDisabled {
        /// The address, shortened.
        url: String,
    },
    /// A source that is neither a file nor base64.
    #[error(
        "incorrect image source {found:?}: neither a file that exists, nor a data: URL, nor base64"
    )]
    Source {
        /// Its beginning.
        found: String,
    },
    /// Bytes of no known picture format.
    #[error("unknown picture format: {bytes} bytes that begin with {start:02x?}")]
    UnknownFormat {
        /// Length of the file.
        bytes: usize,
        /// Its first bytes.
        start: Vec<u8>,
    },
    /// A picture that its decoder refuses: truncated, corrupt.
    #[error("cannot decode {format}")]
    Decode {
        /// By its first bytes.
        format: Format,
        /// What the decoder says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A picture that cannot be written.
    #[error("cannot write {format}")]
    Encode {
        /// The format.
        format: Format,
        /// What the encoder says.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A form of a known format that is not built.
    #[error("unsupported {format}: {what}")]
    UnsupportedFormat {
        /// By its first bytes.
        format: Format,
        /// What it uses.
        what: &'static str,
    },
    /// More than [`Limits`] allows.
    #[error("{limit}: {got} is over the limit of {max}")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
        /// What was asked for.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// A picture without pixels.
    #[error("empty image of {size}")]
    Empty {
        /// As declared.
        size: Size,
    },
    /// Raw pixels of another number than the size says.
    #[error("{bytes} bytes are no RGB picture of {size}")]
    Length {
        /// As declared.
        size: Size,
        /// As given.
        bytes: usize,
    },
    /// A raw picture whose channels cannot be told.
    #[error(
        "unable to infer channel dimension format of {shape:?}: 1 or 3 channels, first or last"
    )]
    ChannelOrder {
        /// As given.
        shape: [usize; 3],
    },
    /// Sides whose ratio the reference refuses.
    #[error("absolute aspect ratio must be smaller than 200, got {} for {size}", ratio(*size))]
    AspectRatio {
        /// Before the resize.
        size: Size,
    },
    /// A pixel budget that leaves nothing of the picture.
    #[error("a picture of {size} becomes empty at min_pixels {min}: raise min_pixels")]
    ResizedToNothing {
        /// Before the resize.
        size: Size,
        /// Least pixels.
        min: u64,
    },
    /// min_pixels above max_pixels.
    #[error("min_pixels {min} is above max_pixels {max}")]
    Budget {
        /// Least pixels.
        min: u64,
        /// Most pixels.
        max: u64,
    },
    /// A picture that is not resized and does not fall into whole merged patches.
    #[error("image size {size} is not a multiple of {factor}, and do_resize is false")]
    NotAMultiple {
        /// The picture.
        size: Size,
        /// patch_size times merge_size.
        factor: usize,
    },
    /// A frame sequence with frames of more than one size.
    #[error("frame {frame} is {found}, the first is {expected}")]
    FrameSize {
        /// Index of the frame.
        frame: usize,
        /// Its size.
        found: Size,
        /// Size of frame 0.
        expected: Size,
    },
    /// A frame of a list that cannot be used.
    #[error("frame {frame}")]
    Frame {
        /// Index of the frame.
        frame: usize,
        /// Why.
        #[source]
        source: Box<MediaError>,
    },
    /// A list or a folder without a picture.
    #[error("a video needs at least one frame")]
    EmptyVideo,
    /// A video that ends before its headers say.
    #[error("frame {frame} is missing: the video ends before it")]
    FrameMissing {
        /// Index of the frame.
        frame: usize,
    },
    /// The program that reads containers cannot be started.
    #[error(
        "cannot start {program}, which reads video containers: install ffmpeg 5.1 or later, name it \
         with QWEN2VL_FFMPEG, or give an animated picture or frames"
    )]
    NoFfmpeg {
        /// As it was looked for.
        program: String,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The program that reads containers failed.
    #[error("ffmpeg cannot read the video: {said}")]
    Ffmpeg {
        /// The beginning of what it said.
        said: String,
    },
    /// The program that reads containers took too long and was ended.
    #[error("ffmpeg takes more than {seconds} seconds for the video")]
    VideoTimeout {
        /// The limit.
        seconds: u64,
    },
    /// The program that reads containers wrote something else than frames.
    #[error("ffmpeg writes {problem}")]
    VideoStream {
        /// What is wrong with its stream.
        problem: &'static str,
    },
    /// A rate and a number of frames together.
    #[error("num_frames and fps are mutually exclusive: give one of them")]
    SamplingChoice,
    /// A sampling setting with a value outside of its domain.
    #[error("{key} is {found}, expected {expected}")]
    Sampling {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// Sampling by time of a source whose frame rate is unknown.
    #[error("frames are asked for by time, but the source has no frame rate: use num_frames")]
    NoRate,
    /// More frames than the source has.
    #[error(
        "video cannot be sampled: num_frames {wanted} is above its {total} frames; decrease \
         num_frames or fps"
    )]
    TooManyFrames {
        /// After rounding to the temporal patch.
        wanted: usize,
        /// Frames of the source.
        total: usize,
    },
    /// A sampling that leaves nothing.
    #[error("no frame of the {total} is left after sampling")]
    NoFrames {
        /// Frames of the source.
        total: usize,
    },
    /// A filter that the chosen resizer lacks.
    #[error("the torchvision resizer has no filter {filter}: use --resize pillow")]
    Filter {
        /// As Pillow names it.
        filter: Filter,
    },
    /// preprocessor_config.json that is not an object of JSON.
    #[error("preprocessor_config.json is not a JSON object")]
    ConfigJson {
        /// What the parser says; none where the document is another kind of value.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// A setting with a value outside of its domain.
    #[error("preprocessor_config.json: {key} is {found}, expected {expected}")]
    Config {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A setting that would change the result and is not built.
    #[error("unsupported: preprocessor_config.json has {key} = {found}; {have}")]
    UnsupportedConfig {
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What is built.
        have: &'static str,
    },
}

impl MediaError {
    /// Stable name of the kind of error: `io`, `invalid_request`, `limit_exceeded`, `unsupported`,
    /// `checkpoint_invalid` or `media_invalid`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "io",
            Self::NetworkDisabled { .. } | Self::Budget { .. } | Self::Filter { .. } => {
                "invalid_request"
            }
            Self::SamplingChoice | Self::Sampling { .. } | Self::NoRate => "invalid_request",
            Self::TooManyFrames { .. } | Self::NoFrames { .. } => "invalid_request",
            Self::Limit { .. } | Self::VideoTimeout { .. } => "limit_exceeded",
            Self::NoFfmpeg { .. } => "unsupported",
            Self::Frame { source, .. } => source.code(),
            Self::UnsupportedFormat { .. } | Self::UnsupportedConfig { .. } => "unsupported",
            Self::ConfigJson { .. } | Self::Config { .. } => "checkpoint_invalid",
            _ => "media_invalid",
        }
    }
}

fn ratio(size: Size) -> f64 {
    let (long, short) = (size.height.max(size.width), size.height.min(size.width));
    long as f64 / short as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_arrays_have_their_channels_first_or_last() {
        let of = |shape, order, data: &[u8]| {
            Rgb8::from_array(shape, order, data).map(|picture| picture.data().to_vec())
        };
        let (first, last) = (Some(ChannelOrder::First), Some(ChannelOrder::Last));
        assert_eq!(of([3, 1, 2], None, &[1, 2, 3, 4, 5, 6]).unwrap(), [1, 3, 5, 2, 4, 6]);
        assert_eq!(of([2, 1, 3], None, &[1, 2, 3, 4, 5, 6]).unwrap(), [1, 2, 3, 4, 5, 6]);
        assert_eq!(of([3, 1, 3], last, &[7; 9]).unwrap(), [7; 9], "both could be: the caller says");
        assert_eq!(of([1, 1, 2], first, &[8, 9]).unwrap(), [8, 8, 8, 9, 9, 9]);
        assert_eq!(of([1, 2, 1], last, &[8, 9]).unwrap(), [8, 8, 8, 9, 9, 9]);
        assert!(matches!(of([4, 2, 4], None, &[0; 32]), Err(MediaError::ChannelOrder { .. })));
        assert!(matches!(of([3, 1, 2], None, &[0; 5]), Err(MediaError::Length { .. })));
        assert!(matches!(of([3, 0, 2], None, &[]), Err(MediaError::Empty { .. })));
    }

    #[test]
    fn a_pixmap_gives_the_picture_back() {
        let data = (0..24).collect();
        let picture = Rgb8::new(Size { height: 2, width: 4 }, data).unwrap();
        assert_eq!(decode(&picture.to_pixmap(), &Limits::default()).unwrap(), picture);
    }
}
