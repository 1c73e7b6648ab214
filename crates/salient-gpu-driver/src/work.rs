//! The work of streams: what it is, and when it is done.
//!
//! Everything goes through [`submit`]. Each stream has a queue, and an item may wait for items of
//! other queues: for those of an event, and for those that the legacy stream orders. Whoever waits
//! for an item does what lies before it, so work can be left lying until then.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use salient_gpu::config::{Completion, Order};
use salient_gpu::{Fault, FaultKind, Kernel, Launch};

use crate::driver::copy::{Fill, Transfer};
use crate::driver::event::EventState;
use crate::driver::graph::{Executable, GraphMemory};
use crate::error::{Code, Result};
use crate::ffi::{Handle, HostCall};
use crate::library::Task;
use crate::state::{Allocation, Driver, Tables, host_call, lock, thread};

/// Something that a stream does.
#[derive(Clone)]
pub(crate) enum Work {
    Kernel(Arc<KernelWork>),
    Copy(Transfer),
    Fill(Fill),
    Call(HostCall),
    Task(Arc<dyn Task>),
    /// An event's time.
    Stamp(Arc<OnceLock<Instant>>),
    /// In a graph: an event is recorded whenever the graph runs.
    Record(Handle),
    /// In a graph: an event is waited for whenever the graph runs.
    Wait(Handle),
    /// In a graph: memory comes to life.
    Allocate(Arc<GraphMemory>),
    Free(u64),
    Graph(Arc<Executable>),
    Nothing,
}

/// A kernel with all it takes.
pub(crate) struct KernelWork {
    pub(crate) kernel: Arc<Kernel>,
    pub(crate) launch: Launch,
    pub(crate) params: Vec<u8>,
}

/// The queue of a stream.
pub(crate) struct Queue {
    context: Handle,
    device: usize,
    pending: Mutex<Pending>,
    /// Held by who does its work.
    running: Mutex<()>,
    /// The last item that is done, and all before it.
    done: AtomicU64,
}

#[derive(Default)]
struct Pending {
    last: u64,
    items: VecDeque<Item>,
}

struct Item {
    number: u64,
    after: Vec<Point>,
    work: Work,
    thread: u64,
}

/// An item of a queue, and all before it.
#[derive(Clone)]
pub(crate) struct Point {
    queue: Arc<Queue>,
    number: u64,
}

/// Has a stream do something: now, later, or, while it captures, whenever its graph runs.
pub(crate) fn submit(driver: &'static Driver, stream: Handle, work: Work) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    if tables.streams[&stream].capture.is_some() {
        return tables.capture_work(stream, work).map(|_| ());
    }
    tables.check_legacy(stream)?;
    let point = tables.push(stream, work, None);
    drop(tables);
    settle(driver, &point)
}

/// Has a stream that does not capture do something, and waits for it.
pub(crate) fn submit_and_wait(driver: &'static Driver, stream: Handle, work: Work) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    if let Some(capture) = tables.streams[&stream].capture {
        tables.invalidate(capture);
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    tables.check_legacy(stream)?;
    let point = tables.push(stream, work, None);
    drop(tables);
    point.finish(driver)
}

/// After submitting: does the work, if it is not to be left lying.
pub(crate) fn settle(driver: &'static Driver, point: &Point) -> Result {
    let now = match driver.config().streams {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => draw(driver) & 1 == 0,
    };
    if now {
        point.reach(driver);
    }
    if now && launches_block() {
        return driver.tables().sound(point.queue.context);
    }
    Ok(())
}

/// `CUDA_LAUNCH_BLOCKING=1`: the very launch gives the error of its kernel.
fn launches_block() -> bool {
    static BLOCK: OnceLock<bool> = OnceLock::new();
    *BLOCK.get_or_init(|| std::env::var("CUDA_LAUNCH_BLOCKING").is_ok_and(|value| value == "1"))
}

