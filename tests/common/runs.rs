//! Launches on a device whose lists, lengths, offsets and pages tests may fill with what a device
//! could hold: what is written, what the status says, and where every buffer lay.

#[path = "runs/attend.rs"]
pub(crate) mod attend;
#[path = "runs/caches.rs"]
pub(crate) mod caches;
#[path = "runs/compact.rs"]
pub(crate) mod compact;
#[path = "runs/problem.rs"]
pub(crate) mod problem;
#[path = "runs/score.rs"]
pub(crate) mod score;
#[path = "runs/select.rs"]
pub(crate) mod select;

use salient_oracle::generate::Random;

/// The first address of each buffer of a launch.
pub(crate) type Places = Vec<(&'static str, u64)>;

/// Bytes that depend on the seed alone.
pub(crate) fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.bits() as u8).collect()
}
