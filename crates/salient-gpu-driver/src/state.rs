//! What the driver knows: devices, and a table of each kind of handle.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use salient_gpu::device::Device;
use salient_gpu::{Config, Gpu, Kernel, Module};

use crate::driver::capture::Capture;
use crate::driver::event::Event;
use crate::driver::graph::{Executable, Graph, GraphMemory};
use crate::driver::stream::Stream;
use crate::error::{Code, Result};
use crate::ffi::Handle;
use crate::log::Log;

/// The driver, once it is initialised.
pub(crate) struct Driver {
    pub(crate) devices: Vec<DeviceState>,
    pub(crate) log: Log,
    tables: Mutex<Tables>,
}

/// A device.
pub(crate) struct DeviceState {
    pub(crate) gpu: Gpu,
    pub(crate) limits: &'static Device,
}

/// Every handle that is valid.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) contexts: HashMap<Handle, Context>,
    /// By device.
    pub(crate) primaries: Vec<Primary>,
    pub(crate) streams: HashMap<Handle, Stream>,
    pub(crate) events: HashMap<Handle, Event>,
    pub(crate) modules: HashMap<Handle, ModuleState>,
    pub(crate) functions: HashMap<Handle, Function>,
    /// By device and address.
    pub(crate) allocations: HashMap<(usize, u64), Allocation>,
    /// By address.
    pub(crate) host: BTreeMap<u64, HostMemory>,
    pub(crate) pools: HashMap<Handle, Pool>,
    pub(crate) captures: HashMap<u64, Capture>,
    pub(crate) graphs: HashMap<Handle, Graph>,
    pub(crate) executables: HashMap<Handle, Arc<Executable>>,
}

/// A device's primary context. It keeps its handle for good.
pub(crate) struct Primary {
    pub(crate) handle: Handle,
    pub(crate) references: u32,
    pub(crate) flags: u32,
    /// The runtime holds one of the references.
    pub(crate) by_runtime: bool,
}

/// A context.
pub(crate) struct Context {
    pub(crate) device: usize,
    pub(crate) flags: u32,
    /// The stream that handles 0 and 1 are for.
    pub(crate) legacy: Handle,
    /// The streams that handle 2 is for, by thread.
    pub(crate) per_thread: HashMap<u64, Handle>,
    /// Set by the first fault, and what every call gives from then on.
    pub(crate) broken: Option<Code>,
    pub(crate) limits: HashMap<u32, usize>,
}

/// A module in a context.
pub(crate) struct ModuleState {
    pub(crate) context: Handle,
    pub(crate) module: Arc<Module>,
    /// The handles of its kernels, by name.
    pub(crate) functions: HashMap<String, Handle>,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub(crate) context: Handle,
    pub(crate) module: Handle,
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) dynamic_limit: u32,
    pub(crate) large_clusters: bool,
    pub(crate) carveout: i32,
}

/// Device memory that was given out.
pub(crate) struct Allocation {
    pub(crate) context: Handle,
    /// A free is on its way.
    pub(crate) freed: bool,
    /// It is a graph's, which keeps the address.
    pub(crate) graph: Option<Arc<GraphMemory>>,
}

/// Host memory that kernels may touch at its own address.
pub(crate) struct HostMemory {
    pub(crate) context: Handle,
    pub(crate) bytes: u64,
    pub(crate) flags: u32,
    pub(crate) kind: HostKind,
}

/// Whose host memory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostKind {
    /// This driver's.
    Pinned,
    /// This driver's; `cuMemFree` frees it.
    Managed,
    /// The caller's.
    Registered,
}

/// A memory pool. All are the device's memory.
pub(crate) struct Pool {
    pub(crate) device: usize,
    pub(crate) default: bool,
    pub(crate) attributes: HashMap<u32, u64>,
}

/// Where a thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Current {
    pub(crate) context: Handle,
    pub(crate) device: usize,
}

static DRIVER: OnceLock<std::result::Result<Driver, Code>> = OnceLock::new();
static INITIALIZED: AtomicBool = AtomicBool::new(false);
static THREADS: AtomicU64 = AtomicU64::new(1);
/// Handles begin where no address is, so that nobody can follow one.
static HANDLES: AtomicU64 = AtomicU64::new(0x5a11_0000_0000_0000);

thread_local! {
    static STACK: RefCell<Vec<Handle>> = const { RefCell::new(Vec::new()) };
    static THREAD: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
    static IN_HOST_CALL: Cell<bool> = const { Cell::new(false) };
}

/// A handle that there was not before.
pub(crate) fn fresh() -> Handle {
    HANDLES.fetch_add(16, Ordering::Relaxed)
}

/// This thread, by number from 1.
pub(crate) fn thread() -> u64 {
    THREAD.with(|&thread| thread)
}

