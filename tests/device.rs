//! The device backend: the conformance suite, a graph, and what is refused. Without a device each
//! test says on standard error that it did not run; with `SALIENT_NEED_DEVICE` set it fails.

#[allow(dead_code, reason = "the example's own main is not called here")]
#[path = "../examples/cuda_graph.rs"]
mod cuda_graph;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/device.rs"]
mod device;
#[path = "../examples/engine.rs"]
mod engine;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "common/place.rs"]
mod place;

use half::{bf16, f16};
use salient::attend::{Attention, CacheLayout, KeyLists, Keys, PackedLists, RowLimit};
use salient::compact::{KvLayout, KvMode};
use salient::cuda::attend::{AttendOutputs, DecodeInputs, decode};
use salient::cuda::compact::{KvLists, KvOutputs, KvTable, kv};
use salient::cuda::cudarc::driver::sys::{
    CUgraphInstantiate_flags_enum as GraphFlags, CUstreamCaptureMode_enum as CaptureMode,
};
use salient::cuda::cudarc::driver::{CudaContext, CudaStream};
use salient::cuda::score::{Predictor, mlp};
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::cuda::validate::{Lists, validate};
use salient::cuda::{Attended, CachedKeys, Place, StatusWord, TensorView, prepare};
use salient::host::attend as host;
use salient::kernels::attend::{DecodePlan, DecodeShape, PrefillVariant};
use salient::kernels::compact::{KvPlan, KvShape};
use salient::kernels::score::{MlpPlan, MlpWeights};
use salient::kernels::select::{SelectPlan, Shape, Variant};
use salient::kernels::validate::{Pages, ValidatePlan};
use salient::score::PredictorWeights;
use salient::select::Budget;
use salient::{DType, Error, Fault, Layout, Ragged, Result, Span, Status, View, ViewMut};
use salient_oracle::generate::Random;
use salient_oracle::implementation::{AttendDecode, AttendPrefill, Score};
use salient_oracle::suite;

use device::Device;
use place::on_device;

#[test]
fn selections_conform() {
    on_device("selections_conform", || {
        for variant in [Variant::Auto, Variant::Block, Variant::Grid] {
            suite::select::all(&Device::new(variant)?);
        }
        let major = CudaContext::new(0)?.compute_capability()?.0;
        if major >= 9 {
            suite::select::all(&Device::new(Variant::Cluster)?);
        }
        Ok(())
    });
}

#[test]
fn compactions_conform() {
    on_device("compactions_conform", || {
        suite::compact::all(&Device::new(Variant::Auto)?);
        Ok(())
    });
}

#[test]
fn scores_conform() {
    on_device("scores_conform", || {
        let device = Device::new(Variant::Auto)?;
        suite::score::predictors(&device);
        suite::score::tokens_are_alone(&device);
        suite::score::bad_predictors(&device);
        suite::score::key_norms(&device);
        suite::score::bad_keys(&device);
        Ok(())
    });
}

#[test]
fn scores_from_attention_conform() {
    on_device("scores_from_attention_conform", || {
        let device = Device::new(Variant::Auto)?;
        suite::score::attention_shapes(&device);
        suite::score::attention_options(&device);
        suite::score::neighbours_change_nothing(&device);
        suite::score::the_three_are_one(&device);
        suite::score::nan_stays_where_it_reaches(&device);
        suite::score::pools(&device);
        suite::score::bad_attention(&device);
        Ok(())
    });
}

#[test]
fn ranks_conform() {
    on_device("ranks_conform", || {
        suite::score::rank::all(&Device::new(Variant::Auto)?);
        Ok(())
    });
}

#[test]
fn attention_conforms() {
    on_device("attention_conforms", || {
        let device = Device::new(Variant::Auto)?;
        suite::attend::decode(&device);
        suite::attend::fp8(&device);
        let device = Device { prefill: PrefillVariant::Sm80, ..device };
        suite::attend::prefill(&device);
        if device.stream.context().compute_capability()?.0 == 9 {
            suite::attend::prefill(&Device { prefill: PrefillVariant::Sm90, ..device });
        }
        Ok(())
    });
}

#[test]
fn scores_of_statistics_and_indexers_conform() {
    on_device("scores_of_statistics_and_indexers_conform", || {
        let device = Device::new(Variant::Auto)?;
        suite::score::expected::all(&device);
        suite::score::indexer::all(&device);
        Ok(())
    });
}

