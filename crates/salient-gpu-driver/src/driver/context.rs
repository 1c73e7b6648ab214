//! Contexts: a device's state in this process, and which one a thread works in.

use crate::driver::stream::Stream;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, driver};
use crate::state::{
    Context, Current, Driver, Tables, current, driver, fresh, initialize, pop, push, set_top, top,
};
use crate::work::finish_context;

/// The flags that a context takes.
const FLAGS: u32 = 0x7f;
/// By `CUlimit`: stack of a thread, printf buffer, heap, and so on.
const LIMITS: [(u32, usize); 8] =
    [(0, 1024), (1, 1 << 20), (2, 8 << 20), (3, 2), (4, 2048), (5, 128), (6, 0), (7, 0)];
const LEAST_PRIORITY: i32 = 0;
const GREATEST_PRIORITY: i32 = -5;

driver! {
    fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: i32) {
        let (device, _) = driver()?.device(device)?;
        context.wanted()?.set(retain(driver()?, device))
    }

    fn cuDevicePrimaryCtxRelease_v2(device: i32) {
        release_primary(device)
    }

    fn cuDevicePrimaryCtxRelease(device: i32) {
        release_primary(device)
    }

    fn cuDevicePrimaryCtxReset_v2(device: i32) {
        reset_primary(device)
    }

    fn cuDevicePrimaryCtxReset(device: i32) {
        reset_primary(device)
    }

    fn cuDevicePrimaryCtxGetState(device: i32, flags: Out<u32>, active: Out<i32>) {
        let driver = driver()?;
        let (device, _) = driver.device(device)?;
        let tables = driver.tables();
        let primary = &tables.primaries[device];
        flags.set_if_wanted(primary.flags);
        active.set_if_wanted(i32::from(tables.contexts.contains_key(&primary.handle)));
        Ok(())
    }

    fn cuDevicePrimaryCtxSetFlags_v2(device: i32, flags: u32) {
        let driver = driver()?;
        let (device, _) = driver.device(device)?;
        set_primary_flags(driver, device, flags)
    }

    fn cuCtxCreate_v2(context: Out<Handle>, flags: u32, device: i32) {
        create(context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: Out<Handle>, affinity: In<u8>, count: i32, flags: u32, device: i32
    ) {
        if !affinity.is_null() || count != 0 {
            return Err(Code(224));
        }
        create(context, flags, device)
    }

    fn cuCtxCreate_v4(context: Out<Handle>, params: In<u8>, flags: u32, device: i32) {
        if !params.is_null() {
            return Err(Code::NOT_SUPPORTED);
        }
        create(context, flags, device)
    }

    fn cuCtxDestroy_v2(context: Handle) {
        let driver = driver()?;
        let tables = driver.tables();
        if tables.primaries.iter().any(|primary| primary.handle == context)
            || !tables.contexts.contains_key(&context)
        {
            return Err(Code::INVALID_CONTEXT);
        }
        drop(tables);
        // What it was given is done, even if with a fault.
        let _ = finish_context(driver, context);
        destroy(driver, context);
        if top() == Some(context) {
            pop();
        }
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<Handle>) {
        driver()?;
        context.set(top().unwrap_or(0))
    }

    fn cuCtxSetCurrent(context: Handle) {
        let driver = driver()?;
        if context != 0 {
            known(&driver.tables(), context)?;
        }
        set_top((context != 0).then_some(context));
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: Handle) {
        known(&driver()?.tables(), context)?;
        push(context);
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<Handle>) {
        driver()?;
        let popped = pop().ok_or(Code::INVALID_CONTEXT)?;
        context.set_if_wanted(popped);
        Ok(())
    }

    fn cuCtxGetDevice(device: Out<i32>) {
        let current = driver()?.tables().current_even_broken()?;
        device.set(current.device as i32)
    }

    fn cuCtxGetDevice_v2(device: Out<i32>, context: Handle) {
        let context = if context == 0 { top().unwrap_or(0) } else { context };
        let driver = driver()?;
        let tables = driver.tables();
        let context = tables.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?;
        device.set(context.device as i32)
    }

    fn cuCtxGetId(context: Handle, id: Out<u64>) {
        let context = if context == 0 { top().unwrap_or(0) } else { context };
        known(&driver()?.tables(), context)?;
        id.set(context)
    }

    fn cuCtxGetApiVersion(context: Handle, version: Out<u32>) {
        if context != 0 {
            known(&driver()?.tables(), context)?;
        }
        version.set(3020)
    }

    fn cuCtxGetFlags(flags: Out<u32>) {
        let driver = driver()?;
        let tables = driver.tables();
        let current = tables.current_even_broken()?;
        flags.set(tables.contexts[&current.context].flags)
    }

    fn cuCtxSetFlags(flags: u32) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let current = tables.current()?;
        if flags & !FLAGS != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if let Some(context) = tables.contexts.get_mut(&current.context) {
            context.flags = flags;
        }
        Ok(())
    }

    fn cuCtxSynchronize() {
        let (driver, current) = current()?;
        synchronize(driver, current)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) {
        let (driver, current) = current()?;
        value.set(limit_of(&driver.tables(), current, limit)?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) {
        let (driver, current) = current()?;
        set_limit(&mut driver.tables(), current, limit, value)
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) {
        current()?;
        config.set(0)
    }

    fn cuCtxSetCacheConfig(config: u32) {
        current()?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) {
        current()?;
        config.set(1)
    }

    fn cuCtxSetSharedMemConfig(config: u32) {
        current()?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuCtxGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        current()?;
        least.set_if_wanted(LEAST_PRIORITY);
        greatest.set_if_wanted(GREATEST_PRIORITY);
        Ok(())
    }

    fn cuCtxResetPersistingL2Cache() {
        current().map(|_| ())
    }
}

