//! The emulator itself: what the built-ins and the wrappers of `kernels/ptx/` do, by the PTX manual,
//! and that every kind of mistake is reported.

use std::collections::BTreeSet;

use salient_emulator::probes::{launcher, salient_probe_reverse};
use salient_emulator::{Device, Fault, Launched};
use salient_oracle::probes::Probe;

const SEEDS: u64 = 8;

/// Runs a probe and checks what it wrote.
fn ask(device: &Device, probe: Probe) -> Result<Vec<Launched>, Fault> {
    let (values, out) =
        (device.upload("in", &probe.input()), device.alloc::<u32>("out", probe.output_len()));
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        launcher(probe)(values.address() as *const u32, out.address() as *mut u32, stream)
    };
    let launched = device.run(run)?;
    probe.check(&out.read());
    Ok(launched)
}

#[test]
fn every_probe_does_what_the_manual_says() {
    for probe in Probe::ALL {
        let seeds = if probe == Probe::Conversions { 1 } else { SEEDS };
        for seed in 0..seeds {
            ask(&Device::new(seed), probe).unwrap();
        }
    }
}

#[test]
fn matrix_operations_are_counted() {
    for probe in [Probe::ProductF16, Probe::ProductBf16] {
        let launched = ask(&Device::new(2).counting(), probe).unwrap();
        assert_eq!(launched[0].traffic.matrix_operations, 2 * 16 * 8 * 16);
    }
}

#[test]
fn clusters_need_compute_capability_9() {
    let refused = ask(&Device::new(0).with_capability(80), Probe::Cluster);
    assert!(matches!(refused, Err(Fault::Launcher { .. })), "{refused:?}");
}

/// Runs the probe that reverses 128 words.
fn reverse(device: &Device, wrong: i32) -> Result<Vec<u32>, Fault> {
    let input: Vec<u32> = (0..128).collect();
    let (values, out) = (device.upload("in", &input), device.alloc::<u32>("out", 128));
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        let (input, out) = (values.address() as *const u32, out.address() as *mut u32);
        salient_probe_reverse(input, out, wrong, stream)
    };
    device.run(run)?;
    Ok(out.read())
}

#[test]
fn a_right_kernel_gives_the_same_under_every_seed() {
    let expected: Vec<u32> = (0..128).rev().collect();
    for seed in 0..SEEDS {
        assert_eq!(reverse(&Device::new(seed), 0).unwrap(), expected);
    }
}

#[test]
fn a_missing_barrier_changes_the_result() {
    let results: BTreeSet<Vec<u32>> =
        (0..SEEDS).map(|seed| reverse(&Device::new(seed), 1).unwrap()).collect();
    assert!(results.len() > 1, "every order gave the same");
    let unawaited: BTreeSet<Vec<u32>> =
        (0..SEEDS).map(|seed| reverse(&Device::new(seed), 9).unwrap()).collect();
    assert!(unawaited.len() > 1, "a copy that nobody awaits was there every time");
}

#[test]
fn every_other_mistake_is_a_fault_that_names_it() {
    let cases = [
        (2, "divergent barrier"),
        (3, "the barrier at"),
        (4, "has ended|no thread can go on|divergent barrier"),
        (5, "of the 512 of `in`"),
        (6, "at byte -4 of the 512 of `in`"),
        (7, "misaligned"),
        (8, "at 512 of 512 bytes of shared memory"),
        (10, "no thread can go on"),
        (11, "less shared memory"),
    ];
    for (wrong, expected) in cases {
        for seed in 0..SEEDS {
            let Err(Fault::Kernel { report }) = reverse(&Device::new(seed), wrong) else {
                panic!("mistake {wrong} was not seen under seed {seed}");
            };
            assert!(report.contains("kernel reverse"), "{report}");
            assert!(expected.split('|').any(|part| report.contains(part)), "{wrong}: {report}");
        }
    }
}

#[test]
fn traffic_is_counted_by_buffer() {
    let device = Device::new(0).counting();
    let input: Vec<u32> = (0..128).collect();
    let (values, out) = (device.upload("in", &input), device.alloc::<u32>("out", 128));
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        let (input, out) = (values.address() as *const u32, out.address() as *mut u32);
        salient_probe_reverse(input, out, 0, stream)
    };
    let launched = device.run(run).unwrap();
    let [launched] = &launched[..] else { panic!("one launch") };
    assert_eq!(launched.kernel, "reverse");
    let (read, written) =
        (launched.traffic.buffer("in").read, launched.traffic.buffer("out").written);
    for requests in [read, written] {
        assert_eq!((requests.requests, requests.bytes), (4, 512));
        assert_eq!(requests.least_sectors, 16);
    }
    assert_eq!(launched.traffic.shared.ways(), 1.0);
    assert_eq!(launched.traffic.bytes(), (512, 512));
}
