//! Attention of patch rows inside their frames. Kernel `kernels/attn_vision.cu`, oracle
//! [`crate::reference::attn_vision`].

use std::cmp::Reverse;

use super::attn::Form;
use super::params::{
    ATTN_VISION_SHARED_ROWS, ATTN_VISION_THREADS, ATTN_VISION_TILE, AttnVisionParams,
};
use super::work::{self, WorkItem};
use super::{Cost, OpError, attn, attn_f32, check_len, check_types, dim, product};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, FloatType, PatchRows};

const OP: &str = "attn_vision";

/// One launch: every row attends to all rows of its frame (docs/spec.md, vision block).
#[derive(Debug)]
pub struct AttnVision<'a> {
    /// `[rows, 3 * heads * head_dim]`: queries, keys, values, already rotated.
    pub qkv: FloatView<'a>,
    /// `[frames + 1]`: first row of each frame, then `rows`.
    pub cu_rows: View<'a, i32>,
    /// [`work_list`] of the same `cu_rows`.
    pub work: View<'a, i32>,
    /// `[rows, heads * head_dim]`, written whole.
    pub o: FloatViewMut<'a>,
    /// R of the kernel.
    pub rows: PatchRows,
    /// H of the kernel.
    pub heads: usize,
    /// D of the kernel: 32, 64 or 80.
    pub head_dim: usize,
}

/// The work list of frames whose first rows are `cu_rows` (one element more than frames): a query
/// tile of 64 rows for each item, longest frame first, so that no long one starts last.
pub fn work_list(cu_rows: &[i32]) -> Vec<i32> {
    let tile = ATTN_VISION_TILE.cast_signed();
    let mut items: Vec<WorkItem> = Vec::new();
    for (frame, bounds) in (0..).zip(cu_rows.windows(2)) {
        let length = bounds[1] - bounds[0];
        items.extend((0..).take_while(|t| t * tile < length).map(|t| [frame, t, length, 0]));
    }
    items.sort_by_key(|&[_, _, length, _]| Reverse(length));
    items.concat()
}

impl AttnVision<'_> {
    /// The least that a launch moves and computes, given the host's copy of `cu_rows`.
    pub fn cost(&self, cu_rows: &[i32]) -> Cost {
        let width = (self.heads * self.head_dim) as u64;
        let row = self.rows.0 as u64 * width * self.qkv.dtype().size() as u64;
        let lengths = cu_rows.windows(2).map(|b| u64::from((b[1] - b[0]).unsigned_abs()));
        let pairs: u64 = lengths.map(|length| length * length).sum();
        Cost { read: Bytes(3 * row), written: Bytes(row), flop: 4 * width * pairs }
    }

    /// Queues the kernel on the device's stream. No work is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `head_dim` has no kernel or a dimension passes its type;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let dtype = self.qkv.dtype();
        let form = form(self.head_dim, dtype)?;
        attn::check_heads(OP, self.heads, self.heads)?;
        dim(OP, "R", self.rows.0)?;
        let width = product(OP, "H", self.heads, self.head_dim)?;
        let fused = product(OP, "H", 3, width)?;
        check_len(OP, "qkv", product(OP, "R", self.rows.0, fused)?, self.qkv.len())?;
        check_len(OP, "o", product(OP, "R", self.rows.0, width)?, self.o.len())?;
        check_types(OP, dtype, [("o", self.o.dtype())])?;
        let items = work::items(OP, self.work.len())?;
        if items == 0 {
            return Ok(());
        }
        let params = AttnVisionParams {
            qkv: self.qkv.ptr(),
            cu_rows: self.cu_rows.ptr().cast(),
            work: self.work.ptr().cast(),
            o: self.o.ptr_mut(),
            ld_qkv: dim(OP, "H", fused)?,
            ld_o: dim(OP, "H", width)?,
            H: dim(OP, "H", self.heads)?,
            scale: form.scale,
        };
        let grid = Grid {
            blocks: [dim(OP, "work", items)?.cast_unsigned(), params.H.cast_unsigned(), form.depth],
            threads: form.threads,
            shared_bytes: form.shared_bytes,
        };
        // SAFETY: lengths are checked above, and the work list names rows of `cu_rows` alone (a
        // list of other frames is the caller's bug, bounded by the device's checker in tests); a
        // view starts on a 16-byte boundary; the borrows keep `o` apart from the inputs.
        unsafe { device.launch(form.symbol, grid, &params) }?;
        Ok(())
    }
}

/// The form of a head width and a type.
fn form(head_dim: usize, dtype: FloatType) -> Result<Form, OpError> {
    let [bf16, f16] = match (dtype, head_dim) {
        (FloatType::F32, _) => return attn_f32::of_tiles(OP, "attn_vision_f32", head_dim),
        (_, 32) => ["attn_vision_bf16_d32", "attn_vision_f16_d32"],
        (_, 64) => ["attn_vision_bf16_d64", "attn_vision_f16_d64"],
        (_, 80) => ["attn_vision_bf16_d80", "attn_vision_f16_d80"],
        _ => {
            let rule = "attn_vision is built for D = 32, 64 and 80";
            return Err(OpError::Dim { op: OP, dim: "D", found: head_dim, rule });
        }
    };
    let symbol = if dtype == FloatType::Bf16 { bf16 } else { f16 };
    attn::half_form(OP, symbol, ATTN_VISION_THREADS, ATTN_VISION_SHARED_ROWS, head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_frame_comes_first_and_empty_frames_have_no_work() {
        let want = [[1, 0, 65, 0], [1, 1, 65, 0], [0, 0, 3, 0], [3, 0, 3, 0]];
        assert_eq!(work_list(&[0, 3, 68, 68, 71]), want.concat());
        assert!(work_list(&[0]).is_empty());
    }
}
