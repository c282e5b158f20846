//! Pixels and ready embeddings of a pass, and which token gets which of their rows.

use super::{input::ForwardInput, invalid, layout::Layout};
use crate::{
    engine::EngineError,
    model::{
        ModelError,
        config::ModelConfig,
        vision::{Pixels, VisionItem},
    },
    units::{FloatType, GridThw, TokenId},
};

/// All pictures, or all videos.
#[derive(Debug)]
pub(super) struct Media<'a> {
    pub(super) kind: &'static str,
    pub(super) placeholder: TokenId,
    pub(super) pixels: Option<&'a [f32]>,
    pub(super) embeds: Option<&'a [f32]>,
    pub(super) grids: &'a [GridThw],
    /// Rows that the tower makes of them, or that are given; 0 without either.
    pub(super) merged: usize,
}

impl<'a> Media<'a> {
    /// Pictures, then videos.
    pub(super) fn both(
        config: &ModelConfig,
        input: &'a ForwardInput,
    ) -> Result<[Self; 2], EngineError> {
        let mut pictures = Media {
            kind: "image",
            placeholder: config.tokens.image,
            pixels: input.pixel_values.as_deref(),
            embeds: input.image_embeds.as_deref(),
            grids: input.image_grid_thw.as_deref().unwrap_or_default(),
            merged: 0,
        };
        let mut clips = Media {
            kind: "video",
            placeholder: config.tokens.video,
            pixels: input.pixel_values_videos.as_deref(),
            embeds: input.video_embeds.as_deref(),
            grids: input.video_grid_thw.as_deref().unwrap_or_default(),
            merged: 0,
        };
        pictures.check(config, ["pixel_values", "image_embeds"])?;
        clips.check(config, ["pixel_values_videos", "video_embeds"])?;
        Ok([pictures, clips])
    }

    fn check(
        &mut self,
        config: &ModelConfig,
        fields: [&'static str; 2],
    ) -> Result<(), EngineError> {
        let [pixels, embeds] = fields;
        if self.pixels.is_some() && self.embeds.is_some() {
            return Err(invalid(embeds, "both", "given without pixels"));
        }
        let (merge, width) = (config.vision.spatial_merge_size, config.vision.patch_width);
        let (mut merged, mut patches) = (0usize, 0usize);
        for grid in self.grids {
            let size = grid.merged_tokens(merge).zip(grid.patch_rows());
            let sum = size.and_then(|(tokens, rows)| {
                Some((merged.checked_add(tokens.0)?, patches.checked_add(rows.0)?))
            });
            (merged, patches) = sum.ok_or(ModelError::Grid { grid: *grid })?;
        }
        if let Some(values) = self.pixels {
            if Some(values.len()) != patches.checked_mul(width) {
                let got = format!("{} rows, not {patches}", values.len() / width);
                return Err(invalid(pixels, &got, "as many rows as its grids need"));
            }
            self.merged = merged;
        }
        if let Some(values) = self.embeds {
            let channels = config.text.hidden_size;
            let rows = values.len() / channels;
            let fits = self.grids.is_empty() || rows == merged;
            if !values.len().is_multiple_of(channels) || !fits {
                let got = format!("{} values, {merged} rows by its grids", values.len());
                return Err(invalid(embeds, &got, "[rows, hidden_size], a row a placeholder"));
            }
            self.merged = rows;
        }
        Ok(())
    }

    pub(super) fn is_given(&self) -> bool {
        self.pixels.is_some() || self.embeds.is_some()
    }

    /// One item for each grid, over its rows of `values`.
    pub(super) fn items(&self, config: &ModelConfig) -> Vec<VisionItem<'a>> {
        let Some(mut rest) = self.pixels else { return Vec::new() };
        let mut items = Vec::with_capacity(self.grids.len());
        for &grid in self.grids {
            let rows = grid.patch_rows().map_or(0, |rows| rows.0);
            let (item, tail) = rest.split_at(rows * config.vision.patch_width);
            items.push(VisionItem { pixels: Pixels::Values(item), grid });
            rest = tail;
        }
        items
    }

    /// Merged rows of each item.
    pub(super) fn item_rows(&self, config: &ModelConfig) -> Vec<usize> {
        if self.grids.is_empty() {
            return vec![self.merged];
        }
        let merge = config.vision.spatial_merge_size;
        let rows = |grid: &GridThw| grid.merged_tokens(merge).map_or(0, |tokens| tokens.0);
        self.grids.iter().map(rows).collect()
    }
}

/// For each token of each sequence its row of the image rows, or -1: rows of media go to their
/// placeholders in order; placeholders of media that are not given keep their own embedding. With
/// `inputs_embeds` the rows behind those of the media are the tokens' own.
pub(super) fn sources(
    media: &[Media<'_>; 2],
    layout: &Layout,
    embedded: Option<&Embedded<'_>>,
) -> Result<Vec<Vec<i32>>, EngineError> {
    let starts = [0, media[0].merged];
    let mut next = starts;
    let mut own = media[0].merged + media[1].merged;
    let mut sources = Vec::with_capacity(layout.sequences.len());
    for sequence in &layout.sequences {
        let mut source = Vec::with_capacity(sequence.ids.len());
        for (id, slot) in sequence.ids.iter().zip(&sequence.slots) {
            let slot = sequence.row * layout.length + slot;
            let is_placeholder = |kind: usize| match embedded {
                Some(embedded) => embedded.is_placeholder(slot, kind),
                None => media[kind].placeholder == *id,
            };
            let kind = (0..2).find(|kind| media[*kind].is_given() && is_placeholder(*kind));
            let row = match (kind, embedded) {
                (Some(kind), _) => {
                    next[kind] += 1;
                    Some(next[kind] - 1)
                }
                (None, Some(_)) => Some(own),
                (None, None) => None,
            };
            own += usize::from(embedded.is_some());
            source.push(row.map_or(-1, |row| i32::try_from(row).unwrap_or(i32::MAX)));
        }
        sources.push(source);
    }
    for (kind, start) in starts.into_iter().enumerate() {
        let (tokens, features) = (next[kind] - start, media[kind].merged);
        if tokens != features {
            let got = format!("{tokens} {} tokens, {features} features", media[kind].kind);
            return Err(invalid("input_ids", &got, "one placeholder a feature"));
        }
    }
    Ok(sources)
}

/// Given embeddings, among which placeholders are found by their value.
pub(super) struct Embedded<'a> {
    /// `[B, S, C]`.
    pub(super) rows: &'a [f32],
    /// The model's own embedding of the placeholder of pictures, and of videos; none for a
    /// placeholder that is no token of the vocabulary.
    pub(super) placeholders: [Option<Vec<f32>>; 2],
    pub(super) dtype: FloatType,
}

impl Embedded<'_> {
    fn is_placeholder(&self, slot: usize, kind: usize) -> bool {
        let Some(own) = &self.placeholders[kind] else { return false };
        let row = self.rows.get(slot * own.len()..(slot + 1) * own.len());
        let round = |value: &f32| match self.dtype {
            FloatType::Bf16 => half::bf16::from_f32(*value).to_f32(),
            FloatType::F16 => half::f16::from_f32(*value).to_f32(),
            FloatType::F32 => *value,
        };
        row.is_some_and(|row| row.iter().map(round).eq(own.iter().copied()))
    }
}
