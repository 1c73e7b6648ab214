//! Stacks of coroutines, cut from large maps: a map and a guard page for each of tens of thousands
//! would be more maps than a process may have.

use std::sync::{Mutex, PoisonError};

use corosensei::stack::{Stack, StackPointer};

/// Kernels keep little on the stack; hooks a little more.
const BYTES: usize = 64 << 10;

/// Stacks per map.
const SLAB: usize = 1024;

/// Bytes at the far end of a stack that stay zero.
const CANARY: usize = 64;

static SPARE: Mutex<Vec<usize>> = Mutex::new(Vec::new());

/// A stack, which goes back to the spare ones when it is dropped.
pub(crate) struct FiberStack {
    limit: usize,
}

impl FiberStack {
    /// A spare stack, or a new one.
    pub(crate) fn take() -> Self {
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.is_empty() {
            let start = map(SLAB * BYTES);
            spare.extend((0..SLAB).map(|i| start + i * BYTES));
        }
        Self { limit: spare.pop().expect("some were just made") }
    }
}

impl Drop for FiberStack {
    fn drop(&mut self) {
        // SAFETY: the stack belongs to this value, and nothing runs on it.
        let end = unsafe { std::slice::from_raw_parts(self.limit as *const u8, CANARY) };
        assert!(
            end.iter().all(|&byte| byte == 0),
            "a kernel used more than {BYTES} bytes of stack"
        );
        SPARE.lock().unwrap_or_else(PoisonError::into_inner).push(self.limit);
    }
}

// SAFETY: `base` and `limit` are those of a range of BYTES that belongs to this value alone, aligned
// and never unmapped. There is no guard page: an overrun of the canary is found when the stack is
// dropped.
unsafe impl Stack for FiberStack {
    fn base(&self) -> StackPointer {
        StackPointer::new(self.limit + BYTES).expect("no map ends at address 0")
    }

    fn limit(&self) -> StackPointer {
        StackPointer::new(self.limit).expect("no map starts at address 0")
    }
}

/// Fresh zeroed memory, which takes room only where it is touched.
fn map(bytes: usize) -> usize {
    // SAFETY: a fresh private mapping, placed by the system.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    assert!(start != libc::MAP_FAILED, "no memory for stacks");
    start as usize
}
