//! `cvt`, over all values where there are few.

use half::{bf16, f16};

use crate::ptx::ast::Operand;

use super::exact::{Sum, assert_rounded};
use super::{Bench, Draw, FULL, check, integers, product, results};

const INTEGERS: [&str; 8] = ["u8", "s8", "u16", "s16", "u32", "s32", "u64", "s64"];

fn width(kind: &str) -> u32 {
    kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
}

/// The register that a type is kept in, if not a wider one.
fn register(kind: &str) -> &'static str {
    match width(kind) {
        8 | 16 => "b16",
        32 => "b32",
        _ => "b64",
    }
}

fn value(kind: &str, bits: u64) -> i128 {
    let width = width(kind);
    let bits = i128::from(bits) & ((1 << width) - 1);
    if kind.starts_with('s') && bits >> (width - 1) != 0 { bits - (1 << width) } else { bits }
}

/// A number in a register of this many bits, as its type extends it.
fn within(register: u32, kind: &str, value: i128) -> u64 {
    let low = value & ((1 << width(kind)) - 1);
    (self::value(kind, low as u64) & ((1 << register) - 1)) as u64
}

fn range(kind: &str) -> (i128, i128) {
    let bits = width(kind);
    if kind.starts_with('s') {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

#[test]
fn between_integers_in_registers_of_every_width() {
    for from in INTEGERS {
        for to in INTEGERS {
            for source in ["b16", "b32", "b64"] {
                for target in ["b16", "b32", "b64"] {
                    if width(source) < width(from) || width(target) < width(to) {
                        continue;
                    }
                    let all: Vec<Vec<u64>> =
                        integers(width(source)).iter().map(|&x| vec![x]).collect();
                    check(&format!("cvt.{to}.{from}"), &[target, source], &all, |t| {
                        within(width(target), to, value(from, t[0]))
                    });
                    let ((least, most), ends) = (range(to), range(from));
                    if least <= ends.0 && ends.1 <= most {
                        continue;
                    }
                    check(&format!("cvt.sat.{to}.{from}"), &[target, source], &all, |t| {
                        within(width(target), to, value(from, t[0]).clamp(least, most))
                    });
                }
            }
        }
    }
}

/// Numbers with fractions, near the ends of integer ranges, and special ones.
fn reals() -> Vec<f64> {
    let mut reals = vec![0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 1e-300, 1e10, 1e30, f64::NAN];
    reals.push(f64::INFINITY);
    for power in [7, 8, 15, 16, 31, 32, 63, 64] {
        let end = f64::from(power).exp2();
        reals.extend([end, end - 0.5, end - 1.0, end - 0.25, end + 0.5, end.next_down()]);
    }
    let mut draw = Draw(31);
    reals.extend((0..200).map(|_| draw.next() as i32 as f64 / 8.0));
    reals.into_iter().flat_map(|x| [x, -x]).collect()
}

#[test]
fn reals_to_integers() {
    for (rounding, f) in [
        ("rni", f64::round_ties_even as fn(f64) -> f64),
        ("rzi", f64::trunc),
        ("rmi", f64::floor),
        ("rpi", f64::ceil),
    ] {
        for to in INTEGERS {
            let expected = |x: f64, long: bool| {
                if x.is_nan() {
                    let top = 1i128 << (width(to) - 1);
                    return if long || width(to) == 64 { top } else { 0 };
                }
                let (least, most) = range(to);
                (f(x) as i128).clamp(least, most)
            };
            let bits = width(register(to));
            let doubles: Vec<Vec<u64>> = reals().iter().map(|x| vec![x.to_bits()]).collect();
            check(&format!("cvt.{rounding}.{to}.f64"), &[register(to), "b64"], &doubles, |t| {
                within(bits, to, expected(f64::from_bits(t[0]), true))
            });
            let singles: Vec<Vec<u64>> =
                reals().iter().map(|&x| vec![(x as f32).to_bits().into()]).collect();
            for flags in ["", ".ftz", ".sat"] {
                let op = format!("cvt.{rounding}{flags}.{to}.f32");
                check(&op, &[register(to), "b32"], &singles, |t| {
                    let x = f32::from_bits(t[0] as u32);
                    let x = if flags == ".ftz" && x.is_subnormal() { 0.0 } else { x };
                    within(bits, to, expected(x.into(), false))
                });
            }
            let all: Vec<Vec<u64>> = (0..0x1_0000).map(|x| vec![x]).collect();
            check(&format!("cvt.{rounding}.{to}.f16"), &[register(to), "b16"], &all, |t| {
                within(bits, to, expected(f16::from_bits(t[0] as u16).into(), false))
            });
            if width(to) > 8 {
                check(&format!("cvt.{rounding}.{to}.bf16"), &[register(to), "b16"], &all, |t| {
                    within(bits, to, expected(bf16::from_bits(t[0] as u16).into(), false))
                });
            }
        }
    }
}

/// A format, with the exponent behind its largest number.
struct Format {
    name: &'static str,
    bits: u32,
    top: i32,
    value: fn(u64) -> f64,
}

const FORMATS: [Format; 4] = [
    Format { name: "f16", bits: 16, top: 16, value: |x| f16::from_bits(x as u16).into() },
    Format { name: "bf16", bits: 16, top: 128, value: |x| bf16::from_bits(x as u16).into() },
    Format { name: "f32", bits: 32, top: 128, value: |x| f32::from_bits(x as u32).into() },
    Format { name: "f64", bits: 64, top: 1024, value: f64::from_bits },
];

impl Format {
    fn register(&self) -> &'static str {
        match self.bits {
            16 => "b16",
            32 => "b32",
            _ => "b64",
        }
    }

    fn around(&self, bits: u64) -> [f64; 3] {
        let sign = 1 << (self.bits - 1);
        let (down, up) = match bits {
            _ if bits & !sign == 0 => (sign | 1, 1),
            _ if bits & sign == 0 => (bits - 1, bits + 1),
            _ => (bits + 1, bits - 1),
        };
        [down, bits, up].map(|bits| {
            let value = (self.value)(bits);
            // Behind infinity.
            if value.is_nan() { f64::INFINITY } else { value }
        })
    }

    fn assert(&self, rounding: &str, bits: u64, integer: i128, exponent: i32, what: &str) {
        let exact = |x: f64| {
            let mut sum = Sum::default();
            sum.add(integer, exponent);
            sum.add_product(-x, 1.0);
            sum.sign()
        };
        assert_rounded(rounding, self.around(bits), bits & 1 == 0, self.top, exact, what);
    }
}

#[test]
fn integers_to_reals() {
    for format in &FORMATS {
        for from in INTEGERS {
            if format.name == "bf16" && width(from) == 8 {
                continue;
            }
            let bits = width(from).max(16);
            let mut inputs = integers(bits);
            // Halves of the last place, and what is next to them.
            for power in [11, 24, 25, 31, 53, 54, 63] {
                for odd in [1u64, 3] {
                    let half = 1u64.checked_shl(power).unwrap_or(0).wrapping_add(odd);
                    inputs.extend([half, half << 1, (half << 1) + 1, (half << 1) - 1, half << 9]);
                }
            }
            inputs.extend([65_504, 65_519, 65_520, 65_521, 65_535, 65_536]);
            let mask = u64::MAX >> (64 - bits);
            let all: Vec<Vec<u64>> = inputs.iter().map(|&x| vec![x & mask]).collect();
            for rounding in ["rn", "rz", "rm", "rp"] {
                let op = format!("cvt.{rounding}.{}.{from}", format.name);
                let types = [format.register(), register(from)];
                for (t, bits) in all.iter().zip(results(&op, &types, &all)) {
                    let integer = value(from, t[0]);
                    if rounding == "rn" && format.name == "f64" {
                        assert_eq!(bits, (integer as f64).to_bits(), "{op} of {integer}");
                        continue;
                    }
                    format.assert(rounding, bits, integer, 0, &format!("{op} of {integer}"));
                }
            }
        }
    }
    let all: Vec<Vec<u64>> = integers(32).iter().map(|&x| vec![x]).collect();
    check("cvt.rn.sat.f32.s32", &["b32"; 2], &all, |t| {
        u64::from((t[0] as i32 as f32).clamp(0.0, 1.0).to_bits())
    });
}

#[test]
fn wider_formats_hold_all_of_narrower_ones() {
    let all: Vec<Vec<u64>> = (0..0x1_0000).map(|x| vec![x]).collect();
    let single = |x: f32| u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() });
    let double = |x: f64| if x.is_nan() { 0xfff8 << 48 } else { x.to_bits() };
    let half = |t: &[u64]| f16::from_bits(t[0] as u16);
    let brain = |t: &[u64]| bf16::from_bits(t[0] as u16);
    check("cvt.f32.f16", &["b32", "b16"], &all, |t| single(half(t).into()));
    check("cvt.ftz.f32.f16", &["b32", "b16"], &all, |t| single(half(t).into()));
    check("cvt.f32.bf16", &["b32", "b16"], &all, |t| single(brain(t).into()));
    check("cvt.f64.f16", &["b64", "b16"], &all, |t| double(half(t).into()));
    check("cvt.f64.bf16", &["b64", "b16"], &all, |t| double(brain(t).into()));
    check("cvt.sat.f32.f16", &["b32", "b16"], &all, |t| {
        let x: f32 = half(t).into();
        single(if x > 0.0 { x.min(1.0) } else { 0.0 })
    });
    check("cvt.rn.bf16.f16", &["b16", "b16"], &all, |t| {
        let x = half(t);
        u64::from(if x.is_nan() { 0x7fff } else { bf16::from_f32(x.into()).to_bits() })
    });
    check("cvt.rn.f16.bf16", &["b16", "b16"], &all, |t| {
        let x = brain(t);
        u64::from(if x.is_nan() { 0x7fff } else { f16::from_f32(x.into()).to_bits() })
    });
    let mut draw = Draw(33);
    let words: Vec<Vec<u64>> = (0..5000).map(|_| vec![draw.next() >> 32]).collect();
    let real = |t: &[u64]| f64::from(f32::from_bits(t[0] as u32));
    check("cvt.f64.f32", &["b64", "b32"], &words, |t| double(real(t)));
    check("cvt.f64.f32", &["b64", "b32"], &[vec![1]], |_| double((-149f64).exp2()));
    check("cvt.ftz.f64.f32", &["b64", "b32"], &[vec![0x8000_0001]], |_| 1 << 63);
}

