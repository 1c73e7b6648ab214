//! Launching kernels.

use std::sync::Arc;

use salient_gpu::device::{LaunchError, Shape};
use salient_gpu::{Kernel, Launch};

use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, driver};
use crate::state::driver;
use crate::work::{KernelWork, Work, submit};

const PARAM_END: u64 = 0;
const PARAM_BUFFER: u64 = 1;
const PARAM_BUFFER_SIZE: u64 = 2;

const ATTRIBUTE_COOPERATIVE: u32 = 2;
const ATTRIBUTE_CLUSTER: u32 = 4;
/// The others say how fast it should go, and which data stay in the cache.
const ATTRIBUTES: std::ops::RangeInclusive<u32> = 0..=16;

/// `CUlaunchConfig`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Config {
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: u32,
    stream: Handle,
    attributes: u64,
    count: u32,
}

/// `CUlaunchAttribute`, the same as `cudaLaunchAttribute`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attribute {
    id: u32,
    padding: u32,
    value: [u32; 16],
}

driver! {
    fn cuLaunchKernel(
        function: Handle,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        params: In<u64>,
        extra: In<u64>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, cluster: None, dynamic_shared, cooperative: false };
        launch(function, shape, stream, Params { each: params, extra })
    }

    fn cuLaunchKernel_ptsz(
        function: Handle,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        params: In<u64>,
        extra: In<u64>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, cluster: None, dynamic_shared, cooperative: false };
        launch(function, shape, per_thread(stream), Params { each: params, extra })
    }

    fn cuLaunchCooperativeKernel(
        function: Handle,
        grid_x: u32, grid_y: u32, grid_z: u32,
        block_x: u32, block_y: u32, block_z: u32,
        dynamic_shared: u32,
        stream: Handle,
        params: In<u64>,
    ) {
        let (grid, block) = ([grid_x, grid_y, grid_z], [block_x, block_y, block_z]);
        let shape = Shape { grid, block, cluster: None, dynamic_shared, cooperative: true };
        launch(function, shape, stream, Params { each: params, extra: In::null() })
    }

    fn cuLaunchKernelEx(config: In<u8>, function: Handle, params: In<u64>, extra: In<u64>) {
        let shape = shape_of(config)?;
        let config = config.cast::<Config>().get()?;
        launch(function, shape, config.stream, Params { each: params, extra })
    }
}

/// Where the parameters of a launch are: a pointer to each, or all in a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Params {
    pub(crate) each: In<u64>,
    pub(crate) extra: In<u64>,
}

/// What a `CUlaunchConfig` says of the shape.
pub(crate) fn shape_of(config: In<u8>) -> Result<Shape> {
    let config = config.cast::<Config>().get()?;
    let shape = Shape {
        grid: config.grid,
        block: config.block,
        cluster: None,
        dynamic_shared: config.dynamic_shared,
        cooperative: false,
    };
    with_attributes(shape, In::<u8>::from_address(config.attributes).cast(), config.count)
}

/// The shape with what the attributes of the launch say of it.
pub(crate) fn with_attributes(
    mut shape: Shape,
    attributes: In<Attribute>,
    count: u32,
) -> Result<Shape> {
    for attribute in attributes.list(count as usize)? {
        let [x, y, z, ..] = attribute.value;
        match attribute.id {
            ATTRIBUTE_COOPERATIVE => shape.cooperative = x != 0,
            ATTRIBUTE_CLUSTER => shape.cluster = Some([x, y, z]),
            other if ATTRIBUTES.contains(&other) => {}
            _ => return Err(Code::INVALID_VALUE),
        }
    }
    Ok(shape)
}

fn launch(function: Handle, shape: Shape, stream: Handle, params: Params) -> Result {
    launch_checked(function, shape, stream, params)?.map_err(|error| match error {
        LaunchError::Registers => Code::OUT_OF_RESOURCES,
        LaunchError::NoClusters => Code::NOT_SUPPORTED,
        LaunchError::ClusterSize | LaunchError::ClusterGrid => Code::INVALID_CLUSTER_SIZE,
        LaunchError::CooperativeTooLarge => Code::COOPERATIVE_TOO_LARGE,
        LaunchError::Dimensions | LaunchError::LaunchBounds | LaunchError::SharedMemory => {
            Code::INVALID_VALUE
        }
    })
}

/// Launches, or says which limit of the device forbids it.
pub(crate) fn launch_checked(
    function: Handle,
    shape: Shape,
    stream: Handle,
    params: Params,
) -> Result<std::result::Result<(), LaunchError>> {
    let driver = driver()?;
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let context = tables.streams[&stream].context;
    let device = tables.contexts[&context].device;
    let function = tables.function(function)?;
    if function.context != context {
        return Err(Code::INVALID_HANDLE);
    }
    let kernel = Arc::clone(&function.kernel);
    let cluster = match driver.devices[device].limits.check(&function.needs(), &shape) {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("software GPU: {} is not launched: {error}", kernel.name());
            return Ok(Err(error));
        }
    };
    drop(tables);
    let params = params.buffer(&kernel)?;
    let launch = Launch {
        grid: shape.grid,
        block: shape.block,
        dynamic_shared: shape.dynamic_shared,
        cluster,
        cooperative: shape.cooperative,
    };
    submit(driver, stream, Work::Kernel(Arc::new(KernelWork { kernel, launch, params })))?;
    Ok(Ok(()))
}

impl Params {
    /// A copy, as the kernel has them.
    fn buffer(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let mut buffer = vec![0; kernel.param_bytes() as usize];
        if !self.extra.is_null() {
            let given = self.given_buffer()?;
            if given.len() < buffer.len() {
                return Err(Code::INVALID_VALUE);
            }
            let length = buffer.len();
            buffer.copy_from_slice(&given[..length]);
            return Ok(buffer);
        }
        for (index, param) in kernel.params().iter().enumerate() {
            let from = In::<u8>::from_address(self.each.at(index)?);
            let (offset, size) = (param.offset as usize, param.size as usize);
            buffer[offset..offset + size].copy_from_slice(from.bytes(size)?);
        }
        Ok(buffer)
    }

    /// Words: a key and its value, until the end.
    fn given_buffer(&self) -> Result<&'static [u8]> {
        let (mut buffer, mut size) = (0, None);
        for index in (0..8).step_by(2) {
            match self.extra.at(index)? {
                PARAM_END => break,
                PARAM_BUFFER => buffer = self.extra.at(index + 1)?,
                PARAM_BUFFER_SIZE => size = Some(self.extra.at(index + 1)?),
                _ => return Err(Code::INVALID_VALUE),
            }
        }
        let size = In::<u8>::from_address(size.ok_or(Code::INVALID_VALUE)?);
        let size = size.cast::<usize>().get()?;
        In::from_address(buffer).bytes(size)
    }
}
