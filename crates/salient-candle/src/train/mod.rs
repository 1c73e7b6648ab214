//! Training of SDTP's saliency predictors (arXiv 2504.04514), the model frozen.

pub mod loss;
mod mark;
mod metrics;

pub use mark::{LATER, Marks, Target};
pub use metrics::RankMetrics;
