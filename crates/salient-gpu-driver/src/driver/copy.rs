//! Copies and memsets.

use std::sync::Arc;

use salient_gpu::config::Completion;

use crate::driver::stream::{LEGACY, per_thread};
use crate::error::{Code, Result};
use crate::ffi::{Handle, HostPointer, In, driver};
use crate::state::{Driver, Tables, current};
use crate::work::{Work, submit, submit_and_wait};

/// A copy of rows.
#[derive(Clone)]
pub(crate) struct Transfer {
    pub(crate) to: Place,
    pub(crate) from: Place,
    /// Bytes of a row.
    pub(crate) width: u64,
    /// Rows.
    pub(crate) height: u64,
}

/// Rows filled with copies of a value.
#[derive(Clone)]
pub(crate) struct Fill {
    pub(crate) to: Place,
    pub(crate) value: Vec<u8>,
    /// Values of a row.
    pub(crate) width: u64,
    /// Rows.
    pub(crate) height: u64,
}

/// Where rows are.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) space: Space,
    pub(crate) address: u64,
    /// Bytes from row to row.
    pub(crate) pitch: u64,
}

/// Whose memory it is.
#[derive(Clone)]
pub(crate) enum Space {
    Host,
    Device(usize),
    /// The caller's, as it was when the copy was submitted.
    Staged(Arc<Vec<u8>>),
}

/// On which side of a copy a pointer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Host,
    Device,
    /// Wherever its address is.
    Any,
}

/// `CUDA_MEMCPY2D_v2`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Copy2d {
    from: Half2d,
    to: Half2d,
    width: usize,
    height: usize,
}

/// One side of a [`Copy2d`].
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Half2d {
    x: usize,
    y: usize,
    kind: u32,
    host: u64,
    device: u64,
    array: u64,
    pitch: usize,
}

driver! {
    fn cuMemcpy(to: u64, from: u64, bytes: usize) {
        wait_for(to, Side::Any, from, Side::Any, bytes)
    }

    fn cuMemcpyHtoD_v2(to: u64, from: u64, bytes: usize) {
        wait_for(to, Side::Device, from, Side::Host, bytes)
    }

    fn cuMemcpyDtoH_v2(to: u64, from: u64, bytes: usize) {
        wait_for(to, Side::Host, from, Side::Device, bytes)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        wait_for(to, Side::Device, from, Side::Device, bytes)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(to, Side::Any, from, Side::Any, bytes, stream)
    }

    fn cuMemcpyAsync_ptsz(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(to, Side::Any, from, Side::Any, bytes, per_thread(stream))
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(to, Side::Device, from, Side::Host, bytes, stream)
    }

    fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(to, Side::Host, from, Side::Device, bytes, stream)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: Handle) {
        enqueue(to, Side::Device, from, Side::Device, bytes, stream)
    }

    fn cuMemcpyPeer(to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize) {
        between(to, to_context, from, from_context, bytes, None)
    }

    fn cuMemcpyPeerAsync(
        to: u64, to_context: Handle, from: u64, from_context: Handle, bytes: usize, stream: Handle
    ) {
        between(to, to_context, from, from_context, bytes, Some(stream))
    }

    fn cuMemcpy2D_v2(copy: In<u8>) {
        rows(copy.cast(), None)
    }

    fn cuMemcpy2DUnaligned_v2(copy: In<u8>) {
        rows(copy.cast(), None)
    }

    fn cuMemcpy2DAsync_v2(copy: In<u8>, stream: Handle) {
        rows(copy.cast(), Some(stream))
    }

    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        fill(to, &[value], 0, count, 1, None)
    }

    fn cuMemsetD16_v2(to: u64, value: u16, count: usize) {
        fill(to, &value.to_le_bytes(), 0, count, 1, None)
    }

    fn cuMemsetD32_v2(to: u64, value: u32, count: usize) {
        fill(to, &value.to_le_bytes(), 0, count, 1, None)
    }

    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        fill(to, &[value], 0, count, 1, Some(stream))
    }

    fn cuMemsetD16Async(to: u64, value: u16, count: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), 0, count, 1, Some(stream))
    }

    fn cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        fill(to, &value.to_le_bytes(), 0, count, 1, Some(stream))
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: u8, width: usize, height: usize) {
        fill(to, &[value], pitch, width, height, None)
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: u16, width: usize, height: usize) {
        fill(to, &value.to_le_bytes(), pitch, width, height, None)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: u32, width: usize, height: usize) {
        fill(to, &value.to_le_bytes(), pitch, width, height, None)
    }

    fn cuMemsetD2D8Async(
        to: u64, pitch: usize, value: u8, width: usize, height: usize, stream: Handle
    ) {
        fill(to, &[value], pitch, width, height, Some(stream))
    }

    fn cuMemsetD2D32Async(
        to: u64, pitch: usize, value: u32, width: usize, height: usize, stream: Handle
    ) {
        fill(to, &value.to_le_bytes(), pitch, width, height, Some(stream))
    }
}

