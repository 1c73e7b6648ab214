//! The predictor, norms of keys, expected attention, the indexer and percentile ranks.

use half::bf16;
use salient::cuda::DeviceElement;
use salient::dtype::F8E4M3;
use salient::kernels::score::MlpPlan;
use salient::score::Per;
use salient::{Layout, Result, View};
use salient_oracle::generate::Distribution;
use salient_oracle::suite::score::{expected, indexer, rank};

use crate::runs::problem::{mlp_weights, values};
use crate::runs::score::{ExpectedRun, IndexerRun, RankRun, Scored, run_keynorm, run_mlp};
use crate::{Counting, Launched, assert_kernels, counting};

#[test]
fn the_predictor_reads_x_once_per_tile_of_columns_and_w1_once_per_tile_of_tokens() {
    counting("the_predictor_reads_x_once_per_tile_of_columns", |on| {
        // Hidden channels, width, tokens; then the tile: tokens, columns.
        let cases = [
            ((576, 300, 200), (128, 128)),
            ((128, 4096, 257), (128, 128)),
            ((32, 4096, 1800), (256, 128)),
            ((256, 64, 300), (128, 64)),
            ((256, 20, 129), (128, 32)),
        ];
        for ((hidden, width, tokens), (rows, columns)) in cases {
            let (x, weights) = (values::<bf16>(tokens * hidden, 6), mlp_weights(hidden, width));
            let plan = MlpPlan::new(weights.shape(), tokens)?;
            let (scored, launched) =
                on.launches(|device| run_mlp(device, &x, &weights, &plan, None))?;
            let context = format!("{hidden} to {width}, {tokens} tokens");
            let (row_tiles, column_tiles) = (tokens.div_ceil(rows), width.div_ceil(columns));
            let of = |launch: usize, name| launched[launch].buffer(&scored.places, name);
            let x = of(0, "x");
            assert_eq!(x.read as usize, column_tiles * tokens * hidden * 2, "{context}");
            x.assert_whole_sectors(&context);
            // The weights have no other name than that they are none of the others.
            let others = ["x", "scores"].map(|name| of(0, name).read);
            let w1 = row_tiles * width * hidden * 2;
            let read = launched[0].read() - others.iter().sum::<u64>();
            let biases = read as usize - w1;
            assert!(
                biases <= 2 * row_tiles * column_tiles * columns * 4 * 8,
                "{context}: {biases}"
            );
            let steps = hidden.next_multiple_of(32);
            let operations = 2 * (row_tiles * rows) * (column_tiles * columns) * steps;
            assert_eq!(launched[0].matrix_operations() as usize, operations, "{context}");
            launched[0].assert_few_conflicts(&context);

            if column_tiles == 1 {
                assert_eq!(launched.len(), 1, "{context}");
                assert_eq!(of(0, "scores").written as usize, tokens * 4, "{context}");
                assert_eq!(launched[0].written(), of(0, "scores").written, "{context}");
            } else {
                let partials = column_tiles * tokens * 4;
                assert_eq!(of(0, "partials").written as usize, partials, "{context}");
                assert_eq!(launched[0].written() as usize, partials, "{context}");
                assert_eq!(of(1, "partials").read as usize, partials, "{context}");
                assert_eq!(launched[1].written() as usize, tokens * 4, "{context}");
            }
        }
        Ok(())
    });
}

#[test]
fn tokens_that_do_not_exist_are_not_read() {
    counting("tokens_that_do_not_exist_are_not_read", |on| {
        let (hidden, width, tokens) = (64, 150, 300);
        let (x, weights) = (values::<bf16>(tokens * hidden, 4), mlp_weights(hidden, width));
        let plan = MlpPlan::new(weights.shape(), tokens)?;
        for valid in [-1, 0, 1, 128, 129, 300, 1000] {
            let (scored, launched) =
                on.launches(|device| run_mlp(device, &x, &weights, &plan, Some(valid)))?;
            let exist = valid.clamp(0, 300) as usize;
            let read = launched[0].buffer(&scored.places, "x").read as usize;
            assert_eq!(read, width.div_ceil(128) * exist * hidden * 2, "{valid} valid tokens");
        }
        Ok(())
    });
}

