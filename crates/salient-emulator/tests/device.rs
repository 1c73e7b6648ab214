//! The probes on a device: CUDA's built-ins and the wrappers of `kernels/ptx/` do there what they do
//! in the emulator. Without a device the test says that it did not run; with `SALIENT_NEED_DEVICE`
//! set it fails. `scripts/device-build` compiles the probes into the library that it loads, which
//! lies beside it or where `SALIENT_PROBES` says.

use std::env;
use std::io::Write;
use std::sync::Arc;

use libloading::Library;
use salient::cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut};
use salient::cuda::{Backend, probe};
use salient_emulator::probes::Launcher;
use salient_oracle::probes::Probe;

#[test]
fn every_probe_does_what_the_manual_says() {
    let backend = probe();
    if !matches!(backend, Backend::Cuda(_)) {
        let need = env::var_os("SALIENT_NEED_DEVICE").is_some();
        assert!(!need, "SALIENT_NEED_DEVICE is set, but the backend is {backend}");
        // Not by a macro that the test harness catches: a test that did not run says so.
        let says = format!("NOT RUN: the probes need a device; the backend is {backend}\n");
        std::io::stderr().write_all(says.as_bytes()).expect("standard error is open");
        return;
    }
    let path = env::var_os("SALIENT_PROBES").map_or_else(
        || env::current_exe().expect("this program has a path").with_file_name("probes.so"),
        Into::into,
    );
    // SAFETY: the library is that of `scripts/device-build`; loading it registers its kernels with
    // its own copy of the CUDA runtime, as every CUDA program does on its start.
    let library = unsafe { Library::new(&path) }.unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let context = CudaContext::new(0).expect("the probed driver has a device");
    let (major, minor) = context.compute_capability().expect("a device has a capability");
    for probe in Probe::ALL.into_iter().filter(|probe| probe.runs_on(10 * major + minor)) {
        probe.check(&answer(&context.per_thread_stream(), &library, probe));
    }
}

/// What a probe writes over poison.
fn answer(stream: &Arc<CudaStream>, library: &Library, probe: Probe) -> Vec<u32> {
    let mut input = probe.input();
    input.resize(input.len().max(1), 0);
    let input = stream.clone_htod(&input).expect("the input fits");
    let poison = vec![0xdead_beef_u32; probe.output_len()];
    let mut output = stream.clone_htod(&poison).expect("the output fits");
    stream.context().bind_to_thread().expect("the context is alive");
    {
        // SAFETY: every launcher of the probes has this type.
        let launcher = unsafe { library.get::<Launcher>(probe.launcher()) };
        let launcher = launcher.expect("the library has every probe");
        let ((input, _reading), (output, _writing)) =
            (input.device_ptr(stream), output.device_ptr_mut(stream));
        // SAFETY: the buffers are as long as the probe says and outlive the launch, and the stream
        // is alive.
        let code =
            unsafe { launcher(input as *const u32, output as *mut u32, stream.cu_stream().cast()) };
        assert_eq!(code, 0, "the launcher of {probe:?} returned a CUDA error");
    }
    stream.clone_dtoh(&output).expect("the kernel ended well")
}
