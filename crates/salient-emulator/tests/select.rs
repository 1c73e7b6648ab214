//! **select** by the emulated kernels: equality with the oracle in every variant, what is read and
//! written, and what happens on data that only a device sees.

use std::panic::{AssertUnwindSafe, catch_unwind};

use salient::Ragged;
use salient::host::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::kernels::select::{Budget as Planned, SelectPlan, Shape, Variant};
use salient::kernels::{Fault, Status};
use salient_emulator::{Emulated, SelectOutputs, SelectRun};
use salient_oracle::generate::{Distribution, Random};
use salient_oracle::implementation::Sample;
use salient_oracle::suite::select::{self, Case, Keep};

fn emulated(variant: Variant, seed: u64) -> Emulated {
    // Clusters need sm_90; the others must do without.
    let capability = if variant == Variant::Cluster { 90 } else { 80 };
    Emulated { variant, seed, capability, ..Emulated::default() }
}

const VARIANTS: [Variant; 3] = [Variant::Block, Variant::Cluster, Variant::Grid];

#[test]
fn a_block_per_row_passes_the_suite() {
    for seed in 0..3 {
        let sample = Sample::one_in(20, seed);
        select::all(&Emulated { sample, ..emulated(Variant::Block, seed) });
    }
}

#[test]
fn a_cluster_per_row_passes_the_suite() {
    for seed in 0..2 {
        let sample = Sample::one_in(100, seed);
        select::all(&Emulated { sample, ..emulated(Variant::Cluster, seed) });
    }
}

#[test]
fn groups_of_resident_blocks_pass_the_suite() {
    for seed in 0..2 {
        let sample = Sample::one_in(80, seed);
        select::all(&Emulated { sample, ..emulated(Variant::Grid, seed) });
    }
}

/// The lengths and counts that broke other kernels, in every variant, the distributions in turn.
#[test]
fn the_sizes_that_broke_other_kernels() {
    let lens = [0usize, 1, 31, 32, 33, 4095, 4096, 4097, 65_537];
    let mut distributions = Distribution::ALL.into_iter().cycle();
    for (v, variant) in VARIANTS.into_iter().enumerate() {
        for len in lens {
            for count in [0, 1, len.saturating_sub(1), len, len + 9] {
                let distribution = distributions.next().expect("a cycle");
                let case = Case::plain(distribution, count as u64, &[len], Keep::Count(count));
                case.check(&emulated(variant, v as u64));
            }
        }
        // More than 4096 ties in one bin, whose lower half wins.
        let tied = Case::plain(Distribution::AllEqual, 1, &[16_384], Keep::Count(8192));
        tied.check(&emulated(variant, 1));
    }
    let million = Case::plain(Distribution::TiedMiddle, 2, &[1 << 20], Keep::Ratio(0.35));
    million.check(&emulated(Variant::Grid, 2));
}

/// Every distribution at the lengths where the launcher changes the kernel or its size.
#[test]
fn the_limits_of_every_variant_are_exact() {
    for (i, distribution) in Distribution::ALL.into_iter().enumerate() {
        let mut random = Random::new(i as u64);
        for (variant, lens) in [
            (Variant::Block, &[2047, 2048, 2049, 8192, 8193, 16_384][..]),
            (Variant::Cluster, &[16_385, 32_769]),
            (Variant::Grid, &[16_385, 30_001]),
        ] {
            let len = lens[random.below(lens.len())];
            let keep = Keep::Count(1 + random.below(len - 1));
            let mut case = Case::plain(distribution, i as u64, &[len, 100], keep);
            case.edges = Edges { sinks: random.below(2), recent: 0 };
            case.check(&emulated(variant, i as u64));
        }
    }
    let case = Case::plain(Distribution::Bf16, 5, &[131_072], Keep::Count(2048));
    case.check(&emulated(Variant::Cluster, 5));
    case.check(&emulated(Variant::Grid, 5));
    // Longer than the resident blocks can hold: every pass reads the row again.
    let streamed = Case::plain(Distribution::Bf16, 6, &[300_001, 7], Keep::Ratio(0.35));
    streamed.check(&emulated(Variant::Grid, 6));
}

fn run(
    on: &Emulated,
    lens: &[usize],
    budget: Budget<'_>,
    distribution: Distribution,
) -> SelectOutputs {
    let rows = Ragged::from_lens(lens).unwrap();
    let scores = distribution.scores(rows.total(), 1);
    let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
    on.run_select(&scores, &request).unwrap()
}

