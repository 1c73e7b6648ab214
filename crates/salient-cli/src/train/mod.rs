//! What a training run is made of besides the model: its configuration, its history, its report.

mod config;
mod fact;
mod history;
mod report;

pub use config::{Config, Data, Scored};
pub use fact::Fact;
pub use history::{History, Record, StageMetrics};
pub use report::{FileHash, Report, Row, TextsReport};
