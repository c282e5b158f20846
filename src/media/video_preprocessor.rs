//! The video side of the reference's processor (docs/spec.md, sections 4.2 to 4.4).

use serde_json::Value;

use super::preprocessor::Keys;
use super::{
    FrameSampling, FrameWishes, Frames, Limits, MediaError, PixelBudget, Prepared, Preprocessor,
    Video,
};

/// Every setting that changes what becomes of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct VideoPreprocessor {
    frame: Preprocessor,
    sampling: FrameSampling,
    /// Whether a video is sampled if nobody asks for it.
    sampled: bool,
    /// The rate that the call asks for, whatever is configured.
    asked_fps: Option<f64>,
}

/// The class defaults of the reference: more pixels a frame than a picture's least, fewer than its
/// most.
impl Default for VideoPreprocessor {
    fn default() -> Self {
        let budget = PixelBudget { min: 128 * 28 * 28, max: 768 * 28 * 28 };
        let frame = Preprocessor::default().over_budget(budget);
        Self { frame, sampling: FrameSampling::default(), sampled: false, asked_fps: None }
    }
}

impl VideoPreprocessor {
    /// Reads video_preprocessor_config.json, or preprocessor_config.json where a checkpoint has no
    /// other: its settings of pictures then are those of frames.
    ///
    /// # Errors
    /// As [`Preprocessor::from_json`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, MediaError> {
        let defaults = Self::default();
        let value: Value = serde_json::from_slice(bytes)
            .map_err(|source| MediaError::ConfigJson { source: Some(source) })?;
        let Value::Object(map) = value else { return Err(MediaError::ConfigJson { source: None }) };
        let keys = Keys(&map);
        let frame = Preprocessor::from_keys(&keys, defaults.frame)?;
        let base = defaults.sampling;
        let sampling = FrameSampling {
            fps: keys.number("fps")?,
            num_frames: keys.whole("num_frames")?,
            min_frames: keys.whole("min_frames")?.unwrap_or(base.min_frames),
            max_frames: keys.whole("max_frames")?.unwrap_or(base.max_frames),
            ..base
        };
        let sampled =
            keys.present("do_sample_frames").is_some_and(|value| *value == Value::Bool(true));
        Ok(Self { frame, sampling, sampled, asked_fps: None })
    }

    /// The same with other limits on each resized frame.
    ///
    /// # Errors
    /// [`MediaError::Budget`] where nothing is left between them.
    pub fn with_budget(self, min: Option<u64>, max: Option<u64>) -> Result<Self, MediaError> {
        Ok(Self { frame: self.frame.with_budget(min, max)?, ..self })
    }

    /// The same with another sampling of every video that does not ask for its own.
    ///
    /// # Errors
    /// Those of [`FrameSampling::check`].
    pub fn with_sampling(self, wishes: FrameWishes) -> Result<Self, MediaError> {
        let sampled = self.sampled || wishes.fps.is_some() || wishes.num_frames.is_some();
        let asked_fps = wishes.fps.or(self.asked_fps);
        Ok(Self { sampling: wishes.over(self.sampling).check()?, sampled, asked_fps, ..self })
    }

    /// The same with another treatment of each frame.
    #[must_use]
    pub fn with_frame(self, frame: Preprocessor) -> Self {
        Self { frame, ..self }
    }

    /// What is done to each frame. Videos are resized as torchvision does, whatever pictures are.
    pub fn frame(&self) -> &Preprocessor {
        &self.frame
    }

    /// How frames are chosen where a video does not say: by no rate and no number unless the
    /// configuration or [`VideoPreprocessor::with_sampling`] asks for sampling.
    pub fn sampling(&self) -> FrameSampling {
        if self.sampled {
            return self.sampling;
        }
        FrameSampling { fps: None, num_frames: None, ..self.sampling }
    }

    /// Seconds from one group of frames to the next for a part that asks for `fps`: the reference
    /// takes the rate that was asked for, or 2, and not the frames that were found.
    pub fn seconds_per_group(&self, fps: Option<f64>) -> f64 {
        self.frame.temporal_patch_size() as f64 / fps.or(self.asked_fps).unwrap_or(2.0)
    }

    /// Resizes the frames at `indices`, one at a time.
    ///
    /// # Errors
    /// Those of [`Video::read`] and [`Preprocessor::resized`]; [`MediaError::Limit`] for more than
    /// may be held.
    pub fn video(
        &self,
        video: &Video,
        indices: &[usize],
        limits: &Limits,
    ) -> Result<Prepared, MediaError> {
        let resized = self.frame.resized(video.size())?;
        limits.check_kept(indices.len(), resized)?;
        let mut frames = Frames::empty(resized, indices.len());
        video
            .read(indices, &mut |picture| self.frame.resize_into(picture, resized, &mut frames))?;
        let grid = self.frame.grid(frames.count(), resized);
        Ok(Prepared { frames, grid, decoded: video.size() })
    }
}
