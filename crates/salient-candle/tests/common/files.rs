//! Models as files.
#![allow(unreachable_pub, dead_code, reason = "every test file uses its own part")]

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Tensor};
use salient_candle::{Family, Model, ModelConfig};

use super::common::tiny;

/// A byte-level vocabulary: its alphabet, one merge, and the chat markup.
pub fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
    tokens.extend(["Ġ", "Ċ", "he"].map(str::to_owned));
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
    tokens
}

/// A tiny model's shape with that vocabulary.
pub fn config() -> ModelConfig {
    // An epsilon that f32, as GGUF stores it, holds exactly.
    let rms_eps = f64::from(1.0f32 / 65_536.0);
    ModelConfig { vocab: vocabulary().len(), tied: true, rms_eps, ..tiny(Family::Llama) }
}

/// A chat template.
pub const TEMPLATE: &str = "{% for message in messages %}\
    {{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
    {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The model as a GGUF file, its metadata and tensors changed by `edit`.
pub fn gguf(
    model: &Model,
    path: &Path,
    edit: impl FnOnce(&mut HashMap<String, Value>, &mut HashMap<String, Tensor>),
) {
    let c = model.config();
    let tokens = vocabulary();
    let text = |text: &str| Value::String(text.to_owned());
    let types = tokens.iter().map(|t| Value::I32(if t.starts_with("<|") { 3 } else { 1 }));
    let size = |n: usize| Value::U32(n as u32);
    let mut metadata: HashMap<String, Value> = [
        ("general.architecture", text("llama")),
        ("llama.block_count", size(c.layers)),
        ("llama.embedding_length", size(c.hidden)),
        ("llama.attention.head_count", size(c.heads)),
        ("llama.attention.head_count_kv", size(c.kv_heads)),
        ("llama.feed_forward_length", size(c.ffn)),
        ("llama.context_length", size(c.context)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(c.rms_eps as f32)),
        ("llama.rope.freq_base", Value::F32(c.rope_theta as f32)),
        ("tokenizer.ggml.model", text("gpt2")),
        ("tokenizer.ggml.pre", text("smollm")),
        ("tokenizer.ggml.token_type", Value::Array(types.collect())),
        ("tokenizer.ggml.merges", Value::Array(vec![text("h e")])),
        ("tokenizer.ggml.eos_token_id", size(tokens.len() - 1)),
        ("tokenizer.chat_template", text(TEMPLATE)),
        ("tokenizer.ggml.tokens", Value::Array(tokens.iter().map(|t| text(t)).collect())),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into();
    let mut tensors: HashMap<String, Tensor> =
        model.tensors().unwrap().into_iter().map(|(name, t)| (gguf_name(&name), t)).collect();
    for (name, tensor) in &mut tensors {
        let heads = match name {
            n if n.contains("attn_q.") => c.heads,
            n if n.contains("attn_k.") => c.kv_heads,
            _ => continue,
        };
        // As converters store them: rows of Q and K by rotary pair.
        let (rows, columns) = tensor.dims2().unwrap();
        let halves = tensor.contiguous().unwrap().reshape((heads, 2, rows / heads / 2, columns));
        let pairs = halves.unwrap().transpose(1, 2).unwrap().contiguous().unwrap();
        *tensor = pairs.reshape((rows, columns)).unwrap();
    }
    edit(&mut metadata, &mut tensors);
    let quantised: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, t)| (name, QTensor::quantize(&owned(&t), GgmlDType::F32).unwrap()))
        .collect();
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(k, v)| (k.as_str(), v)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(n, t)| (n.as_str(), t)).collect();
    let mut file = fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

/// A copy: candle quantises the whole storage behind a view.
pub fn owned(view: &Tensor) -> Tensor {
    view.affine(1.0, 0.0).unwrap()
}

pub fn gguf_name(name: &str) -> String {
    let mut name = name.replace("model.layers.", "blk.").replace("model.", "");
    for (from, to) in [
        ("embed_tokens", "token_embd"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.", "attn_"),
        ("mlp.", "ffn_"),
        ("q_proj", "q"),
        ("k_proj", "k"),
        ("v_proj", "v"),
        ("o_proj", "output"),
        ("gate_proj", "gate"),
        ("up_proj", "up"),
        ("down_proj", "down"),
    ] {
        name = name.replace(from, to);
    }
    if name == "norm.weight" { "output_norm.weight".into() } else { name }
}

/// The model as a folder of safetensors in `dtype`, in as many files as `shards`.
pub fn folder(model: &Model, path: &Path, dtype: DType, shards: usize) {
    let c = model.config();
    let mut tensors: Vec<(String, Tensor)> = model
        .tensors()
        .unwrap()
        .into_iter()
        .map(|(name, t)| (name, t.contiguous().unwrap().to_dtype(dtype).unwrap()))
        .collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    for (i, part) in tensors.chunks(tensors.len().div_ceil(shards)).enumerate() {
        let part: HashMap<String, Tensor> = part.iter().cloned().collect();
        let name = format!("model-{:05}-of-{shards:05}.safetensors", i + 1);
        candle_core::safetensors::save(&part, path.join(name)).unwrap();
    }
    let config = serde_json::json!({
        "model_type": "llama", "num_hidden_layers": c.layers, "hidden_size": c.hidden,
        "num_attention_heads": c.heads, "num_key_value_heads": c.kv_heads,
        "intermediate_size": c.ffn, "vocab_size": c.vocab, "max_position_embeddings": c.context,
        "rms_norm_eps": c.rms_eps, "rope_theta": c.rope_theta, "tie_word_embeddings": c.tied,
        "hidden_act": "silu", "eos_token_id": c.vocab - 1,
    });
    fs::write(path.join("config.json"), config.to_string()).unwrap();
    let tokens = vocabulary();
    let added: Vec<_> = tokens
        .iter()
        .enumerate()
        .filter(|(_, t)| t.starts_with("<|"))
        .map(|(id, t)| {
            serde_json::json!({"id": id, "content": t, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let vocab: HashMap<&String, usize> = tokens.iter().enumerate().map(|(i, t)| (t, i)).collect();
    let byte_level = serde_json::json!({"type": "ByteLevel", "add_prefix_space": false,
        "trim_offsets": true, "use_regex": true});
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "merges": [["h", "e"]]},
    });
    fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = serde_json::json!({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"});
    fs::write(path.join("tokenizer_config.json"), settings.to_string()).unwrap();
}
