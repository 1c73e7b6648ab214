//! Special registers (PTX ISA: section 10).

use super::registers::{Longs, Row, Words};
use super::world::Launched;

/// Whether a special register has 64 bits.
pub(crate) fn is_wide(name: &str) -> bool {
    matches!(name, "clock64" | "globaltimer" | "gridid" | "current_graph_exec")
}

/// Whether a special register stays what it is while a warp runs.
pub(crate) fn is_constant(name: &str) -> bool {
    !matches!(
        name,
        "clock" | "clock_hi" | "clock64" | "globaltimer" | "globaltimer_lo" | "globaltimer_hi"
    ) && !name.starts_with("pm")
}

/// Where a warp stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) block: [u32; 3],
    /// Of the block in its cluster.
    pub(crate) rank: u32,
    pub(crate) warp: u32,
    pub(crate) slot: u32,
}

/// The index of a thread in its block, from its number (PTX ISA: %tid).
fn thread_index(number: u32, block: [u32; 3]) -> [u32; 3] {
    [number % block[0], number / block[0] % block[1], number / block[0] / block[1]]
}

/// Fills the rows of a special register.
pub(crate) fn fill(name: &str, rows: &mut [Row], launched: &Launched, at: Standing) {
    let launch = &launched.launch;
    let (base, component) = name.split_once('.').unwrap_or((name, ""));
    let axis = match component {
        "y" => 1,
        "z" => 2,
        _ => 0,
    };
    let all = |value: u32| [value; 32];
    let lanes = |f: &dyn Fn(u32) -> u32| -> Words { std::array::from_fn(|lane| f(lane as u32)) };
    let clusters: [u32; 3] =
        std::array::from_fn(|i| launch.grid[i].div_ceil(launch.cluster[i].max(1)));
    let shared = launched.kernel.static_shared as u32 + launch.dynamic_shared;
    let words = match base {
        "tid" => lanes(&|lane| thread_index(at.warp * 32 + lane, launch.block)[axis]),
        "ntid" => all(launch.block[axis]),
        "ctaid" => all(at.block[axis]),
        "nctaid" => all(launch.grid[axis]),
        "laneid" => lanes(&|lane| lane),
        "warpid" => all(at.warp),
        "nwarpid" => all(launched.warps()),
        "smid" => all(at.slot % launched.multiprocessors),
        "nsmid" => all(launched.multiprocessors),
        "lanemask_eq" => lanes(&|lane| 1 << lane),
        "lanemask_lt" => lanes(&|lane| (1 << lane) - 1),
        "lanemask_le" => lanes(&|lane| u32::MAX >> (31 - lane)),
        "lanemask_gt" => lanes(&|lane| !(u32::MAX >> (31 - lane))),
        "lanemask_ge" => lanes(&|lane| !((1 << lane) - 1)),
        "clusterid" => all(at.block[axis] / launch.cluster[axis].max(1)),
        "nclusterid" => all(clusters[axis]),
        "cluster_ctaid" => all(at.block[axis] % launch.cluster[axis].max(1)),
        "cluster_nctaid" => all(launch.cluster[axis].max(1)),
        "cluster_ctarank" => all(at.rank),
        "cluster_nctarank" => all(launch.cluster_blocks()),
        "is_explicit_cluster" => all(u32::from(launch.cluster_blocks() > 1)),
        "dynamic_smem_size" => all(launch.dynamic_shared),
        "total_smem_size" => all(shared.next_multiple_of(128)),
        "aggr_smem_size" => all(shared.next_multiple_of(128) + 1024),
        "reserved_smem_offset_begin" | "reserved_smem_offset_end" => all(0),
        // %gridid, %envreg and what else is the driver's to set.
        _ => all(0),
    };
    if is_wide(name) {
        let longs: &mut Longs = bytemuck::from_bytes_mut(bytemuck::cast_slice_mut(rows));
        *longs = words.map(u64::from);
    } else {
        rows[0].0 = words;
    }
}
