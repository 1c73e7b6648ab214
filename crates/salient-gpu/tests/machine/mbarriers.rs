//! PTX ISA: mbarrier and setmaxnreg.

use salient_gpu::FaultKind;

use crate::common::{Case, words};

/// Declares an mbarrier `b`, which thread 0 initialises.
fn with(count: u32, body: &str) -> String {
    format!(
        ".shared .align 8 .b64 b; .shared .align 4 .b8 s[1024];
         setp.ne.u32 %p30, %r31, 0;
         @!%p30 mbarrier.init.shared.b64 [b], {count};
         bar.sync 0;
         {body}"
    )
}

#[test]
fn a_phase_ends_with_the_last_arrival() {
    let body = with(
        3,
        "mbarrier.test_wait.parity.shared.b64 %p0, [b], 0;
         mbarrier.test_wait.parity.shared.b64 %p1, [b], 1;
         mbarrier.arrive.shared.b64 %d3, [b];
         mbarrier.test_wait.shared.b64 %p2, [b], %d3;
         mbarrier.arrive.shared.b64 %d4, [b], 2;
         mbarrier.test_wait.shared.b64 %p3, [b], %d3;
         mbarrier.test_wait.shared.b64 %p4, [b], %d4;
         mbarrier.test_wait.parity.shared.b64 %p5, [b], 0;
         mbarrier.test_wait.parity.shared.b64 %p6, [b], 1;
         mbarrier.pending_count.b64 %r10, %d3; mbarrier.pending_count.b64 %r11, %d4;
         mbarrier.arrive.shared::cta.b64 _, [b], 3;
         mbarrier.test_wait.parity.shared.b64 %p7, [b], 1;
         mbarrier.inval.shared.b64 [b];
         selp.u32 %r2, 1, 0, %p0; selp.u32 %r3, 2, 0, %p1; selp.u32 %r4, 4, 0, %p2;
         selp.u32 %r5, 8, 0, %p3; selp.u32 %r6, 16, 0, %p4; selp.u32 %r7, 32, 0, %p5;
         selp.u32 %r8, 64, 0, %p6; selp.u32 %r9, 128, 0, %p7;
         add.u32 %r1, %r2, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5;
         add.u32 %r1, %r1, %r6; add.u32 %r1, %r1, %r7; add.u32 %r1, %r1, %r8; add.u32 %r1, %r1, %r9;
         mad.lo.u32 %r1, %r10, 1000, %r1; mad.lo.u32 %r1, %r11, 10000, %r1;",
    );
    let output = Case { body: &body, block: [1; 3], ..Case::default() }.output();
    assert_eq!(output, [2 + 8 + 16 + 32 + 128 + 3000 + 20000]);
}

#[test]
fn warps_hand_over_by_phases() {
    let body = with(
        32,
        "mov.u32 %r2, s; and.b32 %r3, %r31, 31; shl.b32 %r3, %r3, 2; add.u32 %r2, %r2, %r3;
         mov.u32 %r4, 0;
         setp.lt.u32 %p0, %r31, 32; @%p0 bra MAKE;
         TAKE: and.b32 %r5, %r4, 1;
         WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [b], %r5; @!%p1 bra WAIT;
         shl.b32 %r6, %r4, 7; add.u32 %r6, %r2, %r6; ld.shared.u32 %r7, [%r6];
         mad.lo.u32 %r1, %r1, 3, %r7;
         bar.sync 1, 64;
         add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 6; @%p2 bra TAKE; bra END;
         MAKE: shl.b32 %r6, %r4, 7; add.u32 %r6, %r2, %r6;
         add.u32 %r7, %r4, %r31; st.shared.u32 [%r6], %r7;
         mbarrier.arrive.shared.b64 _, [b];
         bar.sync 1, 64;
         add.u32 %r4, %r4, 1; setp.lt.u32 %p2, %r4, 6; @%p2 bra MAKE;
         END:",
    );
    for config in ["", "order=reverse,races", "order=random,delay=100", "async=random,seed=2"] {
        let output = Case { body: &body, config, block: [64, 1, 1], ..Case::default() }.output();
        let expected =
            words(64, |i| if i < 32 { 0 } else { (0..6).fold(0, |sum, k| sum * 3 + k + i - 32) });
        assert_eq!(output, expected, "{config}");
    }
}

