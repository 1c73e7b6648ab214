//! How much of a kernel is resident at once.

use salient_gpu::device::{Device, Needs};

use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, driver};
use crate::state::current;

type SharedOfBlock = Option<unsafe extern "C" fn(i32) -> usize>;

driver! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>, function: Handle, threads: i32, dynamic_shared: usize
    ) {
        blocks.wanted()?.set(resident_blocks(function, threads, dynamic_shared)?)
    }

    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, function: Handle, threads: i32, dynamic_shared: usize, flags: u32
    ) {
        check_flags(flags)?;
        blocks.wanted()?.set(resident_blocks(function, threads, dynamic_shared)?)
    }

    fn cuOccupancyMaxPotentialBlockSize(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        shared_of_block: SharedOfBlock,
        dynamic_shared: usize,
        limit: i32,
    ) {
        best_block(grid, block, function, shared_of_block, dynamic_shared, limit)
    }

    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: Out<i32>,
        block: Out<i32>,
        function: Handle,
        shared_of_block: SharedOfBlock,
        dynamic_shared: usize,
        limit: i32,
        flags: u32,
    ) {
        check_flags(flags)?;
        best_block(grid, block, function, shared_of_block, dynamic_shared, limit)
    }

    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>, function: Handle, blocks: i32, threads: i32
    ) {
        bytes.wanted()?.set(shared_for(function, blocks, threads)?)
    }

    fn cuOccupancyMaxActiveClusters(clusters: Out<i32>, function: Handle, config: In<u8>) {
        let shape = crate::driver::launch::shape_of(config)?;
        clusters.wanted()?.set(resident_clusters(function, &shape)?)
    }

    fn cuOccupancyMaxPotentialClusterSize(size: Out<i32>, function: Handle, config: In<u8>) {
        let shape = crate::driver::launch::shape_of(config)?;
        size.wanted()?.set(largest_cluster(function, &shape)?)
    }
}

pub(crate) fn check_flags(flags: u32) -> Result {
    if flags > 1 { Err(Code::INVALID_VALUE) } else { Ok(()) }
}

fn of(function: Handle) -> Result<(&'static Device, Needs)> {
    let (driver, _) = current()?;
    let tables = driver.tables();
    let function = tables.function(function)?;
    let device = tables.contexts.get(&function.context).ok_or(Code::CONTEXT_DESTROYED)?.device;
    Ok((driver.devices[device].limits, function.needs()))
}

pub(crate) fn resident_blocks(
    function: Handle,
    threads: i32,
    dynamic_shared: usize,
) -> Result<i32> {
    let (device, needs) = of(function)?;
    let threads = u32::try_from(threads).ok().filter(|&threads| threads > 0);
    let threads = threads.ok_or(Code::INVALID_VALUE)?;
    let shared = u32::try_from(dynamic_shared).unwrap_or(u32::MAX);
    if shared > needs.dynamic_limit || threads > needs.threads() {
        return Ok(0);
    }
    Ok(device.resident_blocks(&needs, threads, shared) as i32)
}

/// The block with which most threads are resident, the largest of several.
fn best_block(
    grid: Out<i32>,
    block: Out<i32>,
    function: Handle,
    shared_of_block: SharedOfBlock,
    dynamic_shared: usize,
    limit: i32,
) -> Result {
    let (device, needs) = of(function)?;
    let most = match u32::try_from(limit) {
        Ok(limit) if limit > 0 => needs.threads().min(limit),
        Ok(_) => needs.threads(),
        Err(_) => return Err(Code::INVALID_VALUE),
    };
    let residency = |threads: u32| {
        let shared = match shared_of_block {
            // SAFETY: the caller hands the function over to be called with sizes of blocks.
            Some(shared) => unsafe { shared(threads as i32) },
            None => dynamic_shared,
        };
        let shared = u32::try_from(shared).unwrap_or(u32::MAX);
        device.resident_blocks(&needs, threads, shared) as u32
    };
    let sizes = (1..=most / 32).map(|warps| warps * 32).chain([most]);
    let best = sizes.max_by_key(|&threads| residency(threads) * threads).unwrap_or(most);
    grid.wanted()?.set((residency(best) * device.multiprocessors) as i32)?;
    block.wanted()?.set(best as i32)
}

pub(crate) fn shared_for(function: Handle, blocks: i32, threads: i32) -> Result<usize> {
    let (device, needs) = of(function)?;
    let positive = |number: i32| u32::try_from(number).ok().filter(|&number| number > 0);
    let blocks = positive(blocks).ok_or(Code::INVALID_VALUE)?;
    let threads = positive(threads).ok_or(Code::INVALID_VALUE)?;
    if device.resident_blocks(&needs, threads, 0) < u64::from(blocks) {
        return Err(Code::INVALID_VALUE);
    }
    Ok(device.dynamic_shared_for(&needs, blocks).unwrap_or(0) as usize)
}

pub(crate) fn resident_clusters(
    function: Handle,
    shape: &salient_gpu::device::Shape,
) -> Result<i32> {
    let (device, needs) = of(function)?;
    let cluster = needs.required_cluster.or(shape.cluster).unwrap_or([1; 3]);
    let threads = shape.block.iter().product();
    let blocks = cluster.iter().product();
    if !device.has_clusters() {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(device.resident_clusters(&needs, threads, shape.dynamic_shared, blocks) as i32)
}

pub(crate) fn largest_cluster(function: Handle, shape: &salient_gpu::device::Shape) -> Result<i32> {
    let (device, needs) = of(function)?;
    if !device.has_clusters() {
        return Err(Code::NOT_SUPPORTED);
    }
    let most = if needs.large_clusters { 16 } else { 8 };
    let threads = shape.block.iter().product();
    let fits =
        |&blocks: &u32| device.resident_clusters(&needs, threads, shape.dynamic_shared, blocks) > 0;
    Ok((1..=most).rev().find(fits).unwrap_or(0) as i32)
}
