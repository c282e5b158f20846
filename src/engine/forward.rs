//! One forward pass with everything that it computes: what `qwen2vl forward` writes and what the
//! goldens compare. It plans its own memory and needs no tokenizer.

use std::path::Path;

use super::{
    EngineError,
    batch::{Batch, Bounds, Chunk, Wanted},
    pages::PagePool,
    step,
};
use crate::{
    device::{Device, DeviceChoice, FloatView},
    model::{
        Model, ModelError, ModelOptions,
        checkpoint::Checkpoint,
        config::ModelConfig,
        positions::{self, Grids, Positions},
        rope::{Rope, RopeBlocks},
        vision::{Pixels, VisionItem},
        workspace::{StepLimits, Widths, Workspace, WorkspacePlan},
    },
    units::{FloatType, GridThw, PageId, PatchRows, TokenId, Tokens},
};

/// Bytes of logits computed at once.
const LOGIT_BYTES: usize = 256 << 20;

/// Inputs of a forward pass, named as the reference names them.
#[derive(Clone, Debug, Default)]
pub struct ForwardInput {
    /// `[batch, length]`.
    pub input_ids: Vec<TokenId>,
    /// `[batch, length]`: which slots hold tokens; none is all.
    pub attention_mask: Option<Vec<bool>>,
    /// B.
    pub batch: usize,
    /// S.
    pub length: usize,
    /// `[patch rows, patch width]` of all pictures.
    pub pixel_values: Option<Vec<f32>>,
    /// Grid of each picture.
    pub image_grid_thw: Option<Vec<GridThw>>,
    /// `[patch rows, patch width]` of all videos.
    pub pixel_values_videos: Option<Vec<f32>>,
    /// Grid of each video; without pixels positions alone depend on it.
    pub video_grid_thw: Option<Vec<GridThw>>,
}

/// A tensor of floats.
#[derive(Clone, Debug, PartialEq)]
pub struct FloatTensor {
    /// Its name.
    pub name: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements, row major.
    pub values: Vec<f32>,
}

/// Outputs of a forward pass.
#[derive(Clone, Debug, Default)]
pub struct ForwardOutput {
    /// `logits` `[B, S, V]`; `hidden_states/i` `[B, S, C]` if asked for; with pixels
    /// `vision/image/…` and `vision/video/…`. Rows at padding are zero.
    pub tensors: Vec<FloatTensor>,
    /// `[3, B, S]`; 1 at padding.
    pub position_ids: Vec<i64>,
    /// `[B]`.
    pub rope_deltas: Vec<i64>,
    /// The device that ran it.
    pub device: String,
    /// What was odd about the checkpoint and did not stop it.
    pub warnings: Vec<String>,
}

/// Runs the model in `folder` once over `input`.
///
/// # Errors
/// [`EngineError`]: the checkpoint, the device, or inputs that do not fit one another.
pub fn forward(
    folder: &Path,
    choice: DeviceChoice,
    input: &ForwardInput,
    hidden_states: bool,
) -> Result<ForwardOutput, EngineError> {
    let dtype = FloatType::Bf16;
    let config = ModelConfig::load(folder)?;
    let pass = Pass::new(&config, input)?;
    let device = Device::open(choice)?;
    let limits = pass.limits();
    let plan = WorkspacePlan::new(&config, limits, dtype)?;
    let checkpoint = Checkpoint::open(folder)?;
    let options = ModelOptions { rope: &pass.rope, pages: limits.pages, dtype, byte_values: None };
    let (model, loaded) = Model::load(&device, &config, &checkpoint, options)?;
    let mut workspace = Workspace::new(&device, &plan)?;
    let mut output = ForwardOutput { device: device.located().to_string(), ..Default::default() };
    output.warnings.extend(config.warnings.iter().map(ToString::to_string));
    output.warnings.extend(loaded.iter().map(ToString::to_string));
    (output.position_ids, output.rope_deltas) = positions::padded(&pass.positions, &pass.mask);
    pass.see(&device, &model, &mut workspace, &mut output)?;
    pass.decode(&device, &model, &mut workspace, hidden_states, &mut output)?;
    Ok(output)
}

