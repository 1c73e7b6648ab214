//! What can go wrong while loading or running a model.

use std::path::PathBuf;

use candle_core::{DType, DeviceLocation};

use crate::config::Family;
use crate::scorer::Scorer;

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, saying what was wrong and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be opened or read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file is not what its format asks for: truncated, corrupt or of another kind.
    #[error("{} is not a valid {format} file: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The format expected.
        format: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The model is of a kind that the runner does not know.
    #[error("{what} `{name}` is not supported; supported: {supported}")]
    Unsupported {
        /// What is unsupported: an architecture, a tensor type, a tokenizer.
        what: &'static str,
        /// Its name in the file.
        name: String,
        /// What is supported.
        supported: &'static str,
    },
    /// A tensor that the architecture needs is not in the file.
    #[error("tensor `{name}` is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A file has a tensor that the decoder would not use: it is of another kind than the
    /// configuration says.
    #[error(
        "tensor `{name}` has no place in a {family:?} model{}: the file is of another kind, or its \
         configuration is wrong", match others {
            0 => String::new(),
            others => format!(", and {others} others have none"),
        }
    )]
    UnreadTensor {
        /// Its name in the file.
        name: String,
        /// The family that the configuration says.
        family: Family,
        /// How many more there are.
        others: usize,
    },
    /// A tensor has another shape than the configuration says.
    #[error("tensor `{name}` has shape {actual:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape that the configuration implies.
        expected: Vec<usize>,
        /// The shape in the file.
        actual: Vec<usize>,
    },
    /// A weight is NaN or infinite.
    #[error("tensor `{name}` holds a value that is not finite, at element {index}")]
    NotFinite {
        /// Its name.
        name: String,
        /// The first element at fault.
        index: usize,
    },
    /// A configuration value is missing or impossible.
    #[error("model configuration: {reason}")]
    Config {
        /// What is wrong.
        reason: String,
    },
    /// The tokenizer cannot do what was asked.
    #[error("tokenizer: {reason}")]
    Tokenizer {
        /// What is wrong.
        reason: String,
    },
    /// The chat template does not render.
    #[error("chat template")]
    Template(#[from] minijinja::Error),
    /// A prompt has no tokens.
    #[error("prompt {sequence} is empty")]
    EmptyPrompt {
        /// Its place in the batch.
        sequence: usize,
    },
    /// A prompt, with the tokens to generate, does not fit the model's context.
    #[error("{tokens} tokens do not fit the model's context of {context}")]
    ContextExceeded {
        /// The tokens asked for.
        tokens: usize,
        /// The tokens that fit.
        context: usize,
    },
    /// A token id is beyond the vocabulary.
    #[error("token id {id} is beyond the vocabulary of {vocab}")]
    UnknownToken {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// A sampling option is out of its range.
    #[error("{what} is {value}, which must be {expected}")]
    Sampling {
        /// The option.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed, in words that complete "must be".
        expected: &'static str,
    },
    /// A scorer needs something that this stage or model does not offer.
    #[error("scorer `{scorer}`: {reason}")]
    Scorer {
        /// The scorer.
        scorer: String,
        /// What is missing.
        reason: String,
    },
    /// A score is NaN.
    #[error("{}", match layer {
        Some(layer) => format!("a score at layer {layer} is NaN"),
        None => "a score is NaN".to_owned(),
    })]
    NanScore {
        /// The block on whose entry the stage stands, where that is known.
        layer: Option<usize>,
    },
    /// The model gives no next token: a logit is NaN, or none is finite.
    #[error("a logit is NaN, or none is finite: the weights are wrong, or overflow their type")]
    NanLogits,
    /// Predictors were trained for another model.
    #[error("{} is of the model {actual}; this one is {expected}", path.display())]
    OtherModel {
        /// The file.
        path: PathBuf,
        /// The fingerprint of the model at hand.
        expected: String,
        /// The fingerprint in the file.
        actual: String,
    },
    /// Predictors were trained for other stages.
    #[error(
        "{} was trained for the schedule `{actual}` and has predictors at layers {layers:?}; \
         `{expected}` needs one at layer {missing}", path.display()
    )]
    OtherSchedule {
        /// The file.
        path: PathBuf,
        /// The schedule asked for.
        expected: String,
        /// The schedule in the file.
        actual: String,
        /// The layers in the file.
        layers: Vec<usize>,
        /// The first layer asked for that is not among them.
        missing: usize,
    },
    /// A model does not fit a device's memory.
    #[error(
        "the weights take {needed} bytes, but {device:?} has {available} free: choose a narrower \
         type or a smaller model"
    )]
    TooLarge {
        /// The device.
        device: DeviceLocation,
        /// What the weights take, in bytes.
        needed: u64,
        /// What is free, in bytes.
        available: u64,
    },
    /// A tensor's elements are not of the type that is needed.
    #[error("{what} holds {actual:?}, expected {expected:?}")]
    TensorType {
        /// The argument.
        what: &'static str,
        /// What is needed.
        expected: DType,
        /// The tensor's type.
        actual: DType,
    },
    /// A tensor lies in another way than is needed.
    #[error("{what} has shape {shape:?} and strides {strides:?}, expected {expected}")]
    TensorLayout {
        /// The argument.
        what: &'static str,
        /// What is needed.
        expected: &'static str,
        /// The tensor's shape.
        shape: Vec<usize>,
        /// Its strides.
        strides: Vec<usize>,
    },
    /// A tensor is on another device than is needed.
    #[error("{what} is on {actual:?}, expected on {expected:?}")]
    TensorPlace {
        /// The argument.
        what: &'static str,
        /// What is needed.
        expected: DeviceLocation,
        /// Where the tensor is.
        actual: DeviceLocation,
    },
    /// The verbs refused their input.
    #[error(transparent)]
    Salient(#[from] salient::Error),
    /// candle failed.
    #[error("candle")]
    Candle(#[from] candle_core::Error),
}

impl Error {
    /// The same, with the scorer's name where a score is at fault.
    pub(crate) fn of_scorer(self, scorer: &dyn Scorer) -> Self {
        match self {
            Self::NanScore { .. } => {
                Self::Scorer { scorer: scorer.name(), reason: self.to_string() }
            }
            other => other,
        }
    }
}