#[test]
fn a_stride_skips_and_tokens_that_do_not_exist_score_minus_infinity() {
    on_device("a_stride_skips_and_tokens_that_do_not_exist_score_minus_infinity", || {
        let device = Device::new(Variant::Auto)?;
        let (hidden, stride, tokens, valid) = (64, 80, 9, 6);
        let weights = PredictorWeights {
            w1: Random::new(1).normals(40 * hidden, 0.1),
            b1: vec![0.5; 40],
            w2: vec![1.0; 40],
            b2: vec![0.25],
            norm: None,
        };
        let x = Random::new(2).normals(tokens * stride, 1.0);
        let x: Vec<bf16> = x.into_iter().map(bf16::from_f32).collect();
        let packed: Vec<bf16> = x.chunks(stride).flat_map(|row| &row[..hidden]).copied().collect();
        let mut expected = vec![0.0; tokens];
        device.mlp(&packed, hidden, &weights, &mut expected)?;
        expected[valid..].fill(f32::NEG_INFINITY);

        let predictor = Predictor::upload(&device.stream, &MlpWeights::new(hidden, weights)?)?;
        let plan = MlpPlan::new(predictor.shape(), tokens)?.with_x_stride(stride)?;
        let (x, valid) = (device.upload(&x)?, device.upload(&[valid as i32])?);
        let (mut scores, mut workspace) =
            (device.upload(&vec![f32::NAN; tokens])?, device.zeros(plan.workspace_bytes())?);
        mlp(
            &device.stream,
            &plan,
            &predictor,
            &x.view(),
            Some(&valid.view()),
            &mut scores.view_mut(),
            &mut workspace.view_mut(),
        )?;
        assert_eq!(device.download(&scores)?, expected);
        Ok(())
    });
}

#[test]
fn keys_and_values_in_the_layouts_of_vllm_move_head_by_head() {
    on_device("keys_and_values_in_the_layouts_of_vllm_move_head_by_head", || {
        let device = Device::new(Variant::Auto)?;
        let (page_size, heads, dim, pages) = (4, 2, 16, 6);
        let table = [4, 1, 3];
        let lists: [&[i32]; 2] = [&[0, 3, 4, 9, -1], &[1, 5, 6, 7, 8]];
        let at = |token: usize| (table[token / page_size] as usize, token % page_size);
        let key = |token, head, channel| {
            let (page, slot) = at(token);
            let lane = (page * heads + head) * dim / 8 + channel / 8;
            (lane * page_size + slot) * 8 + channel % 8
        };
        let value = |token, head, channel| {
            let (page, slot) = at(token);
            ((page * heads + head) * dim + channel) * page_size + slot
        };
        let before: Vec<u16> = (0..(pages * page_size * heads * dim) as u16).collect();

        let shape = KvShape {
            batch: 1,
            layers: 1,
            list_heads: heads,
            capacity: 5,
            keys: KvLayout::vllm_keys(page_size, heads, dim, 2)?,
            values: KvLayout::vllm_values(page_size, heads, dim, 2)?,
            mode: KvMode::Stable,
        };
        let plan = KvPlan::paged(shape, Pages { page_size, max_pages: 3, pages })?;
        let (mut keys, mut values) = (device.upload(&before)?, device.upload(&before)?);
        let (kept, kept_lens) = (device.upload(&lists.concat())?, device.upload(&[4, 5])?);
        let (lens, pages) = (device.upload(&[10])?, device.upload(&table)?);
        let (mut freed, mut freed_count) = (device.zeros(3)?, device.zeros(1)?);
        let mut status = StatusWord::new(&device.stream)?;
        let mut layers = [[keys.view_mut(), values.view_mut()]];
        let caches = KvTable::new(&device.stream, plan, &mut layers)?;
        let lists_there = KvLists {
            kept: kept.view(),
            kept_lens: kept_lens.view(),
            lens: lens.view(),
            span_starts: None,
            page_table: Some(pages.view()),
        };
        let mut outputs = KvOutputs {
            order: None,
            freed: Some(freed.view_mut()),
            freed_count: Some(freed_count.view_mut()),
        };
        kv(&device.stream, &caches, &mut layers, &lists_there, &mut outputs, &mut status)?;
        status.read(&device.stream)?.check()?;

        let (keys, values) = (device.download(&keys)?, device.download(&values)?);
        for (head, list) in lists.iter().enumerate() {
            for (new, &old) in list.iter().filter(|&&old| old >= 0).enumerate() {
                for channel in 0..dim {
                    let (to, from) = (key(new, head, channel), key(old as usize, head, channel));
                    assert_eq!(keys[to], before[from], "key {new} of head {head}");
                    let (to, from) =
                        (value(new, head, channel), value(old as usize, head, channel));
                    assert_eq!(values[to], before[from], "value {new} of head {head}");
                }
            }
        }
        // The sequence keeps 5 tokens at most: 2 of its pages.
        assert_eq!((device.download(&freed)?[0], device.download(&freed_count)?[0]), (3, 1));
        // A table serves the caches that it was made for and no others.
        let mut others = (device.upload(&before)?, device.upload(&before)?);
        let mut layers = [[others.0.view_mut(), others.1.view_mut()]];
        let mut outputs = KvOutputs::default();
        let error =
            kv(&device.stream, &caches, &mut layers, &lists_there, &mut outputs, &mut status);
        assert!(matches!(error, Err(Error::Unfit { what: "the layers", .. })), "{error:?}");
        Ok(())
    });
}

