//! Compaction by the emulated kernels.

use salient_emulator::Emulated;
use salient_oracle::suite::compact;

#[test]
fn the_suite() {
    let t = std::time::Instant::now();
    compact::bad_input(&Emulated::default());
    let case = |lens: &[usize], kv_heads, dim, per_head, keeping| compact::Case {
        seed: 3,
        lens: lens.to_vec(),
        kv_heads,
        dim,
        per_head,
        keeping,
    };
    for keeping in [
        compact::Keeping::All,
        compact::Keeping::Nothing,
        compact::Keeping::Share(0.35),
        compact::Keeping::Last(20),
    ] {
        for per_head in [false, true] {
            for lens in [&[5usize, 0, 33, 1][..], &[257, 64, 100], &[]] {
                for (h, d) in [(1, 1), (2, 3), (3, 64)] {
                    compact::check(&Emulated::default(), &case(lens, h, d, per_head, keeping));
                }
            }
        }
    }
    eprintln!("{:?}", t.elapsed());
}
