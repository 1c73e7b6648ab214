//! The suite on the oracle: what is wrong here is wrong in the suite.

use salient_oracle::{Oracle, suite};

#[test]
fn select() {
    suite::select::all(&Oracle);
}

#[test]
fn compact() {
    suite::compact::all(&Oracle);
}

#[test]
fn score() {
    suite::score::all(&Oracle);
}

#[test]
fn expected() {
    suite::score::expected::all(&Oracle);
}

#[test]
fn indexer() {
    suite::score::indexer::all(&Oracle);
}

#[test]
fn rank() {
    suite::score::rank::all(&Oracle);
}

#[test]
fn prefill() {
    suite::attend::prefill(&Oracle);
}

#[test]
fn decode() {
    suite::attend::decode(&Oracle);
}

#[test]
fn decode_fp8() {
    suite::attend::fp8(&Oracle);
}
