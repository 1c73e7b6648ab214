//! Asynchronous work: copies, bulk copies, products.
//!
//! Its accesses carry the stamp of their issue. An agent completes them in the order of their
//! stamps, as far as anyone can tell, so "complete up to a stamp" is one component of a clock.

use super::clock::{PRODUCTS, agent_place, copy_row};
use super::entry::{Agent, Entry, Tag};
use super::shadow::{Past, Step};
use super::view::Message;
use super::{Detector, Kind, Race, Range, Space, Target, Ticket, Warp};

impl Detector {
    /// `cp.async` of these lanes: each reads `read` bytes of device memory from its source, and
    /// writes `width` bytes to its destination in the block's shared memory.
    ///
    /// # Errors
    ///
    /// As [`Self::access`].
    #[expect(clippy::too_many_arguments, reason = "they are what a copy is")]
    pub fn copy(
        &mut self,
        warp: Warp,
        mask: u32,
        destinations: &[u64; 32],
        width: u32,
        sources: &[u64; 32],
        read: &[u32; 32],
        place: u32,
    ) -> Result<Ticket, Box<Race>> {
        let now = |kind, stamp| {
            let (row, tag) = (copy_row(warp.warp), Tag::new(kind, Agent::Copy));
            Entry::new(stamp, place, warp.block, row, tag)
        };
        let stamp = self.issue();
        let from = Target { warp, mask, space: Space::Device, addresses: sources };
        let space = Space::Shared { of_block: warp.block };
        let to = Target { warp, mask, space, addresses: destinations };
        self.touch_lanes(&from, &now(Kind::Read, stamp), |lane| read[lane as usize], Step::Both)?;
        self.touch_lanes(&to, &now(Kind::Write, stamp), |_| width, Step::Both)?;
        Ok(Ticket(stamp))
    }

    /// These lanes have waited for all their copies up to `last`.
    pub fn copy_wait(&mut self, warp: Warp, mask: u32, last: Ticket) {
        self.warp_mut(warp).change(mask, |view| view.copied = view.copied.max(last.0));
    }

    /// A bulk copy issued by a lane that completes at an mbarrier of block `of_block`. The
    /// multicast to several blocks is a copy for each.
    ///
    /// # Errors
    ///
    /// As [`Self::access`].
    #[expect(clippy::too_many_arguments, reason = "they are what a copy is")]
    pub fn bulk_copy(
        &mut self,
        warp: Warp,
        lane: u32,
        reads: &[Range],
        writes: &[Range],
        of_block: u32,
        mbarrier: u64,
        place: u32,
    ) -> Result<Ticket, Box<Race>> {
        let stamp = self.issue();
        let block = self.block_mut(of_block);
        let object = block.mbarriers.entry(mbarrier).or_default();
        let agent = *object.agent.get_or_insert_with(|| {
            block.agents += 1;
            block.agents - 1
        });
        object.in_flight.push(stamp);
        let mut issuer = Message::default();
        issuer.absorb(self.warp(warp), 1 << lane);
        self.mbarrier(of_block, mbarrier).issuers.join(&issuer);
        self.advance(warp);
        let all = [(Kind::Read, agent, reads), (Kind::Write, agent, writes)];
        self.bulk(warp, lane, of_block, stamp, place, all)
    }

    /// A bulk copy that a lane issues will complete at an mbarrier, whose init it must see: behind
    /// a fence, as all that the generic proxy wrote.
    ///
    /// # Errors
    ///
    /// As [`Self::access`].
    pub fn mbarrier_used(
        &mut self,
        warp: Warp,
        lane: u32,
        (of_block, mbarrier): (u32, u64),
        place: u32,
    ) -> Result<(), Box<Race>> {
        let space = Space::Shared { of_block };
        let tag = Tag::new(Kind::Read, Agent::Bulk);
        let now = Entry::new(self.now, place, warp.block, PRODUCTS, tag);
        let (state, shadow, clusters) = self.parts(warp, space);
        let seen = state.groups_in(1 << lane).try_for_each(|(lanes, view)| {
            let past = Past::new(view, warp, lanes, clusters);
            shadow.touch(&past, &now, 1, (mbarrier, 8), Step::Check)
        });
        seen.map_err(|conflict| self.race(space, conflict, &now, 1))
    }

    /// A bulk copy has completed at its mbarrier, whose current phase counts its bytes.
    pub fn bulk_complete(&mut self, of_block: u32, mbarrier: u64, copy: Ticket) {
        self.mbarrier(of_block, mbarrier).in_flight.retain(|stamp| *stamp != copy.0);
    }

