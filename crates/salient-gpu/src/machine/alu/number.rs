//! Floating point numbers: NaNs, subnormals, narrower formats, and roundings that are not to the
//! nearest.

use super::lanes::Lane;

/// Roundings: to nearest even, towards zero, down, up.
pub(super) const RN: u8 = 0;
pub(super) const RZ: u8 = 1;
pub(super) const RM: u8 = 2;
pub(super) const RP: u8 = 3;

/// A NaN becomes the one that single-precision instructions return.
#[inline(always)]
pub(super) fn canonical(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { 0x7fff_ffff } else { bits })
}

/// The same of double precision. The manual leaves open which NaN it is.
#[inline(always)]
pub(super) fn canonical64(x: f64) -> f64 {
    let bits = x.to_bits();
    let nan = bits & (u64::MAX >> 1) > 0x7ff0_0000_0000_0000;
    f64::from_bits(if nan { 0xfff8_0000_0000_0000 } else { bits })
}

/// `.ftz`: a subnormal number becomes a zero of its sign.
#[inline(always)]
pub(super) fn flush(x: f32) -> f32 {
    let bits = x.to_bits();
    f32::from_bits(if bits & 0x7f80_0000 == 0 { bits & 0x8000_0000 } else { bits })
}

#[inline(always)]
pub(super) fn flush_if<const FLUSH: bool>(x: f32) -> f32 {
    if FLUSH { flush(x) } else { x }
}

/// `.sat`: into 0 to 1, NaN to 0.
#[inline(always)]
pub(super) fn saturate(x: f32) -> f32 {
    let x = if x > 0.0 { x } else { 0.0 };
    if x < 1.0 { x } else { 1.0 }
}

/// To f32, by any of the roundings.
#[inline(always)]
pub(super) fn narrow<const R: u8>(x: f64) -> f32 {
    let near = x as f32;
    let (back, bits) = (f64::from(near), near.to_bits());
    let negative = bits >> 31;
    // By one, if the nearest lies on the wrong side. A sign stays what it is: what is next below -0
    // has the next larger bits.
    f32::from_bits(match R {
        RN => bits,
        RZ => bits - u32::from(back.abs() > x.abs()),
        RM => bits.wrapping_add(u32::from(back > x) * (2 * negative).wrapping_sub(1)),
        _ => bits.wrapping_sub(u32::from(back < x) * (2 * negative).wrapping_sub(1)),
    })
}

/// To f32, to the number with an odd last bit if it is not exact: what is rounded again afterwards,
/// to two bits less at least, is as if it had been rounded once (Boldo and Melquiond, 2008).
#[inline(always)]
pub(super) fn narrow_to_odd(x: f64) -> f32 {
    let near = x as f32;
    let (back, bits) = (f64::from(near).abs(), near.to_bits());
    let even = !bits & 1;
    let (more, less) = (u32::from(back < x.abs()), u32::from(back > x.abs()));
    f32::from_bits(bits.wrapping_add(even & more).wrapping_sub(even & less))
}

/// What was rounded to nearest and is off by what has the sign of `rest`: as if rounded to odd.
#[inline(always)]
pub(super) fn odd(near: f64, rest: f64) -> f64 {
    let bits = near.to_bits();
    let negative = near < 0.0;
    let (more, less) = if negative { (rest < 0.0, rest > 0.0) } else { (rest > 0.0, rest < 0.0) };
    let even = !bits & 1;
    f64::from_bits(bits.wrapping_add(even & u64::from(more)).wrapping_sub(even & u64::from(less)))
}

/// A sum rounded to odd. No operand may be so large that the sum overflows.
#[inline(always)]
pub(super) fn add_to_odd(a: f64, b: f64) -> f64 {
    let sum = a + b;
    let of_b = sum - a;
    odd(sum, (a - (sum - of_b)) + (b - of_b))
}

/// `a * b + c` rounded once: the product of two f32 is exact in f64.
#[inline(always)]
pub(super) fn fma32<const R: u8>(a: f32, b: f32, c: f32) -> f32 {
    if R == RN { a.mul_add(b, c) } else { sum32::<R>(f64::from(a) * f64::from(b), f64::from(c)) }
}

#[inline(always)]
pub(super) fn add32<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN { a + b } else { sum32::<R>(f64::from(a), f64::from(b)) }
}

#[inline(always)]
pub(super) fn mul32<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN { a * b } else { narrow::<R>(f64::from(a) * f64::from(b)) }
}

