//! The packed rows of one step, built on the host, checked, and laid out for one copy.
//!
//! ```text
//! sequence 0 (decode)   1 row      ids, positions, slot        kv_len  17  pages 4 9
//! sequence 1 (decode)   1 row      …                           kv_len 130  pages 0 1 7
//! sequence 2 (prefill)  300 rows   …                           kv_len 300  pages 2 3 5 6 8
//!                       T = 302    cu_rows 0 1 2 302
//! ```
//! Sequences whose logits are wanted stand first, so that row `b` of the logits is sequence `b`.
//! What a kernel could only notice as a fault is checked here: ids, slots, page ownership.

use super::EngineError;
use crate::units::{PAGE_TOKENS, PageId, TokenId};

/// Which rows of a sequence get logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// None: a chunk that does not end the prompt.
    Nothing,
    /// The last row: what the sampler needs.
    Last,
    /// Every row.
    All,
}

/// What one sequence contributes to a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk<'a> {
    /// Tokens of this step.
    pub(crate) ids: &'a [TokenId],
    /// Rows of the rotary table for each token: time, height, width.
    pub(crate) positions: [&'a [i32]; 3],
    /// For each token a row of the image rows, or -1.
    pub(crate) source: &'a [i32],
    /// Tokens of the sequence that are in its pages already.
    pub(crate) cached: usize,
    /// The sequence's pages, in order.
    pub(crate) pages: &'a [PageId],
    pub(crate) wanted: Wanted,
}

/// Sizes that every value of a step must stay below.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) vocabulary: usize,
    pub(crate) image_rows: usize,
    pub(crate) pool_pages: usize,
    pub(crate) table_rows: usize,
    /// Pages of one sequence at most: the stride of the page table.
    pub(crate) page_stride: usize,
}

/// The host's side of a step.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// `[T]`.
    pub(crate) ids: Vec<i32>,
    /// `[T]`.
    pub(crate) source: Vec<i32>,
    /// `[T]`.
    pub(crate) sequence: Vec<i32>,
    /// `[3][T]`.
    pub(crate) positions: Vec<i32>,
    /// `[T]`: page * 64 + place in the page.
    pub(crate) slots: Vec<i32>,
    /// `[B + 1]`.
    pub(crate) cu_rows: Vec<i32>,
    /// `[B]`, this step's tokens included.
    pub(crate) kv_len: Vec<i32>,
    /// `[B][page_stride]`, -1 where a sequence has no page.
    pub(crate) page_table: Vec<i32>,
    pub(crate) page_stride: usize,
    /// Packed rows whose logits are wanted.
    pub(crate) logit_rows: Vec<i32>,
}

