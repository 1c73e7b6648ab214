//! Every operation of Salient once more, in f64 and plain loops; inputs that broke other people's
//! kernels; and the suite that every implementation passes.
//!
//! An implementation is anything with the traits of [`implementation`]: the [`Oracle`] itself, the
//! host backend, kernels on the software GPU, kernels on a device. [`suite`] runs every property
//! and every adversarial table on it and panics with the case at fault.
#![forbid(unsafe_code)]

pub mod attend;
mod check;
pub mod compact;
pub mod generate;
pub mod implementation;
pub mod probes;
pub mod real;
pub mod score;
pub mod select;
pub mod suite;
pub mod tensor;

/// The reference as an implementation.
#[derive(Debug, Clone, Copy, Default)]
pub struct Oracle;
