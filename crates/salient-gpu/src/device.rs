//! What real devices can do: limits of a launch, and how much of it is resident at once.
//!
//! The numbers are those of the CUDA C++ Programming Guide, "Compute Capabilities", and of the
//! devices' architecture white papers.

use std::fmt;

/// Threads of a block, at most.
pub const MAX_THREADS: u32 = 1024;
/// Threads along x, y and z, at most.
pub const MAX_BLOCK: [u32; 3] = [1024, 1024, 64];
/// Blocks along x, y and z, at most.
pub const MAX_GRID: [u32; 3] = [i32::MAX as u32, 65535, 65535];
/// Shared memory of a block, unless its kernel opts in for more.
pub const DEFAULT_SHARED: u32 = 48 << 10;
/// Registers of a block, and of a multiprocessor.
pub const REGISTERS: u32 = 65536;
/// Shared memory that the system keeps for itself in each block.
pub const RESERVED_SHARED: u32 = 1024;
/// Blocks of a cluster that every device with clusters takes.
pub const PORTABLE_CLUSTER: u32 = 8;
/// Blocks of a cluster, if its kernel allows for sizes that not every device takes.
pub const MAX_CLUSTER: u32 = 16;

const WARP: u32 = 32;
/// Each with a quarter of the registers and of the warps.
const PARTITIONS: u32 = 4;
const REGISTER_GRANULARITY: u32 = 256;
const SHARED_GRANULARITY: u32 = 128;
/// Multiprocessors that a cluster may spread over.
const CLUSTER_PROCESSORS: u32 = 16;

/// A device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// What it is modelled on.
    pub model: &'static str,
    /// 90 for 9.0.
    pub architecture: u32,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Resident threads of a multiprocessor, at most.
    pub threads: u32,
    /// Resident blocks of a multiprocessor, at most.
    pub blocks: u32,
    /// Shared memory of a multiprocessor.
    pub shared: u32,
    /// Shared memory of a block whose kernel opts in.
    pub shared_opt_in: u32,
    /// Bytes of its memory.
    pub memory_bytes: u64,
    /// Bytes of its level 2 cache.
    pub level2: u32,
    /// Clock of the multiprocessors, in kHz.
    pub clock: u32,
    /// Clock of the memory, in kHz.
    pub memory_clock: u32,
    /// Width of the memory bus, in bits.
    pub bus: u32,
    /// Single precision over double precision throughput.
    pub double_ratio: u32,
}

const DEVICES: [Device; 6] = [
    Device {
        model: "A100",
        architecture: 80,
        multiprocessors: 108,
        threads: 2048,
        blocks: 32,
        shared: 164 << 10,
        shared_opt_in: 163 << 10,
        memory_bytes: 80 << 30,
        level2: 40 << 20,
        clock: 1_410_000,
        memory_clock: 1_512_000,
        bus: 5120,
        double_ratio: 2,
    },
    Device {
        model: "RTX 3090",
        architecture: 86,
        multiprocessors: 82,
        threads: 1536,
        blocks: 16,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        memory_bytes: 24 << 30,
        level2: 6 << 20,
        clock: 1_695_000,
        memory_clock: 9_751_000,
        bus: 384,
        double_ratio: 32,
    },
    Device {
        model: "L40S",
        architecture: 89,
        multiprocessors: 142,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        memory_bytes: 48 << 30,
        level2: 96 << 20,
        clock: 2_520_000,
        memory_clock: 9_001_000,
        bus: 384,
        double_ratio: 64,
    },
    Device {
        model: "H100",
        architecture: 90,
        multiprocessors: 132,
        threads: 2048,
        blocks: 32,
        shared: 228 << 10,
        shared_opt_in: 227 << 10,
        memory_bytes: 80 << 30,
        level2: 50 << 20,
        clock: 1_980_000,
        memory_clock: 2_619_000,
        bus: 5120,
        double_ratio: 2,
    },
    Device {
        model: "B200",
        architecture: 100,
        multiprocessors: 148,
        threads: 2048,
        blocks: 32,
        shared: 228 << 10,
        shared_opt_in: 227 << 10,
        memory_bytes: 180 << 30,
        level2: 126 << 20,
        clock: 1_965_000,
        memory_clock: 3_996_000,
        bus: 7680,
        double_ratio: 2,
    },
    Device {
        model: "RTX 5090",
        architecture: 120,
        multiprocessors: 170,
        threads: 1536,
        blocks: 24,
        shared: 100 << 10,
        shared_opt_in: 99 << 10,
        memory_bytes: 32 << 30,
        level2: 96 << 20,
        clock: 2_407_000,
        memory_clock: 14_001_000,
        bus: 512,
        double_ratio: 64,
    },
];

