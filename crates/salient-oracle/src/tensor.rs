//! Sums of products as tensor cores make them, for the straightforward computation that judges what
//! is computed on them.

use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub};

use salient::Element;

use crate::real::{Real, real};

/// How an implementation adds up products of matrices.
///
/// A tensor core takes a block of products along the summed dimension at a time. It aligns them and
/// the sum so far to the largest exponent among them, cuts off what lies more than `23 + extra`
/// bits below, adds the rest without error, and cuts the result off to f32 (arXiv 2512.07004:
/// measured, and the same in f16 and bf16). Let M be the largest magnitude in a block and B
/// products be in it. Then each of its `B + 1` terms loses less than `2^-(23 + extra) M`, and the
/// result less than `2^-23` of itself; so n products lose less than
///
/// `n / B * ((B + 1) * 2^-(23 + extra) + 2^-23) * M`,
///
/// and since all of it is lost towards zero, sums of one sign lose about half of that: no noise
/// that evens out, as rounding to the nearest is. The bound is far too wide where terms cancel. So
/// the plain computation loses the same bits instead ([`Truncated`]), and what is judged may err
/// twice as much.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// Each product and each sum is rounded to the nearest f32.
    Rounded,
    /// Blocks of 8 with one extra bit: compute capability 8.x.
    Sm80,
    /// Blocks of 16 with two extra bits: compute capability 9.0 and later.
    Sm90,
}

impl Sums {
    /// Those of a device's compute capability: its major number.
    pub fn of_capability(major: i32) -> Self {
        if major < 9 { Self::Sm80 } else { Self::Sm90 }
    }

    /// How much more the luck of few numbers is: what is cut off is up to a whole unit of the last
    /// place, where rounding errs by half of one.
    pub fn luck(self) -> f64 {
        if self == Self::Rounded { 1.0 } else { 2.0 }
    }
}

/// Evaluates an expression with the type of the plain computation for given [`Sums`].
macro_rules! plain {
    ($sums:expr, $real:ident => $run:expr) => {
        match $sums {
            $crate::tensor::Sums::Rounded => {
                type $real = f32;
                $run
            }
            $crate::tensor::Sums::Sm80 => {
                type $real = $crate::tensor::Truncated<8, 1>;
                $run
            }
            $crate::tensor::Sums::Sm90 => {
                type $real = $crate::tensor::Truncated<16, 2>;
                $run
            }
        }
    };
}

pub(crate) use plain;

/// Reals as f64, exact.
pub fn exact<R: Real>(values: &[R]) -> Vec<f64> {
    values.iter().map(|value| value.to_f64()).collect()
}

/// f32, but sums of products are those of a tensor core with blocks of this many products and this
/// many extra bits.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Truncated<const BLOCK: usize, const EXTRA: i32>(f32);

impl<const BLOCK: usize, const EXTRA: i32> Real for Truncated<BLOCK, EXTRA> {
    fn of(value: f64) -> Self {
        Self(value as f32)
    }
    fn to_f64(self) -> f64 {
        self.0.into()
    }
    fn exp(self) -> Self {
        Self(self.0.exp())
    }
    fn ln(self) -> Self {
        Self(self.0.ln())
    }
    fn sqrt(self) -> Self {
        Self(self.0.sqrt())
    }
    fn tanh(self) -> Self {
        Self(self.0.tanh())
    }
    fn erf(self) -> Self {
        Self(libm::erff(self.0))
    }

    fn sum_of_products(products: impl Iterator<Item = (Self, Self)>) -> Self {
        let (mut sum, mut block, mut len) = (0.0, [0.0; BLOCK], 0);
        for (a, b) in products {
            block[len] = a.to_f64() * b.to_f64();
            len += 1;
            if len == BLOCK {
                sum = add_block(sum, &block, EXTRA);
                len = 0;
            }
        }
        Self(if len == 0 { sum } else { add_block(sum, &block[..len], EXTRA) })
    }

    fn add_rows<T: Element>(sums: &mut [Self], rows: &[(Self, &[T])]) {
        let mut products = [0.0; BLOCK];
        for block in rows.chunks(BLOCK) {
            for (i, sum) in sums.iter_mut().enumerate() {
                for (product, (factor, row)) in products.iter_mut().zip(block) {
                    *product = factor.to_f64() * real::<f64, T>(row[i]);
                }
                sum.0 = add_block(sum.0, &products[..block.len()], EXTRA);
            }
        }
    }
}

/// A block of exact products added to a sum: see [`Sums`].
fn add_block(sum: f32, products: &[f64], extra: i32) -> f32 {
    let sum = f64::from(sum);
    let largest = products.iter().fold(sum.abs(), |largest, product| largest.max(product.abs()));
    let plain: f64 = sum + products.iter().sum::<f64>();
    if largest == 0.0 || !plain.is_finite() {
        return plain as f32;
    }
    let exponent = (largest.to_bits() >> 52) as i32 - 1023;
    let power = |exponent: i32| f64::from_bits(((exponent + 1023) as u64) << 52);
    let unit = exponent - 23 - extra;
    let whole = |term: f64| (term * power(-unit)).trunc();
    let total: f64 = products.iter().map(|&product| whole(product)).sum::<f64>() + whole(sum);
    toward_zero(total * power(unit))
}

/// The f32 next to a number that is no larger than it.
fn toward_zero(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near).abs() <= value.abs() { near } else { f32::from_bits(near.to_bits() - 1) }
}

