//! The conformance suite on the host backend.

#[path = "common/host.rs"]
mod host;

use salient_oracle::suite;

use host::Host;

#[test]
fn select() {
    suite::select::all(&Host);
}

#[test]
fn score() {
    suite::score::all(&Host);
}

#[test]
fn expected() {
    suite::score::expected::all(&Host);
}

#[test]
fn indexer() {
    suite::score::indexer::all(&Host);
}

#[test]
fn rank() {
    suite::score::rank::all(&Host);
}

#[test]
fn compact() {
    suite::compact::all(&Host);
}

#[test]
fn prefill() {
    suite::attend::prefill(&Host);
}

#[test]
fn decode() {
    suite::attend::decode(&Host);
}

#[test]
fn decode_fp8() {
    suite::attend::fp8(&Host);
}
