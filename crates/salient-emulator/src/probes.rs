//! Launchers of the small kernels in `probes/`, for tests of the emulator itself.

use std::ffi::{c_int, c_void};

use salient_oracle::probes::Probe;

/// What launches a [`Probe`]: its input, its output, a stream.
pub type Launcher = unsafe extern "C" fn(*const u32, *mut u32, *mut c_void) -> c_int;

/// The launcher of a probe on an emulated device.
pub fn launcher(probe: Probe) -> Launcher {
    match probe {
        Probe::Warp => salient_probe_warp,
        Probe::Matrices => salient_probe_matrices,
        Probe::MatricesTransposed => salient_probe_matrices_transposed,
        Probe::MatrixMoved => salient_probe_matrix_moved,
        Probe::Truncations => salient_probe_truncations,
        Probe::Packs => salient_probe_packs,
        Probe::Widenings => salient_probe_widenings,
        Probe::ProductF16 => salient_probe_product_f16,
        Probe::ProductBf16 => salient_probe_product_bf16,
        Probe::Copies => salient_probe_copies,
        Probe::Cluster => salient_probe_cluster,
        Probe::Conversions => salient_probe_conversions,
        Probe::NamedBarriers => salient_probe_named_barriers,
        Probe::TensorCopies => salient_probe_tensor_copies,
        Probe::Pipeline => salient_probe_pipeline,
        Probe::Multiplies => salient_probe_multiplies,
    }
}

unsafe extern "C" {
    fn salient_probe_warp(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_matrices(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_matrices_transposed(
        input: *const u32,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_probe_matrix_moved(
        input: *const u32,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_probe_truncations(input: *const u32, output: *mut u32, stream: *mut c_void)
    -> c_int;
    fn salient_probe_widenings(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_packs(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_product_f16(input: *const u32, output: *mut u32, stream: *mut c_void)
    -> c_int;
    fn salient_probe_product_bf16(
        input: *const u32,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_probe_copies(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_cluster(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_conversions(input: *const u32, output: *mut u32, stream: *mut c_void)
    -> c_int;
    fn salient_probe_named_barriers(
        input: *const u32,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_probe_tensor_copies(
        input: *const u32,
        output: *mut u32,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_probe_pipeline(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    fn salient_probe_multiplies(input: *const u32, output: *mut u32, stream: *mut c_void) -> c_int;
    /// A tile of 64 x 64 f16 times its transpose, wrong in one of the ways of
    /// `probes/hopper_faults.cu`.
    pub fn salient_probe_square(
        input: *const u32,
        output: *mut u32,
        wrong: c_int,
        stream: *mut c_void,
    ) -> c_int;
    /// Reverses 128 words, wrong in one of the ways of `probes/faults.cu`.
    pub fn salient_probe_reverse(
        input: *const u32,
        output: *mut u32,
        wrong: c_int,
        stream: *mut c_void,
    ) -> c_int;
}
