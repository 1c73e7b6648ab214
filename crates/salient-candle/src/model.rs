//! The decoder's weights, and the steps of a block between which a runner prunes.

use std::collections::HashMap;
use std::sync::OnceLock;

use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

use crate::config::ModelConfig;
use crate::error::Result;
use crate::ops::{self, Heads};
use crate::rope::RopeTable;

/// Rows that go through the feed-forward network at once: enough for the matrix products to run at
/// full speed, few enough that the wide activations stay in cache and memory does not grow with the
/// prompt.
const FFN_ROWS: usize = 1024;

/// Weights of a tensor that [`Model::fingerprint`] looks at: enough that no training misses them
/// all.
const FINGERPRINT_SAMPLES: usize = 1024;

/// A Llama-family decoder in f32: on the host, or by [`Model::to_device`] where predictors are
/// trained.
#[derive(Debug)]
pub struct Model {
    config: ModelConfig,
    embedding: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    head: Tensor,
    rope: RopeTable,
    fingerprint: OnceLock<String>,
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
    /// The first row of the projection in the fused matrix, and its heads.
    pub(crate) fn columns(self, config: &ModelConfig) -> (usize, usize) {
        let c = config;
        match self {
            Self::Query => (0, c.heads),
            Self::Key => (c.heads * c.head_dim, c.kv_heads),
            Self::Value => ((c.heads + c.kv_heads) * c.head_dim, c.kv_heads),
        }
    }
}

impl Model {
    /// Builds a model; `weight(name, shape)` returns each tensor by its Hugging Face name.
    ///
    /// # Errors
    /// [`Error::Config`](crate::Error::Config) if the sizes do not fit together, and what `weight`
    /// returns.
    pub fn new(
        config: ModelConfig,
        mut weight: impl FnMut(&str, &[usize]) -> Result<Tensor>,
    ) -> Result<Self> {
        let config = config.validate()?;
        let c = &config;
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let embedding = weight("model.embed_tokens.weight", &[c.vocab, c.hidden])?;
        let mut blocks = Vec::with_capacity(c.layers);
        for layer in 0..c.layers {
            let mut get = |part: &str, shape: &[usize]| {
                weight(&format!("model.layers.{layer}.{part}"), shape)
            };
            let qkv = Tensor::cat(
                &[
                    get("self_attn.q_proj.weight", &[q, c.hidden])?,
                    get("self_attn.k_proj.weight", &[kv, c.hidden])?,
                    get("self_attn.v_proj.weight", &[kv, c.hidden])?,
                ],
                0,
            )?;
            let qkv_bias = if c.attention_bias {
                let parts = [
                    get("self_attn.q_proj.bias", &[q])?,
                    get("self_attn.k_proj.bias", &[kv])?,
                    get("self_attn.v_proj.bias", &[kv])?,
                ];
                Some(Tensor::cat(&parts, 0)?)
            } else {
                None
            };
            let qk_norm = if c.qk_norm {
                Some((
                    get("self_attn.q_norm.weight", &[c.head_dim])?,
                    get("self_attn.k_norm.weight", &[c.head_dim])?,
                ))
            } else {
                None
            };
            blocks.push(Block {
                attn_norm: get("input_layernorm.weight", &[c.hidden])?,
                qkv,
                qkv_bias,
                qk_norm,
                output: get("self_attn.o_proj.weight", &[c.hidden, q])?,
                ffn_norm: get("post_attention_layernorm.weight", &[c.hidden])?,
                gate_up: Tensor::cat(
                    &[
                        get("mlp.gate_proj.weight", &[c.ffn, c.hidden])?,
                        get("mlp.up_proj.weight", &[c.ffn, c.hidden])?,
                    ],
                    0,
                )?,
                down: get("mlp.down_proj.weight", &[c.hidden, c.ffn])?,
            });
        }
        let norm = weight("model.norm.weight", &[c.hidden])?;
        let head = if c.tied {
            embedding.clone()
        } else {
            weight("lm_head.weight", &[c.vocab, c.hidden])?
        };
        let rope = RopeTable::new(&config, config.context);
        let fingerprint = OnceLock::new();
        Ok(Self { config, embedding, blocks, norm, head, rope, fingerprint })
    }

