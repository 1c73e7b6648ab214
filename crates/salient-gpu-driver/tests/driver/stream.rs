use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::api::{Context, call, get, kernel, launch, ok, read, stream, words};

#[test]
fn work_of_a_stream_is_in_order() {
    let _context = Context::new();
    let (store, add, address) = (kernel("store"), kernel("add"), words(64));
    for stream in [0, 1, 2, stream(), get("cuStreamCreate", &[0])] {
        ok(launch(store, 2, 32, stream, address, 5));
        ok(launch(add, 2, 32, stream, address, 3));
        ok(call("cuMemsetD32Async", &[address, 1, 1, stream]));
        ok(launch(add, 1, 2, stream, address, 1));
        ok(call("cuStreamSynchronize", &[stream]));
        let mut expected = vec![8; 64];
        expected[..2].copy_from_slice(&[2, 9]);
        assert_eq!(read(address, 64), expected, "stream {stream:#x}");
    }
}

#[test]
fn a_stream_waits_for_an_event_of_another() {
    let _context = Context::new();
    let (store, add, address) = (kernel("store"), kernel("add"), words(1));
    let (first, second) = (stream(), stream());
    let event: u64 = get("cuEventCreate", &[2]);
    ok(call("cuStreamWaitEvent", &[second, event, 0]));
    ok(launch(store, 1, 1, first, address, 40));
    ok(call("cuEventRecord", &[event, first]));
    ok(call("cuStreamWaitEvent", &[second, event, 0]));
    ok(launch(add, 1, 1, second, address, 2));
    // What is recorded later does not concern the wait before.
    ok(call("cuEventRecord", &[event, second]));
    ok(call("cuStreamSynchronize", &[second]));
    assert_eq!(read(address, 1), [42]);
    ok(call("cuEventSynchronize", &[event]));
    ok(call("cuEventQuery", &[event]));
}

#[test]
fn the_legacy_stream_waits_for_blocking_streams_and_they_for_it() {
    let _context = Context::new();
    let (store, add, address) = (kernel("store"), kernel("add"), words(1));
    let blocking: u64 = get("cuStreamCreate", &[0]);
    ok(launch(store, 1, 1, blocking, address, 1));
    ok(launch(add, 1, 1, 0, address, 10));
    ok(launch(add, 1, 1, blocking, address, 100));
    ok(launch(add, 1, 1, 2, address, 1000));
    // The copy is the legacy stream's.
    assert_eq!(read(address, 1), [111 + 1000]);
}

#[test]
fn queries_get_there() {
    let _context = Context::new();
    let (store, address, stream) = (kernel("store"), words(1), stream());
    let event: u64 = get("cuEventCreate", &[0]);
    ok(call("cuEventQuery", &[event]));
    for value in 0..10 {
        ok(launch(store, 1, 1, stream, address, value));
    }
    ok(call("cuEventRecord", &[event, stream]));
    let query =
        |name: &str, handle| (0..100).map(|_| call(name, &[handle])).find(|&code| code != 600);
    assert_eq!(query("cuEventQuery", event), Some(0));
    assert_eq!(query("cuStreamQuery", stream), Some(0));
    assert_eq!(read(address, 1), [9]);
}

#[test]
fn time_passes_between_events() {
    let _context = Context::new();
    let (store, address, stream) = (kernel("store"), words(1), stream());
    let (start, end): (u64, u64) = (get("cuEventCreate", &[0]), get("cuEventCreate", &[0]));
    let mut elapsed = -1f32;
    let arguments = [&raw mut elapsed as u64, start, end];
    assert_eq!(call("cuEventElapsedTime_v2", &arguments), 400);
    ok(call("cuEventRecord", &[start, stream]));
    ok(launch(store, 1, 1, stream, address, 1));
    ok(call("cuEventRecord", &[end, stream]));
    ok(call("cuEventSynchronize", &[end]));
    ok(call("cuEventElapsedTime_v2", &arguments));
    assert!(elapsed >= 0.0, "{elapsed}");
    let untimed: u64 = get("cuEventCreate", &[2]);
    ok(call("cuEventRecord", &[untimed, stream]));
    assert_eq!(call("cuEventElapsedTime", &[&raw mut elapsed as u64, start, untimed]), 400);
}

#[test]
fn handles_that_are_none_are_refused() {
    let _context = Context::new();
    let (stream, event): (u64, u64) = (stream(), get("cuEventCreate", &[0]));
    for bad in [3, 0xdead_0000, event] {
        assert_eq!(call("cuStreamSynchronize", &[bad]), 400, "{bad:#x}");
        assert_eq!(call("cuStreamDestroy_v2", &[bad]), 400, "{bad:#x}");
        assert_eq!(call("cuEventRecord", &[event, bad]), 400, "{bad:#x}");
    }
    for bad in [0, 3, stream] {
        assert_eq!(call("cuEventRecord", &[bad, stream]), 400, "{bad:#x}");
        assert_eq!(call("cuEventDestroy_v2", &[bad]), 400, "{bad:#x}");
    }
    ok(call("cuEventDestroy_v2", &[event]));
    assert_eq!(call("cuEventQuery", &[event]), 400);
    assert_eq!(call("cuEventDestroy_v2", &[event]), 400);
    ok(call("cuStreamDestroy_v2", &[stream]));
    assert_eq!(call("cuStreamQuery", &[stream]), 400);
    let mut handle = 0u64;
    assert_eq!(call("cuStreamCreate", &[&raw mut handle as u64, 8]), 1);
    assert_eq!(call("cuStreamCreate", &[0, 0]), 1);
}

#[test]
fn host_functions_run_in_their_place() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    unsafe extern "C" fn look(data: *mut c_void) {
        // SAFETY: the test hands a pinned word over.
        SEEN.store(u64::from(unsafe { *data.cast::<u32>() }), Ordering::SeqCst);
    }
    let _context = Context::new();
    let (store, address, stream) = (kernel("store"), words(1), stream());
    let word: u64 = get("cuMemHostAlloc", &[4, 0]);
    ok(launch(store, 1, 1, stream, address, 77));
    ok(call("cuMemcpyDtoHAsync_v2", &[word, address, 4, stream]));
    let function = look as unsafe extern "C" fn(*mut c_void) as usize as u64;
    ok(call("cuLaunchHostFunc", &[stream, function, word]));
    ok(launch(store, 1, 1, stream, address, 78));
    ok(call("cuMemcpyDtoHAsync_v2", &[word, address, 4, stream]));
    ok(call("cuStreamSynchronize", &[stream]));
    assert_eq!(SEEN.load(Ordering::SeqCst), 77);
    assert_eq!(call("cuLaunchHostFunc", &[stream, 0, word]), 1);
}
