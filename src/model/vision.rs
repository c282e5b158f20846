//! The vision tower: pixels to merged image rows (docs/spec.md, section 8).
//!
//! ```text
//! u8 frames or pixel_values -> patch rows [R, 1184] -> x [R, E]
//! each block:  x += proj(attention(rope(qkv(norm1(x)))));  x += fc2(quick_gelu(fc1(norm2(x))))
//! merger:      norm(x) viewed as [R / 4, 4E] -> gelu(fc1) -> fc2 -> image rows [R / 4, C]
//! ```

use super::{
    ModelError,
    config::ModelConfig,
    positions, rope,
    weights::{VisionBlock, VisionWeights},
    workspace::{Part, Widths, Workspace},
};
use crate::{
    device::{Buffer, Device, FloatView, FloatViewMut, Floats},
    ops::{
        attn_vision::{self, AttnVision},
        gemm::{Gemm, Output},
        layer_norm::LayerNorm,
        patch_embed::{Normalisation, Patchify},
        rope_vision::RopeVision,
    },
    units::{GridThw, PatchRows},
};

/// Epsilon of every LayerNorm of the tower: a constant of the reference.
const NORM_EPS: f32 = 1e-6;
/// Longest side of a picture in patches: 65,536 patches at the reference's largest ratio of sides,
/// 200, are 3,620 on the long one.
pub const LARGEST_SIDE: usize = 4096;

/// The pixels of one picture or video.
#[derive(Clone, Copy, Debug)]
pub enum Pixels<'a> {
    /// Resized frames, planar bytes `[frames, 3, h * patch, pitch]`.
    Frames {
        /// The bytes.
        data: &'a [u8],
        /// Number of frames; the last fills a group that needs more.
        frames: usize,
        /// Bytes from one row of pixels to the next, a multiple of 16.
        pitch: usize,
    },
    /// `pixel_values` of the reference, `[t * h * w, patch width]`.
    Values(&'a [f32]),
}

/// One picture or video for the tower.
#[derive(Clone, Copy, Debug)]
pub struct VisionItem<'a> {
    /// Its pixels.
    pub pixels: Pixels<'a>,
    /// Its size in patches.
    pub grid: GridThw,
}

impl VisionItem<'_> {
    /// Bytes of frames that it uploads, rounded up as they are packed.
    pub fn pixel_bytes(&self) -> usize {
        match self.pixels {
            Pixels::Frames { data, .. } => data.len().next_multiple_of(16),
            Pixels::Values(_) => 0,
        }
    }
}

/// Looks at tensors of a forward pass: name, rows, `[rows, columns]`.
pub type Observer<'a> = dyn FnMut(&str, FloatView<'_>, usize) -> Result<(), ModelError> + 'a;

/// The tower with what it needs beside its weights.
#[derive(Debug)]
pub struct Vision {
    weights: VisionWeights<Floats>,
    config: ModelConfig,
    widths: Widths,
    /// `[sides, D / 4, 2]`.
    rope: Buffer<f32>,
    /// `[3, 256]`: the value of each byte.
    bytes: Option<Floats>,
}

/// Step data of a run of the tower.
struct Run {
    rows: usize,
    positions: Part<i32>,
    cu_rows: Part<i32>,
    work: Part<i32>,
}