/// The inputs, checked and split into sequences without padding.
struct Pass<'a> {
    config: &'a ModelConfig,
    widths: Widths,
    input: &'a ForwardInput,
    mask: Vec<bool>,
    sequences: Vec<Vec<TokenId>>,
    positions: Vec<Positions>,
    /// For each sequence and token a row of the image rows, or -1.
    sources: Vec<Vec<i32>>,
    /// Merged rows of all pictures, and of all videos, which stand behind them.
    merged: [usize; 2],
    rope: RopeBlocks,
}

/// Pixels of one kind of media, with their grids.
struct Media<'a> {
    kind: &'static str,
    field: &'static str,
    placeholder: TokenId,
    values: Option<&'a [f32]>,
    grids: &'a [GridThw],
}

impl<'a> Pass<'a> {
    fn new(config: &'a ModelConfig, input: &'a ForwardInput) -> Result<Self, EngineError> {
        let slots = input.batch.checked_mul(input.length).filter(|slots| *slots > 0);
        let slots = slots.ok_or_else(|| invalid("input_ids", "empty", "[B, S], both above 0"))?;
        let mask = input.attention_mask.clone().unwrap_or_else(|| vec![true; slots]);
        if input.input_ids.len() != slots || mask.len() != slots {
            let lengths = format!("{} ids, {} mask values", input.input_ids.len(), mask.len());
            return Err(invalid("input_ids", &lengths, "one id and one mask value a slot"));
        }
        let widths = Widths::new(config);
        let outside = input.input_ids.iter().find(|id| id.0 as usize >= widths.vocabulary);
        if let Some(id) = outside {
            return Err(invalid("input_ids", &id.0.to_string(), "ids of the vocabulary"));
        }
        let rows = input.input_ids.chunks(input.length).zip(mask.chunks(input.length));
        let sequences: Vec<Vec<TokenId>> = rows
            .map(|(ids, mask)| ids.iter().zip(mask).filter(|(_, held)| **held).map(|(id, _)| *id))
            .map(Iterator::collect)
            .collect();
        if sequences.iter().any(Vec::is_empty) {
            return Err(invalid("attention_mask", "a row of zeros", "at least one token a row"));
        }
        let images = input.image_grid_thw.as_deref();
        let videos = input.video_grid_thw.as_deref();
        let grids = (images.is_some() || videos.is_some()).then(|| Grids {
            images: images.unwrap_or_default(),
            videos: videos.unwrap_or_default(),
        });
        let positions = positions::batch(config, &sequences, grids).map_err(ModelError::from)?;
        let [pictures, clips] = media(config, input);
        let merged = [merged_rows(config, &pictures)?, merged_rows(config, &clips)?];
        let sources = sources(&[pictures, clips], &sequences, merged)?;
        let lengths = positions.iter().map(Positions::span);
        let rows = lengths.clone().max().unwrap_or(1);
        let rope = RopeBlocks::new(Rope::new(&config.text), rows, lengths);
        Ok(Self { config, widths, input, mask, sequences, positions, sources, merged, rope })
    }

    fn tokens(&self) -> usize {
        self.sequences.iter().map(Vec::len).sum()
    }

    fn longest(&self) -> usize {
        self.sequences.iter().map(Vec::len).max().unwrap_or(1)
    }

    fn pages(&self) -> usize {
        self.sequences.iter().map(|ids| Tokens(ids.len()).pages().0).sum()
    }

    fn image_rows(&self) -> usize {
        self.merged.iter().sum()
    }

    fn limits(&self) -> StepLimits {
        let grids = media(self.config, self.input).into_iter().flat_map(|media| media.grids);
        let patches = grids.filter_map(|grid| grid.patch_rows()).map(|PatchRows(rows)| rows);
        let logit_rows = (LOGIT_BYTES / (4 * self.widths.logits)).clamp(1, self.tokens());
        StepLimits {
            patch_rows: patches.max().unwrap_or(0).max(1),
            token_rows: self.tokens(),
            sequences: self.sequences.len(),
            sequence_tokens: self.longest(),
            image_rows: self.image_rows().max(1),
            logit_rows,
            pages: self.pages(),
            pixel_bytes: 16,
        }
    }

