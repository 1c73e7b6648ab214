//! Models of the Hugging Face hub, as a small hub on this machine has them.

#[path = "../../../salient-candle/tests/common/mod.rs"]
mod common;
#[path = "../../../salient-candle/tests/common/files.rs"]
mod files;
mod server;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use candle_core::DType;
use serde_json::Value;

use common::random_model;
use server::{COMMIT, Repository, Server, Trouble};

/// Where a person's cache is, and the hub that is asked.
struct Person {
    home: tempfile::TempDir,
    server: Server,
}

impl Person {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), server: Server::start() }
    }

    /// `salient generate` of a model.
    fn command(&self, model: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_salient"));
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_ascii_lowercase();
            if text.starts_with("hf_") || text.ends_with("_proxy") || text == "salient_log" {
                command.env_remove(&name);
            }
        }
        command
            .args(["generate", "--json", "--plain", "--max-tokens", "3", "--schedule", "dense"])
            .args(["--device", "cpu", "--model", model, "the shell"])
            .env("SALIENT_HOME", self.home.path())
            .env("HF_HOME", self.home.path())
            .env("HF_ENDPOINT", &self.server.url);
        command
    }

    fn generate(&self, model: &str) -> Answer {
        self.command(model).output().unwrap().into()
    }

    fn offline(&self, model: &str) -> Answer {
        self.command(model).env("HF_HUB_OFFLINE", "1").output().unwrap().into()
    }

    fn folder(&self, model: &str) -> PathBuf {
        self.home.path().join("hub").join(format!("models--{}", model.replace('/', "--")))
    }

    fn snapshot(&self, model: &str, commit: &str) -> PathBuf {
        self.folder(model).join("snapshots").join(commit)
    }

    /// The one file that is half there.
    fn part(&self, model: &str) -> PathBuf {
        let blobs = fs::read_dir(self.folder(model).join("blobs")).unwrap();
        let parts = blobs.map(|entry| entry.unwrap().path());
        let parts: Vec<_> =
            parts.filter(|path| path.extension().is_some_and(|e| e == "part")).collect();
        assert_eq!(parts.len(), 1);
        parts[0].clone()
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
struct Answer {
    code: Option<i32>,
    json: Value,
    errors: String,
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            json: serde_json::from_slice(&output.stdout).unwrap_or_default(),
            errors: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Answer {
    /// The text that the model wrote.
    fn text(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}", self.errors);
        self.json["pruned"]["text"].as_str().expect("an answer has a text")
    }

    fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, Some(1), "{}", self.errors);
        for word in words {
            assert!(self.errors.contains(word), "{word}: {}", self.errors);
        }
    }
}

/// A tiny model in a folder, in two files of weights.
fn tiny(seed: u64) -> (tempfile::TempDir, Repository) {
    let folder = tempfile::tempdir().unwrap();
    files::folder(&random_model(files::config(), seed), folder.path(), DType::F32, 2);
    let repository = Repository::of(folder.path());
    (folder, repository)
}

const WEIGHTS: &str = "model-00001-of-00002.safetensors";

fn large(path: &str) -> bool {
    path.starts_with("/large/")
}

