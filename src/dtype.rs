//! Element types of tensors: storage in f32, f16, bf16 or fp8 (E4M3), arithmetic in f32.
//!
//! [`F8E4M3`] is the 8-bit type of the OCP specification (OFP8): a sign, 4 bits of exponent with
//! bias 7, 3 bits of mantissa, no infinities, NaN where all bits but the sign are ones. What
//! exceeds its largest value, 448, becomes 448, as the saturating conversions of a GPU have it.

pub use float8::F8E4M3;
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
    /// fp8: [`F8E4M3`].
    F8E4M3,
}

impl DType {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::F8E4M3 => 1,
        }
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for float8::F8E4M3 {}
}

/// A type that tensors may be stored in. Sealed: f32, f16, bf16 and [`F8E4M3`].
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialOrd {
    /// Its name.
    const DTYPE: DType;

    /// The value as f32, exact.
    fn to_f32(self) -> f32;

    /// The nearest value of this type, ties to even; of [`F8E4M3`], the largest for what exceeds
    /// it.
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

impl Element for F8E4M3 {
    const DTYPE: DType = DType::F8E4M3;

    fn to_f32(self) -> f32 {
        Self::to_f32(&self)
    }

    fn from_f32(value: f32) -> Self {
        Self::from_f32(value)
    }

    fn widen(src: &[Self], dst: &mut [f32]) {
        assert_eq!(src.len(), dst.len());
        for (x, value) in dst.iter_mut().zip(src) {
            *x = value.to_f32();
        }
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

    /// By the definition of the format.
    fn f8_value(bits: u8) -> f32 {
        let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
        let magnitude = match (exponent, bits & 7) {
            (15, 7) => f32::NAN,
            (0, _) => mantissa / 8.0 * 2f32.powi(-6),
            _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
        };
        if bits < 128 { magnitude } else { -magnitude }
    }

    #[test]
    fn every_f8_value_is_as_defined_and_comes_back() {
        let values: Vec<F8E4M3> = (0..=u8::MAX).map(F8E4M3::from_bits).collect();
        let mut wide = vec![0f32; values.len()];
        F8E4M3::widen(&values, &mut wide);
        for (bits, (&wide, value)) in (0..=u8::MAX).zip(wide.iter().zip(values)) {
            let expected = f8_value(bits);
            for actual in [wide, Element::to_f32(value)] {
                let same = actual.to_bits() == expected.to_bits();
                assert!(same || (actual.is_nan() && expected.is_nan()), "{bits:#x}: {actual}");
            }
            if !expected.is_nan() {
                assert_eq!(<F8E4M3 as Element>::from_f32(expected).to_bits(), bits);
            }
        }
        assert!(<F8E4M3 as Element>::from_f32(f32::NAN).is_nan());
    }

    #[test]
    fn f8_rounds_to_the_nearest_ties_to_even_and_saturates() {
        for bits in 0..0x7e {
            let (low, high) = (f8_value(bits), f8_value(bits + 1));
            let middle = (low + high) / 2.0;
            let even = bits + (bits & 1);
            for (x, expected) in
                [(middle.next_down(), bits), (middle, even), (middle.next_up(), bits + 1)]
            {
                assert_eq!(<F8E4M3 as Element>::from_f32(x).to_bits(), expected, "{x}");
                assert_eq!(<F8E4M3 as Element>::from_f32(-x).to_bits(), expected | 128, "-{x}");
            }
        }
        for x in [448.0, 464.0, 1e9, f32::INFINITY] {
            assert_eq!(<F8E4M3 as Element>::from_f32(x).to_bits(), 0x7e);
            assert_eq!(<F8E4M3 as Element>::from_f32(-x).to_bits(), 0xfe);
        }
    }
}
