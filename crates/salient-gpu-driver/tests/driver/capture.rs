use crate::api::{Context, call, get, kernel, launch, ok, read, stream, words};

const GLOBAL: u64 = 0;
const THREAD_LOCAL: u64 = 1;
const RELAXED: u64 = 2;

fn begin(stream: u64, mode: u64) {
    ok(call("cuStreamBeginCapture_v2", &[stream, mode]));
}

fn end(stream: u64) -> (u32, u64) {
    let mut graph = 1u64;
    (call("cuStreamEndCapture", &[stream, &raw mut graph as u64]), graph)
}

#[track_caller]
fn end_ok(stream: u64) -> u64 {
    let (code, graph) = end(stream);
    assert_eq!(code, 0);
    graph
}

#[track_caller]
fn instantiate(graph: u64) -> u64 {
    get("cuGraphInstantiateWithFlags", &[graph, 0])
}

fn status(stream: u64) -> u32 {
    let mut status = 9u32;
    ok(call("cuStreamIsCapturing", &[stream, &raw mut status as u64]));
    status
}

fn types(graph: u64) -> Vec<u32> {
    let mut count = 0usize;
    ok(call("cuGraphGetNodes", &[graph, 0, &raw mut count as u64]));
    let mut nodes = vec![0u64; count];
    ok(call("cuGraphGetNodes", &[graph, nodes.as_mut_ptr() as u64, &raw mut count as u64]));
    let kind = |&node: &u64| {
        let mut kind = 99u32;
        ok(call("cuGraphNodeGetType", &[node, &raw mut kind as u64]));
        kind
    };
    nodes.iter().map(kind).collect()
}

#[test]
fn a_graph_does_what_was_captured_as_often_as_it_is_launched() {
    let _context = Context::alone();
    let (add, address, stream) = (kernel("add"), words(2), stream());
    ok(call("cuMemsetD32_v2", &[address, 0, 2]));
    assert_eq!(status(stream), 0);
    begin(stream, GLOBAL);
    assert_eq!(status(stream), 1);
    // The parameters are copied: the value here is gone when the graph runs.
    ok(launch(add, 1, 2, stream, address, 5));
    ok(call("cuMemsetD32Async", &[address + 4, 1, 1, stream]));
    ok(call("cuMemcpyDtoDAsync_v2", &[address + 4, address, 4, stream]));
    let graph = end_ok(stream);
    assert_eq!(status(stream), 0);
    assert_eq!(types(graph), [0, 2, 1]);
    assert_eq!(read(address, 2), [0, 0], "capturing does nothing");
    let executable = instantiate(graph);
    for launches in 1..=3 {
        ok(call("cuGraphLaunch", &[executable, stream]));
        ok(call("cuStreamSynchronize", &[stream]));
        assert_eq!(read(address, 2), [5 * launches; 2]);
    }
    ok(call("cuGraphDestroy", &[graph]));
    ok(call("cuGraphLaunch", &[executable, 0]));
    assert_eq!(read(address, 1), [20]);
    ok(call("cuGraphExecDestroy", &[executable]));
    assert_eq!(call("cuGraphLaunch", &[executable, stream]), 1);
    assert_eq!(call("cuGraphDestroy", &[graph]), 1);
    assert_eq!(call("cuGraphInstantiateWithFlags", &[&raw const graph as u64, graph, 0]), 1);
}

#[test]
fn host_memory_is_read_when_the_graph_runs() {
    let _context = Context::alone();
    let (address, stream) = (words(1), stream());
    let mut value = Box::new(1u32);
    begin(stream, THREAD_LOCAL);
    ok(call("cuMemcpyHtoDAsync_v2", &[address, &raw mut *value as u64, 4, stream]));
    let executable = instantiate(end_ok(stream));
    for now in [7, 8] {
        *value = now;
        ok(call("cuGraphLaunch", &[executable, stream]));
        ok(call("cuStreamSynchronize", &[stream]));
        assert_eq!(read(address, 1), [now]);
    }
}

#[test]
fn events_join_other_streams_to_a_capture() {
    let _context = Context::alone();
    let (store, add, address) = (kernel("store"), kernel("add"), words(2));
    let (first, second) = (stream(), stream());
    let (fork, join): (u64, u64) = (get("cuEventCreate", &[2]), get("cuEventCreate", &[2]));
    begin(first, GLOBAL);
    ok(launch(store, 1, 2, first, address, 1));
    ok(call("cuEventRecord", &[fork, first]));
    ok(call("cuStreamWaitEvent", &[second, fork, 0]));
    assert_eq!(status(second), 1);
    ok(launch(add, 1, 1, second, address, 10));
    ok(launch(add, 1, 1, first, address + 4, 20));
    ok(call("cuEventRecord", &[join, second]));
    ok(call("cuStreamWaitEvent", &[first, join, 0]));
    ok(launch(add, 1, 2, first, address, 100));
    let graph = end_ok(first);
    assert_eq!(status(second), 0);
    let mut count = 0usize;
    ok(call("cuGraphGetEdges", &[graph, 0, 0, &raw mut count as u64]));
    assert_eq!(count, 4);
    ok(call("cuGraphLaunch", &[instantiate(graph), second]));
    ok(call("cuStreamSynchronize", &[second]));
    assert_eq!(read(address, 2), [111, 121]);
}

