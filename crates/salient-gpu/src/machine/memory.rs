//! Device memory: an address space of its own, in which every allocation has bounds.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// What fresh memory holds, 16 bits at a time: NaN as f32, f16 and bf16, and far out of any range
/// as an integer.
pub const POISON: u16 = 0x7ff5;

/// The first device address. No host address is up there, so neither can be taken for the other.
const BASE: u64 = 1 << 49;
/// Addresses of a device.
const SPAN: u64 = 1 << 40;
/// Where allocations begin, and the least that lies between two.
const GRANULE: u64 = 256;
/// Freed memory is not handed out again before this much was.
const QUARANTINE: u64 = 1 << 38;

/// A device's memory. Several threads may use it at a time; who accesses the same bytes at the same
/// time gets what a device would give, some mix of them.
pub struct Memory {
    base: u64,
    /// Where the first device address lies in this process; reserved, and there only where it is
    /// touched.
    host: *mut u8,
    total: u64,
    track: bool,
    used: AtomicU64,
    table: RwLock<Arc<Table>>,
    state: Mutex<State>,
}

// SAFETY: the pointer is that of a mapping that lives as long as this, and is only used through raw
// accesses.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

struct State {
    next: u64,
    freed: VecDeque<(u64, u64)>,
}

/// Why memory could not be accessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes at {address:#x} are not within an allocation")]
pub struct MemoryError {
    /// The first byte asked for.
    pub address: u64,
    /// How many.
    pub bytes: u64,
}

/// What is allocated, by address.
#[derive(Clone, Default)]
pub(crate) struct Table {
    ranges: Vec<Range>,
}

/// An allocation.
#[derive(Clone)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// What is added to an address to get that in this process.
    pub(crate) offset: u64,
    /// A bit for every byte that was written, if that is tracked.
    pub(crate) written: Option<Arc<Vec<AtomicU64>>>,
}

impl Table {
    /// The allocation that holds an address.
    pub(crate) fn find(&self, address: u64) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        self.ranges[..after].last().filter(|range| address < range.end)
    }

    /// First byte and end of every allocation.
    pub(crate) fn bounds(&self) -> Vec<(u64, u64)> {
        self.ranges.iter().map(|range| (range.start, range.end)).collect()
    }

    /// The nearest allocation that begins at or below an address, for messages.
    pub(crate) fn near(&self, address: u64) -> Option<&Range> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        self.ranges[..after].last()
    }
}

impl Range {
    fn marks(&self, address: u64, bytes: u64) -> impl Iterator<Item = (usize, u64)> {
        let (first, last) = (address - self.start, address - self.start + bytes);
        (first / 64..last.div_ceil(64)).map(move |word| {
            let low = first.saturating_sub(word * 64);
            let high = (last - word * 64).min(64);
            let ones = if high - low == 64 { u64::MAX } else { ((1 << (high - low)) - 1) << low };
            (word as usize, ones)
        })
    }

