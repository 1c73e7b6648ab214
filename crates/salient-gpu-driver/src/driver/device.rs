//! Devices and what they are.

use std::ffi::c_char;

use salient_gpu::device::{DEFAULT_SHARED, Device, MAX_BLOCK, MAX_GRID, MAX_THREADS};
use salient_gpu::device::{REGISTERS, RESERVED_SHARED};

use crate::error::{Code, Result};
use crate::ffi::{Handle, Out, Text, driver};
use crate::state::driver;

driver! {
    fn cuDeviceGetCount(count: Out<i32>) {
        count.set(driver()?.devices.len() as i32)
    }

    fn cuDeviceGet(device: Out<i32>, ordinal: i32) {
        driver()?.device(ordinal)?;
        device.set(ordinal)
    }

    fn cuDeviceGetName(name: Out<c_char>, capacity: i32, device: i32) {
        let (_, device) = driver()?.device(device)?;
        name.set_text(&name_of(device.limits), usize::try_from(capacity).unwrap_or(0))
    }

    fn cuDeviceGetUuid(uuid: Out<[u8; 16]>, device: i32) {
        driver()?.device(device)?;
        uuid.set(uuid_of(device as usize))
    }

    fn cuDeviceGetUuid_v2(uuid: Out<[u8; 16]>, device: i32) {
        driver()?.device(device)?;
        uuid.set(uuid_of(device as usize))
    }

    fn cuDeviceTotalMem_v2(bytes: Out<usize>, device: i32) {
        let (_, device) = driver()?.device(device)?;
        bytes.set(device.gpu.memory().total() as usize)
    }

    fn cuDeviceGetAttribute(value: Out<i32>, attribute: u32, device: i32) {
        let (_, device) = driver()?.device(device)?;
        value.set(attribute_of(device.limits, attribute)?)
    }

    fn cuDeviceComputeCapability(major: Out<i32>, minor: Out<i32>, device: i32) {
        let (_, device) = driver()?.device(device)?;
        major.set((device.limits.architecture / 10) as i32)?;
        minor.set((device.limits.architecture % 10) as i32)
    }

    fn cuDeviceGetPCIBusId(id: Out<c_char>, capacity: i32, device: i32) {
        driver()?.device(device)?;
        id.set_text(&pci_of(device), usize::try_from(capacity).unwrap_or(0))
    }

    fn cuDeviceGetByPCIBusId(device: Out<i32>, id: Text) {
        let id = id.str()?;
        let found = (0..driver()?.devices.len() as i32).find(|&index| pci_of(index) == id);
        device.set(found.ok_or(Code::INVALID_DEVICE)?)
    }

    fn cuDeviceCanAccessPeer(can: Out<i32>, device: i32, peer: i32) {
        driver()?.device(device)?;
        driver()?.device(peer)?;
        can.set(0)
    }

    fn cuDeviceGetP2PAttribute(value: Out<i32>, _attribute: u32, device: i32, peer: i32) {
        driver()?.device(device)?;
        driver()?.device(peer)?;
        if device == peer {
            return Err(Code::INVALID_DEVICE);
        }
        value.set(0)
    }

    fn cuCtxEnablePeerAccess(_peer: Handle, flags: u32) {
        crate::state::current()?;
        Err(if flags == 0 { Code::PEER_ACCESS_UNSUPPORTED } else { Code::INVALID_VALUE })
    }

    fn cuCtxDisablePeerAccess(_peer: Handle) {
        crate::state::current()?;
        Err(Code::PEER_NOT_ENABLED)
    }
}

/// Nobody takes it for a real one.
pub(crate) fn name_of(device: &Device) -> String {
    format!("Software GPU (sm_{}, limits of {})", device.architecture, device.model)
}

/// The same in every process.
pub(crate) fn uuid_of(device: usize) -> [u8; 16] {
    let mut uuid = *b"software gpu   0";
    uuid[15] += device as u8;
    uuid
}

/// A bus for each.
pub(crate) fn pci_of(device: i32) -> String {
    format!("0000:{:02X}:00.0", device + 1)
}

/// A device's attribute, by its number in `CUdevice_attribute` and `cudaDeviceAttr` alike.
pub(crate) fn attribute_of(device: &Device, attribute: u32) -> Result<i32> {
    let newer = i32::from(device.architecture >= 90);
    let value = match attribute {
        1 => MAX_THREADS as i32,
        2 => MAX_BLOCK[0] as i32,
        3 => MAX_BLOCK[1] as i32,
        4 => MAX_BLOCK[2] as i32,
        5 => MAX_GRID[0] as i32,
        6 => MAX_GRID[1] as i32,
        7 => MAX_GRID[2] as i32,
        8 => DEFAULT_SHARED as i32,
        9 => 65536, // constant memory
        10 => 32,
        11 => i32::MAX, // pitch
        12 => REGISTERS as i32,
        13 => device.clock as i32,
        14 => 512, // texture alignment
        15 => 1,   // copies overlap with kernels
        16 => device.multiprocessors as i32,
        17 | 18 | 20 => 0, // no time limit, not integrated, any process
        19 => 1,           // maps host memory
        21..=29 | 42..=49 | 52..=74 | 77 => texture_limit(attribute),
        30 => 512, // surface alignment
        31 => 1,   // concurrent kernels
        32 => 0,   // ECC
        33 => 1,   // PCI bus
        34 | 35 | 50 => 0,
        36 => device.memory_clock as i32,
        37 => device.bus as i32,
        38 => device.level2 as i32,
        39 => device.threads as i32,
        40 => 3, // copy engines
        41 => 1, // unified addressing
        51 => 32,
        75 => (device.architecture / 10) as i32,
        76 => (device.architecture % 10) as i32,
        78..=80 => 1, // priorities, global and local memory in the level 1 cache
        81 => device.shared as i32,
        82 => REGISTERS as i32,
        83 => 1, // managed memory
        84..=86 => 0,
        87 => device.double_ratio as i32,
        88 => 0, // pageable memory is out of reach
        89 | 90 => 1,
        91 => 1, // registered memory at its own address
        92..=94 => 0,
        95 => 1, // cooperative launches
        96 => 0,
        97 => device.shared_opt_in as i32,
        98 => 0,
        99 => 1, // host memory can be registered
        100..=105 => 0,
        106 => device.blocks as i32,
        107 => 0,
        108 => (device.level2 / 4 * 3) as i32,
        109 => 128 << 20, // access policy window
        110 => 0,
        111 => RESERVED_SHARED as i32,
        112..=114 => 0,
        115 => 1, // memory pools
        116..=119 => 0,
        120 => newer, // clusters
        121..=125 => 0,
        126 => 1 + 3 * newer, // memory synchronisation domains
        127 => newer,         // tensor maps
        128..=130 => 0,
        131 => -1,
        132..=133 => 0,
        134 => -1,
        135..=138 | 140..=147 => 0,
        _ => return Err(Code::INVALID_VALUE),
    };
    Ok(value)
}

/// There are no textures, but programs that print all attributes get the usual limits.
fn texture_limit(attribute: u32) -> i32 {
    match attribute {
        21 | 22 | 27 | 28 | 42 | 45 | 46 | 55 | 61 | 77 => 131_072 >> (attribute % 3).min(2),
        24..=26 => 16384,
        29 | 43 | 54 | 62 | 65 | 68 => 2048,
        44 => 1,
        69 => 1 << 28,
        _ => 32768,
    }
}
