//! The next token of each sequence from its logits. Kernel `kernels/sample.cu`, oracle
//! [`crate::reference::sample`].

use super::params::{
    SAMPLE_EDITED, SAMPLE_RENORMALIZES, SAMPLE_STATUS_NOT_FINITE, SAMPLE_THREADS,
    SAMPLE_WANTS_LOGPROB, SampleParams,
};
pub use super::params::{SampleResult, SampleSettings};
use super::{Cost, OpError, check_dim, check_len, dim, product};
use crate::device::{Device, Element, Grid, View, ViewMut};
use crate::units::Bytes;

const OP: &str = "sample";
/// Largest vocabulary: each token weighs at most 2^40.
const VOCABULARY_MAX: usize = 1 << 23;
/// Bits of a word of the bitmap.
const WORD: usize = 32;

/// Set in a result's status when a logit is NaN or +inf, or none is above -inf; the token is 0.
pub const STATUS_NOT_FINITE: u32 = SAMPLE_STATUS_NOT_FINITE;
/// Flag of [`SampleSettings`]: the result's `logprob` is wanted.
pub const WANTS_LOGPROB: u32 = SAMPLE_WANTS_LOGPROB;
/// Flag of [`SampleSettings`]: the sequence reads the scores that `score_edits` wrote.
pub const EDITED: u32 = SAMPLE_EDITED;
/// Flag of [`SampleSettings`], for [`WarpScores`]: the log-sum-exp is taken off.
pub const RENORMALIZES: u32 = SAMPLE_RENORMALIZES;

// SAFETY: integers and floats, 80 bytes with no padding (asserted below), no pointers.
unsafe impl Element for SampleSettings {}
// SAFETY: integers and floats, 16 bytes with no padding (asserted below), no pointers.
unsafe impl Element for SampleResult {}
const _: () = assert!(size_of::<SampleSettings>() == 80 && size_of::<SampleResult>() == 16);

/// What both launches read and write.
#[derive(Debug)]
pub struct Rows<'a> {
    /// `[rows, stride]`, of which the first `vocabulary` columns are logits.
    pub logits: View<'a, f32>,
    /// `[sequences, stride]`, for sequences with [`EDITED`]; `None` if there are none.
    pub scores: Option<View<'a, f32>>,
    /// `[sequences]`.
    pub settings: View<'a, SampleSettings>,
    /// `[slots, vocabulary / 32 rounded up]`: bit `id % 32` of word `id / 32` is set for the tokens
    /// of the prompt and of the answer so far.
    pub bitmap: ViewMut<'a, u32>,
    /// `[slots, vocabulary]`: how often the answer has each token, at most 65,535.
    pub counts: ViewMut<'a, u16>,
    /// `[rows]`: what earlier kernels of the step found; nonzero means no token.
    pub status: View<'a, u32>,
    /// `[sequences]`, written whole.
    pub result: ViewMut<'a, SampleResult>,
    /// B of the kernel.
    pub sequences: usize,
    /// Rows of `logits`.
    pub rows: usize,
    /// V of the kernel.
    pub vocabulary: usize,
    /// Columns of a row of `logits`, a multiple of 4, at least `vocabulary`.
    pub stride: usize,
    /// Rows of `bitmap` and `counts`.
    pub slots: usize,
}

/// One launch: the next token of each sequence (docs/spec.md, 13.2 and 13.3).
///
/// In this order: repetition penalty over the tokens of `bitmap`, presence and frequency penalties
/// by `counts`, unless the scores are edited already; then, unless greedy, temperature, top-k (ties
/// of the k-th value stay), top-p (of equal values the lower id stays), min-p, typical-p, epsilon
/// and eta, and a draw by Philox. Greedy takes the lowest id of the largest value. The chosen token
/// is entered in `bitmap` and `counts`.
///
/// Settings come from the device's memory and are not checked there: `row` must be a row of
/// `logits`, `temperature` finite and not negative, `top_p`, `min_p` and `typical_p` in [0, 1],
/// `epsilon` and `eta` in [0, 1), `repetition_penalty` positive. A slot that is no row of `bitmap`
/// means: no history.
#[derive(Debug)]
pub struct Sample<'a>(
    /// The rows of the launch.
    pub Rows<'a>,
);

/// One launch: the scores that [`Sample`] would draw from. What the filters remove is -inf, the
/// others are divided by the temperature; of greedy sequences nothing is removed. History is not
/// entered; a result's token is the best one. A row that is -inf all over is no error here.
#[derive(Debug)]
pub struct WarpScores<'a> {
    /// The rows of the launch.
    pub rows: Rows<'a>,
    /// `[sequences, stride]`: the first `vocabulary` columns are written.
    pub out: ViewMut<'a, f32>,
}