    /// A bulk copy or reduction issued by a lane that completes with its bulk groups.
    ///
    /// # Errors
    ///
    /// As [`Self::access`].
    pub fn bulk_store(
        &mut self,
        warp: Warp,
        lane: u32,
        reads: &[Range],
        writes: &[Range],
        place: u32,
    ) -> Result<Ticket, Box<Race>> {
        let stamp = self.issue();
        let [reader, writer] = self.bulk_group(warp, lane);
        let all = [(Kind::Read, reader, reads), (Kind::Write, writer, writes)];
        self.bulk(warp, lane, warp.block, stamp, place, all)
    }

    /// A lane has waited for all its bulk groups up to `last`; with `.read`, for their reads only.
    pub fn bulk_wait(&mut self, warp: Warp, lane: u32, last: Ticket, reads_only: bool) {
        let agents = self.bulk_group(warp, lane);
        let mut done = Message::default();
        for &agent in &agents[..if reads_only { 1 } else { 2 }] {
            let (row, lane) = agent_place(agent);
            done.raise(warp.block, row, 1 << lane, last.0);
        }
        self.warp_mut(warp).change(1 << lane, |view| view.acquire(&done));
    }

    /// A product (`wgmma.mma_async`) that these warps of a block issue together reads shared
    /// memory.
    ///
    /// # Errors
    ///
    /// As [`Self::access`].
    pub fn product(
        &mut self,
        block: u32,
        warps: u32,
        reads: &[Range],
        place: u32,
    ) -> Result<Ticket, Box<Race>> {
        let tag = Tag::new(Kind::Read, Agent::Product);
        let now = Entry::new(self.issue(), place, block, PRODUCTS, tag);
        for range in reads {
            for warp in super::bits(warps) {
                // All threads of all warps must be allowed to; then it is noted once.
                let last = warps >> warp == 1;
                self.product_read(Warp { block, warp }, &now, warps, range, last)?;
            }
        }
        Ok(Ticket(now.stamp))
    }

    /// These lanes of a warp have waited (`wgmma.wait_group`) for all its products up to `last`.
    pub fn product_wait(&mut self, warp: Warp, mask: u32, last: Ticket) {
        let mut done = Message::default();
        done.raise(warp.block, PRODUCTS, 1 << warp.warp, last.0);
        self.warp_mut(warp).change(mask, |view| view.acquire(&done));
    }

    fn product_read(
        &mut self,
        warp: Warp,
        now: &Entry,
        warps: u32,
        range: &Range,
        note: bool,
    ) -> Result<(), Box<Race>> {
        let Range { space, start, bytes } = *range;
        let (state, shadow, clusters) = self.parts(warp, space);
        let groups = state.groups.len();
        for (index, (lanes, view)) in state.groups.iter().enumerate() {
            let past = Past::new(view, warp, *lanes, clusters);
            let step = if note && index + 1 == groups { Step::Both } else { Step::Check };
            if let Err(conflict) = shadow.touch(&past, now, warps, (start, bytes), step) {
                return Err(self.race(space, conflict, now, warps));
            }
        }
        Ok(())
    }

    fn bulk(
        &mut self,
        warp: Warp,
        lane: u32,
        of_block: u32,
        stamp: u32,
        place: u32,
        all: [(Kind, u32, &[Range]); 2],
    ) -> Result<Ticket, Box<Race>> {
        for (kind, agent, ranges) in all {
            let (row, bit) = agent_place(agent);
            let now = Entry::new(stamp, place, of_block, row, Tag::new(kind, Agent::Bulk));
            let agent = 1 << bit;
            for &Range { space, start, bytes } in ranges {
                let (state, shadow, clusters) = self.parts(warp, space);
                let touched = state.groups_in(1 << lane).try_for_each(|(lanes, view)| {
                    let past = Past::new(view, warp, lanes, clusters);
                    shadow.touch(&past, &now, agent, (start, bytes), Step::Both)
                });
                if let Err(conflict) = touched {
                    return Err(self.race(space, conflict, &now, agent));
                }
            }
        }
        Ok(Ticket(stamp))
    }

    /// The agents that read and write for the bulk groups of a thread.
    fn bulk_group(&mut self, warp: Warp, lane: u32) -> [u32; 2] {
        let block = self.block_mut(warp.block);
        let agents = &mut block.agents;
        *block.bulk_groups.entry((warp.warp, lane)).or_insert_with(|| {
            *agents += 2;
            [*agents - 2, *agents - 1]
        })
    }

    fn issue(&mut self) -> u32 {
        self.now += 1;
        self.now
    }
}
