//! `qwen2vl frames`: which frames of a video are taken. No checkpoint is needed.

use clap::Args;
use serde_json::json;

use super::error::exit;
use super::{CliError, Output};
use crate::media::FrameSampling;

/// Arguments of `frames`.
#[derive(Debug, Args)]
pub(crate) struct FramesArgs {
    /// Frames of a video that is not at hand
    #[arg(long, value_name = "N")]
    total: usize,
    /// Frames a second of that video
    #[arg(long, value_name = "F")]
    source_fps: Option<f64>,
    /// Frames in a temporal patch
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u16).range(1..))]
    temporal_patch_size: u16,
    #[command(flatten)]
    sampling: SamplingArgs,
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

impl SamplingArgs {
    /// The flags over what is set without them.
    pub(crate) fn over(&self, base: FrameSampling) -> FrameSampling {
        // One of the two ways replaces the other.
        let chosen = self.fps.is_some() || self.num_frames.is_some();
        FrameSampling {
            fps: if chosen { self.fps } else { base.fps },
            num_frames: if chosen { self.num_frames } else { base.num_frames },
            min_frames: self.min_frames.unwrap_or(base.min_frames),
            max_frames: self.max_frames.unwrap_or(base.max_frames),
            start: self.start.or(base.start),
            end: self.end.or(base.end),
        }
    }
}

/// Prints the indices, one a line, or one JSON document.
pub(crate) fn run(arguments: &FramesArgs, out: &mut Output) -> Result<u8, CliError> {
    let sampling = arguments.sampling.over(FrameSampling::default());
    let (total, rate) = (arguments.total, arguments.source_fps);
    let patch = usize::from(arguments.temporal_patch_size);
    // Without a file, what the reference answers, its last index past the end included.
    let indices = if sampling.start.is_some() || sampling.end.is_some() {
        sampling.choose(total, rate, patch)?
    } else {
        sampling.indices(total, rate, patch)?
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
