//! Blocks that run together: one block, a cluster, or the whole grid of a cooperative launch. Each
//! CUDA thread is a coroutine; those that can go on are resumed in random order, round after round.

mod hooks;
mod matrix;
mod mbarrier;
mod tensor;
mod warpgroup;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::c_void;

use corosensei::{Coroutine, CoroutineResult, Yielder};

use self::mbarrier::{Mbarriers, NAMED, Named};
use self::tensor::TensorCopy;
use self::warpgroup::Warpgroup;
use crate::launch::Launch;
use crate::memory::POISON;
use crate::random::Random;
use crate::stack::FiberStack;
use crate::thread::{Access, Collective, Dim3, Site, Thread, Votes, salient_emulated_set_thread};
use crate::traffic::{BLOCK_STRIDE, Recorder, find};

/// Rounds in which every thread only waits in a loop, before that is called a hang.
const PATIENCE: u32 = 2000;

type Fiber = Coroutine<(), (), (), FiberStack>;

thread_local! {
    /// The team that this thread of the host runs.
    static TEAM: Cell<*mut Team> = const { Cell::new(std::ptr::null_mut()) };
}

/// The state of the threads, which the hooks change while the scheduler resumes them.
pub(crate) struct Team {
    launch: *const Launch,
    threads: Vec<Thread>,
    lanes: Vec<Lane>,
    blocks: Vec<Meeting>,
    cluster: Meeting,
    /// Of each warp, the lanes that wait in a collective.
    waiting: Vec<u32>,
    shared: Shared,
    mbarriers: Mbarriers,
    /// Of each block, `NAMED`.
    named: Vec<Named>,
    /// Copies on their way.
    copies: Vec<TensorCopy>,
    /// By number, those that have done something as such.
    warpgroups: BTreeMap<usize, Warpgroup>,
    ready: Vec<u32>,
    current: usize,
    /// Whether any thread did more than pause in this round.
    progress: bool,
    fault: Option<String>,
    recorder: Option<Recorder>,
    random: Random,
}

/// What a thread waits for.
#[derive(Debug, Clone, Copy)]
enum Wait {
    Nothing,
    Meeting,
    Collective {
        mask: u32,
        kind: Collective,
        site: Site,
        data: *mut c_void,
    },
    Mbarrier {
        site: Site,
    },
    /// For the other threads of the warpgroup to start a multiply.
    Warpgroup {
        site: Site,
    },
    Ended,
}

struct Lane {
    yielder: *const Yielder<(), ()>,
    wait: Wait,
    copies: Vec<AsyncCopy>,
    groups: VecDeque<Vec<AsyncCopy>>,
    /// Fences between the proxies, counted from 1.
    fences: u32,
}

/// An asynchronous copy that has not happened yet.
struct AsyncCopy {
    to: *mut u8,
    from: *const u8,
    bytes: usize,
    copied: usize,
}

/// A barrier of a block or cluster.
#[derive(Debug, Clone, Default)]
struct Meeting {
    size: u32,
    site: Option<Site>,
    arrived: Vec<u32>,
    votes: Votes,
    result: Votes,
}

/// Shared memory of the team's blocks, side by side.
struct Shared {
    bytes: Vec<Line>,
    stride: usize,
    used: usize,
    bases: Vec<*mut u8>,
    /// Of every 16 bytes the thread that has stored there last and how many fences between the proxies
    /// it had issued then, counted from 1; 0 before.
    stores: Vec<(u32, u32)>,
}

/// The alignment of shared memory.
const LINE: usize = 1024;

#[repr(C, align(1024))]
#[derive(Clone)]
struct Line([u8; LINE]);

impl Shared {
    fn new(blocks: usize, used: usize) -> Self {
        // A line between blocks keeps a small overrun from being the neighbour's.
        let lines = used.div_ceil(LINE) + 1;
        let mut bytes = vec![Line([POISON; LINE]); blocks * lines];
        let base = bytes.as_mut_ptr().cast::<u8>();
        let bases = (0..blocks).map(|block| base.wrapping_add(block * lines * LINE)).collect();
        let stores = vec![(0, 0); bytes.len() * LINE / 16];
        Self { bytes, stride: lines * LINE, used, bases, stores }
    }

