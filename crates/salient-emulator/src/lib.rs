//! Runs Salient's CUDA kernels on the CPU.
//!
//! The very files of `kernels/` are compiled as C++ behind a header that defines what CUDA gives a
//! kernel. Each CUDA thread is a coroutine; barriers, warp shuffles and cluster barriers are points
//! where it gives way. Beyond running, that gives:
//!
//! - threads resumed in a random order under a seed: a missing barrier shows as a changed result;
//! - a divergent or missing barrier as a [`Fault`] that names the kernel and the line, never a hang;
//! - buffers that start poisoned and end at a page that cannot be touched, every access checked
//!   against them: what is out of range is a [`Fault`] that names the buffer;
//! - asynchronous copies and multiplies that happen at once or only when they are waited for;
//! - counts of what was read, written and computed ([`Traffic`]), from which tests tell that a
//!   kernel moves no byte twice.
//!
//! Matrix instructions, cluster accesses, tensor copies and barriers in shared memory are emulated at
//! their wrapper in `kernels/ptx/`. What is not modelled: time, caches, and the order in which lanes
//! of a warp touch memory between two points where they wait.

mod attend;
mod compact;
mod emulated;
mod launch;
mod memory;
pub mod probes;
mod random;
mod score;
mod select;
mod stack;
mod team;
mod thread;
mod traffic;
mod validate;

pub use attend::{DecodeOutputs, DecodeRun, PrefillRun};
pub use compact::{KvOutputs, KvRun, KvStore, RowsOutputs, RowsRun, UNWRITTEN};
pub use emulated::Emulated;
pub use launch::{Device, Fault, Launched};
pub use memory::Buffer;
pub use select::{SelectOutputs, SelectRun, position_of};
pub use traffic::{BufferTraffic, Requests, SharedTraffic, Traffic};
pub use validate::ValidateRun;
