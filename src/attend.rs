//! **attend**: exact attention over the tokens that are left. What is asked for, on every backend.
//!
//! Prefill serves many queries per sequence, decode one. Rotary embedding is the caller's, applied
//! with original positions before keys are cached. Logits, sums and log-sum-exp are f32.
//!
//! # Learned sinks
//!
//! With [`Attention::attention_sink`], a learned logit s of each query head joins the softmax of all
//! rows as a key with no value would (as in the gpt-oss models): over logits x the weights are
//! `exp(x_i) / (sum of exp(x_j) + exp(s))`, and the log-sum-exp counts s. Neither scale nor softcap
//! applies to it. A row that sees no key is 0, its log-sum-exp s. These sinks are not the
//! [protected](crate::select::Edges) first tokens, to which models without learned ones turn
//! for the same end.
//!
//! # Caches in fp8
//!
//! Decode takes keys and values of another type than queries, such as
//! [`F8E4M3`](crate::dtype::F8E4M3). With [`Attention::k_scales`] and [`Attention::v_scales`] what
//! is stored stands for that times a scale of its KV head. The first multiply logits, the second
//! outputs, so neither is applied element by element.

mod keys;
mod lists;

pub(crate) use keys::Place;
pub use keys::{CacheLayout, Keys};
pub use lists::{KeyLists, PackedLists, RowLimit};

use crate::checks::check_len;
use crate::error::{Error, Result};

/// What is done to logits, and what belongs to heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attention<'a> {
    /// Factor of the dot product of query and key, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// Scaled logits x become `cap * tanh(x / cap)`.
    pub softcap: Option<f32>,
    /// A query whose row limit is L sees the key rows `L - window..L` alone.
    pub sliding_window: Option<usize>,
    /// `[q heads]`: a learned logit that joins every row of the head; -inf joins none.
    pub attention_sink: Option<&'a [f32]>,
    /// `[kv heads]`: what the stored keys of a head are multiplied with to be its keys, for caches
    /// in fp8.
    pub k_scales: Option<&'a [f32]>,
    /// `[kv heads]`: the same of values.
    pub v_scales: Option<&'a [f32]>,
}

impl Attention<'_> {
    /// Plain attention with a scale.
    pub fn new(scale: f32) -> Self {
        let (softcap, sliding_window, attention_sink) = (None, None, None);
        Self { scale, softcap, sliding_window, attention_sink, k_scales: None, v_scales: None }
    }

    /// The same without sinks and scales per head.
    pub fn scalars(&self) -> Attention<'static> {
        let Self { scale, softcap, sliding_window, .. } = *self;
        Attention { softcap, sliding_window, ..Attention::new(scale) }
    }

    /// The sink of a query head, -inf if there are none.
    pub(crate) fn sink(&self, head: usize) -> f32 {
        self.attention_sink.map_or(f32::NEG_INFINITY, |sink| sink[head])
    }

    /// What the stored keys of a KV head are multiplied with.
    pub(crate) fn k_scale(&self, head: usize) -> f32 {
        self.k_scales.map_or(1.0, |scales| scales[head])
    }

    /// What its stored values are multiplied with.
    pub(crate) fn v_scale(&self, head: usize) -> f32 {
        self.v_scales.map_or(1.0, |scales| scales[head])
    }

    /// Checks what does not depend on the number of heads.
    pub(crate) fn check(&self) -> Result<()> {
        let range = |what, value: f32, expected| {
            Err(Error::OutOfRange { what, value: value.into(), expected })
        };
        if !self.scale.is_finite() {
            return range("scale", self.scale, "finite");
        }
        if let Some(cap) = self.softcap.filter(|cap| !(cap.is_normal() && *cap > 0.0)) {
            return range("softcap", cap, "positive and finite");
        }
        if self.sliding_window == Some(0) {
            return range("sliding window", 0.0, "at least 1");
        }
        Ok(())
    }

    /// Checks the sinks, for callers that pass them on: one for each query head, each a number or
    /// -inf.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::OutOfRange`].
    pub fn check_attention_sink(&self, q_heads: usize) -> Result<()> {
        let Some(sink) = self.attention_sink else { return Ok(()) };
        check_len("attention_sink", q_heads, sink.len())?;
        match sink.iter().find(|&&logit| logit.is_nan() || logit == f32::INFINITY) {
            Some(&sink) => {
                let expected = "a number, or -inf for none";
                Err(Error::OutOfRange { what: "sink", value: sink.into(), expected })
            }
            None => Ok(()),
        }
    }

    /// Checks the scales, for callers that pass them on: one for each KV head, each finite.
    ///
    /// # Errors
    /// [`Error::LengthMismatch`], [`Error::NotFinite`].
    pub fn check_scales(&self, kv_heads: usize) -> Result<()> {
        for (what, scales) in [("scales of k", self.k_scales), ("scales of v", self.v_scales)] {
            let Some(scales) = scales else { continue };
            check_len(what, kv_heads, scales.len())?;
            if let Some(index) = scales.iter().position(|scale| !scale.is_finite()) {
                return Err(Error::NotFinite { what, index });
            }
        }
        Ok(())
    }

    /// The first row that a query with this row limit sees.
    pub(crate) fn first(&self, limit: usize) -> usize {
        self.sliding_window.map_or(0, |window| limit.saturating_sub(window))
    }
}
