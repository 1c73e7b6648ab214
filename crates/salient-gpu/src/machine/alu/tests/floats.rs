//! Arithmetic of f32 and f64: exactly rounded, or as comparisons say.

use super::exact::{assert_rounded, fma, quotient, root};
use super::{Draw, check, product, results};

const NAN: u32 = 0x7fff_ffff;

/// Zeros, infinities, NaNs and the ends of every range, of both signs.
fn specials() -> Vec<f32> {
    let positive = [
        0.0,
        f32::from_bits(1),
        f32::from_bits(0x007f_ffff),
        f32::MIN_POSITIVE,
        f32::from_bits(0x0080_0001),
        0.1,
        0.5,
        1.0 - f32::EPSILON / 2.0,
        1.0,
        1.0 + f32::EPSILON,
        1.5,
        3.0,
        16_777_215.0,
        16_777_217.0,
        1e30,
        f32::from_bits(0x7f7f_fffe),
        f32::MAX,
        f32::INFINITY,
        f32::NAN,
        f32::from_bits(0x7f80_0001),
    ];
    positive.into_iter().flat_map(|x| [x, -x]).collect()
}

fn bits(values: &[f32]) -> Vec<u64> {
    values.iter().map(|x| x.to_bits().into()).collect()
}

fn single(bits: u64) -> f32 {
    f32::from_bits(bits as u32)
}

fn canonical(x: f32) -> u64 {
    u64::from(if x.is_nan() { NAN } else { x.to_bits() })
}

fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn saturated(x: f32) -> f32 {
    if x.is_nan() { 0.0 } else { x.clamp(0.0, 1.0) + 0.0 }
}

#[test]
fn nearest_with_flushing_and_saturation() {
    let all = bits(&specials());
    let pairs = product(&[&all, &all]);
    let triples = product(&[&all, &all, &all]);
    type Two = fn(f32, f32) -> f32;
    let two: [(&str, Two); 3] =
        [("add", |a, b| a + b), ("sub", |a, b| a - b), ("mul", |a, b| a * b)];
    for rounding in ["", ".rn"] {
        for (name, f) in two {
            let op = |flags: &str| format!("{name}{rounding}{flags}.f32");
            check(&op(""), &["b32"; 3], &pairs, |t| canonical(f(single(t[0]), single(t[1]))));
            let flushing = |t: &[u64]| flushed(f(flushed(single(t[0])), flushed(single(t[1]))));
            check(&op(".ftz"), &["b32"; 3], &pairs, |t| canonical(flushing(t)));
            check(&op(".sat"), &["b32"; 3], &pairs, |t| {
                canonical(saturated(f(single(t[0]), single(t[1]))))
            });
            check(&op(".ftz.sat"), &["b32"; 3], &pairs, |t| canonical(saturated(flushing(t))));
        }
    }
    for name in ["fma", "mad"] {
        let once = |t: &[u64]| single(t[0]).mul_add(single(t[1]), single(t[2]));
        check(&format!("{name}.rn.f32"), &["b32"; 4], &triples, |t| canonical(once(t)));
        check(&format!("{name}.rn.sat.f32"), &["b32"; 4], &triples, |t| {
            canonical(saturated(once(t)))
        });
        check(&format!("{name}.rn.ftz.f32"), &["b32"; 4], &triples, |t| {
            let [a, b, c] = [t[0], t[1], t[2]].map(|x| flushed(single(x)));
            canonical(flushed(a.mul_add(b, c)))
        });
    }
    check("div.rn.f32", &["b32"; 3], &pairs, |t| canonical(single(t[0]) / single(t[1])));
    check("div.rn.ftz.f32", &["b32"; 3], &pairs, |t| {
        canonical(flushed(flushed(single(t[0])) / flushed(single(t[1]))))
    });
    let ones: Vec<Vec<u64>> = all.iter().map(|&a| vec![a]).collect();
    check("rcp.rn.f32", &["b32"; 2], &ones, |t| canonical(1.0 / single(t[0])));
    check("sqrt.rn.f32", &["b32"; 2], &ones, |t| canonical(single(t[0]).sqrt()));
    check("rcp.rn.ftz.f32", &["b32"; 2], &ones, |t| {
        canonical(flushed(1.0 / flushed(single(t[0]))))
    });
}

