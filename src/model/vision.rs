//! The vision tower: pixels to merged image rows (docs/spec.md, section 8).
//!
//! ```text
//! u8 frames or pixel_values -> patch rows [R, 1184] -> x [R, E]
//! each block:  x += proj(attention(rope(qkv(norm1(x)))));  x += fc2(quick_gelu(fc1(norm2(x))))
//! merger:      norm(x) viewed as [R / 4, 4E] -> gelu(fc1) -> fc2 -> image rows [R / 4, C]
//! ```
//!
//! The tower of Qwen2.5-VL (section 16.2) has RMS norms and a gate, x += down(silu(gate) * up). Its
//! rows go window by window through the blocks, most of whose attention stays inside a window; behind
//! the merger they are put back.

use super::{
    ModelError,
    config::{ModelConfig, WindowedConfig},
    positions, rope,
    weights::{VisionBlock, VisionWeights},
    windows::WindowOrder,
    workspace::{Part, Staging, Widths, Workspace},
};
use crate::{
    device::{Buffer, Device, FloatView, FloatViewMut, Floats},
    ops::{
        activate::Activate,
        attn_vision::{self, AttnVision},
        embed::RowGather,
        gemm::{Gemm, Output},
        layer_norm::LayerNorm,
        patch_embed::{Normalisation, Patchify},
        rms_norm::RmsNorm,
        rope_vision::RopeVision,
        silu_mul::SiluMul,
    },
    units::{Activation, GridThw, PatchRows, Tokens},
};

/// Epsilon of every norm of the tower: a constant of the reference.
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
    frames: Segments,
    windows: Option<Windows>,
}

/// Rows that attend to one another.
#[derive(Clone, Copy)]
struct Segments {
    /// First row of each, then R.
    cu_rows: Part<i32>,
    work: Part<i32>,
}

