//! `attentions/i` `[B, H, S, P + S]`: what each token gives to each, by kernels of their own. The
//! fused kernels never have these numbers; queries are kept while the layers run, keys are in the
//! pages afterwards.

use super::{FloatTensor, Pass};
use crate::{
    device::Device,
    engine::{EngineError, batch::Batch},
    model::{
        decoder::DecoderStep,
        workspace::{Workspace, kv_layout},
    },
    ops::{
        attn_probs::{self, AttnProbs},
        kv::KvCache,
    },
    units::Tokens,
};

/// Bytes of weights computed at once.
const PROBS_BYTES: usize = 64 << 20;

/// A step whose layers have run.
pub(super) struct Attending<'a> {
    pub(super) device: &'a Device,
    pub(super) workspace: &'a Workspace,
    pub(super) batch: &'a Batch,
    pub(super) step: &'a DecoderStep,
}

impl Pass<'_> {
    /// The weights of every layer, given its `queries` `[T, (H + 2G) D]`; 0 at padding.
    pub(super) fn attentions(
        &self,
        of: &Attending<'_>,
        queries: &[Vec<f32>],
    ) -> Result<Vec<FloatTensor>, EngineError> {
        let mut items = Vec::with_capacity(of.batch.rows());
        for (sequence, (bounds, keys)) in
            (0..).zip(of.batch.cu_rows.windows(2).zip(&of.batch.kv_len))
        {
            let rows = bounds[1] - bounds[0];
            items.extend(attn_probs::items(sequence, bounds[0], rows, *keys));
        }
        let layers = queries.iter().enumerate();
        layers.map(|(layer, queries)| self.attention(of, &items, layer, queries)).collect()
    }

    fn attention(
        &self,
        of: &Attending<'_>,
        items: &[[i32; 4]],
        layer: usize,
        queries: &[f32],
    ) -> Result<FloatTensor, EngineError> {
        let Attending { device, workspace, step, .. } = *of;
        let (text, columns) = (&self.config.text, self.longest());
        let heads = text.num_attention_heads;
        let qkv = device.upload_floats(workspace.pool.dtype(), queries)?;
        let cache = KvCache {
            pool: workspace.pool.view(),
            layout: kv_layout(self.config, self.limits().pages),
            layer,
            cu_rows: workspace.staging.view(step.cu_rows)?,
            page_table: workspace.staging.view(step.page_table)?,
            pages_per_sequence: step.pages_per_sequence,
        };
        let rows = (PROBS_BYTES / (4 * heads * columns)).clamp(1, items.len());
        let mut found = Vec::with_capacity(items.len() * heads * columns);
        for piece in items.chunks(rows) {
            let work = device.upload(piece.as_flattened())?;
            let mut probs = device.alloc(piece.len() * heads * columns)?;
            AttnProbs {
                qkv: qkv.view(),
                cache,
                work: work.view(),
                probs: probs.view_mut(),
                columns,
                rows: Tokens(step.rows),
                heads,
                window: text.windows[layer],
            }
            .launch(device)?;
            found.extend(device.download(&probs)?);
        }
        Ok(self.spread(layer, heads, &found))
    }

    /// `[rows, H, columns]` of packed rows and keys to `[B, H, S, P + S]` of slots.
    fn spread(&self, layer: usize, heads: usize, found: &[f32]) -> FloatTensor {
        let (layout, columns) = (&self.layout, self.longest());
        let slots = layout.past + layout.length;
        let shape = vec![layout.batch, heads, layout.length, slots];
        let mut values = vec![0.0; shape.iter().product()];
        let mut rows = found.chunks_exact(heads * columns);
        for sequence in &layout.sequences {
            let keys = sequence.past.iter().copied();
            let keys = keys.chain(sequence.slots.iter().map(|slot| layout.past + slot));
            let keys: Vec<usize> = keys.collect();
            for (slot, row) in sequence.slots.iter().zip(&mut rows) {
                for (head, weights) in row.chunks_exact(columns).enumerate() {
                    let to = ((sequence.row * heads + head) * layout.length + slot) * slots;
                    for (key, weight) in keys.iter().zip(weights) {
                        values[to + key] = *weight;
                    }
                }
            }
        }
        FloatTensor { name: format!("attentions/{layer}"), shape, values }
    }
}
