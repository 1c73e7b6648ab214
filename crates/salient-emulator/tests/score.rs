//! **score** on the emulated kernels: the conformance suite, what they move, and that they always
//! give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind};

use half::{bf16, f16};
use salient::host::score::{Per, PredictorWeights};
use salient::kernels::score::{MlpPlan, MlpWeights};
use salient::{Element, Layout, View};
use salient_emulator::{Emulated, Launched, Traffic};
use salient_oracle::generate::Random;
use salient_oracle::suite::{assert_same_bits, score};

/// Seeds and compute capabilities that the suite runs under.
const DEVICES: [(u64, i32); 3] = [(1, 80), (2, 90), (3, 80)];

fn devices() -> impl Iterator<Item = Emulated> {
    DEVICES.into_iter().map(|(seed, capability)| Emulated {
        seed,
        capability,
        ..Emulated::default()
    })
}

fn counting() -> Emulated {
    Emulated { counting: true, capability: 80, ..Emulated::default() }
}

#[test]
fn predictors() {
    devices().for_each(|on| score::predictors(&on));
}

#[test]
fn tokens_are_alone() {
    devices().for_each(|on| score::tokens_are_alone(&on));
}

#[test]
fn key_norms() {
    devices().for_each(|on| score::key_norms(&on));
}

#[test]
fn bad_input() {
    devices().for_each(|on| {
        score::bad_predictors(&on);
        score::bad_keys(&on);
    });
}

fn values<T: Element>(len: usize, seed: u64) -> Vec<T> {
    Random::new(seed).normals(len, 1.0).into_iter().map(T::from_f32).collect()
}

fn weights<T: Element>(hidden: usize, width: usize) -> MlpWeights<T> {
    let mut random = Random::new(width as u64);
    let mut normals = |len, fan: usize| random.normals(len, (fan as f32).powf(-0.5));
    let weights = PredictorWeights {
        w1: normals(width * hidden, hidden),
        b1: normals(width, 4),
        w2: normals(width, width),
        b2: normals(1, 1),
        norm: Some((normals(hidden, 1), 1e-5)),
    };
    MlpWeights::new(hidden, weights).unwrap()
}

fn mlp<T: Element>(
    on: Emulated,
    x: &[T],
    weights: &MlpWeights<T>,
    valid: Option<i32>,
) -> (Vec<f32>, Vec<Launched>) {
    let tokens = x.len() / weights.shape().hidden();
    let plan = MlpPlan::new(weights.shape(), tokens).unwrap();
    let mut out = vec![0.0; tokens];
    let launched = on.run_mlp(x, weights, &plan, valid, &mut out).unwrap();
    (out, launched)
}

#[test]
fn twenty_seeds_give_the_same_bits() {
    let (hidden, width, tokens) = (136, 200, 140);
    let (x, weights) = (values::<bf16>(tokens * hidden, 1), weights(hidden, width));
    let keys = values::<f16>(90 * 3 * 40, 2);
    let keys = View::token_major(&keys[..], 3, 40);
    let mut first: Option<[Vec<f32>; 3]> = None;
    for seed in 0..20 {
        let capability = if seed % 2 == 0 { 80 } else { 90 };
        let on = Emulated { seed, capability, ..Emulated::default() };
        let (scores, _) = mlp(on, &x, &weights, None);
        let (mut per_token, mut per_head) = (vec![0.0; 90], vec![0.0; 270]);
        on.run_keynorm(keys, Per::Token, 0, &mut per_token).unwrap();
        on.run_keynorm(keys, Per::KvHead, 0, &mut per_head).unwrap();
        let all = [scores, per_token, per_head];
        let first = first.get_or_insert_with(|| all.clone());
        for (all, first) in all.iter().zip(first) {
            assert_same_bits(all, first, &format!("seed {seed}"));
        }
    }
}

