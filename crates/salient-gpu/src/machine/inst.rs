//! Instructions as they are executed.

use super::registers::Registers;
use super::turn::{Step, Turn};

/// An instruction that touches registers alone: for the lanes of a mask. It may compute the other
/// lanes too, and must then not panic on what they hold, but writes nothing there.
pub(crate) type Lanes = fn(&mut Registers, &Inst, u32);

/// Any other: for the lanes of a mask, which is not 0. An error is a fault.
pub(crate) type Machine = fn(&mut Turn<'_, '_>, &Inst, u32) -> Result<Step, Stop>;

/// What went wrong: the machine adds where.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    pub(crate) kind: crate::fault::FaultKind,
    pub(crate) message: String,
    /// The lanes it went wrong in; 0: all that were active.
    pub(crate) lanes: u32,
}

#[derive(Clone, Copy)]
pub(crate) enum Run {
    Lanes(Lanes),
    Machine(Machine),
}

/// `Inst::guard` without one.
pub(crate) const UNGUARDED: u32 = u32::MAX;

/// An instruction with its operands: rows of registers, or predicates ([`Registers::predicate`] for
/// what is read, the index alone for what is written).
pub(crate) struct Inst {
    pub(crate) run: Run,
    /// As [`Registers::predicate`] takes it, or [`UNGUARDED`].
    pub(crate) guard: u32,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    /// One more operand, or anything else that is known when the module is loaded.
    pub(crate) e: u32,
    pub(crate) immediate: i64,
    /// What does not fit.
    pub(crate) more: Option<Box<More>>,
    /// An index of the kernel's table of places.
    pub(crate) place: u32,
}

/// Operands of instructions that have many.
#[derive(Debug, Clone, Default)]
pub(crate) struct More {
    pub(crate) targets: Vec<u32>,
    pub(crate) sources: Vec<u32>,
    pub(crate) numbers: Vec<i64>,
}

impl Inst {
    pub(crate) fn new(run: Run) -> Self {
        Self {
            run,
            guard: UNGUARDED,
            d: 0,
            a: 0,
            b: 0,
            c: 0,
            e: 0,
            immediate: 0,
            more: None,
            place: 0,
        }
    }

    pub(crate) fn lanes(run: Lanes) -> Self {
        Self::new(Run::Lanes(run))
    }

    pub(crate) fn machine(run: Machine) -> Self {
        Self::new(Run::Machine(run))
    }
}
