//! Models from disk: a GGUF file (dequantised to f32), or a folder of safetensors with its
//! `config.json` and `tokenizer.json`.

mod gguf;
mod safetensors;

use std::collections::BTreeSet;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use half::{bf16, f16};

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::{Model, check_dtype};
use crate::tokenizer::Tokenizer;

/// A model with its tokenizer.
#[derive(Debug)]
pub struct Loaded {
    /// The weights, ready to run.
    pub model: Model,
    /// The tokenizer that belongs to them.
    pub tokenizer: Tokenizer,
}

/// Loads a model and its tokenizer from a `.gguf` file or a folder of safetensors, to run on the
/// CPU.
///
/// # Errors
/// [`Error::Read`], [`Error::Malformed`], [`Error::Unsupported`], [`Error::MissingTensor`],
/// [`Error::Shape`] and [`Error::NotFinite`] say what is wrong with which file or tensor.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded> {
    load_on(path, &Device::Cpu, DType::F32)
}

/// The same, to run on a device as `dtype`: f32 on the CPU; f32, f16 or bf16 on a CUDA device. Each
/// tensor goes there before the next is read.
///
/// # Errors
/// As [`load`], and [`Error::TooLarge`] if the weights do not fit the device's free memory.
pub fn load_on(path: impl AsRef<Path>, device: &Device, dtype: DType) -> Result<Loaded> {
    let path = path.as_ref();
    let kind =
        std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let place = Place { device, dtype };
    if kind.is_dir() { safetensors::load(path, &place) } else { gguf::load(path, &place) }
}

/// Where a model goes.
struct Place<'a> {
    device: &'a Device,
    dtype: DType,
}

/// Where weights come from, by their Hugging Face names.
trait Weights {
    /// Reads a tensor of a given shape in f32, and gives `each` its values in order, some at a
    /// time.
    fn read(
        &mut self,
        name: &str,
        shape: &[usize],
        each: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()>;

    /// The file's names of the tensors that it has.
    fn names(&self) -> Vec<String>;

    /// The file's name of a tensor.
    fn name_of(&self, name: &str) -> String;
}

/// Builds a model from `weights`. Each matrix is made in the type that it keeps, from values that
/// are read some at a time: what the host holds beside it does not grow with the model.
fn assemble(config: ModelConfig, weights: &mut dyn Weights, place: &Place<'_>) -> Result<Model> {
    let Place { device, dtype } = *place;
    check_dtype(device, dtype)?;
    if let Some(available) = free_memory(device)? {
        let needed = config.weight_bytes(dtype);
        if needed > available {
            return Err(Error::TooLarge { device: device.location(), needed, available });
        }
    }
    let (mut unread, tied) = (BTreeSet::from_iter(weights.names()), config.tied);
    unread.retain(|name| !name.ends_with(BUFFER));
    if tied {
        unread.remove(&weights.name_of(HEAD));
    }
    let model = Model::build(config, |prefix, parts, samples| {
        let rows = parts.iter().map(|(_, shape)| shape[0]).sum();
        let mut shape = parts[0].1.to_vec();
        shape[0] = rows;
        let mut matrix = Values::new(dtype, shape.iter().product());
        for (name, shape) in parts {
            let name = format!("{prefix}{name}");
            let in_file = weights.name_of(&name);
            unread.remove(&in_file);
            let mut read = 0;
            weights.read(&name, shape, &mut |values| {
                if let Some(bad) = values.iter().position(|value| !value.is_finite()) {
                    let name = in_file.clone();
                    return Err(Error::NotFinite { name, index: read + bad });
                }
                read += values.len();
                samples.take_from(values);
                matrix.extend(values);
                Ok(())
            })?;
        }
        Ok(matrix.into_tensor(shape)?.to_device(device)?)
    })?;
    match unread.pop_first() {
        None => Ok(model),
        Some(name) => {
            let family = model.config().family;
            Err(Error::UnreadTensor { name, family, others: unread.len() })
        }
    }
}

/// The output head, which a file may have though it is the embedding.
const HEAD: &str = "lm_head.weight";

/// What some files have beside weights, and models make themselves.
const BUFFER: &str = "rotary_emb.inv_freq";

/// A matrix under way, in the type that it keeps.
enum Values {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
}

impl Values {
    fn new(dtype: DType, len: usize) -> Self {
        match dtype {
            DType::F16 => Self::F16(Vec::with_capacity(len)),
            DType::BF16 => Self::Bf16(Vec::with_capacity(len)),
            _ => Self::F32(Vec::with_capacity(len)),
        }
    }

    fn extend(&mut self, values: &[f32]) {
        match self {
            Self::F32(all) => all.extend_from_slice(values),
            Self::F16(all) => all.extend(values.iter().map(|&value| f16::from_f32(value))),
            Self::Bf16(all) => all.extend(values.iter().map(|&value| bf16::from_f32(value))),
        }
    }

    fn into_tensor(self, shape: Vec<usize>) -> candle_core::Result<Tensor> {
        match self {
            Self::F32(all) => Tensor::from_vec(all, shape, &Device::Cpu),
            Self::F16(all) => Tensor::from_vec(all, shape, &Device::Cpu),
            Self::Bf16(all) => Tensor::from_vec(all, shape, &Device::Cpu),
        }
    }
}

/// A device's free memory in bytes, where it has a memory of its own.
fn free_memory(device: &Device) -> Result<Option<u64>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let stream = device.cuda_stream();
            let (free, _) = stream.context().mem_get_info().map_err(salient::Error::from)?;
            Ok(Some(free as u64))
        }
        _ => Ok(None),
    }
}

fn check_shape(name: &str, expected: &[usize], actual: &[usize]) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    let (expected, actual) = (expected.to_vec(), actual.to_vec());
    Err(Error::Shape { name: name.to_owned(), expected, actual })
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
