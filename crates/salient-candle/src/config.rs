//! The shape of a Llama-family decoder, read from GGUF metadata or a `config.json`.

use candle_core::DType;
use salient::schedule::Plan;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The families that the one decoder covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Family {
    /// Llama 2 and 3, SmolLM2 and others of the same shape.
    Llama,
    /// Llama with an optional sliding window.
    Mistral,
    /// Llama with biases on Q, K and V.
    Qwen2,
    /// Llama with RMSNorm on the heads of Q and K.
    Qwen3,
}

impl Family {
    pub(crate) const SUPPORTED: &'static str = "llama, mistral, qwen2, qwen3";

    /// From the `general.architecture` of a GGUF file or the `model_type` of a `config.json`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] names the architecture.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "llama" => Ok(Self::Llama),
            "mistral" => Ok(Self::Mistral),
            "qwen2" => Ok(Self::Qwen2),
            "qwen3" => Ok(Self::Qwen3),
            _ => Err(Error::Unsupported {
                what: "architecture",
                name: name.to_owned(),
                supported: Self::SUPPORTED,
            }),
        }
    }
}

/// How rotary frequencies are stretched beyond the length that a model was trained on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Every frequency divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3: low frequencies divided by a factor, high ones kept, a smooth ramp between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above the original context divided by this are low-frequency.
        low_freq_factor: f64,
        /// Wavelengths below the original context divided by this are high-frequency.
        high_freq_factor: f64,
        /// The original context.
        original_context: usize,
    },
    /// Every frequency divided by its own factor, `[head_dim / 2]`, as GGUF files store Llama 3's
    /// scaling.
    Factors(Vec<f32>),
}

/// Everything about a model that is not a weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// The family.
    pub family: Family,
    /// Transformer blocks.
    pub layers: usize,
    /// Width of the hidden states.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub ffn: usize,
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// The longest sequence, in tokens.
    pub context: usize,
    /// The epsilon of every RMSNorm.
    pub rms_eps: f64,
    /// The base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretching of the rotary frequencies.
    pub rope_scaling: Option<RopeScaling>,
    /// Keys further back than this many positions are not seen, in blocks from
    /// `sliding_from` on.
    pub sliding_window: Option<usize>,
    /// The first block with a sliding window.
    pub sliding_from: usize,
    /// Whether Q, K and V have biases.
    pub attention_bias: bool,
    /// Whether the heads of Q and K are normalised.
    pub qk_norm: bool,
    /// Whether the output head shares the embedding.
    pub tied: bool,
}

