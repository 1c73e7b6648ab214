//! Vector clocks with one component per thread and per asynchronous agent, shared as far as they
//! are equal.
//!
//! Times are stamps of one counter for the launch. So "every thread of the block up to stamp 70" is
//! a single number, which is all that is left of a block's clock after a barrier of the whole
//! block.

use std::rc::Rc;

/// The products (wgmma) of a block: lane `w` is what warp `w` issued.
pub(super) const PRODUCTS: u16 = 0;
/// The first 32 agents that copy in bulk.
const AGENTS: u16 = 1;
const FIRST_WARP: u16 = 2;
const LAST_WARP: u16 = FIRST_WARP + 2 * 31;
const MORE_AGENTS: u16 = LAST_WARP + 2;

/// The row of a warp's threads.
pub(super) fn thread_row(warp: u32) -> u16 {
    FIRST_WARP + 2 * warp as u16
}

/// The row of the copies (cp.async) of a warp's threads.
pub(super) fn copy_row(warp: u32) -> u16 {
    thread_row(warp) + 1
}

/// Row and lane of an agent that copies in bulk.
pub(super) fn agent_place(agent: u32) -> (u16, u32) {
    let row = match agent / 32 {
        0 => AGENTS,
        more => MORE_AGENTS + more as u16 - 1,
    };
    (row, agent % 32)
}

/// The warp of a row of threads or of their copies.
pub(super) fn warp_of_row(row: u16) -> u32 {
    u32::from((row - FIRST_WARP) / 2)
}

fn is_thread_row(row: u16) -> bool {
    (FIRST_WARP..=LAST_WARP).contains(&row) && row.is_multiple_of(2)
}

/// Up to which stamp the 32 lanes of a row are known.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
struct Row {
    all: u32,
    /// Lanes known further than `all`.
    lanes: Option<Rc<[u32; 32]>>,
}

impl Row {
    fn has(&self, lanes: u32, stamp: u32) -> bool {
        self.all >= stamp
            || self
                .lanes
                .as_ref()
                .is_some_and(|known| bits(lanes).all(|lane| known[lane as usize] >= stamp))
    }

    fn raise(&mut self, lanes: u32, stamp: u32, every: u32) {
        if stamp <= self.all {
            return;
        }
        if lanes & every == every {
            self.all = stamp;
            self.lanes.take_if(|known| known.iter().all(|&k| k <= stamp));
            return;
        }
        let known = Rc::make_mut(self.lanes.get_or_insert_with(|| Rc::new([0; 32])));
        for lane in bits(lanes) {
            let known = &mut known[lane as usize];
            *known = stamp.max(*known);
        }
    }

    fn is_below(&self, stamp: u32) -> bool {
        self.all <= stamp && self.lanes.as_ref().is_none_or(|l| l.iter().all(|&k| k <= stamp))
    }

    fn covers(&self, other: &Self) -> bool {
        self.all >= other.all
            && other.lanes.as_ref().is_none_or(|theirs| match &self.lanes {
                Some(ours) if Rc::ptr_eq(ours, theirs) => true,
                Some(ours) => ours.iter().zip(&**theirs).all(|(&o, &t)| t <= o.max(self.all)),
                None => theirs.iter().all(|&t| t <= self.all),
            })
    }

    fn join(&mut self, other: &Self) {
        if self.covers(other) {
            return;
        }
        self.all = self.all.max(other.all);
        match (&mut self.lanes, &other.lanes) {
            (Some(ours), Some(theirs)) => {
                for (o, &t) in Rc::make_mut(ours).iter_mut().zip(&**theirs) {
                    *o = t.max(*o);
                }
            }
            (ours @ None, Some(theirs)) => *ours = Some(theirs.clone()),
            (_, None) => {}
        }
        let all = self.all;
        self.lanes.take_if(|known| known.iter().all(|&k| k <= all));
    }
}

/// What is known of one block.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// Every thread of the block is known up to here. Copies and other agents are not.
    pub(super) all: u32,
    rows: Vec<Row>,
}

