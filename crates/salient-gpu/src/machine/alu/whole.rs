//! Conversions to and from integers (PTX ISA: cvt).

use crate::machine::inst::Lanes;

use super::lanes::{Lane, op1};
use super::number::*;

/// An integer.
pub(super) trait Whole: Lane {
    const BITS: u32;
    const MIN: i128;
    const MAX: i128;

    /// By zeros or signs.
    fn extended(self) -> u64;
    fn truncated(bits: u64) -> Self;
    fn value(self) -> i128;
    /// Of a number that has no fraction, clamped; NaN is 0.
    fn of_f64(x: f64) -> Self;
    /// The nearest.
    fn near32(self) -> f32;
    fn near64(self) -> f64;
}

macro_rules! whole {
    ($($type:ty, $wide:ty;)*) => {$(
        impl Whole for $type {
            const BITS: u32 = <$type>::BITS;
            const MIN: i128 = <$type>::MIN as i128;
            const MAX: i128 = <$type>::MAX as i128;

            #[inline(always)]
            fn extended(self) -> u64 {
                self as $wide as u64
            }

            #[inline(always)]
            fn truncated(bits: u64) -> Self {
                bits as Self
            }

            #[inline(always)]
            fn value(self) -> i128 {
                self as i128
            }

            #[inline(always)]
            fn of_f64(x: f64) -> Self {
                x as Self
            }

            #[inline(always)]
            fn near32(self) -> f32 {
                self as f32
            }

            #[inline(always)]
            fn near64(self) -> f64 {
                self as f64
            }
        }
    )*};
}

whole! {
    u8, u64;
    i8, i64;
    u16, u64;
    i16, i64;
    u32, u64;
    i32, i64;
    u64, u64;
    i64, i64;
}

/// A floating point number.
trait Real: Lane {
    const BITS: u32;
    fn double(self) -> f64;
    fn of_double(x: f64) -> Self;
    fn of_whole<S: Whole, const R: u8>(x: S) -> Self;
}

impl Real for f64 {
    const BITS: u32 = 64;

    #[inline(always)]
    fn double(self) -> f64 {
        self
    }

    #[inline(always)]
    fn of_double(x: f64) -> Self {
        canonical64(x)
    }

    #[inline(always)]
    fn of_whole<S: Whole, const R: u8>(x: S) -> Self {
        let near = x.near64();
        if R == RN || S::BITS <= 32 { near } else { directed::<R>(near, off(x, near)) }
    }
}

impl Real for f32 {
    const BITS: u32 = 32;

    #[inline(always)]
    fn double(self) -> f64 {
        f64::from(self)
    }

    #[inline(always)]
    fn of_double(x: f64) -> Self {
        canonical(x as Self)
    }

    #[inline(always)]
    fn of_whole<S: Whole, const R: u8>(x: S) -> Self {
        if R == RN { x.near32() } else { narrow::<R>(to_odd(x)) }
    }
}

macro_rules! real_half {
    ($($type:ident)*) => {$(
        impl Real for $type {
            const BITS: u32 = 16;

            #[inline(always)]
            fn double(self) -> f64 {
                f64::from(self.wide())
            }

            #[inline(always)]
            fn of_double(x: f64) -> Self {
                Self::of_f64::<RN>(x)
            }

            #[inline(always)]
            fn of_whole<S: Whole, const R: u8>(x: S) -> Self {
                Self::of_f64::<R>(to_odd(x))
            }
        }
    )*};
}

real_half! { F16 BF16 }

/// What the nearest f64 is off by: its sign is what matters.
#[inline(always)]
fn off<S: Whole>(x: S, near: f64) -> f64 {
    (x.value() - near as i128).signum() as f64
}

/// Exactly, or rounded to odd.
#[inline(always)]
fn to_odd<S: Whole>(x: S) -> f64 {
    let near = x.near64();
    if S::BITS <= 32 { near } else { odd(near, off(x, near)) }
}

/// From the nearest number to the one on the right side; the exact one is not 0 then.
#[inline(always)]
fn directed<const R: u8>(near: f64, rest: f64) -> f64 {
    let down = rest < 0.0 && (R == RM || R == RZ && near > 0.0);
    let up = rest > 0.0 && (R == RP || R == RZ && near < 0.0);
    if down {
        near.next_down()
    } else if up {
        near.next_up()
    } else {
        near
    }
}

#[inline(always)]
fn to_integral<const R: u8>(x: f64) -> f64 {
    match R {
        RN => x.round_ties_even(),
        RZ => x.trunc(),
        RM => x.floor(),
        _ => x.ceil(),
    }
}