#[test]
fn a_stream_that_was_not_joined_breaks_the_capture() {
    let _context = Context::alone();
    let (store, address) = (kernel("store"), words(1));
    let (first, second) = (stream(), stream());
    let event: u64 = get("cuEventCreate", &[2]);
    begin(first, GLOBAL);
    ok(call("cuEventRecord", &[event, first]));
    ok(call("cuStreamWaitEvent", &[second, event, 0]));
    ok(launch(store, 1, 1, second, address, 1));
    assert_eq!(end(second).0, 903);
    // Ending in the wrong stream has invalidated it.
    assert_eq!(end(first), (901, 0));
    begin(first, GLOBAL);
    ok(call("cuEventRecord", &[event, first]));
    ok(call("cuStreamWaitEvent", &[second, event, 0]));
    ok(launch(store, 1, 1, second, address, 1));
    assert_eq!(end(first), (904, 0));
    assert_eq!((status(first), status(second)), (0, 0));
}

#[test]
fn what_a_capture_forbids_fails_and_invalidates_it() {
    let _context = Context::alone();
    let (store, address) = (kernel("store"), words(1));
    let (captured, other, outside) = (stream(), stream(), get::<u64>("cuEventCreate", &[2]));
    ok(call("cuEventRecord", &[outside, other]));
    let mut value = 0u64;
    let to = &raw mut value as u64;
    let forbidden: [(&str, &[u64], u32); 11] = [
        ("cuStreamSynchronize", &[captured], 900),
        ("cuStreamQuery", &[captured], 900),
        ("cuCtxSynchronize", &[], 900),
        ("cuMemAlloc_v2", &[to, 16], 900),
        ("cuMemFree_v2", &[address], 900),
        ("cuMemHostAlloc", &[to, 16, 0], 900),
        ("cuMemcpyDtoH_v2", &[to, address, 4], 900),
        ("cuMemsetD32_v2", &[address, 0, 1], 900),
        ("cuEventQuery", &[outside], 900),
        ("cuStreamWaitEvent", &[captured, outside, 0], 905),
        ("cudaDeviceSynchronize", &[], 900),
    ];
    for (name, arguments, code) in forbidden {
        begin(captured, GLOBAL);
        ok(launch(store, 1, 1, captured, address, 1));
        assert_eq!(call(name, arguments), code, "{name}");
        assert_eq!(status(captured), 2, "{name}");
        assert_eq!(launch(store, 1, 1, captured, address, 1), 901, "{name}");
        assert_eq!(end(captured), (901, 0), "{name}");
    }
    // Other streams and the legacy one go on: this capture's does not block.
    begin(captured, GLOBAL);
    ok(launch(store, 1, 1, other, address, 3));
    ok(launch(store, 1, 1, 0, address, 4));
    ok(call("cuStreamSynchronize", &[other]));
    end_ok(captured);
}

#[test]
fn a_relaxed_capture_forbids_only_what_it_cannot_hold() {
    let _context = Context::alone();
    let (address, stream) = (words(1), stream());
    begin(stream, RELAXED);
    let more = words(1);
    assert_eq!(read(address, 1).len(), 1);
    ok(call("cuMemFree_v2", &[more]));
    ok(end(stream).0);
    // So does a thread that has taken its part of the matter over.
    let mut mode = RELAXED as u32;
    ok(call("cuThreadExchangeStreamCaptureMode", &[&raw mut mode as u64]));
    assert_eq!(u64::from(mode), GLOBAL);
    begin(stream, GLOBAL);
    words(1);
    ok(end(stream).0);
    ok(call("cuThreadExchangeStreamCaptureMode", &[&raw mut mode as u64]));
    assert_eq!(u64::from(mode), RELAXED);
    begin(stream, RELAXED);
    assert_eq!(call("cuStreamSynchronize", &[stream]), 900);
    assert_eq!(end(stream).0, 901);
}

