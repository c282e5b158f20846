//! The generic address space: which tag means which memory.
//!
//! The tag of an address is its top 16 bits. User addresses of x86-64 Linux lie below 2^47, so no
//! tag but 0 is ever a valid host address.

/// Bits below the tag.
pub const TAG_SHIFT: u32 = 48;
/// Pinned host memory, at its host address.
pub const TAG_HOST: u64 = 0;
/// Global, constant and module variables: the arena.
pub const TAG_GLOBAL: u64 = 1;
/// The shared memory of the running block.
pub const TAG_SHARED: u64 = 2;
/// The local memory of the running thread.
pub const TAG_LOCAL: u64 = 3;
/// Function tokens: never memory.
pub const TAG_FUNCTION: u64 = 4;
/// The parameter buffer of the running launch, read only.
pub const TAG_PARAM: u64 = 5;

/// First address of the arena.
pub const GLOBAL_BASE: u64 = TAG_GLOBAL << TAG_SHIFT;
/// First address of the shared window.
pub const SHARED_BASE: u64 = TAG_SHARED << TAG_SHIFT;
/// First address of the local window.
pub const LOCAL_BASE: u64 = TAG_LOCAL << TAG_SHIFT;
/// First function token.
pub const FUNCTION_BASE: u64 = TAG_FUNCTION << TAG_SHIFT;
/// First address of the parameter window.
pub const PARAM_BASE: u64 = TAG_PARAM << TAG_SHIFT;
/// Addresses below this one are the null page.
pub const NULL_PAGE: u64 = 0x1_0000;

/// The tag of a generic address.
#[must_use]
pub const fn tag(address: u64) -> u64 {
    address >> TAG_SHIFT
}

/// The part of a generic address below its tag.
#[must_use]
pub const fn offset(address: u64) -> u64 {
    address & ((1 << TAG_SHIFT) - 1)
}
