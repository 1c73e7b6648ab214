//! What is counted.

use salient_gpu::counters::{Buffer, Shared};
use salient_gpu::{Counters, Gpu};

use crate::common::Case;

fn count(body: &str, case: &Case<'_>) -> Counters {
    let body = format!(".shared .align 128 .b8 s[16384]; mov.u32 %r2, s; {body} exit;");
    Case { body: &body, config: "counters", ..*case }.run().unwrap().counters
}

/// The one buffer that was touched.
fn buffer(body: &str) -> Buffer {
    let case = Case { input: &[0; 2048], ..Case::default() };
    let counters = count(body, &case);
    assert_eq!(counters.buffers.len(), 1);
    counters.buffers.into_values().next().unwrap()
}

#[test]
fn traffic_of_global_memory() {
    let load = "ld.global.u32 %r3, [%d3];";
    let expected = Buffer { read: 128, requests: 1, sectors: 4, ..Buffer::default() };
    assert_eq!(buffer(&format!("mad.wide.u32 %d3, %r0, 4, %d2; {load}")), expected);
    let apart = Buffer { sectors: 32, ..expected.clone() };
    assert_eq!(buffer(&format!("mad.wide.u32 %d3, %r0, 32, %d2; {load}")), apart);
    let same = Buffer { sectors: 1, ..expected.clone() };
    assert_eq!(buffer(&format!("mov.u64 %d3, %d2; {load}")), same);
    let shifted = Buffer { sectors: 5, ..expected.clone() };
    assert_eq!(
        buffer(&format!("mad.wide.u32 %d3, %r0, 4, %d2; add.u64 %d3, %d3, 16; {load}")),
        shifted
    );
    let wide = Buffer { read: 512, sectors: 16, ..expected.clone() };
    let load = "ld.global.v4.u32 {%r3, %r4, %r5, %r6}, [%d3];";
    assert_eq!(buffer(&format!("mad.wide.u32 %d3, %r0, 16, %d2; {load}")), wide);
    let some = Buffer { read: 32, requests: 1, sectors: 1, ..Buffer::default() };
    let load = "setp.lt.u32 %p0, %r0, 8; @%p0 ld.global.u32 %r3, [%d3];";
    assert_eq!(buffer(&format!("mad.wide.u32 %d3, %r0, 4, %d2; {load}")), some);
    let stores = Buffer { written: 64, requests: 1, sectors: 2, ..Buffer::default() };
    let store = "mov.u16 %h1, 0; st.global.u16 [%d3], %h1;";
    assert_eq!(buffer(&format!("mad.wide.u32 %d3, %r0, 2, %d2; {store}")), stores);
    let atomics = Buffer { atomic: 128, requests: 1, sectors: 1, ..Buffer::default() };
    assert_eq!(buffer("red.global.add.u32 [%d2], 1;"), atomics);
}

#[test]
fn passes_over_the_banks_of_shared_memory() {
    let shared = |body: &str| count(body, &Case::default()).shared;
    let row = |stride: u32, size: &str| {
        shared(&format!("mad.lo.u32 %r3, %r0, {stride}, %r2; ld.shared.{size}, [%r3];"))
    };
    let one = Shared { read: 128, requests: 1, passes: 1, least: 1, ..Shared::default() };
    assert_eq!(row(4, "u32 %r4"), one);
    assert_eq!(row(8, "u32 %r4"), Shared { passes: 2, ..one });
    assert_eq!(row(128, "u32 %r4"), Shared { passes: 32, ..one });
    assert_eq!(row(132, "u32 %r4"), one);
    assert_eq!(row(0, "u32 %r4"), one);
    assert_eq!(row(2, "u16 %h4"), Shared { read: 64, ..one });
    let wide = Shared { read: 512, requests: 1, passes: 4, least: 4, ..Shared::default() };
    assert_eq!(row(16, "v4.u32 {%r4, %r5, %r6, %r7}"), wide);
    let pairs = Shared { read: 256, requests: 1, passes: 2, least: 2, ..Shared::default() };
    assert_eq!(row(8, "u64 %d4"), pairs);
    let written = Shared { written: 128, requests: 1, passes: 1, least: 1, ..Shared::default() };
    assert_eq!(shared("mad.lo.u32 %r3, %r0, 4, %r2; st.shared.u32 [%r3], %r0;"), written);
}

