//! Rows of tables: token and image rows into packed rows, and chosen rows of a matrix. Kernel
//! `kernels/embed.cu`, oracle [`crate::reference::embed`].

use super::params::{EMBED_ROWS, EMBED_STATUS_RANGE, EMBED_THREADS, EmbedParams};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View, ViewMut};
use crate::units::{Bytes, FloatType, Tokens};

/// Set in a sequence's status when a token id or an image row is out of range; the row is zero.
pub const STATUS_RANGE: u32 = EMBED_STATUS_RANGE;

/// Widest row step: one 16-byte access.
const VEC: usize = 8;

/// One launch: `y[t] = image_rows[source[t]]` where `source[t] >= 0`, else `table[ids[t]]`.
///
/// An id or a source out of range gives a zero row and sets [`STATUS_RANGE`] in
/// `status[sequence[t]]`; other bits stay. `sequence` values must be below `status.len()`.
#[derive(Debug)]
pub struct Embed<'a> {
    /// `[vocabulary, channels]`.
    pub table: FloatView<'a>,
    /// `[any, channels]`, the rows of this step's pictures.
    pub image_rows: Option<FloatView<'a>>,
    /// `[rows]`.
    pub ids: View<'a, i32>,
    /// `[rows]`: a row of `image_rows`, or -1 for a token row.
    pub source: View<'a, i32>,
    /// `[rows]`: the sequence that a row belongs to.
    pub sequence: View<'a, i32>,
    /// `[rows, channels]`, written whole.
    pub y: FloatViewMut<'a>,
    /// `[sequences]`.
    pub status: ViewMut<'a, u32>,
    /// T of the kernel.
    pub rows: Tokens,
    /// C of the kernel, a multiple of 8.
    pub channels: usize,
    /// V of the kernel.
    pub vocabulary: usize,
}

impl Embed<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        gather_cost(self.rows.0, self.channels, 3, self.y.dtype())
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if `channels` is 0 or no multiple of 8, or a dimension passes `i32`;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        const OP: &str = "embed";
        let (rows, channels) = (self.rows.0, self.channels);
        check_channels(OP, channels)?;
        check_len(OP, "table", product(OP, "V", self.vocabulary, channels)?, self.table.len())?;
        let images = self.image_rows.map_or(0, |view| view.len() / channels);
        check_len(OP, "image_rows", images * channels, self.image_rows.map_or(0, |v| v.len()))?;
        check_len(OP, "ids", rows, self.ids.len())?;
        check_len(OP, "source", rows, self.source.len())?;
        check_len(OP, "sequence", rows, self.sequence.len())?;
        let dtype = self.y.dtype();
        let image_type = self.image_rows.map_or(dtype, |view| view.dtype());
        check_types(OP, dtype, [("table", self.table.dtype()), ("image_rows", image_type)])?;
        check_len(OP, "y", product(OP, "T", rows, channels)?, self.y.len())?;
        let params = EmbedParams {
            table: self.table.ptr(),
            image_rows: self.image_rows.map_or(std::ptr::null(), |view| view.ptr()),
            ids: self.ids.ptr().cast(),
            source: self.source.ptr().cast(),
            sequence: self.sequence.ptr().cast(),
            y: self.y.ptr_mut(),
            status: self.status.ptr_mut().cast(),
            T: dim(OP, "T", rows)?,
            C: dim(OP, "C", channels)?,
            V: dim(OP, "V", self.vocabulary)?,
            I: dim(OP, "I", images)?,
            B: dim(OP, "B", self.status.len())?,
            pad: 0,
        };
        launch(device, dtype, &params)
    }
}

/// One launch: `y[r] = x[index[r]]` where `index[r] >= 0`, else zeros.
///
/// An index that is not a row of `x` gives a zero row and sets [`STATUS_RANGE`] in `status[r]`.
#[derive(Debug)]
pub struct RowGather<'a> {
    /// `[any, channels]`.
    pub x: FloatView<'a>,
    /// `[rows]`: a row of `x`, or -1.
    pub index: View<'a, i32>,
    /// `[rows, channels]`, written whole.
    pub y: FloatViewMut<'a>,
    /// `[rows]`.
    pub status: ViewMut<'a, u32>,
    /// T of the kernel.
    pub rows: usize,
    /// C of the kernel, a multiple of 8.
    pub channels: usize,
}

impl RowGather<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        gather_cost(self.rows, self.channels, 1, self.y.dtype())
    }

    /// Queues the kernel on the device's stream. Zero rows is no launch.
    ///
    /// # Errors
    /// As [`Embed::launch`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        const OP: &str = "row_gather";
        let (rows, channels) = (self.rows, self.channels);
        check_channels(OP, channels)?;
        let available = self.x.len() / channels;
        check_len(OP, "x", available * channels, self.x.len())?;
        check_len(OP, "index", rows, self.index.len())?;
        let dtype = self.y.dtype();
        check_types(OP, dtype, [("x", self.x.dtype())])?;
        check_len(OP, "status", rows, self.status.len())?;
        check_len(OP, "y", product(OP, "T", rows, channels)?, self.y.len())?;
        let params = EmbedParams {
            table: std::ptr::null(),
            image_rows: self.x.ptr(),
            ids: std::ptr::null(),
            source: self.index.ptr().cast(),
            sequence: std::ptr::null(),
            y: self.y.ptr_mut(),
            status: self.status.ptr_mut().cast(),
            T: dim(OP, "T", rows)?,
            C: dim(OP, "C", channels)?,
            V: 0,
            I: dim(OP, "I", available)?,
            B: dim(OP, "B", rows)?,
            pad: 0,
        };
        launch(device, dtype, &params)
    }
}

fn check_channels(op: &'static str, channels: usize) -> Result<(), OpError> {
    let whole = channels > 0 && channels.is_multiple_of(VEC);
    check_dim(whole, op, "C", channels, "C must be a positive multiple of 8")
}

fn gather_cost(rows: usize, channels: usize, indices: usize, dtype: FloatType) -> Cost {
    let (rows, row) = (rows as u64, (channels * dtype.size()) as u64);
    let index = (indices * size_of::<i32>()) as u64;
    Cost { read: Bytes(rows * (row + index)), written: Bytes(rows * row), flop: 0 }
}

fn launch(device: &Device, dtype: FloatType, params: &EmbedParams) -> Result<(), OpError> {
    if params.T == 0 {
        return Ok(());
    }
    let blocks = params.T.cast_unsigned().div_ceil(EMBED_ROWS);
    let grid = Grid { blocks: [blocks, 1, 1], threads: EMBED_THREADS, shared_bytes: 0 };
    // SAFETY: both callers checked every length against the dimensions in `params`; a `View` starts
    // on a 16-byte boundary; the kernel checks ids, sources and sequences before it uses them; the
    // borrows keep outputs apart from inputs; memory is freed in stream order.
    unsafe { device.launch(dtype.pick(symbols!("embed")), grid, params) }?;
    Ok(())
}
