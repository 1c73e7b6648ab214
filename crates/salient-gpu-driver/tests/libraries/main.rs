//! cuBLAS, cuRAND and NVRTC as a program sees them: through their entry points.

#[allow(dead_code, reason = "the driver's tests use all of it")]
#[path = "../driver/api.rs"]
mod api;
mod blas;
mod rand;

use std::ffi::{CStr, c_char};
use std::process::Command;

use api::{Context, address, call, get, ok};

/// Device memory that holds these.
fn device(bytes: &[u8]) -> u64 {
    let to: u64 = get("cuMemAlloc_v2", &[bytes.len() as u64]);
    ok(call("cuMemcpyHtoD_v2", &[to, bytes.as_ptr() as u64, bytes.len() as u64]));
    to
}

fn host(from: u64, bytes: usize) -> Vec<u8> {
    let mut values = vec![0; bytes];
    ok(call("cuMemcpyDtoH_v2", &[values.as_mut_ptr() as u64, from, bytes as u64]));
    values
}

#[test]
fn programs_do_not_compile_and_their_log_says_why() {
    let source = c"__global__ void f() {}";
    let mut program: u64 = get("nvrtcCreateProgram", &[source.as_ptr() as u64, 0, 0, 0, 0]);
    assert_eq!(call("nvrtcCompileProgram", &[program, 0, 0]), 6);
    let mut size = 0usize;
    ok(call("nvrtcGetProgramLogSize", &[program, &raw mut size as u64]));
    let mut log = vec![1u8; size];
    ok(call("nvrtcGetProgramLog", &[program, log.as_mut_ptr() as u64]));
    let log = CStr::from_bytes_with_nul(&log).unwrap().to_str().unwrap();
    assert!(log.contains("no compiler"), "{log}");
    assert_ne!(call("nvrtcGetPTXSize", &[program, &raw mut size as u64]), 0);
    let destroyed = program;
    ok(call("nvrtcDestroyProgram", &[&raw mut program as u64]));
    assert_eq!(program, 0);
    assert_eq!(call("nvrtcCompileProgram", &[destroyed, 0, 0]), 4);
}

#[test]
fn statuses_have_their_names() {
    for (function, status, expected) in [
        ("nvrtcGetErrorString", 6, "NVRTC_ERROR_COMPILATION"),
        ("cublasGetStatusName", 13, "CUBLAS_STATUS_EXECUTION_FAILED"),
    ] {
        // SAFETY: the function takes a number and gives a string that stays.
        let name = unsafe {
            std::mem::transmute::<u64, extern "C" fn(u32) -> *const c_char>(address(function))
        };
        // SAFETY: as above.
        let name = unsafe { CStr::from_ptr(name(status)) };
        assert_eq!(name.to_str().unwrap(), expected);
    }
}

#[test]
fn handles_need_a_context_and_are_looked_up() {
    std::thread::spawn(|| {
        let mut handle = 0u64;
        // Before there is a context: what the driver's own errors become.
        assert_eq!(call("cublasCreate_v2", &[&raw mut handle as u64]), 1);
        assert_eq!(call("curandCreateGenerator", &[&raw mut handle as u64, 100]), 203);
        let _context = Context::new();
        handle = get("cublasCreate_v2", &[]);
        let stream = api::stream();
        ok(call("cublasSetStream_v2", &[handle, stream]));
        let mut set = 0u64;
        ok(call("cublasGetStream_v2", &[handle, &raw mut set as u64]));
        assert_eq!(set, stream);
        ok(call("cublasDestroy_v2", &[handle]));
        assert_eq!(call("cublasDestroy_v2", &[handle]), 1);
        assert_eq!(call("cublasSetMathMode", &[handle, 0]), 1);
    })
    .join()
    .unwrap();
}

/// The same tests, with the work of streams left lying until it is waited for.
#[test]
fn all_else_holds_when_streams_are_late() {
    let mode = "streams=late";
    if std::env::var("SALIENT_GPU").is_ok_and(|value| value == mode) {
        return;
    }
    let tests = std::env::current_exe().unwrap();
    let output = Command::new(tests).env("SALIENT_GPU", mode).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
