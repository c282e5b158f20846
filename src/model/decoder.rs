//! The language model: token rows to logits (docs/spec.md, section 9).
//!
//! ```text
//! ids, image rows -> x [T, C]
//! each layer:  qkv(norm(x)), rotated; keys and values into pages; x += o(attention)
//!              x += down(silu(gate) * up), gate and up of norm(x)
//! head:        norm of the rows asked for -> logits [rows, V]
//! ```

use super::{
    ModelError,
    config::TextConfig,
    vision::Observer,
    weights::{TextLayer, TextWeights},
    workspace::{Part, Widths, Workspace},
};
use crate::{
    device::{Device, FloatView, Floats},
    ops::{
        attn_decode::{AttnDecode, AttnParts},
        attn_prefill::AttnPrefill,
        embed::{Embed, RowGather},
        gemm::{Gemm, Output},
        kv::{KvCache, KvLayout},
        kv_append::KvAppend,
        mrope::Mrope,
        rms_norm::RmsNorm,
        silu_mul::SiluMul,
    },
    units::{TokenId, Tokens},
};

/// The decoder with what it needs beside its weights.
#[derive(Debug)]
pub struct Decoder {
    weights: TextWeights<Floats>,
    config: TextConfig,
    widths: Widths,
    layout: KvLayout,
    /// `[positions, D / 2, 2]`: cos and sin in the type of the weights.
    rope: Floats,
}

/// Step data of the decoder, parts of the workspace's staging buffer.
#[derive(Clone, Copy, Debug)]
pub struct DecoderStep {
    /// T: packed rows.
    pub rows: usize,
    /// `[T]`.
    pub ids: Part<i32>,
    /// `[T]`: a row of the image rows, or -1.
    pub source: Part<i32>,
    /// `[T]`: the sequence of a row.
    pub sequence: Part<i32>,
    /// `[3, T]`: rows of the rotary table.
    pub positions: Part<i32>,
    /// `[T]`: place in the pages.
    pub slots: Part<i32>,
    /// `[B + 1]`.
    pub cu_rows: Part<i32>,
    /// `[B, pages_per_sequence]`.
    pub page_table: Part<i32>,
    /// Stride of the page table.
    pub pages_per_sequence: usize,
    /// Work list of sequences with several rows.
    pub prefill: Part<i32>,
    /// Work list of sequences with one row.
    pub decode: Part<i32>,
}

impl Decoder {
    /// `rope` is the table of [`super::rope::RopeBlocks`].
    pub fn new(
        weights: TextWeights<Floats>,
        config: &TextConfig,
        widths: Widths,
        layout: KvLayout,
        rope: Floats,
    ) -> Self {
        Self { weights, config: config.clone(), widths, layout, rope }
    }

    /// Overwrites rows of the rotary table from `first_row` on.
    pub(super) fn set_rope(
        &mut self,
        device: &Device,
        first_row: usize,
        rows: &[f32],
    ) -> Result<(), ModelError> {
        let start = first_row * self.config.head_dim;
        let range = start..start + rows.len();
        Ok(device.write_floats(self.rope.view_mut().slice(range)?, rows)?)
    }

    /// The row of the embedding table of a token.
    pub(super) fn embedding(
        &self,
        device: &Device,
        token: TokenId,
    ) -> Result<Vec<f32>, ModelError> {
        let (c, row) = (self.widths.token, token.0 as usize);
        Ok(device.download_floats(self.weights.embed.view().slice(row * c..(row + 1) * c)?)?)
    }

    /// Runs all layers over the rows of a step; the residual stream stays in the workspace for
    /// [`Decoder::logits`]. Looks see what [`Decoder::layer`] shows.
    ///
    /// # Errors
    /// [`ModelError::Op`]; [`ModelError::Device`].
    pub fn forward(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        self.embed(device, workspace, step)?;
        for index in 0..self.weights.layers.len() {
            self.layer(device, workspace, step, index, observe)?;
        }
        Ok(())
    }

