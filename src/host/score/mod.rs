//! **score**: one `f32` per token (or per KV head and token) saying how much it matters. Higher
//! stays.
//!
//! | function | looks at | used by |
//! |---|---|---|
//! | [`mlp`] | hidden states, through a trained [`Predictor`] | SDTP |
//! | [`last_query`] | attention of the last query | LazyLLM, FastV, TOVA |
//! | [`window`] | attention of the last queries | SnapKV, PyramidInfer |
//! | [`columns`] | attention of every query | H2O |
//! | [`expected`] | keys, values and what is known of queries | Expected Attention |
//! | [`indexer`] | queries and keys of an indexer | DeepSeek-V3.2 |
//! | [`keynorm`] | norms of keys | kvpress `KnormPress` |
//! | [`position`] | nothing: later is higher | StreamingLLM |
//! | [`random`] | nothing | the baseline |
//!
//! # Attention scores
//!
//! A sequence has `n` rows; its window is its last `m <= n` queries, `m = 1` for [`last_query`] and
//! `m = n` for [`columns`]. Query `j` of the window sees the keys `t <= n - m + j` (causal,
//! bottom-right aligned), and
//!
//! ```text
//! A[h, j, t] = softmax over the keys that j sees of  scale * q[h, j] . k[h / group, t]
//! C[h, t]    = sum over j of w[j] * A[h, j, t]         w sums to 1; 0 where j does not see t
//! C[h, t]   /= max over t of C[h, t]                   HeadReduce::MaxNormalised only; 0/0 is 0
//! S[t]       = mean or maximum of C[h, t] over heads   all of them, or those of one KV head's group
//! score[t]   = S pooled along tokens                   inside the sequence; see pool
//! ```
//!
//! `group = q_heads / kv_heads`: query head `h` reads KV head `h / group`. Neither A nor an
//! expanded K is ever materialised. The result is bitwise the same for any number of threads and
//! for any neighbours in the batch. A NaN in q or k makes NaN of the scores that it reaches.

mod attention;
mod expected;
mod indexer;
mod mlp;
mod simple;
mod statistics;
mod strips;

pub(crate) use attention::check_heads;
pub use attention::{columns, last_query, window};
pub(crate) use expected::check_statistics;
pub use expected::{ExpectedAttention, expected};
pub use indexer::{IndexerKeys, IndexerQueries, Logits, indexer};
pub(crate) use mlp::{Folded, check_finite};
pub use mlp::{Predictor, PredictorWeights, mlp};
pub use simple::{keynorm, pool, position, random};
pub use statistics::{QueryStatistics, Rotary, RotaryPairs};

use crate::error::{Error, Result};

/// How the query heads' scores become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadReduce {
    /// Their mean: what most heads look at (LazyLLM, FastV, SnapKV).
    Mean,
    /// Their maximum: what any head looks at.
    Max,
    /// Their maximum after each head's scores are divided by that head's largest in the sequence,
    /// so a head that spreads its attention counts as much as one that does not.
    MaxNormalised,
}

/// The widest [`Pool`].
pub const MAX_POOL_WIDTH: usize = 33;

/// What gets a score of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Per {
    /// A token: output `[total]`.
    Token,
    /// A token of a KV head: output `[kv_heads, total]`.
    KvHead,
}

/// How [`pool`] joins neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolKind {
    /// The mean of the tokens present.
    Average,
    /// Their maximum.
    Max,
}

/// Pooling along tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pool {
    /// Average or maximum.
    pub kind: PoolKind,
    /// Tokens pooled into one, centred on it: odd, 1 to 33. May exceed the sequence.
    pub width: usize,
}

impl Pool {
    pub(crate) fn check(&self) -> Result<()> {
        if self.width % 2 == 1 && self.width <= MAX_POOL_WIDTH {
            return Ok(());
        }
        let value = self.width as f64;
        Err(Error::OutOfRange { what: "pool width", value, expected: "odd and in 1..=33" })
    }
}

/// How much each query of the window counts. Weights are scaled to sum to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum QueryWeights {
    /// All the same.
    Uniform,
    /// Evenly spaced from the window's first query to its last; PyramidInfer goes from 1 to 1.2. A
    /// window of one query gives it everything.
    Ramp {
        /// The first query's weight: finite, not negative, not 0 if the last's is.
        first: f32,
        /// The last query's weight: finite, not negative.
        last: f32,
    },
}

/// What to make of attention probabilities; see the [module](self).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionScore {
    /// Factor on q . k before the softmax, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// How heads become one.
    pub heads: HeadReduce,
    /// What gets a score.
    pub per: Per,
    /// Pooling along tokens, last.
    pub pool: Option<Pool>,
    /// The queries' weights.
    pub query_weights: QueryWeights,
}

impl AttentionScore {
    pub(crate) fn check(&self) -> Result<()> {
        let wrong = |what, value: f32, expected| {
            Err(Error::OutOfRange { what, value: f64::from(value), expected })
        };
        if !self.scale.is_finite() {
            return wrong("scale", self.scale, "finite");
        }
        if let QueryWeights::Ramp { first, last } = self.query_weights {
            for weight in [first, last] {
                if !(weight.is_finite() && weight >= 0.0) {
                    return wrong("query weight", weight, "finite and not negative");
                }
            }
            if first == 0.0 && last == 0.0 {
                return wrong("last query weight", last, "above 0 if the first is 0");
            }
        }
        self.pool.as_ref().map_or(Ok(()), Pool::check)
    }
}

/// The larger, or NaN if either is: `f32::max` would hide it.
fn maximum(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}
