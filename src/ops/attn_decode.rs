//! Attention of one new row of each sequence over pages, split over segments of its keys. Kernel
//! `kernels/attn_decode.cu`, oracle [`crate::reference::attn_decode`].

use super::attn::{Form, Paged};
use super::kv::{KvCache, KvLayout};
use super::params::{
    ATTN_DECODE_HEADS, ATTN_DECODE_SEGMENT, ATTN_DECODE_SHARED_ROWS, ATTN_DECODE_THREADS,
    AttnDecodeParams,
};
use super::work::{self, WorkItem};
use super::{Cost, OpError, attn, attn_f32, check_dim, dim};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View, ViewMut};
use crate::units::{Bytes, FloatType, Tokens};

const OP: &str = "attn_decode";

/// One launch: the one row of each listed sequence attends to all its keys (docs/spec.md, decoder
/// layer). The step's keys and values are in the pages before.
#[derive(Debug)]
pub struct AttnDecode<'a> {
    /// `[rows, (heads + 2 G) * head_dim]`: queries, then keys and values, which are not read.
    pub qkv: FloatView<'a>,
    /// Keys, values, and the sequences of the step.
    pub cache: KvCache<'a>,
    /// [`work_list`] of the same step.
    pub work: View<'a, i32>,
    /// Memory for the parts of split sequences.
    pub parts: AttnParts<'a>,
    /// `[rows, heads * head_dim]`; rows of sequences without work stay as they are.
    pub o: FloatViewMut<'a>,
    /// T of the kernel: rows of the step.
    pub rows: Tokens,
    /// H of the kernel, a multiple of the cache's G; D is the cache's: 32, 64 or 128.
    pub heads: usize,
    /// Keys that a row sees, itself included; `None`: all.
    pub window: Option<Tokens>,
}

/// Memory that the blocks of a split sequence meet in, of [`AttnPartLens`] elements.
#[derive(Debug)]
pub struct AttnParts<'a> {
    /// `[B, heads, max_segments, head_dim]`: outputs of the segments.
    pub outputs: ViewMut<'a, f32>,
    /// `[B, heads, max_segments, 2]`: maximum and sum of the segments.
    pub states: ViewMut<'a, f32>,
    /// `[B, blocks of a sequence]`: zero before the first launch; every launch leaves it zero.
    pub counters: ViewMut<'a, u32>,
    /// [`segments`] of the longest sequence that may come.
    pub max_segments: usize,
}

/// Elements of the three parts of [`AttnParts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttnPartLens {
    /// Of `outputs`.
    pub outputs: usize,
    /// Of `states`.
    pub states: usize,
    /// Of `counters`.
    pub counters: usize,
}

impl AttnPartLens {
    /// For steps of up to `sequences` sequences of at most `max_segments` segments; `None` on
    /// overflow or where `heads` is no multiple of G.
    pub fn new(
        sequences: usize,
        heads: usize,
        layout: &KvLayout,
        max_segments: usize,
    ) -> Option<Self> {
        let states = sequences.checked_mul(heads)?.checked_mul(max_segments)?;
        Some(Self {
            outputs: states.checked_mul(layout.head_dim)?,
            states: states.checked_mul(2)?,
            counters: sequences.checked_mul(sequence_blocks(heads, layout.kv_heads)?)?,
        })
    }
}

/// Segments of 256 keys that hold `keys` tokens.
pub fn segments(keys: Tokens) -> usize {
    keys.0.div_ceil(ATTN_DECODE_SEGMENT as usize)
}

/// The work list of a step: every sequence with one row, an item for each segment of its keys.
///
/// `cu_rows` has one element more than there are sequences, `kv_len` counts each sequence's keys
/// with that of this step.
pub fn work_list(cu_rows: &[i32], kv_len: &[i32]) -> Vec<i32> {
    let segment = ATTN_DECODE_SEGMENT.cast_signed();
    let mut list: Vec<WorkItem> = Vec::new();
    for (sequence, (bounds, &keys)) in (0..).zip(cu_rows.windows(2).zip(kv_len)) {
        if bounds[1] - bounds[0] == 1 {
            let starts = (0..).take_while(|s| s * segment < keys);
            list.extend(starts.map(|s| [sequence, s, keys, 0]));
        }
    }
    list.concat()
}

/// Blocks that share a sequence's segment: a key head's query heads go in eights.
fn sequence_blocks(heads: usize, kv_heads: usize) -> Option<usize> {
    let group = heads.checked_div(kv_heads)?;
    let whole = heads.is_multiple_of(kv_heads);
    whole.then(|| kv_heads * group.div_ceil(ATTN_DECODE_HEADS as usize))
}