    /// Runs one layer over the residual stream of a step. Looks see `hidden_states/i` before it,
    /// un-normed, and `queries/i`, rotated queries with the keys and values behind them.
    ///
    /// # Errors
    /// [`ModelError::Op`]; [`ModelError::Device`].
    pub fn layer(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        index: usize,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let (c, len) = (self.widths.token, step.rows * self.widths.token);
        let layer = &self.weights.layers[index];
        observe(&format!("hidden_states/{index}"), workspace.x.view().slice(0..len)?, c)?;
        self.attention(device, workspace, step, (index, layer), observe)?;
        self.feed_forward(device, workspace, step, layer)
    }

    /// Overwrites the residual stream of a step, `[rows, C]`.
    ///
    /// # Errors
    /// [`ModelError::Device`], also for another number of values.
    pub fn set_rows(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        rows: &[f32],
    ) -> Result<(), ModelError> {
        let len = step.rows * self.widths.token;
        Ok(device.write_floats(workspace.x.view_mut().slice(0..len)?, rows)?)
    }

    /// Logits of `rows`, packed rows of the last step, into the first rows of the workspace's
    /// logits. Looks see `norm`, their rows after the final norm.
    ///
    /// # Errors
    /// [`ModelError::Op`]; [`ModelError::Device`].
    pub fn logits(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step_rows: usize,
        rows: Part<i32>,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let c = self.widths.token;
        let Workspace { x, y, wide, logits, staging, row_status, .. } = workspace;
        let index = staging.view(rows)?;
        let count = index.len();
        RowGather {
            x: x.view().slice(0..step_rows * c)?,
            index,
            y: y.view_mut().slice(0..count * c)?,
            status: row_status.view_mut().slice(0..count)?,
            rows: count,
            channels: c,
        }
        .launch(device)?;
        RmsNorm {
            x: y.view().slice(0..count * c)?,
            weight: self.weights.norm.view(),
            y: wide.view_mut().slice(0..count * c)?,
            rows: Tokens(count),
            channels: c,
            eps: self.config.rms_norm_eps,
        }
        .launch(device)?;
        observe("norm", wide.view().slice(0..count * c)?, c)?;
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embed);
        Gemm {
            x: wide.view().slice(0..count * c)?,
            weight: head.view(),
            bias: None,
            y: Output::Logits(logits.view_mut().slice(0..count * self.widths.logits)?),
            rows: count,
            outputs: self.widths.logits,
            inputs: c,
        }
        .launch(device)?;
        Ok(())
    }

    /// Fills the residual stream of a step: rows of the table and image rows.
    ///
    /// # Errors
    /// [`ModelError::Op`]; [`ModelError::Device`].
    pub fn embed(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
    ) -> Result<(), ModelError> {
        let (c, v) = (self.widths.token, self.widths.vocabulary);
        let Workspace { x, image_rows, staging, status, .. } = workspace;
        device.clear(status.view_mut())?;
        Embed {
            table: self.weights.embed.view().slice(0..v * c)?,
            image_rows: Some(image_rows.view()),
            ids: staging.view(step.ids)?,
            source: staging.view(step.source)?,
            sequence: staging.view(step.sequence)?,
            y: x.view_mut().slice(0..step.rows * c)?,
            status: status.view_mut(),
            rows: Tokens(step.rows),
            channels: c,
            vocabulary: v,
        }
        .launch(device)?;
        Ok(())
    }

    /// x += o(attention(rope(qkv(norm(x))))), keys and values appended before.
    fn attention(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        (index, layer): (usize, &TextLayer<Floats>),
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let (c, rows) = (self.widths.token, step.rows);
        let (q, qkv) = (rows * self.widths.queries, rows * self.widths.qkv);
        self.norm(device, workspace, &layer.input_norm, rows)?;
        let Workspace { y, wide, staging, pool, .. } = workspace;
        let (heads, head_dim) = (self.config.num_attention_heads, self.config.head_dim);
        Gemm {
            x: y.view().slice(0..rows * c)?,
            weight: layer.qkv_weight.view(),
            bias: Some(layer.qkv_bias.view()),
            y: Output::Store(wide.view_mut().slice(0..qkv)?),
            rows,
            outputs: self.widths.qkv,
            inputs: c,
        }
        .launch(device)?;
        Mrope {
            qkv: wide.view_mut().slice(0..qkv)?,
            table: self.rope.view(),
            ids: staging.view(step.positions)?,
            rows: Tokens(rows),
            heads,
            kv_heads: self.config.num_key_value_heads,
            head_dim,
            sections: self.config.mrope_section,
        }
        .launch(device)?;
        observe(&format!("queries/{index}"), wide.view().slice(0..qkv)?, self.widths.qkv)?;
        KvAppend {
            qkv: wide.view().slice(0..qkv)?,
            slots: staging.view(step.slots)?,
            pool: pool.view_mut(),
            layout: self.layout,
            layer: index,
            rows: Tokens(rows),
            heads,
        }
        .launch(device)?;
        self.attend(device, workspace, step, index)?;
        let Workspace { x, y, .. } = workspace;
        Gemm {
            x: y.view().slice(0..q)?,
            weight: layer.o_weight.view(),
            bias: None,
            y: Output::Residual(x.view_mut().slice(0..rows * c)?),
            rows,
            outputs: c,
            inputs: self.widths.queries,
        }
        .launch(device)?;
        Ok(())
    }

    /// Queries in `wide` over the pages, into `y`: one launch for each kind of sequence.
    fn attend(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        layer: usize,
    ) -> Result<(), ModelError> {
        let (q, qkv) = (step.rows * self.widths.queries, step.rows * self.widths.qkv);
        let max_segments = workspace.max_segments;
        let Workspace { y, wide, staging, pool, part_outputs, part_states, part_counters, .. } =
            workspace;
        let cache = KvCache {
            pool: pool.view(),
            layout: self.layout,
            layer,
            cu_rows: staging.view(step.cu_rows)?,
            page_table: staging.view(step.page_table)?,
            pages_per_sequence: step.pages_per_sequence,
        };
        AttnPrefill {
            qkv: wide.view().slice(0..qkv)?,
            cache,
            work: staging.view(step.prefill)?,
            o: y.view_mut().slice(0..q)?,
            rows: Tokens(step.rows),
            heads: self.config.num_attention_heads,
            window: self.config.windows[layer],
        }
        .launch(device)?;
        AttnDecode {
            qkv: wide.view().slice(0..qkv)?,
            cache,
            work: staging.view(step.decode)?,
            parts: AttnParts {
                outputs: part_outputs.view_mut(),
                states: part_states.view_mut(),
                counters: part_counters.view_mut(),
                max_segments,
            },
            o: y.view_mut().slice(0..q)?,
            rows: Tokens(step.rows),
            heads: self.config.num_attention_heads,
            window: self.config.windows[layer],
        }
        .launch(device)?;
        Ok(())
    }

    /// x += down(silu(gate) * up).
    fn feed_forward(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        step: &DecoderStep,
        layer: &TextLayer<Floats>,
    ) -> Result<(), ModelError> {
        let (c, f, rows) = (self.widths.token, self.widths.text_mlp, step.rows);
        self.norm(device, workspace, &layer.post_norm, rows)?;
        let Workspace { x, y, wide, act, .. } = workspace;
        Gemm {
            x: y.view().slice(0..rows * c)?,
            weight: layer.gate_up_weight.view(),
            bias: None,
            y: Output::Store(wide.view_mut().slice(0..rows * 2 * f)?),
            rows,
            outputs: 2 * f,
            inputs: c,
        }
        .launch(device)?;
        SiluMul {
            gate_up: wide.view().slice(0..rows * 2 * f)?,
            y: act.view_mut().slice(0..rows * f)?,
            rows: Tokens(rows),
            width: f,
        }
        .launch(device)?;
        Gemm {
            x: act.view().slice(0..rows * f)?,
            weight: layer.down_weight.view(),
            bias: None,
            y: Output::Residual(x.view_mut().slice(0..rows * c)?),
            rows,
            outputs: c,
            inputs: f,
        }
        .launch(device)?;
        Ok(())
    }

    /// y = norm(x).
    fn norm(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        weight: &Floats,
        rows: usize,
    ) -> Result<(), ModelError> {
        let channels = self.widths.token;
        let x: FloatView<'_> = workspace.x.view().slice(0..rows * channels)?;
        RmsNorm {
            x,
            weight: weight.view(),
            y: workspace.y.view_mut().slice(0..rows * channels)?,
            rows: Tokens(rows),
            channels,
            eps: self.config.rms_norm_eps,
        }
        .launch(device)?;
        Ok(())
    }
}
