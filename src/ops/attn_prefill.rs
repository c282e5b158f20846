//! Causal attention of packed rows over pages. Kernel `kernels/attn_prefill.cu`, oracle
//! [`crate::reference::attn_prefill`].

use std::cmp::Reverse;

use super::attn::{Form, Paged};
use super::kv::KvCache;
use super::params::{
    ATTN_PREFILL_SHARED_ROWS, ATTN_PREFILL_THREADS, ATTN_PREFILL_TILE, AttnPrefillParams,
    PAGE_TOKENS,
};
use super::work::{self, WorkItem};
use super::{Cost, OpError, attn, attn_f32, dim};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, FloatType, Tokens};

const OP: &str = "attn_prefill";
const KEY_TILE: i32 = PAGE_TOKENS.cast_signed();

/// One launch: each row of the listed sequences attends to the keys up to its own position
/// (docs/spec.md, decoder layer). The step's keys and values are in the pages before.
#[derive(Debug)]
pub struct AttnPrefill<'a> {
    /// `[rows, (heads + 2 G) * head_dim]`: queries, then keys and values, which are not read.
    pub qkv: FloatView<'a>,
    /// Keys, values, and the sequences of the step.
    pub cache: KvCache<'a>,
    /// [`work_list`] or [`items`] of the same step.
    pub work: View<'a, i32>,
    /// `[rows, heads * head_dim]`; rows of sequences without work stay as they are.
    pub o: FloatViewMut<'a>,
    /// T of the kernel: rows of the step.
    pub rows: Tokens,
    /// H of the kernel, a multiple of the cache's G; D is the cache's: 32, 64 or 128.
    pub heads: usize,
    /// Keys that a row sees, itself included; `None`: all up to its position.
    pub window: Option<Tokens>,
}

/// The work list of a step: every sequence with two or more rows, largest tiles first.
/// Sequences with one row are `attn_decode`'s; the bits are the same either way.
///
/// `cu_rows` has one element more than there are sequences, `kv_len` counts each sequence's keys
/// with those of this step.
pub fn work_list(cu_rows: &[i32], kv_len: &[i32]) -> Vec<i32> {
    let mut list: Vec<(i32, WorkItem)> = Vec::new();
    for (sequence, (bounds, &keys)) in (0..).zip(cu_rows.windows(2).zip(kv_len)) {
        let rows = bounds[1] - bounds[0];
        if rows > 1 {
            list.extend(items(sequence, rows, keys).map(|item| (visited_tiles(rows, item), item)));
        }
    }
    list.sort_by_key(|&(visited, _)| Reverse(visited));
    list.into_iter().flat_map(|(_, item)| item).collect()
}

/// The items of one sequence of `rows` rows: a tile of 64 rows each.
pub fn items(sequence: i32, rows: i32, kv_len: i32) -> impl Iterator<Item = WorkItem> {
    let tile = ATTN_PREFILL_TILE.cast_signed();
    (0..).take_while(move |t| t * tile < rows).map(move |t| [sequence, t, kv_len, 0])
}

/// Key tiles that an item's block reads: those up to its last row.
fn visited_tiles(rows: i32, [_, tile, kv_len, _]: WorkItem) -> i32 {
    let last = ((tile + 1) * ATTN_PREFILL_TILE.cast_signed()).min(rows);
    (kv_len - rows + last + KEY_TILE - 1) / KEY_TILE
}

