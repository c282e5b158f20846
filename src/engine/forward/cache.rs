//! Keys and values between dense tensors `[B, G, slots, D]` and the pages of a pass.

use super::{FloatTensor, input::PastKeyValues, invalid, layout::Layout};
use crate::{
    engine::{EngineError, pages::PagePool},
    ops::kv::KvLayout,
    units::{PAGE_TOKENS, PageId, Tokens},
};

/// Which pages each sequence of a pass holds.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) held: Vec<Vec<PageId>>,
    kv: KvLayout,
}

/// Pages of all sequences.
pub(super) fn count(layout: &Layout) -> usize {
    let tokens = |sequence: &super::layout::Sequence| sequence.past.len() + sequence.slots.len();
    layout.sequences.iter().map(|sequence| Tokens(tokens(sequence)).pages().0).sum()
}

impl Pages {
    pub(super) fn new(layout: &Layout, kv: KvLayout) -> Result<Self, EngineError> {
        let pages = u32::try_from(kv.pages)
            .map_err(|_too_many| EngineError::internal("page ids pass 2^32".to_owned()))?;
        let mut pool = PagePool::new(pages);
        let held = layout
            .sequences
            .iter()
            .map(|sequence| pool.take(Tokens(sequence.past.len() + sequence.slots.len()).pages()));
        Ok(Self { held: held.collect::<Result<_, _>>()?, kv })
    }

    /// The pool's content with the given keys and values in their pages, zero elsewhere.
    pub(super) fn fill(
        &self,
        layout: &Layout,
        past: &PastKeyValues,
    ) -> Result<Vec<f32>, EngineError> {
        let kv = self.kv;
        let shape = [layout.batch, kv.kv_heads, layout.past, kv.head_dim];
        if past.shape != shape {
            let got = format!("{:?}", past.shape);
            return Err(invalid("past_key_values", &got, "[B, kv heads, P, head_dim]"));
        }
        if past.layers.len() != kv.layers {
            let got = format!("{} layers", past.layers.len());
            return Err(invalid("past_key_values", &got, "keys and values of every layer"));
        }
        let elements = kv.elements();
        let elements =
            elements.ok_or_else(|| EngineError::internal("the pool is too large".to_owned()))?;
        let mut pool = vec![0.0; elements];
        for (index, layer) in past.layers.iter().enumerate() {
            for (part, values) in [&layer.keys, &layer.values].into_iter().enumerate() {
                for (number, sequence) in layout.sequences.iter().enumerate() {
                    for (token, slot) in sequence.past.iter().enumerate() {
                        for head in 0..kv.kv_heads {
                            let from = (sequence.row * kv.kv_heads + head) * layout.past + slot;
                            let from = from * kv.head_dim;
                            let to = self.place(number, token, index, part, head);
                            let row = &values[from..from + kv.head_dim];
                            pool[to..to + kv.head_dim].copy_from_slice(row);
                        }
                    }
                }
            }
        }
        Ok(pool)
    }

    /// `past/i/keys` and `past/i/values` `[B, G, P + S, D]` out of the pool's content; zero at
    /// padding.
    pub(super) fn read(&self, layout: &Layout, pool: &[f32]) -> Vec<FloatTensor> {
        let (kv, slots) = (self.kv, layout.past + layout.length);
        let mut tensors = Vec::with_capacity(2 * kv.layers);
        for index in 0..kv.layers {
            for (part, name) in ["keys", "values"].into_iter().enumerate() {
                let shape = vec![layout.batch, kv.kv_heads, slots, kv.head_dim];
                let mut values = vec![0.0; shape.iter().product()];
                for (number, sequence) in layout.sequences.iter().enumerate() {
                    let held = sequence.past.iter().copied();
                    let held = held.chain(sequence.slots.iter().map(|slot| layout.past + slot));
                    for (token, slot) in held.enumerate() {
                        for head in 0..kv.kv_heads {
                            let to = (sequence.row * kv.kv_heads + head) * slots + slot;
                            let to = to * kv.head_dim;
                            let from = self.place(number, token, index, part, head);
                            let row = &pool[from..from + kv.head_dim];
                            values[to..to + kv.head_dim].copy_from_slice(row);
                        }
                    }
                }
                tensors.push(FloatTensor { name: format!("past/{index}/{name}"), shape, values });
            }
        }
        tensors
    }

    /// Where a token's keys (part 0) or values (part 1) of a layer and head begin in the pool.
    fn place(
        &self,
        sequence: usize,
        token: usize,
        layer: usize,
        part: usize,
        head: usize,
    ) -> usize {
        let page = self.held[sequence][token / PAGE_TOKENS].0 as usize;
        page * self.kv.page_stride()
            + layer * self.kv.layer_stride()
            + part * self.kv.value_offset()
            + head * self.kv.head_stride()
            + token % PAGE_TOKENS * self.kv.head_dim
    }
}
