//! PTX ISA: barrier, bar, bar.warp.sync.

use salient_gpu::FaultKind;

use crate::common::{Case, UNTOUCHED, words};

#[test]
fn a_barrier_is_passed_when_all_have_come() {
    let body = "
        .shared .align 4 .b8 s[1024];
        mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r3, %r2, %r3;
        mov.u32 %r6, 0;
        ROUND: add.u32 %r5, %r6, %r31;
        st.shared.u32 [%r3], %r5;
        bar.sync 0;
        mov.u32 %r7, 129; sub.u32 %r7, %r7, %r31; shl.b32 %r7, %r7, 2; add.u32 %r7, %r2, %r7;
        ld.shared.u32 %r8, [%r7]; add.u32 %r1, %r1, %r8;
        barrier.cta.sync.aligned 0;
        add.u32 %r6, %r6, 1; setp.lt.u32 %p0, %r6, 5; @%p0 bra ROUND;";
    for config in ["", "order=reverse", "order=random,delay=40", "order=random,seed=3"] {
        let case = Case { body, config, block: [130, 1, 1], grid: [2, 1, 1], ..Case::default() };
        assert_eq!(case.output(), words(260, |i| 5 * (129 - i % 130) + 10), "{config}");
    }
}

#[test]
fn barriers_of_some_warps_count_them() {
    // Warps 0 and 2 meet at one barrier, 1 and 3 at another, at the same time.
    let body = "
        .shared .align 4 .b8 s[512];
        mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3;
        st.shared.u32 [%r4], %r31;
        shr.u32 %r5, %r31, 5; and.b32 %r5, %r5, 1; add.u32 %r5, %r5, 3;
        bar.sync %r5, 64;
        xor.b32 %r3, %r3, 256; add.u32 %r4, %r2, %r3; ld.shared.u32 %r1, [%r4];";
    for config in ["", "order=reverse", "order=random"] {
        let output = Case { body, config, block: [128, 1, 1], ..Case::default() }.output();
        assert_eq!(output, words(128, |i| i ^ 64));
    }
}

#[test]
fn producers_arrive_and_consumers_wait() {
    let body = "
        .shared .align 4 .b8 s[128];
        mov.u32 %r2, s; and.b32 %r3, %r31, 31; shl.b32 %r3, %r3, 2; add.u32 %r2, %r2, %r3;
        setp.lt.u32 %p0, %r31, 32; @%p0 bra MAKE;
        mov.u32 %r4, 0;
        TAKE: bar.sync 1, 64;
        ld.shared.u32 %r5, [%r2]; mad.lo.u32 %r1, %r1, 3, %r5;
        bar.arrive 2, 64;
        add.u32 %r4, %r4, 1; setp.lt.u32 %p1, %r4, 6; @%p1 bra TAKE;
        bra END;
        MAKE: mov.u32 %r4, 0;
        NEXT: add.u32 %r5, %r4, %r31;
        st.shared.u32 [%r2], %r5;
        bar.arrive 1, 64;
        bar.sync 2, 64;
        add.u32 %r4, %r4, 1; setp.lt.u32 %p1, %r4, 6; @%p1 bra NEXT;
        END:";
    for config in ["", "order=reverse", "order=random,delay=100", "races"] {
        let output = Case { body, config, block: [64, 1, 1], ..Case::default() }.output();
        let expected =
            words(64, |i| if i < 32 { 0 } else { (0..6).fold(0, |sum, k| sum * 3 + k + i - 32) });
        assert_eq!(output, expected, "{config}");
    }
}

#[test]
fn a_barrier_reduces() {
    let body = "
        setp.lt.u32 %p0, %r31, 50; setp.lt.u32 %p1, %r31, 500; setp.gt.u32 %p2, %r31, 500;
        bar.red.popc.u32 %r2, 0, %p0;
        bar.red.and.pred %p3, 0, %p1; bar.red.and.pred %p4, 0, %p0;
        bar.red.or.pred %p5, 0, %p0; bar.red.or.pred %p6, 1, 96, !%p2; barrier.red.or.pred %p7, 1, %p2;
        selp.u32 %r3, 1000, 0, %p3; selp.u32 %r4, 2000, 0, %p4; selp.u32 %r5, 4000, 0, %p5;
        selp.u32 %r6, 8000, 0, %p6; selp.u32 %r7, 16000, 0, %p7;
        add.u32 %r1, %r2, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5;
        add.u32 %r1, %r1, %r6; add.u32 %r1, %r1, %r7;";
    assert_eq!(Case { body, block: [96, 1, 1], ..Case::default() }.output(), [13050; 96]);
}

#[test]
fn warps_that_have_ended_are_not_waited_for() {
    let body = "
        setp.lt.u32 %p0, %r31, 32; @%p0 exit;
        bar.sync 0;
        setp.lt.u32 %p0, %r31, 40; @%p0 exit;
        bar.sync 0;
        mov.u32 %r1, 1;";
    for config in ["", "order=reverse", "order=random"] {
        let output = Case { body, config, block: [96, 1, 1], ..Case::default() }.output();
        assert_eq!(output, words(96, |i| if i < 40 { UNTOUCHED } else { 1 }));
    }
}

