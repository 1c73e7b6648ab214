//! PTX ISA: State Spaces, ld, st, cvta, isspacep, Initializers.

use salient_gpu::{FaultKind, Gpu, Launch, POISON};

use crate::common::{Case, words};

#[test]
fn every_width_is_loaded_with_its_sign_or_with_zeros() {
    let input = [0x80ff_7f81, 0xfedc_ba98, 0x0123_4567, 0x89ab_cdef];
    let bytes: Vec<u8> = input.iter().flat_map(|word: &u32| word.to_le_bytes()).collect();
    let at = |offset: usize, size: usize| {
        let mut long = [0; 8];
        long[..size].copy_from_slice(&bytes[offset..offset + size]);
        u64::from_le_bytes(long)
    };
    for (kind, size, signed) in [
        ("u8", 1, false),
        ("s8", 1, true),
        ("b8", 1, false),
        ("u16", 2, false),
        ("s16", 2, true),
        ("u32", 4, false),
        ("s32", 4, true),
        ("b32", 4, false),
        ("u64", 8, false),
        ("s64", 8, true),
    ] {
        for offset in (0..16).step_by(size) {
            let value = at(offset, size);
            let shift = 64 - 8 * size as u32;
            let wide = match signed {
                true => ((value << shift) as i64 >> shift) as u64,
                false => value,
            };
            // To registers of 64 bits, and of 32 where it fits.
            let body = format!(
                "ld.global.{kind} %d3, [%d2+{offset}];
                 cvt.u32.u64 %r1, %d3; shr.u64 %d4, %d3, 32; st.global.u32 [%d1+4], %d4;"
            );
            let case =
                Case { body: &body, input: &input, output: 2, block: [1; 3], ..Case::default() };
            assert_eq!(case.output(), [wide as u32, (wide >> 32) as u32], "{kind} at {offset}");
            if size <= 4 {
                let body = format!("ld.global.{kind} %r1, [%d2+{offset}];");
                let case = Case { body: &body, input: &input, block: [1; 3], ..Case::default() };
                assert_eq!(case.output(), [wide as u32], "{kind} at {offset}");
            }
            if size <= 2 {
                let extend = if signed { "cvt.s32.s16" } else { "cvt.u32.u16" };
                let body = format!("ld.global.{kind} %h1, [%d2+{offset}]; {extend} %r1, %h1;");
                let case = Case { body: &body, input: &input, block: [1; 3], ..Case::default() };
                assert_eq!(case.output(), [wide as u32], "{kind} at {offset}, 16 bits");
            }
        }
    }
}

#[test]
fn stores_take_the_low_bits_of_wider_registers() {
    let wide = "mov.u64 %d3, 0x1122334455667788; add.u64 %d3, %d3, 0;";
    let narrow = "mov.u32 %r2, 0x55667788; add.u32 %r2, %r2, 0;";
    for (kind, register, expected) in [
        ("u8", "%d3", [0xdead_be88, 0xdead_beef]),
        ("b16", "%d3", [0xdead_7788, 0xdead_beef]),
        ("u32", "%d3", [0x5566_7788, 0xdead_beef]),
        ("b64", "%d3", [0x5566_7788, 0x1122_3344]),
        ("u8", "%r2", [0xdead_be88, 0xdead_beef]),
        ("u16", "%r2", [0xdead_7788, 0xdead_beef]),
    ] {
        let body = format!("{wide} {narrow} st.global.{kind} [%d1], {register}; exit;");
        let case = Case { body: &body, output: 2, block: [1; 3], ..Case::default() };
        assert_eq!(case.output(), expected, "{kind} from {register}");
    }
}

