//! That the race detector hears of everything; what it makes of it is tested where it is.

use salient_gpu::FaultKind;

use crate::common::Case;

#[track_caller]
fn check(case: &Case<'_>, race: bool) {
    for config in ["races", "races,order=reverse", "races,order=random", "races,async=late"] {
        let case = Case { config, ..*case };
        match case.run() {
            Ok(_) => assert!(!race, "no race was found with {config} in {}", case.body),
            Err(fault) => {
                assert_eq!(fault.kind, FaultKind::Race, "{fault}\n{}", case.body);
                assert!(race, "{fault}\n{}", case.body);
            }
        }
    }
}

/// A body with and without some words in it.
#[track_caller]
fn with_and_without(body: &str, words: &str, case: &Case<'_>) {
    let with = body.replace("MAYBE", words);
    check(&Case { body: &with, ..*case }, false);
    let without = body.replace("MAYBE", "");
    check(&Case { body: &without, ..*case }, true);
}

const OWN: &str = "
    .shared .align 1024 .b8 s[8192]; .shared .align 8 .b64 b;
    mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3; xor.b32 %r5, %r3, OTHER;
    add.u32 %r5, %r2, %r5; mad.wide.u32 %d3, %r31, 4, %d2;";

fn own(other: u32) -> String {
    OWN.replace("OTHER", &other.to_string())
}

#[test]
fn threads_of_a_block() {
    let two_warps = Case { block: [64, 1, 1], ..Case::default() };
    let body = format!("{} st.shared.u32 [%r4], %r31; MAYBE ld.shared.u32 %r1, [%r5];", own(128));
    with_and_without(&body, "bar.sync 0;", &two_warps);
    with_and_without(&body, "barrier.sync 1, 64;", &two_warps);
    let body = format!("{} st.shared.u32 [%r4], %r31; MAYBE ld.shared.u32 %r1, [%r5];", own(4));
    with_and_without(&body, "bar.warp.sync -1;", &Case::default());
    with_and_without(&body, "bar.sync 0;", &Case::default());
    // Reads before writes.
    let body = format!(
        "{} st.shared.u32 [%r4], %r31; bar.sync 0; ld.shared.u32 %r1, [%r5]; MAYBE st.shared.u32 [%r4], 1;",
        own(128)
    );
    with_and_without(&body, "bar.sync 0;", &two_warps);
}

/// Who has only arrived knows nothing of the others, even if the barrier has opened.
#[test]
fn arriving_is_not_waiting() {
    // The second warp writes and waits, the first comes when it surely has.
    let body = format!(
        "{} setp.lt.u32 %p1, %r31, 32; @%p1 bra FIRST;
         st.shared.u32 [%r4], %r31; bar.sync 1, 64; bra END;
         FIRST: mov.u32 %r7, 0;
         LATER: add.u32 %r7, %r7, 1; nanosleep.u32 1; setp.lt.u32 %p2, %r7, 200; @%p2 bra LATER;
         MAYBE 1, 64; ld.shared.u32 %r1, [%r5]; END:",
        own(128)
    );
    let case = Case { block: [64, 1, 1], ..Case::default() };
    check(&Case { body: &body.replace("MAYBE", "bar.sync"), ..case }, false);
    check(&Case { body: &body.replace("MAYBE", "bar.arrive"), ..case }, true);
}

#[test]
fn a_race_names_both_sides() {
    let body = format!(
        "{}\nst.shared.u32 [%r4], %r31; // one\nld.shared.u32 %r1, [%r5]; // two",
        own(128)
    );
    let case = Case { body: &body, config: "races", block: [64, 1, 1], ..Case::default() };
    let fault = case.fault(FaultKind::Race);
    for words in ["// one", "// two"] {
        let line = format!("PTX line {}", case.line(words));
        assert!(fault.message.contains(&line), "{fault}");
    }
}

#[test]
fn lanes_that_write_the_same_place() {
    let case = Case { output: 1, ..Case::default() };
    check(&Case { body: "st.global.u32 [%d1], %r0; exit;", ..case }, true);
    check(&Case { body: "st.global.u32 [%d1], 7; exit;", ..case }, false);
    check(&Case { body: "st.volatile.global.u32 [%d1], %r0; exit;", ..case }, false);
    check(&Case { body: "red.global.add.u32 [%d1], %r0; exit;", ..case }, false);
    let two_blocks = Case { output: 1, block: [1; 3], grid: [2, 1, 1], ..Case::default() };
    check(&Case { body: "st.global.u32 [%d1], %r0; exit;", ..two_blocks }, true);
    check(&Case { body: "red.global.add.u32 [%d1], %r0; exit;", ..two_blocks }, false);
}