impl Known {
    /// Whether all of these lanes are known up to `stamp`.
    pub(super) fn has(&self, row: u16, lanes: u32, stamp: u32) -> bool {
        (self.all >= stamp && is_thread_row(row))
            || self.rows.get(usize::from(row)).is_some_and(|r| r.has(lanes, stamp))
    }

    /// `every`: the lanes that there are.
    pub(super) fn raise(&mut self, row: u16, lanes: u32, stamp: u32, every: u32) {
        if stamp <= self.all && is_thread_row(row) {
            return;
        }
        let index = usize::from(row);
        if self.rows.len() <= index {
            self.rows.resize(index + 1, Row::default());
        }
        self.rows[index].raise(lanes, stamp, every);
    }

    /// From now on every thread of the block is known up to `stamp`.
    pub(super) fn raise_threads(&mut self, stamp: u32) {
        self.all = stamp;
        for row in (FIRST_WARP..=LAST_WARP).step_by(2) {
            match self.rows.get_mut(usize::from(row)) {
                Some(row) => *row = Row::default(),
                None => break,
            }
        }
    }

    fn covers(&self, other: &Self) -> bool {
        self.all >= other.all
            && other.rows.iter().enumerate().all(|(index, theirs)| {
                let floor = if is_thread_row(index as u16) { self.all } else { 0 };
                theirs.is_below(floor) || self.rows.get(index).is_some_and(|r| r.covers(theirs))
            })
    }

    fn join(&mut self, other: &Self) {
        self.all = self.all.max(other.all);
        if self.rows.len() < other.rows.len() {
            self.rows.resize(other.rows.len(), Row::default());
        }
        for (ours, theirs) in self.rows.iter_mut().zip(&other.rows) {
            ours.join(theirs);
        }
    }
}

/// What is known of every block.
#[derive(Clone, Default, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// In the order of the blocks.
    parts: Vec<(u32, Rc<Known>)>,
}

impl Clock {
    pub(super) fn known(&self, block: u32) -> Option<&Known> {
        if let Some((first, known)) = self.parts.first()
            && *first == block
        {
            return Some(known);
        }
        let index = self.parts.binary_search_by_key(&block, |part| part.0).ok()?;
        Some(&self.parts[index].1)
    }

    pub(super) fn known_mut(&mut self, block: u32) -> &mut Known {
        let index = match self.parts.binary_search_by_key(&block, |part| part.0) {
            Ok(index) => index,
            Err(index) => {
                self.parts.insert(index, (block, Rc::default()));
                index
            }
        };
        Rc::make_mut(&mut self.parts[index].1)
    }

    fn covers(&self, other: &Self) -> bool {
        let mut ours = self.parts.iter();
        other.parts.iter().all(|(block, theirs)| {
            ours.find(|part| part.0 >= *block).is_some_and(|(found, known)| {
                found == block && (Rc::ptr_eq(known, theirs) || known.covers(theirs))
            })
        })
    }

    fn join(&mut self, other: &Self) {
        let mut at = 0;
        for (block, theirs) in &other.parts {
            while self.parts.get(at).is_some_and(|part| part.0 < *block) {
                at += 1;
            }
            match self.parts.get_mut(at) {
                Some((found, known)) if found == block => {
                    if !Rc::ptr_eq(known, theirs) && !known.covers(theirs) {
                        Rc::make_mut(known).join(theirs);
                    }
                }
                _ => self.parts.insert(at, (*block, theirs.clone())),
            }
        }
    }
}

/// Makes `clock` know what `other` knows, too.
pub(super) fn join(clock: &mut Rc<Clock>, other: &Rc<Clock>) {
    if Rc::ptr_eq(clock, other) || clock.covers(other) {
        return;
    }
    if other.covers(clock) {
        clock.clone_from(other);
        return;
    }
    Rc::make_mut(clock).join(other);
}

/// [`join`], where there may be no clock yet.
pub(super) fn join_some(clock: &mut Option<Rc<Clock>>, other: &Rc<Clock>) {
    match clock {
        Some(clock) => join(clock, other),
        None => *clock = Some(other.clone()),
    }
}

/// The set bits of a mask, the lowest first.
pub(super) fn bits(mut mask: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let lowest = (mask != 0).then(|| mask.trailing_zeros())?;
        mask &= mask - 1;
        Some(lowest)
    })
}
