//! What goes wrong with memory, and what is said of it.

use salient_gpu::{FaultKind, Gpu};

use crate::common::Case;

#[test]
fn the_first_byte_behind_an_allocation_is_nobodys() {
    for (size, step) in [("u8", 1), ("u32", 4), ("u64", 8)] {
        for load in [true, false] {
            let register = if step == 8 { "%d3" } else { "%r1" };
            let access = |offset: i64| {
                if load {
                    format!("ld.global.{size} {register}, [%d2+{offset}]; // here")
                } else {
                    format!("st.global.{size} [%d2+{offset}], {register}; // here")
                }
            };
            let run = |offset| {
                let body =
                    format!("mov.u64 %d3, 0; setp.eq.u32 %p0, %r0, 5;\n@%p0 {}", access(offset));
                let case = Case { body: &body, input: &[0; 10], ..Case::default() };
                (case.run(), case.line("// here"))
            };
            assert!(run(40 - step).0.is_ok());
            for offset in [40, -step, 1 << 20, i64::from(i32::MIN)] {
                let (result, line) = run(offset);
                let fault = result.unwrap_err();
                assert_eq!(fault.kind, FaultKind::IllegalAddress, "{fault}");
                assert_eq!((fault.lanes, fault.ptx_line), (1 << 5, line), "{fault}");
            }
        }
    }
}

#[test]
fn one_lane_in_another_allocation_is_fine_and_between_them_is_not() {
    let gpu = Gpu::new(0, "".parse().unwrap());
    // An address with all its high bits set must not be taken for one that is in bounds.
    for (extra, ok) in [("%d1", true), ("%d4", false), ("%d5", false), ("%d6", false)] {
        let body = format!(
            "add.u64 %d4, %d2, 64; mov.u64 %d5, -4; mov.u64 %d6, 0;
             setp.eq.u32 %p0, %r0, 31; selp.b64 %d3, {extra}, %d2, %p0; ld.global.u32 %r1, [%d3];"
        );
        let case = Case { body: &body, input: &[7; 16], ..Case::default() };
        let result = case.run_on(&gpu);
        assert_eq!(result.is_ok(), ok, "{extra}");
        if let Err(fault) = result {
            assert_eq!((fault.kind, fault.lanes), (FaultKind::IllegalAddress, 1 << 31), "{fault}");
        }
    }
}

#[test]
fn freed_memory_is_named_as_such() {
    let gpu = Gpu::new(0, "".parse().unwrap());
    let freed = gpu.memory().allocate(64).unwrap();
    gpu.memory().free(freed).unwrap();
    let body = "ld.global.u64 %d3, [%d2]; ld.global.u32 %r1, [%d3];";
    let input = [freed as u32, (freed >> 32) as u32];
    let fault = Case { body, input: &input, ..Case::default() }.run_on(&gpu).unwrap_err();
    assert_eq!(fault.kind, FaultKind::IllegalAddress);
    assert!(fault.message.contains("freed"), "{fault}");
}

#[test]
fn shared_local_and_parameter_memory_have_ends() {
    let declared = ".shared .align 8 .b8 s[24]; .local .align 8 .b8 l[24];";
    let wide = "cvt.u64.u32 %d3, %r2;";
    for (space, end) in [("shared", 24), ("local", 24), ("param", 16)] {
        let name = match space {
            "shared" => "s",
            "local" => "l",
            _ => "k_param_0",
        };
        for (offset, ok) in [(end - 4, true), (end, false), (-4, false), (-8, false)] {
            let body = format!(
                "{declared} st.shared.u32 [s], 1; st.local.u32 [l], 1; mov.u64 %d3, {name};
                 ld.{space}.u32 %r1, [%d3+{offset}];"
            );
            let result = Case { body: &body, block: [1; 3], ..Case::default() }.run();
            assert_eq!(result.is_ok(), ok, "{space} {offset}");
            if let Err(fault) = result {
                assert_eq!(fault.kind, FaultKind::IllegalAddress, "{fault}");
            }
        }
    }
    let body = format!("{declared} mov.u32 %r2, 24; {wide} st.shared.u32 [%r2], 1;");
    Case { body: &body, ..Case::default() }.fault(FaultKind::IllegalAddress);
}

