//! A detector of data races and of missing proxy fences, by vector clocks.
//!
//! It knows no instructions. An interpreter that runs one launch, in any order that the launch
//! allows, tells a [`Detector`] of each access and of each synchronisation, 32 lanes at a time, and
//! hears of the first access that conflicts with an earlier one without an order between them
//! (PTX ISA: Memory Consistency Model). The order is what the synchronisation makes of this
//! execution, so a race is found even where the interpreter happened to run it well.
//!
//! # What orders
//!
//! * Program order, thread by thread: lanes of a warp are threads like others. shfl, vote, match
//!   and reconvergence order nothing, bar.warp.sync does.
//! * barrier and barrier.cluster: those who arrive release, those who sync or wait acquire.
//! * mbarriers: arrivals of a phase release, waiters of that phase acquire. A bulk copy that
//!   completes there is one of the arrivals.
//! * Release and acquire patterns: strong writes publish what the last fence of the thread covers,
//!   or everything if they release themselves; strong reads take what is published at their
//!   address, at once if they acquire, else with the next fence. Both hold within the narrower of
//!   the scopes. Updates (atom, red) keep what earlier writes published, plain strong writes don't.
//! * An asynchronous agent starts after what its issuer did, and is over for those who wait, or
//!   who are ordered after a waiter: cp.async with the groups of a thread, bulk copies with an
//!   mbarrier or with the bulk groups of a thread, products (wgmma) with the groups of each warp.
//! * A block ends after what others do in its shared memory, which its threads must know.
//! * The async proxy (bulk copies, products) sees writes of the generic proxy only with a
//!   fence.proxy.async in between: by the writer, by the issuer, or by anyone in the chain that
//!   orders the two. Of an mbarrier's init fence.mbarrier_init does, too.
//!
//! # What is let pass
//!
//! * fence.mbarrier_init is as good as fence.proxy.async for all that its thread wrote.
//! * No proxy fence is asked for between generic *reads* and a later write by the async proxy, as
//!   usual in rings of buffers whose consumers only arrive at an mbarrier.
//! * Strong accesses need not be of one size to be free of races, and a plain write does not
//!   withdraw what strong writes published at its address.
//! * Fences are cumulative over barriers and bar.warp.sync: after "fence; bar.sync" a strong write
//!   of one thread publishes what the others fenced, and after "bar.sync; fence" each has acquired
//!   what one of them read. The model asks for a fence in the thread of the strong access; devices
//!   don't, and grid-wide barriers are written so.
//! * Waiters for a bulk copy are ordered after what its issuer had done, too.
//! * Of the bulk copies that complete at one mbarrier, one that is known to be complete makes known
//!   the ones issued before it.
//! * Of a word's accesses without an order among them, only the 64 newest are sure to be kept
//!   (per kind: plain, strong). A race with an older one only can be missed.
//!
//! # What is asked beyond the model
//!
//! * Waiters of an mbarrier acquire the arrivals of the phase that is complete, no earlier ones.
//! * A strong write without a fence withdraws what was published at its address, even by its own
//!   thread.

mod agents;
mod clock;
mod entry;
mod report;
mod shadow;
mod sync;
#[cfg(test)]
mod tests;

mod view;

pub use report::{Party, Race, Who, Why};

use clock::{bits, thread_row};
use entry::{Agent, Entry, Tag};
use shadow::{Past, Shadow, Step};
use std::collections::HashMap;
use sync::{ClusterBarrier, Instance, Object};
use view::{Joint, Message, View, WarpState, by_value, first_lanes};

/// The most warps in a block.
pub const MAX_WARPS: u32 = 32;

/// A warp: the launch-wide index of its block and its own in the block.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Warp {
    /// The block.
    pub block: u32,
    /// The warp.
    pub warp: u32,
}

/// An address space.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Space {
    /// The shared memory of a block; addresses are offsets in it.
    Shared {
        /// The block.
        of_block: u32,
    },
    /// Device memory, and what else all blocks can reach.
    Device,
}

/// Whom a fence or a strong access is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    /// `.cta`
    Block,
    /// `.cluster`
    Cluster,
    /// `.gpu` and `.sys`
    Device,
}

/// An access of the generic proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A weak read.
    Read,
    /// A weak write. Two lanes of one instruction that write the same byte race.
    Write,
    /// A weak write of which the caller has seen that lanes with the same address write the same
    /// value, which is allowed.
    WriteEqual,
    /// A relaxed, acquiring or volatile read.
    StrongRead {
        /// Its scope; volatile: the device.
        scope: Scope,
        /// `.acquire`
        acquire: bool,
    },
    /// A relaxed, releasing or volatile write.
    StrongWrite {
        /// Its scope; volatile: the device.
        scope: Scope,
        /// `.release`
        release: bool,
    },
    /// An atomic read-modify-write: atom, red.
    Update {
        /// Its scope.
        scope: Scope,
        /// `.acquire` or `.acq_rel`
        acquire: bool,
        /// `.release` or `.acq_rel`
        release: bool,
    },
}

