//! The lightning indexer.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::dtype::F8E4M3;
use salient::{Fault, Result, Status};
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::score::indexer::{Built, Case, Sees};

use crate::device::Device;
use crate::place::on_device;
use crate::runs::score::IndexerRun;
use crate::{device, same_in_any_order};

#[test]
fn every_number_of_heads_and_head_size() {
    on_device("every_number_of_heads_and_head_size", || {
        let device = device()?;
        let mut dims = (16..=128).step_by(16).cycle();
        for heads in 1..=64 {
            let dim = dims.next().expect("a cycle");
            let sees = [Sees::Causal, Sees::Windows][heads % 2];
            let plain = Case { heads, dim, sees, ..Case::new(heads as u64, &[(9, 40), (1, 270)]) };
            let case = Case { scaled: heads % 3 == 0, ..plain };
            match heads % 4 {
                0 => case.check_built(&device, &case.build::<f16>(), ""),
                1 => case.check_built(&device, &case.build::<bf16>(), ""),
                _ => case.check_built(&device, &case.build::<F8E4M3>(), ""),
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    let case = Case { heads: 20, dim: 48, scaled: true, ..Case::new(1, &[(40, 300), (3, 3)]) };
    let built = case.build::<F8E4M3>();
    same_in_any_order("indexer", || {
        let device = device()?;
        let scored = run(&device, &case, &built)?.launch(&device)?;
        Ok((scored.scores, scored.status))
    });
}

fn run<T: DeviceElement + Default>(
    device: &Device,
    case: &Case,
    built: &Built<T>,
) -> Result<IndexerRun<T>> {
    case.with(built, |queries, keys| IndexerRun::new(device, queries, keys, case.logits()))
}

/// Windows beyond the keys are cut off and reported, by the lowest query.
#[test]
fn windows_beyond_the_keys_are_cut_off() {
    on_device("windows_beyond_the_keys_are_cut_off", || {
        let device = device()?;
        let case = Case { sees: Sees::Windows, ..Case::new(2, &[(3, 50), (5, 300)]) };
        let built = case.build::<bf16>();
        for (first, limit) in [(-1, 200), (i32::MIN, i32::MAX), (100, 301), (301, 10), (0, -5)] {
            let mut spoilt = run(&device, &case, &built)?;
            spoilt.firsts.as_mut().expect("windows").put(5, first)?;
            spoilt.limits.as_mut().expect("windows").put(5, limit)?;
            let scored = spoilt.launch(&device)?;
            let faults: Vec<Fault> = scored.status.faults().collect();
            assert_eq!(faults, [Fault::Index], "{first} to {limit}");
            assert_eq!(scored.status.row(), Some(5));
            let mut cut = built.clone();
            (cut.first[5], cut.limit[5]) = (first.clamp(0, 300), limit.clamp(0, 300));
            assert_same_bits(&scored.scores, &case.run(&device, &cut)?, "cut off");
        }
        Ok(())
    });
}

/// Sequences with impossible offsets are reported and not written; others are not touched by it.
#[test]
fn impossible_offsets_are_reported() {
    on_device("impossible_offsets_are_reported", || {
        let device = device()?;
        let case = Case { sees: Sees::Full, ..Case::new(3, &[(3, 50), (5, 300), (2, 20)]) };
        let built = case.build::<f16>();
        let clean = run(&device, &case, &built)?.launch(&device)?;
        assert_eq!(clean.status, Status::CLEAR);
        let rows = [0..3, 3..8, 8..10];
        let good = ([0, 3, 8, 10], [0, 50, 350, 370]);
        let check = |queries: [i32; 4], keys: [i32; 4], bad: usize| -> Result<()> {
            let mut spoilt = run(&device, &case, &built)?;
            spoilt.cu_queries.write(&queries)?;
            spoilt.cu_keys.write(&keys)?;
            let scored = spoilt.launch(&device)?;
            let context = format!("{queries:?} {keys:?}");
            let faults: Vec<Fault> = scored.status.faults().collect();
            assert_eq!(faults, [Fault::Lengths], "{context}");
            assert_eq!(scored.status.row(), Some(bad), "{context}");
            for (sequence, rows) in rows.iter().enumerate() {
                let same = queries[sequence..sequence + 2] == good.0[sequence..sequence + 2]
                    && keys[sequence..sequence + 2] == good.1[sequence..sequence + 2];
                let range = rows.start * 300..rows.end * 300;
                let scores = &scored.scores[range.clone()];
                if same {
                    assert_same_bits(scores, &clean.scores[range], &context);
                } else {
                    assert!(scores.iter().all(|&logit| logit == 7.0), "{context}");
                }
            }
            Ok(())
        };
        let (queries, keys) = good;
        check([0, 3, 8, 11], keys, 2)?;
        check([0, 3, 8, i32::MAX], keys, 2)?;
        check([-1, 3, 8, 10], keys, 0)?;
        check([0, 3, 8, 7], keys, 2)?;
        check(queries, [0, 50, 350, 371], 2)?;
        check(queries, [i32::MIN, 50, 350, 370], 0)?;
        check(queries, [0, 50, 350, 349], 2)
    });
}
