//! The probes: CUDA's built-ins and the wrappers of `kernels/ptx/` do on a device what the PTX
//! manual says. And kernels that are wrong on purpose, each of which the software GPU must report
//! by name.
//!
//! `scripts/probes` compiles them into the library that is loaded here, which lies beside this
//! program or where `SALIENT_PROBES` says. Without a device the tests say that they did not run;
//! with `SALIENT_NEED_DEVICE` or `SALIENT_NEED_SOFTWARE_GPU` set they fail.

#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/place.rs"]
mod place;

use std::env;
use std::ffi::{c_int, c_void};
use std::process::Command;
use std::sync::Arc;

use half::f16;
use libloading::Library;
use salient::Result;
use salient::cuda::cudarc::driver::{CudaContext, CudaStream, DevicePtr, DevicePtrMut};
use salient_oracle::probes::Probe;

/// `int launcher(const uint32_t* in, uint32_t* out, SalientStream)`.
type Launcher = unsafe extern "C" fn(*const u32, *mut u32, *mut c_void) -> c_int;
/// The same of a kernel that is wrong in a way that is told by number; 0: in none.
type WrongLauncher = unsafe extern "C" fn(*const u32, *mut u32, c_int, *mut c_void) -> c_int;

/// In a process that runs a wrong kernel: which one, and what is wrong.
const WRONG: &str = "SALIENT_PROBES_WRONG";

#[test]
fn every_probe_does_what_the_manual_says() {
    place::on_device("every_probe_does_what_the_manual_says", || {
        let library = library();
        let context = CudaContext::new(0)?;
        let (major, minor) = context.compute_capability()?;
        let stream = context.per_thread_stream();
        for probe in Probe::ALL.into_iter().filter(|probe| probe.runs_on(10 * major + minor)) {
            // SAFETY: every launcher of the probes has this type.
            let launcher = unsafe { library.get::<Launcher>(probe.launcher()) };
            let launcher = launcher.expect("the library has every probe");
            let output =
                answer(&stream, &probe.input(), probe.output_len(), |from, to, stream| {
                    // SAFETY: the buffers are as long as the probe says and outlive the launch, and
                    // the stream is alive.
                    unsafe { launcher(from, to, stream) }
                })?;
            probe.check(&output);
        }
        Ok(())
    });
}

#[test]
fn on_every_device_and_in_other_orders() {
    place::on_software_gpu("on_every_device_and_in_other_orders", |_| {
        for gpu in [
            "sm_80,async=late,races,unwritten=fault",
            "sm_90,races,unwritten=fault",
            "sm_90,async=random,order=random,delay=300,seed=1",
            "sm_90,async=late,order=reverse,seed=2",
        ] {
            let ran = again("every_probe_does_what_the_manual_says", gpu, None);
            assert!(ran.contains("1 passed; 0 failed"), "{gpu}:\n{ran}");
        }
        Ok(())
    });
}

#[test]
fn every_mistake_is_a_fault_that_names_it() {
    if let Ok(wrong) = env::var(WRONG) {
        return place::on_device(&wrong, || run_wrong(&wrong));
    }
    place::on_software_gpu("every_mistake_is_a_fault_that_names_it", |_| {
        for (kernel, mistakes) in [("reverse", REVERSE), ("square", SQUARE)] {
            for gpu in ["", "races,unwritten=fault", "async=random,order=random,seed=3"] {
                let wrong = format!("{kernel} 0");
                let ran = again("every_mistake_is_a_fault_that_names_it", gpu, Some(&wrong));
                assert!(ran.contains("1 passed; 0 failed"), "{kernel} without a mistake:\n{ran}");
            }
            for (mistake, &(gpu, says)) in (1..).zip(mistakes) {
                let wrong = format!("{kernel} {mistake}");
                let gpu = format!("steps=1000000,{gpu}");
                let ran = again("every_mistake_is_a_fault_that_names_it", &gpu, Some(&wrong));
                let failed = ran.contains("0 passed; 1 failed");
                let named = ran.contains(says) && ran.contains(kernel);
                assert!(failed && named, "{wrong} on {gpu}: not {says:?}:\n{ran}");
            }
        }
        Ok(())
    });
}

/// Of the mistakes of `faults.cu`, in their order: words of `SALIENT_GPU`, and what is said.
const REVERSE: &[(&str, &str)] = &[
    ("races", "Race in "),
    ("", "Deadlock in "),
    ("unwritten=fault", "Unwritten in "),
    ("", "Deadlock in "),
    ("", "IllegalAddress in "),
    ("", "IllegalAddress in "),
    ("", "Misaligned in "),
    ("", "IllegalAddress in "),
    ("races", "Race in "),
    ("", "Timeout in "),
    ("", "IllegalAddress in "),
];