/// What a kernel needs, and what was allowed to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// Registers of a thread.
    pub registers: u32,
    /// Shared memory that it declares.
    pub static_shared: u32,
    /// Dynamic shared memory that it opted in for; no more than the default, if it did not.
    pub dynamic_limit: u32,
    /// Threads of a block, at most, as it was compiled.
    pub max_threads: Option<u32>,
    /// The very block that it was compiled for.
    pub required_block: Option<[u32; 3]>,
    /// The very cluster that it was compiled for.
    pub required_cluster: Option<[u32; 3]>,
    /// It may be launched in clusters that not every device takes.
    pub large_clusters: bool,
}

/// How a kernel is to be launched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: [u32; 3],
    /// Blocks of a cluster; `None` if the launch says nothing about it.
    pub cluster: Option<[u32; 3]>,
    /// Dynamic shared memory of a block.
    pub dynamic_shared: u32,
    /// All blocks are resident at once.
    pub cooperative: bool,
}

/// Why a launch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaunchError {
    /// A grid or a block with no threads, or beyond the limits of any kernel.
    Dimensions,
    /// Another block than the kernel was compiled for.
    LaunchBounds,
    /// More shared memory than there is, or than was allowed.
    SharedMemory,
    /// More registers than there are.
    Registers,
    /// Clusters on a device without them.
    NoClusters,
    /// A cluster that the device or the kernel does not take.
    ClusterSize,
    /// Blocks that are left over by whole clusters.
    ClusterGrid,
    /// A cooperative grid that is not resident at once.
    CooperativeTooLarge,
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dimensions => "the grid or the block is empty or larger than the device takes",
            Self::LaunchBounds => "the block is not one that the kernel was compiled for",
            Self::SharedMemory => {
                "the block takes more shared memory than there is, or than the kernel opted in for"
            }
            Self::Registers => "the block takes more registers than a multiprocessor has",
            Self::NoClusters => "the device has no clusters",
            Self::ClusterSize => "the device or the kernel does not take clusters of this size",
            Self::ClusterGrid => "the grid is not a multiple of the cluster",
            Self::CooperativeTooLarge => "the cooperative grid is not resident at once",
        })
    }
}

impl std::error::Error for LaunchError {}

