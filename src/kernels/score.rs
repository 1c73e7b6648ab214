//! **score**: weights and statistics as a device holds them, plans and checks.

mod attention;
mod expected;
mod indexer;
mod keynorm;
mod mlp;
mod pool;
mod rank;

pub use attention::{
    AttentionBuffers, AttentionPlan, AttentionShape, MAX_SCORE_DIM, MAX_WINDOW, attention_params,
    check_attention,
};
pub use expected::{
    ExpectedBuffers, ExpectedPlan, ExpectedShape, ExpectedTensors, ExpectedWeights, expected_params,
};
pub use indexer::{
    IndexerBuffers, IndexerPlan, IndexerShape, MAX_INDEXER_DIM, MAX_INDEXER_HEADS, indexer_params,
};
pub use keynorm::{KeynormBuffers, KeynormPlan, keynorm_params};
pub use mlp::{
    MAX_HIDDEN, MAX_WIDTH, MlpBuffers, MlpPlan, MlpShape, MlpWeights, check_mlp, mlp_params,
};
pub use pool::{PoolBuffers, PoolPlan, pool_params};
pub use rank::{RankBuffers, RankPlan, rank_params};
