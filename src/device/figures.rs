//! What the build knows of each embedded kernel.

use super::module::{self, Image};

/// What `ptxas -v` said of one entry point on one architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// Name of the entry point.
    pub kernel: &'static str,
    /// `sm_80` and the like.
    pub architecture: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of stack of a thread.
    pub stack: u32,
    /// Bytes of registers spilled.
    pub spill_stores: u32,
    /// Bytes of registers read back.
    pub spill_loads: u32,
    /// Bytes of static shared memory of a block.
    pub shared: u32,
}

/// All figures of the build; empty with the feature `ptx-only`.
pub fn figures() -> &'static [Figures] {
    module::FIGURES
}

/// (file stem, fatbin, entry points) of each embedded image.
pub fn images() -> impl Iterator<Item = (&'static str, &'static [u8], &'static [&'static str])> {
    module::IMAGES.iter().map(|Image { stem, fatbin, entries }| (*stem, *fatbin, *entries))
}

/// The nvcc that compiled them, such as "13.0.88".
pub fn nvcc_release() -> &'static str {
    module::NVCC_RELEASE
}

/// Architectures with machine code: "80", "90a" and the like. PTX of compute_80 is always there.
pub fn architectures() -> &'static [&'static str] {
    module::ARCHITECTURES
}
