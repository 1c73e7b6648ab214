//! **Costs**: the operations and bytes of a prompt under a [`Plan`], for any model shape.
//!
//! Counted are the matrix products, at 2 operations per multiply-add: the linear layers of every
//! block, the score and value products of attention, the head and, where a figure is given, the
//! scorer. Norms, rotary embedding, softmax and activations are not. Every figure is for the whole
//! batch.
//!
//! # The paper's table
//!
//! Table 2 of SDTP (arXiv 2504.04514) gives prefill operations of Mistral-7B. Its unpruned figures
//! are `a*n + 3*L*d*n^2` for `n` tokens, `L` layers of width `d` and `a` = 16.09e9, to 0.01%. No
//! source says how they were counted; this reading reproduces them, and [`Convention::paper`] is
//! it:
//!
//! - `a` is twice the number of all matrix weights, 2 * 8046.8e6, with keys and values of all 32
//!   heads (the model has 8) and the input embedding counted as if it were a matrix product
//!   ([`Embedding::Product`]);
//! - 3 is halfway between the 2 of causal and the 4 of full attention, as if one of the two
//!   products were counted over all pairs and the other over the visible ones ([`Pairs::Paper`]).
//!
//! The pruned figures are met within 0.15% when the linear layers of the block behind a stage are
//! counted for all tokens that come in ([`Counting::Authors`]), the embedding for the prompt, the
//! head for the tokens kept to the end, and a scorer of a quarter of the model's width
//! ([`predictor_flops`]). Without the scorer they are met within 0.6%, with the head over the whole
//! prompt instead ([`Head::PromptTokens`]) within 1%.

use serde::{Deserialize, Serialize};

use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::ragged::Ragged;
use crate::schedule::{KvAtStage, Plan, StagePlan};

/// The sizes of a Llama-family decoder: grouped-query attention and a gated feed-forward layer
/// (three matrices).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelShape {
    /// The number of blocks.
    pub layers: usize,
    /// Channels of the hidden state.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Inner channels of the feed-forward layer.
    pub ffn: usize,
    /// Rows of the head, and of the input embedding.
    pub vocab: usize,
}

/// How operations are counted. The default is what an engine has to do: visible pairs, the head at
/// the last token, and a free embedding lookup and scorer.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Convention {
    /// What attention counts.
    pub pairs: Pairs,
    /// Where the head runs in prefill.
    pub head: Head,
    /// What the input embedding counts.
    pub embedding: Embedding,
    /// What the block behind a stage counts.
    pub counting: Counting,
    /// Operations to score one token at one stage; every token that comes to a stage is scored.
    pub scoring: f64,
}

/// What attention counts, for `q` query rows over `k` key rows of `d` channels, all heads together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pairs {
    /// `4*d` for every key that a query row sees under the causal mask.
    ///
    /// Exact, but for a block whose stage keeps incoming keys: what its queries see depends on
    /// which tokens are kept, and the ones between the protected edges count as spread evenly.
    #[default]
    Visible,
    /// `4*d*q*k`: no mask.
    All,
    /// `3*d*q*k`: the convention of the paper's table.
    Paper,
}

/// Where the head runs in prefill. In decode it runs once per sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Head {
    /// At the last token of every sequence.
    #[default]
    LastToken,
    /// At every token kept to the end.
    KeptTokens,
    /// At every token of the prompt, kept or not.
    PromptTokens,
}

/// What the input embedding counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Embedding {
    /// Nothing: it is a table.
    #[default]
    Lookup,
    /// As much as the head at every token of the prompt; among the linear operations.
    Product,
}

/// What the block behind a stage counts in prefill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Counting {
    /// What is computed: the kept tokens, and under [`KvAtStage::Incoming`] the keys and values of
    /// all that come in.
    #[default]
    Plain,
    /// What the paper's authors seem to have counted: every linear layer of the block, and the
    /// keys, for all tokens that come in; only attention's queries are pruned.
    Authors,
}

/// Operations, by where they are spent.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Linear layers of all blocks.
    pub linear: f64,
    /// Score and value products.
    pub attention: f64,
    /// The head.
    pub head: f64,
    /// Scoring at the stages.
    pub scoring: f64,
}

impl Cost {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.linear + self.attention + self.head + self.scoring
    }
}

impl Convention {
    /// That of the paper's Table 2, without a scorer.
    pub fn paper(counting: Counting) -> Self {
        Self {
            pairs: Pairs::Paper,
            head: Head::KeptTokens,
            embedding: Embedding::Product,
            counting,
            scoring: 0.0,
        }
    }

