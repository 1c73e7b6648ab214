//! Arithmetic of f16 and bf16, exactly rounded.

use half::{bf16, f16};

use super::exact::{assert_rounded, fma};
use super::{Draw, check, product, results};

/// What is tested of a format.
trait Format: Copy {
    const NAME: &str;
    /// The power of two behind the largest number.
    const TOP: i32;
    fn of(bits: u64) -> Self;
    fn value(self) -> f64;
    /// Rounded, though not always right.
    fn close(x: f64) -> u64;

    /// Rounded to nearest even.
    fn nearest(x: f64) -> u64 {
        let close = Self::close(x);
        if x == 0.0 || !Self::of(close).value().is_finite() {
            return close;
        }
        let away = |bits: &u64| (Self::of(*bits).value() - x).abs();
        [close.wrapping_sub(1) & 0xffff, close, close + 1]
            .into_iter()
            .filter(|bits| away(bits).is_finite() && (bits ^ close) & 0x8000 == 0)
            .min_by(|a, b| away(a).total_cmp(&away(b)).then((a & 1).cmp(&(b & 1))))
            .unwrap()
    }
}

macro_rules! formats {
    ($($format:ident $top:literal)*) => {$(
        impl Format for $format {
            const NAME: &str = stringify!($format);
            const TOP: i32 = $top;

            fn of(bits: u64) -> Self {
                Self::from_bits(bits as u16)
            }

            fn value(self) -> f64 {
                self.to_f64()
            }

            fn close(x: f64) -> u64 {
                Self::from_f64(x).to_bits().into()
            }
        }
    )*};
}

formats! { f16 16 bf16 128 }

/// By the bits of a finite number: those of its neighbours, and infinity behind the largest.
fn neighbours<F: Format>(bits: u64) -> [f64; 3] {
    let value = |bits: u64| F::of(bits).value();
    let (up, down) = match bits {
        0 | 0x8000 => (1, 0x8001),
        1..0x8000 => (bits + 1, bits - 1),
        _ => (bits - 1, bits + 1),
    };
    let is_infinite = value(bits).is_infinite();
    let [below, above] = [down, up].map(|bits| {
        let x = value(bits);
        if x.is_nan() || is_infinite && x.is_infinite() { value(bits & !1) } else { x }
    });
    [below, value(bits), above]
}

/// Triples of numbers: any, and such that sums cancel or end near a half of the last place.
fn triples<F: Format>() -> Vec<Vec<u64>> {
    let mut draw = Draw(21);
    let mut triples = Vec::new();
    for _ in 0..8_000 {
        let mut any = || draw.next() & 0xffff;
        let (a, b, c) = (any(), any(), any());
        let one = F::nearest(1.0);
        let near = |x: u64| x & 0x8000 | one | x & 0x7f;
        let (p, q) = (F::of(near(a)).value(), F::of(near(b)).value());
        triples.extend([
            vec![a, b, c],
            vec![near(a), near(b), F::nearest(-p * q)],
            vec![near(a), near(b), c & 0x80ff],
            vec![a & 0x83ff, near(b), c & 0x83ff],
            vec![near(a), one, (c & 0x8000) | (a & 0x7f)],
        ]);
    }
    let ends = [0, 1, 0x3ff, 0x7f, 0x80, 0x400, 0x3c00, 0x3f80, 0x7bff, 0x7f7f];
    let ends: Vec<u64> = ends.into_iter().flat_map(|x| [x, x | 0x8000]).collect();
    triples.extend(product(&[&ends, &ends, &ends]));
    triples.retain(|t| t.iter().all(|&x| F::of(x).value().is_finite()));
    triples
}

