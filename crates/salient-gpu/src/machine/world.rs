//! A launch under way: its blocks, their warps, and what is in flight.

use std::sync::Arc;

use crate::config::Config;
use crate::random::Random;

use super::Launch;
use super::async_copy::Copies;
use super::barrier::Barrier;
use super::bulk::BulkCopy;
use super::counters::Counting;
use super::locate::Recent;
use super::memory::{Memory, Table};
use super::module::Kernel;
use super::registers::Registers;
use super::warpgroup::Products;

/// What is the same for all of a launch.
pub(crate) struct Launched<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) launch: Launch,
    pub(crate) params: &'a [u8],
    pub(crate) memory: &'a Memory,
    pub(crate) table: Arc<Table>,
    pub(crate) config: Config,
    pub(crate) multiprocessors: u32,
}

impl Launched<'_> {
    pub(crate) fn threads(&self) -> u32 {
        self.launch.block.iter().product()
    }

    pub(crate) fn warps(&self) -> u32 {
        self.threads().div_ceil(32)
    }
}

/// The blocks that are resident, and what is in flight between them.
pub(crate) struct World<'a> {
    pub(crate) launched: &'a Launched<'a>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) clusters: Vec<Cluster>,
    /// Tensor copies that have not landed.
    pub(crate) bulk: Vec<BulkCopy>,
    /// Counts whatever a waiting warp may be waiting for.
    pub(crate) events: u64,
    /// Warp-instructions so far.
    pub(crate) steps: u64,
    pub(crate) random: Random,
    /// Whether accesses are told to nobody.
    pub(crate) quiet: bool,
    pub(crate) recent: Recent,
    pub(crate) counting: Option<Box<Counting>>,
    pub(crate) races: Option<Box<super::races::Races>>,
}

/// A cluster of blocks; a block by itself where there are none.
pub(crate) struct Cluster {
    /// Slots of `World::blocks`, by rank.
    pub(crate) blocks: Vec<usize>,
    /// Warps that have arrived at the cluster's barrier, and how often it has opened.
    pub(crate) arrived: u32,
    pub(crate) generation: u64,
}

pub(crate) struct Block {
    pub(crate) index: [u32; 3],
    /// By which this block's threads are told from those of other blocks, from 0.
    pub(crate) number: u32,
    pub(crate) cluster: usize,
    pub(crate) rank: u32,
    pub(crate) warps: Vec<Warp>,
    pub(crate) shared: Vec<u8>,
    /// A flag for every byte of shared memory that was written.
    pub(crate) shared_written: Vec<u8>,
    pub(crate) barriers: [Barrier; 16],
    /// Addresses of initialised mbarriers.
    pub(crate) mbarriers: Vec<u32>,
    /// Registers per thread times warps that nobody has (PTX ISA: setmaxnreg).
    pub(crate) free_registers: u32,
    /// Per thread, one after the other.
    pub(crate) local: Vec<u8>,
    /// Warps that are not done.
    pub(crate) running: u32,
}

pub(crate) struct Warp {
    pub(crate) regs: Registers,
    /// Lanes that have not exited.
    pub(crate) alive: u32,
    /// Lanes that stand together, each group at a place of its own. Empty once all have exited.
    pub(crate) splits: Vec<Split>,
    /// The split that runs.
    pub(crate) current: usize,
    /// Instructions until another split has its turn whatever its place.
    pub(crate) patience: u32,
    /// Whether the current split goes on whatever its place.
    pub(crate) pinned: bool,
    /// Not before this step.
    pub(crate) delayed_until: u64,
    pub(crate) copies: Copies,
    pub(crate) bulk_groups: super::bulk::Groups,
    pub(crate) products: Products,
    /// Registers per thread.
    pub(crate) registers: u32,
    /// The generation of the cluster's barrier that the warp has arrived for, plus 1.
    pub(crate) cluster_token: u64,
}

/// Lanes that stand at one place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Split {
    pub(crate) pc: u32,
    pub(crate) mask: u32,
    pub(crate) state: State,
    /// What an instruction that waits keeps between two tries; 0 at the first.
    pub(crate) token: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    /// Until `World::events` is another number.
    Waiting(u64),
    /// Until other lanes of the warp come to the same place.
    Converging,
}

impl Split {
    /// Whether it has something to do, or to try again.
    pub(crate) fn can_go(&self, events: u64) -> bool {
        match self.state {
            State::Ready => true,
            State::Waiting(seen) => seen != events,
            State::Converging => false,
        }
    }
}

impl Block {
    pub(crate) fn coordinates(&self) -> [u32; 3] {
        self.index
    }
}