#[test]
fn a_model_answers_by_its_name_and_from_then_on_offline_too() {
    let person = Person::new();
    let (folder, repository) = tiny(1);
    let more = repository.with("pytorch_model.bin", b"x").with("README.md", b"x");
    person.server.put("org/tiny", more.with("onnx/model.safetensors", b"x"));
    let expected = person.generate(folder.path().to_str().unwrap());
    assert!(person.server.requests().is_empty());

    let answer = person.generate("org/tiny");
    assert_eq!(answer.text(), expected.text());
    assert_eq!(answer.errors, "");
    let requests = person.server.requests();
    assert_eq!(requests[0].path, "/api/models/org/tiny/revision/main");
    let asked = |word: &str| requests.iter().any(|request| request.path.contains(word));
    assert!(asked("tokenizer_config.json") && asked(WEIGHTS));
    assert!(!asked(".bin") && !asked("README") && !asked("onnx"));

    // As Python keeps it: links in a snapshot, and what main stood for.
    let cache = person.folder("org/tiny");
    assert_eq!(fs::read_to_string(cache.join("refs/main")).unwrap(), COMMIT);
    let file = person.snapshot("org/tiny", COMMIT).join("config.json");
    assert!(file.read_link().unwrap().starts_with("../../blobs"));
    assert_eq!(fs::read(&file).unwrap(), fs::read(folder.path().join("config.json")).unwrap());

    assert_eq!(person.generate("org/tiny").text(), expected.text());
    let again: Vec<_> = person.server.requests().into_iter().map(|request| request.path).collect();
    assert_eq!(again, ["/api/models/org/tiny/revision/main"]);

    for name in ["org/tiny", &format!("org/tiny@{COMMIT}")] {
        assert_eq!(person.offline(name).text(), expected.text());
    }
    assert!(person.server.requests().is_empty());

    person.server.go_down();
    let answer = person.generate("org/tiny");
    assert_eq!(answer.text(), expected.text());
    assert!(answer.errors.contains("503") && answer.errors.contains("cache"), "{}", answer.errors);
    let quiet = Answer::from(person.command("org/tiny").arg("--quiet").output().unwrap());
    assert_eq!((quiet.text(), quiet.errors.as_str()), (expected.text(), ""));
}

#[test]
fn weights_come_by_the_index_where_there_is_one() {
    let person = Person::new();
    let (folder, repository) = tiny(2);
    let second = "model-00002-of-00002.safetensors";
    let mut map = serde_json::Map::new();
    for file in [WEIGHTS, second] {
        let path = folder.path().join(file);
        for name in candle_core::safetensors::load(path, &candle_core::Device::Cpu).unwrap().keys()
        {
            map.insert(name.clone(), file.into());
        }
    }
    let index = serde_json::json!({"weight_map": map}).to_string().into_bytes();
    let repository = repository.with("model.safetensors.index.json", &index);
    person.server.put("org/tiny", repository.with("consolidated.safetensors", b"not these"));
    let expected = person.generate(folder.path().to_str().unwrap());
    assert_eq!(person.generate("org/tiny").text(), expected.text());
    assert!(!person.server.requests().iter().any(|r| r.path.contains("consolidated")));
}

#[test]
fn a_gguf_file_is_named_and_of_a_commit_too() {
    let person = Person::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tiny-F32.gguf");
    files::gguf(&random_model(files::config(), 3), &file, |_, _| {});
    person.server.put("org/tiny-GGUF", Repository::of(folder.path()).with("other.gguf", b"x"));
    let expected = person.generate(file.to_str().unwrap());
    let answer = person.generate(&format!("org/tiny-GGUF/tiny-F32.gguf@{COMMIT}"));
    assert_eq!(answer.text(), expected.text());
    assert!(!person.server.requests().iter().any(|r| r.path.contains("other.gguf")));
    assert_eq!(person.generate("org/tiny-GGUF/tiny-F32.gguf").text(), expected.text());
    assert_eq!(person.offline("org/tiny-GGUF/tiny-F32.gguf").text(), expected.text());
    person.offline("org/tiny-GGUF/other.gguf").refused(&["HF_HUB_OFFLINE", "other.gguf"]);

    let example = "org/tiny-GGUF/other.gguf";
    person.generate("org/tiny-GGUF").refused(&[example, "other.gguf, tiny-F32.gguf"]);
    let missing = person.generate("org/tiny-GGUF/tiny-Q2_K.gguf");
    missing.refused(&["no file tiny-Q2_K.gguf", "other.gguf, tiny-F32.gguf"]);
}

