//! Containers, read by the `ffmpeg` program in a process of its own (docs/spec.md, section 4.5).
//!
//! The file is opened and checked here and becomes the program's standard input; its first bytes
//! decide the demuxer, so that no other format, playlist or protocol is ever tried. Frames come back
//! as portable pixmaps, each with its size, through a pipe: one is in memory at a time.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::PathBuf;

use super::child::{CUT, Run};
use super::{Limits, MediaError, Rgb8, Size};

/// The program that reads containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ffmpeg {
    /// A path, or a name that is looked for as a shell does. Release 5.1 or later.
    pub program: PathBuf,
}

/// `ffmpeg`.
impl Default for Ffmpeg {
    fn default() -> Self {
        Self { program: PathBuf::from("ffmpeg") }
    }
}

impl Ffmpeg {
    /// The first line that the program says about itself.
    ///
    /// # Errors
    /// [`MediaError::NoFfmpeg`], [`MediaError::Ffmpeg`], [`MediaError::VideoTimeout`].
    pub fn version(&self, limits: &Limits) -> Result<String, MediaError> {
        let nothing = "/dev/null";
        let io = |source| MediaError::Io { path: PathBuf::from(nothing), source };
        let input = File::open(nothing).map_err(io)?;
        let arguments = vec!["-version".to_owned()];
        let limits = Limits { video_seconds: limits.video_seconds.min(10), ..*limits };
        Run { program: &self.program, arguments, input, limits: &limits }.stream(|stream| {
            let first = line(stream)?.unwrap_or_default();
            drain(stream, &limits)?;
            Ok(first)
        })
    }
}

/// Bytes from the start of a file that decide what it is.
pub(super) const SIGNATURE: u64 = 16;

/// A container whose frames are counted.
#[derive(Debug)]
pub(super) struct Container {
    file: File,
    demuxer: &'static str,
    ffmpeg: Ffmpeg,
    pub(super) size: Size,
    pub(super) frames: usize,
    pub(super) fps: Option<f64>,
}

/// Name of ffmpeg's demuxer for a file that begins so, none for no known container.
pub(super) fn demuxer(start: &[u8]) -> Option<&'static str> {
    match start {
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("mov"),
        // Files of old cameras begin with another box.
        [_, _, _, _, b'm', b'o', b'o', b'v', ..] | [_, _, _, _, b'm', b'd', b'a', b't', ..] => {
            Some("mov")
        }
        [_, _, _, _, b'w', b'i', b'd', b'e', ..] => Some("mov"),
        [0x1a, 0x45, 0xdf, 0xa3, ..] => Some("matroska"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'A', b'V', b'I', b' ', ..] => Some("avi"),
        _ => None,
    }
}

impl Container {
    /// Counts frames and reads the size of the first; `file` is regular and within the limits.
    pub(super) fn open(
        file: File,
        demuxer: &'static str,
        ffmpeg: &Ffmpeg,
        limits: &Limits,
    ) -> Result<Self, MediaError> {
        let size = Size { height: 0, width: 0 };
        let ffmpeg = ffmpeg.clone();
        let mut this = Self { file, demuxer, ffmpeg, size, frames: 0, fps: None };
        let packets = this.run(&["-c", "copy", "-f", "framecrc", "-"], limits, |stream| {
            Packets::read(stream, limits)
        })?;
        let first = ["-frames:v", "1", "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe", "-"];
        let (size, rate) = this.run(&first, limits, |stream| {
            let header = y4m_header(stream)?;
            // The frame itself is of no interest, but a closed pipe would be an error to ffmpeg.
            drain(stream, limits)?;
            Ok(header)
        })?;
        limits.check_size(size)?;
        this.size = size;
        this.frames = packets.count;
        // Alone of all usual codecs VP8 has packets that are no frames.
        if packets.codec == "vp8" {
            this.recount(limits)?;
        }
        this.fps = packets.rate().map(|average| declared(average, rate)).or(rate);
        if this.frames == 0 {
            return Err(MediaError::EmptyVideo);
        }
        Ok(this)
    }

    /// Counts frames by decoding; whether there is another number of them than before.
    pub(super) fn recount(&mut self, limits: &Limits) -> Result<bool, MediaError> {
        let small = ["-vf", "scale=2:2:flags=neighbor,format=rgb24"];
        let frames = self.run(&[&small[..], &PIXMAPS].concat(), limits, |stream| {
            let mut frames = 0_usize;
            while pixmap(stream, Size { height: 2, width: 2 })?.is_some() {
                frames = frames.saturating_add(1);
                limits.check_frames_read(frames)?;
            }
            Ok(frames)
        })?;
        let changed = frames != self.frames;
        self.frames = frames;
        Ok(changed)
    }

