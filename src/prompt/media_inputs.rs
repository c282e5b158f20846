//! Media of a conversation: read, measured, resized, several at a time.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use super::message::{PartKind, at};
use super::parts::{Clip, Picture, SizeWishes};
use super::{Conversation, Processor, PromptError, Spot};
use crate::media::{
    Alpha, FrameSampling, MediaError, PixelBudget, Prepared, Preprocessor, Size, Video, VideoReader,
};
use crate::units::{GridThw, Tokens};

/// Kind of a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A video.
    Video,
}

impl MediaKind {
    /// `image` or `video`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video",
        }
    }
}

/// One picture or video of a prompt, with the settings that were used for it.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaUse {
    /// Kind.
    pub kind: MediaKind,
    /// Path or size of its source.
    pub source: String,
    /// Height and width before the resize, of one frame.
    pub decoded: Size,
    /// Height and width after it, as the model sees it.
    pub resized: Size,
    /// Bounds of the resize.
    pub budget: PixelBudget,
    /// In patches.
    pub grid: GridThw,
    /// Visual tokens.
    pub tokens: Tokens,
    /// Whether EXIF turned it, where it is a picture.
    pub turned: bool,
    /// Whether transparency was dropped from it, where it is a picture.
    pub alpha_dropped: bool,
    /// Which frames were taken of a video.
    pub frames: Option<SampledFrames>,
}

/// One picture or video of a prompt, and the settings that were used for it.
#[derive(Clone, Debug, PartialEq)]
pub struct MediaInput {
    /// Where it stands.
    pub spot: Spot,
    /// What it is and what became of it.
    pub used: MediaUse,
    /// Pixels; none where only tokens were counted.
    pub prepared: Option<Prepared>,
}

/// Which frames were taken of a video.
#[derive(Clone, Debug, PartialEq)]
pub struct SampledFrames {
    /// Frames of the source.
    pub total: usize,
    /// Frames a second of the source, where it has times.
    pub source_fps: Option<f64>,
    /// How they were chosen.
    pub sampling: FrameSampling,
    /// Seconds from one group of frames to the next, as Qwen2.5-VL counts them.
    pub seconds_per_group: f64,
    /// Each frame by its place in the source, ascending.
    pub indices: Vec<usize>,
}

impl SampledFrames {
    /// Seconds of each frame in the source, where it has times.
    pub fn timestamps(&self) -> Option<Vec<f64>> {
        let rate = self.source_fps?;
        Some(self.indices.iter().map(|index| *index as f64 / rate).collect())
    }
}

/// How far into a medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    Headers,
    Pixels,
}

/// A part with a medium.
enum Wanted {
    Picture(Picture),
    Clip(Clip),
}

impl Processor {
    /// Media in the order of their parts.
    pub(super) fn media(
        &self,
        index: usize,
        conversation: &Conversation,
        depth: Depth,
    ) -> Result<Vec<MediaInput>, PromptError> {
        let wanted = self.wanted(index, conversation)?;
        let read = |(spot, wanted): &(Spot, Wanted)| match wanted {
            Wanted::Picture(picture) => self.image(picture, *spot, depth),
            Wanted::Clip(clip) => self.video(clip, *spot, depth),
        };
        in_parallel(&wanted, self.limits.media_threads, read)
    }

    fn wanted(
        &self,
        index: usize,
        conversation: &Conversation,
    ) -> Result<Vec<(Spot, Wanted)>, PromptError> {
        let (folder, limits) = (&conversation.folder, &self.limits.media);
        let mut wanted = Vec::new();
        for (message, content) in conversation.messages.iter().enumerate() {
            for (part, value) in content.parts().iter().enumerate() {
                let spot = Spot { conversation: index, message, part: Some(part) };
                match value.kind() {
                    PartKind::Image => {
                        let picture = value.picture(folder, spot, limits)?;
                        wanted.push((spot, Wanted::Picture(picture)));
                    }
                    PartKind::Video => {
                        let clip = value.clip(folder, spot, limits)?;
                        wanted.push((spot, Wanted::Clip(clip)));
                    }
                    PartKind::Text | PartKind::Other => {}
                }
            }
        }
        Ok(wanted)
    }

    fn image(
        &self,
        picture: &Picture,
        spot: Spot,
        depth: Depth,
    ) -> Result<MediaInput, PromptError> {
        let limits = &self.limits.media;
        let preprocessor = wished(&self.preprocessor, picture.size).map_err(at(spot))?;
        let bytes = picture.source.read(limits).map_err(at(spot))?;
        let opened = self.decoding.open(&bytes, limits).map_err(at(spot))?;
        let (decoded, turned) = (opened.size(), opened.is_turned());
        let alpha_dropped = opened.has_alpha() && self.decoding.alpha == Alpha::Drop;
        let prepared = match depth {
            Depth::Headers => None,
            Depth::Pixels => {
                let rgb = opened.rgb().map_err(at(spot))?;
                Some(preprocessor.image(&rgb).map_err(at(spot))?)
            }
        };
        let resized = preprocessor.resized(decoded).map_err(at(spot))?;
        let grid = preprocessor.grid(1, resized);
        let used = MediaUse {
            kind: MediaKind::Image,
            source: picture.source.name(),
            decoded,
            resized,
            budget: preprocessor.budget(),
            grid,
            tokens: tokens(grid, &preprocessor, spot)?,
            turned,
            alpha_dropped,
            frames: None,
        };
        Ok(MediaInput { spot, used, prepared })
    }

