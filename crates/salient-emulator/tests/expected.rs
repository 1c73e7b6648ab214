//! Expected attention on the emulated kernels: the conformance suite, what they move, bad offsets, and
//! that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::score::{ExpectedAttention, Per};
use salient::kernels::{Fault, Status};
use salient::{Element, Layout, View};
use salient_emulator::{Emulated, ExpectedRun, Launched};
use salient_oracle::implementation::Sample;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::score::expected::{self, Case};

/// The suite under both capabilities, other cases for each.
#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(3, seed);
        expected::all(&Emulated { seed, capability, sample, ..Emulated::default() });
    }
}

#[test]
fn every_head_size() {
    for (i, dim) in (8..=256).step_by(8).enumerate() {
        let lens = [if dim > 128 { 140 } else { 270 }, 3];
        let plain = Case::new(dim as u64, &lens);
        let options = ExpectedAttention {
            scale: (dim as f32).powf(-0.5),
            per: [Per::KvHead, Per::Token][i % 2],
            ..plain.options
        };
        let (kv_heads, group) = (1 + i % 2, 1 + i % 3);
        let case = Case { dim, kv_heads, group, value_dim: Some(dim + i), options, ..plain };
        case.check(&Emulated { seed: i as u64, ..Emulated::default() });
    }
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let case = Case { dim: 72, group: 3, ..Case::new(1, &[300, 0, 17]) };
    let scores = |seed, capability| {
        case.scores::<bf16>(&Emulated { seed, capability, ..Emulated::default() })
    };
    let first = scores(0, 90);
    for seed in 1..20 {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        assert_same_bits(&scores(seed, capability), &first, &format!("seed {seed}"));
    }
}

/// A problem of a case on a device of its own.
fn launch<T: Element>(
    on: &Emulated,
    case: &Case,
    cu_seqlens: Option<&[i32]>,
) -> (Vec<f32>, Status, Vec<Launched>) {
    let device = on.device();
    let (k, v, rows) = (case.k::<T>(), case.v::<T>(), case.rows());
    let heads = if case.options.per == Per::Token { 1 } else { case.kv_heads };
    let layout = |dim| match case.head_major {
        true => Layout::head_major(case.kv_heads, dim, rows.total()),
        false => Layout::token_major(case.kv_heads, dim),
    };
    let mut run = ExpectedRun::new(
        &device,
        View::new(&k[..], layout(case.dim)),
        case.value_dim.map(|dim| View::new(&v[..], layout(dim))),
        &rows,
        &case.statistics(),
        &case.options,
        &vec![7.0; heads * rows.total()],
    )
    .unwrap();
    if let Some(cu_seqlens) = cu_seqlens {
        run.cu_seqlens.write(cu_seqlens);
    }
    let (status, launched) = run.launch(on, &device).unwrap();
    (run.scores.read(), status, launched)
}

/// Sequences with impossible offsets are reported and not written; others are not touched by it.
#[test]
fn impossible_offsets_are_reported() {
    let case = Case::new(2, &[60, 300, 20]);
    let on = Emulated::default();
    let (clean, status, _) = launch::<f16>(&on, &case, None);
    assert_eq!(status, Status::CLEAR);
    let good = [0, 60, 360, 380];
    for (offsets, bad) in [
        ([0, 60, 381, 380], 1),
        ([0, 60, 360, 381], 2),
        ([-1, 60, 360, 380], 0),
        ([0, 60, 360, i32::MAX], 2),
        ([0, 60, 360, 359], 2),
    ] {
        let (scores, status, _) = launch::<f16>(&on, &case, Some(&offsets));
        assert_eq!(status.faults().collect::<Vec<_>>(), [Fault::Lengths], "{offsets:?}");
        assert_eq!(status.row(), Some(bad), "{offsets:?}");
        for (sequence, span) in case.rows().spans().enumerate() {
            let same = offsets[sequence..sequence + 2] == good[sequence..sequence + 2];
            for head in 0..case.kv_heads {
                let range = head * 380 + span.start..head * 380 + span.end();
                if same {
                    assert_same_bits(&scores[range.clone()], &clean[range], "the good sequences");
                } else {
                    assert!(scores[range].iter().all(|&score| score == 7.0), "{offsets:?}");
                }
            }
        }
    }
}

/// Keys and values once, statistics once for every block of tokens, little else.
#[test]
fn keys_and_values_are_read_once() {
    let on = Emulated { counting: true, ..Emulated::default() };
    for (dim, tokens_of_block) in [(64, 256), (128, 256), (96, 256), (256, 128)] {
        for (covariance, head_major) in [(true, false), (false, true)] {
            let (lens, kv_heads, group) = ([300, 40], 2, 3);
            let plain = Case { covariance, head_major, group, dim, ..Case::new(3, &lens) };
            let case = Case { value_dim: Some(dim), ..plain };
            let (_, status, launched) = launch::<bf16>(&on, &case, None);
            assert_eq!(status, Status::CLEAR);
            let context = format!("dim {dim}, covariance {covariance}, head major {head_major}");
            let names: Vec<&str> = launched.iter().map(|l| l.kernel.as_str()).collect();
            let expected = ["expected_logits", "expected_totals", "keynorm", "expected_scores"];
            assert_eq!(names, expected);
            let (total, q_heads) = (340, kv_heads * group);
            let read = |launch: usize, name| launched[launch].traffic.buffer(name).read;
            for (launch, name) in [(0, "k"), (2, "v")] {
                let read = read(launch, name);
                assert_eq!(read.bytes as usize, total * kv_heads * dim * 2, "{context}: {name}");
                assert_eq!(read.sectors, read.least_sectors, "{context}: {name}");
            }
            // 16 columns at a time: a header, and three terms of the blocks on and above the diagonal.
            let chunks = dim / 16;
            let blocks = if covariance { 3 * chunks * (chunks + 1) / 2 } else { 0 };
            let head_bytes = 80 * chunks + 512 * blocks;
            let tiles: usize = lens.iter().map(|len: &usize| len.div_ceil(tokens_of_block)).sum();
            let weights = read(0, "weights").bytes as usize;
            assert_eq!(weights, tiles * q_heads * head_bytes, "{context}");
            let products = tiles * tokens_of_block * q_heads * blocks * 16 * 16;
            let operations = launched[0].traffic.matrix_operations as usize;
            assert_eq!(operations, 2 * products, "{context}");
            let logits = launched[0].traffic.buffer("workspace").written;
            assert_eq!(logits.bytes as usize, total * q_heads * 4, "{context}");
            let scores = launched[3].traffic.buffer("scores").written;
            assert_eq!(scores.bytes as usize, total * kv_heads * 4, "{context}");
            for launch in &launched {
                let shared = &launch.traffic.shared;
                assert!(shared.ways() <= 1.1, "{context}: {:?}", launch.traffic.shared_sites);
            }
        }
    }
}

/// Mistakes made on purpose: the suite sees each.
#[test]
fn mutants_are_caught() {
    let property = |on: &Emulated| {
        Case::new(4, &[65, 300]).check(on);
        expected::neighbours_change_nothing(on);
    };
    for mutant in ["expected/barrier", "expected/bounds", "expected/order"] {
        let on = Emulated { seed: 1, mutant: Some(mutant), ..Emulated::default() };
        assert!(catch_unwind(AssertUnwindSafe(|| property(&on))).is_err(), "{mutant} passes");
    }
    // The same copy of the kernels, doing nothing wrong.
    property(&Emulated { seed: 1, mutant: Some("none"), ..Emulated::default() });
}
