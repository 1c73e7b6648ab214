//! Reference implementations.
#![forbid(unsafe_code)]
