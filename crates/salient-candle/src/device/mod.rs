//! Pruned prefill where candle's tensors are: on a CUDA device with feature `cuda`, else in host
//! memory.
//!
//! A [`DeviceModel`] follows the same [`Plan`] as a [`Model`] and keeps everything, the selections
//! too, where its tensors are. All sizes are planned from prompt lengths, so a prefill waits for
//! the device once, at its end. Score, select, compact and attend go through [`Verbs`]: salient's
//! kernels on a CUDA device, the host backend in host memory. Everything else is candle's own
//! operations, and attention too where the kernels do not take it: in f32 on a CUDA device, and in
//! layers with a sliding window, which after a stage counts positions and not rows. It is a masked
//! product then, in parts so that its memory stays bounded.
//!
//! ```no_run
//! use candle_core::{DType, Device};
//! use salient::schedule::Schedule;
//! use salient_candle::device::{DeviceModel, DevicePredictor, DeviceScorer};
//! use salient_candle::{load, scorer::Learned};
//!
//! # fn main() -> Result<(), salient_candle::Error> {
//! let loaded = load("model-folder")?;
//! let model = DeviceModel::new(&loaded.model, &Device::cuda_if_available(0)?, DType::BF16)?;
//! let prompt = loaded.tokenizer.encode("A long document, and a question?")?;
//! let plan = Schedule::sdtp().plan(&[prompt.len()], model.config().layers)?;
//! let weights = Learned::read_weights("predictors.safetensors", model.config())?;
//! let scorer = DeviceScorer::learned(weights, &model)?;
//! let mut prefill = model.prefill(&[prompt], &plan, &scorer, 64)?;
//! let token = prefill.logits(&model)?.argmax(1)?.to_vec1()?[0];
//! let hidden = model.extend(&[vec![token]], &mut prefill.cache)?;
//! let next = model.logits(&hidden)?.argmax(1)?;
//! # Ok(())
//! # }
//! ```
//!
//! In host memory it is slower than [`Model`]; it is there so that a run without a GPU tests what a
//! device does, but for the kernels themselves and candle's.
//!
//! # Threads
//!
//! candle's CUDA device uses the per-thread default stream: another stream on every thread. A
//! prefill has ended when it returns. What [`DeviceModel::extend`] returns, and the cache that it
//! appends to, may be used on its thread at once, on another one after `Device::synchronize`.

mod attend;
mod cache;
mod decoder;
mod scorer;
mod verbs;

use std::time::{Duration, Instant};

use candle_core::{D, DType, Device, Tensor};
use salient::Ragged;
use salient::schedule::{KvAtStage, Plan, StagePlan};

pub use cache::{CachedKeys, DeviceCache, DeviceLayer};
pub use decoder::DeviceDecoder;
pub use scorer::{DevicePredictor, DeviceScorer};
pub use verbs::{HostVerbs, Verbs};
#[cfg(feature = "cuda")]
pub(crate) use verbs::{check_rows, check_stage, misplaced, request};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::forward::last_rows;
use crate::model::{Block, Model, Projection};
use attend::{Attention, Queries, WEIGHTS, attend};
use scorer::Scored;

/// Rows that go through the feed-forward network at once, so that its wide activations do not grow
/// with the prompt.
const FFN_ROWS: usize = 8192;

/// A Llama-family decoder whose weights are tensors of one type on one device.
#[derive(Debug)]
pub struct DeviceModel {
    config: ModelConfig,
    device: Device,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Tensor,
    /// Cosines and sines of every position, `[context, head_dim / 2]` each.
    rope: [Tensor; 2],
}

/// What a pruned prefill leaves behind on the device.
#[derive(Debug)]
pub struct DevicePrefill {
    /// Final hidden states of the surviving tokens, `[rows, hidden]`, before the last RMSNorm.
    pub hidden: Tensor,
    /// Where each sequence's survivors lie in `hidden`.
    pub rows: Ragged,
    /// Keys and values of every layer.
    pub cache: DeviceCache,
    /// What each stage did.
    pub stages: Vec<DeviceStage>,
    /// Time of the whole prefill, the device's work done.
    pub elapsed: Duration,
}

/// What one stage kept; its tensors are on the device.
#[derive(Debug)]
pub struct DeviceStage {
    /// The block on whose entry the stage stands.
    pub layer: usize,
    /// The tokens that came in.
    pub incoming: Ragged,
    /// Original positions of the tokens that came in, packed, u32 `[tokens]`.
    pub incoming_positions: Tensor,
    /// Scores of the tokens that came in, packed, f32 `[tokens]`.
    pub scores: Tensor,
    /// The tokens that stayed.
    pub kept: Ragged,
    /// Original positions of the tokens that stayed, packed, u32 `[kept]`.
    pub kept_positions: Tensor,
}

