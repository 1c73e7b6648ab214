//! PTX ISA: Control Flow Instructions, and Special Registers.

use salient_gpu::{Config, FaultKind, Gpu};

use crate::common::{Case, UNTOUCHED, words};

#[test]
fn lanes_part_and_come_together_again() {
    let body = "
        and.b32 %r2, %r0, 1; setp.eq.u32 %p0, %r2, 0;
        @%p0 bra EVEN;
        mul.lo.u32 %r3, %r0, 3;
        bra.uni JOIN;
        EVEN: add.u32 %r3, %r0, 100;
        JOIN: activemask.b32 %r4;
        xor.b32 %r1, %r3, %r4;";
    let output = Case { body, block: [70, 1, 1], ..Case::default() }.output();
    let expected = words(70, |i| {
        let together = if i < 64 { u32::MAX } else { (1 << 6) - 1 };
        together ^ if i % 2 == 0 { i + 100 } else { 3 * i }
    });
    assert_eq!(output, expected);
}

#[test]
fn loops_run_as_often_as_each_lane_says() {
    let body = "
        mov.u32 %r2, 0;
        LOOP: setp.ge.u32 %p0, %r2, %r0;
        @%p0 bra DONE;
        add.u32 %r1, %r1, %r2; add.u32 %r2, %r2, 1;
        bra LOOP;
        DONE:";
    let output = Case { body, block: [64, 1, 1], ..Case::default() }.output();
    assert_eq!(output, words(64, |i| (0..i).sum()));
}

#[test]
fn nested_branches_take_every_lane_where_it_belongs() {
    let body = "
        and.b32 %r2, %r0, 7;
        setp.lt.u32 %p0, %r2, 4; @!%p0 bra HIGH;
        setp.lt.u32 %p1, %r2, 2; @!%p1 bra TWO;
        setp.eq.u32 %p2, %r2, 0; @%p2 bra ZERO;
        mov.u32 %r1, 11; bra END;
        ZERO: mov.u32 %r1, 10; bra END;
        TWO: mov.u32 %r1, 12; bra END;
        HIGH: setp.eq.u32 %p3, %r2, 7; @%p3 bra SEVEN;
        mov.u32 %r1, 13; bra END;
        SEVEN: mov.u32 %r1, 17;
        END: activemask.b32 %r3; add.u32 %r1, %r1, %r3;";
    let expected = words(32, |i| match i % 8 {
        0 => 9,
        1 => 10,
        2 | 3 => 11,
        7 => 16,
        _ => 12,
    });
    assert_eq!(Case { body, ..Case::default() }.output(), expected);
}

#[test]
fn brx_takes_each_lane_to_its_label() {
    let body = "
        rem.u32 %r2, %r0, 3;
        TABLE: .branchtargets A, B, C;
        brx.idx %r2, TABLE;
        A: mov.u32 %r1, 5; bra END;
        B: mov.u32 %r1, 6; bra END;
        C: mov.u32 %r1, 7;
        END: activemask.b32 %r3; and.b32 %r3, %r3, 0x100; add.u32 %r1, %r1, %r3;";
    assert_eq!(Case { body, ..Case::default() }.output(), words(32, |i| 0x105 + i % 3));
    let past = body.replace("rem.u32 %r2, %r0, 3", "mov.u32 %r2, %r0");
    let fault = Case { body: &past, block: [4, 1, 1], ..Case::default() }
        .fault(FaultKind::IllegalInstruction);
    assert_eq!(fault.lanes, 1 << 3);
}

const FUNCTIONS: &str = "
    .func (.param .b32 result) twice(.param .b32 x) {
        .reg .b32 %r<4>;
        ld.param.u32 %r0, [x];
        add.u32 %r1, %r0, %r0;
        st.param.b32 [result], %r1;
        ret;
    }
    .func (.param .b32 result) choose(.param .b32 x, .param .align 8 .b8 pair[16]) {
        .reg .b32 %r<8>; .reg .b64 %d<4>; .reg .pred %p<2>;
        ld.param.u32 %r0, [x];
        ld.param.u64 %d0, [pair+8];
        cvt.u32.u64 %r1, %d0;
        setp.gt.u32 %p0, %r0, 15;
        @%p0 bra BIG;
        { .param .b32 a; .param .b32 b;
          st.param.b32 [a], %r0;
          call.uni (b), twice, (a);
          ld.param.b32 %r2, [b]; }
        add.u32 %r2, %r2, %r1;
        st.param.b32 [result], %r2;
        ret;
        BIG: ld.param.u32 %r3, [pair];
        st.param.b32 [result], %r3;
    }";

