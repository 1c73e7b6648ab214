//! The driver and the runtime as a program sees them: through their entry points.

mod api;
mod capture;
mod launch;
mod memory;
mod runtime;
mod stream;

use std::path::Path;
use std::process::Command;

use api::{Context, call, get, ok};

#[test]
fn a_device_says_what_it_is() {
    let _context = Context::new();
    assert_eq!(get::<i32>("cuDeviceGetCount", &[]), 1);
    let mut name = [0u8; 64];
    ok(call("cuDeviceGetName", &[name.as_mut_ptr() as u64, 64, 0]));
    assert!(name.starts_with(b"Software GPU (sm_90"), "{name:?}");
    ok(call("cuDeviceGetName", &[name.as_mut_ptr() as u64, 9, 0]));
    assert_eq!(&name[..9], b"Software\0");
    for (attribute, expected) in [(75, 9), (76, 0), (16, 132), (97, 227 << 10), (115, 1)] {
        let mut value = 0i32;
        ok(call("cuDeviceGetAttribute", &[&raw mut value as u64, attribute, 0]));
        assert_eq!(value, expected, "attribute {attribute}");
        ok(call("cudaDeviceGetAttribute", &[&raw mut value as u64, attribute, 0]));
        assert_eq!(value, expected, "attribute {attribute}");
    }
    let mut value = 0i32;
    assert_eq!(call("cuDeviceGetAttribute", &[&raw mut value as u64, 4000, 0]), 1);
    assert_eq!(call("cuDeviceGetAttribute", &[&raw mut value as u64, 75, 1]), 101);
    assert_eq!(call("cuDeviceGet", &[&raw mut value as u64, 1]), 101);
    assert_eq!(call("cuDeviceGet", &[0, 0]), 1);
}

#[test]
fn errors_have_their_names() {
    let text = |name: &str, code: u64| {
        let mut text = std::ptr::null::<std::ffi::c_char>();
        let result = call(name, &[code, &raw mut text as u64]);
        // SAFETY: the driver gives null or a string that stays.
        let text = (!text.is_null()).then(|| unsafe { std::ffi::CStr::from_ptr(text) });
        (result, text.map(|text| text.to_str().unwrap()))
    };
    assert_eq!(text("cuGetErrorName", 700), (0, Some("CUDA_ERROR_ILLEGAL_ADDRESS")));
    assert_eq!(text("cuGetErrorName", 0), (0, Some("CUDA_SUCCESS")));
    assert_eq!(
        text("cuGetErrorString", 700),
        (0, Some("an illegal memory access was encountered"))
    );
    assert_eq!(text("cuGetErrorName", 9), (1, None));
}

#[test]
fn entry_points_are_found_by_name() {
    let _context = Context::new();
    let find = |name: &std::ffi::CStr, version: u64| {
        let (mut address, mut status) = (0u64, 9u32);
        let name = name.as_ptr() as u64;
        let arguments = [name, &raw mut address as u64, version, 0, &raw mut status as u64];
        ok(call("cuGetProcAddress_v2", &arguments));
        (address, status)
    };
    assert_eq!(find(c"cuMemAlloc", 12000), (api::address("cuMemAlloc_v2"), 0));
    assert_eq!(find(c"cuInit", 12000), (api::address("cuInit"), 0));
    assert_eq!(find(c"cuEventElapsedTime", 12000), (api::address("cuEventElapsedTime"), 0));
    assert_eq!(find(c"cuEventElapsedTime", 13000), (api::address("cuEventElapsedTime_v2"), 0));
    assert_eq!(find(c"cuNoSuchThing", 12000), (0, 1));
    assert_eq!(find(c"cuInit", 99000), (0, 2));
    let (mut address, mut status) = (0u64, 9u32);
    let name = c"cuTensorMapEncodeTiled".as_ptr() as u64;
    let arguments = [name, &raw mut address as u64, 12000, 0, &raw mut status as u64];
    ok(call("cudaGetDriverEntryPointByVersion", &arguments));
    assert_eq!((address, status), (api::address("cuTensorMapEncodeTiled"), 0));
}