#[test]
fn instructions_are_counted_by_opcode_and_line() {
    let module = ".file 1 \"a.cu\"";
    let body = "
        .loc 1 7 0
        mov.u32 %r2, 0;
        LOOP: add.u32 %r2, %r2, 1; setp.lt.u32 %p0, %r2, 10;
        .loc 1 9 0
        @%p0 bra LOOP;
        setp.lt.u32 %p1, %r0, 0; @%p1 add.s32 %r2, %r2, 1;";
    let case = Case { module, body, block: [64, 1, 1], ..Case::default() };
    let counted = Case { config: "counters", ..case }.run().unwrap().counters;
    assert_eq!(counted.opcodes["add.u32"], 20);
    assert_eq!(counted.opcodes["setp.lt.u32"], 22);
    // Nobody has run it.
    assert!(!counted.opcodes.contains_key("add.s32"));
    assert_eq!((counted.lines["a.cu:7"], counted.lines["a.cu:9"]), (42, 18 + 2 + 2 + 2));
    // Steps are the same if nothing else is counted.
    let steps = case.run().unwrap().counters;
    assert_eq!(steps, Counters { steps: counted.steps, ..Counters::default() });
    assert!(counted.to_json().contains("\"add.u32\":20"));
}

#[test]
fn copies_and_products() {
    let case = Case { input: &[0; 256], ..Case::default() };
    let body = "mad.lo.u32 %r3, %r0, 16, %r2; mad.wide.u32 %d3, %r0, 16, %d2;
        cp.async.cg.shared.global [%r3], [%d3], 16, 12; cp.async.wait_all;
        mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r4,%r5}, {%r6}, {%f0,%f1,%f2,%f3};";
    let counters = count(body, &case);
    assert_eq!((counters.copied, counters.products), (384, 1));
    let body = ".shared .align 8 .b64 b; setp.ne.u32 %p0, %r0, 0; @%p0 exit;
        mbarrier.init.shared.b64 [b], 1; mbarrier.arrive.expect_tx.shared.b64 _, [b], 256;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [s], [%d2], 256, [b];
        W: mbarrier.try_wait.parity.shared.b64 %p1, [b], 0; @!%p1 bra W;
        cp.async.bulk.global.shared::cta.bulk_group [%d1], [s], 64;
        cp.async.bulk.commit_group; cp.async.bulk.wait_group 0;";
    let counters = count(body, &case);
    assert_eq!((counters.bulk_loaded, counters.bulk_stored), (256, 64));
}

#[test]
fn all_blocks_of_a_cooperative_launch_are_there() {
    let body = "
        setp.ne.u32 %p0, %r31, 0; @%p0 bra WAIT;
        membar.gl; red.global.add.u32 [%d2], 1;
        WAIT: ld.volatile.global.u32 %r2, [%d2]; mov.u32 %r3, %nctaid.x; setp.lt.u32 %p1, %r2, %r3;
        @%p1 bra WAIT;
        bar.sync 0; mov.u32 %r1, 1;";
    for config in ["", "order=reverse", "order=random", "races"] {
        let gpu = Gpu::new(0, format!("{config},steps=10000000").parse().unwrap());
        let case = Case {
            body,
            input: &[0],
            grid: [7, 1, 1],
            block: [40, 1, 1],
            cooperative: true,
            ..Case::default()
        };
        assert_eq!(case.run_on(&gpu).unwrap().output, [1; 280], "{config}");
    }
}
