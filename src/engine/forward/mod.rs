//! One forward pass with everything that it computes: what `qwen2vl forward` writes and what the
//! goldens compare. It plans its own memory and needs no tokenizer. docs/forward.md lists all
//! inputs and outputs.

mod attentions;
mod cache;
mod input;
mod layout;
mod loss;
mod media;

use std::{collections::BTreeMap, path::Path};

pub use input::{
    ForwardInput, ForwardOptions, LayerKeyValues, LogitsToKeep, PastKeyValues, PositionIds,
};

use self::{
    attentions::Attending,
    cache::Pages,
    layout::{Layout, Sequence},
    media::{Embedded, Media},
};
use super::{
    EngineError,
    batch::{Batch, Bounds, Chunk, Wanted},
    launch,
};
use crate::{
    device::{Device, FloatView},
    model::{
        Model, ModelOptions,
        checkpoint::Checkpoint,
        config::ModelConfig,
        rope::{Rope, RopeState},
        weights,
        workspace::{StepLimits, Widths, Workspace, WorkspacePlan, kv_layout},
    },
    units::{FloatType, PatchRows, Tokens},
};

/// Bytes of all outputs together.
const MAX_OUTPUTS: u128 = 16 << 30;
/// Bytes of logits computed at once.
const LOGIT_BYTES: usize = 256 << 20;

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
    /// `logits` `[B, kept slots, V]`; with labels `loss` `[]`; with pixels `vision/image/…` and
    /// `vision/video/…`; what [`ForwardOptions`] asks for. Rows at padding are zero.
    pub tensors: Vec<FloatTensor>,
    /// `[3, B, S]`; 1 at padding.
    pub position_ids: Vec<i64>,
    /// `[B]`: one more than the row's largest position, less P + S.
    pub rope_deltas: Vec<i64>,
    /// `[B, P + S]`: which slots of the keys and values hold tokens.
    pub held: Vec<bool>,
    /// The device that ran it.
    pub device: String,
    /// What it was computed in.
    pub dtype: FloatType,
    /// What was odd about the checkpoint and did not stop it.
    pub warnings: Vec<String>,
}

impl ForwardOutput {
    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&FloatTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }

    /// The keys and values of the pass, for [`ForwardInput::past`] of the next; `None` if they were
    /// not asked for.
    pub fn past(&self) -> Option<PastKeyValues> {
        let mut layers = Vec::new();
        while let Some(keys) = self.tensor(&format!("past/{}/keys", layers.len())) {
            let values = self.tensor(&format!("past/{}/values", layers.len()))?;
            let layer = LayerKeyValues { keys: keys.values.clone(), values: values.values.clone() };
            layers.push(layer);
        }
        let shape = self.tensor("past/0/keys")?.shape.as_slice().try_into().ok()?;
        Some(PastKeyValues { shape, mask: Some(self.held.clone()), layers })
    }
}

/// Runs the model in `folder` once over `input`.
///
/// # Errors
/// [`EngineError`]: the checkpoint, the device, or inputs that do not fit one another.
pub fn forward(
    folder: &Path,
    input: &ForwardInput,
    options: &ForwardOptions,
) -> Result<ForwardOutput, EngineError> {
    let config = options.read_config(folder)?;
    let mut pass = Pass::new(&config, input, options)?;
    let checkpoint = Checkpoint::open(folder)?;
    let dtype = options.dtype.unwrap_or_else(|| weights::own_type(&config, &checkpoint));
    let device = Device::open(options.device)?;
    let limits = pass.limits();
    let plan = WorkspacePlan::new(&config, limits, dtype)?;
    let turns = pass.turns()?;
    let model = ModelOptions { rope: &turns.table, pages: limits.pages, dtype, byte_values: None };
    let (model, loaded) = Model::load(&device, &config, &checkpoint, model)?;
    let mut workspace = Workspace::new(&device, &plan)?;
    let mut output = ForwardOutput { device: device.located().to_string(), ..Default::default() };
    output.warnings.extend(config.warnings.iter().map(ToString::to_string));
    output.warnings.extend(loaded.iter().map(ToString::to_string));
    (output.position_ids, output.rope_deltas) = pass.layout.positions();
    output.held.clone_from(&pass.layout.held);
    output.dtype = dtype;
    pass.bind(&device, &model, dtype)?;
    pass.see(&device, &model, &mut workspace, &mut output)?;
    pass.decode(&device, &model, &mut workspace, &turns, &mut output)?;
    Ok(output)
}

/// The inputs, checked and split into sequences without padding.
struct Pass<'a> {
    config: &'a ModelConfig,
    widths: Widths,
    input: &'a ForwardInput,
    options: &'a ForwardOptions,
    layout: Layout,
    media: [Media<'a>; 2],
    /// For each sequence and token a row of the image rows, or -1.
    sources: Vec<Vec<i32>>,
    pages: Pages,
}

