//! **select**.

use salient::kernels::select::{SelectPlan, Shape, Variant};
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{Fault, Ragged, Result, Status};
use salient_oracle::generate::Distribution;

use crate::device::Device;
use crate::place::on_device;
use crate::runs::select::{SelectRun, SelectedThere};
use crate::{generation, same_in_any_order};

/// Those that the device has, by plans that ask for each of them.
fn variants() -> Result<Vec<Variant>> {
    let all = [Variant::Block, Variant::Grid, Variant::Cluster];
    Ok(all[..if generation()? >= 9 { 3 } else { 2 }].to_vec())
}

#[test]
fn the_same_in_any_order() {
    let lens = [300, 0, 20_000, 33];
    for variant in [Variant::Block, Variant::Grid, Variant::Cluster] {
        same_in_any_order(&format!("select, {variant:?}"), || {
            if !variants()?.contains(&variant) {
                return Ok(None);
            }
            let device = Device::new(variant)?;
            let rows = Ragged::from_lens(&lens)?;
            let scores = Distribution::Fp8.scores(rows.total(), 1);
            let budget = Budget::Ratio(0.35);
            let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
            let plan = SelectPlan::of(&request)?;
            let plan = plan.with_variant(variant).unwrap_or(plan);
            let run = SelectRun::new(&device, plan, &scores, &request)?;
            Ok(Some(without_places(run.launch(&device)?)))
        });
    }
}

fn without_places(selected: SelectedThere) -> SelectedThere {
    SelectedThere { places: Vec::new(), ..selected }
}

/// A plan of three sequences of 40, 50 and 60 tokens on the device, as the host believes.
fn believed(budget: Budget, variant: Variant) -> Result<SelectPlan> {
    let shape = Shape { batch: 3, heads: 1, total: 150, max_len: 60 };
    SelectPlan::new(shape, budget)?.with_variant(variant)
}

fn rows_of_three() -> Ragged {
    Ragged::from_lens(&[40, 50, 60]).expect("short rows")
}

/// Invalid offsets: the rows at fault keep nothing, the others what they should.
#[test]
fn offsets_that_cannot_be_are_faults() {
    on_device("offsets_that_cannot_be_are_faults", || {
        for variant in variants()? {
            for (cu_seqlens, bad) in [
                // No two rows that can be may overlap: both would write their places.
                ([30, 40, 0, 30], vec![1]),
                ([0, 40, 151, 150], vec![1, 2]),
                ([-1, 40, 90, 150], vec![0]),
                ([0, 61, 90, 150], vec![0]),
                ([0, 40, i32::MIN, i32::MAX], vec![1, 2]),
            ] {
                let device = Device::new(variant)?;
                let rows = rows_of_three();
                let budget = Budget::Ratio(0.5);
                let protect = Protect::default();
                let request = Request { rows: &rows, heads: 1, budget, protect };
                let plan = believed(Budget::Ratio(0.5), variant)?;
                let mut run = SelectRun::new(&device, plan, &[1.0; 150], &request)?;
                run.cu_seqlens.write(&cu_seqlens)?;
                let selected = run.launch(&device)?;
                let context = format!("{variant:?} {cu_seqlens:?}");
                assert!(selected.status.has(Fault::Lengths), "{context}");
                assert_eq!(selected.status.row(), Some(bad[0]), "{context}");
                let mut packed = 0;
                for row in 0..3 {
                    let span = (cu_seqlens[row + 1].wrapping_sub(cu_seqlens[row])) as usize;
                    let expected = if bad.contains(&row) { 0 } else { span.div_ceil(2) };
                    assert_eq!(selected.kept_lens[row], expected as i32, "{context}");
                    packed += expected as i32;
                    assert_eq!(selected.cu_kept[row + 1], packed, "{context}");
                    let list = &selected.kept[row * plan.capacity()..][..plan.capacity()];
                    assert!(list[expected..].iter().all(|&token| token == -1), "{context}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn budgets_that_only_the_device_sees_are_faults() {
    on_device("budgets_that_only_the_device_sees_are_faults", || {
        for variant in variants()? {
            let rows = rows_of_three();
            let request = |budget, mask| {
                let edges = PerSequence::All(Edges::default());
                Request { rows: &rows, heads: 1, budget, protect: Protect { edges, mask } }
            };
            let launch = |plan, request: &Request<'_>| {
                let device = Device::new(variant)?;
                let scores = Distribution::Uniform.scores(150, 3);
                SelectRun::new(&device, plan, &scores, request)?.launch(&device)
            };

            // A mask protects 30 of the second sequence, the budget keeps 20.
            let mask: Vec<bool> = (0..150).map(|i| (40..70).contains(&i)).collect();
            let budget = Budget::Count(20);
            let plan = believed(Budget::Count(20), variant)?;
            let selected = launch(plan, &request(budget, Some(&mask)))?;
            let status = selected.status;
            assert!(status.has(Fault::Protected) && !status.has(Fault::Capacity), "{variant:?}");
            assert_eq!(status.row(), Some(1), "{variant:?}");
            assert_eq!(selected.kept_lens, [20; 3], "{variant:?}");
            assert_eq!(selected.kept[20..40], (0..20).collect::<Vec<i32>>(), "{variant:?}");

            // More reach the threshold than the lists have room for.
            let plan = believed(Budget::Threshold(0.0), variant)?.with_capacity(45)?;
            let selected = launch(plan, &request(Budget::Threshold(0.0), None))?;
            assert!(selected.status.has(Fault::Capacity), "{variant:?}");
            let found = (selected.status.row(), &selected.kept_lens[..]);
            assert_eq!(found, (Some(1), &[40, 0, 0][..]), "{variant:?}");
            assert_eq!(selected.cu_kept, [0, 40, 40, 40], "{variant:?}");
            assert!(selected.inverse[40..].iter().all(|&place| place == -1), "{variant:?}");

            // Counts beyond the lists' room.
            let plan = believed(Budget::Counts(()), variant)?.with_capacity(45)?;
            let budget = Budget::Counts(&[10, 46, usize::MAX][..]);
            let selected = launch(plan, &request(budget, None))?;
            assert!(selected.status.has(Fault::Capacity), "{variant:?}");
            let found = (selected.status.row(), &selected.kept_lens[..]);
            assert_eq!(found, (Some(1), &[10, 0, 0][..]), "{variant:?}");
            assert_eq!(selected.cu_kept, [0, 10, 10, 10], "{variant:?}");
        }
        Ok(())
    });
}

#[test]
fn a_nan_is_reported_and_spoils_nothing() {
    on_device("a_nan_is_reported_and_spoils_nothing", || {
        for variant in variants()? {
            let device = Device::new(variant)?;
            let rows = Ragged::from_lens(&[3])?;
            let budget = Budget::Count(2);
            let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
            let plan = SelectPlan::of(&request)?.with_variant(variant)?;
            let select = |scores: [f32; 3]| {
                SelectRun::new(&device, plan, &scores, &request)?.launch(&device)
            };
            let selected = select([f32::NAN, f32::NEG_INFINITY, 1.0])?;
            assert_eq!(selected.kept, [1, 2], "{variant:?}");
            assert!(selected.status.has(Fault::Nan) && selected.status.check().is_ok());
            assert_eq!(select([0.0, 2.0, 1.0])?.status, Status::CLEAR, "{variant:?}");
        }
        Ok(())
    });
}
