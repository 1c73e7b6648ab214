//! Scores from attention on a device, and their pooling.

use std::sync::Arc;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut};

use super::super::operands::Operands;
use super::super::select::word;
use super::super::{DeviceElement, StatusWord};
use super::check_dtype;
use crate::error::Result;
use crate::kernels::raw;
use crate::kernels::score::{
    AttentionBuffers, AttentionPlan, PoolBuffers, PoolPlan, attention_params, pool_params,
};

/// What attention scores are made from.
#[derive(Debug)]
pub struct AttentionInputs<'a, T> {
    /// `[queries, q heads, dim]`, as the plan's layout says.
    pub q: CudaView<'a, T>,
    /// `[total, KV heads, dim]`, as the plan's layout says.
    pub k: CudaView<'a, T>,
    /// `[queries, q heads]`, as a causal prefill saves it, if and only if the plan asks for it.
    pub lse: Option<CudaView<'a, f32>>,
    /// `[batch + 1]`: where each sequence's query rows begin. Its window is the last of them.
    pub cu_queries: CudaView<'a, i32>,
    /// `[batch + 1]`: where its keys begin.
    pub cu_seqlens: CudaView<'a, i32>,
}

/// Scores tokens by the attention that the last queries of their sequence pay them, into `scores`,
/// `[total]` or `[KV heads, total]`: [`crate::host::score::window`], or
/// [`crate::host::score::columns`], as the plan says. `workspace` holds at least
/// [`AttentionPlan::workspace_bytes`]. Of a sequence's query rows, and of a window, only as many
/// queries count as it has keys.
///
/// A sequence with invalid offsets is a [`crate::Fault::Lengths`] of `status` and keeps
/// the scores that lie there. A NaN or infinity reaches the scores of its own sequence that the
/// definition says.
///
/// ```no_run
/// use half::bf16;
/// use salient::cuda::StatusWord;
/// use salient::cuda::cudarc::driver::CudaContext;
/// use salient::cuda::score::{AttentionInputs, attention};
/// use salient::score::{AttentionScore, HeadReduce, Per, QueryWeights};
/// use salient::kernels::score::{AttentionPlan, AttentionShape};
/// use salient::{DType, Layout};
/// # fn main() -> salient::Result<()> {
/// let (tokens, q, k) = (16_384, Layout::token_major(32, 128), Layout::token_major(8, 128));
/// let dtype = DType::Bf16;
/// let (queries, total, max_len) = (tokens, tokens, tokens);
/// let shape = AttentionShape { batch: 1, queries, total, max_len, dtype, q, k };
/// let score = AttentionScore {
///     scale: 128f32.powf(-0.5),
///     heads: HeadReduce::Mean,
///     per: Per::Token,
///     pool: None,
///     query_weights: QueryWeights::Uniform,
/// };
/// let last_query = AttentionPlan::window(shape, score, 1)?;
/// let stream = CudaContext::new(0)?.default_stream();
/// let q = stream.alloc_zeros::<bf16>(tokens * 32 * 128)?;
/// let k = stream.alloc_zeros::<bf16>(tokens * 8 * 128)?;
/// let cu_seqlens = stream.clone_htod(&[0, tokens as i32])?;
/// let mut scores = stream.alloc_zeros::<f32>(last_query.scores_len())?;
/// let mut workspace = stream.alloc_zeros::<u8>(last_query.workspace_bytes())?;
/// let mut status = StatusWord::new(&stream)?;
/// let inputs = AttentionInputs {
///     q: q.as_view(),
///     k: k.as_view(),
///     lse: None,
///     cu_queries: cu_seqlens.as_view(),
///     cu_seqlens: cu_seqlens.as_view(),
/// };
/// attention(
///     &stream,
///     &last_query,
///     &inputs,
///     &mut scores.as_view_mut(),
///     &mut workspace.as_view_mut(),
///     &mut status,
/// )?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Those of [`attention_params`]; [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for a plan
/// of another type; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn attention<T: DeviceElement>(
    stream: &Arc<CudaStream>,
    plan: &AttentionPlan,
    inputs: &AttentionInputs<'_, T>,
    scores: &mut CudaViewMut<'_, f32>,
    workspace: &mut CudaViewMut<'_, u8>,
    status: &mut StatusWord,
) -> Result<()> {
    check_dtype("q and k", plan.shape().dtype, T::DTYPE)?;
    let mut status = status.view();
    let mut operands = Operands::<8>::new(stream)?;
    let buffers = AttentionBuffers {
        q: operands.read("q", &inputs.q)?,
        k: operands.read("k", &inputs.k)?,
        lse: operands.read_optional("lse", inputs.lse.as_ref())?,
        cu_queries: operands.read("cu_queries", &inputs.cu_queries)?,
        cu_seqlens: operands.read("cu_seqlens", &inputs.cu_seqlens)?,
        scores: operands.write("scores", scores)?,
        workspace: operands.write("workspace", workspace)?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = attention_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths and their
    // type.
    unsafe { operands.launch("attention_score", raw::salient_attention_score, &params) }
}

/// Pools `scores`, `[heads, total]`, along the tokens of each sequence into `out`,
/// `[heads, total]`: [`crate::host::score::pool`]. A sequence with invalid offsets is a
/// [`crate::Fault::Lengths`] of `status` and is left out.
///
/// # Errors
/// Those of [`pool_params`]; [`Error::OtherContext`](crate::Error::OtherContext),
/// [`Error::Driver`](crate::Error::Driver) and [`Error::Launch`](crate::Error::Launch).
pub fn pool(
    stream: &Arc<CudaStream>,
    plan: &PoolPlan,
    scores: &CudaView<'_, f32>,
    cu_seqlens: &CudaView<'_, i32>,
    out: &mut CudaViewMut<'_, f32>,
    status: &mut StatusWord,
) -> Result<()> {
    let mut status = status.view();
    let mut operands = Operands::<4>::new(stream)?;
    let buffers = PoolBuffers {
        scores: operands.read("scores", scores)?,
        cu_seqlens: operands.read("cu_seqlens", cu_seqlens)?,
        out: operands.write("out", out)?,
        status: word(operands.write("status", &mut status)?),
    };
    let params = pool_params(plan, &buffers)?;
    // SAFETY: the parameters were made from the operands, checked against their lengths.
    unsafe { operands.launch("pool", raw::salient_pool, &params) }
}