#[test]
fn key_norms_read_once_and_write_whole_lines() {
    counting("key_norms_read_once_and_write_whole_lines", |on| {
        let (tokens, dim) = (512, 128);
        for heads in [1, 2, 3, 8, 12] {
            let keys = values::<bf16>(tokens * heads * dim, 7);
            for layout in [Layout::token_major(heads, dim), Layout::head_major(heads, dim, tokens)]
            {
                for (per, outputs) in [(Per::Token, 1), (Per::KvHead, heads)] {
                    let keys = View::new(&keys[..], layout);
                    let (scored, launched) =
                        on.launches(|device| run_keynorm(device, keys, tokens, per, 0))?;
                    let of = |name| launched[0].buffer(&scored.places, name);
                    let context = format!("{heads} heads {per:?}");
                    assert_eq!(of("keys").read as usize, tokens * heads * dim * 2, "{context}");
                    assert_eq!(of("scores").written as usize, outputs * tokens * 4, "{context}");
                    let all = of("keys").read + of("scores").written;
                    assert_eq!(launched[0].bytes(), all, "{context}");
                    of("keys").assert_whole_sectors(&context);
                    of("scores").assert_whole_sectors(&context);
                    launched[0].assert_few_conflicts(&context);
                }
            }
        }
        Ok(())
    });
}

/// Keys and values once, statistics once for every block of tokens, little else.
#[test]
fn expected_attention_reads_keys_and_values_once() {
    counting("expected_attention_reads_keys_and_values_once", |on| {
        for (dim, tokens_of_block) in [(64, 256), (128, 256), (96, 256), (256, 128)] {
            for (covariance, head_major) in [(true, false), (false, true)] {
                let (lens, kv_heads, group) = ([300, 40], 2, 3);
                let plain = expected::Case::new(3, &lens);
                let value_dim = Some(dim);
                let case =
                    expected::Case { covariance, head_major, group, dim, value_dim, ..plain };
                let (scored, launched) = on.launches(|device| {
                    let (k, v, rows) = (case.k::<bf16>(), case.v::<bf16>(), case.rows());
                    let layout = match head_major {
                        true => Layout::head_major(kv_heads, dim, rows.total()),
                        false => Layout::token_major(kv_heads, dim),
                    };
                    let views = (View::new(&k[..], layout), Some(View::new(&v[..], layout)));
                    let statistics = case.statistics();
                    ExpectedRun::new(device, views, &rows, &statistics, &case.options)?
                        .launch(device)
                })?;
                scored.status.check()?;
                let context =
                    format!("dim {dim}, covariance {covariance}, head major {head_major}");
                let names = ["logits", "totals", "keynorm", "scores"];
                assert_kernels(&launched, &names);
                let (total, q_heads) = (340, kv_heads * group);
                let of = |launch: usize, name| launched[launch].buffer(&scored.places, name);
                for (launch, name) in [(0, "k"), (2, "v")] {
                    let read = of(launch, name);
                    assert_eq!(read.read as usize, total * kv_heads * dim * 2, "{context}: {name}");
                    read.assert_whole_sectors(&format!("{context}: {name}"));
                }
                // 16 columns at a time, three terms of the blocks on and above the diagonal.
                let chunks = dim / 16;
                let blocks = if covariance { 3 * chunks * (chunks + 1) / 2 } else { 0 };
                let tiles: usize =
                    lens.iter().map(|len: &usize| len.div_ceil(tokens_of_block)).sum();
                let products = tiles * tokens_of_block * q_heads * blocks * 16 * 16;
                let operations = launched[0].matrix_operations() as usize;
                assert_eq!(operations, 2 * products, "{context}");
                let logits = of(0, "workspace").written;
                assert_eq!(logits as usize, total * q_heads * 4, "{context}");
                let scores = of(3, "scores").written;
                assert_eq!(scores as usize, total * kv_heads * 4, "{context}");
                launched.iter().for_each(|launched| launched.assert_few_conflicts(&context));
            }
        }
        Ok(())
    });
}

