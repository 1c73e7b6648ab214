//! Shadow memory: for every word the accesses that a later one may race with.

use super::clock::{Clock, Known, copy_row, thread_row};
use super::entry::{Agent, Entry, Tag};
use super::view::{Mark, View};
use super::{Scope, Warp, Why};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

const PAGE_WORDS: usize = 256;
const PAGE_BYTES: u64 = 4 * PAGE_WORDS as u64;
/// How many of the newest entries of a list are compared with a new one.
const NEAR: usize = 8;
/// A list never grows longer. More than 32 warps and their copies fit.
const MOST: usize = 128;

/// What one or more lanes that access now know.
pub(super) struct Past<'a> {
    known: &'a Clock,
    proxied: Option<&'a Mark>,
    copied: u32,
    block: u32,
    warp: u32,
    row: u16,
    /// The lanes whose past this is.
    lanes: u32,
    /// The lane, if it is one.
    one: u32,
    own: Option<&'a Known>,
    own_all: u32,
    clusters: &'a [u32],
    /// A read and a write that were found to be no race, but for their bytes. Ranges of words
    /// mostly meet the same again.
    trusted: [Trusted; 2],
}

/// An entry without its place and bytes.
#[derive(Default)]
struct Trusted {
    stamp: Cell<u32>,
    block: Cell<u32>,
    lanes: Cell<u32>,
    what: Cell<u32>,
}

impl<'a> Past<'a> {
    /// `lanes`: of the warp, and with this view.
    pub(super) fn new(view: &'a View, warp: Warp, lanes: u32, clusters: &'a [u32]) -> Self {
        let Warp { block, warp } = warp;
        let own = view.known.known(block);
        Self {
            known: &view.known,
            proxied: view.proxied.as_ref(),
            copied: view.copied,
            block,
            warp,
            row: thread_row(warp),
            lanes,
            one: if lanes.is_power_of_two() { lanes } else { 0 },
            own,
            own_all: own.map_or(0, |known| known.all),
            clusters,
            trusted: Default::default(),
        }
    }

    /// The past of one of the lanes from now on.
    #[inline]
    pub(super) fn narrow(&mut self, lane: u32) {
        self.lanes = 1 << lane;
        self.one = self.lanes;
        self.distrust();
    }

    /// What was ordered for one lane need not be for the next.
    #[inline]
    fn distrust(&self) {
        self.trusted[0].stamp.take();
        self.trusted[1].stamp.take();
    }

    /// Whether it takes no more than a look to see that `before` is ordered before an access of the
    /// lane `one`, which is 0 if there are several.
    #[inline(always)]
    fn is_plain(&self, before: &Entry, one: u32) -> bool {
        before.stamp == 0
            || before.block == self.block
                && before.tag().agent() == Agent::Thread
                && (before.stamp <= self.own_all || before.row() == self.row && before.lanes == one)
    }

    /// Whether an access with this tag, which is not strong, surely does not race with `before`.
    #[inline(always)]
    fn is_sure(&self, before: &Entry, tag: Tag, one: u32) -> bool {
        !tag.is_async() && self.is_plain(before, one) || self.trusts(before)
    }

    #[inline(always)]
    fn trusts(&self, before: &Entry) -> bool {
        let trusted = &self.trusted[usize::from(before.tag().writes())];
        before.stamp == trusted.stamp.get()
            && before.block == trusted.block.get()
            && before.lanes == trusted.lanes.get()
            && before.what >> 8 == trusted.what.get()
            || before.stamp == 0
    }

    fn trust(&self, before: &Entry) {
        let trusted = &self.trusted[usize::from(before.tag().writes())];
        trusted.stamp.set(before.stamp);
        trusted.block.set(before.block);
        trusted.lanes.set(before.lanes);
        trusted.what.set(before.what >> 8);
    }

    fn ordered(&self, before: &Entry) -> bool {
        self.is_plain(before, self.one)
            || self.ordered_by(before, self.known, u32::MAX, self.copied)
    }

    fn ordered_by(&self, before: &Entry, known: &Clock, own: u32, copied: u32) -> bool {
        let mut need = before.lanes;
        if before.block == self.block && self.one != 0 {
            let row = before.row();
            if row == self.row && before.stamp <= own
                || row == copy_row(self.warp) && before.stamp <= copied
            {
                need &= !self.lanes;
            }
        }
        if need == 0 {
            return true;
        }
        let known = match self.own {
            Some(own) if before.block == self.block && std::ptr::eq(known, self.known) => Some(own),
            _ => known.known(before.block),
        };
        known.is_some_and(|known| known.has(before.row(), need, before.stamp))
    }