const CALL: &str = "
    { .param .b32 a; .param .align 8 .b8 b[16]; .param .b32 c;
      st.param.b32 [a], %r0;
      mov.u32 %r2, 77; st.param.u32 [b], %r2;
      mov.u64 %d3, 1000; st.param.u64 [b+8], %d3;
      GUARD call.uni (c), choose, (a, b);
      GUARD ld.param.b32 %r1, [c]; }";

#[test]
fn functions_call_functions() {
    let body = CALL.replace("GUARD", "");
    let case = Case { module: FUNCTIONS, body: &body, ..Case::default() };
    assert_eq!(case.output(), words(32, |i| if i > 15 { 77 } else { 2 * i + 1000 }));
}

#[test]
fn a_guarded_call_is_of_some_lanes() {
    let guard = format!("and.b32 %r9, %r0, 1; setp.eq.u32 %p7, %r9, 1; {CALL}");
    let body = guard.replace("GUARD", "@%p7");
    let case = Case { module: FUNCTIONS, body: &body, ..Case::default() };
    let expected = words(32, |i| match (i % 2, i) {
        (0, _) => 0,
        (_, 16..) => 77,
        _ => 2 * i + 1000,
    });
    assert_eq!(case.output(), expected);
}

#[test]
fn recursion_is_refused() {
    let module = "
        .func (.param .b32 r) again(.param .b32 x);
        .func (.param .b32 r) again(.param .b32 x) {
            { .param .b32 a; .param .b32 b;
              st.param.b32 [a], 1;
              call.uni (b), again, (a); }
            ret;
        }";
    let body = "{ .param .b32 a; .param .b32 b; st.param.b32 [a], 1; call (b), again, (a); }";
    let case = Case { module, body, ..Case::default() };
    let Err(error) = Gpu::new(0, Config::default()).load(&case.text()) else {
        panic!("it was loaded");
    };
    assert!(error.to_string().contains("again"), "{error}");
}

#[test]
fn lanes_that_exit_leave_the_others_alone() {
    let body = "
        setp.lt.u32 %p0, %r0, 40;
        @%p0 exit;
        activemask.b32 %r1;";
    let output = Case { body, block: [96, 1, 1], ..Case::default() }.output();
    let expected = words(96, |i| match i {
        0..40 => UNTOUCHED,
        40..64 => 0xffff_ff00,
        _ => u32::MAX,
    });
    assert_eq!(output, expected);
}

#[test]
fn a_trap_and_an_assertion_name_their_lanes() {
    let module = ".extern .func __assertfail(.param .b64 a, .param .b64 b, .param .b32 c,
        .param .b64 d, .param .b64 e);";
    let cases = [
        ("trap;", FaultKind::Trap),
        (
            "{ .param .b64 a; .param .b64 b; .param .b32 c; .param .b64 d; .param .b64 e;
               call.uni __assertfail, (a, b, c, d, e); }",
            FaultKind::Assert,
        ),
    ];
    for (what, kind) in cases {
        let body = format!("setp.ne.u32 %p0, %r0, 37; @%p0 bra GOOD;\n{what}\nGOOD:");
        let case = Case { module, body: &body, block: [64, 1, 1], ..Case::default() };
        let fault = case.fault(kind);
        assert_eq!((fault.warp, fault.lanes), (1, 1 << 5), "{fault}");
        assert_eq!(fault.kernel, "k");
    }
}

#[test]
fn a_lane_that_spins_lets_the_one_it_waits_for_go_on() {
    for (spins, sets) in [(0, 31), (31, 0)] {
        let body = format!(
            "
            .shared .align 4 .u32 flag;
            setp.ne.u32 %p0, %r0, 0; @%p0 bra ON; st.shared.u32 [flag], 0;
            ON: bar.warp.sync -1;
            setp.eq.u32 %p1, %r0, {spins}; @%p1 bra SPIN;
            setp.ne.u32 %p2, %r0, {sets}; @%p2 bra END;
            mov.u32 %r3, 2000;
            LATE: sub.u32 %r3, %r3, 1; setp.ne.u32 %p4, %r3, 0; @%p4 bra LATE;
            st.volatile.shared.u32 [flag], 9; bra END;
            SPIN: ld.volatile.shared.u32 %r1, [flag];
            setp.eq.u32 %p3, %r1, 0; @%p3 bra SPIN;
            END:"
        );
        let output = Case { body: &body, config: "steps=1000000", ..Case::default() }.output();
        assert_eq!(output, words(32, |i| if i == spins { 9 } else { 0 }));
    }
}