#[test]
fn filled_holes_hold_the_same_tokens_as_a_stable_move() {
    on_device("filled_holes_hold_the_same_tokens_as_a_stable_move", || {
        let device = Device::new(Variant::Auto)?;
        let (tokens, width) = (300, 5);
        for share in [0.0, 0.1, 0.5, 0.97, 1.0] {
            let list = Random::new(9).subset(tokens, share);
            let before: Vec<u32> = (0..(tokens * width) as u32).collect();
            let mut after = before.clone();
            let order = device.hole_fill(&list, &mut after, width)?;
            for (place, &old) in order.iter().enumerate() {
                let old = old as usize;
                assert_eq!(after[place * width..][..width], before[old * width..][..width]);
                assert!(old >= list.len() || old == place, "token {old} moved for nothing");
            }
            let mut sorted = order;
            sorted.sort_unstable();
            assert_eq!(sorted, list);
        }
        Ok(())
    });
}

#[test]
fn a_graph_replays_score_select_and_compact() {
    on_device("a_graph_replays_score_select_and_compact", || {
        cuda_graph::replay(&CudaContext::new(0)?.per_thread_stream())
    });
}

/// A session attends as the functions below it do, through which the suite goes.
#[test]
fn a_session_attends_as_the_functions_do() {
    on_device("a_session_attends_as_the_functions_do", || {
        let device = Device::new(Variant::Auto)?;
        let mut session = device.session()?;
        let (q_heads, kv_heads, dim) = (6, 2, 64);
        let spans = [Span { start: 3, len: 40 }, Span { start: 43, len: 300 }];
        let (queries, tokens) = (Ragged::from_lens(&[17, 33])?, 343);
        let numbers = |seed, len| -> Vec<f16> {
            Random::new(seed).normals(len, 1.0).into_iter().map(f16::from_f32).collect()
        };
        let q = numbers(1, queries.total() * q_heads * dim);
        let (k, v) = (numbers(2, tokens * kv_heads * dim), numbers(3, tokens * kv_heads * dim));
        let keys = Keys::Contiguous {
            k: View::token_major(&k[..], kv_heads, dim),
            v: View::token_major(&v[..], kv_heads, dim),
            spans: &spans,
        };
        let sinks: Vec<f32> = (0..q_heads).map(|head| head as f32 - 2.0).collect();
        let attention = Attention { attention_sink: Some(&sinks), ..Attention::new(0.125) };

        let q_view = View::token_major(&q[..], q_heads, dim);
        let (mut out, mut lse) = (vec![0f32; q.len()], vec![0f32; queries.total() * q_heads]);
        let to = ViewMut::token_major(&mut out[..], q_heads, dim);
        device.prefill(
            q_view,
            &queries,
            &keys,
            RowLimit::Causal,
            &attention,
            to,
            Some(&mut lse),
        )?;
        let [starts, lens] = [[3, 43], [40, 300]].map(|values| session.upload(&values));
        let (starts, lens) = (starts?, lens?);
        let (q_there, k, v) = (session.upload(&q)?, session.upload(&k)?, session.upload(&v)?);
        let there = CachedKeys {
            k: k.view(),
            v: v.view(),
            layout: keys.layout()?,
            place: Place::Spans(starts.view()),
            lens: lens.view(),
        };
        let q_all = TensorView::token_major(q_there.view(), q_heads, dim);
        let attended: Attended<f32> =
            session.prefill(&q_all, &queries, &there, RowLimit::Causal, &attention)?;
        session.finish()?.check()?;
        assert_eq!(attended.out.to_host(&device.stream)?, out);
        assert_eq!(attended.lse.to_host(&device.stream)?, lse);

        // The first two queries, one step of both sequences, over lists of each head.
        let lists = [vec![0, 7, 39], vec![], vec![1, 2, 299], vec![150]];
        let lens: Vec<usize> = lists.iter().map(Vec::len).collect();
        let (entries, packed) = (lists.concat(), Ragged::from_lens(&lens)?);
        let packed = PackedLists { keys: &entries, lists: &packed };
        let q_view = View::token_major(&q[..2 * q_heads * dim], q_heads, dim);
        let (mut out, mut lse) = (vec![0f32; 2 * q_heads * dim], vec![0f32; 2 * q_heads]);
        let to = ViewMut::token_major(&mut out[..], q_heads, dim);
        let listed = KeyLists::PerHead(packed);
        device.decode(q_view, &keys, listed, &attention, to, Some(&mut lse))?;
        let kept = session.upload(&packed.padded(5)?)?;
        let kept_lens = session.upload(&lens.iter().map(|&len| len as i32).collect::<Vec<_>>())?;
        let lists = KeyLists::PerHead([kept.view(), kept_lens.view()]);
        let q_two =
            TensorView::token_major(q_there.view().slice(..2 * q_heads * dim), q_heads, dim);
        let attended: Attended<f32> = session.decode(&q_two, &there, lists, 5, &attention)?;
        session.finish()?.check()?;
        assert_eq!(attended.out.to_host(&device.stream)?, out);
        assert_eq!(attended.lse.to_host(&device.stream)?, lse);
        Ok(())
    });
}

