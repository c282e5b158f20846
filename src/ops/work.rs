//! Work lists: what each block of an attention kernel does, four `i32` for each.
//!
//! The lists are plain host data, built with the rest of a step's data and uploaded with it.

use super::{OpError, check_dim};

/// `i32` of one item: sequence or frame, tile or segment, keys, and a word that is 0.
pub const WORK_ITEM_WORDS: usize = 4;

/// One item; the fields of `WorkItem` in `params.h`.
pub type WorkItem = [i32; WORK_ITEM_WORDS];

/// The items of a list, given its length in `i32`.
pub(super) fn items(op: &'static str, words: usize) -> Result<usize, OpError> {
    let whole = words.is_multiple_of(WORK_ITEM_WORDS);
    check_dim(whole, op, "work", words, "a work item has 4 elements")?;
    Ok(words / WORK_ITEM_WORDS)
}
