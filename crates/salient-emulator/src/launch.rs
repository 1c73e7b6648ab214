//! The emulated device: buffers, launches, and what went wrong in one.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytemuck::Pod;
use rayon::prelude::*;

use crate::memory::{Allocation, Buffer, Memory};
use crate::random::Random;
use crate::stack::FiberStack;
use crate::team;
use crate::thread::Shape;
use crate::traffic::{Traffic, find};

/// Of cudaError_t.
const INVALID_VALUE: c_int = 1;
const INVALID_CONFIGURATION: c_int = 9;
const LAUNCH_FAILURE: c_int = 719;

/// Shared memory that a block may have, as on an H100; on an A100 it is 163 KiB.
const SHARED_LIMIT: [(i32, u64); 2] = [(90, 227 << 10), (80, 163 << 10)];

/// Threads that a block may have.
const THREAD_LIMIT: u32 = 1024;

/// An emulated device. Launches on it run to their end before they return.
///
/// Threads are resumed in an order that depends on the seed and on nothing else, so a failure is
/// repeated by its seed.
#[derive(Debug, Default)]
pub struct Device {
    memory: Memory,
    seed: u64,
    launches: AtomicU64,
    capability: i32,
    resident_blocks: i32,
    counting: bool,
    mutant: Option<&'static str>,
}

/// What a launcher did.
#[derive(Debug, Clone, PartialEq)]
pub struct Launched {
    /// The kernel's name, as its launcher gives it.
    pub kernel: String,
    /// Counts, if the device counts; zeros otherwise.
    pub traffic: Traffic,
}

/// A launch that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// A kernel touched what it must not, or its threads wait for each other.
    #[error("{report}")]
    Kernel {
        /// The kernel, the thread, the line and what happened.
        report: String,
    },
    /// The launcher itself returned an error.
    #[error("the launcher returned the CUDA error {code}")]
    Launcher {
        /// A cudaError_t.
        code: i32,
    },
}

/// A stream of the device, to be handed to a launcher.
#[derive(Debug)]
struct Stream<'a> {
    device: &'a Device,
    launched: RefCell<Vec<Launched>>,
    fault: RefCell<Option<String>>,
}

impl Device {
    /// A device of compute capability 9.0 that does not count, with room for 16 resident blocks in
    /// a cooperative launch.
    pub fn new(seed: u64) -> Self {
        Self { seed, capability: 90, resident_blocks: 16, ..Self::default() }
    }

    /// The same with another compute capability, 80 for 8.0.
    #[must_use]
    pub fn with_capability(self, capability: i32) -> Self {
        Self { capability, ..self }
    }

    /// The same with room for so many resident blocks.
    #[must_use]
    pub fn with_resident_blocks(self, resident_blocks: i32) -> Self {
        Self { resident_blocks, ..self }
    }

    /// The same, counting [`Traffic`]: several times slower.
    #[must_use]
    pub fn counting(self) -> Self {
        Self { counting: true, ..self }
    }

    /// The same, making a mistake on purpose in kernels that were built with mutants.
    #[must_use]
    pub fn with_mutant(self, mutant: &'static str) -> Self {
        Self { mutant: Some(mutant), ..self }
    }

    /// A buffer with these values.
    pub fn upload<T: Pod>(&self, name: &str, values: &[T]) -> Buffer<T> {
        let mut buffer = Buffer::new(&self.memory, name, values.len(), 0);
        buffer.write(values);
        buffer
    }

    /// The same, `skip` elements away from an aligned address.
    pub fn upload_misaligned<T: Pod>(&self, name: &str, values: &[T], skip: usize) -> Buffer<T> {
        let mut buffer = Buffer::new(&self.memory, name, values.len(), skip);
        buffer.write(values);
        buffer
    }

    /// A poisoned buffer.
    pub fn alloc<T: Pod>(&self, name: &str, len: usize) -> Buffer<T> {
        Buffer::new(&self.memory, name, len, 0)
    }

    /// Calls a launcher with a stream of this device and waits for its kernels.
    ///
    /// # Errors
    /// [`Fault`] if a kernel or the launcher failed.
    pub fn run(&self, launcher: impl FnOnce(*mut c_void) -> c_int) -> Result<Vec<Launched>, Fault> {
        let stream =
            Stream { device: self, launched: RefCell::default(), fault: RefCell::default() };
        let code = launcher((&raw const stream).cast_mut().cast());
        if let Some(report) = stream.fault.into_inner() {
            return Err(Fault::Kernel { report });
        }
        match code {
            0 => Ok(stream.launched.into_inner()),
            code => Err(Fault::Launcher { code }),
        }
    }
}

/// A kernel on its way.
pub(crate) struct Launch {
    pub(crate) kernel: String,
    pub(crate) shape: Shape,
    pub(crate) allocations: Vec<Allocation>,
    pub(crate) seed: u64,
    pub(crate) counting: bool,
    pub(crate) mutant: Option<&'static str>,
    pub(crate) run: extern "C" fn(*mut c_void),
    pub(crate) body: *mut c_void,
}

// SAFETY: `body` is a kernel with its arguments, which C++ runs from many threads at once as a
// device would; everything else is plain data.
unsafe impl Sync for Launch {}

impl Launch {
    /// Blocks that run together.
    pub(crate) fn blocks_per_team(&self) -> u64 {
        if self.shape.cooperative == 1 {
            self.shape.grid.volume()
        } else {
            self.shape.cluster.into()
        }
    }

