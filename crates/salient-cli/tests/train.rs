//! `salient train` on a tiny random model and made-up texts: a run that is killed goes on, what is
//! torn is made again, and what cannot work is refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::UNIX_EPOCH;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use safetensors::tensor::{Dtype, TensorView};
use salient_lab::fetch::ASSETS;
use serde_json::{Value, json};
use tempfile::TempDir;

const CONFIG: &str = "
schedule = '1=0.7,4=0.4@sinks=2,local=0.1'
target = 'attention-mean'
width = 12
batch = 2
evaluate_every = 20
patience = 99
[losses]
distillation = 0.5
keep_ratio = 1
[fast]
steps = 300
warmup = 5
rate = 1e-2
[full]
steps = 8
rate = 1e-3
[data]
questions = 4
speeches = 2
held_out = 2
tokens = 200
";

/// A cache with made-up texts, a tiny model, and a configuration.
struct Home {
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Self { folder };
        write_texts(home.path());
        fs::create_dir(home.path().join("model")).unwrap();
        write_model(&home.path().join("model"));
        fs::write(home.path().join("run.toml"), CONFIG).unwrap();
        home
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, path: &str) -> Vec<u8> {
        fs::read(self.path().join(path)).unwrap()
    }

    fn train(&self, out: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_salient"));
        command.args(["train", "--json", "--out", out]);
        for (flag, value) in [("--model", "model"), ("--config", "run.toml")] {
            if !arguments.contains(&flag) {
                command.args([flag, value]);
            }
        }
        command
            .args(arguments)
            .current_dir(self.path())
            .env("SALIENT_HOME", self.path())
            .env("CANDLE_NUM_THREADS", "1")
            .env_remove("SALIENT_LOG");
        command
    }

    fn trained(&self, out: &str, arguments: &[&str]) -> Value {
        let Output { status, stdout, stderr } = self.train(out, arguments).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8(stderr).unwrap());
        serde_json::from_slice(&stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, out: &str, arguments: &[&str], code: i32, said: &[&str]) {
        let Output { status, stdout, stderr } = self.train(out, arguments).output().unwrap();
        let errors = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}: {errors}");
        for said in said {
            assert!(errors.contains(said), "`{said}` is not in: {errors}");
        }
        assert!(stdout.is_empty() && !self.path().join(out).join("card.md").exists());
    }
}

