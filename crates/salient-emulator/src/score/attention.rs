//! Scores from attention on the emulated kernels.

use std::ffi::{c_int, c_void};

use salient::host::attend::{Attention, Keys, RowLimit};
use salient::host::score::{AttentionScore, Pool};
use salient::kernels::raw::{SalientAttentionScoreParams, SalientPoolParams};
use salient::kernels::score::{
    AttentionBuffers, AttentionPlan, AttentionShape, PoolBuffers, PoolPlan, attention_params,
    check_attention, pool_params,
};
use salient::kernels::{Buffer as Place, Status};
use salient::{Element, Error, Layout, Ragged, Result, Span, View};
use salient_oracle::implementation::{Sample, ScoreAttention};

use crate::attend::PrefillRun;
use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::{Buffer, place};

unsafe extern "C" {
    fn salient_emulated_attention_score(
        params: *const SalientAttentionScoreParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_mutated_attention_score(
        params: *const SalientAttentionScoreParams,
        stream: *mut c_void,
    ) -> c_int;
    fn salient_emulated_pool(params: *const SalientPoolParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_pool(params: *const SalientPoolParams, stream: *mut c_void) -> c_int;
}

/// The buffers of attention scores, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct AttentionRun<T: Element> {
    plan: AttentionPlan,
    q: Buffer<T>,
    k: Buffer<T>,
    /// `[queries, q heads]`.
    pub lse: Option<Buffer<f32>>,
    /// As the plan says.
    pub scores: Buffer<f32>,
    /// `[batch + 1]`.
    pub cu_queries: Buffer<i32>,
    /// `[batch + 1]`.
    pub cu_seqlens: Buffer<i32>,
    status: Buffer<u32>,
    workspace: Buffer<u8>,
}

impl<T: Element> AttentionRun<T> {
    /// Uploads a problem whose plan is made of its shape; scores are poison.
    ///
    /// # Errors
    /// Those of the plan.
    pub fn new(
        device: &Device,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        lse: Option<&[f32]>,
    ) -> Result<Self> {
        let plan = plan(AttentionShape {
            batch: rows.batch(),
            queries: queries.total(),
            total: rows.total(),
            max_len: rows.lens().max().unwrap_or(0),
            dtype: T::DTYPE,
            q: q.layout,
            k: k.layout,
        })?;
        Ok(Self {
            plan,
            q: device.upload("q", q.data),
            k: device.upload("k", k.data),
            lse: lse.map(|lse| device.upload("lse", lse)),
            scores: device.alloc("scores", plan.scores_len()),
            cu_queries: device.upload("cu_queries", queries.cu_seqlens()),
            cu_seqlens: device.upload("cu_seqlens", rows.cu_seqlens()),
            status: device.upload("status", &Status::CLEAR.words()),
            workspace: device.alloc("workspace", plan.workspace_bytes()),
        })
    }

    /// Runs it, or its copy with mutants. Gives what was found wrong, and what every launch did.
    ///
    /// # Errors
    /// Those of [`attention_params`].
    ///
    /// # Panics
    /// If a kernel is at fault.
    pub fn launch(&self, on: &Emulated, device: &Device) -> Result<(Status, Vec<Launched>)> {
        let buffers = AttentionBuffers {
            q: place(&self.q),
            k: place(&self.k),
            lse: self.lse.as_ref().map(place),
            scores: place(&self.scores),
            cu_queries: place(&self.cu_queries),
            cu_seqlens: place(&self.cu_seqlens),
            status: Place::new(self.status.address(), 1),
            workspace: place(&self.workspace),
        };
        let params = attention_params(&self.plan, &buffers)?;
        let launcher = if on.mutant.is_some() {
            salient_mutated_attention_score
        } else {
            salient_emulated_attention_score
        };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = self.status.read();
        Ok((Status::from_words([words[0], words[1]]), launched))
    }
}

impl Emulated {
    /// The LSE of causal attention, `[queries, q heads]`, as the emulated prefill saves it.
    ///
    /// # Errors
    /// Those of [`PrefillRun::new`].
    ///
    /// # Panics
    /// If a kernel is at fault.
    pub fn saved_lse<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        scale: f32,
    ) -> Result<Vec<f32>> {
        let device = self.device();
        let spans: Vec<Span> = rows.spans().collect();
        let keys = Keys::Contiguous { k, v: k, spans: &spans };
        let layout = Layout::token_major(q.layout.heads, q.layout.dim);
        let heads = q.layout.heads * rows.total();
        let (out, lse) = (vec![T::from_f32(0.0); heads * q.layout.dim], vec![f32::NAN; heads]);
        let (output, attention) = ((&out[..], layout), Attention::new(scale));
        let limit = RowLimit::Causal;
        let run = PrefillRun::new(&device, q, rows, &keys, limit, &attention, output, Some(&lse))?;
        run.launch(self, &device)?.0.check()?;
        Ok(run.lse.expect("it was asked for").read())
    }

    fn attention<T: Element>(
        &self,
        plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
        (q, queries): (View<'_, T>, &Ragged),
        (k, rows): (View<'_, T>, &Ragged),
        lse: Option<&[f32]>,
        out: &mut [f32],
    ) -> Result<()> {
        let device = self.device();
        let run = AttentionRun::new(&device, plan, q, queries, k, rows, lse)?;
        same_len("out", run.plan.scores_len(), out.len())?;
        run.launch(self, &device)?.0.check()?;
        out.copy_from_slice(&run.scores.read());
        Ok(())
    }
}

impl ScoreAttention for Emulated {
    fn takes_attention<T: Element>(&self, q: Layout, k: Layout) -> bool {
        check_attention(q, k, T::DTYPE).is_ok()
    }

    fn attention_sample(&self) -> Sample {
        self.sample
    }

    fn last_query<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let queries = Ragged::from_lens(&vec![1; rows.batch()])?;
        let plan = |shape| AttentionPlan::window(shape, *score, 1);
        self.attention(plan, (q, &queries), (k, rows), None, out)
    }

    fn window<T: Element>(
        &self,
        q: View<'_, T>,
        queries: &Ragged,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        same_len("sequences of queries", rows.batch(), queries.batch())?;
        if let Some((window, _)) =
            queries.lens().zip(rows.lens()).find(|(window, len)| window > len)
        {
            let (what, value) = ("queries of a window", window as f64);
            return Err(Error::OutOfRange { what, value, expected: "at most its tokens" });
        }
        let window = queries.lens().max().unwrap_or(0);
        let plan = |shape| AttentionPlan::window(shape, *score, window);
        self.attention(plan, (q, queries), (k, rows), None, out)
    }

    /// From the LSE that the emulated prefill saves.
    fn columns<T: Element>(
        &self,
        q: View<'_, T>,
        k: View<'_, T>,
        rows: &Ragged,
        score: &AttentionScore,
        out: &mut [f32],
    ) -> Result<()> {
        let plan = |shape| AttentionPlan::columns(shape, *score);
        let lse = self.saved_lse(q, k, rows, score.scale)?;
        self.attention(plan, (q, rows), (k, rows), Some(&lse), out)
    }

    fn pool(&self, scores: &[f32], rows: &Ragged, pool: &Pool, out: &mut [f32]) -> Result<()> {
        let (total, max_len) = (rows.total(), rows.lens().max().unwrap_or(0));
        let heads = scores.len().checked_div(total).unwrap_or(1).max(1);
        let plan = PoolPlan::new(heads, rows.batch(), total, max_len, *pool)?;
        let device = self.device();
        let from = device.upload("scores", scores);
        let to = device.alloc::<f32>("out", out.len());
        let cu_seqlens = device.upload("cu_seqlens", rows.cu_seqlens());
        let status = device.upload("status", &Status::CLEAR.words());
        let buffers = PoolBuffers {
            scores: place(&from),
            out: place(&to),
            cu_seqlens: place(&cu_seqlens),
            status: Place::new(status.address(), 1),
        };
        let params = pool_params(&plan, &buffers)?;
        let launcher =
            if self.mutant.is_some() { salient_mutated_pool } else { salient_emulated_pool };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = status.read();
        Status::from_words([words[0], words[1]]).check()?;
        out.copy_from_slice(&to.read());
        Ok(())
    }
}

fn same_len(what: &'static str, expected: usize, actual: usize) -> Result<()> {
    if expected == actual { Ok(()) } else { Err(Error::LengthMismatch { what, expected, actual }) }
}
