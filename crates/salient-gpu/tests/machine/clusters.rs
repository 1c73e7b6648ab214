//! PTX ISA: barrier.cluster, mapa, getctarank, shared::cluster.

use salient_gpu::FaultKind;

use crate::common::{Case, UNTOUCHED, words};

const MEET: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn special_registers_say_where_a_block_is_in_its_cluster() {
    let registers = [
        "clusterid.x",
        "clusterid.y",
        "nclusterid.x",
        "nclusterid.y",
        "cluster_ctaid.x",
        "cluster_ctaid.y",
        "cluster_nctaid.x",
        "cluster_nctaid.z",
        "cluster_ctarank",
        "cluster_nctarank",
    ];
    for (which, register) in registers.into_iter().enumerate() {
        let body = format!("mov.u32 %r1, %{register};");
        let case = Case {
            body: &body,
            grid: [4, 6, 1],
            block: [1; 3],
            cluster: [2, 3, 1],
            ..Case::default()
        };
        let expected = words(24, |i| {
            let (x, y) = (i % 4, i / 4);
            [x / 2, y / 3, 2, 2, x % 2, y % 3, 2, 1, x % 2 + y % 3 * 2, 6][which]
        });
        assert_eq!(case.output(), expected, "{register}");
    }
}

#[test]
fn blocks_read_write_and_count_in_each_others_shared_memory() {
    let body = format!(
        ".shared .align 8 .b8 s[512]; .shared .align 4 .u32 sum; .shared .align 4 .u32 got[32];
         mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3;
         st.shared.u32 [%r4], %r0; st.shared.u32 [sum], 0;
         {MEET}
         mov.u32 %r5, %cluster_ctarank; add.u32 %r6, %r5, 1; and.b32 %r6, %r6, 3;
         mapa.shared::cluster.u32 %r7, %r4, %r6; ld.shared::cluster.u32 %r8, [%r7];
         cvt.u64.u32 %d3, %r4; cvta.shared.u64 %d3, %d3; mapa.u64 %d4, %d3, %r6; ld.u32 %r9, [%d4];
         sub.u32 %r9, %r9, %r8;
         getctarank.shared::cluster.u32 %r10, %r7; getctarank.u64 %r11, %d4; getctarank.u64 %r14, %d3;
         isspacep.shared::cluster %p1, %d4; isspacep.shared::cta %p2, %d4; isspacep.shared::cta %p3, %d3;
         mov.u32 %r12, sum; mapa.shared::cluster.u32 %r12, %r12, 0;
         atom.shared::cluster.add.u32 %r13, [%r12], %r31;
         mov.u32 %r20, got; add.u32 %r20, %r20, %r3; mapa.shared::cluster.u32 %r21, %r20, %r6;
         st.shared::cluster.u32 [%r21], %r0;
         {MEET}
         ld.shared.u32 %r15, [sum]; ld.shared.u32 %r16, [%r20];
         add.u32 %r1, %r8, %r9; mad.lo.u32 %r1, %r15, 10, %r1; mad.lo.u32 %r1, %r16, 1000, %r1;
         setp.ne.u32 %p4, %r10, %r6; setp.ne.or.u32 %p4, %r11, %r6, %p4; setp.ne.or.u32 %p4, %r14, %r5, %p4;
         @%p4 mov.u32 %r1, 1; @!%p1 mov.u32 %r1, 2; @%p2 mov.u32 %r1, 3; @!%p3 mov.u32 %r1, 4;"
    );
    for config in ["", "races", "order=reverse", "order=random,delay=200", "order=random,seed=4"] {
        let case =
            Case { body: &body, config, grid: [8, 1, 1], cluster: [4, 1, 1], ..Case::default() };
        let expected = words(256, |i| {
            let (block, lane) = (i / 32, i % 32);
            let rank = |by: u32| (block / 4 * 4 + (block + by) % 4) * 32 + lane;
            let sum = if block % 4 == 0 { 4 * 31 * 16 } else { 0 };
            rank(1) + 10 * sum + 1000 * rank(3)
        });
        assert_eq!(case.output(), expected, "{config}");
    }
}