fn rounded_once<F: Format>() {
    let triples = triples::<F>();
    let pairs: Vec<Vec<u64>> = triples.iter().map(|t| t[..2].to_vec()).collect();
    let name = F::NAME;
    let sums = results(&format!("add.{name}"), &["b16"; 3], &pairs);
    let differences = results(&format!("sub.rn.{name}"), &["b16"; 3], &pairs);
    let products = results(&format!("mul.rn.{name}"), &["b16"; 3], &pairs);
    let all = results(&format!("fma.rn.{name}"), &["b16"; 4], &triples);
    for (at, t) in triples.iter().enumerate() {
        let [a, b, c] = [t[0], t[1], t[2]].map(|x| F::of(x).value());
        let assert = |op: &str, bits: u64, x: f64, y: f64, z: f64| {
            let what = format!("{op}.{name} of {t:x?}");
            let even = bits & 1 == 0;
            let exact = |r| fma(x, y, z, r);
            assert_rounded("rn", neighbours::<F>(bits), even, F::TOP, exact, &what);
        };
        assert("add", sums[at], a, 1.0, b);
        assert("sub", differences[at], a, 1.0, -b);
        assert("mul", products[at], a, b, 0.0);
        assert("fma", all[at], a, b, c);
    }
}

#[test]
fn results_are_rounded_once() {
    rounded_once::<f16>();
    rounded_once::<bf16>();
}

/// Single operations of both formats on numbers of every kind: what modifiers make of the result.
fn finished<F: Format>(subnormal: impl Fn(u64) -> bool + Copy) {
    let name = F::NAME;
    let ends = [0, 1, 0x7f, 0x400, 0x3c00, 0x3f80, 0x3e00, 0x7bff, 0x7c00, 0x7f80, 0x7fff, 0x7e01];
    let ends: Vec<u64> = ends.into_iter().flat_map(|x| [x, x | 0x8000]).collect();
    let pairs = product(&[&ends, &ends]);
    let triples = product(&[&ends, &ends, &ends]);
    let words: Vec<u64> = pairs.iter().map(|t| t[0] | t[1] << 16).step_by(7).collect();
    let plain = |op: &str, tuple: &[u64]| -> u64 {
        let types = vec!["b16"; tuple.len() + 1];
        results(&format!("{op}.rn.{name}"), &types, &[tuple.to_vec()])[0]
    };
    let flush = |x: u64| if subnormal(x) { x & 0x8000 } else { x };
    let relu = |x: u64| if F::of(x).value() <= 0.0 && x & 0x8000 != 0 { 0 } else { x };
    let saturate = |x: u64| {
        let value = F::of(x).value();
        if value > 0.0 { F::nearest(value.min(1.0)) } else { 0 }
    };
    let is_nan = |x: u64| F::of(x).value().is_nan();
    let is_f16 = name == "f16";
    let quick = &triples[..triples.len().min(4000)];
    check(&format!("fma.rn.relu.{name}"), &["b16"; 4], quick, |t| relu(plain("fma", t)));
    for (op, tuples) in [("add", &pairs), ("sub", &pairs), ("mul", &pairs)] {
        for t in tuples {
            let result = plain(op, t);
            assert!(!is_nan(result) || result == 0x7fff, "{op}.{name} of {t:x?}: {result:x}");
        }
        if is_f16 {
            check(&format!("{op}.ftz.f16"), &["b16"; 3], tuples, |t| {
                flush(plain(op, &[flush(t[0]), flush(t[1])]))
            });
            check(&format!("{op}.sat.f16"), &["b16"; 3], tuples, |t| saturate(plain(op, t)));
        }
        check(&format!("{op}.{name}x2"), &["b32"; 3], &product(&[&words, &words]), |t| {
            let [low, high] =
                [0, 16].map(|by| plain(op, &[t[0] >> by & 0xffff, t[1] >> by & 0xffff]));
            low | high << 16
        });
    }
    check(
        &format!("fma.rn.{name}x2"),
        &["b32"; 4],
        &product(&[&words[..20], &words[..9], &words]),
        |t| {
            let [low, high] = [0, 16].map(|by| {
                plain("fma", &[t[0] >> by & 0xffff, t[1] >> by & 0xffff, t[2] >> by & 0xffff])
            });
            low | high << 16
        },
    );
    let ones: Vec<Vec<u64>> = ends.iter().map(|&x| vec![x]).collect();
    check(&format!("neg.{name}"), &["b16"; 2], &ones, |t| t[0] ^ 0x8000);
    check(&format!("abs.{name}"), &["b16"; 2], &ones, |t| t[0] & 0x7fff);
    check(&format!("neg.{name}x2"), &["b32"; 2], &[vec![0x1234_8001]], |_| 0x9234_0001);
    check(&format!("abs.{name}x2"), &["b32"; 2], &[vec![0x9234_8001]], |_| 0x1234_0001);
    let order = |x: u64| if x & 0x8000 == 0 { x as i64 } else { -1 - (x & 0x7fff) as i64 };
    for (op, max) in [("min", false), ("max", true)] {
        let pick = |a: u64, b: u64| match (is_nan(a), is_nan(b)) {
            (true, true) => 0x7fff,
            (true, false) => b,
            (false, true) => a,
            _ => {
                if (order(a) > order(b)) == max {
                    a
                } else {
                    b
                }
            }
        };
        check(&format!("{op}.{name}"), &["b16"; 3], &pairs, |t| pick(t[0], t[1]));
        check(&format!("{op}.NaN.{name}"), &["b16"; 3], &pairs, |t| {
            if is_nan(t[0]) || is_nan(t[1]) { 0x7fff } else { pick(t[0], t[1]) }
        });
        check(&format!("{op}.xorsign.abs.{name}"), &["b16"; 3], &pairs, |t| {
            let magnitude = pick(t[0] & 0x7fff, t[1] & 0x7fff);
            if is_nan(magnitude) { magnitude } else { magnitude | (t[0] ^ t[1]) & 0x8000 }
        });
        if is_f16 {
            check(&format!("{op}.ftz.f16"), &["b16"; 3], &pairs, |t| {
                pick(flush(t[0]), flush(t[1]))
            });
        }
        check(&format!("{op}.{name}x2"), &["b32"; 3], &product(&[&words, &words]), |t| {
            pick(t[0] & 0xffff, t[1] & 0xffff) | pick(t[0] >> 16, t[1] >> 16) << 16
        });
    }
}

