//! Memory: of the device, of the host, and what pointers are.

use std::alloc::{Layout, alloc, dealloc};
use std::ffi::c_void;
use std::sync::Arc;

use crate::driver::graph::GraphMemory;
use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, driver};
use crate::state::{Allocation, Current, Driver, HostKind, HostMemory, Tables, current, driver};
use crate::work::{Work, finish_context, submit};

const PITCH: usize = 512;
const PAGE: usize = 4096;

driver! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) {
        address.wanted()?.set(allocate(bytes)?)
    }

    fn cuMemAllocPitch_v2(
        address: Out<u64>, pitch: Out<usize>, width: usize, height: usize, element: u32
    ) {
        if !matches!(element, 4 | 8 | 16) {
            return Err(Code::INVALID_VALUE);
        }
        allocate_pitch(address.wanted()?, pitch.wanted()?, width, height)
    }

    fn cuMemFree_v2(address: u64) {
        free(address)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        address.wanted()?.set(allocate_in_stream(bytes, stream)?)
    }

    fn cuMemAllocAsync_ptsz(address: Out<u64>, bytes: usize, stream: Handle) {
        address.wanted()?.set(allocate_in_stream(bytes, per_thread(stream))?)
    }

    fn cuMemFreeAsync(address: u64, stream: Handle) {
        free_in_stream(address, stream)
    }

    fn cuMemFreeAsync_ptsz(address: u64, stream: Handle) {
        free_in_stream(address, per_thread(stream))
    }

    fn cuMemAllocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        address.wanted()?.set(allocate_host(bytes, flags, HostKind::Managed)?)
    }

    fn cuMemAllocHost_v2(pointer: Out<u64>, bytes: usize) {
        pointer.wanted()?.set(allocate_host(bytes, 0, HostKind::Pinned)?)
    }

    fn cuMemHostAlloc(pointer: Out<u64>, bytes: usize, flags: u32) {
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        pointer.wanted()?.set(allocate_host(bytes, flags, HostKind::Pinned)?)
    }

    fn cuMemFreeHost(pointer: u64) {
        free_host(pointer)
    }

    fn cuMemHostRegister_v2(pointer: u64, bytes: usize, flags: u32) {
        register(pointer, bytes, flags)
    }

    fn cuMemHostUnregister(pointer: u64) {
        unregister(pointer)
    }

    fn cuMemHostGetDevicePointer_v2(address: Out<u64>, pointer: u64, flags: u32) {
        let (driver, _) = current()?;
        driver.tables().host_memory(pointer).ok_or(Code::INVALID_VALUE)?;
        if flags != 0 { Err(Code::INVALID_VALUE) } else { address.set(pointer) }
    }

    fn cuMemHostGetFlags(flags: Out<u32>, pointer: u64) {
        let (driver, _) = current()?;
        let found = driver.tables().host_memory(pointer).map(|(_, memory)| memory.flags);
        flags.set(found.ok_or(Code::INVALID_VALUE)?)
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) {
        let (driver, current) = current()?;
        info(driver, current, free, total)
    }

    fn cuMemGetAddressRange_v2(start: Out<u64>, bytes: Out<usize>, address: u64) {
        let (driver, current) = current()?;
        let found = range_of(driver, &driver.tables(), current, address);
        let (from, length) = found.ok_or(Code::INVALID_VALUE)?;
        start.set_if_wanted(from);
        bytes.set_if_wanted(length as usize);
        Ok(())
    }

    fn cuMemPrefetchAsync(address: u64, bytes: usize, _device: i32, stream: Handle) {
        prefetch(address, bytes, stream)
    }

    fn cuMemPrefetchAsync_v2(
        address: u64, bytes: usize, _location: u64, flags: u32, stream: Handle
    ) {
        if flags != 0 { Err(Code::INVALID_VALUE) } else { prefetch(address, bytes, stream) }
    }

    fn cuMemAdvise(address: u64, bytes: usize, advice: u32, _device: i32) {
        advise(address, bytes, advice)
    }

    fn cuMemAdvise_v2(address: u64, bytes: usize, advice: u32, _location: u64) {
        advise(address, bytes, advice)
    }

    fn cuPointerGetAttribute(data: Out<c_void>, attribute: u32, address: u64) {
        let (driver, current) = current()?;
        give_attribute(driver, &driver.tables(), current, data.wanted()?, attribute, address)
    }

    fn cuPointerGetAttributes(
        count: u32, attributes: In<u32>, data: In<u64>, address: u64
    ) {
        let (driver, current) = current()?;
        let tables = driver.tables();
        for index in 0..count as usize {
            let to = data.cast::<Out<c_void>>().at(index)?.wanted()?;
            let attribute = attributes.at(index)?;
            // What a pointer is not is zero here.
            if give_attribute(driver, &tables, current, to, attribute, address).is_err() {
                zero_attribute(to, attribute)?;
            }
        }
        Ok(())
    }
}

