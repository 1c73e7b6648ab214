//! The conformance suite: every property and every adversarial table, on any implementation.
//!
//! A failure is a panic whose message holds all that the case depends on.

pub mod select;