    /// Hands the frames at `indices`, which ascend, to `each`.
    pub(super) fn read(
        &self,
        indices: &[usize],
        limits: &Limits,
        each: &mut dyn FnMut(&Rgb8) -> Result<(), MediaError>,
    ) -> Result<(), MediaError> {
        let mut wanted = indices.to_vec();
        wanted.dedup();
        // Bilinear chroma, as the decoders that the reference uses.
        let filter = format!("select='{}',scale=flags=bilinear,format=rgb24", selection(&wanted));
        let count = wanted.len().to_string();
        let arguments = ["-vf", filter.as_str(), "-frames:v", count.as_str()];
        self.run(&[&arguments[..], &PIXMAPS].concat(), limits, |stream| {
            for frame in &wanted {
                let picture = pixmap(stream, self.size)?;
                let picture = picture.ok_or(MediaError::FrameMissing { frame: *frame })?;
                for _ in indices.iter().filter(|index| *index == frame) {
                    each(&picture)?;
                }
            }
            match pixmap(stream, self.size)? {
                None => Ok(()),
                Some(_) => Err(MediaError::VideoStream { problem: "more frames than asked for" }),
            }
        })
    }

    fn run<T>(
        &self,
        output: &[&str],
        limits: &Limits,
        consume: impl FnOnce(&mut dyn Read) -> Result<T, MediaError>,
    ) -> Result<T, MediaError> {
        let pixels = limits.pixels.to_string();
        let input = [
            "-nostdin",
            "-hide_banner",
            "-loglevel",
            "error",
            "-protocol_whitelist",
            "file",
            "-max_pixels",
            pixels.as_str(),
            "-f",
            self.demuxer,
            "-i",
            // Opened anew by the program, so it can seek in it.
            "file:/dev/stdin",
            "-map",
            "0:v:0",
        ];
        let arguments = input.iter().chain(output).map(|argument| (*argument).to_owned());
        let file = self
            .file
            .try_clone()
            .map_err(|source| MediaError::Io { path: PathBuf::from("/dev/stdin"), source })?;
        let program = &self.ffmpeg.program;
        Run { program, arguments: arguments.collect(), input: file, limits }.stream(consume)
    }
}

/// Arguments of an output of pixmaps, one for each decoded frame, none dropped or doubled.
const PIXMAPS: [&str; 7] = ["-fps_mode", "passthrough", "-c:v", "ppm", "-f", "image2pipe", "-"];

/// An expression of the `select` filter that is true for the frames at `indices`.
fn selection(indices: &[usize]) -> String {
    let mut terms: Vec<(usize, usize)> = Vec::new();
    for index in indices {
        match terms.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*index) => *last = *index,
            _ => terms.push((*index, *index)),
        }
    }
    let terms: Vec<String> = terms
        .into_iter()
        .map(|(first, last)| match first == last {
            true => format!("eq(n,{first})"),
            false => format!("between(n,{first},{last})"),
        })
        .collect();
    terms.join("+")
}

/// The rate of the header where the packets agree with it but for the rounding of their times.
fn declared(average: f64, header: Option<f64>) -> f64 {
    const ROUNDING: f64 = 0.02;
    header.filter(|rate| (average / rate - 1.0).abs() < ROUNDING).unwrap_or(average)
}

/// What the list of packets says.
#[derive(Debug, Default, PartialEq)]
struct Packets {
    codec: String,
    count: usize,
    /// Units of time of a second: numerator, denominator of one unit in seconds.
    unit: (f64, f64),
    /// Sum of durations in units; none once a packet has none.
    duration: Option<u64>,
    first: i64,
    last: i64,
}

