use super::*;

const ALL: [Arithmetic; 4] =
    [Arithmetic::Exact, Arithmetic::Sm80, Arithmetic::Sm90, Arithmetic::Sm100];

const SHAPES: &[(usize, usize, Element, Element, Accumulator)] = {
    use Accumulator::{F16 as H, F32 as F, F64 as D};
    use Element::*;
    const S: Accumulator = Accumulator::S32 { saturate: false };
    &[
        (16, 8, F16, F16, F),
        (16, 8, F16, F16, H),
        (16, 16, F16, F16, F),
        (16, 16, F16, F16, H),
        (16, 8, Bf16, Bf16, F),
        (16, 16, Bf16, Bf16, F),
        (16, 4, Tf32, Tf32, F),
        (16, 8, Tf32, Tf32, F),
        (16, 16, E4m3, E5m2, F),
        (16, 32, E4m3, E4m3, F),
        (16, 32, E5m2, E4m3, H),
        (8, 16, S8, S8, S),
        (16, 16, U8, S8, S),
        (16, 32, S8, U8, S),
        (8, 4, F64, F64, D),
        (16, 4, F64, F64, D),
        (16, 8, F64, F64, D),
        (16, 16, F64, F64, D),
    ]
};

/// A small integer as an element; unsigned types take its magnitude.
fn encoded(element: Element, x: i32) -> u64 {
    let float8 = |bias: u32, mantissa: u32| {
        let magnitude = x.unsigned_abs();
        if magnitude == 0 {
            return 0;
        }
        let e = magnitude.ilog2();
        let fraction = ((magnitude << mantissa) >> e) & ((1 << mantissa) - 1);
        u64::from((e + bias) << mantissa | fraction | if x < 0 { 128 } else { 0 })
    };
    match element {
        Element::F16 => half::f16::from_f32(x as f32).to_bits().into(),
        Element::Bf16 => half::bf16::from_f32(x as f32).to_bits().into(),
        Element::Tf32 => (x as f32).to_bits().into(),
        Element::E4m3 => float8(7, 3),
        Element::E5m2 => float8(15, 2),
        Element::S8 => (x as i8 as u8).into(),
        Element::U8 => x.unsigned_abs().into(),
        Element::F64 => (x as f64).to_bits(),
    }
}

fn value(element: Element, x: i32) -> i32 {
    if element == Element::U8 { x.abs() } else { x }
}

/// Puts `bits` wide elements into registers one after the other.
fn pack(per_lane: usize, bits: usize, element: impl Fn(usize, usize) -> u64) -> Vec<Lanes> {
    let word = |register: usize, lane: usize| {
        if bits == 64 {
            return (element(lane, register / 2) >> (register % 2 * 32)) as u32;
        }
        let places = 32 / bits;
        (0..places).fold(0, |word, place| {
            word | (element(lane, register * places + place) as u32) << (bits * place)
        })
    };
    let registers = 0..per_lane * bits / 32;
    registers.map(|register| std::array::from_fn(|lane| word(register, lane))).collect()
}

