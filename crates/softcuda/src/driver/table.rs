//! The jump table of the shim, in the order of `api.txt`.

use std::ffi::{CStr, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::NOT_SUPPORTED;
use super::state;

/// Addresses of entry points, for the shim to copy.
pub(crate) struct Table<const N: usize>([*const c_void; N]);

// SAFETY: the pointers are addresses of functions, which live as long as the program and do not
// change.
unsafe impl<const N: usize> Sync for Table<N> {}

impl<const N: usize> Table<N> {
    pub(crate) fn as_ptr(&self) -> *const *const c_void {
        self.0.as_ptr()
    }

    pub(super) fn get(&self, index: usize) -> *const c_void {
        self.0[index]
    }
}

/// An entry point that is not there: says so once, in the log.
extern "C" fn unsupported<const INDEX: usize>() -> i32 {
    static SAID: [AtomicBool; NAMES.len()] = [const { AtomicBool::new(false) }; NAMES.len()];
    if state::log().api && !SAID[INDEX].swap(true, Ordering::Relaxed) {
        eprintln!("softcuda {} is not supported", NAMES[INDEX].to_string_lossy());
    }
    NOT_SUPPORTED as i32
}

include!(concat!(env!("OUT_DIR"), "/table.rs"));