impl DevicePrefill {
    /// Next-token logits of every sequence, `[batch, vocab]`.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, model: &DeviceModel) -> Result<Tensor> {
        model.logits(&last_rows(&self.hidden, &self.rows)?)
    }
}

/// Packed rows on their way up the blocks.
struct Rows {
    hidden: Tensor,
    /// u32 `[rows]`.
    positions: Tensor,
    ragged: Ragged,
}

impl DeviceModel {
    /// Copies a model's weights to a device, as `dtype`: f32, f16 or bf16. Predictors score on a
    /// CUDA device in f16 and bf16 only.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for another type, those of candle.
    pub fn new(model: &Model, device: &Device, dtype: DType) -> Result<Self> {
        if !matches!(dtype, DType::F32 | DType::F16 | DType::BF16) {
            return Err(Error::Unsupported {
                what: "type of a model on a device",
                name: dtype.as_str().into(),
                supported: "f32, f16, bf16",
            });
        }
        let put = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        let config = model.config().clone();
        let embedding = put(model.embedding())?;
        let head = if config.tied { embedding.clone() } else { put(model.head())? };
        let blocks = model.blocks().iter().map(|block| block.map(put)).collect::<Result<_>>()?;
        let table = model.rope();
        let shape = (config.context, table.half);
        let rope = [
            put(&Tensor::from_slice(&table.cos, shape, &Device::Cpu)?)?,
            put(&Tensor::from_slice(&table.sin, shape, &Device::Cpu)?)?,
        ];
        let norm = put(model.final_norm())?;
        // For whatever thread runs it.
        device.synchronize()?;
        Ok(Self { config, device: device.clone(), embedding, blocks, norm, head, rope })
    }

