//! What a launch moved. Lanes' accesses are grouped into the requests of their warp by call site and
//! occurrence, as a warp issues them.

use std::collections::{BTreeMap, HashMap};

use crate::memory::Allocation;
use crate::thread::{Access, Site};

/// Bytes that device memory moves at once.
const SECTOR: usize = 32;

/// Banks of shared memory, each a word of 4 bytes wide.
const BANKS: usize = 32;

/// Requests of one kind to one buffer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// Warp instructions in which at least one lane took part.
    pub requests: u64,
    /// Distinct bytes of each request, added up.
    pub bytes: u64,
    /// Distinct sectors of 32 bytes of each request, added up.
    pub sectors: u64,
    /// The fewest sectors that could hold those bytes.
    pub least_sectors: u64,
}

impl Requests {
    fn count(&mut self, bytes: usize, sectors: usize) {
        self.requests += 1;
        self.bytes += bytes as u64;
        self.sectors += sectors as u64;
        self.least_sectors += bytes.div_ceil(SECTOR) as u64;
    }
}

/// What went between one buffer and the processors. Caches are not modelled: what is read twice
/// counts twice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferTraffic {
    /// Loads, asynchronous copies among them.
    pub read: Requests,
    /// Stores.
    pub written: Requests,
    /// Atomic operations of single lanes.
    pub atomics: u64,
}

/// Loads and stores of shared memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SharedTraffic {
    /// The passes that requests need without conflicts: one for 128 bytes.
    pub passes: u64,
    /// The passes they need for their bank conflicts.
    pub wavefronts: u64,
    /// Atomic operations of single lanes, whose conflicts depend on the data and are not counted.
    pub atomics: u64,
}

impl SharedTraffic {
    /// The average number of ways of a bank conflict: 1 is none.
    pub fn ways(&self) -> f64 {
        if self.passes == 0 { 1.0 } else { self.wavefronts as f64 / self.passes as f64 }
    }
}

/// What one launch moved and computed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Traffic {
    /// By the buffer's name.
    pub buffers: BTreeMap<String, BufferTraffic>,
    /// Of all blocks.
    pub shared: SharedTraffic,
    /// Operations of matrix units; a multiply-add is two.
    pub matrix_operations: u64,
    /// Bank conflicts by call site, `(passes, wavefronts)`.
    pub shared_sites: BTreeMap<String, (u64, u64)>,
}

impl Traffic {
    /// What one buffer saw; nothing if it was not touched.
    pub fn buffer(&self, name: &str) -> BufferTraffic {
        self.buffers.get(name).copied().unwrap_or_default()
    }

    /// Adds another launch's counts.
    pub(crate) fn add(&mut self, other: &Self) {
        for (name, traffic) in &other.buffers {
            let sum = self.buffers.entry(name.clone()).or_default();
            add(&mut sum.read, &traffic.read);
            add(&mut sum.written, &traffic.written);
            sum.atomics += traffic.atomics;
        }
        self.shared.passes += other.shared.passes;
        self.shared.wavefronts += other.shared.wavefronts;
        self.shared.atomics += other.shared.atomics;
        self.matrix_operations += other.matrix_operations;
        for (site, (passes, wavefronts)) in &other.shared_sites {
            let sum = self.shared_sites.entry(site.clone()).or_default();
            *sum = (sum.0 + passes, sum.1 + wavefronts);
        }
    }

    /// Bytes read from and written to all buffers.
    pub fn bytes(&self) -> (u64, u64) {
        let sum = |part: fn(&BufferTraffic) -> u64| self.buffers.values().map(part).sum();
        (sum(|b| b.read.bytes), sum(|b| b.written.bytes))
    }
}

/// Between the addresses of shared memory of one block and the next, as they are recorded.
pub(crate) const BLOCK_STRIDE: usize = 1 << 32;

/// One lane's part in a request.
#[derive(Debug, Clone, Copy)]
struct Touch {
    address: usize,
    bytes: u16,
    active: bool,
}

/// What the lanes of one warp did at one site since the last flush.
type Lanes = Box<[Vec<Touch>; 32]>;

