//! Scores on the host: within the relative rule of the oracle, the same bits on any number of
//! threads.

#[path = "common/host.rs"]
mod host;
#[path = "common/pools.rs"]
mod pools;

use half::bf16;
use proptest::prelude::*;
use salient::host::score::{Predictor, mlp};
use salient::kernels::score::MlpWeights;
use salient::score::PredictorWeights;
use salient_oracle::generate::Random;
use salient_oracle::suite::score::{Case, Queries, cases, expected, indexer, rank};

use host::Host;
use pools::in_pools;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn equals_the_oracle(case in cases(120)) {
        case.check(&Host);
    }

    #[test]
    fn expected_attention_equals_the_oracle(case in expected::cases(120)) {
        case.check(&Host);
    }

    #[test]
    fn an_indexer_equals_the_oracle(case in indexer::cases(120)) {
        case.check(&Host);
    }

    #[test]
    fn ranks_equal_the_oracle(case in rank::cases(300)) {
        case.check(&Host);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    /// Long enough to be shared between threads.
    #[test]
    fn the_number_of_threads_changes_nothing(case in cases(2000)) {
        for queries in [case.queries, Queries::All] {
            let case = Case { queries, dim: case.dim + 40, ..case.clone() };
            in_pools(|| bits(&case.scores::<f32>(&Host)));
        }
    }

    #[test]
    fn nor_does_it_for_expected_attention(case in expected::cases(2000)) {
        in_pools(|| bits(&case.scores::<bf16>(&Host)));
    }

    #[test]
    fn nor_does_it_for_an_indexer(case in indexer::cases(2000)) {
        let built = case.build::<bf16>();
        in_pools(|| bits(&case.run(&Host, &built).unwrap()));
    }

    #[test]
    fn nor_does_it_for_ranks(case in rank::cases(10_000)) {
        in_pools(|| bits(&case.run(&Host)));
    }
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}

/// The weights that kernels take, folded and rounded, are a predictor that is near the given one.
#[test]
fn a_predictor_s_weights_for_kernels_are_near_the_given_ones() {
    let numbers = |seed, len, scale| Random::new(seed).normals(len, scale);
    let given = PredictorWeights {
        w1: numbers(1, 5 * 16, 0.4),
        b1: numbers(2, 5, 0.4),
        w2: numbers(3, 2 * 5, 0.4),
        b2: numbers(4, 2, 0.4),
        norm: Some((numbers(5, 16, 0.4), 1e-5)),
    };
    let used = MlpWeights::<bf16>::new(16, given.clone()).expect("weights").as_used();
    let x = numbers(6, 64, 2.0);
    let (mut exact, mut rounded) = ([0.0; 4], [0.0; 4]);
    mlp(&x, &Predictor::new(16, given).expect("weights"), &mut exact).expect("scores");
    mlp(&x, &Predictor::new(16, used).expect("weights"), &mut rounded).expect("scores");
    for (a, b) in exact.iter().zip(rounded) {
        assert!((a - b).abs() < 0.05, "{a} {b}");
    }
}