/// Copies `bytes` bytes, and waits until they are there.
pub(crate) fn wait_for(to: u64, to_side: Side, from: u64, from_side: Side, bytes: usize) -> Result {
    transfer((to, to_side, bytes), (from, from_side, bytes), bytes, 1, None)
}

/// Enqueues a copy of `bytes` bytes on a stream.
pub(crate) fn enqueue(
    to: u64,
    to_side: Side,
    from: u64,
    from_side: Side,
    bytes: usize,
    stream: Handle,
) -> Result {
    transfer((to, to_side, bytes), (from, from_side, bytes), bytes, 1, Some(stream))
}

/// Copies rows, each side given by its address and pitch: in a stream, or now.
pub(crate) fn transfer(
    to: (u64, Side, usize),
    from: (u64, Side, usize),
    width: usize,
    height: usize,
    stream: Option<Handle>,
) -> Result {
    let (driver, _) = current()?;
    if to.2 < width || from.2 < width {
        return Err(Code::INVALID_VALUE);
    }
    if width == 0 || height == 0 {
        return Ok(());
    }
    let place = |(address, side, pitch): (u64, Side, usize)| {
        Place::find(driver, &driver.tables(), address, side, pitch, width as u64, height as u64)
    };
    let transfer =
        Transfer { to: place(to)?, from: place(from)?, width: width as u64, height: height as u64 };
    run(driver, transfer, stream)
}

fn between(
    to: u64,
    to_context: Handle,
    from: u64,
    from_context: Handle,
    bytes: usize,
    stream: Option<Handle>,
) -> Result {
    let (driver, _) = current()?;
    let place = |address: u64, context: Handle| {
        let tables = driver.tables();
        let device = tables.contexts.get(&context).ok_or(Code::INVALID_CONTEXT)?.device;
        Place::of_device(driver, device, address, bytes as u64, bytes as u64)
            .ok_or(Code::INVALID_VALUE)
    };
    if bytes == 0 {
        return Ok(());
    }
    let (to, from) = (place(to, to_context)?, place(from, from_context)?);
    run(driver, Transfer { to, from, width: bytes as u64, height: 1 }, stream)
}

/// Submits a copy. As documented ("API synchronization behavior"), one from pageable memory has
/// read it, and one to pageable memory has written it, when the call returns; a captured one does
/// neither.
fn run(driver: &'static Driver, mut transfer: Transfer, stream: Option<Handle>) -> Result {
    let Some(stream) = stream else {
        check_synchronous(driver)?;
        return submit_and_wait(driver, LEGACY, Work::Copy(transfer));
    };
    let mut tables = driver.tables();
    let handle = tables.stream(stream)?;
    let is_captured = tables.streams[&handle].capture.is_some();
    let is_pageable = |place: &Place| {
        matches!(place.space, Space::Host) && tables.host_memory(place.address).is_none()
    };
    let (from_pageable, to_pageable) = (is_pageable(&transfer.from), is_pageable(&transfer.to));
    drop(tables);
    if is_captured || driver.config().streams == Completion::Eager {
        return submit(driver, stream, Work::Copy(transfer));
    }
    if from_pageable {
        transfer.from = transfer.from.stage(transfer.width, transfer.height);
    }
    if to_pageable {
        return submit_and_wait(driver, stream, Work::Copy(transfer));
    }
    submit(driver, stream, Work::Copy(transfer))
}

/// A call that waits is one that uses the legacy stream, and one that captures forbid.
fn check_synchronous(driver: &Driver) -> Result {
    let mut tables = driver.tables();
    let legacy = tables.stream(LEGACY)?;
    tables.check_legacy(legacy)?;
    tables.check_unsafe_call()
}

