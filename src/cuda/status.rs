//! The status word on the device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaViewMut};

use crate::Status;
use crate::error::Result;

/// A [`Status`] on the device: launches add the faults that they find. One word may serve several
/// launches.
///
/// ```no_run
/// use salient::cuda::StatusWord;
/// use salient::cuda::cudarc::driver::CudaContext;
/// # fn main() -> salient::Result<()> {
/// let stream = CudaContext::new(0)?.default_stream();
/// let mut status = StatusWord::new(&stream)?;
/// // Launches, then one look at all of them:
/// status.read(&stream)?.check()?;
/// status.clear(&stream)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct StatusWord {
    /// Flags and row.
    words: CudaSlice<u32>,
    /// What clears them: a copy on the device can be captured into a graph.
    clear: CudaSlice<u32>,
}

impl StatusWord {
    /// A clear word, allocated on `stream`.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        let clear = Status::CLEAR.words();
        Ok(Self { words: stream.clone_htod(&clear)?, clear: stream.clone_htod(&clear)? })
    }

    /// Forgets all faults, in the stream's order. Does not synchronise, and may be captured.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext),
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn clear(&mut self, stream: &Arc<CudaStream>) -> Result<()> {
        super::operands::check_context("status", stream, self.words.stream())?;
        Ok(stream.memcpy_dtod(&self.clear, &mut self.words)?)
    }

    /// What has been found so far, in the stream's order. Waits for the stream.
    ///
    /// # Errors
    /// [`Error::OtherContext`](crate::Error::OtherContext),
    /// [`Error::Driver`](crate::Error::Driver), also for work that failed earlier.
    pub fn read(&self, stream: &Arc<CudaStream>) -> Result<Status> {
        super::operands::check_context("status", stream, self.words.stream())?;
        let mut words = [0; 2];
        stream.memcpy_dtoh(&self.words, &mut words)?;
        stream.synchronize()?;
        Ok(Status::from_words(words))
    }

    /// The word as an operand.
    pub(super) fn view(&mut self) -> CudaViewMut<'_, u32> {
        self.words.as_view_mut()
    }
}
