//! The best tokens of a row of scores, in order. Kernel `kernels/top_scores.cu`, oracle
//! [`crate::reference::top_scores`].

use super::params::{SAMPLE_THREADS, TOP_SCORES_NORMALIZES, TOP_SCORES_PERTURBS, TopScoresParams};
pub use super::params::{TopQuery, TopSummary};
use super::{Cost, OpError, check_dim, check_len, dim, product};
use crate::device::{Device, Element, Grid, View, ViewMut};
use crate::units::Bytes;

const OP: &str = "top_scores";
/// Most ids of a query: a thread places one.
pub const TOP_MAX: usize = SAMPLE_THREADS as usize;
/// Flag of [`TopQuery`]: values are log probabilities.
pub const NORMALIZES: u32 = TOP_SCORES_NORMALIZES;
/// Flag of [`TopQuery`]: ids are drawn without replacement from the softmax of the values.
pub const PERTURBS: u32 = TOP_SCORES_PERTURBS;

// SAFETY: integers and a float, 48 bytes with no padding (asserted below), no pointers.
unsafe impl Element for TopQuery {}
// SAFETY: an integer and a float, 8 bytes with no padding (asserted below), no pointers.
unsafe impl Element for TopSummary {}
const _: () = assert!(size_of::<TopQuery>() == 48 && size_of::<TopSummary>() == 8);

/// One launch: for each query the `n` best ids of its row, best first, equals by rising id, with
/// their scores plus the query's offset; and the same value of its target.
///
/// Queries come from the device's memory and are not checked there: `row` must be a row of
/// `scores`. More than `width` or V ids are never written; of a row with a NaN none are.
#[derive(Debug)]
pub struct TopScores<'a> {
    /// `[rows, stride]`.
    pub scores: View<'a, f32>,
    /// `[queries]`.
    pub queries: View<'a, TopQuery>,
    /// `[queries, width]`, of which the first `n` of each row are written.
    pub ids: ViewMut<'a, i32>,
    /// `[queries, width]`, likewise.
    pub values: ViewMut<'a, f32>,
    /// `[queries, width]`, likewise: what the ids are ordered by, perturbed or the value before it
    /// is normalised.
    pub ranks: ViewMut<'a, f32>,
    /// `[queries]`, written whole.
    pub summary: ViewMut<'a, TopSummary>,
    /// Rows of `scores`.
    pub rows: usize,
    /// V of the kernel.
    pub vocabulary: usize,
    /// Columns of a row of `scores`.
    pub stride: usize,
    /// N of the kernel: columns of `ids` and `values`, at most [`TOP_MAX`].
    pub width: usize,
}

impl TopScores<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let queries = self.queries.len() as u64;
        let read = Bytes(queries * 4 * self.vocabulary as u64);
        Cost { read, written: Bytes(queries * (8 + 12 * self.width as u64)), flop: 0 }
    }

    /// Queues the kernel on the device's stream. No query is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the vocabulary is empty, the stride is below it, the width passes
    /// [`TOP_MAX`] or a dimension `i32`; [`OpError::Shape`] if a view is not as long as its shape;
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (queries, vocabulary) = (self.queries.len(), self.vocabulary);
        let rule = "V is at least 1 and at most ld";
        check_dim((1..=self.stride).contains(&vocabulary), OP, "V", vocabulary, rule)?;
        check_dim(self.width <= TOP_MAX, OP, "N", self.width, "N is at most 1024")?;
        check_len(OP, "scores", product(OP, "rows", self.rows, self.stride)?, self.scores.len())?;
        let cells = product(OP, "B", queries, self.width)?;
        check_len(OP, "ids", cells, self.ids.len())?;
        check_len(OP, "values", cells, self.values.len())?;
        check_len(OP, "ranks", cells, self.ranks.len())?;
        check_len(OP, "summary", queries, self.summary.len())?;
        if queries == 0 {
            return Ok(());
        }
        let params = TopScoresParams {
            scores: self.scores.ptr().cast(),
            queries: self.queries.ptr().cast(),
            ids: self.ids.ptr_mut().cast(),
            values: self.values.ptr_mut().cast(),
            ranks: self.ranks.ptr_mut().cast(),
            summary: self.summary.ptr_mut().cast(),
            ld: i64::from(dim(OP, "ld", self.stride)?),
            B: dim(OP, "B", queries)?,
            V: dim(OP, "V", vocabulary)?,
            N: dim(OP, "N", self.width)?,
            pad: 0,
        };
        let blocks = [params.B.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: SAMPLE_THREADS, shared_bytes: 0 };
        // SAFETY: every length is checked above; rows of queries are below `rows` by the caller's
        // contract; the kernel writes at most `width` ids of a query; the borrows keep the outputs
        // apart from the inputs; memory is freed in stream order.
        unsafe { device.launch("top_scores_f32", grid, &params) }?;
        Ok(())
    }
}