#[test]
fn the_clusters_barrier_waits_for_every_warp_that_is_there() {
    // The first warp arrives and ends: it must not be counted for another.
    let body = "
        .shared .align 4 .u32 flag;
        setp.lt.u32 %p0, %r0, 32; @!%p0 bra STAY;
        barrier.cluster.arrive.aligned; exit;
        STAY: setp.lt.u32 %p1, %r0, 96; @%p1 bra MEET;
        st.shared.u32 [flag], 8;
        MEET: barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;
        mov.u32 %r2, flag; mapa.shared::cluster.u32 %r2, %r2, 1; ld.shared::cluster.u32 %r1, [%r2];
        barrier.cluster.arrive; barrier.cluster.wait;";
    for config in ["", "order=reverse", "order=random", "races"] {
        let case = Case {
            body,
            config,
            grid: [2, 1, 1],
            block: [64, 1, 1],
            cluster: [2, 1, 1],
            ..Case::default()
        };
        let expected = words(128, |i| if i < 32 { UNTOUCHED } else { 8 });
        assert_eq!(case.output(), expected, "{config}");
    }
}

#[test]
fn what_there_is_between_arrive_and_wait_is_free() {
    let body = "
        barrier.cluster.arrive.relaxed.aligned; add.u32 %r2, %r0, 1; barrier.cluster.wait.aligned;
        barrier.cluster.arrive.aligned; add.u32 %r1, %r2, 1; barrier.cluster.wait.aligned;";
    let case =
        Case { body, grid: [4, 1, 1], block: [40, 1, 1], cluster: [2, 1, 1], ..Case::default() };
    assert_eq!(case.output(), words(160, |i| i + 2));
}

#[test]
fn an_mbarrier_is_arrived_at_from_the_other_block() {
    let body = format!(
        ".shared .align 8 .b64 b; .shared .align 4 .u32 s[32];
         setp.ne.u32 %p0, %r31, 0; @!%p0 mbarrier.init.shared.b64 [b], 64;
         fence.mbarrier_init.release.cluster;
         {MEET}
         mov.u32 %r2, %cluster_ctarank; xor.b32 %r2, %r2, 1;
         mov.u32 %r3, s; shl.b32 %r4, %r31, 2; add.u32 %r3, %r3, %r4;
         mapa.shared::cluster.u32 %r5, %r3, %r2; st.shared::cluster.u32 [%r5], %r0;
         mov.u32 %r6, b; mapa.shared::cluster.u32 %r6, %r6, %r2;
         mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
         mbarrier.arrive.shared.b64 _, [b];
         WAIT: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [b], 0; @!%p1 bra WAIT;
         ld.shared.u32 %r1, [%r3];
         {MEET}"
    );
    for config in ["races", "order=reverse", "order=random"] {
        let case =
            Case { body: &body, config, grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::default() };
        assert_eq!(case.output(), words(64, |i| i ^ 32), "{config}");
    }
}

#[test]
fn broken_rules() {
    for (what, kind) in [
        ("mapa.shared::cluster.u32 %r2, %r3, 2;", FaultKind::IllegalAddress),
        ("barrier.cluster.wait.aligned;", FaultKind::Misuse),
        ("barrier.cluster.arrive.aligned;\nbarrier.cluster.arrive;", FaultKind::Misuse),
        ("mov.u32 %r2, 0x03000000; ld.shared::cluster.u32 %r1, [%r2];", FaultKind::IllegalAddress),
        (
            "mov.u32 %r2, s; mapa.shared::cluster.u32 %r2, %r2, 1; ld.shared::cluster.u32 %r1, [%r2+8];",
            FaultKind::IllegalAddress,
        ),
    ] {
        let body = format!(".shared .align 4 .b8 s[8]; mov.u32 %r3, s;\n{what}");
        let case = Case { body: &body, grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::default() };
        case.fault(kind);
    }
}

#[test]
fn the_memory_of_a_block_that_has_ended_is_gone() {
    let body = ".shared .align 4 .b8 s[8]; mov.u32 %r2, s; mapa.shared::cluster.u32 %r2, %r2, 1;
        setp.ge.u32 %p0, %r0, 32; @%p0 exit; ld.shared::cluster.u32 %r1, [%r2];";
    let case = Case {
        body,
        config: "order=reverse",
        grid: [2, 1, 1],
        cluster: [2, 1, 1],
        ..Case::default()
    };
    let fault = case.fault(FaultKind::IllegalAddress);
    assert!(fault.message.contains("ended"), "{fault}");
    // The other must wait for it, and does not.
    let body = format!("setp.ge.u32 %p0, %r0, 32; @%p0 bra END; {MEET} END:");
    let one_waits = Case { body: &body, grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::default() };
    assert_eq!(one_waits.output(), [0; 64]);
}
