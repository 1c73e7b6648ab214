//! **compact**
