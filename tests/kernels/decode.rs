//! **attend**, one query per sequence.

use half::{bf16, f16};
use salient::attend::Attention;
use salient::cuda::DeviceElement;
use salient::{DType, Fault, Layout, Result, Status};
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{Case, Decode, Sees, Store, Values};

use crate::place::on_device;
use crate::runs::attend::{Attended, DecodeRun};
use crate::runs::problem::{Decoding, KV_HEADS};
use crate::{device, same_in_any_order};

#[test]
fn every_group_and_head_size() {
    on_device("every_group_and_head_size", || {
        let device = device()?;
        let mut stores = Store::ALL.into_iter().filter(|&s| s != Store::Padded).cycle();
        let mut sees = [Sees::PerHead(0.4), Sees::Dense, Sees::Shared(0.5)].into_iter().cycle();
        let mut dims = [64, 96, 128, 256, 8, 72, 104, 192].into_iter().cycle();
        for turn in 0..3 {
            for group in 1..=16 {
                let dim = dims.next().expect("a cycle");
                let sees = sees.next().expect("a cycle");
                let plain = Case::decode(group as u64, &[70, 0, 310], sees);
                let attention = Attention::new((dim as f32).powf(-0.5));
                let values = if turn == 1 { Values::Large } else { Values::Normal };
                let store = stores.next().expect("a cycle");
                let case = Case { group, dim, attention, store, values, ..plain };
                case.check_built(&Decode(&device), &case.build::<f16>(), "");
                case.check_built(&Decode(&device), &case.build::<bf16>(), "");
            }
            dims.next();
        }
        Ok(())
    });
}

#[test]
fn infinite_keys_weigh_as_they_should() {
    on_device("infinite_keys_weigh_as_they_should", || {
        let device = device()?;
        for sees in [Sees::Dense, Sees::PerHead(0.5)] {
            let plain = Case { dim: 64, ..Case::decode(3, &[20, 300], sees) };
            for sinks in [false, true] {
                let case = Case { sinks, ..plain.clone() };
                for infinity in [f32::INFINITY, f32::NEG_INFINITY] {
                    let clean = case.build::<f16>();
                    let mut one = clean.clone();
                    one.k[(2 * case.kv_heads + 1) * case.dim + 7] = f16::from_f32(infinity);
                    case.check_built(&Decode(&device), &one, "with an infinite key");
                    let mut all = clean.clone();
                    for key in all.k.chunks_exact_mut(case.dim) {
                        key[3] = f16::from_f32(infinity);
                    }
                    case.check_built(&Decode(&device), &all, "with infinite keys");
                }
            }
        }
        Ok(())
    });
}

