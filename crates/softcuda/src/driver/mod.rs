//! The CUDA driver API.
//!
//! Each entry point is a function of this module without a symbol of its own: the shim (`install`)
//! jumps to it through [`TABLE`]. No panic leaves an entry point, and no pointer of a caller is
//! trusted beyond what C promises: that it is null or points to as much as the function's
//! documentation says.

// Entry points have the names of the C header.
#![expect(non_snake_case, reason = "names of the C header")]

mod context;
mod copy;
mod device;
mod error;
mod event;
mod function;
mod handle;
mod launch;
mod library;
mod mem;
mod misc;
pub(crate) mod module;
mod occupancy;
mod pointer;
mod pool;
mod state;
mod stream;
mod table;

use std::cell::Cell;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use error::{Code, INVALID_VALUE, NOT_PERMITTED, UNKNOWN};

pub(crate) use state::configure;
pub(crate) use table::{NAMES, TABLE};

/// Version that `cuDriverGetVersion` reports.
const VERSION: i32 = 13_000;

/// What an entry point's body returns.
type Status = Result<(), Code>;

/// Entry points: a body that returns [`Status`], wrapped by [`call`].
macro_rules! entry {
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => { $(
        $(#[$meta])*
        pub(in crate::driver) extern "C" fn $name($($argument: $type),*) -> i32 {
            $crate::driver::call(stringify!($name), || -> Result<(), $crate::driver::error::Code> { $body })
        }
    )* };
}
pub(crate) use entry;

thread_local! {
    /// Whether this thread runs a command of a stream, from which no call may be made.
    static IN_COMMAND: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of an entry point: catches panics, refuses calls from host functions, logs
/// failures.
fn call(name: &'static str, body: impl FnOnce() -> Status) -> i32 {
    let body = || if IN_COMMAND.get() { Err(NOT_PERMITTED) } else { body() };
    let code = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return 0,
        Ok(Err(code)) => code,
        Err(panic) => {
            IN_COMMAND.set(false);
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            eprintln!("softcuda: {name}: internal error: {}", text.unwrap_or("no message"));
            UNKNOWN
        }
    };
    if state::log().api {
        eprintln!("softcuda {name} = {code} {}", error::name(code));
    }
    code as i32
}

/// Where an entry point writes a result. Made by C callers alone, who promise that it is null or
/// valid.
#[repr(transparent)]
struct Out<T>(*mut T);

impl<T> Out<T> {
    fn set(&self, value: T) -> Status {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so the C caller promises room for a `T`; alignment is not relied on.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    /// For results that a caller may decline by null.
    fn offer(&self, value: T) {
        if !self.0.is_null() {
            // SAFETY: as in `set`.
            unsafe { self.0.write_unaligned(value) };
        }
    }

    fn check(&self) -> Status {
        if self.0.is_null() { Err(INVALID_VALUE) } else { Ok(()) }
    }

    /// Writes `values` one after the other.
    fn set_all(&self, values: impl Iterator<Item = T>) -> Status {
        self.check()?;
        for (index, value) in values.enumerate() {
            // SAFETY: the C caller promises room for as many values as it asked for.
            let place = unsafe { self.0.add(index) };
            // SAFETY: as above.
            unsafe { place.write_unaligned(value) };
        }
        Ok(())
    }
}

impl Out<c_char> {
    /// Writes `text` and a NUL, cut to `room` bytes.
    fn set_text(&self, text: &str, room: i32) -> Status {
        let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(INVALID_VALUE)?;
        let bytes = text.bytes().take(room - 1).chain([0]);
        self.set_all(bytes.map(|byte| byte as c_char))
    }
}

/// What an entry point reads. Made by C callers alone, who promise that it is null or valid.
#[repr(transparent)]
struct In<T>(*const T);

impl<T: Copy> In<T> {
    fn get(&self) -> Result<T, Code> {
        self.at(0)
    }

    fn at(&self, index: usize) -> Result<T, Code> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so the C caller promises as many values as it says.
        let place = unsafe { self.0.add(index) };
        // SAFETY: as above; alignment is not relied on.
        Ok(unsafe { place.read_unaligned() })
    }
}

/// A C string that an entry point reads. Made by C callers alone, who promise that it is null or
/// valid.
#[repr(transparent)]
struct Text(*const c_char);

impl Text {
    fn get(&self) -> Result<&str, Code> {
        if self.0.is_null() {
            return Err(INVALID_VALUE);
        }
        // SAFETY: not null, so the C caller promises a NUL-terminated string.
        let text = unsafe { CStr::from_ptr(self.0) };
        text.to_str().map_err(|_not_utf8| INVALID_VALUE)
    }
}
