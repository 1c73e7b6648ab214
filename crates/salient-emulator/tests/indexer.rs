//! The lightning indexer on the emulated kernels: the conformance suite, what they move, bad windows and
//! offsets, and that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::Element;
use salient::dtype::F8E4M3;
use salient::host::score::Logits;
use salient::kernels::{Fault, Status};
use salient_emulator::{Emulated, IndexerRun, Launched};
use salient_oracle::implementation::Sample;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::score::indexer::{self, Built, Case, Sees};

/// The suite under both capabilities, other cases for each.
#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(2, seed);
        indexer::all(&Emulated { seed, capability, sample, ..Emulated::default() });
    }
}

#[test]
fn every_number_of_heads_and_head_size() {
    let mut dims = (16..=128).step_by(16).cycle();
    for heads in 1..=64 {
        let dim = dims.next().expect("a cycle");
        let sees = [Sees::Causal, Sees::Windows][heads % 2];
        let plain = Case { heads, dim, sees, ..Case::new(heads as u64, &[(9, 40), (1, 270)]) };
        let case = Case { scaled: heads % 3 == 0, ..plain };
        case.check(&Emulated { seed: heads as u64, ..Emulated::default() });
    }
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let case = Case { heads: 20, dim: 48, scaled: true, ..Case::new(1, &[(40, 300), (3, 3)]) };
    let built = case.build::<F8E4M3>();
    let run = |seed, capability| {
        case.run(&Emulated { seed, capability, ..Emulated::default() }, &built).unwrap()
    };
    let first = run(0, 90);
    for seed in 1..20 {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        assert_same_bits(&run(seed, capability), &first, &format!("seed {seed}"));
    }
}

/// What a device does with a case whose lists have been changed.
fn launch<T: Element>(
    on: &Emulated,
    case: &Case,
    built: &Built<T>,
    change: impl FnOnce(&mut IndexerRun<T>),
) -> (Vec<f32>, Status, Vec<Launched>) {
    let device = on.device();
    case.with(built, |queries, keys| {
        let len = match case.logits() {
            Logits::Rows { stride } => queries.rows.total() * stride,
            Logits::Tokens => keys.rows.total(),
        };
        let unwritten = vec![7.0; len];
        let mut run = IndexerRun::new(&device, queries, keys, case.logits(), &unwritten).unwrap();
        change(&mut run);
        let (status, launched) = run.launch(on, &device).unwrap();
        (run.logits.read(), status, launched)
    })
}

/// Windows beyond the keys are cut off and reported, by the lowest query.
#[test]
fn windows_beyond_the_keys_are_cut_off() {
    let case = Case { sees: Sees::Windows, ..Case::new(2, &[(3, 50), (5, 300)]) };
    let built = case.build::<bf16>();
    let on = Emulated::default();
    for (first, limit) in [(-1, 200), (i32::MIN, i32::MAX), (100, 301), (301, 10), (0, -5)] {
        let (mut firsts, mut limits) = (built.first.clone(), built.limit.clone());
        (firsts[5], limits[5]) = (first, limit);
        let (logits, status, _) = launch(&on, &case, &built, |run| {
            run.firsts.as_mut().unwrap().write(&firsts);
            run.limits.as_mut().unwrap().write(&limits);
        });
        assert_eq!(status.faults().collect::<Vec<_>>(), [Fault::Index], "{first} to {limit}");
        assert_eq!(status.row(), Some(5));
        (firsts[5], limits[5]) = (first.clamp(0, 300), limit.clamp(0, 300));
        let cut = Built { first: firsts, limit: limits, ..built.clone() };
        assert_same_bits(&logits, &case.run(&on, &cut).unwrap(), "cut off");
    }
}

