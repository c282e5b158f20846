//! Positions of tokens in time, height and width (M-RoPE; docs/spec.md, section 7.1), and rows and
//! columns of patches.
//!
//! In Qwen2.5-VL a frame's time is that of the video, docs/spec.md, section 16.3.
//!
//! Text counts on, equally on all three axes. A picture's tokens get the start position plus their
//! frame, row and column; the text behind it goes on one past the largest of them. Padding is no
//! concern here but in [`padded`]: sequences hold their real tokens alone.

use super::config::{ModelConfig, TimeRule, WindowedConfig};
use crate::units::{GridThw, PatchRows, TokenId};

/// What placeholders stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visual {
    /// A picture.
    Image,
    /// A video.
    Video,
}

impl std::fmt::Display for Visual {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Video => "video",
        })
    }
}

/// Token ids and grids that do not fit one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PositionError {
    /// More groups of placeholders than grids.
    #[error("sequence {sequence} has more groups of {kind} placeholders than there are grids")]
    MissingGrid {
        /// Number of the sequence in its batch.
        sequence: usize,
        /// What has no grid.
        kind: Visual,
    },
    /// A group of placeholders was counted, but an earlier grid has taken its tokens.
    #[error("sequence {sequence}: no {kind} placeholder is left for its last grid")]
    NoPlaceholder {
        /// Number of the sequence in its batch.
        sequence: usize,
        /// What has no placeholder.
        kind: Visual,
    },
    /// A grid with more tokens than the sequence has from its first placeholder on.
    #[error("sequence {sequence}: grid {grid} passes the end of the {len} tokens")]
    PastEnd {
        /// Number of the sequence in its batch.
        sequence: usize,
        /// The grid in patches.
        grid: GridThw,
        /// Tokens of the sequence.
        len: usize,
    },
    /// Grids that no placeholder asks for.
    #[error("{unused} {kind} grids belong to no placeholder")]
    UnusedGrids {
        /// What they describe.
        kind: Visual,
        /// How many are left.
        unused: usize,
    },
    /// A grid with an empty side, or one that the merge does not divide.
    #[error("grid {grid}: sides must be positive and multiples of {merge}")]
    Grid {
        /// The grid in patches.
        grid: GridThw,
        /// Patches along each side of a merged patch.
        merge: usize,
    },
    /// A video of Qwen2.5-VL whose seconds are missing or no number of seconds.
    #[error("second_per_grid_ts has no usable number for a video of sequence {sequence}")]
    Seconds {
        /// Number of the sequence in its batch.
        sequence: usize,
    },
    /// Positions that pass 31 bits.
    #[error("{len} tokens are too many for positions of 31 bits")]
    TooLong {
        /// Tokens of the sequence.
        len: usize,
    },
}

/// Grids of pictures and videos in the order of their placeholders, taken one after another.
#[derive(Clone, Copy, Debug, Default)]
pub struct Grids<'a> {
    /// Pictures.
    pub images: &'a [GridThw],
    /// Videos.
    pub videos: &'a [GridThw],
    /// Seconds from one group of frames of each video to the next, for Qwen2.5-VL; none is 1.
    pub seconds: Option<&'a [f64]>,
}

/// Positions of one sequence without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Time, height and width of each token.
    pub axes: [Vec<i32>; 3],
    /// Position of the token that follows, on all axes; each later one is one more.
    pub next: i32,
}

impl Positions {
    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.axes[0].len()
    }

    /// Whether there is no token.
    pub fn is_empty(&self) -> bool {
        self.axes[0].is_empty()
    }

    /// One more than the largest position: what the rotation calls the length of a pass.
    pub fn span(&self) -> usize {
        usize::try_from(self.next).unwrap_or(0)
    }

    /// The reference's `rope_deltas` for a row of `row_len` slots, padding among them: what a
    /// token's slot lacks to its position.
    pub fn delta(&self, row_len: usize) -> i64 {
        i64::from(self.next) - i64::try_from(row_len).unwrap_or(i64::MAX)
    }

    /// No token yet; `count` of them will follow, from position `next` on.
    fn starting_at(next: i32, count: usize) -> Result<Self, PositionError> {
        if narrow(count)?.checked_add(next).is_none() {
            return Err(PositionError::TooLong { len: count });
        }
        Ok(Self { next, ..Self::default() })
    }

    fn push_text(&mut self, count: i32) {
        for axis in &mut self.axes {
            axis.extend(self.next..self.next + count);
        }
        self.next += count;
    }

    /// Places merged patches in row-major order, `times` being those of their frames; sides are in
    /// merged patches.
    fn push_visual(&mut self, times: &[i32], [h, w]: [i32; 2]) -> Result<(), PositionError> {
        let base = self.next;
        let last = times.last().map_or(0, |time| time.saturating_add(1));
        let next = base.checked_add(last.max(h).max(w));
        self.next = next.ok_or(PositionError::TooLong { len: self.len() })?;
        for frame in times.iter().map(|time| base + time) {
            for row in base..base + h {
                for column in base..base + w {
                    for (axis, position) in self.axes.iter_mut().zip([frame, row, column]) {
                        axis.push(position);
                    }
                }
            }
        }
        Ok(())
    }
}

