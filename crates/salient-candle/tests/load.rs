//! Models on disk: what a GGUF file and a folder of safetensors give, and how broken ones are
//! refused.

mod common;
#[path = "common/files.rs"]
mod files;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Value;
use candle_core::{DType, Device, Tensor};
use common::{difference, prompt, random_model};
use files::{TEMPLATE, config, folder, gguf, vocabulary};
use salient::schedule::Schedule;
use salient_candle::scorer::{Learned, Position};
use salient_candle::{Error, Loaded, Message, Model, load};
use tempfile::TempDir;

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
