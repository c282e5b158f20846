//! The device layer: contexts, buffers, launches. The only module that speaks cudarc; it knows no
//! kernel's meaning and no model.

mod buffer;
mod context;
mod event;
mod figures;
mod floats;
mod launch;
mod locate;
mod module;

use cudarc::driver::DriverError;

pub use buffer::{Buffer, Element, PinnedBuffer, View, ViewMut, as_bytes};
pub use context::{Counts, Device, Memory};
pub use event::Event;
pub use figures::{Figures, architectures, figures, images, nvcc_release};
pub use floats::{FloatView, FloatViewMut, Floats};
pub use launch::{Grid, KernelParams};
pub use locate::{DeviceChoice, Located};

/// What can go wrong between the host and the device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A driver call failed.
    #[error("{call} failed: {name} ({code}){detail}")]
    Driver {
        /// The call of the CUDA driver API, or the kernel that was launched.
        call: &'static str,
        /// Its error's name, `CUDA_ERROR_…`.
        name: String,
        /// Its error's number.
        code: u32,
        /// The software device's report of the fault, on a line of its own; else empty.
        detail: String,
    },
    /// `cuda:N` was asked for and the system has no driver library.
    #[error("no NVIDIA driver: {0}")]
    NoDriver(String),
    /// `cuda:N` was asked for and the driver has no such device.
    #[error("no CUDA device {ordinal}: the driver reports {count}")]
    NoDevice {
        /// N.
        ordinal: usize,
        /// Devices that the driver reports.
        count: usize,
    },
    /// The driver is older than what the kernels need.
    #[error("the NVIDIA driver supports CUDA {0}.{1}, but 12.4 is needed")]
    OldDriver(u32, u32),
    /// A driver is there and does not work: never silently replaced by the software device.
    #[error(
        "the NVIDIA driver is present but {call} failed with error {code}; use --device software to run without it"
    )]
    BrokenDriver {
        /// The call that failed.
        call: &'static str,
        /// Its result.
        code: u32,
    },
    /// Neither a driver nor the software device could be opened.
    #[error("no driver ({driver}), and the software device cannot be installed: {software}")]
    NoSoftware {
        /// Why there is no driver.
        driver: String,
        /// Why there is no software device.
        software: String,
    },
    /// A device name that is none of `auto`, `cuda`, `cuda:N`, `software`.
    #[error("unknown device {0:?}: expected auto, cuda, cuda:N or software")]
    UnknownChoice(String),
    /// A second device of another kind in one process: the driver library is chosen once.
    #[error("this process already uses {have}; {wanted} needs a process of its own")]
    AlreadyChosen {
        /// The choice in force.
        have: String,
        /// The choice refused.
        wanted: String,
    },
    /// A kernel that no embedded image holds.
    #[error("kernel {0} is in no embedded image")]
    NoKernel(String),
    /// The embedded images hold nothing that this device can run.
    #[error("no kernel image for compute capability {0}.{1}: embedded are {2}")]
    NoImage(i32, i32, String),
    /// A range that does not lie in its buffer, or starts off a 16-byte boundary.
    #[error(
        "range {start}..{end} of a buffer of {len} elements of {size} bytes is out of bounds or not 16-byte aligned"
    )]
    Range {
        /// First element.
        start: usize,
        /// One past the last element.
        end: usize,
        /// Elements of the buffer.
        len: usize,
        /// Bytes of an element.
        size: usize,
    },
    /// Host and device lengths of a copy differ.
    #[error("copy of {from} elements into {to}")]
    Length {
        /// Elements of the source.
        from: usize,
        /// Elements of the destination.
        to: usize,
    },
    /// A size in bytes that does not fit the address space.
    #[error("{0} elements of {1} bytes are too large")]
    TooLarge(usize, usize),
}

/// Adds what is known about a failed driver call.
fn driver(call: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| {
        let name = match error.error_name() {
            Ok(name) => name.to_string_lossy().into_owned(),
            Err(_unknown) => "unknown error".to_owned(),
        };
        let code = error.0 as u32;
        let report = locate::software_report(code);
        let detail = report.map_or_else(String::new, |text| format!("\n{text}"));
        DeviceError::Driver { call, name, code, detail }
    }
}