/// Windows of a run, and the order that makes neighbours of their rows.
struct Windows {
    segments: Segments,
    /// The merged row at each place.
    rows: Part<i32>,
    /// The place of each merged row.
    places: Part<i32>,
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
        self.embed(device, workspace, &run, observe)?;
        for (index, block) in self.weights.blocks.iter().enumerate() {
            self.attention(device, workspace, block, &run, self.segments(&run, index))?;
            self.feed_forward(device, workspace, block, rows)?;
            observe(&format!("block_{index}"), workspace.x.view().slice(0..rows * e)?, e)?;
        }
        self.merge(device, workspace, &run, first, observe)
    }

    /// Patch rows in `wide` to the rows of the first block in `x`.
    fn embed(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        run: &Run,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let (e, rows) = (self.widths.patch, run.rows);
        let Workspace { x, y, wide, staging, row_status, .. } = workspace;
        // Where rows change their order, they come into `x` by way of `y`.
        let into = if run.windows.is_some() { &mut *y } else { &mut *x };
        Gemm {
            x: wide.view().slice(0..rows * self.widths.pixels)?,
            weight: self.weights.patch_embed.view(),
            bias: None,
            y: Output::Store(into.view_mut().slice(0..rows * e)?),
            rows,
            outputs: e,
            inputs: self.widths.pixels,
        }
        .launch(device)?;
        observe("patch_embed", into.view().slice(0..rows * e)?, e)?;
        let Some(windows) = &run.windows else { return Ok(()) };
        let merged = self.merged(rows);
        RowGather {
            x: y.view().slice(0..rows * e)?,
            index: staging.view(windows.rows)?,
            y: x.view_mut().slice(0..rows * e)?,
            status: row_status.view_mut().slice(0..merged)?,
            rows: merged,
            channels: self.widths.merged,
        }
        .launch(device)?;
        Ok(())
    }

    /// What the rows of a block attend to.
    fn segments(&self, run: &Run, block: usize) -> Segments {
        let full = |windowed: &WindowedConfig| windowed.full_blocks.contains(&block);
        match &run.windows {
            Some(windows) if !self.config.vision.windowed.as_ref().is_some_and(full) => {
                windows.segments
            }
            _ => run.frames,
        }
    }

    /// Positions, starts and work lists of a run, on the device.
    fn stage(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        items: &[VisionItem<'_>],
    ) -> Result<Run, ModelError> {
        let vision = &self.config.vision;
        let grids: Vec<GridThw> = items.iter().map(|item| item.grid).collect();
        let mut positions = positions::patches(&self.config, &grids)?;
        let mut cu_rows = vec![0];
        for grid in &grids {
            let long = grid.h.max(grid.w) > LARGEST_SIDE;
            let frame = i32::try_from(grid.h * grid.w).ok().filter(|_| !long);
            let frame = frame.ok_or(ModelError::Grid { grid: *grid })?;
            for _ in 0..grid.t {
                cu_rows.push(cu_rows.last().copied().unwrap_or(0) + frame);
            }
        }
        let order = vision
            .windowed
            .as_ref()
            .map(|windowed| WindowOrder::new(&grids, vision.spatial_merge_size, windowed.window));
        let order = order.transpose()?;
        if let Some(order) = &order {
            positions = order.apply(&positions, self.widths.merge);
        }
        let rows = positions.len();
        let staging = &mut workspace.staging;
        staging.begin()?;
        let positions = staging.push(positions.as_flattened())?;
        let frames = push_segments(staging, &cu_rows)?;
        let windows = match &order {
            None => None,
            Some(order) => Some(Windows {
                segments: push_segments(staging, &order.patch_starts(self.widths.merge)?)?,
                rows: staging.push(&order.rows)?,
                places: staging.push(&order.places)?,
            }),
        };
        staging.send(device)?;
        Ok(Run { rows, positions, frames, windows })
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
        segments: Segments,
    ) -> Result<(), ModelError> {
        let (e, rows) = (self.widths.patch, run.rows);
        let Workspace { x, y, wide, staging, .. } = workspace;
        let (heads, head_dim) = (self.config.vision.num_heads, self.config.vision.head_dim);
        let normed = y.view_mut().slice(0..rows * e)?;
        norm(device, x, &block.norm1_weight, block.norm1_bias.as_ref(), normed)?;
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
            cu_rows: staging.view(segments.cu_rows)?,
            work: staging.view(segments.work)?,
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

    /// x += fc2(quick_gelu(fc1(norm2(x)))), or x += down(silu(gate) * up).
    fn feed_forward(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        block: &VisionBlock<Floats>,
        rows: usize,
    ) -> Result<(), ModelError> {
        let (e, f, up) = (self.widths.patch, self.widths.vision_mlp, self.widths.vision_up);
        let Workspace { x, y, wide, act, .. } = workspace;
        let normed = y.view_mut().slice(0..rows * e)?;
        norm(device, x, &block.norm2_weight, block.norm2_bias.as_ref(), normed)?;
        let raised = wide.view_mut().slice(0..rows * up)?;
        let gated = self.widths.windowed;
        let function = self.config.vision.activation;
        Gemm {
            x: y.view().slice(0..rows * e)?,
            weight: block.up_weight.view(),
            bias: Some(block.up_bias.view()),
            y: match function {
                Activation::QuickGelu if !gated => Output::QuickGelu(raised),
                Activation::Gelu if !gated => Output::GeluErf(raised),
                _ => Output::Store(raised),
            },
            rows,
            outputs: up,
            inputs: e,
        }
        .launch(device)?;
        if gated {
            SiluMul {
                gate_up: wide.view().slice(0..rows * up)?,
                y: act.view_mut().slice(0..rows * f)?,
                rows: Tokens(rows),
                width: f,
            }
            .launch(device)?;
        } else if !matches!(function, Activation::QuickGelu | Activation::Gelu) {
            let y = wide.view_mut().slice(0..rows * up)?;
            Activate { y, function }.launch(device)?;
        }
        let lowered = if gated { act } else { wide };
        Gemm {
            x: lowered.view().slice(0..rows * f)?,
            weight: block.down_weight.view(),
            bias: Some(block.down_bias.view()),
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

    /// Rows of the last block to image rows from `first` on. Looks see the merger's rows as it makes
    /// them.
    fn merge(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        run: &Run,
        first: usize,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let (e, m, c, rows) = (self.widths.patch, self.widths.merged, self.widths.token, run.rows);
        let merged = self.merged(rows);
        let weights = &self.weights.merger;
        let Workspace { x, y, wide, image_rows, staging, row_status, .. } = workspace;
        let normed = y.view_mut().slice(0..rows * e)?;
        norm(device, x, &weights.norm_weight, weights.norm_bias.as_ref(), normed)?;
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
        let place = first * c..(first + merged) * c;
        let into = match run.windows {
            None => image_rows.view_mut().slice(place.clone())?,
            Some(_) => y.view_mut().slice(0..merged * c)?,
        };
        Gemm {
            x: wide.view().slice(0..merged * m)?,
            weight: weights.fc2_weight.view(),
            bias: Some(weights.fc2_bias.view()),
            y: Output::Store(into),
            rows: merged,
            outputs: c,
            inputs: m,
        }
        .launch(device)?;
        let Some(windows) = &run.windows else {
            return observe("merger", image_rows.view().slice(place)?, c);
        };
        observe("merger", y.view().slice(0..merged * c)?, c)?;
        RowGather {
            x: y.view().slice(0..merged * c)?,
            index: staging.view(windows.places)?,
            y: image_rows.view_mut().slice(place)?,
            status: row_status.view_mut().slice(0..merged)?,
            rows: merged,
            channels: c,
        }
        .launch(device)?;
        Ok(())
    }
}

/// Starts and work list of rows that attend to one another.
fn push_segments(staging: &mut Staging, cu_rows: &[i32]) -> Result<Segments, ModelError> {
    let work = staging.push(&attn_vision::work_list(cu_rows))?;
    Ok(Segments { cu_rows: staging.push(cu_rows)?, work })
}

/// y = LayerNorm(x), or RMSNorm(x) without a bias; as many rows as `y` has.
fn norm(
    device: &Device,
    x: &Floats,
    weight: &Floats,
    bias: Option<&Floats>,
    y: FloatViewMut<'_>,
) -> Result<(), ModelError> {
    let channels = weight.len();
    let (len, rows) = (y.len(), y.len() / channels);
    let (x, weight, eps) = (x.view().slice(0..len)?, weight.view(), NORM_EPS);
    match bias.map(Floats::view) {
        Some(bias) => {
            let rows = PatchRows(rows);
            LayerNorm { x, weight, bias, y, rows, channels, eps }.launch(device)?;
        }
        None => RmsNorm { x, weight, y, rows: Tokens(rows), channels, eps }.launch(device)?,
    }
    Ok(())
}
