//! The emulator itself: what the built-ins and the wrappers of `kernels/ptx/` do, by the PTX manual,
//! and that every kind of mistake is reported.

use std::collections::BTreeSet;

use half::{bf16, f16};
use salient_emulator::probes::*;
use salient_emulator::{Device, Fault};

const SEEDS: u64 = 8;

#[test]
fn warp_functions_do_what_the_manual_says() {
    let input: Vec<u32> = (0..32u32).map(|i| i * i * 7 + 3).collect();
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (values, out) = (device.upload("in", &input), device.alloc::<u32>("out", 320));
        // SAFETY: the buffers are as long as the probe says.
        let run = |stream| unsafe {
            salient_probe_warp(values.address() as *const u32, out.address() as *mut u32, stream)
        };
        device.run(run).unwrap();
        for (lane, results) in out.read().chunks(10).enumerate() {
            let x = |lane: usize| input[lane];
            let bits = |of: &dyn Fn(u32) -> bool| {
                (0..32).filter(|&i| of(input[i])).map(|i| 1u32 << i).sum::<u32>()
            };
            let half = if lane < 16 { 0..16 } else { 16..32 };
            let expected = [
                x(x(lane) as usize % 32),
                x(if lane < 3 { lane } else { lane - 3 }),
                x(if lane + 5 > 31 { lane } else { lane + 5 }),
                x(lane ^ 9),
                bits(&|x| x & 1 == 1),
                bits(&|other| other % 4 == x(lane) % 4),
                input.iter().sum(),
                *input.iter().max().unwrap(),
                input[half].iter().sum(),
                input.iter().filter(|&x| x & 2 == 2).count() as u32,
            ];
            assert_eq!(results, expected, "lane {lane}");
        }
    }
}

#[test]
fn matrices_are_loaded_as_fragments() {
    let elements: Vec<u16> = (0..256).collect();
    let device = Device::new(1);
    let (values, out) = (device.upload("in", &elements), device.alloc::<u32>("out", 128));
    // SAFETY: the buffers are as long as the probe says.
    let run = |stream| unsafe {
        salient_probe_matrices(values.address() as *const _, out.address() as *mut u32, stream)
    };
    device.run(run).unwrap();
    for (lane, words) in out.read().chunks(4).enumerate() {
        for (matrix, &word) in words.iter().enumerate() {
            let first = (matrix * 64 + lane / 4 * 8 + 2 * (lane % 4)) as u32;
            assert_eq!(word, first | (first + 1) << 16, "lane {lane}, matrix {matrix}");
        }
    }
}

/// Places of the elements of a, b and d in lanes, from the tables of the PTX manual for m16n8k16.
#[test]
fn products_follow_the_fragment_layouts() {
    let a = |row: usize, k: usize| ((row * 5 + k * 3) % 17) as f32 - 8.0;
    let b = |k: usize, column: usize| ((k * 7 + column * 2) % 13) as f32 - 6.0;
    let c = |row: usize, column: usize| (row * 8 + column) as f32;
    for dtype in [1, 2] {
        let pack = |low: f32, high: f32| match dtype {
            1 => {
                u32::from(f16::from_f32(low).to_bits())
                    | u32::from(f16::from_f32(high).to_bits()) << 16
            }
            _ => {
                u32::from(bf16::from_f32(low).to_bits())
                    | u32::from(bf16::from_f32(high).to_bits()) << 16
            }
        };
        let mut input = Vec::new();
        for lane in 0..32 {
            let (group, pair) = (lane / 4, 2 * (lane % 4));
            for (row, k) in [(0, 0), (8, 0), (0, 8), (8, 8)] {
                let (row, k) = (group + row, pair + k);
                input.push(pack(a(row, k), a(row, k + 1)));
            }
            for k in [pair, pair + 8] {
                input.push(pack(b(k, group), b(k + 1, group)));
            }
            for (row, column) in [(0, 0), (0, 1), (8, 0), (8, 1)] {
                input.push(c(group + row, pair + column).to_bits());
            }
        }
        let device = Device::new(2).counting();
        let (values, out) = (device.upload("in", &input), device.alloc::<f32>("out", 128));
        // SAFETY: the buffers are as long as the probe says.
        let run = |stream| unsafe {
            let (input, out) = (values.address() as *const u32, out.address() as *mut f32);
            salient_probe_product(input, out, dtype, stream)
        };
        let launched = device.run(run).unwrap();
        assert_eq!(launched[0].traffic.matrix_operations, 2 * 16 * 8 * 16);
        for (lane, d) in out.read().chunks(4).enumerate() {
            for (i, &d) in d.iter().enumerate() {
                let (row, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
                let sum: f32 = (0..16).map(|k| a(row, k) * b(k, column)).sum();
                assert_eq!(d, c(row, column) + sum, "lane {lane}, element {i}");
            }
        }
    }
}

#[test]
fn copies_arrive_when_they_are_awaited() {
    let input: Vec<u32> = (0..512).collect();
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let (values, out) = (device.upload("in", &input), device.alloc::<u32>("out", 512));
        // SAFETY: the buffers are as long as the probe says.
        let run = |stream| unsafe {
            salient_probe_copies(values.address() as *const _, out.address() as *mut _, stream)
        };
        device.run(run).unwrap();
        let out = out.read();
        for (i, vector) in out.chunks(4).enumerate() {
            let from = i / 64 * 64 + 63 - i % 64;
            let expected: Vec<u32> =
                (0..4).map(|j| if from < 120 { (from * 4 + j) as u32 } else { 0 }).collect();
            assert_eq!(vector, expected, "vector {i}");
        }
    }
}

#[test]
fn blocks_of_a_cluster_read_each_other() {
    for seed in 0..SEEDS {
        let device = Device::new(seed);
        let out = device.alloc::<u32>("out", 32);
        // SAFETY: the buffer is as long as the probe says.
        let launch = |stream| unsafe { salient_probe_cluster(out.address() as *mut u32, stream) };
        device.run(launch).unwrap();
        for (i, word) in out.read().into_iter().enumerate() {
            let (block, peer) = (i as u32 / 4, i as u32 % 4);
            assert_eq!(word, (100 + block / 4 * 4 + peer) * 10 + block % 4);
        }
    }
    let device = Device::new(0).with_capability(80);
    let out = device.alloc::<u32>("out", 32);
    // SAFETY: the buffer is as long as the probe says.
    let launch = |stream| unsafe { salient_probe_cluster(out.address() as *mut u32, stream) };
    assert!(matches!(device.run(launch), Err(Fault::Launcher { .. })), "clusters need sm_90");
}

#[test]
fn every_16_bit_float_is_converted() {
    let device = Device::new(0);
    let out = device.alloc::<f32>("out", 2 << 16);
    // SAFETY: the buffer is as long as the probe says.
    let launch = |stream| unsafe { salient_probe_conversions(out.address() as *mut f32, stream) };
    device.run(launch).unwrap();
    for (i, value) in out.read().into_iter().enumerate() {
        let bits = i as u16;
        let expected = if i < 1 << 16 {
            f16::from_bits(bits).to_f32()
        } else {
            bf16::from_bits(bits).to_f32()
        };
        assert!(value == expected || (value.is_nan() && expected.is_nan()), "{i}: {value}");
    }
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