    /// Whether `now`, which does not race, makes `before` superfluous: what races with `before`
    /// will race with `now`, too.
    fn replaces(&self, now: &Entry, before: &Entry) -> bool {
        before.bytes() & !now.bytes() == 0
            && now.tag().subsumes(before.tag(), now.block == before.block)
            && (self.trusts(before) || self.ordered(before))
    }

    /// Whether an access now may touch what `before` touched.
    fn check(&self, before: &Entry, now: &Entry) -> Result<(), Fault> {
        if self.is_sure(before, now.tag(), self.one) {
            return Ok(());
        }
        self.verdict(before, now).map_err(|why| Box::new((*before, why)))
    }

    fn verdict(&self, before: &Entry, now: &Entry) -> Result<(), Why> {
        if before.stamp == 0
            || before.bytes() & now.bytes() == 0
            || !(before.tag().writes() || now.tag().writes())
        {
            return Ok(());
        }
        let mut why = Why::Unordered;
        if before.tag().is_strong() && now.tag().is_strong() {
            let scope = (before.tag().scope() as u8).min(now.tag().scope() as u8);
            let cluster = |block: u32| self.clusters.get(block as usize);
            if before.block == self.block
                || scope == Scope::Device as u8
                || scope == Scope::Cluster as u8 && cluster(before.block) == cluster(self.block)
            {
                return Ok(());
            }
            why = Why::Scope;
        }
        if !self.ordered(before) {
            return Err(why);
        }
        if now.tag().is_async() && before.tag().writes() && !before.tag().is_async() {
            let fenced = |m: &Mark| self.ordered_by(before, &m.clock, m.own, m.copied);
            if !self.proxied.is_some_and(fenced) {
                return Err(Why::ProxyFence);
            }
        }
        self.trust(before);
        Ok(())
    }
}

/// The rest of the accesses to a word.
#[derive(Default)]
struct Overflow {
    plain: List,
    strong: List,
    /// Some of `strong` are of less than the device's scope.
    narrow: bool,
    /// Some of `plain` are writes.
    writes: bool,
}

/// Accesses, the newest last. It is tidied when it has grown to its limit.
#[derive(Default)]
struct List {
    entries: Vec<Entry>,
    limit: usize,
}

#[derive(Clone, Copy, Default)]
struct Word {
    /// A plain write.
    write: Entry,
    /// A plain read.
    read: Entry,
    /// One more than the index of the overflow. 0: none.
    more: u32,
}

impl Word {
    /// Takes an access, if the word has no overflow and nothing must be looked up. `one`: the lane,
    /// if it is one.
    #[inline(always)]
    fn take(&mut self, past: &Past, now: &Entry, lanes: u32, one: u32, bytes: u32) -> bool {
        let tag = now.tag();
        let sure = |before: &Entry| past.is_sure(before, tag, one);
        let Self { write, read, more } = self;
        if *more != 0 || tag.is_strong() || !sure(write) {
            return false;
        }
        if tag.writes() {
            if (write.what | read.what) & 0xf & !bytes != 0 || !sure(read) {
                return false;
            }
            *write = now.of(lanes, bytes);
            *read = Entry::default();
        } else if read.stamp == now.stamp
            && read.block == now.block
            && read.what == now.what | bytes
        {
            read.lanes |= lanes;
            read.place = now.place;
        } else if read.bytes() & !bytes == 0 && sure(read) {
            *read = now.of(lanes, bytes);
        } else {
            return false;
        }
        true
    }

    /// Whether this is a read that surely does not race.
    #[inline]
    fn lets_read(&self, past: &Past, now: &Entry) -> bool {
        let tag = now.tag();
        self.more == 0
            && !tag.writes()
            && !tag.is_strong()
            && past.is_sure(&self.write, tag, past.one)
    }
}

/// The shadow of one address space.
#[derive(Default)]
pub(super) struct Shadow {
    pages: Vec<Box<[Word; PAGE_WORDS]>>,
    index: HashMap<u64, usize, BuildHasherDefault<PageHasher>>,
    /// The page used last: its number and index.
    last: Option<(u64, usize)>,
    rest: Rest,
}