/// Long batches go in blocks of 256 tokens, short ones in blocks of 128.
#[test]
fn a_token_scores_the_same_in_a_long_batch() {
    let (hidden, width, tokens) = (72, 4096, 1800);
    let (x, weights) = (values::<bf16>(tokens * hidden, 3), weights(hidden, width));
    let on = Emulated::default();
    let (long, _) = mlp(on, &x, &weights, None);
    let (short, _) = mlp(on, &x[1500 * hidden..], &weights, None);
    assert_same_bits(&short, &long[1500..], "the last 300 tokens alone");
}

#[test]
fn tokens_beyond_the_valid_ones_score_least() {
    for (width, tokens) in [(40, 300), (150, 300)] {
        let hidden = 64;
        let mut x = values::<f16>(tokens * hidden, 4);
        let weights = weights(hidden, width);
        let (all, _) = mlp(Emulated::default(), &x, &weights, None);
        for valid in [-1, 0, 1, 128, 129, 299, 300, 1000] {
            let exist = valid.clamp(0, 300) as usize;
            // What does not exist is not looked at.
            x[exist * hidden..].fill(f16::NAN);
            let (some, launched) = mlp(counting(), &x, &weights, Some(valid));
            assert_same_bits(&some[..exist], &all[..exist], &format!("{valid} valid tokens"));
            assert!(some[exist..].iter().all(|&score| score == f32::NEG_INFINITY), "{valid}");
            let read = launched[0].traffic.buffer("x").read.bytes as usize;
            assert_eq!(read, width.div_ceil(128) * exist * hidden * 2, "{valid} valid tokens");
            x = values(tokens * hidden, 4);
        }
    }
}

#[test]
fn hidden_states_may_lie_apart() {
    let (hidden, width, tokens, stride) = (72, 33, 130, 96);
    let (x, weights) = (values::<bf16>(tokens * hidden, 5), weights(hidden, width));
    let (dense, _) = mlp(Emulated::default(), &x, &weights, None);
    let mut apart = vec![bf16::NAN; (tokens - 1) * stride + hidden];
    for (token, x) in x.chunks_exact(hidden).enumerate() {
        apart[token * stride..][..hidden].copy_from_slice(x);
    }
    let plan = MlpPlan::new(weights.shape(), tokens).unwrap().with_x_stride(stride).unwrap();
    let mut out = vec![0.0; tokens];
    Emulated::default().run_mlp(&apart, &weights, &plan, None, &mut out).unwrap();
    assert_same_bits(&out, &dense, "hidden states 96 elements apart");
}

/// Bank conflicts, overall and of every site that matters.
fn assert_few_conflicts(traffic: &Traffic) {
    assert!(
        traffic.shared.ways() <= 1.1,
        "{} ways: {:?}",
        traffic.shared.ways(),
        traffic.shared_sites
    );
    for (site, &(passes, wavefronts)) in &traffic.shared_sites {
        let ways = wavefronts as f64 / passes as f64;
        assert!(ways <= 1.1, "{site}: {ways} ways");
    }
}

