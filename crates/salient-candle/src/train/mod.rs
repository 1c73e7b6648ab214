//! Training of SDTP's saliency predictors (arXiv 2504.04514), the model frozen.

pub mod loss;
mod mark;
mod masked;
mod metrics;
mod predictor;

pub use mark::{LATER, Marks, Target};
pub use masked::{MaskedPass, MaskedText, OutputLoss, StageLoss, masked_pass};
pub use metrics::RankMetrics;
pub use predictor::{AdamW, Trainee};
