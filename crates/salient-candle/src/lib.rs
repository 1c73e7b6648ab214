//! Pruned prefill for Llama-family models on candle.
//!
//! A [`Model`] runs packed ragged batches up its blocks. At every stage of a
//! [`Schedule`](salient::schedule::Schedule) a [`Scorer`](scorer::Scorer) scores the tokens, the
//! best stay, and everything after runs on fewer rows. Positions never change, and each layer keeps
//! a KV cache of its own length.
//!
//! ```no_run
//! use salient::schedule::Schedule;
//! use salient_candle::{GenerateOptions, Message, generate, load, scorer::LastQuery};
//!
//! # fn main() -> Result<(), salient_candle::Error> {
//! let loaded = load("SmolLM2-135M-Instruct.Q4_1.gguf")?;
//! let (model, tokenizer) = (&loaded.model, &loaded.tokenizer);
//! let prompt = tokenizer.encode_chat(&[Message::user("A long document, and a question?")])?;
//! let plan = Schedule::late().plan(&[prompt.len()], model.config().layers)?;
//! let options = GenerateOptions {
//!     max_tokens: 64,
//!     stop: tokenizer.stop().to_vec(),
//!     sampling: Default::default(),
//! };
//! let mut scorer = LastQuery::default();
//! let answer = generate(model, &[prompt], &plan, &mut scorer, &options, |_, _| true)?;
//! println!("{}", tokenizer.decode(&answer.tokens[0])?);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

pub mod backend;
mod cache;
mod config;
#[cfg(feature = "cuda")]
pub mod cuda;
mod decoder;
mod error;
mod forward;
mod generate;
mod load;
mod model;
mod operand;
mod ops;
mod preset;
pub mod reference;
mod rope;
mod sample;
pub mod scorer;
mod template;
mod tokenizer;

pub use cache::{CachedKeys, KvCache, LayerCache};
pub use config::{Family, ModelConfig, RopeScaling};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use forward::{Prefill, StageReport};
pub use generate::{Answer, GenerateOptions, Generation, answer, generate};
pub use load::{Loaded, load, load_on};
pub use model::{Block, Model};
pub use preset::Preset;
pub use rope::RopeTable;
pub use sample::{Sampler, Sampling};
pub use tokenizer::{Message, TextStream, Tokenizer};