impl Batch {
    /// Packs `chunks`; empty ones are refused.
    ///
    /// # Errors
    /// [`EngineError::Internal`] for a value out of its bounds: the callers check requests before.
    pub(crate) fn pack(chunks: &[Chunk<'_>], bounds: Bounds) -> Result<Self, EngineError> {
        let mut batch = Self { page_stride: bounds.page_stride, ..Self::default() };
        batch.cu_rows.push(0);
        for (index, chunk) in chunks.iter().enumerate() {
            check(chunk, bounds)?;
            batch.push_rows(index, chunk)?;
            batch.push_pages(chunk, bounds)?;
        }
        for axis in 0..3 {
            for chunk in chunks {
                batch.positions.extend_from_slice(chunk.positions[axis]);
            }
        }
        Ok(batch)
    }

    /// T: packed rows.
    pub(crate) fn rows(&self) -> usize {
        self.ids.len()
    }

    fn push_rows(&mut self, index: usize, chunk: &Chunk<'_>) -> Result<(), EngineError> {
        let first = self.ids.len();
        for (place, (id, source)) in chunk.ids.iter().zip(chunk.source).enumerate() {
            let token = chunk.cached + place;
            let page = chunk.pages[token / PAGE_TOKENS];
            self.ids.push(id.0.cast_signed());
            self.source.push(*source);
            self.sequence.push(int(index)?);
            self.slots.push(int(page.0 as usize * PAGE_TOKENS + token % PAGE_TOKENS)?);
        }
        let end = self.ids.len();
        self.cu_rows.push(int(end)?);
        let wanted = match chunk.wanted {
            Wanted::Nothing => end..end,
            Wanted::Last => end - 1..end,
            Wanted::All => first..end,
        };
        for row in wanted {
            self.logit_rows.push(int(row)?);
        }
        Ok(())
    }

    fn push_pages(&mut self, chunk: &Chunk<'_>, bounds: Bounds) -> Result<(), EngineError> {
        self.kv_len.push(int(chunk.cached + chunk.ids.len())?);
        let end = self.page_table.len() + bounds.page_stride;
        self.page_table.extend(chunk.pages.iter().map(|page| page.0.cast_signed()));
        self.page_table.resize(end, -1);
        Ok(())
    }
}

fn check(chunk: &Chunk<'_>, bounds: Bounds) -> Result<(), EngineError> {
    let rows = chunk.ids.len();
    let wrong = |what: &str| Err(EngineError::internal(format!("a chunk of a step has {what}")));
    if rows == 0 {
        return wrong("no rows");
    }
    if chunk.source.len() != rows || chunk.positions.iter().any(|axis| axis.len() != rows) {
        return wrong("parts of different lengths");
    }
    if chunk.ids.iter().any(|id| id.0 as usize >= bounds.vocabulary) {
        return wrong("an id outside the vocabulary");
    }
    let inside = |value: i32, end: usize| usize::try_from(value).is_ok_and(|value| value < end);
    if chunk.source.iter().any(|row| *row != -1 && !inside(*row, bounds.image_rows)) {
        return wrong("an image row that does not exist");
    }
    if chunk.positions.iter().flat_map(|axis| axis.iter()).any(|p| !inside(*p, bounds.table_rows)) {
        return wrong("a position outside the rotary table");
    }
    if chunk.pages.iter().any(|page| page.0 as usize >= bounds.pool_pages) {
        return wrong("a page outside the pool");
    }
    let needed = (chunk.cached + rows).div_ceil(PAGE_TOKENS);
    if chunk.pages.len() < needed || chunk.pages.len() > bounds.page_stride {
        return wrong("too few or too many pages");
    }
    Ok(())
}

fn int(value: usize) -> Result<i32, EngineError> {
    let too_large = |_error| EngineError::internal(format!("{value} passes 2^31 in a step"));
    i32::try_from(value).map_err(too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { vocabulary: 100, image_rows: 6, pool_pages: 8, table_rows: 300, page_stride: 3 };

    fn chunk<'a>(ids: &'a [TokenId], axis: &'a [i32], source: &'a [i32]) -> Chunk<'a> {
        let pages = &[PageId(5), PageId(2)];
        Chunk { ids, positions: [axis; 3], source, cached: 63, pages, wanted: Wanted::Last }
    }

    #[test]
    fn rows_are_packed_and_slots_follow_the_pages() {
        let ids = [TokenId(7), TokenId(9)];
        let (axis, source) = ([63, 64], [-1, 4]);
        let prefill = chunk(&ids, &axis, &source);
        let decode = Chunk {
            ids: &ids[..1],
            positions: [&axis[..1]; 3],
            source: &source[..1],
            cached: 2,
            pages: &[PageId(0)],
            wanted: Wanted::All,
        };
        let batch = Batch::pack(&[decode, prefill], BOUNDS).unwrap();
        assert_eq!(batch.ids, [7, 7, 9]);
        assert_eq!(batch.sequence, [0, 1, 1]);
        assert_eq!(batch.slots, [2, 5 * 64 + 63, 2 * 64]);
        assert_eq!(batch.cu_rows, [0, 1, 3]);
        assert_eq!(batch.kv_len, [3, 65]);
        assert_eq!(batch.page_table, [0, -1, -1, 5, 2, -1]);
        assert_eq!(batch.logit_rows, [0, 2]);
        assert_eq!(batch.positions, [63, 63, 64, 63, 63, 64, 63, 63, 64]);
    }

    #[test]
    fn values_out_of_bounds_are_refused() {
        let good = [TokenId(7), TokenId(9)];
        let bad = [TokenId(7), TokenId(100)];
        let (axis, source) = ([63, 64], [-1, 5]);
        assert!(Batch::pack(&[chunk(&good, &axis, &source)], BOUNDS).is_ok());
        let refused: &[(Chunk<'_>, &str)] = &[
            (chunk(&bad, &axis, &source), "vocabulary"),
            (chunk(&good, &[63, 300], &source), "rotary"),
            (chunk(&good, &axis, &[-1, 6]), "image row"),
            (chunk(&good, &axis, &[-2, 1]), "image row"),
            (chunk(&good, &axis, &[-1]), "lengths"),
            (chunk(&[], &[], &[]), "no rows"),
            (Chunk { pages: &[PageId(8), PageId(1)], ..chunk(&good, &axis, &source) }, "pool"),
            (Chunk { pages: &[PageId(1)], ..chunk(&good, &axis, &source) }, "pages"),
        ];
        for (chunk, reason) in refused {
            let error = Batch::pack(&[*chunk], BOUNDS).unwrap_err();
            assert!(error.to_string().contains(reason), "{reason}: {error}");
        }
    }
}
