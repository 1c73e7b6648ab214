//! The decoder's weights, and the steps of a block between which a runner prunes.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use sha2::{Digest, Sha256};

use crate::backend::{Backend, Verbs};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::rope::RopeTable;

/// Weights of a matrix that [`Model::fingerprint`] looks at: enough that no training misses them
/// all.
const FINGERPRINT_SAMPLES: usize = 1024;

/// A Llama-family decoder whose weights are tensors of one type on one device: f32 on the host;
/// f32, f16 or bf16 on a CUDA device, where f16 and bf16 are what the kernels of attention take.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Tensor,
    rope: RopeTable,
    fingerprint: String,
}

/// One transformer block's weights. Matrices are `[out, in]`; Q, K and V are one matrix, and so
/// are the gate and up projections, so that each needs one product.
#[derive(Debug)]
pub struct Block {
    pub(crate) attn_norm: Tensor,
    pub(crate) qkv: Tensor,
    pub(crate) qkv_bias: Option<Tensor>,
    /// RMSNorm weights of the heads of Q and K.
    pub(crate) qk_norm: Option<(Tensor, Tensor)>,
    pub(crate) output: Tensor,
    pub(crate) ffn_norm: Tensor,
    pub(crate) gate_up: Tensor,
    pub(crate) down: Tensor,
}

impl Block {
    /// The same weights, each put through `put`.
    pub(crate) fn map(&self, put: impl Fn(&Tensor) -> candle_core::Result<Tensor>) -> Result<Self> {
        let qk_norm = match &self.qk_norm {
            Some((q_norm, k_norm)) => Some((put(q_norm)?, put(k_norm)?)),
            None => None,
        };
        Ok(Self {
            attn_norm: put(&self.attn_norm)?,
            qkv: put(&self.qkv)?,
            qkv_bias: self.qkv_bias.as_ref().map(&put).transpose()?,
            qk_norm,
            output: put(&self.output)?,
            ffn_norm: put(&self.ffn_norm)?,
            gate_up: put(&self.gate_up)?,
            down: put(&self.down)?,
        })
    }
}

/// Which of Q, K and V.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Projection {
    Query,
    Key,
    Value,
}

impl Projection {
    /// The first head of the projection in the fused matrix, and how many it has.
    pub(crate) fn heads(self, config: &ModelConfig) -> (usize, usize) {
        let c = config;
        match self {
            Self::Query => (0, c.heads),
            Self::Key => (c.heads, c.kv_heads),
            Self::Value => (c.heads + c.kv_heads, c.kv_heads),
        }
    }
}

impl Model {
    /// Builds a model; `weight(name, shape)` returns each tensor by its Hugging Face name, all of
    /// one type on one device.
    ///
    /// # Errors
    /// [`Error::Config`] if the sizes do not fit together, [`Error::Unsupported`] for a type that
    /// the device does not run, and what `weight` returns.
    pub fn new(
        config: ModelConfig,
        mut weight: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        Self::build(config, |prefix, parts, samples| {
            let mut tensors = Vec::with_capacity(parts.len());
            for (name, shape) in parts {
                let tensor = weight(&format!("{prefix}{name}"), shape)?;
                samples.take(&tensor)?;
                tensors.push(tensor);
            }
            match tensors.len() {
                1 => Ok(tensors.swap_remove(0)),
                _ => Ok(Tensor::cat(&tensors, 0)?),
            }
        })
    }