#[inline(always)]
pub(super) fn div32<const R: u8>(a: f32, b: f32) -> f32 {
    if R == RN {
        return a / b;
    }
    let (a, b) = (f64::from(a), f64::from(b));
    let quotient = a / b;
    let rest = (-quotient).mul_add(b, a);
    narrow::<R>(odd(quotient, if b < 0.0 { -rest } else { rest }))
}

#[inline(always)]
pub(super) fn sqrt32<const R: u8>(a: f32) -> f32 {
    if R == RN {
        return a.sqrt();
    }
    let a = f64::from(a);
    let root = a.sqrt();
    narrow::<R>(odd(root, (-root).mul_add(root, a)))
}

#[inline(always)]
fn sum32<const R: u8>(a: f64, b: f64) -> f32 {
    let sum = add_to_odd(a, b);
    // Rounding down, a sum that is exactly zero is -0, unless both are +0.
    let below = R == RM && sum == 0.0 && (a.is_sign_negative() || b.is_sign_negative());
    narrow::<R>(if below { -0.0 } else { sum })
}

/// The smaller of two, the other one of a NaN. -0 is less than +0.
#[inline(always)]
pub(super) fn min32(a: f32, b: f32) -> f32 {
    let both = f32::from_bits(a.to_bits() | b.to_bits());
    let less = if a < b { a } else { b };
    let least = if a == b { both } else { less };
    canonical(if b.is_nan() { a } else { least })
}

#[inline(always)]
pub(super) fn max32(a: f32, b: f32) -> f32 {
    let both = f32::from_bits(a.to_bits() & b.to_bits());
    let more = if a > b { a } else { b };
    let most = if a == b { both } else { more };
    canonical(if b.is_nan() { a } else { most })
}

#[inline(always)]
pub(super) fn min64(a: f64, b: f64) -> f64 {
    let both = f64::from_bits(a.to_bits() | b.to_bits());
    let less = if a < b { a } else { b };
    let least = if a == b { both } else { less };
    canonical64(if b.is_nan() { a } else { least })
}

#[inline(always)]
pub(super) fn max64(a: f64, b: f64) -> f64 {
    let both = f64::from_bits(a.to_bits() & b.to_bits());
    let more = if a > b { a } else { b };
    let most = if a == b { both } else { more };
    canonical64(if b.is_nan() { a } else { most })
}

/// Where a NaN is asked for if there is one among the operands.
#[inline(always)]
pub(super) fn nan_if(nan: bool, x: f32) -> f32 {
    f32::from_bits(if nan { 0x7fff_ffff } else { x.to_bits() })
}

/// An IEEE half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct F16(pub(super) u16);

/// The upper half of a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BF16(pub(super) u16);

/// A format of 16 bits.
pub(super) trait Half: Lane<Raw = u32> {
    const NAN: u16;
    /// The bits of the exponent.
    const EXPONENT: u16;

    fn bits(self) -> u16;
    fn from_bits(bits: u16) -> Self;
    /// The same number.
    fn wide(self) -> f32;
    /// The nearest, or as another rounding has it.
    fn of_f32<const R: u8>(x: f32) -> Self;
    fn mul(a: Self, b: Self) -> Self;
    /// `a * b + c`, rounded once.
    fn fma(a: Self, b: Self, c: Self) -> Self;

    /// The sum that f32 rounds has more than twice as many bits as are wanted, so rounding it again
    /// is as if it had been rounded once (Figueroa, 1995); sums of subnormal numbers are exact.
    #[inline(always)]
    fn add(a: Self, b: Self) -> Self {
        Self::of_f32::<RN>(a.wide() + b.wide())
    }

    #[inline(always)]
    fn of_f64<const R: u8>(x: f64) -> Self {
        Self::of_f32::<R>(narrow_to_odd(x))
    }

    #[inline(always)]
    fn flushed(self) -> Self {
        let bits = self.bits();
        Self::from_bits(if bits & Self::EXPONENT == 0 { bits & 0x8000 } else { bits })
    }

    #[inline(always)]
    fn is_nan(self) -> bool {
        self.bits() & 0x7fff > Self::EXPONENT
    }
}

macro_rules! half_lane {
    ($($type:ident)*) => {$(
        impl Lane for $type {
            type Raw = u32;

            #[inline(always)]
            fn of(raw: u32) -> Self {
                Self(raw as u16)
            }

            #[inline(always)]
            fn raw(self) -> u32 {
                u32::from(self.0)
            }
        }
    )*};
}

half_lane! { F16 BF16 }

