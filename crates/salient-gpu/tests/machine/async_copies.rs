//! PTX ISA: cp.async.

use salient_gpu::{FaultKind, POISON};

use crate::common::{Case, words};

const POISONED: u32 = (POISON as u32) << 16 | POISON as u32;

/// Room in shared memory, the own word of it at `%r2`, and the own word of input at `%d3`.
const OWN: &str = "
    .shared .align 16 .b8 s[4096];
    mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r2, %r2, %r3; mad.wide.u32 %d3, %r31, 4, %d2;";

#[test]
fn groups_land_when_they_are_waited_for() {
    let body = format!(
        "{OWN}
         cp.async.ca.shared.global [%r2], [%d3], 4; cp.async.commit_group;
         cp.async.ca.shared.global [%r2+128], [%d3+128], 4;
         cp.async.ca.shared::cta.global [%r2+256], [%d3+256], 4; cp.async.commit_group;
         cp.async.ca.shared.global.L2::128B [%r2+384], [%d3+384], 4; cp.async.commit_group;
         ld.shared.u32 %r10, [%r2];
         cp.async.wait_group 2; ld.shared.u32 %r11, [%r2]; ld.shared.u32 %r12, [%r2+128];
         cp.async.wait_group 1; ld.shared.u32 %r13, [%r2+128]; ld.shared.u32 %r14, [%r2+256];
         ld.shared.u32 %r15, [%r2+384];
         cp.async.wait_group 0; ld.shared.u32 %r16, [%r2+384];
         cp.async.ca.shared.global [%r2], [%d3+384], 4;
         cp.async.wait_group 0; ld.shared.u32 %r17, [%r2];
         cp.async.wait_all; ld.shared.u32 %r18, [%r2];
         mad.wide.u32 %d4, %r31, 36, %d1;
         st.global.u32 [%d4], %r10; st.global.u32 [%d4+4], %r11; st.global.u32 [%d4+8], %r12;
         st.global.u32 [%d4+12], %r13; st.global.u32 [%d4+16], %r14; st.global.u32 [%d4+20], %r15;
         st.global.u32 [%d4+24], %r16; st.global.u32 [%d4+28], %r17; st.global.u32 [%d4+32], %r18;
         exit;"
    );
    let input: Vec<u32> = (1000..1128).collect();
    let run = |config| {
        let case = Case { body: &body, config, input: &input, output: 32 * 9, ..Case::default() };
        case.output()
    };
    let value = |lane: u32, group: u32| 1000 + lane + 32 * group;
    let late = run("async=late");
    for lane in 0..32 {
        let p = POISONED;
        let [a, b, c, d] = std::array::from_fn(|group| value(lane, group as u32));
        assert_eq!(late[9 * lane as usize..][..9], [p, a, p, b, c, p, d, p, d], "lane {lane}");
    }
    // Elsewhere copies may have landed before, but what was waited for has.
    for config in ["", "async=random", "async=random,seed=8"] {
        let output = run(config);
        for lane in 0..32 {
            let [a, b, c, d] = std::array::from_fn(|group| value(lane, group as u32));
            let expected = [a, a, b, b, c, d, d, d, d];
            for (i, &expected) in expected.iter().enumerate() {
                let got = output[9 * lane as usize + i];
                let waited = [false, true, false, true, true, false, true, false, true][i];
                let may_wait = !config.is_empty() && !waited && got == POISONED;
                assert!(got == expected || may_wait, "{config}: {i} of lane {lane}: {got:#x}");
            }
        }
    }
}

