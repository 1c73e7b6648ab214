//! What a launch has moved and computed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::observe::{Access, AccessKind};
use super::registers::Longs;
use super::run::source;
use super::space::{Where, split_rank};
use super::world::{Launched, World};

/// Bytes of a sector, what a cache moves at the least.
const SECTOR: u64 = 32;
/// Banks of shared memory, each 4 bytes wide.
const BANKS: u64 = 32;

/// Of one launch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Warp-instructions.
    pub steps: u64,
    /// Global memory, by allocation: its first address.
    pub buffers: BTreeMap<u64, Buffer>,
    /// Shared memory.
    pub shared: Shared,
    /// Bytes that cp.async brought, and that were zeros instead.
    pub copied: u64,
    /// Bytes that the copy engine brought to shared memory, and from there.
    pub bulk_loaded: u64,
    /// See `bulk_loaded`.
    pub bulk_stored: u64,
    /// mma of a warp, and wgmma of a warp (a quarter of a warpgroup's).
    pub products: u64,
    /// Warp-instructions by opcode.
    pub opcodes: BTreeMap<String, u64>,
    /// Warp-instructions by source file and line.
    pub lines: BTreeMap<String, u64>,
}

/// Accesses of an allocation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffer {
    /// Bytes that threads read, each as often as it was read.
    pub read: u64,
    /// Bytes that threads wrote.
    pub written: u64,
    /// Bytes that atomics touched.
    pub atomic: u64,
    /// Warp-instructions that read or wrote.
    pub requests: u64,
    /// Sectors that these touched, each once per request.
    pub sectors: u64,
}

/// Accesses of shared memory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Warp-instructions that read or wrote.
    pub requests: u64,
    /// Passes over the banks that these took; one for each 128 bytes would be the least.
    pub passes: u64,
    /// The least they could have taken.
    pub least: u64,
}

/// While a launch runs.
pub(crate) struct Counting {
    counters: Counters,
    places: Vec<u64>,
    /// Allocations by start, with their ends.
    ranges: Vec<(u64, u64)>,
    last: usize,
}

impl Counting {
    pub(crate) fn new(launched: &Launched<'_>) -> Self {
        Self {
            counters: Counters::default(),
            places: vec![0; launched.kernel.places.len()],
            ranges: launched.table.bounds(),
            last: 0,
        }
    }

    pub(crate) fn instruction(&mut self, place: u32, lanes: u32) {
        if lanes != 0 {
            self.places[place as usize] += 1;
        }
    }

    pub(crate) fn access(&mut self, space: Where, at: &Longs, lanes: u32, access: Access) {
        match space {
            Where::Global => self.global(at, lanes, access),
            Where::Shared => self.shared(at, lanes, access),
            Where::Local | Where::Param | Where::Generic => {}
        }
    }

    fn buffer(&mut self, address: u64) -> Option<&mut Buffer> {
        let inside = |&(start, end): &(u64, u64)| (start..end).contains(&address);
        if !self.ranges.get(self.last).is_some_and(inside) {
            self.last = self.ranges.iter().position(inside)?;
        }
        Some(self.counters.buffers.entry(self.ranges[self.last].0).or_default())
    }

    fn global(&mut self, at: &Longs, lanes: u32, access: Access) {
        let bytes = u64::from(access.bytes);
        let mut sectors: Vec<u64> = Vec::with_capacity(64);
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            let first = at[lane] / SECTOR;
            sectors.extend(first..=(at[lane] + bytes - 1) / SECTOR);
            let Some(buffer) = self.buffer(at[lane]) else { continue };
            match access.kind {
                AccessKind::Read | AccessKind::StrongRead => buffer.read += bytes,
                AccessKind::Write | AccessKind::WriteEqual | AccessKind::StrongWrite => {
                    buffer.written += bytes
                }
                AccessKind::Atomic => buffer.atomic += bytes,
            }
        }
        sectors.sort_unstable();
        sectors.dedup();
        if let Some(buffer) = self.buffer(at[lanes.trailing_zeros() as usize]) {
            buffer.requests += 1;
            buffer.sectors += sectors.len() as u64;
        }
    }

    /// A request is served 128 bytes at a time: quarters of a warp for 16 bytes per lane, halves
    /// for 8. Words of one bank that differ take a pass each.
    fn shared(&mut self, at: &Longs, lanes: u32, access: Access) {
        let bytes = u64::from(access.bytes);
        let together = (128 / bytes.max(4)).min(32) as usize;
        let shared = &mut self.counters.shared;
        shared.requests += 1;
        for group in (0..32).step_by(together) {
            let mut words: Vec<u64> = Vec::with_capacity(32);
            for lane in (group..group + together).filter(|lane| lanes >> lane & 1 != 0) {
                let offset = u64::from(split_rank(at[lane] as u32).1);
                words.extend(offset / 4..=(offset + bytes - 1) / 4);
                if access.kind.is_read() {
                    shared.read += bytes;
                }
                if access.kind.is_write() {
                    shared.written += bytes;
                }
            }
            words.sort_unstable();
            words.dedup();
            let mut banks = [0u64; BANKS as usize];
            words.iter().for_each(|word| banks[(word % BANKS) as usize] += 1);
            shared.passes += banks.iter().max().copied().unwrap_or(0);
            shared.least += (words.len() as u64).div_ceil(BANKS);
        }
    }
}

impl World<'_> {
    pub(crate) fn count_copy(&mut self, bytes: u32) {
        if let Some(counting) = &mut self.counting {
            counting.counters.copied += u64::from(bytes);
        }
    }

    pub(crate) fn count_bulk(&mut self, bytes: u32, load: bool) {
        if let Some(counting) = &mut self.counting {
            let counters = &mut counting.counters;
            let to = if load { &mut counters.bulk_loaded } else { &mut counters.bulk_stored };
            *to += u64::from(bytes);
        }
    }

    pub(crate) fn count_product(&mut self) {
        if let Some(counting) = &mut self.counting {
            counting.counters.products += 1;
        }
    }
}

impl Counters {
    pub(crate) fn of(world: &World<'_>) -> Self {
        let mut counters = Self { steps: world.steps, ..Self::default() };
        let Some(counting) = &world.counting else { return counters };
        counters = Self { steps: world.steps, ..counting.counters.clone() };
        for (place, &count) in world.launched.kernel.places.iter().zip(&counting.places) {
            if count == 0 {
                continue;
            }
            *counters.opcodes.entry(place.opcode.to_string()).or_default() += count;
            if place.opcode.starts_with("mma.") {
                counters.products += count;
            }
            if let Some((file, line)) = source(world, place.source) {
                *counters.lines.entry(format!("{file}:{line}")).or_default() += count;
            }
        }
        counters
    }

    /// As JSON, in one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("counters are plain numbers")
    }
}
