//! What the host knows of the kernels: their C ABI, and the checks and sizes that need no device.

/// The C ABI of the kernels, as in `kernels/include/salient.h`. The launchers are there to link with
/// under feature `cuda`, unless `SALIENT_SKIP_KERNELS` left the kernels out of the build.
#[rustfmt::skip]
#[allow(
    missing_docs,
    unsafe_code,
    reason = "made by bindgen: fields that need no comment, and the declarations of the launchers"
)]
pub mod raw;
