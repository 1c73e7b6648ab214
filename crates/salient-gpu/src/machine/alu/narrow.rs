//! Conversions to and from pairs, formats of 8 bits and less, and tf32 (PTX ISA: cvt; Alternate
//! Floating-Point Data Formats).

use crate::machine::inst::Lanes;

use super::convert::{Manner, Stage};
use super::half::relu;
use super::lanes::{Lane, op1, op2};
use super::number::*;

/// Two f32, of which the first goes into the upper half.
pub(super) fn of_two(target: &str, manner: &Manner) -> Option<Vec<Stage>> {
    if !manner.only(&["rounding", "satfinite", "relu"]) {
        return None;
    }
    if let Some(format) = format(target) {
        if manner.rounding != Some(RN) || !manner.finite {
            return None;
        }
        return Some(vec![Stage { run: format.of_singles[usize::from(manner.relu)], bits: 16 }]);
    }
    #[inline(always)]
    fn pair<T: Half, const R: u8>(a: f32, b: f32) -> u32 {
        T::of_f32::<R>(a).raw() << 16 | T::of_f32::<R>(b).raw()
    }
    let run = match (target, manner.rounding?) {
        ("f16x2", RN) => op2!(pair::<F16, RN>),
        ("f16x2", RZ) => op2!(pair::<F16, RZ>),
        ("bf16x2", RN) => op2!(pair::<BF16, RN>),
        ("bf16x2", RZ) => op2!(pair::<BF16, RZ>),
        _ => return None,
    };
    let mut stages = vec![Stage { run, bits: 32 }];
    if manner.finite {
        stages.push(Stage { run: finite(target)?, bits: 32 });
    }
    if manner.relu {
        stages.push(Stage { run: relu_of(target)?, bits: 32 });
    }
    Some(stages)
}

/// From one operand.
pub(super) fn of_one(target: &str, source: &str, manner: &Manner) -> Option<Vec<Stage>> {
    if (target, source) == ("tf32", "f32") {
        return tf32(manner);
    }
    if manner.rounding != Some(RN) || !manner.only(&["rounding", "satfinite", "relu"]) {
        return None;
    }
    match (format(target), format(source)) {
        (Some(format), None) if source == "f16x2" && manner.finite => {
            Some(vec![Stage { run: format.of_halves[usize::from(manner.relu)], bits: 16 }])
        }
        (None, Some(format)) if target == "f16x2" && !manner.finite => {
            let mut stages = vec![Stage { run: format.to_halves, bits: 32 }];
            if manner.relu {
                stages.push(Stage { run: relu_of(target)?, bits: 32 });
            }
            Some(stages)
        }
        _ => None,
    }
}

/// `.satfinite` of formats that have infinities: they become the largest number.
pub(super) fn finite(kind: &str) -> Option<Lanes> {
    #[inline(always)]
    fn one<T: Half>(x: T) -> T {
        let infinite = x.bits() & 0x7fff == T::EXPONENT;
        if infinite { T::from_bits(x.bits() - 1) } else { x }
    }
    Some(match kind {
        "f16" => op1!(one::<F16>),
        "bf16" => op1!(one::<BF16>),
        "f16x2" => op1!(|a: u32| both(a, one::<F16>)),
        "bf16x2" => op1!(|a: u32| both(a, one::<BF16>)),
        _ => return None,
    })
}

pub(super) fn relu_of(kind: &str) -> Option<Lanes> {
    Some(match kind {
        "f16" => op1!(relu::<F16>),
        "bf16" => op1!(relu::<BF16>),
        "f16x2" => op1!(|a: u32| both(a, relu::<F16>)),
        "bf16x2" => op1!(|a: u32| both(a, relu::<BF16>)),
        _ => return None,
    })
}

#[inline(always)]
fn both<T: Half>(a: u32, f: impl Fn(T) -> T) -> u32 {
    f(T::of(a & 0xffff)).raw() | f(T::of(a >> 16)).raw() << 16
}

/// The lower 13 bits are zeros. `.rna`: to nearest, halves away from zero.
fn tf32(manner: &Manner) -> Option<Vec<Stage>> {
    #[inline(always)]
    fn round(a: f32, add: impl Fn(u32) -> u32) -> f32 {
        let bits = a.to_bits();
        let rounded = f32::from_bits(add(bits) & !0x1fff);
        if a.is_nan() { canonical(a) } else { rounded }
    }
    let run = match (manner.rounding, manner.away) {
        (None, true) if !manner.relu => op1!(|a: f32| round(a, |bits| bits + 0x1000)),
        (Some(RN), false) => op1!(|a: f32| round(a, |bits| bits + 0xfff + (bits >> 13 & 1))),
        (Some(RZ), false) => op1!(|a: f32| round(a, |bits| bits)),
        _ => return None,
    };
    if !manner.only(&["rounding", "rna", "satfinite", "relu"]) {
        return None;
    }
    let mut stages = vec![Stage { run, bits: 32 }];
    if manner.finite {
        let run = op1!(|a: u32| if a & 0x7fff_ffff == 0x7f80_0000 { a - 0x2000 } else { a });
        stages.push(Stage { run, bits: 32 });
    }
    if manner.relu {
        let run = op1!(|a: f32| if a.is_sign_negative() { 0.0 } else { a });
        stages.push(Stage { run, bits: 32 });
    }
    Some(stages)
}

