//! What goes wrong in a kernel, and where.

use std::fmt;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// Memory that is no allocation's, or another space's.
    IllegalAddress,
    /// An address that is not a multiple of what is moved.
    Misaligned,
    /// An instruction that the device lacks.
    IllegalInstruction,
    /// `trap`.
    Trap,
    /// A failed `assert`.
    Assert,
    /// Two accesses without an order between them.
    Race,
    /// A read of memory that nobody wrote.
    Unwritten,
    /// Nobody can go on.
    Deadlock,
    /// More steps than allowed.
    Timeout,
    /// An instruction used against its rules.
    Misuse,
    /// A launch with parameters that the kernel does not have.
    InvalidParameters,
}

/// A fault of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The kernel, as PTX names it.
    pub kernel: String,
    /// What happened.
    pub message: String,
    /// The instruction's line in the module's PTX, from 1; 0 if it is not of one instruction.
    pub ptx_line: u32,
    /// The source file and line, if the module was compiled with `-lineinfo`.
    pub source: Option<(String, u32)>,
    /// The block's index in the grid.
    pub block: [u32; 3],
    /// The warp's index in its block.
    pub warp: u32,
    /// The lanes concerned, a bit each.
    pub lanes: u32,
}

impl std::error::Error for Fault {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.block;
        write!(f, "software GPU: {:?} in {}: {}", self.kind, self.kernel, self.message)?;
        if self.ptx_line != 0 {
            write!(f, ", at PTX line {}", self.ptx_line)?;
        }
        if let Some((file, line)) = &self.source {
            write!(f, ", {file}:{line}")?;
        }
        write!(f, ", block ({x}, {y}, {z}), warp {}, lanes {:08x}", self.warp, self.lanes)
    }
}
