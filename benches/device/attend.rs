//! **attend**: causal prefill, all queries over some keys, and decode over lists and over every
//! key.

use half::bf16;
use salient::attend::{Attention, CacheLayout, KeyLists, Keys, PackedLists, RowLimit};
use salient::cuda::StatusWord;
use salient::cuda::attend::{AttendOutputs, DecodeInputs, PrefillInputs, decode, prefill};
use salient::cuda::cudarc::driver::CudaSlice;
use salient::host::attend as host;
use salient::kernels::attend::{
    DecodePlan, DecodeShape, PrefillPlan, PrefillShape, PrefillVariant,
};
use salient::{DType, Layout, Ragged, Result, Span, View, ViewMut};
use salient_oracle::generate::Random;
use serde_json::json;

use super::Bench;

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

/// Queries whose outputs are compared with the host's.
const SAMPLE: usize = 8;

pub(super) fn run(bench: &mut Bench) {
    let lens: &[usize] = if bench.small { &[300] } else { &[4096, 8192, 16_384, 32_768] };
    for &len in lens {
        let case = format!("attend/causal {len}, {HEADS}/{KV_HEADS} x {DIM} bf16");
        for (variant, who) in
            [(PrefillVariant::Auto, "salient"), (PrefillVariant::Sm80, "salient, sm80")]
        {
            bench.attempt(&case, who, |bench| many_queries(bench, &case, who, len, None, variant));
        }
    }
    for &len in lens {
        let keep = (len as f64 * 0.35).round() as usize;
        let case =
            format!("attend/{len} queries over {keep} keys, {HEADS}/{KV_HEADS} x {DIM} bf16");
        bench.attempt(&case, "salient", |bench| {
            many_queries(bench, &case, "salient", len, Some(keep), PrefillVariant::Auto)
        });
    }
    let (batch, len, keep) = if bench.small { (3, 1000, 290) } else { (64, 131_072, 2048) };
    for (batch, len, keep) in [(batch, len, Some(keep)), (1, len, Some(keep)), (batch, len, None)] {
        let of = keep.map_or("every key".to_owned(), |keep| format!("{keep} per KV head"));
        let case = format!("attend/decode {batch} x {len}, {of}, {HEADS}/{KV_HEADS} x {DIM} bf16");
        bench.attempt(&case, "salient", |bench| one_query(bench, &case, batch, len, keep));
    }
}

