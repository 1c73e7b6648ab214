//! Capturing streams into graphs (CUDA C++ Programming Guide: Creating a Graph Using Stream
//! Capture).

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::driver::graph::{Graph, Node};
use crate::error::{Code, Result};
use crate::ffi::{Handle, Out, driver};
use crate::state::{Driver, Tables, driver, fresh, thread};
use crate::work::Work;

/// `CUstreamCaptureMode`: which calls a capture forbids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Unsafe ones in any thread.
    Global,
    /// Unsafe ones in its thread.
    ThreadLocal,
    /// None but those that cannot be captured.
    Relaxed,
}

/// A capture that is going on.
pub(crate) struct Capture {
    pub(crate) context: Handle,
    origin: Handle,
    mode: Mode,
    thread: u64,
    invalidated: bool,
    nodes: Vec<Node>,
    /// Its streams, and the nodes that the next one of each comes after.
    streams: HashMap<Handle, Vec<usize>>,
}

const NONE: u32 = 0;
const ACTIVE: u32 = 1;
const INVALIDATED: u32 = 2;

static IDS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    static MODE: Cell<Mode> = const { Cell::new(Mode::Global) };
}

driver! {
    fn cuStreamBeginCapture_v2(stream: Handle, mode: u32) {
        begin(driver()?, stream, Mode::from_number(mode)?)
    }

    fn cuStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        let ended = end(driver()?, stream);
        graph.set(ended.unwrap_or(0))?;
        ended.map(|_| ())
    }

    fn cuStreamIsCapturing(stream: Handle, status: Out<u32>) {
        status.wanted()?.set(info(driver()?, stream)?.0)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: Handle,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle>,
        dependencies: Out<u64>,
        count: Out<usize>,
    ) {
        give_info(stream, status, id, graph, dependencies, count)
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: Handle,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle>,
        dependencies: Out<u64>,
        edges: Out<u64>,
        count: Out<usize>,
    ) {
        edges.set_if_wanted(0);
        give_info(stream, status, id, graph, dependencies, count)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        driver()?;
        exchange(mode)
    }
}

impl Mode {
    pub(crate) fn from_number(mode: u32) -> Result<Self> {
        match mode {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => Err(Code::INVALID_VALUE),
        }
    }
}

pub(crate) fn exchange(mode: Out<u32>) -> Result {
    let new = Mode::from_number(mode.get()?)?;
    mode.set(MODE.replace(new) as u32)
}

pub(crate) fn begin(driver: &Driver, stream: Handle, mode: Mode) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let state = &tables.streams[&stream];
    if state.is_legacy {
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    if state.capture.is_some() {
        return Err(Code::ILLEGAL_STATE);
    }
    let capture = Capture {
        context: state.context,
        origin: stream,
        mode,
        thread: thread(),
        invalidated: false,
        nodes: Vec::new(),
        streams: HashMap::from([(stream, Vec::new())]),
    };
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    tables.captures.insert(id, capture);
    tables.set_capture(stream, Some(id));
    Ok(())
}

pub(crate) fn end(driver: &Driver, stream: Handle) -> Result<Handle> {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let id = tables.streams[&stream].capture.ok_or(Code::ILLEGAL_STATE)?;
    let capture = &mut tables.captures.get_mut(&id).ok_or(Code::ILLEGAL_STATE)?;
    if capture.origin != stream {
        capture.invalidated = true;
        return Err(Code::CAPTURE_UNMATCHED);
    }
    if capture.mode != Mode::Relaxed && capture.thread != thread() {
        return Err(Code::CAPTURE_WRONG_THREAD);
    }
    let capture = tables.captures.remove(&id).ok_or(Code::ILLEGAL_STATE)?;
    for &stream in capture.streams.keys() {
        tables.set_capture(stream, None);
    }
    if capture.invalidated {
        return Err(Code::CAPTURE_INVALIDATED);
    }
    if !capture.is_joined() {
        return Err(Code::CAPTURE_UNJOINED);
    }
    let handle = fresh();
    tables.graphs.insert(handle, Graph { context: capture.context, nodes: capture.nodes });
    Ok(handle)
}

/// `CUstreamCaptureStatus`, and the capture's number.
pub(crate) fn info(driver: &Driver, stream: Handle) -> Result<(u32, u64)> {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let state = &tables.streams[&stream];
    if state.is_legacy && tables.implicit_captures(stream).next().is_some() {
        return Err(Code::CAPTURE_IMPLICIT);
    }
    let Some(id) = state.capture else { return Ok((NONE, 0)) };
    Ok((if tables.captures[&id].invalidated { INVALIDATED } else { ACTIVE }, id))
}

pub(crate) fn give_info(
    stream: Handle,
    status: Out<u32>,
    id: Out<u64>,
    graph: Out<Handle>,
    dependencies: Out<u64>,
    count: Out<usize>,
) -> Result {
    let (found, number) = info(driver()?, stream)?;
    if !graph.is_null() || !dependencies.is_null() {
        // The graph is made when the capture ends.
        return Err(Code::NOT_SUPPORTED);
    }
    count.set_if_wanted(0);
    id.set_if_wanted(number);
    status.wanted()?.set(found)
}