#[test]
fn an_address_is_a_multiple_of_what_is_moved() {
    for (access, offset) in [
        ("ld.global.u16 %r1, [%d3];", 1),
        ("ld.global.u32 %r1, [%d3];", 2),
        ("ld.global.u64 %d4, [%d3];", 4),
        ("ld.global.v2.u32 {%r1, %r2}, [%d3];", 4),
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%d3];", 8),
        ("st.global.v4.u16 [%d3], {%h1, %h1, %h1, %h1};", 4),
        ("atom.global.add.u32 %r1, [%d3], 1;", 2),
        ("red.global.add.u64 [%d3], 1;", 4),
    ] {
        for (shift, ok) in [(0, true), (offset, false)] {
            let body = format!(
                "mov.u16 %h1, 0; setp.eq.u32 %p0, %r0, 3; selp.u64 %d4, {shift}, 0, %p0;
                 add.u64 %d3, %d2, %d4; {access}"
            );
            let result = Case { body: &body, input: &[0; 16], ..Case::default() }.run();
            assert_eq!(result.is_ok(), ok, "{access}");
            if let Err(fault) = result {
                assert_eq!((fault.kind, fault.lanes), (FaultKind::Misaligned, 1 << 3), "{fault}");
            }
        }
    }
}

#[test]
fn a_fault_says_where_it_was() {
    let module = ".file 1 \"kernels/where.cu\"";
    let body = "
        mov.u64 %d3, 0;
        setp.eq.u32 %p0, %r0, 250;
        .loc 1 41 3
        add.u32 %r2, %r0, 1;
        .loc 1 42 7
        @%p0 ld.global.u32 %r1, [%d3]; // here";
    let case = Case { module, body, grid: [1, 2, 2], block: [80, 1, 1], ..Case::default() };
    let fault = case.fault(FaultKind::IllegalAddress);
    assert_eq!(fault.kernel, "k");
    assert_eq!(fault.ptx_line, case.line("// here"));
    assert_eq!(fault.source, Some(("kernels/where.cu".to_owned(), 42)));
    // Thread 250 is the 10th of block 3.
    assert_eq!((fault.block, fault.warp, fault.lanes), ([0, 1, 1], 0, 1 << 10));
    let text = fault.to_string();
    for part in ["IllegalAddress", "kernels/where.cu:42", "block (0, 1, 1)", "00000400"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_nobody_wrote_is_a_fault_if_asked_for() {
    let config = "unwritten=fault";
    let words = [
        ("ld.global.u32 %r1, [%d0];", true),
        ("ld.global.u32 %r1, [%d3];", false),
        ("st.global.u32 [%d3], 5; ld.global.u32 %r1, [%d3];", true),
        ("st.global.u16 [%d3], 5; ld.global.u32 %r1, [%d3];", false),
        ("st.global.u16 [%d3], 5; st.global.u16 [%d3+2], 5; ld.global.u32 %r1, [%d3];", true),
        ("red.global.add.u32 [%d3], 1;", false),
        ("ld.shared.u32 %r1, [s];", false),
        ("st.shared.u32 [s], 1; ld.shared.u32 %r1, [s];", true),
        ("st.shared.u8 [s], 1; ld.shared.u32 %r1, [s];", false),
    ];
    for (body, ok) in words {
        let gpu = Gpu::new(0, config.parse().unwrap());
        let fresh = gpu.memory().allocate(4).unwrap();
        let body = format!(".shared .align 4 .u32 s; ld.global.u64 %d3, [%d2]; {body}");
        let input = [fresh as u32, (fresh >> 32) as u32];
        let case = Case { body: &body, input: &input, block: [1; 3], ..Case::default() };
        match case.run_on(&gpu) {
            Ok(_) => assert!(ok, "{body}"),
            Err(fault) => {
                assert!(!ok, "{fault}");
                assert_eq!(fault.kind, FaultKind::Unwritten, "{fault}");
            }
        }
    }
}

#[test]
fn launches_that_no_device_takes_are_refused() {
    let shapes = [
        ([1, 1, 1], [1025, 1, 1], [1; 3]),
        ([1, 1, 1], [0, 1, 1], [1; 3]),
        ([0, 1, 1], [1, 1, 1], [1; 3]),
        ([3, 1, 1], [1, 1, 1], [2, 1, 1]),
    ];
    for (grid, block, cluster) in shapes {
        let case = Case { grid, block, cluster, output: 1, ..Case::default() };
        case.fault(FaultKind::InvalidParameters);
    }
}
