//! The machine by its public API: small PTX texts, with what the PTX ISA says of them as
//! expectation.

mod async_copies;
mod atomics;
mod barriers;
mod bulk;
mod clusters;
mod collectives;
mod common;
mod control;
mod counters;
mod determinism;
mod faults;
mod matrices;
mod mbarriers;
mod memory;
mod races;
mod warpgroups;