/// Singles at and around every fifth number of a format of 16 bits, and the halves behind them.
fn around(value: fn(u64) -> f64) -> Vec<Vec<u64>> {
    let mut inputs = Vec::new();
    for bits in (0..0xffff).step_by(5) {
        let (low, high) = (value(bits) as f32, value(bits + 1) as f32);
        let middle = low / 2.0 + high / 2.0;
        for x in [low, middle] {
            inputs.extend([x.next_down(), x, x.next_up()]);
        }
    }
    inputs.retain(|x| x.is_finite());
    inputs.iter().map(|x| vec![x.to_bits().into()]).collect()
}

#[test]
fn singles_to_halves() {
    for format in &FORMATS[..2] {
        let inputs = around(format.value);
        for rounding in ["rn", "rz", "rm", "rp"] {
            let op = format!("cvt.{rounding}.{}.f32", format.name);
            for (t, bits) in inputs.iter().zip(results(&op, &["b16", "b32"], &inputs)) {
                let x = f32::from_bits(t[0] as u32);
                let (integer, exponent) = parts(x.into());
                format.assert(rounding, bits, integer, exponent, &format!("{op} of {x:e}"));
            }
        }
    }
    for (op, infinity) in [("cvt.rz.f16.f32", 0x7c00), ("cvt.rp.bf16.f32", 0x7f80)] {
        let ends = [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN, 0.0, -0.0];
        let ends = ends.map(|x| vec![x.to_bits().into()]);
        let expected = [infinity, infinity | 0x8000, 0x7fff, 0x7fff, 0, 0x8000];
        assert_eq!(results(op, &["b16", "b32"], &ends), expected);
    }
}