/// Runs a host function of a stream, from which the driver may not be called.
pub(crate) fn host_call(call: impl FnOnce()) {
    IN_HOST_CALL.set(true);
    call();
    IN_HOST_CALL.set(false);
}

/// A lock, whatever has happened to who held it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Initialises the driver, if that has not been done.
pub(crate) fn initialize() -> Result<&'static Driver> {
    let driver = made()?;
    INITIALIZED.store(true, Ordering::Release);
    Ok(driver)
}

/// The driver, whether or not somebody has initialised it, for settings and reports.
pub(crate) fn made() -> Result<&'static Driver> {
    DRIVER.get_or_init(Driver::new).as_ref().map_err(|&code| code)
}

/// The driver, which was initialised before.
pub(crate) fn driver() -> Result<&'static Driver> {
    if IN_HOST_CALL.get() {
        return Err(Code::NOT_PERMITTED);
    }
    if INITIALIZED.load(Ordering::Acquire) { initialize() } else { Err(Code::NOT_INITIALIZED) }
}

/// The driver and where this thread stands, if its context is in order.
pub(crate) fn current() -> Result<(&'static Driver, Current)> {
    let driver = driver()?;
    let current = driver.tables().current()?;
    Ok((driver, current))
}

/// The context that is current in this thread, valid or not. A thread that is ending has none.
pub(crate) fn top() -> Option<Handle> {
    STACK.try_with(|stack| stack.borrow().last().copied()).ok().flatten()
}

/// Makes another context current, in place of the present one.
pub(crate) fn set_top(context: Option<Handle>) {
    pop();
    if let Some(context) = context {
        push(context);
    }
}

/// Puts a context on top.
pub(crate) fn push(context: Handle) {
    // A thread that is ending keeps none.
    let _ = STACK.try_with(|stack| stack.borrow_mut().push(context));
}

/// Takes the context on top away.
pub(crate) fn pop() -> Option<Handle> {
    STACK.try_with(|stack| stack.borrow_mut().pop()).ok().flatten()
}

impl Driver {
    fn new() -> std::result::Result<Self, Code> {
        if let Some(other) = crate::driver::init::other_driver() {
            eprintln!(
                "software GPU: {other} is in this process too; a program uses either the software \
                 GPU's libcuda and libcudart, both, or the real ones"
            );
            return Err(Code::DRIVER_MISMATCH);
        }
        let config = Config::from_environment().map_err(|error| {
            eprintln!("software GPU: {error}");
            Code::INVALID_VALUE
        })?;
        let limits = Device::of(config.architecture);
        let devices: Vec<_> = (0..config.devices)
            .map(|number| DeviceState { gpu: Gpu::new(number, config.clone()), limits })
            .collect();
        let mut tables = Tables::default();
        for device in 0..devices.len() {
            tables.primaries.push(Primary {
                handle: fresh(),
                references: 0,
                flags: 0,
                by_runtime: false,
            });
            tables
                .pools
                .insert(fresh(), Pool { device, default: true, attributes: HashMap::new() });
        }
        Ok(Self { devices, log: Log::from_environment(), tables: Mutex::new(tables) })
    }

    pub(crate) fn tables(&self) -> MutexGuard<'_, Tables> {
        lock(&self.tables)
    }

    pub(crate) fn device(&self, ordinal: i32) -> Result<(usize, &DeviceState)> {
        let index = usize::try_from(ordinal).map_err(|_| Code::INVALID_DEVICE)?;
        Ok((index, self.devices.get(index).ok_or(Code::INVALID_DEVICE)?))
    }

    /// As the devices are set now.
    pub(crate) fn config(&self) -> Config {
        self.devices[0].gpu.config()
    }
}

impl Tables {
    /// Where this thread stands.
    pub(crate) fn current(&self) -> Result<Current> {
        let current = self.current_even_broken()?;
        self.sound(current.context)?;
        Ok(current)
    }

    /// As [`Self::current`], but after a fault too.
    pub(crate) fn current_even_broken(&self) -> Result<Current> {
        let context = top().ok_or(Code::INVALID_CONTEXT)?;
        let device = self.contexts.get(&context).ok_or(Code::CONTEXT_DESTROYED)?.device;
        Ok(Current { context, device })
    }

    /// The context is there and had no fault.
    pub(crate) fn sound(&self, context: Handle) -> Result {
        let context = self.contexts.get(&context).ok_or(Code::CONTEXT_DESTROYED)?;
        context.broken.map_or(Ok(()), Err)
    }

    /// The device memory, or the pinned host memory, that holds an address.
    pub(crate) fn host_memory(&self, address: u64) -> Option<(u64, &HostMemory)> {
        let (&start, memory) = self.host.range(..=address).next_back()?;
        (address - start < memory.bytes).then_some((start, memory))
    }
}
