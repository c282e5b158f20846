//! The next token of each sequence from its logits. Kernel `kernels/sample.cu`, oracle
//! [`crate::reference::sample`].

use super::params::{SAMPLE_STATUS_NOT_FINITE, SAMPLE_THREADS, SAMPLE_WANTS_LOGPROB, SampleParams};
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

// SAFETY: integers and floats, 64 bytes with no padding (asserted below), no pointers.
unsafe impl Element for SampleSettings {}
// SAFETY: integers and floats, 16 bytes with no padding (asserted below), no pointers.
unsafe impl Element for SampleResult {}
const _: () = assert!(size_of::<SampleSettings>() == 64 && size_of::<SampleResult>() == 16);

/// One launch: the next token of each sequence (docs/spec.md, 13.2 and 13.3).
///
/// In this order: repetition penalty over the tokens of `bitmap`, presence and frequency penalties
/// by `counts`; then, unless greedy, temperature, top-k (ties of the k-th value stay), top-p (of
/// equal values the lower id stays), min-p, and a draw by Philox. Greedy takes the lowest id of the
/// largest value. The chosen token is entered in `bitmap` and `counts`.
///
/// Settings come from the device's memory and are not checked there: `temperature` must be finite
/// and not negative, `top_p` and `min_p` in [0, 1], `repetition_penalty` positive. A slot that is
/// no row of `bitmap` means: no history.
#[derive(Debug)]
pub struct Sample<'a> {
    /// `[sequences, stride]`, of which the first `vocabulary` columns are logits.
    pub logits: View<'a, f32>,
    /// `[sequences]`.
    pub settings: View<'a, SampleSettings>,
    /// `[slots, vocabulary / 32 rounded up]`: bit `id % 32` of word `id / 32` is set for the tokens
    /// of the prompt and of the answer so far.
    pub bitmap: ViewMut<'a, u32>,
    /// `[slots, vocabulary]`: how often the answer has each token, at most 65,535.
    pub counts: ViewMut<'a, u16>,
    /// `[sequences]`: what earlier kernels of the step found; nonzero means no token.
    pub status: View<'a, u32>,
    /// `[sequences]`, written whole.
    pub result: ViewMut<'a, SampleResult>,
    /// B of the kernel.
    pub sequences: usize,
    /// V of the kernel.
    pub vocabulary: usize,
    /// Columns of a row of `logits`, a multiple of 4, at least `vocabulary`.
    pub stride: usize,
    /// Rows of `bitmap` and `counts`.
    pub slots: usize,
}

impl SampleSettings {
    /// The most likely token, lowest id on ties; `slot` is the sequence's row of history.
    pub fn greedy(slot: Option<u32>) -> Self {
        Self {
            seed: 0,
            step: 0,
            choice: 0,
            slot: slot.and_then(|slot| i32::try_from(slot).ok()).unwrap_or(-1),
            top_k: 0,
            temperature: 0.0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            flags: 0,
            reserved: [0; 3],
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
        let (rows, vocabulary) = (self.sequences as u64, self.vocabulary as u64);
        let read = Bytes(rows * (4 * vocabulary + vocabulary.div_ceil(8)));
        Cost { read, written: Bytes(rows * 16), flop: 6 * rows * vocabulary }
    }

    /// Queues the kernel on the device's stream. Zero sequences is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the vocabulary is empty or above 2^23, the stride is no multiple of 4 or below the
    /// vocabulary, or a dimension passes `i32`; [`OpError::Shape`] if a view is not as long as its
    /// shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (sequences, vocabulary, stride) = (self.sequences, self.vocabulary, self.stride);
        let rule = "V must be between 1 and 2^23: sums of weights have 64 bits";
        check_dim((1..=VOCABULARY_MAX).contains(&vocabulary), OP, "V", vocabulary, rule)?;
        let whole = stride.is_multiple_of(4) && stride >= vocabulary;
        check_dim(whole, OP, "ld", stride, "ld must be a multiple of 4 and hold a row")?;
        check_len(OP, "logits", product(OP, "B", sequences, stride)?, self.logits.len())?;
        check_len(OP, "settings", sequences, self.settings.len())?;
        let words = product(OP, "slots", self.slots, Self::bitmap_words(vocabulary))?;
        check_len(OP, "bitmap", words, self.bitmap.len())?;
        check_len(OP, "counts", product(OP, "slots", self.slots, vocabulary)?, self.counts.len())?;
        check_len(OP, "status", sequences, self.status.len())?;
        check_len(OP, "result", sequences, self.result.len())?;
        if sequences == 0 {
            return Ok(());
        }
        let params = SampleParams {
            logits: self.logits.ptr().cast(),
            settings: self.settings.ptr().cast(),
            bitmap: self.bitmap.ptr_mut().cast(),
            counts: self.counts.ptr_mut().cast(),
            status: self.status.ptr().cast(),
            result: self.result.ptr_mut().cast(),
            ld: i64::from(dim(OP, "ld", stride)?),
            B: dim(OP, "B", sequences)?,
            V: dim(OP, "V", vocabulary)?,
            slots: dim(OP, "slots", self.slots)?,
            pad: 0,
        };
        let blocks = [params.B.cast_unsigned(), 1, 1];
        let grid = Grid { blocks, threads: SAMPLE_THREADS, shared_bytes: 0 };
        // SAFETY: every length is checked above; a `View` starts on a 16-byte boundary and the
        // stride is a multiple of 16 bytes; the kernel checks slots before it uses them; the borrows
        // keep outputs apart from inputs; memory is freed in stream order, after this launch.
        unsafe { device.launch("sample_f32", grid, &params) }?;
        Ok(())
    }
}
