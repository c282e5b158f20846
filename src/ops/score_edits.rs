//! Logits edited by processors that look at a sequence's history. Kernel `kernels/score_edits.cu`,
//! oracle [`crate::reference::score_edits`].

pub use super::params::ScoreEdit;
use super::params::{
    SAMPLE_THREADS, SCORE_EDIT_ADD, SCORE_EDIT_CLEAN, SCORE_EDIT_DECAY, SCORE_EDIT_FILL,
    SCORE_EDIT_HISTORY, SCORE_EDIT_LOG_SOFTMAX, SCORE_EDIT_PENALTY, SCORE_EDIT_SET,
    ScoreEditsParams,
};
use super::sample::{Sample, SampleSettings};
use super::{Cost, OpError, check_dim, check_len, dim, product};
use crate::device::{Device, Element, Grid, View, ViewMut};
use crate::units::Bytes;

const OP: &str = "score_edits";

// SAFETY: integers and a float, 16 bytes with no padding (asserted below), no pointers.
unsafe impl Element for ScoreEdit {}
const _: () = assert!(size_of::<ScoreEdit>() == 16);

/// What an edit does to a score s; v is its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Edit {
    /// s + values\[i\], of listed ids.
    Add = SCORE_EDIT_ADD,
    /// s * v if it is negative, else s / v, of listed ids.
    Penalty = SCORE_EDIT_PENALTY,
    /// v, of listed ids.
    Set = SCORE_EDIT_SET,
    /// s + |s| * v, of listed ids.
    Decay = SCORE_EDIT_DECAY,
    /// v, of every id.
    Fill = SCORE_EDIT_FILL,
    /// The penalties of the sequence's settings over its history, of every id.
    History = SCORE_EDIT_HISTORY,
    /// NaN becomes 0, infinities the largest and least finite number.
    Clean = SCORE_EDIT_CLEAN,
    /// s less the log-sum-exp of the row.
    LogSoftmax = SCORE_EDIT_LOG_SOFTMAX,
}

/// One launch: each sequence's logits to edited scores (docs/spec.md, 13.2 and 13.3). Sequences
/// without edits are not touched.
///
/// The lists come from the device's memory and are not checked there: `first` must rise and end
/// within `edits`, the entries of edits within `ids` and `values`, the ids of one edit differ. Ids
/// outside of the vocabulary are passed over.
#[derive(Debug)]
pub struct ScoreEdits<'a> {
    /// `[rows, stride]`.
    pub logits: View<'a, f32>,
    /// `[sequences, stride]`: the first `vocabulary` columns of sequences with edits are written.
    pub scores: ViewMut<'a, f32>,
    /// `[sequences]`: row of logits, slot and penalties.
    pub settings: View<'a, SampleSettings>,
    /// `[sequences + 1]`: first edit of each sequence, then their number.
    pub first: View<'a, i32>,
    /// Edits of all sequences.
    pub edits: View<'a, ScoreEdit>,
    /// Ids of all edits.
    pub ids: View<'a, i32>,
    /// For each id what [`Edit::Add`] adds.
    pub values: View<'a, f32>,
    /// `[slots, vocabulary / 32 rounded up]`, as [`Sample`] keeps it.
    pub bitmap: ViewMut<'a, u32>,
    /// `[slots, vocabulary]`, as [`Sample`] keeps it.
    pub counts: ViewMut<'a, u16>,
    /// B of the kernel.
    pub sequences: usize,
    /// Rows of `logits`.
    pub rows: usize,
    /// V of the kernel.
    pub vocabulary: usize,
    /// Columns of a row.
    pub stride: usize,
    /// Rows of `bitmap` and `counts`.
    pub slots: usize,
}

impl ScoreEdits<'_> {
    /// The least that a launch moves if every sequence has edits.
    pub fn cost(&self) -> Cost {
        let bytes = Bytes(self.sequences as u64 * 4 * self.vocabulary as u64);
        Cost { read: bytes, written: bytes, flop: 0 }
    }

    /// Queues the kernel on the device's stream. Zero sequences is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the vocabulary is empty, the stride is below it, or a dimension passes
    /// `i32`; [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (sequences, vocabulary, stride) = (self.sequences, self.vocabulary, self.stride);
        let rule = "V is at least 1 and at most ld";
        check_dim((1..=stride).contains(&vocabulary), OP, "V", vocabulary, rule)?;
        check_len(OP, "logits", product(OP, "rows", self.rows, stride)?, self.logits.len())?;
        check_len(OP, "scores", product(OP, "B", sequences, stride)?, self.scores.len())?;
        check_len(OP, "settings", sequences, self.settings.len())?;
        check_len(OP, "first", sequences + 1, self.first.len())?;
        check_len(OP, "values", self.ids.len(), self.values.len())?;
        let words = product(OP, "slots", self.slots, Sample::bitmap_words(vocabulary))?;
        check_len(OP, "bitmap", words, self.bitmap.len())?;
        check_len(OP, "counts", product(OP, "slots", self.slots, vocabulary)?, self.counts.len())?;
        if sequences == 0 {
            return Ok(());
        }
        let params = ScoreEditsParams {
            logits: self.logits.ptr().cast(),
            scores: self.scores.ptr_mut().cast(),
            settings: self.settings.ptr().cast(),
            first: self.first.ptr().cast(),
            edits: self.edits.ptr().cast(),
            ids: self.ids.ptr().cast(),
            values: self.values.ptr().cast(),
            bitmap: self.bitmap.ptr_mut().cast(),
            counts: self.counts.ptr_mut().cast(),
            ld: i64::from(dim(OP, "ld", stride)?),
            B: dim(OP, "B", sequences)?,
            V: dim(OP, "V", vocabulary)?,
            slots: dim(OP, "slots", self.slots)?,
            pad: 0,
        };
        let blocks = [params.B.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: SAMPLE_THREADS, shared_bytes: 0 };
        // SAFETY: every length is checked above and the content of the lists is the caller's
        // contract, which engine/processors.rs holds; the kernel checks ids and slots; the borrows
        // keep the scores apart from the inputs; memory is freed in stream order.
        unsafe { device.launch("score_edits_f32", grid, &params) }?;
        Ok(())
    }
}