#[test]
fn counts_that_do_not_agree_are_misuse() {
    for body in [
        "setp.lt.u32 %p0, %r31, 32; selp.u32 %r2, 64, 96, %p0; bar.sync 1, %r2;",
        "bar.sync 1, 33;",
        "bar.sync 1, 0;",
        "mov.u32 %r2, 16; bar.sync %r2;",
        "rem.u32 %r2, %r31, 2; bar.sync %r2;",
    ] {
        Case { body, block: [96, 1, 1], ..Case::default() }.fault(FaultKind::Misuse);
    }
    // A count that is said and one that is not are the same where they are equal.
    let body = "setp.lt.u32 %p0, %r31, 32; @%p0 bra A; bar.sync 1; bra B; A: bar.sync 1, 96; B:";
    Case { body, block: [96, 1, 1], ..Case::default() }.output();
}

#[test]
fn who_waits_for_nobody_is_told_where() {
    let body = "setp.lt.u32 %p0, %r31, 32; @%p0 bra A;\nbar.sync 1; // one\nbra B; A:\nbar.sync 2; // two\nB:";
    let case = Case { body, block: [64, 1, 1], grid: [2, 1, 1], ..Case::default() };
    let fault = case.fault(FaultKind::Deadlock);
    for line in [case.line("// one"), case.line("// two")] {
        assert!(fault.message.contains(&format!("PTX line {line}")), "{fault}");
    }
    // Half of a warp.
    let body = "setp.lt.u32 %p0, %r31, 16; @%p0 bra A; bar.sync 1; bra B; A: bar.sync 2; B:";
    Case { body, ..Case::default() }.fault(FaultKind::Deadlock);
}

#[test]
fn a_warps_lanes_meet() {
    let body = "
        .shared .align 4 .b8 s[128];
        mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3;
        setp.lt.u32 %p0, %r31, 16; @%p0 bra LOW;
        st.shared.u32 [%r4], %r31; bar.warp.sync -1; bra JOIN;
        LOW: add.u32 %r5, %r31, 100; st.shared.u32 [%r4], %r5; bar.warp.sync -1;
        JOIN: xor.b32 %r3, %r3, 64; add.u32 %r4, %r2, %r3; ld.shared.u32 %r1, [%r4];";
    for config in ["", "races", "order=random"] {
        let output = Case { body, config, ..Case::default() }.output();
        assert_eq!(output, words(32, |i| if i < 16 { i + 16 } else { i - 16 + 100 }));
    }
}

#[test]
fn groups_of_lanes_meet_by_themselves() {
    let body = "
        .shared .align 4 .u32 s[4];
        shr.u32 %r2, %r31, 3; shl.b32 %r3, %r2, 3; mov.u32 %r4, 255; shl.b32 %r4, %r4, %r3;
        mov.u32 %r5, s; shl.b32 %r6, %r2, 2; add.u32 %r5, %r5, %r6;
        and.b32 %r7, %r31, 7; setp.ne.u32 %p0, %r7, 7; @%p0 bra GO;
        st.shared.u32 [%r5], %r31;
        GO: bar.warp.sync %r4;
        ld.shared.u32 %r1, [%r5];";
    for config in ["", "races"] {
        assert_eq!(Case { body, config, ..Case::default() }.output(), words(32, |i| i | 7));
    }
}

#[test]
fn a_lane_that_never_comes_is_a_deadlock_and_one_that_is_not_in_the_mask_misuse() {
    let never = "setp.eq.u32 %p0, %r31, 3; @%p0 bra L; bar.warp.sync -1; bra E;
        L: bar.sync 0; E: bar.sync 0;";
    Case { body: never, ..Case::default() }.fault(FaultKind::Deadlock);
    let stranger = Case { body: "bar.warp.sync 0x7fffffff;", ..Case::default() };
    assert_eq!(stranger.fault(FaultKind::Misuse).lanes, 1 << 31);
    // Lanes that have exited are not waited for.
    let gone = "setp.eq.u32 %p0, %r31, 3; @%p0 exit; bar.warp.sync -1; mov.u32 %r1, 1;";
    let output = Case { body: gone, ..Case::default() }.output();
    assert_eq!(output, words(32, |i| if i == 3 { UNTOUCHED } else { 1 }));
}

#[test]
fn lanes_that_a_guard_leaves_out_go_on() {
    // Lanes 8 to 15 come only once a later lane has set a flag.
    let body = "
        .shared .align 4 .u32 flag;
        st.shared.u32 [flag], 0; bar.warp.sync -1;
        setp.lt.u32 %p0, %r31, 16;
        and.b32 %r2, %r31, 24; setp.eq.u32 %p1, %r2, 8; @%p1 bra SPIN;
        @%p0 bar.warp.sync 0xffff;
        setp.eq.u32 %p2, %r31, 20; @!%p2 bra END; st.volatile.shared.u32 [flag], 1; bra END;
        SPIN: ld.volatile.shared.u32 %r3, [flag]; setp.eq.u32 %p3, %r3, 0; @%p3 bra SPIN;
        bar.warp.sync 0xffff;
        END: mov.u32 %r1, 1;";
    let output = Case { body, config: "steps=100000", ..Case::default() }.output();
    assert_eq!(output, [1; 32]);
}
