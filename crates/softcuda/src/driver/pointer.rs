//! What the driver knows of an address.

use std::ffi::c_void;

use super::error::{Code, INVALID_VALUE};
use super::state::driver;
use super::{In, Out, Status, entry};
use crate::memory::{GLOBAL_BASE, PinnedKind};

/// What lies at an address.
struct Found {
    start: u64,
    bytes: u64,
    /// `CUmemorytype`: 1 host, 2 device.
    memory_type: u32,
    managed: bool,
    host: Option<u64>,
}

fn find(address: u64) -> Result<Found, Code> {
    let memory = &driver()?.memory;
    if let Some(allocation) = memory.allocation(address) {
        let start = GLOBAL_BASE + allocation.start;
        return Ok(Found {
            start,
            bytes: allocation.bytes,
            memory_type: 2,
            managed: false,
            host: None,
        });
    }
    let region = memory.pinned_region(address, 1).ok_or(INVALID_VALUE)?;
    let managed = region.kind == PinnedKind::Managed;
    let memory_type = if managed { 2 } else { 1 };
    Ok(Found {
        start: region.start,
        bytes: region.bytes,
        memory_type,
        managed,
        host: Some(address),
    })
}

fn attribute(data: *mut c_void, attribute: u32, address: u64) -> Status {
    let found = find(address)?;
    let owner = driver()?.owners().get(&found.start).copied().ok_or(INVALID_VALUE)?;
    match attribute {
        1 => Out(data.cast()).set(owner.context),
        2 => Out(data.cast()).set(found.memory_type),
        3 => Out(data.cast()).set(address),
        4 => Out(data.cast()).set(found.host.ok_or(INVALID_VALUE)?),
        // Copies are synchronous already.
        6 => Out(data.cast()).set(1_i32),
        7 | 20 => Out(data.cast()).set(owner.number),
        8 => Out(data.cast()).set(u8::from(found.managed)),
        9 => {
            let context = super::context::lookup(driver()?, owner.context)?;
            Out(data.cast()).set(context.device as i32)
        }
        10 => Out(data.cast()).set(0_u8),
        11 => Out(data.cast()).set(found.start),
        12 | 18 => Out(data.cast()).set(found.bytes as usize),
        13 => Out(data.cast()).set(1_u8),
        14 => Out(data.cast()).set(0_u64),
        15 | 21 => Out(data.cast()).set(0_u8),
        16 => Out(data.cast()).set(3_u32),
        17 => Out(data.cast()).set(owner.pool),
        19 => Out(data.cast()).set(found.start),
        _ => Err(INVALID_VALUE),
    }
}

entry! {
    fn cuPointerGetAttribute(data: *mut c_void, which: u32, address: u64) {
        attribute(data, which, address)
    }

    /// Of an address that is not known, every attribute is zero.
    fn cuPointerGetAttributes(count: u32, which: In<u32>, data: In<*mut c_void>, address: u64) {
        driver()?;
        for index in 0..count as usize {
            let (place, which) = (data.at(index)?, which.at(index)?);
            match attribute(place, which, address) {
                Err(_not_known) if !place.is_null() && (1..=21).contains(&which) => {
                    match which {
                        8 | 10 | 13 | 15 | 21 => Out(place.cast()).set(0_u8)?,
                        9 => Out(place.cast()).set(-2_i32)?,
                        2 | 6 | 16 => Out(place.cast()).set(0_u32)?,
                        _ => Out(place.cast()).set(0_u64)?,
                    }
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// The one attribute that may be set: copies of this memory are synchronous, which they are
    /// anyway.
    fn cuPointerSetAttribute(value: In<i32>, which: u32, address: u64) {
        value.get()?;
        find(address)?;
        if which == 6 { Ok(()) } else { Err(INVALID_VALUE) }
    }
}
