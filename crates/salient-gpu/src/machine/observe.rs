//! Who watches: counters of traffic, and the race detector.

use crate::race::Scope;

use super::inst::Stop;
use super::registers::Longs;
use super::space::Where;
use super::turn::Turn;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AccessKind {
    Read,
    Write,
    /// Lanes with the same address write the same.
    WriteEqual,
    StrongRead,
    StrongWrite,
    Atomic,
}

impl AccessKind {
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::Read | Self::StrongRead | Self::Atomic)
    }

    pub(crate) fn is_write(self) -> bool {
        !matches!(self, Self::Read | Self::StrongRead)
    }
}

/// An access of some lanes, with the bytes that each touches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    pub(crate) kind: AccessKind,
    pub(crate) bytes: u32,
    /// An index of the kernel's places.
    pub(crate) place: u32,
    pub(crate) order: Ordering,
}

/// Of strong accesses: whom they concern, and what they order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ordering {
    pub(crate) scope: Scope,
    pub(crate) acquire: bool,
    pub(crate) release: bool,
}

impl Ordering {
    /// Of accesses that order nothing.
    pub(crate) const NONE: Self = Self { scope: Scope::Device, acquire: false, release: false };

    /// Takes over what a modifier says.
    pub(crate) fn set(&mut self, modifier: &str) -> bool {
        match modifier {
            "acquire" => self.acquire = true,
            "release" => self.release = true,
            "acq_rel" => (self.acquire, self.release) = (true, true),
            "cta" => self.scope = Scope::Block,
            "cluster" => self.scope = Scope::Cluster,
            "gpu" | "sys" => self.scope = Scope::Device,
            _ => return false,
        }
        true
    }

    pub(crate) fn code(self) -> u32 {
        self.scope as u32 | u32::from(self.acquire) << 2 | u32::from(self.release) << 3
    }

    pub(crate) fn from_code(code: u32) -> Self {
        let scope = [Scope::Block, Scope::Cluster, Scope::Device][(code & 3) as usize];
        Self { scope, acquire: code & 4 != 0, release: code & 8 != 0 }
    }
}

/// What a fence orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    Block,
    Cluster,
    Device,
    MbarrierInit,
    ProxyAsync { shared: bool, global: bool },
}

impl Fence {
    const ALL: [Self; 8] = [
        Self::Block,
        Self::Cluster,
        Self::Device,
        Self::MbarrierInit,
        Self::ProxyAsync { shared: false, global: false },
        Self::ProxyAsync { shared: true, global: false },
        Self::ProxyAsync { shared: false, global: true },
        Self::ProxyAsync { shared: true, global: true },
    ];

    pub(crate) fn code(self) -> u32 {
        Self::ALL.iter().position(|&other| other == self).expect("all are there") as u32
    }

    pub(crate) fn from_code(code: u32) -> Self {
        Self::ALL[code as usize]
    }
}

impl Turn<'_, '_> {
    /// Tells of an access that was found to be within bounds.
    #[inline(always)]
    pub(crate) fn observe(
        &mut self,
        space: Where,
        addresses: &Longs,
        lanes: u32,
        access: Access,
    ) -> Result<(), Stop> {
        if let Some(counting) = &mut self.world.counting {
            counting.access(space, addresses, lanes, access);
        }
        if self.world.races.is_some() {
            self.race_access(space, addresses, lanes, access)?;
        }
        Ok(())
    }
}
