//! Events.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::driver::stream::per_thread;
use crate::error::{Code, Result};
use crate::ffi::{Handle, Out, driver};
use crate::state::{Driver, Tables, current, driver, fresh};
use crate::work::{Point, Work, settle};

const DISABLE_TIMING: u32 = 2;
const INTERPROCESS: u32 = 4;
/// `CU_EVENT_RECORD_EXTERNAL` and `CU_EVENT_WAIT_EXTERNAL`.
const EXTERNAL: u32 = 1;

/// An event.
pub(crate) struct Event {
    pub(crate) context: Handle,
    pub(crate) flags: u32,
    pub(crate) state: EventState,
}

/// What was last recorded.
#[derive(Clone)]
pub(crate) enum EventState {
    Nothing,
    /// What a stream had been given; `None` if that was done at once. The time comes when it is
    /// done.
    Recorded {
        point: Option<Point>,
        time: Arc<OnceLock<Instant>>,
    },
    /// The nodes that a capture had come to in a stream.
    Captured {
        capture: u64,
        nodes: Vec<usize>,
    },
}

driver! {
    fn cuEventCreate(event: Out<Handle>, flags: u32) {
        event.wanted()?.set(create(flags)?)
    }

    fn cuEventDestroy_v2(event: Handle) {
        destroy(event)
    }

    fn cuEventRecord(event: Handle, stream: Handle) {
        record(driver()?, event, stream, 0)
    }

    fn cuEventRecord_ptsz(event: Handle, stream: Handle) {
        record(driver()?, event, per_thread(stream), 0)
    }

    fn cuEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        record(driver()?, event, stream, flags)
    }

    fn cuEventQuery(event: Handle) {
        query(driver()?, event)
    }

    fn cuEventSynchronize(event: Handle) {
        synchronize(driver()?, event)
    }

    fn cuEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.wanted()?.set(elapsed(driver()?, start, end)?)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.wanted()?.set(elapsed(driver()?, start, end)?)
    }

    fn cuStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        wait(driver()?, stream, event, flags)
    }

    fn cuStreamWaitEvent_ptsz(stream: Handle, event: Handle, flags: u32) {
        wait(driver()?, per_thread(stream), event, flags)
    }
}

pub(crate) fn create(flags: u32) -> Result<Handle> {
    let (driver, current) = current()?;
    if flags & !7 != 0 || flags & (INTERPROCESS | DISABLE_TIMING) == INTERPROCESS {
        return Err(Code::INVALID_VALUE);
    }
    let event = Event { context: current.context, flags, state: EventState::Nothing };
    let handle = fresh();
    driver.tables().events.insert(handle, event);
    Ok(handle)
}

pub(crate) fn destroy(event: Handle) -> Result {
    let driver = driver()?;
    let mut tables = driver.tables();
    let event = tables.events.remove(&event).ok_or(Code::INVALID_HANDLE)?;
    tables.sound(event.context)
}

pub(crate) fn record(driver: &'static Driver, event: Handle, stream: Handle, flags: u32) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let context = tables.event(event)?.context;
    if context != tables.streams[&stream].context {
        return Err(Code::INVALID_HANDLE);
    }
    if flags & !EXTERNAL != 0 {
        return Err(Code::INVALID_VALUE);
    }
    if let Some(capture) = tables.streams[&stream].capture {
        if flags & EXTERNAL != 0 {
            return tables.capture_work(stream, Work::Record(event)).map(|_| ());
        }
        let nodes = tables.capture_nodes(capture, stream)?;
        tables.set_event(event, EventState::Captured { capture, nodes });
        return Ok(());
    }
    tables.check_legacy(stream)?;
    let time = Arc::new(OnceLock::new());
    let point = tables.push(stream, Work::Stamp(Arc::clone(&time)), None);
    tables.set_event(event, EventState::Recorded { point: Some(point.clone()), time });
    drop(tables);
    settle(driver, &point)
}

pub(crate) fn wait(driver: &'static Driver, stream: Handle, event: Handle, flags: u32) -> Result {
    let mut tables = driver.tables();
    let stream = tables.stream(stream)?;
    let state = tables.event(event)?.state.clone();
    if flags & !EXTERNAL != 0 {
        return Err(Code::INVALID_VALUE);
    }
    if tables.streams[&stream].capture.is_some() && flags & EXTERNAL != 0 {
        return tables.capture_work(stream, Work::Wait(event)).map(|_| ());
    }
    match (state, tables.streams[&stream].capture) {
        (EventState::Nothing, _) => Ok(()),
        (EventState::Captured { capture, nodes }, own) => tables.join(stream, own, capture, &nodes),
        (EventState::Recorded { .. }, Some(capture)) => {
            tables.invalidate(capture);
            Err(Code::CAPTURE_ISOLATION)
        }
        (EventState::Recorded { point, .. }, None) => {
            tables.check_legacy(stream)?;
            let point = tables.push(stream, Work::Nothing, point);
            drop(tables);
            settle(driver, &point)
        }
    }
}

pub(crate) fn query(driver: &'static Driver, event: Handle) -> Result {
    let Some(point) = point_for_host(driver, event, true)? else { return Ok(()) };
    let ready = point.is_reached();
    point.approach(driver)?;
    if ready { Ok(()) } else { Err(Code::NOT_READY) }
}

pub(crate) fn synchronize(driver: &'static Driver, event: Handle) -> Result {
    match point_for_host(driver, event, false)? {
        Some(point) => point.finish(driver),
        None => Ok(()),
    }
}

/// What the host has to wait for.
fn point_for_host(driver: &Driver, event: Handle, is_query: bool) -> Result<Option<Point>> {
    let mut tables = driver.tables();
    match tables.event(event)?.state.clone() {
        EventState::Captured { capture, .. } => {
            tables.invalidate(capture);
            Err(Code::CAPTURED_EVENT)
        }
        state => {
            if is_query {
                tables.check_unsafe_call()?;
            }
            match state {
                EventState::Recorded { point, .. } => Ok(point),
                _ => Ok(None),
            }
        }
    }
}

pub(crate) fn elapsed(driver: &Driver, start: Handle, end: Handle) -> Result<f32> {
    let tables = driver.tables();
    let time = |event: Handle| {
        let event = tables.event(event)?;
        if event.flags & DISABLE_TIMING != 0 {
            return Err(Code::INVALID_HANDLE);
        }
        match &event.state {
            EventState::Nothing => Err(Code::INVALID_HANDLE),
            EventState::Recorded { time, .. } => time.get().copied().ok_or(Code::NOT_READY),
            EventState::Captured { .. } => Err(Code::CAPTURED_EVENT),
        }
    };
    let (start, end) = (time(start)?, time(end)?);
    let forward = end.saturating_duration_since(start).as_secs_f32();
    let backward = start.saturating_duration_since(end).as_secs_f32();
    Ok((forward - backward) * 1e3)
}

impl Tables {
    /// The event of a handle, in a sound context.
    pub(crate) fn event(&self, event: Handle) -> Result<&Event> {
        let event = self.events.get(&event).ok_or(Code::INVALID_HANDLE)?;
        self.sound(event.context)?;
        Ok(event)
    }

    fn set_event(&mut self, event: Handle, state: EventState) {
        if let Some(event) = self.events.get_mut(&event) {
            event.state = state;
        }
    }

    /// By a graph that is running.
    pub(crate) fn record_now(&mut self, event: Handle) {
        let time = Arc::new(OnceLock::from(Instant::now()));
        self.set_event(event, EventState::Recorded { point: None, time });
    }
}