#[test]
fn contexts_are_current_by_thread() {
    std::thread::spawn(|| {
        let context = Context::new();
        assert_eq!(get::<u64>("cuCtxGetCurrent", &[]), context.handle);
        assert_eq!(get::<u64>("cuCtxPopCurrent_v2", &[]), context.handle);
        assert_eq!(get::<u64>("cuCtxGetCurrent", &[]), 0);
        let mut address = 0u64;
        assert_eq!(call("cuMemAlloc_v2", &[&raw mut address as u64, 16]), 201);
        assert_eq!(call("cuStreamSynchronize", &[0]), 201);
        assert_eq!(call("cuCtxSetCurrent", &[0xdead_0000]), 201);
        ok(call("cuCtxSetCurrent", &[context.handle]));
        ok(call("cuMemAlloc_v2", &[&raw mut address as u64, 16]));
        ok(call("cuCtxDestroy_v2", &[context.handle]));
        assert_eq!(call("cuCtxDestroy_v2", &[context.handle]), 201);
        assert_eq!(call("cuCtxSetCurrent", &[context.handle]), 201);
    })
    .join()
    .unwrap();
}

#[test]
fn the_primary_context_is_counted() {
    let _context = Context::new();
    let first = get::<u64>("cuDevicePrimaryCtxRetain", &[0]);
    assert_eq!(get::<u64>("cuDevicePrimaryCtxRetain", &[0]), first);
    let active = || {
        let (mut flags, mut active) = (0u32, 0i32);
        ok(call("cuDevicePrimaryCtxGetState", &[0, &raw mut flags as u64, &raw mut active as u64]));
        active
    };
    ok(call("cuDevicePrimaryCtxRelease_v2", &[0]));
    assert_eq!(active(), 1);
    ok(call("cuDevicePrimaryCtxRelease_v2", &[0]));
}

#[test]
fn nothing_works_before_the_driver_is_initialised() {
    if std::env::var_os(api::UNINITIALIZED).is_none() {
        rerun(api::UNINITIALIZED, "1", "nothing_works_before_the_driver_is_initialised");
        return;
    }
    let mut value = 0u64;
    assert_eq!(call("cuDeviceGetCount", &[&raw mut value as u64]), 3);
    assert_eq!(call("cuMemAlloc_v2", &[&raw mut value as u64, 4]), 3);
    assert_eq!(call("cuCtxGetCurrent", &[&raw mut value as u64]), 3);
    ok(call("cuDriverGetVersion", &[&raw mut value as u64]));
    assert_eq!(call("cuInit", &[1]), 1);
    ok(call("cuInit", &[0]));
    assert_eq!(get::<i32>("cuDeviceGetCount", &[]), 1);
}

/// The same tests, with the work of streams left lying until it is waited for or drawn, and with
/// graphs in other orders.
#[test]
fn all_else_holds_in_any_order() {
    const MODES: [&str; 4] =
        ["streams=late", "streams=random,seed=1", "streams=random,order=random", "order=reverse"];
    if std::env::var("SALIENT_GPU").is_ok_and(|value| MODES.contains(&value.as_str())) {
        return;
    }
    for mode in MODES {
        rerun("SALIENT_GPU", mode, "");
    }
}

#[test]
fn launches_are_counted_in_the_log() {
    let log = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("launches-{}.jsonl", std::process::id()));
    rerun("SALIENT_GPU_LOG", log.to_str().unwrap(), "launch::a_fault_stays_with_its_context");
    let text = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(log).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines[0].starts_with(r#"{"fault":{"#), "{text}");
    assert_eq!(lines[1], r#"{"architecture":90}"#);
    assert_eq!(lines[2], r#"{"kernel":"store","launches":1}"#);
    assert_eq!(lines[3], r#"{"kernel":"trap_now","launches":1}"#);
}

/// Runs the tests whose names hold `filter` in a process of their own.
#[track_caller]
fn rerun(variable: &str, value: &str, filter: &str) {
    let tests = std::env::current_exe().unwrap();
    let output = Command::new(tests).arg(filter).env(variable, value).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{variable}={value}\n{text}{errors}");
}
