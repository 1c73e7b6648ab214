//! Tensors as views, and slices as tensors.

use std::ops::Range;

use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{
    CudaDevice, CudaStorage, DType, DeviceLocation, Shape, Storage, StorageRef, Tensor, WithDType,
};
use salient::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView};
use salient::cuda::{ContextId, bytes};
use salient::{Error as SalientError, Layout};

use crate::error::{Error, Result};
use crate::operand::{check_count, check_type, head_range, packed_range};

/// A tensor on a CUDA device, locked for reading: a view of it can be an operand.
///
/// ```no_run
/// use candle_core::{DType, Device, Tensor};
/// use half::bf16;
/// use salient_candle::cuda::TensorView;
/// # fn main() -> Result<(), salient_candle::Error> {
/// let hidden = Tensor::zeros((100, 64), DType::BF16, &Device::new_cuda(0)?)?;
/// let locked = TensorView::packed("hidden states", &hidden)?;
/// let view = locked.elements::<bf16>()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct TensorView<'a> {
    what: &'static str,
    dtype: DType,
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> TensorView<'a> {
    /// All elements of a tensor, which lie one after the other. `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::TensorLayout`] for gaps or another order, [`Error::TensorPlace`] unless it is on a
    /// CUDA device.
    pub fn packed(what: &'static str, tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let range = packed_range(what, layout)?;
        Self::new(what, tensor, storage, range)
    }

    /// The elements from the first to the last of a tensor `[tokens, heads, dim]`, and how they
    /// lie.
    ///
    /// # Errors
    /// [`Error::TensorLayout`] for other dimensions or channels with gaps, [`Error::TensorPlace`]
    /// unless it is on a CUDA device.
    pub fn heads(what: &'static str, tensor: &'a Tensor) -> Result<(Self, Layout)> {
        let (storage, layout) = tensor.storage_and_layout();
        let (range, heads) = head_range(what, layout)?;
        Ok((Self::new(what, tensor, storage, range)?, heads))
    }

    /// The elements.
    ///
    /// # Errors
    /// [`Error::TensorType`] if they are of another type.
    pub fn elements<T: CudaDType + WithDType>(&self) -> Result<CudaView<'_, T>> {
        check_type(self.what, T::DTYPE, self.dtype)?;
        Ok(self.storage().as_cuda_slice::<T>()?.slice(self.range.clone()))
    }

    /// The elements as bytes.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for types narrower than a byte and the like.
    pub fn bytes(&self) -> Result<CudaView<'_, u8>> {
        let range = self.range.clone();
        Ok(match &self.storage().slice {
            CudaStorageSlice::U8(slice) => slice.slice(range),
            CudaStorageSlice::U32(slice) => bytes(&slice.slice(range)),
            CudaStorageSlice::I32(slice) => bytes(&slice.slice(range)),
            CudaStorageSlice::I64(slice) => bytes(&slice.slice(range)),
            CudaStorageSlice::F16(slice) => bytes(&slice.slice(range)),
            CudaStorageSlice::BF16(slice) => bytes(&slice.slice(range)),
            CudaStorageSlice::F32(slice) => bytes(&slice.slice(range)),
            _ => return Err(no_bytes(self.dtype)),
        })
    }

    fn new(
        what: &'static str,
        tensor: &Tensor,
        storage: StorageRef<'a>,
        range: Range<usize>,
    ) -> Result<Self> {
        match &*storage {
            Storage::Cuda(_) => Ok(Self { what, dtype: tensor.dtype(), storage, range }),
            _ => {
                let (expected, actual) =
                    (DeviceLocation::Cuda { gpu_id: 0 }, tensor.device().location());
                Err(Error::TensorPlace { what, expected, actual })
            }
        }
    }

    fn storage(&self) -> &CudaStorage {
        match &*self.storage {
            Storage::Cuda(storage) => storage,
            _ => unreachable!("checked when it was locked"),
        }
    }
}

/// A slice as a tensor of `shape`, which takes it over.
///
/// # Errors
/// [`salient::Error::LengthMismatch`] if the shape has another number of elements,
/// [`salient::Error::OtherContext`] if the slice is of another context than `device`.
pub fn tensor<T: CudaDType>(
    slice: CudaSlice<T>,
    shape: impl Into<Shape>,
    device: &CudaDevice,
) -> Result<Tensor> {
    let shape = shape.into();
    check_count(&shape, slice.len())?;
    let stream = device.cuda_stream();
    let context = |of: &CudaStream| ContextId::from(&**of.context());
    let (expected, actual) = (context(&stream), context(slice.stream()));
    if expected != actual {
        let what = "elements of a tensor";
        return Err(SalientError::OtherContext { what, expected, actual }.into());
    }
    let storage = CudaStorage::wrap_cuda_slice(slice, device.clone());
    Ok(Tensor::from((Storage::Cuda(storage), shape)))
}

pub(super) fn no_bytes(dtype: DType) -> Error {
    Error::Unsupported {
        what: "type of rows to move",
        name: dtype.as_str().into(),
        supported: "u8, u32, i32, i64, f16, bf16, f32",
    }
}
