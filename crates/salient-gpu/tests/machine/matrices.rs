//! PTX ISA: ldmatrix, stmatrix, movmatrix, mma: once for each type, through the machine.

use half::{bf16, f16};
use salient_gpu::FaultKind;

use crate::common::{Case, words};

/// 32 rows of 16 bytes at `%r2`, each lane's own row at `%r4`; halves are 100 * row + column.
const ROWS: &str = "
    .shared .align 16 .b8 s[1024];
    mov.u32 %r2, s; shl.b32 %r3, %r31, 4; add.u32 %r4, %r2, %r3;
    mul.lo.u32 %r5, %r31, 0x00640064; add.u32 %r6, %r5, 0x00010000; add.u32 %r7, %r5, 0x00030002;
    add.u32 %r8, %r5, 0x00050004; add.u32 %r9, %r5, 0x00070006;
    st.shared.v4.u32 [%r4], {%r6, %r7, %r8, %r9}; bar.warp.sync -1;";

fn element(row: u32, column: u32) -> u32 {
    100 * row + column
}

#[test]
fn matrices_are_loaded_row_by_row() {
    for (count, list) in [(1, "{%r10}"), (2, "{%r10, %r11}"), (4, "{%r10, %r11, %r12, %r13}")] {
        for trans in [false, true] {
            for which in 0..count {
                for (dot, address) in [(".shared", "%r4"), ("", "%d3")] {
                    let body = format!(
                        "{ROWS} cvt.u64.u32 %d3, %r4; cvta.shared.u64 %d3, %d3;
                         ldmatrix.sync.aligned.m8n8.x{count}{}{dot}.b16 {list}, [{address}];
                         mov.u32 %r1, %r{};",
                        if trans { ".trans" } else { "" },
                        10 + which
                    );
                    let expected = words(32, |lane| {
                        let (row, column) = (lane / 4, lane % 4 * 2);
                        let base = 8 * which;
                        match trans {
                            false => {
                                element(base + row, column) | element(base + row, column + 1) << 16
                            }
                            true => {
                                element(base + column, row) | element(base + column + 1, row) << 16
                            }
                        }
                    });
                    assert_eq!(Case { body: &body, ..Case::default() }.output(), expected);
                }
            }
        }
    }
}

#[test]
fn a_matrix_is_turned_and_stored() {
    let load = format!("{ROWS} ldmatrix.sync.aligned.m8n8.x1.shared.b16 {{%r10}}, [%r4];");
    let body = format!("{load} movmatrix.sync.aligned.m8n8.trans.b16 %r1, %r10;");
    let turned = words(32, |lane| {
        let (row, column) = (lane / 4, lane % 4 * 2);
        element(column, row) | element(column + 1, row) << 16
    });
    assert_eq!(Case { body: &body, ..Case::default() }.output(), turned);
    for (trans, add) in [("", 0), (".trans", 1)] {
        let body = format!(
            "{load} bar.warp.sync -1;
             stmatrix.sync.aligned.m8n8.x1{trans}.shared.b16 [%r4+512], {{%r10}};
             bar.warp.sync -1;
             shl.b32 %r11, %r31, 2; add.u32 %r11, %r11, %r2; ld.shared.u32 %r1, [%r11+512];"
        );
        let expected = words(32, |word| {
            let (row, column) = (word / 4, word % 4 * 2);
            match add {
                0 => element(row, column) | element(row, column + 1) << 16,
                _ => element(column, row) | element(column + 1, row) << 16,
            }
        });
        for config in ["", "races"] {
            assert_eq!(Case { body: &body, config, ..Case::default() }.output(), expected);
        }
    }
}

#[test]
fn rows_must_be_aligned_and_there() {
    for (offset, kind) in [(8, FaultKind::Misaligned), (1024, FaultKind::IllegalAddress)] {
        let body = format!(
            "{ROWS} ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r10, %r11, %r12, %r13}}, [%r4+{offset}];"
        );
        Case { body: &body, ..Case::default() }.fault(kind);
    }
}

fn a(i: u32, k: u32) -> i32 {
    (i * 7 + k * 3) as i32 % 11 - 5
}

fn b(k: u32, j: u32) -> i32 {
    (k * 5 + j * 2) as i32 % 9 - 4
}

fn c(i: u32, j: u32) -> i32 {
    i as i32 - 2 * j as i32
}

