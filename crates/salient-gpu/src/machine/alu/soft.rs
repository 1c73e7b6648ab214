//! Double precision with roundings that the host does not have: in integers.

use super::number::{RM, RN, RP, RZ};

/// A finite number as a sign, and an integer times a power of two.
#[derive(Clone, Copy)]
struct Parts {
    negative: bool,
    integer: u64,
    exponent: i32,
}

impl Parts {
    fn of(x: f64) -> Self {
        let bits = x.to_bits();
        let (exponent, fraction) = ((bits >> 52 & 0x7ff) as i32, bits & ((1 << 52) - 1));
        let implicit = u64::from(exponent != 0) << 52;
        Self {
            negative: x.is_sign_negative(),
            integer: fraction | implicit,
            exponent: exponent.max(1) - 1075,
        }
    }
}

/// `a * b + c`, rounded once.
pub(super) fn fma64<const R: u8>(a: f64, b: f64, c: f64) -> f64 {
    if R == RN || !(a.is_finite() && b.is_finite() && c.is_finite()) {
        return a.mul_add(b, c);
    }
    let (x, y, z) = (Parts::of(a), Parts::of(b), Parts::of(c));
    let negative = x.negative != y.negative;
    let product = u128::from(x.integer) * u128::from(y.integer);
    if product == 0 {
        return if c != 0.0 || z.negative == negative { c } else { zero::<R>() };
    }
    let (product, exponent) = top(product, x.exponent + y.exponent);
    if z.integer == 0 {
        return round::<R>(negative, product, exponent);
    }
    let (term, term_exponent) = top(u128::from(z.integer), z.exponent);
    // Both have their highest bit in the same place, and more than 20 zeros at the end. What is
    // lost of the smaller one by shifting is kept as a last bit.
    let common = exponent.max(term_exponent);
    let product = shift(product, common - exponent);
    let term = shift(term, common - term_exponent);
    if negative == z.negative {
        round::<R>(negative, product + term, common)
    } else if product == term {
        zero::<R>()
    } else {
        round::<R>(negative != (term > product), product.abs_diff(term), common)
    }
}

pub(super) fn add64<const R: u8>(a: f64, b: f64) -> f64 {
    if R == RN { a + b } else { fma64::<R>(a, 1.0, b) }
}

pub(super) fn mul64<const R: u8>(a: f64, b: f64) -> f64 {
    if R == RN { a * b } else { fma64::<R>(a, b, 0f64.copysign(a * b)) }
}

pub(super) fn div64<const R: u8>(a: f64, b: f64) -> f64 {
    if R == RN || !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
        return a / b;
    }
    let (x, y) = (Parts::of(a), Parts::of(b));
    let (dividend, exponent) = top(u128::from(x.integer), x.exponent);
    let divisor = u128::from(y.integer);
    let rest = u128::from(dividend % divisor != 0);
    round::<R>(x.negative != y.negative, (dividend / divisor) | rest, exponent - y.exponent)
}

pub(super) fn sqrt64<const R: u8>(a: f64) -> f64 {
    if R == RN || !a.is_finite() || a <= 0.0 {
        return a.sqrt();
    }
    let x = Parts::of(a);
    let (square, exponent) = top(u128::from(x.integer), x.exponent);
    let odd = exponent & 1;
    let square = square >> odd;
    let root = square.isqrt();
    round::<R>(false, root | u128::from(root * root != square), (exponent + odd) / 2)
}

/// What a sum is that is exactly zero.
fn zero<const R: u8>() -> f64 {
    if R == RM { -0.0 } else { 0.0 }
}

/// With the highest bit in bit 126.
fn top(integer: u128, exponent: i32) -> (u128, i32) {
    let by = integer.leading_zeros() as i32 - 1;
    (integer << by, exponent - by)
}

fn shift(integer: u128, by: i32) -> u128 {
    if by > 127 {
        return 1;
    }
    integer >> by | u128::from(integer & ((1 << by) - 1) != 0)
}

/// An integer that is not 0, times a power of two. If it has more than 60 bits, the last one may
/// stand for any number of bits below.
fn round<const R: u8>(negative: bool, integer: u128, exponent: i32) -> f64 {
    let highest = exponent + 127 - integer.leading_zeros() as i32;
    let last = (highest - 52).max(-1074);
    let by = last - exponent;
    let (kept, lost, half) = if by <= 0 {
        (integer << -by, 0, 1)
    } else if by > 127 {
        (0, 1, 2)
    } else {
        (integer >> by, integer & ((1 << by) - 1), 1 << (by - 1))
    };
    let up = match R {
        RN => lost > half || lost == half && kept & 1 != 0,
        RZ => false,
        RM => negative && lost != 0,
        _ => !negative && lost != 0,
    };
    let kept = kept as u64 + u64::from(up);
    let biased = last + 1075;
    let bits = if highest > 1023 {
        let infinite = R == RN || R == RM && negative || R == RP && !negative;
        if infinite { f64::INFINITY.to_bits() } else { f64::MAX.to_bits() }
    } else if kept < 1 << 52 {
        kept
    } else {
        ((biased as u64) << 52) + (kept - (1 << 52))
    };
    f64::from_bits(bits | u64::from(negative) << 63)
}
