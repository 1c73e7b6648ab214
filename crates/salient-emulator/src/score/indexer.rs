//! The lightning indexer on the emulated kernels.

use std::ffi::{c_int, c_void};

use salient::host::attend::RowLimit;
use salient::host::score::{IndexerKeys, IndexerQueries, Logits};
use salient::kernels::attend::Sees;
use salient::kernels::raw::SalientIndexerParams;
use salient::kernels::score::{IndexerBuffers, IndexerPlan, IndexerShape, indexer_params};
use salient::kernels::{Buffer as Place, Status};
use salient::{Element, Error, Layout, Result};
use salient_oracle::implementation::{Sample, ScoreIndexer};
use salient_oracle::plans;

use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::{Buffer, place};

unsafe extern "C" {
    fn salient_emulated_indexer(params: *const SalientIndexerParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_indexer(params: *const SalientIndexerParams, stream: *mut c_void) -> c_int;
}

/// The buffers of an indexer, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct IndexerRun<T: Element> {
    plan: IndexerPlan,
    q: Buffer<T>,
    weights: Buffer<f32>,
    k: Buffer<T>,
    scales: Option<Buffer<f32>>,
    /// `[batch + 1]`.
    pub cu_queries: Buffer<i32>,
    /// `[batch + 1]`.
    pub cu_keys: Buffer<i32>,
    /// `[queries]`.
    pub firsts: Option<Buffer<i32>>,
    /// `[queries]`.
    pub limits: Option<Buffer<i32>>,
    /// As the plan says.
    pub logits: Buffer<f32>,
    status: Buffer<u32>,
}

impl<T: Element> IndexerRun<T> {
    /// Uploads a problem whose logits, already filled, are `out`.
    ///
    /// # Errors
    /// Those of [`IndexerPlan::new`], and for queries and keys of different numbers of sequences.
    pub fn new(
        device: &Device,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &[f32],
    ) -> Result<Self> {
        let (expected, actual) = (queries.rows.batch(), keys.rows.batch());
        if expected != actual {
            return Err(Error::LengthMismatch { what: "sequences of keys", expected, actual });
        }
        let (firsts, limits, sees) = match queries.limit {
            RowLimit::Causal => (None, None, Sees::Causal),
            RowLimit::Full => (None, None, Sees::All),
            RowLimit::PerRow(limit) => (None, Some(limit), Sees::Rows),
            RowLimit::Between { first, limit } => (Some(first), Some(limit), Sees::Rows),
        };
        let plan = IndexerPlan::new(IndexerShape {
            batch: queries.rows.batch(),
            queries: queries.rows.total(),
            max_queries: queries.rows.lens().max().unwrap_or(0),
            keys: keys.rows.total(),
            max_keys: keys.rows.lens().max().unwrap_or(0),
            dtype: T::DTYPE,
            q: queries.q.layout,
            k: keys.k.layout,
            sees,
            logits,
        })?;
        Ok(Self {
            plan,
            q: device.upload("q", queries.q.data),
            weights: device.upload("weights", queries.weights),
            k: device.upload("k", keys.k.data),
            scales: keys.scales.map(|scales| device.upload("scales", scales)),
            cu_queries: device.upload("cu_queries", queries.rows.cu_seqlens()),
            cu_keys: device.upload("cu_keys", keys.rows.cu_seqlens()),
            firsts: firsts.map(|firsts| device.upload("firsts", firsts)),
            limits: limits.map(|limits| device.upload("limits", limits)),
            logits: device.upload("logits", out),
            status: device.upload("status", &Status::CLEAR.words()),
        })
    }

    /// Runs it, or its copy with mutants. Gives what was found wrong, and what every launch did.
    ///
    /// # Errors
    /// Those of [`indexer_params`].
    ///
    /// # Panics
    /// If the kernel is at fault.
    pub fn launch(&self, on: &Emulated, device: &Device) -> Result<(Status, Vec<Launched>)> {
        let buffers = IndexerBuffers {
            q: place(&self.q),
            weights: place(&self.weights),
            k: place(&self.k),
            scales: self.scales.as_ref().map(place),
            cu_queries: place(&self.cu_queries),
            cu_keys: place(&self.cu_keys),
            firsts: self.firsts.as_ref().map(place),
            limits: self.limits.as_ref().map(place),
            logits: place(&self.logits),
            status: Place::new(self.status.address(), 1),
        };
        let params = indexer_params(&self.plan, &buffers)?;
        let launcher =
            if on.mutant.is_some() { salient_mutated_indexer } else { salient_emulated_indexer };
        // SAFETY: the parameters are those that the plan makes of live buffers of this device.
        let launched = device.run(|stream| unsafe { launcher(&raw const params, stream) });
        let launched = launched.unwrap_or_else(|fault| panic!("{fault}"));
        let words = self.status.read();
        Ok((Status::from_words([words[0], words[1]]), launched))
    }
}

impl ScoreIndexer for Emulated {
    fn indexer<T: Element>(
        &self,
        queries: &IndexerQueries<'_, T>,
        keys: &IndexerKeys<'_, T>,
        logits: Logits,
        out: &mut [f32],
    ) -> Result<()> {
        let device = self.device();
        let run = IndexerRun::new(&device, queries, keys, logits, out)?;
        run.launch(self, &device)?.0.check()?;
        out.copy_from_slice(&run.logits.read());
        Ok(())
    }

    fn takes_indexer<T: Element>(&self, q: Layout, k: Layout) -> bool {
        plans::takes_indexer(T::DTYPE, q, k)
    }

    fn indexer_sample(&self) -> Sample {
        self.sample
    }
}
