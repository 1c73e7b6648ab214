//! A reference that keeps, for every thread, the set of all accesses that happen before its next
//! one, and compares each access with all earlier ones.

use crate::race::{Kind, Scope, Space, Ticket, Warp};
use std::collections::HashMap;

pub(super) const WARPS: u32 = 2;
/// How many lanes of a warp do anything on their own.
pub(super) const LANES: u32 = 3;

/// A set of accesses by their index.
#[derive(Clone, Default)]
pub(super) struct Set(Vec<u64>);

impl Set {
    pub(super) fn insert(&mut self, index: usize) {
        if self.0.len() <= index / 64 {
            self.0.resize(index / 64 + 1, 0);
        }
        self.0[index / 64] |= 1 << (index % 64);
    }

    pub(super) fn has(&self, index: usize) -> bool {
        self.0.get(index / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub(super) fn add(&mut self, other: &Self) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, &other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }
}

/// What passes from thread to thread.
#[derive(Clone, Default)]
pub(super) struct Facts {
    pub(super) known: Set,
    pub(super) proxied: Set,
}

impl Facts {
    pub(super) fn add(&mut self, other: &Self) {
        self.known.add(&other.known);
        self.proxied.add(&other.proxied);
    }
}

#[derive(Clone, Default)]
pub(super) struct Thread {
    pub(super) facts: Facts,
    pub(super) fenced: [Option<Set>; 3],
    pub(super) pending: [Facts; 3],
    /// Accesses of its copies, of the reads of its bulk groups, and of the writes.
    pub(super) issued: [Vec<(Ticket, usize)>; 3],
}

impl Thread {
    /// All that a barrier passes on.
    pub(super) fn add(&mut self, other: &Self) {
        self.facts.add(&other.facts);
        for (fenced, other) in self.fenced.iter_mut().zip(&other.fenced) {
            if let Some(other) = other {
                fenced.get_or_insert_default().add(other);
            }
        }
        for (pending, other) in self.pending.iter_mut().zip(&other.pending) {
            pending.add(other);
        }
    }
}

#[derive(Clone)]
pub(super) struct Access {
    pub(super) block: u32,
    pub(super) space: Space,
    pub(super) start: u64,
    pub(super) bytes: u64,
    pub(super) writes: bool,
    pub(super) strong: Option<Scope>,
    pub(super) by_async_proxy: bool,
}

#[derive(Clone, Default)]
pub(super) struct Mbarrier {
    pub(super) arriving: Facts,
    pub(super) done: Facts,
    pub(super) issuers: Facts,
    /// Issued for it, whether complete, and the accesses.
    pub(super) copies: Vec<(Ticket, bool, Vec<usize>)>,
}

/// By block, warp and lane.
pub(super) type Id = (u32, u32, u32);

/// At which level of scope, by which block, and what.
pub(super) type Published = (usize, u32, Facts);

#[derive(Default)]
pub(super) struct Reference {
    pub(super) accesses: Vec<Access>,
    pub(super) threads: HashMap<Id, Thread>,
    pub(super) barriers: HashMap<(u32, u32), Thread>,
    pub(super) clusters: [(Thread, Thread); 2],
    pub(super) mbarriers: HashMap<(u32, u64), Mbarrier>,
    pub(super) published: HashMap<(Space, u64), Vec<Published>>,
    /// Products: by warp, the accesses that are over when it has waited.
    pub(super) products: HashMap<(u32, u32), Vec<(Ticket, usize)>>,
}

pub(super) fn cluster(block: u32) -> u32 {
    block / 2
}

pub(super) fn is_within(level: usize, one: u32, other: u32) -> bool {
    match level {
        0 => one == other,
        1 => cluster(one) == cluster(other),
        _ => true,
    }
}

pub(super) fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    (0..32).filter(move |lane| mask >> lane & 1 == 1)
}

impl Reference {
    pub(super) fn thread(&mut self, warp: Warp, lane: u32) -> &mut Thread {
        self.threads.entry((warp.block, warp.warp, lane)).or_default()
    }

    pub(super) fn races(&mut self, warp: Warp, lane: u32, now: &Access) -> bool {
        let facts = self.thread(warp, lane).facts.clone();
        self.accesses.iter().enumerate().any(|(index, before)| {
            let both_strong = before.strong.zip(now.strong).is_some_and(|(one, other)| {
                is_within((one as usize).min(other as usize), before.block, now.block)
            });
            let conflict = before.space == now.space
                && before.start < now.start + now.bytes
                && now.start < before.start + before.bytes
                && (before.writes || now.writes)
                && !both_strong;
            let proxies = now.by_async_proxy && before.writes && !before.by_async_proxy;
            conflict && !(facts.known.has(index) && (!proxies || facts.proxied.has(index)))
        })
    }