#[test]
fn blocks_that_hand_over_by_a_flag() {
    let body = "
        setp.ne.u32 %p0, %r0, 0; @%p0 bra TAKE;
        st.global.u32 [%d1+16], 5; MAYBE st.volatile.global.u32 [%d1+32], 1; exit;
        TAKE: ld.volatile.global.u32 %r2, [%d1+32]; setp.ne.u32 %p1, %r2, 1; @%p1 bra TAKE;
        membar.gl; ld.global.u32 %r1, [%d1+16];";
    let case =
        Case { output: 16, block: [1; 3], grid: [2, 1, 1], cooperative: true, ..Case::default() };
    with_and_without(body, "membar.gl;", &case);
    with_and_without(body, "fence.acq_rel.gpu;", &case);
    let released = body.replace("MAYBE st.volatile.global", "st.release.gpu.global");
    check(&Case { body: &released, ..case }, false);
    let within = body.replace("MAYBE st.volatile.global", "st.release.cta.global");
    check(&Case { body: &within, ..case }, true);
    for narrow in ["membar.cta;", "fence.acq_rel.cluster;"] {
        check(&Case { body: &body.replace("MAYBE", narrow), ..case }, true);
    }
}

#[test]
fn copies_behind_a_threads_back() {
    let case = Case { input: &[1; 64], block: [64, 1, 1], ..Case::default() };
    let body = format!(
        "{} cp.async.ca.shared.global [%r4], [%d3], 4; cp.async.commit_group; MAYBE
         ld.shared.u32 %r1, [%r4];",
        own(128)
    );
    with_and_without(&body, "cp.async.wait_group 0;", &case);
    let body = format!(
        "{} cp.async.ca.shared.global [%r4], [%d3], 4; cp.async.wait_all; MAYBE
         ld.shared.u32 %r1, [%r5];",
        own(128)
    );
    with_and_without(&body, "bar.sync 0;", &case);
}

#[test]
fn bulk_copies() {
    let start = format!(
        "{} setp.ne.u32 %p0, %r31, 0; @!%p0 mbarrier.init.shared.b64 [b], 1;
         fence.mbarrier_init.release.cluster; bar.sync 0;",
        own(4)
    );
    let case = Case { input: &[1; 32], ..Case::default() };
    let body = format!(
        "{start} @%p0 bra WAIT; mbarrier.arrive.expect_tx.shared.b64 _, [b], 128;
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%d2], 128, [b];
         WAIT: MAYBE ld.shared.u32 %r1, [%r4]; bar.sync 0;
         END: mbarrier.try_wait.parity.shared.b64 %p1, [b], 0; @!%p1 bra END;"
    );
    let wait = "mbarrier.try_wait.parity.shared.b64 %p1, [b], 0; @!%p1 bra WAIT;";
    with_and_without(&body, wait, &case);
    let body = format!(
        "{start} st.shared.u32 [%r4], %r31; MAYBE bar.sync 0; @%p0 bra END;
         cp.async.bulk.global.shared::cta.bulk_group [%d1], [s], 128;
         cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;
         END: exit;"
    );
    with_and_without(&body, "fence.proxy.async.shared::cta;", &case);
    let body = format!(
        "{start} st.shared.u32 [%r4], %r31; fence.proxy.async.shared::cta; bar.sync 0; @%p0 bra END;
         cp.async.bulk.global.shared::cta.bulk_group [%d1], [s], 128; cp.async.bulk.commit_group;
         MAYBE st.shared.u32 [s], 5; cp.async.bulk.wait_group 0; END: exit;"
    );
    with_and_without(&body, "cp.async.bulk.wait_group.read 0;", &case);
}

#[test]
fn products_of_a_warpgroup() {
    let case = Case { block: [128, 1, 1], ..Case::default() };
    // Zeros everywhere; no swizzle, 128 bytes from one 8 by 8 to the next.
    let body = format!(
        "{} st.shared.v4.u32 [%r6], {{%r1, %r1, %r1, %r1}}; ONE bar.sync 0;
         shr.u32 %r7, %r2, 4; cvt.u64.u32 %d3, %r7; or.b64 %d3, %d3, 0x0000001000080000;
         setp.ne.u32 %p1, %r2, %r2;
         wgmma.fence.sync.aligned;
         wgmma.mma_async.sync.aligned.m64n8k16.f32.f16.f16 {{%f0, %f1, %f2, %f3}}, %d3, %d3, %p1, 1, 1, 0, 0;
         wgmma.commit_group.sync.aligned;
         TWO st.shared.u32 [%r4], 0;
         wgmma.wait_group.sync.aligned 0;",
        own(4).replace("add.u32 %r5,", "shl.b32 %r6, %r31, 4; add.u32 %r6, %r6, %r2; add.u32 %r5,")
    );
    let (fence, wait) = ("fence.proxy.async;", "wgmma.wait_group.sync.aligned 0; bar.sync 0;");
    for (one, two) in [(true, true), (true, false), (false, true)] {
        let body = body
            .replace("ONE", if one { fence } else { "" })
            .replace("TWO", if two { wait } else { "" });
        check(&Case { body: &body, ..case }, !(one && two));
    }
}

#[test]
fn blocks_of_a_cluster() {
    let body = format!(
        "{} st.shared.u32 [%r4], %r31; barrier.cluster.arrive.RELEASE.aligned; barrier.cluster.wait.aligned;
         mov.u32 %r6, %cluster_ctarank; xor.b32 %r6, %r6, 1; mapa.shared::cluster.u32 %r7, %r4, %r6;
         ld.shared::cluster.u32 %r1, [%r7]; barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;",
        own(4)
    );
    for (release, race) in [("release", false), ("relaxed", true)] {
        let body = body.replace("RELEASE", release);
        let case = Case { body: &body, grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::default() };
        check(&case, race);
    }
}
