//! Greedy decoding whose every step does the same to the same tensors, so that a CUDA graph can
//! hold it.

use candle_core::{D, DType, Device, Tensor};

use crate::backend::{Backend, HostBackend, unsupported};
use crate::cache::{CachedKeys, KvCache};
use crate::config::ModelConfig;
#[cfg(feature = "cuda")]
use crate::cuda::StepGraph;
use crate::error::{Error, Result};
use crate::model::Model;

/// Takes one step after another for every sequence of a cache, and chooses the most likely token.
///
/// What changes from step to step (tokens, positions, numbers of keys) lies on the device and is
/// counted on there, and caches have room for all steps: a step is the same launches over the same
/// memory. On a CUDA device the first step runs as it is, the second is captured into a graph on
/// the way, and all from there on are one launch each. In host memory every step runs as it is.
///
/// ```no_run
/// use salient::schedule::Plan;
/// use salient_candle::Model;
/// use salient_candle::scorer::Scorer;
///
/// # fn answer(
/// #     model: &Model, prompt: Vec<u32>, plan: &Plan, scorer: &dyn Scorer,
/// # ) -> Result<Vec<u32>, salient_candle::Error> {
/// let prefill = model.prefill(&[prompt], plan, scorer, 64)?;
/// let first = prefill.logits(model)?.argmax(1)?.to_vec1()?;
/// let mut decoder = model.decoder(prefill.cache, &first, 63)?;
/// let mut answer = first;
/// for _ in 0..63 {
///     answer.extend(decoder.step()?);
/// }
/// # Ok(answer)
/// # }
/// ```
#[derive(Debug)]
pub struct Decoder<'a> {
    model: &'a Model,
    state: State,
    cache: KvCache,
    steps: usize,
    on: On,
}

/// The tensors that every step reads and writes.
#[derive(Debug)]
struct State {
    /// u32 `[batch]`, the tokens of the next step.
    tokens: Tensor,
    /// u32 `[batch]`, where they stand.
    positions: Tensor,
    /// Of every layer; the number of keys counts up.
    cached: Vec<CachedKeys>,
    /// u32 `[room]` by layer, the original positions of the keys.
    at: Vec<Tensor>,
    /// u32 `[batch]`.
    ones: Tensor,
}

/// What runs a step.
#[derive(Debug)]
enum On {
    Host(HostBackend),
    #[cfg(feature = "cuda")]
    Cuda(Box<StepGraph>),
}