/// Triples that make roundings hard: sums that cancel, terms far apart, results at the ends.
fn hard_triples(draw: &mut Draw) -> Vec<[f32; 3]> {
    let mut triples = Vec::new();
    for _ in 0..3_000 {
        let mut any = || f32::from_bits(draw.next() as u32);
        let (a, b, c) = (any(), any(), any());
        let near = |x: f32| f32::from_bits(x.to_bits() & 0x807f_ffff | 0x3f80_0000);
        let (p, q) = (near(a), near(b));
        triples.extend([
            [a, b, c],
            [p, q, near(c)],
            [p, q, -(p * q)],
            [p, q, near(c) * 1e-9],
            [p * 1e-20, q * 1e-20, near(c) * 1e-38],
            [p * 1e19, q * 1e19, near(c) * 1e30],
            [p, q, f32::from_bits(c.to_bits() & 0x807f_ffff)],
        ]);
    }
    let specials = specials();
    for (at, &a) in specials.iter().enumerate() {
        for &b in &specials {
            triples.extend(specials.iter().skip(at % 5).step_by(5).map(|&c| [a, b, c]));
        }
    }
    triples.retain(|t| t.iter().all(|x| x.is_finite()));
    triples
}

fn assert_rounded32(
    rounding: &str,
    result: u64,
    exact: impl Fn(f64) -> std::cmp::Ordering,
    what: &str,
) {
    let x = single(result);
    let around = [x.next_down(), x, x.next_up()].map(f64::from);
    assert_rounded(rounding, around, x.to_bits() & 1 == 0, 128, exact, what);
}

#[test]
fn every_rounding_of_single_precision() {
    let triples = hard_triples(&mut Draw(11));
    let of =
        |count: usize| -> Vec<Vec<u64>> { triples.iter().map(|t| bits(&t[..count])).collect() };
    let (pairs, threes) = (of(2), of(3));
    for rounding in ["rn", "rz", "rm", "rp"] {
        let sums = results(&format!("add.{rounding}.f32"), &["b32"; 3], &pairs);
        let products = results(&format!("mul.{rounding}.f32"), &["b32"; 3], &pairs);
        let quotients = results(&format!("div.{rounding}.f32"), &["b32"; 3], &pairs);
        let roots = results(&format!("sqrt.{rounding}.f32"), &["b32"; 2], &of(1));
        let all = results(&format!("fma.{rounding}.f32"), &["b32"; 4], &threes);
        for (at, t) in triples.iter().enumerate() {
            let [a, b, c] = t.map(f64::from);
            let what = |name: &str| format!("{name} of {t:?}");
            assert_rounded32(rounding, sums[at], |x| fma(a, 1.0, b, x), &what("add"));
            assert_rounded32(rounding, products[at], |x| fma(a, b, 0.0, x), &what("mul"));
            assert_rounded32(rounding, all[at], |x| fma(a, b, c, x), &what("fma"));
            if b != 0.0 {
                assert_rounded32(rounding, quotients[at], |x| quotient(a, b, x), &what("div"));
            }
            if a >= 0.0 {
                let root = |x: f64| {
                    if x < 0.0 { std::cmp::Ordering::Greater } else { root(a, x) }
                };
                assert_rounded32(rounding, roots[at], root, &what("sqrt"));
            }
        }
    }
}