    pub(crate) fn mark(&self, address: u64, bytes: u64) {
        let Some(written) = &self.written else { return };
        for (word, ones) in self.marks(address, bytes) {
            if written[word].load(Ordering::Relaxed) & ones != ones {
                written[word].fetch_or(ones, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn is_written(&self, address: u64, bytes: u64) -> bool {
        let Some(written) = &self.written else { return true };
        self.marks(address, bytes)
            .all(|(word, ones)| written[word].load(Ordering::Relaxed) & ones == ones)
    }
}

impl Memory {
    /// The memory of device `number`. `track`: which bytes were written is kept.
    pub(crate) fn new(number: usize, total: u64, track: bool) -> Self {
        // SAFETY: an anonymous mapping at no address in particular.
        let host = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                SPAN as usize,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(host != libc::MAP_FAILED, "cannot reserve addresses for the software GPU's memory");
        Self {
            base: BASE + number as u64 * SPAN,
            host: host.cast(),
            total,
            track,
            used: AtomicU64::new(0),
            table: RwLock::default(),
            state: Mutex::new(State { next: GRANULE, freed: VecDeque::new() }),
        }
    }

    /// Bytes that are allocated.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes that there are.
    pub fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// New memory, poisoned; none if there is no room.
    pub fn allocate(&self, bytes: u64) -> Option<u64> {
        let size = bytes.max(1);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if self.used().checked_add(size)? > self.total {
            return None;
        }
        let room = size.checked_next_multiple_of(GRANULE)? + GRANULE;
        let mut at = state.next;
        if room > SPAN - GRANULE {
            return None;
        }
        if at + room > SPAN {
            at = GRANULE;
        }
        // Round once through the address space, around what is still there.
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let mut wrapped = false;
        loop {
            let (start, end) = (self.base + at, self.base + at + room);
            let after = table.ranges.partition_point(|range| range.start < end);
            match table.ranges[..after].last().filter(|range| range.end + GRANULE > start) {
                None => break,
                Some(taken) => at = (taken.end - self.base).next_multiple_of(GRANULE) + GRANULE,
            }
            if at + room > SPAN {
                if wrapped {
                    return None;
                }
                (at, wrapped) = (GRANULE, true);
            }
        }
        state.next = at + room;
        let start = self.base + at;
        let words = size.div_ceil(64) as usize;
        let written = self.track.then(|| Arc::new((0..words).map(|_| AtomicU64::new(0)).collect()));
        let offset = (self.host as u64).wrapping_sub(self.base);
        let range = Range { start, end: start + size, offset, written };
        let begin = self.host.wrapping_add(at as usize).cast();
        // SAFETY: the range lies in the mapping and is nobody else's yet.
        let fresh = unsafe { std::slice::from_raw_parts_mut(begin, room as usize / 2) };
        fresh.fill(POISON);
        let ranges = &mut Arc::make_mut(&mut table).ranges;
        let place = ranges.partition_point(|other| other.start < start);
        ranges.insert(place, range);
        self.used.fetch_add(size, Ordering::Relaxed);
        Some(start)
    }

    /// Gives back what [`Memory::allocate`] gave, by its very address.
    ///
    /// # Errors
    ///
    /// An address that is no allocation's first.
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let ranges = &mut Arc::make_mut(&mut table).ranges;
        let place = ranges
            .binary_search_by_key(&address, |range| range.start)
            .ok()
            .filter(|&place| self.owns(ranges[place].start))
            .ok_or(MemoryError { address, bytes: 0 })?;
        let range = ranges.remove(place);
        drop(table);
        let size = range.end - range.start;
        self.used.fetch_sub(size, Ordering::Relaxed);
        state.freed.push_back((range.start, size));
        // The pages go back at once; the addresses stay unused for long, since they are handed out
        // in order.
        let first = (address - self.base).next_multiple_of(4096);
        let last = (address - self.base + size) / 4096 * 4096;
        if last > first + 16384 {
            let begin = self.host.wrapping_add(first as usize).cast();
            // SAFETY: whole pages of the mapping, of memory that is nobody's any more.
            unsafe { libc::madvise(begin, (last - first) as usize, libc::MADV_DONTNEED) };
        }
        while state.freed.iter().map(|&(_, size)| size).sum::<u64>() > QUARANTINE
            || state.freed.len() > 4096
        {
            state.freed.pop_front();
        }
        Ok(())
    }

    fn owns(&self, address: u64) -> bool {
        (self.base..self.base + SPAN).contains(&address)
    }

    /// Whether an address was freed a short while ago: for messages.
    pub(crate) fn was_freed(&self, address: u64) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.freed.iter().any(|&(start, size)| (start..start + size).contains(&address))
    }

    /// Start and length of the allocation that holds an address.
    pub fn find(&self, address: u64) -> Option<(u64, u64)> {
        self.table().find(address).map(|range| (range.start, range.end - range.start))
    }

    /// Where bytes lie in this process. They count as written from here on.
    ///
    /// # Errors
    ///
    /// Bytes that are not within one allocation.
    pub fn host(&self, address: u64, bytes: u64) -> Result<*mut u8, MemoryError> {
        let table = self.table();
        let range = within(&table, address, bytes)?;
        range.mark(address, bytes);
        Ok(address.wrapping_add(range.offset) as *mut u8)
    }

    /// Copies from this process.
    ///
    /// # Errors
    ///
    /// Bytes that are not within one allocation.
    pub fn write(&self, to: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let target = self.host(to, bytes.len() as u64)?;
        // SAFETY: within an allocation, which is no memory of Rust's.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
        Ok(())
    }

    /// Copies to this process.
    ///
    /// # Errors
    ///
    /// Bytes that are not within one allocation.
    pub fn read(&self, from: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let table = self.table();
        let range = within(&table, from, bytes.len() as u64)?;
        let source = from.wrapping_add(range.offset) as *const u8;
        // SAFETY: within an allocation, which is no memory of Rust's.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Copies within the device.
    ///
    /// # Errors
    ///
    /// Bytes that are not within one allocation.
    pub fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), MemoryError> {
        if bytes == 0 {
            return Ok(());
        }
        let table = self.table();
        let source = from.wrapping_add(within(&table, from, bytes)?.offset) as *const u8;
        let target = self.host(to, bytes)?;
        // SAFETY: both are within allocations.
        unsafe { std::ptr::copy(source, target, bytes as usize) };
        Ok(())
    }

    /// Writes a pattern `count` times.
    ///
    /// # Errors
    ///
    /// Bytes that are not within one allocation.
    pub fn fill(&self, to: u64, pattern: &[u8], count: u64) -> Result<(), MemoryError> {
        if count == 0 || pattern.is_empty() {
            return Ok(());
        }
        let error = MemoryError { address: to, bytes: u64::MAX };
        let bytes = count.checked_mul(pattern.len() as u64).ok_or(error)?;
        let target = self.host(to, bytes)?;
        // SAFETY: within an allocation, which is no memory of Rust's.
        let target = unsafe { std::slice::from_raw_parts_mut(target, bytes as usize) };
        for part in target.chunks_exact_mut(pattern.len()) {
            part.copy_from_slice(pattern);
        }
        Ok(())
    }

    /// Makes memory of this process known, which kernels may then access at its own address.
    pub fn register_host(&self, pointer: *mut u8, bytes: u64) {
        let start = pointer as u64;
        let range = Range { start, end: start + bytes, offset: 0, written: None };
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let ranges = &mut Arc::make_mut(&mut table).ranges;
        let place = ranges.partition_point(|other| other.start < start);
        ranges.insert(place, range);
    }

    /// Takes it back.
    pub fn unregister_host(&self, pointer: *mut u8) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(&mut table).ranges.retain(|range| range.start != pointer as u64);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, of which nothing is used any more.
        unsafe { libc::munmap(self.host.cast(), SPAN as usize) };
    }
}

fn within(table: &Table, address: u64, bytes: u64) -> Result<&Range, MemoryError> {
    let error = MemoryError { address, bytes };
    let end = address.checked_add(bytes).ok_or(error)?;
    table.find(address).filter(|range| end <= range.end).ok_or(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allocations_have_bounds_and_begin_poisoned() {
        let memory = Memory::new(0, 1 << 20, true);
        let a = memory.allocate(100).unwrap();
        let b = memory.allocate(1).unwrap();
        assert_eq!((a % 256, b % 256), (0, 0));
        let mut bytes = [0; 100];
        memory.read(a, &mut bytes).unwrap();
        assert_eq!(bytes[..2], POISON.to_le_bytes());
        assert!(memory.read(a + 1, &mut bytes).is_err());
        assert!(memory.write(a + 99, &[1, 2]).is_err());
        memory.write(a + 98, &[1, 2]).unwrap();
        let table = memory.table();
        let range = table.find(a).unwrap();
        assert!(range.is_written(a + 98, 2) && !range.is_written(a + 97, 2));
        assert_eq!(memory.find(a + 99), Some((a, 100)));
        assert_eq!(memory.find(a + 100), None);
        assert_eq!(memory.used(), 101);
        assert!(memory.free(a + 1).is_err());
        memory.free(a).unwrap();
        assert!(memory.was_freed(a + 50) && memory.free(a).is_err());
        assert!(memory.allocate(1 << 20).is_none());
    }

    #[test]
    fn fills_and_copies_stay_inside() {
        let memory = Memory::new(1, 1 << 20, false);
        let a = memory.allocate(12).unwrap();
        memory.fill(a, &[1, 2, 3, 4], 3).unwrap();
        memory.copy(a + 4, a + 1, 8).unwrap();
        let mut bytes = [0; 12];
        memory.read(a, &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2, 3, 4, 2, 3, 4, 1, 2, 3, 4, 1]);
        assert!(memory.fill(a, &[0; 4], 4).is_err() && memory.copy(a, a + 4, 9).is_err());
    }
}