fn rows(copy: In<Copy2d>, stream: Option<Handle>) -> Result {
    let copy = copy.get()?;
    let (to, from) = (copy.to.start(copy.width)?, copy.from.start(copy.width)?);
    transfer(to, from, copy.width, copy.height, stream)
}

impl Half2d {
    fn start(&self, width: usize) -> Result<(u64, Side, usize)> {
        let (base, side) = match self.kind {
            1 => (self.host, Side::Host),
            2 => (self.device, Side::Device),
            4 => (self.device, Side::Any),
            3 => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_VALUE),
        };
        let pitch = if self.pitch == 0 { self.x + width } else { self.pitch };
        let offset = self.y.checked_mul(pitch).and_then(|rows| rows.checked_add(self.x));
        let address = offset.and_then(|offset| base.checked_add(offset as u64));
        Ok((address.ok_or(Code::INVALID_VALUE)?, side, pitch))
    }
}

/// Fills rows, in a stream or now. A pitch of 0 is that of rows side by side.
pub(crate) fn fill(
    to: u64,
    value: &[u8],
    pitch: usize,
    width: usize,
    height: usize,
    stream: Option<Handle>,
) -> Result {
    let (driver, _) = current()?;
    let row = width.checked_mul(value.len()).ok_or(Code::INVALID_VALUE)?;
    let pitch = if pitch == 0 { row } else { pitch };
    let is_aligned = to.is_multiple_of(value.len() as u64) && pitch.is_multiple_of(value.len());
    if !is_aligned || pitch < row {
        return Err(Code::INVALID_VALUE);
    }
    if row == 0 || height == 0 {
        return stream.map_or(Ok(()), |stream| driver.tables().stream(stream).map(|_| ()));
    }
    let (row, height) = (row as u64, height as u64);
    let to = Place::find(driver, &driver.tables(), to, Side::Device, pitch, row, height)?;
    let fill = Fill { to, value: value.to_vec(), width: width as u64, height };
    match stream {
        Some(stream) => submit(driver, stream, Work::Fill(fill)),
        None => {
            check_synchronous(driver)?;
            submit_and_wait(driver, LEGACY, Work::Fill(fill))
        }
    }
}

/// The memory is not there.
#[derive(Debug)]
pub(crate) struct Gone;

impl Place {
    /// Where an address is, if it is on its side and all rows are within one piece of memory.
    fn find(
        driver: &Driver,
        tables: &Tables,
        address: u64,
        side: Side,
        pitch: usize,
        width: u64,
        height: u64,
    ) -> Result<Self> {
        let pitch = pitch as u64;
        let extent = (height - 1)
            .checked_mul(pitch)
            .and_then(|rows| rows.checked_add(width))
            .ok_or(Code::INVALID_VALUE)?;
        // Every device finds pinned memory too.
        if let Some((start, memory)) = tables.host_memory(address) {
            let within = extent <= memory.bytes && address - start <= memory.bytes - extent;
            let place = Self { space: Space::Host, address, pitch };
            return within.then_some(place).ok_or(Code::INVALID_VALUE);
        }
        let own = tables.current()?.device;
        let mut devices = std::iter::once(own).chain(0..driver.devices.len());
        let holds = |device: &usize| driver.devices[*device].gpu.memory().find(address).is_some();
        if let Some(device) = devices.find(holds) {
            let place = Self::of_device(driver, device, address, extent, pitch);
            return place.filter(|_| side != Side::Host).ok_or(Code::INVALID_VALUE);
        }
        if side != Side::Device && is_mapped(address, extent) {
            Ok(Self { space: Space::Host, address, pitch })
        } else {
            Err(Code::INVALID_VALUE)
        }
    }

    fn of_device(
        driver: &Driver,
        device: usize,
        address: u64,
        extent: u64,
        pitch: u64,
    ) -> Option<Self> {
        let (start, bytes) = driver.devices[device].gpu.memory().find(address)?;
        (extent <= bytes && address - start <= bytes - extent).then_some(Self {
            space: Space::Device(device),
            address,
            pitch,
        })
    }

    fn row(&self, index: u64) -> u64 {
        self.address + index * self.pitch
    }

