//! Pages over pages, and a sequence's pages to dense rows. Kernels `kernels/kv_copy.cu`, oracle
//! [`crate::reference::kv_copy`].

use super::kv::KvLayout;
use super::params::{
    KV_COPY_BLOCK_BYTES, KV_COPY_THREADS, KV_GATHER_THREADS, KV_GATHER_VEC, KvCopyPagesParams,
    KvGatherParams,
};
use super::{Cost, OpError, check_dim, check_len, check_types, dim, grid, product, symbols};
use crate::device::{Device, FloatView, FloatViewMut, Grid, View};
use crate::units::{Bytes, Tokens};

const COPY: &str = "kv_copy_pages";
const GATHER: &str = "kv_gather";

/// One launch: whole pages, all layers, over others: what a fork does with its last page.
#[derive(Debug)]
pub struct KvCopyPages<'a> {
    /// The whole pool, of [`KvLayout::elements`] elements.
    pub pool: FloatViewMut<'a>,
    /// Its shape.
    pub layout: KvLayout,
    /// `[n]`: pages to read.
    pub src: View<'a, i32>,
    /// `[n]`: pages to write, all different, none of them in `src`.
    pub dst: View<'a, i32>,
}

impl KvCopyPages<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let bytes = (self.layout.page_stride() * self.pool.dtype().size()) as u64;
        let bytes = Bytes(self.src.len() as u64 * bytes);
        Cost { read: bytes, written: bytes, flop: 0 }
    }

    /// Queues the kernel on the device's stream. No page is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the head width is no multiple of 8 or a page is larger than a grid;
    /// [`OpError::Shape`] if a view is not as long as its shape; [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        self.layout.check(COPY, self.pool.len())?;
        check_len(COPY, "dst", self.src.len(), self.dst.len())?;
        let pages = dim(COPY, "pages", self.src.len())?;
        let size = self.pool.dtype().size();
        let page_bytes = self.layout.page_stride() * size;
        let blocks = page_bytes.div_ceil(KV_COPY_BLOCK_BYTES as usize);
        check_dim(blocks <= 65_535, COPY, "L", self.layout.layers, "a page is below 4 GiB")?;
        let params = KvCopyPagesParams {
            pool: self.pool.ptr_mut(),
            src: self.src.ptr().cast(),
            dst: self.dst.ptr().cast(),
            page_bytes: self.layout.strides(COPY, 0)?.page * i64::from(dim(COPY, "D", size)?),
        };
        if pages == 0 {
            return Ok(());
        }
        let grid = Grid {
            blocks: [pages.cast_unsigned(), dim(COPY, "L", blocks)?.cast_unsigned(), 1],
            threads: KV_COPY_THREADS,
            shared_bytes: 0,
        };
        // SAFETY: lengths are checked above, pages are in the pool and `src` and `dst` apart by the
        // caller's contract, which engine/pages.rs holds; a view starts on a 16-byte boundary, and
        // with D % 8 == 0 so does each page.
        unsafe { device.launch("kv_copy_pages", grid, &params) }?;
        Ok(())
    }
}

/// One launch: the keys and values of one sequence and layer as dense rows, for export and tests.
#[derive(Debug)]
pub struct KvGather<'a> {
    /// The whole pool, of [`KvLayout::elements`] elements.
    pub pool: FloatView<'a>,
    /// Its shape.
    pub layout: KvLayout,
    /// The layer of the launch.
    pub layer: usize,
    /// `[ceil(tokens / 64)]` or more: the sequence's pages in order.
    pub pages: View<'a, i32>,
    /// `[tokens, G, head_dim]`, written whole.
    pub keys: FloatViewMut<'a>,
    /// `[tokens, G, head_dim]`, written whole.
    pub values: FloatViewMut<'a>,
    /// S of the kernel.
    pub tokens: Tokens,
}

impl KvGather<'_> {
    /// The least that a launch moves.
    pub fn cost(&self) -> Cost {
        let row = self.layout.kv_heads * self.layout.head_dim * self.pool.dtype().size();
        let bytes = Bytes(2 * (self.tokens.0 * row) as u64);
        Cost { read: bytes, written: bytes, flop: 0 }
    }

    /// Queues the kernel on the device's stream. No token is no launch.
    ///
    /// # Errors
    /// [`OpError::Dim`] if the head width is no multiple of 8, the layer is not in the pool, or a
    /// dimension passes its type; [`OpError::Shape`] if a view is not as long as its shape;
    /// [`OpError::Device`].
    pub fn launch(mut self, device: &Device) -> Result<(), OpError> {
        let (tokens, layout) = (self.tokens.0, self.layout);
        layout.check(GATHER, self.pool.len())?;
        let row = product(GATHER, "G", layout.kv_heads, layout.head_dim)?;
        let elements = product(GATHER, "S", tokens, row)?;
        check_len(GATHER, "keys", elements, self.keys.len())?;
        check_len(GATHER, "values", elements, self.values.len())?;
        let dtype = self.pool.dtype();
        let others = [("keys", self.keys.dtype()), ("values", self.values.dtype())];
        check_types(GATHER, dtype, others)?;
        let (expected, found) = (self.tokens.pages().0, self.pages.len());
        if found < expected {
            return Err(OpError::Shape { op: GATHER, argument: "pages", expected, found });
        }
        let threads = product(GATHER, "S", 2, elements / KV_GATHER_VEC as usize)?;
        let grid = Grid {
            blocks: grid::of_threads(GATHER, "S", threads, KV_GATHER_THREADS)?,
            threads: KV_GATHER_THREADS,
            shared_bytes: 0,
        };
        let params = KvGatherParams {
            pool: self.pool.ptr(),
            pages: self.pages.ptr().cast(),
            keys: self.keys.ptr_mut(),
            values: self.values.ptr_mut(),
            kv: layout.strides(GATHER, self.layer)?,
            S: dim(GATHER, "S", tokens)?,
            G: dim(GATHER, "G", layout.kv_heads)?,
            D: dim(GATHER, "D", layout.head_dim)?,
            pad: 0,
        };
        if tokens == 0 {
            return Ok(());
        }
        // SAFETY: lengths are checked above, pages are in the pool by the caller's contract; a view
        // starts on a 16-byte boundary, and with D % 8 == 0 so does each head; the borrows keep
        // the outputs apart from the pool and each other.
        unsafe { device.launch(dtype.pick(symbols!("kv_gather")), grid, &params) }?;
        Ok(())
    }
}
