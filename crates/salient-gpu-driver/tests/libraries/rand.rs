use crate::api::{Context, address, call, get, ok, stream};
use crate::{device, host};

const DEFAULT: u64 = 100;

fn generator(seed: u64) -> u64 {
    let generator = get("curandCreateGenerator", &[DEFAULT]);
    ok(call("curandSetPseudoRandomGeneratorSeed", &[generator, seed]));
    generator
}

fn singles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&value| f64::from(f32::from_le_bytes(value))).collect()
}

fn doubles(bytes: &[u8]) -> Vec<f64> {
    bytes.as_chunks().0.iter().map(|&value| f64::from_le_bytes(value)).collect()
}

fn uniform(generator: u64, count: usize) -> Vec<f64> {
    let to = device(&vec![0; count * 4]);
    ok(call("curandGenerateUniform", &[generator, to, count as u64]));
    singles(&host(to, count * 4))
}

/// Mean, variance, and the mean of the product of neighbours with both means taken off.
fn moments(values: &[f64]) -> [f64; 3] {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let neighbours = values.windows(2).map(|pair| (pair[0] - mean) * (pair[1] - mean));
    [mean, variance, neighbours.sum::<f64>() / (count - 1.0)]
}

/// Within five standard errors, about.
fn near(actual: [f64; 3], expected: [f64; 3], tolerance: f64) {
    for (actual, expected) in actual.iter().zip(expected) {
        assert!((actual - expected).abs() < tolerance, "{actual}, not {expected}");
    }
}

#[test]
fn uniform_numbers_are_spread_over_the_interval() {
    let _context = Context::new();
    let (generator, count) = (generator(7), 40_000);
    let values = uniform(generator, count);
    assert!(values.iter().all(|&value| value > 0.0 && value <= 1.0));
    near(moments(&values), [0.5, 1.0 / 12.0, 0.0], 0.01);
    let to = device(&vec![0; count * 8]);
    ok(call("curandGenerateUniformDouble", &[generator, to, count as u64]));
    let values = doubles(&host(to, count * 8));
    assert!(values.iter().all(|&value| value > 0.0 && value <= 1.0));
    near(moments(&values), [0.5, 1.0 / 12.0, 0.0], 0.01);
    // More than singles could tell apart.
    assert!(values.iter().any(|&value| f64::from(value as f32) != value));
}

#[test]
fn normal_numbers_have_their_mean_and_deviation() {
    let _context = Context::new();
    let (generator, count) = (generator(8), 40_000);
    let to = device(&vec![0; count * 8]);
    type Single = extern "C" fn(u64, u64, usize, f32, f32) -> u32;
    type Double = extern "C" fn(u64, u64, usize, f64, f64) -> u32;
    // SAFETY: the function of this name takes such arguments.
    let single = unsafe { std::mem::transmute::<u64, Single>(address("curandGenerateNormal")) };
    // SAFETY: as above.
    let double =
        unsafe { std::mem::transmute::<u64, Double>(address("curandGenerateNormalDouble")) };
    ok(single(generator, to, count, 3.0, 2.0));
    let values = singles(&host(to, count * 4));
    near(moments(&values), [3.0, 4.0, 0.0], 0.15);
    // A share of 0.0455 is beyond two deviations.
    let beyond = values.iter().filter(|&value| (value - 3.0).abs() > 4.0).count();
    assert!((1600..2050).contains(&beyond), "{beyond}");
    ok(double(generator, to, count, -1.0, 0.5));
    near(moments(&doubles(&host(to, count * 8))), [-1.0, 0.25, 0.0], 0.02);
    assert_eq!(single(generator, to, 3, 0.0, 1.0), 105);
}

#[test]
fn a_seed_and_an_offset_determine_the_numbers() {
    let _context = Context::new();
    let (first, second, third) = (generator(5), generator(5), generator(6));
    let all = uniform(first, 100);
    assert_eq!(uniform(second, 30), all[..30]);
    assert_eq!(uniform(second, 70), all[30..]);
    assert_ne!(uniform(third, 100), all);
    ok(call("curandSetGeneratorOffset", &[third, 17]));
    ok(call("curandSetPseudoRandomGeneratorSeed", &[third, 5]));
    assert_eq!(uniform(third, 100), all);
    ok(call("curandSetGeneratorOffset", &[third, 17]));
    assert_eq!(uniform(third, 83), all[17..]);
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let _context = Context::new();
    let (generator, to) = (generator(1), device(&[9; 16]));
    assert_eq!(call("curandGenerateUniform", &[generator, to, 5]), 201);
    assert_eq!(call("curandGenerateUniform", &[generator, to + 4, 4]), 201);
    assert_eq!(host(to, 16), [9; 16]);
    ok(call("curandDestroyGenerator", &[generator]));
    assert_eq!(call("curandGenerateUniform", &[generator, to, 4]), 101);
    let mut other = 0u64;
    let quasi = 201;
    assert_eq!(call("curandCreateGenerator", &[&raw mut other as u64, quasi]), 103);
}

#[test]
fn numbers_are_drawn_in_the_order_of_the_stream() {
    let _context = Context::new();
    let (generator, stream, to) = (generator(5), stream(), device(&[0; 8]));
    ok(call("curandSetStream", &[generator, stream]));
    ok(call("cuMemsetD32Async", &[to, 0, 2, stream]));
    ok(call("curandGenerate", &[generator, to, 1]));
    ok(call("cuMemcpyDtoDAsync_v2", &[to + 4, to, 4, stream]));
    ok(call("cuStreamSynchronize", &[stream]));
    let bytes = host(to, 8);
    assert_ne!(bytes[..4], [0; 4]);
    assert_eq!(bytes[..4], bytes[4..]);
}
