//! **attend**, prefill, on the emulated kernels of both variants: the conformance suite, every head
//! size and group, what they move, and that they always give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::attend::{Attention, Keys, RowLimit};
use salient::kernels::Fault;
use salient::kernels::attend::PrefillVariant;
use salient::{Element, Layout, Ragged, Span, View, ViewMut};
use salient_emulator::{Device, Emulated, PrefillRun};
use salient_oracle::generate::Random;
use salient_oracle::implementation::{AttendPrefill, Sample};
use salient_oracle::suite::assert_same_bits;
use salient_oracle::suite::attend::{self, Case, Prefill, Sees};

const SEES: [Sees; 5] = [Sees::Causal, Sees::Full, Sees::PerRow, Sees::Between, Sees::Nothing];

/// A device of that capability, which has the variant of the same name.
fn on(capability: i32) -> Emulated {
    let prefill = if capability == 90 { PrefillVariant::Sm90 } else { PrefillVariant::Sm80 };
    Emulated { capability, prefill, ..Emulated::default() }
}

#[test]
fn the_suite() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        let sample = Sample::one_in(8, seed);
        attend::prefill(&Emulated { seed, sample, ..on(capability) });
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
            for capability in [80, 90] {
                let on = Emulated { seed: j as u64, ..on(capability) };
                case.check_built(&Prefill(&on), &case.build::<bf16>(), "");
                case.check_built(&Prefill(&on), &case.build::<f16>(), "");
            }
        }
    }
}