/// Sequences with impossible offsets are reported and not written; others are not touched by it.
#[test]
fn impossible_offsets_are_reported() {
    let case = Case { sees: Sees::Full, ..Case::new(3, &[(3, 50), (5, 300), (2, 20)]) };
    let built = case.build::<f16>();
    let on = Emulated::default();
    let (clean, status, _) = launch(&on, &case, &built, |_| ());
    assert_eq!(status, Status::CLEAR);
    let rows = [0..3, 3..8, 8..10];
    let check = |queries: [i32; 4], keys: [i32; 4], bad: usize| {
        let (logits, status, _) = launch(&on, &case, &built, |run| {
            run.cu_queries.write(&queries);
            run.cu_keys.write(&keys);
        });
        let context = format!("{queries:?} {keys:?}");
        assert_eq!(status.faults().collect::<Vec<_>>(), [Fault::Lengths], "{context}");
        assert_eq!(status.row(), Some(bad), "{context}");
        let good = ([0, 3, 8, 10], [0, 50, 350, 370]);
        for (sequence, rows) in rows.iter().enumerate() {
            let same = queries[sequence..sequence + 2] == good.0[sequence..sequence + 2]
                && keys[sequence..sequence + 2] == good.1[sequence..sequence + 2];
            let range = rows.start * 300..rows.end * 300;
            if same {
                assert_same_bits(&logits[range.clone()], &clean[range], &context);
            } else {
                assert!(logits[range].iter().all(|&logit| logit == 7.0), "{context}");
            }
        }
    };
    let (queries, keys) = ([0, 3, 8, 10], [0, 50, 350, 370]);
    check([0, 3, 8, 11], keys, 2);
    check([0, 3, 8, i32::MAX], keys, 2);
    check([-1, 3, 8, 10], keys, 0);
    check([0, 3, 8, 7], keys, 2);
    check(queries, [0, 50, 350, 371], 2);
    check(queries, [i32::MIN, 50, 350, 370], 0);
    check(queries, [0, 50, 350, 349], 2);
}

/// Keys once for 32 queries, queries once for 256 keys, and neither where no window meets them.
#[test]
fn keys_are_read_once_per_tile_of_queries() {
    fn check<T: Element>() {
        let on = Emulated { counting: true, ..Emulated::default() };
        for (heads, dim) in [(64, 128), (32, 64), (8, 128), (5, 32)] {
            let size = size_of::<T>();
            let bytes = |launched: &[Launched], name| launched[0].traffic.buffer(name).read;
            let decode =
                Case { sees: Sees::Full, spare: None, ..Case::new(1, &[(1, 700), (1, 64)]) };
            let decode = Case { heads, dim, scaled: true, ..decode };
            let (_, _, launched) = launch(&on, &decode, &decode.build::<T>(), |_| ());
            let context = format!("{heads} heads of {dim} {:?}", T::DTYPE);
            let keys = bytes(&launched, "k");
            assert_eq!(keys.bytes as usize, 764 * dim * size, "{context}");
            assert_eq!(keys.sectors, keys.least_sectors, "{context}");
            assert_eq!(bytes(&launched, "q").bytes as usize, 4 * heads * dim * size, "{context}");
            assert_eq!(bytes(&launched, "scales").bytes, 764 * 4, "{context}");
            let traffic = &launched[0].traffic;
            assert_eq!(traffic.buffer("logits").written.bytes, 764 * 4, "{context}");
            assert!(traffic.shared.ways() <= 1.1, "{context}: {:?}", traffic.shared_sites);

            let prefill = Case { heads, dim, ..Case::new(2, &[(512, 512)]) };
            let (_, _, launched) = launch(&on, &prefill, &prefill.build::<T>(), |_| ());
            let keys = bytes(&launched, "k");
            // Of 16 tiles of queries, all see the first 256 keys and 8 the rest.
            assert_eq!(keys.bytes as usize, 24 * 256 * dim * size, "{context}");
            assert_eq!(keys.sectors, keys.least_sectors, "{context}");
            let queries = bytes(&launched, "q").bytes as usize;
            assert_eq!(queries, (512 + 256) * heads * dim * size, "{context}");
            let traffic = &launched[0].traffic;
            let logits = traffic.buffer("logits").written;
            assert_eq!(logits.bytes, 512 * 512 * 4, "{context}");
            assert_eq!(logits.sectors, logits.least_sectors, "{context}");
            assert!(traffic.shared.ways() <= 1.1, "{context}: {:?}", traffic.shared_sites);
        }
    }
    check::<bf16>();
    check::<F8E4M3>();
}

/// Mistakes made on purpose: the suite sees each.
#[test]
fn mutants_are_caught() {
    for mutant in ["indexer/barrier", "indexer/bounds", "indexer/order"] {
        let on = Emulated { seed: 1, mutant: Some(mutant), ..Emulated::default() };
        let property = || indexer::neighbours_change_nothing(&on);
        assert!(catch_unwind(AssertUnwindSafe(property)).is_err(), "{mutant} passes");
    }
    // The same copy of the kernels, doing nothing wrong.
    let on = Emulated { seed: 1, mutant: Some("none"), ..Emulated::default() };
    indexer::neighbours_change_nothing(&on);
}
