//! Integer arithmetic, in 128 bits.

use crate::ptx::ast::Operand;

use super::{Bench, FULL, check, integers, product};

const TYPES: [&str; 6] = ["u16", "s16", "u32", "s32", "u64", "s64"];

fn bits_of(kind: &str) -> u32 {
    kind[1..].parse().unwrap()
}

fn register(bits: u32) -> &'static str {
    match bits {
        16 => "b16",
        32 => "b32",
        _ => "b64",
    }
}

/// What the bits stand for.
fn value(kind: &str, bits: u64) -> i128 {
    let width = bits_of(kind);
    let high = i128::from(bits >> (width - 1) & 1);
    i128::from(bits) - if kind.starts_with('s') { high << width } else { 0 }
}

fn low(width: u32, value: i128) -> u64 {
    (value & ((1 << width) - 1)) as u64
}

fn range(kind: &str) -> (i128, i128) {
    let bits = bits_of(kind);
    if kind.starts_with('s') {
        (-(1 << (bits - 1)), (1 << (bits - 1)) - 1)
    } else {
        (0, (1 << bits) - 1)
    }
}

/// Instructions of values of one type.
fn of_type(op: &str, kind: &str, sources: usize, expected: impl Fn(&[i128]) -> i128) {
    let width = bits_of(kind);
    let all = integers(width);
    let fewer = all[..14.min(all.len())].to_vec();
    let sets = [&all[..], &all[..], &fewer[..]];
    let types = vec![register(width); sources + 1];
    check(op, &types, &product(&sets[..sources]), |tuple| {
        let values: Vec<i128> = tuple.iter().map(|&bits| value(kind, bits)).collect();
        low(width, expected(&values))
    });
}

#[test]
fn sums_differences_and_extremes() {
    for kind in TYPES {
        of_type(&format!("add.{kind}"), kind, 2, |v| v[0] + v[1]);
        of_type(&format!("sub.{kind}"), kind, 2, |v| v[0] - v[1]);
        of_type(&format!("min.{kind}"), kind, 2, |v| v[0].min(v[1]));
        of_type(&format!("max.{kind}"), kind, 2, |v| v[0].max(v[1]));
        of_type(&format!("sad.{kind}"), kind, 3, |v| v[2] + (v[0] - v[1]).abs());
        if kind.starts_with('s') {
            of_type(&format!("abs.{kind}"), kind, 1, |v| v[0].abs());
            of_type(&format!("neg.{kind}"), kind, 1, |v| -v[0]);
        }
    }
    let (least, most) = range("s32");
    of_type("add.sat.s32", "s32", 2, |v| (v[0] + v[1]).clamp(least, most));
    of_type("sub.sat.s32", "s32", 2, |v| (v[0] - v[1]).clamp(least, most));
    of_type("min.relu.s32", "s32", 2, |v| v[0].min(v[1]).max(0));
    of_type("max.relu.s32", "s32", 2, |v| v[0].max(v[1]).max(0));
}

#[test]
fn quotients_and_remainders_truncate() {
    for kind in TYPES {
        of_type(&format!("div.{kind}"), kind, 2, |v| if v[1] == 0 { -1 } else { v[0] / v[1] });
        of_type(&format!("rem.{kind}"), kind, 2, |v| if v[1] == 0 { -1 } else { v[0] % v[1] });
    }
}

#[test]
fn products_and_their_halves() {
    for kind in TYPES {
        let bits = bits_of(kind);
        // An unsigned product of 64 bits fills all of an i128 but its sign.
        let times = |a: i128, b: i128| a.wrapping_mul(b);
        let upper = |a: i128, b: i128| {
            if kind == "u64" { ((a as u128 * b as u128) >> 64) as i128 } else { (a * b) >> bits }
        };
        of_type(&format!("mul.lo.{kind}"), kind, 2, |v| times(v[0], v[1]));
        of_type(&format!("mul.hi.{kind}"), kind, 2, |v| upper(v[0], v[1]));
        of_type(&format!("mad.lo.{kind}"), kind, 3, |v| times(v[0], v[1]).wrapping_add(v[2]));
        of_type(&format!("mad.hi.{kind}"), kind, 3, |v| upper(v[0], v[1]) + v[2]);
        if bits == 64 {
            continue;
        }
        let (narrow, wide) = (register(bits), register(2 * bits));
        let (all, longs) = (integers(bits), integers(2 * bits));
        check(&format!("mul.wide.{kind}"), &[wide, narrow, narrow], &product(&[&all, &all]), |t| {
            low(2 * bits, value(kind, t[0]) * value(kind, t[1]))
        });
        let tuples = product(&[&all, &all, &longs[..10]]);
        check(&format!("mad.wide.{kind}"), &[wide, narrow, narrow, wide], &tuples, |t| {
            low(2 * bits, value(kind, t[0]) * value(kind, t[1]) + i128::from(t[2]))
        });
    }
    let (least, most) = range("s32");
    of_type("mad.hi.sat.s32", "s32", 3, |v| (((v[0] * v[1]) >> 32) + v[2]).clamp(least, most));
}

