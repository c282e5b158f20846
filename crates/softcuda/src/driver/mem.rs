//! Allocation: device memory, pinned and registered host memory, managed memory.

use std::ffi::c_void;

use super::context::{Context, current, next_id};
use super::error::{
    Code, HOST_MEMORY_ALREADY_REGISTERED, HOST_MEMORY_NOT_REGISTERED, INVALID_VALUE, OUT_OF_MEMORY,
};
use super::handle::Handle;
use super::state::{Driver, Owner, driver};
use super::{Out, entry};
use crate::memory::{GRANULE, PinnedKind, TAG_GLOBAL, tag};

/// Portable, device-mapped, write-combined.
const HOST_ALLOC_FLAGS: u32 = 7;
/// Portable, device-mapped, I/O memory, read-only.
const HOST_REGISTER_FLAGS: u32 = 15;
const READ_ONLY: u32 = 8;
const DEVICE_MAP: u32 = 2;

/// Allocates device memory for `context`.
pub(super) fn allocate(
    context: &Context,
    bytes: usize,
    pool: Handle,
    origin: &str,
) -> Result<u64, Code> {
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let driver = driver()?;
    let address = driver.memory.allocate(bytes as u64, origin).ok_or(OUT_OF_MEMORY)?;
    own(driver, context, address, pool, bytes);
    Ok(address)
}

fn own(driver: &Driver, context: &Context, address: u64, pool: Handle, bytes: usize) {
    let number = next_id(&driver.next_id);
    let owner = Owner { context: context.handle(), pool, bytes: bytes as u64, number };
    driver.owners().insert(address, owner);
}

/// Gives memory back, whatever kind it is. False if nothing begins at `address`.
pub(super) fn release(driver: &Driver, address: u64) -> bool {
    if tag(address) == TAG_GLOBAL {
        return driver.memory.free(address);
    }
    [PinnedKind::Managed, PinnedKind::Allocated, PinnedKind::Registered]
        .into_iter()
        .any(|kind| driver.memory.remove_pinned(address, kind))
}

/// Allocates pinned host memory.
fn allocate_host(bytes: usize, kind: PinnedKind, flags: u32) -> Result<u64, Code> {
    let context = current()?;
    if bytes == 0 {
        return Err(INVALID_VALUE);
    }
    let driver = driver()?;
    let address = driver.memory.allocate_pinned(bytes as u64, kind, flags).ok_or(OUT_OF_MEMORY)?;
    own(driver, &context, address, Handle::NULL, bytes);
    Ok(address)
}

/// Removes a pinned region after all work is done.
fn remove_host(address: u64, kind: PinnedKind, missing: Code) -> Result<(), Code> {
    let context = current()?;
    context.wait();
    let driver = driver()?;
    if !driver.memory.remove_pinned(address, kind) {
        return Err(missing);
    }
    driver.owners().remove(&address);
    Ok(())
}

