//! Launching kernels through the runtime.

use std::cell::RefCell;

use salient_gpu::device::{LaunchError, Shape};

use crate::driver::launch::{Attribute, Params, launch_checked, with_attributes};
use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, runtime};
use crate::runtime::register::{function, give_kernel};

/// `dim3`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dim3 {
    x: u32,
    y: u32,
    z: u32,
}

impl From<Dim3> for [u32; 3] {
    fn from(dim: Dim3) -> Self {
        [dim.x, dim.y, dim.z]
    }
}

/// `cudaLaunchConfig_t`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Config {
    grid: Dim3,
    block: Dim3,
    dynamic_shared: usize,
    stream: Handle,
    attributes: u64,
    count: u32,
}

/// What stands between `<<<` and `>>>`.
#[derive(Debug, Clone, Copy)]
struct Call {
    grid: Dim3,
    block: Dim3,
    dynamic_shared: usize,
    stream: Handle,
}

thread_local! {
    static CALLS: RefCell<Vec<Call>> = const { RefCell::new(Vec::new()) };
}

#[unsafe(no_mangle)]
extern "C" fn __cudaPushCallConfiguration(
    grid: Dim3,
    block: Dim3,
    dynamic_shared: usize,
    stream: Handle,
) -> u32 {
    CALLS.with_borrow_mut(|calls| calls.push(Call { grid, block, dynamic_shared, stream }));
    0
}

runtime! {
    fn __cudaPopCallConfiguration(
        grid: Out<Dim3>, block: Out<Dim3>, dynamic_shared: Out<usize>, stream: Out<Handle>
    ) {
        let call = CALLS.with_borrow_mut(Vec::pop).ok_or(Code::MISSING_CONFIGURATION)?;
        grid.set(call.grid)?;
        block.set(call.block)?;
        dynamic_shared.set(call.dynamic_shared)?;
        stream.set(call.stream)
    }

    fn __cudaGetKernel(kernel: Out<Handle>, stub: u64) {
        give_kernel(kernel, stub)
    }

    fn cudaGetKernel(kernel: Out<Handle>, stub: u64) {
        give_kernel(kernel, stub)
    }

    fn cudaGetFuncBySymbol(to: Out<Handle>, stub: u64) {
        to.wanted()?.set(function(stub)?)
    }

    fn __cudaLaunchKernel(
        kernel: u64,
        grid: Dim3,
        block: Dim3,
        params: In<u64>,
        dynamic_shared: usize,
        stream: Handle,
    ) {
        launch(kernel, plain(grid, block, dynamic_shared)?, params, stream)
    }

    fn __cudaLaunchKernel_ptsz(
        kernel: u64,
        grid: Dim3,
        block: Dim3,
        params: In<u64>,
        dynamic_shared: usize,
        stream: Handle,
    ) {
        launch(kernel, plain(grid, block, dynamic_shared)?, params, per_thread(stream))
    }

    fn cudaLaunchKernel(
        kernel: u64,
        grid: Dim3,
        block: Dim3,
        params: In<u64>,
        dynamic_shared: usize,
        stream: Handle,
    ) {
        launch(kernel, plain(grid, block, dynamic_shared)?, params, stream)
    }

    fn cudaLaunchKernel_ptsz(
        kernel: u64,
        grid: Dim3,
        block: Dim3,
        params: In<u64>,
        dynamic_shared: usize,
        stream: Handle,
    ) {
        launch(kernel, plain(grid, block, dynamic_shared)?, params, per_thread(stream))
    }

    fn cudaLaunchCooperativeKernel(
        kernel: u64,
        grid: Dim3,
        block: Dim3,
        params: In<u64>,
        dynamic_shared: usize,
        stream: Handle,
    ) {
        let shape = Shape { cooperative: true, ..plain(grid, block, dynamic_shared)? };
        launch(kernel, shape, params, stream)
    }

    fn cudaLaunchKernelExC(config: In<u8>, kernel: u64, params: In<u64>) {
        let (shape, stream) = configured(config)?;
        launch(kernel, shape, params, stream)
    }

    fn cudaLaunchKernelExC_ptsz(config: In<u8>, kernel: u64, params: In<u64>) {
        let (shape, stream) = configured(config)?;
        launch(kernel, shape, params, per_thread(stream))
    }
}

fn plain(grid: Dim3, block: Dim3, dynamic_shared: usize) -> Result<Shape> {
    Ok(Shape {
        grid: grid.into(),
        block: block.into(),
        cluster: None,
        dynamic_shared: u32::try_from(dynamic_shared).map_err(|_| Code::INVALID_VALUE)?,
        cooperative: false,
    })
}

/// The shape and the stream of a `cudaLaunchConfig_t`.
pub(crate) fn configured(config: In<u8>) -> Result<(Shape, Handle)> {
    let config = config.cast::<Config>().get()?;
    let shape = plain(config.grid, config.block, config.dynamic_shared)?;
    let attributes = In::<u8>::from_address(config.attributes).cast::<Attribute>();
    Ok((with_attributes(shape, attributes, config.count)?, config.stream))
}

fn launch(kernel: u64, shape: Shape, params: In<u64>, stream: Handle) -> Result {
    let function = function(kernel)?;
    let params = Params { each: params, extra: In::null() };
    launch_checked(function, shape, stream, params)?.map_err(|error| match error {
        LaunchError::Dimensions => Code::INVALID_CONFIGURATION,
        LaunchError::LaunchBounds | LaunchError::SharedMemory => Code::INVALID_VALUE,
        LaunchError::Registers => Code::OUT_OF_RESOURCES,
        LaunchError::NoClusters => Code::NOT_SUPPORTED,
        LaunchError::ClusterSize | LaunchError::ClusterGrid => Code::INVALID_CLUSTER_SIZE,
        LaunchError::CooperativeTooLarge => Code::COOPERATIVE_TOO_LARGE,
    })
}
