//! Copies of boxes of a tensor to shared memory (PTX ISA: Tensors; cp.async.bulk.tensor). They happen
//! at once, at some time, or when no thread can go on without them.

use std::ffi::c_int;

use super::Team;
use super::hooks::{stop, with_team};
use crate::thread::Site;
use crate::traffic::find;

/// Of cudaError_t.
const INVALID_VALUE: c_int = 1;

const MAX_RANK: usize = 5;

/// Bytes of an element.
const ELEMENT: usize = 2;

/// Bytes of the unit that is copied and swizzled.
const UNIT: usize = 16;

/// What the first word of a map says that was made here.
const MADE: u64 = 0x5a11_e27e_7e25_0a90;

/// A map of a tensor, in place of the 128 bytes that a driver makes.
#[derive(Debug, Clone, Copy)]
struct TensorMap {
    address: u64,
    rank: u32,
    swizzle: u32,
    sizes: [u64; MAX_RANK],
    strides: [u64; MAX_RANK],
    extent: [u32; MAX_RANK],
}

/// A copy on its way.
#[derive(Debug)]
pub(super) struct TensorCopy {
    /// Where the thread is that has started it.
    lane: usize,
    site: Site,
    to: usize,
    bytes: usize,
    swizzle: u32,
    barrier: usize,
    rows: Vec<Row>,
}

/// What a copy reads: bytes that lie in a row, in memory and, before the swizzle, in the box.
#[derive(Debug, Clone, Copy)]
struct Row {
    from: usize,
    at: usize,
    bytes: usize,
}

/// Where a byte lies by the swizzle of so many bytes: bits 4 and up are XORed with those from bit 7
/// (PTX ISA: Swizzling Modes).
pub(super) fn swizzled(address: usize, swizzle: u32) -> usize {
    match swizzle {
        0 => address,
        width => address ^ ((address >> 7) % (width as usize / UNIT) * UNIT),
    }
}

impl TensorMap {
    /// What `make_tensor_map` and cuTensorMapEncodeTiled ask for.
    fn is_valid(&self) -> bool {
        let rank = self.rank as usize;
        (1..=MAX_RANK).contains(&rank)
            && self.address != 0
            && self.address.is_multiple_of(UNIT as u64)
            && matches!(self.swizzle, 0 | 32 | 64 | 128)
            && self.sizes[..rank].iter().all(|size| (1..=1 << 32).contains(size))
            && self.strides[1..rank]
                .iter()
                .all(|stride| stride.is_multiple_of(UNIT as u64) && *stride < 1 << 40)
            && self.extent[..rank].iter().all(|extent| (1..=256).contains(extent))
            && self.width().is_multiple_of(UNIT)
            && (self.swizzle == 0 || self.width() == self.swizzle as usize)
    }

    fn to_words(self) -> [u64; 16] {
        let mut words = [0; 16];
        words[..2].copy_from_slice(&[MADE, self.address]);
        words[2] = u64::from(self.rank) | u64::from(self.swizzle) << 32;
        words[3..8].copy_from_slice(&self.sizes);
        words[8..13].copy_from_slice(&self.strides);
        for (i, extent) in self.extent.into_iter().enumerate() {
            words[13 + i / 2] |= u64::from(extent) << (32 * (i % 2));
        }
        words
    }

    /// The map that was made into these words.
    fn from_words(words: &[u64; 16]) -> Option<Self> {
        let [MADE, address, head, rest @ ..] = *words else { return None };
        Some(Self {
            address,
            rank: head as u32,
            swizzle: (head >> 32) as u32,
            sizes: std::array::from_fn(|i| rest[i]),
            strides: std::array::from_fn(|i| rest[MAX_RANK + i]),
            extent: std::array::from_fn(|i| (words[13 + i / 2] >> (32 * (i % 2))) as u32),
        })
    }

    /// Bytes of a row of the box.
    fn width(&self) -> usize {
        self.extent[0] as usize * ELEMENT
    }

    fn extent(&self) -> &[u32] {
        &self.extent[..self.rank as usize]
    }

    /// The parts of the box's rows that lie in the tensor.
    fn rows(&self, at: &[i32]) -> Vec<Row> {
        let outer = &self.extent()[1..];
        let count: usize = outer.iter().map(|&extent| extent as usize).product();
        let first = i64::from(at[0]).max(0);
        let end = (i64::from(at[0]) + i64::from(self.extent[0])).min(self.sizes[0] as i64);
        if first >= end {
            return Vec::new();
        }
        let row = |index: usize| {
            let mut rest = index;
            let mut from = self.address as i64 + first * ELEMENT as i64;
            for (i, &extent) in outer.iter().enumerate() {
                let place = i64::from(at[i + 1]) + (rest % extent as usize) as i64;
                rest /= extent as usize;
                if place < 0 || place >= self.sizes[i + 1] as i64 {
                    return None;
                }
                from += place * self.strides[i + 1] as i64;
            }
            let skipped = (first - i64::from(at[0])) as usize * ELEMENT;
            let bytes = (end - first) as usize * ELEMENT;
            Some(Row { from: from as usize, at: index * self.width() + skipped, bytes })
        };
        (0..count).filter_map(row).collect()
    }
}