#[test]
fn the_same_bits_under_every_order_of_threads() {
    for variant in VARIANTS {
        let run = |seed| {
            let on = emulated(variant, seed);
            let mut outputs =
                run(&on, &[300, 0, 20_000, 33], Budget::Ratio(0.35), Distribution::Fp8);
            outputs.launched.clear();
            outputs
        };
        let first = run(0);
        assert!((1..20).all(|seed| run(seed) == first), "{variant:?}");
    }
}

/// Every score is read once where the row fits the group's registers, whatever the distribution, and
/// nothing is written but the outputs.
#[test]
fn scores_are_read_once_and_only_outputs_are_written() {
    let cases: [(Variant, &[usize]); 4] = [
        (Variant::Block, &[16_384; 2]),
        (Variant::Block, &[1024; 4]),
        (Variant::Cluster, &[131_072]),
        (Variant::Grid, &[131_072, 65_536]),
    ];
    for (variant, lens) in cases {
        for distribution in [Distribution::Normal, Distribution::AllEqual, Distribution::TiedMiddle]
        {
            let on = Emulated { counting: true, ..emulated(variant, 3) };
            let outputs = run(&on, lens, Budget::Ratio(0.35), distribution);
            let [launched] = &outputs.launched[..] else { panic!("one launch") };
            let traffic = &launched.traffic;
            let total = lens.iter().sum::<usize>() as u64;
            let scores = traffic.buffer("scores").read;
            assert_eq!(scores.bytes, 4 * total, "{variant:?} {lens:?} {distribution:?}");
            assert_eq!(scores.sectors, scores.least_sectors);
            let written = |name| traffic.buffer(name).written;
            for (name, len) in [
                ("kept", outputs.kept.len()),
                ("kept_positions", outputs.kept.len()),
                ("inverse", outputs.inverse.len()),
                ("kept_lens", outputs.kept_lens.len()),
                ("cu_kept", outputs.cu_kept.len()),
            ] {
                assert_eq!(written(name).bytes, 4 * len as u64, "{variant:?} {name}");
            }
            assert_eq!(written("inverse").sectors, written("inverse").least_sectors);
            assert!(traffic.shared.ways() <= 1.1, "{variant:?}: {:?}", traffic.shared_sites);
        }
    }
}

/// A row beyond the resident blocks is read once for each of three passes and once to be compacted.
#[test]
fn a_streamed_row_is_read_four_times_at_most() {
    let on = Emulated { counting: true, ..emulated(Variant::Grid, 3) };
    let len = 500_000;
    let outputs = run(&on, &[len], Budget::Ratio(0.35), Distribution::Uniform);
    let read = outputs.launched[0].traffic.buffer("scores").read.bytes;
    assert!(read <= 4 * 4 * len as u64, "{read} bytes of {len} scores");
    let outputs = run(&on, &[len], Budget::Threshold(0.5), Distribution::Uniform);
    let read = outputs.launched[0].traffic.buffer("scores").read.bytes;
    assert_eq!(read, 2 * 4 * len as u64);
}

/// A plan of three sequences of 40, 50 and 60 tokens on the device, as the host believes.
fn believed(budget: Planned, variant: Variant) -> SelectPlan {
    let shape = Shape { batch: 3, heads: 1, total: 150, max_len: 60 };
    SelectPlan::new(shape, budget).unwrap().with_variant(variant).unwrap()
}

fn rows_of_three() -> Ragged {
    Ragged::from_lens(&[40, 50, 60]).unwrap()
}

/// Offsets that cannot be: the rows at fault keep nothing, the others what they should.
#[test]
fn offsets_that_cannot_be_are_faults() {
    for variant in VARIANTS {
        for (cu_seqlens, bad) in [
            ([0, 40, 30, 90], vec![1]),
            ([0, 40, 151, 150], vec![1, 2]),
            ([-1, 40, 90, 150], vec![0]),
            ([0, 61, 90, 150], vec![0]),
            ([0, 40, i32::MIN, i32::MAX], vec![1, 2]),
        ] {
            let device = emulated(variant, 1).device();
            let rows = rows_of_three();
            let budget = Budget::Ratio(0.5);
            let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
            let plan = believed(Planned::Ratio(0.5), variant);
            let mut run = SelectRun::new(&device, plan, &[1.0; 150], &request);
            run.cu_seqlens.write(&cu_seqlens);
            let outputs = run.launch(&device, false).unwrap();
            assert!(outputs.status.has(Fault::Lengths), "{variant:?} {cu_seqlens:?}");
            assert_eq!(outputs.status.row(), Some(bad[0]), "{variant:?} {cu_seqlens:?}");
            let mut packed = 0;
            for row in 0..3 {
                let span = (cu_seqlens[row + 1].wrapping_sub(cu_seqlens[row])) as usize;
                let expected = if bad.contains(&row) { 0 } else { span.div_ceil(2) };
                assert_eq!(outputs.kept_lens[row], expected as i32, "{variant:?} {cu_seqlens:?}");
                packed += expected as i32;
                assert_eq!(outputs.cu_kept[row + 1], packed);
                let list = &outputs.kept[row * plan.capacity()..][..plan.capacity()];
                assert!(list[expected..].iter().all(|&token| token == -1));
            }
        }
    }
}

