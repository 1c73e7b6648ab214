//! **score** from attention.

use half::{bf16, f16};
use salient::cuda::DeviceElement;
use salient::kernels::score::AttentionPlan;
use salient::score::{AttentionScore, HeadReduce, Per, Pool, PoolKind, QueryWeights};
use salient::{Fault, Ragged, Span, Status};
use salient_oracle::score::attention;
use salient_oracle::suite::score::{Case, Queries};
use salient_oracle::suite::{assert_accurate, assert_same_bits, magnitude, wide};

use crate::device::Upload;
use crate::place::on_device;
use crate::runs::problem::{Scoring, plain_score};
use crate::runs::score::AttentionRun;
use crate::{device, same_in_any_order};

const REDUCTIONS: [HeadReduce; 3] = [HeadReduce::Mean, HeadReduce::Max, HeadReduce::MaxNormalised];

#[test]
fn every_head_size_and_group() {
    on_device("every_head_size_and_group", || {
        let device = device()?;
        let windows = [1, 3, 20, 128].map(Queries::Window).into_iter().chain([Queries::All]);
        for (i, queries) in windows.enumerate() {
            for (j, dim) in [8, 40, 64, 96, 104, 128, 256].into_iter().enumerate() {
                let group = [1, 3, 16, 2, 7, 5][(2 * i + j) % 6];
                let per = if (i + j) % 2 == 0 { Per::Token } else { Per::KvHead };
                let score =
                    AttentionScore { heads: REDUCTIONS[(i + j) % 3], per, ..plain_score(dim) };
                let (seed, kv_heads, head_major) = ((7 * i + j) as u64, 1 + j % 2, j % 3 == 0);
                let lens = vec![31, 0, if dim > 128 { 140 } else { 270 }];
                Case { seed, lens, kv_heads, group, dim, head_major, queries, score }
                    .check(&device);
            }
        }
        Ok(())
    });
}

/// Judges scores of the last `window` queries.
fn check<T: DeviceElement + Default>(
    problem: &Scoring<T>,
    actual: &[f32],
    score: &AttentionScore,
    window: usize,
    what: &str,
) {
    let [q, k] = problem.views();
    let last = |span: Span| {
        let len = span.len.min(window);
        Span { start: span.end() - len, len }
    };
    let queries: Vec<Span> = problem.rows.spans().map(last).collect();
    let exact = attention::<f64, T>(q, &queries, k, &problem.rows, score);
    let plain = attention::<f32, T>(q, &queries, k, &problem.rows, score);
    // Twice as much as of the host, for tensor cores cut off what is rounded there.
    let floor = 16.0 * f64::from(f32::EPSILON) * magnitude(&exact);
    let context = || format!("{what}: {score:?}");
    assert_accurate(&wide(actual), &wide(&plain), &exact, floor, &context);
}

/// A window may be the end of the queries of all tokens, and its LSE that of a prefill.
#[test]
fn windows_of_a_prefill() {
    on_device("windows_of_a_prefill", || {
        let device = device()?;
        let problem = Scoring::<bf16>::new(&[70, 0, 300, 9], 2, 3, 64);
        let lse = problem.lse(&device)?;
        let ramp = QueryWeights::Ramp { first: 1.0, last: 1.2 };
        for (i, heads) in REDUCTIONS.into_iter().enumerate() {
            let per = if i == 1 { Per::Token } else { Per::KvHead };
            let score = AttentionScore { heads, per, query_weights: ramp, ..plain_score(64) };
            for window in [1, 20, 128] {
                let plan = |shape| AttentionPlan::window(shape, score, window);
                let scores = problem.scores(&device, plan, None)?;
                check(&problem, &scores, &score, window, "no LSE");
            }
            for window in [1, 20, 128, 200, usize::MAX] {
                let plan = |shape| AttentionPlan::window_of_lse(shape, score, window);
                let scores = problem.scores(&device, plan, Some(&lse))?;
                check(&problem, &scores, &score, window, "with the LSE");
            }
        }
        Ok(())
    });
}