#[test]
fn an_engine_compresses_its_paged_cache() {
    on_device("an_engine_compresses_its_paged_cache", || {
        let stream = CudaContext::new(0)?.new_stream()?;
        let mut all = engine::Engine::after_prefill(&stream)?;
        let dense = all.decode()?;
        assert_eq!(all.compress(1.0)?, []);
        assert_eq!(all.decode()?, dense, "a compression that keeps all changes something");
        // Of 70 tokens 24 stay, on 2 of 5 pages; of 37 tokens 13, on 1 of 3.
        let mut third = engine::Engine::after_prefill(&stream)?;
        assert_eq!(third.compress(1.0 / 3.0)?, [11, 0, 5, 9, 4]);
        let left = third.decode()?;
        assert!(left != dense && left.iter().all(|x| x.is_finite()));
        Ok(())
    });
}

#[test]
fn steps_in_a_graph_serve_every_length_and_list() {
    on_device("steps_in_a_graph_serve_every_length_and_list", || {
        // On a context of its own, so that no launch waits for events from outside.
        let stream = CudaContext::new(0)?.per_thread_stream();
        let device = Device { stream, ..Device::new(Variant::Auto)? };
        let stream = &device.stream;
        let (batch, room, q_heads, kv_heads, dim, capacity) = (3, 400, 4, 2, 64, 300);
        let row = Layout::token_major(q_heads, dim);
        let cache = Layout::token_major(kv_heads, dim);
        let numbers = |seed, len| -> Vec<bf16> {
            Random::new(seed).normals(len, 1.0).into_iter().map(bf16::from_f32).collect()
        };
        let attention = Attention::new(0.125);
        let plan = |lists| {
            let (k, v, tokens) = (cache, cache, batch * room);
            let cache = CacheLayout::Contiguous { k, v, tokens };
            let capacity = if lists == KeyLists::Dense { room } else { capacity };
            let (dtype, out_dtype) = (DType::Bf16, DType::F32);
            let (q, out) = (row, row);
            DecodePlan::new(DecodeShape {
                batch,
                q,
                out,
                cache,
                lists,
                capacity,
                dtype,
                cache_dtype: dtype,
                out_dtype,
                attention,
            })
        };
        let (dense, listed) = (plan(KeyLists::Dense)?, plan(KeyLists::PerHead(()))?);
        let keys = [2, 3].map(|seed| numbers(seed, batch * room * cache.token_stride));
        let (q, k, v) = (
            numbers(1, batch * row.token_stride),
            device.upload(&keys[0])?,
            device.upload(&keys[1])?,
        );
        let q_there = device.upload(&q)?;
        let starts = [0, room as i32, 2 * room as i32];
        let starts_there = device.upload(&starts)?;
        let mut lens = device.zeros::<i32>(batch)?;
        let mut kept = device.zeros::<i32>(batch * kv_heads * capacity)?;
        let mut kept_lens = device.zeros::<i32>(batch * kv_heads)?;
        let mut workspace =
            device.zeros::<u8>(dense.workspace_bytes().max(listed.workspace_bytes()))?;
        let mut outs = [device.zeros::<f32>(q.len())?, device.zeros::<f32>(q.len())?];
        let mut lses =
            [device.zeros::<f32>(batch * q_heads)?, device.zeros::<f32>(batch * q_heads)?];
        let mut status = StatusWord::new(stream)?;
        stream.synchronize()?;
        prepare(stream.context())?;

        stream.begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        status.clear(stream)?;
        for ((plan, out), lse) in [&dense, &listed].into_iter().zip(&mut outs).zip(&mut lses) {
            let lists = plan.shape().lists == KeyLists::PerHead(());
            let inputs = DecodeInputs {
                kept: lists.then(|| kept.view()),
                kept_lens: lists.then(|| kept_lens.view()),
                ..DecodeInputs::dense(
                    q_there.view(),
                    [k.view(), v.view()],
                    lens.view(),
                    starts_there.view(),
                )
            };
            let mut outputs = AttendOutputs { out: out.view_mut(), lse: Some(lse.view_mut()) };
            decode(
                stream,
                plan,
                &inputs,
                &mut outputs,
                Some(&mut workspace.view_mut()),
                &mut status,
            )?;
        }
        let graph = stream
            .end_capture(GraphFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)?
            .expect("launches were captured");

        let full: Vec<i32> = (50..50 + capacity as i32).collect();
        // Nothing, everything, and something of each.
        let steps: [([i32; 3], [&[i32]; 6]); 3] = [
            ([0, 0, 0], [&[]; 6]),
            ([400, 400, 400], [&full; 6]),
            ([1, 399, 0], [&[0], &[], &[5, 7, 398], &full[..257], &[], &[]]),
        ];
        for (step_lens, lists) in steps {
            stream.memcpy_htod(&step_lens, &mut lens.view_mut())?;
            let padded: Vec<i32> = lists
                .iter()
                .flat_map(|list| {
                    list.iter().copied().chain(std::iter::repeat_n(-1, capacity - list.len()))
                })
                .collect();
            stream.memcpy_htod(&padded, &mut kept.view_mut())?;
            stream.memcpy_htod(&lists.map(|list| list.len() as i32), &mut kept_lens.view_mut())?;
            graph.launch()?;
            status.read(stream)?.check()?;

            let spans: Vec<Span> = starts
                .iter()
                .zip(step_lens)
                .map(|(&start, len)| Span { start: start as usize, len: len as usize })
                .collect();
            let view = |data| View { data, layout: cache };
            let on_host = Keys::Contiguous { k: view(&keys[0]), v: view(&keys[1]), spans: &spans };
            let ragged = Ragged::from_lens(&lists.map(<[i32]>::len))?;
            let entries = lists.concat();
            let per_head = KeyLists::PerHead(PackedLists { keys: &entries, lists: &ragged });
            for (which, lists) in [KeyLists::Dense, per_head].into_iter().enumerate() {
                let (mut out, mut lse) = (vec![0.0; q.len()], vec![0.0; batch * q_heads]);
                let q = View { data: &q[..], layout: row };
                let to = ViewMut { data: &mut out[..], layout: row };
                host::decode(q, &on_host, lists, &attention, to, Some(&mut lse))?;
                let actual = [device.download(&outs[which])?, device.download(&lses[which])?];
                for (actual, expected) in actual.iter().zip([out, lse]) {
                    for (i, (&a, b)) in actual.iter().zip(expected).enumerate() {
                        let near = a == b || (a - b).abs() < 1e-3;
                        assert!(near, "{step_lens:?}, lists {which}, {i}: {a} is not {b}");
                    }
                }
            }
        }
        Ok(())
    });
}

