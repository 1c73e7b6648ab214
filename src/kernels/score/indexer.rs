//! The lightning indexer: plans and checks.

use super::super::{
    ALIGNMENT, Buffer, at_least_one, check_tokens, dtype_code, limit_code, product, raw, to_i32,
    to_i64,
};
use crate::attend::RowLimit;
use crate::checks::check_len;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::score::{IndexerKeys, IndexerQueries, Logits};

/// The most heads of an indexer.
pub const MAX_INDEXER_HEADS: usize = raw::SALIENT_INDEXER_MAX_HEADS as usize;

/// The most channels of an indexer's heads.
pub const MAX_INDEXER_DIM: usize = raw::SALIENT_INDEXER_MAX_DIM as usize;

/// What is scored, as far as the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexerShape {
    /// Sequences.
    pub batch: usize,
    /// Queries of all sequences.
    pub queries: usize,
    /// The most queries of a sequence: 1 at most where logits go to tokens.
    pub max_queries: usize,
    /// Keys of all sequences.
    pub keys: usize,
    /// The most keys of a sequence.
    pub max_keys: usize,
    /// Of queries and keys: f16, bf16 or fp8.
    pub dtype: DType,
    /// How queries lie.
    pub q: Layout,
    /// How keys lie: one head.
    pub k: Layout,
    /// Which keys a query sees.
    pub limit: RowLimit,
    /// Where logits go.
    pub logits: Logits,
}

/// The logits of a batch of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct IndexerPlan {
    shape: IndexerShape,
    q_len: usize,
    k_len: usize,
    weights_len: usize,
    logits_len: usize,
    out_stride: usize,
}

impl IndexerPlan {
    /// A plan.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless elements have 8 or 16 bits, there are 1 to
    /// [`MAX_INDEXER_HEADS`] heads of a multiple of 16 channels up to [`MAX_INDEXER_DIM`], strides
    /// are multiples of 16 bytes, and rows of logits hold all keys of a sequence;
    /// [`Error::LengthMismatch`] where channels disagree or keys have more heads than one;
    /// [`Error::Overflow`] where sizes do.
    pub fn new(shape: IndexerShape) -> Result<Self> {
        let IndexerShape { batch, queries, max_queries, keys, max_keys, dtype, q, k, .. } = shape;
        let out_of_range =
            |what, value, expected| Err(Error::OutOfRange { what, value: value as f64, expected });
        if dtype == DType::F32 {
            return out_of_range("bits of a key", 32, "16 or 8: f16, bf16 or fp8");
        }
        at_least_one("query heads", q.heads)?;
        if q.heads > MAX_INDEXER_HEADS {
            return out_of_range("query heads", q.heads, "at most 64");
        }
        check_len("heads of k", 1, k.heads)?;
        check_len("channels of a key", q.dim, k.dim)?;
        if q.dim == 0 || q.dim > MAX_INDEXER_DIM || !q.dim.is_multiple_of(16) {
            return out_of_range("channels of a head", q.dim, "a multiple of 16 up to 128");
        }
        for (what, stride) in [
            ("strides of q", q.token_stride),
            ("strides of q", q.head_stride),
            ("stride of k", k.token_stride),
        ] {
            to_i64(what, product(what, &[stride, dtype.size()])?)?;
            if !(stride * dtype.size()).is_multiple_of(ALIGNMENT) {
                return out_of_range(what, stride, "a multiple of 16 bytes");
            }
        }
        for (what, count) in
            [("queries", queries), ("queries", max_queries), ("keys", keys), ("keys", max_keys)]
        {
            check_tokens(what, count)?;
        }
        to_i32("sequences", batch)?;
        let (out_stride, logits_len) = match shape.logits {
            Logits::Rows { stride } if stride < max_keys => {
                let expected = "no less than the longest sequence";
                return out_of_range("stride of logits", stride, expected);
            }
            Logits::Rows { stride } => {
                check_tokens("stride of logits", stride)?;
                (stride, product("logits", &[queries, stride])?)
            }
            Logits::Tokens if max_queries > 1 => {
                return out_of_range("queries of a sequence", max_queries, "at most 1");
            }
            Logits::Tokens => (0, keys),
        };
        let len = |what, layout: Layout, tokens| {
            layout.required_len(tokens).ok_or(Error::Overflow { what })
        };
        Ok(Self {
            shape,
            q_len: len("q", q, queries)?,
            k_len: len("k", k, keys)?,
            weights_len: product("weights", &[queries, q.heads])?,
            logits_len,
            out_stride,
        })
    }

