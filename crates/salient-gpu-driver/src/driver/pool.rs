//! Memory pools, all of which are the device's memory.

use std::collections::HashMap;
use std::ffi::c_void;

use crate::driver::memory::allocate_in_stream;
use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, driver};
use crate::state::{Pool, driver, fresh};

/// What can be set: reuse, by followed events, opportunistically and by new dependencies; and how
/// much is kept.
const SETTABLE: std::ops::RangeInclusive<u32> = 1..=4;
const RELEASE_THRESHOLD: u32 = 4;
const USED: [u32; 4] = [5, 6, 7, 8];

/// The beginning of `CUmemPoolProps`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Properties {
    kind: u32,
    handles: u32,
    location_kind: u32,
    location: i32,
}

driver! {
    fn cuDeviceGetDefaultMemPool(pool: Out<Handle>, device: i32) {
        pool.set(default(device)?)
    }

    fn cuDeviceGetMemPool(pool: Out<Handle>, device: i32) {
        pool.set(default(device)?)
    }

    fn cuDeviceSetMemPool(device: i32, pool: Handle) {
        let driver = driver()?;
        let (device, _) = driver.device(device)?;
        let tables = driver.tables();
        let pool = tables.pools.get(&pool).ok_or(Code::INVALID_VALUE)?;
        if pool.device == device { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuMemPoolCreate(pool: Out<Handle>, properties: In<u8>) {
        let properties = properties.cast::<Properties>().get()?;
        let driver = driver()?;
        let (device, _) = driver.device(properties.location)?;
        // Pinned memory on a device, which no other process gets.
        if properties.kind != 1 || properties.location_kind != 1 || properties.handles != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = fresh();
        pool.wanted()?.set(handle)?;
        let state = Pool { device, default: false, attributes: HashMap::new() };
        driver.tables().pools.insert(handle, state);
        Ok(())
    }

    fn cuMemPoolDestroy(pool: Handle) {
        let driver = driver()?;
        let mut tables = driver.tables();
        if tables.pools.get(&pool).is_none_or(|pool| pool.default) {
            return Err(Code::INVALID_VALUE);
        }
        tables.pools.remove(&pool);
        Ok(())
    }

    fn cuMemPoolTrimTo(pool: Handle, _bytes: usize) {
        let known = driver()?.tables().pools.contains_key(&pool);
        if known { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuMemPoolGetAttribute(pool: Handle, attribute: u32, value: Out<c_void>) {
        attribute_of(pool, attribute, value)
    }

    fn cuMemPoolSetAttribute(pool: Handle, attribute: u32, value: Out<c_void>) {
        set_attribute(pool, attribute, value)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        check(pool)?;
        address.wanted()?.set(allocate_in_stream(bytes, stream)?)
    }

    fn cuMemAllocFromPoolAsync_ptsz(
        address: Out<u64>, bytes: usize, pool: Handle, stream: Handle
    ) {
        check(pool)?;
        address.wanted()?.set(allocate_in_stream(bytes, per_thread(stream))?)
    }
}

pub(crate) fn check(pool: Handle) -> Result {
    let known = driver()?.tables().pools.contains_key(&pool);
    if known { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

pub(crate) fn default(device: i32) -> Result<Handle> {
    let driver = driver()?;
    let (device, _) = driver.device(device)?;
    let tables = driver.tables();
    let mut pools = tables.pools.iter();
    let found = pools.find(|(_, pool)| pool.device == device && pool.default);
    found.map(|(&handle, _)| handle).ok_or(Code::INVALID_VALUE)
}

pub(crate) fn attribute_of(pool: Handle, attribute: u32, value: Out<c_void>) -> Result {
    let driver = driver()?;
    let tables = driver.tables();
    let pool = tables.pools.get(&pool).ok_or(Code::INVALID_VALUE)?;
    let set = pool.attributes.get(&attribute).copied();
    match attribute {
        RELEASE_THRESHOLD => value.cast().set(set.unwrap_or(0)),
        _ if SETTABLE.contains(&attribute) => value.cast().set(set.unwrap_or(1) as i32),
        _ if USED.contains(&attribute) => {
            value.cast().set(driver.devices[pool.device].gpu.memory().used())
        }
        _ => Err(Code::INVALID_VALUE),
    }
}

pub(crate) fn set_attribute(pool: Handle, attribute: u32, value: Out<c_void>) -> Result {
    let driver = driver()?;
    let mut tables = driver.tables();
    let pool = tables.pools.get_mut(&pool).ok_or(Code::INVALID_VALUE)?;
    let value = match attribute {
        RELEASE_THRESHOLD => value.cast::<u64>().get()?,
        _ if SETTABLE.contains(&attribute) => value.cast::<i32>().get()? as u64,
        // The high-water marks can be reset to 0, and are what is used then.
        6 | 8 if value.cast::<u64>().get()? == 0 => return Ok(()),
        _ => return Err(Code::INVALID_VALUE),
    };
    pool.attributes.insert(attribute, value);
    Ok(())
}
