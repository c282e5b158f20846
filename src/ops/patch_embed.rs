//! Pixels of frames to rows of patches, normalised; the patch embedding is then a
//! [`Gemm`](super::gemm::Gemm) over these rows. Kernel `kernels/patch_embed.cu`, oracle
//! [`crate::reference::patch_embed`].

use super::params::{PATCHIFY_COLOURS, PATCHIFY_ROWS, PATCHIFY_THREADS, PatchifyParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, GridThw};

const OP: &str = "patch_embed";
const COLOURS: usize = PATCHIFY_COLOURS as usize;
/// Values of a pixel's byte.
const LEVELS: usize = 256;
/// The depth of a GEMM is a multiple of this; rows of patches are padded to it with zeros.
const DEPTH: usize = 16;

/// How a byte becomes the value that the reference feeds to its convolution.
#[derive(Clone, Copy, Debug)]
pub enum Normalisation<'a> {
    /// `E(fma(pixel, scale, shift))` for each colour, where that equals the table's value for
    /// all 768 inputs; E rounds to the type of `y`.
    Affine {
        /// `1 / (255 std)` for red, green, blue.
        scale: [f32; COLOURS],
        /// `-mean / std`.
        shift: [f32; COLOURS],
    },
    /// `[3, 256]`: the value of each byte for red, green, blue.
    Table(FloatView<'a>),
}

/// One launch: the patch rows of one picture or video (docs/spec.md, 3.8).
///
/// Row `r` is a patch in the order (group of frames, rows of merged patches, columns of merged
/// patches, row, column inside the merged patch); its columns are (colour, frame of the group, row,
/// column), then zeros up to [`Patchify::depth`]. A group that needs more frames than there are
/// repeats the last: a picture is one frame.
#[derive(Debug)]
pub struct Patchify<'a> {
    /// `[frames, 3, grid.h * patch, pitch]`.
    pub pixels: View<'a, u8>,
    /// Bytes to values.
    pub normalisation: Normalisation<'a>,
    /// `[grid.t * grid.h * grid.w, depth]`, written whole.
    pub y: FloatViewMut<'a>,
    /// Size in patches.
    pub grid: GridThw,
    /// Frames in `pixels`.
    pub frames: usize,
    /// Bytes from one row of pixels to the next, at least `grid.w * patch`, a multiple of 16.
    pub pitch: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Frames of a group.
    pub temporal: usize,
    /// Side of a merged patch in patches; divides `grid.h` and `grid.w`.
    pub merge: usize,
}

impl Patchify<'_> {
    /// Columns of a patch row: `3 * temporal * patch * patch` rounded up to a multiple of 16;
    /// `None` on overflow.
    pub fn depth(patch: usize, temporal: usize) -> Option<usize> {
        let used = patch.checked_mul(patch)?.checked_mul(temporal)?.checked_mul(COLOURS)?;
        used.checked_next_multiple_of(DEPTH)
    }

    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let read = self.pixels.len() as u64;
        Cost {
            read: Bytes(read),
            written: Bytes((self.y.len() * self.y.dtype().size()) as u64),
            flop: 0,
        }
    }

    /// Queues the kernel on the device's stream. An empty grid is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `merge` does not divide the grid, the pitch is no multiple of 16 or
    /// shorter than a row, a size is 0 or passes `i32`; [`OpError::Shape`] if a view is not as long
    /// as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (depth, dtype) = (self.check()?, self.y.dtype());
        let Some(rows) = self.grid.patch_rows().filter(|rows| rows.0 > 0) else {
            return Ok(());
        };
        let (table, scale, shift) = match self.normalisation {
            Normalisation::Affine { scale, shift } => (std::ptr::null(), scale, shift),
            Normalisation::Table(table) => (table.ptr(), [0.0; COLOURS], [0.0; COLOURS]),
        };
        let params = PatchifyParams {
            pixels: self.pixels.ptr().cast(),
            table,
            y: self.y.ptr_mut(),
            pitch: i64::from(dim(OP, "pitch", self.pitch)?),
            scale,
            shift,
            frames: dim(OP, "frames", self.frames)?,
            gt: dim(OP, "gt", self.grid.t)?,
            gh: dim(OP, "gh", self.grid.h)?,
            gw: dim(OP, "gw", self.grid.w)?,
            patch: dim(OP, "patch", self.patch)?,
            temporal: dim(OP, "temporal", self.temporal)?,
            merge: dim(OP, "merge", self.merge)?,
            K: dim(OP, "K", depth)?,
        };
        let rows = dim(OP, "R", rows.0)?.cast_unsigned();
        let blocks = [rows.div_ceil(PATCHIFY_ROWS), 1, 1];
        let grid = Grid { blocks, threads: PATCHIFY_THREADS, shared_bytes: 0 };
        // SAFETY: `check` held every length against the dimensions in `params`; a `View` starts on
        // a 16-byte boundary; the borrows keep `y` apart from the inputs; memory is freed in stream
        // order, after this launch.
        unsafe { device.launch(dtype.pick(symbols!("patchify")), grid, &params) }?;
        Ok(())
    }

    /// Columns of `y`, when all shapes agree.
    fn check(&self) -> Result<usize, OpError> {
        let (grid, merge) = (self.grid, self.merge);
        check_dim(merge > 0, OP, "merge", merge, "merge must be positive")?;
        let rule = "the merged patch must divide the grid";
        check_dim(grid.h.is_multiple_of(merge), OP, "gh", grid.h, rule)?;
        check_dim(grid.w.is_multiple_of(merge), OP, "gw", grid.w, rule)?;
        check_dim(self.frames > 0, OP, "frames", self.frames, "there must be a frame")?;
        check_dim(self.patch > 0, OP, "patch", self.patch, "a patch must have pixels")?;
        check_dim(self.temporal > 0, OP, "temporal", self.temporal, "a group must have frames")?;
        let rule = "the pitch must be a multiple of 16";
        check_dim(self.pitch.is_multiple_of(16), OP, "pitch", self.pitch, rule)?;
        let width = product(OP, "gw", grid.w, self.patch)?;
        let rule = "the pitch must hold a row of pixels";
        check_dim(self.pitch >= width, OP, "pitch", self.pitch, rule)?;
        let rows = product(OP, "gh", grid.h, self.patch)?;
        let plane = product(OP, "pitch", rows, self.pitch)?;
        let pixels = product(OP, "frames", product(OP, "frames", self.frames, COLOURS)?, plane)?;
        check_len(OP, "pixels", pixels, self.pixels.len())?;
        if let Normalisation::Table(table) = self.normalisation {
            check_len(OP, "table", COLOURS * LEVELS, table.len())?;
            check_types(OP, self.y.dtype(), [("table", table.dtype())])?;
        }
        let too_large = |dim, found| OpError::Dim { op: OP, dim, found, rule: "it is too large" };
        let depth = Self::depth(self.patch, self.temporal);
        let depth = depth.ok_or_else(|| too_large("patch", self.patch))?;
        let rows = grid.patch_rows().ok_or_else(|| too_large("gh", grid.h))?;
        check_len(OP, "y", product(OP, "R", rows.0, depth)?, self.y.len())?;
        Ok(depth)
    }
}
