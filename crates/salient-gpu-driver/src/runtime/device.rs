//! Devices, as the runtime has them: one is current in each thread, by its primary context.

use std::cell::Cell;
use std::ffi::c_char;

use salient_gpu::device::Device;

use crate::driver::context::{
    limit_of, reset_primary, retain_for_runtime, set_limit, set_primary_flags, synchronize,
};
use crate::driver::device::{attribute_of, name_of, pci_of, uuid_of};
use crate::driver::pool;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, Text, runtime};
use crate::state::{Current, Driver, driver, initialize, set_top, top};

thread_local! {
    static DEVICE: Cell<i32> = const { Cell::new(0) };
}

/// The driver and where this thread stands: in the context that is current, or else in the primary
/// one of the device that was set, which becomes current.
pub(crate) fn ensure() -> Result<(&'static Driver, Current)> {
    let driver = ensure_context()?;
    let current = driver.tables().current()?;
    Ok((driver, current))
}

fn ensure_context() -> Result<&'static Driver> {
    let driver = initialize()?;
    let known = top().is_some_and(|context| driver.tables().contexts.contains_key(&context));
    if !known {
        let (device, _) = driver.device(DEVICE.get())?;
        set_top(Some(retain_for_runtime(device)?));
    }
    Ok(driver)
}

/// The fault of the current context, if it had one.
pub(crate) fn fault_of_current() -> Option<Code> {
    let driver = driver().ok()?;
    let tables = driver.tables();
    tables.contexts.get(&top()?)?.broken
}

runtime! {
    fn cudaGetDeviceCount(count: Out<i32>) {
        count.set(initialize()?.devices.len() as i32)
    }

    fn cudaGetDevice(device: Out<i32>) {
        device.wanted()?.set(current_device()?)
    }

    fn cudaSetDevice(device: i32) {
        set_device(device)
    }

    fn cudaInitDevice(device: i32, device_flags: u32, flags: u32) {
        let (index, _) = initialize()?.device(device)?;
        if flags & 1 != 0 {
            set_primary_flags(initialize()?, index, device_flags)?;
        }
        retain_for_runtime(index).map(|_| ())
    }

    fn cudaSetValidDevices(_devices: In<i32>, _count: i32) {
        initialize().map(|_| ())
    }

    fn cudaSetDeviceFlags(flags: u32) {
        let driver = initialize()?;
        set_primary_flags(driver, driver.device(DEVICE.get())?.0, flags)
    }

    fn cudaGetDeviceFlags(flags: Out<u32>) {
        let (driver, current) = ensure()?;
        flags.set(driver.tables().contexts[&current.context].flags)
    }

    fn cudaDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        let (_, device) = initialize()?.device(device)?;
        value.wanted()?.set(attribute_of(device.limits, attribute)?)
    }

    fn cudaGetDeviceProperties(properties: Out<u8>, device: i32) {
        let (index, device) = initialize()?.device(device)?;
        let total = device.gpu.memory().total();
        properties.cast().set(properties_of(device.limits, index, total)?)
    }

    fn cudaChooseDevice(device: Out<i32>, _properties: In<u8>) {
        initialize()?;
        device.set(0)
    }

    fn cudaDeviceGetPCIBusId(id: Out<c_char>, capacity: i32, device: i32) {
        initialize()?.device(device)?;
        id.set_text(&pci_of(device), usize::try_from(capacity).unwrap_or(0))
    }

    fn cudaDeviceGetByPCIBusId(device: Out<i32>, id: Text) {
        let id = id.str()?;
        let found = (0..initialize()?.devices.len() as i32).find(|&index| pci_of(index) == id);
        device.set(found.ok_or(Code::INVALID_DEVICE)?)
    }

    fn cudaDeviceSynchronize() {
        let (driver, current) = ensure()?;
        synchronize(driver, current)
    }

    fn cudaDeviceReset() {
        initialize()?;
        reset_primary(current_device()?)
    }

    fn cudaDeviceGetLimit(value: Out<usize>, limit: u32) {
        let (driver, current) = ensure()?;
        value.set(limit_of(&driver.tables(), current, limit)?)
    }

    fn cudaDeviceSetLimit(limit: u32, value: usize) {
        let (driver, current) = ensure()?;
        set_limit(&mut driver.tables(), current, limit, value)
    }

    fn cudaDeviceGetCacheConfig(config: Out<u32>) {
        ensure()?;
        config.set(0)
    }

    fn cudaDeviceSetCacheConfig(config: u32) {
        ensure()?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cudaDeviceGetSharedMemConfig(config: Out<u32>) {
        ensure()?;
        config.set(1)
    }

    fn cudaDeviceSetSharedMemConfig(config: u32) {
        ensure()?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cudaDeviceGetStreamPriorityRange(least: Out<i32>, greatest: Out<i32>) {
        ensure()?;
        least.set_if_wanted(0);
        greatest.set_if_wanted(-5);
        Ok(())
    }

    fn cudaDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        initialize()?.device(device)?;
        initialize()?.device(peer)?;
        can.set(0)
    }

    fn cudaDeviceEnablePeerAccess(peer: i32, _flags: u32) {
        ensure()?.0.device(peer)?;
        Err(Code::PEER_ACCESS_UNSUPPORTED)
    }

    fn cudaDeviceDisablePeerAccess(peer: i32) {
        ensure()?.0.device(peer)?;
        Err(Code::PEER_NOT_ENABLED)
    }

    fn cudaDeviceGetP2PAttribute(value: Out<i32>, _attribute: u32, device: i32, peer: i32) {
        initialize()?.device(device)?;
        initialize()?.device(peer)?;
        if device == peer { Err(Code::INVALID_DEVICE) } else { value.set(0) }
    }

    fn cudaDeviceGetDefaultMemPool(to: Out<Handle>, device: i32) {
        initialize()?;
        to.set(pool::default(device)?)
    }

    fn cudaDeviceGetMemPool(to: Out<Handle>, device: i32) {
        initialize()?;
        to.set(pool::default(device)?)
    }

    fn cudaCtxResetPersistingL2Cache() {
        ensure().map(|_| ())
    }
}