#[test]
fn a_blocking_stream_that_captures_bars_the_legacy_stream() {
    let _context = Context::alone();
    let (store, address) = (kernel("store"), words(1));
    let blocking: u64 = get("cuStreamCreate", &[0]);
    begin(blocking, RELAXED);
    assert_eq!(launch(store, 1, 1, 0, address, 1), 906);
    assert_eq!(end(blocking), (901, 0));
    begin(blocking, RELAXED);
    let mut status = 9u32;
    assert_eq!(call("cuStreamIsCapturing", &[0, &raw mut status as u64]), 906);
    let mut value = 0u32;
    assert_eq!(call("cuMemcpyDtoH_v2", &[&raw mut value as u64, address, 4]), 906);
    assert_eq!(end(blocking), (901, 0));
    assert_eq!(call("cuStreamBeginCapture_v2", &[0, RELAXED]), 900);
    begin(2, RELAXED);
    ok(launch(store, 1, 1, 2, address, 1));
    end_ok(2);
}

#[test]
fn captures_begin_and_end_in_their_place() {
    let context = Context::alone();
    let (first, second) = (stream(), stream());
    assert_eq!(end(first), (401, 0));
    assert_eq!(call("cuStreamBeginCapture_v2", &[first, 3]), 1);
    begin(first, THREAD_LOCAL);
    assert_eq!(call("cuStreamBeginCapture_v2", &[first, GLOBAL]), 401);
    let elsewhere = |stream: u64, context: u64| {
        let ended = std::thread::spawn(move || {
            ok(call("cuCtxSetCurrent", &[context]));
            end(stream).0
        });
        ended.join().unwrap()
    };
    assert_eq!(elsewhere(first, context.handle), 908);
    end_ok(first);
    begin(first, RELAXED);
    ok(elsewhere(first, context.handle));

    let event: u64 = get("cuEventCreate", &[2]);
    begin(first, THREAD_LOCAL);
    begin(second, THREAD_LOCAL);
    ok(call("cuEventRecord", &[event, first]));
    assert_eq!(call("cuStreamWaitEvent", &[second, event, 0]), 902);
    assert_eq!((end(first).0, end(second).0), (901, 901));

    begin(first, THREAD_LOCAL);
    ok(call("cuEventRecord", &[event, first]));
    assert_eq!(call("cuEventSynchronize", &[event]), 907);
    assert_eq!(end(first).0, 901);
    assert_eq!(call("cuEventQuery", &[event]), 907);
    assert_eq!(call("cuStreamWaitEvent", &[second, event, 0]), 907);
    ok(call("cuEventRecord", &[event, second]));
    ok(call("cuEventSynchronize", &[event]));
}

#[test]
fn a_graph_has_memory_of_its_own() {
    let _context = Context::alone();
    let (store, add, stream) = (kernel("store"), kernel("add"), stream());
    let (result, before): (u64, u64) = (words(1), get("cuMemAllocAsync", &[4, stream]));
    begin(stream, GLOBAL);
    assert_eq!(call("cuMemFreeAsync", &[before, stream]), 1, "it is not a graph's");
    let memory: u64 = get("cuMemAllocAsync", &[4, stream]);
    ok(launch(store, 1, 1, stream, memory, 30));
    ok(launch(add, 1, 1, stream, memory, 3));
    ok(call("cuMemcpyDtoDAsync_v2", &[result, memory, 4, stream]));
    ok(call("cuMemFreeAsync", &[memory, stream]));
    let graph = end_ok(stream);
    assert_eq!(types(graph), [10, 0, 0, 1, 11]);
    let executable = instantiate(graph);
    let mut second = 0u64;
    let again = call("cuGraphInstantiateWithFlags", &[&raw mut second as u64, graph, 0]);
    assert_eq!(again, 801);
    for _ in 0..2 {
        ok(call("cuMemsetD32_v2", &[result, 0, 1]));
        ok(call("cuGraphLaunch", &[executable, stream]));
        ok(call("cuStreamSynchronize", &[stream]));
        assert_eq!(read(result, 1), [33]);
    }
}

#[test]
fn memory_that_a_graph_leaves_allocated_is_freed_before_it_runs_again() {
    let _context = Context::alone();
    let (store, stream) = (kernel("store"), stream());
    let capture = || {
        begin(stream, GLOBAL);
        let memory: u64 = get("cuMemAllocAsync", &[4, stream]);
        ok(launch(store, 1, 1, stream, memory, 9));
        (memory, end_ok(stream))
    };
    let (memory, graph) = capture();
    let executable = instantiate(graph);
    ok(call("cuGraphLaunch", &[executable, stream]));
    ok(call("cuStreamSynchronize", &[stream]));
    assert_eq!(read(memory, 1), [9]);
    assert_eq!(call("cuGraphLaunch", &[executable, stream]), 1);
    ok(call("cuMemFreeAsync", &[memory, stream]));
    ok(call("cuGraphLaunch", &[executable, stream]));
    let (_, graph) = capture();
    let freeing: u64 = get("cuGraphInstantiateWithFlags", &[graph, 1]);
    ok(call("cuGraphLaunch", &[freeing, stream]));
    ok(call("cuGraphLaunch", &[freeing, stream]));
}