/// Conversions of a pair of a small format; with `.relu` the second of two.
struct Format {
    of_singles: [Lanes; 2],
    of_halves: [Lanes; 2],
    to_halves: Lanes,
}

fn format(name: &str) -> Option<Format> {
    Some(match name {
        "e4m3x2" => conversions::<4, 3>(),
        "e5m2x2" => conversions::<5, 2>(),
        "e2m3x2" => conversions::<2, 3>(),
        "e3m2x2" => conversions::<3, 2>(),
        "e2m1x2" => conversions::<2, 1>(),
        _ => return None,
    })
}

fn conversions<const E: u32, const M: u32>() -> Format {
    #[inline(always)]
    fn pair<const E: u32, const M: u32, const RELU: bool>(a: f32, b: f32) -> u16 {
        let one = |x: f32| {
            let code = encode::<E, M>(x);
            if RELU && code >> (E + M) & 1 != 0 { 0 } else { code }
        };
        // Two of four bits share a byte.
        (one(a) << if E + M < 4 { 4 } else { 8 } | one(b)) as u16
    }
    #[inline(always)]
    fn of_halves<const E: u32, const M: u32, const RELU: bool>(a: u32) -> u16 {
        pair::<E, M, RELU>(F16::of(a >> 16).wide(), F16::of(a & 0xffff).wide())
    }
    #[inline(always)]
    fn to_halves<const E: u32, const M: u32>(a: u16) -> u32 {
        let (bits, mask) = if E + M < 4 { (4, 0xf) } else { (8, 0xff) };
        let one = |code| F16::of_f32::<RN>(decode::<E, M>(code)).raw();
        one(u32::from(a) >> bits & mask) << 16 | one(u32::from(a) & mask)
    }
    Format {
        of_singles: [op2!(pair::<E, M, false>), op2!(pair::<E, M, true>)],
        of_halves: [op1!(of_halves::<E, M, false>), op1!(of_halves::<E, M, true>)],
        to_halves: op1!(to_halves::<E, M>),
    }
}

/// The code of the largest number: all ones, but that e4m3 has a NaN there, and e5m2 is as f16.
const fn largest(exponent: u32, fraction: u32) -> u32 {
    let ones = (1 << (exponent + fraction)) - 1;
    match (exponent, fraction) {
        (4, 3) => ones - 1,
        (5, 2) => ones - 4,
        _ => ones,
    }
}

const fn bias(exponent: u32) -> u32 {
    (1 << (exponent - 1)) - 1
}

/// To nearest even, what is too large to the largest number, with the sign on top. NaN is all ones,
/// or the largest number of formats that have none.
#[inline(always)]
fn encode<const E: u32, const M: u32>(x: f32) -> u32 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let lowest = (127 - bias(E) + 1) << 23;
    // Added to 2^23, a multiple of the least subnormal number is rounded to an integer.
    let scale = f32::from_bits((127 + bias(E) - 1 + M) << 23);
    let small = (f32::from_bits(magnitude) * scale + 8_388_608.0).to_bits() & 0xff;
    let shift = 23 - M;
    let even = (1 << (shift - 1)) - 1 + (magnitude >> shift & 1);
    let normal = (magnitude.wrapping_sub((127 - bias(E)) << 23).wrapping_add(even)) >> shift;
    let code = if magnitude < lowest { small } else { normal.min(largest(E, M)) };
    let all = (1 << (E + M)) - 1;
    if magnitude > 0x7f80_0000 { all } else { code | (bits >> 31) << (E + M) }
}

#[inline(always)]
fn decode<const E: u32, const M: u32>(code: u32) -> f32 {
    let magnitude = code & ((1 << (E + M)) - 1);
    let number = if magnitude >> M == 0 {
        magnitude as f32 * f32::from_bits((127 + 1 - bias(E) - M) << 23)
    } else {
        f32::from_bits((magnitude << (23 - M)) + ((127 - bias(E)) << 23))
    };
    let beyond = match (E, M) {
        (4, 3) | (5, 2) if magnitude > largest(E, M) => {
            if E == 5 && magnitude == 0x7c {
                f32::INFINITY
            } else {
                f32::NAN
            }
        }
        _ => number,
    };
    if code >> (E + M) & 1 != 0 { -beyond } else { beyond }
}
