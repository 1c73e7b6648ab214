//! PTX ISA: cp.async.bulk, cp.async.bulk.tensor.

use salient_gpu::tensor::copy::{TensorMap, Tiled};
use salient_gpu::{FaultKind, Gpu, POISON};

use crate::common::{Case, UNTOUCHED, download, upload, words};

const POISONED: u32 = (POISON as u32) << 16 | POISON as u32;
const CONFIGS: [&str; 6] = [
    "",
    "async=late",
    "async=random",
    "async=random,order=random,seed=3",
    "races",
    "races,async=late",
];

/// An mbarrier `b` that one arrival opens, and room `s`; thread 0 of each block goes on where the
/// others go to `WAIT`.
const START: &str = "
    .shared .align 1024 .b8 s[16384]; .shared .align 8 .b64 b;
    mov.u32 %r2, s; shl.b32 %r3, %r31, 2; add.u32 %r4, %r2, %r3;
    setp.ne.u32 %p0, %r31, 0; @!%p0 mbarrier.init.shared.b64 [b], 1;
    fence.mbarrier_init.release.cluster; bar.sync 0;";
const WAIT: &str = "
    WAIT: mbarrier.try_wait.parity.shared.b64 %p1, [b], 0; @!%p1 bra WAIT;";
const MEET: &str = "barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;";

#[test]
fn bytes_come_with_the_mbarrier() {
    let body = format!(
        "{START} mov.u32 %r5, 0; @%p0 bra WAIT;
         mbarrier.arrive.expect_tx.shared.b64 _, [b], 384;
         mov.u32 %r9, 256;
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2], [%d2], %r9, [b];
         cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r2+256], [%d2+512], 128, [b];
         LOOK ld.shared.u32 %r5, [%r2+256];
         {WAIT} ld.shared.u32 %r6, [%r4]; ld.shared.u32 %r7, [%r4+256];
         mad.lo.u32 %r1, %r7, 1000, %r6; setp.eq.u32 %p2, %r5, POISON; @%p2 mov.u32 %r1, 1;"
    );
    let input: Vec<u32> = (0..160).collect();
    let run = |config, look: bool| {
        let body = body
            .replace("LOOK", if look { "" } else { "@%p0" })
            .replace("POISON", &POISONED.to_string());
        Case { body: &body, config, input: &input, ..Case::default() }.output()
    };
    let expected = words(32, |i| i + 1000 * (128 + i));
    for config in CONFIGS {
        assert_eq!(run(config, false), expected, "{config}");
    }
    assert_eq!(run("", true), expected);
    assert_eq!(run("async=late", true)[0], 1);
}

#[test]
fn bytes_go_with_the_group() {
    let body = format!(
        "{START} st.shared.u32 [%r4], %r31; st.shared.u32 [%r4+128], %r0;
         fence.proxy.async.shared::cta; bar.sync 0; @%p0 bra END;
         cp.async.bulk.global.shared::cta.bulk_group [%d1+16], [%r2+16], 64;
         cp.async.bulk.commit_group;
         cp.async.bulk.global.shared::cta.bulk_group [%d1+128], [%r2], 128;
         cp.async.bulk.commit_group;
         cp.async.bulk.wait_group.read 1; st.shared.u32 [%r2+16], 99;
         cp.async.bulk.wait_group 1; ld.global.u32 %r5, [%d1+20];
         cp.async.bulk.wait_group 0; st.global.u32 [%d1], %r5;
         END: exit;"
    );
    for config in CONFIGS {
        // Word 4 is read by the second store before or after it is overwritten.
        let race = config.contains("races");
        let body = match race {
            true => body.replace("wait_group.read 1", "wait_group.read 0"),
            false => body.clone(),
        };
        let output = Case { body: &body, config, output: 64, ..Case::default() }.output();
        let expected = words(64, |i| match i {
            0 => 5,
            4..20 => i,
            32.. => i - 32,
            _ => UNTOUCHED,
        });
        for (i, (got, expected)) in output.iter().zip(&expected).enumerate() {
            let either = i == 36 && *got == 99 && !race;
            assert!(got == expected || either, "{config}: word {i} is {got}");
        }
    }
    // A block must not end before its stores have read all.
    let body =
        body.split("cp.async.bulk.wait_group.read").next().unwrap().to_owned() + "END: exit;";
    Case { body: &body, config: "async=late", output: 64, ..Case::default() }
        .fault(FaultKind::Misuse);
}

