//! Prints what `select` reads and writes at the shapes of docs/design.md, as the emulator counts it.

use salient::Ragged;
use salient::host::select::{Budget, PerSequence, Protect, Request};
use salient::kernels::select::Variant;
use salient_emulator::Emulated;
use salient_oracle::generate::Distribution;

fn main() -> salient::Result<()> {
    let few = Budget::Count(PerSequence::All(2048));
    for (variant, capability, lens, budget) in [
        (Variant::Block, 80, [16_384; 8].as_slice(), Budget::Ratio(0.35)),
        (Variant::Cluster, 90, &[131_072; 2], few),
        (Variant::Grid, 80, &[131_072; 2], few),
    ] {
        let on = Emulated { variant, capability, counting: true, ..Emulated::default() };
        let rows = Ragged::from_lens(lens)?;
        let scores = Distribution::Normal.scores(rows.total(), 1);
        let request = Request { rows: &rows, heads: 1, budget, protect: Protect::default() };
        for launched in on.run_select(&scores, &request)?.launched {
            let traffic = launched.traffic;
            println!(
                "{}, {} rows of {}: {:.2} ways in shared memory, {} atomics there",
                launched.kernel,
                lens.len(),
                lens[0],
                traffic.shared.ways(),
                traffic.shared.atomics,
            );
            println!(
                "{:<16} {:>12} {:>8} {:>12} {:>8} {:>8}",
                "buffer", "read B", "sectors", "written B", "sectors", "atomics"
            );
            for (name, b) in traffic.buffers {
                println!(
                    "{name:<16} {:>12} {:>7.2}x {:>12} {:>7.2}x {:>8}",
                    b.read.bytes,
                    b.read.sectors as f64 / b.read.least_sectors.max(1) as f64,
                    b.written.bytes,
                    b.written.sectors as f64 / b.written.least_sectors.max(1) as f64,
                    b.atomics,
                );
            }
        }
    }
    Ok(())
}
