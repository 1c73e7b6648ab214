//! Expected attention: plans and checks.

mod weights;

pub use weights::{ExpectedShape, ExpectedWeights};

use super::super::{
    ALIGNMENT, Buffer, at_least_one, check_tokens, dtype_code, product, raw, to_i32, to_i64,
};
use crate::checks::check_len;
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ragged::Ragged;
use crate::score::{ExpectedAttention, Per};

/// What is scored, as far as the host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedTensors {
    /// Sequences.
    pub batch: usize,
    /// Tokens of all of them.
    pub total: usize,
    /// The most tokens of a sequence.
    pub max_len: usize,
    /// How keys lie.
    pub k: Layout,
    /// How values lie, if their norms count.
    pub v: Option<Layout>,
}

impl ExpectedTensors {
    /// Packed keys, and values if their norms count; `k` and `v` say how they lie.
    pub fn of(k: Layout, v: Option<Layout>, rows: &Ragged) -> Self {
        let max_len = rows.lens().max().unwrap_or(0);
        Self { batch: rows.batch(), total: rows.total(), max_len, k, v }
    }
}

/// The scoring of a number of keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExpectedPlan {
    shape: ExpectedShape,
    tensors: ExpectedTensors,
    options: ExpectedAttention,
    k_len: usize,
    v_len: usize,
    scores_len: usize,
    /// Floats of the workspace: logits, totals, norms.
    parts: [usize; 3],
}

impl ExpectedPlan {
    /// A plan for keys, and values, of the type that the statistics were prepared for.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless query heads are a multiple of KV heads, strides of keys
    /// multiples of 8 and options in range; [`Error::LengthMismatch`] where heads, channels or the
    /// number of statistics disagree; [`Error::Unfit`] for the statistics of another scale;
    /// [`Error::Overflow`] where sizes do.
    pub fn new(
        shape: ExpectedShape,
        tensors: ExpectedTensors,
        options: ExpectedAttention,
    ) -> Result<Self> {
        let ExpectedTensors { batch, total, max_len, k, v } = tensors;
        options.check()?;
        if options.scale != shape.scale {
            let what = "the scale of logits";
            return Err(Error::Unfit { what, expected: "that of the statistics" });
        }
        if shape.sets != 1 {
            check_len("query statistics", batch, shape.sets)?;
        }
        check_keys(shape.q_heads, shape.dim, k)?;
        for (what, count) in [("tokens", total), ("tokens", max_len)] {
            check_tokens(what, count)?;
        }
        let of = |what, layout: Layout| layout.required_len(total).ok_or(Error::Overflow { what });
        let v_len = match v {
            Some(v) => {
                check_len("heads of v", k.heads, v.heads)?;
                at_least_one("channels of a value", v.dim)?;
                to_i32("channels of a value", v.dim)?;
                of("v", v)?
            }
            None => 0,
        };
        let scores_len = match options.per {
            Per::Token => total,
            Per::KvHead => product("scores", &[k.heads, total])?,
        };
        let parts = [
            product("workspace", &[shape.q_heads, total])?,
            product("workspace", &[batch, shape.q_heads, 2])?,
            if v.is_some() { product("workspace", &[k.heads, total])? } else { 0 },
        ];
        let all = parts.iter().try_fold(0usize, |sum, &part| sum.checked_add(part));
        product("workspace", &[all.ok_or(Error::Overflow { what: "workspace" })?, 4])?;
        let k_len = of("k", k)?;
        Ok(Self { shape, tensors, options, k_len, v_len, scores_len, parts })
    }

    /// The statistics that it is for.
    pub fn shape(&self) -> ExpectedShape {
        self.shape
    }

    /// Scores that are written: `[total]` or `[kv_heads, total]`.
    pub fn scores_len(&self) -> usize {
        self.scores_len
    }

    /// Bytes of workspace; they start on a multiple of [`ALIGNMENT`]. What they hold does not
    /// matter, before or after.
    pub fn workspace_bytes(&self) -> usize {
        4 * self.parts.iter().sum::<usize>()
    }
}

/// Where a scoring's buffers lie. Lengths are in elements and exact, but for `k`, `v` and the
/// workspace.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExpectedBuffers {
    /// `[total, KV heads, dim]`, on a multiple of [`ALIGNMENT`].
    pub k: Buffer,
    /// `[total, KV heads, dim]`, if the plan has values.
    pub v: Option<Buffer>,
    /// [`ExpectedWeights::words`], on a multiple of [`ALIGNMENT`].
    pub weights: Buffer,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer,
    /// f32 [`ExpectedPlan::scores_len`], written.
    pub scores: Buffer,
    /// u8, at least [`ExpectedPlan::workspace_bytes`].
    pub workspace: Buffer,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], [`Error::Unfit`] for values without a plan or