#[test]
fn vectors_are_elements_side_by_side() {
    let input: Vec<u32> = (0..8).map(|i| 0x0102_0304 * (i + 1)).collect();
    for (form, count, size) in [
        ("v2.u8", 2, 1),
        ("v4.u8", 4, 1),
        ("v2.u16", 2, 2),
        ("v4.b16", 4, 2),
        ("v2.f32", 2, 4),
        ("v4.u32", 4, 4),
        ("v2.u64", 2, 8),
    ] {
        let (file, register) = match (size, form) {
            (8, _) => ("b64", "%d"),
            (4, "v2.f32") => ("f32", "%f"),
            (4, _) => ("b32", "%r"),
            _ => ("b16", "%h"),
        };
        let registers: Vec<String> = (10..10 + count).map(|i| format!("{register}{i}")).collect();
        let list = registers.join(", ");
        let body = format!(
            "ld.global.{form} {{{list}}}, [%d2]; st.global.{form} [%d1], {{{list}}}; exit;"
        );
        let case = Case { body: &body, input: &input, output: 5, block: [1; 3], ..Case::default() };
        let mut expected: Vec<u8> =
            [0xdead_beef_u32; 5].iter().flat_map(|word| word.to_le_bytes()).collect();
        let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
        expected[..count * size].copy_from_slice(&bytes[..count * size]);
        let got: Vec<u8> = case.output().iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(got, expected, "{form} of {file}");
    }
}

#[test]
fn a_vector_may_leave_parts_out() {
    let body =
        "ld.global.v4.u32 {%r2, _, %r3, _}, [%d2]; shl.b32 %r3, %r3, 8; or.b32 %r1, %r2, %r3;";
    let case = Case { body, input: &[1, 2, 3, 4], block: [1; 3], ..Case::default() };
    assert_eq!(case.output(), [0x301]);
}

#[test]
fn module_variables_begin_as_they_say() {
    let module = "
        .const .align 4 .u32 table[4] = {10, 20, 30};
        .global .align 2 .u16 halves[3] = {1, 65535, 2};
        .global .align 4 .f32 number = 0f3FC00000;
        .global .align 8 .u64 pointers[2] = {halves, generic(number)};
        .global .align 4 .u32 nothing;
        .const .align 8 .b8 bytes[4] = {1, 2, 3, 4};";
    let body = "
        ld.const.u32 %r2, [table]; ld.const.u32 %r3, [table+8]; ld.const.u32 %r4, [table+12];
        ld.global.u16 %r5, [halves+2]; ld.global.b32 %r6, [number]; ld.global.u32 %r7, [nothing];
        ld.global.u64 %d3, [pointers]; ld.global.u16 %r8, [%d3+4];
        ld.global.u64 %d4, [pointers+8]; ld.u32 %r9, [%d4];
        mov.u64 %d5, bytes; cvta.const.u64 %d5, %d5; ld.u8 %r10, [%d5+2];
        st.global.v4.u32 [%d1], {%r2, %r3, %r4, %r5};
        st.global.v4.u32 [%d1+16], {%r6, %r7, %r8, %r9};
        st.global.u32 [%d1+32], %r10;
        exit;";
    let case = Case { module, body, output: 9, block: [1; 3], ..Case::default() };
    let one_and_a_half = 1.5f32.to_bits();
    assert_eq!(case.output(), [10, 30, 0, 65535, one_and_a_half, 0, 2, one_and_a_half, 3]);
}

#[test]
fn a_variable_keeps_its_value_between_launches_and_is_found_by_name() {
    let gpu = Gpu::new(0, "".parse().unwrap());
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n.global .align 8 .u64 count;
        .visible .entry k() { .reg .b64 %d<2>; ld.global.u64 %d0, [count]; add.u64 %d0, %d0, 3;
        st.global.u64 [count], %d0; }";
    let module = gpu.load(text).unwrap();
    let kernel = module.kernel("k").unwrap();
    let one = Launch {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        cluster: [1; 3],
        cooperative: false,
    };
    for _ in 0..2 {
        gpu.launch(&kernel, &one, &[]).unwrap();
    }
    let (address, bytes) = module.variable("count").unwrap();
    let mut value = [0; 8];
    gpu.memory().read(address, &mut value).unwrap();
    assert_eq!((bytes, value), (8, 6u64.to_le_bytes()));
    assert!(module.variable("other").is_none());
}

