//! Threads among themselves.

use super::*;
use crate::race::Scope;

const RELAXED_READ: Kind = Kind::StrongRead { scope: Scope::Device, acquire: false };
const RELAXED_WRITE: Kind = Kind::StrongWrite { scope: Scope::Device, release: false };
const ADD: Kind = Kind::Update { scope: Scope::Device, acquire: false, release: false };

#[test]
fn threads_of_a_block() {
    check(&[
        (
            "no barrier",
            |d| {
                write(d, 0, 0)?;
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "a barrier",
            |d| {
                write(d, 0, 0)?;
                sync_block(d);
                read(d, 1, 0)
            },
            None,
        ),
        (
            "a barrier of other warps",
            |d| {
                write(d, 0, 0)?;
                sync(d, 1, &[0, 2]);
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "a barrier of two of the warps",
            |d| {
                write(d, 0, 0)?;
                sync(d, 1, &[0, 1]);
                read_turned(d, 1, 0)
            },
            None,
        ),
        (
            "lanes of a warp",
            |d| {
                write(d, 0, 0)?;
                read_turned(d, 0, 0)
            },
            UNORDERED,
        ),
        (
            "lanes of a warp, synchronised",
            |d| {
                write(d, 0, 0)?;
                d.warp_sync(warp(0), ALL);
                read_turned(d, 0, 0)
            },
            None,
        ),
        (
            "half of the lanes synchronised",
            |d| {
                write(d, 0, 0)?;
                d.warp_sync(warp(0), 0xffff);
                read_turned(d, 0, 0)
            },
            UNORDERED,
        ),
        (
            "double buffer without the second barrier",
            |d| {
                for buffer in [0, 128, 0] {
                    write(d, 0, buffer)?;
                    if buffer == 0 {
                        sync_block(d);
                    }
                    read(d, 1, 0)?;
                }
                Ok(())
            },
            UNORDERED,
        ),
        (
            "double buffer",
            |d| {
                for buffer in [0, 128, 0, 128] {
                    write(d, 0, buffer)?;
                    sync_block(d);
                    read_turned(d, 1, buffer)?;
                }
                Ok(())
            },
            None,
        ),
        (
            "read by two warps, overwritten after one of them",
            |d| {
                read(d, 1, 0)?;
                read(d, 2, 0)?;
                sync(d, 1, &[0, 2]);
                write(d, 0, 0)
            },
            UNORDERED,
        ),
        (
            "read by two warps, overwritten after both",
            |d| {
                read(d, 1, 0)?;
                read(d, 2, 0)?;
                sync(d, 1, &[0, 1, 2]);
                write(d, 0, 0)
            },
            None,
        ),
        (
            "bytes of one word",
            |d| {
                d.access(warp(0), 1, Kind::Write, HERE, &[0; 32], 1, 0)?;
                d.access(warp(1), 1, Kind::Write, HERE, &[2; 32], 2, 0)?;
                d.access(warp(2), 1, Kind::Read, HERE, &[1; 32], 1, 0)
            },
            None,
        ),
        (
            "one byte of a word",
            |d| {
                d.access(warp(0), 1, Kind::Write, HERE, &[0; 32], 1, 0)?;
                d.access(warp(1), 1, Kind::Write, HERE, &[2; 32], 2, 0)?;
                d.access(warp(2), 1, Kind::Read, HERE, &[0; 32], 2, 0)
            },
            UNORDERED,
        ),
        (
            "a byte of a word read, after all of it",
            |d| {
                d.access(warp(0), 1, Kind::Read, HERE, &[0; 32], 4, 0)?;
                d.access(warp(0), 1, Kind::Read, HERE, &[0; 32], 1, 0)?;
                d.access(warp(1), 1, Kind::Write, HERE, &[2; 32], 2, 0)
            },
            UNORDERED,
        ),
        (
            "two lanes of an instruction",
            |d| d.access(warp(0), 3, Kind::Write, HERE, &[0; 32], 4, 0),
            UNORDERED,
        ),
        (
            "two lanes of an instruction, one value",
            |d| {
                d.access(warp(0), 3, Kind::WriteEqual, HERE, &[0; 32], 4, 0)?;
                d.warp_sync(warp(0), 3);
                d.access(warp(0), 3, Kind::WriteEqual, HERE, &[0; 32], 4, 0)
            },
            None,
        ),
        (
            "one value, but written twice",
            |d| {
                d.access(warp(0), 3, Kind::WriteEqual, HERE, &[0; 32], 4, 0)?;
                d.access(warp(0), 3, Kind::WriteEqual, HERE, &[0; 32], 4, 0)
            },
            UNORDERED,
        ),
    ]);
}

#[test]
fn producers_and_consumers() {
    fn pair(d: &mut Detector, arrived: u32, synced: u32) -> Run {
        write(d, 0, 0)?;
        d.barrier_arrive(warp(0), ALL, arrived);
        d.barrier_arrive(warp(1), ALL, synced);
        d.barrier_complete(0, synced, &[(1, ALL)]);
        read_turned(d, 1, 0)
    }
    check(&[
        ("bar.arrive and bar.sync", |d| pair(d, 1, 1), None),
        ("bar.arrive at another barrier", |d| pair(d, 2, 1), UNORDERED),
        (
            "a write after bar.arrive",
            |d| {
                d.barrier_arrive(warp(0), ALL, 1);
                write(d, 0, 0)?;
                d.barrier_arrive(warp(1), ALL, 1);
                d.barrier_complete(0, 1, &[(1, ALL)]);
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "bar.arrive does not acquire",
            |d| {
                write(d, 1, 0)?;
                d.barrier_arrive(warp(1), ALL, 1);
                d.barrier_arrive(warp(0), ALL, 1);
                d.barrier_complete(0, 1, &[(1, ALL)]);
                read(d, 0, 0)
            },
            UNORDERED,
        ),
        (
            "lane 0 arrives for the warp",
            |d| {
                write(d, 0, 0)?;
                arrive(d, 0, 1024);
                wait(d, 1, 1024);
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "lane 0 arrives for the warp, synchronised before",
            |d| {
                write(d, 0, 0)?;
                d.warp_sync(warp(0), ALL);
                arrive(d, 0, 1024);
                wait(d, 1, 1024);
                read_turned(d, 1, 0)
            },
            None,
        ),
        (
            "a phase that is not complete",
            |d| {
                arrive(d, 0, 1024);
                write(d, 0, 0)?;
                d.mbarrier_arrive(warp(0), ALL, 0, 1024);
                wait(d, 1, 1024);
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "a cluster's barrier",
            |d| {
                write(d, 0, 0)?;
                sync_cluster(d, true)?;
                d.access(Warp { block: 1, warp: 3 }, ALL, Kind::Read, HERE, &row(0), 4, 0)
            },
            None,
        ),
        (
            "a cluster's barrier, relaxed",
            |d| {
                write(d, 0, 0)?;
                sync_cluster(d, false)?;
                d.access(Warp { block: 1, warp: 3 }, ALL, Kind::Read, HERE, &row(0), 4, 0)
            },
            UNORDERED,
        ),
    ]);
}

fn sync_cluster(d: &mut Detector, release: bool) -> Run {
    let warps = || (0..2).flat_map(|block| (0..4).map(move |warp| Warp { block, warp }));
    for warp in warps() {
        d.cluster_arrive(warp, ALL, release);
    }
    d.cluster_complete(0);
    for warp in warps() {
        d.cluster_wait(warp, ALL);
    }
    Ok(())
}

#[test]
fn blocks() {
    /// Message passing from block 0 to block 2 with these accesses to the flag.
    fn pass(
        d: &mut Detector,
        release: Option<Scope>,
        flag: [Kind; 2],
        acquire: Option<Scope>,
    ) -> Run {
        touch(d, 0, Kind::Write, 0)?;
        if let Some(scope) = release {
            d.fence(warp(0), 1, scope);
        }
        touch(d, 0, flag[0], 64)?;
        touch(d, 2, flag[1], 64)?;
        if let Some(scope) = acquire {
            d.fence(Warp { block: 2, warp: 0 }, 1, scope);
        }
        touch(d, 2, Kind::Read, 0)
    }
    const GPU: Option<Scope> = Some(Scope::Device);
    const CTA: Option<Scope> = Some(Scope::Block);
    const RELEASE: Kind = Kind::StrongWrite { scope: Scope::Device, release: true };
    const ACQUIRE: Kind = Kind::StrongRead { scope: Scope::Device, acquire: true };
    const NARROW: Kind = Kind::StrongRead { scope: Scope::Cluster, acquire: false };
    check(&[
        (
            "two blocks write a word",
            |d| {
                touch(d, 0, Kind::Write, 0)?;
                touch(d, 1, Kind::Write, 0)
            },
            UNORDERED,
        ),
        (
            "a block that has ended",
            |d| {
                touch(d, 0, Kind::Write, 0)?;
                d.end_block(0);
                touch(d, 1, Kind::Read, 0)
            },
            UNORDERED,
        ),
        (
            "a block whose shared memory another has read, for all it knows later",
            |d| {
                d.access(Warp { block: 1, warp: 0 }, 1, Kind::Read, HERE, &[64; 32], 4, 4)?;
                d.may_end(0)
            },
            UNORDERED,
        ),
        (
            "a block that knows that it has been read",
            |d| {
                d.access(Warp { block: 1, warp: 0 }, 1, Kind::Read, HERE, &[64; 32], 4, 4)?;
                for block in [0, 1] {
                    (0..4).for_each(|warp| d.cluster_arrive(Warp { block, warp }, ALL, true));
                }
                d.cluster_complete(0);
                d.cluster_wait(Warp { block: 0, warp: 2 }, ALL);
                d.may_end(0)
            },
            None,
        ),
        (
            "two blocks add to a word",
            |d| {
                touch(d, 0, ADD, 0)?;
                touch(d, 1, ADD, 0)?;
                touch(d, 0, RELAXED_READ, 0)
            },
            None,
        ),
        (
            "atomic and plain",
            |d| {
                touch(d, 0, ADD, 0)?;
                touch(d, 1, Kind::Read, 0)
            },
            UNORDERED,
        ),
        (
            "plain and atomic",
            |d| {
                touch(d, 0, Kind::Read, 0)?;
                touch(d, 1, ADD, 0)
            },
            UNORDERED,
        ),
        (
            "atomic within the block",
            |d| {
                let add = Kind::Update { scope: Scope::Block, acquire: false, release: false };
                touch(d, 0, add, 0)?;
                touch(d, 1, add, 0)
            },
            Some(Why::Scope),
        ),
        (
            "many wide ones, then two narrow ones of which the first is ordered",
            |d| {
                let add = Kind::Update { scope: Scope::Block, acquire: false, release: false };
                for _ in 0..8 {
                    touch(d, 0, ADD, 0)?;
                    d.fence(warp(0), 1, Scope::Device);
                }
                touch(d, 0, RELEASE, 64)?;
                touch(d, 1, ACQUIRE, 64)?;
                touch(d, 1, add, 0)?;
                let other = Warp { block: 1, warp: 1 };
                d.access(other, 1, add, Space::Device, &[0; 32], 4, 0)
            },
            Some(Why::Scope),
        ),
        ("fences", |d| pass(d, GPU, [RELAXED_WRITE, RELAXED_READ], GPU), None),
        ("updates", |d| pass(d, GPU, [ADD, ADD], GPU), None),
        ("no fence", |d| pass(d, None, [RELAXED_WRITE, RELAXED_READ], GPU), UNORDERED),
        ("no second fence", |d| pass(d, GPU, [RELAXED_WRITE, RELAXED_READ], None), UNORDERED),
        ("a fence of the block", |d| pass(d, CTA, [RELAXED_WRITE, RELAXED_READ], GPU), UNORDERED),
        ("a second one", |d| pass(d, GPU, [RELAXED_WRITE, RELAXED_READ], CTA), UNORDERED),
        ("release, acquire", |d| pass(d, None, [RELEASE, ACQUIRE], None), None),
        ("release, relaxed", |d| pass(d, None, [RELEASE, RELAXED_READ], None), UNORDERED),
        ("release, fence", |d| pass(d, None, [RELEASE, RELAXED_READ], GPU), None),
        ("relaxed, acquire", |d| pass(d, None, [RELAXED_WRITE, ACQUIRE], None), UNORDERED),
        ("a narrow read", |d| pass(d, GPU, [RELAXED_WRITE, NARROW], GPU), Some(Why::Scope)),
        (
            "the flag is overwritten",
            |d| {
                touch(d, 0, Kind::Write, 0)?;
                touch(d, 0, RELEASE, 64)?;
                touch(d, 1, RELAXED_WRITE, 64)?;
                touch(d, 2, ACQUIRE, 64)?;
                touch(d, 2, Kind::Read, 0)
            },
            UNORDERED,
        ),
        (
            "the flag is added to",
            |d| {
                touch(d, 0, Kind::Write, 0)?;
                touch(d, 0, RELEASE, 64)?;
                touch(d, 1, ADD, 64)?;
                touch(d, 2, ACQUIRE, 64)?;
                touch(d, 2, Kind::Read, 0)
            },
            None,
        ),
        ("a barrier of the grid", |d| grid(d, true), None),
        ("a barrier of the grid without fences", |d| grid(d, false), UNORDERED),
    ]);
}

/// All write; fence; bar.sync; one thread of each block adds, polls, fences; bar.sync; all read
/// what another block wrote.
fn grid(d: &mut Detector, fence: bool) -> Run {
    let sync = |d: &mut Detector, block| {
        (0..4).for_each(|warp| d.barrier_arrive(Warp { block, warp }, ALL, 0));
        d.barrier_complete(block, 0, &[(0, ALL), (1, ALL), (2, ALL), (3, ALL)]);
    };
    let start = |block: u32, warp: u32| row(4096 + 512 * u64::from(block) + 128 * u64::from(warp));
    for block in 0..3 {
        for warp in (0..4).map(|warp| Warp { block, warp }) {
            let addresses = start(block, warp.warp);
            d.access(warp, ALL, Kind::Write, Space::Device, &addresses, 4, 7)?;
            if fence {
                d.fence(warp, ALL, Scope::Device);
            }
        }
        sync(d, block);
        touch(d, block, ADD, 0)?;
    }
    for block in 0..3 {
        touch(d, block, RELAXED_READ, 0)?;
        d.fence(Warp { block, warp: 0 }, 1, Scope::Device);
        sync(d, block);
        let addresses = start((block + 1) % 3, 3);
        d.access(Warp { block, warp: 2 }, ALL, Kind::Read, Space::Device, &addresses, 4, 8)?;
    }
    Ok(())
}
