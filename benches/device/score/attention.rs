//! Attention of the last queries and of all.

use half::bf16;
use salient::cuda::StatusWord;
use salient::cuda::score::{AttentionInputs, attention};
use salient::host::score as host;
use salient::kernels::score::{AttentionPlan, AttentionShape};
use salient::score::{AttentionScore, HeadReduce, Per, QueryWeights};
use salient::{DType, Layout, Ragged, Result, View};
use salient_oracle::generate::Random;
use serde_json::json;

use super::super::Bench;

pub(super) fn run(bench: &mut Bench) {
    let (heads, kv_heads, dim) = (32, 8, 128);
    let long = if bench.small { 700 } else { 16384 };
    for (window, saved) in [(1, false), (64, false), (64, true)] {
        let given = if saved { ", LSE given" } else { "" };
        let case =
            format!("score/window {window} of {long}, {heads}/{kv_heads} x {dim} bf16{given}");
        let shape = Heads { heads, kv_heads, dim, tokens: long };
        bench.attempt(&case, "salient", |bench| one(bench, &case, shape, window, saved));
    }
    let tokens = if bench.small { 600 } else { 8192 };
    let case = format!("score/columns {tokens}, {heads}/{kv_heads} x {dim} bf16");
    let shape = Heads { heads, kv_heads, dim, tokens };
    bench.attempt(&case, "salient", |bench| one(bench, &case, shape, tokens, true));
}

#[derive(Clone, Copy)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    dim: usize,
    tokens: usize,
}

/// Scores by the attention of the last `window` queries of one sequence, whose LSE may be given.
fn one(bench: &mut Bench, case: &str, shape: Heads, window: usize, with_lse: bool) -> Result<()> {
    let Heads { heads, kv_heads, dim, tokens } = shape;
    let mut random = Random::new(3);
    let mut values = |len: usize| -> Vec<bf16> {
        let tile = random.normals(65_537, 1.0);
        (0..len).map(|i| bf16::from_f32(tile[i % tile.len()])).collect()
    };
    let (q, k) = (values(window * heads * dim), values(tokens * kv_heads * dim));
    let (q_layout, k_layout) =
        (Layout::token_major(heads, dim), Layout::token_major(kv_heads, dim));
    let score = AttentionScore {
        scale: (dim as f32).powf(-0.5),
        heads: HeadReduce::Mean,
        per: Per::KvHead,
        pool: None,
        query_weights: QueryWeights::Uniform,
    };
    let shape = AttentionShape {
        batch: 1,
        queries: window,
        total: tokens,
        max_len: tokens,
        dtype: DType::Bf16,
        q: q_layout,
        k: k_layout,
    };
    let plan = match with_lse {
        true => AttentionPlan::window_of_lse(shape, score, window)?,
        false => AttentionPlan::window(shape, score, window)?,
    };
    // About what such queries have; scores are linear in its exponential.
    let seen = |j: usize| tokens - window + j + 1;
    let lse: Vec<f32> = (0..window * heads).map(|i| (seen(i / heads) as f32).ln() + 0.5).collect();

    let stream = &bench.stream;
    let (q_there, k_there) = (stream.clone_htod(&q)?, stream.clone_htod(&k)?);
    let lse_there = stream.clone_htod(&lse)?;
    let cu_queries = stream.clone_htod(&[0, window as i32])?;
    let cu_seqlens = stream.clone_htod(&[0, tokens as i32])?;
    let mut scores = stream.clone_htod(&vec![f32::NAN; plan.scores_len()])?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
    let mut status = StatusWord::new(stream)?;
    let graph = bench.capture(|stream| {
        let inputs = AttentionInputs {
            q: q_there.as_view(),
            k: k_there.as_view(),
            lse: with_lse.then_some(lse_there.as_view()),
            cu_queries: cu_queries.as_view(),
            cu_seqlens: cu_seqlens.as_view(),
        };
        let (mut scores, mut workspace) = (scores.as_view_mut(), workspace.as_view_mut());
        attention(stream, &plan, &inputs, &mut scores, &mut workspace, &mut status)
    })?;
    graph.launch()?;
    status.read(&bench.stream)?.check()?;
    let actual = bench.stream.clone_dtoh(&scores)?;

    let (q, k) = (View::new(&q[..], q_layout), View::new(&k[..], k_layout));
    let mut expected = vec![f32::NAN; actual.len()];
    if with_lse {
        for i in 0..32 {
            let (kv_head, token) = (i % kv_heads, i * (tokens - 1) / 31);
            let of = |j: usize, head: usize| {
                let products = q.row(j, head).iter().zip(k.row(token, kv_head));
                let dot: f64 = products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
                (f64::from(score.scale) * dot - f64::from(lse[j * heads + head])).exp()
            };
            let group = heads / kv_heads;
            let group = kv_head * group..(kv_head + 1) * group;
            let pairs = (0..window)
                .filter(|&j| token < seen(j))
                .flat_map(|j| group.clone().map(move |head| (j, head)));
            let sum: f64 = pairs.map(|(j, head)| of(j, head)).sum();
            expected[kv_head * tokens + token] = (sum / (window * group.len()) as f64) as f32;
        }
    } else {
        let (queries, rows) = (Ragged::from_lens(&[window])?, Ragged::from_lens(&[tokens])?);
        host::window(q, &queries, k, &rows, &score, &mut expected)?;
    }
    for (i, (&actual, &expected)) in actual.iter().zip(&expected).enumerate() {
        let near = (actual - expected).abs() <= 1e-4 * expected + 1e-9;
        assert!(near || expected.is_nan(), "score {i}: {actual} is not {expected}");
    }

    let pairs: usize = (0..window).map(seen).sum();
    let flops = 2 * pairs * heads * dim;
    let bytes = 2 * dim * (tokens * kv_heads + window * heads) + 4 * plan.scores_len();
    bench.time(case, "salient", json!({"flops": flops, "bytes": bytes}), || Ok(graph.launch()?))
}
