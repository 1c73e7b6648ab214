//! Streams.

use std::ffi::c_void;
use std::sync::Arc;

use crate::driver::context::clamp_priority;
use crate::error::{Code, Result};
use crate::ffi::{Handle, HostCall, Out, driver};
use crate::state::{Driver, Tables, current, driver, fresh, thread};
use crate::work::{Queue, Work, submit};

/// `CU_STREAM_LEGACY`; null is the same.
pub(crate) const LEGACY: Handle = 1;
/// `CU_STREAM_PER_THREAD`.
pub(crate) const PER_THREAD: Handle = 2;

const NON_BLOCKING: u32 = 1;

/// A stream.
pub(crate) struct Stream {
    pub(crate) context: Handle,
    pub(crate) queue: Arc<Queue>,
    /// The legacy stream waits for it, and it for the legacy stream.
    pub(crate) blocking: bool,
    pub(crate) is_legacy: bool,
    pub(crate) priority: i32,
    /// What it is captured into.
    pub(crate) capture: Option<u64>,
}

driver! {
    fn cuStreamCreate(stream: Out<Handle>, flags: u32) {
        stream.wanted()?.set(create(flags, 0)?)
    }

    fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: u32, priority: i32) {
        stream.wanted()?.set(create(flags, priority)?)
    }

    fn cuStreamDestroy_v2(stream: Handle) {
        destroy(stream)
    }

    fn cuStreamSynchronize(stream: Handle) {
        synchronize(driver()?, stream)
    }

    fn cuStreamSynchronize_ptsz(stream: Handle) {
        synchronize(driver()?, per_thread(stream))
    }

    fn cuStreamQuery(stream: Handle) {
        query(driver()?, stream)
    }

    fn cuStreamGetFlags(stream: Handle, flags: Out<u32>) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        let stream = &tables.streams[&stream];
        flags.set(if stream.blocking || stream.is_legacy { 0 } else { NON_BLOCKING })
    }

    fn cuStreamGetPriority(stream: Handle, priority: Out<i32>) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        priority.set(tables.streams[&stream].priority)
    }

    fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        context.set(tables.streams[&stream].context)
    }

    fn cuStreamGetDevice(stream: Handle, device: Out<i32>) {
        let driver = driver()?;
        let mut tables = driver.tables();
        let stream = tables.stream(stream)?;
        device.set(tables.contexts[&tables.streams[&stream].context].device as i32)
    }

    fn cuStreamGetId(stream: Handle, id: Out<u64>) {
        id.set(driver()?.tables().stream(stream)?)
    }

    fn cuStreamAttachMemAsync(stream: Handle, address: u64, _bytes: usize, flags: u32) {
        let driver = driver()?;
        let mut tables = driver.tables();
        tables.stream(stream)?;
        tables.host_memory(address).ok_or(Code::INVALID_VALUE)?;
        if matches!(flags, 1 | 2 | 4) { Ok(()) } else { Err(Code::INVALID_VALUE) }
    }

    fn cuLaunchHostFunc(
        stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: u64
    ) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver()?, stream, Work::Call(HostCall::Plain { function, data }))
    }

    fn cuLaunchHostFunc_ptsz(
        stream: Handle, function: Option<unsafe extern "C" fn(*mut c_void)>, data: u64
    ) {
        let function = function.ok_or(Code::INVALID_VALUE)?;
        submit(driver()?, per_thread(stream), Work::Call(HostCall::Plain { function, data }))
    }
}

/// What a null handle is in code that was compiled for per-thread default streams.
pub(crate) fn per_thread(stream: Handle) -> Handle {
    if stream == 0 { PER_THREAD } else { stream }
}

pub(crate) fn create(flags: u32, priority: i32) -> Result<Handle> {
    let (driver, current) = current()?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let stream = Stream {
        context: current.context,
        queue: Queue::new(current.context, current.device),
        blocking: flags & NON_BLOCKING == 0,
        is_legacy: false,
        priority: clamp_priority(priority),
        capture: None,
    };
    let handle = fresh();
    driver.tables().streams.insert(handle, stream);
    Ok(handle)
}

pub(crate) fn destroy(handle: Handle) -> Result {
    let driver = driver()?;
    let mut tables = driver.tables();
    let stream = tables.streams.get(&handle).ok_or(Code::INVALID_HANDLE)?;
    if stream.is_legacy {
        return Err(Code::INVALID_HANDLE);
    }
    let (context, end) = (stream.context, stream.queue.end());
    if let Some(capture) = stream.capture {
        tables.invalidate(capture);
    }
    drop(tables);
    // What it was given is done still.
    end.reach(driver);
    let mut tables = driver.tables();
    tables.streams.remove(&handle);
    tables.sound(context)
}

pub(crate) fn synchronize(driver: &'static Driver, stream: Handle) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    if let Some(capture) = tables.streams[&stream].capture {
        tables.invalidate(capture);
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    tables.check_legacy(stream)?;
    let point = tables.point_of(stream);
    drop(tables);
    point.finish(driver)
}

pub(crate) fn query(driver: &'static Driver, stream: Handle) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    if let Some(capture) = tables.streams[&stream].capture {
        tables.invalidate(capture);
        return Err(Code::CAPTURE_UNSUPPORTED);
    }
    tables.check_legacy(stream)?;
    tables.check_unsafe_call()?;
    let point = tables.point_of(stream);
    drop(tables);
    let ready = point.is_reached();
    point.approach(driver)?;
    if ready { Ok(()) } else { Err(Code::NOT_READY) }
}

impl Stream {
    /// The one that handles 0 and 1 are for.
    pub(crate) fn legacy(context: Handle, device: usize) -> Self {
        Self {
            context,
            queue: Queue::new(context, device),
            blocking: false,
            is_legacy: true,
            priority: 0,
            capture: None,
        }
    }
}

impl Tables {
    /// The stream that a handle is for, in a sound context.
    pub(crate) fn stream(&mut self, handle: Handle) -> Result<Handle> {
        let handle = match handle {
            0 | LEGACY => self.contexts[&self.current()?.context].legacy,
            PER_THREAD => self.per_thread_stream()?,
            _ => handle,
        };
        let stream = self.streams.get(&handle).ok_or(Code::INVALID_HANDLE)?;
        self.sound(stream.context)?;
        Ok(handle)
    }

    fn per_thread_stream(&mut self) -> Result<Handle> {
        let current = self.current()?;
        let context = self.contexts.get_mut(&current.context).ok_or(Code::CONTEXT_DESTROYED)?;
        let handle = *context.per_thread.entry(thread()).or_insert_with(fresh);
        self.streams.entry(handle).or_insert_with(|| Stream {
            context: current.context,
            queue: Queue::new(current.context, current.device),
            blocking: true,
            is_legacy: false,
            priority: 0,
            capture: None,
        });
        Ok(handle)
    }

    /// All that a stream has been given so far. For the legacy stream, that is what all blocking
    /// streams have been given.
    fn point_of(&mut self, stream: Handle) -> crate::work::Point {
        if self.streams[&stream].is_legacy {
            self.push(stream, Work::Nothing, None)
        } else {
            self.streams[&stream].queue.end()
        }
    }
}
