//! Rows of several lengths as one table, as the reference's processor returns them
//! (docs/spec.md, section 5.1). The engine packs rows and needs none of this.

use super::{Processed, Processor, PromptError};
use crate::units::TokenId;

/// Where padding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PaddingSide {
    /// Before a row: what generation needs.
    Left,
    /// After it.
    Right,
}

/// How rows are padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Padding {
    /// Where; without it as tokenizer_config.json says, and without that on the left.
    pub side: Option<PaddingSide>,
    /// Pads each row to so many ids, not to the longest row.
    pub max_length: Option<usize>,
    /// Rounds the length up to a multiple.
    pub multiple_of: Option<usize>,
}

/// Conversations padded to one length.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Rows.
    pub rows: usize,
    /// Ids of each row.
    pub columns: usize,
    /// `[rows, columns]`.
    pub input_ids: Vec<TokenId>,
    /// `[rows, columns]`: 0 at padding.
    pub attention_mask: Vec<u8>,
}

impl Processor {
    /// Rows of one length, that of the longest.
    ///
    /// # Errors
    /// [`PromptError::NoPadToken`] where rows differ in length and the tokenizer has no such token.
    pub fn pad(&self, rows: &[Processed]) -> Result<Batch, PromptError> {
        self.pad_to(rows, Padding::default())
    }

    /// Rows of one length.
    ///
    /// # Errors
    /// [`PromptError::NoPadToken`]; [`PromptError::Limit`] for a row that is longer than
    /// `max_length`: a prompt is never cut.
    pub fn pad_to(&self, rows: &[Processed], padding: Padding) -> Result<Batch, PromptError> {
        let longest = rows.iter().map(|row| row.input_ids.len()).max().unwrap_or(0);
        let columns = padding.max_length.unwrap_or(longest);
        if longest > columns {
            let limit = "tokens of a row with max_length";
            return Err(PromptError::Limit { limit, got: longest, max: columns });
        }
        let columns = columns.checked_next_multiple_of(padding.multiple_of.unwrap_or(1).max(1));
        let limit = "tokens of a padded row";
        let too_long = PromptError::Limit { limit, got: longest, max: MAX_COLUMNS };
        let columns = columns.filter(|columns| *columns <= MAX_COLUMNS).ok_or(too_long)?;
        let side = padding.side.unwrap_or(self.padding_side());
        let (mut input_ids, mut attention_mask) = (Vec::new(), Vec::new());
        for row in rows {
            let missing = columns - row.input_ids.len();
            let pad = match self.pad_id() {
                Some(pad) => pad,
                None if missing == 0 => TokenId(0),
                None => return Err(PromptError::NoPadToken),
            };
            let padding = || std::iter::repeat_n(pad, missing);
            let (before, after) = match side {
                PaddingSide::Left => (missing, 0),
                PaddingSide::Right => (0, missing),
            };
            input_ids.extend(padding().take(before));
            input_ids.extend_from_slice(&row.input_ids);
            input_ids.extend(padding().take(after));
            attention_mask.extend(std::iter::repeat_n(0, before));
            attention_mask.extend(std::iter::repeat_n(1, row.input_ids.len()));
            attention_mask.extend(std::iter::repeat_n(0, after));
        }
        Ok(Batch { rows: rows.len(), columns, input_ids, attention_mask })
    }

    /// `mm_token_type_ids` of a batch, `[rows, columns]`: 1 at placeholders of pictures and, as in
    /// the reference, 0 at those of videos.
    pub fn token_types(&self, batch: &Batch) -> Vec<u8> {
        let image = self.vision_tokens().image;
        batch.input_ids.iter().map(|id| u8::from(*id == image)).collect()
    }
}

/// Ids of a padded row: far more than any model takes.
const MAX_COLUMNS: usize = 1 << 24;
