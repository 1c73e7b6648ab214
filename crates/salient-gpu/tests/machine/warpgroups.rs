//! PTX ISA: wgmma.

use half::{bf16, f16};
use salient_gpu::{FaultKind, POISON};

use crate::common::Case;

const POISONED: u32 = (POISON as u32) << 16 | POISON as u32;

/// Small numbers whose products and sums are exact in f32.
fn number(seed: u32, i: u32, j: u32) -> f64 {
    let hash = (seed.wrapping_mul(0x9e37_79b9)
        ^ i.wrapping_mul(0x85eb_ca6b)
        ^ j.wrapping_mul(0xc2b2_ae35))
    .wrapping_mul(0x27d4_eb2f);
    f64::from(hash >> 27) - 16.0
}

/// An element as it lies in memory.
fn encode(kind: &str, value: f64) -> Vec<u8> {
    match kind {
        "f16" => f16::from_f64(value / 8.0).to_le_bytes().to_vec(),
        "bf16" => bf16::from_f64(value / 8.0).to_le_bytes().to_vec(),
        "tf32" => ((value / 8.0) as f32).to_le_bytes().to_vec(),
        // Only powers of two.
        "e4m3" => vec![if value < 0.0 { 0xb8 } else { 0x40 }],
        "e5m2" => vec![if value < 0.0 { 0xbc } else { 0x40 }],
        "u8" => vec![(value + 16.0) as u8 + 200],
        _ => vec![value as i8 as u8],
    }
}

fn decode(kind: &str, value: f64) -> f64 {
    match kind {
        "e4m3" | "e5m2" => {
            if value < 0.0 {
                -1.0
            } else {
                2.0
            }
        }
        "u8" => value + 216.0,
        "s8" => value,
        _ => value / 8.0,
    }
}

/// How a matrix lies in shared memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// K-major without a swizzle: 8 rows of 16 bytes are together, 128 bytes from one to the next
    /// along k, 256 along the other dimension.
    Plain,
    /// K-major with the widest swizzle: rows of 128 bytes.
    Wide,
    /// MN-major with the widest swizzle, of 16 bits: 64 elements in a row, 8 rows together; 1024
    /// bytes from one to the next along k, 2048 along the other dimension.
    Turned,
}
use Layout::{Plain, Turned, Wide};

impl Layout {
    /// The byte of an element: row or column, and k.
    fn byte(self, mn: u32, k: u32, bytes: u32) -> u32 {
        let column = k * bytes;
        let swizzled = |at: u32| at ^ at >> 3 & 0x70;
        match self {
            Plain => mn / 8 * 256 + column / 16 * 128 + mn % 8 * 16 + column % 16,
            Wide => swizzled(mn / 8 * 1024 + mn % 8 * 128 + column),
            Turned => swizzled(mn / 64 * 2048 + k / 8 * 1024 + k % 8 * 128 + mn % 64 * bytes),
        }
    }

    /// Bytes from the slice of one step to that of the next.
    fn slice(self) -> u32 {
        if self == Wide { 32 } else { 8192 }
    }

    /// A descriptor without its address.
    fn descriptor(self) -> u64 {
        let field = |bytes: u64| bytes >> 4;
        match self {
            Plain => field(256) << 32 | field(128) << 16,
            Wide => 1 << 62 | field(1024) << 32 | field(16) << 16,
            Turned => 1 << 62 | field(1024) << 32 | field(2048) << 16,
        }
    }
}

/// A product of a 64 x 2k and a 2k x n matrix in two steps.
struct Product {
    types: [&'static str; 3],
    n: u32,
    a: Layout,
    b: Layout,
}

const B_AT: u32 = 16384;
const ALL: u32 = 16384 + 65536;

impl Product {
    /// The depth of one instruction.
    fn k(&self) -> u32 {
        32 / encode(self.types[1], 0.0).len() as u32
    }

    fn image(&self) -> Vec<u32> {
        let mut bytes = vec![0; ALL as usize];
        let [_, a_type, b_type] = self.types;
        for k in 0..2 * self.k() {
            for m in 0..64 {
                let element = encode(a_type, number(1, m, k));
                let at = self.at(self.a, m, k, element.len() as u32);
                bytes[at as usize..][..element.len()].copy_from_slice(&element);
            }
            for n in 0..self.n {
                let element = encode(b_type, number(2, n, k));
                let at = B_AT + self.at(self.b, n, k, element.len() as u32);
                bytes[at as usize..][..element.len()].copy_from_slice(&element);
            }
        }
        bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
    }

