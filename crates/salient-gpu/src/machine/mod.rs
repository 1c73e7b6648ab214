//! The machine: modules in, launches run to their end.

mod access;
mod addressing;
pub(crate) mod alu;
mod async_copy;
mod atomic;
mod barrier;
mod begin;
mod body;
mod bulk;
mod cluster;
mod collective;
mod control;
pub mod counters;
mod inst;
mod locate;
mod lower;
mod matrix;
mod mbarrier;
pub(crate) mod memory;
pub(crate) mod module;
mod observe;
mod races;
mod registers;
mod run;
mod space;
mod special;
mod turn;
mod warpgroup;
mod world;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{Config, Unwritten};
use crate::device::Device;
use crate::fault::{Fault, FaultKind};

use counters::Counters;
use memory::Memory;
use module::{Kernel, LoadError, Module};

/// A software GPU.
pub struct Gpu {
    device: &'static Device,
    memory: Memory,
    config: Mutex<Config>,
}

/// The shape of a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Bytes per block.
    pub dynamic_shared: u32,
    /// Blocks of a cluster.
    pub cluster: [u32; 3],
    /// Whether all blocks are resident at once.
    pub cooperative: bool,
}

impl Launch {
    /// Blocks per cluster.
    pub(crate) fn cluster_blocks(&self) -> u32 {
        self.cluster.iter().map(|&n| n.max(1)).product()
    }
}

impl Gpu {
    /// Device `number` of those that `config` asks for.
    pub fn new(number: usize, config: Config) -> Self {
        let device = Device::of(config.architecture);
        let track = config.unwritten == Unwritten::Fault;
        let memory = Memory::new(number, device.memory_bytes, track);
        Self { device, memory, config: Mutex::new(config) }
    }

    /// What it stands for.
    pub fn device(&self) -> &'static Device {
        self.device
    }

    /// How it goes about its freedoms.
    pub fn config(&self) -> Config {
        self.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes that, for launches from now on. What device it is, and whether reads of memory that
    /// nobody wrote are faults, stays.
    pub fn configure(&self, config: Config) {
        let mut now = self.config.lock().unwrap_or_else(PoisonError::into_inner);
        let (architecture, unwritten) = (now.architecture, now.unwritten);
        *now = Config { architecture, unwritten, ..config };
    }

    /// Its memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Loads a module's text, all of it.
    ///
    /// # Errors
    ///
    /// Text that is no PTX, has an instruction that this machine lacks, or is for another device.
    pub fn load(&self, text: &str) -> Result<Arc<Module>, LoadError> {
        self.load_with(text, &HashMap::new())
    }

    /// The same, with registers per thread as ptxas has counted them, by kernel.
    ///
    /// # Errors
    ///
    /// As for [`Gpu::load`].
    pub fn load_with(
        &self,
        text: &str,
        registers: &HashMap<String, u32>,
    ) -> Result<Arc<Module>, LoadError> {
        Module::load(text, self.device.architecture, registers, &self.memory).map(Arc::new)
    }

    /// Runs a kernel to its end, in the calling thread.
    ///
    /// # Errors
    ///
    /// What the kernel does wrong.
    pub fn launch(
        &self,
        kernel: &Kernel,
        launch: &Launch,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        if let Some(message) = wrong_launch(kernel, launch, params) {
            return Err(Fault {
                kind: FaultKind::InvalidParameters,
                kernel: kernel.name.clone(),
                message,
                ptx_line: 0,
                source: None,
                block: [0; 3],
                warp: 0,
                lanes: 0,
            });
        }
        let config = self.config();
        alu::set_approximate(config.approximate);
        let launched = world::Launched {
            kernel,
            launch: *launch,
            params,
            memory: &self.memory,
            table: self.memory.table(),
            config,
            multiprocessors: self.device.multiprocessors,
        };
        run::run(&launched)
    }
}

/// What a driver would not have let through.
fn wrong_launch(kernel: &Kernel, launch: &Launch, params: &[u8]) -> Option<String> {
    let Launch { grid, block, cluster, .. } = launch;
    let threads = block.iter().map(|&n| u64::from(n)).product::<u64>();
    if params.len() as u64 != kernel.param_bytes {
        return Some(format!(
            "{} bytes of parameters instead of {}",
            params.len(),
            kernel.param_bytes
        ));
    }
    if !(1..=1024).contains(&threads) || grid.contains(&0) {
        return Some(format!("a grid of {grid:?} blocks of {block:?} threads"));
    }
    let whole = grid.iter().zip(cluster).all(|(&blocks, &size)| blocks % size.max(1) == 0);
    if !whole || launch.cluster_blocks() > 16 {
        return Some(format!("a grid of {grid:?} blocks in clusters of {cluster:?}"));
    }
    None
}
