//! Devices and what they say of themselves; start and version.

use std::ffi::c_char;
use std::sync::PoisonError;

use super::context::primary;
use super::error::{INVALID_DEVICE, INVALID_VALUE, NOT_SUPPORTED};
use super::handle::Handle;
use super::state::{driver, start};
use super::{Out, Status, Text, VERSION, entry};
use crate::profile;

/// `CUdevprop`.
#[repr(C)]
pub(super) struct Properties {
    max_threads_per_block: i32,
    max_threads: [i32; 3],
    max_grid: [i32; 3],
    shared_per_block: i32,
    constant_memory: i32,
    warp: i32,
    pitch: i32,
    registers_per_block: i32,
    clock_khz: i32,
    texture_alignment: i32,
}

fn bus_id(device: i32) -> String {
    format!("0000:{device:02X}:00.0")
}

/// Fails unless `device` is one.
fn check(device: i32) -> Status {
    primary(driver()?, device).map(|_| ())
}

entry! {
    fn cuInit(flags: u32) {
        if flags != 0 {
            return Err(INVALID_VALUE);
        }
        start().map(|_| ())
    }

    /// The one function besides `cuInit` and the error texts that needs no `cuInit`.
    fn cuDriverGetVersion(version: Out<i32>) {
        version.set(VERSION)
    }

    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(driver()?.config.devices as i32)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        check(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, room: i32, device: i32) {
        check(device)?;
        name.set_text(&driver()?.config.profile.device_name(), room)
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        check(device)?;
        let mut bytes = *b"softcuda device ";
        bytes[15] = device as u8;
        uuid.set(bytes)
    }

    fn cuDeviceGetLuid(_luid: Out<c_char>, _mask: Out<u32>, device: i32) {
        check(device)?;
        Err(NOT_SUPPORTED)
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        check(device)?;
        bytes.set(driver()?.memory.size() as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        check(device)?;
        let number = match attribute {
            33 => Some(device),
            _ => driver()?.config.profile.attribute(attribute),
        };
        value.set(number.ok_or(INVALID_VALUE)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        check(device)?;
        let capability = driver()?.config.profile.capability;
        major.set(capability.0 as i32)?;
        minor.set(capability.1 as i32)
    }

    fn cuDeviceGetProperties(properties: Out<Properties>, device: i32) {
        check(device)?;
        let words = |values: [u32; 3]| values.map(|value| value as i32);
        properties.set(Properties {
            max_threads_per_block: profile::MAX_THREADS_PER_BLOCK as i32,
            max_threads: words(profile::MAX_BLOCK),
            max_grid: words(profile::MAX_GRID),
            shared_per_block: profile::SHARED_DEFAULT as i32,
            constant_memory: profile::CONSTANT_BYTES as i32,
            warp: profile::WARP as i32,
            pitch: i32::MAX,
            registers_per_block: profile::REGISTERS as i32,
            clock_khz: driver()?.config.profile.clock_khz as i32,
            texture_alignment: 512,
        })
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, room: i32, device: i32) {
        check(device)?;
        id.set_text(&bus_id(device), room)
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) {
        let devices = driver()?.config.devices as i32;
        let id = id.get()?;
        let found = (0..devices).find(|device| bus_id(*device).eq_ignore_ascii_case(id));
        device.set(found.ok_or(INVALID_DEVICE)?)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        check(device)?;
        check(peer)?;
        can.set(0)
    }

    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        let primary = primary(driver()?, device)?;
        pool.set(primary.lock().unwrap_or_else(PoisonError::into_inner).default_pool)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        let primary = primary(driver()?, device)?;
        pool.set(primary.lock().unwrap_or_else(PoisonError::into_inner).pool)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        let driver = driver()?;
        let primary = primary(driver, device)?;
        driver.pools.get(pool).map_err(|_missing| INVALID_VALUE)?;
        primary.lock().unwrap_or_else(PoisonError::into_inner).pool = pool;
        Ok(())
    }
}
