//! Results, one line of JSON per item and run, kept so that an evaluation can go on where it ended.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Placement, Task};
use crate::corpus::Split;
use crate::error::{Error, Result};
use crate::hub;

/// Everything that a result depends on, but for the model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// The task.
    pub task: Task,
    /// The scorer's name; [`DENSE`](super::DENSE) for the dense run.
    pub scorer: String,
    /// The schedule's text form.
    pub schedule: String,
    /// Tokens of the whole prompt, where the task leaves a choice.
    pub length: Option<usize>,
    /// The needle's depth in percent.
    pub depth: Option<f64>,
    /// Where the question stands, where there is one.
    pub question: Option<Placement>,
    /// The part of the text that the item is of.
    pub split: Split,
    /// The item's place among the items of its task.
    pub index: usize,
    /// What chose the items.
    pub seed: u64,
    /// The version of the command.
    pub version: String,
}

/// What tells models apart: the file's or folder's name, and the bytes of the weights.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelId {
    /// The file's or folder's name; `org/name@COMMIT` of a folder of the hub's cache.
    pub name: String,
    /// The size of the file, or of all weight files in the folder.
    pub bytes: u64,
    /// The device and type that it runs in, where that is not the CPU in f32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<String>,
}

impl ModelId {
    /// The identity of a .gguf file or of a folder with safetensors.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let failed = |e| Error::read(path, e);
        let metadata = fs::metadata(path).map_err(failed)?;
        if !metadata.is_dir() {
            return Ok(Self { name, bytes: metadata.len(), on: None });
        }
        let name = hub::name_of_snapshot(path).unwrap_or(name);
        let mut bytes = 0;
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.path().extension().is_some_and(|extension| extension == "safetensors") {
                // The weights may be links into a cache.
                bytes += fs::metadata(entry.path()).map_err(failed)?.len();
            }
        }
        Ok(Self { name, bytes, on: None })
    }

    /// The same model on a device, in a type: results of different ones are not mixed.
    #[must_use]
    pub fn run_on(self, device: &str, dtype: &str) -> Self {
        let on = (device != "cpu" || dtype != "f32").then(|| format!("{device} in {dtype}"));
        Self { on, ..self }
    }
}

/// What a run of an item gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The text's own name for the item.
    pub id: String,
    /// Tokens that are prefilled: the prompt, or of [`Placement::Later`] what precedes the
    /// question.
    pub prompt_tokens: usize,
    /// The mean share of those tokens alive over the layers.
    pub work: f64,
    /// The share of those tokens alive in the last layer.
    pub final_keep: f64,
    /// The share of the dense prefill's operations that are saved, without those of scoring.
    pub flops_saved: f64,
    /// The bytes of keys and values that the prefill leaves, as a share of the dense ones.
    pub kv_kept: f64,
    /// What the model answered, where it was asked to.
    pub answer: Option<String>,
    /// Whether the answer was right.
    pub right: Option<bool>,
    /// Negative log-likelihood per token of the text that was to follow, in nats; the mean over the
    /// questions where there are several.
    pub nll: Option<f64>,
    /// KL(dense || pruned) per token of that text, in nats; 0 for the dense run.
    pub kl: Option<f64>,
    /// The share of the tokens that matter (the needle, the supporting facts) alive after each
    /// stage; empty where none are known.
    pub survival: Vec<StageShare>,
    /// Seconds that the prefill took.
    pub prefill_seconds: f64,
    /// Seconds of the dense prefill over those, both measured by the same process.
    pub speedup: f64,
}

/// A share of tokens alive after a stage.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StageShare {
    /// The block on whose entry the stage stands.
    pub layer: usize,
    /// The share.
    pub share: f64,
}

/// A line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was run.
    pub key: Key,
    /// On which model.
    pub model: ModelId,
    /// What came out.
    pub outcome: Outcome,
}

/// The file of results, open for appending and locked against a second writer.
#[derive(Debug)]
pub struct Results {
    file: File,
    path: PathBuf,
    model: ModelId,
    outcomes: HashMap<String, Outcome>,
    dropped: usize,
}