/// What to do with an access.
#[derive(Clone, Copy)]
pub(super) enum Step {
    /// See whether it races.
    Check,
    /// Note it for the later ones.
    Note,
    Both,
}

/// A race: the address, the earlier access, and why it is one.
pub(super) type Conflict = (u64, Fault);
type Fault = Box<(Entry, Why)>;

impl Shadow {
    /// An access of lanes to `bytes` bytes from `address` on. With a race it is not noted in that
    /// word and those after it.
    #[inline]
    pub(super) fn touch(
        &mut self,
        past: &Past,
        now: &Entry,
        lanes: u32,
        (address, bytes): (u64, u64),
        step: Step,
    ) -> Result<(), Conflict> {
        let (mut at, end) = (address, address + bytes);
        while at < end {
            let page = self.page(at / PAGE_BYTES);
            let next = ((at / PAGE_BYTES + 1) * PAGE_BYTES).min(end);
            let words = &mut self.pages[page];
            while at < next {
                let word_end = ((at & !3) + 4).min(next);
                let bytes = ((1 << (word_end - at)) - 1) << (at & 3);
                let word = &mut words[(at / 4) as usize % PAGE_WORDS];
                let done = match step {
                    Step::Both => word.take(past, now, lanes, past.one, bytes),
                    Step::Check => word.lets_read(past, now),
                    Step::Note => false,
                };
                if !done {
                    let now = now.of(lanes, bytes);
                    self.rest.take(word, past, &now, step).map_err(|fault| (at, fault))?;
                }
                at = word_end;
            }
        }
        Ok(())
    }

    /// The first access by a thread of a block other than `block` that is none of what `past`
    /// knows.
    pub(super) fn unknown(&self, past: &Past, block: u32) -> Option<Conflict> {
        let unknown = |entry: &&Entry| {
            entry.stamp != 0
                && entry.block != block
                && entry.tag().agent() == Agent::Thread
                && !past.ordered(entry)
        };
        self.index.iter().find_map(|(number, &page)| {
            self.pages[page].iter().enumerate().find_map(|(at, word)| {
                let rest = (word.more as usize).checked_sub(1).map(|at| &self.rest.all[at]);
                let lists = rest.into_iter().flat_map(|rest| [&rest.plain, &rest.strong]);
                let mut entries = [&word.write, &word.read]
                    .into_iter()
                    .chain(lists.flat_map(|list| &list.entries));
                let address = number * PAGE_BYTES + 4 * at as u64;
                let entry = entries.find(unknown)?;
                Some((address, Box::new((*entry, Why::Unordered))))
            })
        })
    }

    /// Accesses of consecutive lanes from `first` on to consecutive words of a page.
    #[inline]
    pub(super) fn touch_row(
        &mut self,
        past: &mut Past,
        now: &Entry,
        first: u32,
        address: u64,
        count: usize,
    ) -> Result<(), (Conflict, u32)> {
        let page = self.page(address / PAGE_BYTES);
        let start = (address / 4) as usize % PAGE_WORDS;
        let words = &mut self.pages[page][start..start + count];
        for (lane, word) in (first..).zip(words) {
            let lanes = 1 << lane;
            if !word.take(past, now, lanes, lanes, 0xf) {
                past.narrow(lane);
                let taken = self.rest.take(word, past, &now.of(lanes, 0xf), Step::Both);
                let at = address + 4 * u64::from(lane - first);
                taken.map_err(|fault| ((at, fault), lanes))?;
                past.distrust();
            }
        }
        Ok(())
    }

    #[inline]
    fn page(&mut self, number: u64) -> usize {
        if let Some((last, index)) = self.last
            && last == number
        {
            return index;
        }
        let index = *self.index.entry(number).or_insert_with(|| {
            self.pages.push(Box::new([Word::default(); PAGE_WORDS]));
            self.pages.len() - 1
        });
        self.last = Some((number, index));
        index
    }
}

/// The overflow of all words.
#[derive(Default)]
struct Rest {
    all: Vec<Overflow>,
    free: Vec<u32>,
}

