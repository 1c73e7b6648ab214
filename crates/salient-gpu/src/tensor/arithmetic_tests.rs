use half::bf16;
use proptest::prelude::*;

use super::*;

/// The sum of products of one row and one column on top of `c`; every row and column is the same.
fn dot(sum: Sum, element: Element, a: &[u32], b: &[u32], c: u32) -> u32 {
    let depth = a.len();
    let left: Vec<u32> = a.repeat(16);
    let right: Vec<u32> = b.iter().flat_map(|&x| [x; 8]).collect();
    let mut sums = [[c; 8]; 16];
    let (mut left_panel, mut right_panel) = (Left::new(), Right::new());
    left_panel.fill(element, false, &left);
    right_panel.fill(element, false, &right);
    multiply(sum, depth, &left_panel, &right_panel, &mut sums);
    // The processor's own way and the portable one.
    let mut portable = [[c; 8]; 16];
    let kernels = Kernels { largest, terms };
    multiply_with(kernels, sum, depth, &left_panel, &right_panel, &mut portable);
    assert_eq!(sums, portable);
    assert!(sums.iter().flatten().all(|&x| x == sums[0][0]));
    sums[0][0]
}

const WARP: Instruction = Instruction::Warp;
const WARPGROUP: Instruction = Instruction::Warpgroup;

/// As [`dot`], in f16 with f32 accumulators, from numbers.
fn half_dot(arithmetic: Arithmetic, a: &[f32], b: &[f32], c: f32) -> f32 {
    let sum = Sum::of(arithmetic, WARP, Element::F16, Accumulator::F32);
    let raw = |x: &[f32]| -> Vec<u32> {
        x.iter().map(|&x| u32::from(f16::from_f32(x).to_bits())).collect()
    };
    f32::from_bits(dot(sum, Element::F16, &raw(a), &raw(b), c.to_bits()))
}

/// 16 products of which the first `count` are `x`; `x` must be a square of a power of two.
fn same(arithmetic: Arithmetic, count: usize, x: f32, c: f32) -> f32 {
    let root = x.abs().sqrt();
    let mut a = [0.0; 16];
    a[..count].fill(root.copysign(x));
    half_dot(arithmetic, &a, &[root; 16], c)
}

#[test]
fn bits_kept_below_the_accumulator() {
    let (p24, p26) = (2f32.powi(-24), 2f32.powi(-26));
    // 2^-24 is kept by both, so eight of them make 2^-21.
    assert_eq!(same(Arithmetic::Sm80, 8, p24, 1.0), 1.0 + 8.0 * p24);
    assert_eq!(same(Arithmetic::Sm90, 8, p24, 1.0), 1.0 + 8.0 * p24);
    // 2^-26 is below 25 bits.
    assert_eq!(same(Arithmetic::Sm90, 16, p26, 1.0), 1.0);
    // With 2 as accumulator, 2^-24 is the 25th bit: sm_90 alone keeps it.
    assert_eq!(same(Arithmetic::Sm80, 16, p24, 2.0), 2.0);
    assert_eq!(same(Arithmetic::Sm90, 16, p24, 2.0), 2.0 + 16.0 * p24);
    assert_eq!(same(Arithmetic::Sm100, 16, p24, 2.0), 2.0 + 16.0 * p24);
    assert_eq!(same(Arithmetic::Exact, 16, p24, 2.0), 2.0 + 16.0 * p24);
}

#[test]
fn sums_are_cut_off_toward_zero() {
    // At 4 the last place is 2^-21, so three of 2^-22 are one and a half of it.
    let (p22, place) = (2f32.powi(-22), 2f32.powi(-21));
    for arithmetic in [Arithmetic::Sm80, Arithmetic::Sm90] {
        assert_eq!(same(arithmetic, 3, p22, 4.0), 4.0 + place);
        assert_eq!(same(arithmetic, 3, -p22, -4.0), -4.0 - place);
    }
    // To the nearest even instead.
    assert_eq!(same(Arithmetic::Exact, 3, p22, 4.0), 4.0 + 2.0 * place);
}

