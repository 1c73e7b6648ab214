//! Models from disk: a GGUF file (dequantised to f32), or a folder of safetensors with its
//! `config.json` and `tokenizer.json`.

mod gguf;
mod safetensors;

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::config::ModelConfig;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::f32_slice;
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
    /// A tensor in f32 with the given shape, every value finite.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;
}

/// Builds a model from `weights`.
fn assemble(config: ModelConfig, weights: &mut dyn Weights, place: &Place<'_>) -> Result<Model> {
    let Place { device, dtype } = *place;
    if let Some(available) = free_memory(device)? {
        let needed = config.weight_bytes(dtype);
        if needed > available {
            return Err(Error::TooLarge { device: device.location(), needed, available });
        }
    }
    Model::on(device, dtype, config, |name, shape| weights.tensor(name, shape))
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

fn check_tensor(name: &str, shape: &[usize], tensor: Tensor) -> Result<Tensor> {
    if tensor.dims() != shape {
        return Err(Error::Shape {
            name: name.to_owned(),
            expected: shape.to_vec(),
            actual: tensor.dims().to_vec(),
        });
    }
    let tensor = tensor.contiguous()?;
    let bad =
        f32_slice(&tensor, |values| values.par_iter().position_first(|value| !value.is_finite()))?;
    match bad {
        Some(index) => Err(Error::NotFinite { name: name.to_owned(), index }),
        None => Ok(tensor),
    }
}

fn read_text(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}
