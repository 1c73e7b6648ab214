//! Expected attention over one long sequence.

use half::bf16;
use salient::cuda::StatusWord;
use salient::cuda::score::{ExpectedInputs, Statistics, expected};
use salient::host::score as host;
use salient::kernels::score::{ExpectedPlan, ExpectedTensors, ExpectedWeights};
use salient::score::{ExpectedAttention, QueryStatistics};
use salient::{Layout, Ragged, Result, View};
use salient_oracle::generate::Random;
use serde_json::json;

use super::super::Bench;

const HEADS: usize = 32;
const KV_HEADS: usize = 8;
const DIM: usize = 128;

pub(super) fn run(bench: &mut Bench) {
    let tokens = if bench.small { 600 } else { 16384 };
    let case = format!("score/expected {tokens}, {HEADS}/{KV_HEADS} x {DIM} bf16");
    bench.attempt(&case, "salient", |bench| one(bench, &case, tokens));
}

fn one(bench: &mut Bench, case: &str, tokens: usize) -> Result<()> {
    let mut random = Random::new(5);
    let mut values = |len: usize| -> Vec<bf16> {
        let tile = random.normals(65_537, 1.0);
        (0..len).map(|i| bf16::from_f32(tile[i % tile.len()])).collect()
    };
    let (k, v) = (values(tokens * KV_HEADS * DIM), values(tokens * KV_HEADS * DIM));
    let queries = values(256 * HEADS * DIM);
    let queries = View::token_major(&queries[..], HEADS, DIM);
    let statistics = [QueryStatistics::of(queries, 256, true)?];
    let options = ExpectedAttention::new((DIM as f32).powf(-0.5));
    let layout = Layout::token_major(KV_HEADS, DIM);
    let tensors =
        ExpectedTensors { batch: 1, total: tokens, max_len: tokens, k: layout, v: Some(layout) };

    let stream = &bench.stream;
    let weights = ExpectedWeights::<bf16>::new(&statistics, options.scale)?;
    let there = Statistics::upload(stream, &weights)?;
    let plan = ExpectedPlan::new(there.shape(), tensors, options)?;
    let (k_there, v_there) = (stream.clone_htod(&k)?, stream.clone_htod(&v)?);
    let cu_seqlens = stream.clone_htod(&[0, tokens as i32])?;
    let mut scores = stream.clone_htod(&vec![f32::NAN; plan.scores_len()])?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
    let mut status = StatusWord::new(stream)?;
    let graph = bench.capture(|stream| {
        let inputs = ExpectedInputs {
            k: k_there.as_view(),
            v: Some(v_there.as_view()),
            cu_seqlens: cu_seqlens.as_view(),
        };
        let (mut scores, mut workspace) = (scores.as_view_mut(), workspace.as_view_mut());
        expected(stream, &plan, &there, &inputs, &mut scores, &mut workspace, &mut status)
    })?;
    graph.launch()?;
    status.read(&bench.stream)?.check()?;
    let actual = bench.stream.clone_dtoh(&scores)?;

    let (k, v) = (View::new(&k[..], layout), View::new(&v[..], layout));
    let rows = Ragged::from_lens(&[tokens])?;
    let mut right = vec![f32::NAN; actual.len()];
    host::expected(k, Some(v), &rows, &statistics, &options, &mut right)?;
    for (i, (&actual, &right)) in actual.iter().zip(&right).enumerate() {
        let near = (actual - right).abs() <= 1e-4 * right + 1e-9;
        assert!(near, "score {i}: {actual} is not {right}");
    }

    let flops = 2 * tokens * HEADS * DIM * DIM;
    let bytes = 2 * 2 * tokens * KV_HEADS * DIM + 4 * plan.scores_len();
    bench.time(case, "salient", json!({"flops": flops, "bytes": bytes}), || Ok(graph.launch()?))
}