#[test]
fn what_is_not_to_be_had_is_said_in_words() {
    let person = Person::new();
    person.server.put("org/old", Repository::new().with("config.json", b"{}"));
    person.generate("org/none").refused(&["org/none", "private or gated", "HF_TOKEN", "401"]);
    let unknown = person.command("org/none").env("HF_TOKEN", "mine").output().unwrap();
    Answer::from(unknown).refused(&["org/none", "404"]);
    person.generate("org/old@v9").refused(&["org/old", "revision v9"]);
    person.generate("org/old").refused(&["org/old", "no tokenizer.json", "config.json"]);
    let offline = person.offline("org/none");
    offline.refused(&["HF_HUB_OFFLINE", "org/none", "config.json", "hub)"]);

    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nowhere = format!("http://{port}");
    let unreached = person.command("org/none").env("HF_ENDPOINT", &nowhere).output().unwrap();
    Answer::from(unreached).refused(&["cannot reach", &nowhere, "refused"]);
}

#[test]
fn a_download_that_broke_off_goes_on_where_it_was() {
    let person = Person::new();
    let (folder, repository) = tiny(4);
    let whole = repository.files[WEIGHTS].clone();
    person.server.put("org/tiny", repository);
    person.server.trouble(Some(Trouble::Cut));
    person.generate("org/tiny").refused(&[WEIGHTS, "broke off", "goes on"]);
    assert_eq!(fs::read(person.part("org/tiny")).unwrap(), whole[..whole.len() / 2]);
    assert!(!person.folder("org/tiny").join("refs/main").exists());
    person.offline("org/tiny").refused(&["HF_HUB_OFFLINE"]);

    person.server.requests();
    person.server.trouble(None);
    let expected = person.generate(folder.path().to_str().unwrap());
    assert_eq!(person.generate("org/tiny").text(), expected.text());
    let range = format!("bytes={}-", whole.len() / 2);
    let resumed = |r: &server::Request| large(&r.path) && r.range.as_ref() == Some(&range);
    assert!(person.server.requests().iter().any(resumed));
    let file = person.snapshot("org/tiny", COMMIT).join(WEIGHTS);
    assert_eq!(fs::read(file).unwrap(), whole);
}

#[cfg(unix)]
#[test]
fn an_interrupted_download_ends_at_once_and_goes_on_later() {
    let person = Person::new();
    let (folder, repository) = tiny(5);
    person.server.put("org/tiny", repository);
    person.server.trouble(Some(Trouble::Stall));
    let mut child = person.command("org/tiny").stderr(Stdio::null()).spawn().unwrap();
    let stalled = person.server.stalled();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(stalled);
    person.server.trouble(None);
    let expected = person.generate(folder.path().to_str().unwrap());
    assert_eq!(person.generate("org/tiny").text(), expected.text());
}

#[test]
fn what_comes_damaged_is_removed() {
    let person = Person::new();
    let (folder, repository) = tiny(6);
    person.server.put("org/tiny", repository);
    person.server.trouble(Some(Trouble::Change));
    person.generate("org/tiny").refused(&[WEIGHTS, "sha256", "removed"]);
    let link = person.snapshot("org/tiny", COMMIT).join(WEIGHTS);
    assert!(!link.is_symlink());
    person.server.trouble(None);
    let expected = person.generate(folder.path().to_str().unwrap());
    assert_eq!(person.generate("org/tiny").text(), expected.text());
}

/// What an earlier run may have left of a file that the hub has nothing to add to.
#[test]
fn a_part_as_long_as_the_whole_or_longer_is_begun_anew() {
    let person = Person::new();
    let (folder, repository) = tiny(7);
    let whole = repository.files[WEIGHTS].len();
    person.server.put("org/tiny", repository);
    let expected = person.generate(folder.path().to_str().unwrap());
    for length in [whole, whole + 1] {
        person.server.trouble(Some(Trouble::Cut));
        person.generate("org/tiny").refused(&["broke off"]);
        fs::write(person.part("org/tiny"), vec![0; length]).unwrap();
        person.server.trouble(None);
        assert_eq!(person.generate("org/tiny").text(), expected.text(), "{length}");
        fs::remove_dir_all(person.folder("org/tiny")).unwrap();
    }
}

