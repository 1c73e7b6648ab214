//! The conformance suite: every property and every adversarial table, on any implementation.
//!
//! A failure is a panic whose message holds all that the case depends on.

pub mod attend;
pub mod compact;
pub mod score;
pub mod select;

use std::panic::{AssertUnwindSafe, catch_unwind};

use salient::Element;

/// Runs every property, then panics if any did, so that one failure does not hide another.
fn run_all(properties: &[(&str, &dyn Fn())]) {
    let failed: Vec<&str> = properties
        .iter()
        .filter(|(_, property)| catch_unwind(AssertUnwindSafe(property)).is_err())
        .map(|(name, _)| *name)
        .collect();
    assert!(failed.is_empty(), "{failed:?} failed; the case of each is above");
}

/// The exact values, NaN alike.
pub fn bits<T: Element>(values: &[T]) -> Vec<u32> {
    values.iter().map(|value| value.to_f32().to_bits()).collect()
}

/// Compares exact values.
///
/// # Panics
/// With the context and the first difference.
pub fn assert_same_bits<T: Element>(actual: &[T], expected: &[T], context: &str) {
    assert_eq!(actual.len(), expected.len(), "{context}: length");
    let (actual, expected) = (bits(actual), bits(expected));
    if let Some(i) = (0..actual.len()).find(|&i| actual[i] != expected[i]) {
        let (a, e) = (f32::from_bits(actual[i]), f32::from_bits(expected[i]));
        panic!("{context}: element {i} is {a:e}, expected {e:e}");
    }
}

/// Judges numbers by the relative rule: the largest error against the f64 oracle is at most twice
/// that of the straightforward computation in f32, or below `floor`, which covers the luck of few
/// numbers; NaN and infinities are where the oracle has them.
///
/// # Panics
/// With the context and the worst element.
pub fn assert_accurate(
    actual: &[f64],
    plain: &[f64],
    exact: &[f64],
    floor: f64,
    context: &dyn Fn() -> String,
) {
    assert_eq!(actual.len(), exact.len(), "{}: length", context());
    let (mut worst, mut error, mut allowed) = (0, 0.0, 0.0f64);
    for (i, ((&actual, &plain), &exact)) in actual.iter().zip(plain).zip(exact).enumerate() {
        if !exact.is_finite() {
            let same = actual == exact || (actual.is_nan() && exact.is_nan());
            assert!(same, "{}: element {i} is {actual:e}, expected {exact}", context());
            continue;
        }
        assert!(actual.is_finite(), "{}: element {i} is {actual}, expected {exact:e}", context());
        allowed = allowed.max((plain - exact).abs());
        if (actual - exact).abs() > error {
            (worst, error) = (i, (actual - exact).abs());
        }
    }
    let bound = 2.0 * allowed + floor;
    assert!(
        error <= bound,
        "{}: element {worst} is {:e}, expected {:e}: error {error:.3e}, allowed 2 * {allowed:.3e} \
         + {floor:.3e}",
        context(),
        actual[worst],
        exact[worst],
    );
}

/// The largest finite magnitude.
pub fn magnitude(values: &[f64]) -> f64 {
    values.iter().filter(|value| value.is_finite()).fold(0.0, |max, value| value.abs().max(max))
}

/// Values as f64, exact.
pub fn wide<T: Element>(values: &[T]) -> Vec<f64> {
    values.iter().map(|value| value.to_f32().into()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Random;
    use crate::real::{Real, dot};
    use crate::tensor::{Truncated, exact};

    /// Sums of positive products, which a tensor core cuts off, all the same way.
    fn sums<R: Real>() -> Vec<f64> {
        let mut random = Random::new(1);
        let mut row = || (0..256).map(|_| random.unit() as f32).collect::<Vec<_>>();
        exact(&(0..50).map(|_| dot::<R, f32>(&row(), &row())).collect::<Vec<_>>())
    }

    fn passes(actual: &[f64], plain: &[f64]) -> bool {
        let right = sums::<f64>();
        let floor = 8.0 * f64::from(f32::EPSILON) * magnitude(&right);
        let judged = || assert_accurate(actual, plain, &right, floor, &|| "sums".to_owned());
        catch_unwind(judged).is_ok()
    }

    #[test]
    fn what_a_tensor_core_cuts_off_is_allowed_and_no_more() {
        let (right, rounded) = (sums::<f64>(), sums::<f32>());
        for cut_off in [sums::<Truncated<8, 1>>(), sums::<Truncated<16, 2>>()] {
            assert!(passes(&rounded, &rounded) && passes(&cut_off, &cut_off));
            let loss = right.iter().zip(&cut_off).map(|(a, b)| a - b).fold(0.0, f64::max);
            let floor = 8.0 * f64::from(f32::EPSILON) * magnitude(&right);
            for (off, allowed) in [(0.99, true), (1.01, false)] {
                let mut actual = cut_off.clone();
                actual[7] = right[7] - off * (2.0 * loss + floor);
                assert_eq!(passes(&actual, &cut_off), allowed);
                // By the rule for sums that are rounded, both are too much.
                assert!(!passes(&actual, &rounded));
            }
        }
    }
}
