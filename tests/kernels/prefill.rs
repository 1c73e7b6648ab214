//! **attend**, prefill, in both variants.

use half::{bf16, f16};
use salient::attend::{Attention, RowLimit};
use salient::cuda::DeviceElement;
use salient::kernels::attend::PrefillVariant;
use salient::kernels::select::Variant;
use salient::{DType, Fault, Layout, Ragged, Result, Span, View};
use salient_oracle::generate::Random;
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{Case, Prefill, Sees};

use crate::device::{Device, Upload};
use crate::place::{in_any_order, on_device};
use crate::runs::attend::{Attended, PrefillRun};
use crate::{generation, same_in_any_order};

/// A device for each variant that it has.
fn devices() -> Result<Vec<Device>> {
    let all = [PrefillVariant::Sm80, PrefillVariant::Sm90];
    let there = &all[..if generation()? == 9 { 2 } else { 1 }];
    let device = |&prefill| Ok(Device { prefill, ..Device::new(Variant::Auto)? });
    there.iter().map(device).collect()
}

/// Queries, keys, values; keys of 3 sequences lie in places of their own.
#[derive(Clone)]
struct Problem<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
    queries: Ragged,
    spans: [Span; 3],
    dim: usize,
}

const HEADS: usize = 4;
const KV_HEADS: usize = 2;

impl<T: DeviceElement + Default> Problem<T> {
    fn new(dim: usize) -> Self {
        let queries = Ragged::from_lens(&[40, 0, 150]).expect("short rows");
        let spans = [(305, 70), (0, 5), (5, 300)].map(|(start, len)| Span { start, len });
        let mut random = Random::new(dim as u64);
        let mut normals = |len| random.normals(len, 1.0).into_iter().map(T::from_f32).collect();
        let (q, keys) = (190 * HEADS * dim, 380 * KV_HEADS * dim);
        Self { q: normals(q), k: normals(keys), v: normals(keys), queries, spans, dim }
    }

    fn run(
        &self,
        device: &Device,
        limit: RowLimit<&[i32]>,
        out_dtype: DType,
    ) -> Result<PrefillRun<T>> {
        let view = |data, heads| View::token_major(data, heads, self.dim);
        let keys = (view(&self.k[..], KV_HEADS), view(&self.v[..], KV_HEADS), &self.spans[..]);
        let out = (Layout::token_major(HEADS, self.dim), out_dtype);
        let (q, attention) = (view(&self.q[..], HEADS), Attention::new(0.125));
        PrefillRun::new(device, q, &self.queries, keys, limit, &attention, out)
    }

    fn solve<O: DeviceElement + Default>(
        &self,
        device: &Device,
        limit: RowLimit<&[i32]>,
    ) -> Result<Attended<O>> {
        let run = self.run(device, limit, O::DTYPE)?;
        run.launch(device, &vec![O::from_f32(7.0); self.q.len()])
    }
}

#[test]
fn the_output_may_have_the_type_of_queries() {
    fn check<T: DeviceElement + Default>(dim: usize, device: &Device) -> Result<()> {
        let problem = Problem::<T>::new(dim);
        let wide = problem.solve::<f32>(device, RowLimit::Causal)?;
        let narrow = problem.solve::<T>(device, RowLimit::Causal)?;
        wide.status.check()?;
        narrow.status.check()?;
        let rounded: Vec<T> = wide.out.iter().map(|&x| T::from_f32(x)).collect();
        assert_same_bits(&narrow.out, &rounded, "rounded output");
        assert_same_bits(&narrow.lse, &wide.lse, "LSE");
        Ok(())
    }
    on_device("the_output_may_have_the_type_of_queries", || {
        for device in devices()? {
            for dim in [40, 96, 128, 256] {
                check::<bf16>(dim, &device)?;
                check::<f16>(dim, &device)?;
            }
        }
        Ok(())
    });
}