impl Results {
    /// Opens the file, creating it where there is none, and reads what it holds. What a crash left
    /// after the last whole line is cut off.
    ///
    /// # Errors
    /// When the file cannot be read and written, another process has it open, a line is no result,
    /// or a result is of another model.
    pub fn open(path: impl Into<PathBuf>, model: ModelId) -> Result<Self> {
        let path = path.into();
        let mut file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| Error::write(&path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem = "another evaluation is writing it; wait for it or give another --out";
                return Err(Error::Malformed { path, problem: problem.into() });
            }
            Err(TryLockError::Error(e)) => return Err(Error::write(&path, e)),
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::read(&path, e))?;
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
        let outcomes = parse(&bytes[..whole], &model)
            .map_err(|problem| Error::Malformed { path: path.clone(), problem })?;
        let dropped = bytes.len() - whole;
        if dropped > 0 {
            file.set_len(whole as u64).map_err(|e| Error::write(&path, e))?;
        }
        Ok(Self { file, path, model, outcomes, dropped })
    }

    /// The bytes of a half-written line that [`Results::open`] cut off.
    pub fn dropped_bytes(&self) -> usize {
        self.dropped
    }

    /// The result of a run, if it is there.
    pub fn get(&self, key: &Key) -> Option<&Outcome> {
        self.outcomes.get(&name(key))
    }

    /// Appends a result as one line.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn push(&mut self, key: Key, outcome: Outcome) -> Result<()> {
        let record = Record { key, model: self.model.clone(), outcome };
        let mut line = serde_json::to_vec(&record).expect("records hold nothing but plain data");
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::write(&self.path, e))?;
        // As it will be read again: a number may come back from JSON with another last bit, and an
        // evaluation that was interrupted must not differ from one that was not.
        let outcome = read(&line).expect("what was just written").outcome;
        self.outcomes.insert(name(&record.key), outcome);
        Ok(())
    }
}

/// Reads whole lines; says which is wrong.
fn parse(bytes: &[u8], model: &ModelId) -> Result<HashMap<String, Outcome>, String> {
    let mut outcomes = HashMap::new();
    for (index, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let number = index + 1;
        let record = read(line)
            .map_err(|e| format!("line {number} is no result: {e}; give another --out"))?;
        if record.model != *model {
            let (theirs, ours) = (&record.model, model);
            return Err(format!(
                "line {number} is of the model {} ({} bytes), but this is {} ({} bytes); give \
                 another --out",
                theirs.name, theirs.bytes, ours.name, ours.bytes
            ));
        }
        outcomes.insert(name(&record.key), record.outcome);
    }
    Ok(outcomes)
}

fn read(line: &[u8]) -> serde_json::Result<Record> {
    serde_json::from_slice(line)
}

