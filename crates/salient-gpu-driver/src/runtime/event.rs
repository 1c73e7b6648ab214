//! Events, as the runtime has them.

use crate::driver::event::{create, destroy, elapsed, query, record, synchronize, wait};
use crate::driver::stream::per_thread;
use crate::ffi::{Handle, Out, runtime};
use crate::runtime::device::ensure;

runtime! {
    fn cudaEventCreate(event: Out<Handle>) {
        ensure()?;
        event.wanted()?.set(create(0)?)
    }

    fn cudaEventCreateWithFlags(event: Out<Handle>, flags: u32) {
        ensure()?;
        event.wanted()?.set(create(flags)?)
    }

    fn cudaEventDestroy(event: Handle) {
        ensure()?;
        destroy(event)
    }

    fn cudaEventRecord(event: Handle, stream: Handle) {
        record(ensure()?.0, event, stream, 0)
    }

    fn cudaEventRecord_ptsz(event: Handle, stream: Handle) {
        record(ensure()?.0, event, per_thread(stream), 0)
    }

    fn cudaEventRecordWithFlags(event: Handle, stream: Handle, flags: u32) {
        record(ensure()?.0, event, stream, flags)
    }

    fn cudaEventQuery(event: Handle) {
        query(ensure()?.0, event)
    }

    fn cudaEventSynchronize(event: Handle) {
        synchronize(ensure()?.0, event)
    }

    fn cudaEventElapsedTime(milliseconds: Out<f32>, start: Handle, end: Handle) {
        milliseconds.wanted()?.set(elapsed(ensure()?.0, start, end)?)
    }

    fn cudaStreamWaitEvent(stream: Handle, event: Handle, flags: u32) {
        wait(ensure()?.0, stream, event, flags)
    }

    fn cudaStreamWaitEvent_ptsz(stream: Handle, event: Handle, flags: u32) {
        wait(ensure()?.0, per_thread(stream), event, flags)
    }
}
