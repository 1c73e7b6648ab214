//! Element types of tensors: storage in f32, f16 or bf16, arithmetic in f32.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The name of an [`Element`] type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// bfloat16.
    Bf16,
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
}

/// A type that tensors may be stored in. Sealed: f32, f16 and bf16.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialOrd {
    /// Its name.
    const DTYPE: DType;

    /// The value as f32, exact.
    fn to_f32(self) -> f32;

    /// The nearest value of this type, ties to even.
    fn from_f32(value: f32) -> Self;

    /// Converts a slice to f32, exact.
    ///
    /// # Panics
    /// If the lengths differ.
    fn widen(src: &[Self], dst: &mut [f32]);

    /// The slice itself when it already is f32, so that callers can skip [`Element::widen`].
    fn as_f32(src: &[Self]) -> Option<&[f32]> {
        let _ = src;
        None
    }
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;

    fn to_f32(self) -> f32 {
        self
    }

    fn from_f32(value: f32) -> Self {
        value
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        dst.copy_from_slice(src);
    }

    fn as_f32(src: &[Self]) -> Option<&[f32]> {
        Some(src)
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        src.convert_to_f32_slice(dst);
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::Bf16;

    fn to_f32(self) -> f32 {
        self.to_f32()
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        src.convert_to_f32_slice(dst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_value_widens_as_it_converts() {
        let bits: Vec<u16> = (0..=u16::MAX).collect();
        let mut wide = vec![0f32; bits.len()];
        let halves: Vec<f16> = bits.iter().map(|&b| f16::from_bits(b)).collect();
        f16::widen(&halves, &mut wide);
        for (h, w) in halves.iter().zip(&wide) {
            assert!(h.to_f32() == *w || (h.is_nan() && w.is_nan()));
        }
        let brains: Vec<bf16> = bits.iter().map(|&b| bf16::from_bits(b)).collect();
        bf16::widen(&brains, &mut wide);
        for (b, w) in brains.iter().zip(&wide) {
            assert!(b.to_f32() == *w || (b.is_nan() && w.is_nan()));
        }
    }
}