#[test]
fn every_rounding_of_double_precision() {
    let mut draw = Draw(12);
    let mut triples = Vec::new();
    for _ in 0..1_000 {
        let mut any = || f64::from_bits(draw.next());
        let (a, b, c) = (any(), any(), any());
        let near = |x: f64| f64::from_bits(x.to_bits() & 0x800f_ffff_ffff_ffff | 0x3ff << 52);
        let (p, q) = (near(a), near(b));
        triples.extend([
            [a, b, c],
            [p, q, -(p * q)],
            [p, q, near(c) * 1e-17],
            [p, q, near(c) * 1e17],
            [p * 1e-160, q * 1e-160, near(c) * 1e-308],
            [p * 1e154, q * 1e154, near(c) * 1e300],
            [p * 1e-308, q, f64::from_bits(c.to_bits() & 0x800f_ffff_ffff_ffff)],
        ]);
    }
    let ends = [0.0, f64::from_bits(1), f64::MIN_POSITIVE, 1.0, 3.0, f64::MAX, 1e16, 1.0 + 1e-15];
    let ends: Vec<f64> = ends.into_iter().flat_map(|x| [x, -x]).collect();
    for &a in &ends {
        for &b in &ends {
            triples.extend(ends.iter().map(|&c| [a, b, c]));
        }
    }
    triples.retain(|t| t.iter().all(|x| x.is_finite()));
    let of = |count: usize| -> Vec<Vec<u64>> {
        triples.iter().map(|t| t[..count].iter().map(|x| x.to_bits()).collect()).collect()
    };
    let (pairs, threes) = (of(2), of(3));
    for rounding in ["rz", "rm", "rp"] {
        let sums = results(&format!("add.{rounding}.f64"), &["b64"; 3], &pairs);
        let products = results(&format!("mul.{rounding}.f64"), &["b64"; 3], &pairs);
        let quotients = results(&format!("div.{rounding}.f64"), &["b64"; 3], &pairs);
        let roots = results(&format!("sqrt.{rounding}.f64"), &["b64"; 2], &of(1));
        let all = results(&format!("fma.{rounding}.f64"), &["b64"; 4], &threes);
        for (at, &[a, b, c]) in triples.iter().enumerate() {
            let assert = |bits: u64, name: &str, exact: &dyn Fn(f64) -> std::cmp::Ordering| {
                let x = f64::from_bits(bits);
                let around = [x.next_down(), x, x.next_up()];
                let what = format!("{name} of {a:e}, {b:e}, {c:e}");
                assert_rounded(rounding, around, bits & 1 == 0, 1024, exact, &what);
            };
            assert(sums[at], "add", &|x| fma(a, 1.0, b, x));
            assert(products[at], "mul", &|x| fma(a, b, 0.0, x));
            assert(all[at], "fma", &|x| fma(a, b, c, x));
            if b != 0.0 {
                assert(quotients[at], "div", &|x| quotient(a, b, x));
            }
            if a >= 0.0 {
                assert(roots[at], "sqrt", &|x| {
                    if x < 0.0 { std::cmp::Ordering::Greater } else { root(a, x) }
                });
            }
        }
    }
}

/// IEEE 754-2019, 6.3: The Sign Bit.
#[test]
fn signs_of_zeros() {
    let zeros = [0.0f32, -0.0];
    for rounding in ["rn", "rz", "rm", "rp"] {
        let down = rounding == "rm";
        let zero_of = |a: f32, b: f32| {
            let negative = if a.is_sign_negative() == b.is_sign_negative() {
                a.is_sign_negative()
            } else {
                down
            };
            if negative { -0.0f32 } else { 0.0 }
        };
        for (x, y) in [(1.5, -1.5), (-1.5, 1.5), (0.0, -0.0), (-0.0, -0.0), (0.0, 0.0f32)] {
            let expected = zero_of(x, y);
            check(&format!("add.{rounding}.f32"), &["b32"; 3], &[bits(&[x, y])], |_| {
                expected.to_bits().into()
            });
            let double = |x: f32| f64::from(x).to_bits();
            check(
                &format!("add.{rounding}.f64"),
                &["b64"; 3],
                &[vec![double(x), double(y)]],
                |_| double(expected),
            );
            for (a, b) in [(x, 1.0), (-x, -1.0)] {
                check(&format!("fma.{rounding}.f32"), &["b32"; 4], &[bits(&[a, b, y])], |_| {
                    expected.to_bits().into()
                });
                let tuple = vec![double(a), double(b), double(y)];
                check(&format!("fma.{rounding}.f64"), &["b64"; 4], &[tuple], |_| double(expected));
            }
        }
        for a in zeros {
            for b in [3.0, -3.0f32] {
                let expected = (a * b).to_bits().into();
                check(&format!("mul.{rounding}.f32"), &["b32"; 3], &[bits(&[a, b])], |_| expected);
                let expected = (f64::from(a) * f64::from(b)).to_bits();
                let tuple = [a, b].map(|x| f64::from(x).to_bits()).to_vec();
                check(&format!("mul.{rounding}.f64"), &["b64"; 3], &[tuple], |_| expected);
            }
        }
    }
}

