//! Where the bytes of an access lie: checked, and told to observers.

use crate::fault::FaultKind;

use super::addressing::addresses;
use super::inst::Stop;
use super::memory::Range;
use super::observe::Access;
use super::registers::{FULL, Longs};
use super::space::{Where, no_allocation, shared_place};
use super::turn::{Turn, stop_lanes};

/// Where the bytes of every lane lie in this process; as numbers, which are computed many at a
/// time.
pub(crate) type Pointers = [u64; 32];
/// Before they are found.
pub(crate) const NOWHERE: Pointers = [0; 32];

/// The addresses of an access: a row, what is added, and whether it has 64 bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub(crate) row: u32,
    pub(crate) offset: i64,
    pub(crate) wide: bool,
}

/// The allocation that was found last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Recent {
    start: u64,
    end: u64,
    offset: u64,
}

/// Finds the bytes of an access of some lanes, checks it, and tells observers of it.
#[inline(always)]
pub(crate) fn find(
    turn: &mut Turn<'_, '_>,
    place: Where,
    at: At,
    lanes: u32,
    access: Access,
    pointers: &mut Pointers,
) -> Result<(), Stop> {
    let found = turn.world.quiet
        && match place {
            Where::Shared if !at.wide => quick_shared(turn, at, lanes, access.bytes, pointers),
            Where::Global if at.wide => {
                quick_global(turn, at, lanes, access.bytes.into(), pointers)
            }
            _ => false,
        };
    if found {
        return Ok(());
    }
    let addresses = addresses(turn, at.row, at.offset, at.wide);
    *pointers = locate(turn, place, &addresses, lanes, access)?;
    Ok(())
}

/// What most accesses are: nobody watches, and all is well and in the block's own memory. Lanes
/// that do not take part get some place that is there.
#[inline(never)]
fn quick_shared(
    turn: &mut Turn<'_, '_>,
    at: At,
    lanes: u32,
    bytes: u32,
    pointers: &mut Pointers,
) -> bool {
    let block = &mut turn.world.blocks[turn.block];
    let Some(limit) = (block.shared.len() as u32).checked_sub(bytes) else { return false };
    let base = block.shared.as_mut_ptr() as u64;
    let (words, offset) = (block.warps[turn.warp].regs.words(at.row), at.offset as u32);
    let mut places = [0; 32];
    let mut wrong = 0;
    for lane in 0..32 {
        let active = 0u32.wrapping_sub(lanes >> lane & 1);
        places[lane] = words[lane].wrapping_add(offset) & active;
        wrong |= places[lane] & (bytes - 1) | u32::from(places[lane] > limit);
    }
    for lane in 0..32 {
        pointers[lane] = base.wrapping_add(places[lane].into());
    }
    wrong == 0
}

/// Likewise, for lanes that are all in one allocation.
#[inline(never)]
fn quick_global(
    turn: &mut Turn<'_, '_>,
    at: At,
    lanes: u32,
    bytes: u64,
    pointers: &mut Pointers,
) -> bool {
    let world = &mut *turn.world;
    let longs = world.blocks[turn.block].warps[turn.warp].regs.longs(at.row);
    let first = longs[lanes.trailing_zeros() as usize].wrapping_add_signed(at.offset);
    if !(world.recent.start..world.recent.end).contains(&first) {
        let Some(range) = world.launched.table.find(first) else { return false };
        world.recent = Recent { start: range.start, end: range.end, offset: range.offset };
    }
    let Recent { start, end, offset } = world.recent;
    let Some(limit) = (end - start).checked_sub(bytes) else { return false };
    let mut wrong = 0;
    for lane in 0..32 {
        let address = longs[lane].wrapping_add_signed(at.offset);
        let address = if lanes == FULL || lanes >> lane & 1 != 0 { address } else { first };
        wrong |= address & (bytes - 1) | u64::from(address.wrapping_sub(start) > limit);
        pointers[lane] = address.wrapping_add(offset);
    }
    wrong == 0
}

