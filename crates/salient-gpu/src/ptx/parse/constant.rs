//! Constants and constant expressions (PTX ISA: section 4.5).

use super::super::lex::Token;
use super::{Parsed, Parser};

/// What a constant expression may be nested.
const DEEPEST: u32 = 64;

/// The value of a constant expression.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    Integer(Integer),
    Decimal(f64),
    /// `0f3F800000`, which cannot be calculated with.
    Single(u32),
    /// `0d3FF0000000000000`, which cannot either.
    Double(u64),
}

/// An integer of 64 bits, `.s64` unless it is `.u64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Integer {
    pub(super) bits: u64,
    pub(super) unsigned: bool,
}

impl Integer {
    pub(super) fn value(self) -> i128 {
        if self.unsigned { self.bits.into() } else { (self.bits as i64).into() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Multiply,
    Divide,
    Remainder,
    Add,
    Subtract,
    Left,
    Right,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    And,
    ExclusiveOr,
    Or,
    Both,
    Either,
}

impl Parser<'_> {
    /// Whether the current token begins a constant expression, `!` apart.
    pub(super) fn at_constant(&self) -> bool {
        match self.token {
            Token::Number(_) | Token::Word("WARP_SZ") => true,
            Token::Dotted(text) => text.starts_with(|c: char| c.is_ascii_digit()),
            Token::Sign(sign) => matches!(sign, b'-' | b'+' | b'~' | b'('),
            _ => false,
        }
    }

    pub(super) fn constant(&mut self) -> Parsed<Value> {
        self.ternary(DEEPEST)
    }

    /// A constant expression that is an integer.
    pub(super) fn integer(&mut self, what: &str) -> Parsed<Integer> {
        match self.constant()? {
            Value::Integer(integer) => Ok(integer),
            _ => self.error_behind(format!("expected {what}, found a floating point constant")),
        }
    }

    /// The value of a literal integer (PTX ISA: section 4.5.1).
    pub(super) fn integer_literal(&self, written: &str) -> Parsed<Integer> {
        let (digits, suffixed) = match written.strip_suffix('U') {
            Some(digits) => (digits, true),
            None => (written, false),
        };
        let (digits, radix) = match digits.as_bytes() {
            [b'0', b'x' | b'X', ..] => (&digits[2..], 16),
            [b'0', b'b' | b'B', ..] => (&digits[2..], 2),
            [b'0', _, ..] => (&digits[1..], 8),
            _ => (digits, 10),
        };
        if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
            return self.error(format!("`{written}` is not a number"));
        }
        match u64::from_str_radix(digits, radix) {
            Ok(bits) => Ok(Integer { bits, unsigned: suffixed || bits > i64::MAX as u64 }),
            Err(_) => self.error(format!("`{written}` does not fit 64 bits")),
        }
    }

    fn literal(&self, written: &str) -> Parsed<Value> {
        match written.as_bytes() {
            [b'0', b'f' | b'F', ..] => match pattern(&written[2..], 8) {
                Some(bits) => Ok(Value::Single(bits as u32)),
                None => self.error(format!("`{written}` is not 0f and eight hexadecimal digits")),
            },
            [b'0', b'd' | b'D', ..] => match pattern(&written[2..], 16) {
                Some(bits) => Ok(Value::Double(bits)),
                None => self.error(format!("`{written}` is not 0d and 16 hexadecimal digits")),
            },
            [b'0', b'x' | b'X', ..] => self.integer_literal(written).map(Value::Integer),
            bytes if bytes.iter().any(|b| matches!(b, b'.' | b'e' | b'E')) => {
                match written.parse() {
                    Ok(number) => Ok(Value::Decimal(number)),
                    Err(_) => self.error(format!("`{written}` is not a number")),
                }
            }
            _ => self.integer_literal(written).map(Value::Integer),
        }
    }

    fn ternary(&mut self, depth: u32) -> Parsed<Value> {
        let condition = self.binary(1, depth)?;
        if !self.eat(b'?') {
            return Ok(condition);
        }
        let depth = self.deeper(depth)?;
        let condition = self.truth(condition)?;
        let yes = self.ternary(depth)?;
        self.expect(b':')?;
        let no = self.ternary(depth)?;
        match (yes, no) {
            (Value::Integer(_), Value::Integer(_)) | (Value::Decimal(_), Value::Decimal(_)) => {
                Ok(if condition { yes } else { no })
            }
            _ => self.mismatch(),
        }
    }