    /// A block's number and the place in its shared memory, as one number.
    fn place(&self, address: usize) -> usize {
        let offset = address.wrapping_sub(self.bytes.as_ptr() as usize);
        offset / self.stride * BLOCK_STRIDE + offset % self.stride
    }

    /// The place in its block's shared memory.
    fn offset(&self, address: usize) -> usize {
        address.wrapping_sub(self.bytes.as_ptr() as usize) % self.stride
    }

    /// The indices in `stores` of bytes that lie in shared memory.
    fn units(&self, address: usize, bytes: usize) -> std::ops::Range<usize> {
        let offset = address - self.bytes.as_ptr() as usize;
        offset / 16..(offset + bytes).div_ceil(16)
    }

    fn contains(&self, address: usize, bytes: usize) -> bool {
        let base = self.bytes.as_ptr() as usize;
        let inside = address >= base && address < base + self.bytes.len() * LINE;
        inside && self.offset(address) + bytes <= self.used
    }
}

/// Runs a team to its end. Stacks are taken from and returned to `stacks`.
pub(crate) fn run(
    launch: &Launch,
    index: u64,
    stacks: &mut Vec<FiberStack>,
) -> Result<Option<Recorder>, String> {
    let mut team = Team::new(launch, index);
    // From here on the hooks reach the team through this pointer and nothing else borrows it.
    let pointer = &raw mut team;
    let before = TEAM.replace(pointer);
    // SAFETY: the team outlives the call, and only this thread of the host uses it.
    unsafe { schedule(pointer, stacks) };
    TEAM.set(before);
    match team.fault.take() {
        Some(fault) => Err(fault),
        None => {
            let warps = team.threads.len() / 32;
            if let Some(recorder) = &mut team.recorder {
                recorder.flush(0..warps, &launch.allocations);
            }
            Ok(team.recorder)
        }
    }
}

impl Team {
    fn new(launch: &Launch, index: u64) -> Self {
        let shape = launch.shape;
        let per_team = launch.blocks_per_team();
        let first = index * per_team;
        let mut shared = Shared::new(per_team as usize, shape.shared_bytes as usize);
        let clustered = if shape.cooperative == 1 { 1 } else { shape.cluster };
        let mut threads = Vec::new();
        for block in 0..per_team {
            for thread in 0..shape.threads {
                threads.push(Thread {
                    thread: Dim3 { x: thread, y: 0, z: 0 },
                    block: shape.grid.unravel(first + block),
                    block_size: Dim3 { x: shape.threads, y: 1, z: 1 },
                    grid_size: shape.grid,
                    shared: shared.bases[block as usize],
                    peers: shared.bases.as_mut_ptr(),
                    shared_bytes: shape.shared_bytes as u32,
                    lane: thread % 32,
                    cluster_rank: if clustered == 1 { 0 } else { block as u32 },
                    cluster_size: clustered,
                });
            }
        }
        let lane = || Lane {
            yielder: std::ptr::null(),
            wait: Wait::Nothing,
            copies: Vec::new(),
            groups: VecDeque::new(),
            fences: 1,
        };
        let meeting = |size| Meeting { size, ..Meeting::default() };
        Self {
            launch,
            lanes: threads.iter().map(|_| lane()).collect(),
            blocks: (0..per_team).map(|_| meeting(shape.threads)).collect(),
            cluster: meeting(threads.len() as u32),
            waiting: vec![0; threads.len() / 32],
            shared,
            mbarriers: Mbarriers::new(),
            named: vec![Named::default(); per_team as usize * NAMED],
            copies: Vec::new(),
            warpgroups: BTreeMap::new(),
            ready: (0..threads.len() as u32).collect(),
            current: 0,
            progress: false,
            fault: None,
            recorder: launch.counting.then(|| Recorder::new(threads.len() / 32)),
            random: Random::new(launch.seed.wrapping_add(index.wrapping_mul(0x9e37_79b9))),
            threads,
        }
    }

