//! Folders of safetensors, single or sharded, as Hugging Face models ship them.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::Deserialize;

use super::{Loaded, Place, Weights, assemble, check_shape, read_text};
use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::tokenizer::Tokenizer;

/// The longest header that is read; real ones have kilobytes.
const MAX_HEADER: u64 = 100_000_000;

/// Bytes that are read at a time; a multiple of every type's size.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn load(folder: &Path, place: &Place<'_>) -> Result<Loaded> {
    let config = ModelConfig::from_json(&read_text(&folder.join("config.json"))?)?;
    let tokenizer = Tokenizer::from_folder(folder)?;
    let mut shards = Shards::open(folder)?;
    let model = assemble(config, &mut shards, place)?;
    Ok(Loaded { model, tokenizer })
}

/// One file per shard, and where each tensor lies in which.
struct Shards {
    files: Vec<Shard>,
    tensors: HashMap<String, (usize, TensorInfo)>,
}

struct Shard {
    path: PathBuf,
    file: File,
    data_start: u64,
}

impl Shards {
    /// The files that an index names; without one `model.safetensors`, else all that there are.
    fn open(folder: &Path) -> Result<Self> {
        let index = folder.join("model.safetensors.index.json");
        let single = folder.join("model.safetensors");
        let mut shards = Self { files: Vec::new(), tensors: HashMap::new() };
        if index.exists() {
            let of = Index::read(&index)?;
            for name in of.weight_map.values().collect::<BTreeSet<_>>() {
                let path = folder.join(name);
                if !path.exists() {
                    let reason = format!("it names {name}, which is not there");
                    return Err(Error::Malformed { path: index, format: "index", reason });
                }
                shards.add(path, |tensor| of.weight_map.get(tensor) == Some(name))?;
            }
            return Ok(shards);
        }
        if single.exists() {
            shards.add(single, |_| true)?;
            return Ok(shards);
        }
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder)
            .and_then(|entries| entries.map(|entry| entry.map(|e| e.path())).collect())
            .map_err(|source| Error::Read { path: folder.to_owned(), source })?;
        paths.retain(|path| path.extension().is_some_and(|e| e == "safetensors"));
        paths.sort();
        if paths.is_empty() {
            let reason = format!("{} holds no .safetensors file", folder.display());
            return Err(Error::Config { reason });
        }
        for path in paths {
            shards.add(path, |_| true)?;
        }
        Ok(shards)
    }

    /// Adds those of a file's tensors that are wanted from it.
    fn add(&mut self, path: PathBuf, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let (shard, metadata) = Shard::open(path)?;
        for (name, info) in metadata.tensors() {
            if !wanted(&name) {
                continue;
            }
            if let Some((other, _)) = self.tensors.get(&name) {
                let other = self.files[*other].path.display();
                let reason = format!("tensor `{name}` is in {other} too");
                let path = shard.path;
                return Err(Error::Malformed { path, format: "safetensors", reason });
            }
            self.tensors.insert(name, (self.files.len(), info.clone()));
        }
        self.files.push(shard);
        Ok(())
    }
}

/// `model.safetensors.index.json`.
#[derive(Deserialize)]
struct Index {
    /// The file of every tensor.
    weight_map: HashMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Self> {
        serde_json::from_str(&read_text(path)?).map_err(|error| Error::Malformed {
            path: path.to_owned(),
            format: "index",
            reason: error.to_string(),
        })
    }
}

impl Shard {
    fn open(path: PathBuf) -> Result<(Self, Metadata)> {
        let read = |source| Error::Read { path: path.clone(), source };
        let malformed =
            |reason: String| Error::Malformed { path: path.clone(), format: "safetensors", reason };
        let mut file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut length = [0u8; 8];
        file.read_exact(&mut length).map_err(|_| malformed("it ends before its header".into()))?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER || length.checked_add(8).is_none_or(|end| end > size) {
            return Err(malformed(format!("its header of {length} bytes does not fit the file")));
        }
        let mut header = vec![0u8; length as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|e| malformed(format!("header: {e}")))?;
        let data_start = 8 + length;
        if data_start + metadata.data_len() as u64 > size {
            return Err(malformed(format!("it is truncated at {size} bytes")));
        }
        Ok((Self { path, file, data_start }, metadata))
    }
}

impl Weights for Shards {
    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        each: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (shard, info) =
            self.tensors.get(name).ok_or_else(|| Error::MissingTensor { name: name.to_owned() })?;
        let (width, value): (usize, fn(&[u8]) -> f32) = match info.dtype {
            Dtype::F32 => (4, |bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])),
            Dtype::F16 => (2, |bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()),
            Dtype::BF16 => (2, |bytes| bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32()),
            other => {
                return Err(Error::Unsupported {
                    what: "tensor type",
                    name: format!("{other:?}"),
                    supported: "F32, F16, BF16",
                });
            }
        };
        check_shape(name, shape, &info.shape)?;
        let shard = &mut self.files[*shard];
        let read = |source| Error::Read { path: shard.path.clone(), source };
        let (start, end) = info.data_offsets;
        shard.file.seek(SeekFrom::Start(shard.data_start + start as u64)).map_err(read)?;
        let mut bytes = vec![0u8; (end - start).min(CHUNK_BYTES)];
        let mut values = Vec::with_capacity(bytes.len() / width);
        for at in (start..end).step_by(CHUNK_BYTES) {
            let chunk = &mut bytes[..(end - at).min(CHUNK_BYTES)];
            shard.file.read_exact(chunk).map_err(read)?;
            values.clear();
            values.extend(chunk.chunks_exact(width).map(value));
            each(&values)?;
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn name_of(&self, name: &str) -> String {
        name.to_owned()
    }
}
