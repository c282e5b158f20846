//! Entry points by name, and calls that have nothing to do here.

use std::ffi::{CStr, c_void};
use std::ptr;

use super::error::{Code, INVALID_VALUE, NOT_FOUND};
use super::{NAMES, Out, TABLE, Text, VERSION, entry};

const FOUND: u32 = 0;
const NO_SUCH_NAME: u32 = 1;
const NOT_YET: u32 = 2;

/// The index of the newest form of a name: `cuMemAlloc` means `cuMemAlloc_v2`.
fn newest(name: &str) -> Option<usize> {
    let index =
        |wanted: &str| NAMES.iter().position(|known| CStr::to_bytes(known) == wanted.as_bytes());
    (2..=4).rev().find_map(|version| index(&format!("{name}_v{version}"))).or_else(|| index(name))
}

fn find(name: &Text, version: i32) -> Result<Result<*const c_void, u32>, Code> {
    let name = name.get()?;
    Ok(match newest(name) {
        Some(_) if version > VERSION => Err(NOT_YET),
        Some(index) => Ok(TABLE.get(index)),
        None => Err(NO_SUCH_NAME),
    })
}

entry! {
    fn cuGetProcAddress_v2(
        name: Text,
        function: Out<*const c_void>,
        version: i32,
        _flags: u64,
        status: Out<u32>,
    ) {
        function.check()?;
        match find(&name, version)? {
            Ok(address) => {
                status.offer(FOUND);
                function.set(address)
            }
            Err(why) => {
                function.set(ptr::null())?;
                status.offer(why);
                // With a place for the status, the call itself succeeds.
                if status.0.is_null() { Err(NOT_FOUND) } else { Ok(()) }
            }
        }
    }

    /// Tables that the runtime library asks for; there are none.
    fn cuGetExportTable(table: Out<*const c_void>, id: *const c_void) {
        if id.is_null() {
            return Err(INVALID_VALUE);
        }
        table.set(ptr::null())?;
        Err(NOT_FOUND)
    }

    fn cuProfilerStart() {
        super::context::current().map(|_| ())
    }

    fn cuProfilerStop() {
        super::context::current().map(|_| ())
    }
}
