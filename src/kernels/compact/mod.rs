//! **compact**: plans and checks.
//!
//! | parameters | launcher |
//! |---|---|
//! | [`rows_params`] | `salient_rows` |
//! | [`rows_in_place_params`] | `salient_rows_in_place` |
//! | [`kv_params`] | `salient_kv` |

mod kv;
mod rows;

pub use kv::{KvBuffers, KvPlan, KvShape, kv_params};
pub use rows::{MAX_TENSORS, RowLists, RowsPlan, rows_in_place_params, rows_params};