fn parts(x: f64) -> (i128, i32) {
    let bits = x.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as i32;
    let fraction = i128::from(bits & ((1 << 52) - 1)) | i128::from(exponent != 0) << 52;
    (if x < 0.0 { -fraction } else { fraction }, exponent.max(1) - 1075)
}

#[test]
fn doubles_to_narrower_formats() {
    let mut draw = Draw(34);
    for format in &FORMATS[..3] {
        let mut inputs = Vec::new();
        for _ in 0..5_000 {
            // A half of the last place, or next to it by as little as a double can be.
            let bits = draw.next() & ((1 << (format.bits - 1)) - 2);
            let (low, high) = ((format.value)(bits), (format.value)(bits + 1));
            let middle = low / 2.0 + high / 2.0;
            inputs.extend([middle, middle.next_up(), -middle.next_down(), low.next_up()]);
        }
        inputs.extend([1e-300, -1e-300, 1e300, f64::MAX, -f64::MAX, f64::from_bits(1)]);
        inputs.retain(|x| x.is_finite());
        let tuples: Vec<Vec<u64>> = inputs.iter().map(|x| vec![x.to_bits()]).collect();
        for rounding in ["rn", "rz", "rm", "rp"] {
            let op = format!("cvt.{rounding}.{}.f64", format.name);
            let results = results(&op, &[format.register(), "b64"], &tuples);
            for (x, bits) in inputs.iter().zip(results) {
                let (integer, exponent) = parts(*x);
                format.assert(rounding, bits, integer, exponent, &format!("{op} of {x:e}"));
            }
        }
    }
}

