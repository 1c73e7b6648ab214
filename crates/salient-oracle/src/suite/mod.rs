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