impl Packets {
    /// Reads ffmpeg's `framecrc` list: `#name 0: value` lines, then `0, dts, pts, duration, …`.
    fn read(stream: &mut dyn Read, limits: &Limits) -> Result<Self, MediaError> {
        let problem = |problem| MediaError::VideoStream { problem };
        let mut this = Self { duration: Some(0), ..Self::default() };
        let (mut first, mut last) = (i64::MAX, i64::MIN);
        while let Some(line) = line(stream)? {
            if let Some(value) = line.strip_prefix("#tb 0: ") {
                let (numerator, denominator) = value.split_once('/').unwrap_or((value, "1"));
                let number = |text: &str| text.trim().parse::<f64>().ok();
                let unit = number(numerator).zip(number(denominator));
                this.unit = unit.ok_or(problem("a time base that is no fraction"))?;
            } else if let Some(value) = line.strip_prefix("#codec_id 0: ") {
                value.trim().clone_into(&mut this.codec);
            } else if !line.starts_with('#') {
                let mut fields = line.split(',').skip(2).map(|field| field.trim().parse::<i64>());
                let (Some(Ok(time)), Some(Ok(duration))) = (fields.next(), fields.next()) else {
                    return Err(problem("a packet without a time"));
                };
                this.count = this.count.saturating_add(1);
                limits.check_frames_read(this.count)?;
                (first, last) = (first.min(time), last.max(time));
                let duration = u64::try_from(duration).ok().filter(|units| *units > 0);
                this.duration =
                    this.duration.zip(duration).and_then(|(sum, more)| sum.checked_add(more));
            }
        }
        (this.first, this.last) = (first, last);
        Ok(this)
    }

    /// Frames a second on average: by their durations, without these by their first and last times.
    fn rate(&self) -> Option<f64> {
        let (numerator, denominator) = self.unit;
        let (frames, units) = match self.duration {
            Some(units) => (self.count, units),
            None => (
                self.count.saturating_sub(1),
                u64::try_from(self.last.saturating_sub(self.first)).ok()?,
            ),
        };
        let rate = frames as f64 * denominator / (units as f64 * numerator);
        (rate.is_finite() && rate > 0.0).then_some(rate)
    }
}

/// Size and rate of a `YUV4MPEG2 W112 H112 F8:1 …` line.
fn y4m_header(stream: &mut dyn Read) -> Result<(Size, Option<f64>), MediaError> {
    let problem = MediaError::VideoStream { problem: "no header before the first frame" };
    let Some(header) = line(stream)? else {
        return Err(MediaError::FrameMissing { frame: 0 });
    };
    let mut fields = header.split(' ');
    if fields.next() != Some("YUV4MPEG2") {
        return Err(problem);
    }
    let (mut size, mut rate) = (Size { height: 0, width: 0 }, None);
    for field in fields {
        let side = |text: &str| text.parse().unwrap_or(0);
        match field.split_at_checked(1) {
            Some(("W", text)) => size.width = side(text),
            Some(("H", text)) => size.height = side(text),
            Some(("F", text)) => {
                let fraction = text.split_once(':');
                let number = |text: &str| text.parse::<f64>().ok();
                let fraction = fraction.and_then(|(n, d)| Some(number(n)? / number(d)?));
                rate = fraction.filter(|rate| rate.is_finite() && *rate > 0.0);
            }
            _ => {}
        }
    }
    Ok((size, rate))
}

/// Reads to the end of a stream that has one frame left.
fn drain(stream: &mut dyn Read, limits: &Limits) -> Result<(), MediaError> {
    let most = limits.pixels.saturating_mul(3);
    let copied = std::io::copy(&mut stream.take(most), &mut std::io::sink()).map_err(broken)?;
    match copied {
        copied if copied < most => Ok(()),
        _ => Err(MediaError::VideoStream { problem: "more than one frame" }),
    }
}

/// A line without its end; none at the end of the stream.
fn line(stream: &mut dyn Read) -> Result<Option<String>, MediaError> {
    const LONGEST: usize = 1024;
    let mut line = Vec::new();
    while let Some(byte) = byte(stream)? {
        match byte {
            b'\n' => return Ok(Some(String::from_utf8_lossy(&line).into_owned())),
            byte if line.len() < LONGEST => line.push(byte),
            _ => return Err(MediaError::VideoStream { problem: "a line without an end" }),
        }
    }
    Ok(None)
}

fn byte(stream: &mut dyn Read) -> Result<Option<u8>, MediaError> {
    let mut byte = [0];
    match stream.read_exact(&mut byte) {
        Ok(()) => Ok(Some(byte[0])),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(broken(error)),
    }
}

