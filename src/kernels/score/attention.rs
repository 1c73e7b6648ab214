//! Scores from attention: plans and checks.

use super::super::{
    ALIGNMENT, Buffer, check_16_bits, check_tokens, dtype_code, product, raw, strides, to_i32,
    to_i64,
};
use super::pool::pool_code;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ragged::Ragged;
use crate::score::{AttentionScore, HeadReduce, Per, Pool, PoolKind, QueryWeights, check_heads};

/// The most queries of a window whose softmax is computed, and not taken from an LSE.
pub const MAX_WINDOW: usize = raw::SALIENT_MAX_WINDOW as usize;

/// The most channels per head.
pub const MAX_SCORE_DIM: usize = 256;

/// Parts that the largest score of a tile of keys comes in.
const TILE_PARTS: usize = 8;

/// The queries and keys that are scored, as far as the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Sequences.
    pub batch: usize,
    /// Query rows of all sequences. A window is the last of a sequence's, so those of all its
    /// tokens will do.
    pub queries: usize,
    /// Keys of all sequences.
    pub total: usize,
    /// The most keys of a sequence.
    pub max_len: usize,
    /// Of queries and keys: f16 or bf16.
    pub dtype: DType,
    /// How queries lie.
    pub q: Layout,
    /// How keys lie.
    pub k: Layout,
}

impl AttentionShape {
    /// That of packed queries and keys of type `dtype`; `q` and `k` say how they lie.
    pub fn of([q, k]: [Layout; 2], dtype: DType, queries: &Ragged, rows: &Ragged) -> Self {
        Self {
            batch: rows.batch(),
            queries: queries.total(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            dtype,
            q,
            k,
        }
    }
}

/// Attention of the last queries of every sequence, made scores.
///
/// ```
/// use salient::score::{AttentionScore, HeadReduce, Per, QueryWeights};
/// use salient::kernels::score::{AttentionPlan, AttentionShape};
/// use salient::{DType, Layout};
/// # fn main() -> salient::Result<()> {
/// let shape = AttentionShape {
///     batch: 1,
///     queries: 16_384,
///     total: 16_384,
///     max_len: 16_384,
///     dtype: DType::Bf16,
///     q: Layout::token_major(32, 128),
///     k: Layout::token_major(8, 128),
/// };
/// let score = AttentionScore {
///     scale: 128f32.powf(-0.5),
///     heads: HeadReduce::Mean,
///     per: Per::Token,
///     pool: None,
///     query_weights: QueryWeights::Uniform,
/// };
/// // The last query alone saves its logits; 64 queries read the keys a second time.
/// let last = AttentionPlan::window(shape, score, 1)?;
/// assert_eq!(last.scores_len(), 16_384);
/// assert!(last.workspace_bytes() < AttentionPlan::window(shape, score, 64)?.workspace_bytes());
/// // With the LSE of a prefill there is no softmax to do.
/// assert!(AttentionPlan::columns(shape, score)?.takes_lse());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionPlan {
    shape: AttentionShape,
    score: AttentionScore,
    window: usize,
    with_lse: bool,
    lens: [usize; 2],
    lse_len: usize,
    scores_len: usize,
    /// Floats of the workspace's parts: stats, sums, logits, raw scores, maxima.
    parts: [usize; 5],
}

impl AttentionPlan {
    /// Attention of the last `window` queries of every sequence, or as many as it has
    /// ([`crate::host::score::window`]; a window of one is [`crate::host::score::last_query`]).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for a window of more than [`MAX_WINDOW`] queries, for elements that
    /// are not of 16 bits, channels that are no multiple of 8 up to [`MAX_SCORE_DIM`], strides that
    /// are no multiples of 16 bytes, heads that do not go together, and options out of range;
    /// [`Error::LengthMismatch`] where channels disagree; [`Error::Overflow`] where sizes do.
    pub fn window(shape: AttentionShape, score: AttentionScore, window: usize) -> Result<Self> {
        if window > MAX_WINDOW {
            let (what, value) = ("queries of a window", window as f64);
            return Err(Error::OutOfRange { what, value, expected: "at most 128 without an LSE" });
        }
        Self::new(shape, score, window, false)
    }

    /// The same of any number of queries, from the LSE that a causal prefill saved.
    ///
    /// # Errors
    /// As [`AttentionPlan::window`].
    pub fn window_of_lse(
        shape: AttentionShape,
        score: AttentionScore,
        window: usize,
    ) -> Result<Self> {
        Self::new(shape, score, window, true)
    }