impl Device {
    /// The device of an architecture.
    ///
    /// # Panics
    ///
    /// An architecture that [`crate::Config`] does not take.
    pub fn of(architecture: u32) -> &'static Self {
        DEVICES
            .iter()
            .find(|device| device.architecture == architecture)
            .unwrap_or_else(|| panic!("no software GPU is of sm_{architecture}"))
    }

    /// Clusters and tensor copies are there.
    pub fn has_clusters(&self) -> bool {
        self.architecture >= 90
    }

    /// Says whether the device takes a launch, before it begins; if so, with which cluster.
    ///
    /// # Errors
    ///
    /// The first limit that it is beyond.
    pub fn check(&self, needs: &Needs, shape: &Shape) -> Result<[u32; 3], LaunchError> {
        let within = |size: [u32; 3], limit: [u32; 3]| {
            (0..3).all(|axis| (1..=limit[axis]).contains(&size[axis]))
        };
        if !within(shape.grid, MAX_GRID) || !within(shape.block, MAX_BLOCK) {
            return Err(LaunchError::Dimensions);
        }
        let threads: u32 = shape.block.iter().product();
        if threads > MAX_THREADS {
            return Err(LaunchError::Dimensions);
        }
        if needs.max_threads.is_some_and(|most| threads > most)
            || needs.required_block.is_some_and(|block| block != shape.block)
        {
            return Err(LaunchError::LaunchBounds);
        }
        let limit = needs.dynamic_limit.min(self.shared_opt_in.saturating_sub(needs.static_shared));
        if shape.dynamic_shared > limit {
            return Err(LaunchError::SharedMemory);
        }
        if threads > max_threads_by_registers(needs.registers) {
            return Err(LaunchError::Registers);
        }
        let cluster = self.check_cluster(needs, shape)?;
        if shape.cooperative {
            let resident = if cluster == [1; 3] {
                self.resident_blocks(needs, threads, shape.dynamic_shared)
            } else {
                let blocks = cluster.iter().product::<u32>();
                let clusters = self.resident_clusters(needs, threads, shape.dynamic_shared, blocks);
                u64::from(clusters) * u64::from(blocks) / u64::from(self.multiprocessors)
            };
            let blocks: u64 = shape.grid.iter().map(|&size| u64::from(size)).product();
            if blocks > resident * u64::from(self.multiprocessors) {
                return Err(LaunchError::CooperativeTooLarge);
            }
        }
        Ok(cluster)
    }

    fn check_cluster(&self, needs: &Needs, shape: &Shape) -> Result<[u32; 3], LaunchError> {
        let cluster = match (needs.required_cluster, shape.cluster) {
            (Some(required), Some(cluster)) if required != cluster => {
                return Err(LaunchError::ClusterSize);
            }
            (required, cluster) => required.or(cluster).unwrap_or([1; 3]),
        };
        if cluster == [1; 3] {
            return Ok(cluster);
        }
        if !self.has_clusters() {
            return Err(LaunchError::NoClusters);
        }
        let blocks = cluster.iter().map(|&size| u64::from(size)).product::<u64>();
        let most = if needs.large_clusters { MAX_CLUSTER } else { PORTABLE_CLUSTER };
        if blocks == 0 || blocks > u64::from(most) {
            return Err(LaunchError::ClusterSize);
        }
        if (0..3).any(|axis| !shape.grid[axis].is_multiple_of(cluster[axis])) {
            return Err(LaunchError::ClusterGrid);
        }
        Ok(cluster)
    }

    /// Blocks that one multiprocessor holds at once.
    pub fn resident_blocks(&self, needs: &Needs, threads: u32, dynamic_shared: u32) -> u64 {
        if threads == 0 || threads > max_threads_by_registers(needs.registers).min(MAX_THREADS) {
            return 0;
        }
        let shared = needs.static_shared.saturating_add(dynamic_shared);
        if shared > self.shared_opt_in {
            return 0;
        }
        let warps = threads.div_ceil(WARP);
        let by_threads = self.threads / WARP / warps;
        let by_registers = match warps_by_registers(needs.registers) {
            Some(most) => most / warps,
            None => u32::MAX,
        };
        let by_shared =
            self.shared / (shared + RESERVED_SHARED).next_multiple_of(SHARED_GRANULARITY);
        u64::from(self.blocks.min(by_threads).min(by_registers).min(by_shared))
    }

    /// Clusters of this size that the whole device holds at once.
    pub fn resident_clusters(
        &self,
        needs: &Needs,
        threads: u32,
        dynamic_shared: u32,
        blocks: u32,
    ) -> u32 {
        let per_processor = self.resident_blocks(needs, threads, dynamic_shared) as u32;
        if blocks == 0 || per_processor == 0 {
            return 0;
        }
        // A cluster stays within a group of multiprocessors.
        let groups = self.multiprocessors / CLUSTER_PROCESSORS;
        let rest = self.multiprocessors % CLUSTER_PROCESSORS;
        let whole = groups * (CLUSTER_PROCESSORS * per_processor / blocks);
        whole + rest * per_processor / blocks
    }

    /// Dynamic shared memory that each block of a multiprocessor can have if it has this many.
    pub fn dynamic_shared_for(&self, needs: &Needs, blocks: u32) -> Option<u32> {
        let each = self.shared / blocks.max(1) / SHARED_GRANULARITY * SHARED_GRANULARITY;
        let each = each.checked_sub(RESERVED_SHARED)?.min(self.shared_opt_in);
        each.checked_sub(needs.static_shared)
    }
}

impl Needs {
    /// Threads of a block that a launch of the kernel may have.
    pub fn threads(&self) -> u32 {
        self.max_threads
            .unwrap_or(MAX_THREADS)
            .min(max_threads_by_registers(self.registers))
            .min(MAX_THREADS)
    }
}

/// Threads of a block that its registers suffice for. They are handed out by the warp, 256 at a
/// time, and a block's warps take turns on the partitions of the multiprocessor.
fn max_threads_by_registers(registers: u32) -> u32 {
    match warps_by_registers(registers) {
        Some(warps) => warps * WARP,
        None => MAX_THREADS,
    }
}

