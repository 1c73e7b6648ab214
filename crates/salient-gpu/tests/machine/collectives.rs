//! PTX ISA: shfl.sync, vote.sync, match.sync, redux.sync, elect.sync, activemask.

use salient_gpu::{FaultKind, POISON};

use crate::common::{Case, words};

/// As PTX ISA: shfl.sync describes it in words: from which lane, and whether it is in range.
fn source(mode: &str, lane: u32, by: u32, width: u32) -> (u32, bool) {
    let (begin, end) = (lane / width * width, lane / width * width + width);
    let from = match mode {
        "up" => lane.checked_sub(by).filter(|&from| from >= begin),
        "down" => Some(lane + by).filter(|&from| from < end),
        // Lanes before the own segment are in range of an exclusive or.
        "bfly" => Some(lane ^ by).filter(|&from| from < end),
        _ => Some(begin + by % width),
    };
    from.map_or((lane, false), |from| (from, true))
}

#[test]
fn shuffles_take_from_the_lane_they_say() {
    for mode in ["up", "down", "bfly", "idx"] {
        for width in [1, 2, 4, 8, 16, 32] {
            for by in [0, 1, 2, 3, 7, 16, 31] {
                let clamp = (32 - width) << 8 | if mode == "up" { 0 } else { 31 };
                let body = format!(
                    "mad.lo.u32 %r2, %r0, 3, 5;
                     shfl.sync.{mode}.b32 %r3|%p0, %r2, {by}, {clamp}, -1;
                     shfl.sync.{mode}.b32 %r4, %r2, {by}, {clamp}, -1;
                     sub.u32 %r4, %r4, %r3; selp.u32 %r5, 1000, 0, %p0;
                     add.u32 %r1, %r3, %r4; add.u32 %r1, %r1, %r5;"
                );
                let expected = words(32, |lane| {
                    let (from, inside) = source(mode, lane, by, width);
                    3 * from + 5 + if inside { 1000 } else { 0 }
                });
                let output = Case { body: &body, ..Case::default() }.output();
                assert_eq!(output, expected, "{mode} by {by} in {width}");
            }
        }
    }
}

#[test]
fn each_lane_may_ask_for_another() {
    let body = "
        add.u32 %r3, %r0, 100; mul.lo.u32 %r2, %r0, 5;
        shfl.sync.idx.b32 %r1, %r3, %r2, 31, -1;";
    assert_eq!(Case { body, ..Case::default() }.output(), words(32, |i| 100 + 5 * i % 32));
}

#[test]
fn groups_of_lanes_do_it_by_themselves() {
    // Four groups of eight, each with a mask of its own, at the same instruction.
    let masks =
        "shr.u32 %r2, %r31, 3; shl.b32 %r3, %r2, 3; mov.u32 %r4, 255; shl.b32 %r4, %r4, %r3;
        and.b32 %r5, %r31, 7; setp.lt.u32 %p0, %r5, %r2;";
    type OfLane = fn(u32) -> u32;
    let cases: [(&str, OfLane); 7] = [
        ("vote.sync.ballot.b32 %r1, %p0, %r4;", |i| ((1 << (i / 8)) - 1) << (i / 8 * 8)),
        ("vote.sync.any.pred %p1, %p0, %r4; selp.u32 %r1, 1, 0, %p1;", |i| u32::from(i >= 8)),
        ("vote.sync.all.pred %p1, !%p0, %r4; selp.u32 %r1, 1, 0, %p1;", |i| u32::from(i < 8)),
        ("redux.sync.add.u32 %r1, %r31, %r4;", |i| (i / 8 * 8..i / 8 * 8 + 8).sum()),
        ("elect.sync %r1|%p1, %r4; @%p1 add.u32 %r1, %r1, 100;", |i| {
            i / 8 * 8 + if i % 8 == 0 { 100 } else { 0 }
        }),
        ("mov.u32 %r6, 1; match.any.sync.b32 %r1, %r6, %r4;", |i| 255 << (i / 8 * 8)),
        ("shfl.sync.bfly.b32 %r1, %r31, 7, 0x181f, %r4;", |i| i ^ 7),
    ];
    for (what, expected) in cases {
        let body = format!("{masks}\n{what}");
        let output = Case { body: &body, ..Case::default() }.output();
        assert_eq!(output, words(32, expected), "{what}");
    }
}

