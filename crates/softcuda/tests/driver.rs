//! The driver API, as a program sees it: through cudarc and the loader.
#![expect(
    clippy::undocumented_unsafe_blocks,
    reason = "calls of C functions with the arguments that they document"
)]

#[expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#[path = "driver/support.rs"]
mod support;

#[path = "driver/calls.rs"]
mod calls;
#[path = "driver/context.rs"]
mod context;
#[path = "driver/device.rs"]
mod device;
#[path = "driver/header.rs"]
mod header;
#[expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]
#[path = "driver/install.rs"]
mod install;
#[path = "driver/launch.rs"]
mod launch;
#[path = "driver/memory.rs"]
mod memory;
#[path = "driver/module.rs"]
mod module;
#[path = "driver/stream.rs"]
mod stream;
#[path = "driver/stress.rs"]
mod stress;
