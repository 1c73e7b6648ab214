//! What the race detector is told.

use crate::fault::FaultKind;
use crate::race::{Detector, Kind, Race, Range, Scope, Space, Ticket, Warp};

use super::collective::groups;
use super::inst::Stop;
use super::observe::{Access, AccessKind, Fence, Ordering};
use super::registers::{Longs, Words};
use super::run::source;
use super::space::{Where, shared_place};
use super::turn::Turn;
use super::world::{Block, Launched, World};

/// The detector of a launch.
pub(crate) struct Races {
    detector: Detector,
    cluster: [u32; 3],
    grid: [u32; 3],
    threads: u32,
}

impl Races {
    pub(crate) fn new(launched: &Launched<'_>) -> Self {
        let launch = &launched.launch;
        Self {
            detector: Detector::new(),
            cluster: launch.cluster.map(|n| n.max(1)),
            grid: launch.grid,
            threads: launched.threads(),
        }
    }

    pub(crate) fn begin_block(&mut self, block: &Block) {
        let [x, y, z]: [u32; 3] = std::array::from_fn(|i| block.index[i] / self.cluster[i]);
        let counts: [u32; 3] = std::array::from_fn(|i| self.grid[i].div_ceil(self.cluster[i]));
        let cluster = (z * counts[1] + y) * counts[0] + x;
        self.detector.begin_block(block.number, cluster, self.threads);
    }

    /// An access by others that the block has ended before, if there is one.
    pub(crate) fn too_early(&self, block: &Block) -> Option<Box<Race>> {
        let alone = self.cluster == [1; 3];
        if alone { None } else { self.detector.may_end(block.number).err() }
    }

    pub(crate) fn end_block(&mut self, block: &Block) {
        self.detector.end_block(block.number);
    }
}

impl Ordering {
    fn kind(self, kind: AccessKind) -> Kind {
        let Self { scope, acquire, release } = self;
        match kind {
            AccessKind::Read => Kind::Read,
            AccessKind::Write => Kind::Write,
            AccessKind::WriteEqual => Kind::WriteEqual,
            AccessKind::StrongRead => Kind::StrongRead { scope, acquire },
            AccessKind::StrongWrite => Kind::StrongWrite { scope, release },
            AccessKind::Atomic => Kind::Update { scope, acquire, release },
        }
    }
}

impl World<'_> {
    /// The end of a block that others may still access.
    pub(crate) fn early_end(&self, race: &Race) -> Stop {
        let place = &self.launched.kernel.places[race.first.place as usize];
        let message = format!(
            "a race of the block's end with an access by another block of its cluster, {} at PTX line {}, to \
             {:#x} of its shared memory",
            place.opcode, place.ptx_line, race.address
        );
        Stop { kind: FaultKind::Race, message, lanes: 0 }
    }

    /// A race, with where both sides of it are written.
    #[cold]
    fn race(&self, race: &Race) -> Stop {
        let at = |place: u32| {
            let place = &self.launched.kernel.places[place as usize];
            match source(self, place.source) {
                Some((file, line)) => format!("{} at {file}:{line}", place.opcode),
                None => format!("{} at PTX line {}", place.opcode, place.ptx_line),
            }
        };
        let (first, second) = (at(race.first.place), at(race.second.place));
        Stop {
            kind: FaultKind::Race,
            message: format!("{race}; the first is {first}, the second {second}"),
            lanes: 0,
        }
    }
}

impl Turn<'_, '_> {
    fn racing(&mut self) -> Option<(&mut Detector, Warp)> {
        let block = self.world.blocks[self.block].number;
        let warp = Warp { block, warp: self.warp as u32 };
        self.world.races.as_mut().map(|races| (&mut races.detector, warp))
    }

    fn number_of(&self, slot: usize) -> u32 {
        self.world.blocks[slot].number
    }

    pub(crate) fn race_access(
        &mut self,
        space: Where,
        addresses: &Longs,
        lanes: u32,
        access: Access,
    ) -> Result<(), Stop> {
        let mut offsets = *addresses;
        let mut left = lanes;
        // Lanes may be in the memory of several blocks.
        while left != 0 {
            let (mut these, mut in_space) = (left, Space::Device);
            match space {
                Where::Shared => {
                    let mut owner = None;
                    these = 0;
                    for lane in (0..32).filter(|lane| left >> lane & 1 != 0) {
                        let bytes = access.bytes.into();
                        let found = shared_place(self, addresses[lane], bytes, lane as u32)?;
                        if *owner.get_or_insert(found.0) == found.0 {
                            these |= 1 << lane;
                            offsets[lane] = found.1.into();
                        }
                    }
                    let of_block = self.number_of(owner.expect("a lane"));
                    in_space = Space::Shared { of_block };
                }
                Where::Global => {}
                Where::Local | Where::Param | Where::Generic => return Ok(()),
            }
            let kind = access.order.kind(access.kind);
            let Some((detector, warp)) = self.racing() else { return Ok(()) };
            let found =
                detector.access(warp, these, kind, in_space, &offsets, access.bytes, access.place);
            found.map_err(|race| self.world.race(&race))?;
            left &= !these;
        }
        Ok(())
    }

