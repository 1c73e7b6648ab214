//! What the command `salient` has beside the runner: training of predictors, evaluation (corpora,
//! needles, statistics), pages and charts, the asset cache, models of the hub, output files and
//! interruption. Programs that run models link `salient-candle` alone.
#![forbid(unsafe_code)]

pub mod corpus;
pub mod crossover;
pub mod error;
pub mod eval;
pub mod fetch;
pub mod html;
pub mod hub;
pub mod interrupt;
pub mod machine;
pub mod needle;
mod oracle;
pub mod output;
pub mod picture;
pub mod plot;
pub mod stats;
pub mod terminal;
pub mod train;

pub use error::{Error, Result};
pub use oracle::Oracle;
