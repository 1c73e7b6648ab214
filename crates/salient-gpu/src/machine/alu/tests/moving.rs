//! `mov`.

use crate::ptx::ast::{Name, Operand};

use super::{Bench, FULL, check, integers};

#[test]
fn registers_of_every_type() {
    for (register, kinds) in [
        ("b16", &["b16", "u16", "s16"][..]),
        ("b32", &["b32", "u32", "s32", "f32"]),
        ("b64", &["b64", "u64", "s64", "f64"]),
    ] {
        let bits = register[1..].parse().unwrap();
        let all: Vec<Vec<u64>> = integers(bits).iter().map(|&x| vec![x]).collect();
        for kind in kinds {
            check(&format!("mov.{kind}"), &[register; 2], &all, |t| t[0]);
        }
    }
    check("mov.pred", &["pred"; 2], &[vec![0], vec![1]], |t| t[0]);
    let mut values = [[7; 32], std::array::from_fn(|lane| (lane as u128) << 100 | 5)];
    let from = values[1];
    Bench::new(&["b128"; 2]).run("mov.b128", 0xffff, &mut values).unwrap();
    assert!((0..32).all(|lane| values[0][lane] == if lane < 16 { from[lane] } else { 7 }));
}

#[test]
fn numbers_addresses_and_special_registers() {
    let result = |kind: &str, register: &str, operand: Operand| {
        let mut values = [[9; 32]];
        let operands = vec![Operand::Register(0), operand];
        let bench = Bench::new(&[register]).with(operands);
        bench.run(&format!("mov.{kind}"), FULL, &mut values).unwrap();
        values[0]
    };
    assert_eq!(result("u16", "b16", Operand::Integer(-1)), [0xffff; 32]);
    assert_eq!(result("f32", "b32", Operand::Decimal(1.5)), [0x3fc0_0000; 32]);
    assert_eq!(result("b64", "b64", Operand::Integer(-2)), [u128::from(u64::MAX - 1); 32]);
    assert_eq!(result("pred", "pred", Operand::Integer(-1)), [1; 32]);
    assert_eq!(result("pred", "pred", Operand::Integer(0)), [0; 32]);
    let variable = || Operand::Variable(Name::Module(0), 4);
    assert_eq!(result("u64", "b64", variable()), [0x1238; 32]);
    assert_eq!(result("u32", "b32", variable()), [0x1238; 32]);
    let lanes = result("u32", "b32", Operand::Special("laneid".to_owned()));
    assert_eq!(lanes, std::array::from_fn(|lane| lane as u128));
    // What changes while a warp runs is left to others.
    let clock = vec![Operand::Register(0), Operand::Special("clock64".to_owned())];
    let error = Bench::new(&["b64"]).with(clock).run("mov.u64", FULL, &mut [[0; 32]]).unwrap_err();
    assert!(error.contains("not known"));
}

#[test]
fn vectors_are_packed_and_unpacked() {
    let cases: [(&str, &str, usize); 5] = [
        ("b32", "b16", 2),
        ("b64", "b32", 2),
        ("b64", "b16", 4),
        ("b128", "b64", 2),
        ("b32", "b8", 4),
    ];
    for (whole, part, count) in cases {
        let bits: usize = part[1..].parse().unwrap();
        let mut types = vec![whole];
        types.extend(vec![part; count]);
        let vector = Operand::Vector((1..=count as u32).map(Operand::Register).collect());
        let mut values = vec![[0u128; 32]; count + 1];
        for lane in 0..32 {
            values[0][lane] = 0xfedc_ba98_7654_3210_0123_4567_89ab_cdef_u128
                .rotate_left(lane as u32)
                & (u128::MAX >> (128 - bits * count));
        }
        let before = values[0];
        let out = vec![vector.clone(), Operand::Register(0)];
        let bench = Bench::new(&types);
        bench.all(&[(&format!("mov.{whole}"), out)], FULL, &mut values).unwrap();
        for lane in 0..32 {
            for at in 0..count {
                let expected = before[lane] >> (at * bits) & ((1 << bits) - 1);
                assert_eq!(values[at + 1][lane], expected, "part {at} of {whole}");
            }
        }
        values[0] = [0; 32];
        let back = vec![Operand::Register(0), vector];
        bench.all(&[(&format!("mov.{whole}"), back)], 0x5555_5555, &mut values).unwrap();
        for lane in 0..32 {
            assert_eq!(values[0][lane], if lane % 2 == 0 { before[lane] } else { 0 });
        }
    }
}

#[test]
fn parts_may_be_left_out_or_swapped() {
    let r = Operand::Register;
    let mut values = [[0x1111_2222; 32], [5; 32]];
    let high = vec![Operand::Vector(vec![Operand::Sink, r(1)]), r(0)];
    Bench::new(&["b32", "b16"]).with(high).run("mov.b32", FULL, &mut values).unwrap();
    assert_eq!(values[1], [0x1111; 32]);
    let mut values = [[0x2222; 32], [0x1111; 32], [0; 32]];
    let program = [
        ("mov.b32", vec![r(2), Operand::Vector(vec![r(1), r(0)])]),
        ("mov.b32", vec![Operand::Vector(vec![r(0), r(1)]), r(2)]),
    ];
    Bench::new(&["b16", "b16", "b32"]).all(&program, FULL, &mut values).unwrap();
    assert_eq!(values, [[0x1111; 32], [0x2222; 32], [0x2222_1111; 32]]);
}