impl Half for F16 {
    const NAN: u16 = 0x7fff;
    const EXPONENT: u16 = 0x7c00;

    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        let magnitude = u32::from(self.0 & 0x7fff);
        let bits = match magnitude >> 10 {
            // As integers: hosts are slow with subnormal numbers.
            0 => (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits(),
            31 => magnitude << 13 | 0x7f80_0000,
            _ => (magnitude << 13) + (112 << 23),
        };
        canonical(f32::from_bits(bits | u32::from(self.0 & 0x8000) << 16))
    }

    #[inline(always)]
    fn of_f32<const R: u8>(x: f32) -> Self {
        let bits = x.to_bits();
        let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
        let value = f32::from_bits(magnitude);
        let rounded = if R == RN {
            // Added to a half, a subnormal number leaves its bits at the bottom, rounded.
            let subnormal = (value + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
            let half = 0xfff + (magnitude >> 13 & 1);
            let normal = magnitude.wrapping_sub(112 << 23).wrapping_add(half) >> 13;
            let finite = if magnitude < 0x3880_0000 { subnormal } else { normal };
            if magnitude < 0x4780_0000 { finite } else { 0x7c00 }
        } else {
            let (scaled, whole) = (value * 16_777_216.0, 8_388_608.0f32);
            let near = scaled + whole;
            let subnormal = near
                .to_bits()
                .wrapping_sub(whole.to_bits())
                .wrapping_sub(u32::from(near - whole > scaled));
            let normal = magnitude.wrapping_sub(112 << 23) >> 13;
            let finite = if magnitude < 0x3880_0000 { subnormal } else { normal.min(0x7bff) };
            let down = if magnitude < 0x7f80_0000 { finite } else { 0x7c00 };
            let away = R == RP && sign == 0 || R == RM && sign != 0;
            down + u32::from(away && Self(down as u16).wide() < value)
        };
        let nan = magnitude > 0x7f80_0000;
        Self(if nan { Self::NAN } else { (rounded | sign) as u16 })
    }

    /// The product is exact in f32.
    #[inline(always)]
    fn mul(a: Self, b: Self) -> Self {
        Self::of_f32::<RN>(a.wide() * b.wide())
    }

    /// The product is exact in f32, and the sum is rounded to odd there.
    #[inline(always)]
    fn fma(a: Self, b: Self, c: Self) -> Self {
        let (product, c) = (a.wide() * b.wide(), c.wide());
        let sum = product + c;
        let of_c = sum - product;
        let rest = (product - (sum - of_c)) + (c - of_c);
        let negative = sum < 0.0;
        let more = if negative { rest < 0.0 } else { rest > 0.0 };
        let less = if negative { rest > 0.0 } else { rest < 0.0 };
        let bits = sum.to_bits();
        let even = !bits & 1;
        let odd = bits.wrapping_add(even & u32::from(more)).wrapping_sub(even & u32::from(less));
        Self::of_f32::<RN>(f32::from_bits(odd))
    }
}

impl Half for BF16 {
    const NAN: u16 = 0x7fff;
    const EXPONENT: u16 = 0x7f80;

    #[inline(always)]
    fn bits(self) -> u16 {
        self.0
    }

    #[inline(always)]
    fn from_bits(bits: u16) -> Self {
        Self(bits)
    }

    #[inline(always)]
    fn wide(self) -> f32 {
        canonical(f32::from_bits(u32::from(self.0) << 16))
    }

    #[inline(always)]
    fn of_f32<const R: u8>(x: f32) -> Self {
        let bits = x.to_bits();
        let magnitude = bits & 0x7fff_ffff;
        let rounded = match R {
            RN => magnitude + 0x7fff + (magnitude >> 16 & 1),
            RZ => magnitude,
            RM => magnitude + (bits >> 31) * 0xffff,
            _ => magnitude + (bits >> 31 ^ 1) * 0xffff,
        };
        let nan = magnitude > 0x7f80_0000;
        Self(if nan { Self::NAN } else { (rounded >> 16 | bits >> 16 & 0x8000) as u16 })
    }

    /// The product is exact in f64.
    #[inline(always)]
    fn mul(a: Self, b: Self) -> Self {
        Self::of_f64::<RN>(f64::from(a.wide()) * f64::from(b.wide()))
    }

    #[inline(always)]
    fn fma(a: Self, b: Self, c: Self) -> Self {
        let product = f64::from(a.wide()) * f64::from(b.wide());
        Self::of_f64::<RN>(add_to_odd(product, f64::from(c.wide())))
    }
}