entry! {
    fn cuMemAlloc_v2(pointer: Out<u64>, bytes: usize) {
        let context = current()?;
        pointer.check()?;
        pointer.set(allocate(&context, bytes, Handle::NULL, "cuMemAlloc_v2")?)
    }

    fn cuMemAllocPitch_v2(
        pointer: Out<u64>,
        pitch: Out<usize>,
        width: usize,
        height: usize,
        element: u32,
    ) {
        let context = current()?;
        pointer.check()?;
        pitch.check()?;
        if !matches!(element, 4 | 8 | 16) {
            return Err(INVALID_VALUE);
        }
        // 512 is the pitch of real devices.
        let row = width.checked_next_multiple_of(512).ok_or(OUT_OF_MEMORY)?;
        let bytes = row.checked_mul(height).ok_or(OUT_OF_MEMORY)?;
        let address = allocate(&context, bytes, Handle::NULL, "cuMemAllocPitch_v2")?;
        pitch.set(row)?;
        pointer.set(address)
    }

    /// Managed memory is pinned host memory: both sides see it at one address.
    fn cuMemAllocManaged(pointer: Out<u64>, bytes: usize, flags: u32) {
        pointer.check()?;
        if !matches!(flags, 1 | 2) {
            return Err(INVALID_VALUE);
        }
        pointer.set(allocate_host(bytes, PinnedKind::Managed, flags)?)
    }

    fn cuMemFree_v2(pointer: u64) {
        let context = current()?;
        if pointer == 0 {
            return Ok(());
        }
        context.wait();
        let driver = driver()?;
        let freed = match tag(pointer) {
            TAG_GLOBAL => driver.memory.free(pointer),
            _ => driver.memory.remove_pinned(pointer, PinnedKind::Managed),
        };
        if !freed {
            return Err(INVALID_VALUE);
        }
        super::pool::freed(driver, pointer);
        Ok(())
    }

    fn cuMemHostAlloc(pointer: Out<*mut c_void>, bytes: usize, flags: u32) {
        pointer.check()?;
        if flags & !HOST_ALLOC_FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        pointer.set(allocate_host(bytes, PinnedKind::Allocated, flags)? as *mut c_void)
    }

    fn cuMemAllocHost_v2(pointer: Out<*mut c_void>, bytes: usize) {
        pointer.check()?;
        pointer.set(allocate_host(bytes, PinnedKind::Allocated, 0)? as *mut c_void)
    }

    fn cuMemFreeHost(pointer: *mut c_void) {
        if pointer.is_null() {
            current()?;
            return Ok(());
        }
        remove_host(pointer as u64, PinnedKind::Allocated, INVALID_VALUE)
    }

    fn cuMemHostRegister_v2(pointer: *mut c_void, bytes: usize, flags: u32) {
        let context = current()?;
        if pointer.is_null() || bytes == 0 || flags & !HOST_REGISTER_FLAGS != 0 {
            return Err(INVALID_VALUE);
        }
        if flags & READ_ONLY != 0 {
            // CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED is 0.
            return Err(super::error::NOT_SUPPORTED);
        }
        let driver = driver()?;
        if !driver.memory.register_pinned(pointer as u64, bytes as u64, flags) {
            return Err(HOST_MEMORY_ALREADY_REGISTERED);
        }
        own(driver, &context, pointer as u64, Handle::NULL, bytes);
        Ok(())
    }

    fn cuMemHostUnregister(pointer: *mut c_void) {
        remove_host(pointer as u64, PinnedKind::Registered, HOST_MEMORY_NOT_REGISTERED)
    }

    fn cuMemHostGetDevicePointer_v2(device: Out<u64>, pointer: *mut c_void, flags: u32) {
        current()?;
        device.check()?;
        let found = driver()?.memory.pinned_region(pointer as u64, 1);
        if flags != 0 || found.is_none() {
            return Err(INVALID_VALUE);
        }
        device.set(pointer as u64)
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: *mut c_void) {
        current()?;
        flags.check()?;
        let region = driver()?.memory.pinned_region(pointer as u64, 1).ok_or(INVALID_VALUE)?;
        if region.kind != PinnedKind::Allocated {
            return Err(INVALID_VALUE);
        }
        // With unified addressing all pinned memory is mapped.
        flags.set(region.flags | DEVICE_MAP)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        current()?;
        free.check()?;
        let (left, size) = driver()?.memory.info();
        // What one allocation may take, its red zone aside.
        free.set(left.saturating_sub(4 * GRANULE) as usize)?;
        total.set(size as usize)
    }

    fn cuMemGetAddressRange_v2(start: Out<u64>, bytes: Out<usize>, pointer: u64) {
        current()?;
        let memory = &driver()?.memory;
        let (first, size) = match memory.allocation(pointer) {
            Some(allocation) => (crate::memory::GLOBAL_BASE + allocation.start, allocation.bytes),
            None => {
                let region = memory.pinned_region(pointer, 1).ok_or(super::error::NOT_FOUND)?;
                (region.start, region.bytes)
            }
        };
        start.offer(first);
        bytes.offer(size as usize);
        Ok(())
    }

    fn cuMemAdvise_v2(pointer: u64, bytes: usize, _advice: u32, _location: u64) {
        current()?;
        let managed = driver()?.memory.pinned_region(pointer, bytes as u64);
        managed.map(|_| ()).ok_or(INVALID_VALUE)
    }

    fn cuMemPrefetchAsync_v2(pointer: u64, bytes: usize, _location: u64, flags: u32, stream: Handle) {
        super::stream::Queue::of(stream)?;
        let managed = driver()?.memory.pinned_region(pointer, bytes as u64);
        if flags == 0 && managed.is_some() { Ok(()) } else { Err(INVALID_VALUE) }
    }
}