    /// The second step's slice lies behind the first where k is not within a row.
    fn at(&self, layout: Layout, mn: u32, k: u32, bytes: u32) -> u32 {
        match layout {
            Wide => layout.byte(mn, k, bytes),
            _ => layout.slice() * (k / self.k()) + layout.byte(mn, k % self.k(), bytes),
        }
    }

    fn registers(&self) -> u32 {
        if self.types[0] == "f16" { self.n / 4 } else { self.n / 2 }
    }

    fn accumulators(&self) -> String {
        let kind = if self.types[0] == "f32" { "f" } else { "r" };
        let from = if kind == "f" { 0 } else { 64 };
        (from..from + self.registers())
            .map(|i| format!("%{kind}{i}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// `wgmma.mma_async` of one step.
    fn instruction(&self, a: &str, b: &str, scale_d: &str, scales: [i32; 2]) -> String {
        let [d_type, a_type, b_type] = self.types;
        let size = encode(a_type, 0.0).len();
        let transposed = |layout: Layout| u32::from(layout == Turned);
        let options = match (d_type, size) {
            ("s32", _) => String::new(),
            (_, 2) if a.starts_with('{') => {
                format!(", {}, {}, {}", scales[0], scales[1], transposed(self.b))
            }
            (_, 2) => format!(
                ", {}, {}, {}, {}",
                scales[0],
                scales[1],
                transposed(self.a),
                transposed(self.b)
            ),
            _ => format!(", {}, {}", scales[0], scales[1]),
        };
        format!(
            "wgmma.mma_async.sync.aligned.m64n{}k{}.{d_type}.{a_type}.{b_type} {{{}}}, {a}, {b}, {scale_d}{options};",
            self.n,
            self.k(),
            self.accumulators()
        )
    }

    /// Brings the image to shared memory and makes the descriptors %d10, %d11 of a, %d20, %d21 of
    /// b.
    fn start(&self) -> String {
        let mut text = format!(
            ".shared .align 1024 .b8 s[{ALL}]; mov.u32 %r2, s; mov.u32 %r3, %r31;
             FILL: mad.wide.u32 %d3, %r3, 4, %d2; ld.global.u32 %r4, [%d3];
             shl.b32 %r5, %r3, 2; add.u32 %r5, %r5, %r2; st.shared.u32 [%r5], %r4;
             add.u32 %r3, %r3, 128; setp.lt.u32 %p0, %r3, {}; @%p0 bra FILL;
             fence.proxy.async.shared::cta; bar.sync 0;
             setp.eq.u32 %p1, %r2, %r2; setp.ne.u32 %p2, %r2, %r2;",
            ALL / 4
        );
        for (first, layout, at) in [(10, self.a, 0), (20, self.b, B_AT)] {
            for step in 0..2 {
                text += &format!(
                    "add.u32 %r6, %r2, {}; shr.u32 %r6, %r6, 4; cvt.u64.u32 %d{d}, %r6;
                     or.b64 %d{d}, %d{d}, {};",
                    at + step * layout.slice(),
                    layout.descriptor(),
                    d = first + step
                );
            }
        }
        text
    }

    /// Each thread's accumulators, one after the other.
    fn end(&self) -> String {
        let each = 4 * self.registers();
        let mut text = format!("mad.wide.u32 %d4, %r31, {each}, %d1;");
        for (i, register) in self.accumulators().split(", ").enumerate() {
            text += &format!("st.global.b32 [%d4+{}], {register};", 4 * i);
        }
        text + "exit;"
    }

    fn run(&self, products: &str, config: &str) -> Vec<u32> {
        let body = format!("{}\n{products}\n{}", self.start(), self.end());
        let case = Case {
            body: &body,
            config,
            input: &self.image(),
            block: [128, 1, 1],
            output: 128 * self.registers() as usize,
            ..Case::default()
        };
        case.output()
    }

    /// `C` of the manual's figure: thread and register to row and column, and what is there.
    fn check(&self, output: &[u32], scale: f64, steps: u32) {
        let [d_type, a_type, b_type] = self.types;
        let per_thread = self.n / 2;
        for thread in 0..128 {
            for i in 0..per_thread {
                let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i / 2 % 2);
                let column = 8 * (i / 4) + 2 * (thread % 4) + i % 2;
                let sum: f64 = (0..steps * self.k())
                    .map(|k| {
                        decode(a_type, number(1, row, k)) * decode(b_type, number(2, column, k))
                    })
                    .sum();
                let expected = sum * scale;
                let at = (thread * self.registers()) as usize;
                let got = match d_type {
                    "f32" => f64::from(f32::from_bits(output[at + i as usize])),
                    "s32" => f64::from(output[at + i as usize] as i32),
                    _ => {
                        let word = output[at + i as usize / 2];
                        f16::from_bits((word >> (16 * (i % 2))) as u16).to_f64()
                    }
                };
                let expected = match d_type {
                    "f16" => f16::from_f64(expected).to_f64(),
                    _ => expected,
                };
                assert_eq!(got, expected, "{:?} n{} row {row} column {column}", self.types, self.n);
            }
        }
    }
}

const FENCE: &str = "wgmma.fence.sync.aligned;";
const WAIT: &str = "wgmma.commit_group.sync.aligned; wgmma.wait_group.sync.aligned 0;";

fn both_steps(product: &Product) -> String {
    let first = product.instruction("%d10", "%d20", "%p2", [1, 1]);
    let second = product.instruction("%d11", "%d21", "%p1", [1, 1]);
    format!("{FENCE} {first}\n{second} {WAIT}")
}

#[test]
fn every_width() {
    for n in (8..=256).step_by(8) {
        let product = Product { types: ["f32", "bf16", "bf16"], n, a: Wide, b: Wide };
        let config = ["sums=exact", "", "async=late", "sums=exact,races"][n as usize / 8 % 4];
        product.check(&product.run(&both_steps(&product), config), 1.0, 2);
    }
}

#[test]
fn every_type_and_layout() {
    let layouts = [(Plain, Plain), (Wide, Plain), (Turned, Wide), (Plain, Turned)];
    for types in [
        ["f32", "f16", "f16"],
        ["f32", "bf16", "bf16"],
        ["f16", "f16", "f16"],
        ["f32", "tf32", "tf32"],
        ["f32", "e4m3", "e5m2"],
        ["f16", "e5m2", "e4m3"],
        ["s32", "s8", "u8"],
        ["s32", "u8", "s8"],
    ] {
        for (a, b) in layouts {
            let is_turned = [a, b].contains(&Turned);
            if is_turned && encode(types[1], 0.0).len() != 2 {
                continue;
            }
            let product = Product { types, n: 64, a, b };
            product.check(&product.run(&both_steps(&product), "sums=exact"), 1.0, 2);
        }
    }
}

#[test]
fn scales_negate_and_the_predicate_begins_anew() {
    let product = Product { types: ["f32", "f16", "f16"], n: 16, a: Wide, b: Wide };
    for (scales, sign) in [([1, -1], -1.0), ([-1, 1], -1.0), ([-1, -1], 1.0)] {
        let one = product.instruction("%d10", "%d20", "%p2", scales);
        product.check(&product.run(&format!("{FENCE} {one} {WAIT}"), ""), sign, 1);
    }
}

#[test]
fn a_may_be_in_registers() {
    let product = Product { types: ["f32", "f16", "f16"], n: 24, a: Wide, b: Wide };
    // As the accumulators of mma: rows g and g + 8 of the warp's 16, columns 2t and 2t + 8.
    let mut load = String::from(
        "and.b32 %r7, %r31, 31; shr.u32 %r8, %r31, 5; shl.b32 %r8, %r8, 4; shr.u32 %r9, %r7, 2;
         add.u32 %r8, %r8, %r9; and.b32 %r9, %r7, 3; shl.b32 %r9, %r9, 2;",
    );
    for i in 0..4 {
        load += &format!(
            "add.u32 %r10, %r8, {}; shl.b32 %r10, %r10, 7; add.u32 %r10, %r10, %r9;
             add.u32 %r10, %r10, {}; shr.u32 %r11, %r10, 3; and.b32 %r11, %r11, 0x70;
             xor.b32 %r10, %r10, %r11; add.u32 %r10, %r10, %r2; ld.shared.u32 %r{}, [%r10];",
            i % 2 * 8,
            i / 2 * 16,
            20 + i
        );
    }
    let one = product.instruction("{%r20, %r21, %r22, %r23}", "%d20", "%p2", [1, 1]);
    for config in ["", "async=late", "async=random"] {
        product.check(&product.run(&format!("{load} {FENCE} {one} {WAIT}"), config), 1.0, 1);
    }
    // They may not be touched while it runs.
    let late = format!("{load} {FENCE} {one} mov.u32 %r20, 0; {WAIT}");
    let body = format!("{}\n{late}", product.start());
    let case = Case { body: &body, input: &product.image(), block: [128, 1, 1], ..Case::default() };
    case.fault(FaultKind::Misuse);
}

#[test]
fn groups_are_waited_for_in_order() {
    let product = Product { types: ["f32", "f16", "f16"], n: 16, a: Wide, b: Wide };
    let other = product.instruction("%d11", "%d21", "%p2", [1, 1]).replace("%f", "%f1");
    let one = product.instruction("%d10", "%d20", "%p2", [1, 1]);
    let both = format!(
        "{FENCE} {one} wgmma.commit_group.sync.aligned;\n{other} wgmma.commit_group.sync.aligned;
         wgmma.wait_group.sync.aligned 1; mov.b32 %r60, %f10; wgmma.wait_group.sync.aligned 0;"
    );
    for config in ["", "async=late", "async=random"] {
        product.check(&product.run(&both, config), 1.0, 1);
        // What is in flight is nobody's to look at, however it goes about it.
        let body = format!("{}\n{both}\nmov.u32 %r1, %r60;", product.start());
        let case = Case {
            body: &body,
            config,
            input: &product.image(),
            block: [128, 1, 1],
            ..Case::default()
        };
        assert_eq!(case.output(), [POISONED; 128], "{config}");
    }
}

/// What lies there when it is waited for counts, if it is done no earlier.
#[test]
fn operands_are_read_until_the_wait() {
    let product = Product { types: ["f32", "f16", "f16"], n: 16, a: Wide, b: Wide };
    let one = product.instruction("%d10", "%d20", "%p2", [1, 1]);
    let wiped = format!(
        "{FENCE} {one} wgmma.commit_group.sync.aligned; bar.sync 0; mov.u32 %r3, %r31; mov.u32 %r4, 0;
         WIPE: shl.b32 %r5, %r3, 2; add.u32 %r5, %r5, %r2; st.shared.u32 [%r5], %r4;
         add.u32 %r3, %r3, 128; setp.lt.u32 %p0, %r3, {}; @%p0 bra WIPE;
         bar.sync 0; wgmma.wait_group.sync.aligned 0;",
        B_AT / 4
    );
    product.check(&product.run(&wiped, ""), 1.0, 1);
    product.check(&product.run(&wiped, "async=late"), 0.0, 1);
}

#[test]
fn broken_rules() {
    let product = Product { types: ["f32", "f16", "f16"], n: 16, a: Wide, b: Wide };
    let one = product.instruction("%d10", "%d20", "%p2", [1, 1]);
    let more = product.instruction("%d11", "%d21", "%p1", [1, 1]);
    let crooked = "or.b64 %d10, %d10, 0x0002000000000000;";
    let differs = "cvt.u64.u32 %d5, %r31; add.u64 %d10, %d10, %d5;";
    // Warps of a warpgroup that do not do the same.
    let fourth = "setp.ge.u32 %p3, %r31, 96;";
    let elsewhere = format!("{fourth} @%p3 add.u64 %d10, %d10, 2;");
    for (what, ok) in [
        (format!("{FENCE} {one} {WAIT}"), true),
        (format!("{one} {WAIT}"), false),
        (format!("{FENCE} mov.f32 %f0, 0f3F800000; {one} {WAIT}"), false),
        (format!("mov.f32 %f0, 0f3F800000; {FENCE} {one} {WAIT}"), true),
        (format!("{FENCE} {one} mov.f32 %f0, 0f3F800000; {WAIT}"), false),
        (format!("{FENCE} {one} {WAIT} {more} {WAIT}"), true),
        (format!("{FENCE} {one} {WAIT} add.f32 %f0, %f0, %f0; {more} {WAIT}"), false),
        (format!("{FENCE} {one} {WAIT} add.f32 %f0, %f0, %f0; {FENCE} {more} {WAIT}"), true),
        (format!("{crooked} {FENCE} {one} {WAIT}"), false),
        (format!("{differs} {FENCE} {one} {WAIT}"), false),
        (format!("{elsewhere} {FENCE} {one} {WAIT}"), false),
        (format!("{fourth} {FENCE} {one} @%p3 bra LESS; {more} LESS: {WAIT}"), false),
    ] {
        let body = format!("{}\n{what}", product.start());
        for config in ["", "async=late"] {
            let case = Case {
                body: &body,
                config,
                input: &product.image(),
                block: [128, 1, 1],
                ..Case::default()
            };
            match case.run() {
                Ok(_) => assert!(ok, "{what}"),
                Err(fault) => {
                    assert!(!ok, "{fault}\n{what}");
                    assert_eq!(fault.kind, FaultKind::Misuse, "{fault}\n{what}");
                }
            }
        }
    }
    // A warpgroup that is not whole.
    let body = format!(
        "setp.ne.u32 %p2, %r0, %r0; mov.u64 %d10, 0; mov.u64 %d20, 0; {FENCE} {one} {WAIT}"
    );
    let few = Case { body: &body, block: [96, 1, 1], ..Case::default() };
    few.fault(FaultKind::Misuse);
    // Shared memory that there is not.
    let whole = Case { body: &body, block: [128, 1, 1], ..Case::default() };
    whole.fault(FaultKind::IllegalAddress);
}
