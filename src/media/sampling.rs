//! Which frames of a video are taken (docs/spec.md, section 4.3).

use super::MediaError;

/// Most indices of one sampling: what a request asks for is bounded before memory is taken.
const MOST_FRAMES: f64 = 1_000_000.0;

/// How frames are chosen: by a rate, by a number, or, with neither, all of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameSampling {
    /// Frames a second of the source's time.
    pub fps: Option<f64>,
    /// So many frames, rounded half to even to a multiple of the temporal patch.
    pub num_frames: Option<u64>,
    /// Least frames where `fps` decides.
    pub min_frames: u64,
    /// Most frames where `fps` decides.
    pub max_frames: u64,
    /// Seconds of the source before the first frame that counts.
    pub start: Option<f64>,
    /// Seconds of the source after which no frame counts.
    pub end: Option<f64>,
}

/// All frames; the reference's limits where a rate is given.
impl Default for FrameSampling {
    fn default() -> Self {
        let (min_frames, max_frames) = (4, 768);
        Self { fps: None, num_frames: None, min_frames, max_frames, start: None, end: None }
    }
}

/// What a request says about frames; each over what holds without it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct FrameWishes {
    /// Frames a second of the source's time.
    pub fps: Option<f64>,
    /// So many frames.
    pub num_frames: Option<u64>,
    /// Least frames where a rate decides.
    pub min_frames: Option<u64>,
    /// Most frames where a rate decides.
    pub max_frames: Option<u64>,
    /// Seconds before the first frame that counts.
    pub start: Option<f64>,
    /// Seconds after which no frame counts.
    pub end: Option<f64>,
}