    /// The plan of queries and keys that the host knows; everything is checked that can be.
    ///
    /// # Errors
    /// Those of [`IndexerPlan::new`], and [`Error::LengthMismatch`] for queries of other sequences
    /// than keys.
    pub fn of<T: Element>(
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
    ) -> Result<Self> {
        check_len("sequences of keys", queries.rows.batch(), keys.rows.batch())?;
        Self::new(IndexerShape {
            batch: queries.rows.batch(),
            queries: queries.rows.total(),
            max_queries: queries.rows.lens().max().unwrap_or(0),
            keys: keys.rows.total(),
            max_keys: keys.rows.lens().max().unwrap_or(0),
            dtype: T::DTYPE,
            q: queries.q.layout,
            k: keys.k.layout,
            limit: queries.limit.kind(),
            logits,
        })
    }

    /// What it is for.
    pub fn shape(&self) -> &IndexerShape {
        &self.shape
    }

    /// Logits that are written.
    pub fn logits_len(&self) -> usize {
        self.logits_len
    }
}

/// Where the buffers lie; lengths in elements, exact but for `q` and `k`, which start on a multiple
/// of [`ALIGNMENT`].
#[derive(Debug, Clone, Copy, Default)]
pub struct IndexerBuffers {
    /// `[queries, heads, dim]`.
    pub q: Buffer,
    /// f32 `[queries, heads]`.
    pub weights: Buffer,
    /// `[keys, 1, dim]`.
    pub k: Buffer,
    /// f32 `[keys]`.
    pub scales: Option<Buffer>,
    /// i32 `[batch + 1]`.
    pub cu_queries: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_keys: Buffer,
    /// i32 `[queries]`, for [`RowLimit::Between`] and only then: the first key that each query
    /// sees.
    pub firsts: Option<Buffer>,
    /// i32 `[queries]`, for [`RowLimit::PerRow`] and [`RowLimit::Between`], and only then: the row
    /// limit of each.
    pub limits: Option<Buffer>,
    /// f32 [`IndexerPlan::logits_len`], written.
    pub logits: Buffer,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`].
pub fn indexer_params(
    plan: &IndexerPlan,
    buffers: &IndexerBuffers,
) -> Result<raw::SalientIndexerParams> {
    let IndexerShape { batch, queries, max_queries, keys, max_keys, dtype, q, k, limit, .. } =
        plan.shape;
    let size = dtype.size();
    buffers.q.holds("q", plan.q_len)?;
    buffers.k.holds("k", plan.k_len)?;
    let (token, head) = (to_i64("q", q.token_stride)?, to_i64("q", q.head_stride)?);
    Ok(raw::SalientIndexerParams {
        q: buffers.q.placed("q", size, ALIGNMENT)?,
        weights: buffers.weights.exactly("weights", plan.weights_len)?,
        k: buffers.k.placed("k", size, ALIGNMENT)?,
        scales: Buffer::optional(buffers.scales, "scales of keys", keys)?,
        cu_queries: buffers.cu_queries.exactly("cu_queries", batch + 1)?,
        cu_keys: buffers.cu_keys.exactly("cu_keys", batch + 1)?,
        firsts: Buffer::optional(buffers.firsts, "first rows", queries)?,
        limits: Buffer::optional(buffers.limits, "row limits", queries)?,
        logits: buffers.logits.exactly("logits", plan.logits_len)?,
        status: buffers.status.exactly("status", 1)?,
        q_strides: raw::SalientStrides { token, head },
        k_stride: to_i64("k", k.token_stride)?,
        out_stride: to_i64("logits", plan.out_stride)?,
        sees: limit_code(limit, buffers.firsts, buffers.limits)?,
        batch: to_i32("sequences", batch)?,
        heads: to_i32("query heads", q.heads)?,
        dim: to_i32("channels of a head", q.dim)?,
        queries: to_i32("queries", queries)?,
        keys: to_i32("keys", keys)?,
        max_queries: to_i32("queries", max_queries)?,
        max_keys: to_i32("keys", max_keys)?,
        dtype: dtype_code(dtype),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> IndexerShape {
        IndexerShape {
            batch: 2,
            queries: 5,
            max_queries: 4,
            keys: 30,
            max_keys: 20,
            dtype: DType::Bf16,
            q: Layout::token_major(8, 32),
            k: Layout::token_major(1, 32),
            limit: RowLimit::Between { first: (), limit: () },
            logits: Logits::Rows { stride: 24 },
        }
    }

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    fn buffers() -> IndexerBuffers {
        IndexerBuffers {
            q: at(5 * 8 * 32),
            weights: at(5 * 8),
            k: at(30 * 32),
            scales: Some(at(30)),
            cu_queries: at(3),
            cu_keys: at(3),
            firsts: Some(at(5)),
            limits: Some(at(5)),
            logits: at(5 * 24),
            status: at(1),
        }
    }

    #[test]
    fn good_buffers_become_parameters() {
        let plan = IndexerPlan::new(shape()).unwrap();
        let raw = indexer_params(&plan, &buffers()).unwrap();
        assert_eq!((raw.heads, raw.dim, raw.k_stride, raw.out_stride), (8, 32, 32, 24));
        assert_eq!((raw.sees, raw.max_keys, raw.dtype), (raw::SALIENT_SEES_ROWS, 20, 2));
        let tokens = IndexerShape {
            max_queries: 1,
            logits: Logits::Tokens,
            limit: RowLimit::Causal,
            dtype: DType::F8E4M3,
            ..shape()
        };
        let plan = IndexerPlan::new(tokens).unwrap();
        let buffers = IndexerBuffers {
            logits: at(30),
            firsts: None,
            limits: None,
            scales: None,
            ..buffers()
        };
        let raw = indexer_params(&plan, &buffers).unwrap();
        assert_eq!((raw.out_stride, raw.dtype, raw.scales.is_null()), (0, 3, true));
    }

    #[test]
    fn bad_buffers_are_refused() {
        let plan = IndexerPlan::new(shape()).unwrap();
        let good = buffers();
        type Field = fn(&mut IndexerBuffers) -> &mut Buffer;
        let fields: [(Field, usize); 10] = [
            (|b| &mut b.q, 16),
            (|b| &mut b.weights, 4),
            (|b| &mut b.k, 16),
            (|b| b.scales.as_mut().unwrap(), 4),
            (|b| &mut b.cu_queries, 4),
            (|b| &mut b.cu_keys, 4),
            (|b| b.firsts.as_mut().unwrap(), 4),
            (|b| b.limits.as_mut().unwrap(), 4),
            (|b| &mut b.logits, 4),
            (|b| &mut b.status, 4),
        ];
        for (field, align) in fields {
            let mut short = good;
            field(&mut short).len -= 1;
            let error = indexer_params(&plan, &short);
            assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
            let mut askew = good;
            field(&mut askew).address += align / 2;
            let error = indexer_params(&plan, &askew);
            assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
        }
        assert!(indexer_params(&plan, &IndexerBuffers { limits: None, ..good }).is_err());
        let causal = IndexerPlan::new(IndexerShape { limit: RowLimit::Causal, ..shape() }).unwrap();
        assert!(indexer_params(&causal, &good).is_err());
        assert!(indexer_params(&causal, &IndexerBuffers { limits: None, ..good }).is_err());
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused() {
        let q = |heads, dim| Layout::token_major(heads, dim);
        let (good, rows) = (shape(), |stride| Logits::Rows { stride });
        for bad in [
            IndexerShape { dtype: DType::F32, ..good },
            IndexerShape { q: q(0, 32), ..good },
            IndexerShape { q: q(65, 32), ..good },
            IndexerShape { q: q(8, 16), ..good },
            IndexerShape { q: q(8, 24), k: q(1, 24), ..good },
            IndexerShape { q: q(8, 144), k: q(1, 144), ..good },
            IndexerShape { k: q(2, 32), ..good },
            IndexerShape { k: Layout { token_stride: 36, ..good.k }, ..good },
            IndexerShape { q: Layout { head_stride: 36, ..good.q }, ..good },
            IndexerShape { dtype: DType::F8E4M3, k: Layout { token_stride: 40, ..good.k }, ..good },
            IndexerShape { logits: rows(19), ..good },
            IndexerShape { logits: rows(usize::MAX), ..good },
            IndexerShape { logits: Logits::Tokens, ..good },
            IndexerShape { keys: 1 << 31, ..good },
        ] {
            assert!(IndexerPlan::new(bad).is_err(), "{bad:?}");
        }
    }
}