    /// Attention of every query, from the LSE that a causal prefill saved
    /// ([`crate::host::score::columns`]).
    ///
    /// # Errors
    /// As [`AttentionPlan::window`].
    pub fn columns(shape: AttentionShape, score: AttentionScore) -> Result<Self> {
        Self::new(shape, score, shape.max_len, true)
    }

    fn new(
        shape: AttentionShape,
        score: AttentionScore,
        window: usize,
        with_lse: bool,
    ) -> Result<Self> {
        let AttentionShape { batch, queries, total, max_len, dtype, q, k } = shape;
        check_attention(q, k, dtype)?;
        score.check()?;
        if !(score.scale * std::f32::consts::LOG2_E).is_finite() {
            let (what, value) = ("scale", score.scale.into());
            return Err(Error::OutOfRange { what, value, expected: "finite in units of log2" });
        }
        for (what, count) in [("queries", queries), ("tokens", total), ("tokens", max_len)] {
            check_tokens(what, count)?;
        }
        let window = window.min(max_len);
        // Columns of a group, each head's padded to 8.
        check_tokens("queries of all heads", product("queries", &[q.heads, window + 8])?)?;
        to_i32("query heads of all sequences", product("query heads", &[batch, q.heads])?)?;
        let len = |what, layout: Layout, tokens| {
            layout.required_len(tokens).ok_or(Error::Overflow { what })
        };
        let scores_len = match score.per {
            Per::Token => total,
            Per::KvHead => product("scores", &[k.heads, total])?,
        };
        let normalised = score.heads == HeadReduce::MaxNormalised;
        // Written and read, logits are fewer bytes than keys.
        let columns = window * (q.heads / k.heads);
        let saves = !with_lse && !normalised && (1..=q.dim / 4).contains(&columns);
        let part = |needed: bool, factors: &[usize]| -> Result<usize> {
            let len = product("workspace", factors)?.next_multiple_of(ALIGNMENT / 4);
            product("workspace", &[len, 4])?;
            Ok(if needed { len } else { 0 })
        };
        let tiles = total / raw::SALIENT_SCORE_TILE as usize + batch;
        let parts = [
            part(!with_lse, &[tiles, q.heads, window, 2])?,
            part(!with_lse, &[batch, q.heads, window, 2])?,
            part(saves, &[q.heads, window, total])?,
            part(!saves, &[if normalised { q.heads } else { k.heads }, total])?,
            part(normalised, &[tiles, q.heads, TILE_PARTS])?,
        ];
        Ok(Self {
            shape,
            score,
            window,
            with_lse,
            lens: [len("q", q, queries)?, len("k", k, total)?],
            lse_len: product("lse", &[queries, q.heads])?,
            scores_len,
            parts,
        })
    }

    /// What it is for.
    pub fn shape(&self) -> &AttentionShape {
        &self.shape
    }

    /// Whether it asks for an LSE.
    pub fn takes_lse(&self) -> bool {
        self.with_lse
    }

    /// Scores that are written: `[total]` or `[KV heads, total]`.
    pub fn scores_len(&self) -> usize {
        self.scores_len
    }

    /// Bytes of workspace, on a multiple of [`ALIGNMENT`]. What they hold does not matter, before
    /// or after.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.parts.iter().sum::<usize>()
    }
}

/// Checks that the kernels take queries and keys that lie like this.
///
/// # Errors
/// As [`AttentionPlan::window`].
pub fn check_attention(q: Layout, k: Layout, dtype: DType) -> Result<()> {
    let out_of_range =
        |what, value, expected| Err(Error::OutOfRange { what, value: value as f64, expected });
    check_heads(q, k)?;
    check_16_bits("bits of a query", dtype)?;
    if q.dim > MAX_SCORE_DIM || !q.dim.is_multiple_of(8) {
        return out_of_range("channels per head", q.dim, "a multiple of 8 up to 256");
    }
    for (what, layout) in [("strides of q", q), ("strides of k", k)] {
        for stride in [layout.token_stride, layout.head_stride] {
            to_i64(what, product(what, &[stride, 2])?)?;
            if !stride.is_multiple_of(8) {
                return out_of_range(what, stride, "a multiple of 16 bytes");
            }
        }
    }
    Ok(())
}

