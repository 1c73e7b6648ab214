//! Tensors as views, and slices as tensors.

use std::ops::Range;

use candle_core::cuda_backend::{CudaDType, CudaStorageSlice};
use candle_core::{
    CudaDevice, CudaStorage, DType, DeviceLocation, Layout as TensorLayout, Shape, Storage,
    StorageRef, Tensor, WithDType,
};
use salient::cuda::cudarc::driver::{CudaSlice, CudaStream, CudaView};
use salient::cuda::{ContextId, bytes};
use salient::{Error as SalientError, Layout};

use crate::error::{Error, Result};

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

    /// The elements from the first to the last of a tensor `[tokens, heads, dim]`, and how they lie.
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

pub(super) fn check_type(what: &'static str, expected: DType, actual: DType) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::TensorType { what, expected, actual }) }
}

fn check_count(shape: &Shape, actual: usize) -> Result<()> {
    match shape.elem_count() {
        expected if expected == actual => Ok(()),
        expected => {
            let what = "elements of a tensor";
            Err(SalientError::LengthMismatch { what, expected, actual }.into())
        }
    }
}

fn packed_range(what: &'static str, layout: &TensorLayout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => Err(misfit(what, "elements one after the other", layout)),
    }
}

fn head_range(what: &'static str, layout: &TensorLayout) -> Result<(Range<usize>, Layout)> {
    let misfit = |expected| misfit(what, expected, layout);
    let (&[tokens, heads, dim], &[token_stride, head_stride, stride]) =
        (layout.dims(), layout.stride())
    else {
        return Err(misfit("[tokens, heads, channels]"));
    };
    // A dimension of one element has any stride.
    if stride != 1 && dim > 1 {
        return Err(misfit("channels one after the other"));
    }
    let heads = Layout { heads, dim, token_stride, head_stride };
    let len = heads.required_len(tokens).ok_or(SalientError::Overflow { what })?;
    let start = layout.start_offset();
    Ok((start..start + len, heads))
}

fn misfit(what: &'static str, expected: &'static str, layout: &TensorLayout) -> Error {
    let (shape, strides) = (layout.dims().to_vec(), layout.stride().to_vec());
    Error::TensorLayout { what, expected, shape, strides }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn layout(tensor: &Tensor) -> TensorLayout {
        tensor.layout().clone()
    }

    #[test]
    fn packed_tensors_are_found_where_they_are() {
        let x = Tensor::zeros((6, 4), DType::F32, &Device::Cpu).unwrap();
        assert_eq!(packed_range("x", &layout(&x)).unwrap(), 0..24);
        assert_eq!(packed_range("x", &layout(&x.narrow(0, 2, 3).unwrap())).unwrap(), 8..20);
        assert_eq!(packed_range("x", &layout(&x.narrow(0, 2, 0).unwrap())).unwrap(), 8..8);
        for gapped in [x.narrow(1, 0, 3).unwrap(), x.t().unwrap()] {
            let says = packed_range("x", &layout(&gapped)).unwrap_err().to_string();
            let shape = format!("x has shape {:?} and strides", gapped.dims());
            assert!(says.starts_with(&shape) && says.contains("one after the other"), "{says}");
        }
    }

    #[test]
    fn heads_are_found_with_their_strides() {
        // Keys between queries and values: 5 tokens of 4 + 2 + 2 heads of 3 channels.
        let fused = Tensor::zeros((5, 8, 3), DType::F32, &Device::Cpu).unwrap();
        let keys = fused.narrow(1, 4, 2).unwrap();
        let (range, heads) = head_range("k", &layout(&keys)).unwrap();
        assert_eq!(range, 12..12 + 4 * 24 + 2 * 3);
        assert_eq!(heads, Layout { heads: 2, dim: 3, token_stride: 24, head_stride: 3 });
        // Head by head, as caches have them.
        let (range, heads) = head_range("k", &layout(&keys.transpose(0, 1).unwrap())).unwrap();
        assert_eq!((range.start, heads.heads, heads.head_stride), (12, 5, 24));
        let (range, _) = head_range("k", &layout(&keys.narrow(0, 0, 0).unwrap())).unwrap();
        assert!(range.is_empty());
        for bad in [fused.narrow(2, 0, 1).unwrap().squeeze(2).unwrap(), fused.t().unwrap()] {
            assert!(head_range("k", &layout(&bad)).is_err());
        }
    }

    #[test]
    fn tensors_elsewhere_or_of_another_type_are_refused_and_both_are_named() {
        let host = Tensor::zeros((6, 4), DType::F32, &Device::Cpu).unwrap();
        let says = TensorView::packed("x", &host).unwrap_err().to_string();
        assert!(says.contains("Cpu") && says.contains("Cuda"), "{says}");
        assert!(check_type("x", DType::F32, DType::F32).is_ok());
        let says = check_type("x", DType::BF16, DType::F32).unwrap_err().to_string();
        assert!(says.contains("BF16") && says.contains("F32"), "{says}");
        assert!(check_count(&(2, 3).into(), 6).is_ok());
        let says = check_count(&(2, 3).into(), 7).unwrap_err().to_string();
        assert!(says.contains('6') && says.contains('7'), "{says}");
    }
}
