//! Checks of tensors that become operands of kernels. They need no device, nor feature `cuda` to be
//! tested.

use std::ops::Range;

use candle_core::Layout as TensorLayout;
#[cfg(any(feature = "cuda", test))]
use candle_core::{DType, Shape};
use salient::{Error as SalientError, Layout};

use crate::error::{Error, Result};

/// Checks the type of a tensor's elements.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn check_type(what: &'static str, expected: DType, actual: DType) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::TensorType { what, expected, actual }) }
}

/// Checks that this many elements make up a shape.
#[cfg(any(feature = "cuda", test))]
pub(crate) fn check_count(shape: &Shape, actual: usize) -> Result<()> {
    match shape.elem_count() {
        expected if expected == actual => Ok(()),
        expected => {
            let what = "elements of a tensor";
            Err(SalientError::LengthMismatch { what, expected, actual }.into())
        }
    }
}

/// Where the elements of a tensor lie in its storage, one after the other.
pub(crate) fn packed_range(what: &'static str, layout: &TensorLayout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => Err(misfit(what, "elements one after the other", layout)),
    }
}

/// Where the elements of a tensor `[tokens, heads, dim]` lie in its storage, from the first to the
/// last, and how.
pub(crate) fn head_range(
    what: &'static str,
    layout: &TensorLayout,
) -> Result<(Range<usize>, Layout)> {
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
    use candle_core::{Device, Tensor};

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
    fn another_type_or_count_is_refused_and_both_are_named() {
        assert!(check_type("x", DType::F32, DType::F32).is_ok());
        let says = check_type("x", DType::BF16, DType::F32).unwrap_err().to_string();
        assert!(says.contains("BF16") && says.contains("F32"), "{says}");
        assert!(check_count(&(2, 3).into(), 6).is_ok());
        let says = check_count(&(2, 3).into(), 7).unwrap_err().to_string();
        assert!(says.contains('6') && says.contains('7'), "{says}");
    }
}
