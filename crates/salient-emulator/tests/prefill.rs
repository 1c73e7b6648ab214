//! **attend**, prefill, on the emulated kernels: the conformance suite, every head size and group,
//! what they move, and that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::attend::{Attention, Keys, RowLimit};
use salient::kernels::Fault;
use salient::{Element, Layout, Ragged, Span, View, ViewMut};
use salient_emulator::{Device, Emulated, PrefillRun};
use salient_oracle::generate::Random;
use salient_oracle::implementation::{AttendPrefill, Sample};
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{self, Case, Prefill, Sees};

const SEES: [Sees; 5] = [Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing];

#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(8, seed);
        attend::prefill(&Emulated { seed, capability, sample, ..Emulated::default() });
    }
}

#[test]
fn every_head_size_group_and_mask() {
    let lens = [(37, 70), (0, 3), (5, 0), (131, 131), (70, 20)];
    for (i, dim) in [8, 64, 96, 104, 128, 256].into_iter().enumerate() {
        for (j, &sees) in SEES.iter().enumerate() {
            let group = [1, 3, 16, 2, 7][(i + j) % 5];
            let lens = &lens[..if group == 16 { 3 } else { 5 }];
            let attention = Attention::new((dim as f32).powf(-0.5));
            let plain = Case::plain((i * 5 + j) as u64, lens, sees);
            let case = Case { kv_heads: 1, group, dim, attention, ..plain };
            let capability = if j % 2 == 0 { 80 } else { 90 };
            let on = Emulated { seed: j as u64, capability, ..Emulated::default() };
            case.check_built(&Prefill(&on), &case.build::<bf16>(), "");
            case.check_built(&Prefill(&on), &case.build::<f16>(), "");
        }
    }
}

/// Queries, keys, values; keys of 3 sequences lie in places of their own.
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

impl<T: Element> Problem<T> {
    fn new(dim: usize) -> Self {
        let queries = Ragged::from_lens(&[40, 0, 150]).unwrap();
        let spans = [(160, 70), (0, 5), (5, 150)].map(|(start, len)| Span { start, len });
        let mut random = Random::new(dim as u64);
        let mut normals = |len| random.normals(len, 1.0).into_iter().map(T::from_f32).collect();
        let (q, keys) = (190 * HEADS * dim, 230 * KV_HEADS * dim);
        Self { q: normals(q), k: normals(keys), v: normals(keys), queries, spans, dim }
    }

    fn run<O: Element>(&self, device: &Device, limit: RowLimit<'_>) -> PrefillRun<T, O> {
        let view = |data, heads| View::token_major(data, heads, self.dim);
        let (k, v) = (view(&self.k[..], KV_HEADS), view(&self.v[..], KV_HEADS));
        let keys = Keys::Contiguous { k, v, spans: &self.spans };
        let out = vec![O::from_f32(7.0); self.q.len()];
        let layout = Layout::token_major(HEADS, self.dim);
        let lse = vec![7.0; 190 * HEADS];
        let (q, attention) = (view(&self.q[..], HEADS), Attention::new(0.125));
        let output = (&out[..], layout);
        PrefillRun::new(device, q, &self.queries, &keys, limit, &attention, output, Some(&lse))
            .unwrap()
    }
}

#[test]
fn the_output_may_have_the_type_of_queries() {
    fn check<T: Element>(dim: usize) {
        let (problem, on) = (Problem::<T>::new(dim), Emulated::default());
        let device = on.device();
        let wide = problem.run::<f32>(&device, RowLimit::Causal);
        let narrow = problem.run::<T>(&device, RowLimit::Causal);
        wide.launch(&on, &device).unwrap().0.check().unwrap();
        narrow.launch(&on, &device).unwrap().0.check().unwrap();
        let rounded: Vec<T> = wide.out.read().into_iter().map(T::from_f32).collect();
        assert_same_bits(&narrow.out.read(), &rounded, "rounded output");
        let lse = |lse: &Option<salient_emulator::Buffer<f32>>| lse.as_ref().unwrap().read();
        assert_same_bits(&lse(&narrow.lse), &lse(&wide.lse), "LSE");
    }
    for dim in [40, 96, 128, 256] {
        check::<bf16>(dim);
        check::<f16>(dim);
    }
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let problem = Problem::<bf16>::new(128);
    let mut first = None;
    for seed in 0..20 {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        let on = Emulated { seed, capability, ..Emulated::default() };
        let device = on.device();
        let run = problem.run::<f32>(&device, RowLimit::Causal);
        run.launch(&on, &device).unwrap().0.check().unwrap();
        let out = run.out.read();
        assert_same_bits(&out, first.get_or_insert_with(|| out.clone()), &format!("seed {seed}"));
    }
}