/// The rows of the rotary table that a pass needs.
struct Turns {
    /// `[rows, D / 2, 2]`.
    table: Vec<f32>,
    rows: usize,
    /// For each sequence the row of each token's time, height and width.
    ids: Vec<[Vec<i32>; 3]>,
}

impl<'a> Pass<'a> {
    fn new(
        config: &'a ModelConfig,
        input: &'a ForwardInput,
        options: &'a ForwardOptions,
    ) -> Result<Self, EngineError> {
        let layout = Layout::new(config, input)?;
        let widths = Widths::new(config);
        check_outputs(config, &layout, options)?;
        loss::check(input, &layout, widths.vocabulary)?;
        let media = Media::both(config, input)?;
        // Placeholders among embeddings are found once the model's own are known.
        let sources = match input.inputs_embeds {
            Some(_) => Vec::new(),
            None => media::sources(&media, &layout, None)?,
        };
        let pages = Pages::new(&layout, kv_layout(config, cache::count(&layout)))?;
        Ok(Self { config, widths, input, options, layout, media, sources, pages })
    }

    /// Tokens of the longest sequence, the cache's among them.
    fn longest(&self) -> usize {
        let tokens = |sequence: &Sequence| sequence.past.len() + sequence.slots.len();
        self.layout.sequences.iter().map(tokens).max().unwrap_or(1)
    }

    fn merged(&self) -> usize {
        self.media.iter().map(|media| media.merged).sum()
    }

    /// Rows of media, then those of given embeddings.
    fn image_rows(&self) -> usize {
        let own = self.input.inputs_embeds.as_ref().map_or(0, |_| self.layout.tokens());
        self.merged() + own
    }

    fn limits(&self) -> StepLimits {
        let grids = self.media.iter().flat_map(|media| media.grids);
        let patches = grids.filter_map(|grid| grid.patch_rows()).map(|PatchRows(rows)| rows);
        let logit_rows = (LOGIT_BYTES / (4 * self.widths.logits)).clamp(1, self.layout.tokens());
        StepLimits {
            patch_rows: patches.max().unwrap_or(0).max(1),
            token_rows: self.layout.tokens(),
            sequences: self.layout.sequences.len(),
            sequence_tokens: self.longest(),
            image_rows: self.image_rows().max(1),
            logit_rows,
            pages: cache::count(&self.layout),
            pixel_bytes: 16,
        }
    }

    /// One row of the table for each position and state that occurs.
    fn turns(&self) -> Result<Turns, EngineError> {
        let rope = Rope::new(&self.config.text);
        let spans = || self.layout.sequences.iter().map(|sequence| sequence.positions.span());
        let longest = spans().max().unwrap_or(1);
        let mut rows: BTreeMap<(RopeState, i32), i32> = BTreeMap::new();
        let mut ids = Vec::with_capacity(self.layout.sequences.len());
        for (sequence, span) in self.layout.sequences.iter().zip(spans()) {
            let state = rope.state(if self.options.batch_rope_length { longest } else { span });
            let mut row = |position: &i32| {
                let next = i32::try_from(rows.len()).ok()?;
                Some(*rows.entry((state, *position)).or_insert(next))
            };
            let mut axis = |positions: &Vec<i32>| {
                let found: Option<Vec<i32>> = positions.iter().map(&mut row).collect();
                found.ok_or_else(|| EngineError::internal("table rows pass 2^31".to_owned()))
            };
            let [time, height, width] = &sequence.positions.axes;
            ids.push([axis(time)?, axis(height)?, axis(width)?]);
        }
        let mut ordered: Vec<_> = rows.into_iter().collect();
        ordered.sort_unstable_by_key(|(_, row)| *row);
        let places = ordered.iter().map(|((state, position), _)| (*state, *position));
        Ok(Turns { table: rope.rows(places), rows: ordered.len(), ids })
    }

    /// Finds placeholders among given embeddings.
    fn bind(
        &mut self,
        device: &Device,
        model: &Model,
        dtype: FloatType,
    ) -> Result<(), EngineError> {
        let Some(rows) = &self.input.inputs_embeds else { return Ok(()) };
        let own = |kind: usize| {
            let token = self.media[kind].placeholder;
            let known = (token.0 as usize) < self.widths.vocabulary;
            known.then(|| model.embedding(device, token)).transpose()
        };
        let placeholders = [own(0)?, own(1)?];
        let embedded = Embedded { rows, placeholders, dtype };
        self.sources = media::sources(&self.media, &self.layout, Some(&embedded))?;
        Ok(())
    }

