//! Arrays on a device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DeviceRepr, ValidAsZeroBits};

use crate::error::Result;
use crate::layout::Layout;

/// An array on a device, of any length: drivers do not allocate nothing, which is what an empty
/// [`CudaSlice`] would be.
#[derive(Debug)]
pub struct Array<T> {
    slice: CudaSlice<T>,
    len: usize,
}

impl<T: DeviceRepr> Array<T> {
    /// A copy of the host's data, in the stream's order.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn upload(stream: &Arc<CudaStream>, data: &[T]) -> Result<Self> {
        // SAFETY: all of it is written below, and no view reaches further.
        let mut array = unsafe { Self::uninit(stream, data.len()) }?;
        if !data.is_empty() {
            stream.memcpy_htod(data, &mut array.view_mut())?;
        }
        Ok(array)
    }

    /// Zeros.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn zeros(stream: &Arc<CudaStream>, len: usize) -> Result<Self>
    where
        T: ValidAsZeroBits,
    {
        Ok(Self { slice: stream.alloc_zeros(len.max(1))?, len })
    }

    /// An array that nobody has written.
    ///
    /// # Safety
    /// It is written before it is read.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub unsafe fn uninit(stream: &Arc<CudaStream>, len: usize) -> Result<Self> {
        // SAFETY: as the caller promised.
        Ok(Self { slice: unsafe { stream.alloc(len.max(1)) }?, len })
    }

    /// The elements, copied to the host once the stream has come so far.
    ///
    /// # Errors
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn to_host(&self, stream: &Arc<CudaStream>) -> Result<Vec<T>>
    where
        T: Clone,
    {
        if self.len == 0 {
            return Ok(Vec::new());
        }
        Ok(stream.clone_dtoh(&self.view())?)
    }
}

impl<T> Array<T> {
    /// The memory, where it is of exactly the array's length: that of an array that is not empty.
    pub fn into_slice(self) -> CudaSlice<T> {
        self.slice
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements.
    pub fn view(&self) -> CudaView<'_, T> {
        self.slice.slice(..self.len)
    }

    /// The elements, to be written.
    pub fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.slice.slice_mut(..self.len)
    }
}

/// A `[token, head, dim]` tensor on a device: what [`View`](crate::View) is in host memory.
#[derive(Debug)]
pub struct TensorView<'a, T> {
    /// The elements, as many as the layout needs or more.
    pub data: CudaView<'a, T>,
    /// How they lie.
    pub layout: Layout,
}

impl<'a, T> TensorView<'a, T> {
    /// A tensor that lies as `layout` says.
    pub fn new(data: CudaView<'a, T>, layout: Layout) -> Self {
        Self { data, layout }
    }

    /// A tensor whose tokens lie one after the other, and in them the heads.
    pub fn token_major(data: CudaView<'a, T>, heads: usize, dim: usize) -> Self {
        Self::new(data, Layout::token_major(heads, dim))
    }
}