    fn check(&self) -> Result<()> {
        if self.scoring >= 0.0 && self.scoring.is_finite() {
            return Ok(());
        }
        Err(Error::OutOfRange {
            what: "the operations to score a token",
            value: self.scoring,
            expected: "finite and not negative",
        })
    }
}

/// The operations of a prefill.
///
/// ```
/// use salient::cost::{self, Convention, ModelShape};
/// use salient::schedule::Schedule;
/// # fn main() -> salient::Result<()> {
/// let smollm2 = ModelShape {
///     layers: 30, hidden: 576, heads: 9, kv_heads: 3, head_dim: 64, ffn: 1536, vocab: 49152,
/// };
/// let plan = Schedule::sdtp().plan(&[4096], smollm2.layers)?;
/// let cost = cost::prefill(&smollm2, &plan, &Convention::default())?;
/// assert!(cost.linear > cost.attention && cost.attention > cost.head);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Error::OutOfRange`] if a size is 0, the query heads are no multiple of the KV heads, or the
/// scoring figure is no amount; [`Error::LengthMismatch`] if the plan is for another number of
/// layers.
pub fn prefill(shape: &ModelShape, plan: &Plan, convention: &Convention) -> Result<Cost> {
    shape.check(plan)?;
    convention.check()?;
    let per_token = shape.block_flops();
    let channels = shape.query_channels();
    let mut cost = Cost::default();
    for layer in 0..shape.layers {
        let work = BlockWork::new(plan, layer, convention.counting);
        cost.linear += tokens(work.rows) * per_token.rest + tokens(work.keys) * per_token.kv;
        cost.attention += channels * work.attention_per_channel(convention.pairs);
    }
    let head = shape.head_flops();
    if convention.embedding == Embedding::Product {
        cost.linear += head * tokens(plan.incoming_rows_at(0));
    }
    cost.head = head
        * match convention.head {
            Head::LastToken => sequences(plan),
            Head::KeptTokens => tokens(plan.rows_at(shape.layers)),
            Head::PromptTokens => tokens(plan.incoming_rows_at(0)),
        };
    let scored: f64 =
        plan.stages().iter().map(|stage| tokens(plan.incoming_rows_at(stage.layer))).sum();
    cost.scoring = convention.scoring * scored;
    Ok(cost)
}

/// The operations of decode step `step`, from 0, of all sequences that have a prompt: one token
/// each, which sees the cache that prefill left, `step` earlier tokens and itself.
///
/// # Errors
/// As [`prefill`].
pub fn decode(
    shape: &ModelShape,
    plan: &Plan,
    step: usize,
    convention: &Convention,
) -> Result<Cost> {
    shape.check(plan)?;
    convention.check()?;
    let batch = sequences(plan);
    let keys: f64 = (0..shape.layers)
        .map(|layer| tokens(plan.kv_rows_at(layer)) + batch * (step as f64 + 1.0))
        .sum();
    let per_token = shape.block_flops();
    let head = batch * shape.head_flops();
    let mut linear = batch * shape.layers as f64 * (per_token.rest + per_token.kv);
    if convention.embedding == Embedding::Product {
        linear += head;
    }
    let attention = convention.pairs.coefficient() * shape.query_channels() * keys;
    Ok(Cost { linear, attention, head, scoring: 0.0 })
}

/// The bytes of keys and values that prefill leaves in the caches of all layers, at `element_bytes`
/// per element.
///
/// # Errors
/// As [`prefill`], and [`Error::Overflow`] if they are more than a `u64` holds.
pub fn kv_bytes(shape: &ModelShape, plan: &Plan, element_bytes: usize) -> Result<u64> {
    shape.check(plan)?;
    let factors = [2, shape.kv_heads, shape.head_dim, element_bytes];
    let per_row = factors.iter().try_fold(1u64, |bytes, &factor| bytes.checked_mul(factor as u64));
    let rows = (0..shape.layers).map(|layer| plan.kv_rows_at(layer).total() as u64).sum::<u64>();
    per_row
        .and_then(|per_row| per_row.checked_mul(rows))
        .ok_or(Error::Overflow { what: "the bytes of the KV caches" })
}

/// The speed-up of prefill that the number of operations allows: those of the dense prompt over
/// those under the plan, at the default [`Convention`]. 1 for a batch of no tokens.
///
/// # Errors
/// As [`prefill`].
pub fn speedup_bound(shape: &ModelShape, plan: &Plan) -> Result<f64> {
    let convention = Convention::default();
    let pruned = prefill(shape, plan, &convention)?.total();
    let dense = prefill(shape, &plan.dense(), &convention)?.total();
    Ok(if pruned > 0.0 { dense / pruned } else { 1.0 })
}