#[test]
fn integers_within_a_format() {
    for (rounding, f) in [
        ("rni", f64::round_ties_even as fn(f64) -> f64),
        ("rzi", f64::trunc),
        ("rmi", f64::floor),
        ("rpi", f64::ceil),
    ] {
        let doubles: Vec<Vec<u64>> = reals().iter().map(|x| vec![x.to_bits()]).collect();
        check(&format!("cvt.{rounding}.f64.f64"), &["b64"; 2], &doubles, |t| {
            let x = f(f64::from_bits(t[0]));
            if x.is_nan() { 0xfff8 << 48 } else { x.to_bits() }
        });
        let singles: Vec<Vec<u64>> =
            reals().iter().map(|&x| vec![(x as f32).to_bits().into()]).collect();
        check(&format!("cvt.{rounding}.f32.f32"), &["b32"; 2], &singles, |t| {
            let x = f(f32::from_bits(t[0] as u32).into()) as f32;
            u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
        });
        let all: Vec<Vec<u64>> = (0..0x1_0000).map(|x| vec![x]).collect();
        check(&format!("cvt.{rounding}.f16.f16"), &["b16"; 2], &all, |t| {
            let x = f16::from_f64(f(f16::from_bits(t[0] as u16).into()));
            u64::from(if x.is_nan() { 0x7fff } else { x.to_bits() })
        });
    }
}