impl Capture {
    /// One of its nodes allocates this memory.
    pub(crate) fn allocates(&self, address: u64) -> bool {
        let mut works = self.nodes.iter().map(|node| &node.work);
        works.any(|work| matches!(work, Work::Allocate(memory) if memory.address == address))
    }

    /// All that was captured in other streams comes before where the origin has come to.
    fn is_joined(&self) -> bool {
        let mut before = HashSet::new();
        let mut left = self.streams[&self.origin].clone();
        while let Some(node) = left.pop() {
            if before.insert(node) {
                left.extend(&self.nodes[node].after);
            }
        }
        self.streams.values().flatten().all(|node| before.contains(node))
    }
}

impl Tables {
    fn set_capture(&mut self, stream: Handle, capture: Option<u64>) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.capture = capture;
        }
    }

    /// The captures of a context.
    pub(crate) fn captures_of(&self, context: Handle) -> Vec<u64> {
        let of_context = self.captures.iter().filter(|(_, capture)| capture.context == context);
        of_context.map(|(&id, _)| id).collect()
    }

    pub(crate) fn invalidate(&mut self, capture: u64) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalidated = true;
        }
    }

    /// Adds a node to the capture of a stream, after what that has come to.
    pub(crate) fn capture_work(&mut self, stream: Handle, work: Work) -> Result<usize> {
        let id = self.streams[&stream].capture.ok_or(Code::ILLEGAL_STATE)?;
        let after = self.capture_nodes(id, stream)?;
        let capture = self.captures.get_mut(&id).ok_or(Code::ILLEGAL_STATE)?;
        let node = capture.nodes.len();
        capture.nodes.push(Node { handle: fresh(), work, after });
        capture.streams.insert(stream, vec![node]);
        Ok(node)
    }

    /// The nodes that a stream has come to.
    pub(crate) fn capture_nodes(&self, capture: u64, stream: Handle) -> Result<Vec<usize>> {
        let capture = self.captures.get(&capture).ok_or(Code::ILLEGAL_STATE)?;
        if capture.invalidated {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        Ok(capture.streams.get(&stream).cloned().unwrap_or_default())
    }

    /// Has a stream wait for nodes of a capture, which it thereby joins.
    pub(crate) fn join(
        &mut self,
        stream: Handle,
        own: Option<u64>,
        id: u64,
        nodes: &[usize],
    ) -> Result {
        if own.is_some_and(|own| own != id) {
            own.into_iter().chain([id]).for_each(|capture| self.invalidate(capture));
            return Err(Code::CAPTURE_MERGE);
        }
        // The event is of a capture that has ended.
        let capture = self.captures.get_mut(&id).ok_or(Code::CAPTURED_EVENT)?;
        if capture.invalidated {
            return Err(Code::CAPTURE_INVALIDATED);
        }
        let state = &self.streams[&stream];
        if state.is_legacy {
            capture.invalidated = true;
            return Err(Code::CAPTURE_IMPLICIT);
        }
        if state.context != capture.context {
            capture.invalidated = true;
            return Err(Code::CAPTURE_UNSUPPORTED);
        }
        let after = capture.streams.entry(stream).or_default();
        after.extend(nodes);
        after.sort_unstable();
        after.dedup();
        self.set_capture(stream, Some(id));
        Ok(())
    }

    /// The legacy stream waits for all blocking streams, so it cannot be used while one captures.
    pub(crate) fn check_legacy(&mut self, stream: Handle) -> Result {
        if !self.streams[&stream].is_legacy {
            return Ok(());
        }
        let captures: Vec<u64> = self.implicit_captures(stream).collect();
        for &capture in &captures {
            self.invalidate(capture);
        }
        if captures.is_empty() { Ok(()) } else { Err(Code::CAPTURE_IMPLICIT) }
    }

    fn implicit_captures(&self, legacy: Handle) -> impl Iterator<Item = u64> {
        let context = self.streams[&legacy].context;
        let streams = self.streams.values().filter(move |stream| stream.context == context);
        streams.filter(|stream| stream.blocking).filter_map(|stream| stream.capture)
    }

    /// For calls that may have the device wait, which captures forbid as
    /// `cuThreadExchangeStreamCaptureMode` documents.
    pub(crate) fn check_unsafe_call(&mut self) -> Result {
        let mode = MODE.get();
        if mode == Mode::Relaxed {
            return Ok(());
        }
        let thread = thread();
        let mut forbidden = false;
        for capture in self.captures.values_mut() {
            let own = capture.thread == thread && capture.mode != Mode::Relaxed;
            if own || mode == Mode::Global && capture.mode == Mode::Global {
                capture.invalidated = true;
                forbidden = true;
            }
        }
        if forbidden { Err(Code::CAPTURE_UNSUPPORTED) } else { Ok(()) }
    }
}
