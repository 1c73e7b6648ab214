use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hub(cache: &Path) -> Hub {
    Hub { endpoint: "http://nowhere".into(), token: None, cache: cache.into(), offline: true }
}

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

fn listing(files: &[&str]) -> Listing {
    let files = files.iter().map(|&file| file.to_owned()).collect();
    Listing { commit: COMMIT.to_owned(), files }
}

/// A snapshot of org/tiny with these files, and `main` pointing at it.
fn snapshot(cache: &Path, files: &[(&str, &str)]) -> PathBuf {
    let folder = cache.join("models--org--tiny");
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(&snapshot).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for (name, text) in files {
        fs::write(snapshot.join(name), text).unwrap();
    }
    snapshot
}

#[test]
fn what_is_no_model_at_all_is_told_all_that_could_be() {
    let bar = ProgressBar::hidden();
    for text in ["gpt", "no/such.gguf", "./org/name"] {
        let error = resolve(text, &bar).unwrap_err();
        assert!(matches!(error, Error::UnknownModel { .. }));
        let words = error.to_string();
        for word in [text, "smollm2, squad", "org/name/FILE.gguf", "@REVISION"] {
            assert!(words.contains(word), "{words}");
        }
    }
    let here = tempfile::tempdir().unwrap();
    assert_eq!(resolve(here.path().to_str().unwrap(), &bar).unwrap(), here.path());
}

#[test]
fn a_folder_is_the_description_first_then_the_weights_and_nothing_else() {
    let files = listing(&[
        ".gitattributes",
        "README.md",
        "b.safetensors",
        "a.safetensors",
        "onnx/model.safetensors",
        "..\\x.safetensors",
        "pytorch_model.bin",
        "generation_config.json",
        "tokenizer.json",
        "config.json",
    ]);
    files.check_folder("org/tiny").unwrap();
    let small: Vec<_> = files.descriptions().collect();
    assert_eq!(small, ["config.json", "tokenizer.json", "generation_config.json"]);
    assert_eq!(files.weights().collect::<Vec<_>>(), ["b.safetensors", "a.safetensors"]);
}

#[test]
fn a_repository_without_a_model_says_what_it_has() {
    let words = |files: &[&str]| listing(files).check_folder("org/tiny").unwrap_err().to_string();
    let ggufs = words(&["a-Q4_0.gguf", "a-Q8_0.gguf", "README.md", "sub/b.gguf"]);
    assert!(ggufs.contains("as in org/tiny/a-Q4_0.gguf; it has a-Q4_0.gguf, a-Q8_0.gguf"));
    assert!(!ggufs.contains("sub/"), "{ggufs}");
    assert_eq!(words(&["a.gguf", "config.json", "tokenizer.json"]), words(&["a.gguf"]));
    for (files, missing) in [
        (&["config.json", "tokenizer.json", "model.bin"][..], "no .safetensors file, but config"),
        (&["config.json", "a.safetensors"], "no tokenizer.json, but config.json, a.safetensors"),
        (&["tokenizer.json", "a.safetensors"], "no config.json"),
        (&[], "no config.json, but nothing like it"),
    ] {
        let words = words(files);
        assert!(words.contains(missing), "{words}");
    }
}

#[test]
fn a_file_that_is_not_there_names_those_that_are() {
    let files = listing(&["a.gguf", "b.gguf", "config.json"]);
    files.check_file("org/tiny", "a.gguf").unwrap();
    let words = files.check_file("org/tiny", "c.gguf").unwrap_err().to_string();
    assert_eq!(words, "org/tiny on the hub has no file c.gguf, but a.gguf, b.gguf");
}

#[test]
fn offline_the_cache_is_used_or_named_with_what_it_lacks() {
    let cache = tempfile::tempdir().unwrap();
    let (hub, bar) = (hub(cache.path()), ProgressBar::hidden());
    let lacks = |text: &str, missing: &str| {
        let words = hub.fetch(&name(text), &bar).unwrap_err().to_string();
        assert!(words.contains("HF_HUB_OFFLINE"), "{words}");
        assert!(words.ends_with(&format!("lacks {missing}")), "{words}");
        assert!(words.contains(cache.path().to_str().unwrap()), "{words}");
    };
    lacks("org/tiny", "config.json, tokenizer.json, a .safetensors file");
    lacks("org/tiny/a.gguf", "a.gguf");

    let index = r#"{"weight_map": {"x": "m-2.safetensors", "y": "m-1.safetensors"}}"#;
    let snapshot =
        snapshot(cache.path(), &[("config.json", "{}"), ("tokenizer.json", "{}"), (INDEX, index)]);
    fs::write(snapshot.join("m-2.safetensors"), "").unwrap();
    lacks("org/tiny", "m-1.safetensors");
    fs::write(snapshot.join("m-1.safetensors"), "").unwrap();
    for revision in ["", "@main", &format!("@{COMMIT}")] {
        assert_eq!(hub.fetch(&name(&format!("org/tiny{revision}")), &bar).unwrap(), snapshot);
    }
    lacks("org/tiny@v2", "config.json, tokenizer.json, a .safetensors file");
    fs::write(snapshot.join("a.gguf"), "").unwrap();
    let file = hub.fetch(&name("org/tiny/a.gguf"), &bar).unwrap();
    assert_eq!(file, snapshot.join("a.gguf"));
    fs::write(snapshot.join(INDEX), "[").unwrap();
    lacks("org/tiny", &format!("a sound {INDEX}"));
}

#[test]
fn an_index_leads_nowhere_else() {
    let cache = tempfile::tempdir().unwrap();
    for file in ["../../x.safetensors", "/x.safetensors", "a/b.safetensors", "config.json", ""] {
        let text = serde_json::json!({"weight_map": {"x": file}}).to_string();
        let snapshot = snapshot(cache.path(), &[(INDEX, &text)]);
        let error = index(&snapshot).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{file}: {error}");
    }
}

#[test]
fn snapshots_are_named_and_other_folders_are_not() {
    let named = |path: &str| name_of_snapshot(Path::new(path));
    let path = format!("/c/models--org--my--model/snapshots/{COMMIT}");
    assert_eq!(named(&path).unwrap(), "org/my--model@0123456789ab");
    assert_eq!(named("models--org--m/snapshots/ab").unwrap(), "org/m@ab");
    for path in ["", "/", "ab", "snapshots/ab", "models--org--m/refs/main", "models--m/snapshots/a"]
    {
        assert_eq!(named(path), None, "{path}");
    }
}
