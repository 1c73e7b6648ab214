//! What is known of queries: mean and covariance, before and after rotary embedding.

use crate::checks::{check_finite, check_len};
use crate::error::{Error, Result};

/// Mean and covariance of the queries of one layer, head by head: the normal distribution that
/// Expected Attention takes future queries to follow.
#[derive(Debug, Clone, PartialEq)]
pub struct QueryStatistics {
    heads: usize,
    dim: usize,
    mean: Vec<f32>,
    covariance: Option<Vec<f32>>,
}

/// Rotary position embedding: channel pair i of position p turns by `p * inverse_frequencies[i]`.
/// Channels beyond the pairs stay as they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// One for every pair that turns, `theta^(-2 i / dim)` in the plain case.
    pub inverse_frequencies: Vec<f64>,
    /// Which channels are a pair.
    pub pairs: RotaryPairs,
}

/// Which channels rotary embedding turns together, if n pairs turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RotaryPairs {
    /// Channels i and n + i: Llama, Qwen and most others.
    Halves,
    /// Channels 2 i and 2 i + 1: GPT-J, and Llama as Meta released it.
    Neighbours,
}

impl Rotary {
    /// All of `dim` channels turn, in halves, with inverse frequencies `theta^(-2 i / dim)`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if `dim` is odd or `theta` not positive and finite.
    pub fn new(theta: f64, dim: usize) -> Result<Self> {
        if !dim.is_multiple_of(2) {
            let (what, value) = ("channels that turn", dim as f64);
            return Err(Error::OutOfRange { what, value, expected: "even" });
        }
        if !(theta.is_finite() && theta > 0.0) {
            let (what, value) = ("base of rotary frequencies", theta);
            return Err(Error::OutOfRange { what, value, expected: "positive and finite" });
        }
        let frequency = |i| theta.powf(-2.0 * i as f64 / dim as f64);
        let inverse_frequencies = (0..dim / 2).map(frequency).collect();
        Ok(Self { inverse_frequencies, pairs: RotaryPairs::Halves })
    }

    /// The two channels of a pair.
    pub(crate) fn channels(&self, pair: usize) -> [usize; 2] {
        match self.pairs {
            RotaryPairs::Halves => [pair, self.inverse_frequencies.len() + pair],
            RotaryPairs::Neighbours => [2 * pair, 2 * pair + 1],
        }
    }
}

impl QueryStatistics {
    /// Statistics that are known: `mean` is `[heads, dim]`, `covariance` `[heads, dim, dim]`, of
    /// which only the symmetric part counts.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for no heads or channels, [`Error::LengthMismatch`],
    /// [`Error::NotFinite`].
    pub fn new(
        heads: usize,
        dim: usize,
        mean: Vec<f32>,
        covariance: Option<Vec<f32>>,
    ) -> Result<Self> {
        check_shape(heads, dim)?;
        let len = heads.checked_mul(dim).ok_or(Error::Overflow { what: "mean of queries" })?;
        check_len("mean of queries", len, mean.len())?;
        check_finite("mean of queries", &mean)?;
        if let Some(covariance) = &covariance {
            let what = "covariance of queries";
            let len = len.checked_mul(dim).ok_or(Error::Overflow { what })?;
            check_len(what, len, covariance.len())?;
            check_finite(what, covariance)?;
        }
        Ok(Self { heads, dim, mean, covariance })
    }

    /// Query heads.
    pub fn heads(&self) -> usize {
        self.heads
    }

    /// Channels per head.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// `[heads, dim]`.
    pub fn mean(&self) -> &[f32] {
        &self.mean
    }

    /// `[heads, dim, dim]`, where it is known.
    pub fn covariance(&self) -> Option<&[f32]> {
        self.covariance.as_deref()
    }
}

/// Checks that there are statistics for every sequence, alike, and of whole groups of query heads.
/// Gives those heads and their channels.
pub(crate) fn check_statistics(
    statistics: &[QueryStatistics],
    batch: usize,
    kv_heads: usize,
) -> Result<(usize, usize)> {
    let [first, others @ ..] = statistics else {
        let what = "query statistics";
        return Err(Error::LengthMismatch { what, expected: batch, actual: 0 });
    };
    if !others.is_empty() {
        check_len("query statistics", batch, statistics.len())?;
    }
    for other in others {
        check_len("heads of query statistics", first.heads(), other.heads())?;
        check_len("channels of query statistics", first.dim(), other.dim())?;
        if other.covariance().is_some() != first.covariance().is_some() {
            let expected = "all with a covariance or all without";
            return Err(Error::Unfit { what: "query statistics", expected });
        }
    }
    if kv_heads == 0 {
        return Err(Error::OutOfRange { what: "KV heads", value: 0.0, expected: "at least 1" });
    }
    if !first.heads().is_multiple_of(kv_heads) {
        let (what, value) = ("query heads", first.heads() as f64);
        return Err(Error::OutOfRange { what, value, expected: "a multiple of the KV heads" });
    }
    Ok((first.heads(), first.dim()))
}

pub(crate) fn check_shape(heads: usize, dim: usize) -> Result<()> {
    for (what, value) in [("query heads", heads), ("channels of a head", dim)] {
        if value == 0 {
            return Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" });
        }
    }
    Ok(())
}