/// A selection of one row of three scores into buffers of `on`.
fn select_three(device: &Device, on: &Device, kept_len: usize) -> Result<Vec<i32>> {
    let (scores, cu_seqlens) = (on.upload(&[1.0f32, f32::NAN, 3.0])?, device.upload(&[0, 3])?);
    let (mut kept, mut kept_lens) = (device.upload(&vec![7; kept_len])?, device.upload(&[7])?);
    let shape = Shape { batch: 1, heads: 1, total: 3, max_len: 3 };
    let plan = SelectPlan::new(shape, Budget::Count(2))?;
    let mut status = StatusWord::new(&device.stream)?;
    let selected = select(
        &device.stream,
        &plan,
        &SelectInputs::new(scores.view(), cu_seqlens.view()),
        &mut SelectOutputs::new(kept.view_mut(), kept_lens.view_mut()),
        None,
        &mut status,
    );
    let kept = device.download(&kept)?;
    if selected.is_err() {
        assert_eq!(kept, vec![7; kept_len], "written despite an Err");
    } else {
        assert!(status.read(&device.stream)?.has(Fault::Nan));
        status.clear(&device.stream)?;
        assert_eq!(status.read(&device.stream)?, Status::CLEAR);
    }
    selected.map(|()| kept)
}

#[test]
fn bad_input_is_refused_before_anything_is_launched() {
    on_device("bad_input_is_refused_before_anything_is_launched", || {
        let device = Device::new(Variant::Auto)?;
        assert_eq!(select_three(&device, &device, 2)?, [0, 2]);
        let expected = Error::LengthMismatch { what: "kept", expected: 2, actual: 3 };
        assert_eq!(select_three(&device, &device, 3), Err(expected));
        if CudaContext::device_count()? > 1 {
            let other = Device::numbered(1, Variant::Auto)?;
            let error = select_three(&device, &other, 2).unwrap_err();
            assert!(matches!(error, Error::OtherContext { what: "scores", .. }), "{error}");
        }
        Ok(())
    });
}

