//! `qwen2vl frames`: which frames of a video are taken. No checkpoint is needed.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::error::exit;
use super::{CliError, Output};
use crate::media::{
    Decoding, Ffmpeg, FrameSampling, FrameWishes, Limits, Source, Video, VideoReader, VideoSource,
};
use crate::settings;

/// Arguments of `frames`.
#[derive(Debug, Args)]
pub(crate) struct FramesArgs {
    /// A video: mp4, mov, webm, mkv or avi (by ffmpeg), an animated GIF, WebP or PNG, or a folder of
    /// frames
    #[arg(value_name = "FILE", required_unless_present = "total", conflicts_with = "total")]
    file: Option<PathBuf>,
    /// Frames of a video that is not at hand
    #[arg(long, value_name = "N")]
    total: Option<usize>,
    /// Frames a second of a video that does not say
    #[arg(long, value_name = "F")]
    source_fps: Option<f64>,
    /// Frames in a temporal patch
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    temporal_patch_size: u16,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    reader: ReaderArgs,
}

/// How frames of videos are chosen.
#[derive(Debug, Args)]
pub(crate) struct SamplingArgs {
    /// Take so many frames a second
    #[arg(long, value_name = "F")]
    fps: Option<f64>,
    /// Take so many frames, rounded to whole temporal patches
    #[arg(long, value_name = "N", alias = "nframes")]
    num_frames: Option<u64>,
    /// Least frames where --fps decides
    #[arg(long, value_name = "N")]
    min_frames: Option<u64>,
    /// Most frames where --fps decides
    #[arg(long, value_name = "N")]
    max_frames: Option<u64>,
    /// Skip so many seconds
    #[arg(long, value_name = "SECONDS", alias = "video-start")]
    start: Option<f64>,
    /// Stop at this second
    #[arg(long, value_name = "SECONDS", alias = "video-end")]
    end: Option<f64>,
}

/// How containers are read.
#[derive(Debug, Args)]
pub(crate) struct ReaderArgs {
    /// Longest time for one run of ffmpeg, which reads video containers
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = clap::value_parser!(u32).range(1..))]
    video_timeout: u32,
}

impl ReaderArgs {
    /// The program: `QWEN2VL_FFMPEG`, else `ffmpeg`.
    pub(crate) fn program() -> Ffmpeg {
        let program = settings::text(settings::FFMPEG);
        program.map_or_else(Ffmpeg::default, |program| Ffmpeg { program: program.into() })
    }

    /// Limits on media.
    pub(crate) fn limits(&self) -> Limits {
        Limits { video_seconds: self.video_timeout.into(), ..Limits::default() }
    }
}

impl SamplingArgs {
    /// What the flags say.
    pub(crate) fn wishes(&self) -> FrameWishes {
        FrameWishes {
            fps: self.fps,
            num_frames: self.num_frames,
            min_frames: self.min_frames,
            max_frames: self.max_frames,
            start: self.start,
            end: self.end,
        }
    }
}

/// Prints the indices, one a line, or one JSON document.
pub(crate) fn run(arguments: &FramesArgs, out: &mut Output) -> Result<u8, CliError> {
    let sampling = arguments.sampling.wishes().over(FrameSampling::default());
    let patch = usize::from(arguments.temporal_patch_size);
    let (total, rate, indices) = match &arguments.file {
        Some(path) => {
            let source = VideoSource::File(Source::Path(path.clone()));
            let reader = VideoReader {
                decoding: Decoding::default(),
                ffmpeg: ReaderArgs::program(),
                limits: arguments.reader.limits(),
            };
            let video = Video::open(&source, &reader)?.with_fps(arguments.source_fps);
            let (total, rate) = (video.frames(), video.fps());
            (total, rate, sampling.choose(total, rate, patch)?)
        }
        None => {
            let (total, rate) = (arguments.total.unwrap_or_default(), arguments.source_fps);
            // Without a file, what the reference answers, an index past the last frame included.
            let indices = if sampling.start.is_some() || sampling.end.is_some() {
                sampling.choose(total, rate, patch)?
            } else {
                sampling.indices(total, rate, patch)?
            };
            (total, rate, indices)
        }
    };
    if out.is_json() {
        let seconds =
            |rate: f64| -> Vec<f64> { indices.iter().map(|index| *index as f64 / rate).collect() };
        out.document(&json!({
            "schema": "qwen2vl.frames/1",
            "total": total,
            "source_fps": rate,
            "indices": indices,
            "timestamps": rate.map(seconds),
        }))?;
    } else {
        for index in &indices {
            out.line(&index.to_string())?;
        }
    }
    Ok(exit::DONE)
}
