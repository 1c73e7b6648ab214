//! **score**: one `f32` per token (or per KV head and token) saying how much it matters. Higher
//! stays. What is asked for, on every backend; the scores themselves are listed in
//! [`crate::host::score`].
//!
//! # Attention scores
//!
//! A sequence has `n` rows; its window is its last `m <= n` queries, `m = 1` for
//! [`last_query`](crate::host::score::last_query) and `m = n` for
//! [`columns`](crate::host::score::columns). Query `j` of the window sees the keys `t <= n - m + j`
//! (causal, bottom-right aligned), and
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

mod indexer;
mod predictor;
mod statistics;

pub use indexer::{IndexerKeys, IndexerQueries, Logits};
pub(crate) use predictor::Folded;
pub use predictor::PredictorWeights;
pub use statistics::{QueryStatistics, Rotary, RotaryPairs};
pub(crate) use statistics::{check_shape, check_statistics};

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::layout::Layout;

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

/// How [`pool`](crate::host::score::pool) joins neighbours.
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

/// What to make of expected attention; see [`expected`](crate::host::score::expected).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedAttention {
    /// Factor on q . k before the softmax, usually `1 / sqrt(dim)`.
    pub scale: f32,
    /// Added to the attention before the values' norms are multiplied.
    pub epsilon: f32,
    /// The first tokens of every sequence, which draw attention whatever they say: the softmax
    /// leaves them out and their attention is 0. It is for selection to keep them, see
    /// [`Edges`](crate::select::Edges).
    pub sinks: usize,
    /// What gets a score.
    pub per: Per,
}

impl ExpectedAttention {
    /// With the options of the authors' implementation: 4 sinks, no epsilon, a score per KV head.
    pub fn new(scale: f32) -> Self {
        Self { scale, epsilon: 0.0, sinks: 4, per: Per::KvHead }
    }

    pub(crate) fn check(&self) -> Result<()> {
        for (what, value) in [("scale", self.scale), ("epsilon", self.epsilon)] {
            if !value.is_finite() {
                let value = value.into();
                return Err(Error::OutOfRange { what, value, expected: "finite" });
            }
        }
        Ok(())
    }
}

/// Checks that query heads share KV heads evenly, and channels.
pub(crate) fn check_heads(q: Layout, k: Layout) -> Result<()> {
    let wrong = |what, value, expected| Err(Error::OutOfRange { what, value, expected });
    let (q_heads, kv_heads) = (q.heads, k.heads);
    if kv_heads == 0 {
        return wrong("KV heads", 0.0, "at least 1");
    }
    if q_heads == 0 || q_heads % kv_heads != 0 {
        return wrong("query heads", q_heads as f64, "a multiple of the KV heads, and not 0");
    }
    if k.dim == 0 {
        return wrong("channels of a head", 0.0, "at least 1");
    }
    check_len("channels of a query head", k.dim, q.dim)
}