fn warps_by_registers(registers: u32) -> Option<u32> {
    let per_warp = (registers * WARP).next_multiple_of(REGISTER_GRANULARITY);
    (REGISTERS / PARTITIONS).checked_div(per_warp).map(|warps| warps * PARTITIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEEDS: Needs = Needs {
        registers: 32,
        static_shared: 0,
        dynamic_limit: DEFAULT_SHARED,
        max_threads: None,
        required_block: None,
        required_cluster: None,
        large_clusters: false,
    };
    const SHAPE: Shape = Shape {
        grid: [1; 3],
        block: [256, 1, 1],
        cluster: None,
        dynamic_shared: 0,
        cooperative: false,
    };

    #[test]
    fn a_launch_is_taken_up_to_each_limit_and_no_further() {
        let check = |architecture: u32, needs: Needs, shape: Shape| {
            Device::of(architecture).check(&needs, &shape).err()
        };
        let grid = |grid| Shape { grid, ..SHAPE };
        let block = |block| Shape { block, ..SHAPE };
        let shared = |dynamic_shared| Shape { dynamic_shared, ..SHAPE };
        assert_eq!(check(90, NEEDS, grid([i32::MAX as u32, 65535, 65535])), None);
        for (axis, limit) in [(0, 1 << 31), (1, 65536), (2, 65536)] {
            let mut size = [1; 3];
            size[axis] = limit;
            assert_eq!(check(90, NEEDS, grid(size)), Some(LaunchError::Dimensions));
            size[axis] = 0;
            assert_eq!(check(90, NEEDS, grid(size)), Some(LaunchError::Dimensions));
            assert_eq!(check(90, NEEDS, block(size)), Some(LaunchError::Dimensions));
        }
        assert_eq!(check(90, NEEDS, block([16, 1, 64])), None);
        assert_eq!(check(90, NEEDS, block([8, 1, 65])), Some(LaunchError::Dimensions));
        assert_eq!(check(90, NEEDS, block([1024, 2, 1])), Some(LaunchError::Dimensions));

        let bound = Needs { max_threads: Some(128), ..NEEDS };
        assert_eq!(check(90, bound, block([128, 1, 1])), None);
        assert_eq!(check(90, bound, block([129, 1, 1])), Some(LaunchError::LaunchBounds));
        let required = Needs { required_block: Some([64, 2, 1]), ..NEEDS };
        assert_eq!(check(90, required, block([64, 2, 1])), None);
        assert_eq!(check(90, required, block([128, 1, 1])), Some(LaunchError::LaunchBounds));

        // 255 registers are 8192 a warp: 2 warps in each partition's 16384.
        let registers = Needs { registers: 255, ..NEEDS };
        assert_eq!(check(90, registers, block([256, 1, 1])), None);
        assert_eq!(check(90, registers, block([257, 1, 1])), Some(LaunchError::Registers));
        let registers = Needs { registers: 64, ..NEEDS };
        assert_eq!(check(90, registers, block([1024, 1, 1])), None);
        let registers = Needs { registers: 65, ..NEEDS };
        assert_eq!(check(90, registers, block([1024, 1, 1])), Some(LaunchError::Registers));

        assert_eq!(check(90, NEEDS, shared(48 << 10)), None);
        assert_eq!(check(90, NEEDS, shared((48 << 10) + 1)), Some(LaunchError::SharedMemory));
        for (architecture, most) in
            [(80, 163), (86, 99), (89, 99), (90, 227), (100, 227), (120, 99)]
        {
            let needs = Needs { dynamic_limit: u32::MAX, static_shared: 1024, ..NEEDS };
            assert_eq!(check(architecture, needs, shared((most - 1) << 10)), None);
            assert_eq!(
                check(architecture, needs, shared(((most - 1) << 10) + 1)),
                Some(LaunchError::SharedMemory)
            );
        }
    }

    #[test]
    fn clusters_are_of_newer_devices_and_divide_the_grid() {
        let clustered = |blocks, cluster| Shape {
            grid: [blocks, 1, 1],
            cluster: Some([cluster, 1, 1]),
            ..SHAPE
        };
        let h100 = Device::of(90);
        assert_eq!(h100.check(&NEEDS, &clustered(16, 8)), Ok([8, 1, 1]));
        assert_eq!(h100.check(&NEEDS, &clustered(16, 16)), Err(LaunchError::ClusterSize));
        let large = Needs { large_clusters: true, ..NEEDS };
        assert_eq!(h100.check(&large, &clustered(16, 16)), Ok([16, 1, 1]));
        assert_eq!(h100.check(&large, &clustered(32, 32)), Err(LaunchError::ClusterSize));
        assert_eq!(h100.check(&NEEDS, &clustered(15, 8)), Err(LaunchError::ClusterGrid));
        assert_eq!(Device::of(89).check(&NEEDS, &clustered(16, 8)), Err(LaunchError::NoClusters));
        assert_eq!(Device::of(89).check(&NEEDS, &clustered(16, 1)), Ok([1; 3]));
        let required = Needs { required_cluster: Some([2, 1, 1]), ..NEEDS };
        assert_eq!(h100.check(&required, &SHAPE), Err(LaunchError::ClusterGrid));
        assert_eq!(h100.check(&required, &clustered(4, 4)), Err(LaunchError::ClusterSize));
        assert_eq!(h100.check(&required, &Shape { grid: [4, 1, 1], ..SHAPE }), Ok([2, 1, 1]));
    }

    #[test]
    fn a_cooperative_grid_fits_at_once() {
        let grid = |blocks| Shape { grid: [blocks, 1, 1], cooperative: true, ..SHAPE };
        // 256 threads of 32 registers: 8 blocks of 8 warps are the 64 warps of an A100's.
        assert_eq!(Device::of(80).check(&NEEDS, &grid(108 * 8)), Ok([1; 3]));
        assert_eq!(
            Device::of(80).check(&NEEDS, &grid(108 * 8 + 1)),
            Err(LaunchError::CooperativeTooLarge)
        );
        assert_eq!(Device::of(86).check(&NEEDS, &grid(82 * 6)), Ok([1; 3]));
        assert_eq!(
            Device::of(86).check(&NEEDS, &grid(82 * 6 + 1)),
            Err(LaunchError::CooperativeTooLarge)
        );
    }

    /// As the occupancy calculator of the CUDA toolkit has it: registers, threads, static and
    /// dynamic shared memory; then, for each device, the resident blocks.
    #[test]
    fn residency_is_as_the_toolkit_calculates() {
        #[rustfmt::skip]
        const CASES: [(u32, u32, u32, u32); 18] = [
            (32, 256, 0, 0), (40, 256, 0, 0), (64, 128, 0, 0), (64, 96, 0, 0), (72, 160, 0, 0),
            (128, 384, 0, 0), (168, 384, 0, 100 << 10), (255, 256, 0, 0), (24, 32, 0, 0),
            (32, 1024, 0, 0), (48, 128, 16384, 0), (48, 128, 100, 20000), (32, 64, 0, 49152),
            (32, 128, 1024, 98 << 10), (40, 1024, 0, 0), (96, 512, 0, 0), (33, 33, 0, 0),
            (80, 352, 0, 4096),
        ];
        #[rustfmt::skip]
        let expected = [
            (80, [8, 6, 8, 10, 5, 1, 1, 1, 32, 2, 9, 7, 3, 1, 1, 1, 24, 2]),
            (86, [6, 6, 8, 10, 5, 1, 0, 1, 16, 1, 5, 4, 2, 1, 1, 1, 16, 2]),
            (89, [6, 6, 8, 10, 5, 1, 0, 1, 24, 1, 5, 4, 2, 1, 1, 1, 24, 2]),
            (90, [8, 6, 8, 10, 5, 1, 1, 1, 32, 2, 10, 10, 4, 2, 1, 1, 24, 2]),
            (100, [8, 6, 8, 10, 5, 1, 1, 1, 32, 2, 10, 10, 4, 2, 1, 1, 24, 2]),
            (120, [6, 6, 8, 10, 5, 1, 0, 1, 24, 1, 5, 4, 2, 1, 1, 1, 24, 2]),
        ];
        for (architecture, blocks) in expected {
            let found = CASES.map(|(registers, threads, static_shared, dynamic_shared)| {
                let needs = Needs { registers, static_shared, ..NEEDS };
                Device::of(architecture).resident_blocks(&needs, threads, dynamic_shared)
            });
            assert_eq!(found, blocks, "sm_{architecture}");
        }
    }

    #[test]
    fn shared_memory_for_so_many_blocks_lets_them_reside() {
        for device in &DEVICES {
            let needs = Needs { static_shared: 500, registers: 16, ..NEEDS };
            for blocks in 1..=device.blocks {
                let Some(dynamic) = device.dynamic_shared_for(&needs, blocks) else { continue };
                assert!(device.resident_blocks(&needs, 32, dynamic) >= u64::from(blocks));
            }
        }
    }
}
