//! What a launch of **decode** is given.

use super::{DecodePlan, DecodeShape};
use crate::attend::CacheLayout;
use crate::error::{Error, Result};
use crate::kernels::validate::Pages;
use crate::kernels::{ALIGNMENT, Buffer, dtype_code, lists_len, raw, to_i32, to_i64};

/// Where the buffers of a decode step lie; lengths in elements, exact but for q, k, v and out,
/// which may be longer.
#[derive(Debug, Clone, Copy, Default)]
pub struct DecodeBuffers {
    /// As [`DecodeShape::q`] says, aligned to 16 bytes.
    pub q: Buffer,
    /// The cache of keys, aligned to 16 bytes.
    pub k: Buffer,
    /// The cache of values, aligned to 16 bytes.
    pub v: Buffer,
    /// Written as [`DecodeShape::out`] says.
    pub out: Buffer,
    /// f32 `[batch, q heads]`, written.
    pub lse: Option<Buffer>,
    /// i32 `[batch]`: keys of every sequence.
    pub lens: Buffer,
    /// i32 `[batch]`: the first token of every sequence; contiguous caches only.
    pub span_starts: Option<Buffer>,
    /// i32 `[batch, max_pages]`; paged caches only.
    pub page_table: Option<Buffer>,
    /// i32 `[batch, capacity]` or `[batch * kv heads, capacity]`; with lists only.
    pub kept: Option<Buffer>,
    /// i32 `[batch]` or `[batch * kv heads]`; with lists only.
    pub kept_lens: Option<Buffer>,
    /// f32 `[kv heads]`: the [scales of keys](crate::attend::Attention::k_scales), 1 without.
    pub k_scales: Option<Buffer>,
    /// f32 `[kv heads]`: the [scales of values](crate::attend::Attention::v_scales), 1
    /// without.
    pub v_scales: Option<Buffer>,
    /// f32 `[q heads]`: the [sinks](crate::attend::Attention::attention_sink). One that is NaN or
    /// infinity makes NaN of its head's rows.
    pub attention_sink: Option<Buffer>,
    /// `[1]`, added to.
    pub status: Buffer,
    /// [`DecodePlan::workspace_bytes`] bytes, aligned to 16.
    pub workspace: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`], [`Error::Overlap`] of outputs and inputs, and
/// [`Error::Unfit`] for spans, pages or lists that the plan does not have, or that are missing.
pub fn decode_params(
    plan: &DecodePlan,
    buffers: &DecodeBuffers,
) -> Result<raw::SalientDecodeParams> {
    let DecodeShape { batch, q, out, cache, capacity, attention, .. } = plan.shape;
    let DecodeShape { dtype, cache_dtype, out_dtype, .. } = plan.shape;
    let lists = plan.list_heads();
    let paged = matches!(cache, CacheLayout::Paged { .. });
    for (what, given, wanted, expected) in [
        (
            "span starts",
            buffers.span_starts,
            !paged,
            "given if, and only if, the cache is contiguous",
        ),
        ("page table", buffers.page_table, paged, "given if, and only if, the cache is paged"),
        ("kept", buffers.kept, lists > 0, "given if, and only if, there are lists"),
        ("kept_lens", buffers.kept_lens, lists > 0, "given if, and only if, there are lists"),
    ] {
        if given.is_some() != wanted {
            return Err(Error::Unfit { what, expected });
        }
    }
    let placed = |what, buffer: Buffer, len, size, align| {
        buffer.holds(what, len)?;
        buffer.placed::<core::ffi::c_void>(what, size, align)
    };
    let out_size = out_dtype.size();
    let bytes = |buffer: Buffer, size| Buffer::new(buffer.address, buffer.len.saturating_mul(size));
    let size = cache_dtype.size();
    for (what, input, size) in [("q", buffers.q, 2), ("k", buffers.k, size), ("v", buffers.v, size)]
    {
        bytes(buffers.out, out_size).apart("out", bytes(input, size), what)?;
    }

    let layout = |token, head, page| -> Result<_> {
        Ok(raw::SalientDecodeLayout {
            token_stride: to_i64("strides of a cache", token)?,
            head_stride: to_i64("strides of a cache", head)?,
            page_stride: to_i64("strides of a cache", page)?,
        })
    };
    let (layouts, tokens, pages) = match cache {
        CacheLayout::Contiguous { k, v, tokens } => (
            [layout(k.token_stride, k.head_stride, 0)?, layout(v.token_stride, v.head_stride, 0)?],
            tokens,
            Pages { page_size: 0, max_pages: 0, pages: 0 },
        ),
        CacheLayout::Paged { layout: l, max_pages, pages } => (
            [layout(l.token_stride, l.head_stride, l.page_stride)?; 2],
            0,
            Pages { page_size: l.page_size, max_pages, pages },
        ),
    };
    let list_count = batch * lists;
    let workspace = buffers.workspace;
    workspace.holds("workspace", plan.workspace_bytes())?;
    Ok(raw::SalientDecodeParams {
        q: placed("q", buffers.q, plan.q_len, 2, 16)?,
        k: placed("k", buffers.k, plan.k_len, size, 16)?,
        v: placed("v", buffers.v, plan.v_len, size, 16)?,
        out: placed("out", buffers.out, plan.out_len, out_size, out_size)?,
        lse: Buffer::optional(buffers.lse, "lse", batch * q.heads)?,
        lens: buffers.lens.exactly("lengths of the sequences", batch)?,
        span_starts: Buffer::optional(buffers.span_starts, "span starts", batch)?,
        page_table: Buffer::optional(buffers.page_table, "page table", batch * pages.max_pages)?,
        kept: Buffer::optional(buffers.kept, "kept", lists_len(list_count, capacity)?)?,
        kept_lens: Buffer::optional(buffers.kept_lens, "kept_lens", list_count)?,
        attention_sink: Buffer::optional(buffers.attention_sink, "attention_sink", q.heads)?,
        k_scales: Buffer::optional(buffers.k_scales, "scales of k", plan.kv_heads)?,
        v_scales: Buffer::optional(buffers.v_scales, "scales of v", plan.kv_heads)?,
        status: buffers.status.exactly("status", 1)?,
        workspace: workspace.placed("workspace", 1, ALIGNMENT)?,
        layouts,
        q_stride: to_i64("q", q.token_stride)?,
        q_head_stride: to_i64("q", q.head_stride)?,
        out_stride: to_i64("out", out.token_stride)?,
        out_head_stride: to_i64("out", out.head_stride)?,
        scale: attention.scale,
        softcap: attention.softcap.unwrap_or(0.0),
        // A window of more tokens than there can be leaves them all.
        window: attention.sliding_window.map_or(0, |w| i32::try_from(w).unwrap_or(0)),
        batch: to_i32("sequences", batch)?,
        kv_heads: to_i32("KV heads", plan.kv_heads)?,
        group: to_i32("query heads per KV head", plan.group)?,
        dim: to_i32("channels per head", q.dim)?,
        list_heads: to_i32("heads of the lists", lists)?,
        capacity: to_i32("capacity", capacity)?,
        split: to_i32("split", plan.split)?,
        tokens: to_i32("tokens", tokens)?,
        page_size: to_i32("page size", pages.page_size)?,
        max_pages: to_i32("page table", pages.max_pages)?,
        pages: to_i32("pages of the pool", pages.pages)?,
        dtype: dtype_code(dtype),
        out_dtype: dtype_code(out_dtype),
        cache_dtype: dtype_code(cache_dtype),
    })
}
