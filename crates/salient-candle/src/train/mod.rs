//! Training of SDTP's saliency predictors (arXiv 2504.04514), the model frozen.

pub mod loss;
mod mark;
mod metrics;
mod predictor;

pub use mark::{LATER, Marks, Target};
pub use metrics::RankMetrics;
pub use predictor::{AdamW, Trainee};