/// What a pointer is: a device's (and of which), pinned or managed memory, or nothing known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pointer {
    Device(usize),
    Host(HostKind),
    Unknown,
}

pub(crate) fn pointer(driver: &Driver, tables: &Tables, current: Current, at: u64) -> Pointer {
    // Every device finds pinned memory too.
    if let Some((_, memory)) = tables.host_memory(at) {
        return Pointer::Host(memory.kind);
    }
    let holds = |&device: &usize| driver.devices[device].gpu.memory().find(at).is_some();
    let mut devices = std::iter::once(current.device).chain(0..driver.devices.len());
    devices.find(holds).map_or(Pointer::Unknown, Pointer::Device)
}

pub(crate) fn allocate(bytes: usize) -> Result<u64> {
    let (driver, current) = current()?;
    driver.tables().check_unsafe_call()?;
    allocate_now(driver, current, bytes)
}

fn allocate_now(driver: &Driver, current: Current, bytes: usize) -> Result<u64> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let memory = driver.devices[current.device].gpu.memory();
    let address = memory.allocate(bytes as u64).ok_or(Code::OUT_OF_MEMORY)?;
    let allocation = Allocation { context: current.context, freed: false, graph: None };
    driver.tables().allocations.insert((current.device, address), allocation);
    Ok(address)
}

pub(crate) fn allocate_pitch(
    address: Out<u64>,
    pitch: Out<usize>,
    width: usize,
    height: usize,
) -> Result {
    let padded = width.checked_next_multiple_of(PITCH).ok_or(Code::INVALID_VALUE)?;
    address.set(allocate(padded.checked_mul(height).ok_or(Code::INVALID_VALUE)?)?)?;
    pitch.set(padded)
}

/// In a capture, the memory is the graph's.
pub(crate) fn allocate_in_stream(bytes: usize, stream: Handle) -> Result<u64> {
    let driver = driver()?;
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let context = tables.streams[&stream].context;
    let device = tables.contexts[&context].device;
    if tables.streams[&stream].capture.is_none() {
        tables.check_legacy(stream)?;
        drop(tables);
        return allocate_now(driver, Current { context, device }, bytes);
    }
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let memory = driver.devices[device].gpu.memory();
    let address = memory.allocate(bytes as u64).ok_or(Code::OUT_OF_MEMORY)?;
    let memory = Arc::new(GraphMemory { driver, device, address });
    tables.capture_work(stream, Work::Allocate(memory))?;
    Ok(address)
}

/// Frees memory of this context, after all that may use it.
pub(crate) fn free(address: u64) -> Result {
    let (driver, current) = current()?;
    let mut tables = driver.tables();
    tables.check_unsafe_call()?;
    let key = (current.device, address);
    let is_managed = tables.host.get(&address).is_some_and(|host| host.kind == HostKind::Managed);
    let is_allocated = tables.allocations.get(&key).is_some_and(|allocation| !allocation.freed);
    if !is_managed && !is_allocated {
        return Err(Code::INVALID_VALUE);
    }
    drop(tables);
    let finished = finish_context(driver, current.context);
    let mut tables = driver.tables();
    if is_managed {
        forget_host(driver, &mut tables, address)?;
    } else if let Some(allocation) = tables.allocations.remove(&key) {
        drop(tables);
        if allocation.graph.is_none() {
            let memory = driver.devices[current.device].gpu.memory();
            memory.free(address).map_err(|_| Code::INVALID_VALUE)?;
        }
    }
    finished
}