/// Collects the accesses of the blocks that run together.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    sites: HashMap<(Site, Access), usize>,
    kinds: Vec<(Site, Access)>,
    /// `[warp][site]`.
    warps: Vec<Vec<Option<Lanes>>>,
    buffers: HashMap<usize, BufferTraffic>,
    shared_sites: Vec<(u64, u64)>,
    shared: SharedTraffic,
    matrix_operations: u64,
}

impl Recorder {
    pub(crate) fn new(warps: usize) -> Self {
        Self { warps: (0..warps).map(|_| Vec::new()).collect(), ..Self::default() }
    }

    pub(crate) fn record(
        &mut self,
        (warp, lane): (usize, usize),
        site: Site,
        access: Access,
        (address, bytes): (usize, usize),
        active: bool,
    ) {
        let next = self.kinds.len();
        let index = *self.sites.entry((site, access)).or_insert(next);
        if index == next {
            self.kinds.push((site, access));
            self.shared_sites.push((0, 0));
        }
        let sites = &mut self.warps[warp];
        if sites.len() <= index {
            sites.resize_with(index + 1, || None);
        }
        let lanes = sites[index].get_or_insert_with(|| Box::new(std::array::from_fn(|_| vec![])));
        lanes[lane].push(Touch { address, bytes: bytes as u16, active });
    }

    /// A tensor copy, of the bytes that it finds in its tensor.
    pub(crate) fn count_copy(&mut self, ranges: Vec<(usize, usize)>, allocations: &[Allocation]) {
        let first = ranges.first().and_then(|&(from, _)| find(allocations, from));
        let Some(buffer) = first else { return };
        let (bytes, sectors) = distinct(ranges);
        self.buffers.entry(buffer).or_default().read.count(bytes, sectors);
    }

    pub(crate) fn count_matrix_operations(&mut self, operations: u64) {
        self.matrix_operations += operations;
    }

    /// Turns what the warps did so far into counts: they have met at a barrier or ended.
    pub(crate) fn flush(&mut self, warps: std::ops::Range<usize>, allocations: &[Allocation]) {
        for warp in warps {
            let mut sites = std::mem::take(&mut self.warps[warp]);
            for (index, lanes) in sites.iter_mut().enumerate() {
                let Some(lanes) = lanes else { continue };
                let occurrences = lanes.iter().map(Vec::len).max().unwrap_or(0);
                for occurrence in 0..occurrences {
                    let touches = lanes.iter().filter_map(|lane| lane.get(occurrence));
                    let touches: Vec<Touch> = touches.copied().filter(|t| t.active).collect();
                    if !touches.is_empty() {
                        self.count(index, &touches, allocations);
                    }
                }
                lanes.iter_mut().for_each(Vec::clear);
            }
            self.warps[warp] = sites;
        }
    }

    fn count(&mut self, index: usize, touches: &[Touch], allocations: &[Allocation]) {
        let access = self.kinds[index].1;
        if access == Access::SharedAtomic {
            self.shared.atomics += touches.len() as u64;
            return;
        }
        if access.is_shared() {
            let (passes, wavefronts) = bank_passes(touches);
            self.shared.passes += passes;
            self.shared.wavefronts += wavefronts;
            self.shared_sites[index].0 += passes;
            self.shared_sites[index].1 += wavefronts;
            return;
        }
        let Some(buffer) = find(allocations, touches[0].address) else { return };
        let traffic = self.buffers.entry(buffer).or_default();
        let requests = match access {
            Access::Load => &mut traffic.read,
            Access::Store => &mut traffic.written,
            _ => {
                traffic.atomics += touches.len() as u64;
                return;
            }
        };
        let (bytes, sectors) = distinct(ranges(touches));
        requests.count(bytes, sectors);
    }

    /// The counts by name.
    pub(crate) fn traffic(&self, allocations: &[Allocation]) -> Traffic {
        let mut traffic = Traffic {
            shared: self.shared,
            matrix_operations: self.matrix_operations,
            ..Traffic::default()
        };
        for (&buffer, counts) in &self.buffers {
            let sum = traffic.buffers.entry(allocations[buffer].name.to_string()).or_default();
            add(&mut sum.read, &counts.read);
            add(&mut sum.written, &counts.written);
            sum.atomics += counts.atomics;
        }
        for ((site, _), &(passes, wavefronts)) in self.kinds.iter().zip(&self.shared_sites) {
            if passes > 0 {
                let sum = traffic.shared_sites.entry(site.to_string()).or_default();
                *sum = (sum.0 + passes, sum.1 + wavefronts);
            }
        }
        traffic
    }
}