    /// The image rows: the tower's if there are pixels, and what was given.
    fn see(
        &self,
        device: &Device,
        model: &Model,
        workspace: &mut Workspace,
        output: &mut ForwardOutput,
    ) -> Result<(), EngineError> {
        let channels = self.widths.token;
        let mut first = 0;
        for media in &self.media {
            let tensors = &mut output.tensors;
            if let Some(rows) = media.embeds {
                let range = first * channels..first * channels + rows.len();
                device.write_floats(workspace.image_rows.view_mut().slice(range)?, rows)?;
            } else {
                let items = media.items(self.config);
                let mut keep = |name: &str, view: FloatView<'_>, columns: usize| {
                    let values = device.download_floats(view)?;
                    append(tensors, format!("vision/{}/{name}", media.kind), columns, &values);
                    Ok(())
                };
                model.see(device, workspace, &items, first, &mut keep)?;
            }
            if self.options.vision_features && media.is_given() {
                self.features(device, workspace, media, first, tensors)?;
            }
            first += media.merged;
        }
        if let Some(rows) = &self.input.inputs_embeds {
            let packed = self.packed(rows)?;
            let range = first * channels..first * channels + packed.len();
            device.write_floats(workspace.image_rows.view_mut().slice(range)?, &packed)?;
        }
        Ok(())
    }

    /// The rows of each item, as a tensor of its own.
    fn features(
        &self,
        device: &Device,
        workspace: &Workspace,
        media: &Media<'_>,
        mut first: usize,
        tensors: &mut Vec<FloatTensor>,
    ) -> Result<(), EngineError> {
        let channels = self.widths.token;
        for (item, rows) in media.item_rows(self.config).into_iter().enumerate() {
            let range = first * channels..(first + rows) * channels;
            let values = device.download_floats(workspace.image_rows.view().slice(range)?)?;
            let name = format!("{}_features/{item}", media.kind);
            tensors.push(FloatTensor { name, shape: vec![rows, channels], values });
            first += rows;
        }
        Ok(())
    }

    /// The decoder over all sequences in one step, then the head in pieces.
    fn decode(
        &self,
        device: &Device,
        model: &Model,
        workspace: &mut Workspace,
        turns: &Turns,
        output: &mut ForwardOutput,
    ) -> Result<(), EngineError> {
        if let Some(past) = &self.input.past {
            let pool = self.pages.fill(&self.layout, past)?;
            device.write_floats(workspace.pool.view_mut(), &pool)?;
        }
        let batch = self.pack(turns)?;
        let staged = launch::stage(workspace, &batch)?;
        let wanted = self.logit_rows(&batch);
        workspace.staging.send(device)?;
        let hidden_states = self.options.hidden_states;
        let tensors = &mut output.tensors;
        let mut queries = Vec::new();
        let decoder = model.decoder();
        decoder.embed(device, workspace, &staged)?;
        for layer in 0..self.config.text.num_hidden_layers {
            if let Some(rows) = self.input.hidden_states.get(&layer) {
                decoder.set_rows(device, workspace, &staged, &self.packed(rows)?)?;
            }
            decoder.layer(device, workspace, &staged, layer, &mut |name, view, columns| {
                if name.starts_with("queries") {
                    if self.options.attentions {
                        queries.push(device.download_floats(view)?);
                    }
                } else if hidden_states {
                    let rows = device.download_floats(view)?;
                    tensors.push(self.padded(name, &rows, columns));
                }
                Ok(())
            })?;
        }
        if self.options.attentions {
            let step = Attending { device, workspace, batch: &batch, step: &staged };
            tensors.extend(self.attentions(&step, &queries)?);
        }
        let (mut normed, mut logits) = (Vec::new(), Vec::new());
        for rows in wanted.chunks(self.limits().logit_rows) {
            workspace.staging.begin()?;
            let part = workspace.staging.push(rows)?;
            workspace.staging.send(device)?;
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
            tensors.push(self.padded(&name, &normed, self.widths.token));
        }
        if self.input.labels.is_some() {
            let loss = loss::loss(self.input, &self.layout, &logits, self.widths.vocabulary);
            let name = "loss".to_owned();
            tensors.push(FloatTensor { name, shape: Vec::new(), values: vec![loss] });
        }
        if self.options.key_values {
            let pool = device.download_floats(workspace.pool.view())?;
            tensors.extend(self.pages.read(&self.layout, &pool));
        }
        tensors.push(self.kept_logits(&wanted, &logits));
        Ok(())
    }

    fn pack(&self, turns: &Turns) -> Result<Batch, EngineError> {
        let members = self.layout.sequences.iter().zip(&turns.ids);
        let members = members.zip(&self.sources).zip(&self.pages.held);
        let chunks: Vec<Chunk<'_>> = members
            .map(|(((sequence, turns), source), pages)| Chunk {
                ids: &sequence.ids,
                positions: turns.each_ref().map(Vec::as_slice),
                source,
                cached: sequence.past.len(),
                pages,
                wanted: Wanted::All,
            })
            .collect();
        let bounds = Bounds {
            vocabulary: self.widths.vocabulary,
            image_rows: self.image_rows(),
            pool_pages: cache::count(&self.layout),
            table_rows: turns.rows,
            page_stride: Tokens(self.longest()).pages().0,
        };
        Batch::pack(&chunks, bounds)
    }

    /// Packed rows that go through the head: all of them where more than the kept logits is wanted.
    fn logit_rows(&self, batch: &Batch) -> Vec<i32> {
        if self.options.hidden_states || self.input.labels.is_some() {
            return batch.logit_rows.clone();
        }
        let mut wanted = vec![false; self.layout.length];
        self.layout.kept.iter().for_each(|slot| wanted[*slot] = true);
        let kept = |slot: usize| wanted[slot % self.layout.length];
        let rows = batch.logit_rows.iter().zip(self.layout.packed_slots());
        rows.filter(|(_, slot)| kept(*slot)).map(|(row, _)| *row).collect()
    }

    /// Logits of packed rows to `[B, kept slots, V]`.
    fn kept_logits(&self, rows: &[i32], logits: &[f32]) -> FloatTensor {
        let columns = self.widths.vocabulary;
        let slots: Vec<usize> = self.layout.packed_slots().collect();
        let found: BTreeMap<usize, &[f32]> = rows
            .iter()
            .filter_map(|row| slots.get(usize::try_from(*row).ok()?).copied())
            .zip(logits.chunks_exact(columns))
            .collect();
        let mut values = Vec::with_capacity(self.layout.batch * self.layout.kept.len() * columns);
        for row in 0..self.layout.batch {
            for slot in &self.layout.kept {
                match found.get(&(row * self.layout.length + slot)) {
                    Some(logits) => values.extend_from_slice(logits),
                    None => values.resize(values.len() + columns, 0.0),
                }
            }
        }
        let shape = vec![self.layout.batch, self.layout.kept.len(), columns];
        FloatTensor { name: "logits".to_owned(), shape, values }
    }

    /// The rows of `[B, S, C]` that hold tokens, packed.
    fn packed(&self, rows: &[f32]) -> Result<Vec<f32>, EngineError> {
        let (columns, slots) = (self.widths.token, self.layout.batch * self.layout.length);
        if rows.len() != slots * columns {
            let got = format!("{} values", rows.len());
            return Err(invalid("hidden_states", &got, "[B, S, hidden_size]"));
        }
        let slots = self.layout.packed_slots();
        Ok(slots.flat_map(|slot| &rows[slot * columns..(slot + 1) * columns]).copied().collect())
    }

    /// Packed rows to `[B, S, columns]`.
    fn padded(&self, name: &str, rows: &[f32], columns: usize) -> FloatTensor {
        let shape = vec![self.layout.batch, self.layout.length, columns];
        let mut values = vec![0.0; shape.iter().product()];
        for (slot, row) in self.layout.packed_slots().zip(rows.chunks_exact(columns)) {
            values[slot * columns..(slot + 1) * columns].copy_from_slice(row);
        }
        FloatTensor { name: name.to_owned(), shape, values }
    }
}