impl Rest {
    #[inline(never)]
    fn take(&mut self, word: &mut Word, past: &Past, now: &Entry, step: Step) -> Result<(), Fault> {
        if now.tag() == Tag::READ && matches!(step, Step::Both) {
            return self.read(word, past, now);
        }
        if !matches!(step, Step::Note) {
            self.check(word, past, now)?;
        }
        if !matches!(step, Step::Check) {
            self.note(word, past, now);
        }
        Ok(())
    }

    /// A plain read by threads, often one of several warps that read the word.
    fn read(&mut self, word: &mut Word, past: &Past, now: &Entry) -> Result<(), Fault> {
        past.check(&word.write, now)?;
        if word.more != 0 {
            let more = &mut self.all[word.more as usize - 1];
            if more.writes || !more.strong.entries.is_empty() {
                self.check(word, past, now)?;
                self.note(word, past, now);
                return Ok(());
            }
        }
        let read = &mut word.read;
        if read.is_like(now) {
            read.lanes |= now.lanes;
            read.place = now.place;
        } else if read.stamp == 0 || read.stamp != now.stamp && past.replaces(now, read) {
            *read = *now;
        } else {
            self.more(word).plain.add(past, now);
        }
        Ok(())
    }

    fn check(&self, word: &Word, past: &Past, now: &Entry) -> Result<(), Fault> {
        past.check(&word.write, now)?;
        past.check(&word.read, now)?;
        if word.more != 0 {
            let more = &self.all[word.more as usize - 1];
            if now.tag().writes() || more.writes {
                more.plain.entries.iter().try_for_each(|before| past.check(before, now))?;
            }
            if !now.tag().is_strong() || now.tag().scope() != Scope::Device || more.narrow {
                more.strong.entries.iter().try_for_each(|before| past.check(before, now))?;
            }
        }
        Ok(())
    }

    /// Notes an access that does not race.
    fn note(&mut self, word: &mut Word, past: &Past, now: &Entry) {
        for slot in [&mut word.write, &mut word.read] {
            if slot.stamp != 0 && past.replaces(now, slot) {
                *slot = Entry::default();
            }
        }
        if !now.tag().is_strong() {
            let slot = if now.tag().writes() { &mut word.write } else { &mut word.read };
            if slot.stamp == 0 || slot.is_like(now) {
                let lanes = slot.lanes;
                *slot = *now;
                slot.lanes |= lanes;
                if now.tag().writes() {
                    self.tidy(word, now);
                }
                return;
            }
        }
        let more = self.more(word);
        if now.tag().is_strong() {
            more.narrow |= now.tag().scope() != Scope::Device;
            more.strong.add(past, now);
        } else {
            more.writes |= now.tag().writes();
            more.plain.add(past, now);
        }
    }

    /// The overflow of a word.
    fn more(&mut self, word: &mut Word) -> &mut Overflow {
        if word.more == 0 {
            word.more = 1 + self.free.pop().unwrap_or_else(|| {
                self.all.push(Overflow::default());
                self.all.len() as u32 - 1
            });
        }
        &mut self.all[word.more as usize - 1]
    }

    /// Forgets what a plain write replaces: as it does not race, all that it covers.
    fn tidy(&mut self, word: &mut Word, now: &Entry) {
        if word.more == 0 {
            return;
        }
        let more = &mut self.all[word.more as usize - 1];
        for list in [&mut more.plain, &mut more.strong] {
            list.entries.retain(|before| before.bytes() & !now.bytes() != 0);
        }
        if more.plain.entries.is_empty() && more.strong.entries.is_empty() {
            (more.narrow, more.writes) = (false, false);
            self.free.push(word.more - 1);
            word.more = 0;
        }
    }
}

impl List {
    /// Makes an access one with another of the same threads, if there is one.
    fn merge(&mut self, now: &Entry) -> bool {
        let like = self.entries.iter_mut().rev().take(NEAR).find(|e| e.is_like(now));
        like.map(|like| {
            like.lanes |= now.lanes;
            like.place = now.place;
        })
        .is_some()
    }

    fn add(&mut self, past: &Past, now: &Entry) {
        if self.merge(now) {
            return;
        }
        if self.entries.len() >= self.limit {
            self.entries.retain(|before| !past.replaces(now, before));
            if self.entries.len() >= MOST {
                self.entries.drain(..MOST / 2);
            }
            self.limit = (2 * self.entries.len()).clamp(NEAR, MOST);
        }
        self.entries.push(*now);
    }
}

/// Page numbers are spread by a multiplication.
#[derive(Default)]
pub(super) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