#[test]
fn queries_that_see_nothing_count_nothing() {
    on_device("queries_that_see_nothing_count_nothing", || {
        let device = device()?;
        let mut problem = Scoring::<f16>::new(&[40, 270], 2, 2, 32);
        let score = plain_score(32);
        let mut lse = problem.lse(&device)?;
        let heads = 4;
        let last = [39, 309];
        for (row, lse) in lse.chunks_exact_mut(heads).enumerate() {
            if !last.contains(&row) {
                lse.fill(f32::NEG_INFINITY);
            }
        }
        let columns = |shape| AttentionPlan::columns(shape, score);
        let mut scores = problem.scores(&device, columns, Some(&lse))?;
        // Of all queries, each counts for a share.
        for span in problem.rows.spans() {
            scores[span.range()].iter_mut().for_each(|score| *score *= span.len as f32);
        }
        check(&problem, &scores, &score, 1, "only the last queries");

        lse.fill(f32::NEG_INFINITY);
        problem.k[5 * 64] = f16::NAN;
        problem.k[50 * 64] = f16::INFINITY;
        let scores = problem.scores(&device, columns, Some(&lse))?;
        assert_same_bits(&scores, &[0.0; 310], "no queries");
        Ok(())
    });
}

#[test]
fn infinities_reach_what_the_oracle_says() {
    on_device("infinities_reach_what_the_oracle_says", || {
        let device = device()?;
        for (of_key, at, value) in [
            (true, 66, f32::INFINITY),
            (true, 299, f32::NEG_INFINITY),
            (true, 66, f32::NAN),
            (false, 296, f32::INFINITY),
            (false, 290, f32::NEG_INFINITY),
            (false, 299, f32::NAN),
        ] {
            for heads in REDUCTIONS {
                let score = AttentionScore { heads, per: Per::KvHead, ..plain_score(16) };
                let mut problem = Scoring::<bf16>::new(&[300, 20], 2, 2, 16);
                let (data, row) = if of_key { (&mut problem.k, 32) } else { (&mut problem.q, 64) };
                data[at * row + 3] = bf16::from_f32(value);
                for window in [1, 8, 64] {
                    let plan = |shape| AttentionPlan::window(shape, score, window);
                    let what = format!("{value} in {at}, key {of_key}, window {window}");
                    let scores = problem.scores(&device, plan, None)?;
                    check(&problem, &scores, &score, window, &what);
                }
                let lse = problem.lse(&device)?;
                let plan = |shape| AttentionPlan::columns(shape, score);
                let what = format!("{value} in {at}, key {of_key}, columns");
                let scores = problem.scores(&device, plan, Some(&lse))?;
                check(&problem, &scores, &score, usize::MAX, &what);
            }
        }
        Ok(())
    });
}

/// Long enough for several tiles of keys: alone, in a batch and in any order.
#[test]
fn the_same_in_any_order_and_batch() {
    let problem = Scoring::<bf16>::new(&[37, 300, 600], 1, 2, 64);
    let (wide, start) = (2 * 64, 337);
    let alone = Scoring {
        q: problem.q[start * wide..].to_vec(),
        k: problem.k[start * wide / 2..].to_vec(),
        rows: Ragged::from_lens(&[600]).expect("a short row"),
        ..Scoring::<bf16>::new(&[], 1, 2, 64)
    };
    same_in_any_order("scores from attention", || {
        let device = device()?;
        let lse = problem.lse(&device)?;
        let mut outcomes = Vec::new();
        for heads in REDUCTIONS {
            let pool = Some(Pool { kind: PoolKind::Average, width: 7 });
            let score = AttentionScore { heads, pool, ..plain_score(64) };
            for (window, given) in [(1, false), (33, false), (33, true)] {
                let plan = |shape| match given {
                    true => AttentionPlan::window_of_lse(shape, score, window),
                    false => AttentionPlan::window(shape, score, window),
                };
                let lse_of = |from: usize| given.then_some(&lse[from * 2..]);
                let together = problem.scores(&device, plan, lse_of(0))?;
                let scores = alone.scores(&device, plan, lse_of(start))?;
                let context = format!("{score:?}, {window} queries, LSE: {given}");
                assert_same_bits(&scores, &together[start..], &context);
                outcomes.push(together);
            }
        }
        Ok((lse, outcomes))
    });
}

