//! **select**, and the checker of lists.

use salient::cuda::cudarc::driver::sys::CUdevice_attribute_enum as Attribute;
use salient::kernels::select::{SelectPlan, Shape, Variant};
use salient::kernels::validate::ValidatePlan;
use salient::select::{Budget, Protect, Request};
use salient::{Ragged, Result, Status};
use salient_oracle::generate::{Distribution, Random};

use crate::device::Device;
use crate::runs::select::{SelectRun, SelectedThere, ValidateRun};
use crate::{SECTOR, counting};

fn select(
    device: &Device,
    variant: Variant,
    lens: &[usize],
    budget: Budget<&[usize]>,
    distribution: Distribution,
) -> Result<SelectedThere> {
    let rows = Ragged::from_lens(lens)?;
    let scores = distribution.scores(rows.total(), 1);
    let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
    let plan = SelectPlan::of(&request)?.with_variant(variant)?;
    SelectRun::new(device, plan, &scores, &request)?.launch(device)
}

/// Every score is read once where the row fits the group's registers, whatever the distribution,
/// and nothing is written but the outputs.
#[test]
fn scores_are_read_once_and_only_outputs_are_written() {
    counting("scores_are_read_once_and_only_outputs_are_written", |on| {
        let mut cases: Vec<(Variant, &[usize])> = vec![
            (Variant::Block, &[16_384; 2]),
            (Variant::Block, &[1024; 4]),
            (Variant::Grid, &[131_072, 65_536]),
        ];
        if on.device.generation()? >= 9 {
            cases.push((Variant::Cluster, &[131_072]));
        }
        for (variant, lens) in cases {
            for distribution in
                [Distribution::Normal, Distribution::AllEqual, Distribution::TiedMiddle]
            {
                let (selected, launched) = on.launches(|device| {
                    select(device, variant, lens, Budget::Ratio(0.35), distribution)
                })?;
                let [launched] = &launched[..] else { panic!("one launch") };
                let total = lens.iter().sum::<usize>() as u64;
                let context = format!("{variant:?} {lens:?} {distribution:?}");
                let of = |name| launched.buffer(&selected.places, name);
                assert_eq!(of("scores").read, 4 * total, "{context}");
                of("scores").assert_whole_sectors(&context);
                for (name, len) in [
                    ("kept", selected.kept.len()),
                    ("kept_positions", selected.kept.len()),
                    ("inverse", selected.inverse.len()),
                    ("kept_lens", selected.kept_lens.len()),
                    ("cu_kept", selected.cu_kept.len()),
                ] {
                    assert_eq!(of(name).written, 4 * len as u64, "{context}: {name}");
                }
                // A sector that two warps share counts twice.
                let inverse = of("inverse");
                let over = SECTOR * inverse.sectors - inverse.written;
                assert!(over <= inverse.written / 16, "{context}: {inverse:?}");
            }
        }
        Ok(())
    });
}

/// A row beyond the resident blocks is read once for each of three passes and once to be compacted.
#[test]
fn a_streamed_row_is_read_four_times_at_most() {
    counting("a_streamed_row_is_read_four_times_at_most", |on| {
        // A token more than the resident blocks hold.
        let count = Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let len = on.device.stream.context().attribute(count)? as usize * 16_384 + 1;
        let read = |budget| -> Result<usize> {
            let (selected, launched) = on.launches(|device| {
                select(device, Variant::Grid, &[len], budget, Distribution::Uniform)
            })?;
            Ok(launched[0].buffer(&selected.places, "scores").read as usize)
        };
        let read_by_ratio = read(Budget::Ratio(0.35))?;
        assert!(read_by_ratio <= 4 * 4 * len, "{read_by_ratio} bytes of {len} scores");
        assert!(read_by_ratio > 4 * len, "the row is not streamed");
        let read_by_threshold = read(Budget::Threshold(0.5))?;
        assert!((4 * len + 1..=2 * 4 * len).contains(&read_by_threshold), "{read_by_threshold}");
        Ok(())
    });
}

#[test]
fn lists_are_checked_by_reading_them_once() {
    counting("lists_are_checked_by_reading_them_once", |on| {
        let (capacity, lens) = (5000, [7000, 33, 4999]);
        let mut random = Random::new(4);
        let (mut kept, mut kept_lens, mut cu_seqlens) = (Vec::new(), Vec::new(), vec![0]);
        for len in lens {
            let list = random.subset(len, 0.6);
            kept_lens.push(list.len() as i32);
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + len as i32);
            kept.extend(list.iter().copied().chain(std::iter::repeat_n(-1, capacity - list.len())));
        }
        let shape = Shape { batch: 3, heads: 1, total: lens.iter().sum(), max_len: 7000 };
        let run = ValidateRun {
            plan: ValidatePlan::new(shape, capacity)?,
            cu_seqlens: on.device.upload(&cu_seqlens)?,
            kept: on.device.upload(&kept)?,
            kept_lens: on.device.upload(&kept_lens)?,
            cu_kept: None,
            page_table: None,
        };
        let (status, launched) = on.launches(|device| run.launch(device))?;
        assert_eq!(status, Status::CLEAR);
        // Each entry, and the last of the warp before.
        let entries = 4 * kept.len() as u64;
        let read = launched[0].buffer(&run.places(), "kept").read;
        assert!((entries..=entries + entries / 16).contains(&read), "{read} of {entries}");
        let told = launched[0].written() + launched[0].sum("atomic");
        assert_eq!(told, 0, "written where there is nothing to say");
        Ok(())
    });
}
