//! Copies and fills.
//!
//! A range of device memory must lie inside one live allocation. A host address is the caller's
//! word, as it is for a real driver: bytes are copied from or to it.

use std::ffi::c_void;

use super::context::lookup;
use super::error::{Code, INVALID_VALUE};
use super::handle::Handle;
use super::state::driver;
use super::stream::Queue;
use super::{In, Status, entry};
use crate::memory::{TAG_HOST, tag};

/// Whether an address is on the device's side or on the host's.
#[derive(Clone, Copy)]
enum Side {
    /// Device memory, pinned or managed memory: checked.
    Device,
    /// A host address.
    Host,
    /// Decided by the address (unified addressing).
    Either,
}

/// Where `[address, address + bytes)` is in this process.
fn place(side: Side, address: u64, bytes: usize) -> Result<*mut u8, Code> {
    let checked = || driver()?.memory.host_range(address, bytes as u64).ok_or(INVALID_VALUE);
    match side {
        Side::Device => checked(),
        Side::Host | Side::Either if tag(address) == TAG_HOST && address != 0 => {
            address.checked_add(bytes as u64).map(|_| address as *mut u8).ok_or(INVALID_VALUE)
        }
        Side::Host => Err(INVALID_VALUE),
        Side::Either => checked(),
    }
}

/// Copies `bytes` bytes in the order of a stream.
fn copy(queue: &Queue, to: (Side, u64), from: (Side, u64), bytes: usize) -> Status {
    if bytes == 0 {
        return Ok(());
    }
    let to = place(to.0, to.1, bytes)?;
    let from = place(from.0, from.1, bytes)?;
    // SAFETY: device ranges were checked, host ranges are the C caller's promise; they may overlap.
    queue.run(|| unsafe { from.copy_to(to, bytes) });
    Ok(())
}

/// Fills `width` elements in each of `height` rows, `pitch` bytes apart.
fn fill<const N: usize>(
    queue: &Queue,
    to: u64,
    value: [u8; N],
    [pitch, width, height]: [usize; 3],
) -> Status {
    if width == 0 || height == 0 {
        return Ok(());
    }
    let row = width.checked_mul(N).ok_or(INVALID_VALUE)?;
    if height > 1 && pitch < row || !to.is_multiple_of(N as u64) || pitch % N != 0 {
        return Err(INVALID_VALUE);
    }
    let bytes = pitch.checked_mul(height - 1).and_then(|before| before.checked_add(row));
    let first = place(Side::Device, to, bytes.ok_or(INVALID_VALUE)?)?;
    let same = value.iter().all(|byte| *byte == value[0]);
    queue.run(|| {
        for index in 0..height {
            // SAFETY: the whole of all rows was checked.
            let start = unsafe { first.add(index * pitch) };
            if same {
                // SAFETY: as above.
                unsafe { start.write_bytes(value[0], row) };
                continue;
            }
            for element in 0..width {
                // SAFETY: as above.
                let element = unsafe { start.cast::<[u8; N]>().add(element) };
                // SAFETY: as above; an array of bytes has no alignment.
                unsafe { element.write(value) };
            }
        }
    });
    Ok(())
}

/// One side of a `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Rectangle {
    x_bytes: usize,
    y: usize,
    memory_type: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

/// `CUDA_MEMCPY2D`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Copy2D {
    source: Rectangle,
    destination: Rectangle,
    width_bytes: usize,
    height: usize,
}

impl Rectangle {
    /// The rows of this side, checked.
    fn rows(&self, width: usize, height: usize) -> Result<Rows, Code> {
        let (side, base) = match self.memory_type {
            1 => (Side::Host, self.host),
            2 => (Side::Device, self.device),
            4 => (Side::Either, self.device),
            _ => return Err(INVALID_VALUE),
        };
        let pitch = if self.pitch == 0 { width } else { self.pitch };
        if self.x_bytes.checked_add(width).is_none_or(|end| end > pitch) {
            return Err(INVALID_VALUE);
        }
        let before = self.y.checked_mul(pitch).and_then(|rows| rows.checked_add(self.x_bytes));
        let start = before.and_then(|before| base.checked_add(before as u64));
        let bytes = pitch.checked_mul(height - 1).and_then(|rows| rows.checked_add(width));
        let first = place(side, start.ok_or(INVALID_VALUE)?, bytes.ok_or(INVALID_VALUE)?)?;
        Ok(Rows { first, pitch })
    }
}