#[test]
fn saturation_and_flushing() {
    let inputs = [0.0f32, -0.0, 0.5, 1.0, 1.5, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let mut tuples: Vec<Vec<u64>> = inputs.iter().map(|x| vec![x.to_bits().into()]).collect();
    tuples.extend([vec![1], vec![0x8000_0001], vec![0x007f_ffff]]);
    let saturated = |x: f32| if x > 0.0 { x.min(1.0) } else { 0.0 };
    let flushed = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    let single = |t: &[u64]| f32::from_bits(t[0] as u32);
    let bits = |x: f32| u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() });
    check("cvt.sat.f32.f32", &["b32"; 2], &tuples, |t| bits(saturated(single(t))));
    check("cvt.ftz.f32.f32", &["b32"; 2], &tuples, |t| bits(flushed(single(t))));
    check("cvt.ftz.sat.f32.f32", &["b32"; 2], &tuples, |t| bits(saturated(flushed(single(t)))));
    check("cvt.rn.sat.f16.f32", &["b16", "b32"], &tuples, |t| {
        f16::from_f32(saturated(single(t))).to_bits().into()
    });
    check("cvt.rn.relu.f16.f32", &["b16", "b32"], &tuples, |t| {
        let x = single(t);
        if x.is_nan() { 0x7fff } else { f16::from_f32(x.max(0.0) + 0.0).to_bits().into() }
    });
    check("cvt.rn.satfinite.bf16.f32", &["b16", "b32"], &tuples, |t| {
        let x = single(t);
        let finite = x.clamp(-3.389_531_4e38, 3.389_531_4e38);
        if x.is_nan() { 0x7fff } else { bf16::from_f32(finite).to_bits().into() }
    });
    let doubles: Vec<Vec<u64>> = inputs.iter().map(|&x| vec![f64::from(x).to_bits()]).collect();
    check("cvt.sat.f64.f64", &["b64"; 2], &doubles, |t| {
        let x = f64::from_bits(t[0]);
        if x > 0.0 { x.min(1.0).to_bits() } else { 0 }
    });
    // A result that does not fill its register has zeros above.
    check("cvt.rn.f16.f32", &["b32", "b32"], &[vec![0xbf80_0000]], |_| 0xbc00);
}

#[test]
fn pairs_of_halves() {
    let inputs = [1.0f32, -2.5, 1e9, -1e9, f32::NAN, 1e-9, -0.0, f32::NEG_INFINITY, 1.0006, 3.3e38];
    let all: Vec<u64> = inputs.iter().map(|x| x.to_bits().into()).collect();
    for format in ["f16", "bf16"] {
        for rounding in ["rn", "rz"] {
            for flags in ["", ".relu", ".satfinite"] {
                let one = format!("cvt.{rounding}{flags}.{format}.f32");
                let single = |x: u64| results(&one, &["b16", "b32"], &[vec![x]])[0];
                let pair = format!("cvt.{rounding}{flags}.{format}x2.f32");
                check(&pair, &["b32"; 3], &product(&[&all, &all]), |t| {
                    single(t[0]) << 16 | single(t[1])
                });
            }
        }
    }
}

/// What a code of a format stands for, as the format is defined; NaN for those that are none.
fn meaning(code: u64, exponent_bits: u32, fraction_bits: u32) -> f64 {
    let magnitude = code & ((1 << (exponent_bits + fraction_bits)) - 1);
    let sign = if code >> (exponent_bits + fraction_bits) & 1 != 0 { -1.0 } else { 1.0 };
    let bias = (1 << (exponent_bits - 1)) - 1;
    let exponent = (magnitude >> fraction_bits) as i32;
    let fraction = (magnitude & ((1 << fraction_bits) - 1)) as f64 / (1 << fraction_bits) as f64;
    let number = if exponent == 0 {
        fraction * f64::from(1 - bias).exp2()
    } else {
        (1.0 + fraction) * f64::from(exponent - bias).exp2()
    };
    sign * match (exponent_bits, fraction_bits) {
        (4, 3) if magnitude == 0x7f => f64::NAN,
        (5, 2) if exponent == 31 => {
            if fraction == 0.0 {
                f64::INFINITY
            } else {
                f64::NAN
            }
        }
        _ => number,
    }
}

const SMALL: [(&str, u32, u32); 5] =
    [("e4m3x2", 4, 3), ("e5m2x2", 5, 2), ("e2m3x2", 2, 3), ("e3m2x2", 3, 2), ("e2m1x2", 2, 1)];