    /// Operators that bind as strongly as `least` or stronger.
    fn binary(&mut self, least: u8, depth: u32) -> Parsed<Value> {
        let mut left = self.unary(depth)?;
        while let Some((operator, strength)) = operator(self.token) {
            if strength < least {
                break;
            }
            self.advance();
            let right = self.binary(strength + 1, self.deeper(depth)?)?;
            left = self.apply(operator, left, right)?;
        }
        Ok(left)
    }

    fn unary(&mut self, depth: u32) -> Parsed<Value> {
        match self.token {
            Token::Number(written) => self.leave_literal(written),
            Token::Dotted(dotted) if dotted.starts_with(|c: char| c.is_ascii_digit()) => {
                match self.lexer.decimal(dotted) {
                    Token::Number(written) => self.leave_literal(written),
                    _ => self.unexpected("a number"),
                }
            }
            Token::Word("WARP_SZ") => {
                self.advance();
                Ok(Value::Integer(Integer { bits: 32, unsigned: false }))
            }
            Token::Sign(sign @ (b'-' | b'+' | b'~' | b'!')) => {
                self.advance();
                let operand = self.unary(self.deeper(depth)?)?;
                self.apply_unary(sign, operand)
            }
            Token::Sign(b'(') => {
                self.advance();
                let depth = self.deeper(depth)?;
                let unsigned = match self.token {
                    Token::Dotted("u64") => true,
                    Token::Dotted("s64") => false,
                    _ => {
                        let value = self.ternary(depth)?;
                        self.expect(b')')?;
                        return Ok(value);
                    }
                };
                self.advance();
                self.expect(b')')?;
                match self.unary(depth)? {
                    Value::Integer(Integer { bits, .. }) => {
                        Ok(Value::Integer(Integer { bits, unsigned }))
                    }
                    _ => self.mismatch(),
                }
            }
            _ => self.unexpected("a constant"),
        }
    }

    fn leave_literal(&mut self, written: &str) -> Parsed<Value> {
        let value = self.literal(written)?;
        self.advance();
        Ok(value)
    }

    fn apply_unary(&self, sign: u8, operand: Value) -> Parsed<Value> {
        match (sign, operand) {
            (b'+', Value::Integer(_) | Value::Decimal(_)) => Ok(operand),
            (b'-', Value::Decimal(number)) => Ok(Value::Decimal(-number)),
            (b'-', Value::Integer(Integer { bits, unsigned })) => {
                Ok(Value::Integer(Integer { bits: bits.wrapping_neg(), unsigned }))
            }
            (b'~', Value::Integer(Integer { bits, .. })) => {
                Ok(Value::Integer(Integer { bits: !bits, unsigned: true }))
            }
            (b'!', Value::Integer(Integer { bits, .. })) => Ok(flag(bits == 0)),
            _ => self.mismatch(),
        }
    }

    fn apply(&self, operator: Operator, left: Value, right: Value) -> Parsed<Value> {
        match (left, right) {
            (Value::Integer(left), Value::Integer(right)) => {
                match integers(operator, left, right) {
                    Some(value) => Ok(value),
                    None => self.error_behind("a constant is divided by zero"),
                }
            }
            (Value::Decimal(left), Value::Decimal(right)) => {
                match decimals(operator, left, right) {
                    Some(value) => Ok(value),
                    None => self.mismatch(),
                }
            }
            _ => self.mismatch(),
        }
    }

    fn truth(&self, value: Value) -> Parsed<bool> {
        match value {
            Value::Integer(Integer { bits, .. }) => Ok(bits != 0),
            _ => self.mismatch(),
        }
    }

    fn mismatch<T>(&self) -> Parsed<T> {
        self.error_behind("a constant expression whose types do not match")
    }

    fn deeper(&self, depth: u32) -> Parsed<u32> {
        match depth.checked_sub(1) {
            Some(depth) => Ok(depth),
            None => self.error("a constant expression is nested too deeply"),
        }
    }
}