    /// The tower, if there are pixels.
    fn see(
        &self,
        device: &Device,
        model: &Model,
        workspace: &mut Workspace,
        output: &mut ForwardOutput,
    ) -> Result<(), EngineError> {
        let mut first = 0;
        for (media, merged) in media(self.config, self.input).into_iter().zip(self.merged) {
            let Some(values) = media.values else { continue };
            let items = items(self.config, values, media.grids);
            let tensors = &mut output.tensors;
            let mut keep = |name: &str, view: FloatView<'_>, columns: usize| {
                let values = device.download_floats(view)?;
                append(tensors, format!("vision/{}/{name}", media.kind), columns, &values);
                Ok(())
            };
            model.see(device, workspace, &items, first, &mut keep)?;
            first += merged;
        }
        Ok(())
    }

    /// The decoder over all sequences in one step, then the head in pieces.
    fn decode(
        &self,
        device: &Device,
        model: &Model,
        workspace: &mut Workspace,
        hidden_states: bool,
        output: &mut ForwardOutput,
    ) -> Result<(), EngineError> {
        let batch = self.pack()?;
        let staged = step::stage(workspace, &batch)?;
        let pieces: Vec<&[i32]> = batch.logit_rows.chunks(self.limits().logit_rows).collect();
        let parts = pieces.iter().map(|rows| workspace.staging.push(rows));
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        workspace.staging.send(device)?;
        let tensors = &mut output.tensors;
        model.decoder().forward(device, workspace, &staged, &mut |name, view, columns| {
            if hidden_states {
                let rows = device.download_floats(view)?;
                tensors.push(self.padded(name, rows, columns));
            }
            Ok(())
        })?;
        let (mut normed, mut logits) = (Vec::new(), Vec::new());
        for (part, rows) in parts.into_iter().zip(pieces) {
            let decoder = model.decoder();
            decoder.logits(device, workspace, staged.rows, part, &mut |_, view, _| {
                if hidden_states {
                    normed.extend(device.download_floats(view)?);
                }
                Ok(())
            })?;
            let len = rows.len() * self.widths.logits;
            let values = device.download_view(workspace.logits.view().slice(0..len)?)?;
            for row in values.chunks_exact(self.widths.logits) {
                logits.extend_from_slice(&row[..self.widths.vocabulary]);
            }
        }
        if hidden_states {
            let name = format!("hidden_states/{}", self.config.text.num_hidden_layers);
            tensors.push(self.padded(&name, normed, self.widths.token));
        }
        tensors.push(self.padded("logits", logits, self.widths.vocabulary));
        Ok(())
    }

    fn pack(&self) -> Result<Batch, EngineError> {
        let pages = u32::try_from(self.pages())
            .map_err(|_too_many| EngineError::internal("page ids pass 2^32".to_owned()))?;
        let mut pool = PagePool::new(pages);
        let held = self.sequences.iter().map(|ids| pool.take(Tokens(ids.len()).pages()));
        let held: Vec<Vec<PageId>> = held.collect::<Result<_, _>>()?;
        let turns = self.positions.iter().map(|positions| self.table_rows(positions));
        let turns: Vec<[Vec<i32>; 3]> = turns.collect::<Result<_, _>>()?;
        let members = self.sequences.iter().zip(&turns).zip(&self.sources).zip(&held);
        let chunks: Vec<Chunk<'_>> = members
            .map(|(((ids, turns), source), pages)| Chunk {
                ids,
                positions: turns.each_ref().map(Vec::as_slice),
                source,
                cached: 0,
                pages,
                wanted: Wanted::All,
            })
            .collect();
        let bounds = Bounds {
            vocabulary: self.widths.vocabulary,
            image_rows: self.image_rows(),
            pool_pages: self.pages(),
            table_rows: self.rope.total_rows(),
            page_stride: Tokens(self.longest()).pages().0,
        };
        Batch::pack(&chunks, bounds)
    }

    /// Rows of the rotary table for a sequence's own pass.
    fn table_rows(&self, positions: &Positions) -> Result<[Vec<i32>; 3], EngineError> {
        let first = self.rope.first_row(positions.span()).and_then(|row| i32::try_from(row).ok());
        let first = first.ok_or_else(|| EngineError::internal("no rotary block".to_owned()))?;
        Ok(positions.axes.each_ref().map(|axis| axis.iter().map(|p| p + first).collect()))
    }

    /// Packed rows to `[B, S, columns]`.
    fn padded(&self, name: &str, rows: Vec<f32>, columns: usize) -> FloatTensor {
        let shape = vec![self.input.batch, self.input.length, columns];
        let mut values = vec![0.0; self.mask.len() * columns];
        let held = values.chunks_exact_mut(columns).zip(&self.mask).filter(|(_, held)| **held);
        for ((slot, _), row) in held.zip(rows.chunks_exact(columns)) {
            slot.copy_from_slice(row);
        }
        FloatTensor { name: name.to_owned(), shape, values }
    }
}