pub(crate) fn free_in_stream(address: u64, stream: Handle) -> Result {
    let driver = driver()?;
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let state = &tables.streams[&stream];
    let key = (tables.contexts[&state.context].device, address);
    if let Some(capture) = state.capture {
        // A graph frees what a graph allocates.
        let of_graph = tables.allocations.get(&key).is_some_and(|found| found.graph.is_some());
        if !of_graph && !tables.captures[&capture].allocates(address) {
            return Err(Code::INVALID_VALUE);
        }
    } else {
        let allocation = tables.allocations.get_mut(&key).ok_or(Code::INVALID_VALUE)?;
        if std::mem::replace(&mut allocation.freed, true) {
            return Err(Code::INVALID_VALUE);
        }
    }
    drop(tables);
    submit(driver, stream, Work::Free(address))
}

pub(crate) fn allocate_host(bytes: usize, flags: u32, kind: HostKind) -> Result<u64> {
    let (driver, current) = current()?;
    let mut tables = driver.tables();
    tables.check_unsafe_call()?;
    let layout = host_layout(bytes)?;
    // SAFETY: the layout is of one byte or more.
    let pointer = unsafe { alloc(layout) };
    if pointer.is_null() {
        return Err(Code::OUT_OF_MEMORY);
    }
    // Nobody wrote it yet: floating-point numbers there are NaN.
    // SAFETY: it was allocated with as many bytes.
    unsafe { pointer.write_bytes(0xff, bytes) };
    add_host(driver, &mut tables, current, pointer as u64, bytes, flags, kind);
    Ok(pointer as u64)
}

pub(crate) fn free_host(pointer: u64) -> Result {
    let (driver, current) = current()?;
    let mut tables = driver.tables();
    tables.check_unsafe_call()?;
    if tables.host.get(&pointer).is_none_or(|memory| memory.kind != HostKind::Pinned) {
        return Err(Code::INVALID_VALUE);
    }
    drop(tables);
    let finished = finish_context(driver, current.context);
    forget_host(driver, &mut driver.tables(), pointer)?;
    finished
}

pub(crate) fn register(pointer: u64, bytes: usize, flags: u32) -> Result {
    let (driver, current) = current()?;
    let mut tables = driver.tables();
    tables.check_unsafe_call()?;
    let end = pointer.checked_add(bytes as u64).ok_or(Code::INVALID_VALUE)?;
    if pointer == 0 || bytes == 0 || flags & !0xf != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let before = tables.host.range(..end).next_back();
    if before.is_some_and(|(&start, memory)| start + memory.bytes > pointer) {
        return Err(Code::HOST_ALREADY_REGISTERED);
    }
    add_host(driver, &mut tables, current, pointer, bytes, flags, HostKind::Registered);
    Ok(())
}

pub(crate) fn unregister(pointer: u64) -> Result {
    let (driver, current) = current()?;
    let registered = driver.tables().host.get(&pointer).map(|memory| memory.kind);
    if registered != Some(HostKind::Registered) {
        return Err(Code::HOST_NOT_REGISTERED);
    }
    let finished = finish_context(driver, current.context);
    forget_host(driver, &mut driver.tables(), pointer)?;
    finished
}

fn host_layout(bytes: usize) -> Result<Layout> {
    if bytes == 0 {
        return Err(Code::INVALID_VALUE);
    }
    Layout::from_size_align(bytes, PAGE).map_err(|_| Code::OUT_OF_MEMORY)
}

fn add_host(
    driver: &Driver,
    tables: &mut Tables,
    current: Current,
    pointer: u64,
    bytes: usize,
    flags: u32,
    kind: HostKind,
) {
    for device in &driver.devices {
        device.gpu.memory().register_host(pointer as *mut u8, bytes as u64);
    }
    let memory = HostMemory { context: current.context, bytes: bytes as u64, flags, kind };
    tables.host.insert(pointer, memory);
}