    pub(crate) fn threads_per_team(&self) -> usize {
        self.blocks_per_team() as usize * self.shape.threads as usize
    }

    fn fits(&self, device: &Device) -> bool {
        let Shape { grid, threads, cluster, cooperative, shared_bytes } = self.shape;
        let limit = SHARED_LIMIT.iter().find(|(capability, _)| device.capability >= *capability);
        let blocks = grid.volume();
        blocks > 0
            && grid.y <= 65_535
            && grid.z <= 65_535
            && grid.x <= i32::MAX as u32
            && (1..=THREAD_LIMIT).contains(&threads)
            && threads.is_multiple_of(32)
            && limit.is_some_and(|(_, limit)| shared_bytes <= *limit)
            && (cluster == 1 || device.capability >= 90)
            && (1..=8).contains(&cluster)
            && grid.x.is_multiple_of(cluster)
            && (cooperative == 0 || blocks <= device.resident_blocks as u64)
    }

    /// Runs every team, the next free thread of the host taking the next.
    fn run_all(&self) -> Result<Traffic, String> {
        let teams = self.shape.grid.volume() / self.blocks_per_team();
        let mut order: Vec<u64> = (0..teams).collect();
        Random::new(!self.seed).shuffle(&mut order);
        let failed = AtomicBool::new(false);
        let run_team = |(traffic, stacks): &mut (Traffic, Vec<FiberStack>),
                        &team: &u64|
         -> Result<(), String> {
            if failed.load(Ordering::Relaxed) {
                return Ok(());
            }
            let recorder = team::run(self, team, stacks)
                .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            if let Some(recorder) = recorder {
                traffic.add(&recorder.traffic(&self.allocations));
            }
            Ok(())
        };
        let start = || (Traffic::default(), Vec::new());
        if teams == 1 {
            let mut state = start();
            run_team(&mut state, &order[0])?;
            return Ok(state.0);
        }
        let chunk = order.len().div_ceil(4 * rayon::current_num_threads());
        order
            .par_chunks(chunk)
            .map(|teams| {
                let mut state = start();
                teams.iter().try_for_each(|team| run_team(&mut state, team))?;
                Ok(state.0)
            })
            .try_reduce(Traffic::default, |mut a, b| {
                a.add(&b);
                Ok(a)
            })
    }
}

/// # Safety
/// `stream` is one that [`Device::run`] has handed out and has not taken back.
unsafe fn stream_of<'a>(stream: *mut c_void) -> &'a Stream<'a> {
    assert!(!stream.is_null(), "a launcher was called without a stream of an emulated device");
    // SAFETY: as the caller promises.
    unsafe { &*stream.cast::<Stream<'a>>() }
}

/// # Safety
/// Called by the kernels' `launch` alone: every pointer is valid for the call.
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_launch(
    stream: *mut c_void,
    kernel: *const c_char,
    shape: *const Shape,
    run: extern "C" fn(*mut c_void),
    body: *mut c_void,
) -> c_int {
    // SAFETY: as this function's caller promises.
    let (stream, shape) = (unsafe { stream_of(stream) }, unsafe { *shape });
    // SAFETY: a literal of the launcher.
    let kernel = unsafe { CStr::from_ptr(kernel) }.to_string_lossy().into_owned();
    if stream.fault.borrow().is_some() {
        return LAUNCH_FAILURE;
    }
    let device = stream.device;
    let number = device.launches.fetch_add(1, Ordering::Relaxed);
    let launch = Launch {
        kernel,
        shape,
        allocations: device.memory.snapshot(),
        seed: device.seed.wrapping_mul(0x0100_0003).wrapping_add(number),
        counting: device.counting,
        mutant: device.mutant,
        run,
        body,
    };
    if !launch.fits(device) {
        return INVALID_CONFIGURATION;
    }
    match launch.run_all() {
        Ok(traffic) => {
            stream.launched.borrow_mut().push(Launched { kernel: launch.kernel, traffic });
            0
        }
        Err(report) => {
            let report = format!("{report} (seed {})", device.seed);
            stream.fault.borrow_mut().get_or_insert(report);
            LAUNCH_FAILURE
        }
    }
}

/// # Safety
/// As [`salient_emulated_launch`].
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_capability(stream: *mut c_void) -> c_int {
    // SAFETY: as this function's caller promises.
    unsafe { stream_of(stream) }.device.capability
}

/// # Safety
/// As [`salient_emulated_launch`].
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_resident_blocks(stream: *mut c_void) -> c_int {
    // SAFETY: as this function's caller promises.
    unsafe { stream_of(stream) }.device.resident_blocks
}

/// # Safety
/// As [`salient_emulated_launch`].
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_memset(
    stream: *mut c_void,
    address: *mut u8,
    value: c_int,
    bytes: usize,
) -> c_int {
    // SAFETY: as this function's caller promises.
    let stream = unsafe { stream_of(stream) };
    let allocations = stream.device.memory.snapshot();
    let start = address as usize;
    match find(&allocations, start) {
        Some(index) if start + bytes <= allocations[index].end => {
            // SAFETY: the range lies in a live buffer, and no kernel runs.
            unsafe { std::ptr::write_bytes(address, value as u8, bytes) };
            0
        }
        _ => INVALID_VALUE,
    }
}