#[test]
fn offsets_that_cannot_be_are_reported_and_change_nothing_else() {
    type Field = fn(&mut AttentionRun<bf16>) -> &mut Upload<i32>;
    let (seqlens, queries): (Field, Field) = (|run| &mut run.cu_seqlens, |run| &mut run.cu_queries);
    // And the sequences at fault.
    let edits: [(Field, [i32; 4], &[usize]); 6] = [
        (seqlens, [0, 30, 20, 340], &[1, 2]),
        (seqlens, [0, 30, 40, 341], &[2]),
        (seqlens, [-1, 30, 40, 340], &[0]),
        (seqlens, [0, 30, i32::MAX, 340], &[1, 2]),
        (queries, [0, 30, 40, i32::MAX], &[2]),
        (queries, [i32::MIN, 30, 40, 340], &[0]),
    ];
    on_device("offsets_that_cannot_be_are_reported_and_change_nothing_else", || {
        let device = device()?;
        let problem = Scoring::<bf16>::new(&[30, 10, 300], 2, 2, 32);
        let score = plain_score(32);
        let lse = problem.lse(&device)?;
        for window in [1, 20, usize::MAX] {
            let plan = |shape| match window {
                usize::MAX => AttentionPlan::columns(shape, score),
                _ => AttentionPlan::window(shape, score, window),
            };
            let lse = (window == usize::MAX).then_some(&lse[..]);
            let right = problem.scores(&device, plan, lse)?;
            for (i, (field, offsets, faulty)) in edits.into_iter().enumerate() {
                let mut run = problem.run(&device, plan, lse)?;
                field(&mut run).write(&offsets)?;
                let scored = run.launch(&device)?;
                assert!(scored.status.has(Fault::Lengths), "edit {i}");
                assert_eq!(scored.status.row(), Some(faulty[0]), "edit {i}");
                for (sequence, span) in problem.rows.spans().enumerate() {
                    let untouched = vec![7.0; span.len];
                    let right = &right[span.range()];
                    let expected = if faulty.contains(&sequence) { &untouched } else { right };
                    let context = format!("edit {i}, sequence {sequence}");
                    assert_same_bits(&scored.scores[span.range()], expected, &context);
                }
            }
        }
        Ok(())
    });
}

/// More queries than keys: the last ones, as many as there are keys.
#[test]
fn queries_without_keys_are_left_out() {
    on_device("queries_without_keys_are_left_out", || {
        let device = device()?;
        let problem = Scoring::<bf16>::new(&[30, 10], 1, 2, 32);
        let score = plain_score(32);
        let plan = |shape| AttentionPlan::window(shape, score, 16);
        let mut run = problem.run(&device, plan, None)?;
        run.cu_seqlens.write(&[0, 30, 33])?;
        let scored = run.launch(&device)?;
        assert_eq!(scored.status, Status::CLEAR);
        let rows = Ragged::from_lens(&[30, 3])?;
        let [q, k] = problem.views();
        let queries = [Span { start: 14, len: 16 }, Span { start: 37, len: 3 }];
        let exact = attention::<f64, bf16>(q, &queries, k, &rows, &score);
        let scores = wide(&scored.scores[..33]);
        assert_accurate(&scores, &exact, &exact, 1e-6, &|| "fewer keys".to_owned());
        assert_eq!(scored.scores[33..], [7.0; 7]);
        Ok(())
    });
}
