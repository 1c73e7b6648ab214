//! Training of SDTP's saliency predictors (arXiv 2504.04514), the model frozen.

pub mod loss;
mod metrics;

pub use metrics::RankMetrics;