/// Positions 0, 1, 2, … of `count` text tokens.
///
/// # Errors
/// [`PositionError::TooLong`].
pub fn text(count: usize) -> Result<Positions, PositionError> {
    text_from(0, count)
}

/// Positions `start`, `start + 1`, … of `count` text tokens.
fn text_from(start: i32, count: usize) -> Result<Positions, PositionError> {
    let mut positions = Positions::starting_at(start, count)?;
    positions.push_text(narrow(count)?);
    Ok(positions)
}

/// Positions of one sequence whose grids are all its own.
///
/// # Errors
/// [`PositionError`] where ids and grids do not fit one another.
pub fn sequence(
    config: &ModelConfig,
    ids: &[TokenId],
    mut grids: Grids<'_>,
) -> Result<Positions, PositionError> {
    if grids.images.is_empty() && grids.videos.is_empty() {
        return text(ids.len());
    }
    let positions = place(config, ids, &mut grids, (0, 0))?;
    check_all_used(&grids)?;
    Ok(positions)
}

/// Positions of the sequences of a batch, whose grids follow one another over the whole batch. As
/// in the reference, a batch without any grid is text, whatever placeholders it holds.
///
/// # Errors
/// [`PositionError`] where ids and grids do not fit one another.
pub fn batch(
    config: &ModelConfig,
    sequences: &[Vec<TokenId>],
    grids: Option<Grids<'_>>,
) -> Result<Vec<Positions>, PositionError> {
    continued(config, sequences, grids, &vec![0; sequences.len()])
}

/// As [`batch`], where the first token of each sequence has position `starts`: what a cache holds
/// goes before. The reference takes text positions here whatever the tokens are.
///
/// # Errors
/// [`PositionError`] where ids and grids do not fit one another.
pub fn continued(
    config: &ModelConfig,
    sequences: &[Vec<TokenId>],
    grids: Option<Grids<'_>>,
    starts: &[i32],
) -> Result<Vec<Positions>, PositionError> {
    let pairs = sequences.iter().zip(starts);
    let Some(mut grids) = grids else {
        return pairs.map(|(ids, start)| text_from(*start, ids.len())).collect();
    };
    let positions = pairs
        .enumerate()
        .map(|(number, (ids, start))| place(config, ids, &mut grids, (number, *start)))
        .collect::<Result<_, _>>()?;
    check_all_used(&grids)?;
    Ok(positions)
}

/// The reference's `position_ids` `[3, B, S]` and `rope_deltas` `[B]` of a padded batch; `mask`
/// `[B, S]` says which slots hold the sequences' tokens. Padding has position 1, as there.
pub fn padded(sequences: &[Positions], mask: &[bool]) -> (Vec<i64>, Vec<i64>) {
    let row_len = mask.len().checked_div(sequences.len()).unwrap_or(0);
    let mut ids = Vec::with_capacity(mask.len().saturating_mul(3));
    for axis in 0..3 {
        for (positions, row) in sequences.iter().zip(mask.chunks(row_len.max(1))) {
            let mut real = positions.axes[axis].iter().map(|position| i64::from(*position));
            ids.extend(row.iter().map(|held| if *held { real.next().unwrap_or(1) } else { 1 }));
        }
    }
    let deltas = sequences.iter().map(|positions| positions.delta(row_len)).collect();
    (ids, deltas)
}

/// (row, column) of each patch row of `grids`, `[R, 2]`, in the order in which patches that are
/// merged stand together; the same for every frame of a video.
///
/// # Errors
/// [`PositionError::Grid`] for a side that is empty or no multiple of the merge.
pub fn patches(config: &ModelConfig, grids: &[GridThw]) -> Result<Vec<[i32; 2]>, PositionError> {
    let merge = config.vision.spatial_merge_size;
    let mut places = Vec::new();
    for grid in grids {
        let PatchRows(rows) = check_grid(*grid, merge)?;
        let side = narrow(merge)?;
        let (h, w) = (narrow(grid.h)?, narrow(grid.w)?);
        places.reserve(rows);
        for _frame in 0..grid.t {
            for top in (0..h).step_by(merge) {
                for left in (0..w).step_by(merge) {
                    let block =
                        (0..side).flat_map(|row| (0..side).map(move |column| (row, column)));
                    places.extend(block.map(|(row, column)| [top + row, left + column]));
                }
            }
        }
    }
    Ok(places)
}