/// The operations per token of a two-layer scorer `hidden -> width -> 1`, for
/// [`Convention::scoring`].
pub fn predictor_flops(hidden: usize, width: usize) -> f64 {
    2.0 * (hidden as f64 + 1.0) * width as f64
}

/// Operations of one block per token.
struct BlockFlops {
    /// Key and value projections.
    kv: f64,
    /// Query and output projections, feed-forward layer.
    rest: f64,
}

impl ModelShape {
    fn check(&self, plan: &Plan) -> Result<()> {
        let sizes = [
            ("layers", self.layers),
            ("hidden", self.hidden),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("head_dim", self.head_dim),
            ("ffn", self.ffn),
            ("vocab", self.vocab),
        ];
        if let Some((what, _)) = sizes.into_iter().find(|&(_, size)| size == 0) {
            return Err(Error::OutOfRange { what, value: 0.0, expected: "at least 1" });
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let value = self.heads as f64;
            return Err(Error::OutOfRange {
                what: "heads",
                value,
                expected: "a multiple of kv_heads",
            });
        }
        check_len("the plan's layers", self.layers, plan.layers())
    }

    fn block_flops(&self) -> BlockFlops {
        let hidden = self.hidden as f64;
        let kv_channels = self.kv_heads as f64 * self.head_dim as f64;
        BlockFlops {
            kv: 4.0 * hidden * kv_channels,
            rest: 4.0 * hidden * self.query_channels() + 6.0 * hidden * self.ffn as f64,
        }
    }

    fn query_channels(&self) -> f64 {
        self.heads as f64 * self.head_dim as f64
    }

    fn head_flops(&self) -> f64 {
        2.0 * self.hidden as f64 * self.vocab as f64
    }
}

impl Pairs {
    /// Operations per pair and channel.
    fn coefficient(self) -> f64 {
        match self {
            Self::Visible | Self::All => 4.0,
            Self::Paper => 3.0,
        }
    }
}

/// The rows that one block counts.
struct BlockWork<'a> {
    /// For all linear layers but the key and value projections.
    rows: &'a Ragged,
    queries: &'a Ragged,
    keys: &'a Ragged,
    stage: Option<&'a StagePlan>,
}

impl<'a> BlockWork<'a> {
    fn new(plan: &'a Plan, layer: usize, counting: Counting) -> Self {
        let queries = plan.rows_at(layer);
        let incoming = plan.incoming_rows_at(layer);
        let (rows, keys) = match (counting, plan.kv_at_stage()) {
            (Counting::Authors, _) => (incoming, incoming),
            (Counting::Plain, KvAtStage::Incoming) => (queries, incoming),
            (Counting::Plain, KvAtStage::Pruned) => (queries, queries),
        };
        Self { rows, queries, keys, stage: plan.stage_at(layer).map(|(_, stage)| stage) }
    }

    fn attention_per_channel(&self, pairs: Pairs) -> f64 {
        let sequences = self.queries.lens().zip(self.keys.lens()).enumerate();
        let counted = sequences.map(|(row, (queries, keys))| match (pairs, self.stage) {
            (Pairs::All | Pairs::Paper, _) => queries as f64 * keys as f64,
            (Pairs::Visible, Some(stage)) if queries < keys => {
                visible_through(queries, keys, stage.edges[row].sinks, stage.edges[row].recent)
            }
            (Pairs::Visible, _) => triangle(queries),
        });
        pairs.coefficient() * counted.sum::<f64>()
    }
}

/// The pairs of `queries` kept rows that see the keys up to their own among all `keys` that come
/// in. Of those between the edges, the `j`-th of `kept` from `middle` lies at row `j * (middle + 1)
/// / (kept + 1)`: evenly spread, and where a uniform choice puts it on average.
fn visible_through(queries: usize, keys: usize, sinks: usize, recent: usize) -> f64 {
    let kept = (queries - sinks - recent) as f64;
    let middle = (keys - sinks - recent) as f64;
    let spread = kept * sinks as f64 + kept * (middle + 1.0) / 2.0;
    triangle(sinks) + spread + (triangle(keys) - triangle(keys - recent))
}

/// `1 + 2 + ... + n`.
fn triangle(n: usize) -> f64 {
    n as f64 * (n as f64 + 1.0) / 2.0
}

fn tokens(rows: &Ragged) -> f64 {
    rows.total() as f64
}

/// Sequences that have a token.
fn sequences(plan: &Plan) -> f64 {
    plan.lens().iter().filter(|&&len| len > 0).count() as f64
}
