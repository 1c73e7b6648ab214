//! Graphs, as the runtime has them.

use crate::driver::graph::{destroy_executable, give_list, instantiate, launch};
use crate::driver::init::unsupported;
use crate::driver::stream::per_thread;
use crate::error::Code;
use crate::ffi::{Handle, Out, runtime};
use crate::runtime::device::ensure;

runtime! {
    fn cudaGraphDestroy(graph: Handle) {
        let removed = ensure()?.0.tables().graphs.remove(&graph);
        removed.map(|_| ()).ok_or(Code::INVALID_VALUE)
    }

    fn cudaGraphInstantiate(executable: Out<Handle>, graph: Handle, flags: u64) {
        executable.wanted()?.set(instantiate(ensure()?.0, graph, flags)?)
    }

    fn cudaGraphInstantiateWithFlags(executable: Out<Handle>, graph: Handle, flags: u64) {
        executable.wanted()?.set(instantiate(ensure()?.0, graph, flags)?)
    }

    fn cudaGraphExecDestroy(executable: Handle) {
        ensure()?;
        destroy_executable(executable)
    }

    fn cudaGraphUpload(executable: Handle, stream: Handle) {
        let (driver, _) = ensure()?;
        let mut tables = driver.tables();
        tables.executables.get(&executable).ok_or(Code::INVALID_VALUE)?;
        tables.stream(stream).map(|_| ())
    }

    fn cudaGraphLaunch(executable: Handle, stream: Handle) {
        launch(ensure()?.0, executable, stream)
    }

    fn cudaGraphLaunch_ptsz(executable: Handle, stream: Handle) {
        launch(ensure()?.0, executable, per_thread(stream))
    }

    fn cudaGraphGetNodes(graph: Handle, nodes: Out<Handle>, count: Out<usize>) {
        let (driver, _) = ensure()?;
        let tables = driver.tables();
        let graph = tables.graphs.get(&graph).ok_or(Code::INVALID_VALUE)?;
        let handles: Vec<_> = graph.nodes.iter().map(|node| node.handle).collect();
        give_list(&handles, nodes, count)
    }

    fn cudaGraphExecUpdate(_executable: Handle, _graph: Handle, _result: Out<u8>) {
        unsupported()
    }
}
