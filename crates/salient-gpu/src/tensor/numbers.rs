//! The number formats of matrix operands.

/// The type of the elements of a matrix operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// An f32 whose low 13 bits do not count.
    Tf32,
    /// 8-bit float with 4 exponent bits, without infinities.
    E4m3,
    /// 8-bit float with 5 exponent bits.
    E5m2,
    /// Signed byte.
    S8,
    /// Unsigned byte.
    U8,
    /// IEEE double precision.
    F64,
}

impl Element {
    /// The size of an element in registers and in memory.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 1,
            Self::F16 | Self::Bf16 => 2,
            Self::Tf32 => 4,
            Self::F64 => 8,
        }
    }

    /// Whether the elements are integers.
    #[must_use]
    pub const fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }

    /// Whether the elements are 8-bit floats.
    #[must_use]
    pub const fn is_float8(self) -> bool {
        matches!(self, Self::E4m3 | Self::E5m2)
    }

    /// The exponent of the smallest normal number, which subnormal numbers have too.
    const fn lowest_exponent(self) -> i32 {
        match self {
            Self::E4m3 => -6,
            Self::F16 | Self::E5m2 => -14,
            Self::Bf16 | Self::Tf32 | Self::F64 => -126,
            Self::S8 | Self::U8 => 0,
        }
    }
}

/// The exponent that zeros have here: so low that their products never set the largest exponent.
pub(crate) const ZERO_EXPONENT: i32 = -1000;

/// Turns raw elements (each in the low bits of a word) into f32, which holds all of them exactly,
/// and their exponents as the hardware sees them: the exponent field, subnormals as the smallest
/// normal. Says whether all are finite. `as_f16` says that 8-bit floats have been converted to f16,
/// so that subnormals have another exponent.
///
/// Doubles have no place here. The loops have no branches, so they become vector code.
#[inline(always)]
pub(crate) fn decode(
    element: Element,
    as_f16: bool,
    raw: &[u32],
    values: &mut [f32],
    exponents: &mut [i32],
) -> bool {
    match element {
        Element::F16 => each(raw, values, |x| small_float(x, 5, 10, 0x7c00)),
        Element::Bf16 => each(raw, values, |x| f32::from_bits(x << 16)),
        Element::Tf32 => each(raw, values, |x| f32::from_bits(x & 0xffff_e000)),
        Element::E4m3 => each(raw, values, |x| small_float(x, 4, 3, 0x7f)),
        Element::E5m2 => each(raw, values, |x| small_float(x, 5, 2, 0x7c)),
        Element::S8 => each(raw, values, |x| f32::from(x as u8 as i8)),
        Element::U8 => each(raw, values, |x| f32::from(x as u8)),
        Element::F64 => unreachable!("doubles are not decoded to f32"),
    }
    if element.is_integer() {
        return true;
    }
    let lowest = if as_f16 { Element::F16 } else { element }.lowest_exponent();
    let mut largest = 0;
    for (value, exponent) in values.iter().zip(exponents) {
        let field = value.to_bits() << 1 >> 24;
        let e = (field as i32 - 127).max(lowest);
        *exponent = if *value == 0.0 { ZERO_EXPONENT } else { e };
        largest = largest.max(field);
    }
    largest < 255
}

#[inline(always)]
fn each(raw: &[u32], values: &mut [f32], convert: impl Fn(u32) -> f32) {
    for (value, &x) in values.iter_mut().zip(raw) {
        *value = convert(x);
    }
}

/// A float of `exponent + mantissa + 1` bits as f32. Magnitudes from `special` on are not finite:
/// the exponent becomes all ones and the mantissa stays, but for e4m3, whose one special is NaN.
#[inline(always)]
fn small_float(x: u32, exponent: u32, mantissa: u32, special: u32) -> f32 {
    let width = exponent + mantissa;
    let magnitude = x & ((1 << width) - 1);
    let bits = magnitude << (23 - mantissa);
    // 2^(127 - bias): corrects the bias, and makes subnormals right as well.
    let scale = f32::from_bits((127 + 127 - ((1 << (exponent - 1)) - 1)) << 23);
    let finite = (f32::from_bits(bits) * scale).to_bits();
    let value = if magnitude >= special { bits | 0x7f80_0000 } else { finite };
    f32::from_bits(value | (x >> width & 1) << 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(element: Element, x: u32) -> (f32, i32, bool) {
        let (mut value, mut exponent) = ([0.0], [0]);
        let finite = decode(element, false, &[x], &mut value, &mut exponent);
        (value[0], exponent[0], finite)
    }

    #[test]
    fn half_precision_agrees_with_the_half_crate() {
        for x in 0..=u16::MAX {
            let (value, _, finite) = decoded(Element::F16, x.into());
            let expected = half::f16::from_bits(x).to_f32();
            assert!(value == expected || value.is_nan() && expected.is_nan(), "{x:#x}");
            assert_eq!(finite, expected.is_finite(), "{x:#x}");
            let (value, _, finite) = decoded(Element::Bf16, x.into());
            let expected = half::bf16::from_bits(x).to_f32();
            assert!(value == expected || value.is_nan() && expected.is_nan(), "{x:#x}");
            assert_eq!(finite, expected.is_finite(), "{x:#x}");
        }
    }

    #[test]
    fn bytes_are_their_definition() {
        for x in 0..=255u32 {
            let sign = if x < 128 { 1.0 } else { -1.0 };
            let float = |bias: i32, mantissa: i32| {
                let field = (x as i32 & 127) >> mantissa;
                let fraction = (x & ((1 << mantissa) - 1)) as f32 / (1 << mantissa) as f32;
                let (lead, e) = if field == 0 { (0.0, 1) } else { (1.0, field) };
                sign * (lead + fraction) * 2f32.powi(e - bias)
            };
            let (e4m3, _, finite) = decoded(Element::E4m3, x);
            assert_eq!(finite, x & 127 != 127);
            assert!(if finite { e4m3 == float(7, 3) } else { e4m3.is_nan() }, "{x:#x}");
            let (e5m2, _, finite) = decoded(Element::E5m2, x);
            assert_eq!(finite, x & 127 < 0x7c);
            match x & 127 {
                0x7c => assert_eq!(e5m2, sign * f32::INFINITY),
                0x7d.. => assert!(e5m2.is_nan()),
                _ => assert_eq!(e5m2, float(15, 2), "{x:#x}"),
            }
            assert_eq!(decoded(Element::U8, x).0, x as f32);
            let signed = if x < 128 { x as f32 } else { x as f32 - 256.0 };
            assert_eq!(decoded(Element::S8, x).0, signed);
        }
    }

    #[test]
    fn exponents_are_the_fields() {
        assert_eq!(decoded(Element::F16, 0x3c00).1, 0);
        assert_eq!(decoded(Element::F16, 0x0001).1, -14);
        assert_eq!(decoded(Element::F16, 0x8000).1, ZERO_EXPONENT);
        assert_eq!(decoded(Element::Bf16, 0x0001).1, -126);
        assert_eq!(decoded(Element::E4m3, 0x01).1, -6);
        assert_eq!(decoded(Element::E5m2, 0x7b).1, 15);
        assert_eq!(decoded(Element::Tf32, 0x4000_1fff), (2.0, 1, true));
    }
}