/// Refuses outputs that no machine holds, before anything is loaded.
fn check_outputs(
    config: &ModelConfig,
    layout: &Layout,
    options: &ForwardOptions,
) -> Result<(), EngineError> {
    let text = &config.text;
    let product = |factors: &[usize]| factors.iter().map(|factor| *factor as u128).product();
    let slots = layout.past + layout.length;
    let (batch, layers) = (layout.batch, text.num_hidden_layers);
    let asked = |asked: bool, bytes: u128| if asked { bytes } else { 0 };
    let hidden = product(&[4, layers + 1, batch, layout.length, text.hidden_size]);
    let heads = text.num_attention_heads;
    let attentions = product(&[4, layers, batch, heads, layout.length, slots]);
    let cache = product(&[8, layers, batch, text.num_key_value_heads, slots, text.head_dim]);
    let parts = [
        ("logits", product(&[4, batch, layout.kept.len(), text.vocab_size])),
        ("hidden_states", asked(options.hidden_states, hidden)),
        ("attentions", asked(options.attentions, attentions)),
        ("past_key_values", asked(options.key_values, cache)),
    ];
    let all: u128 = parts.iter().map(|(_, bytes)| bytes).sum();
    if all <= MAX_OUTPUTS {
        return Ok(());
    }
    let largest = parts.into_iter().max_by_key(|(_, bytes)| *bytes);
    let (field, bytes) = largest.unwrap_or(("logits", all));
    Err(invalid(field, &format!("{bytes} bytes"), "below 16 GiB with all other outputs"))
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

fn invalid(field: &'static str, got: &str, allowed: &'static str) -> EngineError {
    EngineError::InvalidRequest { field, got: got.to_owned(), allowed }
}
