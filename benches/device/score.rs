//! **score**: the predictor; attention of the last queries and of all; expected attention; an
//! indexer.

mod attention;
mod expected;
mod indexer;

use half::bf16;
use salient::Result;
use salient::cuda::score::{Predictor, mlp};
use salient::host::score as host;
use salient::kernels::score::{MlpPlan, MlpWeights};
use salient::score::PredictorWeights;
use salient_oracle::generate::Random;
use serde_json::json;

use super::Bench;

pub(super) fn run(bench: &mut Bench) {
    let (tokens, hidden, width) = if bench.small { (130, 256, 40) } else { (16384, 4096, 1024) };
    let case = format!("score/[{tokens}, {hidden}] bf16 to {width} to 1");
    bench.attempt(&case, "salient", |bench| one(bench, &case, tokens, hidden, width));
    attention::run(bench);
    expected::run(bench);
    indexer::run(bench);
}

fn one(bench: &mut Bench, case: &str, tokens: usize, hidden: usize, width: usize) -> Result<()> {
    let mut random = Random::new(1);
    let mut normals = |len, fan: usize| random.normals(len, (fan as f32).powf(-0.5));
    let given = PredictorWeights {
        w1: normals(width * hidden, hidden),
        b1: normals(width, 4),
        w2: normals(width, width),
        b2: normals(1, 1),
        norm: Some((vec![1.0; hidden], 1e-5)),
    };
    let tile: Vec<bf16> = normals(65_537, 1).into_iter().map(bf16::from_f32).collect();
    let x: Vec<bf16> = (0..tokens * hidden).map(|i| tile[i % tile.len()]).collect();
    let weights = MlpWeights::<bf16>::new(hidden, given)?;

    let stream = &bench.stream;
    let predictor = Predictor::upload(stream, &weights)?;
    let plan = MlpPlan::new(predictor.shape(), tokens)?;
    let x_there = stream.clone_htod(&x)?;
    let mut scores = stream.clone_htod(&vec![f32::NAN; tokens])?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(16))?;
    let graph = bench.capture(|stream| {
        let room = plan.workspace_bytes();
        mlp(
            stream,
            &plan,
            &predictor,
            &x_there.as_view(),
            None,
            &mut scores.as_view_mut(),
            &mut workspace.slice_mut(..room),
        )
    })?;
    graph.launch()?;
    let actual = bench.stream.clone_dtoh(&scores)?;

    let rows: Vec<usize> = (0..32).map(|i| i * (tokens - 1) / 31).collect();
    let sample: Vec<bf16> =
        rows.iter().flat_map(|&row| &x[row * hidden..][..hidden]).copied().collect();
    let mut expected = vec![0.0; rows.len()];
    host::mlp(&sample, &host::Predictor::new(hidden, weights.as_used())?, &mut expected)?;
    let largest = expected.iter().fold(0f32, |a, b| a.max(b.abs()));
    for (&row, expected) in rows.iter().zip(expected) {
        let error = (actual[row] - expected).abs();
        assert!(error <= 2e-3 * largest, "token {row}: {} is not {expected}", actual[row]);
    }

    let flops = 2 * tokens * width * (hidden + 1);
    let bytes = 2 * hidden * (tokens + width) + 4 * tokens;
    bench.time(case, "salient", json!({"flops": flops, "bytes": bytes}), || Ok(graph.launch()?))
}
