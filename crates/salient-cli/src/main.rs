//! The `salient` command.
#![forbid(unsafe_code)]
fn main() {}
