//! Geometry of the pool of keys and values, and the view of it that the attention ops share.

use super::params::{KvStrides, PAGE_TOKENS as DEVICE_PAGE_TOKENS};
use super::{OpError, check_dim, check_len};
use crate::device::{FloatView, View};
use crate::units::{Bytes, FloatType, PAGE_TOKENS};

const _: () = assert!(DEVICE_PAGE_TOKENS as usize == PAGE_TOKENS);

/// Shape of the pool, `[pages][layers][2][kv_heads][64][head_dim]`: a page holds 64 tokens of
/// every layer, keys before values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Pages of the pool.
    pub pages: usize,
    /// L: layers of the decoder.
    pub layers: usize,
    /// G: key/value heads.
    pub kv_heads: usize,
    /// D: channels of a head.
    pub head_dim: usize,
}

impl KvLayout {
    /// Elements of one head of one page: keys or values of 64 tokens.
    pub fn head_stride(&self) -> usize {
        PAGE_TOKENS * self.head_dim
    }

    /// Elements of the keys of one layer of a page, and so where its values start.
    pub fn value_offset(&self) -> usize {
        self.kv_heads * self.head_stride()
    }

    /// Elements of one layer of a page.
    pub fn layer_stride(&self) -> usize {
        2 * self.value_offset()
    }

    /// Elements of a page.
    pub fn page_stride(&self) -> usize {
        self.layers * self.layer_stride()
    }

    /// Elements of the pool; `None` on overflow.
    pub fn elements(&self) -> Option<usize> {
        [2, PAGE_TOKENS, self.head_dim, self.kv_heads, self.layers, self.pages]
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
    }

    /// Bytes of a page of numbers of a type; `None` on overflow.
    pub fn page_bytes(&self, dtype: FloatType) -> Option<Bytes> {
        let elements = Self { pages: 1, ..*self }.elements()?;
        Bytes::of::<u8>(elements.checked_mul(dtype.size())?)
    }

    /// Refuses a pool of another length, and head widths that are no multiple of 8.
    pub(super) fn check(&self, op: &'static str, pool: usize) -> Result<(), OpError> {
        let rule = "D must be a positive multiple of 8";
        let whole = self.head_dim > 0 && self.head_dim.is_multiple_of(8);
        check_dim(whole, op, "D", self.head_dim, rule)?;
        check_dim(self.kv_heads > 0, op, "G", self.kv_heads, "G must be positive")?;
        let fits = self.elements().filter(|&elements| i64::try_from(elements).is_ok());
        let rule = "the pool passes the address space";
        let expected = fits.ok_or(OpError::Dim { op, dim: "pages", found: self.pages, rule })?;
        check_len(op, "pool", expected, pool)
    }

    /// The strides of one layer, after [`KvLayout::check`].
    pub(super) fn strides(&self, op: &'static str, layer: usize) -> Result<KvStrides, OpError> {
        check_dim(layer < self.layers, op, "layer", layer, "the pool has fewer layers")?;
        let stride = |elements: usize| {
            let rule = "the pool passes the address space";
            let error = OpError::Dim { op, dim: "pages", found: self.pages, rule };
            i64::try_from(elements).map_err(|_too_large| error)
        };
        Ok(KvStrides {
            page: stride(self.page_stride())?,
            layer: stride(layer * self.layer_stride())?,
            values: stride(self.value_offset())?,
            head: stride(self.head_stride())?,
        })
    }
}

/// Keys and values of one layer, and the sequences of a step that attend to them.
#[derive(Clone, Copy, Debug)]
pub struct KvCache<'a> {
    /// The whole pool, of [`KvLayout::elements`] elements.
    pub pool: FloatView<'a>,
    /// Its shape.
    pub layout: KvLayout,
    /// The layer of the launch.
    pub layer: usize,
    /// `[B + 1]`: first packed row of each sequence, then the number of rows.
    pub cu_rows: View<'a, i32>,
    /// `[B, pages_per_sequence]`: the pages of each sequence in order, -1 past its end.
    pub page_table: View<'a, i32>,
    /// Places in a row of the page table.
    pub pages_per_sequence: usize,
}

impl KvCache<'_> {
    /// B: sequences of the step.
    pub fn sequences(&self) -> usize {
        self.cu_rows.len().saturating_sub(1)
    }

    /// Refuses lengths that do not fit; returns the strides of the layer.
    pub(super) fn check(&self, op: &'static str) -> Result<KvStrides, OpError> {
        self.layout.check(op, self.pool.len())?;
        let rows = self.cu_rows.len();
        check_dim(rows > 0, op, "cu_rows", rows, "it has one element more than sequences")?;
        let expected = super::product(op, "B", self.sequences(), self.pages_per_sequence)?;
        check_len(op, "page_table", expected, self.page_table.len())?;
        self.layout.strides(op, self.layer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_the_2b_model_is_1_75_mib() {
        let layout = KvLayout { pages: 3, layers: 28, kv_heads: 2, head_dim: 128 };
        assert_eq!(layout.page_bytes(FloatType::Bf16), Some(Bytes(1_835_008)));
        assert_eq!(layout.page_bytes(FloatType::F32), Some(Bytes(3_670_016)));
        assert_eq!(layout.elements(), Some(3 * layout.page_stride()));
    }

    #[test]
    fn a_pool_past_the_address_space_is_refused() {
        let layout = KvLayout { pages: usize::MAX, layers: 28, kv_heads: 2, head_dim: 128 };
        assert_eq!(layout.elements(), None);
        let error = layout.check("op", 0).unwrap_err();
        assert!(matches!(error, OpError::Dim { dim: "pages", .. }), "{error}");
    }
}