struct Rows {
    first: *mut u8,
    pitch: usize,
}

fn copy_2d(copy: &In<Copy2D>, stream: Handle) -> Status {
    let queue = Queue::of(stream)?;
    let Copy2D { source, destination, width_bytes, height } = copy.get()?;
    if width_bytes == 0 || height == 0 {
        return Ok(());
    }
    let from = source.rows(width_bytes, height)?;
    let to = destination.rows(width_bytes, height)?;
    queue.run(|| {
        for row in 0..height {
            // SAFETY: device rows were checked, host rows are the C caller's promise.
            let from = unsafe { from.first.add(row * from.pitch) };
            // SAFETY: as above.
            let to = unsafe { to.first.add(row * to.pitch) };
            // SAFETY: as above.
            unsafe { from.copy_to(to, width_bytes) };
        }
    });
    Ok(())
}

entry! {
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        copy(&Queue::legacy()?, (Side::Either, to), (Side::Either, from), bytes)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy(&Queue::of(stream)?, (Side::Either, to), (Side::Either, from), bytes)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        copy(&Queue::legacy()?, (Side::Device, to), (Side::Host, from as u64), bytes)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: Handle) {
        copy(&Queue::of(stream)?, (Side::Device, to), (Side::Host, from as u64), bytes)
    }

    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        copy(&Queue::legacy()?, (Side::Host, to as u64), (Side::Device, from), bytes)
    }

    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: Handle) {
        copy(&Queue::of(stream)?, (Side::Host, to as u64), (Side::Device, from), bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        copy(&Queue::legacy()?, (Side::Device, to), (Side::Device, from), bytes)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        copy(&Queue::of(stream)?, (Side::Device, to), (Side::Device, from), bytes)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        peers(to_context, from_context)?;
        copy(&Queue::legacy()?, (Side::Device, to), (Side::Device, from), bytes)
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: Handle,
        from: u64,
        from_context: Handle,
        bytes: usize,
        stream: Handle,
    ) {
        peers(to_context, from_context)?;
        copy(&Queue::of(stream)?, (Side::Device, to), (Side::Device, from), bytes)
    }

    fn cuMemcpy2D_v2(description: In<Copy2D>) {
        copy_2d(&description, Handle::NULL)
    }

    fn cuMemcpy2DUnaligned_v2(description: In<Copy2D>) {
        copy_2d(&description, Handle::NULL)
    }

    fn cuMemcpy2DAsync_v2(description: In<Copy2D>, stream: Handle) {
        copy_2d(&description, stream)
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill(&Queue::legacy()?, to, [value], [count, count, 1])
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        fill(&Queue::of(stream)?, to, [value], [count, count, 1])
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill(&Queue::legacy()?, to, value.to_ne_bytes(), [0, count, 1])
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        fill(&Queue::of(stream)?, to, value.to_ne_bytes(), [0, count, 1])
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill(&Queue::legacy()?, to, value.to_ne_bytes(), [0, count, 1])
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        fill(&Queue::of(stream)?, to, value.to_ne_bytes(), [0, count, 1])
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(&Queue::legacy()?, to, [value], [pitch, width, height])
    }

    fn cuMemsetD2D8Async(
        to: u64,
        pitch: usize,
        value: u8,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill(&Queue::of(stream)?, to, [value], [pitch, width, height])
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill(&Queue::legacy()?, to, value.to_ne_bytes(), [pitch, width, height])
    }

    fn cuMemsetD2D16Async(
        to: u64,
        pitch: usize,
        value: u16,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill(&Queue::of(stream)?, to, value.to_ne_bytes(), [pitch, width, height])
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(&Queue::legacy()?, to, value.to_ne_bytes(), [pitch, width, height])
    }

    fn cuMemsetD2D32Async(
        to: u64,
        pitch: usize,
        value: u32,
        width: usize,
        height: usize,
        stream: Handle,
    ) {
        fill(&Queue::of(stream)?, to, value.to_ne_bytes(), [pitch, width, height])
    }
}

/// All contexts share one memory, so a copy between them is a copy.
fn peers(to: Handle, from: Handle) -> Status {
    let driver = driver()?;
    lookup(driver, to)?.check()?;
    lookup(driver, from)?.check()
}
