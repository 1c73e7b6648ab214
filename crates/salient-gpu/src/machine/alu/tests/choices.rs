//! Comparisons and selections.

use crate::ptx::ast::Operand;

use super::{Bench, FULL, check, integers, product};

type Test = fn(std::cmp::Ordering) -> bool;

fn ordered() -> [(&'static str, Test); 6] {
    use std::cmp::Ordering::{Equal, Greater, Less};
    [
        ("eq", |o| o == Equal),
        ("ne", |o| o != Equal),
        ("lt", |o| o == Less),
        ("le", |o| o != Greater),
        ("gt", |o| o == Greater),
        ("ge", |o| o != Less),
    ]
}

#[test]
fn integers_are_compared_by_their_type() {
    for (bits, register) in [(16, "b16"), (32, "b32"), (64, "b64")] {
        let all = integers(bits);
        let pairs = product(&[&all, &all]);
        let signed = |x: u64| (x << (64 - bits)) as i64;
        for (name, test) in ordered() {
            let types = ["pred", register, register];
            check(&format!("setp.{name}.u{bits}"), &types, &pairs, |t| {
                test(t[0].cmp(&t[1])).into()
            });
            check(&format!("setp.{name}.s{bits}"), &types, &pairs, |t| {
                test(signed(t[0]).cmp(&signed(t[1]))).into()
            });
            let other = match name {
                "lt" => "lo",
                "le" => "ls",
                "gt" => "hi",
                "ge" => "hs",
                _ => {
                    let op = format!("setp.{name}.b{bits}");
                    check(&op, &types, &pairs, |t| test(t[0].cmp(&t[1])).into());
                    continue;
                }
            };
            let op = format!("setp.{other}.u{bits}");
            check(&op, &types, &pairs, |t| test(t[0].cmp(&t[1])).into());
        }
    }
}

/// Ordered comparisons are false of NaN, unordered ones true.
fn compare(name: &str, a: f64, b: f64) -> u64 {
    let unordered = a.is_nan() || b.is_nan();
    let result = match name {
        "num" => return u64::from(!unordered),
        "nan" => return u64::from(unordered),
        name if unordered => return u64::from(name.len() == 3),
        name => name,
    };
    let order = a.partial_cmp(&b).unwrap();
    u64::from(ordered().iter().find(|(name, _)| *name == &result[..2]).unwrap().1(order))
}

const FLOATS: [&str; 14] =
    ["eq", "ne", "lt", "le", "gt", "ge", "equ", "neu", "ltu", "leu", "gtu", "geu", "num", "nan"];

#[test]
fn floats_are_compared_with_nan() {
    let halves = [0, 0x8000, 1, 0x8001, 0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0xfe01, 0x3f80];
    let half = |x: u64| f64::from(half::f16::from_bits(x as u16));
    let brain = |x: u64| f64::from(half::bf16::from_bits(x as u16));
    let singles: Vec<u64> = halves
        .iter()
        .map(|&x| u64::from((half(x) as f32).to_bits()))
        .chain([1, 0x8000_0001])
        .collect();
    let single = |x: u64| f64::from(f32::from_bits(x as u32));
    let flushed = |x: u64| if x & 0x7f80_0000 == 0 { 0.0 } else { single(x) };
    let doubles: Vec<u64> = halves.iter().map(|&x| half(x).to_bits()).collect();
    let pairs = product(&[&halves, &halves]);
    for name in FLOATS {
        let types = ["pred", "b16", "b16"];
        check(&format!("setp.{name}.f16"), &types, &pairs, |t| {
            compare(name, half(t[0]), half(t[1]))
        });
        check(&format!("setp.{name}.bf16"), &types, &pairs, |t| {
            compare(name, brain(t[0]), brain(t[1]))
        });
        check(&format!("setp.{name}.ftz.f16"), &types, &pairs, |t| {
            let flushed = |x: u64| if x & 0x7c00 == 0 { 0.0 } else { half(x) };
            compare(name, flushed(t[0]), flushed(t[1]))
        });
        let types = ["pred", "b32", "b32"];
        let pairs = product(&[&singles, &singles]);
        check(&format!("setp.{name}.f32"), &types, &pairs, |t| {
            compare(name, single(t[0]), single(t[1]))
        });
        check(&format!("setp.{name}.ftz.f32"), &types, &pairs, |t| {
            compare(name, flushed(t[0]), flushed(t[1]))
        });
        let types = ["pred", "b64", "b64"];
        check(&format!("setp.{name}.f64"), &types, &product(&[&doubles, &doubles]), |t| {
            compare(name, f64::from_bits(t[0]), f64::from_bits(t[1]))
        });
    }
}

/// `p|q`, combined with a third predicate.
#[test]
fn two_predicates() {
    type Combine = fn(bool, bool) -> bool;
    let combine: [(&str, Combine); 4] =
        [("", |a, _| a), (".and", |a, c| a & c), (".or", |a, c| a | c), (".xor", |a, c| a ^ c)];
    let r = Operand::Register;
    let pair = || Operand::Pair(Box::new(r(0)), Box::new(r(1)));
    for (name, f) in combine {
        let mut values = vec![[0; 32]; 5];
        for lane in 0..32 {
            (values[2][lane], values[3][lane]) = (lane as u128 % 4, 2);
            values[4][lane] = lane as u128 / 16;
        }
        let mut operands = vec![pair(), r(2), r(3)];
        if !name.is_empty() {
            operands.push(Operand::Not(4));
        }
        let bench = Bench::new(&["pred", "pred", "b32", "b32", "pred"]).with(operands);
        bench.run(&format!("setp.lt{name}.s32"), FULL, &mut values).unwrap();
        for lane in 0..32 {
            let (less, other) = (lane % 4 < 2, lane / 16 == 0);
            assert_eq!(values[0][lane] != 0, f(less, other), "p of {name:?}");
            assert_eq!(values[1][lane] != 0, f(!less, other), "q of {name:?}");
        }
        // Of a pair, one predicate is of each half.
        let mut operands = vec![pair(), r(2), r(3)];
        if !name.is_empty() {
            operands.push(r(4));
        }
        for lane in 0..32 {
            let (low, high) = (lane as u128 & 1, lane as u128 >> 1 & 1);
            values[2][lane] = (low * 0x3c00) | ((high * 0x3c00) << 16);
            values[3][lane] = 0x3c00_3c00;
        }
        let bench = Bench::new(&["pred", "pred", "b32", "b32", "pred"]).with(operands);
        bench.run(&format!("setp.eq{name}.f16x2"), FULL, &mut values).unwrap();
        for lane in 0..32 {
            let other = lane / 16 != 0;
            assert_eq!(values[0][lane] != 0, f(lane & 1 != 0, other), "low of {name:?}");
            assert_eq!(values[1][lane] != 0, f(lane >> 1 & 1 != 0, other), "high of {name:?}");
        }
    }
}

#[test]
fn the_combined_predicate_may_be_the_destination() {
    let mut values = vec![[1; 32], [0; 32], [1; 32]];
    values[0][3] = 0;
    let r = Operand::Register;
    let bench = Bench::new(&["pred", "b32", "b32"]).with(vec![r(0), r(1), r(2), r(0)]);
    bench.run("setp.lt.and.u32", FULL, &mut values).unwrap();
    assert!((0..32).all(|lane| values[0][lane] == u128::from(lane != 3)));
}

#[test]
fn numbers_from_comparisons() {
    let all = integers(32);
    let pairs = product(&[&all, &all]);
    let types = ["b32"; 3];
    check("set.lt.u32.u32", &types, &pairs, |t| if t[0] < t[1] { 0xffff_ffff } else { 0 });
    check("set.lt.f32.s32", &types, &pairs, |t| {
        if (t[0] as i32) < t[1] as i32 { 0x3f80_0000 } else { 0 }
    });
    let words = [0x3c00_3c00, 0x3c00_0000, 0x0000_3c00, 0x7e00_3c00, 0];
    let pairs = product(&[&words, &words]);
    let equal = |t: &[u64], by: u32| {
        let [a, b] = [t[0], t[1]].map(|x| x >> by & 0xffff);
        a == b && a != 0x7e00
    };
    for (target, number) in [("f16x2", 0x3c00), ("u32", 0xffff), ("s32", 0xffff)] {
        check(&format!("set.eq.{target}.f16x2"), &types, &pairs, |t| {
            let [low, high] = [0, 16].map(|by| if equal(t, by) { number } else { 0 });
            high << 16 | low
        });
    }
    let halves: Vec<Vec<u64>> = product(&[&[0x3c00, 0x7e00], &[0x3c00, 0]]);
    for (target, kind, number) in
        [("f16", "f16", 0x3c00), ("bf16", "bf16", 0x3f80), ("s16", "f16", 0xffff)]
    {
        check(&format!("set.eq.{target}.{kind}"), &["b16"; 3], &halves, |t| {
            if t[0] == 0x3c00 && t[1] == 0x3c00 { number } else { 0 }
        });
    }
    check("set.eq.u32.f16", &["b32", "b16", "b16"], &halves, |t| {
        if t[0] == 0x3c00 && t[1] == 0x3c00 { 0xffff_ffff } else { 0 }
    });
    check(
        "set.gt.or.u32.f64",
        &["b32", "b64", "b64", "pred"],
        &product(&[&[2f64.to_bits(), 0], &[1f64.to_bits()], &[0, 1]]),
        |t| if t[0] != 0 || t[2] != 0 { 0xffff_ffff } else { 0 },
    );
}

#[test]
fn selections() {
    for (register, kinds) in [
        ("b16", &["b16", "u16", "s16"][..]),
        ("b32", &["b32", "u32", "s32", "f32"]),
        ("b64", &["b64", "u64", "s64", "f64"]),
    ] {
        let all = integers(register[1..].parse().unwrap());
        for kind in kinds {
            let tuples = product(&[&all, &all[..5], &[0, 1]]);
            check(&format!("selp.{kind}"), &[register, register, register, "pred"], &tuples, |t| {
                if t[2] != 0 { t[0] } else { t[1] }
            });
            let tuples =
                product(&[&all[..6], &all, &[0, 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff]]);
            let types = [register, register, register, "b32"];
            check(&format!("slct.{kind}.s32"), &types, &tuples, |t| {
                if t[2] as i32 >= 0 { t[0] } else { t[1] }
            });
            let signs = [0, 0x8000_0000, 0x3f80_0000, 0xbf80_0000, 0x7fc0_0000, 0x8000_0001];
            let tuples = product(&[&all[..3], &all, &signs]);
            check(&format!("slct.{kind}.f32"), &types, &tuples, |t| {
                if f32::from_bits(t[2] as u32) >= 0.0 { t[0] } else { t[1] }
            });
            check(&format!("slct.ftz.{kind}.f32"), &types, &tuples, |t| {
                let c = if t[2] == 0x8000_0001 { 0 } else { t[2] };
                if f32::from_bits(c as u32) >= 0.0 { t[0] } else { t[1] }
            });
        }
    }
}

#[test]
fn classes_of_numbers() {
    use std::num::FpCategory::{Infinite, Nan, Normal, Subnormal, Zero};
    let singles =
        [0, 1, 0x007f_ffff, 0x0080_0000, 0x7f7f_ffff, 0x7f80_0000, 0x7f80_0001, 0x7fff_ffff];
    let doubles = [0, 1, 0xf_ffff_ffff_ffff, 1 << 52, 0x7ff0 << 48, 0x7ff8 << 48, 1023 << 52];
    type Class = fn(std::num::FpCategory) -> bool;
    let classes: [(&str, Class); 6] = [
        ("finite", |c| matches!(c, Zero | Subnormal | Normal)),
        ("infinite", |c| c == Infinite),
        ("number", |c| c != Nan),
        ("notanumber", |c| c == Nan),
        ("normal", |c| c == Normal),
        ("subnormal", |c| c == Subnormal),
    ];
    for (name, class) in classes {
        let both: Vec<Vec<u64>> =
            singles.iter().flat_map(|&x| [vec![x], vec![x | 1 << 31]]).collect();
        check(&format!("testp.{name}.f32"), &["pred", "b32"], &both, |t| {
            class(f32::from_bits(t[0] as u32).classify()).into()
        });
        let both: Vec<Vec<u64>> =
            doubles.iter().flat_map(|&x| [vec![x], vec![x | 1 << 63]]).collect();
        check(&format!("testp.{name}.f64"), &["pred", "b64"], &both, |t| {
            class(f64::from_bits(t[0]).classify()).into()
        });
    }
}
