//! New keys and values into their pages. Kernel `kernels/kv_append.cu`, oracle
//! [`crate::reference::kv_append`].

use super::kv::KvLayout;
use super::params::{KV_APPEND_THREADS, KV_APPEND_VEC, KvAppendParams};
use super::{Cost, OpError, attn, check_len, check_types, dim, grid, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, Tokens};

const OP: &str = "kv_append";

/// One launch: the keys and values of the step's rows go to their slots of one layer.
#[derive(Debug)]
pub struct KvAppend<'a> {
    /// `[rows, (heads + 2 G) * head_dim]`: queries, keys, values; keys already rotated.
    pub qkv: FloatView<'a>,
    /// `[rows]`: page * 64 + place in the page, all different; -1 skips the row.
    pub slots: View<'a, i32>,
    /// The whole pool, of [`KvLayout::elements`] elements; only the slots are written.
    pub pool: FloatViewMut<'a>,
    /// Its shape.
    pub layout: KvLayout,
    /// The layer of the launch.
    pub layer: usize,
    /// T of the kernel.
    pub rows: Tokens,
    /// H of the kernel: query heads before the keys.
    pub heads: usize,
}

impl KvAppend<'_> {
    /// The least that a launch moves; the kernel's header derives it.
    pub fn cost(&self) -> Cost {
        let rows = self.rows.0 as u64;
        let copied = rows * (2 * self.layout.kv_heads * self.layout.head_dim) as u64;
        let bytes = copied * self.qkv.dtype().size() as u64;
        Cost { read: Bytes(bytes + 4 * rows), written: Bytes(bytes), flop: 0 }
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the head width is no multiple of 8, the layer is not in the pool, or a
    /// dimension passes its type; [`OpError::Shape`] if a view is not as long as its shape;
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (rows, layout) = (self.rows.0, self.layout);
        layout.check(OP, self.pool.len())?;
        attn::check_heads(OP, self.heads, layout.kv_heads)?;
        let fused = product(OP, "H", self.heads + 2 * layout.kv_heads, layout.head_dim)?;
        check_len(OP, "qkv", product(OP, "T", rows, fused)?, self.qkv.len())?;
        check_len(OP, "slots", rows, self.slots.len())?;
        let dtype = self.qkv.dtype();
        check_types(OP, dtype, [("pool", self.pool.dtype())])?;
        let pieces = 2 * layout.kv_heads * (layout.head_dim / KV_APPEND_VEC as usize);
        let grid = Grid {
            blocks: grid::of_threads(OP, "T", product(OP, "T", rows, pieces)?, KV_APPEND_THREADS)?,
            threads: KV_APPEND_THREADS,
            shared_bytes: 0,
        };
        let params = KvAppendParams {
            qkv: self.qkv.ptr(),
            slots: self.slots.ptr().cast(),
            pool: self.pool.ptr_mut(),
            ld_qkv: i64::from(dim(OP, "H", fused)?),
            kv: layout.strides(OP, self.layer)?,
            T: dim(OP, "T", rows)?,
            H: dim(OP, "H", self.heads)?,
            G: dim(OP, "G", layout.kv_heads)?,
            D: dim(OP, "D", layout.head_dim)?,
        };
        if rows == 0 {
            return Ok(());
        }
        // SAFETY: lengths are checked above, slots are different and in the pool by the caller's
        // contract, which engine/batch.rs checks on the host; a view starts on a 16-byte boundary,
        // and with D % 8 == 0 so does each head; the borrows keep the pool apart from the rows.
        unsafe { device.launch(dtype.pick(symbols!("kv_append")), grid, &params) }?;
        Ok(())
    }
}