#[test]
fn bytes_are_waited_for_too() {
    let test = "mbarrier.test_wait.parity.shared.b64 %p0, [b], 0; selp.u32 %r2, 1, 0, %p0;
        shl.b32 %r1, %r1, 1; or.b32 %r1, %r1, %r2;";
    let steps = [
        "mbarrier.arrive.expect_tx.shared.b64 _, [b], 96;",
        "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [b], 64;",
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [b], 8;",
        "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [b], 40;",
    ];
    let body = with(1, &steps.map(|step| format!("{step} {test}")).concat());
    assert_eq!(Case { body: &body, block: [1; 3], ..Case::default() }.output(), [1]);
    // Bytes may come before they are expected: they do not end the phase.
    let early = [
        "mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [b], 64;",
        "mbarrier.arrive.expect_tx.shared.b64 _, [b], 64;",
    ];
    let body = with(1, &early.map(|step| format!("{step} {test}")).concat());
    assert_eq!(Case { body: &body, block: [1; 3], ..Case::default() }.output(), [1]);
}

#[test]
fn who_drops_is_not_expected_any_more() {
    let body = with(
        2,
        "mbarrier.arrive_drop.shared.b64 _, [b]; mbarrier.arrive.shared.b64 _, [b];
         mbarrier.test_wait.parity.shared.b64 %p0, [b], 0;
         mbarrier.arrive.shared.b64 _, [b];
         mbarrier.test_wait.parity.shared.b64 %p1, [b], 1;
         selp.u32 %r2, 1, 0, %p0; selp.u32 %r1, 2, 0, %p1; add.u32 %r1, %r1, %r2;",
    );
    assert_eq!(Case { body: &body, block: [1; 3], ..Case::default() }.output(), [3]);
}

#[test]
fn generic_addresses_do_as_well() {
    let body = "
        .shared .align 8 .b64 b; mov.u32 %r2, b; cvt.u64.u32 %d3, %r2; cvta.shared.u64 %d3, %d3;
        mbarrier.init.b64 [%d3], 1; mbarrier.arrive.b64 %d4, [%d3];
        mbarrier.test_wait.b64 %p0, [%d3], %d4; selp.u32 %r1, 1, 0, %p0;";
    assert_eq!(Case { body, block: [1; 3], ..Case::default() }.output(), [1]);
}

#[test]
fn rules_that_are_broken() {
    let cases = [
        (1, "mbarrier.arrive.shared.b64 _, [b], 2;"),
        (1, "mbarrier.arrive.shared.b64 _, [b], 0;"),
        (1, "mbarrier.arrive.expect_tx.shared.b64 _, [b], 16;\nmbarrier.arrive.shared.b64 _, [b];"),
        (1, "mbarrier.arrive.shared.b64 _, [s];"),
        (1, "mbarrier.test_wait.parity.shared.b64 %p0, [s], 0;"),
        (1, "mbarrier.inval.shared.b64 [b];\nmbarrier.arrive.shared.b64 _, [b];"),
        (1, "mbarrier.test_wait.parity.shared.b64 %p0, [b], 2;"),
        (1, "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [b], 1048576;"),
        (0, ""),
    ];
    for (count, what) in cases {
        let body = with(count, what);
        let fault = Case { body: &body, block: [1; 3], ..Case::default() }.run();
        assert_eq!(fault.expect_err(what).kind, FaultKind::Misuse, "{what}");
    }
    let body = with(1, "mbarrier.arrive.shared.b64 _, [b+4];");
    Case { body: &body, block: [1; 3], ..Case::default() }.fault(FaultKind::Misaligned);
}

#[test]
fn a_wait_for_nothing_is_a_deadlock() {
    let body = with(
        2,
        "mbarrier.arrive.shared.b64 _, [b];
        WAIT: mbarrier.try_wait.parity.shared.b64 %p0, [b], 0; @!%p0 bra WAIT;",
    );
    Case { body: &body, block: [1; 3], ..Case::default() }.fault(FaultKind::Deadlock);
}

#[test]
fn registers_move_between_warps_but_do_not_grow() {
    // 384 threads have 168 registers each, as long as something asks for more.
    let body = |inc: u32| {
        format!(
            "setp.lt.u32 %p0, %r31, 128; @%p0 bra LESS;
             setmaxnreg.inc.sync.aligned.u32 {inc}; bra END;
             LESS: setmaxnreg.dec.sync.aligned.u32 40;
             END: mov.u32 %r1, 1; bra OVER;
             setmaxnreg.inc.sync.aligned.u32 232;
             OVER:"
        )
    };
    let run = |inc, directives, config| {
        let body = body(inc);
        let case = Case { body: &body, directives, config, block: [384, 1, 1], ..Case::default() };
        case.run().map_err(|fault| fault.kind)
    };
    for config in ["", "order=reverse"] {
        assert!(run(232, ".maxntid 384, 1, 1", config).is_ok());
    }
    // 4 * 128 are free, and 8 * 72 are asked for.
    assert_eq!(run(240, ".maxntid 384, 1, 1", "").unwrap_err(), FaultKind::Deadlock);
    assert_eq!(run(160, ".maxntid 384, 1, 1", "").unwrap_err(), FaultKind::Misuse);
    assert_eq!(run(232, "", "").unwrap_err(), FaultKind::Misuse);
}