/// the other way round.
pub fn expected_params(
    plan: &ExpectedPlan,
    buffers: &ExpectedBuffers,
) -> Result<raw::SalientExpectedParams> {
    let ExpectedPlan { shape, tensors, options, k_len, v_len, parts, .. } = *plan;
    let ExpectedTensors { batch, total, max_len, k, v } = tensors;
    if buffers.v.is_some() != v.is_some() {
        return Err(Error::Unfit { what: "values", expected: "there if they are planned" });
    }
    buffers.k.holds("k", k_len)?;
    buffers.weights.exactly::<u32>("query statistics", shape.words())?;
    buffers.workspace.holds("workspace", plan.workspace_bytes())?;
    let workspace: *mut f32 = buffers.workspace.placed("workspace", 1, ALIGNMENT)?;
    let part = |i: usize| workspace.wrapping_add(parts[..i].iter().sum());
    let (v_at, norms) = match buffers.v {
        Some(buffer) => {
            buffer.holds("v", v_len)?;
            (buffer.placed("v", 2, 2)?, part(2))
        }
        None => (std::ptr::null_mut(), std::ptr::null_mut()),
    };
    let v = v.unwrap_or(Layout { dim: 1, ..k });
    let strides = |what, layout: Layout| -> Result<raw::SalientStrides> {
        let (token, head) = (to_i64(what, layout.token_stride)?, to_i64(what, layout.head_stride)?);
        Ok(raw::SalientStrides { token, head })
    };
    Ok(raw::SalientExpectedParams {
        k: buffers.k.placed("k", 2, ALIGNMENT)?,
        v: v_at,
        weights: buffers.weights.placed("query statistics", 4, ALIGNMENT)?,
        cu_seqlens: buffers.cu_seqlens.exactly("cu_seqlens", batch + 1)?,
        scores: buffers.scores.exactly("scores", plan.scores_len)?,
        status: buffers.status.exactly("status", 1)?,
        logits: part(0),
        totals: part(1),
        norms,
        k_strides: strides("k", k)?,
        v_strides: strides("v", v)?,
        head_bytes: to_i64("query statistics", 4 * shape.head_words())?,
        epsilon: options.epsilon,
        // More sinks than tokens are as many.
        sinks: to_i32("sinks", options.sinks.min(max_len))?,
        sets: to_i32("query statistics", shape.sets)?,
        product: shape.covariance.into(),
        per_kv_head: (options.per == Per::KvHead).into(),
        batch: to_i32("batch", batch)?,
        q_heads: to_i32("query heads", shape.q_heads)?,
        kv_heads: to_i32("KV heads", k.heads)?,
        dim: to_i32("channels of a key", shape.dim)?,
        value_dim: to_i32("channels of a value", v.dim)?,
        total: to_i32("tokens", total)?,
        max_len: to_i32("tokens", max_len)?,
        dtype: dtype_code(shape.dtype),
    })
}

