//! Streams and their captures, as the runtime has them.

use std::ffi::c_void;

use crate::driver::capture::{Mode, begin, end, exchange, give_info, info};
use crate::driver::stream::{create, destroy, per_thread, query, synchronize};
use crate::error::{Code, Result};
use crate::ffi::{Handle, HostCall, Out, runtime};
use crate::runtime::device::ensure;
use crate::state::{Driver, initialize};
use crate::work::{Work, submit};

type Callback = unsafe extern "C" fn(Handle, u32, *mut c_void);

runtime! {
    fn cudaStreamCreate(stream: Out<Handle>) {
        ensure()?;
        stream.wanted()?.set(create(0, 0)?)
    }

    fn cudaStreamCreateWithFlags(stream: Out<Handle>, flags: u32) {
        ensure()?;
        stream.wanted()?.set(create(flags, 0)?)
    }

    fn cudaStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        ensure()?;
        stream.wanted()?.set(create(flags, priority)?)
    }

    fn cudaStreamDestroy(stream: Handle) {
        ensure()?;
        destroy(stream)
    }

    fn cudaStreamSynchronize(stream: Handle) {
        synchronize(ensure()?.0, stream)
    }

    fn cudaStreamSynchronize_ptsz(stream: Handle) {
        synchronize(ensure()?.0, per_thread(stream))
    }

    fn cudaStreamQuery(stream: Handle) {
        query(ensure()?.0, stream)
    }

    fn cudaStreamQuery_ptsz(stream: Handle) {
        query(ensure()?.0, per_thread(stream))
    }

    fn cudaStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let (driver, _) = ensure()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        let stream = &tables.streams[&stream];
        flags.set(u32::from(!stream.blocking && !stream.is_legacy))
    }

    fn cudaStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let (driver, _) = ensure()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        priority.set(tables.streams[&stream].priority)
    }

    fn cudaStreamGetDevice(stream: Handle, device: Out<i32>) {
        let (driver, _) = ensure()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        device.set(tables.contexts[&tables.streams[&stream].context].device as i32)
    }

    fn cudaStreamGetId(stream: Handle, id: Out<u64>) {
        id.set(ensure()?.0.tables().stream(stream)?)
    }

    fn cudaLaunchHostFunc(
        stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: u64
    ) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(ensure()?.0, stream, Work::Call(HostCall::Plain { function, data }))
    }

    fn cudaLaunchHostFunc_ptsz(
        stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: u64
    ) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(ensure()?.0, per_thread(stream), Work::Call(HostCall::Plain { function, data }))
    }

    fn cudaStreamAddCallback(
        stream: Handle, callback: Option<Callback>, data: u64, flags: u32
    ) {
        let function = callback.filter(|_| flags == 0).ok_or(Code::INVALID_VALUE)?;
        add_callback(ensure()?.0, stream, function, data)
    }

    fn cudaStreamBeginCapture(stream: Handle, mode: u32) {
        begin(ensure()?.0, stream, Mode::from_number(mode)?)
    }

    fn cudaStreamBeginCapture_ptsz(stream: Handle, mode: u32) {
        begin(ensure()?.0, per_thread(stream), Mode::from_number(mode)?)
    }

    fn cudaStreamEndCapture(stream: Handle, graph: Out<Handle>) {
        end_into(stream, graph)
    }

    fn cudaStreamEndCapture_ptsz(stream: Handle, graph: Out<Handle>) {
        end_into(per_thread(stream), graph)
    }

    fn cudaStreamIsCapturing(stream: Handle, status: Out<u32>) {
        status.wanted()?.set(info(ensure()?.0, stream)?.0)
    }

    fn cudaStreamIsCapturing_ptsz(stream: Handle, status: Out<u32>) {
        status.wanted()?.set(info(ensure()?.0, per_thread(stream))?.0)
    }

    fn cudaStreamGetCaptureInfo(
        stream: Handle,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<Handle>,
        dependencies: Out<u64>,
        edges: Out<u64>,
        count: Out<usize>,
    ) {
        ensure()?;
        edges.set_if_wanted(0);
        give_info(stream, status, id, graph, dependencies, count)
    }

    fn cudaThreadExchangeStreamCaptureMode(mode: Out<u32>) {
        initialize()?;
        exchange(mode)
    }
}

fn end_into(stream: Handle, graph: Out<Handle>) -> Result {
    let ended = end(ensure()?.0, stream);
    graph.set(ended.unwrap_or(0))?;
    ended.map(|_| ())
}

/// A callback is told the stream and its error; it cannot be captured.
fn add_callback(driver: &'static Driver, stream: Handle, function: Callback, data: u64) -> Result {
    let mut tables = driver.tables();
    let own = tables.stream(stream)?;
    if let Some(capture) = tables.streams[&own].capture {
        tables.invalidate(capture);
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    drop(tables);
    submit(driver, stream, Work::Call(HostCall::OfStream { function, stream, data }))
}
