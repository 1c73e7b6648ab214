//! A lightning indexer: a decode step of many sequences, and a causal prefill.

use half::bf16;
use salient::attend::RowLimit;
use salient::cuda::score::{IndexerInputs, indexer};
use salient::cuda::{DeviceElement, StatusWord};
use salient::dtype::F8E4M3;
use salient::host::score as host;
use salient::kernels::score::{IndexerPlan, IndexerShape};
use salient::score::{IndexerKeys, IndexerQueries, Logits};
use salient::{Layout, Ragged, Result, View};
use salient_oracle::generate::Random;
use serde_json::json;

use super::super::Bench;

const HEADS: usize = 64;
const DIM: usize = 128;

pub(super) fn run(bench: &mut Bench) {
    let (batch, tokens) = if bench.small { (3, 600) } else { (16, 32768) };
    of::<F8E4M3>(bench, "fp8", batch, 1, tokens);
    of::<bf16>(bench, "bf16", batch, 1, tokens);
    let tokens = if bench.small { 300 } else { 8192 };
    of::<F8E4M3>(bench, "fp8", 1, tokens, tokens);
    of::<bf16>(bench, "bf16", 1, tokens, tokens);
}

fn of<T: DeviceElement>(bench: &mut Bench, name: &str, batch: usize, queries: usize, keys: usize) {
    let case = format!("score/indexer {queries} of {batch} x {keys}, {HEADS} x {DIM} {name}");
    bench.attempt(&case, "salient", |bench| one::<T>(bench, &case, batch, queries, keys));
}

fn one<T: DeviceElement>(
    bench: &mut Bench,
    case: &str,
    batch: usize,
    queries: usize,
    keys: usize,
) -> Result<()> {
    let mut random = Random::new(6);
    let mut normals = |len: usize| -> Vec<f32> {
        let tile = random.normals(65_537, 1.0);
        (0..len).map(|i| tile[i % tile.len()]).collect()
    };
    let narrow = |values: Vec<f32>| -> Vec<T> { values.into_iter().map(T::from_f32).collect() };
    let (query_rows, key_rows) =
        (Ragged::from_lens(&vec![queries; batch])?, Ragged::from_lens(&vec![keys; batch])?);
    let q = narrow(normals(batch * queries * HEADS * DIM));
    let k = narrow(normals(batch * keys * DIM));
    let (weights, scales) = (normals(batch * queries * HEADS), normals(batch * keys));
    let (q_layout, k_layout) = (Layout::token_major(HEADS, DIM), Layout::token_major(1, DIM));
    let logits = if queries == 1 { Logits::Tokens } else { Logits::Rows { stride: keys } };
    let plan = IndexerPlan::new(IndexerShape {
        batch,
        queries: batch * queries,
        max_queries: queries,
        keys: batch * keys,
        max_keys: keys,
        dtype: T::DTYPE,
        q: q_layout,
        k: k_layout,
        limit: RowLimit::Causal,
        logits,
    })?;

    let stream = &bench.stream;
    let (q_there, k_there) = (stream.clone_htod(&q)?, stream.clone_htod(&k)?);
    let (weights_there, scales_there) = (stream.clone_htod(&weights)?, stream.clone_htod(&scales)?);
    let cu_queries = stream.clone_htod(query_rows.cu_seqlens())?;
    let cu_keys = stream.clone_htod(key_rows.cu_seqlens())?;
    let mut out = stream.clone_htod(&vec![f32::NAN; plan.logits_len()])?;
    let mut status = StatusWord::new(stream)?;
    let graph = bench.capture(|stream| {
        let inputs = IndexerInputs {
            q: q_there.as_view(),
            weights: weights_there.as_view(),
            k: k_there.as_view(),
            scales: Some(scales_there.as_view()),
            cu_queries: cu_queries.as_view(),
            cu_keys: cu_keys.as_view(),
            firsts: None,
            limits: None,
        };
        indexer(stream, &plan, &inputs, &mut out.as_view_mut(), &mut status)
    })?;
    graph.launch()?;
    status.read(&bench.stream)?.check()?;
    let actual = bench.stream.clone_dtoh(&out)?;

    // The last query of the first sequence, which sees every key.
    let last = queries - 1;
    let mut right = vec![f32::NAN; keys];
    let one = Ragged::from_lens(&[1])?;
    let asked = IndexerQueries {
        q: View::new(&q[last * HEADS * DIM..][..HEADS * DIM], q_layout),
        weights: &weights[last * HEADS..][..HEADS],
        rows: &one,
        limit: RowLimit::Full,
    };
    let first = Ragged::from_lens(&[keys])?;
    let k = View::new(&k[..keys * DIM], k_layout);
    let shown = IndexerKeys { k, scales: Some(&scales[..keys]), rows: &first };
    host::indexer(&asked, &shown, Logits::Tokens, &mut right)?;
    let largest = right.iter().fold(0f32, |a, b| a.max(b.abs()));
    for (key, (&actual, &right)) in actual[last * keys..][..keys].iter().zip(&right).enumerate() {
        let near = (actual - right).abs() <= 1e-5 * largest;
        assert!(near, "logit of key {key}: {actual} is not {right}");
    }

    let pairs: usize = (0..queries).map(|j| keys - queries + j + 1).sum::<usize>() * batch;
    let flops = 2 * pairs * HEADS * DIM;
    let size = T::DTYPE.size();
    let bytes = size * DIM * batch * (keys + queries * HEADS) + 4 * (actual.len() + batch * keys);
    bench.time(case, "salient", json!({"flops": flops, "bytes": bytes}), || Ok(graph.launch()?))
}
