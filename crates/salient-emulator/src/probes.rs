//! Launchers of the small kernels in `probes/`, for tests of the emulator itself.

use std::ffi::{c_int, c_void};

unsafe extern "C" {
    /// Shuffles, votes, matches and reductions: `[32]` words to `[32, 10]`.
    pub fn salient_probe_warp(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    /// `ldmatrix`: four 8 x 8 matrices of 16 bits to `[32, 4]` words.
    pub fn salient_probe_matrices(
        input: *const c_void,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    /// `mma.sync`: `[32, 10]` words (4 of a, 2 of b, 4 of c) to `[32, 4]` f32.
    pub fn salient_probe_product(
        input: *const u32,
        output: *mut f32,
        dtype: c_int,
        stream: *mut c_void,
    ) -> c_int;
    /// `cp.async`: 128 vectors of 16 bytes, reversed by halves, the last 8 read as zeros.
    pub fn salient_probe_copies(
        input: *const c_void,
        output: *mut c_void,
        stream: *mut c_void,
    ) -> c_int;
    /// Clusters: `[8, 4]` words.
    pub fn salient_probe_cluster(output: *mut u32, stream: *mut c_void) -> c_int;
    /// Every f16 and bf16 as f32, `[2, 65536]`.
    pub fn salient_probe_conversions(output: *mut f32, stream: *mut c_void) -> c_int;
    /// Reverses 128 words, wrong in one of the ways of `probes/faults.cu`.
    pub fn salient_probe_reverse(
        input: *const u32,
        output: *mut u32,
        wrong: c_int,
        stream: *mut c_void,
    ) -> c_int;
}
