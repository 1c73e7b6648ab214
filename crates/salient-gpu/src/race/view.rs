//! What threads know: views, shared by the lanes of a warp that know the same.

use super::clock::{Clock, bits, copy_row, join, join_some, thread_row};
use std::rc::Rc;

/// What goes from those who release to those who acquire.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) known: Rc<Clock>,
    /// The part of it that a fence.proxy.async made visible to the async proxy.
    pub(super) proxied: Option<Rc<Clock>>,
}

impl Message {
    pub(super) fn join(&mut self, other: &Self) {
        join(&mut self.known, &other.known);
        if let Some(theirs) = &other.proxied {
            join_some(&mut self.proxied, theirs);
        }
    }

    /// Adds that an agent, which is a lane of a row, is done up to `stamp`.
    pub(super) fn raise(&mut self, block: u32, row: u16, lane: u32, stamp: u32) {
        Rc::make_mut(&mut self.known).known_mut(block).raise(row, lane, stamp, u32::MAX);
    }

    /// Adds that every thread of a block is known up to `stamp`.
    pub(super) fn raise_threads(&mut self, block: u32, stamp: u32) {
        Rc::make_mut(&mut self.known).known_mut(block).raise_threads(stamp);
    }

    /// Adds what these lanes of a warp know.
    pub(super) fn absorb(&mut self, warp: &WarpState, mask: u32) {
        for (lanes, view) in warp.groups_in(mask) {
            add(&mut self.known, &view.known, warp, lanes, warp.epoch, view.copied);
            if let Some(mark) = &view.proxied {
                mark.add_to(&mut self.proxied, warp, lanes);
            }
        }
    }
}

/// All that the participants of a barrier have in common after it.
#[derive(Clone, Default, Debug)]
pub(super) struct Joint {
    pub(super) message: Message,
    fenced: [Option<Rc<Clock>>; 3],
    pending: [Option<Message>; 3],
}

impl Joint {
    pub(super) fn absorb(&mut self, warp: &WarpState, mask: u32) {
        self.message.absorb(warp, mask);
        for (lanes, view) in warp.groups_in(mask) {
            for (fenced, mark) in self.fenced.iter_mut().zip(&view.fenced) {
                if let Some(mark) = mark {
                    mark.add_to(fenced, warp, lanes);
                }
            }
            for (pending, theirs) in self.pending.iter_mut().zip(&view.pending) {
                if let Some(theirs) = theirs {
                    pending.get_or_insert_default().join(theirs);
                }
            }
        }
    }

    /// The view of a thread that knew nothing else.
    pub(super) fn view(&self) -> View {
        View {
            known: self.message.known.clone(),
            copied: 0,
            fenced: self.fenced.clone().map(|clock| clock.map(Mark::of)),
            proxied: self.message.proxied.clone().map(Mark::of),
            pending: self.pending.clone(),
        }
    }
}

/// What a thread knew when it executed a fence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) clock: Rc<Clock>,
    /// The thread itself up to here.
    pub(super) own: u32,
    /// Its copies up to here.
    pub(super) copied: u32,
}

impl Mark {
    fn of(clock: Rc<Clock>) -> Self {
        Self { clock, own: 0, copied: 0 }
    }

    /// Adds the marks that these lanes hold.
    pub(super) fn add_to(&self, to: &mut Option<Rc<Clock>>, warp: &WarpState, lanes: u32) {
        add(to.get_or_insert_default(), &self.clock, warp, lanes, self.own, self.copied);
    }
}

/// What a thread knows. That it knows its own past goes without saying.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) known: Rc<Clock>,
    /// The thread's own copies (cp.async) are done up to this stamp.
    pub(super) copied: u32,
    /// As of the last fence of each scope, or a wider one.
    pub(super) fenced: [Option<Mark>; 3],
    /// As of the last fence.proxy.async.
    pub(super) proxied: Option<Mark>,
    /// Received by relaxed reads of each scope; a fence makes it known.
    pub(super) pending: [Option<Message>; 3],
}

impl View {
    pub(super) fn acquire(&mut self, message: &Message) {
        join(&mut self.known, &message.known);
        if let Some(theirs) = &message.proxied {
            match &mut self.proxied {
                Some(mark) => join(&mut mark.clock, theirs),
                None => self.proxied = Some(Mark::of(theirs.clone())),
            }
        }
    }