    fn launch<'a>(&self) -> &'a Launch {
        // SAFETY: the launch outlives its teams and what runs in them.
        unsafe { &*self.launch }
    }

    fn block_of(&self, thread: usize) -> usize {
        thread / self.launch().shape.threads as usize
    }

    /// Names a thread for a report.
    fn name(&self, thread: usize) -> String {
        let Thread { block, thread, .. } = self.threads[thread];
        format!("block ({}, {}, {}) thread {}", block.x, block.y, block.z, thread.x)
    }

    fn set_fault(&mut self, what: &str) {
        if self.fault.is_none() {
            let name = self.name(self.current);
            self.fault = Some(format!("kernel {}, {name}: {what}", self.launch().kernel));
        }
    }

    /// What everybody waits for when nobody can go on.
    fn report_hang(&mut self) {
        let mut lines = Vec::new();
        let ended = self.lanes.iter().filter(|lane| matches!(lane.wait, Wait::Ended)).count();
        for (block, meeting) in self.blocks.iter().enumerate() {
            if let Some(site) = meeting.site {
                lines.push(format!(
                    "the barrier at {site} has {} of the {} threads of block {block}",
                    meeting.arrived.len(),
                    meeting.size
                ));
            }
        }
        if let Some(site) = self.cluster.site {
            let (arrived, size) = (self.cluster.arrived.len(), self.cluster.size);
            lines.push(format!("the cluster barrier at {site} has {arrived} of {size} threads"));
        }
        lines.extend(self.barrier_hangs());
        for (thread, lane) in self.lanes.iter().enumerate() {
            let name = self.name(thread);
            match lane.wait {
                Wait::Collective { mask, kind, site, .. } => {
                    lines.push(format!("{name} waits at {site} in {kind:?} of lanes {mask:#010x}"));
                }
                Wait::Warpgroup { site } => {
                    lines.push(format!("{name} waits at {site} for its warpgroup"));
                }
                _ => {}
            }
        }
        let more = lines.len().saturating_sub(8);
        lines.truncate(8);
        if more > 0 {
            lines.push(format!("and {more} more"));
        }
        let kernel = &self.launch().kernel;
        self.fault = Some(format!(
            "kernel {kernel}: divergent or missing barrier, no thread can go on; {ended} threads \
             have ended; {}",
            lines.join("; ")
        ));
    }

    fn release(&mut self, threads: impl IntoIterator<Item = u32>) {
        for thread in threads {
            self.lanes[thread as usize].wait = Wait::Nothing;
            self.ready.push(thread);
        }
    }

    /// Whether bytes lie in the shared memory of the running thread's block.
    fn owns_shared(&self, address: usize, bytes: usize) -> bool {
        let base = self.threads[self.current].shared as usize;
        address >= base && address - base + bytes <= self.shared.used
    }

    /// A thread that has stored to these bytes of shared memory without a fence since that lets what
    /// is asynchronous see it (PTX ISA: Proxies; fence.proxy.async).
    fn unfenced(&self, address: usize, bytes: usize) -> Option<usize> {
        let mut stores = self.shared.stores[self.shared.units(address, bytes)].iter();
        let store = stores.find(|&&(lane, fences)| self.lanes[lane as usize].fences == fences)?;
        Some(store.0 as usize)
    }

    /// Whether an access is allowed; notes what it stores to shared memory.
    fn check(&mut self, address: usize, bytes: usize, access: Access) -> Result<(), String> {
        if !address.is_multiple_of(bytes.next_power_of_two()) {
            return Err(format!("{access:?} of {bytes} bytes at a misaligned address"));
        }
        if access.is_shared() {
            if self.shared.contains(address, bytes) {
                if access != Access::SharedLoad {
                    let store = (self.current as u32, self.lanes[self.current].fences);
                    let units = self.shared.units(address, bytes);
                    self.shared.stores[units].fill(store);
                }
                return Ok(());
            }
            let base = self.threads[self.current].shared as isize;
            let offset = address as isize - base;
            return Err(format!(
                "{access:?} of {bytes} bytes at {offset} of {} bytes of shared memory",
                self.shared.used
            ));
        }
        let allocations = &self.launch().allocations;
        match find(allocations, address) {
            Some(index) if address + bytes <= allocations[index].end => Ok(()),
            Some(index) => {
                let name = &allocations[index].name;
                Err(format!("{access:?} of {bytes} bytes across the end of `{name}`"))
            }
            None => {
                let nearest = allocations.iter().min_by_key(|allocation| {
                    address.abs_diff(allocation.start).min(address.abs_diff(allocation.end))
                });
                Err(match nearest {
                    Some(a) => format!(
                        "{access:?} of {bytes} bytes at byte {} of the {} of `{}`",
                        address as isize - a.start as isize,
                        a.end - a.start,
                        a.name
                    ),
                    None => format!("{access:?} of {bytes} bytes, but there are no buffers"),
                })
            }
        }
    }