/// Causal attention of as many queries as positions, over every key or the kept ones.
fn many_queries(
    bench: &mut Bench,
    case: &str,
    who: &str,
    len: usize,
    keep: Option<usize>,
    variant: PrefillVariant,
) -> Result<()> {
    let keys = keep.unwrap_or(len);
    let (row, key_row) = (Layout::token_major(HEADS, DIM), Layout::token_major(KV_HEADS, DIM));
    let shape = PrefillShape {
        batch: 1,
        queries: len,
        max_queries: len,
        keys,
        dtype: DType::Bf16,
        out_dtype: DType::Bf16,
        q: row,
        k: key_row,
        v: key_row,
        out: row,
    };
    let limits = match keep {
        Some(keep) => limits(len, keep),
        None => (1..=len as i32).collect(),
    };
    let attention = attention();
    let sees = if keep.is_some() { RowLimit::PerRow(()) } else { RowLimit::Causal };
    let plan = PrefillPlan::new(shape, attention, sees)?.with_variant(variant);
    let [q, k, v] = [(1, len * HEADS), (2, keys * KV_HEADS), (3, keys * KV_HEADS)]
        .map(|(seed, rows)| numbers(seed, rows * DIM));

    let stream = bench.stream.clone();
    let (q_there, k_there, v_there) =
        (stream.clone_htod(&q)?, stream.clone_htod(&k)?, stream.clone_htod(&v)?);
    let cu_queries = stream.clone_htod(&[0, len as i32])?;
    let (starts, lens) = (stream.clone_htod(&[0])?, stream.clone_htod(&[keys as i32])?);
    let limits_there = stream.clone_htod(&limits)?;
    let mut out = stream.clone_htod(&vec![bf16::NAN; q.len()])?;
    let mut status = StatusWord::new(&stream)?;
    let graph = bench.capture(|stream| {
        let inputs = PrefillInputs {
            q: q_there.as_view(),
            k: k_there.as_view(),
            v: v_there.as_view(),
            cu_queries: cu_queries.as_view(),
            key_starts: starts.as_view(),
            key_lens: lens.as_view(),
            firsts: None,
            limits: keep.map(|_| limits_there.as_view()),
            attention_sink: None,
        };
        prefill(stream, &plan, &inputs, &mut AttendOutputs::new(out.as_view_mut()), &mut status)
    })?;
    graph.launch()?;
    status.read(&stream)?.check()?;

    let rows: Vec<usize> = (0..SAMPLE).map(|i| i * (len - 1) / (SAMPLE - 1)).collect();
    let width = row.token_stride;
    let sample: Vec<bf16> =
        rows.iter().flat_map(|&row| &q[row * width..][..width]).copied().collect();
    let sample_limits: Vec<i32> = rows.iter().map(|&row| limits[row]).collect();
    let mut expected = vec![0.0; sample.len()];
    let on_host = Keys::Contiguous {
        k: View { data: &k[..], layout: key_row },
        v: View { data: &v[..], layout: key_row },
        spans: &[Span { start: 0, len: keys }],
    };
    host::prefill(
        View { data: &sample[..], layout: row },
        &Ragged::from_lens(&[SAMPLE])?,
        &on_host,
        RowLimit::PerRow(&sample_limits),
        &attention,
        ViewMut { data: &mut expected[..], layout: row },
        None,
    )?;
    for (&row, expected) in rows.iter().zip(expected.chunks(width)) {
        let actual = stream.clone_dtoh(&out.slice(row * width..(row + 1) * width))?;
        near(&actual, expected, &format!("query {row}"));
    }

    let seen: usize = limits.iter().map(|&limit| limit as usize).sum();
    let flops = 4 * seen * HEADS * DIM;
    let bytes = 2 * DIM * (2 * len * HEADS + 2 * keys * KV_HEADS);
    bench.time(case, who, json!({"flops": flops, "bytes": bytes}), || Ok(graph.launch()?))
}

