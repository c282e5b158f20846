//! The instruction set, by family.
//!
//! Each family module has `pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError>`:
//! false when the instruction is not of the family (opcode, type); an error when a modifier or operand is not supported.
//! `crate::lower` asks the families in the order of its list.

pub(crate) mod access;
pub(crate) mod address;
pub(crate) mod alu_f16;
pub(crate) mod alu_f32;
pub(crate) mod alu_f64;
pub(crate) mod alu_int;
pub(crate) mod approx;
pub(crate) mod atom;
pub(crate) mod compare;
pub(crate) mod control;
pub mod copies;
pub mod cpasync;
pub(crate) mod cvt;
pub(crate) mod lanewise;
pub(crate) mod ldsm;
pub(crate) mod ldst;
pub(crate) mod logic;
pub(crate) mod map;
mod mem;
pub(crate) mod mma;
pub(crate) mod modes;
pub(crate) mod mov;
pub(crate) mod rows;
pub mod special;
pub(crate) mod warpops;
mod wide512;
