//! One query per sequence.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::AttendOutputs;
use crate::cuda::operands::{Operands, check_dtype};
use crate::cuda::select::word;
use crate::cuda::{DeviceElement, StatusWord};
use crate::error::Result;
use crate::kernels::attend::{DecodeBuffers, DecodePlan, decode_params};
use crate::kernels::raw;

/// What a decode step reads. Queries, keys and values lie as the plan says and may be longer; the
/// lengths of the others are in elements and exact.
#[derive(Debug)]
pub struct DecodeInputs<'a, T, C = T> {
    /// `[batch, q heads, dim]`.
    pub q: CudaView<'a, T>,
    /// The cache of keys.
    pub k: CudaView<'a, C>,
    /// The cache of values.
    pub v: CudaView<'a, C>,
    /// `[batch]` keys of every sequence.
    pub lens: CudaView<'a, i32>,
    /// `[batch]` the first token of every sequence; contiguous caches only.
    pub span_starts: Option<CudaView<'a, i32>>,
    /// `[batch, max_pages]`; paged caches only.
    pub page_table: Option<CudaView<'a, i32>>,
    /// `[batch, capacity]` or `[batch, KV heads, capacity]` listed keys, ascending, counted from
    /// the sequence's first; with lists only.
    pub kept: Option<CudaView<'a, i32>>,
    /// `[batch]` or `[batch, KV heads]` lengths of the lists; with lists only.
    pub kept_lens: Option<CudaView<'a, i32>>,
    /// `[q heads]` learned logits that join every row of their head
    /// ([`Attention::attention_sink`](crate::attend::Attention::attention_sink)). One that is NaN or infinity
    /// makes NaN of its head's rows.
    pub attention_sink: Option<CudaView<'a, f32>>,
    /// `[KV heads]` what stored keys are to be multiplied by
    /// ([`Attention::k_scales`](crate::attend::Attention::k_scales)).
    pub k_scales: Option<CudaView<'a, f32>>,
    /// `[KV heads]` the same for values.
    pub v_scales: Option<CudaView<'a, f32>>,
}