    pub(crate) fn observe_fence(&mut self, fence: Fence, lanes: u32) {
        let Some((detector, warp)) = self.racing() else { return };
        match fence {
            Fence::Block => detector.fence(warp, lanes, Scope::Block),
            Fence::Cluster => detector.fence(warp, lanes, Scope::Cluster),
            Fence::MbarrierInit => {
                detector.fence(warp, lanes, Scope::Cluster);
                detector.proxy_fence(warp, lanes);
            }
            Fence::Device => detector.fence(warp, lanes, Scope::Device),
            Fence::ProxyAsync { shared: false, .. } => {}
            Fence::ProxyAsync { .. } => detector.proxy_fence(warp, lanes),
        }
    }

    /// `bar.warp.sync` of lanes that are together by their masks.
    pub(crate) fn observe_warp_syncs(&mut self, members: &Words, lanes: u32) {
        if let Some((detector, warp)) = self.racing() {
            for (_, group) in groups(members, lanes) {
                detector.warp_sync(warp, group);
            }
        }
    }

    pub(crate) fn observe_barrier_arrive(&mut self, id: u32, lanes: u32) {
        if let Some((detector, warp)) = self.racing() {
            detector.barrier_arrive(warp, lanes, id);
        }
    }

    /// The participants: warp, lanes, and whether it waits.
    pub(crate) fn observe_barrier(&mut self, id: u32, participants: &[(u32, u32, bool)]) {
        let Some((detector, warp)) = self.racing() else { return };
        let waiting: Vec<(u32, u32)> = participants
            .iter()
            .filter(|participant| participant.2)
            .map(|&(warp, lanes, _)| (warp, lanes))
            .collect();
        detector.barrier_complete(warp.block, id, &waiting);
    }

    pub(crate) fn observe_cluster_arrive(&mut self, lanes: u32, releases: bool) {
        if let Some((detector, warp)) = self.racing() {
            detector.cluster_arrive(warp, lanes, releases);
        }
    }

    pub(crate) fn observe_cluster_complete(&mut self, cluster: usize) {
        let first = self.world.clusters[cluster].blocks[0];
        let index = self.world.blocks[first].index;
        let Some(races) = &mut self.world.races else { return };
        let [x, y, z]: [u32; 3] = std::array::from_fn(|i| index[i] / races.cluster[i]);
        let counts: [u32; 3] = std::array::from_fn(|i| races.grid[i].div_ceil(races.cluster[i]));
        races.detector.cluster_complete((z * counts[1] + y) * counts[0] + x);
    }

    pub(crate) fn observe_cluster_wait(&mut self, lanes: u32) {
        if let Some((detector, warp)) = self.racing() {
            detector.cluster_wait(warp, lanes);
        }
    }

    pub(crate) fn observe_mbarrier_reset(&mut self, (slot, offset): (usize, u32)) {
        let of_block = self.number_of(slot);
        if let Some((detector, _)) = self.racing() {
            detector.mbarrier_reset(of_block, offset.into());
        }
    }

    /// An init is a write, too.
    pub(crate) fn observe_mbarrier_init(
        &mut self,
        (slot, offset): (usize, u32),
        lane: u32,
        place: u32,
    ) -> Result<(), Stop> {
        self.observe_mbarrier_reset((slot, offset));
        let space = Space::Shared { of_block: self.number_of(slot) };
        let Some((detector, warp)) = self.racing() else { return Ok(()) };
        let offsets = [offset.into(); 32];
        let written = detector.access(warp, 1 << lane, Kind::Write, space, &offsets, 8, place);
        written.map_err(|race| self.world.race(&race))
    }

    pub(crate) fn observe_mbarrier_arrive(&mut self, (slot, offset): (usize, u32), lanes: u32) {
        let of_block = self.number_of(slot);
        if let Some((detector, warp)) = self.racing() {
            detector.mbarrier_arrive(warp, lanes, of_block, offset.into());
        }
    }