/// Kernels touch it no more; if it is this driver's, it is gone.
pub(crate) fn forget_host(driver: &Driver, tables: &mut Tables, pointer: u64) -> Result {
    let memory = tables.host.remove(&pointer).ok_or(Code::INVALID_VALUE)?;
    for device in &driver.devices {
        device.gpu.memory().unregister_host(pointer as *mut u8);
    }
    if memory.kind != HostKind::Registered {
        let layout = host_layout(memory.bytes as usize)?;
        // SAFETY: it was allocated with this layout, and the table has held it since.
        unsafe { dealloc(pointer as *mut u8, layout) };
    }
    Ok(())
}

pub(crate) fn info(
    driver: &Driver,
    current: Current,
    free: Out<usize>,
    total: Out<usize>,
) -> Result {
    let memory = driver.devices[current.device].gpu.memory();
    free.set(memory.total().saturating_sub(memory.used()) as usize)?;
    total.set(memory.total() as usize)
}

fn range_of(
    driver: &Driver,
    tables: &Tables,
    current: Current,
    address: u64,
) -> Option<(u64, u64)> {
    let host = || tables.host_memory(address).map(|(start, memory)| (start, memory.bytes));
    driver.devices[current.device].gpu.memory().find(address).or_else(host)
}

pub(crate) fn prefetch(address: u64, bytes: usize, stream: Handle) -> Result {
    let driver = driver()?;
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    is_managed(&tables, address, bytes)?;
    drop(tables);
    submit(driver, stream, Work::Nothing)
}

pub(crate) fn advise(address: u64, bytes: usize, advice: u32) -> Result {
    let (driver, _) = current()?;
    if !(1..=6).contains(&advice) {
        return Err(Code::INVALID_VALUE);
    }
    is_managed(&driver.tables(), address, bytes)
}

fn is_managed(tables: &Tables, address: u64, bytes: usize) -> Result {
    let (start, memory) = tables.host_memory(address).ok_or(Code::INVALID_VALUE)?;
    let rest = memory.bytes - (address - start);
    if memory.kind == HostKind::Managed && bytes as u64 <= rest {
        Ok(())
    } else {
        Err(Code::INVALID_VALUE)
    }
}

/// By `CUpointer_attribute`; each has its own type.
fn give_attribute(
    driver: &Driver,
    tables: &Tables,
    current: Current,
    to: Out<c_void>,
    attribute: u32,
    address: u64,
) -> Result {
    let pointer = pointer(driver, tables, current, address);
    if pointer == Pointer::Unknown {
        return Err(Code::INVALID_VALUE);
    }
    let range = range_of(driver, tables, current, address).ok_or(Code::INVALID_VALUE)?;
    let on_device = matches!(pointer, Pointer::Device(_));
    let managed = pointer == Pointer::Host(HostKind::Managed);
    let context = match pointer {
        Pointer::Device(device) => {
            tables.allocations.get(&(device, range.0)).map(|allocation| allocation.context)
        }
        _ => tables.host_memory(address).map(|(_, memory)| memory.context),
    };
    match attribute {
        1 => to.cast().set(context.unwrap_or(current.context)),
        2 => to.cast().set(if on_device || managed { 2u32 } else { 1 }),
        3 => to.cast().set(address),
        4 if on_device => Err(Code::INVALID_VALUE),
        4 => to.cast().set(address),
        6 | 10 | 14 | 15 => to.cast().set(0u32),
        7 => to.cast().set(range.0),
        8 => to.cast().set(u8::from(managed)),
        9 => to.cast().set(match pointer {
            Pointer::Device(device) => device as i32,
            _ => current.device as i32,
        }),
        11 | 19 => to.cast().set(range.0),
        12 | 18 => to.cast().set(range.1),
        13 => to.cast().set(1u8),
        16 => to.cast().set(3u64),
        17 => to.cast().set(0u64),
        _ => Err(Code::INVALID_VALUE),
    }
}

fn zero_attribute(to: Out<c_void>, attribute: u32) -> Result {
    match attribute {
        2 | 6 | 10 | 14 | 15 => to.cast().set(0u32),
        8 | 13 => to.cast().set(0u8),
        9 => to.cast().set(-2i32),
        1 | 3 | 4 | 7 | 11 | 12 | 16..=19 => to.cast().set(0u64),
        _ => Err(Code::INVALID_VALUE),
    }
}
