//! Every kernel against a plain loop.

use half::{bf16, f16};

use super::*;

/// Numbers in [-1, 1), the same every time.
fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12_345);
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

struct Map<'a>(Function, &'a mut [f32]);

#[derive(Clone, Copy)]
enum Function {
    Exp,
    Exp2,
    Tanh,
}

impl WithSimd for Map<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for x in self.1 {
            let v = simd.splat_f32s(*x);
            let y = match self.0 {
                Function::Exp => exp(simd, v),
                Function::Exp2 => exp2(simd, v),
                Function::Tanh => tanh(simd, v),
            };
            *x = simd.reduce_max_f32s(y);
        }
    }
}

fn map(function: Function, inputs: &[f32]) -> Vec<f32> {
    let mut values = inputs.to_vec();
    arch().dispatch(Map(function, &mut values));
    values
}

#[test]
fn exponentials_are_accurate() {
    let xs: Vec<f32> = (-860_000..=887_000).map(|i| i as f32 * 1e-4).collect();
    for (&x, y) in xs.iter().zip(map(Function::Exp, &xs)) {
        let truth = f64::from(x).exp();
        assert!((f64::from(y) / truth - 1.0).abs() < 2e-7, "e^{x} = {truth}, got {y}");
    }
    let xs: Vec<f32> = (-1_259_000..=1_269_000).map(|i| i as f32 * 1e-4).collect();
    for (&x, y) in xs.iter().zip(map(Function::Exp2, &xs)) {
        let truth = f64::from(x).exp2();
        assert!((f64::from(y) / truth - 1.0).abs() < 1.2e-7, "2^{x} = {truth}, got {y}");
    }
    let xs: Vec<f32> = (-200_000..=200_000).map(|i| i as f32 * 1e-4).collect();
    for (&x, y) in xs.iter().zip(map(Function::Tanh, &xs)) {
        assert!((f64::from(y) - f64::from(x).tanh()).abs() < 2e-7, "tanh {x}, got {y}");
    }
}

#[test]
fn exponentials_keep_their_limits() {
    let inputs = [f32::NEG_INFINITY, -1e30, -200.0, 0.0];
    assert_eq!(map(Function::Exp, &inputs), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(map(Function::Exp2, &inputs), [0.0, 0.0, 0.0, 1.0]);
    assert_eq!(map(Function::Exp, &[88.8, 1e30, f32::INFINITY]), [f32::INFINITY; 3]);
    assert_eq!(map(Function::Tanh, &[f32::NEG_INFINITY, f32::INFINITY]), [-1.0, 1.0]);
    // Two payloads, for integer arithmetic on the bits could turn a NaN into a number.
    let nans = [f32::NAN, f32::from_bits(0x7fff_ffff), f32::from_bits(0xffc0_01ff)];
    for function in [Function::Exp, Function::Exp2, Function::Tanh] {
        let mut values = nans;
        struct Lanewise<'a>(Function, &'a mut [f32]);
        impl WithSimd for Lanewise<'_> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(self, simd: S) {
                let x = simd.partial_load_f32s(self.1);
                let y = match self.0 {
                    Function::Exp => exp(simd, x),
                    Function::Exp2 => exp2(simd, x),
                    Function::Tanh => tanh(simd, x),
                };
                simd.partial_store_f32s(self.1, y);
            }
        }
        for value in &mut values {
            arch().dispatch(Lanewise(function, std::slice::from_mut(value)));
        }
        assert!(values.iter().all(|x| x.is_nan()), "{values:?}");
    }
}

