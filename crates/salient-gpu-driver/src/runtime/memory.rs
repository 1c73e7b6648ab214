//! Memory, copies and memsets, as the runtime has them.

use std::ffi::c_void;

use crate::driver::copy::{Side, enqueue, fill, transfer, wait_for};
use crate::driver::memory::{self, Pointer, advise, info, pointer, prefetch};
use crate::driver::pool;
use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, Out, runtime};
use crate::runtime::device::ensure;
use crate::runtime::register::variable;
use crate::state::{HostKind, initialize};

/// `cudaPointerAttributes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Attributes {
    kind: u32,
    device: i32,
    device_pointer: u64,
    host_pointer: u64,
    reserved: [u64; 8],
}

runtime! {
    fn cudaMalloc(address: Out<u64>, bytes: usize) {
        ensure()?;
        address.wanted()?.set(if bytes == 0 { 0 } else { memory::allocate(bytes)? })
    }

    fn cudaMallocPitch(address: Out<u64>, pitch: Out<usize>, width: usize, height: usize) {
        ensure()?;
        memory::allocate_pitch(address.wanted()?, pitch.wanted()?, width, height)
    }

    fn cudaFree(address: u64) {
        ensure()?;
        if address == 0 { Ok(()) } else { memory::free(address) }
    }

    fn cudaMallocAsync(address: Out<u64>, bytes: usize, stream: Handle) {
        allocate_in_stream(address, bytes, stream)
    }

    fn cudaMallocAsync_ptsz(address: Out<u64>, bytes: usize, stream: Handle) {
        allocate_in_stream(address, bytes, per_thread(stream))
    }

    fn cudaMallocFromPoolAsync(address: Out<u64>, bytes: usize, pool: Handle, stream: Handle) {
        ensure()?;
        pool::check(pool)?;
        allocate_in_stream(address, bytes, stream)
    }

    fn cudaFreeAsync(address: u64, stream: Handle) {
        ensure()?;
        if address == 0 { Ok(()) } else { memory::free_in_stream(address, stream) }
    }

    fn cudaFreeAsync_ptsz(address: u64, stream: Handle) {
        ensure()?;
        if address == 0 { Ok(()) } else { memory::free_in_stream(address, per_thread(stream)) }
    }

    fn cudaMallocHost(pointer: Out<u64>, bytes: usize) {
        ensure()?;
        pointer.wanted()?.set(memory::allocate_host(bytes, 0, HostKind::Pinned)?)
    }

    fn cudaHostAlloc(pointer: Out<u64>, bytes: usize, flags: u32) {
        ensure()?;
        if flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        pointer.wanted()?.set(memory::allocate_host(bytes, flags, HostKind::Pinned)?)
    }

    fn cudaFreeHost(pointer: u64) {
        ensure()?;
        if pointer == 0 { Ok(()) } else { memory::free_host(pointer) }
    }

    fn cudaHostRegister(pointer: u64, bytes: usize, flags: u32) {
        ensure()?;
        memory::register(pointer, bytes, flags)
    }

    fn cudaHostUnregister(pointer: u64) {
        ensure()?;
        memory::unregister(pointer)
    }

    fn cudaHostGetDevicePointer(address: Out<u64>, pointer: u64, flags: u32) {
        let (driver, _) = ensure()?;
        driver.tables().host_memory(pointer).ok_or(Code::INVALID_VALUE)?;
        if flags != 0 { Err(Code::INVALID_VALUE) } else { address.set(pointer) }
    }

    fn cudaHostGetFlags(flags: Out<u32>, pointer: u64) {
        let (driver, _) = ensure()?;
        let found = driver.tables().host_memory(pointer).map(|(_, memory)| memory.flags);
        flags.set(found.ok_or(Code::INVALID_VALUE)?)
    }

    fn cudaMallocManaged(address: Out<u64>, bytes: usize, flags: u32) {
        ensure()?;
        if !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        address.wanted()?.set(memory::allocate_host(bytes, flags, HostKind::Managed)?)
    }

    fn cudaMemPrefetchAsync(
        address: u64, bytes: usize, _location: u64, flags: u32, stream: Handle
    ) {
        ensure()?;
        if flags != 0 { Err(Code::INVALID_VALUE) } else { prefetch(address, bytes, stream) }
    }

    fn cudaMemAdvise(address: u64, bytes: usize, advice: u32, _location: u64) {
        ensure()?;
        advise(address, bytes, advice)
    }

    fn cudaMemGetInfo(free: Out<usize>, total: Out<usize>) {
        let (driver, current) = ensure()?;
        info(driver, current, free, total)
    }

    fn cudaPointerGetAttributes(attributes: Out<c_void>, address: u64) {
        let (driver, current) = ensure()?;
        let found = pointer(driver, &driver.tables(), current, address);
        let (kind, device, on_device, on_host) = match found {
            Pointer::Unknown => (0, -2, 0, address),
            Pointer::Host(HostKind::Managed) => (3, current.device as i32, address, address),
            Pointer::Host(_) => (1, current.device as i32, address, address),
            Pointer::Device(device) => (2, device as i32, address, 0),
        };
        attributes.cast().set(Attributes {
            kind,
            device,
            device_pointer: on_device,
            host_pointer: on_host,
            reserved: [0; 8],
        })
    }

    fn cudaMemcpy(to: u64, from: u64, bytes: usize, direction: u32) {
        let (to_side, from_side) = sides(direction)?;
        wait_for(to, to_side, from, from_side, bytes)
    }

    fn cudaMemcpyAsync(to: u64, from: u64, bytes: usize, direction: u32, stream: Handle) {
        let (to_side, from_side) = sides(direction)?;
        enqueue(to, to_side, from, from_side, bytes, stream)
    }

    fn cudaMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize, direction: u32, stream: Handle) {
        let (to_side, from_side) = sides(direction)?;
        enqueue(to, to_side, from, from_side, bytes, per_thread(stream))
    }

    fn cudaMemcpy_ptds(to: u64, from: u64, bytes: usize, direction: u32) {
        let (to_side, from_side) = sides(direction)?;
        wait_for(to, to_side, from, from_side, bytes)
    }

    fn cudaMemcpy2D(
        to: u64,
        to_pitch: usize,
        from: u64,
        from_pitch: usize,
        width: usize,
        height: usize,
        direction: u32,
    ) {
        let (to_side, from_side) = sides(direction)?;
        transfer((to, to_side, to_pitch), (from, from_side, from_pitch), width, height, None)
    }

    fn cudaMemcpy2DAsync(
        to: u64,
        to_pitch: usize,
        from: u64,
        from_pitch: usize,
        width: usize,
        height: usize,
        direction: u32,
        stream: Handle,
    ) {
        let (to_side, from_side) = sides(direction)?;
        let (to, from) = ((to, to_side, to_pitch), (from, from_side, from_pitch));
        transfer(to, from, width, height, Some(stream))
    }

    fn cudaMemcpyPeer(to: u64, _to_device: i32, from: u64, _from_device: i32, bytes: usize) {
        ensure()?;
        wait_for(to, Side::Device, from, Side::Device, bytes)
    }

    fn cudaMemcpyPeerAsync(
        to: u64, _to_device: i32, from: u64, _from_device: i32, bytes: usize, stream: Handle
    ) {
        ensure()?;
        enqueue(to, Side::Device, from, Side::Device, bytes, stream)
    }

    fn cudaMemcpyToSymbol(symbol: u64, from: u64, bytes: usize, offset: usize, direction: u32) {
        let (_, from_side) = sides(direction)?;
        wait_for(within(symbol, bytes, offset)?, Side::Device, from, from_side, bytes)
    }

    fn cudaMemcpyToSymbolAsync(
        symbol: u64, from: u64, bytes: usize, offset: usize, direction: u32, stream: Handle
    ) {
        let (_, from_side) = sides(direction)?;
        enqueue(within(symbol, bytes, offset)?, Side::Device, from, from_side, bytes, stream)
    }

    fn cudaMemcpyFromSymbol(to: u64, symbol: u64, bytes: usize, offset: usize, direction: u32) {
        let (to_side, _) = sides(direction)?;
        wait_for(to, to_side, within(symbol, bytes, offset)?, Side::Device, bytes)
    }

    fn cudaMemcpyFromSymbolAsync(
        to: u64, symbol: u64, bytes: usize, offset: usize, direction: u32, stream: Handle
    ) {
        let (to_side, _) = sides(direction)?;
        enqueue(to, to_side, within(symbol, bytes, offset)?, Side::Device, bytes, stream)
    }

    fn cudaGetSymbolAddress(address: Out<u64>, symbol: u64) {
        address.wanted()?.set(variable(symbol)?.0)
    }

    fn cudaGetSymbolSize(bytes: Out<usize>, symbol: u64) {
        bytes.wanted()?.set(variable(symbol)?.1 as usize)
    }

    fn cudaMemset(to: u64, value: i32, bytes: usize) {
        ensure()?;
        fill(to, &[value as u8], 0, bytes, 1, None)
    }

    fn cudaMemset_ptds(to: u64, value: i32, bytes: usize) {
        ensure()?;
        fill(to, &[value as u8], 0, bytes, 1, None)
    }

    fn cudaMemsetAsync(to: u64, value: i32, bytes: usize, stream: Handle) {
        ensure()?;
        fill(to, &[value as u8], 0, bytes, 1, Some(stream))
    }

    fn cudaMemsetAsync_ptsz(to: u64, value: i32, bytes: usize, stream: Handle) {
        ensure()?;
        fill(to, &[value as u8], 0, bytes, 1, Some(per_thread(stream)))
    }

    fn cudaMemset2D(to: u64, pitch: usize, value: i32, width: usize, height: usize) {
        ensure()?;
        fill(to, &[value as u8], pitch, width, height, None)
    }

    fn cudaMemset2DAsync(
        to: u64, pitch: usize, value: i32, width: usize, height: usize, stream: Handle
    ) {
        ensure()?;
        fill(to, &[value as u8], pitch, width, height, Some(stream))
    }

    fn cudaMemPoolTrimTo(pool: Handle, _bytes: usize) {
        initialize()?;
        pool::check(pool)
    }

    fn cudaMemPoolGetAttribute(pool: Handle, attribute: u32, value: Out<c_void>) {
        initialize()?;
        pool::attribute_of(pool, attribute, value)
    }

    fn cudaMemPoolSetAttribute(pool: Handle, attribute: u32, value: Out<c_void>) {
        initialize()?;
        pool::set_attribute(pool, attribute, value)
    }
}

fn allocate_in_stream(address: Out<u64>, bytes: usize, stream: Handle) -> Result {
    ensure()?;
    let found = if bytes == 0 { 0 } else { memory::allocate_in_stream(bytes, stream)? };
    address.wanted()?.set(found)
}

/// By `cudaMemcpyKind`.
fn sides(direction: u32) -> Result<(Side, Side)> {
    ensure()?;
    match direction {
        0 => Ok((Side::Host, Side::Host)),
        1 => Ok((Side::Device, Side::Host)),
        2 => Ok((Side::Host, Side::Device)),
        3 => Ok((Side::Device, Side::Device)),
        4 => Ok((Side::Any, Side::Any)),
        _ => Err(Code::INVALID_DIRECTION),
    }
}

/// The address of a range of bytes of a variable.
fn within(symbol: u64, bytes: usize, offset: usize) -> Result<u64> {
    let (address, size) = variable(symbol)?;
    let end = offset.checked_add(bytes).ok_or(Code::INVALID_VALUE)?;
    if end as u64 > size { Err(Code::INVALID_VALUE) } else { Ok(address + offset as u64) }
}
