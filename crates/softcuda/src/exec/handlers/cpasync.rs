//! Asynchronous copies.

use crate::exec::warp::Warp;

/// Copies in flight of a warp.
#[derive(Debug, Default)]
pub struct Copies {}

impl Copies {
    /// Forgets everything: a new block begins.
    pub fn reset(&mut self) {}
}

/// The lanes of `mask` exit: their copies land.
pub fn lanes_exit(_warp: &mut Warp, _mask: u32) {}
