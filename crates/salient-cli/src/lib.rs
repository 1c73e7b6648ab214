//! What the `salient` command is made of: the asset cache, output files, interruption, and the
//! parts of evaluation that need no model (corpora, needles, statistics, plots, pages).
#![forbid(unsafe_code)]

pub mod corpus;
pub mod crossover;
pub mod error;
pub mod eval;
pub mod fetch;
pub mod html;
pub mod interrupt;
pub mod machine;
pub mod needle;
pub mod output;
pub mod picture;
pub mod plot;
pub mod stats;
pub mod terminal;
pub mod train;

pub use error::{Error, Result};