    /// Builds a model of matrices: `read(prefix, parts, samples)` returns one of one or more
    /// tensors, by their names behind the prefix and their shapes, one below the other, and gives
    /// `samples` its values.
    pub(crate) fn build(
        config: ModelConfig,
        mut read: impl FnMut(&str, &[(&str, &[usize])], &mut Samples) -> Result<Tensor>,
    ) -> Result<Self> {
        let config = config.validate()?;
        let c = &config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let mut matrix = |prefix: &str, parts: &[(&str, &[usize])]| -> Result<(Tensor, Vec<f32>)> {
            let mut samples = Samples::of(parts);
            let matrix = read(prefix, parts, &mut samples)?;
            Ok((matrix, samples.values))
        };
        let (embedding, of_embedding) =
            matrix("model.", &[("embed_tokens.weight", &[c.vocab, c.hidden])])?;
        let (device, dtype) = (embedding.device().clone(), embedding.dtype());
        check_dtype(&device, dtype)?;
        let mut of_blocks = Vec::new();
        let mut blocks = Vec::with_capacity(c.layers);
        for layer in 0..c.layers {
            let prefix = format!("model.layers.{layer}.");
            let mut get = |parts: &[(&str, &[usize])]| -> Result<Tensor> {
                let (tensor, samples) = matrix(&prefix, parts)?;
                of_blocks.extend(samples);
                Ok(tensor)
            };
            // In this order, which the fingerprint has.
            let attn_norm = get(&[("input_layernorm.weight", &[c.hidden])])?;
            let qkv = get(&[
                ("self_attn.q_proj.weight", &[q, c.hidden]),
                ("self_attn.k_proj.weight", &[kv, c.hidden]),
                ("self_attn.v_proj.weight", &[kv, c.hidden]),
            ])?;
            let output = get(&[("self_attn.o_proj.weight", &[c.hidden, q])])?;
            let ffn_norm = get(&[("post_attention_layernorm.weight", &[c.hidden])])?;
            let gate_up = get(&[
                ("mlp.gate_proj.weight", &[c.ffn, c.hidden]),
                ("mlp.up_proj.weight", &[c.ffn, c.hidden]),
            ])?;
            let down = get(&[("mlp.down_proj.weight", &[c.hidden, c.ffn])])?;
            let qkv_bias = if c.attention_bias {
                Some(get(&[
                    ("self_attn.q_proj.bias", &[q]),
                    ("self_attn.k_proj.bias", &[kv]),
                    ("self_attn.v_proj.bias", &[kv]),
                ])?)
            } else {
                None
            };
            let qk_norm = if c.qk_norm {
                let q_norm = get(&[("self_attn.q_norm.weight", &[c.head_dim])])?;
                Some((q_norm, get(&[("self_attn.k_norm.weight", &[c.head_dim])])?))
            } else {
                None
            };
            let weights =
                Block { attn_norm, qkv, qkv_bias, qk_norm, output, ffn_norm, gate_up, down };
            blocks.push(weights);
        }
        let (norm, of_norm) = matrix("model.", &[("norm.weight", &[c.hidden])])?;
        let (head, of_head) = if c.tied {
            (embedding.clone(), of_embedding.clone())
        } else {
            matrix("", &[("lm_head.weight", &[c.vocab, c.hidden])])?
        };
        let fingerprint = fingerprint(c, [of_embedding, of_norm, of_head, of_blocks]);
        let rope = RopeTable::new(c, &device, dtype)?;
        // For whatever thread runs it.
        device.synchronize()?;
        Ok(Self { config, embedding, blocks, norm, head, rope, fingerprint })
    }

    /// The same model with its weights on a device, as `dtype`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a type that the device does not run, those of candle.
    pub fn to_device(&self, device: &Device, dtype: DType) -> Result<Self> {
        check_dtype(device, dtype)?;
        let put = |tensor: &Tensor| tensor.to_dtype(dtype)?.to_device(device);
        let embedding = put(&self.embedding)?;
        let moved = Self {
            head: if self.config.tied { embedding.clone() } else { put(&self.head)? },
            embedding,
            blocks: self.blocks.iter().map(|block| block.map(put)).collect::<Result<_>>()?,
            norm: put(&self.norm)?,
            config: self.config.clone(),
            rope: RopeTable::new(&self.config, device, dtype)?,
            fingerprint: self.fingerprint.clone(),
        };
        device.synchronize()?;
        Ok(moved)
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// What its weights and hidden states are.
    pub fn dtype(&self) -> DType {
        self.embedding.dtype()
    }

    /// The model's shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// 16 hexadecimal digits that tell this model from others: of its configuration and of weights
    /// spread over every tensor, as they were before they were put on a device. So they are the
    /// same from whatever file the model came, and wherever it runs.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// The blocks, first to last.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Every weight by its Hugging Face name, as [`Model::new`] takes them; views where the model
    /// keeps several in one matrix.
    ///
    /// # Errors
    /// Those of candle.
    pub fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let c = &self.config;
        let mut tensors = HashMap::from([
            ("model.embed_tokens.weight".to_owned(), self.embedding.clone()),
            ("model.norm.weight".to_owned(), self.norm.clone()),
        ]);
        if !c.tied {
            tensors.insert("lm_head.weight".to_owned(), self.head.clone());
        }
        for (layer, block) in self.blocks.iter().enumerate() {
            let mut put = |part: &str, tensor: Tensor| {
                tensors.insert(format!("model.layers.{layer}.{part}"), tensor);
            };
            put("input_layernorm.weight", block.attn_norm.clone());
            put("post_attention_layernorm.weight", block.ffn_norm.clone());
            for (name, which) in
                [("q", Projection::Query), ("k", Projection::Key), ("v", Projection::Value)]
            {
                let (first, heads) = which.heads(c);
                let (start, rows) = (first * c.head_dim, heads * c.head_dim);
                put(&format!("self_attn.{name}_proj.weight"), block.qkv.narrow(0, start, rows)?);
                if let Some(bias) = &block.qkv_bias {
                    put(&format!("self_attn.{name}_proj.bias"), bias.narrow(0, start, rows)?);
                }
            }
            if let Some((q_norm, k_norm)) = &block.qk_norm {
                put("self_attn.q_norm.weight", q_norm.clone());
                put("self_attn.k_norm.weight", k_norm.clone());
            }
            put("self_attn.o_proj.weight", block.output.clone());
            put("mlp.gate_proj.weight", block.gate_up.narrow(0, 0, c.ffn)?);
            put("mlp.up_proj.weight", block.gate_up.narrow(0, c.ffn, c.ffn)?);
            put("mlp.down_proj.weight", block.down.clone());
        }
        Ok(tensors)
    }

