//! Random launches against the reference.

use super::reference::*;
use crate::race::{Detector, Kind, Range, Scope, Space, Ticket, Warp};
use std::collections::HashMap;

const LAUNCHES: u64 = 5000;
const BLOCKS: u32 = 3;
const THREADS: u32 = 32 + LANES;
const MBARRIERS: [(u32, u64); 3] = [(0, 1024), (0, 1032), (1, 1024)];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % u64::from(bound)) as u32
    }

    fn flag(&mut self) -> bool {
        self.below(2) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u32) as usize]
    }
}

/// A launch told to both.
struct Pair {
    detector: Detector,
    reference: Reference,
    random: Random,
    /// For this many steps more, accesses that race are left out. The launch ends with the first one.
    careful: u32,
    /// How often each kind of step is taken.
    weights: [u32; 8],
    blocks: u32,
    /// Where most accesses go, and in how many bytes.
    focus: Space,
    bytes: u32,
    log: Vec<String>,
    copies: HashMap<Warp, Vec<Ticket>>,
    products: HashMap<u32, Vec<Ticket>>,
    stores: HashMap<(Warp, u32), Vec<Ticket>>,
}

impl Pair {
    fn new(seed: u64, length: u32) -> Self {
        let mut detector = Detector::new();
        for block in 0..BLOCKS {
            detector.begin_block(block, cluster(block), THREADS);
        }
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1);
        let weights = std::array::from_fn(|_| random.pick(&[0, 1, 1, 2, 5]));
        let focus = random.pick(&[Space::Device, Space::Shared { of_block: 0 }]);
        Self {
            careful: random.below(length),
            weights,
            blocks: 1 + random.below(BLOCKS),
            focus,
            bytes: random.pick(&[4, 8, 16]),
            detector,
            reference: Reference::default(),
            random,
            log: Vec::new(),
            copies: HashMap::new(),
            products: HashMap::new(),
            stores: HashMap::new(),
        }
    }

    fn warp(&mut self) -> Warp {
        Warp { block: self.random.below(self.blocks), warp: self.random.below(WARPS) }
    }

    fn mask(&mut self) -> u32 {
        self.random.pick(&[1, 1, 2, 3, 4, 5, 7, 7])
    }

    /// All lanes, or some.
    fn wide_mask(&mut self, warp: Warp) -> u32 {
        match self.random.below(3) {
            0 => self.mask(),
            _ if warp.warp == 0 => u32::MAX,
            _ => 7,
        }
    }

    fn space(&mut self) -> Space {
        let others = [Space::Device, Space::Shared { of_block: 0 }, Space::Shared { of_block: 1 }];
        if self.random.below(4) > 0 { self.focus } else { self.random.pick(&others) }
    }

    fn addresses(&mut self, width: u32) -> [u64; 32] {
        if self.random.below(4) == 0 {
            return std::array::from_fn(|lane| u64::from(width) * lane as u64);
        }
        let slots = self.bytes.max(width) / width;
        let one = self.random.below(3) == 0;
        let first = self.random.below(slots);
        std::array::from_fn(|_| {
            let slot = if one { first } else { self.random.below(slots) };
            u64::from(width * slot)
        })
    }

    fn scope(&mut self) -> Scope {
        self.random.pick(&[Scope::Block, Scope::Cluster, Scope::Device, Scope::Device])
    }

    /// Whether to go on after an access of which the reference says whether it races.
    fn agree<T>(&self, races: bool, found: Result<T, Box<crate::race::Race>>) -> Option<T> {
        assert_eq!(races, found.is_err(), "{:?} after\n{}", found.err(), self.log.join("\n"));
        found.ok()
    }

    /// One step; false after a race.
    fn step(&mut self) -> bool {
        self.careful = self.careful.saturating_sub(1);
        let warp = self.warp();
        let mut draw = self.random.below(4 + self.weights.iter().sum::<u32>());
        let drawn = self.weights.iter().position(|&weight| match draw.checked_sub(weight) {
            Some(left) => {
                draw = left;
                false
            }
            None => true,
        });
        match drawn {
            Some(0) => self.fence(warp),
            Some(1) => self.mbarrier(warp),
            Some(2) => self.synchronise(warp),
            Some(3) => return self.copy(warp),
            Some(4) => return self.bulk_copy(warp),
            Some(5) => return self.product(warp),
            Some(6) => return self.bulk_store(warp),
            Some(7) => self.wait(warp),
            _ => return self.access(warp),
        }
        true
    }

    fn access(&mut self, warp: Warp) -> bool {
        let (scope, acquire, release) = (self.scope(), self.random.flag(), self.random.flag());
        let kind = self.random.pick(&[
            Kind::Read,
            Kind::Read,
            Kind::Write,
            Kind::Write,
            Kind::WriteEqual,
            Kind::StrongRead { scope, acquire },
            Kind::StrongWrite { scope, release },
            Kind::Update { scope, acquire, release },
        ]);
        let width = self.random.pick(&[1, 2, 4, 4, 4, 8]);
        let (mask, space) = (self.mask(), self.space());
        let addresses = self.addresses(width);
        let target = Target { warp, mask, space, addresses: &addresses, width: u64::from(width) };
        let races = self.reference.access(&target, kind);
        if races && self.careful > 0 {
            return true;
        }
        let shown = &addresses[..LANES as usize];
        self.log.push(format!("{warp:?} {mask:#x} {kind:?} {space:?} {shown:?} {width}"));
        let found = self.detector.access(warp, mask, kind, space, &addresses, width, 0);
        self.agree(races, found).is_some()
    }

    fn synchronise(&mut self, warp: Warp) {
        let mask = self.wide_mask(warp);
        let id = self.random.below(2);
        match self.random.below(8) {
            0..3 => {
                self.log.push(format!("{warp:?} {mask:#x} warp_sync"));
                let mut joint = Thread::default();
                self.reference.join(warp, mask, &mut joint);
                self.reference.assign(warp, mask, &joint);
                self.detector.warp_sync(warp, mask);
            }
            3 => {
                self.log.push(format!("{warp:?} {mask:#x} arrive at {id}"));
                self.arrive(warp, mask, id);
            }
            4 | 5 => {
                let all = self.random.flag();
                let waiting: Vec<(u32, u32)> = match all {
                    true => vec![(0, u32::MAX), (1, 7)],
                    false => vec![(warp.warp, mask)],
                };
                self.log.push(format!("{} {waiting:?} sync at {id}", warp.block));
                for &(w, mask) in &waiting {
                    self.arrive(Warp { warp: w, ..warp }, mask, id);
                }
                let joint = self.reference.barriers.remove(&(warp.block, id)).unwrap_or_default();
                for &(w, mask) in &waiting {
                    self.reference.assign(Warp { warp: w, ..warp }, mask, &joint);
                }
                self.detector.barrier_complete(warp.block, id, &waiting);
            }
            6 => {
                self.log.push(format!("{warp:?} {mask:#x} cluster arrive"));
                let mut joint = Thread::default();
                self.reference.join(warp, mask, &mut joint);
                self.reference.clusters[cluster(warp.block) as usize].0.add(&joint);
                self.detector.cluster_arrive(warp, mask, true);
            }
            _ => {
                let barrier = &mut self.reference.clusters[cluster(warp.block) as usize];
                if id == 0 {
                    self.log.push(format!("cluster {} complete", cluster(warp.block)));
                    barrier.1 = std::mem::take(&mut barrier.0);
                    self.detector.cluster_complete(cluster(warp.block));
                }
                self.log.push(format!("{warp:?} {mask:#x} cluster wait"));
                let joint = self.reference.clusters[cluster(warp.block) as usize].1.clone();
                self.reference.assign(warp, mask, &joint);
                self.detector.cluster_wait(warp, mask);
            }
        }
    }

    fn arrive(&mut self, warp: Warp, mask: u32, id: u32) {
        let mut joint = Thread::default();
        self.reference.join(warp, mask, &mut joint);
        self.reference.barriers.entry((warp.block, id)).or_default().add(&joint);
        self.detector.barrier_arrive(warp, mask, id);
    }

    fn fence(&mut self, warp: Warp) {
        let mask = self.wide_mask(warp);
        if self.random.flag() {
            self.log.push(format!("{warp:?} {mask:#x} proxy fence"));
            for lane in lanes(mask) {
                let facts = &mut self.reference.thread(warp, lane).facts;
                facts.proxied = facts.known.clone();
            }
            self.detector.proxy_fence(warp, mask);
            return;
        }
        let scope = self.scope();
        self.log.push(format!("{warp:?} {mask:#x} fence {scope:?}"));
        for lane in lanes(mask) {
            let thread = self.reference.thread(warp, lane);
            for level in 0..=scope as usize {
                let pending = std::mem::take(&mut thread.pending[level]);
                thread.facts.add(&pending);
            }
            for level in 0..=scope as usize {
                thread.fenced[level] = Some(thread.facts.known.clone());
            }
        }
        self.detector.fence(warp, mask, scope);
    }

    fn mbarrier(&mut self, warp: Warp) {
        let at = self.random.pick(&MBARRIERS);
        let mask = self.wide_mask(warp);
        let mut joint = Thread::default();
        self.reference.join(warp, mask, &mut joint);
        let mbarrier = self.reference.mbarriers.entry(at).or_default();
        let (block, address) = at;
        match self.random.below(5) {
            0 | 1 => {
                self.log.push(format!("{warp:?} {mask:#x} arrive at {at:?}"));
                mbarrier.arriving.add(&joint.facts);
                self.detector.mbarrier_arrive(warp, mask, block, address);
            }
            2 => {
                self.log.push(format!("{at:?} complete"));
                if !mbarrier.copies.is_empty() {
                    mbarrier.arriving.add(&mbarrier.issuers);
                }
                let over = mbarrier.copies.iter().take_while(|copy| copy.1);
                for index in over.flat_map(|copy| &copy.2) {
                    mbarrier.arriving.known.insert(*index);
                }
                mbarrier.done = std::mem::take(&mut mbarrier.arriving);
                self.detector.mbarrier_complete(block, address);
            }
            3 => {
                let in_flight = mbarrier.copies.iter_mut().filter(|copy| !copy.1);
                let in_flight: Vec<_> = in_flight.collect();
                if !in_flight.is_empty() {
                    let which = self.random.below(in_flight.len() as u32) as usize;
                    let copy = in_flight.into_iter().nth(which).expect("there are more");
                    self.log.push(format!("{:?} complete at {at:?}", copy.0));
                    copy.1 = true;
                    self.detector.bulk_complete(block, address, copy.0);
                }
            }
            _ => {
                self.log.push(format!("{warp:?} {mask:#x} wait at {at:?}"));
                let done = Thread { facts: mbarrier.done.clone(), ..Thread::default() };
                self.reference.assign(warp, mask, &done);
                self.detector.mbarrier_wait(warp, mask, block, address);
            }
        }
    }

    fn copy(&mut self, warp: Warp) -> bool {
        let mask = self.mask();
        let from = self.addresses(4);
        let first = self.random.below(4);
        let to = std::array::from_fn(|lane| 4 * u64::from((first + lane as u32) % 4));
        let here = Space::Shared { of_block: warp.block };
        let mut new = Vec::new();
        let mut races = false;
        for lane in lanes(mask) {
            for (space, start, writes) in
                [(Space::Device, from[lane as usize], false), (here, to[lane as usize], true)]
            {
                let access = asynchronous(warp.block, space, start, 4, writes, false);
                races |= self.reference.races(warp, lane, &access);
                new.push((lane, access));
            }
        }
        if races && self.careful > 0 {
            return true;
        }
        self.log.push(format!("{warp:?} {mask:#x} copy {:?} {:?}", &from[..3], &to[..3]));
        let found = self.detector.copy(warp, mask, &to, 4, &from, &[4; 32], 0);
        let Some(ticket) = self.agree(races, found) else { return false };
        for (lane, access) in new {
            let index = self.reference.push(access);
            self.reference.thread(warp, lane).issued[0].push((ticket, index));
        }
        self.copies.entry(warp).or_default().push(ticket);
        true
    }

    /// Reads and writes of bulk copies.
    fn ranges(&mut self, block: u32, spaces: [Space; 2]) -> Vec<(Range, Access)> {
        let ranges = spaces.map(|space| {
            let start = 4 * u64::from(self.random.below(self.bytes / 4));
            Range { space, start, bytes: self.random.pick(&[4, 8]) }
        });
        let writes = [false, true];
        let accesses = ranges
            .into_iter()
            .zip(writes)
            .map(|(r, writes)| (r, asynchronous(block, r.space, r.start, r.bytes, writes, true)));
        accesses.collect()
    }

    fn bulk_copy(&mut self, warp: Warp) -> bool {
        let at = self.random.pick(&MBARRIERS);
        let lane = self.random.below(LANES);
        let space = Space::Shared { of_block: at.0 };
        let new = self.ranges(warp.block, [Space::Device, space]);
        let races = new.iter().any(|(_, access)| self.reference.races(warp, lane, access));
        if races && self.careful > 0 {
            return true;
        }
        let (reads, writes) = ([new[0].0], [new[1].0]);
        self.log.push(format!("{warp:?} {lane} bulk copy {reads:?} {writes:?} {at:?}"));
        let found = self.detector.bulk_copy(warp, lane, &reads, &writes, at.0, at.1, 0);
        let Some(ticket) = self.agree(races, found) else { return false };
        let indices = new.into_iter().map(|(_, access)| self.reference.push(access)).collect();
        let facts = self.reference.thread(warp, lane).facts.clone();
        let mbarrier = self.reference.mbarriers.entry(at).or_default();
        mbarrier.issuers.add(&facts);
        mbarrier.copies.push((ticket, false, indices));
        true
    }

    fn bulk_store(&mut self, warp: Warp) -> bool {
        let lane = self.random.below(LANES);
        let space = Space::Shared { of_block: warp.block };
        let new = self.ranges(warp.block, [space, Space::Device]);
        let races = new.iter().any(|(_, access)| self.reference.races(warp, lane, access));
        if races && self.careful > 0 {
            return true;
        }
        let (reads, writes) = ([new[0].0], [new[1].0]);
        self.log.push(format!("{warp:?} {lane} bulk store {reads:?} {writes:?}"));
        let found = self.detector.bulk_store(warp, lane, &reads, &writes, 0);
        let Some(ticket) = self.agree(races, found) else { return false };
        for (list, (_, access)) in [1, 2].into_iter().zip(new) {
            let index = self.reference.push(access);
            self.reference.thread(warp, lane).issued[list].push((ticket, index));
        }
        self.stores.entry((warp, lane)).or_default().push(ticket);
        true
    }

    fn product(&mut self, warp: Warp) -> bool {
        let space = Space::Shared { of_block: warp.block };
        let (range, access) = self.ranges(warp.block, [space, space]).remove(0);
        let both = (0..32).map(|lane| (0, lane)).chain((0..LANES).map(|lane| (1, lane)));
        let races = both
            .into_iter()
            .any(|(w, lane)| self.reference.races(Warp { warp: w, ..warp }, lane, &access));
        if races && self.careful > 0 {
            return true;
        }
        self.log.push(format!("{} product {range:?}", warp.block));
        let found = self.detector.product(warp.block, 3, &[range], 0);
        let Some(ticket) = self.agree(races, found) else { return false };
        for w in 0..WARPS {
            let index = self.reference.push(access.clone());
            self.reference.products.entry((warp.block, w)).or_default().push((ticket, index));
        }
        self.products.entry(warp.block).or_default().push(ticket);
        true
    }

    fn wait(&mut self, warp: Warp) {
        let mask = self.wide_mask(warp);
        let lane = self.random.below(LANES);
        let choice = self.random.below(4);
        let tickets = match choice {
            0 => self.copies.get(&warp),
            1 => self.products.get(&warp.block),
            _ => self.stores.get(&(warp, lane)),
        };
        let Some(tickets) = tickets.cloned() else { return };
        let last = self.random.pick(&tickets);
        self.log.push(format!("{warp:?} {mask:#x} or {lane} wait {choice} {last:?}"));
        let over = |list: &[(Ticket, usize)]| {
            let over = list.iter().filter(|(ticket, _)| *ticket <= last).map(|(_, index)| *index);
            over.collect::<Vec<_>>()
        };
        let mut learn = |mask: u32, lists: &[usize]| {
            for lane in lanes(mask) {
                let thread = self.reference.thread(warp, lane);
                let own = lists.iter().flat_map(|&list| over(&thread.issued[list]));
                let own: Vec<_> = own.collect();
                own.into_iter().for_each(|index| thread.facts.known.insert(index));
            }
        };
        match choice {
            0 => {
                learn(mask, &[0]);
                self.detector.copy_wait(warp, mask, last);
            }
            1 => {
                let key = (warp.block, warp.warp);
                let products = self.reference.products.get(&key).cloned().unwrap_or_default();
                let over = over(&products);
                let known = Thread {
                    facts: Facts { known: over.iter().copied().collect(), ..Facts::default() },
                    ..Thread::default()
                };
                self.reference.assign(warp, mask, &known);
                self.detector.product_wait(warp, mask, last);
            }
            2 => {
                learn(1 << lane, &[1]);
                self.detector.bulk_wait(warp, lane, last, true);
            }
            _ => {
                learn(1 << lane, &[1, 2]);
                self.detector.bulk_wait(warp, lane, last, false);
            }
        }
    }
}

fn asynchronous(
    block: u32,
    space: Space,
    start: u64,
    bytes: u64,
    writes: bool,
    by_async_proxy: bool,
) -> Access {
    Access { block, space, start, bytes, writes, strong: None, by_async_proxy }
}

#[test]
fn agrees_with_a_reference() {
    let mut races = 0;
    for seed in 0..LAUNCHES {
        let length = 10 << (seed % 5);
        let mut pair = Pair::new(seed, length);
        races += u64::from((0..length).any(|_| !pair.step()));
    }
    assert!((LAUNCHES / 4..LAUNCHES).contains(&races), "{races} of the launches end with a race");
}
