//! **score**
