use super::super::descriptor::Swizzle;
use super::*;

fn descriptor(start: u32, leading: u32, stride: u32, swizzle: Swizzle) -> Descriptor {
    Descriptor { start, leading, stride, swizzle }
}

fn a(row: usize, k: usize) -> i32 {
    ((row * 7 + k * 5 + row * k) % 5) as i32 - 2
}

fn b(k: usize, column: usize) -> i32 {
    ((k * 3 + column * 11 + k * column) % 7) as i32 - 3
}

fn c(row: usize, column: usize) -> i32 {
    ((row * 5 + column * 3) % 13) as i32 - 6
}

/// A small integer as an element, in little-endian bytes.
fn encoded(element: Element, x: i32) -> Vec<u8> {
    let magnitude = x.unsigned_abs();
    match element {
        Element::F16 => half::f16::from_f32(x as f32).to_le_bytes().to_vec(),
        Element::Bf16 => half::bf16::from_f32(x as f32).to_le_bytes().to_vec(),
        Element::Tf32 => (x as f32).to_le_bytes().to_vec(),
        // 0 to 3 in e4m3: 1.0 is 0x38, 2.0 is 0x40, 3.0 is 0x44; e5m2: 0x3c, 0x40, 0x42.
        Element::E4m3 => {
            vec![[0, 0x38, 0x40, 0x44][magnitude as usize] | if x < 0 { 0x80 } else { 0 }]
        }
        Element::E5m2 => {
            vec![[0, 0x3c, 0x40, 0x42][magnitude as usize] | if x < 0 { 0x80 } else { 0 }]
        }
        Element::S8 | Element::U8 => vec![x as u8],
        Element::F64 => unreachable!(),
    }
}

/// A matrix of `mn` by `k` in shared memory, with the byte of each element by `at`.
fn place(
    shared: &mut [u8],
    element: Element,
    (mn, depth): (usize, usize),
    at: impl Fn(usize, usize) -> usize,
    value: impl Fn(usize, usize) -> i32,
) {
    for i in 0..mn {
        for k in 0..depth {
            let bytes = encoded(element, value(i, k));
            shared[at(i, k)..][..bytes.len()].copy_from_slice(&bytes);
        }
    }
}

/// Runs all four warps and compares with `expected(row, column)`.
fn check(
    wgmma: &Wgmma,
    left: impl Fn(usize) -> LeftOperand,
    right: &RightOperand,
    accumulate: bool,
    expected: impl Fn(usize, usize) -> i32,
) {
    let number = |x: i32| match wgmma.accumulator {
        Accumulator::F32 => (x as f32).to_bits(),
        Accumulator::S32 { .. } => x as u32,
        _ => u32::from(half::f16::from_f32(x as f32).to_bits()),
    };
    let half = wgmma.accumulator == Accumulator::F16;
    for arithmetic in [Arithmetic::Exact, Arithmetic::Sm90] {
        for warp in 0..4 {
            // The manual: d[i] of a lane is row lane / 4, 8 more for each other pair.
            let lanes = |value: &dyn Fn(usize, usize) -> i32| -> Vec<Lanes> {
                let one = |i: usize, lane: usize| {
                    let row = 16 * warp + lane / 4 + 8 * (i / 2 % 2);
                    number(value(row, 8 * (i / 4) + 2 * (lane % 4) + i % 2))
                };
                if half {
                    let pair = |i, lane| one(2 * i, lane) | one(2 * i + 1, lane) << 16;
                    (0..wgmma.columns / 4).map(|i| std::array::from_fn(|l| pair(i, l))).collect()
                } else {
                    (0..wgmma.columns / 2).map(|i| std::array::from_fn(|l| one(i, l))).collect()
                }
            };
            let mut d = lanes(&c);
            wgmma.multiply(arithmetic, &left(warp), right, accumulate, &mut d);
            assert_eq!(d, lanes(&expected), "{wgmma:?} warp {warp}");
        }
    }
}

fn product(depth: usize, row: usize, column: usize) -> i32 {
    (0..depth).map(|k| a(row, k) * b(k, column)).sum()
}

const F32: Accumulator = Accumulator::F32;

#[test]
fn both_operands_along_k_with_the_widest_swizzle() {
    let integers = Accumulator::S32 { saturate: false };
    for (left, right, accumulator) in [
        (Element::F16, Element::F16, F32),
        (Element::F16, Element::F16, Accumulator::F16),
        (Element::Bf16, Element::Bf16, F32),
        (Element::Tf32, Element::Tf32, F32),
        (Element::E4m3, Element::E5m2, F32),
        (Element::S8, Element::S8, integers),
    ] {
        let (size, n) = (left.bytes(), 48);
        let depth = 32 / size;
        let wgmma = Wgmma::new((n, depth), left, right, accumulator).unwrap();
        assert_eq!(wgmma.accumulators(), if accumulator == Accumulator::F16 { 12 } else { 24 });
        let mut shared = vec![0xff; 0x8000];
        // Rows of 128 bytes; the product is of the third 32 of them.
        let at = |start: usize| {
            move |row: usize, k: usize| {
                let byte = 64 + k * size;
                start + row * 128 + ((byte / 16) ^ (row % 8)) * 16 + byte % 16
            }
        };
        place(&mut shared, left, (64, depth), at(0x400), a);
        place(&mut shared, right, (n, depth), at(0x4000), |column, k| b(k, column));
        let left = descriptor(0x400 + 64, 16, 1024, Swizzle::Bytes128);
        let right = descriptor(0x4000 + 64, 16, 1024, Swizzle::Bytes128);
        let right = wgmma.right_from_shared(&shared, &right, Major::K, false).unwrap();
        let left = |warp| wgmma.left_from_shared(&shared, &left, Major::K, warp, false).unwrap();
        check(&wgmma, left, &right, true, |row, column| {
            c(row, column) + product(depth, row, column)
        });
        check(&wgmma, left, &right, false, |row, column| product(depth, row, column));
    }
}

