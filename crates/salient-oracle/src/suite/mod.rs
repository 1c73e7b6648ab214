//! The conformance suite: every property and every adversarial table, on any implementation.
//!
//! A failure is a panic whose message holds all that the case depends on.

pub mod compact;
pub mod select;

use salient::Element;

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