/// Checks the access of some lanes, tells observers of it, and says where the bytes lie.
pub(crate) fn locate(
    turn: &mut Turn<'_, '_>,
    place: Where,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let mut filled = [0; 32];
    // Lanes that do not take part are where the first one is, so nothing has to be told apart
    // below.
    let addresses = if lanes == u32::MAX {
        addresses
    } else {
        let first = addresses[lanes.trailing_zeros() as usize];
        for lane in 0..32 {
            filled[lane] = if lanes >> lane & 1 != 0 { addresses[lane] } else { first };
        }
        &filled
    };
    let low = addresses.iter().fold(0, |low, address| low | address);
    if low & (bytes - 1) != 0 {
        return Err(misaligned(addresses, lanes, bytes));
    }
    match place {
        Where::Global => locate_global(turn, addresses, lanes, access),
        Where::Shared => locate_shared(turn, addresses, lanes, access),
        Where::Local => locate_local(turn, addresses, lanes, access),
        Where::Param => locate_param(turn, addresses, lanes, access),
        Where::Generic => locate_generic(turn, addresses, lanes, access),
    }
}

#[cold]
fn misaligned(addresses: &Longs, lanes: u32, bytes: u64) -> Stop {
    let is_wrong = |lane: usize| lanes >> lane & 1 != 0 && !addresses[lane].is_multiple_of(bytes);
    let wrong = (0..32).filter(|&lane| is_wrong(lane)).fold(0u32, |mask, lane| mask | 1 << lane);
    let first = addresses[wrong.trailing_zeros() as usize];
    Stop {
        kind: FaultKind::Misaligned,
        message: format!("{bytes} bytes at {first:#x}, which is no multiple of {bytes}"),
        lanes: wrong,
    }
}

fn locate_global(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let launched = turn.world.launched;
    let mut pointers = NOWHERE;
    let least = addresses.iter().fold(u64::MAX, |least, &address| least.min(address));
    let most = addresses.iter().fold(0, |most, &address| most.max(address));
    let range = launched.table.find(least);
    match range {
        Some(range) if most.saturating_add(bytes) <= range.end => {
            for lane in 0..32 {
                pointers[lane] = addresses[lane].wrapping_add(range.offset);
            }
            check_written(range, addresses, lanes, access)?;
        }
        // Lanes in several allocations, or in none.
        _ => {
            for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                let address = addresses[lane];
                let range = launched.table.find(address);
                let fits = |range: &&Range| address.saturating_add(bytes) <= range.end;
                let Some(range) = range.filter(fits) else {
                    return Err(no_allocation(turn, address, bytes, lane as u32));
                };
                pointers[lane] = address.wrapping_add(range.offset);
                check_written(range, addresses, 1 << lane, access)?;
            }
        }
    }
    turn.observe(Where::Global, addresses, lanes, access)?;
    Ok(pointers)
}

/// Marks what is written; what is read has to be.
fn check_written(range: &Range, addresses: &Longs, lanes: u32, access: Access) -> Result<(), Stop> {
    if range.written.is_none() {
        return Ok(());
    }
    let bytes = u64::from(access.bytes);
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        if access.kind.is_read() && !range.is_written(addresses[lane], bytes) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!(
                    "{bytes} bytes of global memory at {:#x} that nobody wrote",
                    addresses[lane]
                ),
            );
        }
        if access.kind.is_write() {
            range.mark(addresses[lane], bytes);
        }
    }
    Ok(())
}