    /// The model's shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Where the weights are.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// What the weights and hidden states are.
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// Runs prompts up the blocks, dropping tokens where `plan` has a stage, and fills a cache.
    /// `reserve` tokens per sequence can be appended to it without moving it.
    ///
    /// # Errors
    /// Those of [`Model::prefill`], and [`Error::Unsupported`] on a device that salient has no
    /// kernels for.
    pub fn prefill(
        &self,
        prompts: &[Vec<u32>],
        plan: &Plan,
        scorer: &DeviceScorer,
        reserve: usize,
    ) -> Result<DevicePrefill> {
        match &self.device {
            Device::Cpu => {
                self.prefill_with(&mut HostVerbs::default(), prompts, plan, scorer, reserve)
            }
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                let mut verbs = crate::cuda::CudaVerbs::new(device)?;
                self.prefill_with(&mut verbs, prompts, plan, scorer, reserve)
            }
            other => Err(unsupported(other)),
        }
    }

    /// The same with given verbs, so that they can be watched.
    ///
    /// # Errors
    /// Those of [`DeviceModel::prefill`], and of verbs for another device.
    pub fn prefill_with<V: Verbs>(
        &self,
        verbs: &mut V,
        prompts: &[Vec<u32>],
        plan: &Plan,
        scorer: &DeviceScorer,
        reserve: usize,
    ) -> Result<DevicePrefill> {
        let start = Instant::now();
        let lens = self.config.check_prompts(prompts, plan, reserve)?;
        let positions = lens.iter().flat_map(|&len| 0..len as u32).collect();
        let mut rows = self.rows(&prompts.concat(), positions, Ragged::from_lens(&lens)?)?;
        let mut cache = DeviceCache::new(self.config.layers, prompts.len(), reserve);
        cache.advance(&rows.ragged);
        let mut stages = Vec::with_capacity(plan.stages().len());
        for (layer, block) in self.blocks.iter().enumerate() {
            let Some((_, stage)) = plan.stage_at(layer) else {
                rows.hidden = self.run_block(layer, block, verbs, &mut cache, &rows)?;
                continue;
            };
            let kv = plan.kv_at_stage();
            stages.push(self.run_stage(stage, block, kv, verbs, scorer, &mut cache, &mut rows)?);
        }
        if verbs.finish()? {
            return Err(Error::Scorer { scorer: scorer.name(), reason: "a score is NaN".into() });
        }
        let Rows { hidden, ragged, .. } = rows;
        Ok(DevicePrefill { hidden, rows: ragged, cache, stages, elapsed: start.elapsed() })
    }

    /// Runs further tokens of every sequence against a cache, at the positions that follow, and
    /// appends them to it. Returns their final hidden states, `[tokens, hidden]`, packed.
    ///
    /// # Errors
    /// Those of [`Model::extend`].
    pub fn extend(&self, tokens: &[Vec<u32>], cache: &mut DeviceCache) -> Result<Tensor> {
        match &self.device {
            Device::Cpu => self.extend_with(&mut HostVerbs::default(), tokens, cache),
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => {
                self.extend_with(&mut crate::cuda::CudaVerbs::new(device)?, tokens, cache)
            }
            other => Err(unsupported(other)),
        }
    }

    /// Logits of hidden states, `[n, hidden]` to `[n, vocab]`. The vocabulary is wide: pass the
    /// rows that are needed.
    ///
    /// # Errors
    /// Those of candle.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        Ok(self.rms_norm(hidden, &self.norm)?.matmul(&self.head.t()?)?)
    }

    /// Nothing that the device could find fault with comes from it here, so nothing waits for it.
    fn extend_with<V: Verbs>(
        &self,
        verbs: &mut V,
        tokens: &[Vec<u32>],
        cache: &mut DeviceCache,
    ) -> Result<Tensor> {
        let next = cache.next_positions();
        let lens = self.config.check_steps(tokens, next)?;
        if lens.iter().all(|&len| len == 0) {
            // Devices neither allocate nothing nor launch over it.
            return Ok(self.embedding.narrow(0, 0, 0)?);
        }
        let positions = next
            .iter()
            .zip(&lens)
            .flat_map(|(&next, &len)| next as u32..(next + len) as u32)
            .collect();
        let mut rows = self.rows(&tokens.concat(), positions, Ragged::from_lens(&lens)?)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            rows.hidden = self.run_block(layer, block, verbs, cache, &rows)?;
        }
        cache.advance(&rows.ragged);
        Ok(rows.hidden)
    }

    /// Rows of tokens, of which there is at least one.
    fn rows(&self, tokens: &[u32], positions: Vec<u32>, ragged: Ragged) -> Result<Rows> {
        self.config.check_tokens(tokens)?;
        let hidden = self.embedding.index_select(&Tensor::new(tokens, &self.device)?, 0)?;
        let positions = Tensor::new(positions, &self.device)?;
        Ok(Rows { hidden, positions, ragged })
    }

    /// The hidden states after a block.
    fn run_block<V: Verbs>(
        &self,
        layer: usize,
        block: &Block,
        verbs: &mut V,
        cache: &mut DeviceCache,
        rows: &Rows,
    ) -> Result<Tensor> {
        let normed = self.rms_norm(&rows.hidden, &block.attn_norm)?;
        let project = |which| self.project(block, which, &normed, &rows.positions);
        let (k, v) = (project(Projection::Key)?, project(Projection::Value)?);
        cache.append(layer, &rows.ragged, &k, &v, &rows.positions)?;
        let q = project(Projection::Query)?;
        let attended = self.attention(layer, verbs, cache, rows, &q, None)?;
        self.finish_block(block, &rows.hidden, &attended)
    }

    /// Attention of `q` over the layer's cache, `[rows, heads, head_dim]`. `limits`, u32 `[rows]`,
    /// says how many of its sequence's keys each query sees. Without it, the queries are the last
    /// tokens of their sequences.
    fn attention<V: Verbs>(
        &self,
        layer: usize,
        verbs: &mut V,
        cache: &DeviceCache,
        rows: &Rows,
        q: &Tensor,
        limits: Option<&Tensor>,
    ) -> Result<Tensor> {
        let scale = self.config.attention_scale();
        let cache = &cache.layers()[layer];
        if !self.attends(layer, verbs) {
            let queries = if limits.is_some() { Queries::Among } else { Queries::Last };
            let window = self.window_at(layer);
            let attention = Attention { queries, window, scale, weights: WEIGHTS };
            return attend(q, &rows.ragged, &rows.positions, cache, attention);
        }
        let cached = cache.cached()?;
        if limits.is_none() && rows.ragged.lens().all(|len| len == 1) {
            return verbs.decode(q, &cached, scale);
        }
        verbs.prefill(q, &rows.ragged, &cached, limits, scale)
    }

    /// Whether the verbs take a layer's attention.
    fn attends<V: Verbs>(&self, layer: usize, verbs: &V) -> bool {
        let ModelConfig { heads, kv_heads, head_dim, .. } = self.config;
        self.window_at(layer).is_none() && verbs.attends(self.dtype(), heads, kv_heads, head_dim)
    }

    /// How far back a query sees; one as wide as all positions hides nothing.
    fn window_at(&self, layer: usize) -> Option<usize> {
        self.config.window_at(layer).filter(|&window| window < self.config.context)
    }

    /// The hidden states after what follows attention.
    fn finish_block(&self, block: &Block, hidden: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let attended = attended.flatten_from(1)?;
        let hidden = (hidden + attended.matmul(&block.output.t()?)?)?;
        self.add_ffn(block, &hidden)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site, each a different thing")]
    fn run_stage<V: Verbs>(
        &self,
        stage: &StagePlan,
        block: &Block,
        kv: KvAtStage,
        verbs: &mut V,
        scorer: &DeviceScorer,
        cache: &mut DeviceCache,
        rows: &mut Rows,
    ) -> Result<DeviceStage> {
        let layer = stage.layer;
        let project = |which, normed: &Tensor, positions: &Tensor| {
            self.project(block, which, normed, positions)
        };
        let normed = self.rms_norm(&rows.hidden, &block.attn_norm)?;
        // The keys of all tokens: for the scorer, for the cache, or not at all.
        let keys = if scorer.needs_keys() || kv == KvAtStage::Incoming {
            Some(project(Projection::Key, &normed, &rows.positions)?)
        } else {
            None
        };
        let queries = match scorer.asking(&rows.ragged) {
            Some(asking) => {
                let asking = Ragged::from_lens(&asking)?;
                let last = asking_rows(&rows.ragged, &asking, &self.device)?;
                let (normed, positions) =
                    (normed.index_select(&last, 0)?, rows.positions.index_select(&last, 0)?);
                Some((project(Projection::Query, &normed, &positions)?, asking))
            }
            None => None,
        };
        let scored = Scored {
            layer,
            rows: &rows.ragged,
            hidden: &rows.hidden,
            keys: keys.as_ref(),
            queries,
            scale: self.config.attention_scale(),
        };
        let scores = scorer.score(verbs, &scored)?;
        let kept = verbs.select(&scores, &rows.ragged, stage)?;

        // Under `incoming`, how many of its sequence's keys each token sees; else keys that there
        // are.
        let fourth = match kv {
            KvAtStage::Incoming => Some(counted(&rows.ragged, &self.device)?),
            KvAtStage::Pruned => keys.clone(),
        };
        let mut tensors = vec![&rows.hidden, &normed, &rows.positions];
        tensors.extend(&fourth);
        let mut gathered = verbs.rows(&kept, &tensors)?.into_iter();
        let (Some(hidden), Some(kept_normed), Some(positions)) =
            (gathered.next(), gathered.next(), gathered.next())
        else {
            unreachable!("as many tensors come back as went in");
        };
        let fourth = gathered.next();
        let survivors = Rows { hidden, positions, ragged: stage.rows.clone() };
        let incoming = std::mem::replace(rows, survivors);

        let q = project(Projection::Query, &kept_normed, &rows.positions)?;
        let (from, normed, keys, limits) = match kv {
            // The block caches all incoming tokens, and the kept ones ask.
            KvAtStage::Incoming => (&incoming, &normed, keys, fourth),
            KvAtStage::Pruned => (&*rows, &kept_normed, fourth, None),
        };
        let k = match keys {
            Some(keys) => keys,
            None => project(Projection::Key, normed, &from.positions)?,
        };
        let v = project(Projection::Value, normed, &from.positions)?;
        cache.append(layer, &from.ragged, &k, &v, &from.positions)?;
        let attended = self.attention(layer, verbs, cache, rows, &q, limits.as_ref())?;
        rows.hidden = self.finish_block(block, &rows.hidden, &attended)?;
        Ok(DeviceStage {
            layer,
            incoming: incoming.ragged,
            incoming_positions: incoming.positions,
            scores,
            kept: rows.ragged.clone(),
            kept_positions: rows.positions.clone(),
        })
    }

    /// One of Q, K and V, `[rows, heads, head_dim]`, normalised by head where the family does that,
    /// and rotated.
    fn project(
        &self,
        block: &Block,
        which: Projection,
        normed: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        let dim = self.config.head_dim;
        let (start, heads) = which.columns(&self.config);
        let width = heads * dim;
        let mut out = normed.matmul(&block.qkv.narrow(0, start, width)?.t()?)?;
        if let Some(bias) = &block.qkv_bias {
            out = out.broadcast_add(&bias.narrow(0, start, width)?)?;
        }
        let tokens = normed.dim(0)?;
        let out = out.reshape((tokens, heads, dim))?;
        let head_norm = match (which, &block.qk_norm) {
            (Projection::Value, _) => return Ok(out),
            (_, None) => None,
            (Projection::Query, Some((q_norm, _))) => Some(q_norm),
            (Projection::Key, Some((_, k_norm))) => Some(k_norm),
        };
        let out = match head_norm {
            Some(weight) => self.rms_norm(&out, weight)?,
            None => out,
        };
        let [cos, sin] = &self.rope;
        let (cos, sin) = (cos.index_select(positions, 0)?, sin.index_select(positions, 0)?);
        let rotated = candle_nn::rotary_emb::rope_thd(&out.unsqueeze(0)?, &cos, &sin)?;
        Ok(rotated.squeeze(0)?)
    }

    /// The feed-forward network of `hidden`, added to it.
    fn add_ffn(&self, block: &Block, hidden: &Tensor) -> Result<Tensor> {
        let total = hidden.dim(0)?;
        let ffn = self.config.ffn;
        let mut parts = Vec::with_capacity(total.div_ceil(FFN_ROWS));
        for start in (0..total).step_by(FFN_ROWS) {
            let rows = hidden.narrow(0, start, FFN_ROWS.min(total - start))?;
            let normed = self.rms_norm(&rows, &block.ffn_norm)?;
            let gate_up = normed.matmul(&block.gate_up.t()?)?;
            let gate = gate_up.narrow(D::Minus1, 0, ffn)?.silu()?;
            let inner = (gate * gate_up.narrow(D::Minus1, ffn, ffn)?)?;
            parts.push((rows + inner.matmul(&block.down.t()?)?)?);
        }
        joined(parts)
    }

    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        Ok(candle_nn::ops::rms_norm(x, weight, self.config.rms_eps as f32)?)
    }
}