impl AttnDecode<'_> {
    /// The least that a launch moves and computes, given the host's `kv_len` of the sequences
    /// that the work list names.
    pub fn cost(&self, kv_len: &[i32]) -> Cost {
        let layout = self.cache.layout;
        let width = (self.heads * layout.head_dim) as u64;
        let window = self.window.map_or(u64::MAX, |w| w.0 as u64);
        let keys = kv_len.iter().map(|&k| u64::from(k.max(0).unsigned_abs()).min(window));
        let (keys, rows) = (keys.sum::<u64>(), kv_len.len() as u64);
        let (element, kv_row) = (self.qkv.dtype().size() as u64, layout.kv_heads * layout.head_dim);
        Cost {
            read: Bytes((rows * width + 2 * kv_row as u64 * keys) * element),
            written: Bytes(rows * width * element),
            flop: 4 * width * keys,
        }
    }

    /// Queues the kernel on the device's stream. No work is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the head width has no kernel, `heads` is no multiple of G, or a
    /// dimension passes its type; [`OpError::Shape`] if a view is not as long as its shape, or the
    /// parts are shorter than [`AttnPartLens`]; [`OpError::Device`].
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
        let blocks = self.check_parts()?;
        let items = work::items(OP, self.work.len())?;
        if items == 0 {
            return Ok(());
        }
        let params = AttnDecodeParams {
            q: self.qkv.ptr(),
            pool: self.cache.pool.ptr(),
            cu_rows: self.cache.cu_rows.ptr().cast(),
            page_table: self.cache.page_table.ptr().cast(),
            work: self.work.ptr().cast(),
            o: self.o.ptr_mut(),
            part: self.parts.outputs.ptr_mut().cast(),
            part_ml: self.parts.states.ptr_mut().cast(),
            counter: self.parts.counters.ptr_mut().cast(),
            ld_q: paged.ld_q,
            ld_o: paged.ld_o,
            kv: paged.kv,
            H: paged.heads,
            G: paged.kv_heads,
            ld_pages: paged.ld_pages,
            max_segments: dim(OP, "max_segments", self.parts.max_segments)?,
            window: paged.window,
            scale: form.scale,
        };
        let grid = Grid {
            blocks: [dim(OP, "work", items)?.cast_unsigned(), blocks, form.depth],
            threads: form.threads,
            shared_bytes: form.shared_bytes,
        };
        // SAFETY: lengths are checked above; the work list, page table and `cu_rows` agree by the
        // caller's contract, which engine/batch.rs checks on the host; a view starts on a 16-byte
        // boundary; the borrows keep `o` and the parts apart from the inputs and each other.
        unsafe { device.launch(form.symbol, grid, &params) }?;
        Ok(())
    }

    /// Refuses parts that are too short for the step; returns the blocks of grid y.
    fn check_parts(&self) -> Result<u32, OpError> {
        let (sequences, layout) = (self.cache.sequences(), &self.cache.layout);
        let parts = &self.parts;
        let blocks = sequence_blocks(self.heads, layout.kv_heads).unwrap_or(usize::MAX);
        check_dim(blocks <= 65_535, OP, "H", self.heads, "a grid takes at most 65535 heads")?;
        let lens = AttnPartLens::new(sequences, self.heads, layout, parts.max_segments);
        let rule = "the parts pass the address space";
        let lens = lens.ok_or(OpError::Dim { op: OP, dim: "B", found: sequences, rule })?;
        for (argument, expected, found) in [
            ("parts.outputs", lens.outputs, parts.outputs.len()),
            ("parts.states", lens.states, parts.states.len()),
            ("parts.counters", lens.counters, parts.counters.len()),
        ] {
            if found < expected {
                return Err(OpError::Shape { op: OP, argument, expected, found });
            }
        }
        Ok(dim(OP, "H", blocks)?.cast_unsigned())
    }
}

/// The form of a head width and a type.
fn form(head_dim: usize, dtype: FloatType) -> Result<Form, OpError> {
    let [bf16, f16] = match (dtype, head_dim) {
        (FloatType::F32, _) => return attn_f32::of_heads(OP, "attn_decode_f32", head_dim),
        (_, 32) => ["attn_decode_bf16_d32", "attn_decode_f16_d32"],
        (_, 64) => ["attn_decode_bf16_d64", "attn_decode_f16_d64"],
        (_, 128) => ["attn_decode_bf16_d128", "attn_decode_f16_d128"],
        _ => {
            let rule = "attn_decode is built for D = 32, 64 and 128";
            return Err(OpError::Dim { op: OP, dim: "D", found: head_dim, rule });
        }
    };
    let symbol = if dtype == FloatType::Bf16 { bf16 } else { f16 };
    attn::half_form(OP, symbol, ATTN_DECODE_THREADS, ATTN_DECODE_SHARED_ROWS, head_dim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_of_one_row_get_an_item_for_each_segment() {
        let want = [[0, 0, 257, 0], [0, 1, 257, 0], [2, 0, 256, 0]];
        assert_eq!(work_list(&[0, 1, 4, 5], &[257, 700, 256]), want.concat());
    }

    #[test]
    fn heads_of_a_key_head_go_in_eights() {
        let layout = KvLayout { pages: 1, layers: 1, kv_heads: 2, head_dim: 32 };
        let lens = AttnPartLens::new(3, 18, &layout, 5).unwrap();
        assert_eq!(lens, AttnPartLens { outputs: 270 * 32, states: 540, counters: 3 * 4 });
        assert_eq!(AttnPartLens::new(3, 17, &layout, 5), None);
    }
}