#[test]
fn lanes_come_from_different_ways() {
    let body = "
        and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 1; @%p0 bra ODD;
        mov.u32 %r3, 10; bra JOIN;
        ODD: mov.u32 %r3, 20; mov.u32 %r4, 0;
        WORK: add.u32 %r4, %r4, 1; setp.lt.u32 %p1, %r4, %r0; @%p1 bra WORK;
        JOIN: shfl.sync.bfly.b32 %r1, %r3, 1, 31, -1;";
    for config in ["", "order=random", "order=random,seed=5,delay=30"] {
        let output = Case { body, config, ..Case::default() }.output();
        assert_eq!(output, words(32, |i| if i % 2 == 0 { 20 } else { 10 }));
    }
}

#[test]
fn votes() {
    type OfLane = fn(u32) -> u32;
    let all: [(&str, &str, OfLane); 8] = [
        ("setp.lt.u32 %p0, %r0, 5;", "ballot.b32 %r1, %p0", |_| 31),
        ("setp.lt.u32 %p0, %r0, 5;", "ballot.b32 %r1, !%p0", |_| !31),
        ("setp.lt.u32 %p0, %r0, 5;", "any.pred %p1, %p0", |_| 1),
        ("setp.lt.u32 %p0, %r0, 0;", "any.pred %p1, %p0", |_| 0),
        ("setp.lt.u32 %p0, %r0, 32;", "all.pred %p1, %p0", |_| 1),
        ("setp.lt.u32 %p0, %r0, 31;", "all.pred %p1, %p0", |_| 0),
        ("setp.lt.u32 %p0, %r0, 0;", "uni.pred %p1, %p0", |_| 1),
        ("setp.lt.u32 %p0, %r0, 31;", "uni.pred %p1, %p0", |_| 0),
    ];
    for (set, vote, expected) in all {
        let body = format!(
            "{set} setp.ne.u32 %p1, %r0, %r0; vote.sync.{vote}, -1;\n{}",
            if vote.starts_with("ballot") { "" } else { "selp.u32 %r1, 1, 0, %p1;" }
        );
        assert_eq!(Case { body: &body, ..Case::default() }.output(), words(32, expected), "{vote}");
    }
}

#[test]
fn matches() {
    let body = "rem.u32 %r2, %r0, 5; match.any.sync.b32 %r1, %r2, -1;";
    let expected = words(32, |i| (0..32).filter(|j| j % 5 == i % 5).fold(0, |m, j| m | 1 << j));
    assert_eq!(Case { body, ..Case::default() }.output(), expected);
    let body = "cvt.u64.u32 %d3, %r0; shr.u64 %d3, %d3, 4; shl.b64 %d3, %d3, 40;
        match.any.sync.b64 %r1, %d3, -1;";
    let expected = words(32, |i| if i < 16 { 0xffff } else { 0xffff_0000 });
    assert_eq!(Case { body, ..Case::default() }.output(), expected);
    for (value, all) in [("7", u32::MAX), ("%laneid", 0)] {
        let body = format!(
            "mov.u32 %r2, {value}; match.all.sync.b32 %r3|%p0, %r2, -1; selp.u32 %r4, 1, 0, %p0;
             xor.b32 %r1, %r3, %r4;"
        );
        let expected = all ^ u32::from(all != 0);
        assert_eq!(Case { body: &body, ..Case::default() }.output(), [expected; 32]);
    }
}