impl Vision {
    /// `byte_values` is what the processor makes of each byte, `None` where no frames will come.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn new(
        device: &Device,
        weights: VisionWeights<Floats>,
        config: &ModelConfig,
        widths: Widths,
        byte_values: Option<&[[f32; 256]; 3]>,
    ) -> Result<Self, ModelError> {
        let rope = rope::vision_table(&config.vision, LARGEST_SIDE);
        let rope = device.upload(&rope)?;
        let dtype = weights.patch_embed.dtype();
        let bytes = byte_values.map(|values| device.upload_floats(dtype, values.as_flattened()));
        let bytes = bytes.transpose()?;
        Ok(Self { weights, config: config.clone(), widths, rope, bytes })
    }

    /// Image rows that an item becomes.
    pub fn merged_rows(&self, grid: GridThw) -> usize {
        grid.merged_tokens(self.config.vision.spatial_merge_size).map_or(0, |tokens| tokens.0)
    }

    /// Runs the tower over `items`, which the caller keeps within the workspace, and writes their
    /// image rows from row `first` on.
    ///
    /// # Errors
    /// [`ModelError::Grid`] for a grid that no picture has or that does not fit its pixels;
    /// [`ModelError::StepTooLarge`]; [`ModelError::Op`]; [`ModelError::Device`].
    pub fn forward(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        items: &[VisionItem<'_>],
        first: usize,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let run = self.stage(device, workspace, items)?;
        self.patch_rows(device, workspace, items)?;
        let (e, rows) = (self.widths.patch, run.rows);
        Gemm {
            x: workspace.wide.view().slice(0..rows * self.widths.pixels)?,
            weight: self.weights.patch_embed.view(),
            bias: None,
            y: Output::Store(workspace.x.view_mut().slice(0..rows * e)?),
            rows,
            outputs: e,
            inputs: self.widths.pixels,
        }
        .launch(device)?;
        observe("patch_embed", workspace.x.view().slice(0..rows * e)?, e)?;
        for (index, block) in self.weights.blocks.iter().enumerate() {
            self.attention(device, workspace, block, &run)?;
            self.feed_forward(device, workspace, block, rows)?;
            observe(&format!("block_{index}"), workspace.x.view().slice(0..rows * e)?, e)?;
        }
        self.merge(device, workspace, rows, first)?;
        let c = self.widths.token;
        let merged = self.merged(rows);
        let image_rows = workspace.image_rows.view().slice(first * c..(first + merged) * c)?;
        observe("merger", image_rows, c)
    }

    /// Positions, frame starts and the work list of a run, on the device.
    fn stage(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        items: &[VisionItem<'_>],
    ) -> Result<Run, ModelError> {
        let grids: Vec<GridThw> = items.iter().map(|item| item.grid).collect();
        let positions = positions::patches(&self.config, &grids)?;
        let mut cu_rows = vec![0];
        for grid in &grids {
            let long = grid.h.max(grid.w) > LARGEST_SIDE;
            let frame = i32::try_from(grid.h * grid.w).ok().filter(|_| !long);
            let frame = frame.ok_or(ModelError::Grid { grid: *grid })?;
            for _ in 0..grid.t {
                cu_rows.push(cu_rows.last().copied().unwrap_or(0) + frame);
            }
        }
        let rows = positions.len();
        let work = attn_vision::work_list(&cu_rows);
        let staging = &mut workspace.staging;
        staging.begin()?;
        let (positions, cu_rows) =
            (staging.push(positions.as_flattened())?, staging.push(&cu_rows)?);
        let work = staging.push(&work)?;
        staging.send(device)?;
        Ok(Run { rows, positions, cu_rows, work })
    }

    /// Pixels to patch rows in `wide`.
    fn patch_rows(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        items: &[VisionItem<'_>],
    ) -> Result<(), ModelError> {
        let columns = self.widths.pixels;
        let (mut row, mut byte) = (0, 0);
        for VisionItem { pixels, grid } in items {
            let rows = grid.patch_rows().ok_or(ModelError::Grid { grid: *grid })?.0;
            let range = row * columns..(row + rows) * columns;
            let y = workspace.wide.view_mut().slice(range)?;
            match *pixels {
                Pixels::Values(values) => {
                    device.write_floats(y, &self.pad_rows(values, rows, *grid)?)?;
                }
                Pixels::Frames { data, frames, pitch } => {
                    let end = byte + data.len();
                    device.write(workspace.pixels.view_mut().slice(byte..end)?, data)?;
                    Patchify {
                        pixels: workspace.pixels.view().slice(byte..end)?,
                        normalisation: Normalisation::Table(self.byte_table()?),
                        y,
                        grid: *grid,
                        frames,
                        pitch,
                        patch: self.config.vision.patch_size,
                        temporal: self.config.vision.temporal_patch_size,
                        merge: self.config.vision.spatial_merge_size,
                    }
                    .launch(device)?;
                    byte = end.next_multiple_of(16);
                }
            }
            row += rows;
        }
        Ok(())
    }

    fn byte_table(&self) -> Result<FloatView<'_>, ModelError> {
        let table = self.bytes.as_ref().ok_or(ModelError::NoByteTable)?;
        Ok(table.view())
    }

    /// `pixel_values`, columns padded with zeros.
    fn pad_rows(&self, values: &[f32], rows: usize, grid: GridThw) -> Result<Vec<f32>, ModelError> {
        let (width, columns) = (self.config.vision.patch_width, self.widths.pixels);
        if values.len() != rows * width {
            let found = values.len() / width;
            return Err(ModelError::PixelRows { found, expected: rows, grid });
        }
        let mut padded = vec![0.0; rows * columns];
        for (to, from) in padded.chunks_exact_mut(columns).zip(values.chunks_exact(width)) {
            to[..width].copy_from_slice(from);
        }
        Ok(padded)
    }

    /// x += proj(attention(rope(qkv(norm1(x))))).
    fn attention(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        block: &VisionBlock<Floats>,
        run: &Run,
    ) -> Result<(), ModelError> {
        let (e, rows) = (self.widths.patch, run.rows);
        let Workspace { x, y, wide, staging, .. } = workspace;
        let (heads, head_dim) = (self.config.vision.num_heads, self.config.vision.head_dim);
        norm(device, x, &block.norm1_weight, &block.norm1_bias, y.view_mut().slice(0..rows * e)?)?;
        Gemm {
            x: y.view().slice(0..rows * e)?,
            weight: block.qkv_weight.view(),
            bias: Some(block.qkv_bias.view()),
            y: Output::Store(wide.view_mut().slice(0..rows * 3 * e)?),
            rows,
            outputs: 3 * e,
            inputs: e,
        }
        .launch(device)?;
        RopeVision {
            qkv: wide.view_mut().slice(0..rows * 3 * e)?,
            table: self.rope.view(),
            positions: staging.view(run.positions)?,
            rows: PatchRows(rows),
            heads,
            head_dim,
        }
        .launch(device)?;
        AttnVision {
            qkv: wide.view().slice(0..rows * 3 * e)?,
            cu_rows: staging.view(run.cu_rows)?,
            work: staging.view(run.work)?,
            o: y.view_mut().slice(0..rows * e)?,
            rows: PatchRows(rows),
            heads,
            head_dim,
        }
        .launch(device)?;
        Gemm {
            x: y.view().slice(0..rows * e)?,
            weight: block.proj_weight.view(),
            bias: Some(block.proj_bias.view()),
            y: Output::Residual(x.view_mut().slice(0..rows * e)?),
            rows,
            outputs: e,
            inputs: e,
        }
        .launch(device)?;
        Ok(())
    }

    /// x += fc2(quick_gelu(fc1(norm2(x)))).
    fn feed_forward(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        block: &VisionBlock<Floats>,
        rows: usize,
    ) -> Result<(), ModelError> {
        let (e, f) = (self.widths.patch, self.widths.vision_mlp);
        let Workspace { x, y, wide, .. } = workspace;
        norm(device, x, &block.norm2_weight, &block.norm2_bias, y.view_mut().slice(0..rows * e)?)?;
        Gemm {
            x: y.view().slice(0..rows * e)?,
            weight: block.fc1_weight.view(),
            bias: Some(block.fc1_bias.view()),
            y: Output::QuickGelu(wide.view_mut().slice(0..rows * f)?),
            rows,
            outputs: f,
            inputs: e,
        }
        .launch(device)?;
        Gemm {
            x: wide.view().slice(0..rows * f)?,
            weight: block.fc2_weight.view(),
            bias: Some(block.fc2_bias.view()),
            y: Output::Residual(x.view_mut().slice(0..rows * e)?),
            rows,
            outputs: e,
            inputs: f,
        }
        .launch(device)?;
        Ok(())
    }

    /// Merged rows of `rows` patch rows.
    fn merged(&self, rows: usize) -> usize {
        rows / (self.config.vision.spatial_merge_size * self.config.vision.spatial_merge_size)
    }

    fn merge(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        rows: usize,
        first: usize,
    ) -> Result<(), ModelError> {
        let (e, m, c) = (self.widths.patch, self.widths.merged, self.widths.token);
        let merged = self.merged(rows);
        let weights = &self.weights.merger;
        let Workspace { x, y, wide, image_rows, .. } = workspace;
        norm(
            device,
            x,
            &weights.norm_weight,
            &weights.norm_bias,
            y.view_mut().slice(0..rows * e)?,
        )?;
        Gemm {
            x: y.view().slice(0..merged * m)?,
            weight: weights.fc1_weight.view(),
            bias: Some(weights.fc1_bias.view()),
            y: Output::GeluErf(wide.view_mut().slice(0..merged * m)?),
            rows: merged,
            outputs: m,
            inputs: m,
        }
        .launch(device)?;
        Gemm {
            x: wide.view().slice(0..merged * m)?,
            weight: weights.fc2_weight.view(),
            bias: Some(weights.fc2_bias.view()),
            y: Output::Store(image_rows.view_mut().slice(first * c..(first + merged) * c)?),
            rows: merged,
            outputs: c,
            inputs: m,
        }
        .launch(device)?;
        Ok(())
    }
}

/// y = LayerNorm(x), as many rows as `y` has.
fn norm(
    device: &Device,
    x: &Floats,
    weight: &Floats,
    bias: &Floats,
    y: FloatViewMut<'_>,
) -> Result<(), ModelError> {
    let channels = weight.len();
    let (len, rows) = (y.len(), PatchRows(y.len() / channels));
    let x = x.view().slice(0..len)?;
    let (weight, bias) = (weight.view(), bias.view());
    LayerNorm { x, weight, bias, y, rows, channels, eps: NORM_EPS }.launch(device)?;
    Ok(())
}
