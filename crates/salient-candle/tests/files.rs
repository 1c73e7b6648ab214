//! Nothing in a model's files goes unread without a word: tensors and configuration keys are used,
//! or refused by name.

mod common;
#[path = "common/files.rs"]
mod files;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use common::random_model;
use files::{config, folder, gguf};
use salient_candle::{Error, Loaded, ModelConfig, Result, RopeScaling, load};
use tempfile::TempDir;

/// Loads what `edit` makes of a sound GGUF file.
fn gguf_with(
    edit: impl FnOnce(&mut HashMap<String, Value>, &mut HashMap<String, Tensor>),
) -> Result<Loaded> {
    let home = TempDir::new().unwrap();
    let path = home.path().join("model.gguf");
    gguf(&random_model(config(), 1), &path, edit);
    load(path)
}

/// Loads what `edit` makes of a sound folder in that many shards.
fn folder_with(shards: usize, edit: impl FnOnce(&Path)) -> Result<Loaded> {
    let home = TempDir::new().unwrap();
    folder(&random_model(config(), 1), home.path(), DType::F32, shards);
    edit(home.path());
    load(home.path())
}

/// Loads a sound folder with some keys of its configuration set.
fn config_with(keys: serde_json::Value) -> Result<Loaded> {
    folder_with(1, |path| edit_json(&path.join("config.json"), &keys))
}

fn edit_json(path: &Path, keys: &serde_json::Value) {
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    for (key, value) in keys.as_object().unwrap() {
        json[key] = value.clone();
    }
    fs::write(path, json.to_string()).unwrap();
}

fn save(path: &Path, tensors: &[(&str, Tensor)]) {
    let tensors: HashMap<String, Tensor> =
        tensors.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect();
    candle_core::safetensors::save(&tensors, path).unwrap();
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

#[track_caller]
fn said(result: Result<Loaded>, words: &[&str]) {
    let error = result.expect_err("it loads").to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

/// Which file each tensor is in, by the files there are.
fn index_of(path: &Path) -> serde_json::Value {
    let mut map = serde_json::Map::new();
    for entry in fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|e| e == "safetensors") {
            let name = file.file_name().unwrap().to_str().unwrap();
            for (tensor, _) in candle_core::safetensors::load(&file, &Device::Cpu).unwrap() {
                map.insert(tensor, name.into());
            }
        }
    }
    serde_json::json!({"metadata": {}, "weight_map": map})
}

const INDEX: &str = "model.safetensors.index.json";
const NORM: &str = "model.norm.weight";

#[test]
fn the_index_says_which_file_a_tensor_is_in() {
    let sound = folder_with(2, |_| {}).unwrap().model.fingerprint().to_owned();
    // A shard of an older save, with other values of the same tensors.
    let stale = |path: &Path| {
        let index = index_of(path);
        fs::write(path.join(INDEX), index.to_string()).unwrap();
        save(&path.join("model-00009-of-00009.safetensors"), &[(NORM, zeros(&[48]))]);
    };
    assert_eq!(folder_with(2, stale).unwrap().model.fingerprint(), sound);
    let both = |path: &Path| {
        stale(path);
        save(&path.join("model.safetensors"), &[(NORM, zeros(&[48]))]);
    };
    assert_eq!(folder_with(2, both).unwrap().model.fingerprint(), sound);
    // Without an index there is no telling.
    let twice = |path: &Path| {
        save(&path.join("model-00009-of-00009.safetensors"), &[(NORM, zeros(&[48]))]);
    };
    said(folder_with(2, twice), &[NORM, "model-00009-of-00009.safetensors", "too"]);
    // model.safetensors is whole.
    let single = |path: &Path| {
        fs::rename(path.join("model-00001-of-00001.safetensors"), path.join("model.safetensors"))
            .unwrap();
        twice(path);
    };
    assert_eq!(folder_with(1, single).unwrap().model.fingerprint(), sound);
    let missing = |path: &Path| {
        let index = index_of(path);
        fs::write(path.join(INDEX), index.to_string()).unwrap();
        fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    };
    said(folder_with(2, missing), &[INDEX, "model-00002-of-00002.safetensors"]);
}

