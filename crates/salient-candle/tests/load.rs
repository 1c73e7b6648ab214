//! Models on disk: what a GGUF file and a folder of safetensors give, and how broken ones are
//! refused.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use common::{difference, prompt, random_model, tiny};
use salient::schedule::Schedule;
use salient_candle::scorer::{Learned, Position};
use salient_candle::{Error, Family, Loaded, Message, Model, ModelConfig, load};
use tempfile::TempDir;

/// A byte-level vocabulary: its alphabet, one merge, and the chat markup.
fn vocabulary() -> Vec<String> {
    let mut tokens: Vec<String> = ('!'..='~').map(String::from).collect();
    tokens.extend(["Ġ", "Ċ", "he"].map(str::to_owned));
    tokens.extend(["<|im_start|>", "<|im_end|>"].map(str::to_owned));
    tokens
}

fn config() -> ModelConfig {
    // An epsilon that f32, as GGUF stores it, holds exactly.
    let rms_eps = f64::from(1.0f32 / 65_536.0);
    ModelConfig { vocab: vocabulary().len(), tied: true, rms_eps, ..tiny(Family::Llama) }
}

const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
    message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
    {{ '<|im_start|>assistant\n' }}{% endif %}";

/// The model as a GGUF file, its metadata and tensors changed by `edit`.
fn gguf(
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
fn owned(view: &Tensor) -> Tensor {
    view.affine(1.0, 0.0).unwrap()
}

fn gguf_name(name: &str) -> String {
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
fn folder(model: &Model, path: &Path, dtype: DType, shards: usize) {
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
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": vocab,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "merges": [["h", "e"]]},
    });
    fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = serde_json::json!({"chat_template": TEMPLATE, "eos_token": "<|im_end|>"});
    fs::write(path.join("tokenizer_config.json"), settings.to_string()).unwrap();
}

fn logits(model: &Model) -> Tensor {
    let tokens = prompt(40, model.config().vocab, 1);
    let plan = Schedule::dense().plan(&[40], model.config().layers).unwrap();
    let prefill = model.prefill(&[tokens], &plan, &Position, 0).unwrap();
    prefill.logits(model).unwrap()
}

fn check(loaded: &Loaded, model: &Model, tolerance: f32) {
    assert_eq!(loaded.model.config(), model.config());
    assert!(difference(&logits(&loaded.model), &logits(model)) <= tolerance);
    let (tokenizer, count) = (&loaded.tokenizer, vocabulary().len() as u32);
    let ids = tokenizer.encode_chat(&[Message::user("the 12")]).unwrap();
    let text: String = tokenizer.pieces(&ids).unwrap().concat();
    assert_eq!(text, "<|im_start|>user\nthe 12<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(ids[0], count - 2);
    assert_eq!(tokenizer.stop(), [count - 1]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("hehe he").unwrap()).unwrap(), "hehe he");
    assert_eq!(tokenizer.encode("he").unwrap().len(), 1);
}

#[test]
fn every_form_gives_the_same_model() {
    let home = TempDir::new().unwrap();
    let model = random_model(config(), 1);
    let path = home.path().join("model.gguf");
    gguf(&model, &path, |_, _| {});
    check(&load(&path).unwrap(), &model, 0.0);
    for (dtype, shards, tolerance) in
        [(DType::F32, 1, 0.0), (DType::F32, 3, 0.0), (DType::F16, 2, 0.05), (DType::BF16, 1, 0.4)]
    {
        let home = TempDir::new().unwrap();
        folder(&model, home.path(), dtype, shards);
        check(&load(home.path()).unwrap(), &model, tolerance);
    }
}

/// Loads what `edit` makes of a sound GGUF file.
fn edited(
    edit: impl FnOnce(&mut HashMap<String, Value>, &mut HashMap<String, Tensor>),
) -> Result<Loaded, Error> {
    let home = TempDir::new().unwrap();
    let path = home.path().join("model.gguf");
    gguf(&random_model(config(), 1), &path, edit);
    load(path)
}