    /// The same model with its weights on a device: for [`reference`](crate::reference) and
    /// [`train`](crate::train), which are candle's operations alone. What runs packed batches,
    /// prefill, scorers and generation, takes a model on the host, and fails with this one; to run
    /// a model on a device there is [`DeviceModel`](crate::device::DeviceModel).
    ///
    /// # Errors
    /// Those of candle, and of [`Model::fingerprint`].
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        let put = |tensor: &Tensor| tensor.to_device(device);
        let embedding = put(&self.embedding)?;
        Ok(Self {
            head: if self.config.tied { embedding.clone() } else { put(&self.head)? },
            embedding,
            blocks: self.blocks.iter().map(|block| block.map(put)).collect::<Result<_>>()?,
            norm: put(&self.norm)?,
            config: self.config.clone(),
            rope: RopeTable::new(&self.config, self.config.context),
            fingerprint: self.fingerprint()?.into(),
        })
    }

    /// Where its weights are.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// The model's shape and constants.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// 16 hexadecimal digits that tell this model from others: of its configuration and of weights
    /// spread over every tensor, so the same from whatever file it came.
    ///
    /// # Errors
    /// Those of candle.
    pub fn fingerprint(&self) -> Result<String> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        let mut hasher = Sha256::new();
        hasher.update(serde_json::to_string(&self.config).expect("plain values"));
        let mut add = |tensor: &Tensor| {
            ops::f32_slice(tensor, |values| {
                let step = values.len().div_ceil(FINGERPRINT_SAMPLES).max(1);
                for value in values.iter().step_by(step) {
                    hasher.update(value.to_le_bytes());
                }
            })
        };
        for tensor in [&self.embedding, &self.norm, &self.head] {
            add(tensor)?;
        }
        for b in &self.blocks {
            let qk_norm = b.qk_norm.iter().flat_map(|(q, k)| [q, k]);
            let tensors = [&b.attn_norm, &b.qkv, &b.output, &b.ffn_norm, &b.gate_up, &b.down];
            for tensor in tensors.into_iter().chain(&b.qkv_bias).chain(qk_norm) {
                add(tensor)?;
            }
        }
        let digits = base16ct::lower::encode_string(&hasher.finalize()[..8]);
        Ok(self.fingerprint.get_or_init(|| digits).clone())
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
                let (start, heads) = which.columns(c);
                let rows = heads * c.head_dim;
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

    pub(crate) fn rms_eps(&self) -> f32 {
        self.config.rms_eps as f32
    }

    pub(crate) fn attention_scale(&self) -> f32 {
        self.config.attention_scale()
    }

    /// Embeddings of tokens, `[tokens, hidden]`, in memory of their own.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        self.config.check_tokens(tokens)?;
        let ids = Tensor::new(tokens, self.device())?;
        Ok(self.embedding.index_select(&ids, 0)?)
    }

    /// Next-token logits of final hidden states, `[n, hidden]` to `[n, vocab]`.
    pub(crate) fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let normed = ops::rms_norm(hidden, &self.norm, self.rms_eps())?;
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

    /// Q, K and V of a block from its normalised input: one product, rotated in place.
    pub(crate) fn qkv(
        &self,
        block: &Block,
        normed: &Tensor,
        positions: &[i32],
    ) -> Result<[Heads; 3]> {
        let mut fused = normed.matmul(&block.qkv.t()?)?;
        if let Some(bias) = &block.qkv_bias {
            fused = fused.broadcast_add(bias)?;
        }
        let all = [Projection::Query, Projection::Key, Projection::Value];
        let mut heads = Vec::with_capacity(3);
        for which in all {
            let (start, count) = which.columns(&self.config);
            let part = Heads::new(fused.clone(), start, count, self.config.head_dim)?;
            self.place(block, which, &part, positions)?;
            heads.push(part);
        }
        Ok(heads.try_into().expect("three projections"))
    }

    /// One of Q, K and V on its own, from the rows of `normed`.
    pub(crate) fn project(
        &self,
        block: &Block,
        which: Projection,
        normed: &Tensor,
        positions: &[i32],
    ) -> Result<Heads> {
        let dim = self.config.head_dim;
        let (start, count) = which.columns(&self.config);
        let mut out = normed.matmul(&block.qkv.narrow(0, start, count * dim)?.t()?)?;
        if let Some(bias) = &block.qkv_bias {
            out = out.broadcast_add(&bias.narrow(0, start, count * dim)?)?;
        }
        let heads = Heads::new(out, 0, count, dim)?;
        self.place(block, which, &heads, positions)?;
        Ok(heads)
    }

    /// Adds the output projection of an attention result `[n, heads * dim]` to `hidden`.
    pub(crate) fn add_attention(
        &self,
        block: &Block,
        hidden: &Tensor,
        attended: &Tensor,
    ) -> Result<()> {
        ops::add_assign(hidden, &attended.matmul(&block.output.t()?)?)
    }

    /// Adds the feed-forward network of `hidden` to it.
    pub(crate) fn add_ffn(&self, block: &Block, hidden: &Tensor) -> Result<()> {
        let total = hidden.dim(0)?;
        let mut start = 0;
        while start < total {
            let rows = hidden.narrow(0, start, FFN_ROWS.min(total - start))?;
            let normed = ops::rms_norm(&rows, &block.ffn_norm, self.rms_eps())?;
            let inner = ops::swiglu(&normed.matmul(&block.gate_up.t()?)?)?;
            ops::add_assign(&rows, &inner.matmul(&block.down.t()?)?)?;
            start += FFN_ROWS;
        }
        Ok(())
    }

    /// Head normalisation, where the family has it, and rotation.
    fn place(
        &self,
        block: &Block,
        which: Projection,
        heads: &Heads,
        positions: &[i32],
    ) -> Result<()> {
        if which == Projection::Value {
            return Ok(());
        }
        if let Some((q_norm, k_norm)) = &block.qk_norm {
            let weight = if which == Projection::Query { q_norm } else { k_norm };
            heads.normalise(weight, self.rms_eps())?;
        }
        heads.rotate(positions, &self.rope.cos, &self.rope.sin)
    }
}
