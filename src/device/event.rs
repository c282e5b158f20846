//! Points in the stream's order, and the time between two of them.

use std::time::Duration;

use cudarc::driver::{CudaEvent, sys::CUevent_flags};

use super::{Device, DeviceError, driver};

/// A point in the order of a device's work.
#[derive(Debug)]
pub struct Event(CudaEvent);

impl Device {
    /// Marks the point after all work queued so far.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn record(&self) -> Result<Event, DeviceError> {
        let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
        self.stream.record_event(flags).map(Event).map_err(driver("cuEventRecord"))
    }
}

impl Event {
    /// Waits until the device has passed this point.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn wait(&self) -> Result<(), DeviceError> {
        self.0.synchronize().map_err(driver("cuEventSynchronize"))
    }

    /// Device time from `self` to `later`, after waiting for both.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn until(&self, later: &Self) -> Result<Duration, DeviceError> {
        let milliseconds = self.0.elapsed_ms(&later.0).map_err(driver("cuEventElapsedTime"))?;
        Ok(Duration::from_secs_f32(milliseconds.max(0.0) / 1e3))
    }
}