/// Rows that see no key are 0, of either type and in whatever order warps and copies get their
/// turn: queries may still be on their way when the rows are written.
#[test]
fn where_there_are_no_keys_all_is_0_in_any_order() {
    in_any_order("where_there_are_no_keys_all_is_0_in_any_order", 12, |order| {
        for device in devices()? {
            for (dim, limit) in [(128, 0), (64, 0), (256, 0), (128, 1)] {
                let mut problem = Problem::<bf16>::new(dim);
                problem.spans = problem.spans.map(|span| Span { len: 0, ..span });
                // The first rows of the causal triangle see nothing, if there are fewer keys.
                problem.spans[2].len = 20 * limit;
                let solved = problem.solve::<bf16>(&device, RowLimit::Causal)?;
                solved.status.check()?;
                let blind = if limit == 0 { 190 } else { 170 } * HEADS;
                let context = format!("{:?}, dim {dim}, order {order}", device.prefill);
                let zero = vec![bf16::ZERO; blind * dim];
                assert_same_bits(&solved.out[..blind * dim], &zero, &context);
                assert!(solved.lse[..blind].iter().all(|&x| x == f32::NEG_INFINITY), "{context}");
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_in_any_order() {
    let problem = Problem::<bf16>::new(128);
    same_in_any_order("prefill", || {
        let mut outcomes = Vec::new();
        for device in devices()? {
            let Attended { out, lse, status, .. } =
                problem.solve::<f32>(&device, RowLimit::Causal)?;
            outcomes.push((out, lse, status));
        }
        Ok(outcomes)
    });
}

#[test]
fn what_belongs_to_others_is_not_seen() {
    on_device("what_belongs_to_others_is_not_seen", || {
        let seen = Problem::<bf16>::new(128);
        for device in devices()? {
            let mut outs = vec![];
            // Keys and values before and behind those of the third sequence, which ends inside a
            // tile.
            for other in [bf16::ONE, bf16::NAN, bf16::NEG_INFINITY] {
                let mut problem = seen.clone();
                for tensor in [&mut problem.k, &mut problem.v] {
                    tensor[..5 * KV_HEADS * 128].fill(other);
                    tensor[305 * KV_HEADS * 128..].fill(other);
                }
                let mut solved = problem.solve::<f32>(&device, RowLimit::Full)?;
                solved.status.check()?;
                outs.push(solved.out.split_off(40 * HEADS * 128));
            }
            assert!(outs[0].iter().all(|x| x.is_finite()));
            assert_same_bits(&outs[1], &outs[0], "next to NaN");
            assert_same_bits(&outs[2], &outs[0], "next to infinities");
        }
        Ok(())
    });
}

#[test]
fn strides_of_any_multiple_of_16_bytes() {
    let problem = Problem::<f16>::new(64);
    let dim = problem.dim;
    let apart = |data: &[f16], heads: usize| -> (Vec<f16>, Layout) {
        let layout = Layout { heads, dim, token_stride: heads * 80 + 8, head_stride: 80 };
        let tokens = data.len() / (heads * dim);
        let mut to = vec![f16::NAN; layout.required_len(tokens).expect("a small tensor")];
        for token in 0..tokens {
            for head in 0..heads {
                let from = &data[(token * heads + head) * dim..][..dim];
                to[layout.offset(token, head)..][..dim].copy_from_slice(from);
            }
        }
        (to, layout)
    };
    let [q, k, v] = [(&problem.q, HEADS), (&problem.k, KV_HEADS), (&problem.v, KV_HEADS)]
        .map(|(data, heads)| apart(data, heads));
    on_device("strides_of_any_multiple_of_16_bytes", || {
        for device in devices()? {
            let dense = problem.solve::<f32>(&device, RowLimit::Full)?;
            dense.status.check()?;
            let keys = (View::new(&k.0[..], k.1), View::new(&v.0[..], v.1), &problem.spans[..]);
            let (q, out) = (View::new(&q.0[..], q.1), Layout::token_major(HEADS, dim));
            let (limit, attention) = (RowLimit::Full, Attention::new(0.125));
            let (queries, out) = (&problem.queries, (out, DType::F32));
            let run = PrefillRun::new(&device, q, queries, keys, limit, &attention, out)?;
            let strided = run.launch(&device, &vec![7f32; problem.q.len()])?;
            assert_same_bits(&strided.out, &dense.out, "operands apart");
        }
        Ok(())
    });
}

#[test]
fn what_only_the_device_sees_is_reported() {
    type Field = fn(&mut PrefillRun<bf16>) -> &mut Upload<i32>;
    let edits: [(Field, &[i32], usize); 6] = [
        (|run| &mut run.key_starts, &[306, 0, 5], 0),
        (|run| &mut run.key_starts, &[305, -1, 5], 1),
        (|run| &mut run.key_lens, &[70, 5, -300], 2),
        (|run| &mut run.key_lens, &[70, i32::MAX, 300], 1),
        (|run| &mut run.cu_queries, &[0, 40, 30, 190], 1),
        (|run| &mut run.cu_queries, &[0, 40, 40, 191], 2),
    ];
    on_device("what_only_the_device_sees_is_reported", || {
        let problem = Problem::<bf16>::new(64);
        for device in devices()? {
            for (row, bad) in [(3, 71), (3, -1), (60, i32::MAX), (60, i32::MIN)] {
                let mut limits = vec![1; 190];
                limits[row] = bad;
                let status = problem.solve::<bf16>(&device, RowLimit::PerRow(&limits))?.status;
                assert!(status.has(Fault::Index), "row {row}, limit {bad}");
                assert_eq!(status.row(), Some(row));
                let (mut first, limit) = (vec![0; 190], vec![1; 190]);
                first[row] = bad;
                let limit = RowLimit::Between { first: &first[..], limit: &limit[..] };
                let status = problem.solve::<bf16>(&device, limit)?.status;
                assert!(status.has(Fault::Index), "row {row}, first row {bad}");
                assert_eq!(status.row(), Some(row));
            }
            let clean = problem.solve::<bf16>(&device, RowLimit::Causal)?;
            for (i, (field, values, row)) in edits.into_iter().enumerate() {
                let mut run = problem.run(&device, RowLimit::Causal, DType::Bf16)?;
                field(&mut run).write(values)?;
                let seven = bf16::from_f32(7.0);
                let solved = run.launch(&device, &vec![seven; problem.q.len()])?;
                assert!(solved.status.has(Fault::Lengths), "edit {i}");
                assert_eq!(solved.status.row(), Some(row), "edit {i}");
                // Of the sequence at fault nothing is written, and the first is not touched by it.
                let (first, rest) = solved.out.split_at(40 * HEADS * 64);
                match row {
                    0 => assert!(first.iter().all(|&x| x == seven), "edit {i}"),
                    _ => assert_same_bits(first, &clean.out[..first.len()], &format!("edit {i}")),
                }
                if row == 2 {
                    assert!(rest.iter().all(|&x| x == seven), "edit {i}");
                }
            }
        }
        Ok(())
    });
}

/// A sink that is no logit makes NaN of its head's rows, blind ones too, and of no other.
#[test]
fn sinks_that_are_no_logits_stay_in_their_head() {
    on_device("sinks_that_are_no_logits_stay_in_their_head", || {
        let problem = Problem::<bf16>::new(64);
        let mut limits = vec![30; 190];
        limits[7] = 0;
        limits[150] = 0;
        for device in devices()? {
            let solve = |attention_sink: &[f32]| -> Result<Attended<f32>> {
                let mut run = problem.run(&device, RowLimit::PerRow(&limits), DType::F32)?;
                run.attention_sink = Some(device.upload(attention_sink)?);
                run.launch(&device, &vec![7f32; problem.q.len()])
            };
            let clean = solve(&[0.5, 0.5, 0.5, 0.5])?;
            for bad in [f32::NAN, f32::INFINITY] {
                let with = solve(&[0.5, 0.5, bad, 0.5])?;
                with.status.check()?;
                for row in 0..190 * HEADS {
                    let (out, clean_out) =
                        (&with.out[row * 64..][..64], &clean.out[row * 64..][..64]);
                    if row % HEADS == 2 {
                        let nan = with.lse[row].is_nan() && out.iter().all(|x| x.is_nan());
                        assert!(nan, "{bad}: {row}");
                    } else {
                        assert_eq!(with.lse[row].to_bits(), clean.lse[row].to_bits(), "row {row}");
                        assert_same_bits(out, clean_out, &format!("row {row}"));
                    }
                }
            }
        }
        Ok(())
    });
}

/// Every tile and mask, many groups.
#[test]
fn every_head_size_group_and_mask() {
    on_device("every_head_size_group_and_mask", || {
        let sees = [Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing];
        let lens = [(37, 70), (0, 3), (5, 0), (131, 131), (70, 20)];
        for (i, dim) in [8, 64, 96, 104, 128, 256].into_iter().enumerate() {
            for (j, sees) in sees.into_iter().enumerate() {
                let group = [1, 3, 16, 2, 7][(i + j) % 5];
                let lens = &lens[..if group == 16 { 3 } else { 5 }];
                let attention = Attention::new((dim as f32).powf(-0.5));
                let plain = Case::plain((i * 5 + j) as u64, lens, sees);
                let case = Case { kv_heads: 1, group, dim, attention, ..plain };
                for device in devices()? {
                    match (i + j) % 2 {
                        0 => case.check_built(&Prefill(&device), &case.build::<bf16>(), ""),
                        _ => case.check_built(&Prefill(&device), &case.build::<f16>(), ""),
                    }
                }
            }
        }
        Ok(())
    });
}
