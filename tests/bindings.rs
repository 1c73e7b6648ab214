//! The committed bindings are those of the header.
#![cfg(feature = "bindgen")]

const COMMITTED: &str = "src/kernels/raw.rs";

#[test]
fn committed_bindings_are_those_of_the_header() {
    let made = include_str!(concat!(env!("OUT_DIR"), "/raw.rs"));
    if std::env::var_os("SALIENT_WRITE_BINDINGS").is_some() {
        std::fs::write(COMMITTED, made).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap();
    assert!(committed == made, "{COMMITTED} is out of date; scripts/bindings writes it anew");
}
