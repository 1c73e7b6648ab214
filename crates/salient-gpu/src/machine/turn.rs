//! An instruction's view of the machine while it runs.

use crate::fault::FaultKind;

use super::inst::Stop;
use super::registers::Registers;
use super::world::{Block, Split, Warp, World};

/// What comes next for the lanes that have run an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The instruction behind it.
    Next,
    /// Another instruction.
    Jump(u32),
    /// Each lane where its row says: `brx.idx`.
    Scatter(u32),
    /// Nothing any more.
    Exit,
    /// The same again, once something has happened.
    Wait,
    /// The same again, when other lanes have come to it.
    Converge,
    /// The instruction behind it for these; the same again for the others, as with `Converge`.
    Part(u32),
    /// What is behind it, but others first.
    Yield,
}

/// The warp whose turn it is, in its world.
pub(crate) struct Turn<'a, 'w> {
    pub(crate) world: &'a mut World<'w>,
    pub(crate) block: usize,
    pub(crate) warp: usize,
}

impl<'w> Turn<'_, 'w> {
    pub(crate) fn block(&mut self) -> &mut Block {
        &mut self.world.blocks[self.block]
    }

    pub(crate) fn warp(&mut self) -> &mut Warp {
        &mut self.world.blocks[self.block].warps[self.warp]
    }

    pub(crate) fn regs(&mut self) -> &mut Registers {
        &mut self.world.blocks[self.block].warps[self.warp].regs
    }

    pub(crate) fn split(&mut self) -> &mut Split {
        let warp = self.warp();
        &mut warp.splits[warp.current]
    }

    /// Something has happened that somebody may wait for.
    pub(crate) fn event(&mut self) {
        self.world.events += 1;
    }
}

/// A fault.
pub(crate) fn stop<T>(kind: FaultKind, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop { kind, message: message.into(), lanes: 0 })
}

/// A fault of some lanes.
pub(crate) fn stop_lanes<T>(
    kind: FaultKind,
    lanes: u32,
    message: impl Into<String>,
) -> Result<T, Stop> {
    Err(Stop { kind, message: message.into(), lanes })
}