/// Of those of `hopper_faults.cu`.
const SQUARE: &[(&str, &str)] = &[
    ("", "Deadlock in "),
    ("", "Deadlock in "),
    ("", "Deadlock in "),
    ("", "Misuse in "),
    ("", "Misuse in "),
    // It is copied, and over the barrier.
    ("", "Deadlock in "),
    ("", "IllegalAddress in "),
    ("races", "Race in "),
    ("", "square: other values"),
    ("", "Misuse in "),
    ("", "Misuse in "),
    ("races", "Race in "),
    ("", "Misuse in "),
    ("", "Misuse in "),
    ("", "Deadlock in "),
    ("", "Misuse in "),
    ("", "Deadlock in "),
    ("", "IllegalAddress in "),
    ("async=late", "Misuse in "),
    ("races", "Race in "),
    ("races", "Race in "),
];

/// Runs a wrong kernel, and compares what it wrote with what the right one writes.
fn run_wrong(wrong: &str) -> Result<()> {
    let (kernel, mistake) = wrong.split_once(' ').expect("a kernel and a number");
    let mistake: c_int = mistake.parse().expect("a number");
    let library = library();
    let name = format!("salient_probe_{kernel}");
    // SAFETY: the launchers of wrong kernels have this type.
    let launcher = unsafe { library.get::<WrongLauncher>(&name) }.expect("a wrong kernel");
    let (input, expected) = match kernel {
        "reverse" => ((0..128).collect(), (0..128).rev().collect()),
        _ => (tile(), squared()),
    };
    let stream = CudaContext::new(0)?.per_thread_stream();
    let output = answer(&stream, &input, expected.len(), |from, to, stream| {
        // SAFETY: the buffers are as long as the kernels' sources say and outlive the launch, and
        // the stream is alive. What is wrong with them is what the software GPU is to see.
        unsafe { launcher(from, to, mistake, stream) }
    })?;
    assert!(output == expected, "{kernel}: other values");
    Ok(())
}

/// Small integers, whose sums of products f32 holds exactly.
fn element(row: usize, column: usize) -> f32 {
    ((3 * row + 5 * column + row * column) % 11) as f32 - 5.0
}

/// 64 x 64 of f16.
fn tile() -> Vec<u32> {
    let bits = |i: usize| u32::from(f16::from_f32(element(i / 64, i % 64)).to_bits());
    (0..64 * 32).map(|word| bits(2 * word) | bits(2 * word + 1) << 16).collect()
}

/// The tile times its transpose, as the threads of a warpgroup hold it.
fn squared() -> Vec<u32> {
    let sum = |i: usize| -> f32 {
        let (thread, i) = (i / 32, i % 32);
        let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i % 4 / 2);
        let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        (0..64).map(|k| element(row, k) * element(column, k)).sum()
    };
    (0..64 * 64).map(|i| sum(i).to_bits()).collect()
}

fn library() -> Library {
    let path = env::var_os("SALIENT_PROBES").map_or_else(
        || env::current_exe().expect("this program has a path").with_file_name("probes.so"),
        Into::into,
    );
    // SAFETY: the library is that of `scripts/probes`; loading it registers its kernels with the
    // CUDA runtime, as every CUDA program does on its start.
    unsafe { Library::new(&path) }.unwrap_or_else(|error| panic!("{path:?}: {error}"))
}

/// What a kernel writes over poison.
fn answer(
    stream: &Arc<CudaStream>,
    input: &[u32],
    output_len: usize,
    launch: impl FnOnce(*const u32, *mut u32, *mut c_void) -> c_int,
) -> Result<Vec<u32>> {
    let mut input = input.to_vec();
    if input.is_empty() {
        input.push(0);
    }
    let input = stream.clone_htod(&input)?;
    let mut output = stream.clone_htod(&vec![0xdead_beef_u32; output_len])?;
    stream.context().bind_to_thread()?;
    {
        let ((from, _reading), (to, _writing)) =
            (input.device_ptr(stream), output.device_ptr_mut(stream));
        let code = launch(from as *const u32, to as *mut u32, stream.cu_stream().cast());
        assert_eq!(code, 0, "the launcher returned a CUDA error");
    }
    Ok(stream.clone_dtoh(&output)?)
}

/// What a test of this program says in a process of its own, on a software GPU of these words.
fn again(test: &str, gpu: &str, wrong: Option<&str>) -> String {
    let mut command = Command::new(env::current_exe().expect("this program has a path"));
    command.args(["--exact", test, "--nocapture"]).env("SALIENT_GPU", gpu);
    command.env("SALIENT_NEED_DEVICE", "1").envs(wrong.map(|wrong| (WRONG, wrong)));
    let output = command.output().expect("this program can be run");
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}