#[test]
fn shared_memory_is_a_blocks_own_and_begins_poisoned() {
    let body = "
        .shared .align 16 .b8 fixed[64];
        .shared .align 4 .u32 last;
        mov.u32 %r2, fixed; shl.b32 %r3, %r31, 2; add.u32 %r2, %r2, %r3;
        ld.shared.u32 %r4, [%r2];
        st.shared.u32 [%r2], %r0;
        st.shared.u32 [last], 5;
        mov.u32 %r6, behind; add.u32 %r6, %r6, %r3;
        ld.shared.u32 %r7, [%r6+64];
        st.shared.u32 [%r6+64], 1000;
        bar.sync 0;
        xor.b32 %r5, %r3, 4; mov.u32 %r2, fixed; add.u32 %r2, %r2, %r5; ld.shared.u32 %r1, [%r2];
        mad.lo.u32 %r1, %r4, 100, %r1; add.u32 %r1, %r1, %r7;";
    let case = Case {
        module: ".extern .shared .align 16 .b8 behind[];",
        body,
        grid: [3, 1, 1],
        block: [16, 1, 1],
        dynamic_shared: 128,
        ..Case::default()
    };
    let poison = u32::from(POISON) << 16 | u32::from(POISON);
    let poison = poison.wrapping_mul(101);
    assert_eq!(case.output(), words(48, |i| poison.wrapping_add(i ^ 1)));
}

#[test]
fn local_memory_is_a_threads_own() {
    let body = "
        .local .align 8 .b8 stack[32];
        mov.u64 %d3, stack; cvta.local.u64 %d4, %d3;
        st.local.u32 [%d3+4], %r0;
        add.u32 %r2, %r0, 7; st.u64 [%d4+8], %d1; st.u32 [%d4+16], %r2;
        ld.local.u32 %r3, [stack+16]; ld.u32 %r4, [%d4+4];
        mad.lo.u32 %r1, %r3, 1000, %r4;";
    let output = Case { body, block: [40, 1, 1], grid: [2, 1, 1], ..Case::default() }.output();
    assert_eq!(output, words(80, |i| (i + 7) * 1000 + i));
}

#[test]
fn parameters_are_read_by_name_and_by_generic_address() {
    let gpu = Gpu::new(0, "".parse().unwrap());
    let text = ".version 8.8\n.target sm_80\n.address_size 64\n
        .visible .entry k(.param .u8 a, .param .align 16 .b8 s[24], .param .u64 out) {
        .reg .b32 %r<8>; .reg .b64 %d<8>; .reg .b16 %h<2>;
        ld.param.u64 %d0, [out]; ld.param.u8 %h0, [a]; cvt.u32.u16 %r0, %h0;
        ld.param.u32 %r1, [s+20]; ld.param.v2.u32 {%r2, %r3}, [s+8];
        mov.b64 %d1, s; cvta.param.u64 %d2, %d1; ld.u32 %r4, [%d2+4];
        st.global.v4.u32 [%d0], {%r0, %r1, %r2, %r3}; st.global.u32 [%d0+16], %r4; ret; }";
    let module = gpu.load(text).unwrap();
    let kernel = module.kernel("k").unwrap();
    let places: Vec<(u64, u64)> = kernel.params().iter().map(|p| (p.offset, p.size)).collect();
    assert_eq!(places, [(0, 1), (16, 24), (40, 8)]);
    assert_eq!(kernel.param_bytes(), 48);
    let out = crate::common::upload(&gpu, &[0; 5]);
    let mut params = vec![0; 48];
    params[0] = 200;
    for i in 0..6u32 {
        params[16 + 4 * i as usize..][..4].copy_from_slice(&(100 + i).to_le_bytes());
    }
    params[40..].copy_from_slice(&out.to_le_bytes());
    let one = Launch {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        cluster: [1; 3],
        cooperative: false,
    };
    gpu.launch(&kernel, &one, &params).unwrap();
    assert_eq!(crate::common::download(&gpu, out, 5), [200, 105, 102, 103, 101]);
    let short = gpu.launch(&kernel, &one, &params[..47]).unwrap_err();
    assert_eq!(short.kind, FaultKind::InvalidParameters);
}

