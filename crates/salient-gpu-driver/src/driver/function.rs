//! Kernels and their attributes.

use salient_gpu::device::Needs;

use crate::error::{Code, Result};
use crate::ffi::{Handle, Out, driver};
use crate::state::{Driver, Function, Tables, current};

const MAX_DYNAMIC_SHARED: u32 = 8;
const CARVEOUT: u32 = 9;
const CLUSTER_MUST_BE_SET: u32 = 10;
const REQUIRED_CLUSTER: [u32; 3] = [11, 12, 13];
const LARGE_CLUSTERS: u32 = 14;
const CLUSTER_SCHEDULING: u32 = 15;

driver! {
    fn cuFuncGetAttribute(value: Out<i32>, attribute: u32, function: Handle) {
        let (driver, current) = current()?;
        let tables = driver.tables();
        let architecture = driver.devices[current.device].limits.architecture;
        value.set(tables.function(function)?.attribute(attribute, architecture)?)
    }

    fn cuFuncSetAttribute(function: Handle, attribute: u32, value: i32) {
        let (driver, _) = current()?;
        set_attribute(driver, function, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        driver.tables().function(function)?;
        if config > 3 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: Handle, config: u32) {
        let (driver, _) = current()?;
        driver.tables().function(function)?;
        if config > 2 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<Handle>, function: Handle) {
        let (driver, _) = current()?;
        module.set(driver.tables().function(function)?.module)
    }

    fn cuFuncGetParamInfo(
        function: Handle, index: usize, offset: Out<usize>, size: Out<usize>
    ) {
        let (driver, _) = current()?;
        param_info(driver, function, index, offset, size)
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: Handle) {
        let (driver, _) = current()?;
        driver.tables().function(function)?;
        state.set(1)
    }

    fn cuFuncLoad(function: Handle) {
        let (driver, _) = current()?;
        driver.tables().function(function).map(|_| ())
    }
}

pub(crate) fn param_info(
    driver: &Driver,
    function: Handle,
    index: usize,
    offset: Out<usize>,
    size: Out<usize>,
) -> Result {
    let tables = driver.tables();
    let kernel = &tables.function(function)?.kernel;
    let param = kernel.params().get(index).ok_or(Code::INVALID_VALUE)?;
    offset.set(param.offset as usize)?;
    size.set_if_wanted(param.size as usize);
    Ok(())
}

pub(crate) fn set_attribute(
    driver: &Driver,
    function: Handle,
    attribute: u32,
    value: i32,
) -> Result {
    let mut tables = driver.tables();
    let context = tables.function(function)?.context;
    let device = tables.contexts.get(&context).ok_or(Code::CONTEXT_DESTROYED)?.device;
    let limits = driver.devices[device].limits;
    let function = tables.functions.get_mut(&function).ok_or(Code::INVALID_HANDLE)?;
    match attribute {
        MAX_DYNAMIC_SHARED => {
            let value = u32::try_from(value).map_err(|_| Code::INVALID_VALUE)?;
            if u64::from(value) + function.kernel.static_shared() > limits.shared_opt_in.into() {
                return Err(Code::INVALID_VALUE);
            }
            function.dynamic_limit = value;
        }
        CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
        LARGE_CLUSTERS if limits.has_clusters() && matches!(value, 0 | 1) => {
            function.large_clusters = value == 1;
        }
        CLUSTER_SCHEDULING if (0..=2).contains(&value) => {}
        // The cluster that a kernel was compiled for stays.
        _ => return Err(Code::INVALID_VALUE),
    }
    Ok(())
}

impl Tables {
    /// The kernel of a handle.
    pub(crate) fn function(&self, function: Handle) -> Result<&Function> {
        self.functions.get(&function).ok_or(Code::INVALID_HANDLE)
    }
}

impl Function {
    /// What a launch of it is checked against.
    pub(crate) fn needs(&self) -> Needs {
        let kernel = &self.kernel;
        Needs {
            registers: kernel.registers(),
            static_shared: u32::try_from(kernel.static_shared()).unwrap_or(u32::MAX),
            dynamic_limit: self.dynamic_limit,
            max_threads: kernel.max_threads(),
            required_block: kernel.required_threads(),
            required_cluster: kernel.required_cluster(),
            large_clusters: self.large_clusters,
        }
    }

    /// By `CUfunction_attribute`.
    pub(crate) fn attribute(&self, attribute: u32, architecture: u32) -> Result<i32> {
        let needs = self.needs();
        Ok(match attribute {
            0 => needs.threads() as i32,
            1 => needs.static_shared as i32,
            2 => 0,
            3 => self.kernel.local_bytes() as i32,
            4 => needs.registers as i32,
            5 => self.kernel.target().architecture as i32,
            6 => architecture as i32,
            7 => 0,
            MAX_DYNAMIC_SHARED => self.dynamic_limit.min(i32::MAX as u32) as i32,
            CARVEOUT => self.carveout,
            CLUSTER_MUST_BE_SET => 0,
            LARGE_CLUSTERS => i32::from(self.large_clusters),
            CLUSTER_SCHEDULING => 0,
            _ => {
                let axis = REQUIRED_CLUSTER.iter().position(|&number| number == attribute);
                let axis = axis.ok_or(Code::INVALID_VALUE)?;
                needs.required_cluster.map_or(0, |cluster| cluster[axis] as i32)
            }
        })
    }
}