#[test]
fn lists_that_only_the_device_sees_are_checked_there() {
    on_device("lists_that_only_the_device_sees_are_checked_there", || {
        let device = Device::new(Variant::Auto)?;
        let shape = Shape { batch: 2, heads: 1, total: 9, max_len: 6 };
        let plan = ValidatePlan::new(shape, 3)?;
        let says = |kept: [i32; 6], lens: [i32; 2]| -> Result<Vec<Fault>> {
            let (cu_seqlens, kept) = (device.upload(&[0, 6, 9])?, device.upload(&kept)?);
            let kept_lens = device.upload(&lens)?;
            let mut status = StatusWord::new(&device.stream)?;
            let lists = Lists {
                cu_seqlens: cu_seqlens.view(),
                kept: kept.view(),
                kept_lens: kept_lens.view(),
                cu_kept: None,
                page_table: None,
            };
            validate(&device.stream, &plan, &lists, &mut status)?;
            Ok(status.read(&device.stream)?.faults().collect())
        };
        assert_eq!(says([0, 2, 5, 1, -1, -1], [3, 1])?, []);
        assert_eq!(says([0, 5, 2, 1, -1, -1], [3, 1])?, [Fault::Order]);
        assert_eq!(says([0, 2, 6, 1, -1, -1], [3, 1])?, [Fault::Index]);
        assert_eq!(says([0, 2, 5, 1, -1, -1], [4, 1])?, [Fault::Lengths]);
        Ok(())
    });
}

#[test]
fn views_of_bytes_are_the_elements_bytes() {
    on_device("views_of_bytes_are_the_elements_bytes", || {
        let data = [1.5f32, -2.0];
        assert_eq!(Device::new(Variant::Auto)?.bytes_of(&data)?, bytemuck::bytes_of(&data));
        Ok(())
    });
}

/// Streams of a context may be handed to other threads.
#[test]
fn streams_can_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<CudaStream>();
    check::<StatusWord>();
    check::<salient::cuda::compact::KvTable>();
    check::<salient::cuda::score::Predictor<f16>>();
}
