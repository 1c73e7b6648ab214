//! **attend**, one query per sequence over caches in fp8.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::dtype::F8E4M3;
use salient::{DType, Fault, Result, Status};
use salient_oracle::suite::assert_same_bits;

use crate::place::on_device;
use crate::runs::attend::Attended;
use crate::runs::problem::Decoding;
use crate::{device, same_in_any_order};

const LENS: [usize; 2] = [700, 40];

#[test]
fn the_same_in_any_order() {
    let problem = Decoding::<f16, F8E4M3>::new(&LENS, 0.6, 3, 128, 16);
    same_in_any_order("decode over fp8", || {
        let Attended { out, lse, status, .. } = problem.solve(&device()?, 0)?;
        Ok((out, lse, status))
    });
}

/// Entries and pages that name no key are left out, and scales that are no numbers stay in their
/// head.
#[test]
fn bad_device_data_is_reported_or_stays_where_it_is() {
    on_device("bad_device_data_is_reported_or_stays_where_it_is", || {
        let device = device()?;
        let problem = Decoding::<bf16, F8E4M3>::new(&LENS, 0.5, 2, 64, 8);
        let run = || problem.run(&device, problem.layout(), DType::F32, 0);
        let clean = problem.solve(&device, 0)?;
        assert!(clean.out.iter().chain(&clean.lse).all(|x| x.is_finite()));
        for entry in [-1, i32::MIN, i32::MAX, LENS[0] as i32] {
            let mut run = run()?;
            run.kept.as_mut().expect("lists").put(3, entry)?;
            let solved = run.launch(&device, &problem.untouched())?;
            assert!(solved.status.has(Fault::Index), "{entry}");
            assert!(solved.out.iter().all(|x| x.is_finite()), "{entry}");
            assert_same_bits(&solved.out[2 * 64..], &clean.out[2 * 64..], "the other lists");
        }
        for page in [-1, i32::MAX, 88 + 5] {
            let mut run = run()?;
            run.page_table.as_mut().expect("pages").put(2, page)?;
            let solved = run.launch(&device, &problem.untouched())?;
            assert_eq!(solved.status.faults().collect::<Vec<_>>(), [Fault::Page], "{page}");
            assert!(solved.out.iter().all(|x| x.is_finite()), "{page}");
        }
        for at in 0..2 {
            let mut run = run()?;
            run.scales[at] = Some(device.upload(&[0.5, f32::NAN])?);
            let solved = run.launch(&device, &problem.untouched())?;
            assert_eq!(solved.status, Status::CLEAR);
            for (row, (out, clean)) in solved.out.chunks(64).zip(clean.out.chunks(64)).enumerate() {
                if row % problem.heads() < 2 {
                    assert_same_bits(out, clean, &format!("row {row}"));
                } else {
                    assert!(out.iter().all(|x| x.is_nan()), "row {row}");
                }
            }
        }
        Ok(())
    });
}

/// A sequence or list with an invalid length is empty, and the others are as they were.
#[test]
fn lengths_that_cannot_be_empty_the_list() {
    on_device("lengths_that_cannot_be_empty_the_list", || {
        let device = device()?;
        let problem = Decoding::<f16, F8E4M3>::new(&LENS, 0.5, 9, 128, 0);
        let clean = problem.solve(&device, 0)?;
        let width = problem.group * problem.dim;
        for len in [-1, i32::MIN, i32::MAX, 100_000] {
            let check = |solved: Attended<f32>, first_empty: usize| -> Result<()> {
                let faults: Vec<Fault> = solved.status.faults().collect();
                assert_eq!(
                    (faults, solved.status.row()),
                    (vec![Fault::Lengths], Some(first_empty))
                );
                let (right, empty) = solved.out.split_at(first_empty * width);
                assert_same_bits(right, &clean.out[..right.len()], &format!("length {len}"));
                assert!(empty.iter().all(|&x| x == 0.0), "length {len}");
                Ok(())
            };
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
            run.kept_lens.as_mut().expect("lists").put(3, len)?;
            check(run.launch(&device, &problem.untouched())?, 3)?;
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
            run.lens.put(1, len)?;
            check(run.launch(&device, &problem.untouched())?, 2)?;
        }
        Ok(())
    });
}

/// Heads and groups of every kernel, in the types that outputs have.
#[test]
fn outputs_have_the_type_of_queries() {
    fn check<T: DeviceElement + Default>() -> Result<()> {
        let device = device()?;
        for dim in [64, 128, 256] {
            for group in [3, 12] {
                let problem = Decoding::<T, F8E4M3>::new(&LENS, 0.4, group, dim, 5);
                let wide = problem.solve(&device, 0)?;
                let run = problem.run(&device, problem.layout(), T::DTYPE, 0)?;
                let narrow = run.launch(&device, &vec![T::from_f32(1.0); problem.q.len()])?;
                let rounded: Vec<T> = wide.out.iter().map(|&x| T::from_f32(x)).collect();
                let context = format!("{:?}, {dim} channels, group {group}", T::DTYPE);
                assert_same_bits(&narrow.out, &rounded, &context);
            }
        }
        Ok(())
    }
    on_device("outputs_have_the_type_of_queries", || {
        check::<f16>()?;
        check::<bf16>()
    });
}