impl FrameWishes {
    /// The wishes over `base`: a rate or a number replaces both of its rate and number.
    pub fn over(self, base: FrameSampling) -> FrameSampling {
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

impl FrameSampling {
    /// Refuses values that no source could be sampled with.
    ///
    /// # Errors
    /// [`MediaError::SamplingChoice`] for both of `fps` and `num_frames`, [`MediaError::Sampling`]
    /// for a value outside of its domain.
    pub fn check(self) -> Result<Self, MediaError> {
        if self.fps.is_some() && self.num_frames.is_some() {
            return Err(MediaError::SamplingChoice);
        }
        let rate = |fps: f64| fps.is_finite() && fps > 0.0;
        if let Some(fps) = self.fps.filter(|fps| !rate(*fps)) {
            return Err(wrong("fps", fps, "a rate above 0"));
        }
        let moment = |seconds: f64| seconds.is_finite() && seconds >= 0.0;
        for (key, value) in [("start", self.start), ("end", self.end)] {
            if let Some(value) = value.filter(|value| !moment(*value)) {
                return Err(wrong(key, value, "seconds from 0"));
            }
        }
        if self.num_frames == Some(0) {
            return Err(wrong("num_frames", 0.0, "a whole number from 1"));
        }
        Ok(self)
    }

    /// The reference's indices of `total` frames, `start` and `end` aside.
    ///
    /// They ascend. The reference steps in binary64 and rounds to binary32, so the last index may be
    /// `total` itself, one past the last frame; [`FrameSampling::choose`] drops it.
    ///
    /// # Errors
    /// Those of [`FrameSampling::check`]; [`MediaError::NoRate`] for `fps` without the source's
    /// rate; [`MediaError::TooManyFrames`] for more than there are; [`MediaError::NoFrames`] where
    /// none is left; [`MediaError::Limit`].
    pub fn indices(
        self,
        total: usize,
        source_fps: Option<f64>,
        temporal_patch: usize,
    ) -> Result<Vec<usize>, MediaError> {
        let this = self.check()?;
        let (all, patch) = (total as f64, temporal_patch as f64);
        let count = match (this.num_frames, this.fps) {
            (Some(number), _) => (number as f64 / patch).round_ties_even() * patch,
            (None, Some(fps)) => {
                let rate = source_fps.filter(|rate| rate.is_finite() && *rate > 0.0);
                let rate = rate.ok_or(MediaError::NoRate)?;
                let most = ((this.max_frames as f64).min(all) / patch).floor() * patch;
                let wanted = (all / rate * fps).max(this.min_frames as f64).min(most).min(all);
                (wanted / patch).floor() * patch
            }
            (None, None) => all,
        };
        if count > all {
            return Err(MediaError::TooManyFrames { wanted: whole(count), total });
        }
        if count < 1.0 {
            return Err(MediaError::NoFrames { total });
        }
        if count > MOST_FRAMES {
            let (got, max) = (whole(count) as u64, whole(MOST_FRAMES) as u64);
            return Err(MediaError::Limit { limit: "frames of a video", got, max });
        }
        let step = all / count;
        Ok((0..whole((all / step).ceil()))
            .map(|index| whole(narrow(index as f64 * step)))
            .collect())
    }

    /// The frames that are taken of a source: `start` and `end` first, then the rate or number.
    /// A source of a single frame is that frame.
    ///
    /// # Errors
    /// As [`FrameSampling::indices`]; [`MediaError::NoRate`] for `start` or `end` without the
    /// source's rate; [`MediaError::NoFrames`] for a stretch without frames.
    pub fn choose(
        self,
        total: usize,
        source_fps: Option<f64>,
        temporal_patch: usize,
    ) -> Result<Vec<usize>, MediaError> {
        let this = self.check()?;
        let (mut first, mut last) = (0, total.saturating_sub(1));
        if this.start.is_some() || this.end.is_some() {
            let rate = source_fps.ok_or(MediaError::NoRate)?;
            first = this.start.map_or(first, |seconds| whole((seconds * rate).ceil()));
            last = this.end.map_or(last, |seconds| last.min(whole((seconds * rate).floor())));
        }
        let count = if first > last || total == 0 { 0 } else { last - first + 1 };
        if count == 1 && this.num_frames.is_none() {
            return Ok(vec![first]);
        }
        let indices = this.indices(count, source_fps, temporal_patch)?;
        Ok(indices.into_iter().filter(|index| *index < count).map(|index| first + index).collect())
    }
}

fn wrong(key: &'static str, found: f64, expected: &'static str) -> MediaError {
    MediaError::Sampling { key, found: found.to_string(), expected }
}

/// torch.arange gives binary32.
#[expect(clippy::cast_possible_truncation, reason = "one rounding to binary32, the reference's")]
fn narrow(value: f64) -> f64 {
    f64::from(value as f32)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "truncation is the rule, and `as` saturates"
)]
fn whole(value: f64) -> usize {
    value as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_rate(fps: f64) -> FrameSampling {
        FrameSampling { fps: Some(fps), ..FrameSampling::default() }
    }

    fn by_number(frames: u64) -> FrameSampling {
        FrameSampling { num_frames: Some(frames), ..FrameSampling::default() }
    }

    /// (total, source fps, sampling, indices): docs/spec.md, section 4.3
    fn table() -> Vec<(usize, f64, FrameSampling, Vec<usize>)> {
        vec![
            (300, 30.0, by_rate(1.0), (0..10).map(|i| i * 30).collect()),
            (100, 25.0, by_rate(2.0), vec![0, 12, 25, 37, 50, 62, 75, 87]),
            (10, 30.0, by_rate(1.0), vec![0, 2, 5, 7]),
            (3, 30.0, by_rate(1.0), vec![0, 1]),
            (5, 30.0, by_rate(30.0), vec![0, 1, 2, 3]),
            (301, 29.97, by_rate(2.0), (0..20).map(|i| i * 301 / 20).collect()),
            (10, 30.0, by_number(5), vec![0, 2, 5, 7]),
            (10, 30.0, by_number(7), vec![0, 1, 2, 3, 5, 6, 7, 8]),
            (8, 30.0, by_number(9), (0..8).collect()),
            (9, 30.0, FrameSampling::default(), (0..9).collect()),
        ]
    }

    #[test]
    fn indices_of_the_specification() {
        for (total, fps, sampling, expected) in table() {
            let got = sampling.choose(total, Some(fps), 2).unwrap();
            assert_eq!(got, expected, "{total} at {fps}: {sampling:?}");
        }
        assert_eq!(by_number(22).indices(30, None, 2).unwrap()[11], 15, "binary64 would give 14");
    }

    #[test]
    fn an_index_past_the_last_frame_is_dropped() {
        assert_eq!(by_number(14).indices(17, None, 2).unwrap().last(), Some(&17));
        assert_eq!(by_number(14).choose(17, None, 2).unwrap().last(), Some(&15));
    }

    #[test]
    fn a_stretch_of_time_is_cut_before_sampling() {
        let cut = |start, end| FrameSampling { start, end, ..FrameSampling::default() };
        let choose = |sampling: FrameSampling| sampling.choose(100, Some(10.0), 2);
        assert_eq!(choose(cut(Some(0.95), Some(1.25))).unwrap(), [10, 11, 12]);
        assert_eq!(choose(cut(Some(9.7), None)).unwrap(), [97, 98, 99]);
        assert_eq!(choose(cut(None, Some(0.0))).unwrap(), [0]);
        let cut_rate = FrameSampling { fps: Some(1.0), ..cut(Some(2.0), Some(7.9)) };
        assert_eq!(choose(cut_rate).unwrap(), [20, 30, 40, 50, 60, 70]);
        for (start, end) in [(Some(5.0), Some(4.0)), (Some(11.0), None)] {
            assert!(matches!(choose(cut(start, end)), Err(MediaError::NoFrames { .. })));
        }
        let no_rate = cut(Some(1.0), None).choose(100, None, 2);
        assert!(matches!(no_rate, Err(MediaError::NoRate)));
    }

    #[test]
    fn what_cannot_be_sampled_is_named() {
        let both = FrameSampling { num_frames: Some(4), ..by_rate(1.0) };
        assert!(matches!(both.indices(9, Some(1.0), 2), Err(MediaError::SamplingChoice)));
        assert!(matches!(by_rate(1.0).indices(9, None, 2), Err(MediaError::NoRate)));
        assert!(matches!(
            by_number(12).indices(10, None, 2),
            Err(MediaError::TooManyFrames { wanted: 12, total: 10 })
        ));
        assert!(matches!(by_number(1).choose(8, None, 2), Err(MediaError::NoFrames { total: 8 })));
        for fps in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(by_rate(fps).check(), Err(MediaError::Sampling { key: "fps", .. })));
        }
        let million = by_number(2_000_000).indices(4_000_000, None, 2);
        assert!(matches!(million, Err(MediaError::Limit { .. })));
    }

    #[test]
    fn one_frame_is_kept_whatever_the_rate() {
        assert_eq!(by_rate(2.0).choose(1, Some(30.0), 2).unwrap(), [0]);
        assert!(matches!(by_rate(2.0).choose(0, Some(30.0), 2), Err(MediaError::NoFrames { .. })));
    }
}