    pub(super) fn push(&mut self, access: Access) -> usize {
        self.accesses.push(access);
        self.accesses.len() - 1
    }

    /// Whether the access races, and the state after it if not.
    pub(super) fn access(&mut self, target: &Target, kind: Kind) -> bool {
        let (writes, strong) = match kind {
            Kind::Read => (false, None),
            Kind::Write | Kind::WriteEqual => (true, None),
            Kind::StrongRead { scope, .. } => (false, Some(scope)),
            Kind::StrongWrite { scope, .. } | Kind::Update { scope, .. } => (true, Some(scope)),
        };
        let Target { warp, mask, space, addresses, width } = *target;
        let mut new = Vec::new();
        for lane in lanes(mask) {
            let now = Access {
                block: warp.block,
                space,
                start: addresses[lane as usize],
                bytes: width,
                writes,
                strong,
                by_async_proxy: false,
            };
            let same = |(_, other): &(u32, Access)| other.start == now.start;
            if self.races(warp, lane, &now) || kind == Kind::Write && new.iter().any(same) {
                return true;
            }
            new.push((lane, now));
        }
        for (lane, now) in new {
            let index = self.push(now);
            self.thread(warp, lane).facts.known.insert(index);
        }
        if let Some(scope) = strong {
            self.exchange(target, kind, scope as usize);
        }
        false
    }

    pub(super) fn exchange(&mut self, target: &Target, kind: Kind, scope: usize) {
        let Target { warp, mask, space, addresses, .. } = *target;
        let (reads, writes) = match kind {
            Kind::StrongRead { acquire, .. } => (Some(acquire), None),
            Kind::StrongWrite { release, .. } => (None, Some(release)),
            Kind::Update { acquire, release, .. } => (Some(acquire), Some(release)),
            _ => unreachable!("strong"),
        };
        let mut seen = Vec::new();
        for first in lanes(mask) {
            let address = addresses[first as usize];
            if seen.contains(&address) {
                continue;
            }
            seen.push(address);
            let same: Vec<_> = lanes(mask).filter(|&l| addresses[l as usize] == address).collect();
            let key = (space, address);
            if let Some(acquire) = reads {
                for (level, block, facts) in self.published.get(&key).cloned().unwrap_or_default() {
                    if level <= scope && is_within(level, block, warp.block) {
                        for &lane in &same {
                            let thread = self.thread(warp, lane);
                            if acquire {
                                thread.facts.add(&facts);
                            } else {
                                thread.pending[level].add(&facts);
                            }
                        }
                    }
                }
            }
            if let Some(release) = writes {
                if reads.is_none() {
                    self.published.remove(&key);
                }
                for (level, &lane) in (0..=scope).flat_map(|l| same.iter().map(move |s| (l, s))) {
                    let thread = self.thread(warp, lane);
                    let facts = match (release, &thread.fenced[level]) {
                        (true, _) => thread.facts.clone(),
                        (false, Some(fenced)) => {
                            Facts { known: fenced.clone(), proxied: thread.facts.proxied.clone() }
                        }
                        (false, None) => continue,
                    };
                    let published = self.published.entry(key).or_default();
                    published.push((level, warp.block, facts));
                }
            }
        }
    }

    pub(super) fn join(&self, warp: Warp, mask: u32, to: &mut Thread) {
        for lane in lanes(mask) {
            if let Some(thread) = self.threads.get(&(warp.block, warp.warp, lane)) {
                to.add(thread);
            }
        }
    }

    pub(super) fn assign(&mut self, warp: Warp, mask: u32, from: &Thread) {
        for lane in lanes(mask) {
            self.thread(warp, lane).add(from);
        }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) warp: Warp,
    pub(super) mask: u32,
    pub(super) space: Space,
    pub(super) addresses: &'a [u64; 32],
    pub(super) width: u64,
}

impl FromIterator<usize> for Set {
    fn from_iter<I: IntoIterator<Item = usize>>(indices: I) -> Self {
        let mut set = Self::default();
        indices.into_iter().for_each(|index| set.insert(index));
        set
    }
}
