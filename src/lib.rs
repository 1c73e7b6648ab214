//! Long prompts are expensive because every token pays for attention and for every layer, and most
//! tokens do not matter. Salient finds the ones that do and drops the rest.
//!
//! ```
//! use salient::host::select::select;
//! use salient::select::{Budget, Protect, Request};
//! # fn main() -> salient::Result<()> {
//! let rows = salient::Ragged::from_lens(&[6])?;
//! let scores = [0.1, 0.9, 0.3, 0.8, 0.2, 0.4];
//! let (budget, protect) = (Budget::Ratio(0.5), Protect::default());
//! let selection = select(&scores, &Request { rows: &rows, heads: 1, budget, protect })?;
//! assert_eq!(selection.row(0, 0), [1, 3, 5]);
//! # Ok(())
//! # }
//! ```
//!
//! Four verbs, the same on every backend:
//!
//! | verb | what it does | host | device |
//! |---|---|---|---|
//! | [`score`] | one `f32` per token (or per KV head and token) saying how much it matters | [`host::score`] | `cuda::score` |
//! | [`select`] | which tokens stay: exact top-k or threshold, under protection rules | [`host::select`] | `cuda::select` |
//! | [`compact`] | moves the survivors together: hidden states, positions, KV caches | [`host::compact`] | `cuda::compact` |
//! | [`attend`] | attention over the survivors, exact in their original positions | [`host::attend`] | `cuda::attend` |
//!
//! The modules of the verbs hold what every backend shares: requests, options, layouts and lists,
//! with their checks. [`host`] computes on the CPU and is always there. Feature `cuda` adds `cuda`:
//! the same verbs on buffers and streams of the caller. What a launch needs to know ahead is
//! planned, without a device, in [`kernels`].
//!
//! A [`Schedule`](schedule::Schedule) decides, from prompt lengths alone, how many tokens each
//! stage keeps, so every shape is known before anything runs. Sequences of a batch are packed along
//! one token axis; see [`Ragged`].
#![deny(unsafe_code)]

pub mod attend;
mod checks;
pub mod compact;
pub mod cost;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod dtype;
pub mod error;
pub mod host;
pub mod kernels;
pub mod layout;
pub mod ragged;
pub mod schedule;
pub mod score;
pub mod select;
pub mod status;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use layout::{Layout, PagedLayout, View, ViewMut};
pub use ragged::{Ragged, Span};
pub use status::{Fault, Status};

// The README's example is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
