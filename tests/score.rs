//! Scores on the host: within the relative rule of the oracle, the same bits on any number of
//! threads.

#[path = "common/host.rs"]
mod host;
#[path = "common/pools.rs"]
mod pools;

use half::bf16;
use proptest::prelude::*;
use salient_oracle::suite::score::{Case, Queries, cases, expected, indexer};

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
}

fn bits(scores: &[f32]) -> Vec<u32> {
    scores.iter().map(|score| score.to_bits()).collect()
}