#[test]
fn invalid_operations_give_one_nan() {
    let [inf, zero, one] = [f32::INFINITY, 0.0, 1.0f32];
    for rounding in ["rn", "rz", "rm", "rp"] {
        let nan = |name: &str, t: &[f32]| {
            let types = vec!["b32"; t.len() + 1];
            check(&format!("{name}.{rounding}.f32"), &types, &[bits(t)], |_| NAN.into());
            let types = vec!["b64"; t.len() + 1];
            let tuple = t.iter().map(|&x| f64::from(x).to_bits()).collect();
            check(&format!("{name}.{rounding}.f64"), &types, &[tuple], |_| 0xfff8 << 48);
        };
        nan("add", &[inf, -inf]);
        nan("sub", &[inf, inf]);
        nan("mul", &[inf, zero]);
        nan("fma", &[inf, one, -inf]);
        nan("fma", &[zero, inf, one]);
        nan("div", &[zero, zero]);
        nan("div", &[inf, inf]);
        nan("sqrt", &[-one]);
        nan("add", &[f32::NAN, one]);
    }
    let far = [vec![inf.to_bits().into(), 1f32.to_bits().into()]];
    check("add.rm.f32", &["b32"; 3], &far, |_| inf.to_bits().into());
    let tuple = vec![1f64.to_bits(), 0f64.to_bits()];
    check("div.rz.f64", &["b64"; 3], &[tuple], |_| f64::INFINITY.to_bits());
}

#[test]
fn pairs_of_singles() {
    let all = bits(&[1.5, -3.0, 0.1, f32::MAX, f32::MIN_POSITIVE, f32::NAN]);
    let pairs: Vec<u64> = product(&[&all, &all]).iter().map(|t| t[0] | t[1] << 32).collect();
    let halves = |t: &[u64], f: &dyn Fn(&[f32]) -> f32| {
        let of = |shift: u32| {
            let values: Vec<f32> = t.iter().map(|&x| single(x >> shift)).collect();
            canonical(f(&values))
        };
        of(0) | of(32) << 32
    };
    let twos = product(&[&pairs, &pairs]);
    check("add.rn.f32x2", &["b64"; 3], &twos, |t| halves(t, &|v| v[0] + v[1]));
    check("sub.rn.f32x2", &["b64"; 3], &twos, |t| halves(t, &|v| v[0] - v[1]));
    check("mul.rn.f32x2", &["b64"; 3], &twos, |t| halves(t, &|v| v[0] * v[1]));
    check("mul.rn.ftz.f32x2", &["b64"; 3], &twos, |t| {
        halves(t, &|v| flushed(flushed(v[0]) * flushed(v[1])))
    });
    let threes = product(&[&pairs, &pairs, &pairs[..3]]);
    check("fma.rn.f32x2", &["b64"; 4], &threes, |t| halves(t, &|v| v[0].mul_add(v[1], v[2])));
}