#[test]
fn strides_of_any_multiple_of_16_bytes() {
    let problem = Problem::<f16>::new(64);
    let (dim, on) = (problem.dim, Emulated::default());
    let apart = |data: &[f16], heads: usize| -> (Vec<f16>, Layout) {
        let layout = Layout { heads, dim, token_stride: heads * 80 + 8, head_stride: 80 };
        let tokens = data.len() / (heads * dim);
        let mut to = vec![f16::NAN; layout.required_len(tokens).unwrap()];
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
    let device = on.device();
    let dense = problem.run::<f32>(&device, RowLimit::Full);
    dense.launch(&on, &device).unwrap().0.check().unwrap();
    let keys = Keys::Contiguous {
        k: View::new(&k.0[..], k.1),
        v: View::new(&v.0[..], v.1),
        spans: &problem.spans,
    };
    let mut out = vec![0.0; problem.q.len()];
    let view = ViewMut::token_major(&mut out[..], HEADS, dim);
    let (queries, attention) = (&problem.queries, Attention::new(0.125));
    on.prefill(View::new(&q.0[..], q.1), queries, &keys, RowLimit::Full, &attention, view, None)
        .unwrap();
    assert_same_bits(&out, &dense.out.read(), "operands apart");
}

#[test]
fn what_only_the_device_sees_is_reported() {
    let (problem, on) = (Problem::<bf16>::new(64), Emulated::default());
    let device = on.device();
    for (row, bad) in [(3, 71), (3, -1), (60, i32::MAX), (60, i32::MIN)] {
        let mut limits = vec![1; 190];
        limits[row] = bad;
        let run = problem.run::<bf16>(&device, RowLimit::PerRow(&limits));
        let (status, _) = run.launch(&on, &device).unwrap();
        assert!(status.has(Fault::Index), "row {row}, limit {bad}");
        assert_eq!(status.row(), Some(row));
    }
    for (row, bad) in [(3, 71), (3, -1), (60, i32::MAX), (60, i32::MIN)] {
        let (mut first, limit) = (vec![0; 190], vec![1; 190]);
        first[row] = bad;
        let limit = RowLimit::Between { first: &first, limit: &limit };
        let (status, _) = problem.run::<bf16>(&device, limit).launch(&on, &device).unwrap();
        assert!(status.has(Fault::Index), "row {row}, first row {bad}");
        assert_eq!(status.row(), Some(row));
    }
    type Edit = fn(&mut PrefillRun<bf16, bf16>);
    let edits: [(Edit, usize); 6] = [
        (|run| run.key_starts.write(&[161, 0, 5]), 0),
        (|run| run.key_starts.write(&[160, -1, 5]), 1),
        (|run| run.key_lens.write(&[70, 5, -150]), 2),
        (|run| run.key_lens.write(&[70, i32::MAX, 150]), 1),
        (|run| run.cu_queries.write(&[0, 40, 30, 190]), 1),
        (|run| run.cu_queries.write(&[0, 40, 40, 191]), 2),
    ];
    for (i, (edit, row)) in edits.into_iter().enumerate() {
        let mut run = problem.run::<bf16>(&device, RowLimit::Causal);
        edit(&mut run);
        let (status, _) = run.launch(&on, &device).unwrap();
        assert!(status.has(Fault::Lengths), "edit {i}");
        assert_eq!(status.row(), Some(row), "edit {i}");
    }
}

/// A sink that is no logit makes NaN of its head's rows, blind ones too, and of no other.
#[test]
fn sinks_that_are_no_logits_stay_in_their_head() {
    let (problem, on) = (Problem::<bf16>::new(64), Emulated::default());
    let device = on.device();
    let mut limits = vec![30; 190];
    limits[7] = 0;
    limits[150] = 0;
    for bad in [f32::NAN, f32::INFINITY] {
        let outcome = |sinks: &[f32]| {
            let mut run = problem.run::<f32>(&device, RowLimit::PerRow(&limits));
            run.sinks = Some(device.upload("sinks", sinks));
            run.launch(&on, &device).unwrap().0.check().unwrap();
            (run.out.read(), run.lse.as_ref().unwrap().read())
        };
        let clean = outcome(&[0.5, 0.5, 0.5, 0.5]);
        let with = outcome(&[0.5, 0.5, bad, 0.5]);
        for row in 0..190 * HEADS {
            let (out, clean_out) = (&with.0[row * 64..][..64], &clean.0[row * 64..][..64]);
            if row % HEADS == 2 {
                assert!(with.1[row].is_nan() && out.iter().all(|x| x.is_nan()), "{bad}: {row}");
            } else {
                assert_eq!(with.1[row].to_bits(), clean.1[row].to_bits(), "row {row}");
                assert_same_bits(out, clean_out, &format!("row {row}"));
            }
        }
    }
}

#[test]
fn keys_and_values_are_read_once_per_tile_of_queries() {
    // Channels, queries per tile.
    for (dim, rows) in [(64, 128), (96, 128), (128, 128), (256, 64)] {
        let len = 300;
        let on = Emulated { counting: true, capability: 80, ..Emulated::default() };
        let device = on.device();
        let values: Vec<bf16> = Random::new(1)
            .normals(len * HEADS * dim, 1.0)
            .into_iter()
            .map(bf16::from_f32)
            .collect();
        let q = View::token_major(&values[..], HEADS, dim);
        let kv = View::token_major(&values[..len * KV_HEADS * dim], KV_HEADS, dim);
        let spans = [Span { start: 0, len }];
        let keys = Keys::Contiguous { k: kv, v: kv, spans: &spans };
        let queries = Ragged::from_lens(&[len]).unwrap();
        let out = vec![bf16::from_f32(0.0); values.len()];
        let output = (&out[..], Layout::token_major(HEADS, dim));
        let (causal, attention) = (RowLimit::Causal, Attention::new(0.1));
        let run = PrefillRun::new(&device, q, &queries, &keys, causal, &attention, output, None);
        let (status, launched) = run.unwrap().launch(&on, &device).unwrap();
        status.check().unwrap();
        let traffic = &launched[0].traffic;
        // A tile of queries sees the keys up to its last one.
        let seen: usize =
            (0..len).step_by(rows).map(|first| (first + rows).min(len)).sum::<usize>() * HEADS;
        for (name, tokens) in [("q", len * HEADS), ("k", seen), ("v", seen)] {
            let read = traffic.buffer(name).read;
            assert_eq!(read.bytes as usize, tokens * dim * 2, "{name}, {dim} channels");
            assert_eq!(read.sectors, read.least_sectors, "{name}, {dim} channels");
        }
        let written = traffic.buffer("out").written;
        assert_eq!(written.bytes as usize, values.len() * 2);
        assert_eq!(written.sectors, written.least_sectors);
        assert!(traffic.shared.ways() <= 1.1, "{}: {:?}", dim, traffic.shared_sites);
    }
}

#[test]
fn mutants_are_caught() {
    let problem = Problem::<bf16>::new(64);
    let outcome = |mutant, seed| {
        let on = Emulated { mutant, seed, ..Emulated::default() };
        let device = on.device();
        let run = problem.run::<f32>(&device, RowLimit::Full);
        let launched = catch_unwind(AssertUnwindSafe(|| run.launch(&on, &device).unwrap().0));
        launched.ok().map(|_| run.out.read().into_iter().map(f32::to_bits).collect::<Vec<_>>())
    };
    let right = outcome(None, 0);
    assert!(right.is_some());
    for mutant in ["prefill/barrier", "prefill/bounds"] {
        assert!((0..8).any(|seed| outcome(Some(mutant), seed) != right), "{mutant} survives");
    }
}