#[test]
fn small_formats_to_halves() {
    for (name, exponent, fraction) in SMALL {
        let bits = if name == "e2m1x2" { 4 } else { 8 };
        let all: Vec<Vec<u64>> = (0..1 << (2 * bits)).map(|x| vec![x]).collect();
        let half = |x: f64| u64::from(if x.is_nan() { 0x7fff } else { f16::from_f64(x).to_bits() });
        let codes = |t: &[u64]| {
            [t[0] >> bits, t[0] & ((1 << bits) - 1)].map(|x| meaning(x, exponent, fraction))
        };
        check(&format!("cvt.rn.f16x2.{name}"), &["b32", "b16"], &all, |t| {
            let [high, low] = codes(t).map(half);
            high << 16 | low
        });
        check(&format!("cvt.rn.relu.f16x2.{name}"), &["b32", "b16"], &all, |t| {
            let [high, low] = codes(t).map(|x| if x <= 0.0 { 0 } else { half(x) });
            high << 16 | low
        });
    }
}

/// The nearest code by trying all of them, of two the even one, and none beyond the largest.
fn nearest(x: f64, exponent: u32, fraction: u32) -> u64 {
    let codes = 1 << (exponent + fraction);
    let finite: Vec<f64> = (0..codes)
        .map(|code| meaning(code, exponent, fraction))
        .take_while(|number| number.is_finite())
        .collect();
    let magnitude = x.abs().min(*finite.last().unwrap());
    let mut best = 0;
    for (code, number) in finite.iter().enumerate() {
        let (distance, least) = ((number - magnitude).abs(), (finite[best] - magnitude).abs());
        if distance < least || distance == least && code % 2 == 0 {
            best = code;
        }
    }
    let sign = u64::from(x.is_sign_negative()) << (exponent + fraction);
    if x.is_nan() { codes - 1 } else { best as u64 | sign }
}

#[test]
fn halves_and_singles_to_small_formats() {
    for (name, exponent, fraction) in SMALL {
        let (bits, target) = (if name == "e2m1x2" { 4 } else { 8 }, "b16");
        let codes: Vec<u64> = (0..0x1_0000)
            .map(|x| nearest(f16::from_bits(x as u16).into(), exponent, fraction))
            .collect();
        let positive = |code: u64| if code >> (exponent + fraction) & 1 != 0 { 0 } else { code };
        let all: Vec<Vec<u64>> =
            (0..0x1_0000).map(|x| vec![x | ((x * 40_503) & 0xffff) << 16]).collect();
        check(&format!("cvt.rn.satfinite.{name}.f16x2"), &[target, "b32"], &all, |t| {
            codes[t[0] as usize >> 16] << bits | codes[t[0] as usize & 0xffff]
        });
        check(&format!("cvt.rn.satfinite.relu.{name}.f16x2"), &[target, "b32"], &all, |t| {
            let [high, low] = [t[0] >> 16, t[0] & 0xffff].map(|x| positive(codes[x as usize]));
            high << bits | low
        });
        // Every half between two codes, and the singles next to it.
        let mut inputs: Vec<f32> = vec![f32::NAN, f32::INFINITY, 1e30, -1e30, 1e-30, -0.0];
        for code in 0..1 << (exponent + fraction + 1) {
            let [low, high] = [code, code + 1].map(|code| meaning(code, exponent, fraction) as f32);
            let middle = (low + high) / 2.0;
            inputs.extend([low, middle, middle.next_up(), middle.next_down()]);
        }
        let tuples: Vec<Vec<u64>> = inputs
            .iter()
            .zip(inputs.iter().rev())
            .map(|(a, b)| vec![a.to_bits().into(), b.to_bits().into()])
            .collect();
        let code = |x: u64| nearest(f32::from_bits(x as u32).into(), exponent, fraction);
        let op = format!("cvt.rn.satfinite.{name}.f32");
        check(&op, &[target, "b32", "b32"], &tuples, |t| code(t[0]) << bits | code(t[1]));
        let op = format!("cvt.rn.satfinite.relu.{name}.f32");
        check(&op, &[target, "b32", "b32"], &tuples, |t| {
            positive(code(t[0])) << bits | positive(code(t[1]))
        });
    }
}

