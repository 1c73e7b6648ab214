//! What is drawn is drawn from the seed.

use crate::common::Case;

#[test]
fn the_same_seed_gives_the_same_run_and_another_gives_another() {
    // The order in which warps come, and whether a copy has landed before it was waited for.
    let body = "
        .shared .align 16 .b8 s[512]; mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r2, %r2, %r3;
        mad.wide.u32 %d3, %r31, 4, %d2;
        cp.async.ca.shared.global [%r2], [%d3+16], 4;
        atom.global.add.u32 %r4, [%d2], 1; ld.shared.u32 %r5, [%r2];
        setp.eq.u32 %p0, %r5, 0; selp.u32 %r5, 1000, 0, %p0; add.u32 %r1, %r4, %r5;
        cp.async.wait_all; bar.sync 0;";
    let run = |seed: u64| {
        let config = format!("seed={seed},order=random,async=random,delay=20");
        let case = Case {
            body,
            config: &config,
            input: &[0; 132],
            grid: [6, 1, 1],
            block: [128, 1, 1],
            ..Case::default()
        };
        let done = case.run().unwrap();
        (done.output, done.counters.steps)
    };
    let first: Vec<_> = (0..4).map(run).collect();
    let again: Vec<_> = (0..4).map(run).collect();
    assert_eq!(first, again);
    for i in 1..4 {
        assert_ne!(first[0].0, first[i].0);
    }
    let landed = |output: &[u32]| output.iter().filter(|&&word| word >= 1000).count();
    assert!(first.iter().any(|run| landed(&run.0) > 0 && landed(&run.0) < 768));
}