impl TensorCopy {
    /// # Safety
    /// The rows lie in buffers, and `to` and `bytes` in shared memory, that are alive.
    unsafe fn perform(&self) {
        let mut packed = vec![0u8; self.bytes];
        for row in &self.rows {
            let to = packed[row.at..row.at + row.bytes].as_mut_ptr();
            // SAFETY: as the caller promises; the slice has room for the row.
            unsafe { std::ptr::copy_nonoverlapping(row.from as *const u8, to, row.bytes) };
        }
        for (index, unit) in packed.chunks_exact(UNIT).enumerate() {
            // The tile begins where the pattern does, so that this holds of the distance from it.
            let to = self.to + swizzled(index * UNIT, self.swizzle);
            // SAFETY: a swizzle permutes the units of a row, and the copy was checked to have room.
            unsafe { std::ptr::copy_nonoverlapping(unit.as_ptr(), to as *mut u8, UNIT) };
        }
    }
}

impl Team {
    fn start_copy(
        &mut self,
        map: &[u64; 16],
        at: &[i32],
        (to, barrier): (usize, usize),
        site: Site,
    ) -> Result<(), String> {
        let map = TensorMap::from_words(map).ok_or("a tensor copy by what is no tensor map")?;
        if map.rank as usize != at.len() {
            return Err(format!("a copy of rank {} of a tensor of rank {}", at.len(), map.rank));
        }
        let count: usize = map.extent().iter().map(|&extent| extent as usize).product();
        let bytes = count * ELEMENT;
        let offset = self.shared.offset(to);
        let alignment = (8 * map.swizzle as usize).max(128);
        if !offset.is_multiple_of(alignment) {
            return Err(format!(
                "a tensor copy to byte {offset} of shared memory, which is misaligned: its swizzle \
                 needs {alignment}"
            ));
        }
        if !self.owns_shared(to, bytes) {
            return Err(format!(
                "a tensor copy of {bytes} bytes to byte {offset} of the {} of shared memory",
                self.shared.used
            ));
        }
        if let Some(thread) = self.unfenced(to, bytes) {
            return Err(format!(
                "a tensor copy to what {} has stored without a fence between the proxies since",
                self.name(thread)
            ));
        }
        let rows = map.rows(at);
        let allocations = &self.launch().allocations;
        for row in &rows {
            let inside = find(allocations, row.from)
                .is_some_and(|index| row.from + row.bytes <= allocations[index].end);
            if !inside {
                return Err(format!("a tensor copy at {at:?} reads outside every buffer"));
            }
        }
        if let Some(recorder) = &mut self.recorder {
            let ranges = rows.iter().map(|row| (row.from, row.from + row.bytes)).collect();
            recorder.count_copy(ranges, allocations);
        }
        self.announce(barrier, bytes)?;
        let lane = self.current;
        let copy = TensorCopy { lane, site, to, bytes, swizzle: map.swizzle, barrier, rows };
        if self.random.below(2) == 0 {
            return self.finish_copy(&copy);
        }
        self.copies.push(copy);
        Ok(())
    }

    fn finish_copy(&mut self, copy: &TensorCopy) -> Result<(), String> {
        self.progress = true;
        // SAFETY: both sides were checked when the copy was started; buffers and shared memory live
        // as long as the launch.
        unsafe { copy.perform() };
        self.bring(copy.barrier, copy.bytes)
    }

    /// Performs each copy on its way with some chance; one for certain if no thread can go on.
    pub(super) fn perform_copies(&mut self) {
        let mut index = 0;
        while index < self.copies.len() {
            if self.random.below(4) > 0 {
                index += 1;
            } else {
                self.perform_copy(index);
            }
        }
        while self.ready.is_empty() && !self.copies.is_empty() && self.fault.is_none() {
            let index = self.random.below(self.copies.len());
            self.perform_copy(index);
        }
    }

    fn perform_copy(&mut self, index: usize) {
        let copy = self.copies.swap_remove(index);
        if let Err(what) = self.finish_copy(&copy) {
            self.current = copy.lane;
            self.set_fault(&format!("{}: {what}", copy.site));
        }
    }

    /// A copy that nobody has waited for, when all threads have ended.
    pub(super) fn check_copies(&mut self) {
        if let Some(copy) = self.copies.first() {
            let (lane, site) = (copy.lane, copy.site);
            self.current = lane;
            self.set_fault(&format!(
                "{site}: a tensor copy is on its way when its block has ended"
            ));
        }
    }
}

/// # Safety
/// Called by `make_tensor_map` alone: `map` is 16 words, the others are arrays of MAX_RANK.
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_tensor_map(
    map: *mut [u64; 16],
    address: u64,
    sizes: *const [u64; MAX_RANK],
    strides: *const [u64; MAX_RANK],
    extent: *const [u32; MAX_RANK],
    swizzle: u32,
    rank: u32,
) -> c_int {
    // SAFETY: as the caller promises.
    let (sizes, strides) = (unsafe { *sizes }, unsafe { *strides });
    // SAFETY: as the caller promises.
    let extent = unsafe { *extent };
    let made = TensorMap { address, rank, swizzle, sizes, strides, extent };
    if !made.is_valid() {
        return INVALID_VALUE;
    }
    // SAFETY: as the caller promises.
    unsafe { *map = made.to_words() };
    0
}

/// # Safety
/// Called by `copy_tensor` alone: `map` is 16 words, and `at` has `rank` elements.
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_tensor_copy(
    to: usize,
    map: *const [u64; 16],
    at: *const i32,
    rank: u32,
    barrier: usize,
    site: Site,
) {
    // SAFETY: as the caller promises.
    let map = unsafe { &*map };
    // SAFETY: as the caller promises.
    let at = unsafe { std::slice::from_raw_parts(at, rank as usize) };
    if let Err(what) = with_team(|team| team.start_copy(map, at, (to, barrier), site)) {
        stop(&format!("{site}: {what}"));
    }
}
