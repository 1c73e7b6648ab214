//! Addresses of views, and the launch itself.

use std::ffi::c_int;
use std::fmt;
use std::sync::Arc;

use bytemuck::Pod;
use cudarc::driver::{
    CudaContext, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice,
    SyncOnDrop,
};

use crate::dtype::DType;
use crate::error::{Error, LaunchError, Result};
use crate::kernels::{Buffer, raw};

/// A CUDA context, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContextId {
    /// The device's number.
    pub device: usize,
    /// The handle of the context.
    pub handle: usize,
}

impl fmt::Display for ContextId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "context {:#x} of device {}", self.handle, self.device)
    }
}

impl From<&CudaContext> for ContextId {
    fn from(context: &CudaContext) -> Self {
        Self { device: context.ordinal(), handle: context.cu_ctx().addr() }
    }
}

/// The elements of a view as bytes.
pub fn bytes<'a, T: Pod>(view: &CudaView<'a, T>) -> CudaView<'a, u8> {
    // SAFETY: elements of a Pod type have no padding, and every byte is a u8.
    let bytes = unsafe { view.transmute(view.num_bytes()) };
    bytes.expect("a view is as long as itself")
}

/// The elements of a mutable view as bytes.
pub fn bytes_mut<'a, T: Pod>(view: &'a mut CudaViewMut<'_, T>) -> CudaViewMut<'a, u8> {
    // SAFETY: elements of a Pod type have no padding, every byte is a u8, and any bytes are
    // elements.
    let bytes = unsafe { view.transmute_mut(view.num_bytes()) };
    bytes.expect("a view is as long as itself")
}

/// Lengths and places held as u32, as kernels take them: what is beyond `i32::MAX` is negative
/// there, and a fault.
pub fn signed<'a>(view: &CudaView<'a, u32>) -> CudaView<'a, i32> {
    // SAFETY: every u32 is an i32 of the same size and alignment.
    let signed = unsafe { view.transmute(view.len()) };
    signed.expect("a view is as long as itself")
}

/// The buffers of one launch, at most `N`. Keeps what tells the streams that they are in use until
/// the launch is enqueued.
pub(super) struct Operands<'a, const N: usize> {
    stream: &'a Arc<CudaStream>,
    guards: [Option<SyncOnDrop<'a>>; N],
    count: usize,
}

impl<'a, const N: usize> Operands<'a, N> {
    /// Binds the stream's context to the thread: neither views nor the CUDA runtime, which
    /// launches, do.
    pub(super) fn new(stream: &'a Arc<CudaStream>) -> Result<Self> {
        stream.context().bind_to_thread()?;
        Ok(Self { stream, guards: [const { None }; N], count: 0 })
    }

    pub(super) fn read<T>(
        &mut self,
        what: &'static str,
        view: &'a CudaView<'_, T>,
    ) -> Result<Buffer> {
        self.check_context(what, view.stream())?;
        let (address, guard) = view.device_ptr(self.stream);
        self.keep(guard);
        Ok(Buffer::new(address as usize, view.len()))
    }

    pub(super) fn read_optional<T>(
        &mut self,
        what: &'static str,
        view: Option<&'a CudaView<'_, T>>,
    ) -> Result<Option<Buffer>> {
        view.map(|view| self.read(what, view)).transpose()
    }

    pub(super) fn write<T>(
        &mut self,
        what: &'static str,
        view: &'a mut CudaViewMut<'_, T>,
    ) -> Result<Buffer> {
        self.check_context(what, view.stream())?;
        let len = view.len();
        let (address, guard) = view.device_ptr_mut(self.stream);
        self.keep(guard);
        Ok(Buffer::new(address as usize, len))
    }

    pub(super) fn write_optional<T>(
        &mut self,
        what: &'static str,
        view: Option<&'a mut CudaViewMut<'_, T>>,
    ) -> Result<Option<Buffer>> {
        view.map(|view| self.write(what, view)).transpose()
    }

    /// Enqueues the launch; then the buffers count as used.
    ///
    /// # Safety
    /// Every address in `params` is null or that of an operand, or of memory that an operand points
    /// to and that lives as long and is borrowed as an operand is. `params` was checked against the
    /// operands' lengths, so that the launcher's kernels stay inside them.
    pub(super) unsafe fn launch<P>(
        self,
        kernel: &'static str,
        launcher: unsafe extern "C" fn(*const P, raw::SalientStream) -> c_int,
        params: &P,
    ) -> Result<()> {
        // A wait that failed while addresses were taken is only on record.
        self.stream.context().check_err()?;
        // SAFETY: the launcher reads `params` before it returns, and the stream is alive; the rest
        // the caller promised.
        let code = unsafe { launcher(params, self.stream.cu_stream().cast()) };
        LaunchError::check(kernel, code)
    }

    fn check_context(&self, what: &'static str, of: &CudaStream) -> Result<()> {
        check_context(what, self.stream, of)
    }

    fn keep(&mut self, guard: SyncOnDrop<'a>) {
        self.guards[self.count] = Some(guard);
        self.count += 1;
    }
}

/// Checks that a buffer has the element type of the plan.
pub(super) fn check_dtype(what: &'static str, expected: DType, actual: DType) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::DTypeMismatch { what, expected, actual }) }
}

/// Checks that a buffer allocated on one stream can be used on another.
pub(super) fn check_context(
    what: &'static str,
    stream: &CudaStream,
    of: &CudaStream,
) -> Result<()> {
    same_context(what, (&**stream.context()).into(), (&**of.context()).into())
}

fn same_context(what: &'static str, expected: ContextId, actual: ContextId) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::OtherContext { what, expected, actual }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_another_context_are_refused_and_both_are_named() {
        let context = |device, handle| ContextId { device, handle };
        assert_eq!(same_context("kept", context(0, 0x10), context(0, 0x10)), Ok(()));
        for (device, handle) in [(0, 0x20), (1, 0x10)] {
            let error = same_context("kept", context(0, 0x10), context(device, handle));
            let says = error.unwrap_err().to_string();
            for part in ["kept", "context 0x10 of device 0", &context(device, handle).to_string()] {
                assert!(says.contains(part), "{says}");
            }
        }
    }
}