fn locate_shared(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let mut pointers = NOWHERE;
    let most = addresses.iter().fold(0, |most, &address| most.max(address));
    let block = &mut turn.world.blocks[turn.block];
    if most.saturating_add(bytes) <= block.shared.len() as u64 {
        let base = block.shared.as_mut_ptr() as u64;
        for lane in 0..32 {
            pointers[lane] = base.wrapping_add(addresses[lane]);
        }
    } else {
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            let (slot, offset) = shared_place(turn, addresses[lane], bytes, lane as u32)?;
            let base = turn.world.blocks[slot].shared.as_mut_ptr() as u64;
            pointers[lane] = base + u64::from(offset);
        }
    }
    check_shared_written(turn, addresses, lanes, access)?;
    turn.observe(Where::Shared, addresses, lanes, access)?;
    Ok(pointers)
}

fn check_shared_written(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<(), Stop> {
    if turn.world.blocks[turn.block].shared_written.is_empty() {
        return Ok(());
    }
    let bytes = access.bytes as usize;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let (slot, offset) = shared_place(turn, addresses[lane], bytes as u64, lane as u32)?;
        let written = &mut turn.world.blocks[slot].shared_written;
        let written = &mut written[offset as usize..offset as usize + bytes];
        if access.kind.is_read() && written.contains(&0) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!("{bytes} bytes of shared memory at {offset:#x} that nobody wrote"),
            );
        }
        if access.kind.is_write() {
            written.fill(1);
        }
    }
    Ok(())
}

fn locate_local(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let size = turn.world.launched.kernel.local_bytes;
    let mut pointers = NOWHERE;
    let warp = turn.warp as u64;
    let base = turn.block().local.as_mut_ptr() as u64;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let address = addresses[lane];
        if address.saturating_add(u64::from(access.bytes)) > size {
            return stop_lanes(
                FaultKind::IllegalAddress,
                1 << lane,
                format!("{} bytes at {address:#x} of {size} of local memory", access.bytes),
            );
        }
        pointers[lane] = base + (warp * 32 + lane as u64) * size + address;
    }
    Ok(pointers)
}

fn locate_param(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let params = turn.world.launched.params;
    let mut pointers = NOWHERE;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let address = addresses[lane];
        if address.saturating_add(u64::from(access.bytes)) > params.len() as u64
            || access.kind.is_write()
        {
            return stop_lanes(
                FaultKind::IllegalAddress,
                1 << lane,
                format!("{} bytes at {address:#x} of {} of parameters", access.bytes, params.len()),
            );
        }
        pointers[lane] = params.as_ptr() as u64 + address;
    }
    Ok(pointers)
}

/// Lanes may be in several windows.
fn locate_generic(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let mut pointers = NOWHERE;
    let mut left = lanes;
    while left != 0 {
        let place = Where::of_generic(addresses[left.trailing_zeros() as usize]);
        let first = addresses[left.trailing_zeros() as usize] - place.window();
        let mut these = 0;
        let mut offsets = [first; 32];
        for lane in (0..32).filter(|lane| left >> lane & 1 != 0) {
            if Where::of_generic(addresses[lane]) == place {
                these |= 1 << lane;
                offsets[lane] = addresses[lane] - place.window();
            }
        }
        let found = match place {
            Where::Shared => locate_shared(turn, &offsets, these, access)?,
            Where::Local => locate_local(turn, &offsets, these, access)?,
            Where::Param => locate_param(turn, &offsets, these, access)?,
            Where::Global | Where::Generic => locate_global(turn, &offsets, these, access)?,
        };
        for lane in (0..32).filter(|lane| these >> lane & 1 != 0) {
            pointers[lane] = found[lane];
        }
        left &= !these;
    }
    Ok(pointers)
}

impl Turn<'_, '_> {
    /// A bulk copy reads or writes global memory.
    pub(crate) fn mark_bulk(
        &mut self,
        address: u64,
        bytes: u64,
        writes: bool,
        lane: u32,
    ) -> Result<(), Stop> {
        let launched = self.world.launched;
        let Some(range) = launched.table.find(address) else { return Ok(()) };
        if writes {
            range.mark(address, bytes);
        } else if !range.is_written(address, bytes) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!("{bytes} bytes of global memory at {address:#x} that nobody wrote"),
            );
        }
        Ok(())
    }
}
