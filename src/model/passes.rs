//! The model: a configuration, its weights on a device, and both passes over them.

use super::{
    ModelError,
    checkpoint::Checkpoint,
    config::ModelConfig,
    decoder::Decoder,
    rope::RopePlace,
    vision::{Observer, Vision, VisionItem},
    weights::{LoadWarning, Weights},
    workspace::{Widths, Workspace, kv_layout},
};
use crate::{
    device::Device,
    units::{FloatType, TokenId},
};

/// What a model is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct ModelOptions<'a> {
    /// The rotary table, `[rows, D / 2, 2]`: [`super::rope::RopeBlocks::values`], or the rows that
    /// a single pass needs.
    pub rope: &'a [f32],
    /// Pages of the key/value pool that it will run with.
    pub pages: usize,
    /// What it computes in.
    pub dtype: FloatType,
    /// `[3][256]`: what the processor makes of each byte; `None` where no frames will come.
    pub byte_values: Option<&'a [[f32; 256]; 3]>,
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    widths: Widths,
    vision: Vision,
    decoder: Decoder,
}

impl Model {
    /// Checks, converts and uploads a checkpoint's weights.
    ///
    /// # Errors
    /// [`ModelError::Checkpoint`] for the first tensor that is missing or misshapen;
    /// [`ModelError::Device`].
    pub fn load(
        device: &Device,
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        options: ModelOptions<'_>,
    ) -> Result<(Self, Vec<LoadWarning>), ModelError> {
        let (weights, warnings) = Weights::load(device, config, checkpoint, options.dtype)?;
        let widths = Widths::new(config);
        let vision = Vision::new(device, weights.vision, config, widths, options.byte_values)?;
        let table = device.upload_floats(options.dtype, options.rope)?;
        let layout = kv_layout(config, options.pages);
        let decoder = Decoder::new(weights.text, &config.text, widths, layout, table);
        Ok((Self { config: config.clone(), widths, vision, decoder }, warnings))
    }

    /// Its configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Its widths.
    pub fn widths(&self) -> Widths {
        self.widths
    }

    /// Its language model.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Writes what a pass misses in the rotary table.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn enter_rope(&mut self, device: &Device, place: &RopePlace) -> Result<(), ModelError> {
        match &place.missing {
            Some(rows) => self.decoder.set_rope(device, place.first_row, rows),
            None => Ok(()),
        }
    }

    /// The row of the embedding table of a token of the vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Device`].
    pub fn embedding(&self, device: &Device, token: TokenId) -> Result<Vec<f32>, ModelError> {
        self.decoder.embedding(device, token)
    }

    /// Runs the tower over `items`, several to a run while they fit, and writes their image rows
    /// from row `first` on, one item after another.
    ///
    /// # Errors
    /// As [`Vision::forward`]; [`ModelError::StepTooLarge`] if one item alone does not fit.
    pub fn see(
        &self,
        device: &Device,
        workspace: &mut Workspace,
        items: &[VisionItem<'_>],
        first: usize,
        observe: &mut Observer<'_>,
    ) -> Result<(), ModelError> {
        let limits = workspace.limits;
        let (mut start, mut row) = (0, first);
        while start < items.len() {
            let (mut end, mut patches, mut bytes, mut merged) = (start, 0, 0, 0);
            while let Some(item) = items.get(end) {
                let rows = item.grid.patch_rows().ok_or(ModelError::Grid { grid: item.grid })?.0;
                let more = item.pixel_bytes();
                if patches + rows > limits.patch_rows || bytes + more > limits.pixel_bytes {
                    break;
                }
                patches += rows;
                bytes += more;
                merged += self.vision.merged_rows(item.grid);
                end += 1;
            }
            if end == start || row + merged > limits.image_rows {
                return Err(ModelError::StepTooLarge);
            }
            self.vision.forward(device, workspace, &items[start..end], row, observe)?;
            (start, row) = (end, row + merged);
        }
        Ok(())
    }
}