#[test]
fn tensors_without_a_place_are_refused_by_name() {
    let bias = "model.layers.0.self_attn.q_proj.bias";
    let more = |name: &'static str| {
        folder_with(1, move |path| save(&path.join("more.safetensors"), &[(name, zeros(&[48]))]))
    };
    said(more(bias), &[bias, "Llama"]);
    said(more("model.layers.0.self_attn.q_norm.weight"), &["q_norm"]);
    // Models make these themselves, or the embedding is the head.
    for harmless in ["model.layers.0.self_attn.rotary_emb.inv_freq", "lm_head.weight"] {
        assert!(more(harmless).is_ok(), "{harmless}");
    }
    let more = |name: &'static str| {
        gguf_with(move |_, tensors| {
            tensors.insert(name.into(), zeros(&[48]));
        })
    };
    said(more("blk.0.attn_q.bias"), &["blk.0.attn_q.bias", "Llama"]);
    said(more("blk.1.attn_q_norm.weight"), &["blk.1.attn_q_norm.weight"]);
}

#[test]
fn configuration_keys_are_applied_or_refused() {
    use serde_json::json;
    let loads = |keys| config_with(keys).unwrap().model.config().clone();
    assert!(
        !config_with(json!({"tie_word_embeddings": null})).is_ok_and(|l| l.model.config().tied)
    );
    said(config_with(json!({"partial_rotary_factor": 0.5})), &["partial_rotary_factor", "0.5"]);
    let v5 = json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}});
    said(config_with(v5), &["partial_rotary_factor", "0.25"]);
    assert!(config_with(json!({"partial_rotary_factor": 1.0})).is_ok());
    let gptq = json!({"quantization_config": {"quant_method": "gptq", "bits": 4}});
    said(config_with(gptq), &["quantization_config", "gptq"]);
    said(config_with(json!({"num_local_experts": 8})), &["8 experts"]);
    let linear = |factor: f64| json!({"rope_scaling": {"type": "linear", "factor": factor}});
    said(config_with(linear(0.0)), &["RoPE scaling factor is 0"]);
    said(config_with(linear(-2.0)), &["RoPE scaling factor is -2"]);
    let scaling = loads(linear(2.0)).rope_scaling;
    assert_eq!(scaling, Some(RopeScaling::Linear { factor: 2.0 }));
    said(config_with(json!({"rms_norm_eps": 0.0})), &["RMSNorm epsilon is 0"]);
}

