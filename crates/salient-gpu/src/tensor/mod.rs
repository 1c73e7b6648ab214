//! Tensor cores and tensor copies: what the matrix instructions and the bulk tensor copies compute,
//! as pure functions.
//!
//! Nothing here knows of instructions, warps in flight or memory. A 32-bit register of a warp is a
//! [`Lanes`]; the caller reads and writes memory at the addresses that these functions give.

pub mod arithmetic;
pub mod copy;
pub mod descriptor;
pub mod fragment;
pub mod mma;
pub mod numbers;
pub mod warpgroup;

/// One 32-bit register of all lanes of a warp.
pub type Lanes = [u32; 32];
