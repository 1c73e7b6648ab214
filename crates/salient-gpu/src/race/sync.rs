//! Synchronisation of threads with threads.

use super::clock::agent_place;
use super::view::{Joint, Mark, Message, View, WarpState, by_value};
use super::{Detector, Kind, Scope, Target, Warp};

/// The barrier of a cluster.
#[derive(Default)]
pub(super) struct ClusterBarrier {
    arriving: Joint,
    done: Joint,
}

/// An mbarrier.
#[derive(Default)]
pub(super) struct Object {
    /// The agent whose copies complete here.
    pub(super) agent: Option<u32>,
    /// The stamps of the copies that do and have not yet.
    pub(super) in_flight: Vec<u32>,
    /// What the issuers of these copies knew.
    pub(super) issuers: Message,
    arriving: Message,
    done: Message,
}

/// For whom something is published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Instance {
    Block(u32),
    Cluster(u32),
    Device,
}

impl Detector {
    /// `bar.warp.sync` among these lanes, all of which have arrived.
    pub fn warp_sync(&mut self, warp: Warp, mask: u32) {
        let state = self.warp_mut(warp);
        let mut joint = Joint::default();
        joint.absorb(state, mask);
        state.assign(mask, joint.view());
        self.advance(warp);
    }

    /// These lanes arrive at a barrier of their block, with `barrier.arrive`, `sync` or `red`.
    pub fn barrier_arrive(&mut self, warp: Warp, mask: u32, id: u32) {
        let block = self.block_mut(warp.block);
        let state = &block.warps[warp.warp as usize];
        block.barriers[id as usize].absorb(state, mask);
        self.advance(warp);
    }

    /// The barrier has as many arrivals as it expects. `waiting` are the warps and their lanes that
    /// wait there, all but those of `barrier.arrive`.
    pub fn barrier_complete(&mut self, block: u32, id: u32, waiting: &[(u32, u32)]) {
        self.now += 2;
        let now = self.now;
        let state = self.block_mut(block);
        let mut joint = std::mem::take(&mut state.barriers[id as usize]);
        let whole = state.warps.iter().all(|w| {
            let masks = waiting.iter().filter(|(warp, _)| *warp == w.warp);
            masks.fold(0, |all, (_, mask)| all | mask) & w.lanes == w.lanes
        });
        if whole {
            // Nobody has gone on since, so what all did until now is known.
            joint.message.raise_threads(block, now - 1);
        }
        let view = joint.view();
        for &(warp, mask) in waiting {
            let warp = &mut state.warps[warp as usize];
            warp.assign(mask, view.clone());
            if whole {
                warp.epoch = now;
            }
        }
    }

    /// These lanes execute `barrier.cluster.arrive`; `release`: not `.relaxed`.
    pub fn cluster_arrive(&mut self, warp: Warp, mask: u32, release: bool) {
        if release {
            let cluster = self.clusters[warp.block as usize];
            let block = self.blocks[warp.block as usize].as_deref().expect("the block is resident");
            let barrier = self.cluster_barriers.entry(cluster).or_default();
            barrier.arriving.absorb(&block.warps[warp.warp as usize], mask);
            self.advance(warp);
        }
    }

    /// All threads of the cluster have arrived at its barrier.
    pub fn cluster_complete(&mut self, cluster: u32) {
        let barrier = self.cluster_barriers.entry(cluster).or_default();
        barrier.done = std::mem::take(&mut barrier.arriving);
    }

    /// These lanes get past `barrier.cluster.wait.acquire`.
    pub fn cluster_wait(&mut self, warp: Warp, mask: u32) {
        let cluster = self.clusters[warp.block as usize];
        let barrier = self.cluster_barriers.remove(&cluster).unwrap_or_default();
        self.warp_mut(warp).change(mask, |view| view.acquire_joint(&barrier.done));
        self.cluster_barriers.insert(cluster, barrier);
    }

    /// These lanes arrive at an mbarrier of block `of_block`, with release semantics. A relaxed
    /// arrival is none for the detector.
    pub fn mbarrier_arrive(&mut self, warp: Warp, mask: u32, of_block: u32, address: u64) {
        let mut message = Message::default();
        message.absorb(self.warp(warp), mask);
        self.mbarrier(of_block, address).arriving.join(&message);
        self.advance(warp);
    }

    /// The current phase of an mbarrier completes. The copies that are part of it have been
    /// reported complete.
    pub fn mbarrier_complete(&mut self, of_block: u32, address: u64) {
        let now = self.now;
        let object = self.mbarrier(of_block, address);
        if let Some(agent) = object.agent {
            let (row, lane) = agent_place(agent);
            let complete = object.in_flight.iter().min().map_or(now, |first| first - 1);
            object.arriving.join(&object.issuers);
            object.arriving.raise(of_block, row, 1 << lane, complete);
        }
        object.done = std::mem::take(&mut object.arriving);
    }