#[test]
fn reductions() {
    let value = |i: u32| (i as i32 - 16) * [3, -5][i as usize % 2];
    let values = (0..32).map(value);
    let unsigned = (0..32).map(|i| value(i) as u32);
    let expected = [
        ("add.s32", values.clone().sum::<i32>() as u32),
        ("add.u32", values.clone().sum::<i32>() as u32),
        ("min.s32", values.clone().min().unwrap() as u32),
        ("max.s32", values.clone().max().unwrap() as u32),
        ("min.u32", unsigned.clone().min().unwrap()),
        ("max.u32", unsigned.clone().max().unwrap()),
        ("and.b32", unsigned.clone().fold(u32::MAX, |a, b| a & b)),
        ("or.b32", unsigned.clone().fold(0, |a, b| a | b)),
        ("xor.b32", unsigned.fold(0, |a, b| a ^ b)),
    ];
    let input: Vec<u32> = (0..32).map(|i| value(i) as u32).collect();
    for (form, expected) in expected {
        let body = format!(
            "mad.wide.u32 %d3, %r0, 4, %d2; ld.global.u32 %r2, [%d3]; redux.sync.{form} %r1, %r2, -1;"
        );
        let case = Case { body: &body, input: &input, ..Case::default() };
        assert_eq!(case.output(), [expected; 32], "{form}");
    }
}

#[test]
fn lanes_of_a_warp_that_is_not_whole_count_as_there() {
    let body = "
        mov.u32 %r3, 1; redux.sync.add.u32 %r2, %r3, -1;
        setp.eq.u32 %p0, %r0, %r0; vote.sync.ballot.b32 %r4, %p0, -1;
        shfl.sync.down.b32 %r5, %r0, 1, 31, 0xffffffff;
        and.b32 %r5, %r5, 1; shl.b32 %r5, %r5, 8; mad.lo.u32 %r1, %r4, 1000, %r2;";
    let output = Case { body, block: [5, 1, 1], ..Case::default() }.output();
    assert_eq!(output, [31005; 5]);
}

/// What comes from a lane that takes no part is anything: not what it has.
#[test]
fn lanes_that_take_no_part_give_nothing() {
    let body = "
        mov.u32 %r1, 5; setp.ge.u32 %p0, %r0, 16; @%p0 bra OVER;
        shfl.sync.idx.b32 %r1, %r0, 20, 31, 0xffff; OVER:";
    let poison = u32::from(POISON) << 16 | u32::from(POISON);
    let expected = words(32, |lane| if lane < 16 { poison } else { 5 });
    assert_eq!(Case { body, ..Case::default() }.output(), expected);
}

#[test]
fn lanes_that_have_exited_are_not_waited_for() {
    let body = "
        setp.ge.u32 %p0, %r0, 24; @%p0 exit;
        setp.eq.u32 %p1, %r0, %r0; vote.sync.ballot.b32 %r1, %p1, -1;";
    assert_eq!(Case { body, ..Case::default() }.output()[..24], [0x00ff_ffff; 24]);
}

#[test]
fn strangers_and_lanes_that_never_come() {
    for what in [
        "shfl.sync.idx.b32 %r1, %r0, 0, 31, MASK;",
        "vote.sync.ballot.b32 %r1, %p0, MASK;",
        "match.any.sync.b32 %r1, %r0, MASK;",
        "redux.sync.add.u32 %r1, %r0, MASK;",
        "elect.sync _|%p1, MASK;",
    ] {
        let mine = what.replace("MASK", "0xfffffffd");
        let body = format!("setp.eq.u32 %p0, %r0, 0;\n{mine}");
        let case = Case { body: &body, ..Case::default() };
        let fault = case.fault(FaultKind::Misuse);
        assert_eq!((fault.lanes, fault.ptx_line), (2, case.line(&mine)), "{fault}");
        let all = what.replace("MASK", "-1");
        let body = format!("setp.eq.u32 %p0, %r0, 9; @%p0 bra OTHER; {all} OTHER: bar.sync 0;");
        Case { body: &body, ..Case::default() }.fault(FaultKind::Deadlock);
    }
}
