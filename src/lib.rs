//! Long prompts are expensive because every token pays for attention and for every layer, and most
//! tokens do not matter. Salient finds the ones that do and drops the rest.
//!
//! Four verbs, the same on every backend:
//!
//! | verb | what it does |
//! |---|---|
//! | [`score`](host::score) | one `f32` per token (or per KV head and token) saying how much it matters |
//! | [`select`](host::select) | which tokens stay: exact top-k or threshold, under protection rules |
//! | [`compact`](host::compact) | moves the survivors together: hidden states, positions, KV caches |
//! | [`attend`](host::attend) | attention over the survivors, exact in their original positions |
//!
//! A [`Schedule`](schedule::Schedule) decides, from prompt lengths alone, how many tokens each
//! stage keeps, so every shape is known before anything runs. Sequences of a batch are packed along
//! one token axis; see [`Ragged`].
//!
//! The CPU backend is [`host`]. Feature `cuda` adds the device backend, `cuda`: the same verbs on
//! buffers and streams of the caller. What it checks and plans without a device is [`kernels`].
#![deny(unsafe_code)]

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
pub mod select;

pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use layout::{Layout, PagedLayout, View, ViewMut};
pub use ragged::{Ragged, Span};

// The README's example is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