#[test]
fn a_run_leaves_predictors_a_card_and_curves() {
    let home = Home::new();
    let report = home.trained("out", &["--seed", "3"]);
    assert_eq!(report["layers"], json!([1, 4]));
    assert_eq!(report["steps"], json!([300, 8]));
    assert_eq!((&report["texts"]["train"], &report["texts"]["held_out"]), (&4.into(), &2.into()));
    assert!(report["texts"]["tokens"].as_u64().unwrap() <= 6 * 200);
    let accuracy = |row: usize| {
        let row = &report["held_out"][row];
        let stages = row["stages"].as_array().unwrap();
        let of_stages = stages.iter().map(|stage| stage["pair_accuracy"].as_f64().unwrap());
        (row["scorer"].as_str().unwrap(), of_stages.sum::<f64>() / stages.len() as f64)
    };
    let (predictor, random) = (accuracy(0), accuracy(2));
    assert_eq!((predictor.0, accuracy(1).0, random.0), ("predictor", "key-norm", "random"));
    assert!(predictor.1 > 0.6 && predictor.1 > random.1, "{predictor:?}, {random:?}");

    let card = String::from_utf8(home.file("out/card.md")).unwrap();
    let hash = report["predictors"]["sha256"].as_str().unwrap();
    let fingerprint = report["fingerprint"].as_str().unwrap();
    for said in [hash, fingerprint, "seed = 3\n", "| 4 | key-norm |", "--config run.toml"] {
        assert!(card.contains(said), "`{said}` is not in: {card}");
    }
    // The options in the card make the same run.
    let options = card.split("```").nth(1).unwrap().strip_prefix("toml\n").unwrap();
    fs::write(home.path().join("again.toml"), options).unwrap();
    let again = home.trained("again", &["--config", "again.toml", "--marks", "out/marks"]);
    assert_eq!(again["predictors"]["sha256"], hash);
    let metrics = String::from_utf8(home.file("out/metrics.jsonl")).unwrap();
    assert_eq!(metrics.lines().count(), 308);
    assert_eq!(metrics.lines().filter(|line| line.contains("held_out")).count(), 16);
    for curves in ["out/curves.svg", "out/loss.svg"] {
        assert!(home.file(curves).starts_with(b"<svg"), "{curves}");
    }
    assert_eq!(fs::read_dir(home.path().join("out/marks")).unwrap().count(), 6);

    // Gradients of the answers alone are others.
    let marks = |which: &str, out: &str| {
        let few = ["--fast-steps", "20", "--full-steps", "0", "--target", "saliency"];
        home.trained(out, &[&few[..], &["--scored", which]].concat())["predictors"].clone()
    };
    assert_ne!(marks("all", "all"), marks("answer", "answer"));

    // Where the predictors are used: another schedule and another model are named.
    let generate = |model: &str, schedule: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_salient"));
        let scorer = "predictor:out/predictors.safetensors";
        command.args(["generate", "The he he.", "--model", model, "--schedule", schedule]);
        command.args(["--max-tokens", "1", "--scorer", scorer]).current_dir(home.path());
        let output = command.env("SALIENT_HOME", home.path()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let (works, errors) = generate("model", "1=0.9,4=0.5@sinks=2");
    assert!(works, "{errors}");
    let (works, errors) = generate("model", "1=0.9,2=0.5");
    let said = ["1=0.7,4=0.4@sinks=2", "1=0.9,2=0.5", "[1, 4]", "layer 2"];
    assert!(!works && said.iter().all(|said| errors.contains(said)), "{errors}");
}

#[test]
fn facts_hidden_in_speeches_fill_their_texts() {
    let home = Home::new();
    let data = ["--facts", "5", "--questions", "0", "--speeches", "0", "--tokens", "400"];
    let steps = ["--fast-steps", "10", "--full-steps", "0", "--scored", "question"];
    let report = home.trained("out", &[&data[..], &steps].concat());
    assert_eq!((&report["texts"]["train"], &report["texts"]["held_out"]), (&3.into(), &2.into()));
    // A sentence more, of some thirty letters, would not fit.
    let tokens = report["texts"]["tokens"].as_u64().unwrap();
    assert!((5 * 350..=5 * 400).contains(&tokens), "{tokens}");
    let card = String::from_utf8(home.file("out/card.md")).unwrap();
    assert!(card.contains("and 5 questions for a fact"), "{card}");
}

/// Killed, then stopped by Ctrl-C, then left alone.
#[cfg(unix)]
#[test]
fn a_run_that_was_killed_gives_what_one_that_was_not_gives() {
    let home = Home::new();
    home.trained("whole", &[]);
    let steps = || match fs::read_to_string(home.path().join("parts/metrics.jsonl")) {
        Ok(metrics) => metrics.lines().count(),
        Err(_) => 0,
    };
    let mut seen = 0;
    for (signal, code) in [("KILL", None), ("INT", Some(130))] {
        let mut child = home
            .train("parts", &["-q"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while steps() <= seen && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &id]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), code);
        assert!(seen < steps() && steps() < 308, "{} steps after {seen}", steps());
        assert!(!home.path().join("parts/card.md").exists());
        seen = steps();
    }
    let Output { status, stderr, .. } = home.train("parts", &[]).output().unwrap();
    let errors = String::from_utf8(stderr).unwrap();
    assert!(status.success() && errors.contains("going on from the checkpoint"), "{errors}");
    for name in ["predictors.safetensors", "metrics.jsonl", "checkpoint.safetensors", "curves.svg"]
    {
        let [whole, parts] = ["whole", "parts"].map(|out| home.file(&format!("{out}/{name}")));
        assert!(whole == parts, "{name} differs");
    }
}