/// A handler by the names of two integer types.
macro_rules! by_types {
    ($target:expr, $source:expr, $f:ident $(, $flag:tt)*) => {
        match $source {
            "u8" => by_types!(@ $target, u8, $f $(, $flag)*),
            "s8" => by_types!(@ $target, i8, $f $(, $flag)*),
            "u16" => by_types!(@ $target, u16, $f $(, $flag)*),
            "s16" => by_types!(@ $target, i16, $f $(, $flag)*),
            "u32" => by_types!(@ $target, u32, $f $(, $flag)*),
            "s32" => by_types!(@ $target, i32, $f $(, $flag)*),
            "u64" => by_types!(@ $target, u64, $f $(, $flag)*),
            "s64" => by_types!(@ $target, i64, $f $(, $flag)*),
            _ => None,
        }
    };
    (@ $target:expr, $S:ty, $f:ident $(, $flag:tt)*) => {
        match $target {
            "u8" => Some(op1!($f::<$S, u8 $(, $flag)*>)),
            "s8" => Some(op1!($f::<$S, i8 $(, $flag)*>)),
            "u16" => Some(op1!($f::<$S, u16 $(, $flag)*>)),
            "s16" => Some(op1!($f::<$S, i16 $(, $flag)*>)),
            "u32" => Some(op1!($f::<$S, u32 $(, $flag)*>)),
            "s32" => Some(op1!($f::<$S, i32 $(, $flag)*>)),
            "u64" => Some(op1!($f::<$S, u64 $(, $flag)*>)),
            "s64" => Some(op1!($f::<$S, i64 $(, $flag)*>)),
            _ => None,
        }
    };
}

pub(super) fn truncated(target: &str, source: &str) -> Option<Lanes> {
    #[inline(always)]
    fn convert<S: Whole, D: Whole>(a: S) -> D {
        D::truncated(a.extended())
    }
    by_types!(target, source, convert)
}

pub(super) fn saturated(target: &str, source: &str) -> Option<Lanes> {
    #[inline(always)]
    fn convert<S: Whole, D: Whole>(a: S) -> D {
        D::truncated(a.value().clamp(D::MIN, D::MAX) as u64)
    }
    by_types!(target, source, convert)
}

/// `of` over the formats by name, and over four roundings.
macro_rules! by_format {
    ($format:expr, $rounding:expr, $of:ident!($more:expr)) => {
        match ($format, $rounding) {
            ("f16", 0) => $of!($more, F16, RN),
            ("f16", 1) => $of!($more, F16, RZ),
            ("f16", 2) => $of!($more, F16, RM),
            ("f16", 3) => $of!($more, F16, RP),
            ("bf16", 0) => $of!($more, BF16, RN),
            ("bf16", 1) => $of!($more, BF16, RZ),
            ("bf16", 2) => $of!($more, BF16, RM),
            ("bf16", 3) => $of!($more, BF16, RP),
            ("f32", 0) => $of!($more, f32, RN),
            ("f32", 1) => $of!($more, f32, RZ),
            ("f32", 2) => $of!($more, f32, RM),
            ("f32", 3) => $of!($more, f32, RP),
            ("f64", 0) => $of!($more, f64, RN),
            ("f64", 1) => $of!($more, f64, RZ),
            ("f64", 2) => $of!($more, f64, RM),
            ("f64", 3) => $of!($more, f64, RP),
            _ => None,
        }
    };
}

/// NaN becomes 0 if neither format has 64 bits, else what has the highest bit alone.
pub(super) fn integer_of(target: &str, source: &str, rounding: u8) -> Option<Lanes> {
    #[inline(always)]
    fn convert<S: Real, D: Whole, const R: u8>(a: S) -> D {
        let a = a.double();
        if a.is_nan() && (S::BITS == 64 || D::BITS == 64) {
            D::truncated(1 << (D::BITS - 1))
        } else {
            D::of_f64(to_integral::<R>(a))
        }
    }
    macro_rules! to {
        ($target:expr, $S:ty, $r:ident) => {
            by_types!(@ $target, $S, convert, $r)
        };
    }
    by_format!(source, rounding, to!(target))
}

pub(super) fn real_of(target: &str, source: &str, rounding: u8) -> Option<Lanes> {
    macro_rules! of {
        ($source:expr, $D:ty, $r:ident) => {
            match $source {
                "u8" => Some(op1!(<$D as Real>::of_whole::<u8, $r>)),
                "s8" => Some(op1!(<$D as Real>::of_whole::<i8, $r>)),
                "u16" => Some(op1!(<$D as Real>::of_whole::<u16, $r>)),
                "s16" => Some(op1!(<$D as Real>::of_whole::<i16, $r>)),
                "u32" => Some(op1!(<$D as Real>::of_whole::<u32, $r>)),
                "s32" => Some(op1!(<$D as Real>::of_whole::<i32, $r>)),
                "u64" => Some(op1!(<$D as Real>::of_whole::<u64, $r>)),
                "s64" => Some(op1!(<$D as Real>::of_whole::<i64, $r>)),
                _ => None,
            }
        };
    }
    by_format!(target, rounding, of!(source))
}

/// To an integer in the same format.
pub(super) fn round_to_integer(kind: &str, rounding: u8) -> Option<Lanes> {
    macro_rules! within {
        ($unused:expr, $T:ty, $r:ident) => {
            Some(op1!(|a: $T| <$T as Real>::of_double(to_integral::<$r>(a.double()))))
        };
    }
    by_format!(kind, rounding, within!(()))
}