/// Pictures, then videos.
fn media<'a>(config: &ModelConfig, input: &'a ForwardInput) -> [Media<'a>; 2] {
    let pictures = Media {
        kind: "image",
        field: "pixel_values",
        placeholder: config.tokens.image,
        values: input.pixel_values.as_deref(),
        grids: input.image_grid_thw.as_deref().unwrap_or_default(),
    };
    let clips = Media {
        kind: "video",
        field: "pixel_values_videos",
        placeholder: config.tokens.video,
        values: input.pixel_values_videos.as_deref(),
        grids: input.video_grid_thw.as_deref().unwrap_or_default(),
    };
    [pictures, clips]
}

/// Merged rows of one kind of media; 0 without pixels.
fn merged_rows(config: &ModelConfig, media: &Media<'_>) -> Result<usize, EngineError> {
    let Some(values) = media.values else { return Ok(0) };
    let (merge, width) = (config.vision.spatial_merge_size, config.vision.patch_width);
    let (mut merged, mut patches) = (0, 0);
    for grid in media.grids {
        let size = grid.merged_tokens(merge).zip(grid.patch_rows());
        let (tokens, rows) = size.ok_or(ModelError::Grid { grid: *grid })?;
        merged += tokens.0;
        patches += rows.0;
    }
    if values.len() != patches * width {
        let got = format!("{} rows, not {patches}", values.len() / width);
        return Err(invalid(media.field, &got, "as many rows as its grids need"));
    }
    Ok(merged)
}

/// One item for each grid, over its rows of `values`.
fn items<'a>(config: &ModelConfig, values: &'a [f32], grids: &[GridThw]) -> Vec<VisionItem<'a>> {
    let mut rest = values;
    let mut items = Vec::with_capacity(grids.len());
    for &grid in grids {
        let rows = grid.patch_rows().map_or(0, |rows| rows.0);
        let (item, tail) = rest.split_at(rows * config.vision.patch_width);
        items.push(VisionItem { pixels: Pixels::Values(item), grid });
        rest = tail;
    }
    items
}

/// Adds rows to the tensor of that name.
fn append(tensors: &mut Vec<FloatTensor>, name: String, columns: usize, values: &[f32]) {
    let at = tensors.iter().position(|tensor| tensor.name == name).unwrap_or_else(|| {
        tensors.push(FloatTensor { name, shape: vec![0, columns], values: Vec::new() });
        tensors.len() - 1
    });
    tensors[at].shape[0] += values.len() / columns;
    tensors[at].values.extend_from_slice(values);
}

/// Binds placeholders to the rows of their media in order; those of media without pixels keep
/// their own embedding.
fn sources(
    media: &[Media<'_>; 2],
    sequences: &[Vec<TokenId>],
    merged: [usize; 2],
) -> Result<Vec<Vec<i32>>, EngineError> {
    let mut next = [0, merged[0]];
    let mut sources = Vec::with_capacity(sequences.len());
    for ids in sequences {
        let mut source = vec![-1; ids.len()];
        for (row, id) in source.iter_mut().zip(ids) {
            let kind = media.iter().position(|m| m.values.is_some() && m.placeholder == *id);
            if let Some(kind) = kind {
                *row = i32::try_from(next[kind]).unwrap_or(i32::MAX);
                next[kind] += 1;
            }
        }
        sources.push(source);
    }
    for (kind, start) in [0, merged[0]].into_iter().enumerate() {
        let (tokens, features) = (next[kind] - start, merged[kind]);
        if tokens != features {
            let got = format!("{tokens} {} tokens, {features} features", media[kind].kind);
            return Err(invalid("input_ids", &got, "one placeholder a feature"));
        }
    }
    Ok(sources)
}

fn invalid(field: &'static str, got: &str, allowed: &'static str) -> EngineError {
    EngineError::InvalidRequest { field, got: got.to_owned(), allowed }
}