    fn record(&mut self, site: Site, access: Access, at: (usize, usize), active: bool) {
        let warp = (self.current / 32, self.current % 32);
        if let Some(recorder) = &mut self.recorder {
            let at = if access.is_shared() { (self.shared.place(at.0), at.1) } else { at };
            recorder.record(warp, site, access, at, active);
        }
    }
}

/// Resumes threads until all have ended or one has failed.
///
/// # Safety
/// `team` is valid and used by this thread of the host alone.
unsafe fn schedule(team: *mut Team, stacks: &mut Vec<FiberStack>) {
    // SAFETY: as the caller promises; no coroutine runs yet, and the launch outlives the team.
    let launch = unsafe { (*team).launch() };
    let (count, run, body) = (launch.threads_per_team(), launch.run, launch.body);
    let mut fibers: Vec<Option<Fiber>> = (0..count)
        .map(|thread| {
            let stack = stacks.pop().unwrap_or_else(FiberStack::take);
            Some(Coroutine::with_stack(stack, move |yielder, ()| {
                // SAFETY: the team outlives its coroutines.
                unsafe { (&mut (*team).lanes)[thread].yielder = yielder };
                run(body);
            }))
        })
        .collect();
    let mut live = count;
    let mut idle = 0;
    let mut round = Vec::new();
    'rounds: while live > 0 {
        {
            // SAFETY: no coroutine runs between rounds.
            let team = unsafe { &mut *team };
            round.clear();
            team.perform_copies();
            if team.fault.is_some() {
                break 'rounds;
            }
            std::mem::swap(&mut round, &mut team.ready);
            team.random.shuffle(&mut round);
            idle = if team.progress { 0 } else { idle + 1 };
            team.progress = false;
            if round.is_empty() || idle > PATIENCE {
                team.report_hang();
                break 'rounds;
            }
        }
        for &thread in &round {
            let thread = thread as usize;
            let record = {
                // SAFETY: no coroutine runs here.
                let team = unsafe { &mut *team };
                team.current = thread;
                &raw mut team.threads[thread]
            };
            // SAFETY: the record lives as long as the team.
            unsafe { salient_emulated_set_thread(record) };
            let fiber = fibers[thread].as_mut().expect("only live threads are ready");
            let result = fiber.resume(());
            // SAFETY: the coroutine has given way.
            let team = unsafe { &mut *team };
            if let CoroutineResult::Return(()) = result {
                team.lanes[thread].wait = Wait::Ended;
                team.progress = true;
                live -= 1;
                let fiber = fibers[thread].take().expect("it has just run");
                stacks.push(fiber.into_stack());
            }
            if team.fault.is_some() {
                break 'rounds;
            }
        }
    }
    // SAFETY: no coroutine runs any more.
    let team = unsafe { &mut *team };
    if team.fault.is_none() {
        team.check_copies();
        team.check_mbarriers();
        team.check_warpgroups();
    }
    for fiber in fibers.into_iter().flatten() {
        abandon(fiber);
    }
}

/// Ends a thread that will not go on.
fn abandon(mut fiber: Fiber) {
    if fiber.started() {
        // SAFETY: what lies on the stack is of C++ and needs no destructor, or is a hook's frame,
        // which at worst leaks the text of a report.
        unsafe { fiber.force_reset() };
    }
}