#[test]
fn products_of_24_bits() {
    let unsigned = |x: i128| x & 0xff_ffff;
    let signed = |x: i128| {
        let low = x & 0xff_ffff;
        if low >= 1 << 23 { low - (1 << 24) } else { low }
    };
    of_type("mul24.lo.u32", "u32", 2, |v| unsigned(v[0]) * unsigned(v[1]));
    of_type("mul24.hi.u32", "u32", 2, |v| (unsigned(v[0]) * unsigned(v[1])) >> 16);
    of_type("mul24.lo.s32", "s32", 2, |v| signed(v[0]) * signed(v[1]));
    of_type("mul24.hi.s32", "s32", 2, |v| (signed(v[0]) * signed(v[1])) >> 16);
    of_type("mad24.lo.u32", "u32", 3, |v| unsigned(v[0]) * unsigned(v[1]) + v[2]);
    of_type("mad24.hi.u32", "u32", 3, |v| ((unsigned(v[0]) * unsigned(v[1])) >> 16) + v[2]);
    of_type("mad24.lo.s32", "s32", 3, |v| signed(v[0]) * signed(v[1]) + v[2]);
    of_type("mad24.hi.s32", "s32", 3, |v| ((signed(v[0]) * signed(v[1])) >> 16) + v[2]);
    let (least, most) = range("s32");
    of_type("mad24.hi.sat.s32", "s32", 3, |v| {
        (((signed(v[0]) * signed(v[1])) >> 16) + v[2]).clamp(least, most)
    });
}

#[test]
fn pairs_of_16_bits_do_not_touch_each_other() {
    let halves = [0, 1, 0x7fff, 0x8000, 0xffff, 0x1234];
    let words: Vec<u64> = product(&[&halves, &halves]).iter().map(|h| h[0] | h[1] << 16).collect();
    let each = |op: &str, kind: &str, f: &dyn Fn(i128, i128) -> i128| {
        check(op, &["b32"; 3], &product(&[&words, &words]), |t| {
            let half = |at: u32| {
                let [a, b] = [t[0], t[1]].map(|x| value(kind, x >> (16 * at) & 0xffff));
                low(16, f(a, b))
            };
            half(0) | half(1) << 16
        });
    };
    each("add.u16x2", "u16", &|a, b| a + b);
    each("add.s16x2", "s16", &|a, b| a + b);
    each("min.u16x2", "u16", &|a, b| a.min(b));
    each("max.u16x2", "u16", &|a, b| a.max(b));
    each("min.s16x2", "s16", &|a, b| a.min(b));
    each("max.s16x2", "s16", &|a, b| a.max(b));
    each("min.relu.s16x2", "s16", &|a, b| a.min(b).max(0));
    each("max.relu.s16x2", "s16", &|a, b| a.max(b).max(0));
}

#[test]
fn dot_products_of_bytes() {
    let words = [0, 0x8080_8080, 0x7fff_0180, 0xff7f_80ff, 0x0102_0304, 0xffff_ffff];
    let tuples = product(&[&words, &words, &[0, 0xffff_fffe, 0x8000_0000]]);
    let part = |word: u64, at: usize, bits: u32, signed: bool| {
        let kind = format!("{}{bits}", if signed { 's' } else { 'u' });
        value(&kind, word >> (at as u32 * bits) & ((1 << bits) - 1))
    };
    for (a, b) in [(false, false), (false, true), (true, false), (true, true)] {
        let name = |signed| if signed { "s32" } else { "u32" };
        let types = format!("{}.{}", name(a), name(b));
        check(&format!("dp4a.{types}"), &["b32"; 4], &tuples, |t| {
            let sum: i128 = (0..4).map(|i| part(t[0], i, 8, a) * part(t[1], i, 8, b)).sum();
            low(32, sum + i128::from(t[2]))
        });
        for (half, first) in [("lo", 0), ("hi", 2)] {
            check(&format!("dp2a.{half}.{types}"), &["b32"; 4], &tuples, |t| {
                let term = |i| part(t[0], i, 16, a) * part(t[1], i + first, 8, b);
                low(32, term(0) + term(1) + i128::from(t[2]))
            });
        }
    }
}

