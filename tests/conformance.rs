//! The conformance suite on the host backend.

mod common;

use salient_oracle::suite;

use common::Host;

#[test]
fn select() {
    suite::select::all(&Host);
}

#[test]
fn score() {
    suite::score::all(&Host);
}

#[test]
fn compact() {
    suite::compact::all(&Host);
}

#[test]
fn attend() {
    suite::attend::all(&Host);
}
