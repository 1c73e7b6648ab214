//! Each kind of race is found, and let pass with the synchronisation that it lacks.

mod agents;
mod random;
mod reference;
mod threads;

use super::{Detector, Kind, Race, Space, Warp, Why};

type Run = Result<(), Box<Race>>;
type Case = (&'static str, fn(&mut Detector) -> Run, Option<Why>);

const ALL: u32 = u32::MAX;
const HERE: Space = Space::Shared { of_block: 0 };
const UNORDERED: Option<Why> = Some(Why::Unordered);

/// Block 0 and 1 are a cluster, block 2 is another; each has 4 warps.
fn detector() -> Detector {
    let mut detector = Detector::new();
    for (block, cluster) in [(0, 0), (1, 0), (2, 1)] {
        detector.begin_block(block, cluster, 128);
    }
    detector
}

fn check(cases: &[Case]) {
    for (name, run, expected) in cases {
        let found = run(&mut detector()).err();
        let why = found.as_ref().map(|race| race.why);
        assert_eq!(why, *expected, "{name}: {found:?}");
    }
}

fn warp(warp: u32) -> Warp {
    Warp { block: 0, warp }
}

fn row(start: u64) -> [u64; 32] {
    std::array::from_fn(|lane| start + 4 * lane as u64)
}

/// A word per lane.
fn write(d: &mut Detector, w: u32, start: u64) -> Run {
    d.access(warp(w), ALL, Kind::Write, HERE, &row(start), 4, 1)
}

fn read(d: &mut Detector, w: u32, start: u64) -> Run {
    d.access(warp(w), ALL, Kind::Read, HERE, &row(start), 4, 2)
}

/// A word per lane, that of the next lane.
fn read_turned(d: &mut Detector, w: u32, start: u64) -> Run {
    let mut addresses = row(start);
    addresses.rotate_left(1);
    d.access(warp(w), ALL, Kind::Read, HERE, &addresses, 4, 3)
}

/// One lane's access to one word of device memory.
fn touch(d: &mut Detector, block: u32, kind: Kind, address: u64) -> Run {
    d.access(Warp { block, warp: 0 }, 1, kind, Space::Device, &[address; 32], 4, 4)
}

fn sync(d: &mut Detector, id: u32, warps: &[u32]) {
    for &w in warps {
        d.barrier_arrive(warp(w), ALL, id);
    }
    let waiting: Vec<_> = warps.iter().map(|&w| (w, ALL)).collect();
    d.barrier_complete(0, id, &waiting);
}

fn sync_block(d: &mut Detector) {
    sync(d, 0, &[0, 1, 2, 3]);
}

/// Lane 0 of a warp arrives at an mbarrier whose phase thereby completes.
fn arrive(d: &mut Detector, w: u32, mbarrier: u64) {
    d.mbarrier_arrive(warp(w), 1, 0, mbarrier);
    d.mbarrier_complete(0, mbarrier);
}

fn wait(d: &mut Detector, w: u32, mbarrier: u64) {
    d.mbarrier_wait(warp(w), ALL, 0, mbarrier);
}

#[test]
fn a_race_says_who_and_where() {
    let mut d = detector();
    write(&mut d, 0, 256).unwrap();
    let race = *read_turned(&mut d, 0, 256).unwrap_err();
    assert_eq!(
        race.to_string(),
        "a race, with nothing to order the accesses: read by thread 0 of block 0 (warp 0, lane 0) \
         at place 3, write by thread 1 of block 0 (warp 0, lane 1) at place 1, both at 0x104 of \
         the shared memory of block 0"
    );
}