#[test]
fn modifiers_and_pairs() {
    finished::<f16>(|x| x & 0x7c00 == 0);
    finished::<bf16>(|x| x & 0x7f80 == 0);
}

#[test]
fn approximations_of_every_number() {
    let all: Vec<Vec<u64>> = (0..0x1_0000).map(|x| vec![x]).collect();
    fn nearest<F: Format>(f: fn(f64) -> f64) -> impl Fn(&[u64]) -> u64 {
        move |t| {
            let exact = f(F::of(t[0]).value());
            if exact.is_nan() { 0x7fff } else { F::nearest(exact) }
        }
    }
    check("tanh.approx.f16", &["b16"; 2], &all, nearest::<f16>(f64::tanh));
    check("tanh.approx.bf16", &["b16"; 2], &all, nearest::<bf16>(f64::tanh));
    check("ex2.approx.f16", &["b16"; 2], &all, nearest::<f16>(f64::exp2));
    let flushed = |x: u64| if x & 0x7f80 == 0 { x & 0x8000 } else { x };
    check("ex2.approx.ftz.bf16", &["b16"; 2], &all, |t| {
        flushed(nearest::<bf16>(f64::exp2)(&[flushed(t[0])]))
    });
    check("ex2.approx.f16x2", &["b32"; 2], &[vec![0x3c00_c000]], |_| 0x4000_3400);
    check("tanh.approx.f16x2", &["b32"; 2], &[vec![0x7c00_8000]], |_| 0x3c00_8000);
}