/// Checks that the kernel takes keys that lie like this, for statistics of this many heads and
/// channels.
fn check_keys(q_heads: usize, dim: usize, k: Layout) -> Result<()> {
    let out_of_range =
        |what, value, expected| Err(Error::OutOfRange { what, value: value as f64, expected });
    at_least_one("KV heads", k.heads)?;
    if !q_heads.is_multiple_of(k.heads) {
        return out_of_range("query heads", q_heads, "a multiple of the KV heads");
    }
    check_len("channels of a key", dim, k.dim)?;
    for stride in [k.token_stride, k.head_stride] {
        to_i64("k", product("k", &[stride, 2])?)?;
        if !stride.is_multiple_of(8) {
            return out_of_range("strides of k", stride, "a multiple of 8");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;
    use crate::score::QueryStatistics;

    fn statistics(sets: usize, heads: usize, dim: usize, covariance: bool) -> Vec<QueryStatistics> {
        let covariance = covariance.then(|| vec![0.25; heads * dim * dim]);
        let one = QueryStatistics::new(heads, dim, vec![1.0; heads * dim], covariance);
        vec![one.unwrap(); sets]
    }

    fn tensors() -> ExpectedTensors {
        let k = Layout::token_major(2, 40);
        ExpectedTensors { batch: 3, total: 10, max_len: 7, k, v: Some(Layout::token_major(2, 5)) }
    }

    fn plan() -> ExpectedPlan {
        let weights = ExpectedWeights::<bf16>::new(&statistics(3, 4, 40, true), 0.5).unwrap();
        assert_eq!(weights.words().len(), weights.shape().words());
        // 4 chunks, 10 blocks, 3 terms.
        assert_eq!(weights.words().len(), 3 * 4 * (4 * 20 + 10 * 3 * 128));
        ExpectedPlan::new(weights.shape(), tensors(), ExpectedAttention::new(0.5)).unwrap()
    }

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    fn buffers(plan: &ExpectedPlan) -> ExpectedBuffers {
        ExpectedBuffers {
            k: at(10 * 2 * 40),
            v: Some(at(10 * 2 * 5)),
            weights: at(plan.shape().words()),
            cu_seqlens: at(4),
            scores: at(20),
            workspace: at(plan.workspace_bytes()),
            status: at(1),
        }
    }

    #[test]
    fn good_buffers_become_parameters() {
        let plan = plan();
        assert_eq!(plan.workspace_bytes(), 4 * (4 * 10 + 3 * 4 * 2 + 2 * 10));
        let raw = expected_params(&plan, &buffers(&plan)).unwrap();
        assert_eq!((raw.q_heads, raw.kv_heads, raw.dim, raw.value_dim), (4, 2, 40, 5));
        assert_eq!((raw.sets, raw.product, raw.sinks, raw.per_kv_head), (3, 1, 4, 1));
        assert_eq!(raw.totals.addr(), 0x1000 + 4 * 40);
        assert_eq!(raw.norms.addr(), 0x1000 + 4 * (40 + 24));

        let weights = ExpectedWeights::<f16>::new(&statistics(1, 4, 40, false), 0.5).unwrap();
        let tensors = ExpectedTensors { v: None, ..tensors() };
        let per_token =
            ExpectedAttention { per: Per::Token, sinks: 1000, ..ExpectedAttention::new(0.5) };
        let plan = ExpectedPlan::new(weights.shape(), tensors, per_token).unwrap();
        let buffers = ExpectedBuffers { v: None, scores: at(10), ..buffers(&plan) };
        let raw = expected_params(&plan, &buffers).unwrap();
        assert!(raw.v.is_null() && raw.norms.is_null());
        assert_eq!((raw.product, raw.sinks, raw.head_bytes), (0, 7, 4 * 80));
    }

    #[test]
    fn bad_buffers_are_refused() {
        let plan = plan();
        let good = buffers(&plan);
        type Field = fn(&mut ExpectedBuffers) -> &mut Buffer;
        let fields: [(Field, usize); 7] = [
            (|b| &mut b.k, 16),
            (|b| b.v.as_mut().unwrap(), 2),
            (|b| &mut b.weights, 16),
            (|b| &mut b.cu_seqlens, 4),
            (|b| &mut b.scores, 4),
            (|b| &mut b.workspace, 16),
            (|b| &mut b.status, 4),
        ];
        for (field, align) in fields {
            let mut short = good;
            field(&mut short).len -= 1;
            let error = expected_params(&plan, &short);
            assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
            let mut askew = good;
            field(&mut askew).address += align / 2;
            let error = expected_params(&plan, &askew);
            assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
        }
        let error = expected_params(&plan, &ExpectedBuffers { v: None, ..good });
        assert!(matches!(error, Err(Error::Unfit { .. })), "{error:?}");
    }

    #[test]
    fn what_the_kernel_cannot_take_is_refused() {
        let one = |dim| statistics(1, 4, dim, true);
        assert!(ExpectedWeights::<f16>::new(&one(256), 1.0).is_ok());
        assert!(ExpectedWeights::<f16>::new(&one(264), 1.0).is_err());
        assert!(ExpectedWeights::<f16>::new(&one(12), 1.0).is_err());
        assert!(ExpectedWeights::<f32>::new(&one(16), 1.0).is_err());
        assert!(ExpectedWeights::<f16>::new(&one(16), f32::NAN).is_err());
        assert!(ExpectedWeights::<f16>::new(&[], 1.0).is_err());
        let plan = plan();
        let new = |tensors| {
            ExpectedPlan::new(plan.shape, tensors, ExpectedAttention::new(0.5)).map(|_| ())
        };
        let good = tensors();
        let k = |change: fn(&mut Layout)| {
            let mut k = good.k;
            change(&mut k);
            ExpectedTensors { k, ..good }
        };
        assert_eq!(new(good), Ok(()));
        for bad in [
            k(|k| k.heads = 3),
            k(|k| k.heads = 0),
            k(|k| k.dim = 48),
            k(|k| k.token_stride = 84),
            k(|k| k.head_stride = usize::MAX - 7),
            ExpectedTensors { batch: 2, ..good },
            ExpectedTensors { total: 1 << 31, ..good },
            ExpectedTensors { v: Some(Layout::token_major(1, 5)), ..good },
            ExpectedTensors { v: Some(Layout::token_major(2, 0)), ..good },
        ] {
            assert!(new(bad).is_err(), "{bad:?}");
        }
        let other = ExpectedPlan::new(plan.shape, good, ExpectedAttention::new(0.25));
        assert!(matches!(other, Err(Error::Unfit { .. })), "{other:?}");
    }
}