impl<'a, T, C> DecodeInputs<'a, T, C> {
    /// Every key of a contiguous cache, whose sequences start at `span_starts`.
    pub fn dense(
        q: CudaView<'a, T>,
        [k, v]: [CudaView<'a, C>; 2],
        lens: CudaView<'a, i32>,
        span_starts: CudaView<'a, i32>,
    ) -> Self {
        Self {
            q,
            k,
            v,
            lens,
            span_starts: Some(span_starts),
            page_table: None,
            kept: None,
            kept_lens: None,
            attention_sink: None,
            k_scales: None,
            v_scales: None,
        }
    }
}

/// Attention of one query per sequence over all of its keys, or those that a list names. Lengths
/// and lists are read on the device up to the plan's capacity, so a captured step serves every
/// length. `workspace` holds at least [`DecodePlan::workspace_bytes`]; none is needed where that is
/// 0.
///
/// Entries outside the sequence, or on pages outside the pool, are reported in `status` and
/// skipped. Lists that do not ascend are reported. Invalid lengths are reported and count as 0. The
/// output of an empty list is 0.
///
/// ```no_run
/// use half::bf16;
/// use salient::cuda::StatusWord;
/// use salient::cuda::attend::{AttendOutputs, DecodeInputs, decode};
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::attend::{Attention, CacheLayout, KeyLists};
/// use salient::kernels::attend::{DecodePlan, DecodeShape};
/// use salient::{DType, Layout};
/// # fn main() -> salient::Result<()> {
/// let (batch, room, q_heads, kv_heads, dim) = (4, 131_072, 32, 8, 128);
/// let (row, cache) = (Layout::token_major(q_heads, dim), Layout::token_major(kv_heads, dim));
/// let plan = DecodePlan::new(DecodeShape {
///     batch,
///     q: row,
///     out: row,
///     cache: CacheLayout::Contiguous { k: cache, v: cache, tokens: batch * room },
///     lists: KeyLists::PerHead(()),
///     capacity: 2048,
///     dtype: DType::Bf16,
///     cache_dtype: DType::Bf16,
///     out_dtype: DType::Bf16,
///     attention: Attention::new((dim as f32).powf(-0.5)),
/// })?;
/// let stream = CudaContext::new(0)?.default_stream();
/// let q = stream.alloc_zeros::<bf16>(batch * q_heads * dim)?;
/// let k = stream.alloc_zeros::<bf16>(batch * room * kv_heads * dim)?;
/// let v = stream.alloc_zeros::<bf16>(batch * room * kv_heads * dim)?;
/// let starts: Vec<i32> = (0..batch).map(|sequence| (sequence * room) as i32).collect();
/// let (starts, lens) = (stream.clone_htod(&starts)?, stream.clone_htod(&[1000, 7, 0, 90_000])?);
/// let kept = stream.alloc_zeros::<i32>(batch * kv_heads * 2048)?;
/// let kept_lens = stream.alloc_zeros::<i32>(batch * kv_heads)?;
/// let mut out = stream.alloc_zeros::<bf16>(batch * q_heads * dim)?;
/// let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
/// let mut status = StatusWord::new(&stream)?;
/// let keys = [k.as_view(), v.as_view()];
/// decode(
///     &stream,
///     &plan,
///     &DecodeInputs {
///         kept: Some(kept.as_view()),
///         kept_lens: Some(kept_lens.as_view()),
///         ..DecodeInputs::dense(q.as_view(), keys, lens.as_view(), starts.as_view())
///     },
///     &mut AttendOutputs::new(out.as_view_mut()),
///     Some(&mut workspace.as_view_mut()),
///     &mut status,
/// )?;
/// status.read(&stream)?.check()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`decode_params`]; [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for a plan of
/// other types; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn decode<T: DeviceElement, C: DeviceElement, O: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &DecodePlan,
    inputs: &DecodeInputs<'_, T, C>,
    outputs: &mut AttendOutputs<'_, O>,
    workspace: Option<&mut CudaViewMut<'_, u8>>,
    status: &mut StatusWord,
) -> Result<()> {
    check_dtype("q", plan.shape().dtype, T::DTYPE)?;
    check_dtype("k and v", plan.shape().cache_dtype, C::DTYPE)?;
    check_dtype("out", plan.shape().out_dtype, O::DTYPE)?;
    let mut status = status.view();
    let mut operands = Operands::<15>::new(stream)?;
    let buffers = DecodeBuffers {
        q: operands.read("q", &inputs.q)?,
        k: operands.read("k", &inputs.k)?,
        v: operands.read("v", &inputs.v)?,
        out: operands.write("out", &mut outputs.out)?,
        lse: operands.write_optional("lse", outputs.lse.as_mut())?,
        lens: operands.read("lengths of the sequences", &inputs.lens)?,
        span_starts: operands.read_optional("span starts", inputs.span_starts.as_ref())?,
        page_table: operands.read_optional("page table", inputs.page_table.as_ref())?,
        kept: operands.read_optional("kept", inputs.kept.as_ref())?,
        kept_lens: operands.read_optional("kept_lens", inputs.kept_lens.as_ref())?,
        attention_sink: operands.read_optional("attention_sink", inputs.attention_sink.as_ref())?,
        k_scales: operands.read_optional("scales of k", inputs.k_scales.as_ref())?,
        v_scales: operands.read_optional("scales of v", inputs.v_scales.as_ref())?,
        status: word(operands.write("status", &mut status)?),
        workspace: operands.write_optional("workspace", workspace)?.unwrap_or_default(),
    };
    let params = decode_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths and their
    // types.
    unsafe { operands.launch("decode", raw::salient_decode, &params) }
}