/// A sink that is no logit makes NaN of its head's rows, empty ones too, and of no other.
#[test]
fn sinks_that_are_no_logits_stay_in_their_head() {
    on_device("sinks_that_are_no_logits_stay_in_their_head", || {
        let device = device()?;
        let problem = Decoding::<bf16>::new(&[60, 700, 0], 0.9, 4, 64, 0);
        for bad in [f32::NAN, f32::INFINITY] {
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
            let mut attention_sink = vec![0.5; problem.heads()];
            run.attention_sink = Some(device.upload(&attention_sink)?);
            let clean = run.launch(&device, &problem.untouched())?;
            attention_sink[5] = bad;
            run.attention_sink = Some(device.upload(&attention_sink)?);
            let with = run.launch(&device, &problem.untouched())?;
            assert_eq!(with.status, Status::CLEAR);
            for (row, lse) in with.lse.iter().enumerate() {
                let (out, clean_out) = (&with.out[row * 64..][..64], &clean.out[row * 64..][..64]);
                if row % problem.heads() == 5 {
                    assert!(lse.is_nan() && out.iter().all(|x| x.is_nan()), "{bad} in row {row}");
                } else {
                    assert_eq!(lse.to_bits(), clean.lse[row].to_bits(), "row {row}");
                    assert_same_bits(out, clean_out, &format!("row {row}"));
                }
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    for problem in [
        Decoding::<bf16>::new(&[700, 30], 0.9, 3, 96, 16),
        Decoding::<bf16>::new(&[90, 400], 0.5, 11, 128, 0),
    ] {
        same_in_any_order(&format!("decode, {} channels", problem.dim), || {
            let Attended { out, lse, status, .. } = problem.solve(&device()?, 0)?;
            Ok((out, lse, status))
        });
    }
}

/// Neither neighbours nor room behind the lists, up to a capacity of 16384, change a bit, whether a
/// list takes one block or more.
#[test]
fn a_sequence_is_alone_in_its_batch() {
    on_device("a_sequence_is_alone_in_its_batch", || {
        let device = device()?;
        let problem = Decoding::<f16>::new(&[310, 40, 900, 0], 0.6, 4, 64, 0);
        let together = problem.solve(&device, 0)?;
        for sequence in 0..problem.lens.len() {
            let alone = problem.alone(sequence);
            let longest = alone.lists.iter().map(Vec::len).max().expect("lists of each head");
            for spare in [0, 1, 300, 2000, 16_384 - longest] {
                let solved = alone.solve(&device, spare)?;
                let (out, lse) = (alone.q.len(), alone.heads());
                let context = format!("sequence {sequence} with room for {spare} more");
                assert_same_bits(&solved.out, &together.out[sequence * out..][..out], &context);
                assert_same_bits(&solved.lse, &together.lse[sequence * lse..][..lse], &context);
            }
        }
        Ok(())
    });
}

/// Rounded once, where the layout says and nowhere else.
#[test]
fn outputs_have_any_layout_and_two_types() {
    on_device("outputs_have_any_layout_and_two_types", || {
        let device = device()?;
        for (share, dim) in [(0.2, 72), (0.9, 72), (0.4, 256)] {
            let problem = Decoding::<f16>::new(&[70, 500, 0], share, 3, dim, 0);
            let wide = problem.solve(&device, 0)?;
            let heads = problem.heads();
            let token_stride = (dim + 3) * heads + 1;
            let layout = Layout { token_stride, head_stride: dim + 3, ..problem.layout() };
            let run = problem.run(&device, layout, DType::F16, 0)?;
            let seven = f16::from_f32(7.0);
            let untouched = vec![seven; layout.required_len(3).expect("a small output") + 5];
            let solved = run.launch(&device, &untouched)?;
            let mut expected = untouched.clone();
            for (row, values) in wide.out.chunks_exact(dim).enumerate() {
                let to = layout.offset(row / heads, row % heads);
                let narrow: Vec<f16> = values.iter().map(|&x| f16::from_f32(x)).collect();
                expected[to..to + dim].copy_from_slice(&narrow);
            }
            assert_same_bits(&solved.out, &expected, "f16 outputs that lie apart");
            assert_same_bits(&solved.lse, &wide.lse, "LSE");
        }
        Ok(())
    });
}

/// Entries that name no key are left out; the status tells.
#[test]
fn garbage_in_lists_is_reported_and_left_out() {
    on_device("garbage_in_lists_is_reported_and_left_out", || {
        let device = device()?;
        for page_size in [0, 7] {
            let problem = Decoding::<bf16>::new(&[60, 350], 0.9, 4, 64, page_size);
            let clean = problem.solve(&device, 5)?;
            let solve = |row: usize, garbage: &[(usize, i32)]| -> Result<Attended<f32>> {
                let mut run = problem.run(&device, problem.layout(), DType::F32, 5)?;
                let kept = run.kept.as_mut().expect("lists");
                let capacity = kept.len() / 4;
                for &(at, entry) in garbage {
                    kept.put(row * capacity + at, entry)?;
                }
                run.launch(&device, &problem.untouched())
            };
            for row in [0, 3] {
                let list = &problem.lists[row];
                let len = problem.lens[row / KV_HEADS] as i32;
                for (at, entry) in [
                    (0, -1),
                    (17, -1),
                    (list.len() - 1, len),
                    (20, len + 1),
                    (3, i32::MAX),
                    (4, i32::MIN),
                ] {
                    let solved = solve(row, &[(at, entry)])?;
                    let context =
                        format!("entry {at} of row {row} is {entry}, pages of {page_size}");
                    assert!(solved.status.has(Fault::Index), "{context}");
                    assert_eq!(solved.status.row(), Some(row), "{context}");
                    // The same with the entry's key seen by nobody: its logit is -inf, its value 0.
                    let mut without = problem.clone();
                    without.lists[row].remove(at);
                    let expected = without.solve(&device, 5)?;
                    let width = problem.group * problem.dim;
                    for (i, (a, b)) in solved.out.iter().zip(&expected.out).enumerate() {
                        assert!((a - b).abs() <= 1e-5, "{context}: {a} {b} at {i}");
                        let same = i / width == row || a.to_bits() == b.to_bits();
                        assert!(same, "{context}: at {i}");
                    }
                }
                // A key listed twice counts twice; order is reported and changes little.
                let (a, b) = (list[8], list[9]);
                for garbage in [&[(9, a)][..], &[(8, b), (9, a)]] {
                    let solved = solve(row, garbage)?;
                    assert_eq!(solved.status.faults().collect::<Vec<_>>(), [Fault::Order]);
                    assert_eq!(solved.status.row(), Some(row));
                    assert!(solved.out.iter().all(|x| x.is_finite()));
                }
                let swapped = solve(row, &[(8, b), (9, a)])?;
                for (a, b) in swapped.out.iter().zip(&clean.out) {
                    assert!((a - b).abs() <= 1e-5, "{a} {b}");
                }
            }
        }
        Ok(())
    });
}

/// A sequence or list with an invalid length is empty.
#[test]
fn lengths_that_cannot_be_empty_the_list() {
    on_device("lengths_that_cannot_be_empty_the_list", || {
        let device = device()?;
        let problem = Decoding::<f16>::new(&[60, 350], 0.9, 4, 64, 0);
        let clean = problem.solve(&device, 0)?;
        let width = problem.group * problem.dim;
        let check = |run: &DecodeRun<f16>, empty: &[usize], context: &str| -> Result<()> {
            let solved = run.launch(&device, &problem.untouched())?;
            let status = solved.status;
            assert_eq!(status.faults().collect::<Vec<_>>(), [Fault::Lengths], "{context}");
            assert_eq!(status.row(), Some(empty[0]), "{context}");
            let rows = solved.out.chunks(width).zip(clean.out.chunks(width));
            for (list, (a, b)) in rows.enumerate() {
                let lse = &solved.lse[list * problem.group..][..problem.group];
                if empty.contains(&list) {
                    assert!(a.iter().all(|&x| x == 0.0), "{context}");
                    assert!(lse.iter().all(|&x| x == f32::NEG_INFINITY), "{context}");
                } else {
                    assert_same_bits(a, b, context);
                }
            }
            Ok(())
        };
        for len in [-1, i32::MIN, i32::MAX, 100_000] {
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
            run.kept_lens.as_mut().expect("lists").put(2, len)?;
            check(&run, &[2], &format!("list length {len}"))?;
            for (lens, starts) in [(len, 60), (350, len), (350, 61)] {
                let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
                run.lens.write(&[60, lens])?;
                run.span_starts.as_mut().expect("contiguous").write(&[0, starts])?;
                check(&run, &[2, 3], &format!("{lens} tokens from {starts}"))?;
            }
        }
        let dense = Decoding { lists: Vec::new(), ..problem.clone() };
        let mut run = dense.run(&device, dense.layout(), DType::F32, 0)?;
        run.lens.write(&[60, 351])?;
        let solved = run.launch(&device, &dense.untouched())?;
        assert_eq!(solved.status.faults().collect::<Vec<_>>(), [Fault::Lengths]);
        assert_eq!(solved.status.row(), Some(1));
        assert!(solved.out[2 * width..].iter().all(|&x| x == 0.0));
        Ok(())
    });
}

/// Keys on pages outside the pool are left out.
#[test]
fn pages_outside_the_pool_are_reported_and_left_out() {
    on_device("pages_outside_the_pool_are_reported_and_left_out", || {
        let device = device()?;
        let problem = Decoding::<f16>::new(&[64, 300], 1.0, 2, 64, 8);
        let mut without = problem.clone();
        for list in &mut without.lists[2..] {
            list.retain(|key| key / 8 != 3);
        }
        let clean = without.solve(&device, 0)?;
        for page in [-1, i32::MIN, i32::MAX, 46] {
            let mut run = problem.run(&device, problem.layout(), DType::F32, 0)?;
            let table = run.page_table.as_mut().expect("pages");
            table.put(table.len() / 2 + 3, page)?;
            let solved = run.launch(&device, &problem.untouched())?;
            assert_eq!(solved.status.faults().collect::<Vec<_>>(), [Fault::Page], "{page}");
            assert_eq!(solved.status.row(), Some(2), "{page}");
            for (a, b) in solved.out.iter().zip(&clean.out) {
                assert!((a - b).abs() <= 1e-5, "page {page}: {a} {b}");
            }
        }
        Ok(())
    });
}

/// What a shape of many heads takes of shared memory fits, whatever the cache.
#[test]
fn wide_heads_and_large_groups_of_every_cache() {
    fn check<T: DeviceElement + Default>() -> Result<()> {
        let device = device()?;
        for (dim, group) in [(192, 9), (256, 16)] {
            for page_size in [0, 5] {
                let problem = Decoding::<T>::new(&[300, 17], 0.8, group, dim, page_size);
                let listed = problem.solve(&device, 0)?;
                assert_eq!(listed.status, Status::CLEAR);
                // All keys listed are all keys.
                let all = |&len: &usize| vec![(0..len as i32).collect(); KV_HEADS];
                let every = problem.lens.iter().flat_map(all).collect();
                let every = Decoding { lists: every, ..problem.clone() };
                let dense = Decoding { lists: Vec::new(), ..problem };
                let (every, dense) = (every.solve(&device, 0)?, dense.solve(&device, 0)?);
                let context = format!("{dim} channels, group {group}, pages of {page_size}");
                assert_same_bits(&every.out, &dense.out, &context);
                assert_same_bits(&every.lse, &dense.lse, &context);
            }
        }
        Ok(())
    }
    on_device("wide_heads_and_large_groups_of_every_cache", || {
        check::<f16>()?;
        check::<bf16>()
    });
}
