//! State spaces and the addresses in them (PTX ISA: section 5.1, and Generic Addressing).
//!
//! A shared address is an offset in the block's own shared memory, or, with a block's rank plus 1
//! from bit 24 on, in that block's of the cluster. Generic addresses are device addresses, those of
//! host memory that the device may access, or lie in one of three windows.

use crate::fault::FaultKind;

use super::inst::Stop;
use super::turn::{Turn, stop_lanes};

/// Generic addresses of shared memory: this much plus the shared address.
pub(crate) const SHARED_WINDOW: u64 = 0x0001_0000_0000_0000;
/// Of local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0001_4000_0000_0000;
/// Of a kernel's parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0001_8000_0000_0000;
const WINDOW: u64 = 1 << 32;
const RANK_SHIFT: u32 = 24;

/// Where an access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Where {
    Global,
    Shared,
    Local,
    Param,
    Generic,
}

impl Where {
    pub(crate) const ALL: [Self; 5] =
        [Self::Global, Self::Shared, Self::Local, Self::Param, Self::Generic];

    pub(crate) fn of(modifier: &str) -> Option<Self> {
        Some(match modifier {
            "global" | "const" => Self::Global,
            "shared" | "shared::cta" | "shared::cluster" => Self::Shared,
            "local" => Self::Local,
            "param" | "param::entry" => Self::Param,
            _ => return None,
        })
    }

    /// The window of a generic address.
    pub(crate) fn of_generic(address: u64) -> Self {
        if (SHARED_WINDOW..SHARED_WINDOW + WINDOW).contains(&address) {
            Self::Shared
        } else if (LOCAL_WINDOW..LOCAL_WINDOW + WINDOW).contains(&address) {
            Self::Local
        } else if (PARAM_WINDOW..PARAM_WINDOW + WINDOW).contains(&address) {
            Self::Param
        } else {
            Self::Global
        }
    }

    pub(crate) fn window(self) -> u64 {
        match self {
            Self::Shared => SHARED_WINDOW,
            Self::Local => LOCAL_WINDOW,
            Self::Param => PARAM_WINDOW,
            Self::Global | Self::Generic => 0,
        }
    }
}

/// The address of a byte of shared memory in another block of the cluster (PTX ISA: mapa).
pub(crate) fn map_to_rank(address: u32, rank: u32) -> u32 {
    address & ((1 << RANK_SHIFT) - 1) | rank.wrapping_add(1) << RANK_SHIFT
}

/// The block's rank that a shared address names, if it names one, and the offset there.
pub(crate) fn split_rank(address: u32) -> (Option<u32>, u32) {
    ((address >> RANK_SHIFT).checked_sub(1), address & ((1 << RANK_SHIFT) - 1))
}

/// The slot of the block whose shared memory an address is in, and the offset there.
pub(crate) fn shared_place(
    turn: &Turn<'_, '_>,
    address: u64,
    bytes: u64,
    lane: u32,
) -> Result<(usize, u32), Stop> {
    let own = &turn.world.blocks[turn.block];
    let cluster = &turn.world.clusters[own.cluster];
    let (rank, offset) = split_rank(address as u32);
    let slot = match rank {
        None => Some(turn.block),
        Some(rank) => cluster.blocks.get(rank as usize).copied(),
    };
    let Some(slot) = slot.filter(|_| address < WINDOW) else {
        return stop_lanes(
            FaultKind::IllegalAddress,
            1 << lane,
            format!("{address:#x} is no address of shared memory of this cluster"),
        );
    };
    let size = turn.world.blocks[slot].shared.len() as u64;
    if u64::from(offset) + bytes > size {
        return stop_lanes(
            FaultKind::IllegalAddress,
            1 << lane,
            format!("{bytes} bytes at {offset:#x} of shared memory, which has {size:#x} bytes"),
        );
    }
    if turn.world.blocks[slot].running == 0 && slot != turn.block {
        return stop_lanes(
            FaultKind::IllegalAddress,
            1 << lane,
            "shared memory of a block of the cluster that has ended",
        );
    }
    Ok((slot, offset))
}

/// Where bytes of global memory lie in this process.
pub(crate) fn global_place(
    turn: &Turn<'_, '_>,
    address: u64,
    bytes: u64,
    lane: u32,
) -> Result<*mut u8, Stop> {
    let launched = turn.world.launched;
    match launched.table.find(address) {
        Some(range) if address.saturating_add(bytes) <= range.end => {
            Ok(address.wrapping_add(range.offset) as *mut u8)
        }
        _ => Err(no_allocation(turn, address, bytes, lane)),
    }
}

/// Says what is near.
#[cold]
pub(crate) fn no_allocation(turn: &Turn<'_, '_>, address: u64, bytes: u64, lane: u32) -> Stop {
    let launched = turn.world.launched;
    let near = match launched.table.near(address) {
        _ if launched.memory.was_freed(address) => "which was freed".to_owned(),
        Some(range) if address < range.end + (1 << 20) => format!(
            "{} bytes behind the start of an allocation of {} bytes",
            address - range.start,
            range.end - range.start
        ),
        _ => "where nothing is allocated".to_owned(),
    };
    Stop {
        kind: FaultKind::IllegalAddress,
        message: format!("{bytes} bytes of global memory at {address:#x}, {near}"),
        lanes: 1 << lane,
    }
}