#[test]
fn bytes_go_to_another_block() {
    let body = format!(
        "{START} st.shared.u32 [%r4], %r0; fence.proxy.async; {MEET} @%p0 bra WAIT;
         mov.u32 %r5, %cluster_ctarank; xor.b32 %r5, %r5, 1;
         mapa.shared::cluster.u32 %r6, %r2, %r5; mov.u32 %r7, b; mapa.shared::cluster.u32 %r7, %r7, %r5;
         mbarrier.arrive.expect_tx.shared.b64 _, [b], 128;
         cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r6+1024], [%r2], 128, [%r7];
         {WAIT} ld.shared.u32 %r1, [%r4+1024]; {MEET}"
    );
    for config in CONFIGS {
        let case =
            Case { body: &body, config, grid: [2, 1, 1], cluster: [2, 1, 1], ..Case::default() };
        assert_eq!(case.output(), words(64, |i| i ^ 32), "{config}");
    }
}

#[test]
fn broken_rules() {
    let load = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes";
    for (what, kind) in [
        (format!("{load} [%r2], [%d2], 24, [b];"), FaultKind::Misaligned),
        (format!("{load} [%r2+8], [%d2], 16, [b];"), FaultKind::Misaligned),
        (format!("{load} [%r2], [%d2+8], 16, [b];"), FaultKind::Misaligned),
        (format!("{load} [%r2], [%d2+112], 32, [b];"), FaultKind::IllegalAddress),
        (format!("{load} [%r2+16384], [%d2], 16, [b];"), FaultKind::IllegalAddress),
        (format!("{load} [%r2], [%d2], 16, [%r2];"), FaultKind::Misuse),
        (format!("{load}.multicast::cluster [%r2], [%d2], 16, [b], %h1;"), FaultKind::Misuse),
    ] {
        let body = format!("{START} mov.u16 %h1, 2; @%p0 bra END;\n{what}\nEND: bar.sync 0;");
        let case = Case { body: &body, input: &[0; 32], ..Case::default() };
        let fault = case.fault(kind);
        assert_eq!((fault.ptx_line, fault.lanes), (case.line(&what), 1), "{fault}");
    }
}

/// A tensor of 32-bit elements.
struct Tensor<'a> {
    dims: &'a [u64],
    strides: &'a [u64],
    box_dims: &'a [u32],
    steps: &'a [u32],
    swizzle: u32,
    data_type: u32,
    fill: u32,
}

impl Tensor<'_> {
    /// The tensor's own words, each its index, and the map as words of input.
    fn place(&self, gpu: &Gpu) -> (u64, Vec<u32>) {
        let words = self.words();
        let address = upload(gpu, &(0..words as u32).collect::<Vec<_>>());
        let map = TensorMap::new(&Tiled {
            data_type: self.data_type,
            address,
            dims: self.dims,
            strides: self.strides,
            box_dims: self.box_dims,
            element_strides: self.steps,
            interleave: 0,
            swizzle: self.swizzle,
            l2_promotion: 0,
            fill: self.fill,
        })
        .unwrap();
        let bytes = map.encode();
        let input = bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap()));
        (address, input.collect())
    }

    fn words(&self) -> usize {
        let last = self.dims.len() - 1;
        match last {
            0 => self.dims[0] as usize,
            _ => (self.strides[last - 1] * self.dims[last] / 4) as usize,
        }
    }

    /// What is left of the box's sizes when steps leave elements out (cuTensorMapEncodeTiled:
    /// elementStrides).
    fn sizes(&self) -> Vec<u32> {
        self.box_dims.iter().zip(self.steps).map(|(size, &step)| size.div_ceil(step)).collect()
    }

    /// By the manual's words: for each element of the box its byte in shared memory, before the
    /// swizzle is applied to the address, and the tensor's word there, if there is one.
    fn elements(&self, at: &[i32]) -> Vec<(u32, Option<u32>)> {
        let sizes = self.sizes();
        let count: u32 = sizes.iter().product();
        let mut all = Vec::new();
        for number in 0..count {
            let (mut rest, mut word, mut inside) = (number, 0, true);
            for i in 0..self.dims.len() {
                let step = if i == 0 { 1 } else { self.steps[i] };
                let index = i64::from(at[i]) + i64::from(rest % sizes[i] * step);
                rest /= sizes[i];
                inside &= (0..self.dims[i] as i64).contains(&index);
                let stride = if i == 0 { 4 } else { self.strides[i - 1] as i64 };
                word += index * stride / 4;
            }
            all.push((4 * number, inside.then_some(word as u32)));
        }
        all
    }

    /// CUTLASS' Swizzle<B, 4, 3> of a byte address.
    fn swizzled(&self, byte: u32) -> u32 {
        byte ^ byte >> 3 & [0, 0x10, 0x30, 0x70][self.swizzle as usize]
    }
}

