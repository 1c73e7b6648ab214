//! Kernels, their attributes and their occupancy, as the runtime has them.

use std::ffi::c_void;

use crate::driver::function::{param_info, set_attribute};
use crate::driver::occupancy::{
    check_flags, largest_cluster, resident_blocks, resident_clusters, shared_for,
};
use crate::error::Code;
use crate::ffi::{In, Out, runtime};
use crate::runtime::device::ensure;
use crate::runtime::launch::configured;
use crate::runtime::register::function;

/// `cudaFuncAttributes`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Attributes {
    static_shared: usize,
    constant: usize,
    local: usize,
    threads: i32,
    registers: i32,
    ptx_version: i32,
    binary_version: i32,
    cache_mode: i32,
    dynamic_limit: i32,
    carveout: i32,
    cluster_must_be_set: i32,
    required_cluster: [i32; 3],
    cluster_scheduling: i32,
    large_clusters: i32,
    reserved: [i32; 16],
}

runtime! {
    fn cudaFuncGetAttributes(attributes: Out<c_void>, kernel: u64) {
        let function = function(kernel)?;
        let (driver, current) = ensure()?;
        let tables = driver.tables();
        let function = tables.function(function)?;
        let architecture = driver.devices[current.device].limits.architecture;
        let get = |attribute| function.attribute(attribute, architecture);
        attributes.wanted()?.cast().set(Attributes {
            static_shared: get(1)? as usize,
            constant: get(2)? as usize,
            local: get(3)? as usize,
            threads: get(0)?,
            registers: get(4)?,
            ptx_version: get(5)?,
            binary_version: get(6)?,
            cache_mode: get(7)?,
            dynamic_limit: get(8)?,
            carveout: get(9)?,
            cluster_must_be_set: get(10)?,
            required_cluster: [get(11)?, get(12)?, get(13)?],
            cluster_scheduling: get(15)?,
            large_clusters: get(14)?,
            reserved: [0; 16],
        })
    }

    fn cudaFuncSetAttribute(kernel: u64, attribute: u32, value: i32) {
        let function = function(kernel)?;
        set_attribute(ensure()?.0, function, attribute, value)
    }

    fn cudaFuncSetCacheConfig(kernel: u64, config: u32) {
        function(kernel)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cudaFuncSetSharedMemConfig(kernel: u64, config: u32) {
        function(kernel)?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cudaFuncGetParamInfo(kernel: u64, index: usize, offset: Out<usize>, size: Out<usize>) {
        let function = function(kernel)?;
        param_info(ensure()?.0, function, index, offset, size)
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: Out<i32>, kernel: u64, threads: i32, dynamic_shared: usize
    ) {
        blocks.wanted()?.set(resident_blocks(function(kernel)?, threads, dynamic_shared)?)
    }

    fn cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: Out<i32>, kernel: u64, threads: i32, dynamic_shared: usize, flags: u32
    ) {
        check_flags(flags)?;
        blocks.wanted()?.set(resident_blocks(function(kernel)?, threads, dynamic_shared)?)
    }

    fn cudaOccupancyAvailableDynamicSMemPerBlock(
        bytes: Out<usize>, kernel: u64, blocks: i32, threads: i32
    ) {
        bytes.wanted()?.set(shared_for(function(kernel)?, blocks, threads)?)
    }

    fn cudaOccupancyMaxActiveClusters(clusters: Out<i32>, kernel: u64, config: In<u8>) {
        let (shape, _) = configured(config)?;
        clusters.wanted()?.set(resident_clusters(function(kernel)?, &shape)?)
    }

    fn cudaOccupancyMaxPotentialClusterSize(size: Out<i32>, kernel: u64, config: In<u8>) {
        let (shape, _) = configured(config)?;
        size.wanted()?.set(largest_cluster(function(kernel)?, &shape)?)
    }
}