#[test]
fn where_there_are_no_keys_all_is_0() {
    for on in [on(80), on(90)] {
        let case = Case::plain(1, &[(5, 0), (130, 0)], Sees::Causal);
        case.check_built(&Prefill(&on), &case.build::<bf16>(), "");
    }
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

impl<T: Element> Problem<T> {
    fn new(dim: usize) -> Self {
        let queries = Ragged::from_lens(&[40, 0, 150]).unwrap();
        let spans = [(305, 70), (0, 5), (5, 300)].map(|(start, len)| Span { start, len });
        let mut random = Random::new(dim as u64);
        let mut normals = |len| random.normals(len, 1.0).into_iter().map(T::from_f32).collect();
        let (q, keys) = (190 * HEADS * dim, 380 * KV_HEADS * dim);
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
    fn check<T: Element>(dim: usize, capability: i32) {
        let (problem, on) = (Problem::<T>::new(dim), on(capability));
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
        for capability in [80, 90] {
            check::<bf16>(dim, capability);
            check::<f16>(dim, capability);
        }
    }
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let problem = Problem::<bf16>::new(128);
    for capability in [80, 90] {
        let mut first = None;
        for seed in 0..20 {
            let on = Emulated { seed, ..on(capability) };
            let device = on.device();
            let run = problem.run::<f32>(&device, RowLimit::Causal);
            run.launch(&on, &device).unwrap().0.check().unwrap();
            let out = run.out.read();
            let first = first.get_or_insert_with(|| out.clone());
            assert_same_bits(&out, first, &format!("capability {capability}, seed {seed}"));
        }
    }
}

#[test]
fn the_device_decides_unless_told() {
    let problem = Problem::<bf16>::new(64);
    let kernel = |capability, prefill| {
        let on = Emulated { capability, prefill, ..Emulated::default() };
        let device = on.device();
        let run = problem.run::<f32>(&device, RowLimit::Causal);
        let launched = catch_unwind(AssertUnwindSafe(|| run.launch(&on, &device).unwrap().1));
        launched.ok().map(|launched| launched[0].kernel.clone())
    };
    let [auto, sm80, sm90] = [PrefillVariant::Auto, PrefillVariant::Sm80, PrefillVariant::Sm90];
    for (capability, variant, name) in [
        (80, auto, Some("prefill")),
        (80, sm80, Some("prefill")),
        (80, sm90, None),
        (89, auto, Some("prefill")),
        (90, auto, Some("prefill_sm90")),
        (90, sm80, Some("prefill")),
        (90, sm90, Some("prefill_sm90")),
        (100, auto, Some("prefill")),
        (100, sm90, None),
    ] {
        let ran = kernel(capability, variant);
        assert_eq!(ran.as_deref(), name, "{variant:?} on {capability}");
    }
}

#[test]
fn what_belongs_to_others_is_not_seen() {
    let seen = Problem::<bf16>::new(128);
    for capability in [80, 90] {
        let on = on(capability);
        let device = on.device();
        let mut outs = vec![];
        // Keys and values before and behind those of the third sequence, which ends inside a tile.
        for other in [bf16::ONE, bf16::NAN, bf16::NEG_INFINITY] {
            let mut problem = seen.clone();
            for tensor in [&mut problem.k, &mut problem.v] {
                tensor[..5 * KV_HEADS * 128].fill(other);
                tensor[305 * KV_HEADS * 128..].fill(other);
            }
            let run = problem.run::<f32>(&device, RowLimit::Full);
            run.launch(&on, &device).unwrap().0.check().unwrap();
            outs.push(run.out.read().split_off(40 * HEADS * 128));
        }
        assert!(outs[0].iter().all(|x| x.is_finite()));
        assert_same_bits(&outs[1], &outs[0], "next to NaN");
        assert_same_bits(&outs[2], &outs[0], "next to infinities");
    }
}

#[test]
fn strides_of_any_multiple_of_16_bytes() {
    let problem = Problem::<f16>::new(64);
    let dim = problem.dim;
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
    for on in [on(80), on(90)] {
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
        on.prefill(
            View::new(&q.0[..], q.1),
            queries,
            &keys,
            RowLimit::Full,
            &attention,
            view,
            None,
        )
        .unwrap();
        assert_same_bits(&out, &dense.out.read(), "operands apart");
    }
}

#[test]
fn what_only_the_device_sees_is_reported() {
    let problem = Problem::<bf16>::new(64);
    for on in [on(80), on(90)] {
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
            (|run| run.key_starts.write(&[306, 0, 5]), 0),
            (|run| run.key_starts.write(&[305, -1, 5]), 1),
            (|run| run.key_lens.write(&[70, 5, -300]), 2),
            (|run| run.key_lens.write(&[70, i32::MAX, 300]), 1),
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
}

/// A sink that is no logit makes NaN of its head's rows, blind ones too, and of no other.
#[test]
fn sinks_that_are_no_logits_stay_in_their_head() {
    let problem = Problem::<bf16>::new(64);
    let mut limits = vec![30; 190];
    limits[7] = 0;
    limits[150] = 0;
    let each = [80, 90].map(|capability| [(capability, f32::NAN), (capability, f32::INFINITY)]);
    for (capability, bad) in each.into_iter().flatten() {
        let on = on(capability);
        let device = on.device();
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
    // Capability, channels, queries per tile; keys that are read together: on sm_90a whole tiles, what
    // the tensor holds of them.
    for (capability, dim, rows, keys) in [
        (80, 64, 128, 1),
        (80, 96, 128, 1),
        (80, 128, 128, 1),
        (80, 256, 64, 1),
        (90, 64, 128, 128),
        (90, 96, 128, 128),
        (90, 128, 128, 128),
        (90, 256, 128, 80),
    ] {
        let len = 300;
        let on = Emulated { counting: true, ..on(capability) };
        let device = on.device();
        let values: Vec<bf16> = Random::new(1)
            .normals(len * HEADS * dim, 1.0)
            .into_iter()
            .map(bf16::from_f32)
            .collect();
        let q = View::token_major(&values[..], HEADS, dim);
        let kv = View::token_major(&values[..len * KV_HEADS * dim], KV_HEADS, dim);
        let spans = [Span { start: 0, len }];
        let cache = Keys::Contiguous { k: kv, v: kv, spans: &spans };
        let queries = Ragged::from_lens(&[len]).unwrap();
        let out = vec![bf16::from_f32(0.0); values.len()];
        let output = (&out[..], Layout::token_major(HEADS, dim));
        let (causal, attention) = (RowLimit::Causal, Attention::new(0.1));
        let run = PrefillRun::new(&device, q, &queries, &cache, causal, &attention, output, None);
        let (status, launched) = run.unwrap().launch(&on, &device).unwrap();
        status.check().unwrap();
        let traffic = &launched[0].traffic;
        // A tile of queries sees the keys up to its last one.
        let seen = |first: usize| (first + rows).next_multiple_of(keys).min(len);
        let seen = (0..len).step_by(rows).map(seen).sum::<usize>() * HEADS;
        for (name, tokens) in [("q", len * HEADS), ("k", seen), ("v", seen)] {
            let read = traffic.buffer(name).read;
            assert_eq!(
                read.bytes as usize,
                tokens * dim * 2,
                "{name}, {dim} channels, {capability}"
            );
            assert_eq!(read.sectors, read.least_sectors, "{name}, {dim} channels, {capability}");
        }
        let written = traffic.buffer("out").written;
        assert_eq!(written.bytes as usize, values.len() * 2);
        assert_eq!(written.sectors, written.least_sectors);
        assert!(traffic.shared.ways() <= 1.1, "{}: {:?}", dim, traffic.shared_sites);
    }
}

#[test]
fn mutants_are_caught() {
    for (dim, capability, mutants) in [
        (64, 80, &["prefill/barrier", "prefill/bounds"][..]),
        (256, 90, &["prefill90/barrier", "prefill90/bounds", "prefill90/order"]),
    ] {
        let problem = Problem::<bf16>::new(dim);
        let outcome = |mutant, seed| {
            let on = Emulated { mutant, seed, ..on(capability) };
            let device = on.device();
            let run = problem.run::<f32>(&device, RowLimit::Full);
            let launched = catch_unwind(AssertUnwindSafe(|| run.launch(&on, &device).unwrap().0));
            launched.ok().map(|_| run.out.read().into_iter().map(f32::to_bits).collect::<Vec<_>>())
        };
        let right = outcome(None, 0);
        assert!(right.is_some());
        for mutant in mutants {
            assert!((0..8).any(|seed| outcome(Some(mutant), seed) != right), "{mutant} survives");
        }
    }
}