/// A number as the seed has it (xorshift64*, Vigna 2016).
fn draw(driver: &Driver) -> u64 {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let next = |state: u64| {
        let mut x = if state == 0 { driver.config().seed.wrapping_mul(2) | 1 } else { state };
        x ^= x >> 12;
        x ^= x << 25;
        x ^ (x >> 27)
    };
    let step = |state| Some(next(state));
    let before = STATE
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, step)
        .expect("every state has a next one");
    next(before).wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
}

impl Queue {
    pub(crate) fn new(context: Handle, device: usize) -> Arc<Self> {
        Arc::new(Self {
            context,
            device,
            pending: Mutex::default(),
            running: Mutex::new(()),
            done: AtomicU64::new(0),
        })
    }

    /// All that it has been given so far.
    pub(crate) fn end(self: &Arc<Self>) -> Point {
        Point { queue: Arc::clone(self), number: lock(&self.pending).last }
    }

    fn take(&self, up_to: u64) -> Option<Item> {
        let mut pending = lock(&self.pending);
        let is_due = pending.items.front().is_some_and(|item| item.number <= up_to);
        if is_due { pending.items.pop_front() } else { None }
    }

    fn run(&self, driver: &'static Driver, item: Item) {
        for point in &item.after {
            point.reach(driver);
        }
        // After a fault, nothing of the context runs any more.
        if driver.tables().sound(self.context).is_ok() {
            let execute = AssertUnwindSafe(|| self.execute(driver, &item.work, item.thread));
            if catch_unwind(execute).is_err() {
                eprintln!("software GPU: the machine panicked, which is a fault of its own");
                self.break_context(driver, Code::UNKNOWN);
            }
        }
        self.done.store(item.number, Ordering::Release);
    }

    fn execute(&self, driver: &'static Driver, work: &Work, thread: u64) {
        let gpu = &driver.devices[self.device].gpu;
        match work {
            Work::Kernel(work) => match gpu.launch(&work.kernel, &work.launch, &work.params) {
                Ok(counters) => driver.log.launch(thread, work, || counters.to_json()),
                Err(fault) => {
                    driver.log.fault(thread, &fault);
                    self.break_context(driver, code_of(&fault));
                }
            },
            Work::Copy(transfer) => {
                if transfer.run(driver).is_err() {
                    self.out_of_bounds(driver, "a copy");
                }
            }
            Work::Fill(fill) => {
                if fill.run(driver).is_err() {
                    self.out_of_bounds(driver, "a memset");
                }
            }
            Work::Call(call) => host_call(|| call.call()),
            Work::Task(task) => {
                if let Err(error) = task.run(gpu.memory()) {
                    eprintln!("software GPU: {}: {error}", task.name());
                    self.break_context(driver, Code::ILLEGAL_ADDRESS);
                }
            }
            Work::Stamp(time) => {
                time.get_or_init(Instant::now);
            }
            Work::Record(event) => driver.tables().record_now(*event),
            Work::Wait(event) => {
                let state = driver.tables().events.get(event).map(|event| event.state.clone());
                if let Some(EventState::Recorded { point: Some(point), .. }) = state {
                    point.reach(driver);
                }
            }
            Work::Allocate(memory) => {
                let allocation = Allocation {
                    context: self.context,
                    freed: false,
                    graph: Some(Arc::clone(memory)),
                };
                driver.tables().allocations.insert((self.device, memory.address), allocation);
            }
            Work::Free(address) => {
                let allocation = driver.tables().allocations.remove(&(self.device, *address));
                if allocation.is_some_and(|allocation| allocation.graph.is_none()) {
                    // It was looked up when the free was submitted.
                    let _ = gpu.memory().free(*address);
                }
            }
            Work::Graph(graph) => self.execute_graph(driver, graph, thread),
            Work::Nothing => {}
        }
    }