#[test]
fn minima_and_maxima() {
    let all = bits(&specials());
    let pairs = product(&[&all, &all]);
    // -0 lies below +0, and a NaN loses to anything.
    let key = |x: f32| {
        let bits = x.to_bits() as i32;
        if bits < 0 { !(bits & i32::MAX) } else { bits }
    };
    let pick = move |a: f32, b: f32, max: bool| {
        if a.is_nan() {
            b
        } else if b.is_nan() || (key(a) > key(b)) == max {
            a
        } else {
            b
        }
    };
    for (name, max) in [("min", false), ("max", true)] {
        check(&format!("{name}.f32"), &["b32"; 3], &pairs, |t| {
            canonical(pick(single(t[0]), single(t[1]), max))
        });
        check(&format!("{name}.ftz.f32"), &["b32"; 3], &pairs, |t| {
            canonical(pick(flushed(single(t[0])), flushed(single(t[1])), max))
        });
        check(&format!("{name}.NaN.f32"), &["b32"; 3], &pairs, |t| {
            let (a, b) = (single(t[0]), single(t[1]));
            canonical(if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, max) })
        });
        check(&format!("{name}.xorsign.abs.f32"), &["b32"; 3], &pairs, |t| {
            let (a, b) = (single(t[0]), single(t[1]));
            let magnitude = pick(a.abs(), b.abs(), max);
            let sign = if a.is_sign_negative() == b.is_sign_negative() { 1.0 } else { -1.0 };
            canonical(if magnitude.is_nan() { magnitude } else { magnitude.copysign(sign) })
        });
        let few = bits(&[0.0, -0.0, 1.0, -2.0, f32::NAN, f32::INFINITY]);
        let triples = product(&[&few, &few, &few]);
        check(&format!("{name}.f32"), &["b32"; 4], &triples, |t| {
            let [a, b, c] = [t[0], t[1], t[2]].map(single);
            canonical(pick(pick(a, b, max), c, max))
        });
        check(&format!("{name}.NaN.abs.f32"), &["b32"; 4], &triples, |t| {
            let [a, b, c] = [t[0], t[1], t[2]].map(|x| single(x).abs());
            let nan = a.is_nan() || b.is_nan() || c.is_nan();
            canonical(if nan { f32::NAN } else { pick(pick(a, b, max), c, max) })
        });
        let doubles: Vec<Vec<u64>> = pairs
            .iter()
            .map(|t| t.iter().map(|&x| f64::from(single(x)).to_bits()).collect())
            .collect();
        check(&format!("{name}.f64"), &["b64"; 3], &doubles, |t| {
            let [a, b] = [t[0], t[1]].map(|x| f64::from_bits(x) as f32);
            let picked = f64::from(pick(a, b, max));
            if picked.is_nan() { 0xfff8 << 48 } else { picked.to_bits() }
        });
    }
}

#[test]
fn signs_are_bits() {
    let all = bits(&specials());
    let ones: Vec<Vec<u64>> = all.iter().map(|&a| vec![a]).collect();
    check("abs.f32", &["b32"; 2], &ones, |t| t[0] & 0x7fff_ffff);
    check("neg.f32", &["b32"; 2], &ones, |t| t[0] ^ 0x8000_0000);
    check("abs.ftz.f32", &["b32"; 2], &ones, |t| u64::from(flushed(single(t[0])).abs().to_bits()));
    check("neg.ftz.f32", &["b32"; 2], &ones, |t| u64::from((-flushed(single(t[0]))).to_bits()));
    check("copysign.f32", &["b32"; 3], &product(&[&all, &all]), |t| {
        t[0] & 0x8000_0000 | t[1] & 0x7fff_ffff
    });
    let top = 1 << 63;
    let doubles = [0, top, 0x3ff0 << 48, 0xc008 << 48, 0x7ff8 << 48];
    let ones: Vec<Vec<u64>> = doubles.iter().map(|&a| vec![a]).collect();
    check("abs.f64", &["b64"; 2], &ones, |t| t[0] & !top);
    check("neg.f64", &["b64"; 2], &ones, |t| t[0] ^ top);
    check("copysign.f64", &["b64"; 3], &product(&[&doubles, &doubles]), |t| {
        t[0] & top | t[1] & !top
    });
}

#[test]
fn halves_are_added_to_singles() {
    let singles = bits(&specials());
    let halves = [0x0000, 0x8000, 0x3c00, 0xbe00, 0x0001, 0x7bff, 0x7c00, 0x7e00];
    let f16 = |x: u64| half::f16::from_bits(x as u16).to_f32();
    let bf16 = |x: u64| half::bf16::from_bits(x as u16).to_f32();
    let types = ["b32", "b16", "b32"];
    let pairs = product(&[&halves, &singles]);
    check("add.f32.f16", &types, &pairs, |t| canonical(f16(t[0]) + single(t[1])));
    check("sub.rn.f32.bf16", &types, &pairs, |t| canonical(bf16(t[0]) - single(t[1])));
    let triples = product(&[&halves, &halves, &singles]);
    check("fma.rn.sat.f32.f16", &["b32", "b16", "b16", "b32"], &triples, |t| {
        canonical(saturated(f16(t[0]).mul_add(f16(t[1]), single(t[2]))))
    });
}