#[test]
fn generic_addresses_may_be_of_another_space_in_every_lane() {
    let body = "
        .shared .align 4 .u32 s[8]; .local .align 4 .u32 l[2];
        st.shared.u32 [s+8], 222; st.local.u32 [l+4], 333;
        bar.warp.sync -1;
        mov.u32 %r2, s; cvt.u64.u32 %d3, %r2; cvta.shared.u64 %d3, %d3; add.u64 %d3, %d3, 8;
        mov.u64 %d4, l; cvta.local.u64 %d4, %d4; add.u64 %d4, %d4, 4;
        rem.u32 %r3, %r0, 3;
        setp.eq.u32 %p0, %r3, 0; setp.eq.u32 %p1, %r3, 1;
        selp.b64 %d5, %d3, %d4, %p1; selp.b64 %d5, %d2, %d5, %p0;
        ld.u32 %r1, [%d5];
        isspacep.global %p2, %d5; isspacep.shared %p3, %d5; isspacep.local %p4, %d5;
        selp.u32 %r4, 1000, 0, %p2; selp.u32 %r5, 2000, 0, %p3; selp.u32 %r6, 4000, 0, %p4;
        add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5; add.u32 %r1, %r1, %r6;
        cvta.to.shared.u64 %d6, %d5;
        @%p3 ld.shared.u32 %r7, [%d6];
        @%p3 add.u32 %r1, %r1, %r7;";
    let expected = words(32, |i| [1111, 2000 + 444, 4333][(i % 3) as usize]);
    assert_eq!(Case { body, input: &[111], ..Case::default() }.output(), expected);
}

#[test]
fn hints_for_caches_do_nothing() {
    let body = "
        createpolicy.fractional.L2::evict_first.b64 %d3, 1.0;
        prefetch.global.L2 [%d2]; prefetchu.L1 [%d2];
        ld.global.nc.L1::no_allocate.L2::128B.u32 %r2, [%d2];
        ld.global.L2::cache_hint.u32 %r3, [%d2], %d3;
        ld.global.cg.u32 %r4, [%d2]; ld.volatile.global.u32 %r5, [%d2];
        ld.relaxed.gpu.global.u32 %r6, [%d2]; ld.acquire.sys.global.u32 %r7, [%d2];
        ldu.global.u32 %r8, [%d2];
        add.u32 %r1, %r2, %r3; add.u32 %r1, %r1, %r4; add.u32 %r1, %r1, %r5;
        add.u32 %r1, %r1, %r6; add.u32 %r1, %r1, %r7; add.u32 %r1, %r1, %r8;
        st.relaxed.gpu.global.u32 [%d1], %r1; st.release.gpu.global.u32 [%d1], %r1;
        st.global.wt.u32 [%d1], %r1;";
    assert_eq!(Case { body, input: &[3], block: [1; 3], ..Case::default() }.output(), [21]);
}

#[test]
fn pinned_host_memory_is_at_its_own_address() {
    let gpu = Gpu::new(0, "".parse().unwrap());
    let mut host = vec![5u32, 6];
    let pointer = host.as_mut_ptr().cast::<u8>();
    gpu.memory().register_host(pointer, 8);
    let address = pointer as u64;
    let body = "ld.global.u64 %d3, [%d2]; ld.global.u32 %r1, [%d3+4]; st.u32 [%d3], 9;";
    let input = [address as u32, (address >> 32) as u32];
    let case = Case { body, input: &input, block: [1; 3], ..Case::default() };
    assert_eq!(case.run_on(&gpu).unwrap().output, [6]);
    gpu.memory().unregister_host(pointer);
    assert_eq!(host, [9, 6]);
    assert_eq!(case.run_on(&gpu).unwrap_err().kind, FaultKind::IllegalAddress);
}