#[test]
fn long_products_are_chains_of_blocks_on_sm_80() {
    // 1 + 2^24 loses its 1 at the end of the first block; one long block keeps it.
    let mut a = [0.0; 16];
    (a[0], a[8]) = (4096.0, -4096.0);
    let b = [4096.0; 16];
    assert_eq!(half_dot(Arithmetic::Sm80, &a, &b, 1.0), 0.0);
    assert_eq!(half_dot(Arithmetic::Sm90, &a, &b, 1.0), 1.0);
}

#[test]
fn eight_bit_floats_keep_13_bits_in_warpgroups() {
    let one_and = |n: u32| {
        let mut a = [0; 32];
        // e4m3: 0x38 is 1; 2^-7 is field 0, mantissa 4 of 8 (2^-6 * 1/2).
        (a[0], a[1]) = (0x38, 0x04);
        let mut b = [0x38; 32];
        b[1] = n;
        (a, b)
    };
    let run = |arithmetic, (a, b): ([u32; 32], [u32; 32])| {
        let sum = Sum::of(arithmetic, WARPGROUP, Element::E4m3, Accumulator::F32);
        f32::from_bits(dot(sum, Element::E4m3, &a, &b, 0))
    };
    // 2^-7 * 2^-6 = 2^-13 is the last bit; 2^-7 * 2^-7 = 2^-14 is lost.
    assert_eq!(run(Arithmetic::Sm90, one_and(0x08)), 1.0 + 2f32.powi(-13));
    assert_eq!(run(Arithmetic::Sm90, one_and(0x04)), 1.0);
    assert_eq!(run(Arithmetic::Sm100, one_and(0x04)), 1.0 + 2f32.powi(-14));
    // The accumulator loses its low bits too.
    let sum = Sum::of(Arithmetic::Sm90, WARPGROUP, Element::E5m2, Accumulator::F32);
    let c = 1.0 + 2f32.powi(-13) + 2f32.powi(-14);
    let zeros = [0; 32];
    let kept = dot(sum, Element::E5m2, &zeros, &zeros, c.to_bits());
    assert_eq!(f32::from_bits(kept), 1.0 + 2f32.powi(-13));
}

#[test]
fn infinities_and_nan() {
    const ALL: [Arithmetic; 4] =
        [Arithmetic::Exact, Arithmetic::Sm80, Arithmetic::Sm90, Arithmetic::Sm100];
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    for arithmetic in ALL {
        let two = |a0: f32, b0: f32, a1: f32, b1: f32, c: f32| {
            let (mut a, mut b) = ([1.0; 16], [1.0; 16]);
            (a[3], b[3], a[12], b[12]) = (a0, b0, a1, b1);
            half_dot(arithmetic, &a, &b, c).to_bits()
        };
        assert_eq!(two(inf, -2.0, 1.0, 1.0, 5.0), (-inf).to_bits());
        assert_eq!(two(1.0, 1.0, 1.0, 1.0, inf), inf.to_bits());
        for (a0, b0, a1, b1, c) in [
            (inf, 0.0, 1.0, 1.0, 0.0),
            (inf, 1.0, inf, -1.0, 0.0),
            (inf, 1.0, 1.0, 1.0, -inf),
            (1.0, 1.0, nan, 1.0, 0.0),
            (1.0, 1.0, 1.0, 1.0, -nan),
        ] {
            assert_eq!(two(a0, b0, a1, b1, c), 0x7fff_ffff);
        }
        assert_eq!(two(65504.0, 65504.0, 1.0, 1.0, f32::MAX), f32::MAX.to_bits());
    }
    // Past the largest f32 the sum is infinite.
    let sum = Sum::of(Arithmetic::Sm90, WARP, Element::Bf16, Accumulator::F32);
    let big = u32::from(bf16::from_f32(2f32.powi(64)).to_bits());
    let one = u32::from(bf16::from_f32(1.0).to_bits());
    assert_eq!(dot(sum, Element::Bf16, &[big; 16], &[big; 16], 0), inf.to_bits());
    assert_eq!(
        dot(sum, Element::Bf16, &[one; 16], &[one; 16], f32::MAX.to_bits()),
        f32::MAX.to_bits()
    );
}

