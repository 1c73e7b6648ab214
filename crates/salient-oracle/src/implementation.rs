//! What the suite runs on: one trait per verb, over plain slices.

use salient::Result;
use salient::host::select::Request;

use crate::select::Selected;

/// An implementation of **select**.
pub trait Select {
    /// Which tokens stay; `scores` is `[heads, total]`.
    ///
    /// # Errors
    /// On every bad input that the contract names.
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected>;
}
