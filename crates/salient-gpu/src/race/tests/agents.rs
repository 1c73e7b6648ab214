//! Asynchronous work, and the async proxy.

use super::*;
use crate::race::{Range, Scope, Ticket};

const IN_FLIGHT: Option<Why> = Some(Why::InFlight);
const NO_FENCE: Option<Why> = Some(Why::ProxyFence);

fn words(start: u64) -> [Range; 1] {
    [Range { space: HERE, start, bytes: 128 }]
}

fn cp_async(d: &mut Detector, w: u32, to: u64, from: u64) -> Result<Ticket, Box<Race>> {
    d.copy(warp(w), ALL, &row(to), 4, &row(from), &[4; 32], 5)
}

/// A bulk copy by lane 0 of a warp that completes at once.
fn bulk(d: &mut Detector, w: u32, to: u64, mbarrier: u64) -> Run {
    let ticket = d.bulk_copy(warp(w), 0, &[], &words(to), 0, mbarrier, 6)?;
    d.mbarrier_arrive(warp(w), 1, 0, mbarrier);
    d.bulk_complete(0, mbarrier, ticket);
    d.mbarrier_complete(0, mbarrier);
    Ok(())
}

#[test]
fn copies_see_the_init_of_their_mbarrier() {
    fn init(d: &mut Detector) -> Run {
        d.access(warp(0), 1, Kind::Write, HERE, &[512; 32], 8, 7)
    }
    check(&[
        (
            "init and barrier, but no fence",
            |d| {
                init(d)?;
                sync_block(d);
                d.mbarrier_used(warp(1), 0, (0, 512), 6)
            },
            NO_FENCE,
        ),
        (
            "init, fence, but no barrier",
            |d| {
                init(d)?;
                d.proxy_fence(warp(0), 1);
                d.mbarrier_used(warp(1), 0, (0, 512), 6)
            },
            UNORDERED,
        ),
        (
            "init, fence, barrier",
            |d| {
                init(d)?;
                d.proxy_fence(warp(0), 1);
                sync_block(d);
                d.mbarrier_used(warp(1), 0, (0, 512), 6)
            },
            None,
        ),
    ]);
}

#[test]
fn copies() {
    check(&[
        (
            "read before the wait",
            |d| {
                cp_async(d, 0, 0, 0)?;
                read(d, 0, 0)
            },
            IN_FLIGHT,
        ),
        (
            "read by its thread after the wait",
            |d| {
                let ticket = cp_async(d, 0, 0, 0)?;
                d.copy_wait(warp(0), ALL, ticket);
                read(d, 0, 0)
            },
            None,
        ),
        (
            "waited for, but no barrier",
            |d| {
                let ticket = cp_async(d, 0, 0, 0)?;
                d.copy_wait(warp(0), ALL, ticket);
                read(d, 1, 0)
            },
            UNORDERED,
        ),
        (
            "waited for, but not in the warp",
            |d| {
                let ticket = cp_async(d, 0, 0, 0)?;
                d.copy_wait(warp(0), ALL, ticket);
                read_turned(d, 0, 0)
            },
            UNORDERED,
        ),
        (
            "two words by lane 0, waited for, the second read by lane 1",
            |d| {
                let ticket = d.copy(warp(0), 1, &row(0), 8, &row(0), &[8; 32], 5)?;
                d.copy_wait(warp(0), 3, ticket);
                d.access(warp(0), 3, Kind::Read, HERE, &row(0), 4, 0)
            },
            UNORDERED,
        ),
        (
            "waited for, a fence, a flag",
            |d| {
                let scope = Scope::Block;
                let ticket = cp_async(d, 0, 0, 0)?;
                d.copy_wait(warp(0), ALL, ticket);
                d.fence(warp(0), ALL, scope);
                let set = Kind::StrongWrite { scope, release: false };
                let poll = Kind::StrongRead { scope, acquire: true };
                d.access(warp(0), 1, set, Space::Device, &[4096; 32], 4, 0)?;
                d.access(warp(1), 1, poll, Space::Device, &[4096; 32], 4, 0)?;
                d.access(warp(1), 1, Kind::Read, HERE, &row(0), 4, 0)
            },
            None,
        ),
        (
            "a barrier, but not waited for",
            |d| {
                cp_async(d, 0, 0, 0)?;
                sync_block(d);
                read(d, 1, 0)
            },
            IN_FLIGHT,
        ),
        (
            "waited for, and a barrier",
            |d| {
                let ticket = cp_async(d, 0, 0, 0)?;
                d.copy_wait(warp(0), ALL, ticket);
                sync_block(d);
                read_turned(d, 1, 0)
            },
            None,
        ),
        (
            "the next one not waited for",
            |d| {
                let first = cp_async(d, 0, 0, 0)?;
                cp_async(d, 0, 128, 128)?;
                d.copy_wait(warp(0), ALL, first);
                sync_block(d);
                read(d, 1, 0)?;
                read(d, 1, 128)
            },
            IN_FLIGHT,
        ),
        (
            "into a buffer still read",
            |d| {
                read(d, 1, 0)?;
                cp_async(d, 0, 0, 0).map(drop)
            },
            UNORDERED,
        ),
        (
            "its source overwritten",
            |d| {
                cp_async(d, 0, 0, 4096)?;
                d.access(warp(0), ALL, Kind::Write, Space::Device, &row(4096), 4, 0)
            },
            IN_FLIGHT,
        ),
        (
            "bulk, waited for",
            |d| {
                bulk(d, 0, 0, 1024)?;
                wait(d, 1, 1024);
                read_turned(d, 1, 0)
            },
            None,
        ),
        (
            "bulk, not waited for",
            |d| {
                bulk(d, 0, 0, 1024)?;
                read(d, 1, 0)
            },
            IN_FLIGHT,
        ),
        (
            "bulk, another mbarrier waited for",
            |d| {
                bulk(d, 0, 0, 1024)?;
                bulk(d, 0, 128, 1032)?;
                wait(d, 1, 1032);
                read(d, 1, 0)
            },
            IN_FLIGHT,
        ),
        (
            "bulk, the phase completes without it",
            |d| {
                d.bulk_copy(warp(0), 0, &[], &words(0), 0, 1024, 6)?;
                arrive(d, 0, 1024);
                wait(d, 1, 1024);
                read(d, 1, 0)
            },
            IN_FLIGHT,
        ),
        ("bulk, ring of buffers", |d| ring(d, true), None),
        ("bulk, ring of buffers, still read", |d| ring(d, false), UNORDERED),
        (
            "bulk store, overwritten",
            |d| {
                d.bulk_store(warp(0), 0, &words(0), &[], 0)?;
                write(d, 0, 0)
            },
            IN_FLIGHT,
        ),
        (
            "bulk store, overwritten after the wait",
            |d| {
                let ticket = d.bulk_store(warp(0), 0, &words(0), &[], 0)?;
                d.bulk_wait(warp(0), 0, ticket, true);
                sync_block(d);
                write(d, 1, 0)
            },
            None,
        ),
    ]);
}