#[test]
fn a_warp_that_spins_lets_the_one_it_waits_for_go_on() {
    let body = "
        .shared .align 4 .u32 flag;
        st.shared.u32 [flag], 0; bar.sync 0;
        setp.lt.u32 %p0, %r31, 32; @%p0 bra SPIN;
        st.volatile.shared.u32 [flag], 9; bra END;
        SPIN: ld.volatile.shared.u32 %r1, [flag];
        setp.eq.u32 %p3, %r1, 0; @%p3 bra SPIN;
        END:";
    for config in ["steps=1000000", "steps=1000000,order=reverse", "steps=1000000,order=random"] {
        let output = Case { body, config, block: [64, 1, 1], ..Case::default() }.output();
        assert_eq!(output, words(64, |i| if i < 32 { 9 } else { 0 }));
    }
}

#[test]
fn a_loop_without_an_end_is_a_timeout() {
    let case = Case { body: "L: bra L;", config: "steps=10000", ..Case::default() };
    assert_eq!(case.fault(FaultKind::Timeout).ptx_line, case.line("L: bra L;"));
}

#[test]
fn special_registers_say_where_a_thread_is() {
    let (grid, block) = ([3, 2, 2], [5, 4, 3]);
    let registers = [
        "tid.x",
        "tid.y",
        "tid.z",
        "ntid.x",
        "ntid.y",
        "ntid.z",
        "ctaid.x",
        "ctaid.y",
        "ctaid.z",
        "nctaid.x",
        "nctaid.y",
        "nctaid.z",
        "laneid",
        "warpid",
        "nwarpid",
        "lanemask_eq",
        "lanemask_lt",
        "lanemask_le",
        "lanemask_gt",
        "lanemask_ge",
    ];
    for (which, register) in registers.into_iter().enumerate() {
        let body = format!("mov.u32 %r1, %{register};");
        let output = Case { body: &body, grid, block, ..Case::default() }.output();
        let expected = words(12 * 60, |i| {
            let (b, t) = (i / 60, i % 60);
            let lane = t % 32;
            let ones = |range: std::ops::Range<u32>| range.fold(0, |mask, i| mask | 1u32 << i);
            match which {
                0 => t % 5,
                1 => t / 5 % 4,
                2 => t / 20,
                3..6 => block[which - 3],
                6 => b % 3,
                7 => b / 3 % 2,
                8 => b / 6,
                9..12 => grid[which - 9],
                12 => lane,
                13 => t / 32,
                14 => 2,
                15 => ones(lane..lane + 1),
                16 => ones(0..lane),
                17 => ones(0..lane + 1),
                18 => ones(lane + 1..32),
                _ => ones(lane..32),
            }
        });
        assert_eq!(output, expected, "{register}");
    }
}

#[test]
fn clocks_never_go_back() {
    for clock in ["clock64", "globaltimer"] {
        let body = format!(
            "mov.u64 %d3, %{clock}; add.u32 %r2, %r0, 1; add.u32 %r2, %r0, 1; mov.u64 %d4, %{clock};
             setp.gt.u64 %p0, %d4, %d3; selp.u32 %r1, 1, 0, %p0;"
        );
        assert_eq!(Case { body: &body, ..Case::default() }.output(), [1; 32]);
    }
}

#[test]
fn an_instruction_that_is_none_names_its_line() {
    for wrong in [
        "add.u33 %r1, %r1, 1;",
        "ld.global.sticky.u32 %r1, [%d0];",
        "frobnicate.b32 %r1, %r1;",
        "bar.sink 0;",
        "shfl.sync.sideways.b32 %r1, %r1, 1, 31, -1;",
        "atom.global.mul.u32 %r1, [%d0], 1;",
        "mov.b32 %r1, %d0;",
        "mma.sync.aligned.m16n8k9.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r2,%r3}, \
         {%r4,%r5}, {%f0,%f1,%f2,%f3};",
        "cp.async.ca.shared.global [%r1], [%d0], 12;",
        "mbarrier.arrive.expect_tx.b32 _, [%r1], 1;",
        "setmaxnreg.inc.sync.aligned.u32 25;",
    ] {
        let body = format!("mov.u32 %r1, 1;\n{wrong}\n");
        let case = Case { body: &body, ..Case::default() };
        let Err(error) = Gpu::new(0, Config::default()).load(&case.text()) else {
            panic!("{wrong} was loaded");
        };
        let line = format!("line {}:", case.line(wrong));
        assert!(error.to_string().contains(&line), "{wrong}: {error}");
    }
}

#[test]
fn ptx_for_another_device_is_refused() {
    let load = |config: &str, target: &str| {
        let gpu = Gpu::new(0, config.parse().unwrap());
        gpu.load(&Case { target, ..Case::default() }.text()).is_ok()
    };
    assert!(load("sm_90", "sm_80") && load("sm_90", "sm_90a") && load("sm_80", "sm_80"));
    assert!(!load("sm_80", "sm_90") && !load("sm_100", "sm_90a") && load("sm_100", "sm_90"));
}