/// The best case: to the nearest, but for an input in some millions.
#[test]
fn approximations_are_close() {
    let mut draw = Draw(5);
    let mut inputs: Vec<f32> = specials();
    inputs.extend((0..5_000).map(|_| f32::from_bits(draw.next() as u32)));
    inputs.extend((0..5_000).map(|_| (draw.next() as i32 as f32) * 1e-8));
    inputs.extend((-150..=128).map(|n| n as f32));
    let tuples: Vec<Vec<u64>> = inputs.iter().map(|x| vec![x.to_bits().into()]).collect();
    type One = fn(f64) -> f64;
    let functions: [(&str, One); 8] = [
        ("rcp", |x| 1.0 / x),
        ("sqrt", f64::sqrt),
        ("rsqrt", |x| 1.0 / x.sqrt()),
        ("sin", f64::sin),
        ("cos", f64::cos),
        ("lg2", f64::log2),
        ("ex2", f64::exp2),
        ("tanh", f64::tanh),
    ];
    for (name, f) in functions {
        check(&format!("{name}.approx.f32"), &["b32"; 2], &tuples, |t| {
            canonical(f(f64::from(single(t[0]))) as f32)
        });
        if name == "tanh" {
            continue;
        }
        check(&format!("{name}.approx.ftz.f32"), &["b32"; 2], &tuples, |t| {
            canonical(flushed(f(f64::from(flushed(single(t[0])))) as f32))
        });
    }
    let pairs = product(&[&bits(&specials()), &bits(&specials())]);
    check("div.full.f32", &["b32"; 3], &pairs, |t| canonical(single(t[0]) / single(t[1])));
    let limit = 2f32.powi(126);
    check("div.approx.f32", &["b32"; 3], &pairs, |t| {
        let (a, b) = (single(t[0]), single(t[1]));
        let vast = b.abs() > limit && b.is_finite();
        canonical(if vast { a * 0f32.copysign(b) } else { a / b })
    });
}

#[test]
fn gross_approximations_of_double_precision() {
    let mut draw = Draw(6);
    let mut tuples: Vec<Vec<u64>> = [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY]
        .iter()
        .map(|x: &f64| vec![x.to_bits()])
        .collect();
    tuples.push(vec![1]);
    let exact = tuples.len();
    tuples.extend((0..3000).map(|_| vec![draw.next()]));
    for (name, f) in [("rcp", (|x| 1.0 / x) as fn(f64) -> f64), ("rsqrt", |x: f64| 1.0 / x.sqrt())]
    {
        let results = results(&format!("{name}.approx.ftz.f64"), &["b64"; 2], &tuples);
        for (at, (tuple, result)) in tuples.iter().zip(results).enumerate() {
            assert_eq!(result & 0xffff_ffff, 0);
            let x = f64::from_bits(tuple[0]);
            let x = if x.is_subnormal() { 0f64.copysign(x) } else { x };
            let (expected, result) = (f(x), f64::from_bits(result));
            if expected.is_nan() {
                assert!(result.is_nan());
            } else if at < exact || !expected.is_normal() {
                assert!(result == expected || result == 0.0, "{name} of {x:e} is {result:e}");
                assert_eq!(result.is_sign_negative(), expected.is_sign_negative());
            } else {
                assert!((result / expected - 1.0).abs() < 2e-6, "{name} of {x:e} is {result:e}");
            }
        }
    }
    let root = |t: &[u64]| {
        let x = 1.0 / f64::from_bits(t[0]).sqrt();
        if x.is_nan() { 0xfff8 << 48 } else { x.to_bits() }
    };
    check("rsqrt.approx.f64", &["b64"; 2], &tuples, root);
}
