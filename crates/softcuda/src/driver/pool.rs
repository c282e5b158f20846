//! Stream-ordered allocation. Pools keep accounts; the memory is the device's.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{current, primary};
use super::error::{Code, INVALID_DEVICE, INVALID_VALUE};
use super::handle::Handle;
use super::mem::allocate;
use super::state::{Driver, driver};
use super::stream::Queue;
use super::{In, Out, entry};
use crate::memory::{TAG_GLOBAL, tag};

/// A pool.
pub(super) struct MemoryPool {
    device: u32,
    default: bool,
    accounts: Mutex<Accounts>,
}

#[derive(Default)]
struct Accounts {
    /// Attributes 1 to 3: whether memory may be reused across streams.
    reuse: [i32; 3],
    release_threshold: u64,
    used: u64,
    used_high: u64,
}

impl MemoryPool {
    pub(super) fn new(device: u32, default: bool) -> Self {
        let accounts = Accounts { reuse: [1; 3], ..Accounts::default() };
        Self { device, default, accounts: Mutex::new(accounts) }
    }

    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `CUmemLocation`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Location {
    kind: u32,
    id: i32,
}

const LOCATION_DEVICE: u32 = 1;

/// The first fields of `CUmemPoolProps`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Properties {
    allocation_type: u32,
    handle_types: u32,
    location: Location,
}

/// `CUmemAccessDesc`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Access {
    location: Location,
    flags: u32,
}

fn allocate_from(queue: &Queue, pool: Handle, bytes: usize, origin: &str) -> Result<u64, Code> {
    let driver = driver()?;
    let owner = driver.pools.get(pool).map_err(|_missing| INVALID_VALUE)?;
    let address = queue.run(|| allocate(&queue.context, bytes, pool, origin))?;
    let mut accounts = owner.accounts();
    accounts.used += bytes as u64;
    accounts.used_high = accounts.used_high.max(accounts.used);
    Ok(address)
}

/// Takes a freed allocation off the accounts.
pub(super) fn freed(driver: &Driver, address: u64) {
    let owner = driver.owners().remove(&address);
    if let Some(owner) = owner
        && let Ok(pool) = driver.pools.get(owner.pool)
    {
        let mut accounts = pool.accounts();
        accounts.used = accounts.used.saturating_sub(owner.bytes);
    }
}

fn find(pool: Handle) -> Result<Arc<MemoryPool>, Code> {
    driver()?.pools.get(pool).map_err(|_missing| INVALID_VALUE)
}

entry! {
    fn cuMemAllocAsync(pointer: Out<u64>, bytes: usize, stream: Handle) {
        let queue = Queue::of(stream)?;
        pointer.check()?;
        let device = queue.context.device as i32;
        let pool = primary(driver()?, device)?.lock().unwrap_or_else(PoisonError::into_inner).pool;
        pointer.set(allocate_from(&queue, pool, bytes, "cuMemAllocAsync")?)
    }

    fn cuMemAllocFromPoolAsync(pointer: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        let queue = Queue::of(stream)?;
        pointer.check()?;
        pointer.set(allocate_from(&queue, pool, bytes, "cuMemAllocFromPoolAsync")?)
    }

    fn cuMemFreeAsync(pointer: u64, stream: Handle) {
        let queue = Queue::of(stream)?;
        let driver = driver()?;
        if tag(pointer) != TAG_GLOBAL || !queue.run(|| driver.memory.free(pointer)) {
            return Err(INVALID_VALUE);
        }
        freed(driver, pointer);
        Ok(())
    }

    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<Properties>) {
        let driver = driver()?;
        pool.check()?;
        let Properties { allocation_type, handle_types, location } = properties.get()?;
        if allocation_type != 1 || handle_types != 0 || location.kind != LOCATION_DEVICE {
            return Err(INVALID_VALUE);
        }
        primary(driver, location.id)?;
        pool.set(driver.pools.insert(Arc::new(MemoryPool::new(location.id as u32, false))))
    }

    /// The allocations of a pool stay; only its name goes.
    fn cuMemPoolDestroy(pool: Handle) {
        if find(pool)?.default {
            return Err(INVALID_VALUE);
        }
        driver()?.pools.remove(pool).map_err(|_missing| INVALID_VALUE)?;
        Ok(())
    }

    /// Nothing is held back beyond what is in use.
    fn cuMemPoolTrimTo(pool: Handle, _keep: usize) {
        find(pool).map(|_| ())
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: *mut c_void) {
        let pool = find(pool)?;
        let accounts = pool.accounts();
        match attribute {
            1..=3 => Out(value.cast::<i32>()).set(accounts.reuse[attribute as usize - 1]),
            4 => Out(value.cast::<u64>()).set(accounts.release_threshold),
            5 | 7 => Out(value.cast::<u64>()).set(accounts.used),
            6 | 8 => Out(value.cast::<u64>()).set(accounts.used_high),
            _ => Err(INVALID_VALUE),
        }
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: *mut c_void) {
        let pool = find(pool)?;
        let mut accounts = pool.accounts();
        match attribute {
            1..=3 => accounts.reuse[attribute as usize - 1] = In(value.cast::<i32>()).get()?,
            4 => accounts.release_threshold = In(value.cast::<u64>()).get()?,
            // High-water marks may be reset, to zero alone.
            6 | 8 if In(value.cast::<u64>()).get()? == 0 => accounts.used_high = accounts.used,
            _ => return Err(INVALID_VALUE),
        }
        Ok(())
    }

    /// Access by the own device is always there and cannot be taken away; there are no peers.
    fn cuMemPoolSetAccess(pool: Handle, accesses: In<Access>, count: usize) {
        current()?;
        let pool = find(pool)?;
        for index in 0..count {
            let Access { location, flags } = accesses.at(index)?;
            if location.kind != LOCATION_DEVICE || location.id as u32 != pool.device {
                return Err(INVALID_DEVICE);
            }
            if flags != 3 {
                return Err(INVALID_VALUE);
            }
        }
        Ok(())
    }

    fn cuMemPoolGetAccess(flags: Out<u32>, pool: Handle, location: In<Location>) {
        let pool = find(pool)?;
        let Location { kind, id } = location.get()?;
        let own = kind == LOCATION_DEVICE && id as u32 == pool.device;
        flags.set(if own { 3 } else { 0 })
    }
}
