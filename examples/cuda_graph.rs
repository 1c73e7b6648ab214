//! Score, select and compact captured once into a CUDA graph and replayed on new hidden states:
//! `cargo run --release --features cuda --example cuda_graph`.
//!
//! Every shape is planned from the prompts' lengths, so nothing is allocated and nothing waits
//! between the three. Without a device it says so and ends.

use std::sync::Arc;

use half::bf16;
use salient::compact::RowShape;
use salient::cuda::compact::{RowLists, RowTensor, rows};
use salient::cuda::cudarc::driver::sys::{
    CUgraphInstantiate_flags_enum as GraphFlags, CUstreamCaptureMode_enum as CaptureMode,
};
use salient::cuda::cudarc::driver::{CudaContext, CudaStream};
use salient::cuda::score::{Predictor, mlp};
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::cuda::{Backend, StatusWord, bytes, bytes_mut, probe};
use salient::host::select as host;
use salient::kernels::compact::RowsPlan;
use salient::kernels::score::{MlpPlan, MlpWeights};
use salient::kernels::select::SelectPlan;
use salient::score::PredictorWeights;
use salient::select::{Budget, Edges, PerSequence, Protect, Request};
use salient::{Ragged, Result};

fn main() -> Result<()> {
    let backend = probe();
    println!("backend: {backend}");
    if let Backend::Cuda(_) = backend {
        replay(&CudaContext::new(0)?.per_thread_stream())?;
        println!("three replays kept the tokens that the host keeps");
    }
    Ok(())
}

const HIDDEN: usize = 256;
const WIDTH: usize = 64;

/// Captures, replays three times, and compares with the host's selection from the same scores.
///
/// # Panics
/// If they differ.
pub(crate) fn replay(stream: &Arc<CudaStream>) -> Result<()> {
    // What is known from the prompts' lengths alone.
    let prompts = Ragged::from_lens(&[700, 0, 300, 24])?;
    let (batch, total) = (prompts.batch(), prompts.total());
    let request = Request {
        rows: &prompts,
        heads: 1,
        budget: Budget::Ratio(0.35),
        protect: Protect { edges: PerSequence::All(Edges { sinks: 4, recent: 4 }), mask: None },
    };
    let weights = MlpWeights::<bf16>::new(HIDDEN, trained())?;
    let predictor = Predictor::upload(stream, &weights)?;
    let scoring = MlpPlan::new(predictor.shape(), total)?;
    let selecting = SelectPlan::of(&request)?;
    let capacity = selecting.capacity();
    let kept_total = host::select(&vec![0.0; total], &request)?.kept().len();
    let shapes = [RowShape::packed(HIDDEN * size_of::<bf16>()), RowShape::packed(size_of::<i32>())];
    let compacting = RowsPlan::new(batch, total, kept_total, capacity, &shapes)?;

    // Every buffer, before the capture.
    let positions: Vec<i32> = prompts.lens().flat_map(|len| 0..len as i32).collect();
    let positions = stream.clone_htod(&positions)?;
    let cu_seqlens = stream.clone_htod(prompts.cu_seqlens())?;
    let mut hidden = stream.alloc_zeros::<bf16>(total * HIDDEN)?;
    let mut scores = stream.alloc_zeros::<f32>(total)?;
    let mut partials = stream.alloc_zeros::<u8>(scoring.workspace_bytes())?;
    let mut workspace = stream.alloc_zeros::<u8>(selecting.workspace_bytes().max(16))?;
    let mut kept = stream.alloc_zeros::<i32>(batch * capacity)?;
    let mut kept_lens = stream.alloc_zeros::<i32>(batch)?;
    let mut cu_kept = stream.alloc_zeros::<i32>(batch + 1)?;
    let mut kept_hidden = stream.alloc_zeros::<bf16>(kept_total * HIDDEN)?;
    let mut kept_positions = stream.alloc_zeros::<i32>(kept_total)?;
    let mut status = StatusWord::new(stream)?;
    stream.synchronize()?;
    // Nothing is to be loaded while launches are captured.
    salient::cuda::prepare(stream.context())?;

    stream.begin_capture(CaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    status.clear(stream)?;
    mlp(
        stream,
        &scoring,
        &predictor,
        &hidden.as_view(),
        None,
        &mut scores.as_view_mut(),
        &mut partials.as_view_mut(),
    )?;
    let mut lists = SelectOutputs::new(kept.as_view_mut(), kept_lens.as_view_mut());
    lists.cu_kept = Some(cu_kept.as_view_mut());
    select(
        stream,
        &selecting,
        &SelectInputs::new(scores.as_view(), cu_seqlens.as_view()),
        &mut lists,
        Some(&mut workspace.as_view_mut()),
        &mut status,
    )?;
    let (mut hidden_out, mut positions_out) =
        (kept_hidden.as_view_mut(), kept_positions.as_view_mut());
    let mut tensors = [
        RowTensor { src: bytes(&hidden.as_view()), dst: bytes_mut(&mut hidden_out) },
        RowTensor { src: bytes(&positions.as_view()), dst: bytes_mut(&mut positions_out) },
    ];
    let lists = RowLists {
        kept: kept.as_view(),
        kept_lens: kept_lens.as_view(),
        cu_kept: cu_kept.as_view(),
        cu_seqlens: cu_seqlens.as_view(),
    };
    rows(stream, &compacting, &mut tensors, &lists, &mut status)?;
    let graph = stream
        .end_capture(GraphFlags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)?
        .expect("launches were captured");

    for round in 0..3 {
        let new = hidden_states(round, total);
        stream.memcpy_htod(&new, &mut hidden)?;
        graph.launch()?;
        status.read(stream)?.check()?;
        let selection = host::select(&stream.clone_dtoh(&scores)?, &request)?;
        assert_eq!(stream.clone_dtoh(&kept)?, selection.padded(capacity)?, "round {round}");
        let tokens: Vec<i32> = stream.clone_dtoh(&positions)?;
        assert_eq!(stream.clone_dtoh(&kept_positions)?, selection.positions(&tokens)?);
        let rows: Vec<i32> = (0..total as i32).collect();
        let rows = selection.positions(&rows)?;
        let expected: Vec<bf16> =
            rows.iter().flat_map(|&row| &new[row as usize * HIDDEN..][..HIDDEN]).copied().collect();
        assert_eq!(stream.clone_dtoh(&kept_hidden)?, expected, "round {round}");
    }
    Ok(())
}

/// Stands in for trained weights.
fn trained() -> PredictorWeights {
    let wave = |len: usize, step: f32| (0..len).map(|i| (i as f32 * step).sin() / 8.0).collect();
    PredictorWeights {
        w1: wave(WIDTH * HIDDEN, 0.7),
        b1: wave(WIDTH, 0.3),
        w2: wave(WIDTH, 1.1),
        b2: vec![0.0],
        norm: Some((vec![1.0; HIDDEN], 1e-5)),
    }
}

fn hidden_states(round: usize, tokens: usize) -> Vec<bf16> {
    let value = |i: usize| bf16::from_f32(((i * (round + 3)) as f32 * 0.013).sin());
    (0..tokens * HIDDEN).map(value).collect()
}
