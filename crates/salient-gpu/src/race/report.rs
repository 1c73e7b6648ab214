//! What a race is, in words.

use super::clock::{bits, warp_of_row};
use super::entry::{Agent, Entry};
use super::shadow::Conflict;
use super::{Detector, Space};
use std::fmt;

/// Two accesses without the order that they need.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Race {
    /// Where.
    pub space: Space,
    /// The first byte of the second access in the word in which they meet.
    pub address: u64,
    /// The access that was noted first.
    pub first: Party,
    /// The access that found it.
    pub second: Party,
    /// What is amiss.
    pub why: Why,
}

/// An access of a race.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Party {
    /// Whose it is.
    pub who: Who,
    /// The place that the caller gave it.
    pub place: u32,
    /// Whether it writes.
    pub writes: bool,
    /// Whether it is strong: atomic, or volatile.
    pub strong: bool,
}

/// Who accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// A thread.
    Thread {
        /// Its block.
        block: u32,
        /// Its warp.
        warp: u32,
        /// Its lane, or one of several.
        lane: u32,
    },
    /// A cp.async of a thread.
    Copy {
        /// Its block.
        block: u32,
        /// Its warp.
        warp: u32,
        /// Its lane.
        lane: u32,
    },
    /// A bulk copy.
    Bulk {
        /// The block of the mbarrier, or of the thread whose bulk group it is in.
        block: u32,
    },
    /// A product (wgmma).
    Product {
        /// Its block.
        block: u32,
        /// The mask of its warps.
        warps: u32,
    },
}

/// What is amiss between two accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// Nothing orders them.
    Unordered,
    /// The first is asynchronous, and its issuer has not waited for it, or nobody has.
    InFlight,
    /// Both are atomic, but one is not in the other's scope.
    Scope,
    /// They are ordered, but the second is of the async proxy and there is no fence.proxy.async.
    ProxyFence,
}

impl Detector {
    /// The race of `now`, by these lanes, with an earlier access.
    #[cold]
    pub(super) fn race(
        &self,
        space: Space,
        (address, fault): Conflict,
        now: &Entry,
        mut lanes: u32,
    ) -> Box<Race> {
        let (before, mut why) = *fault;
        if before.block == now.block && before.row() == now.row() && lanes & !before.lanes != 0 {
            lanes &= !before.lanes;
        }
        let now = now.of(lanes, 0);
        if why == Why::Unordered && self.is_in_flight(&before) {
            why = Why::InFlight;
        }
        Box::new(Race { space, address, first: party(&before), second: party(&now), why })
    }

    fn is_in_flight(&self, before: &Entry) -> bool {
        let Some(block) = &self.blocks[before.block as usize] else { return false };
        match before.tag().agent() {
            Agent::Thread => false,
            Agent::Copy => {
                let warp = &block.warps[warp_of_row(before.row()) as usize];
                warp.groups_in(before.lanes).any(|(_, view)| view.copied < before.stamp)
            }
            // Whoever waits for them knows it.
            Agent::Bulk | Agent::Product => !bits(before.lanes).all(|lane| {
                block.warps.iter().flat_map(|warp| &warp.groups).any(|(_, view)| {
                    let known = view.known.known(before.block);
                    known.is_some_and(|known| known.has(before.row(), 1 << lane, before.stamp))
                })
            }),
        }
    }
}

fn party(entry: &Entry) -> Party {
    let block = entry.block;
    let lane = entry.lanes.trailing_zeros();
    let who = match entry.tag().agent() {
        Agent::Thread => Who::Thread { block, warp: warp_of_row(entry.row()), lane },
        Agent::Copy => Who::Copy { block, warp: warp_of_row(entry.row()), lane },
        Agent::Bulk => Who::Bulk { block },
        Agent::Product => Who::Product { block, warps: entry.lanes },
    };
    let (writes, strong) = (entry.tag().writes(), entry.tag().is_strong());
    Party { who, place: entry.place, writes, strong }
}

impl fmt::Display for Race {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { space, address, first, second, why } = self;
        write!(f, "{why}: {second}, {first}, both at {address:#x} of ")?;
        match space {
            Space::Shared { of_block } => write!(f, "the shared memory of block {of_block}"),
            Space::Device => write!(f, "device memory"),
        }
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let strong = if self.strong { "strong " } else { "" };
        let access = if self.writes { "write" } else { "read" };
        write!(f, "{strong}{access} by {} at place {}", self.who, self.place)
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Thread { block, warp, lane } => {
                write!(f, "thread {} of block {block} (warp {warp}, lane {lane})", 32 * warp + lane)
            }
            Self::Copy { block, warp, lane } => {
                write!(f, "a cp.async of thread {} of block {block}", 32 * warp + lane)
            }
            Self::Bulk { block } => write!(f, "a bulk copy of block {block}"),
            Self::Product { block, warps } => {
                let first = warps.trailing_zeros();
                write!(f, "a product of block {block}, warps {first} to {}", warps.ilog2())
            }
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unordered => "a race, with nothing to order the accesses",
            Self::InFlight => "a race with asynchronous work that nobody waited for",
            Self::Scope => "a race of atomic accesses that are not in each other's scope",
            Self::ProxyFence => "no fence.proxy.async between the generic and the async proxy",
        })
    }
}