/// Loads the bytes that `edit` makes of a sound GGUF file's.
fn rewritten(edit: impl FnOnce(&mut Vec<u8>)) -> Result<Loaded, Error> {
    let home = TempDir::new().unwrap();
    let path = home.path().join("model.gguf");
    gguf(&random_model(config(), 1), &path, |_, _| {});
    let mut bytes = fs::read(&path).unwrap();
    edit(&mut bytes);
    fs::write(&path, bytes).unwrap();
    load(path)
}

#[track_caller]
fn said(result: Result<Loaded, Error>, words: &[&str]) {
    let error = result.expect_err("a broken model loads").to_string();
    for word in words {
        assert!(error.contains(word), "`{word}` is not in: {error}");
    }
}

#[test]
fn broken_gguf_files_are_refused() {
    said(load("no/such/model.gguf"), &["cannot read", "no/such/model.gguf"]);
    said(rewritten(|bytes| bytes.clear()), &["GGUF", "ends before"]);
    said(rewritten(|bytes| bytes[0] ^= 0xff), &["not a valid GGUF"]);
    said(rewritten(|bytes| bytes.truncate(200)), &["not a valid GGUF", "remaining"]);
    said(rewritten(|bytes| bytes.truncate(2000)), &["not a valid GGUF"]);
    said(rewritten(|bytes| bytes.truncate(bytes.len() - 100)), &["truncated"]);
    said(
        edited(|metadata, _| {
            metadata.insert("general.architecture".into(), Value::String("mamba".into()));
        }),
        &["architecture `mamba`", "llama, mistral, qwen2, qwen3"],
    );
    said(
        edited(|metadata, _| {
            metadata.remove("llama.block_count");
        }),
        &["llama.block_count", "missing"],
    );
    said(
        edited(|metadata, _| {
            metadata.insert("tokenizer.ggml.pre".into(), Value::String("novel".into()));
        }),
        &["pre-tokenizer `novel`"],
    );
    said(
        edited(|_, tensors| {
            tensors.remove("blk.3.ffn_down.weight");
        }),
        &["blk.3.ffn_down.weight", "missing"],
    );
    said(
        edited(|_, tensors| {
            let wide = Tensor::zeros((3, 4), DType::F32, &Device::Cpu).unwrap();
            tensors.insert("blk.0.attn_q.weight".into(), wide);
        }),
        &["blk.0.attn_q.weight", "[3, 4]", "[48, 48]"],
    );
    said(
        edited(|_, tensors| {
            let mut values = vec![0.5f32; 48];
            values[7] = f32::NAN;
            let norm = Tensor::new(values, &Device::Cpu).unwrap();
            tensors.insert("blk.2.attn_norm.weight".into(), norm);
        }),
        &["blk.2.attn_norm.weight", "not finite", "element 7"],
    );
    said(
        edited(|metadata, _| {
            let Some(Value::Array(tokens)) = metadata.get_mut("tokenizer.ggml.tokens") else {
                panic!("tokens")
            };
            tokens[4] = Value::String("other".into());
        }),
        &["vocabulary lacks `%`"],
    );
}

#[test]
fn a_tensor_type_that_is_not_supported_is_named() {
    let result = rewritten(|bytes| {
        let name = b"output_norm.weight";
        let at = bytes.windows(name.len()).position(|window| window == name).unwrap();
        // Name, dimension count, one dimension; then the type.
        let dtype = at + name.len() + 4 + 8;
        bytes[dtype..dtype + 4].copy_from_slice(&20u32.to_le_bytes());
    });
    said(result, &["tensor type `IQ4_NL`"]);
}

#[test]
fn a_chat_token_that_the_vocabulary_lacks_is_named() {
    let loaded = edited(|metadata, _| {
        let other = Value::String(TEMPLATE.replace("im_start", "turn"));
        metadata.insert("tokenizer.chat_template".into(), other);
    })
    .unwrap();
    let error = loaded.tokenizer.encode_chat(&[Message::user("x")]).unwrap_err().to_string();
    assert!(error.contains("<|turn|>"), "{error}");
}

