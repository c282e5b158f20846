//! The weights of the decoder's attention, which the fused kernels never have. Kernel
//! `kernels/attn_probs.cu`, oracle [`crate::reference::attn_probs`].

use super::kv::KvCache;
use super::params::{ATTN_PROBS_THREADS, AttnProbsParams};
use super::{Cost, OpError, attn, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, Grid, View, ViewMut};
use crate::units::{Bytes, Tokens};

const OP: &str = "attn_probs";
/// `i32` of one work item.
const ITEM_WORDS: usize = 4;

/// One launch: what each listed row gives to each key (docs/spec.md, outputs of forward). The
/// step's keys are in the pages before.
#[derive(Debug)]
pub struct AttnProbs<'a> {
    /// `[rows, (heads + 2 G) * head_dim]`: rotated queries, then keys and values, which are not
    /// read.
    pub qkv: FloatView<'a>,
    /// Keys, and the sequences of the step.
    pub cache: KvCache<'a>,
    /// [`items`] of the rows that are wanted.
    pub work: View<'a, i32>,
    /// `[items, heads, columns]`: 0 for keys that a row does not see. Values are of the type of
    /// `qkv`, widened.
    pub probs: ViewMut<'a, f32>,
    /// Keys of the longest sequence, at least.
    pub columns: usize,
    /// T of the kernel: rows of the step.
    pub rows: Tokens,
    /// H of the kernel, a multiple of the cache's G.
    pub heads: usize,
    /// Keys that a row sees, itself included; `None`: all up to its position.
    pub window: Option<Tokens>,
}

/// The items of a sequence's `rows` new rows, the first of which is packed row `first`; its keys
/// are `kv_len`, those of the new rows included.
pub fn items(sequence: i32, first: i32, rows: i32, kv_len: i32) -> impl Iterator<Item = [i32; 4]> {
    (0..rows).map(move |row| [sequence, first + row, kv_len - rows + row + 1, 0])
}

impl AttnProbs<'_> {
    /// The least that a launch moves and computes, given the host's copy of the items.
    pub fn cost(&self, items: &[[i32; 4]]) -> Cost {
        let (layout, element) = (self.cache.layout, self.qkv.dtype().size() as u64);
        let window = self.window.map_or(u64::MAX, |window| window.0 as u64);
        let seen = items.iter().map(|item| u64::from(item[2].max(0).unsigned_abs()).min(window));
        let (seen, heads) = (seen.sum::<u64>(), self.heads as u64);
        let (width, rows) = (layout.head_dim as u64, items.len() as u64);
        Cost {
            read: Bytes(element * width * (rows * heads + seen * layout.kv_heads as u64)),
            written: Bytes(4 * rows * heads * self.columns as u64),
            flop: 2 * width * heads * seen,
        }
    }

    /// Queues the kernel on the device's stream. No work is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `heads` is no multiple of G or a dimension passes its type;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Type`];
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (layout, dtype) = (self.cache.layout, self.qkv.dtype());
        attn::check_heads(OP, self.heads, layout.kv_heads)?;
        let strides = self.cache.check(OP)?;
        let fused = product(OP, "H", self.heads + 2 * layout.kv_heads, layout.head_dim)?;
        check_len(OP, "qkv", product(OP, "T", self.rows.0, fused)?, self.qkv.len())?;
        check_types(OP, dtype, [("pool", self.cache.pool.dtype())])?;
        let words = self.work.len();
        let whole = words.is_multiple_of(ITEM_WORDS);
        check_dim(whole, OP, "work", words, "a work item has 4 elements")?;
        let items = words / ITEM_WORDS;
        let heads = product(OP, "items", items, self.heads)?;
        check_len(OP, "probs", product(OP, "columns", heads, self.columns)?, self.probs.len())?;
        if items == 0 {
            return Ok(());
        }
        let params = AttnProbsParams {
            q: self.qkv.ptr(),
            pool: self.cache.pool.ptr(),
            page_table: self.cache.page_table.ptr().cast(),
            work: self.work.ptr().cast(),
            p: self.probs.ptr_mut().cast(),
            ld_q: i64::from(dim(OP, "H", fused)?),
            kv: strides,
            H: dim(OP, "H", self.heads)?,
            G: dim(OP, "G", layout.kv_heads)?,
            D: dim(OP, "D", layout.head_dim)?,
            ld_pages: dim(OP, "pages_per_sequence", self.cache.pages_per_sequence)?,
            ld_p: dim(OP, "columns", self.columns)?,
            window: attn::window(OP, self.window)?,
            scale: scale(layout.head_dim),
            pad: 0,
        };
        let grid = Grid {
            blocks: [dim(OP, "work", items)?.cast_unsigned(), params.H.cast_unsigned(), 1],
            threads: ATTN_PROBS_THREADS,
            shared_bytes: 0,
        };
        // SAFETY: lengths are checked above; items, page table and `columns` agree by the caller's
        // contract; a view starts on a 16-byte boundary; the borrows keep `probs` apart.
        unsafe { device.launch(dtype.pick(symbols!("attn_probs")), grid, &params) }?;
        Ok(())
    }
}

/// `1 / sqrt(D)`.
fn scale(head_dim: usize) -> f32 {
    #[expect(clippy::cast_possible_truncation, reason = "the kernel takes the nearest f32")]
    let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_sees_the_keys_up_to_its_own() {
        let found: Vec<_> = items(2, 10, 3, 8).collect();
        assert_eq!(found, [[2, 10, 6, 0], [2, 11, 7, 0], [2, 12, 8, 0]]);
    }
}