#[test]
fn what_is_not_read_is_zero() {
    let input: Vec<u32> = (1..=4).collect();
    for (how, expected) in [
        ("", [1, 2, 3, 4]),
        (", 16", [1, 2, 3, 4]),
        (", 8", [1, 2, 0, 0]),
        (", %r5", [1, 2, 3, 0]),
        (", 0", [0; 4]),
        (", %p1", [0; 4]),
        (", %p2", [1, 2, 3, 4]),
    ] {
        for form in ["ca", "cg"] {
            let body = format!(
                "{OWN} mov.u32 %r5, 12; setp.eq.u32 %p1, %r5, 12; setp.ne.u32 %p2, %r5, 12;
                 cp.async.{form}.shared.global [%r2], [%d3], 16{how}; cp.async.wait_all;
                 ld.shared.v4.u32 {{%r10, %r11, %r12, %r13}}, [%r2];
                 st.global.v4.u32 [%d1], {{%r10, %r11, %r12, %r13}}; exit;"
            );
            for config in ["", "async=late"] {
                let case = Case {
                    body: &body,
                    config,
                    input: &input,
                    output: 4,
                    block: [1; 3],
                    ..Case::default()
                };
                assert_eq!(case.output(), expected, "{form}{how}");
            }
        }
    }
}

#[test]
fn only_what_is_read_has_to_be_there() {
    for (how, ok) in [(", 8", true), (", 0", true), (", 12", false), ("", false)] {
        let body = format!("{OWN} cp.async.cg.shared.global [%r2], [%d3], 16{how};");
        let case = Case { body: &body, input: &[1, 2], block: [1; 3], ..Case::default() };
        match case.run() {
            Ok(_) => assert!(ok, "{how}"),
            Err(fault) => {
                assert!(!ok, "{fault}");
                assert_eq!(fault.kind, FaultKind::IllegalAddress);
            }
        }
    }
}

#[test]
fn broken_rules() {
    for (what, kind) in [
        ("cp.async.ca.shared.global [%r2+4096], [%d3], 4;", FaultKind::IllegalAddress),
        ("cp.async.ca.shared.global [%r2+2], [%d3], 4;", FaultKind::Misaligned),
        ("cp.async.cg.shared.global [%r2+8], [%d3], 16;", FaultKind::Misaligned),
        ("cp.async.cg.shared.global [%r2], [%d3+8], 16;", FaultKind::Misaligned),
        ("cp.async.ca.shared.global [%r2], [%d3], 8, %r5;", FaultKind::Misuse),
    ] {
        let body = format!("{OWN} mov.u32 %r5, 12;\n{what}");
        for config in ["", "races"] {
            let case =
                Case { body: &body, config, input: &[0; 64], block: [1; 3], ..Case::default() };
            let fault = case.fault(kind);
            assert_eq!(fault.ptx_line, case.line(what), "{fault}");
        }
    }
}

#[test]
fn an_mbarrier_hears_of_copies_that_have_landed() {
    // Without .noinc the arrivals come on top of those that were expected: here 1.
    for (noinc, count) in [(".noinc", 33), ("", 1)] {
        let body = format!(
            "{OWN} .shared .align 8 .b64 b;
             setp.ne.u32 %p0, %r31, 0; @!%p0 mbarrier.init.shared.b64 [b], {count};
             bar.sync 0;
             setp.ge.u32 %p1, %r31, 32; @%p1 bra TAKE;
             cp.async.ca.shared.global [%r2], [%d3], 4;
             cp.async.ca.shared.global [%r2+128], [%d3+128], 4;
             cp.async.mbarrier.arrive{noinc}.shared.b64 [b];
             bar.warp.sync -1;
             @!%p0 mbarrier.arrive.shared.b64 _, [b];
             TAKE: mbarrier.try_wait.parity.shared.b64 %p2, [b], 0; @!%p2 bra TAKE;
             and.b32 %r4, %r31, 31; xor.b32 %r4, %r4, 5; shl.b32 %r4, %r4, 2;
             mov.u32 %r5, s; add.u32 %r4, %r4, %r5;
             ld.shared.u32 %r6, [%r4]; ld.shared.u32 %r7, [%r4+128]; mad.lo.u32 %r1, %r7, 100, %r6;"
        );
        let input: Vec<u32> = (0..64).collect();
        for config in ["races", "async=late,races", "async=random", "async=random,order=random"] {
            let case =
                Case { body: &body, config, input: &input, block: [64, 1, 1], ..Case::default() };
            let other = |i: u32| (i % 32) ^ 5;
            let expected = words(64, |i| other(i) + 100 * (other(i) + 32));
            assert_eq!(case.output(), expected, "{noinc} {config}");
        }
    }
}