/// As transformers' Qwen2Config and MistralConfig say.
#[test]
fn windows_are_those_of_the_architecture() {
    let read = |keys: &[(&str, serde_json::Value)]| {
        let mut json = serde_json::json!({
            "model_type": "qwen2", "num_hidden_layers": 30, "hidden_size": 48,
            "num_attention_heads": 6, "intermediate_size": 40, "vocab_size": 99,
            "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        });
        for (key, value) in keys {
            json[*key] = value.clone();
        }
        ModelConfig::from_json(&json.to_string())
    };
    let windows = |config: ModelConfig| -> Vec<usize> {
        (0..config.layers).filter(|&layer| config.window_at(layer).is_some()).collect()
    };
    let (on, window) = (("use_sliding_window", true.into()), ("sliding_window", 6.into()));
    let absent = read(&[on.clone(), window.clone()]).unwrap();
    assert_eq!(windows(absent), [28, 29]);
    let from_one = read(&[on.clone(), window.clone(), ("max_window_layers", 1.into())]).unwrap();
    assert_eq!(windows(from_one).len(), 29);
    let off = [("use_sliding_window", false.into()), window.clone()];
    assert!(windows(read(&off).unwrap()).is_empty());
    let none = [("model_type", "mistral".into()), ("sliding_window", 0.into())];
    assert!(windows(read(&none).unwrap()).is_empty());
    let mut types = vec!["full_attention"; 30];
    assert!(read(&[("layer_types", types.clone().into())]).is_ok());
    types[3] = "sliding_attention";
    let error = read(&[on, window, ("layer_types", types.into())]).unwrap_err().to_string();
    assert!(error.contains("sliding_attention at layer 3"), "{error}");
}

#[test]
fn gguf_keys_are_applied_or_refused() {
    let with = |key: &'static str, value: Value| {
        gguf_with(move |metadata, _| {
            metadata.insert(key.into(), value);
        })
    };
    let scaling = |loaded: Result<Loaded>| loaded.unwrap().model.config().rope_scaling.clone();
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        assert_eq!(scaling(with(key, Value::F32(2.0))), Some(RopeScaling::Linear { factor: 2.0 }));
    }
    assert_eq!(scaling(with("llama.rope.dimension_count", Value::U32(8))), None);
    said(with("llama.rope.dimension_count", Value::U32(4)), &["rope.dimension_count", "4"]);
    let zeros = gguf_with(|_, tensors| {
        tensors.insert("rope_freqs.weight".into(), zeros(&[4]));
    });
    said(zeros, &["RoPE factor is 0"]);
    let none = with("llama.attention.sliding_window", Value::U32(0)).unwrap();
    assert_eq!(none.model.config().sliding_window, None);
    said(with("llama.expert_count", Value::U32(8)), &["8 experts"]);
    let negative = with("llama.embedding_length", Value::I32(-1));
    said(negative, &["llama.embedding_length", "-1", "0 or more"]);
    said(with("llama.block_count", Value::U32(u32::MAX)), &["block_count is 4294967295"]);
}

/// A context of a hundred million positions is only a number.
#[test]
fn a_long_context_costs_nothing_before_it_is_used() {
    let long = config_with(serde_json::json!({"max_position_embeddings": 100_000_000})).unwrap();
    let [cos, _] = salient_candle::RopeTable::new(long.model.config(), &Device::Cpu, DType::F32)
        .unwrap()
        .tables();
    assert!(cos.dims()[0] <= 1024, "{:?}", cos.dims());
}

#[test]
fn a_prompt_is_neither_cut_nor_filled_up() {
    let sound = folder_with(1, |_| {}).unwrap();
    let text = "the 12 he ".repeat(20);
    let expected = sound.tokenizer.encode(&text).unwrap();
    let loaded = folder_with(1, |path| {
        let keys = serde_json::json!({
            "truncation": {"direction": "Right", "max_length": 16, "strategy": "LongestFirst",
                "stride": 0},
            "padding": {"strategy": {"Fixed": 500}, "direction": "Left", "pad_to_multiple_of": null,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "!"},
        });
        edit_json(&path.join("tokenizer.json"), &keys);
    });
    assert_eq!(loaded.unwrap().tokenizer.encode(&text).unwrap(), expected);
}

#[test]
fn logits_that_are_nan_are_an_error() {
    let config = config();
    let model = random_model(config.clone(), 1);
    // A norm so large that the head's products are not finite.
    let huge = salient_candle::Model::new(config.clone(), |name, shape| {
        let tensor = model.tensors()?[name].contiguous()?;
        assert_eq!(tensor.dims(), shape);
        Ok(if name == NORM { (tensor * 3e38)? } else { tensor })
    });
    let huge = huge.unwrap();
    let prompts = [vec![1, 2, 3]];
    let plan = salient::schedule::Schedule::dense().plan(&[3], config.layers).unwrap();
    let options = salient_candle::GenerateOptions {
        max_tokens: 2,
        stop: vec![],
        sampling: salient_candle::Sampling::default(),
    };
    let run = |model| {
        let mut scorer = salient_candle::scorer::Position;
        salient_candle::generate(model, &prompts, &plan, &mut scorer, &options, |_, _| true)
    };
    assert!(run(&model).is_ok());
    let refused = run(&huge).unwrap_err();
    assert!(matches!(refused, Error::NanLogits), "{refused}");
}
