//! What a first launch would do besides launching.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use crate::error::{LaunchError, Result};
use crate::kernels::raw;

/// Has every kernel loaded on a device, and its attributes set: what its first launch would do
/// otherwise. To be called once before launches are captured into a graph, where the driver may
/// refuse it, and by who wants no first launch to be slower than the others.
///
/// ```no_run
/// # fn main() -> salient::Result<()> {
/// let context = salient::cuda::cudarc::driver::CudaContext::new(0)?;
/// salient::cuda::prepare(&context)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn prepare(context: &Arc<CudaContext>) -> Result<()> {
    context.bind_to_thread()?;
    // SAFETY: it takes nothing, and acts on the context that was just bound.
    let code = unsafe { raw::salient_prepare() };
    LaunchError::check("prepare", code)
}