#[test]
fn rows_reduce_as_plain_loops_do() {
    struct Rows<'a>(&'a [f32], &'a [f32]);
    impl WithSimd for Rows<'_> {
        type Output = (f32, f32, f32, Vec<f32>, Vec<f32>);

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
            let (mut exps, mut sums) = (self.0.to_vec(), self.1.to_vec());
            let max = row_max(simd, self.0);
            let sum = exp_sum(simd, &mut exps, max);
            axpy(simd, 0.5, self.0, &mut sums);
            scale(simd, 2.0, &mut sums);
            (max, sum, dot(simd, self.0, self.1), exps, sums)
        }
    }
    for len in (0..70).chain([127, 128, 1000]) {
        let (a, b) = (numbers(len, 1), numbers(len, 2));
        let (max, sum, product, exps, sums) = arch().dispatch(Rows(&a, &b));
        assert_eq!(max, a.iter().fold(f32::NEG_INFINITY, |m, &x| m.max(x)));
        let truth: Vec<f32> = a.iter().map(|&x| (x - max).exp()).collect();
        for (x, y) in exps.iter().zip(&truth) {
            assert!((x - y).abs() <= 2e-7, "{x} {y}");
        }
        assert!((sum - truth.iter().sum::<f32>()).abs() <= 1e-6 * len as f32);
        let truth: f32 = a.iter().zip(&b).map(|(x, y)| x * y).sum();
        assert!((product - truth).abs() <= 1e-6 * len as f32);
        for ((x, a), b) in sums.iter().zip(&a).zip(&b) {
            assert!((x - (2.0 * b + a)).abs() <= 1e-6);
        }
    }
}

#[test]
fn every_half_value_widens() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let (mut halves, mut brains) = (vec![0f32; bits.len()], vec![0f32; bits.len()]);
    arch().dispatch(|| {
        widen::<f16>(bytemuck::cast_slice(&bits), &mut halves);
        widen::<bf16>(bytemuck::cast_slice(&bits), &mut brains);
    });
    for ((&bits, half), brain) in bits.iter().zip(halves).zip(brains) {
        let (h, b) = (f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32());
        assert!(h.to_bits() == half.to_bits() || (h.is_nan() && half.is_nan()), "{bits}");
        assert!(b.to_bits() == brain.to_bits() || (b.is_nan() && brain.is_nan()), "{bits}");
    }
}

fn check_product(m: usize, k: usize, n: usize) {
    let (a, b) = (numbers(m * k, 3), numbers(k * n, 4));
    let bt: Vec<f32> = (0..k * n).map(|i| b[i % k * n + i / k]).collect();
    let (half, brain): (Vec<_>, Vec<_>) =
        bt.iter().map(|&x| (f16::from_f32(x), bf16::from_f32(x))).unzip();
    let check = |packed: &Packed, b: &dyn Fn(usize) -> f32| {
        let mut c = vec![f32::NAN; m * n];
        matmul_block(&a, packed, &mut c);
        for i in 0..m {
            for j in 0..n {
                let truth: f64 =
                    (0..k).map(|p| f64::from(a[i * k + p]) * f64::from(b(p * n + j))).sum();
                let got = c[i * n + j];
                let bound = 1e-6 * k.max(1) as f64;
                assert!((f64::from(got) - truth).abs() <= bound, "{i} {j}: {got} {truth}");
            }
        }
    };
    let transposed = |i: usize| i % n * k + i / n;
    check(&Packed::from_transposed(&bt, n, k), &|i| b[i]);
    check(&Packed::from_transposed(&half, n, k), &|i| half[transposed(i)].to_f32());
    check(&Packed::from_transposed(&brain, n, k), &|i| brain[transposed(i)].to_f32());
}

#[test]
fn products_equal_plain_loops() {
    for m in [0, 1, 7, 8, 9, 100] {
        for k in [0, 1, 5, 64, 193] {
            for n in [0, 1, 15, 16, 47, 48, 49, 97] {
                check_product(m, k, n);
            }
        }
    }
}

#[test]
fn every_f8_value_is_widened_as_one_by_one() {
    use crate::dtype::F8E4M3;

    let values: Vec<F8E4M3> = (0..=u8::MAX).map(F8E4M3::from_bits).collect();
    let mut wide = vec![0f32; values.len()];
    widen(&values, &mut wide);
    for (value, wide) in values.into_iter().zip(wide) {
        let expected = Element::to_f32(value);
        assert!(
            wide.to_bits() == expected.to_bits() || (wide.is_nan() && expected.is_nan()),
            "{wide}"
        );
    }
}
