//! Launches: one parameter struct by value, one stream.

use std::ffi::c_void;

use super::{Device, DeviceError, driver};

/// A parameter struct of `kernels/include/params.h`.
///
/// # Safety
/// `repr(C)`, laid out by that header, at most 1,024 bytes.
pub unsafe trait KernelParams: Copy {}

/// Shape of a launch. Tiles go on x: y and z end at 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y, z; none may be 0.
    pub blocks: [u32; 3],
    /// Threads of a block, along x.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Device {
    /// Queues one kernel.
    ///
    /// # Errors
    /// [`DeviceError::NoKernel`]; [`DeviceError::Driver`] named after the kernel.
    ///
    /// # Safety
    /// `params` is the struct that `kernel` takes; every pointer in it is live, aligned and long
    /// enough for the shapes that `params` states, and no output overlaps another pointer.
    pub unsafe fn launch<P: KernelParams>(
        &self,
        kernel: &'static str,
        grid: Grid,
        params: &P,
    ) -> Result<(), DeviceError> {
        let function = self.kernel(kernel)?;
        self.bind()?;
        let blocks = (grid.blocks[0], grid.blocks[1], grid.blocks[2]);
        let threads = (grid.threads, 1, 1);
        let mut arguments = [std::ptr::from_ref(params).cast_mut().cast::<c_void>()];
        let stream = self.stream.cu_stream();
        // SAFETY: the driver copies the struct before it returns and the rest is the caller's
        // contract.
        unsafe {
            cudarc::driver::result::launch_kernel(
                function.0.cu_function(),
                blocks,
                threads,
                grid.shared_bytes,
                stream,
                &mut arguments,
            )
        }
        .map_err(driver(kernel))
    }
}
