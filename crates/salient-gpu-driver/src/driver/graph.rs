//! Graphs: made by captures, instantiated, launched.

use std::collections::HashSet;
use std::sync::Arc;

use crate::driver::init::unsupported;
use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, In, Out, driver};
use crate::state::{Driver, Tables, driver, fresh};
use crate::work::{Work, submit};

/// A graph.
pub(crate) struct Graph {
    pub(crate) context: Handle,
    /// In an order that their edges allow.
    pub(crate) nodes: Vec<Node>,
}

/// A node of a graph.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) handle: Handle,
    pub(crate) work: Work,
    /// The nodes that it comes after, by index.
    pub(crate) after: Vec<usize>,
}

/// An instantiated graph.
pub(crate) struct Executable {
    pub(crate) context: Handle,
    pub(crate) nodes: Vec<Node>,
    flags: u64,
}

/// Memory that a graph allocates, always at the same address, when it runs.
pub(crate) struct GraphMemory {
    pub(crate) driver: &'static Driver,
    pub(crate) device: usize,
    pub(crate) address: u64,
}

impl Drop for GraphMemory {
    fn drop(&mut self) {
        // The address is that of an allocation that nobody else frees.
        let _ = self.driver.devices[self.device].gpu.memory().free(self.address);
    }
}

const AUTO_FREE: u64 = 1;
const UPLOAD: u64 = 2;
const DEVICE_LAUNCH: u64 = 4;
const NODE_PRIORITY: u64 = 8;

driver! {
    fn cuGraphCreate(graph: Out<Handle>, flags: u32) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let context = tables.current()?.context;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let handle = fresh();
        graph.wanted()?.set(handle)?;
        tables.graphs.insert(handle, Graph { context, nodes: Vec::new() });
        Ok(())
    }

    fn cuGraphDestroy(graph: Handle) {
        let driver = driver()?;
        let removed = driver.tables().graphs.remove(&graph);
        removed.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    fn cuGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        executable.wanted()?.set(instantiate(driver()?, graph, flags)?)
    }

    fn cuGraphInstantiate_v2(
        executable: Out<Handle>, graph: Handle, node: Out<Handle>, _log: Out<u8>, _capacity: usize
    ) {
        node.set_if_wanted(0);
        executable.wanted()?.set(instantiate(driver()?, graph, 0)?)
    }

    fn cuGraphExecDestroy(executable: Handle) {
        destroy_executable(executable)
    }

    fn cuGraphUpload(executable: Handle, stream: Handle) {
        let driver = driver()?;
        let mut tables = driver.tables();
        tables.executables.get(&executable).ok_or(Code::INVALID_VALUE)?;
        tables.stream(stream).map(|_| ())
    }

    fn cuGraphLaunch(executable: Handle, stream: Handle) {
        launch(driver()?, executable, stream)
    }

    fn cuGraphLaunch_ptsz(executable: Handle, stream: Handle) {
        launch(driver()?, executable, per_thread(stream))
    }

    fn cuGraphExecGetFlags(executable: Handle, flags: Out<u64>) {
        let driver = driver()?;
        let tables = driver.tables();
        flags.set(tables.executables.get(&executable).ok_or(Code::INVALID_VALUE)?.flags)
    }

    fn cuGraphClone(clone: Out<Handle>, original: Handle) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let graph = tables.graphs.get(&original).ok_or(Code::INVALID_VALUE)?;
        if graph.nodes.iter().any(|node| matches!(node.work, Work::Allocate(_) | Work::Free(_))) {
            return Err(Code::NOT_SUPPORTED);
        }
        let nodes = graph.nodes.iter().map(|node| Node { handle: fresh(), ..node.clone() });
        let copy = Graph { context: graph.context, nodes: nodes.collect() };
        let handle = fresh();
        clone.wanted()?.set(handle)?;
        tables.graphs.insert(handle, copy);
        Ok(())
    }

    fn cuGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let driver = driver()?;
        let tables = driver.tables();
        let graph = tables.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let handles: Vec<_> = graph.nodes.iter().map(|node| node.handle).collect();
        give_list(&handles, nodes, count)
    }

    fn cuGraphGetRootNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let driver = driver()?;
        let tables = driver.tables();
        let graph = tables.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let roots = graph.nodes.iter().filter(|node| node.after.is_empty());
        give_list(&roots.map(|node| node.handle).collect::<Vec<_>>(), nodes, count)
    }

    fn cuGraphGetEdges(
        graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>
    ) {
        edges(graph, from, to, count)
    }

    fn cuGraphGetEdges_v2(
        graph: Handle, from: Out<Handle>, to: Out<Handle>, _data: Out<u64>, count: Out<usize>
    ) {
        edges(graph, from, to, count)
    }

    fn cuGraphNodeGetType(node: Handle, kind: Out<u32>) {
        let driver = driver()?;
        let tables = driver.tables();
        let mut nodes = tables.graphs.values().flat_map(|graph| &graph.nodes);
        let node = nodes.find(|other| other.handle == node).ok_or(Code::INVALID_VALUE)?;
        kind.set(type_of(&node.work))
    }

    fn cuGraphExecUpdate_v2(_executable: Handle, _graph: Handle, _result: Out<u8>) {
        unsupported()
    }

    fn cuGraphDebugDotPrint(_graph: Handle, _path: In<u8>, _flags: u32) {
        unsupported()
    }

    fn cuDeviceGraphMemTrim(device: i32) {
        driver()?.device(device).map(|_| ())
    }
}

