//! Three-part rotation of token rows. Kernel `kernels/mrope.cu`, oracle
//! [`crate::reference::mrope`].

use super::params::{MROPE_THREADS, MROPE_VEC, MropeParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, grid, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, Tokens};

const OP: &str = "mrope";

/// One launch: queries and keys of fused rows turn by time, height and width (docs/spec.md,
/// rotary table).
#[derive(Debug)]
pub struct Mrope<'a> {
    /// `[rows, (heads + 2 * kv_heads) * head_dim]`: queries and keys are rotated in place, values
    /// stay.
    pub qkv: FloatViewMut<'a>,
    /// `[n, head_dim / 2, 2]`: cos and sin of each frequency, rounded.
    pub table: FloatView<'a>,
    /// `[3, rows]`: the rows of the table, below n, that time, height and width of each token name.
    pub ids: View<'a, i32>,
    /// T of the kernel.
    pub rows: Tokens,
    /// H of the kernel.
    pub heads: usize,
    /// G of the kernel.
    pub kv_heads: usize,
    /// D of the kernel, a multiple of 16.
    pub head_dim: usize,
    /// Frequencies that turn by time, height and width: `mrope_section`, in sum `head_dim / 2`.
    pub sections: [usize; 3],
}

impl Mrope<'_> {
    /// The least that a launch moves and computes; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let rows = self.rows.0 as u64;
        let turned = rows * ((self.heads + self.kv_heads) * self.head_dim) as u64;
        let bytes = turned * self.qkv.dtype().size() as u64;
        Cost { read: Bytes(bytes + 12 * rows), written: Bytes(bytes), flop: 3 * turned }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `head_dim` is 0 or no multiple of 16, `sections` do not sum to half of
    /// it, or a dimension passes its type; [`OpError::Shape`] if a view is not as long as its
    /// shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (rows, head_dim) = (self.rows.0, self.head_dim);
        let whole = head_dim > 0 && head_dim.is_multiple_of(16);
        check_dim(whole, OP, "D", head_dim, "D must be a positive multiple of 16")?;
        check_dim(self.heads > 0, OP, "H", self.heads, "H must be positive")?;
        let [time, height, width] = self.sections;
        let sum = time.saturating_add(height).saturating_add(width);
        check_dim(sum == head_dim / 2, OP, "sections", sum, "their sum must be D / 2")?;
        let turned = product(OP, "H", self.heads + self.kv_heads, head_dim)?;
        let fused = product(OP, "H", self.heads + 2 * self.kv_heads, head_dim)?;
        check_len(OP, "qkv", product(OP, "T", rows, fused)?, self.qkv.len())?;
        check_len(OP, "ids", product(OP, "T", 3, rows)?, self.ids.len())?;
        let dtype = self.qkv.dtype();
        check_types(OP, dtype, [("table", self.table.dtype())])?;
        let whole = self.table.len().is_multiple_of(head_dim);
        check_dim(whole, OP, "table", self.table.len(), "a table row has D elements")?;
        let threads = product(OP, "T", rows, turned / (2 * MROPE_VEC as usize))?;
        let grid = Grid {
            blocks: grid::of_threads(OP, "T", threads, MROPE_THREADS)?,
            threads: MROPE_THREADS,
            shared_bytes: 0,
        };
        if rows == 0 {
            return Ok(());
        }
        let params = MropeParams {
            table: self.table.ptr(),
            ids: self.ids.ptr().cast(),
            qkv: self.qkv.ptr_mut(),
            ld_qkv: i64::from(dim(OP, "H", fused)?),
            T: dim(OP, "T", rows)?,
            H: dim(OP, "H", self.heads)?,
            G: dim(OP, "G", self.kv_heads)?,
            D: dim(OP, "D", head_dim)?,
            time: dim(OP, "sections", time)?,
            height: dim(OP, "sections", height)?,
        };
        // SAFETY: lengths are checked above, ids lie in the table by the caller's contract; a view
        // starts on a 16-byte boundary, and with D % 16 == 0 so does each half of a head; a thread
        // alone reads and writes its elements.
        unsafe { device.launch(dtype.pick(symbols!("mrope")), grid, &params) }?;
        Ok(())
    }
}
