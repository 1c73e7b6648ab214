//! PTX ISA: atom and red.

use half::{bf16, f16};

use crate::common::{Case, UNTOUCHED, words};

/// What lies there before, the operand (and the new value of cas), and what lies there after.
fn check(form: &str, before: u64, operands: &[u64], after: u64) {
    let kind = form.rsplit('.').next().unwrap();
    let bits: u32 = match kind {
        "f16" | "bf16" | "b16" => 16,
        "u64" | "s64" | "b64" | "f64" => 64,
        _ => 32,
    };
    let list = |name: &str| -> String {
        (0..operands.len()).map(|i| format!(", %{name}{}", 10 + i)).collect()
    };
    let mut body = String::new();
    for (i, value) in operands.iter().enumerate() {
        body += &format!(
            "mov.u64 %d{0}, {value}; cvt.u32.u64 %r{0}, %d{0}; cvt.u16.u64 %h{0}, %d{0};\n",
            10 + i
        );
    }
    let (file, list) = match bits {
        16 => ("h", list("h")),
        64 => ("d", list("d")),
        _ => ("r", list("r")),
    };
    for space in ["global", "shared", "generic"] {
        let (address, dot) = match space {
            "global" => ("%d1", ".global"),
            "shared" => ("%r5", ".shared"),
            _ => ("%d6", ""),
        };
        for red in [false, true] {
            if red && (form.starts_with("exch") || form.starts_with("cas")) {
                continue;
            }
            let instruction = match red {
                true => format!("red{dot}.{form} [{address}]{list};"),
                false => format!("atom{dot}.{form} %{file}2, [{address}]{list};"),
            };
            let text = format!(
                ".shared .align 8 .b8 s[16]; mov.u32 %r5, s; add.u32 %r5, %r5, 8; mov.u64 %d6, %d1;
                 mov.u64 %d2, {UNTOUCHED}; mov.u32 %r2, {UNTOUCHED}; mov.u16 %h2, 0;
                 mov.u64 %d3, {before}; st.global.u64 [%d1], %d3; st.shared.u64 [%r5], %d3;
                 {body} {instruction}
                 ld.global.u64 %d4, [%d1]; ld.shared.u64 %d5, [%r5];
                 st.global.u64 [%d1+8], %d4; st.global.u64 [%d1+16], %d5;
                 st.global.b{bits} [%d1+24], %{file}2; exit;"
            );
            let case = Case { body: &text, output: 8, block: [1; 3], ..Case::default() };
            let output = case.output();
            let mask = u64::MAX >> (64 - bits);
            let at = |i: usize| u64::from(output[i]) | u64::from(output[i + 1]) << 32;
            let found = if space == "shared" { at(4) } else { at(2) };
            assert_eq!(found & mask, after & mask, "{instruction}");
            assert_eq!(found & !mask, before & !mask, "{instruction}");
            if !red {
                assert_eq!(at(6) & mask, before & mask, "{instruction}");
            }
        }
    }
}

#[test]
fn integers() {
    let minus = |x: i64| x as u64;
    check("add.u32", 0xffff_fffe, &[5], 3);
    check("add.s32", 7, &[minus(-9)], minus(-2));
    check("add.u64", u64::MAX, &[2], 1);
    check("min.u32", 5, &[minus(-1)], 5);
    check("max.u32", 5, &[minus(-1)], 0xffff_ffff);
    check("min.s32", 5, &[minus(-1)], minus(-1));
    check("max.s32", minus(-7), &[minus(-1)], minus(-1));
    check("min.u64", 1 << 40, &[1 << 41], 1 << 40);
    check("max.u64", 1 << 40, &[1 << 41], 1 << 41);
    check("min.s64", minus(-1), &[1 << 41], minus(-1));
    check("max.s64", minus(-1), &[1 << 41], 1 << 41);
    check("and.b32", 0xff00_ff00, &[0x0ff0_0ff0], 0x0f00_0f00);
    check("or.b32", 0xff00_ff00, &[0x0ff0_0ff0], 0xfff0_fff0);
    check("xor.b32", 0xff00_ff00, &[0x0ff0_0ff0], 0xf0f0_f0f0);
    check("and.b64", 0xff00 << 40, &[0x0ff0 << 40], 0x0f00 << 40);
    check("or.b64", 0xff00 << 40, &[0x0ff0 << 40], 0xfff0 << 40);
    check("xor.b64", 0xff00 << 40, &[0x0ff0 << 40], 0xf0f0 << 40);
    check("exch.b32", 1, &[2], 2);
    check("exch.b64", 1 << 50, &[1 << 51], 1 << 51);
    check("cas.b32", 4, &[4, 9], 9);
    check("cas.b32", 4, &[5, 9], 4);
    check("cas.b64", 4 << 40, &[4 << 40, 9 << 40], 9 << 40);
    check("cas.b64", 4 << 40, &[4, 9], 4 << 40);
    check("cas.b16", 0x1234_0004, &[4, 9], 0x1234_0009);
    for (before, limit, up, down) in [(3, 5, 4, 2), (5, 5, 0, 4), (9, 5, 0, 5), (0, 5, 1, 5)] {
        check("inc.u32", before, &[limit], up);
        check("dec.u32", before, &[limit], down);
    }
}

