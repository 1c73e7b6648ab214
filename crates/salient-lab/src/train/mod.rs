//! Training of SDTP's saliency predictors (arXiv 2504.04514), the model frozen.
//!
//! [`Marks`] say what every token of a text is worth to the model, by gradients or attention; a
//! [`Trainer`] teaches small predictors, one per stage, to foresee it from hidden states: first
//! against the marks alone, then, if asked to, through the masked model. A [`Config`] says what a
//! run is of, a [`History`] keeps what it went through, a [`Report`] is its model card.

mod cache;
mod config;
mod fact;
mod file;
mod history;
pub mod loss;
mod mark;
mod masked;
mod metrics;
mod options;
mod predictor;
mod report;
mod trainer;

pub use cache::text_hash;
pub use config::{Config, Data, Scored};
pub use fact::Fact;
pub use history::{History, Record, StageMetrics};
pub use mark::{LATER, Marks, Target};
pub use masked::{MaskedPass, MaskedText, OutputLoss, StageLoss, masked_pass};
pub use metrics::RankMetrics;
pub use options::{LossWeights, Scale, Steps, TrainOptions};
pub use predictor::{AdamW, Trainee};
pub use report::{FileHash, Report, Row, TextsReport};
pub use trainer::{Evaluation, Phase, Progress, Sample, StepReport, Trainer};
