//! GGUF files, every tensor dequantised.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::{Path, PathBuf};

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, TensorInfo, Value};

use super::{Loaded, Place, Weights, assemble, check_shape};
use crate::config::{Family, ModelConfig, RopeScaling};
use crate::error::{Error, Result};
use crate::tokenizer::{GgufVocabulary, Tokenizer};

/// The tensor of Llama 3's RoPE scaling.
const FACTORS: &str = "rope_freqs.weight";

/// Values that are dequantised at a time.
const CHUNK: usize = 1 << 18;

pub(super) fn load(path: &Path, place: &Place<'_>) -> Result<Loaded> {
    let file = File::open(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let size =
        file.metadata().map_err(|source| Error::Read { path: path.to_owned(), source })?.len();
    let mut reader = BufReader::new(file);
    let content = Content::read(&mut reader).map_err(|error| header_error(path, &error))?;
    check_extent(path, &content, size)?;

    let mut gguf = Gguf { path: path.to_owned(), content, reader, heads: None };
    let config = gguf.config()?;
    if config.family == Family::Llama {
        gguf.heads = Some((config.heads, config.kv_heads));
    }
    let tokenizer = gguf.tokenizer()?;
    let model = assemble(config, &mut gguf, place)?;
    Ok(Loaded { model, tokenizer })
}

struct Gguf {
    path: PathBuf,
    content: Content,
    reader: BufReader<File>,
    /// Query and KV heads, where Q and K rows are stored for interleaved rotary pairs.
    heads: Option<(usize, usize)>,
}

impl Gguf {
    fn malformed(&self, reason: impl Into<String>) -> Error {
        Error::Malformed { path: self.path.clone(), format: "GGUF", reason: reason.into() }
    }

    fn value(&self, key: &str) -> Result<&Value> {
        self.content
            .metadata
            .get(key)
            .ok_or_else(|| self.malformed(format!("metadata `{key}` is missing")))
    }

    fn integer(&self, key: &str) -> Result<usize> {
        let value = self.value(key)?;
        let number = match *value {
            Value::I8(number) => u64::try_from(number).ok(),
            Value::I16(number) => u64::try_from(number).ok(),
            Value::I32(number) => u64::try_from(number).ok(),
            Value::I64(number) => u64::try_from(number).ok(),
            _ => value.to_u64().ok(),
        };
        let number = number.ok_or_else(|| {
            self.malformed(format!("metadata `{key}` is {value:?}, not an integer of 0 or more"))
        })?;
        usize::try_from(number)
            .map_err(|_| self.malformed(format!("metadata `{key}` is too large")))
    }

    fn float(&self, key: &str) -> Result<f64> {
        let value = self.value(key)?;
        value
            .to_f32()
            .map(f64::from)
            .or_else(|_| value.to_f64())
            .map_err(|_| self.malformed(format!("metadata `{key}` is not a number")))
    }

    fn text(&self, key: &str) -> Result<&str> {
        let text = self.value(key)?.to_string();
        text.map(String::as_str)
            .map_err(|_| self.malformed(format!("metadata `{key}` is not a string")))
    }

    fn optional<T>(&self, key: &str, read: impl FnOnce(&Self) -> Result<T>) -> Result<Option<T>> {
        if self.content.metadata.contains_key(key) { read(self).map(Some) } else { Ok(None) }
    }

    fn config(&mut self) -> Result<ModelConfig> {
        let architecture = self.text("general.architecture")?.to_owned();
        let family = Family::from_name(&architecture)?;
        let key = |name: &str| format!("{architecture}.{name}");
        let heads = self.integer(&key("attention.head_count"))?;
        let hidden = self.integer(&key("embedding_length"))?;
        if heads == 0 {
            return Err(self.malformed("the model has no attention heads"));
        }
        let kv_key = key("attention.head_count_kv");
        let dim_key = key("attention.key_length");
        let window_key = key("attention.sliding_window");
        let layers = self.integer(&key("block_count"))?;
        // Before anything is made for each of them.
        if layers > self.content.tensor_infos.len() {
            let tensors = self.content.tensor_infos.len();
            let reason = format!("block_count is {layers}, but the file has {tensors} tensors");
            return Err(self.malformed(reason));
        }
        let head_dim = self.optional(&dim_key, |g| g.integer(&dim_key))?.unwrap_or(hidden / heads);
        let rotated_key = key("rope.dimension_count");
        if let Some(rotated) = self.optional(&rotated_key, |g| g.integer(&rotated_key))?
            && rotated != head_dim
        {
            return Err(Error::Unsupported {
                what: "rope.dimension_count",
                name: rotated.to_string(),
                supported: "that of whole heads",
            });
        }
        let experts_key = key("expert_count");
        if let Some(experts) = self.optional(&experts_key, |g| g.integer(&experts_key))?
            && experts > 0
        {
            return Err(Error::Unsupported {
                what: "mixture",
                name: format!("of {experts} experts"),
                supported: "models with one feed-forward network per block",
            });
        }
        let config = ModelConfig {
            family,
            layers,
            hidden,
            heads,
            kv_heads: self.optional(&kv_key, |g| g.integer(&kv_key))?.unwrap_or(heads),
            head_dim,
            ffn: self.integer(&key("feed_forward_length"))?,
            vocab: self.vocab()?,
            context: self.integer(&key("context_length"))?,
            rms_eps: self.float(&key("attention.layer_norm_rms_epsilon"))?,
            rope_theta: {
                let theta = key("rope.freq_base");
                self.optional(&theta, |g| g.float(&theta))?.unwrap_or(10_000.0)
            },
            rope_scaling: self.rope_scaling(&architecture)?,
            sliding_window: self.optional(&window_key, |g| g.integer(&window_key))?,
            sliding_from: 0,
            attention_bias: family == Family::Qwen2,
            qk_norm: family == Family::Qwen3,
            tied: !self.content.tensor_infos.contains_key("output.weight"),
        };
        config.validate()
    }

    /// The embedding's rows; some files pad the vocabulary there.
    fn vocab(&self) -> Result<usize> {
        let name = "token_embd.weight";
        let info = self
            .content
            .tensor_infos
            .get(name)
            .ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        info.shape
            .dims()
            .first()
            .copied()
            .ok_or_else(|| self.malformed(format!("`{name}` is a scalar")))
    }

    fn rope_scaling(&mut self, architecture: &str) -> Result<Option<RopeScaling>> {
        if let Some(info) = self.content.tensor_infos.get(FACTORS) {
            let info = TensorInfo { shape: info.shape.clone(), ..*info };
            let Some(&count) = info.shape.dims().first() else {
                return Err(self.malformed(format!("`{FACTORS}` is a scalar")));
            };
            let factors = self.rows(FACTORS, &info, 0..count)?;
            if let Some(index) = factors.iter().position(|factor| !factor.is_finite()) {
                return Err(Error::NotFinite { name: FACTORS.to_owned(), index });
            }
            return Ok(Some(RopeScaling::Factors(factors)));
        }
        let key = format!("{architecture}.rope.scaling.type");
        // Older files have the second.
        let factors = ["rope.scaling.factor", "rope.scale_linear"];
        let factors = factors.map(|name| format!("{architecture}.{name}"));
        let given = factors.iter().find(|key| self.content.metadata.contains_key(*key));
        let linear = |factor: &str| Ok(Some(RopeScaling::Linear { factor: self.float(factor)? }));
        match self.optional(&key, |g| g.text(&key).map(str::to_owned))?.as_deref() {
            Some("none") => Ok(None),
            None => given.map_or(Ok(None), |factor| linear(factor)),
            Some("linear") => linear(given.unwrap_or(&factors[0])),
            Some(other) => Err(Error::Unsupported {
                what: "RoPE scaling",
                name: other.to_owned(),
                supported: "none, linear, and Llama 3's factors",
            }),
        }
    }

    fn tokenizer(&self) -> Result<Tokenizer> {
        let strings = |key: &str| -> Result<Vec<String>> {
            let wrong = || self.malformed(format!("metadata `{key}` is not a list of strings"));
            let list = self.value(key)?.to_vec().map_err(|_| wrong())?;
            list.iter().map(|v| v.to_string().cloned().map_err(|_| wrong())).collect()
        };
        let model = self.text("tokenizer.ggml.model")?;
        if model != "gpt2" {
            return Err(Error::Unsupported {
                what: "tokenizer",
                name: model.to_owned(),
                supported: "gpt2 (byte-level BPE); or a folder with tokenizer.json",
            });
        }
        let types = "tokenizer.ggml.token_type";
        let token_types = self.value(types)?.to_vec().ok().and_then(|list| {
            list.iter().map(|v| v.to_i32().or_else(|_| v.to_u32().map(|v| v as i32)).ok()).collect()
        });
        let id = |name: &str| {
            let key = format!("tokenizer.ggml.{name}_token_id");
            self.optional(&key, |g| g.integer(&key).map(|id| id as u32))
        };
        let template = "tokenizer.chat_template";
        let add_bos = "tokenizer.ggml.add_bos_token";
        let pre = "tokenizer.ggml.pre";
        Tokenizer::from_gguf(GgufVocabulary {
            pre: self.optional(pre, |g| g.text(pre).map(str::to_owned))?,
            tokens: strings("tokenizer.ggml.tokens")?,
            token_types: token_types.ok_or_else(|| {
                self.malformed(format!("metadata `{types}` is not a list of integers"))
            })?,
            merges: strings("tokenizer.ggml.merges")?,
            bos: id("bos")?,
            stop: [id("eos")?, id("eot")?].into_iter().flatten().collect(),
            add_bos: self.optional(add_bos, |g| {
                g.value(add_bos)?.to_bool().map_err(|_| g.malformed("add_bos_token is not a bool"))
            })? == Some(true),
            chat_template: self.optional(template, |g| g.text(template).map(str::to_owned))?,
        })
    }

    /// Some rows of a tensor in f32.
    fn rows(&mut self, name: &str, info: &TensorInfo, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut shape = info.shape.dims().to_vec();
        let per_row = shape[1..].iter().product::<usize>();
        // A row is whole blocks, but for vectors, which are read as one.
        let before = rows.start * per_row / info.ggml_dtype.block_size();
        let offset = info.offset + (before * info.ggml_dtype.type_size()) as u64;
        shape[0] = rows.len();
        let part = TensorInfo { ggml_dtype: info.ggml_dtype, shape: shape.into(), offset };
        let data = self.content.tensor_data_offset;
        let read = part.read(&mut self.reader, data, &Device::Cpu);
        read.and_then(|tensor| tensor.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1())
            .map_err(|error| self.malformed(format!("tensor `{name}`: {error}")))
    }
}

impl Weights for Gguf {
    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        each: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let heads = match self.heads {
            Some((heads, _)) if name.contains(".q_proj.") => Some(heads),
            Some((_, kv_heads)) if name.contains(".k_proj.") => Some(kv_heads),
            _ => None,
        };
        let name = gguf_name(name);
        let missing = || Error::MissingTensor { name: name.clone() };
        let info = self.content.tensor_infos.get(&name).ok_or_else(missing)?;
        let info = TensorInfo { shape: info.shape.clone(), ..*info };
        check_shape(&name, shape, info.shape.dims())?;
        let columns: usize = shape[1..].iter().product();
        let block = info.ggml_dtype.block_size();
        if shape.len() > 1 && !columns.is_multiple_of(block) {
            let reason = format!("rows of `{name}` are not whole blocks of {block} values");
            return Err(self.malformed(reason));
        }
        let at_once = match heads {
            Some(heads) => shape[0] / heads,
            None if shape.len() == 1 => shape[0],
            None => (CHUNK / columns.max(1)).max(1),
        };
        for start in (0..shape[0]).step_by(at_once.max(1)) {
            let rows = start..(start + at_once).min(shape[0]);
            let values = self.rows(&name, &info, rows)?;
            match heads {
                Some(_) => each(&halves_from_pairs(&values, columns))?,
                None => each(&values)?,
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        // Factors are a part of the configuration.
        let tensors = self.content.tensor_infos.keys().filter(|name| *name != FACTORS);
        tensors.cloned().collect()
    }

    fn name_of(&self, name: &str) -> String {
        gguf_name(name)
    }
}

/// Llama GGUFs store the rows of a head of Q and K for interleaved rotary pairs (2i, 2i + 1); the
/// decoder pairs halves (i, i + dim / 2).
fn halves_from_pairs(head: &[f32], columns: usize) -> Vec<f32> {
    let rows = |first| head.chunks_exact(columns).skip(first).step_by(2);
    rows(0).chain(rows(1)).flatten().copied().collect()
}

fn gguf_name(name: &str) -> String {
    let name = name.strip_prefix("model.").unwrap_or(name);
    match name {
        "embed_tokens.weight" => return "token_embd.weight".to_owned(),
        "norm.weight" => return "output_norm.weight".to_owned(),
        "lm_head.weight" => return "output.weight".to_owned(),
        _ => {}
    }
    const PARTS: [(&str, &str); 12] = [
        ("layers.", "blk."),
        ("input_layernorm.", "attn_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_proj.", "attn_q."),
        ("self_attn.k_proj.", "attn_k."),
        ("self_attn.v_proj.", "attn_v."),
        ("self_attn.o_proj.", "attn_output."),
        ("self_attn.q_norm.", "attn_q_norm."),
        ("self_attn.k_norm.", "attn_k_norm."),
        ("mlp.gate_proj.", "ffn_gate."),
        ("mlp.up_proj.", "ffn_up."),
        ("mlp.down_proj.", "ffn_down."),
    ];
    PARTS.iter().fold(name.to_owned(), |name, (from, to)| name.replacen(from, to, 1))
}

fn header_error(path: &Path, error: &candle_core::Error) -> Error {
    let reason = error.to_string();
    let unknown = "unknown dtype for tensor ";
    if let Some(at) = reason.find(unknown) {
        let number: String =
            reason[at + unknown.len()..].chars().take_while(char::is_ascii_digit).collect();
        return Error::Unsupported {
            what: "tensor type",
            name: ggml_type_name(&number),
            supported: "F32, F16, BF16, Q4_0 to Q8_1 and Q2_K to Q8_K",
        };
    }
    let reason = if reason.contains("failed to fill whole buffer") {
        "it ends before its header does".to_owned()
    } else {
        reason.lines().next().unwrap_or_default().to_owned()
    };
    Error::Malformed { path: path.to_owned(), format: "GGUF", reason }
}

fn ggml_type_name(number: &str) -> String {
    let name = match number {
        "16" => "IQ2_XXS",
        "17" => "IQ2_XS",
        "18" => "IQ3_XXS",
        "19" => "IQ1_S",
        "20" => "IQ4_NL",
        "21" => "IQ3_S",
        "22" => "IQ2_S",
        "23" => "IQ4_XS",
        "29" => "IQ1_M",
        "34" => "TQ1_0",
        "35" => "TQ2_0",
        "39" => "MXFP4",
        _ => return format!("ggml type {number}"),
    };
    name.to_owned()
}

/// A truncated file is found before anything is allocated for its tensors.
fn check_extent(path: &Path, content: &Content, size: u64) -> Result<()> {
    for (name, info) in &content.tensor_infos {
        let elements = info.shape.dims().iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let block = info.ggml_dtype.block_size() as u64;
        let end = elements
            .map(|n| n / block)
            .and_then(|blocks| blocks.checked_mul(info.ggml_dtype.type_size() as u64))
            .and_then(|bytes| bytes.checked_add(info.offset))
            .and_then(|end| end.checked_add(content.tensor_data_offset));
        if end.is_none_or(|end| end > size) {
            return Err(Error::Malformed {
                path: path.to_owned(),
                format: "GGUF",
                reason: format!("it is truncated: tensor `{name}` ends beyond its {size} bytes"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_translate() {
        for (hf, gguf) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("model.norm.weight", "output_norm.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
            ("model.layers.0.self_attn.k_norm.weight", "blk.0.attn_k_norm.weight"),
            ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight"),
            ("model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"),
        ] {
            assert_eq!(gguf_name(hf), gguf);
        }
    }

    #[test]
    fn pairs_become_halves() {
        let one_column = [0., 1., 2., 3.];
        assert_eq!(halves_from_pairs(&one_column, 1), [0., 2., 1., 3.]);
        let two_columns = [0., 0., 1., 1., 2., 2., 3., 3.];
        assert_eq!(halves_from_pairs(&two_columns, 2), [0., 0., 2., 2., 1., 1., 3., 3.]);
    }
}
