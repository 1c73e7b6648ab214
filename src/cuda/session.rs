//! The verbs as one calls them between one's own kernels.

mod attend;
mod compact;
mod score;
mod select;

use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::sys::CUstreamCaptureStatus_enum as CaptureStatus;
use cudarc::driver::{CudaStream, DeviceRepr};

pub use attend::{Attended, CachedKeys, Place};
pub use compact::FreedPages;
pub use score::IndexerTensors;
pub use select::DeviceSelection;

use super::{Array, StatusWord, bytes_mut};
use crate::error::{Error, Result};
use crate::kernels::attend::PrefillVariant;
use crate::kernels::select::Variant;
use crate::status::Status;

/// The verbs on one stream, with what their launches share: a workspace, which grows, and a status
/// word. Outputs are new arrays. Requests are those of the host backend; what they hold is
/// uploaded.
///
/// Nothing waits for the device but [`Session::finish`], which says what the kernels found wrong in
/// data that only they see. For graphs, and for allocators of one's own, there are the functions
/// that this calls: [`super::select::select`], [`super::compact::rows`], [`super::attend::decode`]
/// and the others. They neither allocate nor upload.
///
/// ```no_run
/// use salient::Ragged;
/// use salient::cuda::Session;
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::select::{Budget, Protect, Request};
/// # fn main() -> salient::Result<()> {
/// let mut session = Session::new(&CudaContext::new(0)?.new_stream()?)?;
/// let rows = Ragged::from_lens(&[3, 2])?;
/// let scores = session.upload(&[0.1f32, 0.9, 0.3, 3.0, 1.0])?;
/// let (budget, protect) = (Budget::Ratio(0.5), Protect::default());
/// let request = Request { rows: &rows, heads: 1, budget, protect };
/// let selection = session.select(&scores.view(), &request)?;
/// let hidden = session.upload(&[0i32, 1, 2, 3, 4])?;
/// let kept = session.compact_rows(&selection, &hidden.view(), 1)?;
/// session.finish()?.check()?;
/// assert_eq!(kept.to_host(session.stream())?, [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    stream: Arc<CudaStream>,
    status: StatusWord,
    workspace: Array<u8>,
    select: Variant,
    prefill: PrefillVariant,
}

impl Session {
    /// A session on a stream.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            stream: stream.clone(),
            status: StatusWord::new(stream)?,
            workspace: Array::zeros(stream, 0)?,
            select: Variant::Auto,
            prefill: PrefillVariant::Auto,
        })
    }

    /// The same with given kernels, where they can be: for tests and benchmarks.
    #[must_use]
    pub fn with_variants(self, select: Variant, prefill: PrefillVariant) -> Self {
        Self { select, prefill, ..self }
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// A copy of the host's data on the device.
    ///
    /// # Errors
    /// [`Error::Driver`].
    pub fn upload<T: DeviceRepr>(&self, data: &[T]) -> Result<Array<T>> {
        Array::upload(&self.stream, data)
    }

    /// Makes the workspace at least this large, in bytes, as plans say
    /// ([`SelectPlan::workspace_bytes`](crate::kernels::select::SelectPlan::workspace_bytes) and
    /// others). One that is too small is freed in the stream's order.
    ///
    /// # Errors
    /// [`Error::Unfit`] while the stream is captured, where nothing may be allocated for longer
    /// than the graph runs; [`Error::Driver`].
    pub fn reserve(&mut self, bytes: usize) -> Result<()> {
        if self.workspace.len() >= bytes {
            return Ok(());
        }
        if self.stream.capture_status()? != CaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE {
            return Err(Error::Unfit {
                what: "the workspace",
                expected: "reserved before a capture",
            });
        }
        // SAFETY: what it holds does not matter: a kernel reads what it wrote there.
        self.workspace = unsafe { Array::uninit(&self.stream, bytes) }?;
        Ok(())
    }

    /// Waits for the stream, and gives and forgets what kernels have found wrong since the last
    /// time.
    ///
    /// # Errors
    /// [`Error::Driver`], also for work that failed earlier.
    pub fn finish(&mut self) -> Result<Status> {
        let status = self.status.read(&self.stream)?;
        if status != Status::CLEAR {
            self.status.clear(&self.stream)?;
        }
        Ok(status)
    }

    /// An array that a launch writes whole, whatever the data is.
    fn output<T: DeviceRepr>(&self, len: usize) -> Result<Array<T>> {
        // SAFETY: the launch that it is for writes all of it.
        unsafe { Array::uninit(&self.stream, len) }
    }

    /// An array of which a launch may leave out a part.
    fn cleared<T: Pod + DeviceRepr>(&self, len: usize) -> Result<Array<T>> {
        let mut array = self.output(len)?;
        if len > 0 {
            let mut bytes = array.view_mut();
            self.stream.memset_zeros(&mut bytes_mut(&mut bytes))?;
        }
        Ok(array)
    }

    /// Numbers that kernels take as i32.
    fn upload_counts(&self, what: &'static str, counts: &[usize]) -> Result<Array<i32>> {
        let overflow = |_| Error::Overflow { what };
        let counts: Vec<i32> = counts
            .iter()
            .map(|&count| i32::try_from(count).map_err(overflow))
            .collect::<Result<_>>()?;
        self.upload(&counts)
    }
}