    fn video(&self, clip: &Clip, spot: Spot, depth: Depth) -> Result<MediaInput, PromptError> {
        let reader = VideoReader {
            decoding: self.decoding,
            ffmpeg: self.ffmpeg.clone(),
            limits: self.limits.media,
        };
        let video = Video::open(&clip.source, &reader).map_err(at(spot))?;
        let mut video = video.with_fps(clip.source_fps);
        match self.sampled(clip, &video, spot, depth) {
            // A container that promises more frames than it has.
            Err(PromptError::Media { source: MediaError::FrameMissing { .. }, .. })
                if video.recount().map_err(at(spot))? =>
            {
                self.sampled(clip, &video, spot, depth)
            }
            done => done,
        }
    }

    fn sampled(
        &self,
        clip: &Clip,
        video: &Video,
        spot: Spot,
        depth: Depth,
    ) -> Result<MediaInput, PromptError> {
        let limits = &self.limits.media;
        let sampling = clip.sampling(self.video.sampling());
        let patch = self.video.frame().temporal_patch_size();
        let indices = sampling.choose(video.frames(), video.fps(), patch).map_err(at(spot))?;
        let mut preprocessor = wished(self.video.frame(), clip.size).map_err(at(spot))?;
        if let Some(total) = clip.total_pixels {
            preprocessor = shared_pixels(preprocessor, total, indices.len()).map_err(at(spot))?;
        }
        let preprocessor = self.video.clone().with_frame(preprocessor);
        let resized = preprocessor.frame().resized(video.size()).map_err(at(spot))?;
        let prepared = match depth {
            Depth::Headers => None,
            Depth::Pixels => Some(preprocessor.video(video, &indices, limits).map_err(at(spot))?),
        };
        let grid = preprocessor.frame().grid(indices.len(), resized);
        let (total, source_fps) = (video.frames(), video.fps());
        let used = MediaUse {
            kind: MediaKind::Video,
            source: clip.source.name(),
            decoded: video.size(),
            resized,
            budget: preprocessor.frame().budget(),
            grid,
            tokens: tokens(grid, preprocessor.frame(), spot)?,
            turned: false,
            alpha_dropped: false,
            frames: Some(SampledFrames {
                total,
                source_fps,
                sampling,
                seconds_per_group: self.video.seconds_per_group(clip.asked_fps()),
                indices,
            }),
        };
        Ok(MediaInput { spot, used, prepared })
    }
}

/// Each item's result in order, or the first error in order, with up to `threads` at work.
fn in_parallel<T: Sync, R: Send, E: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<R, E> + Sync,
) -> Result<Vec<R>, E> {
    let threads = threads.min(items.len());
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || {
        let mut done = Vec::new();
        // Items are taken in order: one before the first failure is never left out.
        while !failed.load(Ordering::Relaxed)
            && let Some((place, item)) = nth(items, next.fetch_add(1, Ordering::Relaxed))
        {
            let result = work(item);
            failed.fetch_or(result.is_err(), Ordering::Relaxed);
            done.push((place, result));
        }
        done
    };
    let mut done: Vec<(usize, Result<R, E>)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        for other in others {
            match other.join() {
                Ok(more) => done.extend(more),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    done.sort_by_key(|(place, _)| *place);
    done.into_iter().map(|(_, result)| result).collect()
}

fn nth<T>(items: &[T], place: usize) -> Option<(usize, &T)> {
    items.get(place).map(|item| (place, item))
}

/// The processor with what a part asks for.
fn wished(preprocessor: &Preprocessor, size: SizeWishes) -> Result<Preprocessor, MediaError> {
    let preprocessor = preprocessor.clone().with_budget(size.min_pixels, size.max_pixels)?;
    // A part's own size stands before the processor's.
    Ok(match size.target {
        Some(target) => preprocessor.with_target(Some(target)),
        None => preprocessor,
    })
}

/// The rule of qwen-vl-utils: frames share `total` pixels, two frames those of one, and keep a
/// twentieth more than their least.
fn shared_pixels(
    preprocessor: Preprocessor,
    total: u64,
    frames: usize,
) -> Result<Preprocessor, MediaError> {
    let PixelBudget { min, max } = preprocessor.budget();
    let frames = u64::try_from(frames.max(1)).unwrap_or(u64::MAX);
    let patch = u64::try_from(preprocessor.temporal_patch_size()).unwrap_or(u64::MAX);
    let share = total.saturating_mul(patch) / frames;
    let least = min.saturating_add(min / 20);
    preprocessor.with_budget(None, Some(share.min(max).max(least)))
}

fn tokens(grid: GridThw, preprocessor: &Preprocessor, spot: Spot) -> Result<Tokens, PromptError> {
    let merge = preprocessor.merge_size();
    grid.merged_tokens(merge).ok_or(PromptError::Grid { spot, grid, merge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_the_first_failure_counts() {
        let items: Vec<usize> = (0..100).collect();
        for threads in [0, 1, 2, 7, 200] {
            let squares = in_parallel(&items, threads, |item| Ok::<_, usize>(item * item));
            assert_eq!(squares.unwrap(), items.iter().map(|i| i * i).collect::<Vec<_>>());
            let failing = |item: &usize| if item % 40 == 39 { Err(*item) } else { Ok(*item) };
            assert_eq!(in_parallel(&items, threads, failing), Err(39), "{threads} threads");
        }
    }
}