#[test]
fn the_token_is_sent_and_opens_what_is_private() {
    let person = Person::new();
    let (_folder, repository) = tiny(8);
    person.server.put("org/own", Repository { token: Some("hf_mine".into()), ..repository });
    let with = |token: &str| {
        Answer::from(person.command("org/own").env("HF_TOKEN", token).output().unwrap())
    };
    person.generate("org/own").refused(&["org/own", "HF_TOKEN", "401"]);
    with("hf_other").refused(&["org/own", "HF_TOKEN", "404"]);
    assert_eq!(person.server.requests().last().unwrap().token.as_deref(), Some("hf_other"));
    with("hf_mine").text();

    // Another cache, and the token that Python's client has written.
    fs::write(person.home.path().join("token"), "hf_mine\n").unwrap();
    let cache = person.home.path().join("elsewhere");
    let output = person.command("org/own").env("HF_HUB_CACHE", &cache).output().unwrap();
    Answer::from(output).text();
    assert!(cache.join("models--org--own").join("refs/main").exists());
}

#[cfg(unix)]
#[test]
fn a_new_commit_brings_only_what_has_changed() {
    let person = Person::new();
    let (_folder, repository) = tiny(9);
    person.server.put("org/tiny", repository.clone());
    let first = person.generate("org/tiny");
    let commit = COMMIT.replace('0', "9");
    let changed = repository.with("generation_config.json", br#"{"temperature": 1}"#);
    person.server.put("org/tiny", Repository { commit: commit.clone(), ..changed });
    person.server.requests();

    assert_eq!(person.generate("org/tiny").text(), first.text());
    let brought = |r: &&server::Request| r.range.as_deref() == Some("bytes=0-");
    let requests = person.server.requests();
    let brought: Vec<_> = requests.iter().filter(brought).map(|r| r.path.as_str()).collect();
    let of = |file: &str| format!("/org/tiny/resolve/{commit}/{file}");
    assert_eq!(brought, [of("generation_config.json")]);
    assert!(person.snapshot("org/tiny", &commit).join(WEIGHTS).exists());
}

/// The client gives up on a lock after five seconds, and a download may take far longer.
#[cfg(target_os = "linux")]
#[test]
fn another_download_of_the_same_file_is_waited_for() {
    use sha2::{Digest, Sha256};

    let person = Person::new();
    let (folder, repository) = tiny(11);
    let sha256 = base16ct::lower::encode_string(&Sha256::digest(&repository.files[WEIGHTS]));
    person.server.put("org/tiny", repository);
    let expected = person.generate(folder.path().to_str().unwrap());
    let blobs = person.folder("org/tiny").join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    let lock = fs::File::create(blobs.join(sha256).with_extension("lock")).unwrap();
    lock.lock().unwrap();
    let mut command = person.command("org/tiny");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_secs(7));
    assert!(!person.snapshot("org/tiny", COMMIT).join(WEIGHTS).exists());
    drop(lock);
    assert_eq!(Answer::from(child.wait_with_output().unwrap()).text(), expected.text());
}

/// Someone has made room by hand.
#[cfg(unix)]
#[test]
fn a_link_to_nothing_is_mended() {
    let person = Person::new();
    let (_folder, repository) = tiny(12);
    person.server.put("org/tiny", repository);
    let first = person.generate("org/tiny");
    let link = person.snapshot("org/tiny", COMMIT).join(WEIGHTS);
    fs::remove_file(fs::canonicalize(&link).unwrap()).unwrap();
    assert_eq!(person.generate("org/tiny").text(), first.text());
    assert!(link.exists());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_called_so() {
    let person = Person::new();
    let (_folder, repository) = tiny(10);
    person.server.put("org/tiny", repository);
    person.server.trouble(Some(Trouble::Cut));
    person.generate("org/tiny").refused(&["broke off"]);
    let part = person.part("org/tiny");
    fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink("/dev/full", &part).unwrap();
    person.server.trouble(None);
    person.generate("org/tiny").refused(&["no space left", WEIGHTS]);
}
