//! **prefill**: plans and checks.

use super::super::{
    ALIGNMENT, Buffer, at_least_one, check_16_bits, check_tokens, dtype_code, limit_code, product,
    raw, strides, to_i32, to_i64,
};
use super::check_attention;
use crate::attend::{Attention, CacheLayout, Keys, RowLimit};
use crate::checks::check_len;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::layout::Layout;
use crate::ragged::Ragged;

/// The most channels per head that prefill takes.
pub const MAX_PREFILL_DIM: usize = raw::SALIENT_PREFILL_MAX_DIM as usize;

/// The kernels that compute it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum PrefillVariant {
    /// The fastest that the device has for these tensors.
    #[default]
    Auto,
    /// Copies and matrix products of sm_80, which every device has.
    Sm80,
    /// Tensor copies and warpgroup products of sm_90a. On any other device, and for strides of 2^40
    /// bytes or more, the launcher answers that this is not supported.
    Sm90,
}

/// What is attended to, as far as the host knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillShape {
    /// Sequences.
    pub batch: usize,
    /// Queries of all sequences.
    pub queries: usize,
    /// The most queries of a sequence.
    pub max_queries: usize,
    /// Key rows that keys and values hold.
    pub keys: usize,
    /// Of queries, keys and values: f16 or bf16.
    pub dtype: DType,
    /// Of the output: the same, or f32.
    pub out_dtype: DType,
    /// How queries lie.
    pub q: Layout,
    /// How keys lie.
    pub k: Layout,
    /// How values lie.
    pub v: Layout,
    /// How the output lies.
    pub out: Layout,
}

/// Attention of packed queries over the keys of their sequences.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PrefillPlan {
    shape: PrefillShape,
    attention: Attention<'static>,
    limit: RowLimit,
    variant: PrefillVariant,
    lens: [usize; 4],
    lse_len: usize,
}

impl PrefillPlan {
    /// A plan for sequences that lie in contiguous key rows. Sinks come with the buffers.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] unless elements have 16 bits, channels per head are a multiple of 8 up
    /// to [`MAX_PREFILL_DIM`], strides multiples of 16 bytes, query heads a multiple of KV heads
    /// and options in range; [`Error::LengthMismatch`] where heads or channels disagree;
    /// [`Error::Overflow`] where sizes do; [`Error::Unfit`] for sinks here.
    pub fn new(
        shape: PrefillShape,
        attention: Attention<'static>,
        limit: RowLimit,
    ) -> Result<Self> {
        let PrefillShape { batch, queries, max_queries, keys, dtype, out_dtype, q, k, v, out } =
            shape;
        check_attention(&attention)?;
        let out_of_range =
            |what, value, expected| Err(Error::OutOfRange { what, value: value as f64, expected });
        check_16_bits("bits of a query", dtype)?;
        if out_dtype != dtype && out_dtype != DType::F32 {
            return out_of_range(
                "bits of an output",
                8 * out_dtype.size(),
                "those of queries, or f32",
            );
        }
        at_least_one("KV heads", k.heads)?;
        if !q.heads.is_multiple_of(k.heads) {
            return out_of_range("number of query heads", q.heads, "a multiple of the KV heads");
        }
        check_len("heads of v", k.heads, v.heads)?;
        check_len("heads of out", q.heads, out.heads)?;
        for (what, layout) in [("channels of k", k), ("channels of v", v), ("channels of out", out)]
        {
            check_len(what, q.dim, layout.dim)?;
        }
        if q.dim == 0 || q.dim > MAX_PREFILL_DIM || !q.dim.is_multiple_of(8) {
            return out_of_range("channels per head", q.dim, "a multiple of 8 up to 256");
        }
        for (what, layout, size) in [
            ("strides of q", q, 2),
            ("strides of k", k, 2),
            ("strides of v", v, 2),
            ("strides of out", out, out_dtype.size()),
        ] {
            for stride in [layout.token_stride, layout.head_stride] {
                to_i64(what, product(what, &[stride, size])?)?;
                if stride * size % ALIGNMENT != 0 {
                    return out_of_range(what, stride, "a multiple of 16 bytes");
                }
            }
        }
        for (what, count) in [("queries", queries), ("keys", keys), ("queries", max_queries)] {
            check_tokens(what, count)?;
        }
        to_i32("query heads of all sequences", product("query heads", &[batch, q.heads])?)?;
        let len = |what, layout: Layout, tokens| {
            layout.required_len(tokens).ok_or(Error::Overflow { what })
        };
        let lens = [
            len("q", q, queries)?,
            len("k", k, keys)?,
            len("v", v, keys)?,
            len("out", out, queries)?,
        ];
        let lse_len = product("lse", &[queries, q.heads])?;
        Ok(Self { shape, attention, limit, variant: PrefillVariant::Auto, lens, lse_len })
    }

    /// The plan of queries over keys that the host knows; everything is checked that can be. `q`
    /// and `out` say how queries and outputs lie.
    ///
    /// # Errors
    /// Those of [`PrefillPlan::new`] and of [`prefill`](crate::host::attend::prefill), data of
    /// queries, outputs and row limits aside; [`Error::Unfit`] for paged keys and for scales, which
    /// the kernel does not take.
    pub fn of<T: Element>(
        [q, out]: [Layout; 2],
        out_dtype: DType,
        queries: &Ragged,
        keys: &Keys<'_, T>,
        limit: RowLimit,
        attention: &Attention<'_>,
    ) -> Result<Self> {
        let CacheLayout::Contiguous { k, v, tokens } = keys.layout()? else {
            return Err(Error::Unfit {
                what: "keys",
                expected: "contiguous: prefill takes no pages",
            });
        };
        check_len("sequences of keys", queries.batch(), keys.batch())?;
        attention.check_attention_sink(q.heads)?;
        if attention.k_scales.or(attention.v_scales).is_some() {
            return Err(Error::Unfit { what: "scales", expected: "none: prefill takes no fp8" });
        }
        let shape = PrefillShape {
            batch: queries.batch(),
            queries: queries.total(),
            max_queries: queries.lens().max().unwrap_or(0),
            keys: tokens,
            dtype: T::DTYPE,
            out_dtype,
            q,
            k,
            v,
            out,
        };
        Self::new(shape, attention.scalars(), limit)
    }