impl Model {
    /// Decodes greedily from a cache in which every sequence has tokens: `tokens` are those that
    /// follow, one for each, and `steps` the most steps that will be taken.
    ///
    /// # Errors
    /// Those of [`Model::extend`]; [`Error::Unsupported`] for layers with a sliding window,
    /// and unless the model is f16 or bf16 on a CUDA device: there the kernel attends.
    pub fn decoder(&self, mut cache: KvCache, tokens: &[u32], steps: usize) -> Result<Decoder<'_>> {
        let next: Vec<Vec<u32>> = tokens.iter().map(|&token| vec![token; steps]).collect();
        let config = self.config();
        config.check_steps(&next, cache.next_positions())?;
        config.check_tokens(tokens)?;
        let on = match self.device() {
            Device::Cpu => On::Host(HostBackend),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => On::Cuda(Box::new(StepGraph::new(device)?)),
            other => return Err(unsupported(other)),
        };
        let (dtype, &ModelConfig { heads, kv_heads, head_dim, .. }) = (self.dtype(), config);
        let decodes = match &on {
            On::Host(backend) => backend.decodes(dtype, heads, kv_heads, head_dim),
            #[cfg(feature = "cuda")]
            On::Cuda(graph) => graph.backend().decodes(dtype, heads, kv_heads, head_dim),
        };
        let windowed = (0..config.layers).find(|&layer| self.window_at(layer).is_some());
        if !decodes || windowed.is_some() {
            return Err(Error::Unsupported {
                what: "attention of a decoder",
                name: match windowed {
                    Some(layer) => format!("a sliding window at layer {layer}"),
                    None => {
                        format!("{dtype:?}, {heads} heads over {kv_heads} of {head_dim} channels")
                    }
                },
                supported: "full attention, on a CUDA device in f16 or bf16",
            });
        }
        for sequence in 0..cache.batch() {
            if cache.layers().iter().any(|layer| layer.spans()[sequence].len == 0) {
                return Err(Error::EmptyPrompt { sequence });
            }
        }
        cache.make_room(steps)?;
        let longest = cache.next_positions().iter().copied().max().unwrap_or(0);
        self.rope().reach(longest + steps)?;
        let mut state = State {
            tokens: Tensor::new(tokens, self.device())?,
            positions: self.numbers(cache.next_positions())?,
            cached: Vec::new(),
            at: Vec::new(),
            ones: Tensor::ones(tokens.len(), DType::U32, self.device())?,
        };
        for layer in cache.layers() {
            state.cached.push(CachedKeys { capacity: layer.capacity(), ..layer.cached()? });
            state.at.push(layer.all_positions()?.clone());
        }
        // What is uploaded must be there before another thread or a graph reads it.
        self.device().synchronize()?;
        Ok(Decoder { model: self, state, cache, steps, on })
    }

    fn numbers(&self, numbers: &[usize]) -> Result<Tensor> {
        let numbers: Vec<u32> = numbers.iter().map(|&number| number as u32).collect();
        Ok(Tensor::new(numbers, self.device())?)
    }
}

impl Decoder<'_> {
    /// Takes a step, and returns the token that follows for every sequence. Waits for the device.
    ///
    /// # Errors
    /// [`Error::ContextExceeded`] after as many steps as were planned, and those of candle and the
    /// verbs.
    pub fn step(&mut self) -> Result<Vec<u32>> {
        let Some(left) = self.steps.checked_sub(1) else {
            let (tokens, context) = (1, 0);
            return Err(Error::ContextExceeded { tokens, context });
        };
        let (model, state) = (self.model, &self.state);
        match &mut self.on {
            On::Host(backend) => state.advance(model, backend)?,
            #[cfg(feature = "cuda")]
            On::Cuda(graph) => graph.run(|backend| state.advance(model, backend))?,
        }
        self.steps = left;
        self.cache.count(1);
        Ok(state.tokens.to_vec1()?)
    }

    /// The cache, grown by the steps that were taken.
    pub fn into_cache(self) -> KvCache {
        self.cache
    }
}

impl State {
    /// One step: in the end the tensors are those of the next one.
    fn advance<B: Backend>(&self, model: &Model, backend: &mut B) -> Result<()> {
        let mut hidden = model.embedding().index_select(&self.tokens, 0)?;
        for ((block, cached), at) in model.blocks().iter().zip(&self.cached).zip(&self.at) {
            let normed = backend.rms_norm(&hidden, &block.attn_norm, model.rms_eps())?;
            let [q, k, v] = model.qkv(backend, block, &normed, &self.positions)?;
            let place = (&cached.starts + &cached.lens)?;
            for (store, new) in [(&cached.keys, k), (&cached.values, v)] {
                let place = place.reshape(((), 1, 1))?.broadcast_as(new.shape())?;
                store.scatter_set(&place.contiguous()?, &new.contiguous()?, 0)?;
            }
            at.scatter_set(&place, &self.positions, 0)?;
            cached.lens.slice_set(&(&cached.lens + &self.ones)?, 0, 0)?;
            let attended = backend.decode(&q, cached, model.config().attention_scale())?;
            hidden = model.after_attention(backend, block, hidden, &attended)?;
        }
        let logits = model.logits(backend, &hidden)?;
        self.tokens.slice_set(&logits.argmax(D::Minus1)?, 0, 0)?;
        self.positions.slice_set(&(&self.positions + &self.ones)?, 0, 0)?;
        Ok(())
    }
}