impl SampleSettings {
    /// The most likely token of row 0, lowest id on ties; `slot` is the sequence's row of history.
    pub fn greedy(slot: Option<u32>) -> Self {
        Self {
            seed: 0,
            step: 0,
            choice: 0,
            row: 0,
            slot: slot.and_then(|slot| i32::try_from(slot).ok()).unwrap_or(-1),
            top_k: 0,
            min_keep: 1,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            typical_p: 1.0,
            epsilon: 0.0,
            eta: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            flags: 0,
            reserved: [0; 2],
        }
    }
}

impl Sample<'_> {
    /// Words of a row of the bitmap.
    pub fn bitmap_words(vocabulary: usize) -> usize {
        vocabulary.div_ceil(WORD)
    }

    /// The least that a launch moves: one pass over the logits.
    pub fn cost(&self) -> Cost {
        let (rows, vocabulary) = (self.0.sequences as u64, self.0.vocabulary as u64);
        let read = Bytes(rows * (4 * vocabulary + vocabulary.div_ceil(8)));
        Cost { read, written: Bytes(rows * 16), flop: 6 * rows * vocabulary }
    }

    /// Queues the kernel on the device's stream. Zero sequences is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the vocabulary is empty or above 2^23, the stride is no multiple of 4 or
    /// below the vocabulary, or a dimension passes `i32`; [`OpError::Shape`] if a view is not as
    /// long as its shape; [`OpError::Device`].
    pub fn launch(self, device: &Device) -> Result<(), OpError> {
        self.0.launch(device, "sample_f32", None)
    }
}

impl WarpScores<'_> {
    /// The least that a launch moves: the logits in, the scores out.
    pub fn cost(&self) -> Cost {
        let (rows, vocabulary) = (self.rows.sequences as u64, self.rows.vocabulary as u64);
        let bytes = Bytes(rows * 4 * vocabulary);
        Cost { read: bytes, written: bytes, flop: 6 * rows * vocabulary }
    }

    /// Queues the kernel on the device's stream. Zero sequences is no launch.
    ///
    /// # Errors
    /// As [`Sample::launch`].
    pub fn launch(self, device: &Device) -> Result<(), OpError> {
        self.rows.launch(device, "warp_scores_f32", Some(self.out))
    }
}

impl Rows<'_> {
    fn launch(
        mut self,
        device: &Device,
        kernel: &'static str,
        out: Option<ViewMut<'_, f32>>,
    ) -> Result<(), OpError> {
        let (sequences, vocabulary, stride) = (self.sequences, self.vocabulary, self.stride);
        let rule = "V must be between 1 and 2^23: sums of weights have 64 bits";
        check_dim((1..=VOCABULARY_MAX).contains(&vocabulary), OP, "V", vocabulary, rule)?;
        let whole = stride.is_multiple_of(4) && stride >= vocabulary;
        check_dim(whole, OP, "ld", stride, "ld must be a multiple of 4 and hold a row")?;
        check_len(OP, "logits", product(OP, "rows", self.rows, stride)?, self.logits.len())?;
        let columns = product(OP, "B", sequences, stride)?;
        if let Some(scores) = &self.scores {
            check_len(OP, "scores", columns, scores.len())?;
        }
        if let Some(out) = &out {
            check_len(OP, "out", columns, out.len())?;
        }
        check_len(OP, "settings", sequences, self.settings.len())?;
        let words = product(OP, "slots", self.slots, Sample::bitmap_words(vocabulary))?;
        check_len(OP, "bitmap", words, self.bitmap.len())?;
        check_len(OP, "counts", product(OP, "slots", self.slots, vocabulary)?, self.counts.len())?;
        check_len(OP, "status", self.rows, self.status.len())?;
        check_len(OP, "result", sequences, self.result.len())?;
        if sequences == 0 {
            return Ok(());
        }
        let params = SampleParams {
            logits: self.logits.ptr().cast(),
            scores: self.scores.map_or(std::ptr::null(), |scores| scores.ptr().cast()),
            settings: self.settings.ptr().cast(),
            bitmap: self.bitmap.ptr_mut().cast(),
            counts: self.counts.ptr_mut().cast(),
            status: self.status.ptr().cast(),
            result: self.result.ptr_mut().cast(),
            out: out.map_or(std::ptr::null_mut(), |mut out| out.ptr_mut().cast()),
            ld: i64::from(dim(OP, "ld", stride)?),
            B: dim(OP, "B", sequences)?,
            V: dim(OP, "V", vocabulary)?,
            slots: dim(OP, "slots", self.slots)?,
            pad: 0,
        };
        let blocks = [params.B.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: SAMPLE_THREADS, shared_bytes: 0 };
        // SAFETY: every length is checked above; a `View` starts on a 16-byte boundary and the
        // stride is a multiple of 16 bytes; the kernel checks slots before it uses them, rows are
        // below `rows` and sequences with EDITED have scores by the caller's contract; the borrows
        // keep outputs apart from inputs; memory is freed in stream order, after this launch.
        unsafe { device.launch(kernel, grid, &params) }?;
        Ok(())
    }
}