#[test]
fn transposed_operands() {
    let wgmma = Wgmma::new((136, 16), Element::F16, Element::F16, F32).unwrap();
    let mut shared = vec![0xff; 0x10000];
    // 64 rows of A in one 128-byte line each k; columns of B in three such panels.
    let (leading, stride) = (0x1800usize, 0x400usize);
    let at = |start: usize| {
        move |mn: usize, k: usize| {
            let line = start + mn / 64 * leading + k / 8 * stride + k % 8 * 128;
            line + ((mn / 8 % 8) ^ (k % 8)) * 16 + mn % 8 * 2
        }
    };
    place(&mut shared, Element::F16, (64, 16), at(0x800), a);
    place(&mut shared, Element::F16, (136, 16), at(0x4000), |column, k| b(k, column));
    let of = |start| descriptor(start, leading as u32, stride as u32, Swizzle::Bytes128);
    let right = wgmma.right_from_shared(&shared, &of(0x4000), Major::Mn, true).unwrap();
    let left = |warp| wgmma.left_from_shared(&shared, &of(0x800), Major::Mn, warp, false).unwrap();
    // B is negated.
    check(&wgmma, left, &right, true, |row, column| c(row, column) - product(16, row, column));
}

#[test]
fn left_operand_from_registers_and_right_without_swizzle() {
    let wgmma = Wgmma::new((8, 16), Element::Bf16, Element::Bf16, F32).unwrap();
    let mut shared = vec![0xff; 0x400];
    // Two cores of 8 columns by 16 bytes, 0x180 apart.
    let at = |column: usize, k: usize| 0x100 + column * 16 + k / 8 * 0x180 + k % 8 * 2;
    place(&mut shared, Element::Bf16, (8, 16), at, |column, k| b(k, column));
    let right = descriptor(0x100, 0x180, 0x3330, Swizzle::None);
    let right = wgmma.right_from_shared(&shared, &right, Major::K, false).unwrap();
    let left = |warp: usize| {
        // PTX ISA: the fragment of A in four registers of two elements.
        let registers = [0, 1, 2, 3].map(|i| {
            std::array::from_fn(|lane| {
                let row = 16 * warp + lane / 4 + i % 2 * 8;
                let k = lane % 4 * 2 + i / 2 * 8;
                let half = |k| u32::from(half::bf16::from_f32(a(row, k) as f32).to_bits());
                half(k) | half(k + 1) << 16
            })
        });
        wgmma.left_from_registers(&registers, true)
    };
    check(&wgmma, left, &right, false, |row, column| -product(16, row, column));
}

#[test]
fn reads_out_of_shared_memory_are_refused() {
    let wgmma = Wgmma::new((8, 16), Element::F16, Element::F16, F32).unwrap();
    let right = descriptor(0x100, 0x80, 0, Swizzle::None);
    let outside = WarpgroupError::OutOfBounds { address: 0x1f0, end: 0x1ff };
    let read =
        |bytes: usize| wgmma.right_from_shared(&vec![0; bytes], &right, Major::K, false).err();
    assert_eq!(read(0x1ff), Some(outside));
    assert_eq!(read(0x200), None);
}

#[test]
fn what_ptx_lacks_is_refused() {
    for (shape, left, right, accumulator) in [
        ((12, 16), Element::F16, Element::F16, F32),
        ((264, 16), Element::F16, Element::F16, F32),
        ((0, 16), Element::F16, Element::F16, F32),
        ((64, 8), Element::F16, Element::F16, F32),
        ((64, 16), Element::F16, Element::Bf16, F32),
        ((64, 16), Element::Bf16, Element::Bf16, Accumulator::F16),
        ((40, 32), Element::S8, Element::S8, Accumulator::S32 { saturate: false }),
    ] {
        assert!(Wgmma::new(shape, left, right, accumulator).is_err());
    }
    let bytes = Wgmma::new((8, 32), Element::E4m3, Element::E4m3, F32).unwrap();
    let right = descriptor(0, 0, 0, Swizzle::None);
    let transposed = bytes.right_from_shared(&[0; 4096], &right, Major::Mn, false);
    assert_eq!(transposed.err(), Some(WarpgroupError::Transposed(Element::E4m3)));
}