    pub(crate) fn rope(&self) -> &RopeTable {
        &self.rope
    }

    /// Makes sure that heads can be rotated to these positions.
    pub(crate) fn reach(&self, positions: &[u32]) -> Result<()> {
        self.rope.reach(positions.iter().max().map_or(0, |&last| last as usize + 1))
    }

    pub(crate) fn rms_eps(&self) -> f32 {
        self.config.rms_eps as f32
    }

    /// How far back a query of a block sees; a window as wide as all positions hides nothing.
    pub(crate) fn window_at(&self, layer: usize) -> Option<usize> {
        self.config.window_at(layer).filter(|&window| window < self.config.context)
    }

    /// Embeddings of tokens, `[tokens, hidden]`, in memory of their own.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.config.check_tokens(tokens)?;
        let ids = Tensor::new(tokens, self.device())?;
        Ok(self.embedding.index_select(&ids, 0)?)
    }

    /// Logits of hidden states, `[n, hidden]` to `[n, vocab]`. The vocabulary is wide: pass the
    /// rows that are needed.
    ///
    /// # Errors
    /// Those of candle.
    pub fn predict(&self, hidden: &Tensor) -> Result<Tensor> {
        self.with_verbs(|verbs| self.logits(verbs, hidden))
    }

    pub(crate) fn logits(&self, verbs: &mut dyn Verbs, hidden: &Tensor) -> Result<Tensor> {
        let normed = verbs.rms_norm(hidden, &self.norm, self.rms_eps())?;
        Ok(normed.matmul(&self.head.t()?)?)
    }

    pub(crate) fn embedding(&self) -> &Tensor {
        &self.embedding
    }

    pub(crate) fn final_norm(&self) -> &Tensor {
        &self.norm
    }

    pub(crate) fn head(&self) -> &Tensor {
        &self.head
    }

    /// Q, K and V of a block from its normalised input, `[rows, heads, head_dim]` each, normalised
    /// by head where the family does that, and rotated.
    pub(crate) fn qkv<B: Backend>(
        &self,
        backend: &mut B,
        block: &Block,
        normed: &Tensor,
        positions: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let all = [Projection::Query, Projection::Key, Projection::Value];
        let mut heads = Vec::with_capacity(3);
        if B::FUSED_QKV {
            let mut fused = normed.matmul(&block.qkv.t()?)?;
            if let Some(bias) = &block.qkv_bias {
                fused = fused.broadcast_add(bias)?;
            }
            let fused = fused.reshape((normed.dim(0)?, (), self.config.head_dim))?;
            for which in all {
                let (start, count) = which.heads(&self.config);
                let part = fused.narrow(1, start, count)?;
                heads.push(self.place(backend, block, which, part, positions)?);
            }
        } else {
            for which in all {
                heads.push(self.project(backend, block, which, normed, positions)?);
            }
        }
        Ok(heads.try_into().expect("three projections"))
    }

    /// One of Q, K and V on its own, from the rows of `normed`.
    pub(crate) fn project(
        &self,
        verbs: &mut dyn Verbs,
        block: &Block,
        which: Projection,
        normed: &Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        let dim = self.config.head_dim;
        let (start, count) = which.heads(&self.config);
        let mut out = normed.matmul(&block.qkv.narrow(0, start * dim, count * dim)?.t()?)?;
        if let Some(bias) = &block.qkv_bias {
            out = out.broadcast_add(&bias.narrow(0, start * dim, count * dim)?)?;
        }
        let heads = out.reshape((normed.dim(0)?, count, dim))?;
        self.place(verbs, block, which, heads, positions)
    }

    /// What follows attention in a block: the output projection and the feed-forward network, each
    /// added to `hidden`.
    pub(crate) fn after_attention<B: Backend>(
        &self,
        backend: &mut B,
        block: &Block,
        hidden: Tensor,
        attended: &Tensor,
    ) -> Result<Tensor> {
        let attended = attended.flatten_from(1)?.matmul(&block.output.t()?)?;
        let hidden = backend.add(hidden, &attended)?;
        backend.by_rows(hidden, |backend, rows| {
            let normed = backend.rms_norm(&rows, &block.ffn_norm, self.rms_eps())?;
            let inner = backend.swiglu(&normed.matmul(&block.gate_up.t()?)?)?;
            backend.add(rows, &inner.matmul(&block.down.t()?)?)
        })
    }

    /// Head normalisation, where the family has it, and rotation.
    fn place(
        &self,
        verbs: &mut dyn Verbs,
        block: &Block,
        which: Projection,
        mut heads: Tensor,
        positions: &Tensor,
    ) -> Result<Tensor> {
        if which == Projection::Value {
            return Ok(heads);
        }
        if let Some((q_norm, k_norm)) = &block.qk_norm {
            let weight = if which == Projection::Query { q_norm } else { k_norm };
            heads = verbs.rms_norm_heads(heads, weight, self.rms_eps())?;
        }
        verbs.rotate(heads, positions, &self.rope)
    }
}