/// Consecutive bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// Where they are.
    pub space: Space,
    /// The first.
    pub start: u64,
    /// How many.
    pub bytes: u64,
}

/// Asynchronous work that was issued. Of the work of one thread or warp, later work has a greater
/// ticket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Ticket(u32);

/// The race detector of one launch. A kernel's end orders everything, so the next launch starts
/// with a new one.
#[derive(Default)]
pub struct Detector {
    /// The newest stamp.
    now: u32,
    /// By the index of the block: its cluster.
    clusters: Vec<u32>,
    blocks: Vec<Option<Box<Block>>>,
    shared: Vec<Option<Box<Shadow>>>,
    device: Shadow,
    cluster_barriers: HashMap<u32, ClusterBarrier>,
    published: HashMap<(Space, u64), Vec<(Instance, Message)>>,
}

#[derive(Default)]
struct Block {
    warps: Vec<WarpState>,
    /// What those know who have arrived.
    barriers: [Joint; 16],
    mbarriers: HashMap<u64, Object>,
    /// By thread: the agents that read and write for its bulk groups.
    bulk_groups: HashMap<(u32, u32), [u32; 2]>,
    /// How many agents copy in bulk.
    agents: u32,
}

impl Detector {
    /// For one launch.
    pub fn new() -> Self {
        Self::default()
    }

    /// A block becomes resident. `block` is its index in the launch, `cluster` that of its cluster,
    /// which has no other block if there are no clusters.
    pub fn begin_block(&mut self, block: u32, cluster: u32, threads: u32) {
        assert!(threads <= 32 * MAX_WARPS, "a block has up to {MAX_WARPS} warps");
        let index = block as usize;
        if self.blocks.len() <= index {
            self.blocks.resize_with(index + 1, || None);
            self.shared.resize_with(index + 1, || None);
            self.clusters.resize(index + 1, u32::MAX);
        }
        self.clusters[index] = cluster;
        self.now += 1;
        let warps = (0..threads.div_ceil(32)).map(|warp| {
            let lanes = first_lanes(threads - 32 * warp);
            let groups = vec![(lanes, View::default())];
            WarpState { block, warp, lanes, epoch: self.now, groups }
        });
        self.blocks[index] = Some(Box::new(Block { warps: warps.collect(), ..Block::default() }));
        self.shared[index] = Some(Box::default());
    }

    /// Whether a block may end: nobody else accesses its shared memory any more, as far as its
    /// threads know.
    ///
    /// # Errors
    ///
    /// An access that its end may be too early for.
    pub fn may_end(&self, block: u32) -> Result<(), Box<Race>> {
        let mut joint = Joint::default();
        for warp in &self.block(block).warps {
            joint.absorb(warp, warp.lanes);
        }
        let shadow = self.shared[block as usize].as_deref().expect("the block is resident");
        let (view, first) = (joint.view(), Warp { block, warp: 0 });
        let past = Past::new(&view, first, 1, &self.clusters);
        let Some(found) = shadow.unknown(&past, block) else { return Ok(()) };
        let tag = Tag::new(Kind::Write, Agent::Thread);
        let end = Entry::new(self.now, found.1.0.place, block, thread_row(0), tag);
        Err(self.race(Space::Shared { of_block: block }, found, &end, 1))
    }

    /// A block has ended. What it did in device memory is remembered.
    pub fn end_block(&mut self, block: u32) {
        self.blocks[block as usize] = None;
        self.shared[block as usize] = None;
        self.published.retain(|(space, _), _| *space != Space::Shared { of_block: block });
    }

    /// The lanes in `mask` access `width` bytes each at their addresses.
    ///
    /// # Errors
    ///
    /// The race, if there is one. Nothing is sure to be found after the first one.
    #[expect(clippy::too_many_arguments, reason = "they are what an access is")]
    #[inline]
    pub fn access(
        &mut self,
        warp: Warp,
        mask: u32,
        kind: Kind,
        space: Space,
        addresses: &[u64; 32],
        width: u32,
        place: u32,
    ) -> Result<(), Box<Race>> {
        let tag = Tag::new(kind, Agent::Thread);
        let row = thread_row(warp.warp);
        let now = Entry::new(self.warp(warp).epoch, place, warp.block, row, tag);
        let target = Target { warp, mask, space, addresses };
        match kind {
            Kind::WriteEqual => self.write_equal(&target, &now, width)?,
            _ => self.touch_lanes(&target, &now, |_| width, Step::Both)?,
        }
        if tag.is_strong() {
            self.exchange(&target, kind);
        }
        Ok(())
    }