macro_rules! operators {
    ($($operator:ident $method:ident),*) => {$(
        impl<const BLOCK: usize, const EXTRA: i32> $operator for Truncated<BLOCK, EXTRA> {
            type Output = Self;
            fn $method(self, other: Self) -> Self {
                Self(self.0.$method(other.0))
            }
        }
    )*};
}

operators!(Add add, Sub sub, Mul mul, Div div);

impl<const BLOCK: usize, const EXTRA: i32> Neg for Truncated<BLOCK, EXTRA> {
    type Output = Self;
    fn neg(self) -> Self {
        Self(-self.0)
    }
}

impl<const BLOCK: usize, const EXTRA: i32> AddAssign for Truncated<BLOCK, EXTRA> {
    fn add_assign(&mut self, other: Self) {
        self.0 += other.0;
    }
}

impl<const BLOCK: usize, const EXTRA: i32> Sum for Truncated<BLOCK, EXTRA> {
    fn sum<I: Iterator<Item = Self>>(terms: I) -> Self {
        Self(terms.map(|term| term.0).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Random;

    const ULP: f64 = f32::EPSILON as f64;

    fn sum<const BLOCK: usize, const EXTRA: i32>(products: &[(f64, f64)]) -> f64 {
        let real = Truncated::<BLOCK, EXTRA>::of;
        let products = products.iter().map(|&(a, b)| (real(a), real(b)));
        Truncated::sum_of_products(products).to_f64()
    }

    /// What one extra bit keeps, and two; what lies below is cut off, not rounded.
    #[test]
    fn bits_below_the_extra_ones_are_cut_off() {
        let small = |bits: i32| 2f64.powi(-23 - bits);
        for (bits, sm80, sm90) in [(1, 1.0, 1.0), (2, 0.0, 1.0), (3, 0.0, 0.0)] {
            // Twice such a term: none of both is lost, or both are.
            let products = [(1.0, 1.0), (small(bits), 1.0), (small(bits), 1.0), (-1.0, 1.0)];
            assert_eq!(sum::<8, 1>(&products), sm80 * 2.0 * small(bits), "{bits}");
            assert_eq!(sum::<16, 2>(&products), sm90 * 2.0 * small(bits), "{bits}");
        }
        let products = [(1.0, 1.0), (0.75 * ULP, 1.0)];
        assert_eq!((sum::<8, 1>(&products), sum::<16, 2>(&products)), (1.0, 1.0));
        assert_eq!(sum::<8, 1>(&[(-1.0, 1.0), (-0.75 * ULP, 1.0)]), -1.0);
    }

    /// Eight products are one block on sm_80, the ninth meets the sum that has been cut off.
    #[test]
    fn a_block_is_cut_off_before_the_next() {
        let mut products = vec![(1.0, 1.0), (0.5 * ULP, 1.0)];
        products.resize(8, (0.0, 0.0));
        products.push((-1.0, 1.0));
        assert_eq!((sum::<8, 1>(&products), sum::<16, 2>(&products)), (0.0, 0.5 * ULP));
    }

    /// The derivation in [`Sums`], and that the loss has its direction.
    #[test]
    fn the_loss_is_within_its_bound_and_towards_zero() {
        let mut random = Random::new(1);
        for n in [1, 8, 9, 64, 1000] {
            let products: Vec<(f64, f64)> = (0..n)
                .map(|_| (random.unit() as f32, random.unit() as f32))
                .map(|(a, b)| (a.into(), b.into()))
                .collect();
            let right: f64 = products.iter().map(|(a, b)| a * b).sum();
            for (block, extra, sum) in
                [(8.0, 1, sum::<8, 1>(&products)), (16.0, 2, sum::<16, 2>(&products))]
            {
                let blocks = (f64::from(n) / block).ceil();
                let bound =
                    blocks * ((block + 1.0) * 2f64.powi(-23 - extra) + ULP) * right.max(1.0);
                assert!((0.0..bound).contains(&(right - sum)), "{n}: {} of {bound}", right - sum);
            }
        }
    }

    #[test]
    fn rows_add_up_as_products_do() {
        let mut random = Random::new(2);
        let rows: Vec<Vec<f32>> = (0..37).map(|_| random.normals(5, 1.0)).collect();
        let factors = random.normals(37, 1.0);
        let real = |x: f32| Truncated::<8, 1>(x);
        let mut sums = [real(0.0); 5];
        let terms: Vec<_> =
            factors.iter().map(|&x| real(x)).zip(rows.iter().map(Vec::as_slice)).collect();
        Truncated::add_rows(&mut sums, &terms);
        for (i, sum) in sums.into_iter().enumerate() {
            let products = terms.iter().map(|&(factor, row)| (factor, real(row[i])));
            assert_eq!(sum, Truncated::sum_of_products(products));
        }
    }

    #[test]
    fn what_is_not_finite_stays() {
        assert!(sum::<8, 1>(&[(f64::NAN, 1.0), (1.0, 1.0)]).is_nan());
        assert_eq!(sum::<16, 2>(&[(1.0, 1.0), (f64::INFINITY, 1.0)]), f64::INFINITY);
        assert!(sum::<8, 1>(&[(f64::NEG_INFINITY, 1.0), (f64::INFINITY, 1.0)]).is_nan());
        assert_eq!(sum::<8, 1>(&[]), 0.0);
    }
}
