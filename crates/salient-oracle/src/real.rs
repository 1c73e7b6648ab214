//! The arithmetic of the reference, in f64, and of the straightforward computation whose error it
//! judges, in f32, whose products may add up as in tensor cores: the same loops, generic over them.

use std::fmt::Debug;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use salient::Element;

/// f32, f64, or f32 with the sums of tensor cores.
pub trait Real:
    Copy
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + Sum
{
    /// The nearest value.
    fn of(value: f64) -> Self;
    /// The value, exact.
    fn to_f64(self) -> f64;
    /// e to the power of the value.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// The sum of products.
    fn sum_of_products(products: impl Iterator<Item = (Self, Self)>) -> Self {
        products.map(|(a, b)| a * b).sum()
    }
    /// Adds the products of factors and rows to a row of sums.
    fn add_rows<T: Element>(sums: &mut [Self], rows: &[(Self, &[T])]) {
        for &(factor, row) in rows {
            for (sum, &x) in sums.iter_mut().zip(row) {
                *sum += factor * real(x);
            }
        }
    }
    /// The larger, or NaN if either is.
    fn maximum(self, other: Self) -> Self {
        if self > other || self.to_f64().is_nan() { self } else { other }
    }
}

macro_rules! real {
    ($type:ty, $erf:path) => {
        impl Real for $type {
            fn of(value: f64) -> Self {
                value as Self
            }
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn exp(self) -> Self {
                self.exp()
            }
            fn ln(self) -> Self {
                self.ln()
            }
            fn sqrt(self) -> Self {
                self.sqrt()
            }
            fn tanh(self) -> Self {
                self.tanh()
            }
            fn erf(self) -> Self {
                $erf(self)
            }
        }
    };
}

real!(f32, libm::erff);
real!(f64, libm::erf);

/// An element as a real number, exact.
pub fn real<R: Real, T: Element>(value: T) -> R {
    R::of(value.to_f32().into())
}

/// The sum of products.
pub fn dot<R: Real, T: Element>(a: &[T], b: &[T]) -> R {
    R::sum_of_products(a.iter().zip(b).map(|(&a, &b)| (real(a), real(b))))
}
