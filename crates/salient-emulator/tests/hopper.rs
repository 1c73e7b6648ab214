//! The emulation of what only compute capability 9.0 has: what is right stays right under every seed,
//! every mistake is seen, and copies and multiplies are counted.

use half::f16;
use salient_emulator::probes::{launcher, salient_probe_square};
use salient_emulator::{Device, Fault, Launched};
use salient_oracle::probes::Probe;

const SEEDS: u64 = 8;

/// Small integers, whose sums of products f32 holds exactly.
fn tile(row: usize, column: usize) -> f32 {
    ((3 * row + 5 * column + row * column) % 11) as f32 - 5.0
}

/// Runs the probe that multiplies a tile with its transpose, from `skip` words further on.
fn square(device: &Device, wrong: i32, skip: usize) -> Result<(Vec<f32>, Vec<Launched>), Fault> {
    let elements = (0..64 * 64).map(|i| f16::from_f32(tile(i / 64, i % 64)));
    let elements: Vec<u16> = elements.map(f16::to_bits).collect();
    let tiles = device.upload_misaligned("tile", &elements, skip);
    let out = device.alloc::<f32>("out", 64 * 64);
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        let (input, out) = (tiles.address() as *const u32, out.address() as *mut u32);
        salient_probe_square(input, out, wrong, stream)
    };
    let launched = device.run(run)?;
    Ok((out.read(), launched))
}

fn squared() -> Vec<f32> {
    let element = |i: usize| {
        let (thread, i) = (i / 32, i % 32);
        let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i % 4 / 2);
        let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        (0..64).map(|k| tile(row, k) * tile(column, k)).sum()
    };
    (0..64 * 64).map(element).collect()
}

#[test]
fn a_right_kernel_gives_the_same_under_every_seed() {
    for seed in 0..SEEDS {
        assert_eq!(square(&Device::new(seed), 0, 0).unwrap().0, squared());
    }
}

#[test]
fn what_is_not_waited_for_changes_the_result() {
    let right = |wrong, seed| match square(&Device::new(seed), wrong, 0) {
        Ok((values, _)) => values == squared(),
        Err(Fault::Kernel { .. }) => false,
        Err(fault) => panic!("{fault}"),
    };
    // The copy of the tile, and multiplies that read a tile which is overwritten.
    for wrong in [8, 12] {
        assert!(!(0..SEEDS).all(|seed| right(wrong, seed)), "mistake {wrong} was not seen");
    }
    // The multiplies themselves.
    for seed in 0..SEEDS {
        let (values, _) = square(&Device::new(seed), 9, 0).unwrap();
        assert!(values.iter().all(|x| x.is_nan()), "accumulators were there before they can be");
    }
}

#[test]
fn every_mistake_is_a_fault_that_names_it() {
    let cases = [
        (1, "which misses 1 threads and"),
        (2, "which misses 0 threads and 16 bytes"),
        (3, "16 bytes come to a barrier that does not expect them"),
        (4, "more than the 1 threads|come to a barrier|misses"),
        (5, "there is no barrier at this address"),
        (6, "misaligned: its swizzle needs 1024"),
        (7, "by what is no tensor map"),
        (10, "accumulators were written while a multiply works on them"),
        (11, "no fence since the last group"),
        (13, "threads of a warpgroup start different multiplies"),
        (14, "no whole warpgroup"),
        (15, "more registers than there are"),
        (16, "named barrier 2 is for"),
        (17, "named barrier 2 at"),
        (18, "of shared memory"),
        (20, "has stored without a fence between the proxies since"),
        (21, "a tensor copy to what block (0, 0, 0) thread 17 has stored without a fence"),
        (19, "a tensor copy is on its way|expects -8192 bytes more"),
    ];
    for (wrong, expected) in cases {
        for seed in 0..SEEDS {
            let Err(Fault::Kernel { report }) = square(&Device::new(seed), wrong, 0) else {
                panic!("mistake {wrong} was not seen under seed {seed}");
            };
            assert!(report.contains("kernel square"), "{report}");
            assert!(expected.split('|').any(|part| report.contains(part)), "{wrong}: {report}");
        }
    }
}

#[test]
fn a_tensor_that_no_map_can_describe_is_an_error_of_the_launcher() {
    let refused = square(&Device::new(0), 0, 4);
    assert_eq!(refused, Err(Fault::Launcher { code: 1 }));
}

#[test]
fn other_devices_have_no_warpgroups() {
    for capability in [80, 89, 100] {
        let device = Device::new(0).with_capability(capability);
        let (values, out) = (device.alloc::<u32>("in", 1), device.alloc::<u32>("out", 1));
        for probe in [Probe::TensorCopies, Probe::Pipeline, Probe::Multiplies] {
            assert!(!probe.runs_on(capability));
            // SAFETY: nothing is launched.
            let run = |stream| unsafe {
                launcher(probe)(values.address() as *const u32, out.address() as *mut u32, stream)
            };
            assert_eq!(device.run(run), Err(Fault::Launcher { code: 801 }));
        }
    }
}

#[test]
fn copies_and_multiplies_are_counted() {
    let (_, launched) = square(&Device::new(3).counting(), 0, 0).unwrap();
    let traffic = &launched[0].traffic;
    let read = traffic.buffer("tile").read;
    assert_eq!((read.requests, read.bytes), (1, 64 * 64 * 2));
    assert_eq!((read.sectors, read.least_sectors), (256, 256));
    assert_eq!(traffic.matrix_operations, 2 * 64 * 64 * 64);
}

#[test]
fn a_copy_across_an_edge_counts_what_lies_inside() {
    let device = Device::new(1).counting();
    let probe = Probe::TensorCopies;
    let (values, out) =
        (device.upload("in", &probe.input()), device.alloc::<u32>("out", probe.output_len()));
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        launcher(probe)(values.address() as *const u32, out.address() as *mut u32, stream)
    };
    let launched = device.run(run).unwrap();
    // Ten of 14 rows, 24, 16, 24 and 24 of their elements; one of two planes.
    let bytes = launched.iter().map(|launched| launched.traffic.buffer("in").read.bytes);
    assert_eq!(bytes.collect::<Vec<_>>(), [480, 320, 480, 480]);
}
