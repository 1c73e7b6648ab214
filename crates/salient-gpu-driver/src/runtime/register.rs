//! What the host code that nvcc generates says of its kernels and variables when the program
//! starts, and where these are once they are used.

use std::collections::HashMap;
use std::sync::Mutex;

use salient_gpu::config::Loading;

use crate::driver::module::{Image, function_of, load_image_anyway};
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, Text};
use crate::runtime::device::ensure;
use crate::runtime::quietly;
use crate::state::{Current, Driver, fresh, lock};

/// A fat binary of the program, and what is in it.
struct Binary {
    /// Where its `__fatBinC_Wrapper_t` is.
    wrapper: u64,
    /// Its module in each context that has used it, or why there is none.
    modules: HashMap<Handle, Result<Handle>>,
}

/// A kernel or a variable of a binary.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Symbol {
    binary: Handle,
    name: String,
}

#[derive(Default)]
struct Registry {
    binaries: HashMap<Handle, Binary>,
    /// By the address of the host's stub.
    kernels: HashMap<u64, Symbol>,
    /// By the address of the host's shadow.
    variables: HashMap<u64, Symbol>,
    /// What `cudaGetKernel` gives for a stub, and the stub.
    kernel_handles: HashMap<Handle, u64>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

fn with_registry<T>(body: impl FnOnce(&mut Registry) -> T) -> T {
    body(lock(&REGISTRY).get_or_insert_default())
}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFatBinary(wrapper: In<u8>) -> Handle {
    let handle = fresh();
    let binary = Binary { wrapper: wrapper.address(), modules: HashMap::new() };
    with_registry(|registry| registry.binaries.insert(handle, binary));
    handle
}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFatBinaryEnd(_binary: Handle) {}

#[unsafe(no_mangle)]
extern "C" fn __cudaUnregisterFatBinary(binary: Handle) {
    with_registry(|registry| {
        registry.binaries.remove(&binary);
        registry.kernels.retain(|_, symbol| symbol.binary != binary);
        registry.variables.retain(|_, symbol| symbol.binary != binary);
    });
}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterFunction(
    binary: Handle,
    stub: u64,
    _device_stub: u64,
    name: Text,
    _thread_limit: i32,
    _thread: u64,
    _block: u64,
    _block_dim: u64,
    _grid_dim: u64,
    _warp_size: u64,
) {
    quietly("__cudaRegisterFunction", || {
        let symbol = Symbol { binary, name: name.str()?.to_owned() };
        with_registry(|registry| registry.kernels.insert(stub, symbol));
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterVar(
    binary: Handle,
    shadow: u64,
    _device_address: u64,
    name: Text,
    _external: i32,
    _size: usize,
    _constant: i32,
    _global: i32,
) {
    quietly("__cudaRegisterVar", || {
        let symbol = Symbol { binary, name: name.str()?.to_owned() };
        with_registry(|registry| registry.variables.insert(shadow, symbol));
        Ok(())
    });
}

/// `__managed__` variables are not there: what uses one gets an error.
#[unsafe(no_mangle)]
extern "C" fn __cudaRegisterManagedVar(
    _binary: Handle,
    _shadow: u64,
    _device_address: u64,
    name: Text,
    _external: i32,
    _size: usize,
    _constant: i32,
    _global: i32,
) {
    quietly("__cudaRegisterManagedVar", || {
        eprintln!("software GPU: __managed__ variables are not supported: {:?}", name.str()?);
        Err(Code::NOT_SUPPORTED)
    });
}

#[unsafe(no_mangle)]
extern "C" fn __cudaInitModule(_binary: Handle) -> i8 {
    1
}

/// A handle of the kernel, before it is known where it will run.
fn kernel_handle(stub: u64) -> Result<Handle> {
    with_registry(|registry| {
        if !registry.kernels.contains_key(&stub) {
            return Err(Code::INVALID_DEVICE_FUNCTION);
        }
        let known = registry.kernel_handles.iter().find(|&(_, &other)| other == stub);
        if let Some((&handle, _)) = known {
            return Ok(handle);
        }
        let handle = fresh();
        registry.kernel_handles.insert(handle, stub);
        Ok(handle)
    })
}

/// The driver's handle, in the current context, of a kernel that is given by its stub, by what
/// [`kernel_handle`] gave for it, or by that handle itself.
pub(crate) fn function(kernel: u64) -> Result<Handle> {
    let (driver, current) = ensure()?;
    if driver.tables().functions.contains_key(&kernel) {
        return Ok(kernel);
    }
    let symbol = with_registry(|registry| {
        let stub = registry.kernel_handles.get(&kernel).copied().unwrap_or(kernel);
        registry.kernels.get(&stub).cloned()
    });
    let symbol = symbol.ok_or(Code::INVALID_DEVICE_FUNCTION)?;
    if driver.config().loading == Loading::Before && !is_loaded(driver, current, &symbol) {
        driver.tables().check_unsafe_call().inspect_err(|_| {
            eprintln!("software GPU: {} is first used while a stream is captured", symbol.name);
        })?;
    }
    let module = module(driver, current, symbol.binary)?;
    function_of(&mut driver.tables(), module, &symbol.name)
        .map_err(|_| Code::INVALID_DEVICE_FUNCTION)
}

/// Whether a kernel was used before in the current context.
fn is_loaded(driver: &Driver, current: Current, symbol: &Symbol) -> bool {
    let module = with_registry(|registry| {
        let modules = &registry.binaries.get(&symbol.binary)?.modules;
        modules.get(&current.context).copied()?.ok()
    });
    let tables = driver.tables();
    let module = module.and_then(|module| tables.modules.get(&module));
    module.is_some_and(|module| module.functions.contains_key(&symbol.name))
}

/// Where a variable is on the current device, and its size.
pub(crate) fn variable(shadow: u64) -> Result<(u64, u64)> {
    let (driver, current) = ensure()?;
    let symbol = with_registry(|registry| registry.variables.get(&shadow).cloned());
    let symbol = symbol.ok_or(Code::INVALID_SYMBOL)?;
    let module = module(driver, current, symbol.binary)?;
    let tables = driver.tables();
    let module = tables.modules.get(&module).ok_or(Code::INVALID_SYMBOL)?;
    module.module.variable(&symbol.name).ok_or(Code::INVALID_SYMBOL)
}

/// The module of a binary in the current context, loaded when it is used first.
fn module(driver: &Driver, current: Current, binary: Handle) -> Result<Handle> {
    let mut registry = lock(&REGISTRY);
    let registry = registry.get_or_insert_default();
    let binary = registry.binaries.get_mut(&binary).ok_or(Code::INVALID_DEVICE_FUNCTION)?;
    let known = binary.modules.get(&current.context).copied();
    match known {
        Some(Ok(module)) if driver.tables().modules.contains_key(&module) => return Ok(module),
        Some(Err(code)) => return Err(code),
        // The context was reset.
        _ => {}
    }
    let image = Image::at(In::from_address(binary.wrapper));
    let loaded = image.and_then(|image| load_image_anyway(driver, current, image));
    binary.modules.insert(current.context, loaded);
    loaded
}

/// `cudaGetKernel` and its inner twin.
pub(crate) fn give_kernel(to: Out<Handle>, stub: u64) -> Result {
    let handle = kernel_handle(stub)?;
    to.set(handle)
}

/// The names of all kernels that the program holds.
pub(crate) fn registered_kernels() -> Vec<String> {
    with_registry(|registry| registry.kernels.values().map(|symbol| symbol.name.clone()).collect())
}