const PLANE: Tensor<'_> = Tensor {
    dims: &[44, 7],
    strides: &[192],
    box_dims: &[32, 4],
    steps: &[1, 1],
    swizzle: 3,
    data_type: 2,
    fill: 0,
};

/// Loads a box and gives what is in shared memory, as far as the box reaches.
fn load(tensor: &Tensor<'_>, at: &[i32], config: &str) -> Vec<u32> {
    let gpu = Gpu::new(0, config.parse().unwrap());
    let (_, input) = tensor.place(&gpu);
    let count: u32 = tensor.sizes().iter().product();
    let coordinates: Vec<String> = at.iter().map(i32::to_string).collect();
    let body = format!(
        "{START} @%p0 bra WAIT; mbarrier.arrive.expect_tx.shared.b64 _, [b], {};
         cp.async.bulk.tensor.{}d.shared::cluster.global.mbarrier::complete_tx::bytes
         [%r2], [%d2, {{{}}}], [b];
         {WAIT} mov.u32 %r5, %r31;
         COPY: shl.b32 %r6, %r5, 2; add.u32 %r6, %r6, %r2; ld.shared.u32 %r7, [%r6];
         mad.wide.u32 %d3, %r5, 4, %d1; st.global.u32 [%d3], %r7; add.u32 %r5, %r5, 32;
         setp.lt.u32 %p3, %r5, {count}; @%p3 bra COPY; exit;",
        4 * count,
        at.len(),
        coordinates.join(", ")
    );
    let case = Case { body: &body, input: &input, output: count as usize, ..Case::default() };
    case.run_on(&gpu).unwrap_or_else(|fault| panic!("{fault}")).output
}

#[test]
fn boxes_are_loaded_with_every_swizzle_and_zeros_outside() {
    for (swizzle, width) in [(0, 32), (0, 4), (1, 8), (2, 16), (3, 32)] {
        for at in [[0, 0], [5, 2], [-3, -2], [40, 5], [-40, 0], [0, 7], [44, -4]] {
            let tensor = Tensor { box_dims: &[width, 16], swizzle, ..PLANE };
            let mut expected = vec![0; 16 * width as usize];
            for (byte, word) in tensor.elements(&at) {
                expected[tensor.swizzled(byte) as usize / 4] = word.unwrap_or(0);
            }
            for config in ["", "async=late", "races"] {
                let loaded = load(&tensor, &at, config);
                assert_eq!(
                    loaded, expected,
                    "{width} columns at {at:?}, swizzle {swizzle}, {config}"
                );
            }
        }
    }
}

#[test]
fn tensors_of_other_ranks() {
    let line =
        Tensor { dims: &[50], strides: &[], box_dims: &[32], steps: &[1], swizzle: 0, ..PLANE };
    let cube = Tensor {
        dims: &[8, 3, 5, 2, 3],
        strides: &[48, 160, 800, 1600],
        box_dims: &[8, 4, 3, 2, 2],
        steps: &[1, 2, 1, 1, 1],
        swizzle: 1,
        ..PLANE
    };
    for (tensor, at) in [(&line, &[30][..]), (&cube, &[0, -1, 3, 0, 2]), (&cube, &[-4, 0, 0, 1, 0])]
    {
        let elements = tensor.elements(at);
        let mut expected = vec![0; elements.len()];
        for (byte, word) in elements {
            expected[tensor.swizzled(byte) as usize / 4] = word.unwrap_or(0);
        }
        assert_eq!(load(tensor, at, ""), expected, "at {at:?}");
    }
}

#[test]
fn what_is_outside_may_be_nan() {
    let tensor = Tensor { data_type: 7, fill: 1, swizzle: 0, ..PLANE };
    let loaded = load(&tensor, &[20, 5], "");
    for (byte, word) in tensor.elements(&[20, 5]) {
        let got = loaded[byte as usize / 4];
        match word {
            Some(word) => assert_eq!(got, word),
            None => assert!(f32::from_bits(got).is_nan()),
        }
    }
}