fn current_device() -> Result<i32> {
    let driver = initialize()?;
    let tables = driver.tables();
    let context = top().and_then(|context| tables.contexts.get(&context));
    Ok(context.map_or(DEVICE.get(), |context| context.device as i32))
}

fn set_device(device: i32) -> Result {
    let driver = initialize()?;
    let (index, _) = driver.device(device)?;
    DEVICE.set(device);
    let context = retain_for_runtime(index)?;
    set_top(Some(context));
    driver.tables().sound(context)
}

/// `cudaDeviceProp` of CUDA 13, built up field by field as C lays it out.
fn properties_of(device: &Device, index: usize, total: u64) -> Result<[u8; PROPERTIES]> {
    let mut to = Fields { bytes: [0; PROPERTIES], at: 0 };
    let name = name_of(device);
    to.bytes[..name.len()].copy_from_slice(name.as_bytes());
    to.at = 256;
    to.put(&uuid_of(index), 1);
    to.at += 8 + 4;
    to.size(total);
    let attribute = |number| attribute_of(device, number);
    for field in LAYOUT {
        match *field {
            Field::Int(number) => to.int(attribute(number)?),
            Field::Size(number) => to.size(attribute(number)? as u64),
            Field::Zero => to.int(0),
        }
    }
    Ok(to.bytes)
}

const PROPERTIES: usize = 1008;

struct Fields {
    bytes: [u8; PROPERTIES],
    at: usize,
}

impl Fields {
    fn put(&mut self, bytes: &[u8], alignment: usize) {
        self.at = self.at.next_multiple_of(alignment);
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }

    fn int(&mut self, value: i32) {
        self.put(&value.to_le_bytes(), 4);
    }

    fn size(&mut self, value: u64) {
        self.put(&value.to_le_bytes(), 8);
    }
}

/// What a field is, by the number of its attribute.
enum Field {
    Int(u32),
    Size(u32),
    Zero,
}

/// The fields from `sharedMemPerBlock` on.
#[rustfmt::skip]
const LAYOUT: &[Field] = {
    use Field::{Int, Size, Zero};
    &[
        Size(8), Int(12), Int(10), Size(11), Int(1), Int(2), Int(3), Int(4), Int(5), Int(6), Int(7),
        Size(9), Int(75), Int(76), Size(14), Size(51), Int(16), Int(18), Int(19),
        // Textures: 1D, 1D mipmapped, 2D, 2D mipmapped, 2D linear, gather, 3D, 3D alternate, cube
        // map, layered 1D, 2D, cube map.
        Int(21), Int(77), Int(22), Int(23), Int(73), Int(74), Int(70), Int(71), Int(72), Int(45),
        Int(46), Int(24), Int(25), Int(26), Int(47), Int(48), Int(49), Int(52), Int(42), Int(43),
        Int(27), Int(28), Int(29), Int(53), Int(54),
        // Surfaces: 1D, 2D, 3D, layered 1D, 2D, cube map, layered cube map.
        Int(55), Int(56), Int(57), Int(58), Int(59), Int(60), Int(61), Int(62), Int(63), Int(64),
        Int(65), Int(66), Int(67), Int(68),
        Size(30), Int(31), Int(32), Int(33), Int(34), Int(50), Int(35), Int(40), Int(41), Int(37),
        Int(38), Int(108), Int(39), Int(78), Int(79), Int(80), Size(81), Int(82), Int(83), Int(84),
        Int(85), Int(86), Int(88), Int(89), Int(90), Int(91), Int(95), Size(97), Int(100), Int(101),
        Int(106), Int(109), Size(111), Int(99), Int(112), Int(113), Int(114), Int(115), Int(116),
        Int(117), Int(118), Int(119), Int(121), Int(125), Int(120), Int(129), Int(130), Int(131),
        Int(133), Int(134), Zero, Zero, Int(143),
    ]
};
