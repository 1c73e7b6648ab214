//! Whether a number is rounded right, by exact arithmetic.

use std::cmp::Ordering;

/// An exact sum of integers times powers of two: limbs of 32 bits with their places, in any order,
/// whose carries are left to the end.
#[derive(Default)]
pub(super) struct Sum(Vec<(i32, i128)>);

impl Sum {
    pub(super) fn add(&mut self, integer: i128, exponent: i32) {
        let mut place = exponent.div_euclid(32);
        let shift = exponent.rem_euclid(32);
        let mut left = integer.unsigned_abs();
        while left != 0 {
            let part = (((left & 0xffff_ffff) << shift) as i128) * integer.signum();
            match self.0.iter_mut().find(|(other, _)| *other == place) {
                Some((_, limb)) => *limb += part,
                None => self.0.push((place, part)),
            }
            left >>= 32;
            place += 1;
        }
    }

    /// Adds the product of two numbers.
    pub(super) fn add_product(&mut self, a: f64, b: f64) {
        let ((m, e), (n, f)) = (parts(a), parts(b));
        self.add(m * n, e + f);
    }

    pub(super) fn sign(&self) -> Ordering {
        let mut limbs = self.0.clone();
        limbs.sort_unstable();
        // From the lowest on: what goes over into the place that comes next, and whether anything
        // but zeros has stayed behind.
        let (mut at, mut carry, mut rest) = (i32::MIN / 2, 0i128, false);
        for (place, limb) in limbs {
            while at < place && carry != 0 && carry != -1 {
                rest |= carry & 0xffff_ffff != 0;
                carry >>= 32;
                at += 1;
            }
            rest |= at < place && carry == -1;
            at = place;
            carry += limb;
        }
        match carry.signum() {
            0 if rest => Ordering::Greater,
            0 => Ordering::Equal,
            1 => Ordering::Greater,
            _ => Ordering::Less,
        }
    }
}

/// A finite number as an integer and an exponent.
fn parts(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1));
    let integer = if exponent == 0 { fraction } else { fraction | 1 << 52 };
    (if x.is_sign_negative() { -integer } else { integer }, exponent.max(1) - 1075)
}

/// How `a * b + c` compares with `x`.
pub(super) fn fma(a: f64, b: f64, c: f64, x: f64) -> Ordering {
    let mut sum = Sum::default();
    sum.add_product(a, b);
    sum.add_product(c, 1.0);
    sum.add_product(-x, 1.0);
    sum.sign()
}

/// How `a / b` compares with `x`.
pub(super) fn quotient(a: f64, b: f64, x: f64) -> Ordering {
    let mut sum = Sum::default();
    sum.add_product(a, 1.0);
    sum.add_product(-x, b);
    if b < 0.0 { sum.sign().reverse() } else { sum.sign() }
}

/// How the root of `a` compares with `x`, which is not negative.
pub(super) fn root(a: f64, x: f64) -> Ordering {
    let mut sum = Sum::default();
    sum.add_product(a, 1.0);
    sum.add_product(-x, x);
    sum.sign()
}

/// Asserts that a result is the one next to the exact number that a rounding asks for: `rn`, `rz`,
/// `rm` or `rp`. `below` and `above` are its neighbours, and `exact` compares the exact number.
/// Infinity stands for the number that would come behind the largest, `2^top`. To nearest is only
/// for formats whose halves are numbers of f64.
pub(super) fn assert_rounded(
    rounding: &str,
    [below, result, above]: [f64; 3],
    even: bool,
    top: i32,
    exact: impl Fn(f64) -> Ordering,
    what: &str,
) {
    let finite = |x: f64| if x.is_infinite() { f64::from(top).exp2().copysign(x) } else { x };
    let compare = |x: f64| {
        // Of f64, where it is not needed.
        if finite(x).is_infinite() {
            if x > 0.0 { Ordering::Less } else { Ordering::Greater }
        } else {
            exact(finite(x))
        }
    };
    let at = compare(result);
    let rounding = match rounding {
        "rz" if compare(0.0) == Ordering::Less => "rp",
        "rz" => "rm",
        other => other,
    };
    let fine = match rounding {
        "rm" if result == f64::INFINITY => false,
        "rp" if result == f64::NEG_INFINITY => false,
        "rm" => {
            (result == f64::NEG_INFINITY || at != Ordering::Less)
                && (above.is_infinite() || compare(above) == Ordering::Less)
        }
        "rp" => {
            (result == f64::INFINITY || at != Ordering::Greater)
                && (below.is_infinite() || compare(below) == Ordering::Greater)
        }
        _ => {
            let middle = |other: f64| finite(result) / 2.0 + finite(other) / 2.0;
            let (low, high) = (compare(middle(below)), compare(middle(above)));
            (result == f64::NEG_INFINITY || low == Ordering::Greater || even && low.is_eq())
                && (result == f64::INFINITY || high == Ordering::Less || even && high.is_eq())
        }
    };
    assert!(fine, "{what} is not {result:e} by {rounding}");
}