#[test]
fn marks_that_are_torn_or_of_another_text_are_made_again() {
    let home = Home::new();
    let few = ["--fast-steps", "20", "--full-steps", "0"];
    let first = home.trained("first", &few);
    let folder = home.path().join("first/marks");
    let marks = || -> BTreeMap<PathBuf, Vec<u8>> {
        let entries = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    let sound = marks();
    let paths: Vec<_> = sound.keys().collect();
    let torn = &sound[paths[0]];
    fs::write(paths[0], &torn[..torn.len() - 3]).unwrap();
    fs::write(paths[1], &sound[paths[2]]).unwrap();
    fs::remove_file(paths[3]).unwrap();
    fs::write(paths[4], b"").unwrap();
    let again = home.trained("again", &[&few[..], &["--marks", "first/marks"]].concat());
    assert_eq!(again["predictors"], first["predictors"]);
    assert!(marks() == sound, "the marks are not as they were");

    // Other stages add theirs, and those that were there stay of use.
    let other = [&few[..], &["--marks", "first/marks", "--schedule", "3=0.5"]].concat();
    home.trained("other", &other);
    let both = marks();
    assert!(both.keys().eq(sound.keys()));
    let longer = |path| both[path].len() > sound[path].len();
    assert!(paths.into_iter().all(longer), "a layer was not added");
    home.trained("third", &[&few[..], &["--marks", "first/marks"]].concat());
    assert!(marks() == both, "marks that had more layers than needed were not used");
}

#[test]
fn what_cannot_work_is_refused() {
    let home = Home::new();
    let write = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
    let refused = |arguments: &[&str], code, said: &[&str]| {
        home.refused("out", arguments, code, said);
    };
    refused(&["--target", "salience"], 2, &["salience", "attention-mean"]);
    refused(&["--schedule", "never"], 2, &["never"]);
    refused(&["--held-out", "6"], 2, &["6 of 6 texts"]);
    refused(&["--fast-steps", "0", "--full-steps", "0"], 2, &["0 steps"]);
    refused(&["--questions", "7000"], 2, &["6000 to train on"]);
    refused(&["--width", "0"], 1, &["`width` is 0"]);
    write("typo.toml", "[losses]\nrnak = 1\n");
    refused(&["--config", "typo.toml"], 1, &["typo.toml", "losses.rnak", "divergence"]);
    refused(&["--config", "none.toml"], 1, &["cannot read none.toml"]);
    assert!(!home.path().join("out").exists(), "work was begun");

    refused(&["--tokens", "9000"], 2, &["9000 tokens", "context has 512"]);
    refused(&["--tokens", "90"], 2, &["only 0 fit into 90 tokens"]);
    refused(&["--schedule", "9=0.5"], 1, &["layer 9"]);
    refused(&["--schedule", "dense"], 1, &["no stage"]);
    refused(&["--schedule", "1=1"], 1, &["cannot train on", "`1=1` drops nothing of any text"]);
    let short = ["too short", "at layer 1", "texts of 301 or more"];
    refused(&["--schedule", "1=300t"], 1, &short);
    refused(&["--device", "gpu"], 2, &["gpu", "cpu, cuda"]);
    #[cfg(not(feature = "cuda"))]
    refused(&["--device", "cuda"], 1, &["cuda:0", "feature `cuda`"]);
    let other = fs::File::create(home.path().join("out/.lock")).unwrap();
    other.try_lock().unwrap();
    refused(&[], 1, &["another run", "give another --out"]);
    drop(other);
    let no_model = ["--model", "no/such.gguf"];
    refused(&no_model, 2, &["no/such.gguf"]);
    fs::remove_dir_all(home.path().join("out")).unwrap();

    // A checkpoint of other options, or of other texts: both are named.
    let few = ["--fast-steps", "3", "--full-steps", "0"];
    home.trained("out", &few);
    fs::remove_file(home.path().join("out/card.md")).unwrap();
    let with = |more: &[&'static str]| [&few[..], more].concat();
    let again = "give another --out";
    refused(&with(&["--seed", "5"]), 1, &[again, "\"seed\":0", "\"seed\":5"]);
    refused(&with(&["--tokens", "199"]), 1, &[again, "texts"]);
    write("out/checkpoint.safetensors", "half");
    refused(&few, 1, &[again, "no checkpoint"]);

    // A run that diverges leaves the checkpoint before.
    let wild = CONFIG.replace("rate = 1e-2", "rate = 1e38").replace("every = 20", "every = 1");
    write("wild.toml", &wild);
    let checkpoint = "wild/checkpoint.safetensors";
    home.refused(
        "wild",
        &["--config", "wild.toml"],
        1,
        &["fast phase, step ", checkpoint, "diverged"],
    );
    assert!(home.path().join(checkpoint).exists());
}

/// HotpotQA with questions of made-up words, and two speeches, as `salient fetch` would leave them.
fn write_texts(home: &Path) {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut words = |count: usize| {
        let mut word = || {
            let letters = random.random_range(2..7);
            (0..letters).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect::<String>()
        };
        (0..count).map(|_| word()).collect::<Vec<_>>().join(" ")
    };
    let mut question = |index: usize| {
        let mut paragraph = |title: &str| json!([title, [words(4) + ".", words(5) + "."]]);
        let context = ["A", "B", "C"].map(&mut paragraph);
        json!({"_id": index.to_string(), "question": words(3) + "?", "answer": words(1),
            "supporting_facts": [["B", 0]], "context": context})
    };
    // Those that `questions = 4` may be taken from are all of these, whatever the seed.
    let questions: Vec<_> = (0..60).map(&mut question).collect();
    let questions: Vec<_> = (0..6000).map(|index| &questions[index % 60]).collect();
    let texts = home.join("texts");
    fs::create_dir_all(texts.join("sotu")).unwrap();
    fs::write(texts.join("hotpotqa.json"), json!(questions).to_string()).unwrap();
    for name in ["1801_a.txt", "1802_b.txt", "1803_c.txt"] {
        let speech: String = (0..200).map(|_| format!("S{}. ", words(5))).collect();
        fs::write(texts.join("sotu").join(name), speech).unwrap();
    }
    fs::create_dir(home.join("stamps")).unwrap();
    for asset in ASSETS.iter().filter(|asset| ["hotpotqa", "sotu"].contains(&asset.name)) {
        let path = home.join(asset.path);
        let mut paths = vec![path.clone()];
        if path.is_dir() {
            paths = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            paths.sort();
        }
        let stamp_of = |path: &PathBuf| {
            let metadata = fs::metadata(path).unwrap();
            let modified = metadata.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
            json!({"name": path.file_name().unwrap().to_str(), "bytes": metadata.len(),
                "modified_ns": modified.as_nanos() as u64})
        };
        let files: Vec<_> = paths.iter().map(stamp_of).collect();
        let stamp = json!({"sha256": asset.sha256, "files": files});
        fs::write(home.join("stamps").join(format!("{}.json", asset.name)), stamp.to_string())
            .unwrap();
    }
}

const LAYERS: usize = 6;
const HIDDEN: usize = 32;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
const DIM: usize = 8;
const FFN: usize = 40;

/// A folder with a Llama of six layers and random weights, and a tokenizer of letters.
fn write_model(folder: &Path) {
    let mut letters: Vec<String> = ('!'..='~').map(String::from).collect();
    letters.extend(["Ġ", "Ċ"].map(str::to_owned));
    let special = ["<|im_start|>", "<|im_end|>"];
    let vocab = letters.len() + special.len();

    let mut shapes = vec![
        ("model.embed_tokens.weight".to_owned(), vec![vocab, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HEADS * DIM, HIDDEN]),
            ("self_attn.k_proj", vec![KV_HEADS * DIM, HIDDEN]),
            ("self_attn.v_proj", vec![KV_HEADS * DIM, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HEADS * DIM]),
            ("mlp.gate_proj", vec![FFN, HIDDEN]),
            ("mlp.up_proj", vec![FFN, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, FFN]),
        ] {
            shapes.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    let mut random = ChaCha8Rng::seed_from_u64(2);
    let weights: Vec<_> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let (norm, len) = (f32::from(name.contains("norm")), shape.iter().product::<usize>());
            let spread = 1.5 / (shape[shape.len() - 1] as f32).sqrt();
            let bytes: Vec<u8> = (0..len)
                .flat_map(|_| (norm + random.random_range(-spread..spread)).to_le_bytes())
                .collect();
            (name, shape, bytes)
        })
        .collect();
    let views = weights.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    let path = folder.join("model.safetensors");
    safetensors::serialize_to_file(views, None, &path).unwrap();

    let config = json!({
        "model_type": "llama", "num_hidden_layers": LAYERS, "hidden_size": HIDDEN,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "intermediate_size": FFN,
        "vocab_size": vocab, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
        "rope_theta": 1e4, "tie_word_embeddings": true, "hidden_act": "silu",
        "eos_token_id": vocab - 1,
    });
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let added: Vec<_> = special
        .iter()
        .enumerate()
        .map(|(index, content)| {
            json!({"id": letters.len() + index, "content": content, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    let tokens = letters.iter().map(String::as_str).chain(special);
    let ids: BTreeMap<_, _> = tokens.zip(0..).collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "post_processor": null, "pre_tokenizer": bytes, "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "vocab": ids,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false,
            "merges": []},
    });
    fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let template = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
        message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{{ '<|im_start|>assistant\\n' }}";
    let settings = json!({"chat_template": template, "eos_token": "<|im_end|>"});
    fs::write(folder.join("tokenizer_config.json"), settings.to_string()).unwrap();
}