/// A producer and a consumer with two buffers, full at 1024 and 1032, empty at 1040 and 1048.
fn ring(d: &mut Detector, waits: bool) -> Run {
    for round in 0..6 {
        let at = round % 2;
        if round >= 2 && waits {
            wait(d, 0, 1040 + 8 * at);
        }
        bulk(d, 0, 128 * at, 1024 + 8 * at)?;
        wait(d, 1, 1024 + 8 * at);
        read(d, 1, 128 * at)?;
        d.warp_sync(warp(1), ALL);
        arrive(d, 1, 1040 + 8 * at);
    }
    Ok(())
}

#[test]
fn the_async_proxy() {
    /// All warps write and fence as told; a product after a barrier.
    fn written(d: &mut Detector, before: bool, after: bool) -> Run {
        write(d, 1, 0)?;
        if before {
            d.proxy_fence(warp(1), ALL);
        }
        sync_block(d);
        if after {
            (0..4).for_each(|w| d.proxy_fence(warp(w), ALL));
        }
        d.product(0, 0xf, &words(0), 9).map(drop)
    }
    check(&[
        ("no proxy fence", |d| written(d, false, false), NO_FENCE),
        ("a proxy fence of the writer", |d| written(d, true, false), None),
        ("a proxy fence of the readers", |d| written(d, false, true), None),
        (
            "a proxy fence too early",
            |d| {
                d.proxy_fence(warp(1), ALL);
                written(d, false, false)
            },
            NO_FENCE,
        ),
        (
            "a proxy fence, but no barrier",
            |d| {
                write(d, 1, 0)?;
                d.proxy_fence(warp(1), ALL);
                d.product(0, 0xf, &words(0), 9).map(drop)
            },
            UNORDERED,
        ),
        (
            "a proxy fence of a third thread",
            |d| {
                write(d, 1, 0)?;
                sync(d, 1, &[1, 2]);
                d.proxy_fence(warp(2), ALL);
                sync(d, 2, &[2, 3]);
                d.bulk_store(warp(3), 0, &words(0), &[], 0).map(drop)
            },
            None,
        ),
        (
            "bulk copy over what was written",
            |d| {
                write(d, 1, 0)?;
                sync_block(d);
                bulk(d, 0, 0, 1024)
            },
            NO_FENCE,
        ),
        (
            "bulk copy over what was read",
            |d| {
                read(d, 1, 0)?;
                sync_block(d);
                bulk(d, 0, 0, 1024)
            },
            None,
        ),
        (
            "product of a bulk copy",
            |d| {
                bulk(d, 0, 0, 1024)?;
                (0..4).for_each(|w| wait(d, w, 1024));
                d.product(0, 0xf, &words(0), 9).map(drop)
            },
            None,
        ),
        (
            "product of a bulk copy that one warp has not waited for",
            |d| {
                bulk(d, 0, 0, 1024)?;
                (0..3).for_each(|w| wait(d, w, 1024));
                d.product(0, 0xf, &words(0), 9).map(drop)
            },
            UNORDERED,
        ),
        ("operand overwritten in flight", |d| operand(d, &[]), IN_FLIGHT),
        ("operand overwritten after a wait of some", |d| operand(d, &[0, 1, 2]), IN_FLIGHT),
        ("operand overwritten after the wait", |d| operand(d, &[0, 1, 2, 3]), None),
        (
            "operand overwritten by a bulk copy",
            |d| {
                d.product(0, 0xf, &words(0), 9)?;
                sync_block(d);
                bulk(d, 0, 0, 1024)
            },
            IN_FLIGHT,
        ),
        (
            "operand overwritten by a warp that has not waited itself",
            |d| {
                let ticket = d.product(0, 0x7, &words(0), 9)?;
                (0..3).for_each(|w| d.product_wait(warp(w), ALL, ticket));
                write(d, 3, 0)
            },
            UNORDERED,
        ),
    ]);
}

/// A product of four warps, of which some wait before a barrier and the overwriting.
fn operand(d: &mut Detector, waiting: &[u32]) -> Run {
    let ticket = d.product(0, 0xf, &words(0), 9)?;
    for &w in waiting {
        d.product_wait(warp(w), ALL, ticket);
    }
    sync_block(d);
    write(d, 0, 0)
}