pub(crate) fn instantiate(driver: &Driver, graph: Handle, flags: u64) -> Result<Handle> {
    let mut tables = driver.tables();
    let known = AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY;
    if flags & !known != 0 || flags & (AUTO_FREE | DEVICE_LAUNCH) == AUTO_FREE | DEVICE_LAUNCH {
        return Err(Code::INVALID_VALUE);
    }
    if flags & DEVICE_LAUNCH != 0 {
        return Err(Code::NOT_SUPPORTED);
    }
    let graph = tables.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    tables.sound(graph.context)?;
    let executable = Executable { context: graph.context, nodes: graph.nodes.clone(), flags };
    // A graph with memory is instantiated once at a time.
    let memory: HashSet<u64> = executable.allocations().map(|memory| memory.address).collect();
    let is_shared =
        |other: &Arc<Executable>| other.allocations().any(|other| memory.contains(&other.address));
    if tables.executables.values().any(is_shared) {
        return Err(Code::NOT_SUPPORTED);
    }
    let handle = fresh();
    tables.executables.insert(handle, Arc::new(executable));
    Ok(handle)
}

pub(crate) fn destroy_executable(executable: Handle) -> Result {
    let driver = driver()?;
    let removed = driver.tables().executables.remove(&executable);
    removed.map(|_| ()).ok_or(Code::INVALID_VALUE)
}

pub(crate) fn launch(driver: &'static Driver, executable: Handle, stream: Handle) -> Result {
    let mut tables = driver.tables();
    let executable = Arc::clone(tables.executables.get(&executable).ok_or(Code::INVALID_VALUE)?);
    let stream = tables.stream(stream)?;
    if executable.context != tables.streams[&stream].context {
        return Err(Code::INVALID_CONTEXT);
    }
    let end = tables.streams[&stream].queue.end();
    drop(tables);
    if executable.allocations().next().is_some() {
        // What an earlier launch frees has to be free.
        end.reach(driver);
    }
    executable.check_memory(&driver.tables())?;
    submit(driver, stream, Work::Graph(executable))
}

fn edges(graph: Handle, from: Out<Handle>, to: Out<Handle>, count: Out<usize>) -> Result {
    let driver = driver()?;
    let tables = driver.tables();
    let graph = tables.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
    let edges = graph.nodes.iter().flat_map(|node| {
        node.after.iter().map(|&before| (graph.nodes[before].handle, node.handle))
    });
    let (befores, afters): (Vec<_>, Vec<_>) = edges.unzip();
    if !from.is_null() {
        let room = count.get()?;
        give_list(&befores, from, count)?;
        count.set(room)?;
    }
    give_list(&afters, to, count)
}

/// As many as there is room for, or, without room, how many there are.
pub(crate) fn give_list(handles: &[Handle], to: Out<Handle>, count: Out<usize>) -> Result {
    if to.is_null() {
        return count.set(handles.len());
    }
    let room = count.get()?;
    for index in 0..room {
        to.at(index).set(handles.get(index).copied().unwrap_or(0))?;
    }
    count.set(room.min(handles.len()))
}

/// `CUgraphNodeType`.
fn type_of(work: &Work) -> u32 {
    match work {
        Work::Kernel(_) | Work::Task(_) => 0,
        Work::Copy(_) => 1,
        Work::Fill(_) => 2,
        Work::Call(_) => 3,
        Work::Graph(_) => 4,
        Work::Nothing | Work::Stamp(_) => 5,
        Work::Wait(_) => 6,
        Work::Record(_) => 7,
        Work::Allocate(_) => 10,
        Work::Free(_) => 11,
    }
}

impl Executable {
    /// An order of the nodes that their edges allow: of those that are ready, the one given goes
    /// next.
    pub(crate) fn order(&self, next: impl Fn(usize) -> usize) -> Vec<usize> {
        let mut left: Vec<usize> = (0..self.nodes.len()).collect();
        let mut order = Vec::new();
        let mut done = vec![false; self.nodes.len()];
        while !left.is_empty() {
            let is_ready = |node: usize| self.nodes[node].after.iter().all(|&other| done[other]);
            let ready: Vec<usize> = (0..left.len()).filter(|&at| is_ready(left[at])).collect();
            let node = left.remove(ready[next(ready.len())]);
            done[node] = true;
            order.push(node);
        }
        order
    }

    fn allocations(&self) -> impl Iterator<Item = &Arc<GraphMemory>> {
        self.nodes.iter().filter_map(|node| match &node.work {
            Work::Allocate(memory) => Some(memory),
            _ => None,
        })
    }

    /// What it allocates must not be there still, unless it frees that by itself.
    fn check_memory(&self, tables: &Tables) -> Result {
        let alive = self
            .allocations()
            .any(|memory| tables.allocations.contains_key(&(memory.device, memory.address)));
        if alive && self.flags & AUTO_FREE == 0 { Err(Code::INVALID_VALUE) } else { Ok(()) }
    }
}
