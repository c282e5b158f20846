//! Rotation of patch rows by their place in the picture. Kernel `kernels/rope_vision.cu`, oracle
//! [`crate::reference::rope_vision`].

use super::params::{ROPE_VISION_THREADS, ROPE_VISION_VEC, RopeVisionParams};
use super::{Cost, OpError, check_dim, check_len, dim, grid, product, symbols};
use crate::device::{Device, FloatViewMut, Grid, View};
use crate::units::{Bytes, PatchRows};

const OP: &str = "rope_vision";

/// One launch: queries and keys of fused rows turn by row and column (docs/spec.md, 2-D rotary).
#[derive(Debug)]
pub struct RopeVision<'a> {
    /// `[rows, 3 * heads * head_dim]`: queries and keys are rotated in place, values stay.
    pub qkv: FloatViewMut<'a>,
    /// `[n, head_dim / 4, 2]`: cos and sin of each frequency at positions 0 to n - 1, for rows of
    /// patches and columns alike.
    pub table: View<'a, f32>,
    /// `[rows, 2]`: row and column of each patch, below n.
    pub positions: View<'a, i32>,
    /// R of the kernel.
    pub rows: PatchRows,
    /// H of the kernel.
    pub heads: usize,
    /// D of the kernel, a multiple of 16.
    pub head_dim: usize,
}

impl RopeVision<'_> {
    /// The least that a launch moves and computes; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let rows = self.rows.0 as u64;
        let turned = rows * (2 * self.heads * self.head_dim) as u64;
        let bytes = turned * self.qkv.dtype().size() as u64;
        Cost { read: Bytes(bytes + 8 * rows), written: Bytes(bytes), flop: 3 * turned }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `head_dim` is 0 or no multiple of 16, or a dimension passes its type;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (rows, head_dim) = (self.rows.0, self.head_dim);
        let whole = head_dim > 0 && head_dim.is_multiple_of(16);
        check_dim(whole, OP, "D", head_dim, "D must be a positive multiple of 16")?;
        check_dim(self.heads > 0, OP, "H", self.heads, "H must be positive")?;
        let width = product(OP, "H", self.heads, head_dim)?;
        let fused = product(OP, "H", 3, width)?;
        check_len(OP, "qkv", product(OP, "R", rows, fused)?, self.qkv.len())?;
        check_len(OP, "positions", product(OP, "R", 2, rows)?, self.positions.len())?;
        let whole = self.table.len().is_multiple_of(head_dim / 2);
        check_dim(whole, OP, "table", self.table.len(), "a table row has D / 2 elements")?;
        let threads = product(OP, "R", rows, width / ROPE_VISION_VEC as usize)?;
        let grid = Grid {
            blocks: grid::of_threads(OP, "R", threads, ROPE_VISION_THREADS)?,
            threads: ROPE_VISION_THREADS,
            shared_bytes: 0,
        };
        if rows == 0 {
            return Ok(());
        }
        let params = RopeVisionParams {
            table: self.table.ptr().cast(),
            positions: self.positions.ptr().cast(),
            qkv: self.qkv.ptr_mut(),
            ld_qkv: i64::from(dim(OP, "H", fused)?),
            R: dim(OP, "R", rows)?,
            H: dim(OP, "H", self.heads)?,
            D: dim(OP, "D", head_dim)?,
            pad: 0,
        };
        let dtype = self.qkv.dtype();
        // SAFETY: lengths are checked above, positions lie in the table by the caller's contract; a
        // view starts on a 16-byte boundary, and with D % 16 == 0 so does each half of a head; a
        // thread alone reads and writes its elements.
        unsafe { device.launch(dtype.pick(symbols!("rope_vision")), grid, &params) }?;
        Ok(())
    }
}