#[test]
fn boxes_are_stored_and_nothing_outside() {
    for (swizzle, width) in [(0, 8), (1, 8), (2, 16), (3, 32)] {
        for at in [[0, 0], [5, 2], [-3, -2], [40, 5]] {
            let tensor = Tensor { box_dims: &[width, 8], swizzle, ..PLANE };
            for config in CONFIGS {
                let gpu = Gpu::new(0, config.parse().unwrap());
                let (address, input) = tensor.place(&gpu);
                let count = 8 * width;
                let body = format!(
                    "{START} mov.u32 %r5, %r31;
                     FILL: shl.b32 %r6, %r5, 2; add.u32 %r6, %r6, %r2; add.u32 %r7, %r5, 5000;
                     st.shared.u32 [%r6], %r7; add.u32 %r5, %r5, 32;
                     setp.lt.u32 %p3, %r5, {count}; @%p3 bra FILL;
                     fence.proxy.async.shared::cta; bar.sync 0; @%p0 bra END;
                     cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%d2, {{{}, {}}}], [%r2];
                     cp.async.bulk.commit_group; cp.async.bulk.wait_group.read 0;
                     END: exit;",
                    at[0], at[1]
                );
                let case = Case { body: &body, input: &input, ..Case::default() };
                case.run_on(&gpu).unwrap_or_else(|fault| panic!("{fault}"));
                let mut expected: Vec<u32> = (0..tensor.words() as u32).collect();
                for (byte, word) in tensor.elements(&at) {
                    if let Some(word) = word {
                        expected[word as usize] = 5000 + tensor.swizzled(byte) / 4;
                    }
                }
                assert_eq!(download(&gpu, address, tensor.words()), expected, "{at:?} {config}");
            }
        }
    }
}

#[test]
fn a_multicast_tells_every_block() {
    let tensor = Tensor { swizzle: 0, box_dims: &[32, 1], ..PLANE };
    for config in CONFIGS {
        let gpu = Gpu::new(0, config.parse().unwrap());
        let (_, input) = tensor.place(&gpu);
        // Each of two blocks sends a row to blocks 0 and 2 of four; nobody else gets any.
        let body = format!(
            "{START} st.shared.u32 [%r4+2048], 77; mov.u16 %h1, 5; mov.u32 %r5, %cluster_ctarank;
             @!%p0 mbarrier.arrive.expect_tx.shared.b64 _, [b], 256;
             {MEET}
             setp.ge.or.u32 %p3, %r5, 2, %p0; @%p3 bra GO;
             shl.b32 %r6, %r5, 7; add.u32 %r6, %r6, %r2; add.u32 %r7, %r5, 3; mov.u32 %r8, 2;
             cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster
             [%r6], [%d2, {{%r8, %r7}}], [b], %h1;
             GO: and.b32 %r9, %r5, 1; setp.eq.u32 %p4, %r9, 1; @%p4 bra END;
             {WAIT} ld.shared.u32 %r10, [%r4]; ld.shared.u32 %r11, [%r4+128];
             mad.lo.u32 %r1, %r11, 1000, %r10;
             END: {MEET}"
        );
        let case = Case {
            body: &body,
            input: &input,
            grid: [4, 1, 1],
            cluster: [4, 1, 1],
            ..Case::default()
        };
        let output = case.run_on(&gpu).unwrap_or_else(|fault| panic!("{fault}")).output;
        let expected = words(128, |i| match i / 32 % 2 {
            0 => (3 * 48 + 2 + i % 32) + 1000 * (4 * 48 + 2 + i % 32),
            _ => 0,
        });
        assert_eq!(output, expected, "{config}");
    }
}

#[test]
fn what_is_no_map_is_refused() {
    let body = format!(
        "{START} @%p0 bra END;
         cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes
         [%r2], [%d2, {{0, 0}}], [b]; END: bar.sync 0;"
    );
    let case = Case { body: &body, input: &[7; 32], ..Case::default() };
    case.fault(FaultKind::Misuse);
    let short = Case { input: &[7; 31], ..case };
    short.fault(FaultKind::IllegalAddress);
    let crooked = body.replace("[%d2, ", "[%d2+8, ");
    Case { body: &crooked, input: &[7; 64], ..Case::default() }.fault(FaultKind::Misaligned);
}