/// Integers whose products and sums all arithmetics hold, in every shape: the figures' positions,
/// written out here by element as the manual has them.
#[test]
fn products_of_small_integers() {
    for &(m, depth, left, right, accumulator) in SHAPES {
        let mma = Mma::new((m, 8, depth), left, right, accumulator).unwrap();
        let a = |row: usize, k: usize| ((row * 7 + k * 5) % 5) as i32 - 2;
        let b = |k: usize, column: usize| ((k * 3 + column * 11 + k * column) % 7) as i32 - 3;
        let c = |row: usize, column: usize| ((row * 5 + column) % 11) as i32 - 4;

        // Elements of a lane along k before the row changes, and that pattern's step.
        let run = 4 / left.bytes().min(4);
        let left_at = |lane: usize, i: usize| {
            let row = lane / 4 + if m == 16 && i / run % 2 == 1 { 8 } else { 0 };
            let far = i / run / (m / 8);
            (row, lane % 4 * run + i % run + far * 4 * run)
        };
        let right_at =
            |lane: usize, i: usize| (lane % 4 * run + i % run + i / run * 4 * run, lane / 4);
        let sum_at = |lane: usize, i: usize| (lane / 4 + i / 2 * 8, lane % 4 * 2 + i % 2);

        let bits = left.bytes() * 8;
        let a_registers = pack(m * depth / 32, bits, |lane, i| {
            let (row, k) = left_at(lane, i);
            encoded(left, a(row, k))
        });
        let b_registers = pack(depth / 4, bits, |lane, i| {
            let (k, column) = right_at(lane, i);
            encoded(right, b(k, column))
        });
        let number = |x: i32| match accumulator {
            Accumulator::F16 => (16, encoded(Element::F16, x)),
            Accumulator::F32 => (32, encoded(Element::Tf32, x)),
            Accumulator::S32 { .. } => (32, u64::from(x as u32)),
            Accumulator::F64 => (64, encoded(Element::F64, x)),
        };
        let sums = |at: &dyn Fn(usize, usize) -> i32| {
            pack(m / 4, number(0).0, |lane, i| {
                let (row, column) = sum_at(lane, i);
                number(at(row, column)).1
            })
        };
        let c_registers = sums(&c);
        let expected = sums(&|row, column| {
            c(row, column)
                + (0..depth)
                    .map(|k| value(left, a(row, k)) * value(right, b(k, column)))
                    .sum::<i32>()
        });
        let counts = (a_registers.len(), b_registers.len(), c_registers.len());
        assert_eq!(mma.registers(), counts, "{mma:?}");
        for arithmetic in ALL {
            let mut d = vec![[!0; 32]; expected.len()];
            mma.execute(arithmetic, &a_registers, &b_registers, &c_registers, &mut d);
            assert_eq!(d, expected, "{mma:?} {arithmetic:?}");
        }
    }
}

#[test]
fn what_ptx_lacks_is_refused() {
    use Accumulator::{F16, F32};
    for (shape, left, right, accumulator) in [
        ((16, 8, 32), Element::F16, Element::F16, F32),
        ((16, 16, 16), Element::F16, Element::F16, F32),
        ((16, 8, 16), Element::F16, Element::Bf16, F32),
        ((16, 8, 16), Element::Bf16, Element::Bf16, F16),
        ((8, 8, 32), Element::S8, Element::S8, Accumulator::S32 { saturate: false }),
        ((16, 8, 16), Element::S8, Element::S8, F32),
    ] {
        assert!(Mma::new(shape, left, right, accumulator).is_err(), "{shape:?} {left:?}");
    }
}

/// On sm_90 the accumulator of 8-bit floats is added last and rounded to nearest, so it costs the
/// products no bits.
#[test]
fn converted_bytes_add_the_accumulator_last() {
    let mma = Mma::new((16, 8, 32), Element::E4m3, Element::E4m3, Accumulator::F32).unwrap();
    // All products are 2^-12; in pairs that come first along k and in those that come last.
    let a = [[0x0808_0808; 32]; 4];
    let b = [[0x0808_0808; 32]; 2];
    let run = |arithmetic, c: f32| {
        let mut d = [[0; 32]; 4];
        mma.execute(arithmetic, &a, &b, &[[c.to_bits(); 32]; 4], &mut d);
        f32::from_bits(d[3][17])
    };
    let c = 2f32.powi(17) - 2f32.powi(-6);
    assert_eq!(run(Arithmetic::Sm90, c), c + 32.0 * 2f32.powi(-12));
    // 13 bits of 2^16 end at 8.
    assert_eq!(run(Arithmetic::Sm80, c), 2f32.powi(17) - 8.0);

    // Elements 0 and 1 of four come before 2 and 3: 2^14 and -2^14 in the first half, 2^-12 after.
    let word = |low: u32, high: u32| low | high << 16;
    // e4m3: 2^7 is 0x70, -2^7 is 0xf0, 2^-6 is 0x08.
    let mut a = [[0; 32]; 4];
    let mut b = [[0; 32]; 2];
    for group in 0..8 {
        a[0][4 * group] = word(0xf070, 0x0008);
        b[0][4 * group] = word(0x7070, 0x0008);
    }
    let mut d = [[0; 32]; 4];
    mma.execute(Arithmetic::Sm90, &a, &b, &[[0; 32]; 4], &mut d);
    assert_eq!(f32::from_bits(d[0][0]), 2f32.powi(-12));
    // In one sum, 2^-12 is 26 bits below 2^14.
    assert_eq!(f32::from_bits(d[2][0]), 0.0);
    mma.execute(Arithmetic::Sm100, &a, &b, &[[0; 32]; 4], &mut d);
    assert_eq!(f32::from_bits(d[0][0]), 0.0);
}