impl ModelConfig {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Config`] says which do not.
    pub fn validate(self) -> Result<Self> {
        let sizes = [
            ("layers", self.layers),
            ("hidden size", self.hidden),
            ("heads", self.heads),
            ("KV heads", self.kv_heads),
            ("head dim", self.head_dim),
            ("feed-forward size", self.ffn),
            ("vocabulary", self.vocab),
            ("context", self.context),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::Config { reason: format!("{name} is 0") });
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::Config {
                reason: format!(
                    "{} query heads are not a multiple of {} KV heads",
                    self.heads, self.kv_heads
                ),
            });
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(Error::Config {
                reason: format!("head dim {} is odd, rotary embedding needs pairs", self.head_dim),
            });
        }
        let positive = |name: &str, value: f64| {
            if value > 0.0 && value.is_finite() {
                return Ok(());
            }
            let reason = format!("{name} is {value}, which must be above 0 and finite");
            Err(Error::Config { reason })
        };
        positive("RMSNorm epsilon", self.rms_eps)?;
        positive("RoPE base", self.rope_theta)?;
        match &self.rope_scaling {
            None => {}
            Some(RopeScaling::Linear { factor }) => positive("RoPE scaling factor", *factor)?,
            Some(RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context,
            }) => {
                positive("RoPE scaling factor", *factor)?;
                positive("RoPE scaling low_freq_factor", *low_freq_factor)?;
                positive("RoPE scaling high_freq_factor", *high_freq_factor)?;
                positive("RoPE scaling original context", *original_context as f64)?;
                if high_freq_factor <= low_freq_factor {
                    let reason = format!(
                        "RoPE scaling high_freq_factor is {high_freq_factor}, which must be above \
                         low_freq_factor, {low_freq_factor}"
                    );
                    return Err(Error::Config { reason });
                }
            }
            Some(RopeScaling::Factors(factors)) => {
                if factors.len() != self.head_dim / 2 {
                    let (actual, expected) = (factors.len(), self.head_dim / 2);
                    let reason = format!("{actual} RoPE factors, expected {expected}");
                    return Err(Error::Config { reason });
                }
                for factor in factors {
                    positive("a RoPE factor", f64::from(*factor))?;
                }
            }
        }
        // A window of 0 is none.
        let sliding_window = self.sliding_window.filter(|&window| window > 0);
        Ok(Self { sliding_window, ..self })
    }

    /// Reads a `config.json` as Hugging Face models ship it.
    ///
    /// # Errors
    /// [`Error::Config`] for missing or impossible values, [`Error::Unsupported`] for an
    /// architecture, activation or RoPE scaling that the decoder does not have.
    pub fn from_json(text: &str) -> Result<Self> {
        let raw: RawConfig = serde_json::from_str(text)
            .map_err(|e| Error::Config { reason: format!("config.json: {e}") })?;
        raw.resolve()?.validate()
    }

    /// The sizes that the cost model needs.
    pub fn shape(&self) -> salient::cost::ModelShape {
        salient::cost::ModelShape {
            layers: self.layers,
            hidden: self.hidden,
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            ffn: self.ffn,
            vocab: self.vocab,
        }
    }

    /// Bytes of all weights as `dtype`.
    pub fn weight_bytes(&self, dtype: DType) -> u64 {
        let [hidden, dim, ffn, vocab] =
            [self.hidden, self.head_dim, self.ffn, self.vocab].map(|size| size as u64);
        let [heads, kv_heads] = [self.heads, self.kv_heads].map(|heads| heads as u64 * dim);
        let qkv = heads + 2 * kv_heads;
        let mut block = hidden * (qkv + heads) + 3 * hidden * ffn + 2 * hidden;
        if self.attention_bias {
            block += qkv;
        }
        if self.qk_norm {
            block += 2 * dim;
        }
        let embeddings = if self.tied { 1 } else { 2 };
        let weights = self.layers as u64 * block + embeddings * vocab * hidden + hidden;
        weights * dtype.size_in_bytes() as u64
    }

    /// The window of positions that block `layer` sees, if it is limited.
    pub fn window_at(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| layer >= self.sliding_from)
    }

    pub(crate) fn attention_scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Checks that sequences of these lengths fit the context.
    pub(crate) fn check_context(&self, lens: impl Iterator<Item = usize>) -> Result<()> {
        let context = self.context;
        match lens.max() {
            Some(tokens) if tokens > context => Err(Error::ContextExceeded { tokens, context }),
            _ => Ok(()),
        }
    }

    /// Checks that tokens are of the vocabulary.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> Result<()> {
        let vocab = self.vocab;
        match tokens.iter().find(|&&id| id as usize >= vocab) {
            Some(&id) => Err(Error::UnknownToken { id, vocab }),
            None => Ok(()),
        }
    }

    /// Checks prompts that a plan was made for; `reserve` tokens are to follow each. Returns their
    /// lengths.
    pub(crate) fn check_prompts(
        &self,
        prompts: &[Vec<u32>],
        plan: &Plan,
        reserve: usize,
    ) -> Result<Vec<usize>> {
        let lens: Vec<usize> = prompts.iter().map(Vec::len).collect();
        if let Some(sequence) = lens.iter().position(|&len| len == 0) {
            return Err(Error::EmptyPrompt { sequence });
        }
        if plan.lens() != lens || plan.layers() != self.layers {
            return Err(Error::Config {
                reason: "the plan was made for other prompts or another model".into(),
            });
        }
        self.check_context(lens.iter().map(|len| len.saturating_add(reserve)))?;
        Ok(lens)
    }

    /// Checks further tokens of sequences whose next positions are `next`. Returns how many each
    /// has.
    pub(crate) fn check_steps(&self, tokens: &[Vec<u32>], next: &[usize]) -> Result<Vec<usize>> {
        if tokens.len() != next.len() {
            return Err(salient::Error::LengthMismatch {
                what: "sequences to extend",
                expected: next.len(),
                actual: tokens.len(),
            }
            .into());
        }
        self.check_context(next.iter().zip(tokens).map(|(next, tokens)| next + tokens.len()))?;
        Ok(tokens.iter().map(Vec::len).collect())
    }
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    num_hidden_layers: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    partial_rotary_factor: Option<f64>,
    quantization_config: Option<serde_json::Value>,
    layer_types: Option<Vec<String>>,
    #[serde(alias = "num_local_experts")]
    num_experts: Option<usize>,
}

impl RawConfig {
    fn resolve(self) -> Result<ModelConfig> {
        let family = Family::from_name(&self.model_type)?;
        if let Some(act) = self.hidden_act.filter(|act| act != "silu") {
            return Err(Error::Unsupported { what: "activation", name: act, supported: "silu" });
        }
        if self.mlp_bias == Some(true) {
            return Err(Error::Unsupported {
                what: "feed-forward",
                name: "mlp_bias".into(),
                supported: "feed-forward networks without biases",
            });
        }
        // Llama's own flag puts a bias on the output projection too, which no released model of
        // these families has.
        if self.attention_bias == Some(true) {
            return Err(Error::Unsupported {
                what: "attention",
                name: "attention_bias".into(),
                supported: "biases on Q, K and V of qwen2 only",
            });
        }
        if let Some(quantised) = self.quantization_config.filter(|value| !value.is_null()) {
            let method = quantised.get("quant_method").and_then(serde_json::Value::as_str);
            return Err(Error::Unsupported {
                what: "quantisation (quantization_config)",
                name: method.unwrap_or("unknown").to_owned(),
                supported: "weights in F32, F16 and BF16; or a GGUF file",
            });
        }
        if let Some(experts) = self.num_experts.filter(|&experts| experts > 0) {
            return Err(Error::Unsupported {
                what: "mixture",
                name: format!("of {experts} experts"),
                supported: "models with one feed-forward network per block",
            });
        }
        let rope = self.rope_parameters.as_ref().filter(|value| !value.is_null());
        let partial = self.partial_rotary_factor.or_else(|| {
            rope.and_then(|r| r.get("partial_rotary_factor")).and_then(serde_json::Value::as_f64)
        });
        if let Some(factor) = partial.filter(|&factor| factor != 1.0) {
            return Err(Error::Unsupported {
                what: "partial_rotary_factor",
                name: factor.to_string(),
                supported: "1: rotation of whole heads",
            });
        }
        let rope_theta = self
            .rope_theta
            .or_else(|| rope.and_then(|r| r.get("rope_theta")).and_then(serde_json::Value::as_f64))
            .unwrap_or(10_000.0);
        let scaling = self.rope_scaling.as_ref().or(rope).map(rope_scaling).transpose()?.flatten();
        // Qwen turns the window on by a flag, and only above `max_window_layers`; Mistral by its
        // value.
        let (sliding_window, sliding_from) = match family {
            Family::Mistral => (self.sliding_window, 0),
            Family::Qwen2 | Family::Qwen3 if self.use_sliding_window == Some(true) => {
                (self.sliding_window, self.max_window_layers.unwrap_or(QWEN_WINDOW_FROM))
            }
            _ => (None, 0),
        };
        if let Some(types) = &self.layer_types {
            check_layer_types(types, self.num_hidden_layers, sliding_window, sliding_from)?;
        }
        if self.num_attention_heads == 0 {
            return Err(Error::Config { reason: "num_attention_heads is 0".into() });
        }
        Ok(ModelConfig {
            family,
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads),
            ffn: self.intermediate_size,
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            rms_eps: self.rms_norm_eps,
            rope_theta,
            rope_scaling: scaling,
            sliding_window,
            sliding_from,
            attention_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            tied: self.tie_word_embeddings.unwrap_or(false),
        })
    }
}

/// The first block with a sliding window where a Qwen model's configuration does not say
/// (`max_window_layers` of transformers' Qwen2Config and Qwen3Config).
const QWEN_WINDOW_FROM: usize = 28;

/// Checks that what a configuration says of each layer's attention is what the other keys give.
fn check_layer_types(
    types: &[String],
    layers: usize,
    window: Option<usize>,
    from: usize,
) -> Result<()> {
    if types.len() != layers {
        let reason = format!("layer_types names {} layers of {layers}", types.len());
        return Err(Error::Config { reason });
    }
    for (layer, name) in types.iter().enumerate() {
        let windowed = window.is_some() && layer >= from;
        let expected = if windowed { "sliding_attention" } else { "full_attention" };
        if name != expected {
            return Err(Error::Unsupported {
                what: "layer type",
                name: format!("{name} at layer {layer}"),
                supported: "full_attention, and sliding_attention from max_window_layers on",
            });
        }
    }
    Ok(())
}

fn rope_scaling(value: &serde_json::Value) -> Result<Option<RopeScaling>> {
    if value.is_null() {
        return Ok(None);
    }
    let kind = value.get("rope_type").or_else(|| value.get("type"));
    let kind = kind.and_then(serde_json::Value::as_str).unwrap_or("default");
    let number = |key: &str| {
        value
            .get(key)
            .and_then(serde_json::Value::as_f64)
            .ok_or_else(|| Error::Config { reason: format!("rope scaling `{kind}` needs `{key}`") })
    };
    match kind {
        "default" => Ok(None),
        "linear" => Ok(Some(RopeScaling::Linear { factor: number("factor")? })),
        "llama3" => Ok(Some(RopeScaling::Llama3 {
            factor: number("factor")?,
            low_freq_factor: number("low_freq_factor")?,
            high_freq_factor: number("high_freq_factor")?,
            original_context: number("original_max_position_embeddings")? as usize,
        })),
        _ => Err(Error::Unsupported {
            what: "RoPE scaling",
            name: kind.to_owned(),
            supported: "default, linear, llama3",
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: &str = r#"{
        "model_type": "llama", "num_hidden_layers": 16, "hidden_size": 2048,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64,
        "intermediate_size": 8192, "vocab_size": 128256, "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192, "rope_type": "llama3"}}"#;

    #[test]
    fn llama3_config_is_read() {
        let config = ModelConfig::from_json(LLAMA3).unwrap();
        assert_eq!(config.head_dim, 64);
        assert!(config.tied);
        assert_eq!(
            config.rope_scaling,
            Some(RopeScaling::Llama3 {
                factor: 32.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_context: 8192
            })
        );
    }

    #[test]
    fn what_is_unsupported_is_named() {
        let other = LLAMA3.replace(r#""model_type": "llama""#, r#""model_type": "mamba""#);
        let error = ModelConfig::from_json(&other).unwrap_err().to_string();
        assert!(error.contains("mamba") && error.contains("qwen3"), "{error}");
        let yarn = LLAMA3.replace(r#""rope_type": "llama3""#, r#""rope_type": "yarn""#);
        assert!(ModelConfig::from_json(&yarn).unwrap_err().to_string().contains("yarn"));
        let odd = LLAMA3.replace(r#""num_key_value_heads": 8"#, r#""num_key_value_heads": 5"#);
        assert!(matches!(ModelConfig::from_json(&odd), Err(Error::Config { .. })));
    }
}
