//! Scalar oracle of `kernels/patch_embed.cu`.

use crate::units::{Float, GridThw};

/// Frames of pixels and how they are cut into patches.
#[derive(Clone, Copy, Debug)]
pub struct Frames<'a> {
    /// `[frames, 3, grid.h * patch, pitch]`.
    pub pixels: &'a [u8],
    /// Frames in `pixels`; later ones repeat the last.
    pub frames: usize,
    /// Bytes from one row to the next.
    pub pitch: usize,
    /// Size in patches.
    pub grid: GridThw,
    /// Side of a patch.
    pub patch: usize,
    /// Frames of a group.
    pub temporal: usize,
    /// Side of a merged patch in patches.
    pub merge: usize,
}

impl Frames<'_> {
    fn pixel(&self, frame: usize, colour: usize, y: usize, x: usize) -> u8 {
        let frame = frame.min(self.frames - 1);
        let rows = self.grid.h * self.patch;
        self.pixels[((frame * 3 + colour) * rows + y) * self.pitch + x]
    }
}

/// The permutation of docs/spec.md 3.8, axis by axis: `[gt, gh/M, gw/M, M, M, C, Tp, P, P]`, each
/// row padded with zeros to `depth`. `value` is the normalised value of a colour's byte.
pub fn patch_rows<T: Float>(
    frames: Frames<'_>,
    depth: usize,
    value: impl Fn(usize, u8) -> T,
) -> Vec<T> {
    let Frames { grid, patch, temporal, merge, .. } = frames;
    let mut rows = Vec::new();
    for group in 0..grid.t {
        for block_row in 0..grid.h / merge {
            for block_column in 0..grid.w / merge {
                for inside in 0..merge * merge {
                    let top = (block_row * merge + inside / merge) * patch;
                    let left = (block_column * merge + inside % merge) * patch;
                    let start = rows.len();
                    for colour in 0..3 {
                        for frame in 0..temporal {
                            for y in 0..patch {
                                for x in 0..patch {
                                    let frame = group * temporal + frame;
                                    let pixel = frames.pixel(frame, colour, top + y, left + x);
                                    rows.push(value(colour, pixel));
                                }
                            }
                        }
                    }
                    rows.resize(start + depth, T::default());
                }
            }
        }
    }
    rows
}