/// Numbers of four words, by chains of instructions that hand the carry on.
#[test]
fn carries_go_from_word_to_word() {
    let words = [0, 1, 0xffff_ffff, 0x8000_0000, 0x7fff_ffff, 0xdead_beef];
    let mut draw = super::Draw(1);
    for (first, next) in [("add.cc.u32", "addc"), ("sub.cc.s32", "subc")] {
        let mut values = vec![[0u128; 32]; 13];
        for value in &mut values[..8] {
            *value = std::array::from_fn(|_| words[draw.next() as usize % 6]);
        }
        let number = |values: &[[u128; 32]], lane: usize, from: usize| {
            (0..4).fold(0, |n, at| n | values[from + at][lane] << (32 * at))
        };
        let before: Vec<(u128, u128)> =
            (0..32).map(|lane| (number(&values, lane, 0), number(&values, lane, 4))).collect();
        let step = |at: u32| [8 + at, at, 4 + at].map(Operand::Register).to_vec();
        let (middle, last) = (format!("{next}.cc.u32"), format!("{next}.u32"));
        let zeros = vec![Operand::Register(12), Operand::Integer(0), Operand::Integer(0)];
        let program = [
            (first, step(0)),
            (&middle, step(1)),
            (&middle, step(2)),
            (&middle, step(3)),
            // What is left of the carry.
            (&last, zeros),
        ];
        Bench::new(&["b32"; 13]).all(&program, FULL, &mut values).unwrap();
        for (lane, (a, b)) in before.into_iter().enumerate() {
            let (result, carry) =
                if next == "addc" { a.overflowing_add(b) } else { a.overflowing_sub(b) };
            assert_eq!(number(&values, lane, 8), result, "{a:x} and {b:x} by {first}");
            let left = if next == "addc" { 1 } else { 0xffff_ffff };
            assert_eq!(values[12][lane], if carry { left } else { 0 });
        }
    }
}

/// A product of 64-bit numbers with 128 bits, as compilers put it together.
#[test]
fn products_take_and_leave_carries() {
    let numbers = integers(64);
    for tuples in product(&[&numbers, &numbers]).chunks(32) {
        let mut values = vec![[0u128; 32]; 8];
        for (lane, tuple) in tuples.iter().enumerate() {
            for (at, &number) in tuple.iter().enumerate() {
                values[2 * at][lane] = u128::from(number & 0xffff_ffff);
                values[2 * at + 1][lane] = u128::from(number >> 32);
            }
        }
        let r = Operand::Register;
        let zero = || Operand::Integer(0);
        // a1:a0 times b1:b0 into r7:r6:r5:r4.
        let program = [
            ("mul.lo.u32", vec![r(4), r(0), r(2)]),
            ("mul.hi.u32", vec![r(5), r(0), r(2)]),
            ("mad.lo.cc.u32", vec![r(5), r(0), r(3), r(5)]),
            ("madc.hi.u32", vec![r(6), r(0), r(3), zero()]),
            ("mad.lo.cc.u32", vec![r(5), r(1), r(2), r(5)]),
            ("madc.hi.cc.u32", vec![r(6), r(1), r(2), r(6)]),
            ("addc.u32", vec![r(7), zero(), zero()]),
            ("mad.lo.cc.u32", vec![r(6), r(1), r(3), r(6)]),
            ("madc.hi.u32", vec![r(7), r(1), r(3), r(7)]),
        ];
        Bench::new(&["b32"; 8]).all(&program, FULL, &mut values).unwrap();
        for (lane, tuple) in tuples.iter().enumerate() {
            let result = (0..4).fold(0, |n, at| n | values[4 + at][lane] << (32 * at));
            assert_eq!(result, u128::from(tuple[0]) * u128::from(tuple[1]), "{tuple:x?}");
        }
    }
}

#[test]
fn carries_of_64_bits() {
    let numbers = integers(64);
    for tuples in product(&[&numbers, &numbers]).chunks(32) {
        let mut values = vec![[0u128; 32]; 6];
        for (lane, tuple) in tuples.iter().enumerate() {
            (values[0][lane], values[1][lane]) = (tuple[0].into(), tuple[1].into());
        }
        let r = Operand::Register;
        let zero = || Operand::Integer(0);
        let program = [
            ("sub.cc.u64", vec![r(2), r(0), r(1)]),
            ("subc.u64", vec![r(3), zero(), zero()]),
            ("mad.lo.cc.s64", vec![r(4), r(0), r(1), r(1)]),
            ("madc.hi.s64", vec![r(5), r(0), r(1), zero()]),
        ];
        Bench::new(&["b64"; 6]).all(&program, FULL, &mut values).unwrap();
        for (lane, tuple) in tuples.iter().enumerate() {
            let (a, b) = (tuple[0], tuple[1]);
            assert_eq!(values[2][lane], u128::from(a.wrapping_sub(b)));
            assert_eq!(values[3][lane], u128::from(if a < b { u64::MAX } else { 0 }));
            let sum = i128::from(a as i64) * i128::from(b as i64) + i128::from(b);
            assert_eq!(values[4][lane] | values[5][lane] << 64, sum as u128);
        }
    }
}
