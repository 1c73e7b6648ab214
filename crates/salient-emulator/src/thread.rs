//! What C++ and Rust share: the layouts of `include/salient_emulator.h`.

use std::ffi::{CStr, c_char, c_void};

/// Three sizes or indices.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dim3 {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) z: u32,
}

impl Dim3 {
    pub(crate) fn volume(self) -> u64 {
        u64::from(self.x) * u64::from(self.y) * u64::from(self.z)
    }

    /// The index-th of this many, x first.
    pub(crate) fn unravel(self, index: u64) -> Self {
        let (x, y) = (u64::from(self.x), u64::from(self.y));
        let at = |value: u64| value as u32;
        Self { x: at(index % x), y: at(index / x % y), z: at(index / x / y) }
    }
}

/// A CUDA thread, as a kernel sees itself.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Thread {
    pub(crate) thread: Dim3,
    pub(crate) block: Dim3,
    pub(crate) block_size: Dim3,
    pub(crate) grid_size: Dim3,
    pub(crate) shared: *mut u8,
    pub(crate) peers: *const *mut u8,
    pub(crate) shared_bytes: u32,
    pub(crate) lane: u32,
    pub(crate) cluster_rank: u32,
    pub(crate) cluster_size: u32,
}

/// What a launch asks for.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) grid: Dim3,
    pub(crate) threads: u32,
    pub(crate) cluster: u32,
    pub(crate) cooperative: u32,
    pub(crate) shared_bytes: u64,
}

/// Where in a kernel something happens.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Site {
    file: *const c_char,
    line: u32,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: the compiler's name of a source file, a literal that ends in 0.
        let file = unsafe { CStr::from_ptr(self.file) }.to_string_lossy();
        let short = file.rfind("kernels/").map_or(&*file, |at| &file[at..]);
        write!(f, "{short}:{}", self.line)
    }
}

/// How a kernel touches memory.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "made by C++")]
pub(crate) enum Access {
    Load,
    Store,
    Atomic,
    SharedLoad,
    SharedStore,
    SharedAtomic,
}

impl Access {
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::SharedLoad | Self::SharedStore | Self::SharedAtomic)
    }
}

/// What the lanes of a warp do together.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "made by C++")]
pub(crate) enum Collective {
    Shuffle,
    Vote,
    Match,
    Reduce,
    Sync,
    Ldmatrix,
    Mma,
    Movmatrix,
}

/// Who waits for whom.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code, reason = "made by C++")]
pub(crate) enum Barrier {
    Block,
    Cluster,
}

/// What the threads at a barrier said.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Votes {
    pub(crate) count: u32,
    pub(crate) all: u32,
    pub(crate) any: u32,
}

/// One thread's part in a multiply of its warpgroup.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Multiply {
    pub(crate) d: *mut f32,
    /// Null if a lies in shared memory.
    pub(crate) a: *const [u32; 4],
    pub(crate) a_descriptor: u64,
    pub(crate) b_descriptor: u64,
    pub(crate) n: u32,
    pub(crate) bf16: u32,
    pub(crate) a_transposed: u32,
    pub(crate) b_transposed: u32,
    pub(crate) accumulate: u32,
}

impl Multiply {
    /// Whether it is another thread's part in the same multiply.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let parts = |multiply: &Self| {
            let Self { a, a_descriptor, b_descriptor, n, bf16, .. } = *multiply;
            let Self { a_transposed, b_transposed, accumulate, .. } = *multiply;
            let operands = (a.is_null(), a_descriptor, a_transposed, b_descriptor, b_transposed);
            (operands, n, bf16, accumulate)
        };
        parts(self) == parts(other)
    }
}

impl Collective {
    /// Operations of the matrix unit; a multiply-add is two.
    pub(crate) fn matrix_operations(self) -> u64 {
        if self == Self::Mma { 2 * 16 * 8 * 16 } else { 0 }
    }
}

/// Runs over the data of all lanes of a collective; says what is wrong, or gives null.
pub(crate) type Complete = unsafe extern "C" fn(*const *mut c_void, u32) -> *const c_char;

unsafe extern "C" {
    /// Tells the kernels' side which thread runs.
    pub(crate) fn salient_emulated_set_thread(thread: *mut Thread);
}
