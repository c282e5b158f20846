//! Addresses and modifiers of memory instructions, as the families that access memory lower them.

use super::access::{GENERIC, GLOBAL, LOCAL, PARAM, SHARED};
use crate::fault::LoadError;
use crate::lower::emit::{Emit, Mods, V};
use crate::ptx::ast::{AddressBase, Operand};
use crate::ptx::types::{RegClass, Space};

/// An address operand: its space, the register that it starts from, and an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    /// A constant of this module.
    pub space: u8,
    /// Register (pair if `is_wide`).
    pub base: V,
    /// 64-bit register.
    pub is_wide: bool,
    /// Goes into `imm`.
    pub offset: u64,
}

/// Takes the state space of a memory operation; `None` is generic.
pub(crate) fn take_space(mods: &mut Mods) -> Option<Space> {
    match mods.take_any(&[
        "global",
        "shared",
        "shared::cta",
        "local",
        "const",
        "param",
        "param::entry",
        "param::func",
    ])? {
        "global" => Some(Space::Global),
        "shared" | "shared::cta" => Some(Space::Shared),
        "local" => Some(Space::Local),
        "const" => Some(Space::Const),
        _ => Some(Space::Param),
    }
}

/// Resolves an address operand of a space.
///
/// # Errors
/// For an operand that is no address.
pub(crate) fn address(
    cx: &mut Emit,
    operand: &Operand,
    space: Option<Space>,
) -> Result<Address, LoadError> {
    let Operand::Address(base, offset) = operand else {
        return Err(cx.error("an address is needed"));
    };
    let kind = |cx: &Emit, space: Option<Space>| match space {
        Some(Space::Global | Space::Const) => GLOBAL,
        Some(Space::Shared) => SHARED,
        Some(Space::Local) => LOCAL,
        Some(Space::Param) if cx.in_entry() => PARAM,
        Some(Space::Param) => LOCAL,
        _ => GENERIC,
    };
    match base {
        AddressBase::Reg(reg) => {
            let is_wide = cx.class(*reg)? == RegClass::B64;
            let space = kind(cx, space);
            if !is_wide && (space == GLOBAL || space == GENERIC) {
                return Err(cx.error("the address must have 64 bits"));
            }
            Ok(Address { space, base: cx.value(*reg)?, is_wide, offset: *offset as u64 })
        }
        AddressBase::Symbol(symbol) => {
            let (found, address) = cx.symbol(*symbol)?;
            let address = address.wrapping_add(*offset as u64);
            if matches!(found, GLOBAL | GENERIC) {
                return Ok(Address {
                    space: found,
                    base: cx.const64(address),
                    is_wide: true,
                    offset: 0,
                });
            }
            Ok(Address {
                space: found,
                base: cx.const32(address as u32),
                is_wide: false,
                offset: 0,
            })
        }
        AddressBase::Absolute => {
            let space = kind(cx, space);
            let base = cx.const64(*offset as u64);
            Ok(Address { space, base, is_wide: true, offset: 0 })
        }
    }
}

/// Drops modifiers that have no effect on values.
pub(crate) fn drop_hints(mods: &mut Mods) {
    mods.drop_if(|m| {
        matches!(
            m,
            "weak"
                | "relaxed"
                | "acquire"
                | "release"
                | "acq_rel"
                | "volatile"
                | "mmio"
                | "cta"
                | "cluster"
                | "gpu"
                | "sys"
                | "ca"
                | "cg"
                | "cs"
                | "lu"
                | "cv"
                | "nc"
                | "wb"
                | "wt"
                | "noftz"
        ) || m.starts_with("L1::")
            || m.starts_with("L2::")
    });
}