    /// Nodes may run in any order that their edges allow; the one taken is as `order=` says.
    fn execute_graph(&self, driver: &'static Driver, graph: &Executable, thread: u64) {
        let nodes = graph.nodes.len();
        let order = match driver.config().order {
            Order::Forward => (0..nodes).collect(),
            Order::Reverse => graph.order(|ready| ready - 1),
            Order::Random => graph.order(|ready| draw(driver) as usize % ready),
        };
        for node in order {
            if driver.tables().sound(self.context).is_err() {
                return;
            }
            self.execute(driver, &graph.nodes[node].work, thread);
        }
    }

    fn out_of_bounds(&self, driver: &Driver, what: &str) {
        eprintln!("software GPU: {what} reaches memory that was freed before it ran");
        self.break_context(driver, Code::ILLEGAL_ADDRESS);
    }

    fn break_context(&self, driver: &Driver, code: Code) {
        if let Some(context) = driver.tables().contexts.get_mut(&self.context) {
            context.broken.get_or_insert(code);
        }
    }
}

/// As the driver reports it.
fn code_of(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::IllegalAddress => Code::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => Code::MISALIGNED,
        FaultKind::IllegalInstruction => Code::ILLEGAL_INSTRUCTION,
        FaultKind::Assert => Code::ASSERT,
        FaultKind::Deadlock | FaultKind::Timeout => Code::TIMEOUT,
        _ => Code::LAUNCH_FAILED,
    }
}

impl Point {
    pub(crate) fn is_reached(&self) -> bool {
        self.queue.done.load(Ordering::Acquire) >= self.number
    }

    /// Does the work up to here.
    ///
    /// Two threads that wait for each other's queues do not wait for good: what an item waits for
    /// was submitted before it, so of two such waits one is reached already.
    pub(crate) fn reach(&self, driver: &'static Driver) {
        if self.is_reached() {
            return;
        }
        let _running = lock(&self.queue.running);
        while let Some(item) = self.queue.take(self.number) {
            self.queue.run(driver, item);
        }
    }

    /// Does the work up to here, and says how the context is.
    pub(crate) fn finish(&self, driver: &'static Driver) -> Result {
        self.reach(driver);
        driver.tables().sound(self.queue.context)
    }

    /// Does one more item on the way here, so that who asks again and again gets there.
    pub(crate) fn approach(&self, driver: &'static Driver) -> Result {
        if !self.is_reached() {
            let _running = lock(&self.queue.running);
            if let Some(item) = self.queue.take(self.number) {
                self.queue.run(driver, item);
            }
        }
        driver.tables().sound(self.queue.context)
    }
}

impl Tables {
    /// Puts work at the end of a stream's queue, after what it has to wait for.
    pub(crate) fn push(&mut self, stream: Handle, work: Work, wait: Option<Point>) -> Point {
        let submitted = &self.streams[&stream];
        let context = &self.contexts[&submitted.context];
        let mut after: Vec<Point> = wait.into_iter().collect();
        if stream == context.legacy {
            let blocking = self.streams.iter().filter(|&(&other, state)| {
                other != stream && state.context == submitted.context && state.blocking
            });
            after.extend(blocking.map(|(_, state)| state.queue.end()));
        } else if submitted.blocking {
            after.push(self.streams[&context.legacy].queue.end());
        }
        after.retain(|point| !point.is_reached());
        let queue = Arc::clone(&submitted.queue);
        let mut pending = lock(&queue.pending);
        pending.last += 1;
        let number = pending.last;
        pending.items.push_back(Item { number, after, work, thread: thread() });
        drop(pending);
        Point { queue, number }
    }

    /// All that the streams of a context have been given so far.
    pub(crate) fn ends(&self, context: Handle) -> Vec<Point> {
        let streams = self.streams.values().filter(|stream| stream.context == context);
        streams.map(|stream| stream.queue.end()).collect()
    }
}

/// Does all the work of a context.
pub(crate) fn finish_context(driver: &'static Driver, context: Handle) -> Result {
    let ends = driver.tables().ends(context);
    for point in ends {
        point.reach(driver);
    }
    driver.tables().sound(context)
}
