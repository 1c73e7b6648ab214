//! Selection by the emulated kernels: equality with the oracle in every variant.

use salient_emulator::Emulated;
use salient_oracle::suite::select;
use std::time::Instant;

#[test]
fn quick() {
    for variant in 1..=3 {
        let on = &Emulated { variant, ..Emulated::default() };
        let time = |name: &str, f: &dyn Fn()| {
            let t = Instant::now();
            f();
            eprintln!("{variant} {name} {:?}", t.elapsed());
        };
        time("long", &|| select::one_long_row(on));
        time("thresholds", &|| select::thresholds(on));
        time("ratios", &|| select::ratios(on));
        time("protection", &|| select::protection(on));
        time("below", &|| select::a_budget_below_the_protected_is_rejected(on));
        time("ragged", &|| select::heads_and_ragged_batches(on));
        time("neigh", &|| select::neighbours_change_nothing(on));
        time("same", &|| select::the_same_every_time(on));
        time("hand", &|| select::rules_by_hand(on));
        time("bad", &|| select::bad_input(on));
        time("every", &|| select::every_distribution_length_and_count(on));
    }
}