/// The next picture of a stream of `P6` pixmaps, which must have the expected size; none at its end.
fn pixmap(stream: &mut dyn Read, expected: Size) -> Result<Option<Rgb8>, MediaError> {
    let problem = |problem| MediaError::VideoStream { problem };
    let Some(first) = byte(stream)? else { return Ok(None) };
    if (first, byte(stream)?) != (b'P', Some(b'6')) {
        return Err(problem("no pixmap where a frame should begin"));
    }
    let mut numbers = [0_usize; 3];
    for (place, number) in numbers.iter_mut().enumerate() {
        let mut digits = 0_u32;
        loop {
            match byte(stream)? {
                Some(byte @ b'0'..=b'9') if digits < 6 => {
                    let digit = usize::from(byte.wrapping_sub(b'0'));
                    *number = number.saturating_mul(10).saturating_add(digit);
                    digits = digits.saturating_add(1);
                }
                Some(b' ' | b'\n' | b'\t' | b'\r') if digits == 0 && place < 3 => {}
                Some(b' ' | b'\n' | b'\t' | b'\r') => break,
                _ => return Err(problem("a pixmap without a size")),
            }
        }
    }
    let [width, height, depth] = numbers;
    let found = Size { height, width };
    if depth != 255 {
        return Err(problem("a pixmap of another depth than 8 bits"));
    }
    // Before memory is taken: the expected size is within the limits.
    if found != expected {
        return Err(MediaError::FrameSize { frame: 0, found, expected });
    }
    let bytes = found.pixels().and_then(|pixels| pixels.checked_mul(3));
    let mut data = vec![0; bytes.ok_or(MediaError::Empty { size: found })?];
    match stream.read_exact(&mut data) {
        Ok(()) => Rgb8::new(found, data).map(Some),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err(problem(CUT)),
        Err(error) => Err(broken(error)),
    }
}

fn broken(source: std::io::Error) -> MediaError {
    MediaError::Io { path: PathBuf::from("the pipe from ffmpeg"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_frames_are_one_term() {
        assert_eq!(selection(&[0]), "eq(n,0)");
        assert_eq!(selection(&[0, 1, 2, 5, 8, 9]), "between(n,0,2)+eq(n,5)+between(n,8,9)");
    }

    #[test]
    fn a_list_of_packets_gives_number_and_rate() {
        let list = "#software: Lavf\n#tb 0: 1/16384\n#codec_id 0: h264\n\
                    0, -4096, 0, 2048, 1569, 0x43\n0, -2048, 2048, 2048, 141, 0xbd, F=0x0\n";
        let packets = Packets::read(&mut list.as_bytes(), &Limits::default()).unwrap();
        assert_eq!((packets.count, packets.codec.as_str()), (2, "h264"));
        assert_eq!(packets.rate(), Some(8.0));
        let list =
            "#tb 0: 1/1000\n0, 0, 0, 0, 9, 0x0\n0, 40, 40, 40, 9, 0x0\n0, 80, 80, 0, 9, 0x0\n";
        let packets = Packets::read(&mut list.as_bytes(), &Limits::default()).unwrap();
        assert_eq!(packets.rate(), Some(25.0), "by times, where a duration is missing");
        let limits = Limits { frames_read: 2, ..Limits::default() };
        let error = Packets::read(&mut list.as_bytes(), &limits).unwrap_err();
        assert!(matches!(error, MediaError::Limit { got: 3, max: 2, .. }));
    }

    #[test]
    fn a_header_gives_size_and_rate() {
        let header = "YUV4MPEG2 W1920 H1080 F30000:1001 Ip A0:0\nFRAME\n";
        let (size, rate) = y4m_header(&mut header.as_bytes()).unwrap();
        assert_eq!(size, Size { height: 1080, width: 1920 });
        assert_eq!(rate, Some(30000.0 / 1001.0));
        assert_eq!(declared(29.9, rate), 30000.0 / 1001.0);
        assert_eq!(declared(15.0, rate), 15.0, "times that vary");
    }

    /// (stream, what is wrong with it)
    const BROKEN: &[(&str, &str)] = &[
        ("P5\n1 1\n255\nx", "no pixmap"),
        ("P6\n", "without a size"),
        ("P6\n1 1\n65535\nxxxxxx", "another depth"),
        ("P6\n1 1\n255\nxx", "ends early"),
        ("P6\n60000 60000\n255\n", "60000x60000"),
        ("P6\n99999999999999999999 1\n255\n", "without a size"),
        ("not a stream", "no pixmap"),
    ];

    #[test]
    fn a_frame_is_whole_or_an_error() {
        let size = Size { height: 1, width: 1 };
        let good = pixmap(&mut &b"P6\n1 1\n255\nabc"[..], size).unwrap().unwrap();
        assert_eq!(good.data(), b"abc");
        assert_eq!(pixmap(&mut &b""[..], size).unwrap(), None);
        for (stream, problem) in BROKEN {
            let error = pixmap(&mut stream.as_bytes(), size).unwrap_err().to_string();
            assert!(error.contains(problem), "{stream}: {error}");
        }
    }
}
