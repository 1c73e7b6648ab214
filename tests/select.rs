//! Selection on the host: equality with the oracle on any input, and independence of everything
//! else.

#[path = "common/host.rs"]
mod host;
#[path = "common/pools.rs"]
mod pools;

use proptest::prelude::*;
use salient::Ragged;
use salient::select::Selection;
use salient_oracle::generate::Random;
use salient_oracle::suite::select::{Case, cases};

use host::Host;
use pools::in_pools;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn equals_the_oracle(case in cases(3000)) {
        case.check(&Host);
    }

    #[test]
    fn the_order_of_a_batch_changes_no_row(case in cases(500), seed: u64) {
        let order = Random::new(seed).permutation(case.lens.len());
        case.check_order(&Host, &order);
    }

    #[test]
    fn lists_survive_the_round_trip(case in cases(300)) {
        let Ok(selected) = case.run(&Host) else { return Ok(()) };
        let rows = Ragged::from_lens(&case.lens).unwrap();
        let selection = Selection::from_lists(rows, case.heads, &selected.kept).unwrap();
        prop_assert_eq!(selection.inverse(), selected.inverse);
        prop_assert_eq!(selection.kept(), selected.kept.concat());
        let longest = selected.kept.iter().map(Vec::len).max().unwrap_or(0);
        let padded = selection.padded(longest + 2).unwrap();
        for (row, list) in padded.chunks_exact(longest + 2).zip(&selected.kept) {
            prop_assert_eq!(&row[..list.len()], &list[..]);
            prop_assert!(row[list.len()..].iter().all(|&index| index == -1));
        }
        prop_assert!(longest == 0 || selection.padded(longest - 1).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Long enough to be shared between threads.
    #[test]
    fn the_number_of_threads_changes_nothing(case in cases(60_000)) {
        let case = Case { heads: 3, ..case };
        in_pools(|| case.run(&Host));
    }
}

#[test]
fn lists_that_cannot_be_are_rejected() {
    let rows = Ragged::from_lens(&[3, 0, 2]).unwrap();
    let from = |heads, lists: &[Vec<i32>]| Selection::from_lists(rows.clone(), heads, lists);
    assert!(from(1, &[vec![0, 2], vec![], vec![1]]).is_ok());
    assert!(from(1, &[vec![0, 2], vec![]]).is_err());
    assert!(from(1, &[vec![2, 0], vec![], vec![1]]).is_err());
    assert!(from(1, &[vec![0, 0], vec![], vec![1]]).is_err());
    assert!(from(1, &[vec![0, 3], vec![], vec![1]]).is_err());
    assert!(from(1, &[vec![-1, 0], vec![], vec![1]]).is_err());
    assert!(from(1, &[vec![0], vec![0], vec![1]]).is_err());
    assert!(from(0, &[]).is_err());
    assert!(from(2, &[vec![0], vec![1], vec![], vec![], vec![0], vec![1]]).is_ok());
}
