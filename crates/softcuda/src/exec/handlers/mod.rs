//! The instruction set, by family.
//!
//! Each family module has `pub(crate) fn lower(cx: &mut Emit, opcode: &str, inst: &Inst) -> Result<bool, LoadError>`:
//! false when the instruction is not of the family (opcode, type); an error when a modifier or operand is not supported.
//! `crate::lower` asks the families in the order of its list.

pub mod cpasync;
pub mod special;
