//! One opened device: its context, its stream, what it says of itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use cudarc::driver::{CudaContext, CudaModule, CudaStream, sys::CUdevice_attribute as Attribute};

use super::{DeviceChoice, DeviceError, Located, driver, locate, module::Kernel};
use crate::units::Bytes;

/// A device with one context and one stream. Work is queued in call order; only reads wait.
#[derive(Debug)]
pub struct Device {
    pub(super) context: Arc<CudaContext>,
    pub(super) stream: Arc<CudaStream>,
    pub(super) located: Located,
    /// One entry for each embedded image, loaded at its first use.
    pub(super) modules: Mutex<BTreeMap<&'static str, Arc<CudaModule>>>,
    pub(super) kernels: Mutex<BTreeMap<&'static str, Kernel>>,
    pub(super) allocations: AtomicU64,
    pub(super) reads: AtomicU64,
    name: String,
    capability: (i32, i32),
    multiprocessors: u32,
    pub(super) shared_limit: u32,
}

/// Device memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the next allocation may take.
    pub free: Bytes,
    /// What the device has.
    pub total: Bytes,
}

/// What a device did since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Allocations of device memory.
    pub allocations: u64,
    /// Copies to the host, each of which waits for the device.
    pub reads: u64,
}

impl Device {
    /// Opens the device that `choice` means; see [`DeviceChoice`].
    ///
    /// # Errors
    /// [`DeviceError`]: no driver or device where one was asked for, a driver that is too old or
    /// broken, a software device that cannot be installed.
    pub fn open(choice: DeviceChoice) -> Result<Self, DeviceError> {
        let located = locate::locate(choice)?;
        let context =
            CudaContext::new(located.ordinal).map_err(driver("cuDevicePrimaryCtxRetain"))?;
        // SAFETY: this device has one stream, on which everything is ordered.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().map_err(driver("cuStreamCreate"))?;
        let attribute = |which| context.attribute(which).map_err(driver("cuDeviceGetAttribute"));
        let multiprocessors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared_limit =
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let capability = context.compute_capability().map_err(driver("cuDeviceGetAttribute"))?;
        let name = context.name().map_err(driver("cuDeviceGetName"))?;
        Ok(Self {
            context,
            stream,
            located,
            modules: Mutex::default(),
            kernels: Mutex::default(),
            allocations: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            name,
            capability,
            multiprocessors: multiprocessors.unsigned_abs(),
            shared_limit: shared_limit.unsigned_abs(),
        })
    }

    /// Its name, as the driver says it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which driver library is in use and why.
    pub fn located(&self) -> &Located {
        &self.located
    }

    /// Compute capability (major, minor).
    pub fn capability(&self) -> (i32, i32) {
        self.capability
    }

    /// Number of streaming multiprocessors.
    pub fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    /// Largest shared memory of a block, static and dynamic together.
    pub fn shared_limit(&self) -> Bytes {
        Bytes(u64::from(self.shared_limit))
    }

    /// Free and total memory.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn memory(&self) -> Result<Memory, DeviceError> {
        let (free, total) = self.context.mem_get_info().map_err(driver("cuMemGetInfo"))?;
        Ok(Memory { free: Bytes(free as u64), total: Bytes(total as u64) })
    }

    /// What it did so far.
    pub fn counts(&self) -> Counts {
        Counts {
            allocations: self.allocations.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
        }
    }

    /// Waits until all queued work is done.
    ///
    /// # Errors
    /// [`DeviceError::Driver`], which is also where a fault of an earlier launch shows.
    pub fn synchronize(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(driver("cuStreamSynchronize"))
    }

    /// Makes the context current on the calling thread.
    pub(super) fn bind(&self) -> Result<(), DeviceError> {
        self.context.bind_to_thread().map_err(driver("cuCtxSetCurrent"))
    }
}
