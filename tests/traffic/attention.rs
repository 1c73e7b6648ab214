//! **score** from attention.

use half::bf16;
use salient::Result;
use salient::kernels::score::{AttentionPlan, AttentionShape};
use salient::score::{AttentionScore, HeadReduce};

use crate::runs::problem::{Scoring, plain_score};
use crate::runs::score::Scored;
use crate::{Counting, Launched, assert_kernels, counting};

const LEN: usize = 640;
const KV_HEADS: usize = 2;
const GROUP: usize = 4;
const HEADS: usize = KV_HEADS * GROUP;

/// For every tile of keys, the queries of a head that may see one of them, from a multiple of 8 on.
fn seen(window: usize, tile: usize) -> usize {
    let first = |key: usize| (key + window).saturating_sub(LEN) / 8 * 8;
    (0..LEN).step_by(tile).map(|key| window - first(key)).sum()
}

fn problem(dim: usize) -> Scoring<bf16> {
    Scoring::new(&[LEN], KV_HEADS, GROUP, dim)
}

fn launch(
    on: &Counting<'_>,
    problem: &Scoring<bf16>,
    plan: impl FnOnce(AttentionShape) -> Result<AttentionPlan>,
    lse: Option<&[f32]>,
) -> Result<(Scored, Vec<Launched>)> {
    let (scored, launched) =
        on.launches(|device| problem.run(device, plan, lse)?.launch(device))?;
    scored.status.check()?;
    Ok((scored, launched))
}

/// Bytes that a kernel reads of a buffer, in whole sectors.
fn read(launched: &Launched, scored: &Scored, name: &str) -> usize {
    let traffic = launched.buffer(&scored.places, name);
    traffic.assert_whole_sectors(&format!("{}: {name}", launched.kernel()));
    traffic.read as usize
}

fn written(launched: &Launched, scored: &Scored, name: &str) -> usize {
    launched.buffer(&scored.places, name).written as usize
}

#[test]
fn keys_are_read_once_for_logits_and_once_for_attention() {
    counting("keys_are_read_once_for_logits_and_once_for_attention", |on| {
        for (dim, tile) in [(64, 256), (96, 256), (128, 256), (256, 128)] {
            let (window, score) = (64, plain_score(dim));
            let plan = |shape| AttentionPlan::window(shape, score, window);
            let (scored, launched) = launch(on, &problem(dim), plan, None)?;
            let names = ["window_stats", "window_sums", "column_sums", "finish_scores"];
            assert_kernels(&launched, &names);
            let tiles = LEN.div_ceil(tile);
            let columns = HEADS * seen(window, tile);
            for i in [0, 2] {
                assert_eq!(read(&launched[i], &scored, "k"), LEN * KV_HEADS * dim * 2, "{dim}");
                assert_eq!(read(&launched[i], &scored, "q"), columns * dim * 2, "{dim}");
                let operations = columns * tile * dim * 2;
                assert_eq!(launched[i].matrix_operations() as usize, operations, "{dim}");
            }
            // A largest logit and a sum for each query and tile; then for each query.
            assert_eq!(written(&launched[0], &scored, "workspace"), columns * 8, "{dim}");
            let stats = launched[1].buffer(&scored.places, "workspace").read as usize;
            assert!(stats <= columns * 8 && stats > columns * 8 * (tiles - 1) / tiles, "{dim}");
            assert_eq!(written(&launched[1], &scored, "workspace"), HEADS * window * 8, "{dim}");
            assert_eq!(written(&launched[2], &scored, "workspace"), KV_HEADS * LEN * 4, "{dim}");
            assert_eq!(written(&launched[3], &scored, "scores"), LEN * 4, "{dim}");
            launched.iter().for_each(|launched| launched.assert_few_conflicts(&dim.to_string()));
        }
        Ok(())
    });
}

#[test]
fn the_last_query_reads_keys_once() {
    counting("the_last_query_reads_keys_once", |on| {
        let (dim, score) = (128, plain_score(128));
        let problem = problem(dim);
        let plan = |shape| AttentionPlan::window(shape, score, 1);
        let (scored, launched) = launch(on, &problem, plan, None)?;
        assert_kernels(&launched, &["window_stats", "window_sums", "finish_scores"]);
        assert_eq!(read(&launched[0], &scored, "k"), LEN * KV_HEADS * dim * 2);
        let tiles = LEN.div_ceil(256);
        let logits = LEN * HEADS * 4 + tiles * HEADS * 8;
        assert_eq!(written(&launched[0], &scored, "workspace"), logits);
        launched.iter().for_each(|launched| launched.assert_few_conflicts("the last query"));
        // With an LSE there is but one pass, too.
        let lse = problem.lse(&on.device)?;
        let plan = |shape| AttentionPlan::window_of_lse(shape, score, 1);
        let (scored, launched) = launch(on, &problem, plan, Some(&lse))?;
        assert_kernels(&launched, &["column_sums", "finish_scores"]);
        assert_eq!(read(&launched[0], &scored, "k"), LEN * KV_HEADS * dim * 2);
        Ok(())
    });
}

#[test]
fn columns_read_keys_once_and_queries_once_per_tile_of_keys() {
    counting("columns_read_keys_once_and_queries_once_per_tile_of_keys", |on| {
        for (dim, tile) in [(64, 256), (256, 128)] {
            let problem = problem(dim);
            let lse = problem.lse(&on.device)?;
            for heads in [HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised] {
                let score = AttentionScore { heads, ..plain_score(dim) };
                let plan = |shape| AttentionPlan::columns(shape, score);
                let (scored, launched) = launch(on, &problem, plan, Some(&lse))?;
                assert_kernels(&launched, &["column_sums", "finish_scores"]);
                let columns = HEADS * seen(LEN, tile);
                assert_eq!(read(&launched[0], &scored, "k"), LEN * KV_HEADS * dim * 2, "{dim}");
                assert_eq!(read(&launched[0], &scored, "q"), columns * dim * 2, "{dim}");
                let operations = columns * tile * dim * 2;
                assert_eq!(launched[0].matrix_operations() as usize, operations, "{dim}");
                let (rows, maxima) = match heads {
                    HeadReduce::MaxNormalised => (HEADS, LEN.div_ceil(tile) * 8),
                    _ => (KV_HEADS, 0),
                };
                let sums = rows * (LEN + maxima) * 4;
                assert_eq!(written(&launched[0], &scored, "workspace"), sums, "{dim} {heads:?}");
                let context = format!("{dim} {heads:?}");
                launched.iter().for_each(|launched| launched.assert_few_conflicts(&context));
            }
        }
        Ok(())
    });
}