/// Keys once for 32 queries, queries once for 256 keys, and neither where no window meets them.
#[test]
fn the_indexer_reads_keys_once_per_tile_of_queries() {
    counting("the_indexer_reads_keys_once_per_tile_of_queries", |on| {
        check_indexer::<bf16>(on)?;
        check_indexer::<F8E4M3>(on)
    });
}

fn check_indexer<T: DeviceElement + Default>(on: &Counting<'_>) -> Result<()> {
    let launch = |case: &indexer::Case| -> Result<(Scored, Vec<Launched>)> {
        let built = case.build::<T>();
        on.launches(|device| {
            case.with(&built, |queries, keys| {
                IndexerRun::new(device, queries, keys, case.logits())?.launch(device)
            })
        })
    };
    for (heads, dim) in [(64, 128), (32, 64), (8, 128), (5, 32)] {
        let size = size_of::<T>();
        let context = format!("{heads} heads of {dim} {:?}", T::DTYPE);
        let plain = indexer::Case::new(1, &[(1, 700), (1, 64)]);
        let sees = indexer::Sees::Full;
        let decode = indexer::Case { sees, spare: None, heads, dim, scaled: true, ..plain };
        let (scored, launched) = launch(&decode)?;
        let of = |name| launched[0].buffer(&scored.places, name);
        assert_eq!(of("k").read as usize, 764 * dim * size, "{context}");
        of("k").assert_whole_sectors(&context);
        assert_eq!(of("q").read as usize, 4 * heads * dim * size, "{context}");
        assert_eq!(of("logits").written, 764 * 4, "{context}");
        launched[0].assert_few_conflicts(&context);

        let prefill = indexer::Case { heads, dim, ..indexer::Case::new(2, &[(512, 512)]) };
        let (scored, launched) = launch(&prefill)?;
        let of = |name| launched[0].buffer(&scored.places, name);
        // Of 16 tiles of queries, all see the first 256 keys and 8 the rest.
        assert_eq!(of("k").read as usize, 24 * 256 * dim * size, "{context}");
        of("k").assert_whole_sectors(&context);
        assert_eq!(of("q").read as usize, (512 + 256) * heads * dim * size, "{context}");
        assert_eq!(of("logits").written, 512 * 512 * 4, "{context}");
        of("logits").assert_whole_sectors(&context);
        launched[0].assert_few_conflicts(&context);
    }
    Ok(())
}

/// A sequence once for every 128 of its scores, and scores once for each of 8 warps and at the end.
#[test]
fn ranks_read_a_sequence_once_per_block() {
    counting("ranks_read_a_sequence_once_per_block", |on| {
        let heads = 2;
        for (lens, aligned) in [([1304usize, 96], true), ([1301, 90], false)] {
            let (seed, distribution) = (1, Distribution::Normal);
            let case = rank::Case { seed, distribution, lens: lens.to_vec(), heads };
            let (scored, launched) = on.launches(|device| {
                RankRun::new(device, &case.scores(), &case.rows(), 0)?.launch(device)
            })?;
            let context = format!("{lens:?}");
            assert_kernels(&launched, &["rank"]);
            let of = |name| launched[0].buffer(&scored.places, name);
            let read: usize = lens.iter().map(|len| len * (len.div_ceil(128) + 8 + 1) * 4).sum();
            assert_eq!(of("scores").read as usize, heads * read, "{context}");
            let written = heads * lens.iter().sum::<usize>() * 4;
            assert_eq!(of("out").written as usize, written, "{context}");
            assert_eq!(launched[0].written() as usize, written, "{context}");
            if aligned {
                of("scores").assert_whole_sectors(&context);
                of("out").assert_whole_sectors(&context);
            }
            launched[0].assert_few_conflicts(&context);
        }
        Ok(())
    });
}
