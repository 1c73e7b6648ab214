//! **select**, by every kernel that takes the rows.

use salient::cuda::StatusWord;
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::host::select::{self as host, PerSequence, Protect, Request};
use salient::kernels::select::{SelectPlan, Variant};
use salient::{Ragged, Result};
use salient_oracle::generate::Random;
use serde_json::json;

use super::Bench;

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    let cases = if bench.small {
        [(3, 700, 245), (2, 20_000, 2048)]
    } else {
        [(8, 16_384, 5734), (64, 131_072, 2048)]
    };
    cases.into_iter().try_for_each(|(rows, len, keep)| one(bench, rows, len, keep))
}

fn one(bench: &mut Bench, rows: usize, len: usize, keep: usize) -> Result<()> {
    let prompts = Ragged::from_lens(&vec![len; rows])?;
    let budget = host::Budget::Count(PerSequence::All(keep));
    let request = Request { rows: &prompts, heads: 1, budget, protect: Protect::default() };
    let scores = Random::new(2).normals(rows * len, 1.0);
    let expected = host::select(&scores, &request)?;
    let stream = bench.stream.clone();
    let (scores, cu_seqlens) =
        (stream.clone_htod(&scores)?, stream.clone_htod(prompts.cu_seqlens())?);
    let mut kept_lens = stream.alloc_zeros::<i32>(rows)?;
    let mut status = StatusWord::new(&stream)?;
    for (variant, who) in [
        (Variant::Auto, "salient"),
        (Variant::Block, "salient, block"),
        (Variant::Cluster, "salient, cluster"),
        (Variant::Grid, "salient, grid"),
    ] {
        let Ok(plan) = SelectPlan::of(&request)?.with_variant(variant) else { continue };
        let mut kept = stream.clone_htod(&vec![i32::MIN; rows * keep])?;
        let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(16))?;
        let graph = bench.capture(|stream| {
            select(
                stream,
                &plan,
                &SelectInputs::new(scores.as_view(), cu_seqlens.as_view()),
                &mut SelectOutputs::new(kept.as_view_mut(), kept_lens.as_view_mut()),
                Some(&mut workspace.as_view_mut()),
                &mut status,
            )
        })?;
        graph.launch()?;
        status.read(&stream)?.check()?;
        assert_eq!(stream.clone_dtoh(&kept)?, expected.padded(keep)?, "{who}");
        let case = format!("select/{rows} x {len} keep {keep}");
        let bytes = 4 * rows * (len + keep);
        bench.time(&case, who, json!({"bytes": bytes}), || Ok(graph.launch()?))?;
    }
    Ok(())
}