#[test]
fn broken_folders_are_refused() {
    let model = random_model(config(), 1);
    let broken = |edit: &dyn Fn(&Path)| {
        let home = TempDir::new().unwrap();
        folder(&model, home.path(), DType::F32, 1);
        edit(home.path());
        load(home.path())
    };
    let weights = |home: &Path| -> PathBuf { home.join("model-00001-of-00001.safetensors") };
    said(broken(&|home| fs::remove_file(home.join("config.json")).unwrap()), &["config.json"]);
    said(
        broken(&|home| fs::remove_file(home.join("tokenizer.json")).unwrap()),
        &["tokenizer.json"],
    );
    said(broken(&|home| fs::remove_file(weights(home)).unwrap()), &["no .safetensors"]);
    said(broken(&|home| fs::write(weights(home), b"short").unwrap()), &["ends before its header"]);
    said(broken(&|home| fs::write(weights(home), [0xff; 64]).unwrap()), &["does not fit"]);
    said(
        broken(&|home| {
            let mut bytes = fs::read(weights(home)).unwrap();
            bytes.truncate(bytes.len() - 8);
            fs::write(weights(home), bytes).unwrap();
        }),
        &["truncated"],
    );
    said(
        broken(&|home| {
            let path = home.join("config.json");
            let text = fs::read_to_string(&path).unwrap().replace("\"llama\"", "\"gpt_neox\"");
            fs::write(path, text).unwrap();
        }),
        &["architecture `gpt_neox`"],
    );
}

#[test]
fn prompts_that_cannot_run_are_refused() {
    let model = random_model(config(), 1);
    let run = |prompt: Vec<u32>, reserve| {
        let plan = Schedule::dense().plan(&[prompt.len()], 6).unwrap();
        model.prefill(&[prompt], &plan, &Position, reserve).map(|_| ())
    };
    assert!(matches!(run(vec![], 0), Err(Error::EmptyPrompt { sequence: 0 })));
    let vocab = model.config().vocab;
    assert!(matches!(run(vec![vocab as u32], 0), Err(Error::UnknownToken { .. })));
    assert!(run(vec![1; 512], 0).is_ok());
    assert!(matches!(
        run(vec![1; 513], 0),
        Err(Error::ContextExceeded { tokens: 513, context: 512 })
    ));
    assert!(matches!(run(vec![1; 500], 13), Err(Error::ContextExceeded { .. })));
}

#[test]
fn predictors_are_checked_against_the_model() {
    let home = TempDir::new().unwrap();
    let model = random_model(config(), 1);
    let path = home.path().join("predictor.safetensors");
    let try_shapes = |shapes: &[(&str, &[usize])], value: f32| {
        let tensors: HashMap<String, Tensor> = shapes
            .iter()
            .map(|(name, shape)| {
                let tensor = Tensor::full(value, *shape, &Device::Cpu).unwrap();
                (format!("stage.4.{name}"), tensor)
            })
            .collect();
        candle_core::safetensors::save(&tensors, &path).unwrap();
        Learned::from_file(&path, &model).map(|_| ()).map_err(|e| e.to_string())
    };
    let sound: [(&str, &[usize]); 4] =
        [("w1", &[12, 48]), ("b1", &[12]), ("w2", &[2, 12]), ("b2", &[2])];
    assert_eq!(try_shapes(&sound, 0.1), Ok(()));
    let narrow = try_shapes(&[("w1", &[12, 47]), sound[1], sound[2], sound[3]], 0.1).unwrap_err();
    assert!(narrow.contains("stage.4.w1") && narrow.contains("[12, 48]"), "{narrow}");
    let missing = try_shapes(&sound[..3], 0.1).unwrap_err();
    assert!(missing.contains("stage.4.b2"), "{missing}");
    assert!(try_shapes(&sound, f32::NAN).unwrap_err().contains("not finite"));
    fs::write(&path, "no predictor").unwrap();
    assert!(Learned::from_file(&path, &model).is_err());
}
