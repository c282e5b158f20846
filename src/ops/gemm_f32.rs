//! The f32 forms of the linear layer, without tensor cores. Kernel `kernels/gemm_f32.cu`; launched
//! through [`Gemm`](super::gemm::Gemm), oracle [`crate::reference::gemm`].

use super::gemm::{Entries, Variant};
use super::params::GEMM_F32_THREADS;

const fn form(entry: &'static str, rows: usize, outputs: usize) -> Variant {
    let entries = Entries::Single(entry);
    Variant { entries, rows, outputs, threads: GEMM_F32_THREADS, shared_bytes: 0, any_rows: true }
}

const TILE_64X64: Variant = form("gemm_f32_64x64", 64, 64);
const TILE_16X64: Variant = form("gemm_f32_16x64", 16, 64);

/// The tiles of `kernels/gemm_f32.cu`, which take any number of rows.
pub const FORMS: [Variant; 2] = [TILE_64X64, TILE_16X64];

/// The tile for a number of rows: the small one where the large one would be mostly padding.
pub fn choose(rows: usize) -> &'static Variant {
    if rows <= TILE_16X64.rows { &TILE_16X64 } else { &TILE_64X64 }
}