#[test]
fn floats() {
    let f = |x: f32| u64::from(x.to_bits());
    let h = |x: f32| u64::from(f16::from_f32(x).to_bits());
    let b = |x: f32| u64::from(bf16::from_f32(x).to_bits());
    check("add.f32", f(1.5), &[f(-4.0)], f(-2.5));
    check("add.f64", 0.1f64.to_bits(), &[0.2f64.to_bits()], (0.1f64 + 0.2).to_bits());
    check("add.noftz.f16", h(1.0), &[h(0.5)], h(1.5));
    check("add.noftz.bf16", b(3.0), &[b(-0.5)], b(2.5));
    let two = |x: u64, y: u64| x | y << 16;
    check("add.noftz.f16x2", two(h(1.0), h(2.0)), &[two(h(0.25), h(-3.0))], two(h(1.25), h(-1.0)));
    check("add.noftz.bf16x2", two(b(1.0), b(2.0)), &[two(b(0.25), b(-3.0))], two(b(1.25), b(-1.0)));
}

#[test]
fn sums_of_small_floats_are_flushed_in_global_memory_alone() {
    let tiny = f32::MIN_POSITIVE / 2.0;
    let body = format!(
        ".shared .align 4 .f32 s; mov.b32 %f1, {0}; st.global.f32 [%d1], %f1; st.shared.f32 [s], %f1;
         red.global.add.f32 [%d1], %f1; red.shared.add.f32 [s], %f1;
         ld.shared.b32 %r1, [s]; st.global.u32 [%d1+4], %r1; exit;",
        tiny.to_bits()
    );
    let case = Case { body: &body, output: 2, block: [1; 3], ..Case::default() };
    assert_eq!(case.output(), [0, f32::MIN_POSITIVE.to_bits()]);
}

#[test]
fn lanes_and_blocks_that_meet_at_an_address_all_count() {
    let body = "
        atom.global.add.u32 %r1, [%d1], 1;
        red.global.max.u32 [%d1+4], %r0;
        atom.global.relaxed.gpu.add.v2.f32 {%f1, %f2}, [%d1+8], {%f3, %f3};
        shl.b32 %r2, %r1, 2; cvt.u64.u32 %d3, %r2; add.u64 %d3, %d1, %d3; st.global.u32 [%d3+16], %r0;
        exit;";
    let body = format!("mov.f32 %f3, 0f3F800000; {body}");
    for config in ["", "order=reverse", "order=random", "order=random,seed=9"] {
        let gpu = salient_gpu::Gpu::new(0, config.parse().unwrap());
        let text = Case { body: &body, ..Case::default() }.text();
        let kernel = gpu.load(&text).unwrap().kernel("k").unwrap();
        let output = crate::common::upload(&gpu, &[0; 4 + 300]);
        let mut params = output.to_le_bytes().to_vec();
        params.extend([0; 8]);
        let launch = salient_gpu::Launch {
            grid: [3, 1, 1],
            block: [100, 1, 1],
            dynamic_shared: 0,
            cluster: [1; 3],
            cooperative: false,
        };
        gpu.launch(&kernel, &launch, &params).unwrap();
        let result = crate::common::download(&gpu, output, 4 + 300);
        assert_eq!(result[..4], [300, 299, 300f32.to_bits(), 300f32.to_bits()]);
        let mut order = result[4..].to_vec();
        match config {
            "" => assert_eq!(order, words(300, |i| i)),
            "order=reverse" => {
                // The last block's last warp need not be first, but its last lane is before the
                // others.
                assert!(order.iter().position(|&i| i == 299) < order.iter().position(|&i| i == 0));
                assert_ne!(order, words(300, |i| i));
            }
            _ => assert_ne!(order, words(300, |i| i)),
        }
        order.sort_unstable();
        assert_eq!(order, words(300, |i| i));
    }
}

#[test]
fn a_lock_by_cas_lets_one_lane_in_at_a_time() {
    let body = "
        .shared .align 4 .u32 lock; .shared .align 4 .u32 sum;
        setp.ne.u32 %p0, %r31, 0; @%p0 bra GO;
        st.shared.u32 [lock], 0; st.shared.u32 [sum], 0;
        GO: bar.sync 0;
        TRY: atom.shared.cas.b32 %r2, [lock], 0, 1;
        setp.ne.u32 %p1, %r2, 0; @%p1 bra TRY;
        ld.volatile.shared.u32 %r3, [sum]; add.u32 %r3, %r3, %r31; st.volatile.shared.u32 [sum], %r3;
        atom.shared.exch.b32 %r2, [lock], 0;
        bar.sync 0;
        ld.shared.u32 %r1, [sum];";
    for config in ["steps=10000000", "steps=10000000,order=random,delay=50"] {
        let output = Case { body, config, block: [64, 1, 1], ..Case::default() }.output();
        assert_eq!(output, [63 * 32; 64]);
    }
}