    pub(crate) fn observe_mbarrier_complete(&mut self, (slot, offset): (usize, u32)) {
        let of_block = self.number_of(slot);
        if let Some((detector, _)) = self.racing() {
            detector.mbarrier_complete(of_block, offset.into());
        }
    }

    pub(crate) fn observe_mbarrier_wait(&mut self, (slot, offset): (usize, u32), lanes: u32) {
        let of_block = self.number_of(slot);
        if let Some((detector, warp)) = self.racing() {
            detector.mbarrier_wait(warp, lanes, of_block, offset.into());
        }
    }

    /// cp.async from device memory to the block's own shared memory.
    pub(crate) fn observe_copy(
        &mut self,
        to: &Longs,
        (from, read): (&Longs, &[u32; 32]),
        lanes: u32,
        bytes: u32,
        place: u32,
    ) -> Result<Option<Ticket>, Stop> {
        let Some((detector, warp)) = self.racing() else { return Ok(None) };
        let copied = detector.copy(warp, lanes, to, bytes, from, read, place);
        copied.map(Some).map_err(|race| self.world.race(&race))
    }

    pub(crate) fn observe_copy_wait(&mut self, lanes: u32, last: Ticket) {
        if let Some((detector, warp)) = self.racing() {
            detector.copy_wait(warp, lanes, last);
        }
    }

    /// A bulk copy to shared memory of one block: slot, first byte and bytes of what it writes.
    pub(crate) fn observe_bulk_load(
        &mut self,
        (writes, reads): (&[(usize, u32, u32)], &[Range]),
        (slot, offset): (usize, u32),
        lane: u32,
        place: u32,
    ) -> Result<Option<Ticket>, Stop> {
        let writes: Vec<Range> = writes.iter().map(|range| self.shared_range(range)).collect();
        let of_block = self.number_of(slot);
        let Some((detector, warp)) = self.racing() else { return Ok(None) };
        let used = detector.mbarrier_used(warp, lane, (of_block, offset.into()), place);
        used.map_err(|race| self.world.race(&race))?;
        let Some((detector, warp)) = self.racing() else { return Ok(None) };
        let copied = detector.bulk_copy(warp, lane, reads, &writes, of_block, offset.into(), place);
        copied.map(Some).map_err(|race| self.world.race(&race))
    }

    fn shared_range(&self, &(slot, start, bytes): &(usize, u32, u32)) -> Range {
        let space = Space::Shared { of_block: self.number_of(slot) };
        Range { space, start: start.into(), bytes: bytes.into() }
    }

    pub(crate) fn observe_bulk_store(
        &mut self,
        (reads, writes): (&[(usize, u32, u32)], &[Range]),
        lane: u32,
        place: u32,
    ) -> Result<Option<Ticket>, Stop> {
        let reads: Vec<Range> = reads.iter().map(|range| self.shared_range(range)).collect();
        let Some((detector, warp)) = self.racing() else { return Ok(None) };
        let copied = detector.bulk_store(warp, lane, &reads, writes, place);
        copied.map(Some).map_err(|race| self.world.race(&race))
    }

    pub(crate) fn observe_bulk_complete(
        &mut self,
        (slot, offset): (usize, u32),
        ticket: Option<Ticket>,
    ) {
        let of_block = self.number_of(slot);
        if let (Some((detector, _)), Some(ticket)) = (self.racing(), ticket) {
            detector.bulk_complete(of_block, offset.into(), ticket);
        }
    }

    pub(crate) fn observe_bulk_wait(&mut self, lane: u32, last: Ticket, reads_only: bool) {
        if let Some((detector, warp)) = self.racing() {
            detector.bulk_wait(warp, lane, last, reads_only);
        }
    }

    /// A warp's share of a product.
    pub(crate) fn observe_product(
        &mut self,
        ranges: &[std::ops::Range<u32>],
        place: u32,
    ) -> Result<Option<Ticket>, Stop> {
        let of_block = self.number_of(self.block);
        let space = Space::Shared { of_block };
        let reads: Vec<Range> = ranges
            .iter()
            .map(|range| Range {
                space,
                start: range.start.into(),
                bytes: u64::from(range.end - range.start),
            })
            .collect();
        let Some((detector, warp)) = self.racing() else { return Ok(None) };
        let found = detector.product(warp.block, 1 << warp.warp, &reads, place);
        found.map(Some).map_err(|race| self.world.race(&race))
    }

    pub(crate) fn observe_product_wait(&mut self, lanes: u32, last: Ticket) {
        if let Some((detector, warp)) = self.racing() {
            detector.product_wait(warp, lanes, last);
        }
    }
}