#[test]
fn half_accumulators_round_to_nearest_even() {
    let sum = Sum::of(Arithmetic::Sm90, WARP, Element::F16, Accumulator::F16);
    let h = |x: f32| u32::from(f16::from_f32(x).to_bits());
    let run = |x: f32, y: f32, c: f32| {
        let (mut a, mut b) = ([0; 16], [0; 16]);
        (a[0], b[0]) = (h(x), h(1.0));
        (a[1], b[1]) = (h(y), h(1.0));
        dot(sum, Element::F16, &a, &b, h(c))
    };
    let ulp = 2f32.powi(-10);
    assert_eq!(run(ulp / 2.0, 0.0, 1.0), h(1.0));
    assert_eq!(run(ulp / 2.0, ulp, 1.0), h(1.0 + 2.0 * ulp));
    // A tie broken by a bit far below, which a detour over f32's rounding would lose.
    assert_eq!(run(ulp / 2.0, 2f32.powi(-24), 1.0), h(1.0 + ulp));
    assert_eq!(run(65504.0, 65504.0, 0.0), 0x7c00);
    assert_eq!(run(f32::INFINITY, f32::NEG_INFINITY, 0.0), 0x7fff);
    // Blocks of sm_80 round between each other.
    let sum = Sum::of(Arithmetic::Sm80, WARP, Element::F16, Accumulator::F16);
    let mut a = [0; 16];
    (a[0], a[8]) = (h(ulp / 2.0), h(ulp / 2.0));
    assert_eq!(dot(sum, Element::F16, &a, &[h(1.0); 16], h(1.0)), h(1.0));
}

/// The scheme in 128-bit fixed point with the unit 2^-80, from the bits of the operands.
fn fixed_point(a: &[u16], b: &[u16], c: f32, block: usize, fraction: i32) -> f32 {
    const UNIT: i32 = -80;
    let field = |x: u16| i32::from(x >> 10 & 31);
    let exponent = |x: u16| if field(x) == 0 { -14 } else { field(x) - 15 };
    let integer = |x: u16| {
        let lead = if field(x) == 0 { 0 } else { 1024 };
        let magnitude = i128::from(x & 1023) + lead;
        if x >> 15 == 1 { -magnitude } else { magnitude }
    };
    let mut sum = c;
    for (a, b) in a.chunks(block).zip(b.chunks(block)) {
        let bits = sum.to_bits();
        let ec = ((bits >> 23 & 255) as i32 - 127).max(-126);
        let magnitude = (i128::from(bits & 0x7f_ffff)
            + if bits << 1 >> 24 == 0 { 0 } else { 1 << 23 })
            << (ec - 23 - UNIT).max(0);
        let mut terms = vec![(if bits >> 31 == 1 { -magnitude } else { magnitude }, ec)];
        for (&a, &b) in a.iter().zip(b) {
            let e = exponent(a) + exponent(b);
            let product = integer(a) * integer(b);
            if product != 0 {
                terms.push((product << (e - 20 - UNIT), e));
            }
        }
        let largest = terms.iter().map(|t| t.1).max().unwrap();
        let grid = 1i128 << (largest - fraction - UNIT).max(0);
        let total: i128 = terms.iter().map(|t| t.0 / grid * grid).sum();
        let width = 128 - total.unsigned_abs().leading_zeros() as i32;
        let cut = 1i128 << (width - 24).max(0);
        sum = (total / cut * cut) as f32 * 2f32.powi(UNIT);
    }
    sum
}

/// Finite halves of all magnitudes, with zeros among them.
fn halves(n: usize) -> impl Strategy<Value = Vec<u16>> {
    let finite = any::<u16>().prop_map(|x| if x & 0x7c00 == 0x7c00 { x & 0x83ff } else { x });
    let near_one = any::<u16>().prop_map(|x| x & 0x87ff | 0x3800);
    prop::collection::vec(prop_oneof![3 => finite, 6 => near_one, 1 => Just(0x8000)], n)
}

