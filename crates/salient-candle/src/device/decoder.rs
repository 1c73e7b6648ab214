//! Greedy decoding whose every step does the same to the same tensors, so that a CUDA graph can
//! hold it.

use candle_core::{D, DType, Device, Tensor};

use super::cache::{CachedKeys, DeviceCache};
use super::{DeviceModel, HostVerbs, Verbs, unsupported};
#[cfg(feature = "cuda")]
use crate::cuda::StepGraph;
use crate::error::{Error, Result};
use crate::model::Projection;

/// Takes one step after another for every sequence of a cache, and chooses the most likely token.
///
/// What changes from step to step (tokens, positions, numbers of keys) lies on the device and is
/// counted on there, and caches have room for all steps: a step is the same launches over the same
/// memory. On a CUDA device the first step runs as it is, the second is captured into a graph on
/// the way, and all from there on are one launch each. In host memory every step runs as it is.
///
/// ```no_run
/// use salient::schedule::Plan;
/// use salient_candle::device::{DeviceModel, DeviceScorer};
///
/// # fn answer(
/// #     model: &DeviceModel, prompt: Vec<u32>, plan: &Plan, scorer: &DeviceScorer,
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
pub struct DeviceDecoder<'a> {
    model: &'a DeviceModel,
    state: State,
    cache: DeviceCache,
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
    Host(HostVerbs),
    #[cfg(feature = "cuda")]
    Cuda(Box<StepGraph>),
}

impl DeviceModel {
    /// Decodes greedily from a cache in which every sequence has tokens: `tokens` are those that
    /// follow, one for each, and `steps` the most steps that will be taken.
    ///
    /// # Errors
    /// Those of [`DeviceModel::extend`]; [`Error::Unsupported`] for layers with a sliding window,
    /// and unless the model is f16 or bf16 on a CUDA device: there the kernel attends.
    pub fn decoder(
        &self,
        mut cache: DeviceCache,
        tokens: &[u32],
        steps: usize,
    ) -> Result<DeviceDecoder<'_>> {
        let next: Vec<Vec<u32>> = tokens.iter().map(|&token| vec![token; steps]).collect();
        self.config.check_steps(&next, cache.next_positions())?;
        self.config.check_tokens(tokens)?;
        let on = match &self.device {
            Device::Cpu => On::Host(HostVerbs::default()),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => On::Cuda(Box::new(StepGraph::new(device)?)),
            other => return Err(unsupported(other)),
        };
        let taken = |layer| match &on {
            On::Host(verbs) => self.attends(layer, verbs),
            #[cfg(feature = "cuda")]
            On::Cuda(graph) => self.attends(layer, graph.verbs()),
        };
        if let Some(layer) = (0..self.config.layers).find(|&layer| !taken(layer)) {
            return Err(Error::Unsupported {
                what: "attention of a decoder",
                name: match self.window_at(layer) {
                    Some(window) => format!("a sliding window of {window} at layer {layer}"),
                    None => format!("{:?}", self.dtype()),
                },
                supported: "full attention, on a CUDA device in f16 or bf16",
            });
        }
        for sequence in 0..cache.batch() {
            if cache.layers().iter().any(|layer| layer.is_empty(sequence)) {
                return Err(Error::EmptyPrompt { sequence });
            }
        }
        cache.make_room(steps)?;
        let mut state = State {
            tokens: Tensor::new(tokens, &self.device)?,
            positions: self.numbers(cache.next_positions())?,
            cached: Vec::new(),
            at: Vec::new(),
            ones: Tensor::ones(tokens.len(), DType::U32, &self.device)?,
        };
        for layer in cache.layers() {
            state.cached.push(CachedKeys { capacity: layer.capacity(), ..layer.cached()? });
            state.at.push(layer.positions()?.clone());
        }
        // What is uploaded must be there before another thread or a graph reads it.
        self.device.synchronize()?;
        Ok(DeviceDecoder { model: self, state, cache, steps, on })
    }

    fn numbers(&self, numbers: &[usize]) -> Result<Tensor> {
        let numbers: Vec<u32> = numbers.iter().map(|&number| number as u32).collect();
        Ok(Tensor::new(numbers, &self.device)?)
    }
}

impl DeviceDecoder<'_> {
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
            On::Host(verbs) => state.advance(model, verbs)?,
            #[cfg(feature = "cuda")]
            On::Cuda(graph) => graph.run(|verbs| state.advance(model, verbs))?,
        }
        self.steps = left;
        self.cache.count(1);
        Ok(state.tokens.to_vec1()?)
    }

    /// The cache, grown by the steps that were taken.
    pub fn into_cache(self) -> DeviceCache {
        self.cache
    }
}

impl State {
    /// One step: in the end the tensors are those of the next one.
    fn advance<V: Verbs>(&self, model: &DeviceModel, verbs: &mut V) -> Result<()> {
        let mut hidden = model.embedding.index_select(&self.tokens, 0)?;
        for ((block, cached), at) in model.blocks.iter().zip(&self.cached).zip(&self.at) {
            let normed = model.rms_norm(&hidden, &block.attn_norm)?;
            let project = |which| model.project(block, which, &normed, &self.positions);
            let place = (&cached.starts + &cached.lens)?;
            for (store, which) in
                [(&cached.keys, Projection::Key), (&cached.values, Projection::Value)]
            {
                let new = project(which)?.contiguous()?;
                let place = place.reshape(((), 1, 1))?.broadcast_as(new.shape())?;
                store.scatter_set(&place.contiguous()?, &new, 0)?;
            }
            at.scatter_set(&place, &self.positions, 0)?;
            cached.lens.slice_set(&(&cached.lens + &self.ones)?, 0, 0)?;
            let q = project(Projection::Query)?;
            let attended = verbs.decode(&q, cached, model.config.attention_scale())?;
            hidden = model.finish_block(block, &hidden, &attended)?;
        }
        self.tokens.slice_set(&model.logits(&hidden)?.argmax(D::Minus1)?, 0, 0)?;
        self.positions.slice_set(&(&self.positions + &self.ones)?, 0, 0)?;
        Ok(())
    }
}