#[test]
fn the_predictor_reads_x_once_per_tile_of_columns_and_w1_once_per_tile_of_tokens() {
    // Hidden channels, width, tokens; then the tile: tokens, columns.
    let cases = [
        ((576, 300, 200), (128, 128)),
        ((128, 4096, 257), (128, 128)),
        ((32, 4096, 1800), (256, 128)),
        ((256, 64, 300), (128, 64)),
        ((256, 20, 129), (128, 32)),
    ];
    for ((hidden, width, tokens), (rows, columns)) in cases {
        let x = values::<bf16>(tokens * hidden, 6);
        let (_, launched) = mlp(counting(), &x, &weights(hidden, width), None);
        let (row_tiles, column_tiles) = (tokens.div_ceil(rows), width.div_ceil(columns));
        let traffic = &launched[0].traffic;
        let bytes = |name| traffic.buffer(name).read.bytes as usize;
        assert_eq!(bytes("x"), column_tiles * tokens * hidden * 2);
        assert_eq!(bytes("w1"), row_tiles * width * hidden * 2);
        for name in ["x", "w1"] {
            let read = traffic.buffer(name).read;
            assert_eq!(read.sectors, read.least_sectors, "{name}");
        }
        let flops = 2 * (row_tiles * rows) * (column_tiles * columns) * hidden.next_multiple_of(32);
        assert_eq!(traffic.matrix_operations as usize, flops);
        assert_few_conflicts(traffic);

        let written = |launched: &Launched| -> Vec<(String, usize)> {
            let buffers = launched.traffic.buffers.iter();
            let written = buffers.map(|(name, b)| (name.clone(), b.written.bytes as usize));
            written.filter(|&(_, bytes)| bytes > 0).collect()
        };
        let scores = vec![("scores".to_owned(), tokens * 4)];
        if column_tiles == 1 {
            assert_eq!(launched.len(), 1);
            assert_eq!(written(&launched[0]), scores);
        } else {
            let partials = ("partials".to_owned(), column_tiles * tokens * 4);
            assert_eq!(written(&launched[0]), [partials]);
            assert_eq!(written(&launched[1]), scores);
            let read = launched[1].traffic.buffer("partials").read;
            assert_eq!(read.bytes as usize, column_tiles * tokens * 4);
        }
    }
}

#[test]
fn key_norms_read_once_and_write_whole_lines() {
    let (tokens, dim) = (512, 128);
    for heads in [1, 2, 3, 8, 12] {
        let keys = values::<bf16>(tokens * heads * dim, 7);
        for layout in [Layout::token_major(heads, dim), Layout::head_major(heads, dim, tokens)] {
            for (per, outputs) in [(Per::Token, 1), (Per::KvHead, heads)] {
                let mut out = vec![0.0; outputs * tokens];
                let keys = View::new(&keys[..], layout);
                let launched = counting().run_keynorm(keys, per, 0, &mut out).unwrap();
                let traffic = &launched[0].traffic;
                let (keys, scores) =
                    (traffic.buffer("keys").read, traffic.buffer("scores").written);
                assert_eq!(keys.bytes as usize, tokens * heads * dim * 2);
                assert_eq!(scores.bytes as usize, outputs * tokens * 4);
                assert_eq!(traffic.bytes(), (keys.bytes, scores.bytes));
                for requests in [keys, scores] {
                    assert_eq!(requests.sectors, requests.least_sectors, "{heads} heads {per:?}");
                }
                assert_few_conflicts(traffic);
            }
        }
    }
}

/// Sixteen bytes at a time or one element at a time: the sum has one order.
#[test]
fn key_norms_do_not_depend_on_alignment() {
    fn check<T: Element>() {
        let (tokens, heads, dim) = (100, 3, 64);
        let keys = values::<T>(tokens * heads * dim, 8);
        let keys = View::token_major(&keys[..], heads, dim);
        let norms = |skip| {
            let mut out = vec![0.0; heads * tokens];
            Emulated::default().run_keynorm(keys, Per::KvHead, skip, &mut out).unwrap();
            out
        };
        assert_same_bits(&norms(1), &norms(0), "keys one element away from an aligned address");
    }
    check::<f32>();
    check::<f16>();
    check::<bf16>();
}

/// Mistakes made on purpose: the suite sees each.
#[test]
fn mutants_are_caught() {
    type Property = fn(&Emulated);
    let mutants: [(&str, Property); 4] = [
        ("mlp/barrier", score::tokens_are_alone),
        ("mlp/bounds", score::tokens_are_alone),
        ("mlp/order", score::tokens_are_alone),
        ("keynorm/barrier", score::key_norms),
    ];
    for (mutant, property) in mutants {
        let on = Emulated { seed: 1, mutant: Some(mutant), ..Emulated::default() };
        let caught = catch_unwind(AssertUnwindSafe(|| property(&on))).is_err();
        assert!(caught, "{mutant} passes");
    }
    // The same copy of the kernels, doing nothing wrong.
    let on = Emulated { seed: 1, mutant: Some("none"), ..Emulated::default() };
    score::tokens_are_alone(&on);
    score::key_norms(&on);
}
