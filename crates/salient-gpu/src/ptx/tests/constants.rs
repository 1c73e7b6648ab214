//! PTX ISA: section 4.5. The values are those that ptxas makes of the same text.

use super::super::ast::Operand;
use super::operands;

fn constant(written: &str) -> Operand {
    operands(&format!("mov.b64 %rd1, {written};")).remove(1)
}

fn integer(written: &str) -> i128 {
    match constant(written) {
        Operand::Integer(value) => value,
        other => panic!("{written} is {other:?}"),
    }
}

#[test]
fn literals() {
    for (written, value) in [
        ("0", 0),
        ("0U", 0),
        ("42", 42),
        ("0x1f", 31),
        ("0XFFU", 255),
        ("077", 63),
        ("0b101", 5),
        ("0B11U", 3),
        ("WARP_SZ", 32),
        ("-7", -7),
        ("- 7", -7),
        ("9223372036854775807", i128::from(i64::MAX)),
        ("18446744073709551615", i128::from(u64::MAX)),
        ("0xFFFFFFFFFFFFFFFF", i128::from(u64::MAX)),
    ] {
        assert_eq!(integer(written), value, "{written}");
    }
    for (written, value) in [
        ("0f3F800000", Operand::Single(0x3F80_0000)),
        ("0Fff800000", Operand::Single(0xFF80_0000)),
        ("0d3FF0000000000000", Operand::Double(0x3FF0_0000_0000_0000)),
        ("0D8000000000000000", Operand::Double(1 << 63)),
        ("1.5", Operand::Decimal(1.5)),
        ("-0.25", Operand::Decimal(-0.25)),
        ("1.", Operand::Decimal(1.0)),
        (".5", Operand::Decimal(0.5)),
        ("1e3", Operand::Decimal(1000.0)),
        ("2.5E-3", Operand::Decimal(0.0025)),
        (".25e+2", Operand::Decimal(25.0)),
    ] {
        assert_eq!(constant(written), value, "{written}");
    }
}

#[test]
fn expressions() {
    for (written, value) in [
        ("-5 + 2", -3),
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("5 - 3 - 1", 1),
        ("100 / 10 / 5", 2),
        ("-7 / 2", -3),
        ("7 % 4", 3),
        ("-5 % 3", 2),
        ("2 + 3 << 1", 10),
        ("1 << 3 | 4", 12),
        ("-8 >> 1U", -4),
        ("(.u64)-8 >> 60", 15),
        ("(-8 >> 65)", -4),
        ("6 & 3 ^ 1 | 8", 11),
        ("1 | 2 == 2", 1),
        ("1 || 0 && 0", 1),
        ("!5", 0),
        ("!0 + 1", 2),
        ("~5 & 0xff", 0xfa),
        ("1 ? 2 : 3 ? 4 : 5", 2),
        ("0 ? 2 : 0 ? 4 : 5", 5),
        ("WARP_SZ - 64 < 0", 1),
        ("-(1U) < 0", 0),
        ("(.s64)-1U < 0", 1),
        ("(1 & 1) - 2 < 0", 1),
        ("(7 % 4) - 8 < 0", 0),
        ("(~0) < 0", 0),
        ("3 >= 3", 1),
        ("3 <= 2", 0),
        ("3 > 2", 1),
        ("3 != 3", 0),
        ("1.5 > 2.5 ? 1 : 2", 2),
    ] {
        assert_eq!(integer(written), value, "{written}");
    }
    assert_eq!(constant("1.0 / 4.0 + 2.0 * 3.0 - 1.0"), Operand::Decimal(5.25));
    assert_eq!(constant("0 ? 1.5 : 2.5"), Operand::Decimal(2.5));
}
