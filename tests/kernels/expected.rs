//! Expected attention.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::score::{ExpectedAttention, Per};
use salient::{Fault, Layout, Result, Status, View};
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::score::expected::Case;

use crate::device::Device;
use crate::place::on_device;
use crate::runs::score::ExpectedRun;
use crate::{device, same_in_any_order};

#[test]
fn every_head_size() {
    on_device("every_head_size", || {
        let device = device()?;
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
            case.check(&device);
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    let case = Case { dim: 72, group: 3, ..Case::new(1, &[300, 0, 17]) };
    same_in_any_order("expected attention", || {
        let scored = run::<bf16>(&device()?, &case)?.launch(&device()?)?;
        Ok((scored.scores, scored.status))
    });
}

fn run<T: DeviceElement + Default>(device: &Device, case: &Case) -> Result<ExpectedRun<T>> {
    let (k, v, rows) = (case.k::<T>(), case.v::<T>(), case.rows());
    let layout = |dim| match case.head_major {
        true => Layout::head_major(case.kv_heads, dim, rows.total()),
        false => Layout::token_major(case.kv_heads, dim),
    };
    let k = View::new(&k[..], layout(case.dim));
    let v = case.value_dim.map(|dim| View::new(&v[..], layout(dim)));
    ExpectedRun::new(device, (k, v), &rows, &case.statistics(), &case.options)
}

/// Sequences with impossible offsets are reported and not written; others are not touched by it.
#[test]
fn impossible_offsets_are_reported() {
    on_device("impossible_offsets_are_reported", || {
        let device = device()?;
        let case = Case::new(2, &[60, 300, 20]);
        let clean = run::<f16>(&device, &case)?.launch(&device)?;
        assert_eq!(clean.status, Status::CLEAR);
        let good = [0, 60, 360, 380];
        for (offsets, bad) in [
            ([0, 60, 381, 380], 1),
            ([0, 60, 360, 381], 2),
            ([-1, 60, 360, 380], 0),
            ([0, 60, 360, i32::MAX], 2),
            ([0, 60, 360, 359], 2),
        ] {
            let mut run = run::<f16>(&device, &case)?;
            run.cu_seqlens.write(&offsets)?;
            let scored = run.launch(&device)?;
            let faults: Vec<Fault> = scored.status.faults().collect();
            assert_eq!((faults, scored.status.row()), (vec![Fault::Lengths], Some(bad)));
            for (sequence, span) in case.rows().spans().enumerate() {
                let same = offsets[sequence..sequence + 2] == good[sequence..sequence + 2];
                for head in 0..case.kv_heads {
                    let range = head * 380 + span.start..head * 380 + span.end();
                    let scores = &scored.scores[range.clone()];
                    if same {
                        assert_same_bits(scores, &clean.scores[range], "the good sequences");
                    } else {
                        assert!(scores.iter().all(|&score| score == 7.0), "{offsets:?}");
                    }
                }
            }
        }
        Ok(())
    });
}
