//! **compact** by the emulated kernels: the suite, every layout, what is moved, and what is not.

mod caches;
mod kv;
mod rows;
mod traffic;

use std::panic::{AssertUnwindSafe, catch_unwind};

use proptest::prelude::*;
use salient_emulator::Emulated;
use salient_oracle::generate::Random;
use salient_oracle::suite::compact::{self, Case, Keeping};

#[test]
fn the_suite_on_both_capabilities() {
    for (seed, capability) in [(1, 80), (2, 90)] {
        compact::all(&Emulated { seed, capability, ..Emulated::default() });
    }
}

/// Threads in another order: the same bytes, or the suite says so.
#[test]
fn the_suite_under_many_seeds() {
    for seed in 10..20 {
        let keeping = Keeping::Share(0.1 * (seed - 9) as f64);
        let case = Case {
            seed,
            lens: vec![3, 0, 257, 130],
            kv_heads: 3,
            dim: 20,
            per_head: seed % 2 == 0,
            keeping,
        };
        compact::check(&Emulated { seed, ..Emulated::default() }, &case);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_case(case in compact::cases(150), seed: u64) {
        compact::check(&Emulated { seed, ..Emulated::default() }, &case);
    }
}

#[test]
fn mutants_are_caught() {
    let case = Case {
        seed: 0,
        lens: vec![300, 40],
        kv_heads: 2,
        dim: 16,
        per_head: false,
        keeping: Keeping::Share(0.8),
    };
    let caught = |mutant, test: &dyn Fn(&Emulated)| {
        let fails = |seed| {
            let on = Emulated { seed, mutant: Some(mutant), ..Emulated::default() };
            catch_unwind(AssertUnwindSafe(|| test(&on))).is_err()
        };
        assert!((0..4).any(fails), "{mutant}: nobody noticed");
    };
    // Mutants that are not switched on change nothing.
    compact::check(&Emulated { mutant: Some("none"), ..Emulated::default() }, &case);
    caught("compact/barrier", &|on| compact::check(on, &case));
    caught("compact/bounds", &|on| kv::garbage_moves_nothing_astray(on, 0));
    caught("compact/bounds", &|on| rows::garbage_moves_nothing_astray(on, 0));
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..len).map(|_| random.bits() as u8).collect()
}