/// A key to look up by: floats have no hash.
fn name(key: &Key) -> String {
    serde_json::to_string(key).expect("keys hold nothing but plain data")
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;

    pub(in crate::eval) fn key(task: Task, scorer: &str, schedule: &str, index: usize) -> Key {
        Key {
            task,
            scorer: scorer.into(),
            schedule: schedule.into(),
            length: Some(1024),
            depth: (task == Task::Needle).then_some(33.3),
            question: task.asks().then_some(Placement::Last),
            split: Split::Report,
            index,
            seed: 0,
            version: "0".into(),
        }
    }

    pub(in crate::eval) fn outcome() -> Outcome {
        Outcome {
            id: "an \"item\"".into(),
            prompt_tokens: 1000,
            work: 0.65,
            final_keep: 0.12,
            flops_saved: 0.3,
            kv_kept: 0.64,
            answer: None,
            right: None,
            nll: None,
            kl: None,
            survival: vec![],
            prefill_seconds: 1.0,
            speedup: 1.5,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{key, outcome};
    use super::*;

    fn model() -> ModelId {
        ModelId { name: "m.gguf".into(), bytes: 3, on: None }
    }

    fn some_results(path: &Path) -> Vec<Key> {
        let mut results = Results::open(path, model()).unwrap();
        let keys: Vec<_> = (0..3).map(|index| key(Task::Needle, "a", "late", index)).collect();
        for (index, key) in keys.iter().enumerate() {
            let nll = Some(0.1 * index as f64);
            let survival = vec![StageShare { layer: 14, share: 0.25 }];
            results.push(key.clone(), Outcome { nll, survival, ..outcome() }).unwrap();
        }
        keys
    }

    #[test]
    fn what_was_written_is_there_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let keys = some_results(&path);
        let results = Results::open(&path, model()).unwrap();
        assert_eq!(results.dropped_bytes(), 0);
        for (index, key) in keys.iter().enumerate() {
            assert_eq!(results.get(key).unwrap().nll, Some(0.1 * index as f64));
        }
        for other in [
            Key { depth: Some(33.4), ..keys[0].clone() },
            Key { scorer: "b".into(), ..keys[0].clone() },
            Key { schedule: "sdtp".into(), ..keys[0].clone() },
            Key { seed: 1, ..keys[0].clone() },
            Key { length: None, ..keys[0].clone() },
            Key { version: "1".into(), ..keys[0].clone() },
            Key { question: Some(Placement::Later), ..keys[0].clone() },
            Key { split: Split::Tune, ..keys[0].clone() },
            Key { index: 3, ..keys[0].clone() },
        ] {
            assert!(results.get(&other).is_none(), "{other:?}");
        }
    }

    /// Cut anywhere, the file loses the cut line alone, and goes on whole.
    #[test]
    fn a_half_written_line_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let keys = some_results(&path);
        let bytes = fs::read(&path).unwrap();
        let line = bytes.len() / 3;
        for cut in [1, line / 2, line - 1] {
            fs::write(&path, &bytes[..2 * line + cut]).unwrap();
            let mut results = Results::open(&path, model()).unwrap();
            assert_eq!(results.dropped_bytes(), cut);
            assert!(results.get(&keys[1]).is_some() && results.get(&keys[2]).is_none());
            results.push(keys[2].clone(), outcome()).unwrap();
            drop(results);
            let again = Results::open(&path, model()).unwrap();
            assert!(keys.iter().all(|key| again.get(key).is_some()) && again.dropped_bytes() == 0);
        }
    }

    #[test]
    fn what_is_read_again_is_the_same_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let mut results = Results::open(&path, model()).unwrap();
        let keys: Vec<_> = (0..500).map(|index| key(Task::Squad, "a", "late", index)).collect();
        for key in &keys {
            let nll = Some((key.index as f64).sqrt().sin());
            results.push(key.clone(), Outcome { nll, ..outcome() }).unwrap();
        }
        let first: Vec<_> = keys.iter().map(|key| results.get(key).cloned()).collect();
        drop(results);
        let results = Results::open(&path, model()).unwrap();
        let again: Vec<_> = keys.iter().map(|key| results.get(key).cloned()).collect();
        assert_eq!(first, again);
    }

    #[test]
    fn other_models_and_other_files_are_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        some_results(&path);
        let bytes = fs::read(&path).unwrap();
        let other = ModelId { bytes: 4, ..model() };
        let message = Results::open(&path, other).unwrap_err().to_string();
        assert!(message.contains("m.gguf (3 bytes)"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
        fs::write(&path, "a shopping list\n and no end").unwrap();
        let message = Results::open(&path, model()).unwrap_err().to_string();
        assert!(message.contains("line 1 is no result"), "{message}");
        assert_eq!(fs::read(&path).unwrap(), b"a shopping list\n and no end");
    }

    #[test]
    fn two_writers_are_one_too_many() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        let first = Results::open(&path, model()).unwrap();
        let message = Results::open(&path, model()).unwrap_err().to_string();
        assert!(message.contains("another evaluation"), "{message}");
        drop(first);
        Results::open(&path, model()).unwrap();
    }

    #[test]
    fn folders_are_told_apart_by_their_weights() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), "{}").unwrap();
        fs::write(folder.path().join("a.safetensors"), "12345").unwrap();
        fs::write(folder.path().join("b.safetensors"), "123").unwrap();
        assert_eq!(ModelId::of(folder.path()).unwrap().bytes, 8);
        assert!(matches!(ModelId::of(&folder.path().join("no")), Err(Error::Read { .. })));
    }

    #[cfg(unix)]
    #[test]
    fn snapshots_of_the_hub_are_called_by_their_repository() {
        let cache = tempfile::tempdir().unwrap();
        let model = cache.path().join("models--org--my-model");
        let snapshot = model.join("snapshots/0123456789abcdef0123456789abcdef01234567");
        fs::create_dir_all(model.join("blobs")).unwrap();
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(model.join("blobs/ffff"), "12345").unwrap();
        std::os::unix::fs::symlink("../../blobs/ffff", snapshot.join("a.safetensors")).unwrap();
        let id = ModelId::of(&snapshot).unwrap();
        assert_eq!((id.name.as_str(), id.bytes), ("org/my-model@0123456789ab", 5));
        assert_eq!(ModelId::of(&model).unwrap().name, "models--org--my-model");
        assert_eq!(ModelId::of(&snapshot.join("a.safetensors")).unwrap().name, "a.safetensors");
    }
}