/// Patch rows of a grid whose sides are positive multiples of `merge`.
fn check_grid(grid: GridThw, merge: usize) -> Result<PatchRows, PositionError> {
    let tokens = grid.merged_tokens(merge).filter(|tokens| tokens.0 > 0);
    match (tokens, grid.patch_rows()) {
        (Some(_), Some(rows)) => Ok(rows),
        _ => Err(PositionError::Grid { grid, merge }),
    }
}

fn check_all_used(grids: &Grids<'_>) -> Result<(), PositionError> {
    for (kind, left) in [(Visual::Image, grids.images), (Visual::Video, grids.videos)] {
        if !left.is_empty() {
            return Err(PositionError::UnusedGrids { kind, unused: left.len() });
        }
    }
    Ok(())
}

/// The reference's walk through one sequence: each group takes the first placeholder of its kind
/// from where the last one ended.
fn place(
    config: &ModelConfig,
    ids: &[TokenId],
    grids: &mut Grids<'_>,
    (sequence, first): (usize, i32),
) -> Result<Positions, PositionError> {
    let tokens = config.tokens;
    let merge = config.vision.spatial_merge_size;
    let groups = |placeholder: TokenId| {
        ids.windows(2).filter(|pair| **pair == [tokens.start, placeholder]).count()
    };
    let (mut images, mut videos) = (groups(tokens.image), groups(tokens.video));
    let mut positions = Positions::starting_at(first, ids.len())?;
    while images + videos > 0 {
        let start = positions.len();
        let first = |placeholder: TokenId, groups: usize| match groups {
            0 => None,
            _ => ids.iter().skip(start).position(|id| *id == placeholder),
        };
        let image = first(tokens.image, images).unwrap_or(usize::MAX);
        let video = first(tokens.video, videos).unwrap_or(usize::MAX);
        let (kind, left, groups, before) = if image < video {
            (Visual::Image, &mut grids.images, &mut images, image)
        } else {
            (Visual::Video, &mut grids.videos, &mut videos, video)
        };
        if before == usize::MAX {
            let kind = if images > 0 { Visual::Image } else { Visual::Video };
            return Err(PositionError::NoPlaceholder { sequence, kind });
        }
        let Some((grid, rest)) = left.split_first() else {
            return Err(PositionError::MissingGrid { sequence, kind });
        };
        (*left, *groups) = (rest, *groups - 1);
        check_grid(*grid, merge)?;
        let count = grid.merged_tokens(merge).map_or(usize::MAX, |count| count.0);
        if count > ids.len() - start - before {
            return Err(PositionError::PastEnd { sequence, grid: *grid, len: ids.len() });
        }
        positions.push_text(narrow(before)?);
        let times = match &config.vision.windowed {
            None => (0..narrow(grid.t)?).collect(),
            Some(_) if kind == Visual::Image => vec![0; grid.t],
            Some(windowed) => {
                let seconds = take_seconds(&mut grids.seconds);
                times(windowed, grid.t, seconds).ok_or(PositionError::Seconds { sequence })?
            }
        };
        let sides = [narrow(grid.h / merge)?, narrow(grid.w / merge)?];
        positions.push_visual(&times, sides)?;
    }
    let rest = ids.len() - positions.len();
    positions.push_text(narrow(rest)?);
    Ok(positions)
}

/// The seconds of the next video.
fn take_seconds(seconds: &mut Option<&[f64]>) -> Option<f64> {
    let Some(list) = seconds else { return Some(1.0) };
    let (first, rest) = list.split_first()?;
    *list = rest;
    Some(*first)
}

/// Times of the frames of a video, in positions from its start; `None` where `seconds` is missing
/// or gives none.
fn times(windowed: &WindowedConfig, frames: usize, seconds: Option<f64>) -> Option<Vec<i32>> {
    let seconds = seconds.filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
    let seconds = match windowed.time {
        TimeRule::Reference => seconds.trunc(),
        TimeRule::Exact => seconds,
    };
    let rate = windowed.tokens_per_second;
    let time = |frame: usize| {
        #[expect(clippy::cast_precision_loss, reason = "frames are far below 2^53")]
        let time = (frame as f64 * seconds * rate).trunc();
        #[expect(clippy::cast_possible_truncation, reason = "a whole number below 2^31")]
        (time < f64::from(i32::MAX)).then_some(time as i32)
    };
    (0..frames).map(time).collect()
}

/// A count of tokens as a position; no position of a sequence passes its length.
fn narrow(count: usize) -> Result<i32, PositionError> {
    i32::try_from(count).map_err(|_too_large| PositionError::TooLong { len: count })
}