    /// These lanes have seen, with acquire semantics, that the last phase of an mbarrier is
    /// complete.
    pub fn mbarrier_wait(&mut self, warp: Warp, mask: u32, of_block: u32, address: u64) {
        let done = self.mbarrier(of_block, address).done.clone();
        self.warp_mut(warp).change(mask, |view| view.acquire(&done));
    }

    /// An mbarrier is initialised or invalidated, which ends its phases.
    pub fn mbarrier_reset(&mut self, of_block: u32, address: u64) {
        let object = self.mbarrier(of_block, address);
        *object = Object { agent: object.agent, ..Object::default() };
    }

    /// `fence.acq_rel`, `fence.sc` or `membar` of these lanes.
    pub fn fence(&mut self, warp: Warp, mask: u32, scope: Scope) {
        let state = self.warp_mut(warp);
        let own = state.epoch;
        state.change(mask, |view| {
            for level in 0..=scope as usize {
                if let Some(message) = view.pending[level].take() {
                    view.acquire(&message);
                }
            }
            let mark = Mark { clock: view.known.clone(), own, copied: view.copied };
            view.fenced[..=scope as usize].fill(Some(mark));
        });
        self.advance(warp);
    }

    /// `fence.proxy.async` of these lanes.
    pub fn proxy_fence(&mut self, warp: Warp, mask: u32) {
        let state = self.warp_mut(warp);
        let own = state.epoch;
        state.change(mask, |view| {
            view.proxied = Some(Mark { clock: view.known.clone(), own, copied: view.copied });
        });
        self.advance(warp);
    }

    pub(super) fn mbarrier(&mut self, of_block: u32, address: u64) -> &mut Object {
        self.block_mut(of_block).mbarriers.entry(address).or_default()
    }

    /// What strong accesses acquire and publish, address by address.
    pub(super) fn exchange(&mut self, target: &Target, kind: Kind) {
        let (reads, writes, scope) = match kind {
            Kind::StrongRead { scope, acquire } => (Some(acquire), None, scope),
            Kind::StrongWrite { scope, release } => (None, Some(release), scope),
            Kind::Update { scope, acquire, release } => (Some(acquire), Some(release), scope),
            Kind::Read | Kind::Write | Kind::WriteEqual => return,
        };
        let Target { warp, mask, space, addresses } = *target;
        let fences = |(_, view): (u32, &View)| view.fenced.iter().any(Option::is_some);
        let publishes = writes == Some(true) || self.warp(warp).groups_in(mask).any(fences);
        if self.published.is_empty() && !publishes {
            return;
        }
        let instances = [
            Instance::Block(warp.block),
            Instance::Cluster(self.clusters[warp.block as usize]),
            Instance::Device,
        ];
        let instances = &instances[..=scope as usize];
        for (lanes, address) in by_value(mask, addresses) {
            let key = (space, address);
            if let Some(acquire) = reads
                && let Some(published) = self.published.remove(&key)
            {
                let state = self.warp_mut(warp);
                for (level, instance) in instances.iter().enumerate() {
                    for (_, message) in published.iter().filter(|(i, _)| i == instance) {
                        state.change(lanes, |view| match acquire {
                            true => view.acquire(message),
                            false => view.pending[level].get_or_insert_default().join(message),
                        });
                    }
                }
                self.published.insert(key, published);
            }
            if let Some(release) = writes {
                let state = self.warp(warp);
                let messages: Vec<_> = instances
                    .iter()
                    .enumerate()
                    .filter_map(|(level, &instance)| {
                        Some((instance, message(state, lanes, level, release)?))
                    })
                    .collect();
                if reads.is_none() {
                    self.published.remove(&key);
                }
                if !messages.is_empty() {
                    let published = self.published.entry(key).or_default();
                    for (instance, message) in messages {
                        match published.iter_mut().find(|(i, _)| *i == instance) {
                            Some((_, there)) => there.join(&message),
                            None => published.push((instance, message)),
                        }
                    }
                }
            }
        }
        if writes == Some(true) {
            self.advance(warp);
        }
    }
}

/// What a strong write of these lanes publishes at a level of scope.
fn message(state: &WarpState, lanes: u32, level: usize, release: bool) -> Option<Message> {
    let mut message = Message::default();
    if release {
        message.absorb(state, lanes);
        return Some(message);
    }
    let mut known = None;
    for (lanes, view) in state.groups_in(lanes) {
        if let Some(mark) = &view.fenced[level] {
            mark.add_to(&mut known, state, lanes);
            if let Some(mark) = &view.proxied {
                mark.add_to(&mut message.proxied, state, lanes);
            }
        }
    }
    message.known = known?;
    Some(message)
}