proptest! {
    #[test]
    fn agrees_with_fixed_point(
        a in halves(16),
        b in halves(16),
        c in prop_oneof![Just(0f32), (-30..30i32, -1f32..1.0).prop_map(|(e, m)| m * 2f32.powi(e))],
    ) {
        // Smaller accumulators do not fit the fixed point.
        let c = if c.abs() < 2f32.powi(-55) { 0.0 } else { c };
        let wide = |x: &[u16]| -> Vec<u32> { x.iter().map(|&x| x.into()).collect() };
        for (arithmetic, block, fraction) in
            [(Arithmetic::Sm80, 8, 24), (Arithmetic::Sm90, 16, 25), (Arithmetic::Sm100, 16, 25)]
        {
            let sum = Sum::of(arithmetic, WARP, Element::F16, Accumulator::F32);
            let got = f32::from_bits(dot(sum, Element::F16, &wide(&a), &wide(&b), c.to_bits()));
            prop_assert_eq!(got, fixed_point(&a, &b, c, block, fraction));
        }
    }

    /// Powers of two move through every sum unchanged, also to where the plain sum does not apply.
    #[test]
    fn scaling_by_powers_of_two(
        a in prop::collection::vec(-4f32..4.0, 16),
        b in prop::collection::vec(-4f32..4.0, 16),
        c in -16f32..16.0,
        (s, t) in (-50..55i32, -50..55i32),
    ) {
        let raw = |x: &[f32], s: i32| -> Vec<u32> {
            x.iter().map(|x| u32::from(bf16::from_f32(x * 2f32.powi(s)).to_bits())).collect()
        };
        for arithmetic in [Arithmetic::Sm80, Arithmetic::Sm90] {
            let sum = Sum::of(arithmetic, WARP, Element::Bf16, Accumulator::F32);
            let run = |s, t| {
                let c = f64::from(c) * 2f64.powi(s + t);
                dot(sum, Element::Bf16, &raw(&a, s), &raw(&b, t), (c as f32).to_bits())
            };
            let (plain, scaled) = (f32::from_bits(run(0, 0)), f32::from_bits(run(s, t)));
            // Subnormal sums lose bits.
            prop_assume!(s + t > -80);
            prop_assert_eq!(f64::from(plain) * 2f64.powi(s + t), f64::from(scaled));
        }
    }

    #[test]
    fn bytes_sum_as_integers(
        a in prop::collection::vec(any::<u8>(), 32),
        b in prop::collection::vec(any::<u8>(), 32),
        c in any::<i32>(),
    ) {
        let wide = |x: &[u8]| -> Vec<u32> { x.iter().map(|&x| x.into()).collect() };
        let unsigned: i64 = a.iter().zip(&b).map(|(&x, &y)| i64::from(x) * i64::from(y)).sum();
        let signed: i64 =
            a.iter().zip(&b).map(|(&x, &y)| i64::from(x as i8) * i64::from(y as i8)).sum();
        for (element, products) in [(Element::U8, unsigned), (Element::S8, signed)] {
            let total = i64::from(c) + products;
            let wrapped = Sum::Integer { saturate: false };
            prop_assert_eq!(dot(wrapped, element, &wide(&a), &wide(&b), c as u32), total as u32);
            let stopped = total.clamp(i32::MIN.into(), i32::MAX.into()) as u32;
            let saturated = Sum::Integer { saturate: true };
            prop_assert_eq!(dot(saturated, element, &wide(&a), &wide(&b), c as u32), stopped);
        }
    }
}

#[test]
fn targets_have_their_arithmetic() {
    let of = Arithmetic::of_target;
    assert_eq!((of(75), of(80), of(86), of(89)), (None, Some(Arithmetic::Sm80), of(80), of(80)));
    assert_eq!((of(90), of(100)), (Some(Arithmetic::Sm90), Some(Arithmetic::Sm100)));
    assert_eq!(of(120), of(100));
}
