//! **score** from attention on the emulated kernels: the conformance suite, every head size and group,
//! what they move, and that they always give the same bits.

use salient_emulator::Emulated;
use salient_oracle::suite::score;

/// Seeds and compute capabilities that the suite runs under.
const DEVICES: [(u64, i32); 2] = [(1, 80), (2, 90)];

fn devices() -> impl Iterator<Item = Emulated> {
    DEVICES.into_iter().map(|(seed, capability)| Emulated {
        seed,
        capability,
        ..Emulated::default()
    })
}

#[test]
fn shapes() {
    devices().for_each(|on| score::attention_shapes(&on));
}

#[test]
fn options() {
    devices().for_each(|on| score::attention_options(&on));
}

#[test]
fn neighbours_change_nothing() {
    devices().for_each(|on| score::neighbours_change_nothing(&on));
}

#[test]
fn the_three_are_one() {
    devices().for_each(|on| score::the_three_are_one(&on));
}

#[test]
fn nan_stays_where_it_reaches() {
    devices().for_each(|on| score::nan_stays_where_it_reaches(&on));
}

#[test]
fn pools() {
    devices().for_each(|on| score::pools(&on));
}

#[test]
fn bad_input() {
    devices().for_each(|on| score::bad_attention(&on));
}
