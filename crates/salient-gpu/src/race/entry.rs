//! An access, as shadow memory keeps it.

use super::{Kind, Scope};

/// Who accesses, as the low bits of a tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Agent {
    Thread,
    Copy,
    Bulk,
    Product,
}

/// What an access does and who does it, in a byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tag(u8);

impl Tag {
    const WRITE: u8 = 1;
    const STRONG: u8 = 2;
    /// A weak read by a thread.
    pub(super) const READ: Self = Self((Scope::Device as u8) << 2);

    pub(super) fn new(kind: Kind, agent: Agent) -> Self {
        let (kind, scope) = match kind {
            Kind::Read => (0, Scope::Device),
            Kind::Write | Kind::WriteEqual => (Self::WRITE, Scope::Device),
            Kind::StrongRead { scope, .. } => (Self::STRONG, scope),
            Kind::StrongWrite { scope, .. } | Kind::Update { scope, .. } => {
                (Self::STRONG | Self::WRITE, scope)
            }
        };
        Self(kind | (scope as u8) << 2 | (agent as u8) << 4)
    }

    pub(super) fn writes(self) -> bool {
        self.0 & Self::WRITE != 0
    }

    pub(super) fn is_strong(self) -> bool {
        self.0 & Self::STRONG != 0
    }

    pub(super) fn scope(self) -> Scope {
        [Scope::Block, Scope::Cluster, Scope::Device][usize::from(self.0 >> 2 & 3)]
    }

    pub(super) fn agent(self) -> Agent {
        [Agent::Thread, Agent::Copy, Agent::Bulk, Agent::Product][usize::from(self.0 >> 4)]
    }

    /// Whether the access goes through the async proxy.
    pub(super) fn is_async(self) -> bool {
        matches!(self.agent(), Agent::Bulk | Agent::Product)
    }

    /// Whether all that can race with `other`, which came before, can race with this. Strong ones
    /// must be of one block, as those of another may be in the scope of only one.
    pub(super) fn subsumes(self, other: Self, one_block: bool) -> bool {
        match (self.writes(), self.is_strong()) {
            (true, false) => true,
            (false, false) => !other.writes(),
            (writes, true) => {
                one_block
                    && other.is_strong()
                    && (writes || !other.writes())
                    && self.scope() as u8 <= other.scope() as u8
            }
        }
    }
}

/// An access to bytes of one word.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// 0: none.
    pub(super) stamp: u32,
    pub(super) lanes: u32,
    pub(super) place: u32,
    pub(super) block: u32,
    /// Row, tag and bytes: fields of their own would be slow to write and then to copy.
    pub(super) what: u32,
}

impl Entry {
    /// Of no lanes and bytes yet.
    pub(super) fn new(stamp: u32, place: u32, block: u32, row: u16, tag: Tag) -> Self {
        let what = u32::from(row) << 16 | u32::from(tag.0) << 8;
        Self { stamp, place, block, what, lanes: 0 }
    }

    #[inline]
    pub(super) fn of(&self, lanes: u32, bytes: u32) -> Self {
        Self { lanes, what: self.what | bytes, ..*self }
    }

    #[inline]
    pub(super) fn row(&self) -> u16 {
        (self.what >> 16) as u16
    }

    #[inline]
    pub(super) fn tag(&self) -> Tag {
        Tag((self.what >> 8) as u8)
    }

    #[inline]
    pub(super) fn bytes(&self) -> u32 {
        self.what & 0xf
    }

    /// Whether both differ in lanes and place at most.
    #[inline]
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.stamp == other.stamp && self.block == other.block && self.what == other.what
    }
}
