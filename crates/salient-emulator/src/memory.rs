//! Device memory: every buffer ends at an inaccessible page, starts poisoned and is known by name.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;
use salient::kernels::Buffer as Place;

/// What fresh memory holds: NaN as f16, far outside any list as i32, huge as f32 and bf16.
pub(crate) const POISON: u8 = 0xfd;

/// What lies between a buffer's end and the page behind it.
const CANARY: u8 = 0xa5;

/// Every buffer starts at a multiple of this, unless it is asked not to.
const ALIGNMENT: usize = 16;

/// Memory of an emulated device.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Vec<Allocation>>>);

/// A live buffer.
#[derive(Debug, Clone)]
pub(crate) struct Allocation {
    pub(crate) name: Arc<str>,
    pub(crate) start: usize,
    pub(crate) end: usize,
    id: u64,
}

impl Memory {
    /// The live buffers, by address.
    pub(crate) fn snapshot(&self) -> Vec<Allocation> {
        let mut all = self.lock().clone();
        all.sort_by_key(|allocation| allocation.start);
        all
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Allocation>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A buffer of device memory, freed when it is dropped.
#[derive(Debug)]
pub struct Buffer<T> {
    memory: Memory,
    map: Map,
    start: usize,
    len: usize,
    id: u64,
    element: PhantomData<T>,
}

impl<T: Pod> Buffer<T> {
    /// `len` poisoned elements, the first `skip` elements away from an aligned address.
    pub(crate) fn new(memory: &Memory, name: &str, len: usize, skip: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let skipped = skip * size_of::<T>();
        let bytes = len * size_of::<T>();
        let map = Map::new((skipped + bytes).next_multiple_of(ALIGNMENT));
        let start = map.end() - (skipped + bytes).next_multiple_of(ALIGNMENT) + skipped;
        map.fill(map.start(), start, CANARY);
        map.fill(start, start + bytes, POISON);
        map.fill(start + bytes, map.end(), CANARY);
        let allocation = Allocation { name: name.into(), start, end: start + bytes, id };
        memory.lock().push(allocation);
        Self { memory: memory.clone(), map, start, len, id, element: PhantomData }
    }

    /// The address of the first element.
    pub fn address(&self) -> usize {
        self.start
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies from the host.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn write(&mut self, values: &[T]) {
        assert_eq!(values.len(), self.len, "a copy to a buffer of another length");
        // SAFETY: the map holds `len` elements from `start`, which is aligned for them, and no
        // launch runs while the buffer is borrowed mutably.
        let target = unsafe { std::slice::from_raw_parts_mut(self.start as *mut T, self.len) };
        target.copy_from_slice(values);
    }

    /// Copies to the host.
    ///
    /// # Panics
    /// If something was written beyond either end.
    pub fn read(&self) -> Vec<T> {
        let end = self.start + self.len * size_of::<T>();
        assert!(
            self.map.holds(self.map.start(), self.start, CANARY)
                && self.map.holds(end, self.map.end(), CANARY),
            "something was written beyond the end of a buffer"
        );
        // SAFETY: the map holds `len` initialised elements from `start`, which is aligned for them,
        // and launches are over when they return.
        unsafe { std::slice::from_raw_parts(self.start as *const T, self.len) }.to_vec()
    }
}

/// A buffer as the checks of `salient::kernels` see it.
pub(crate) fn place<T: Pod>(buffer: &Buffer<T>) -> Place {
    Place::new(buffer.address(), buffer.len())
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        self.memory.lock().retain(|allocation| allocation.id != self.id);
    }
}

/// Pages of memory between two that cannot be touched.
#[derive(Debug)]
struct Map {
    base: *mut libc::c_void,
    mapped: usize,
    page: usize,
}

// SAFETY: the pages belong to this value alone and are only reached through it and through kernels
// that run while it is borrowed.
unsafe impl Send for Map {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for Map {}

impl Map {
    fn new(bytes: usize) -> Self {
        // SAFETY: asks for a number.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
        let mapped = bytes.next_multiple_of(page) + 2 * page;
        // SAFETY: a fresh private mapping, placed by the system.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert!(base != libc::MAP_FAILED, "no memory for a buffer of {bytes} bytes");
        let map = Self { base, mapped, page };
        if map.end() > map.start() {
            // SAFETY: these pages lie inside the mapping above.
            let result = unsafe {
                libc::mprotect(
                    map.start() as *mut libc::c_void,
                    map.end() - map.start(),
                    libc::PROT_READ | libc::PROT_WRITE,
                )
            };
            assert!(result == 0, "no memory for a buffer of {bytes} bytes");
        }
        map
    }

    /// The first usable byte.
    fn start(&self) -> usize {
        self.base as usize + self.page
    }

    /// One past the last.
    fn end(&self) -> usize {
        self.base as usize + self.mapped - self.page
    }

    fn fill(&self, from: usize, to: usize, byte: u8) {
        assert!(self.start() <= from && from <= to && to <= self.end());
        // SAFETY: the range lies in the usable pages.
        unsafe { std::ptr::write_bytes(from as *mut u8, byte, to - from) };
    }

    fn holds(&self, from: usize, to: usize, byte: u8) -> bool {
        assert!(self.start() <= from && from <= to && to <= self.end());
        // SAFETY: the range lies in the usable pages, which were filled when they were mapped.
        let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, to - from) };
        bytes.iter().all(|&b| b == byte)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing borrows any more.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_poisoned_aligned_and_known_while_they_live() {
        let memory = Memory::default();
        let mut buffer = Buffer::<u32>::new(&memory, "values", 5, 0);
        assert!(buffer.address().is_multiple_of(16));
        assert_eq!(buffer.read(), [0xfdfd_fdfd; 5]);
        buffer.write(&[1, 2, 3, 4, 5]);
        assert_eq!(buffer.read(), [1, 2, 3, 4, 5]);
        let skipped = Buffer::<u16>::new(&memory, "skipped", 5, 3);
        assert_eq!(skipped.address() % 16, 6);
        let empty = Buffer::<u16>::new(&memory, "empty", 0, 0);
        assert!(empty.is_empty() && empty.read().is_empty());
        let names: Vec<_> = memory.snapshot().into_iter().map(|a| a.name.to_string()).collect();
        assert_eq!(names.len(), 3);
        drop((buffer, skipped, empty));
        assert!(memory.snapshot().is_empty());
    }

    #[test]
    #[should_panic = "beyond the end"]
    fn a_write_into_the_gap_behind_a_buffer_is_seen() {
        let buffer = Buffer::<u8>::new(&Memory::default(), "bytes", 3, 0);
        // SAFETY: the byte behind the third lies in the same page.
        unsafe { std::ptr::write((buffer.address() + 3) as *mut u8, 0) };
        buffer.read();
    }
}