#[test]
fn tensor_floats_have_13_bits_less() {
    let mut draw = Draw(36);
    let mut inputs: Vec<u64> = vec![0x7f80_0000, 0xff80_0000, 0x7fc0_0001, 0x7f7f_ffff, 0, 1 << 31];
    for _ in 0..2000 {
        let word = draw.next() >> 32;
        inputs.extend([word, word & !0x1fff | 0x1000, word & !0x1fff, word & !0x1fff | 0xfff]);
    }
    let tuples: Vec<Vec<u64>> = inputs.iter().map(|&x| vec![x]).collect();
    let rounded = |t: &[u64], up: fn(u64, u64) -> bool| {
        let (kept, lost) = (t[0] & !0x1fff, t[0] & 0x1fff);
        if t[0] & 0x7fff_ffff > 0x7f80_0000 {
            0x7fff_ffff
        } else {
            kept + if up(lost, kept >> 13 & 1) { 0x2000 } else { 0 }
        }
    };
    let away: fn(u64, u64) -> bool = |lost, _| lost >= 0x1000;
    let even: fn(u64, u64) -> bool = |lost, odd| lost + odd > 0x1000;
    check("cvt.rna.tf32.f32", &["b32"; 2], &tuples, |t| rounded(t, away));
    check("cvt.rn.tf32.f32", &["b32"; 2], &tuples, |t| rounded(t, even));
    check("cvt.rz.tf32.f32", &["b32"; 2], &tuples, |t| rounded(t, |_, _| false));
    check("cvt.rn.relu.tf32.f32", &["b32"; 2], &tuples, |t| {
        let rounded = rounded(t, even);
        if rounded >> 31 != 0 { 0 } else { rounded }
    });
    check("cvt.rna.satfinite.tf32.f32", &["b32"; 2], &tuples, |t| match rounded(t, away) {
        x if x & 0x7fff_ffff == 0x7f80_0000 => x - 0x2000,
        x => x,
    });
}

#[test]
fn packed_integers() {
    let numbers = [0u64, 1, 3, 7, 8, 127, 128, 255, 256, 32_767, 32_768, 65_535, 65_536, 1 << 31];
    let all: Vec<u64> = numbers.iter().flat_map(|&x| [x, x.wrapping_neg() & 0xffff_ffff]).collect();
    let field = |kind: &str, bits: u32, x: u64| {
        let signed = kind == "s";
        let (least, most) = if signed {
            (-(1i64 << (bits - 1)), (1 << (bits - 1)) - 1)
        } else {
            (0, (1 << bits) - 1)
        };
        (x as i32 as i64).clamp(least, most) as u64 & ((1 << bits) - 1)
    };
    for kind in ["u", "s"] {
        check(&format!("cvt.pack.sat.{kind}16.s32"), &["b32"; 3], &product(&[&all, &all]), |t| {
            field(kind, 16, t[0]) << 16 | field(kind, 16, t[1])
        });
        for bits in [8, 4, 2] {
            let tuples = product(&[&all, &all, &[0, 0xffff_ffff, 0x1234_5678]]);
            let op = format!("cvt.pack.sat.{kind}{bits}.s32.b32");
            check(&op, &["b32"; 4], &tuples, |t| {
                let low = field(kind, bits, t[0]) << bits | field(kind, bits, t[1]);
                (t[2] << (2 * bits) | low) & 0xffff_ffff
            });
        }
    }
}

#[test]
fn constants_are_converted_too() {
    let mut values = [[0; 32]; 1];
    let operands = vec![Operand::Register(0), Operand::Integer(-1)];
    Bench::new(&["b64"]).with(operands).run("cvt.s64.s32", FULL, &mut values).unwrap();
    assert_eq!(values[0], [u128::from(u64::MAX); 32]);
}