impl AttnPrefill<'_> {
    /// The least that a launch moves and computes, given the host's copies of `cu_rows` and
    /// `kv_len` and that the work list names every sequence.
    pub fn cost(&self, cu_rows: &[i32], kv_len: &[i32]) -> Cost {
        let layout = self.cache.layout;
        let width = (self.heads * layout.head_dim) as u64;
        let (mut rows, mut keys, mut pairs) = (0, 0, 0);
        for (bounds, &length) in cu_rows.windows(2).zip(kv_len) {
            let (new, length) = ((bounds[1] - bounds[0]).max(0), length.max(0));
            rows += u64::from(new.unsigned_abs());
            keys += u64::from(length.unsigned_abs());
            for row in 0..new {
                let seen = (length - new + row + 1).max(0).unsigned_abs();
                pairs += u64::from(seen).min(self.window.map_or(u64::MAX, |w| w.0 as u64));
            }
        }
        let (element, kv_row) = (self.qkv.dtype().size() as u64, layout.kv_heads * layout.head_dim);
        Cost {
            read: Bytes((rows * width + 2 * kv_row as u64 * keys) * element),
            written: Bytes(rows * width * element),
            flop: 4 * width * pairs,
        }
    }

    /// Queues the kernel on the device's stream. No work is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the head width has no kernel, `heads` is no multiple of G, or a
    /// dimension passes its type; [`OpError::Shape`] if a view is not as long as its shape;
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let form = form(self.cache.layout.head_dim, self.qkv.dtype())?;
        let paged = Paged {
            qkv: &self.qkv,
            cache: &self.cache,
            o: &self.o,
            rows: self.rows,
            heads: self.heads,
            window: self.window,
        };
        let paged = paged.check(OP)?;
        let items = work::items(OP, self.work.len())?;
        if items == 0 {
            return Ok(());
        }
        let params = AttnPrefillParams {
            q: self.qkv.ptr(),
            pool: self.cache.pool.ptr(),
            cu_rows: self.cache.cu_rows.ptr().cast(),
            page_table: self.cache.page_table.ptr().cast(),
            work: self.work.ptr().cast(),
            o: self.o.ptr_mut(),
            ld_q: paged.ld_q,
            ld_o: paged.ld_o,
            kv: paged.kv,
            H: paged.heads,
            G: paged.kv_heads,
            ld_pages: paged.ld_pages,
            window: paged.window,
            scale: form.scale,
            pad: 0,
        };
        let grid = Grid {
            blocks: [dim(OP, "work", items)?.cast_unsigned(), params.H.cast_unsigned(), form.depth],
            threads: form.threads,
            shared_bytes: form.shared_bytes,
        };
        // SAFETY: lengths are checked above; the work list, page table and `cu_rows` agree by the
        // caller's contract, which engine/batch.rs checks on the host; a view starts on a 16-byte
        // boundary; the borrows keep `o` apart from the inputs.
        unsafe { device.launch(form.symbol, grid, &params) }?;
        Ok(())
    }
}

/// The form of a head width and a type.
fn form(head_dim: usize, dtype: FloatType) -> Result<Form, OpError> {
    let [bf16, f16] = match (dtype, head_dim) {
        (FloatType::F32, _) => return attn_f32::of_tiles(OP, "attn_prefill_f32", head_dim),
        (_, 32) => ["attn_prefill_bf16_d32", "attn_prefill_f16_d32"],
        (_, 64) => ["attn_prefill_bf16_d64", "attn_prefill_f16_d64"],
        (_, 128) => ["attn_prefill_bf16_d128", "attn_prefill_f16_d128"],
        _ => {
            let rule = "attn_prefill is built for D = 32, 64 and 128";
            return Err(OpError::Dim { op: OP, dim: "D", found: head_dim, rule });
        }
    };
    let symbol = if dtype == FloatType::Bf16 { bf16 } else { f16 };
    attn::half_form(OP, symbol, ATTN_PREFILL_THREADS, ATTN_PREFILL_SHARED_ROWS, head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_with_the_most_keys_come_first_and_single_rows_are_left_out() {
        // Sequence 0 has 130 rows of 130 keys, 1 one row, 2 two rows of 300 keys.
        let want = [[2, 0, 300, 0], [0, 2, 130, 0], [0, 1, 130, 0], [0, 0, 130, 0]];
        assert_eq!(work_list(&[0, 130, 131, 133], &[130, 900, 300]), want.concat());
    }
}