    fn write_equal(&mut self, target: &Target, now: &Entry, width: u32) -> Result<(), Box<Race>> {
        self.touch_lanes(target, now, |_| width, Step::Check)?;
        let Target { warp, mask, space, addresses } = *target;
        let (state, shadow, clusters) = self.parts(warp, space);
        for (lanes, address) in by_value(mask, addresses) {
            let first = lanes & lanes.wrapping_neg();
            for (first, view) in state.groups_in(first) {
                let past = Past::new(view, warp, first, clusters);
                let range = (address, u64::from(width));
                let noted = shadow.touch(&past, now, lanes, range, Step::Note);
                debug_assert!(noted.is_ok(), "nothing is checked");
            }
        }
        Ok(())
    }

    /// `now` for each lane of the target; `width`: how many bytes by lane.
    #[inline]
    fn touch_lanes(
        &mut self,
        target: &Target,
        now: &Entry,
        width: impl Fn(u32) -> u32,
        step: Step,
    ) -> Result<(), Box<Race>> {
        let Target { warp, mask, space, addresses } = *target;
        let (state, shadow, clusters) = self.parts(warp, space);
        let mut found = None;
        'groups: for (lanes, view) in state.groups_in(mask) {
            let mut past = Past::new(view, warp, lanes, clusters);
            let first = lanes.trailing_zeros();
            let range = |lane: u32| (addresses[lane as usize], u64::from(width(lane)));
            if now.tag() == Tag::READ
                && lanes >> first != 1
                && bits(lanes).all(|lane| addresses[lane as usize] == range(first).0)
            {
                if let Err(conflict) = shadow.touch(&past, now, lanes, range(first), step) {
                    found = Some((conflict, lanes));
                    break;
                }
                continue;
            }
            if matches!(step, Step::Both)
                && let Some((address, count)) = row(lanes, addresses, &width)
            {
                if let Err(race) = shadow.touch_row(&mut past, now, first, address, count) {
                    found = Some(race);
                    break;
                }
                continue;
            }
            for lane in bits(lanes) {
                past.narrow(lane);
                if let Err(conflict) = shadow.touch(&past, now, 1 << lane, range(lane), step) {
                    found = Some((conflict, 1 << lane));
                    break 'groups;
                }
            }
        }
        match found {
            Some((conflict, lanes)) => Err(self.race(space, conflict, now, lanes)),
            None => Ok(()),
        }
    }

    fn warp(&self, warp: Warp) -> &WarpState {
        &self.block(warp.block).warps[warp.warp as usize]
    }

    fn warp_mut(&mut self, warp: Warp) -> &mut WarpState {
        &mut self.block_mut(warp.block).warps[warp.warp as usize]
    }

    fn block(&self, block: u32) -> &Block {
        self.blocks[block as usize].as_deref().expect("the block is resident")
    }

    fn block_mut(&mut self, block: u32) -> &mut Block {
        self.blocks[block as usize].as_deref_mut().expect("the block is resident")
    }

    /// A warp, the shadow of a space, and the clusters by block.
    fn parts(&mut self, warp: Warp, space: Space) -> (&WarpState, &mut Shadow, &[u32]) {
        let block = self.blocks[warp.block as usize].as_deref().expect("the block is resident");
        let shadow = match space {
            Space::Shared { of_block } => {
                self.shared[of_block as usize].as_deref_mut().expect("the block is resident")
            }
            Space::Device => &mut self.device,
        };
        (&block.warps[warp.warp as usize], shadow, &self.clusters)
    }

    /// A warp with its time moved on, after it has published something.
    fn advance(&mut self, warp: Warp) {
        self.now += 1;
        self.warp_mut(warp).epoch = self.now;
    }
}

/// Whether consecutive lanes access consecutive words of an aligned kilobyte: the first address and
/// how many they are.
#[inline]
fn row(lanes: u32, addresses: &[u64; 32], width: impl Fn(u32) -> u32) -> Option<(u64, usize)> {
    let (first, count) = (lanes.trailing_zeros(), lanes.count_ones());
    let last = first + count - 1;
    let address = addresses[first as usize];
    let consecutive = lanes.leading_zeros() == 31 - last
        && address.is_multiple_of(4)
        && address % 1024 + 4 * u64::from(count) <= 1024
        && (first..=last).all(|lane| {
            width(lane) == 4 && addresses[lane as usize] == address + 4 * u64::from(lane - first)
        });
    consecutive.then_some((address, count as usize))
}

/// What lanes access.
struct Target<'a> {
    warp: Warp,
    mask: u32,
    space: Space,
    addresses: &'a [u64; 32],
}
