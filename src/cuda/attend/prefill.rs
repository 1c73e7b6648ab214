//! Many queries per sequence.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView};

use super::AttendOutputs;
use crate::cuda::operands::{Operands, check_dtype};
use crate::cuda::select::word;
use crate::cuda::{DeviceElement, StatusWord};
use crate::error::Result;
use crate::kernels::attend::{PrefillBuffers, PrefillPlan, prefill_params};
use crate::kernels::raw;

/// What a prefill reads. Queries, keys and values lie as the plan says and may be longer; the
/// lengths of the others are in elements and exact.
#[derive(Debug)]
pub struct PrefillInputs<'a, T> {
    /// `[queries, q heads, dim]`.
    pub q: CudaView<'a, T>,
    /// `[keys, KV heads, dim]`.
    pub k: CudaView<'a, T>,
    /// `[keys, KV heads, dim]`.
    pub v: CudaView<'a, T>,
    /// `[batch + 1]`.
    pub cu_queries: CudaView<'a, i32>,
    /// `[batch]` the first key row of every sequence.
    pub key_starts: CudaView<'a, i32>,
    /// `[batch]` its key rows.
    pub key_lens: CudaView<'a, i32>,
    /// `[queries]` the first key row that each query sees, counted from its sequence's first; with
    /// [`RowLimit::Between`](crate::attend::RowLimit::Between) only.
    pub firsts: Option<CudaView<'a, i32>>,
    /// `[queries]` row limits; with [`RowLimit::PerRow`](crate::attend::RowLimit::PerRow) and that,
    /// and only then.
    pub limits: Option<CudaView<'a, i32>>,
    /// `[q heads]` learned logits that join every row of their head
    /// ([`Attention::attention_sink`](crate::attend::Attention::attention_sink)). One that is NaN or infinity
    /// makes NaN of its head's rows.
    pub attention_sink: Option<CudaView<'a, f32>>,
}

/// Attention of packed queries over the keys of their sequences, `softmax(scale q k) v`, in f32 and
/// in a fixed order. A row that sees no key becomes 0.
///
/// A first row or limit beyond the keys is cut off and reported in `status`. Sequences with invalid
/// offsets or lengths are reported and skipped: nothing of theirs is written.
///
/// ```no_run
/// use half::bf16;
/// use salient::cuda::StatusWord;
/// use salient::cuda::attend::{AttendOutputs, PrefillInputs, prefill};
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::attend::{Attention, RowLimit};
/// use salient::kernels::attend::{PrefillPlan, PrefillShape};
/// use salient::{DType, Layout};
/// # fn main() -> salient::Result<()> {
/// let (tokens, q_heads, kv_heads, dim) = (4096, 32, 8, 128);
/// let (queries, keys) = (Layout::token_major(q_heads, dim), Layout::token_major(kv_heads, dim));
/// let shape = PrefillShape {
///     batch: 1,
///     queries: tokens,
///     max_queries: tokens,
///     keys: tokens,
///     dtype: DType::Bf16,
///     out_dtype: DType::Bf16,
///     q: queries,
///     k: keys,
///     v: keys,
///     out: queries,
/// };
/// let plan = PrefillPlan::new(shape, Attention::new((dim as f32).powf(-0.5)), RowLimit::Causal)?;
/// let stream = CudaContext::new(0)?.default_stream();
/// let q = stream.alloc_zeros::<bf16>(tokens * q_heads * dim)?;
/// let k = stream.alloc_zeros::<bf16>(tokens * kv_heads * dim)?;
/// let v = stream.alloc_zeros::<bf16>(tokens * kv_heads * dim)?;
/// let mut out = stream.alloc_zeros::<bf16>(tokens * q_heads * dim)?;
/// let cu_queries = stream.clone_htod(&[0, tokens as i32])?;
/// let (starts, lens) = (stream.clone_htod(&[0])?, stream.clone_htod(&[tokens as i32])?);
/// let mut status = StatusWord::new(&stream)?;
/// prefill(
///     &stream,
///     &plan,
///     &PrefillInputs {
///         q: q.as_view(),
///         k: k.as_view(),
///         v: v.as_view(),
///         cu_queries: cu_queries.as_view(),
///         key_starts: starts.as_view(),
///         key_lens: lens.as_view(),
///         firsts: None,
///         limits: None,
///         sinks: None,
///     },
///     &mut AttendOutputs::new(out.as_view_mut()),
///     &mut status,
/// )?;
/// status.read(&stream)?.check()?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`prefill_params`]; [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for a plan of
/// other types; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn prefill<T: DeviceElement, O: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &PrefillPlan,
    inputs: &PrefillInputs<'_, T>,
    outputs: &mut AttendOutputs<'_, O>,
    status: &mut StatusWord,
) -> Result<()> {
    check_dtype("q, k and v", plan.shape().dtype, T::DTYPE)?;
    check_dtype("out", plan.shape().out_dtype, O::DTYPE)?;
    let mut status = status.view();
    let mut operands = Operands::<12>::new(stream)?;
    let buffers = PrefillBuffers {
        q: operands.read("q", &inputs.q)?,
        k: operands.read("k", &inputs.k)?,
        v: operands.read("v", &inputs.v)?,
        out: operands.write("out", &mut outputs.out)?,
        lse: operands.write_optional("lse", outputs.lse.as_mut())?,
        cu_queries: operands.read("cu_queries", &inputs.cu_queries)?,
        key_starts: operands.read("key starts", &inputs.key_starts)?,
        key_lens: operands.read("key lengths", &inputs.key_lens)?,
        firsts: operands.read_optional("first rows", inputs.firsts.as_ref())?,
        limits: operands.read_optional("row limits", inputs.limits.as_ref())?,
        attention_sink: operands.read_optional("attention_sink", inputs.attention_sink.as_ref())?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = prefill_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths and their
    // types.
    unsafe { operands.launch("prefill", raw::salient_prefill, &params) }
}
