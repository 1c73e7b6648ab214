//! Models from disk: a GGUF file (dequantised to f32), or a folder of safetensors with its
//! `config.json` and `tokenizer.json`.

mod gguf;
mod safetensors;

use std::path::Path;

use candle_core::Tensor;
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

/// Loads a model and its tokenizer from a `.gguf` file or a folder of safetensors.
///
/// # Errors
/// [`Error::Read`], [`Error::Malformed`], [`Error::Unsupported`], [`Error::MissingTensor`],
/// [`Error::Shape`] and [`Error::NotFinite`] say what is wrong with which file or tensor.
pub fn load(path: impl AsRef<Path>) -> Result<Loaded> {
    let path = path.as_ref();
    let kind =
        std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    if kind.is_dir() { safetensors::load(path) } else { gguf::load(path) }
}

/// Where weights come from, by their Hugging Face names.
pub(crate) trait Weights {
    /// A tensor in f32 with the given shape, every value finite.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor>;
}

/// Builds a model from `weights`.
pub(crate) fn assemble(config: ModelConfig, weights: &mut dyn Weights) -> Result<Model> {
    Model::new(config, |name, shape| weights.tensor(name, shape))
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