/// The bits behind `0f` and `0d`.
fn pattern(digits: &str, length: usize) -> Option<u64> {
    let hexadecimal = digits.len() == length && digits.bytes().all(|b| b.is_ascii_hexdigit());
    hexadecimal.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// An operator with the strength that it binds with.
fn operator(token: Token<'_>) -> Option<(Operator, u8)> {
    Some(match token {
        Token::Sign(b'*') => (Operator::Multiply, 10),
        Token::Sign(b'/') => (Operator::Divide, 10),
        Token::Sign(b'%') => (Operator::Remainder, 10),
        Token::Sign(b'+') => (Operator::Add, 9),
        Token::Sign(b'-') => (Operator::Subtract, 9),
        Token::Doubled(b'<') => (Operator::Left, 8),
        Token::Doubled(b'>') => (Operator::Right, 8),
        Token::Sign(b'<') => (Operator::Less, 7),
        Token::OrEqual(b'<') => (Operator::LessOrEqual, 7),
        Token::Sign(b'>') => (Operator::Greater, 7),
        Token::OrEqual(b'>') => (Operator::GreaterOrEqual, 7),
        Token::Doubled(b'=') => (Operator::Equal, 6),
        Token::OrEqual(b'!') => (Operator::NotEqual, 6),
        Token::Sign(b'&') => (Operator::And, 5),
        Token::Sign(b'^') => (Operator::ExclusiveOr, 4),
        Token::Sign(b'|') => (Operator::Or, 3),
        Token::Doubled(b'&') => (Operator::Both, 2),
        Token::Doubled(b'|') => (Operator::Either, 1),
        _ => return None,
    })
}

fn flag(set: bool) -> Value {
    Value::Integer(Integer { bits: set.into(), unsigned: false })
}

/// None where a division by zero is asked for. Types and shifts by 64 and more are as in ptxas,
/// which is more exact than PTX ISA: summary of constant expression evaluation rules.
fn integers(operator: Operator, left: Integer, right: Integer) -> Option<Value> {
    let unsigned = left.unsigned || right.unsigned;
    let (a, b) = (left.bits, right.bits);
    let (signed_a, signed_b) = (a as i64, b as i64);
    let order = if unsigned { a.cmp(&b) } else { signed_a.cmp(&signed_b) };
    let shift = b as u32;
    let of = |bits: u64, unsigned: bool| Value::Integer(Integer { bits, unsigned });
    Some(match operator {
        Operator::Multiply => of(a.wrapping_mul(b), unsigned),
        Operator::Add => of(a.wrapping_add(b), unsigned),
        Operator::Subtract => of(a.wrapping_sub(b), unsigned),
        Operator::Divide | Operator::Remainder if b == 0 => return None,
        Operator::Divide if unsigned => of(a / b, true),
        Operator::Divide => of(signed_a.wrapping_div(signed_b) as u64, false),
        Operator::Remainder => of(a % b, true),
        Operator::Left => of(a.wrapping_shl(shift), left.unsigned),
        Operator::Right if left.unsigned => of(a.wrapping_shr(shift), true),
        Operator::Right => of(signed_a.wrapping_shr(shift) as u64, false),
        Operator::Less => flag(order.is_lt()),
        Operator::LessOrEqual => flag(order.is_le()),
        Operator::Greater => flag(order.is_gt()),
        Operator::GreaterOrEqual => flag(order.is_ge()),
        Operator::Equal => flag(a == b),
        Operator::NotEqual => flag(a != b),
        Operator::And => of(a & b, unsigned),
        Operator::ExclusiveOr => of(a ^ b, unsigned),
        Operator::Or => of(a | b, unsigned),
        Operator::Both => flag(a != 0 && b != 0),
        Operator::Either => flag(a != 0 || b != 0),
    })
}

/// None where floating point has no such operator.
fn decimals(operator: Operator, left: f64, right: f64) -> Option<Value> {
    Some(match operator {
        Operator::Multiply => Value::Decimal(left * right),
        Operator::Divide => Value::Decimal(left / right),
        Operator::Add => Value::Decimal(left + right),
        Operator::Subtract => Value::Decimal(left - right),
        Operator::Less => flag(left < right),
        Operator::LessOrEqual => flag(left <= right),
        Operator::Greater => flag(left > right),
        Operator::GreaterOrEqual => flag(left >= right),
        Operator::Equal => flag(left == right),
        Operator::NotEqual => flag(left != right),
        _ => return None,
    })
}
