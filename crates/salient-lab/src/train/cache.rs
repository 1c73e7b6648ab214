//! Marks as files' contents, so that a marking pass that was stopped goes on where it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::Range;

use candle_core::{Device, Tensor};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::file::Tensors;
use super::{LATER, Marks, Target};
use crate::error::{Error, Result};
use salient_candle::Model;
use salient_candle::scorer::{floats, said};

/// The SHA-256, in hexadecimal digits, of a text's tokens and of which of them are scored.
pub fn text_hash(tokens: &[u32], scored: &Range<usize>) -> String {
    let mut hasher = Sha256::new();
    for bound in [scored.start, scored.end] {
        hasher.update((bound as u64).to_le_bytes());
    }
    for token in tokens {
        hasher.update(token.to_le_bytes());
    }
    base16ct::lower::encode_string(&hasher.finalize())
}

/// What a file of marks says of itself.
#[derive(Serialize, Deserialize)]
struct MarksInfo {
    model: String,
    /// [`text_hash`].
    text: String,
    /// [`LATER`] as it was.
    later: usize,
    layers: BTreeSet<usize>,
}

impl Marks {
    /// The layers that were marked, ascending.
    pub fn layers(&self) -> BTreeSet<usize> {
        self.by_layer.keys().copied().collect()
    }

    /// The marks of `model` on a text as a file's contents: `layer.L.TARGET` `[tokens]` in f32.
    ///
    /// # Errors
    /// Those of candle.
    pub fn to_bytes(
        &self,
        model: &Model,
        tokens: &[u32],
        scored: &Range<usize>,
    ) -> Result<Vec<u8>> {
        let mut tensors = Tensors::default();
        for (layer, targets) in &self.by_layer {
            for (target, values) in targets {
                let values = Tensor::new(values.as_slice(), &Device::Cpu)?;
                tensors.add(tensor_name(*layer, *target), &values)?;
            }
        }
        tensors.serialize(&MarksInfo {
            model: model.fingerprint().to_owned(),
            text: text_hash(tokens, scored),
            later: LATER,
            layers: self.layers(),
        })
    }

    /// The marks in a file's contents, of whatever layers it has.
    ///
    /// # Errors
    /// [`Error::Training`] if the bytes are no marks, of another model or text (both are named), or
    /// lack a [`Target`]: then the text is to be marked again.
    pub fn from_bytes(
        bytes: &[u8],
        model: &Model,
        tokens: &[u32],
        scored: &Range<usize>,
    ) -> Result<Self> {
        let refuse = |reason: String| Error::Training { reason };
        let no_marks = |why: &dyn Display| refuse(format!("no marks: {why}"));
        let said = said(bytes).map_err(|e| no_marks(&e))?.unwrap_or_default();
        let info: MarksInfo = serde_json::from_str(&said).map_err(|e| no_marks(&e))?;
        for (what, actual, expected) in [
            ("model", info.model, model.fingerprint().to_owned()),
            ("text", info.text, text_hash(tokens, scored)),
            ("distance of attention", info.later.to_string(), LATER.to_string()),
        ] {
            if actual != expected {
                return Err(refuse(format!("the marks' {what} is {actual}, the run's {expected}")));
            }
        }
        let file = SafeTensors::deserialize(bytes).map_err(|e| no_marks(&e))?;
        let mut by_layer = BTreeMap::new();
        for layer in info.layers {
            let mut targets = BTreeMap::new();
            for target in Target::ALL {
                let name = tensor_name(layer, target);
                let view = file.tensor(&name).map_err(|e| no_marks(&e))?;
                targets.insert(target, floats(&name, &view, &[tokens.len()])?);
            }
            by_layer.insert(layer, targets);
        }
        Ok(Self { by_layer })
    }
}

fn tensor_name(layer: usize, target: Target) -> String {
    format!("layer.{layer}.{target}")
}
