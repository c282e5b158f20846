//! Media of a request as the vision tower takes them.

use crate::{
    media::Prepared,
    model::{
        config::VisionTokens,
        vision::{Pixels, VisionItem},
    },
    prompt::{MediaKind, Processed, Processor},
    units::{GridThw, TokenId},
};

/// A picture or a video before the tower.
#[derive(Debug)]
pub(crate) enum VisualInput {
    /// Bytes, which the device turns into values by the processor's table.
    Frames(Prepared),
    /// `pixel_values`, where the device has another table.
    Values { grid: GridThw, values: Vec<f32> },
}

/// Pictures, then videos: the order of the rows that [`rows`] names.
pub(super) fn inputs(processor: &Processor, processed: Processed) -> Vec<VisualInput> {
    let table = processor.preprocessor().normalization();
    let same_table = processor.video_preprocessor().frame().normalization() == table;
    let (mut images, mut videos) = (Vec::new(), Vec::new());
    for medium in processed.media {
        match medium.used.kind {
            MediaKind::Image => images.extend(medium.prepared.map(VisualInput::Frames)),
            MediaKind::Video if same_table => {
                videos.extend(medium.prepared.map(VisualInput::Frames));
            }
            MediaKind::Video => {
                let grid = medium.used.grid;
                let values = processor.pixel_values(&medium);
                videos.extend(values.map(|values| VisualInput::Values { grid, values }));
            }
        }
    }
    images.append(&mut videos);
    images
}

/// For each token its row among those of the tower, -1 for text. Rows of pictures stand first.
pub(super) fn rows(tokens: VisionTokens, ids: &[TokenId]) -> Vec<i32> {
    let of = |placeholder| ids.iter().filter(|id| **id == placeholder).count();
    let (mut image, mut video) = (0, i32::try_from(of(tokens.image)).unwrap_or(i32::MAX));
    let mut take = |id: &TokenId| {
        let next = match *id {
            id if id == tokens.image => &mut image,
            id if id == tokens.video => &mut video,
            _ => return -1,
        };
        *next += 1;
        *next - 1
    };
    ids.iter().map(&mut take).collect()
}

/// What the tower runs over: a video of more than `limit` patch rows in stretches of whole temporal
/// patches, since no patch sees beyond its own. `temporal` is the number of frames of one.
pub(super) fn items(inputs: &[VisualInput], limit: usize, temporal: usize) -> Vec<VisionItem<'_>> {
    let mut items = Vec::new();
    for input in inputs {
        let grid = match input {
            VisualInput::Frames(prepared) => prepared.grid,
            VisualInput::Values { grid, .. } => *grid,
        };
        let rows = grid.h * grid.w;
        let stretch = (limit / rows.max(1)).clamp(1, grid.t);
        for start in (0..grid.t).step_by(stretch) {
            let t = stretch.min(grid.t - start);
            let pixels = match input {
                VisualInput::Frames(prepared) => frames(prepared, start * temporal, t * temporal),
                VisualInput::Values { values, .. } => {
                    let row = values.len() / (grid.t * rows).max(1);
                    Pixels::Values(&values[start * rows * row..(start + t) * rows * row])
                }
            };
            items.push(VisionItem { pixels, grid: GridThw { t, ..grid } });
        }
    }
    items
}

/// Some of the frames, as many as there are.
fn frames(prepared: &Prepared, first: usize, count: usize) -> Pixels<'_> {
    let all = &prepared.frames;
    let frames = count.min(all.count() - first);
    let bytes = 3 * all.plane_bytes();
    let data = &all.data()[first * bytes..(first + frames) * bytes];
    Pixels::Frames { data, frames, pitch: all.row_pitch() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::{Frames, Rgb8, Size};

    #[test]
    fn rows_of_pictures_stand_before_those_of_videos() {
        let [image, video, start, end] = [7, 8, 9, 10].map(TokenId);
        let tokens = VisionTokens { image, video, start, end };
        let ids = [9, 8, 8, 10, 1, 9, 7, 10, 9, 8, 10].map(TokenId);
        assert_eq!(rows(tokens, &ids), [-1, 1, 2, -1, -1, -1, 0, -1, -1, 3, -1]);
    }

    #[test]
    fn a_long_video_runs_in_stretches_that_hold_all_of_it() {
        let size = Size { height: 28, width: 28 };
        let frame = |value: u8| Rgb8::new(size, vec![value; 28 * 28 * 3]).unwrap();
        let frames = Frames::new(&(0..5).map(frame).collect::<Vec<_>>()).unwrap();
        let grid = GridThw { t: 3, h: 2, w: 2 };
        let input = VisualInput::Frames(Prepared { frames, grid, decoded: size });
        for (limit, lengths) in [(1, vec![1, 1, 1]), (8, vec![2, 1]), (100, vec![3])] {
            let items = items(std::slice::from_ref(&input), limit, 2);
            assert_eq!(items.iter().map(|item| item.grid.t).collect::<Vec<_>>(), lengths);
            let mut first = 0;
            for item in items {
                let Pixels::Frames { data, frames, .. } = item.pixels else { panic!() };
                assert_eq!(frames, (item.grid.t * 2).min(5 - usize::from(first)));
                assert_eq!(data[0], first);
                first += u8::try_from(frames).unwrap();
            }
            assert_eq!(first, 5);
        }
    }
}