fn add(sum: &mut Requests, part: &Requests) {
    sum.requests += part.requests;
    sum.bytes += part.bytes;
    sum.sectors += part.sectors;
    sum.least_sectors += part.least_sectors;
}

/// The buffer that holds an address.
pub(crate) fn find(allocations: &[Allocation], address: usize) -> Option<usize> {
    let after = allocations.partition_point(|allocation| allocation.start <= address);
    let index = after.checked_sub(1)?;
    (address < allocations[index].end).then_some(index)
}

/// The bytes of one request.
fn ranges(touches: &[Touch]) -> Vec<(usize, usize)> {
    touches.iter().map(|t| (t.address, t.address + t.bytes as usize)).collect()
}

/// Distinct bytes and sectors of one request.
fn distinct(mut ranges: Vec<(usize, usize)>) -> (usize, usize) {
    ranges.sort_unstable();
    let (mut bytes, mut sectors) = (0, 0);
    let (mut end, mut next_sector) = (0, 0);
    for (from, to) in ranges {
        bytes += to.saturating_sub(from.max(end));
        end = end.max(to);
        let first = (from / SECTOR).max(next_sector);
        let last = (to - 1) / SECTOR;
        sectors += (last + 1).saturating_sub(first);
        next_sector = next_sector.max(last + 1);
    }
    (bytes, sectors)
}

/// Passes without and with conflicts. A request of more than 128 bytes goes in parts: half warps for
/// 8 bytes a lane, quarter warps for 16.
fn bank_passes(touches: &[Touch]) -> (u64, u64) {
    let widest = touches.iter().map(|t| t.bytes).max().unwrap_or(4).max(4) as usize;
    let lanes = 128 / widest;
    let (mut passes, mut wavefronts) = (0, 0);
    for part in touches.chunks(lanes) {
        let mut words: Vec<usize> = part
            .iter()
            .flat_map(|t| t.address / 4..(t.address + t.bytes as usize).div_ceil(4))
            .collect();
        words.sort_unstable();
        words.dedup();
        // Each block of a cluster has banks of its own.
        let mut ways: HashMap<(usize, usize), u64> = HashMap::new();
        for word in words {
            *ways.entry((word / (BLOCK_STRIDE / 4), word % BANKS)).or_default() += 1;
        }
        passes += 1;
        wavefronts += ways.into_values().max().unwrap_or(1);
    }
    (passes, wavefronts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touched(addresses: impl IntoIterator<Item = usize>, bytes: u16) -> Vec<(usize, usize)> {
        ranges(&touches(addresses, bytes))
    }

    fn touches(addresses: impl IntoIterator<Item = usize>, bytes: u16) -> Vec<Touch> {
        addresses.into_iter().map(|address| Touch { address, bytes, active: true }).collect()
    }

    #[test]
    fn sectors_and_bytes_are_counted_once() {
        assert_eq!(distinct(touched((0..32).map(|i| 4 * i), 4)), (128, 4));
        assert_eq!(distinct(touched((0..32).map(|i| 128 * i), 4)), (128, 32));
        assert_eq!(distinct(touched([64; 32], 4)), (4, 1));
        assert_eq!(distinct(touched((0..32).map(|i| 8 + 4 * i), 4)), (128, 5));
        assert_eq!(distinct(touched((0..32).map(|i| 16 * i), 16)), (512, 16));
    }

    #[test]
    fn banks_conflict_where_words_share_one() {
        assert_eq!(bank_passes(&touches((0..32).map(|i| 4 * i), 4)), (1, 1));
        assert_eq!(bank_passes(&touches((0..32).map(|i| 8 * i), 4)), (1, 2));
        assert_eq!(bank_passes(&touches((0..32).map(|i| 128 * i), 4)), (1, 32));
        assert_eq!(bank_passes(&touches([12; 32], 4)), (1, 1));
        assert_eq!(bank_passes(&touches((0..32).map(|i| 16 * i), 16)), (4, 4));
        assert_eq!(bank_passes(&touches((0..32).map(|i| 128 * i), 16)), (4, 32));
        assert_eq!(bank_passes(&touches((0..8).map(|i| i * BLOCK_STRIDE), 4)), (1, 1));
    }
}