/// A type's bits for a small number.
fn bits(kind: &str, value: i32) -> u64 {
    match kind {
        "f16" => f16::from_f64(value.into()).to_bits().into(),
        "bf16" => bf16::from_f64(value.into()).to_bits().into(),
        "tf32" | "f32" => (value as f32).to_bits().into(),
        "f64" => f64::from(value).to_bits(),
        // Two to the power of it, within a byte.
        "e4m3" => ((7 + value) << 3) as u64,
        "e5m2" => ((15 + value) << 2) as u64,
        "s32" => u64::from(value as u32),
        _ => value as u64 & 0xff,
    }
}

/// What the bits mean where it is not the number itself.
fn meaning(kind: &str, value: i32) -> f64 {
    match kind {
        "e4m3" | "e5m2" => 2f64.powi(value),
        "u8" => f64::from(value as u8),
        _ => f64::from(value),
    }
}

/// The manual's figures: row and column of element `i` of a lane's fragment.
struct Shape {
    size: [u32; 3],
    types: [&'static str; 4],
    elements: [u32; 3],
    a: fn(u32, u32) -> (u32, u32),
    b: fn(u32, u32) -> (u32, u32),
    c: fn(u32, u32) -> (u32, u32),
}

fn wide_c(lane: u32, i: u32) -> (u32, u32) {
    (lane / 4 + 8 * (i / 2), lane % 4 * 2 + i % 2)
}

fn a_16(lane: u32, i: u32) -> (u32, u32) {
    (lane / 4 + 8 * (i / 2 % 2), lane % 4 * 2 + i % 2 + 8 * (i / 4))
}

fn b_16(lane: u32, i: u32) -> (u32, u32) {
    (lane % 4 * 2 + i % 2 + 8 * (i / 2), lane / 4)
}

fn a_8(lane: u32, i: u32) -> (u32, u32) {
    (lane / 4 + 8 * (i / 4 % 2), lane % 4 * 4 + i % 4 + 16 * (i / 8))
}

fn b_8(lane: u32, i: u32) -> (u32, u32) {
    (lane % 4 * 4 + i % 4 + 16 * (i / 4), lane / 4)
}

fn shapes() -> Vec<Shape> {
    let halves = |types, k: u32| Shape {
        size: [16, 8, k],
        types,
        elements: [k / 2, k / 4, 4],
        a: a_16,
        b: b_16,
        c: wide_c,
    };
    let bytes = |types, k: u32| Shape {
        size: [16, 8, k],
        types,
        elements: [k / 2, k / 4, 4],
        a: a_8,
        b: b_8,
        c: wide_c,
    };
    vec![
        halves(["f32", "f16", "f16", "f32"], 16),
        halves(["f16", "f16", "f16", "f16"], 16),
        halves(["f32", "f16", "f16", "f32"], 8),
        halves(["f32", "bf16", "bf16", "f32"], 16),
        Shape {
            size: [16, 8, 8],
            types: ["f32", "tf32", "tf32", "f32"],
            elements: [4, 2, 4],
            a: |lane, i| (lane / 4 + 8 * (i % 2), lane % 4 + 4 * (i / 2)),
            b: |lane, i| (lane % 4 + 4 * i, lane / 4),
            c: wide_c,
        },
        bytes(["s32", "s8", "s8", "s32"], 32),
        bytes(["s32", "u8", "s8", "s32"], 16),
        bytes(["f32", "e4m3", "e5m2", "f32"], 32),
        Shape {
            size: [8, 8, 4],
            types: ["f64", "f64", "f64", "f64"],
            elements: [1, 1, 2],
            a: |lane, _| (lane / 4, lane % 4),
            b: |lane, _| (lane % 4, lane / 4),
            c: |lane, i| (lane / 4, lane % 4 * 2 + i),
        },
    ]
}

/// A lane's elements, packed into words.
fn pack(kind: &str, elements: impl Iterator<Item = i32>) -> Vec<u32> {
    let size = match kind {
        "f64" => 64,
        "f16" | "bf16" => 16,
        "tf32" | "f32" | "s32" => 32,
        _ => 8,
    };
    let mut words = Vec::new();
    let mut filled = 0;
    for element in elements {
        let value = bits(kind, element);
        if size == 64 {
            words.extend([value as u32, (value >> 32) as u32]);
            continue;
        }
        if filled == 0 {
            words.push(0);
        }
        *words.last_mut().unwrap() |= (value << filled) as u32;
        filled = (filled + size) % 32;
    }
    words
}

#[test]
fn products_of_every_type() {
    for shape in shapes() {
        let Shape { size: [m, n, k], types, elements, .. } = shape;
        let [in_a, in_b, in_c] = elements;
        let mut input = Vec::new();
        let mut counts = [0; 3];
        for lane in 0..32 {
            let parts = [
                pack(types[1], (0..in_a).map(|i| (shape.a)(lane, i)).map(|(i, k)| a(i, k))),
                pack(types[2], (0..in_b).map(|i| (shape.b)(lane, i)).map(|(k, j)| b(k, j))),
                pack(types[3], (0..in_c).map(|i| (shape.c)(lane, i)).map(|(i, j)| c(i, j))),
            ];
            counts = parts.each_ref().map(Vec::len);
            input.extend(parts.concat());
        }
        let double = types[0] == "f64";
        let width = if double { 2 } else { 1 };
        let mut body =
            format!("mad.wide.u32 %d3, %r31, {}, %d2;", 4 * counts.iter().sum::<usize>());
        let (mut lists, mut at) = (Vec::new(), 0);
        let (file, load) = if double { ("e", "f64") } else { ("r", "b32") };
        for count in counts {
            let mut list = Vec::new();
            for _ in 0..count / width {
                let register = format!("%{file}{}", 10 + at / width);
                body += &format!("ld.global.{load} {register}, [%d3+{}];", 4 * at);
                list.push(register);
                at += width;
            }
            lists.push(list.join(", "));
        }
        // Floats of 32 bits have registers of their own type; mma takes those of .b32 as well here.
        let each = counts[2];
        let results: Vec<String> =
            (0..each / width).map(|i| format!("%{file}{}", 40 + i)).collect();
        body += &format!(
            "mma.sync.aligned.m{m}n{n}k{k}.row.col.{}.{}.{}.{} {{{}}}, {{{}}}, {{{}}}, {{{}}};",
            types[0],
            types[1],
            types[2],
            types[3],
            results.join(", "),
            lists[0],
            lists[1],
            lists[2]
        );
        body += &format!("mad.wide.u32 %d4, %r31, {}, %d1;", 4 * each);
        for (i, result) in results.iter().enumerate() {
            body += &format!("st.global.{load} [%d4+{}], {result};", 4 * width * i);
        }
        body += "exit;";
        for config in ["sums=exact", "", "sm_80"] {
            let fp8 = types[1].starts_with('e');
            if fp8 && config == "sm_80" {
                continue;
            }
            let case = Case {
                body: &body,
                config,
                target: if fp8 { "sm_90" } else { "sm_80" },
                input: &input,
                output: 32 * each,
                ..Case::default()
            };
            let output = case.output();
            for lane in 0..32 {
                let expected = (0..in_c).map(|i| (shape.c)(lane, i)).map(|(i, j)| {
                    let products =
                        (0..k).map(|k| meaning(types[1], a(i, k)) * meaning(types[2], b(k, j)));
                    f64::from(c(i, j)) + products.sum::<f64>()
                });
                let words = &output[lane as usize * each..][..each];
                let got: Vec<f64> = match types[0] {
                    "f64" => words
                        .chunks(2)
                        .map(|w| f64::from_bits(u64::from(w[0]) | u64::from(w[1]) << 32))
                        .collect(),
                    "f32" => words.iter().map(|&w| f32::from_bits(w).into()).collect(),
                    "s32" => words.iter().map(|&w| f64::from(w as i32)).collect(),
                    _ => words
                        .iter()
                        .flat_map(|&w| [w as u16, (w >> 16) as u16])
                        .map(|half| f16::from_bits(half).to_f64())
                        .collect(),
                };
                assert_eq!(got, expected.collect::<Vec<_>>(), "{types:?} {m} {n} {k} {config}");
            }
        }
    }
}

/// 16 products of 2^-26 and an accumulator of 1: each is below the last bit that tensor cores keep,
/// all of them together are not. (Exact: with one rounding.)
#[test]
fn sums_are_cut_off_as_the_device_does() {
    let body = "mov.b32 %r10, 0x08000800; mov.f32 %f4, 0f3F800000;
        mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r10, %r10, %r10, %r10},
            {%r10, %r10}, {%f4, %f4, %f4, %f4};
        mov.b32 %r1, %f0;";
    let exact = 1.0 + 2f32.powi(-22);
    for (config, target, expected) in [
        ("sm_90", "sm_80", 1.0),
        ("sm_80", "sm_80", 1.0),
        ("sm_120", "sm_80", 1.0),
        ("sm_90,sums=exact", "sm_80", exact),
    ] {
        let case = Case { body, config, target, ..Case::default() };
        assert_eq!(case.output(), [expected.to_bits(); 32], "{config}");
    }
}