/// A priority that streams may have: those beyond are taken for the nearest.
pub(crate) fn clamp_priority(priority: i32) -> i32 {
    priority.clamp(GREATEST_PRIORITY, LEAST_PRIORITY)
}

/// Waits for all of the current context.
pub(crate) fn synchronize(driver: &'static Driver, current: Current) -> Result {
    let mut tables = driver.tables();
    let capturing = tables.captures_of(current.context);
    if !capturing.is_empty() {
        for capture in capturing {
            tables.invalidate(capture);
        }
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    drop(tables);
    finish_context(driver, current.context)
}

pub(crate) fn limit_of(tables: &Tables, current: Current, limit: u32) -> Result<usize> {
    let set = tables.contexts[&current.context].limits.get(&limit).copied();
    let usual = LIMITS.iter().find(|&&(known, _)| known == limit).map(|&(_, value)| value);
    usual.map(|usual| set.unwrap_or(usual)).ok_or(Code::UNSUPPORTED_LIMIT)
}

pub(crate) fn set_limit(tables: &mut Tables, current: Current, limit: u32, value: usize) -> Result {
    limit_of(tables, current, limit)?;
    if let Some(context) = tables.contexts.get_mut(&current.context) {
        context.limits.insert(limit, value);
    }
    Ok(())
}

fn known(tables: &Tables, context: Handle) -> Result {
    let primary = tables.primaries.iter().any(|primary| primary.handle == context);
    match tables.contexts.contains_key(&context) {
        true => Ok(()),
        false if primary => Err(Code::CONTEXT_DESTROYED),
        false => Err(Code::INVALID_CONTEXT),
    }
}

fn create(context: Out<Handle>, flags: u32, device: i32) -> Result {
    let driver = driver()?;
    let (device, _) = driver.device(device)?;
    if flags & !FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let handle = fresh();
    context.set(handle)?;
    driver.tables().create_context(handle, device, flags);
    push(handle);
    Ok(())
}

/// Adds a reference to a device's primary context, which is there then.
pub(crate) fn retain(driver: &Driver, device: usize) -> Handle {
    let mut tables = driver.tables();
    let primary = &mut tables.primaries[device];
    primary.references += 1;
    let (handle, flags) = (primary.handle, primary.flags);
    if !tables.contexts.contains_key(&handle) {
        tables.create_context(handle, device, flags);
    }
    handle
}

/// The primary context, with one reference by the runtime.
pub(crate) fn retain_for_runtime(device: usize) -> Result<Handle> {
    let driver = initialize()?;
    let handle = driver.tables().primaries[device].handle;
    let mut tables = driver.tables();
    let held = tables.primaries[device].by_runtime;
    tables.primaries[device].by_runtime = true;
    drop(tables);
    if !held {
        retain(driver, device);
    }
    Ok(handle)
}

pub(crate) fn set_primary_flags(driver: &Driver, device: usize, flags: u32) -> Result {
    if flags & !FLAGS != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let mut tables = driver.tables();
    let handle = tables.primaries[device].handle;
    tables.primaries[device].flags = flags;
    if let Some(context) = tables.contexts.get_mut(&handle) {
        context.flags = flags;
    }
    Ok(())
}

fn release_primary(device: i32) -> Result {
    let driver = driver()?;
    let (device, _) = driver.device(device)?;
    let mut tables = driver.tables();
    let primary = &mut tables.primaries[device];
    let handle = primary.handle;
    primary.references = primary.references.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
    let last = primary.references == 0;
    drop(tables);
    if last {
        let _ = finish_context(driver, handle);
        destroy(driver, handle);
    }
    Ok(())
}

/// Destroys a device's primary context with all it has; references to it stay, and whoever uses it
/// next finds it new.
pub(crate) fn reset_primary(device: i32) -> Result {
    let driver = driver()?;
    let (device, _) = driver.device(device)?;
    let mut tables = driver.tables();
    let primary = &mut tables.primaries[device];
    // The runtime takes a new reference when it is used next.
    primary.references -= u32::from(std::mem::take(&mut primary.by_runtime));
    let (handle, flags) = (primary.handle, primary.flags);
    let was_there = tables.contexts.contains_key(&handle);
    drop(tables);
    if was_there {
        let _ = finish_context(driver, handle);
        destroy(driver, handle);
        let mut tables = driver.tables();
        if tables.primaries[device].references > 0 {
            tables.create_context(handle, device, flags);
        }
    }
    Ok(())
}

impl Tables {
    fn create_context(&mut self, handle: Handle, device: usize, flags: u32) {
        let legacy = fresh();
        self.streams.insert(legacy, Stream::legacy(handle, device));
        let context = Context {
            device,
            flags,
            legacy,
            per_thread: Default::default(),
            broken: None,
            limits: Default::default(),
        };
        self.contexts.insert(handle, context);
    }
}

/// Takes a context away, and all that is in it.
fn destroy(driver: &'static Driver, handle: Handle) {
    let mut tables = driver.tables();
    let Some(context) = tables.contexts.remove(&handle) else { return };
    tables.captures.retain(|_, capture| capture.context != handle);
    tables.streams.retain(|_, stream| stream.context != handle);
    tables.events.retain(|_, event| event.context != handle);
    tables.functions.retain(|_, function| function.context != handle);
    let modules: Vec<_> = tables.modules.extract_if(|_, module| module.context == handle).collect();
    let gone: Vec<_> =
        tables.allocations.extract_if(|_, allocation| allocation.context == handle).collect();
    let host: Vec<u64> = tables
        .host
        .iter()
        .filter(|(_, memory)| memory.context == handle)
        .map(|(&at, _)| at)
        .collect();
    for address in host {
        // It was found in the table just now.
        let _ = crate::driver::memory::forget_host(driver, &mut tables, address);
    }
    drop(tables);
    let memory = driver.devices[context.device].gpu.memory();
    for (_, state) in modules {
        state.module.unload(memory);
    }
    for ((_, address), allocation) in gone {
        if allocation.graph.is_none() {
            let _ = memory.free(address);
        }
    }
}