/// Which types a device runs.
pub(crate) fn check_dtype(device: &Device, dtype: DType) -> Result<()> {
    let (known, supported) = match device {
        Device::Cpu => (dtype == DType::F32, "f32"),
        _ => (matches!(dtype, DType::F32 | DType::F16 | DType::BF16), "f32, f16, bf16"),
    };
    if known {
        return Ok(());
    }
    let what = if device.is_cpu() { "type of a model on the CPU" } else { "type of a model" };
    Err(Error::Unsupported { what, name: dtype.as_str().into(), supported })
}

/// Values spread over a matrix that is made of parts.
pub(crate) struct Samples {
    step: usize,
    /// The next one, counted from the beginning of the next part.
    next: usize,
    values: Vec<f32>,
}

impl Samples {
    fn of(parts: &[(&str, &[usize])]) -> Self {
        let len: usize = parts.iter().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        let step = len.div_ceil(FINGERPRINT_SAMPLES).max(1);
        Self { step, next: 0, values: Vec::new() }
    }

    /// Takes the values of the next part.
    fn take(&mut self, part: &Tensor) -> Result<()> {
        let len = part.elem_count();
        let mut places = Vec::new();
        while self.next < len {
            places.push(self.next as u32);
            self.next += self.step;
        }
        self.next -= len;
        if places.is_empty() {
            return Ok(());
        }
        let places = Tensor::new(places, part.device())?;
        let values = part.flatten_all()?.index_select(&places, 0)?.to_dtype(DType::F32)?;
        self.values.extend(values.to_vec1::<f32>()?);
        Ok(())
    }

    /// Takes those among the next values.
    pub(crate) fn take_from(&mut self, values: &[f32]) {
        while let Some(&value) = values.get(self.next) {
            self.values.push(value);
            self.next += self.step;
        }
        self.next -= values.len();
    }
}

/// Of a model's configuration and samples of its weights.
fn fingerprint(config: &ModelConfig, samples: [Vec<f32>; 4]) -> String {
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_string(config).expect("plain values"));
    for value in samples.iter().flatten() {
        hasher.update(value.to_le_bytes());
    }
    base16ct::lower::encode_string(&hasher.finalize()[..8])
}