    pub(super) fn acquire_joint(&mut self, joint: &Joint) {
        self.acquire(&joint.message);
        for (mark, theirs) in self.fenced.iter_mut().zip(&joint.fenced) {
            match (mark, theirs) {
                (Some(mark), Some(theirs)) => join(&mut mark.clock, theirs),
                (mark, Some(theirs)) => *mark = Some(Mark::of(theirs.clone())),
                (_, None) => {}
            }
        }
        for (pending, theirs) in self.pending.iter_mut().zip(&joint.pending) {
            if let Some(theirs) = theirs {
                pending.get_or_insert_default().join(theirs);
            }
        }
    }
}

/// A warp: its threads know the same in groups of lanes.
#[derive(Debug)]
pub(super) struct WarpState {
    pub(super) block: u32,
    pub(super) warp: u32,
    /// The lanes that there are.
    pub(super) lanes: u32,
    /// The stamp of what the threads do now. It grows with everything that they publish.
    pub(super) epoch: u32,
    pub(super) groups: Vec<(u32, View)>,
}

impl WarpState {
    /// The groups that have lanes in `mask`, with these lanes.
    pub(super) fn groups_in(&self, mask: u32) -> impl Iterator<Item = (u32, &View)> {
        let some = move |(lanes, view)| (lanes & mask != 0).then_some((lanes & mask, view));
        self.groups.iter().map(|(lanes, view)| (*lanes, view)).filter_map(some)
    }

    /// Changes the views of these lanes.
    pub(super) fn change(&mut self, mask: u32, mut change: impl FnMut(&mut View)) {
        self.split(mask);
        for (lanes, view) in &mut self.groups {
            if *lanes & mask != 0 {
                change(view);
            }
        }
        self.merge();
    }

    /// Gives these lanes one view.
    pub(super) fn assign(&mut self, mask: u32, view: View) {
        self.groups.retain_mut(|(lanes, _)| {
            *lanes &= !mask;
            *lanes != 0
        });
        if mask & self.lanes != 0 {
            self.groups.push((mask & self.lanes, view));
        }
    }

    fn split(&mut self, mask: u32) {
        for index in 0..self.groups.len() {
            let (lanes, view) = &mut self.groups[index];
            let outside = *lanes & !mask;
            if outside != 0 && outside != *lanes {
                let view = view.clone();
                *lanes &= mask;
                self.groups.push((outside, view));
            }
        }
    }

    fn merge(&mut self) {
        let mut index = 1;
        while index < self.groups.len() {
            match (0..index).find(|&i| self.groups[i].1 == self.groups[index].1) {
                Some(same) => {
                    let (lanes, _) = self.groups.swap_remove(index);
                    self.groups[same].0 |= lanes;
                }
                None => index += 1,
            }
        }
    }
}

/// Joins `known` and what these lanes did themselves into `to`.
fn add(to: &mut Rc<Clock>, known: &Rc<Clock>, warp: &WarpState, lanes: u32, own: u32, copied: u32) {
    join(to, known);
    if own > 0 || copied > 0 {
        let to = Rc::make_mut(to).known_mut(warp.block);
        to.raise(thread_row(warp.warp), lanes, own, warp.lanes);
        if copied > 0 {
            to.raise(copy_row(warp.warp), lanes, copied, warp.lanes);
        }
    }
}

/// The mask of `count` lanes.
pub(super) fn first_lanes(count: u32) -> u32 {
    if count >= 32 { u32::MAX } else { (1 << count) - 1 }
}

/// The lanes of `mask` by their value, each value once.
pub(super) fn by_value(mask: u32, values: &[u64; 32]) -> impl Iterator<Item = (u32, u64)> {
    let mut left = mask;
    std::iter::from_fn(move || {
        let value = values[(left != 0).then(|| left.trailing_zeros())? as usize];
        let same = bits(left).filter(|&lane| values[lane as usize] == value);
        let same = same.fold(0, |mask, lane| mask | 1 << lane);
        left &= !same;
        Some((same, value))
    })
}