/// A decode step over `keep` keys of each KV head, or over all `len`.
fn one_query(
    bench: &mut Bench,
    case: &str,
    batch: usize,
    len: usize,
    keep: Option<usize>,
) -> Result<()> {
    let (row, cache) = (Layout::token_major(HEADS, DIM), Layout::token_major(KV_HEADS, DIM));
    let capacity = keep.unwrap_or(len);
    let attention = attention();
    let plan = DecodePlan::new(DecodeShape {
        batch,
        q: row,
        out: row,
        cache: CacheLayout::Contiguous { k: cache, v: cache, tokens: batch * len },
        lists: if keep.is_some() { KeyLists::PerHead(()) } else { KeyLists::Dense },
        capacity,
        dtype: DType::Bf16,
        cache_dtype: DType::Bf16,
        out_dtype: DType::Bf16,
        attention,
    })?;
    let stream = bench.stream.clone();
    let q = numbers(1, batch * row.token_stride);
    let q_there = stream.clone_htod(&q)?;
    // Filled there: the sequences are turns of one, so that no two are alike.
    let width = len * cache.token_stride;
    let tiles = [2, 3].map(|seed| numbers(seed, width));
    let store = |tile: &Vec<bf16>| -> Result<CudaSlice<bf16>> {
        let (tile, mut store) = (stream.clone_htod(tile)?, stream.alloc_zeros(batch * width)?);
        for sequence in 0..batch {
            let (start, by) = (sequence * width, turn(sequence, width));
            let (front, back) = (start..start + width - by, start + width - by..start + width);
            stream.memcpy_dtod(&tile.slice(by..), &mut store.slice_mut(front))?;
            if by > 0 {
                stream.memcpy_dtod(&tile.slice(..by), &mut store.slice_mut(back))?;
            }
        }
        Ok(store)
    };
    let (k_there, v_there) = (store(&tiles[0])?, store(&tiles[1])?);
    let starts: Vec<i32> = (0..batch).map(|sequence| (sequence * len) as i32).collect();
    let (starts, lens) =
        (stream.clone_htod(&starts)?, stream.clone_htod(&vec![len as i32; batch])?);
    let lists: Vec<Vec<i32>> = match keep {
        Some(keep) => (0..batch * KV_HEADS).map(|list| subset(len, keep, list as u64)).collect(),
        None => Vec::new(),
    };
    // One entry where there is no list: drivers do not allocate nothing.
    let mut entries = lists.concat();
    entries.resize(entries.len().max(1), 0);
    let kept = stream.clone_htod(&entries)?;
    let kept_lens = stream.clone_htod(&vec![capacity as i32; batch * KV_HEADS])?;
    let mut out = stream.clone_htod(&vec![bf16::NAN; q.len()])?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(16))?;
    let mut status = StatusWord::new(&stream)?;
    let graph = bench.capture(|stream| {
        let keys = [k_there.as_view(), v_there.as_view()];
        let inputs = DecodeInputs {
            kept: keep.map(|_| kept.as_view()),
            kept_lens: keep.map(|_| kept_lens.as_view()),
            ..DecodeInputs::dense(q_there.as_view(), keys, lens.as_view(), starts.as_view())
        };
        let mut outputs = AttendOutputs::new(out.as_view_mut());
        let mut workspace = workspace.as_view_mut();
        decode(stream, &plan, &inputs, &mut outputs, Some(&mut workspace), &mut status)
    })?;
    graph.launch()?;
    status.read(&stream)?.check()?;

    let actual = stream.clone_dtoh(&out)?;
    for sequence in [0, batch - 1] {
        let [k, v] = [0, 1].map(|which: usize| {
            let (back, front) = tiles[which].split_at(turn(sequence, width));
            [front, back].concat()
        });
        let spans = [Span { start: 0, len }];
        let on_host = Keys::Contiguous {
            k: View { data: &k[..], layout: cache },
            v: View { data: &v[..], layout: cache },
            spans: &spans,
        };
        let of_sequence = sequence * row.token_stride..(sequence + 1) * row.token_stride;
        let ragged = Ragged::from_lens(&[capacity; KV_HEADS])?;
        let entries = lists.get(sequence * KV_HEADS..(sequence + 1) * KV_HEADS).map(<[_]>::concat);
        let listed = match &entries {
            Some(keys) if keep.is_some() => KeyLists::PerHead(PackedLists { keys, lists: &ragged }),
            _ => KeyLists::Dense,
        };
        let mut expected = vec![0.0; row.token_stride];
        let to = ViewMut { data: &mut expected[..], layout: row };
        let q = View { data: &q[of_sequence.clone()], layout: row };
        host::decode(q, &on_host, listed, &attention, to, None)?;
        near(&actual[of_sequence], &expected, &format!("sequence {sequence}"));
    }

    let rows = batch * KV_HEADS * capacity;
    let bytes = rows * (2 * DIM * 2 + if keep.is_some() { 4 } else { 0 });
    bench.time(case, "salient", json!({"bytes": bytes}), || Ok(graph.launch()?))
}

fn attention() -> Attention<'static> {
    Attention::new((DIM as f32).powf(-0.5))
}

/// Kept keys at or before each position, for keys that are spread evenly and end with the last.
fn limits(len: usize, keep: usize) -> Vec<i32> {
    (0..len).map(|position| ((position + 1) * keep / len) as i32).collect()
}

/// Normal numbers, which repeat after some prime number of them.
fn numbers(seed: u64, len: usize) -> Vec<bf16> {
    let tile = Random::new(seed).normals(65_537, 1.0);
    let tile: Vec<bf16> = tile.into_iter().map(bf16::from_f32).collect();
    tile.iter().copied().cycle().take(len).collect()
}

/// How far the keys of a sequence are turned.
fn turn(sequence: usize, len: usize) -> usize {
    sequence * 977 % len
}

/// A random subset of the first `len` numbers, ascending.
fn subset(len: usize, keep: usize, seed: u64) -> Vec<i32> {
    let order = Random::new(seed).permutation(len);
    let mut kept: Vec<i32> = order[..keep].iter().map(|&key| key as i32).collect();
    kept.sort_unstable();
    kept
}

/// To the rounding of weights and outputs to bf16.
fn near(actual: &[bf16], expected: &[f32], what: &str) {
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (actual.to_f32() - expected).abs();
        assert!(error <= 0.02 * largest, "{what}, {i}: {actual} is not {expected}");
    }
}