    /// The rows as they are now, side by side.
    fn stage(&self, width: u64, height: u64) -> Self {
        let rows = (0..height).flat_map(|index| {
            // SAFETY: the caller of the copy vouches for its source until the call returns.
            unsafe { HostPointer(self.row(index)).bytes(width as usize) }
        });
        let space = Space::Staged(Arc::new(rows.copied().collect()));
        Self { space, address: 0, pitch: width }
    }
}

/// The first and the last page are there. A wild pointer is an error here, where it would be a
/// fault of the process otherwise.
fn is_mapped(address: u64, bytes: u64) -> bool {
    const PAGE: u64 = 4096;
    let Some(last) = address.checked_add(bytes - 1) else { return false };
    [address, last].into_iter().all(|address| {
        let mut resident = 0;
        let page = (address / PAGE * PAGE) as *mut libc::c_void;
        // SAFETY: it only asks about a page, with room for the answer on one.
        address >= PAGE && unsafe { libc::mincore(page, 1, &raw mut resident) } == 0
    })
}

impl Transfer {
    pub(crate) fn run(&self, driver: &Driver) -> std::result::Result<(), Gone> {
        let is_whole = self.to.pitch == self.width && self.from.pitch == self.width;
        let (rows, width) =
            if is_whole { (1, self.width * self.height) } else { (self.height, self.width) };
        (0..rows).try_for_each(|row| self.run_row(driver, row, width))
    }

    fn run_row(&self, driver: &Driver, row: u64, width: u64) -> std::result::Result<(), Gone> {
        let (to, from) = (self.to.row(row), self.from.row(row));
        let length = width as usize;
        let memory = |device: usize| driver.devices[device].gpu.memory();
        let gone = |_| Gone;
        match (&self.to.space, &self.from.space) {
            (Space::Device(there), Space::Device(here)) if there == here => {
                memory(*there).copy(to, from, width).map_err(gone)
            }
            (Space::Device(there), Space::Device(here)) => {
                let mut bytes = vec![0; length];
                memory(*here).read(from, &mut bytes).map_err(gone)?;
                memory(*there).write(to, &bytes).map_err(gone)
            }
            (Space::Device(there), Space::Host) => {
                // SAFETY: the caller of the copy vouches for its source until it is done.
                let bytes = unsafe { HostPointer(from).bytes(length) };
                memory(*there).write(to, bytes).map_err(gone)
            }
            (Space::Device(there), Space::Staged(bytes)) => {
                let from = from as usize;
                memory(*there).write(to, &bytes[from..from + length]).map_err(gone)
            }
            (Space::Host, Space::Device(here)) => {
                // SAFETY: the caller of the copy vouches for its target until it is done.
                let bytes = unsafe { HostPointer(to).bytes_mut(length) };
                memory(*here).read(from, bytes).map_err(gone)
            }
            (Space::Host, Space::Host) => {
                // SAFETY: the caller vouches for both until the copy is done; they may overlap.
                unsafe { std::ptr::copy(from as *const u8, to as *mut u8, length) };
                Ok(())
            }
            (Space::Host, Space::Staged(bytes)) => {
                let from = from as usize;
                // SAFETY: the caller of the copy vouches for its target until it is done.
                let target = unsafe { HostPointer(to).bytes_mut(length) };
                target.copy_from_slice(&bytes[from..from + length]);
                Ok(())
            }
            (Space::Staged(_), _) => Err(Gone),
        }
    }
}

impl Fill {
    pub(crate) fn run(&self, driver: &Driver) -> std::result::Result<(), Gone> {
        let size = self.value.len() as u64;
        let is_whole = self.to.pitch == self.width * size;
        let (rows, count) =
            if is_whole { (1, self.width * self.height) } else { (self.height, self.width) };
        (0..rows).try_for_each(|row| match self.to.space {
            Space::Device(device) => {
                let memory = driver.devices[device].gpu.memory();
                memory.fill(self.to.row(row), &self.value, count).map_err(|_| Gone)
            }
            _ => {
                let length = (count * size) as usize;
                // SAFETY: it is pinned or managed memory, found in the table of these.
                let bytes = unsafe { HostPointer(self.to.row(row)).bytes_mut(length) };
                for (byte, value) in bytes.iter_mut().zip(self.value.iter().cycle()) {
                    *byte = *value;
                }
                Ok(())
            }
        })
    }
}