/// Which rows are the last of their sequences, as many of each as of `asking`: u32.
fn asking_rows(rows: &Ragged, asking: &Ragged, device: &Device) -> Result<Tensor> {
    let last = rows.spans().zip(asking.lens());
    let last: Vec<u32> =
        last.flat_map(|(span, len)| (span.end() - len) as u32..span.end() as u32).collect();
    Ok(Tensor::new(last, device)?)
}

/// How many tokens of its sequence come up to and with each, u32 `[rows]`.
fn counted(rows: &Ragged, device: &Device) -> Result<Tensor> {
    let counts: Vec<u32> = rows.lens().flat_map(|len| 1..=len as u32).collect();
    Ok(Tensor::new(counts, device)?)
}

/// The rows of several tensors, one after the other; there is at least one.
fn joined(mut parts: Vec<Tensor>) -> Result<Tensor> {
    match parts.len() {
        1 => Ok(parts.swap_remove(0)),
        _ => Ok(Tensor::cat(&parts, 0)?),
    }
}

fn unsupported(device: &Device) -> Error {
    Error::Unsupported {
        what: "device",
        name: format!("{:?}", device.location()),
        supported: if cfg!(feature = "cuda") {
            "cpu, cuda"
        } else {
            "cpu, and with feature `cuda` cuda"
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;

    #[test]
    fn the_feed_forward_network_is_the_same_in_parts() {
        let config = ModelConfig {
            family: Family::Llama,
            layers: 1,
            hidden: 16,
            heads: 2,
            kv_heads: 1,
            head_dim: 8,
            ffn: 24,
            vocab: 10,
            context: 32,
            rms_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            sliding_window: None,
            sliding_from: 0,
            attention_bias: false,
            qk_norm: false,
            tied: true,
        };
        let random = |shape: &[usize]| Ok(Tensor::randn(0f32, 0.5, shape, &Device::Cpu)?);
        let model = Model::new(config, |_, shape| random(shape)).unwrap();
        let on_device = DeviceModel::new(&model, &Device::Cpu, DType::F32).unwrap();
        let hidden = random(&[2 * FFN_ROWS + 1, 16]).unwrap();
        let actual = on_device.add_ffn(&on_device.blocks[0], &hidden).unwrap();
        // The packed runner adds in place.
        model.add_ffn(&model.blocks()[0], &hidden).unwrap();
        let difference = (actual - hidden).unwrap().abs().unwrap().flatten_all().unwrap();
        assert!(difference.max(0).unwrap().to_scalar::<f32>().unwrap() < 1e-4);
    }
}