/// Where the buffers of attention scores lie; lengths in elements, exact but for `q`, `k` and the
/// workspace, which may be longer and start on a multiple of [`ALIGNMENT`].
#[derive(Debug, Clone, Copy, Default)]
pub struct AttentionBuffers {
    /// `[queries, q heads, dim]`.
    pub q: Buffer,
    /// `[total, KV heads, dim]`.
    pub k: Buffer,
    /// f32 `[queries, q heads]`, as prefill saves it, if and only if [`AttentionPlan::takes_lse`].
    pub lse: Option<Buffer>,
    /// f32, [`AttentionPlan::scores_len`], written.
    pub scores: Buffer,
    /// i32 `[batch + 1]`: where each sequence's query rows begin.
    pub cu_queries: Buffer,
    /// i32 `[batch + 1]`: where its keys begin.
    pub cu_seqlens: Buffer,
    /// `[1]`, added to.
    pub status: Buffer,
    /// u8, at least [`AttentionPlan::workspace_bytes`].
    pub workspace: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], [`Error::Unfit`].
pub fn attention_params(
    plan: &AttentionPlan,
    buffers: &AttentionBuffers,
) -> Result<raw::SalientAttentionScoreParams> {
    let AttentionPlan { shape, score, window, with_lse, lens, lse_len, scores_len, parts } = *plan;
    buffers.q.holds("q", lens[0])?;
    buffers.k.holds("k", lens[1])?;
    if with_lse != buffers.lse.is_some() {
        let expected = if with_lse { "given, for the plan asks for it" } else { "left out" };
        return Err(Error::Unfit { what: "the LSE", expected });
    }
    buffers.workspace.holds("workspace", plan.workspace_bytes())?;
    let workspace: *mut u8 = buffers.workspace.placed("workspace", 1, ALIGNMENT)?;
    let mut at = 0;
    let [stats, sums, logits, raw_scores, maxima] = parts.map(|floats| {
        let start = at;
        at += 4 * floats;
        if floats == 0 { std::ptr::null_mut() } else { workspace.wrapping_add(start).cast() }
    });
    let (first_weight, last_weight) = ramp(score.query_weights);
    let pool = score.pool.unwrap_or(Pool { kind: PoolKind::Max, width: 1 });
    Ok(raw::SalientAttentionScoreParams {
        q: buffers.q.placed("q", 2, ALIGNMENT)?,
        k: buffers.k.placed("k", 2, ALIGNMENT)?,
        lse: Buffer::optional(buffers.lse, "lse", lse_len)?,
        scores: buffers.scores.exactly("scores", scores_len)?,
        cu_queries: buffers.cu_queries.exactly("cu_queries", shape.batch + 1)?,
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", shape.batch + 1)?,
        status: buffers.status.exactly("status", 1)?,
        stats,
        sums,
        logits,
        raw: raw_scores,
        maxima,
        q_strides: strides(shape.q),
        k_strides: strides(shape.k),
        scale: score.scale,
        first_weight,
        last_weight,
        window: to_i32("queries of a window", window)?,
        heads: match score.heads {
            HeadReduce::Mean => raw::SALIENT_HEADS_MEAN,
            HeadReduce::Max => raw::SALIENT_HEADS_MAX,
            HeadReduce::MaxNormalised => raw::SALIENT_HEADS_MAX_NORMALISED,
        },
        per_kv_head: (score.per == Per::KvHead).into(),
        pool: pool_code(pool.kind),
        pool_width: to_i32("pool width", pool.width)?,
        batch: to_i32("batch", shape.batch)?,
        q_heads: to_i32("query heads", shape.q.heads)?,
        kv_heads: to_i32("KV heads", shape.k.heads)?,
        dim: to_i32("channels per head", shape.q.dim)?,
        queries: to_i32("queries", shape.queries)?,
        total: to_i32("tokens", shape.total)?,
        max_len: to_i32("tokens", shape.max_len)?,
        dtype: dtype_code(shape.dtype),
    })
}

/// The weights of a window's first and last query, the larger 1.
fn ramp(weights: QueryWeights) -> (f32, f32) {
    match weights {
        QueryWeights::Uniform => (1.0, 1.0),
        QueryWeights::Ramp { first, last } => {
            let largest = first.max(last);
            (first / largest, last / largest)
        }
    }
}

#[cfg(test)]
mod tests;
