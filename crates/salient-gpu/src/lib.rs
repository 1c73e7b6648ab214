//! A software CUDA device.
//!
//! Loads the PTX that nvcc makes, parses all of it, and executes it by the PTX ISA, instruction by
//! instruction: checked, counted, and in whatever order the device would be free to choose.

pub mod config;
pub mod control;
pub mod device;
pub mod fatbin;
pub mod fault;
mod machine;
pub mod ptx;
pub mod race;
mod random;
pub mod tensor;

pub use config::Config;
pub use fault::{Fault, FaultKind};
pub use machine::counters::{self, Counters};
pub use machine::memory::{Memory, MemoryError, POISON};
pub use machine::module::{Kernel, LoadError, Module, Param};
pub use machine::{Gpu, Launch};