    /// Chooses the kernels.
    pub fn with_variant(self, variant: PrefillVariant) -> Self {
        Self { variant, ..self }
    }

    /// What it is for.
    pub fn shape(&self) -> &PrefillShape {
        &self.shape
    }
}

/// Where a prefill's buffers lie; lengths in elements, exact but for `q`, `k`, `v` and `out`, which
/// may be longer than their layouts ask for and start on a multiple of [`ALIGNMENT`].
#[derive(Debug, Clone, Copy, Default)]
pub struct PrefillBuffers {
    /// `[queries, q heads, dim]`.
    pub q: Buffer,
    /// `[keys, KV heads, dim]`.
    pub k: Buffer,
    /// `[keys, KV heads, dim]`.
    pub v: Buffer,
    /// `[queries, q heads, dim]`, written; apart from all others.
    pub out: Buffer,
    /// f32 `[queries, q heads]`, written: the log of every row's sum of exponentials.
    pub lse: Option<Buffer>,
    /// i32 `[batch + 1]`.
    pub cu_queries: Buffer,
    /// i32 `[batch]`: the first key row of every sequence.
    pub key_starts: Buffer,
    /// i32 `[batch]`: its key rows.
    pub key_lens: Buffer,
    /// i32 `[queries]`, for [`RowLimit::Between`] and only then: the first row that each query
    /// sees.
    pub firsts: Option<Buffer>,
    /// i32 `[queries]`, for [`RowLimit::PerRow`] and [`RowLimit::Between`], and only then: the row
    /// limit of each.
    pub limits: Option<Buffer>,
    /// f32 `[q heads]`: the [sinks](Attention::attention_sink). One that is NaN or infinity makes NaN
    /// of its head's rows.
    pub attention_sink: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], [`Error::Overlap`].
pub fn prefill_params(
    plan: &PrefillPlan,
    buffers: &PrefillBuffers,
) -> Result<raw::SalientPrefillParams> {
    let PrefillPlan { shape, attention, limit, variant, lens, lse_len } = *plan;
    let size = shape.out_dtype.size();
    let tensors = [
        ("q", buffers.q, lens[0], 2),
        ("k", buffers.k, lens[1], 2),
        ("v", buffers.v, lens[2], 2),
        ("out", buffers.out, lens[3], size),
    ];
    for (what, buffer, len, _) in tensors {
        buffer.holds(what, len)?;
    }
    let in_bytes = |buffer: Buffer, size| Buffer::new(buffer.address, buffer.len * size);
    let [q, k, v, out] =
        tensors.map(|(what, buffer, _, size)| buffer.placed(what, size, ALIGNMENT));
    let params = raw::SalientPrefillParams {
        q: q?,
        k: k?,
        v: v?,
        out: out?,
        lse: Buffer::optional(buffers.lse, "lse", lse_len)?,
        cu_queries: buffers.cu_queries.exactly("cu_queries", shape.batch + 1)?,
        key_starts: buffers.key_starts.exactly("key starts", shape.batch)?,
        key_lens: buffers.key_lens.exactly("key lengths", shape.batch)?,
        firsts: Buffer::optional(buffers.firsts, "first rows", shape.queries)?,
        limits: Buffer::optional(buffers.limits, "row limits", shape.queries)?,
        attention_sink: Buffer::optional(buffers.attention_sink, "attention_sink", shape.q.heads)?,
        status: buffers.status.exactly("status", 1)?,
        q_strides: strides(shape.q),
        k_strides: strides(shape.k),
        v_strides: strides(shape.v),
        out_strides: strides(shape.out),
        scale: attention.scale,
        softcap: attention.softcap.unwrap_or(0.0),
        // A window beyond all keys is none.
        window: attention.sliding_window.map_or(0, |w| i32::try_from(w).unwrap_or(i32::MAX)),
        sees: limit_code(limit, buffers.firsts, buffers.limits)?,
        batch: to_i32("batch", shape.batch)?,
        q_heads: to_i32("query heads", shape.q.heads)?,
        kv_heads: to_i32("KV heads", shape.k.heads)?,
        dim: to_i32("channels per head", shape.q.dim)?,
        queries: to_i32("queries", shape.queries)?,
        keys: to_i32("keys", shape.keys)?,
        max_queries: to_i32("queries", shape.max_queries)?,
        dtype: dtype_code(shape.dtype),
        out_dtype: dtype_code(shape.out_dtype),
        variant: match variant {
            PrefillVariant::Auto => raw::SALIENT_PREFILL_AUTO,
            PrefillVariant::Sm80 => raw::SALIENT_PREFILL_SM80,
            PrefillVariant::Sm90 => raw::SALIENT_PREFILL_SM90,
        },
    };
    let out = in_bytes(buffers.out, size);
    for (what, buffer, _, size) in &tensors[..3] {
        out.apart("out", in_bytes(*buffer, *size), what)?;
    }
    Ok(params)
}

#[cfg(test)]
mod tests;