#[test]
fn budgets_that_only_the_device_sees_are_faults() {
    for variant in VARIANTS {
        let rows = rows_of_three();
        let request = |budget, mask| {
            let edges = PerSequence::All(Edges::default());
            Request { rows: &rows, heads: 1, budget, protect: Protect { edges, mask } }
        };
        let launch = |plan, request: &Request<'_>| {
            let device = emulated(variant, 2).device();
            let scores = Distribution::Uniform.scores(150, 3);
            SelectRun::new(&device, plan, &scores, request).launch(&device, false).unwrap()
        };

        // A mask protects 30 of the second sequence, the budget keeps 20.
        let mask: Vec<bool> = (0..150).map(|i| (40..70).contains(&i)).collect();
        let budget = Budget::Count(PerSequence::All(20));
        let outputs = launch(believed(Planned::Count(20), variant), &request(budget, Some(&mask)));
        assert!(outputs.status.has(Fault::Protected) && !outputs.status.has(Fault::Capacity));
        assert_eq!(outputs.status.row(), Some(1));
        assert_eq!(outputs.kept_lens, [20; 3]);
        assert_eq!(outputs.kept[20..40], (0..20).collect::<Vec<i32>>());

        // More reach the threshold than the lists have room for.
        let plan = believed(Planned::Threshold(0.0), variant).with_capacity(45).unwrap();
        let outputs = launch(plan, &request(Budget::Threshold(0.0), None));
        assert!(outputs.status.has(Fault::Capacity));
        assert_eq!((outputs.status.row(), &outputs.kept_lens[..]), (Some(1), &[40, 0, 0][..]));
        assert_eq!(outputs.cu_kept, [0, 40, 40, 40]);
        assert!(outputs.inverse[40..].iter().all(|&place| place == -1));

        // Counts beyond the lists' room.
        let plan = believed(Planned::Counts, variant).with_capacity(45).unwrap();
        let budget = Budget::Count(PerSequence::Each(&[10, 46, usize::MAX]));
        let outputs = launch(plan, &request(budget, None));
        assert!(outputs.status.has(Fault::Capacity));
        assert_eq!((outputs.status.row(), &outputs.kept_lens[..]), (Some(1), &[10, 0, 0][..]));
        assert_eq!(outputs.cu_kept, [0, 10, 10, 10]);
    }
}

#[test]
fn a_nan_is_reported_and_spoils_nothing() {
    for variant in VARIANTS {
        let on = emulated(variant, 1);
        let rows = Ragged::from_lens(&[3]).unwrap();
        let budget = Budget::Count(PerSequence::All(2));
        let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
        let outputs = on.run_select(&[f32::NAN, f32::NEG_INFINITY, 1.0], &request).unwrap();
        assert_eq!(outputs.kept, [1, 2]);
        assert!(outputs.status.has(Fault::Nan) && outputs.status.check().is_ok());
        let outputs = on.run_select(&[0.0, 2.0, 1.0], &request).unwrap();
        assert_eq!(outputs.status, Status::CLEAR);
    }
}

/// The suite catches every mistake that the kernels make on purpose.
#[test]
fn mutants_are_caught() {
    for mutant in ["select/barrier", "select/bounds", "select/ties", "select/protection"] {
        let caught = (0..4).any(|seed| {
            let sample = Sample::one_in(40, seed);
            let on = emulated(Variant::Block, seed);
            let on = Emulated { mutant: Some(mutant), sample, ..on };
            let passes = catch_unwind(AssertUnwindSafe(|| {
                select::rules_by_hand(&on);
                select::heads_and_ragged_batches(&on);
                select::protection(&on);
            }));
            passes.is_err()
        });
        assert!(caught, "no case fails under the mutant {mutant}");
    }
    // The copy that the mutants are built into is right without one.
    let sample = Sample::one_in(40, 0);
    let on = Emulated { mutant: Some("none"), sample, ..emulated(Variant::Block, 0) };
    select::protection(&on);
}
