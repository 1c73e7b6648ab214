//! **select**, by every kernel that takes the rows.

use salient::cuda::StatusWord;
use salient::cuda::select::{SelectInputs, SelectOutputs, select};
use salient::host::select as host;
use salient::kernels::select::{SelectPlan, Variant};
use salient::select::{Budget, Protect, Request};
use salient::{Ragged, Result};
use salient_oracle::generate::Random;
use serde_json::json;

use super::Bench;

pub(super) fn run(bench: &mut Bench) {
    let cases = if bench.small {
        [(3, 700, 245), (2, 20_000, 2048)]
    } else {
        [(8, 16_384, 5734), (64, 131_072, 2048)]
    };
    for (rows, len, keep) in cases {
        let case = format!("select/{rows} x {len} keep {keep}");
        let scores = Random::new(2).normals(rows * len, 1.0);
        for (variant, who) in [
            (Variant::Auto, "salient"),
            (Variant::Block, "salient, block"),
            (Variant::Cluster, "salient, cluster"),
            (Variant::Grid, "salient, grid"),
        ] {
            bench.attempt(&case, who, |bench| {
                let prompts = Ragged::from_lens(&vec![len; rows])?;
                let budget = Budget::Count(keep);
                let (rows, protect) = (&prompts, Protect::default());
                let request = Request { rows, heads: 1, budget, protect };
                match SelectPlan::of(&request)?.with_variant(variant) {
                    Ok(plan) => one(bench, &case, who, &scores, &request, &plan),
                    // Rows that are too long for the variant.
                    Err(_) => Ok(()),
                }
            });
        }
    }
}

fn one(
    bench: &mut Bench,
    case: &str,
    who: &str,
    scores: &[f32],
    request: &Request<'_>,
    plan: &SelectPlan,
) -> Result<()> {
    let stream = bench.stream.clone();
    let scores_there = stream.clone_htod(scores)?;
    let cu_seqlens = stream.clone_htod(request.rows.cu_seqlens())?;
    let entries = plan.rows() * plan.capacity();
    let mut kept = stream.clone_htod(&vec![i32::MIN; entries])?;
    let mut kept_lens = stream.alloc_zeros::<i32>(plan.rows())?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(16))?;
    let mut status = StatusWord::new(&stream)?;
    let graph = bench.capture(|stream| {
        select(
            stream,
            plan,
            &SelectInputs::new(scores_there.as_view(), cu_seqlens.as_view()),
            &mut SelectOutputs::new(kept.as_view_mut(), kept_lens.as_view_mut()),
            Some(&mut workspace.as_view_mut()),
            &mut status,
        )
    })?;
    graph.launch()?;
    status.read(&stream)?.check()?;
    let expected = host::select(scores, request)?.padded(plan.capacity())?;
    assert!(stream.clone_dtoh(&kept)? == expected, "{case}: {who} keeps other tokens");
    let bytes = 4 * (scores.len() + entries);
    bench.time(case, who, json!({"bytes": bytes}), || Ok(graph.launch()?))
}
