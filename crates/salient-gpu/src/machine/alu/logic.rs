//! Logic, shifts and permutes (PTX ISA: Logic and Shift Instructions; prmt).

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::Lower;
use crate::machine::registers::Registers;
use crate::ptx::ast::Operand;

use super::form::{B32, Form, register};
use super::integer::typed;
use super::lanes::{map3, op1, op2, op3, test2};

/// `and`, `or`, `xor`, `not`, `cnot`.
pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = form.name;
    let kind = form.kind()?;
    if kind == "pred" {
        return lower_predicates(form, operands, cx);
    }
    macro_rules! bits {
        ($T:ident => $handler:expr) => {
            typed!(kind, ["b16" u16, "b32" u32, "b64" u64], $T => $handler)
        };
    }
    let run = match name {
        "and" => bits!(T => op2!(|a: T, b: T| a & b)),
        "or" => bits!(T => op2!(|a: T, b: T| a | b)),
        "xor" => bits!(T => op2!(|a: T, b: T| a ^ b)),
        "not" => bits!(T => op1!(|a: T| !a)),
        "cnot" => bits!(T => op1!(|a: T| T::from(a == 0))),
        _ => None,
    };
    let run = form.found(run)?;
    let size = register(kind)?;
    let count = if matches!(name, "not" | "cnot") { 1 } else { 2 };
    form.push(cx, run, operands, size, &[size; 2][..count])
}

fn lower_predicates(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let run: Option<Lanes> = match form.name {
        "and" => Some(|r, i, mask| {
            r.set_predicate(i.d, mask, r.predicate(i.a) & r.predicate(i.b));
        }),
        "or" => Some(|r, i, mask| {
            r.set_predicate(i.d, mask, r.predicate(i.a) | r.predicate(i.b));
        }),
        "xor" => Some(|r, i, mask| {
            r.set_predicate(i.d, mask, r.predicate(i.a) ^ r.predicate(i.b));
        }),
        "not" => Some(|r, i, mask| r.set_predicate(i.d, mask, !r.predicate(i.a))),
        _ => None,
    };
    let mut inst = Inst::lanes(form.found(run)?);
    form.count(operands, if form.name == "not" { 2 } else { 3 })?;
    inst.a = predicate(cx, &operands[1])?;
    if let Some(operand) = operands.get(2) {
        inst.b = predicate(cx, operand)?;
    }
    inst.d = cx.predicate_target(&operands[0])?;
    cx.push(inst);
    Ok(())
}

/// A predicate that is read; any number but 0 is true.
pub(super) fn predicate(cx: &mut Lower<'_>, operand: &Operand) -> Result<u32, String> {
    match operand {
        Operand::Integer(value) => cx.predicate(&Operand::Integer(i128::from(*value != 0))),
        _ => cx.predicate(operand),
    }
}

/// `shl` and `shr`. Amounts above the width are as the width: zeros remain, or signs.
pub(super) fn lower_shift(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = form.kind()?;
    let run = match form.name {
        "shl" => typed!(kind, ["b16" u16, "b32" u32, "b64" u64], T => op2!(|a: T, b: u32| {
            if b < T::BITS { a << (b & (T::BITS - 1)) } else { 0 }
        })),
        "shr" => match kind {
            "b16" | "u16" => Some(op2!(|a: u16, b: u32| if b < 16 { a >> (b & 15) } else { 0 })),
            "b32" | "u32" => Some(op2!(|a: u32, b: u32| if b < 32 { a >> (b & 31) } else { 0 })),
            "b64" | "u64" => Some(op2!(|a: u64, b: u32| if b < 64 { a >> (b & 63) } else { 0 })),
            "s16" => Some(op2!(|a: i16, b: u32| a >> b.min(15))),
            "s32" => Some(op2!(|a: i32, b: u32| a >> b.min(31))),
            "s64" => Some(op2!(|a: i64, b: u32| a >> b.min(63))),
            _ => None,
        },
        _ => None,
    };
    let run = form.found(run)?;
    let size = register(kind)?;
    form.push(cx, run, operands, size, &[size, B32])
}

/// `shf`: of the pair of `b` and `a`, shifted left the upper word, shifted right the lower.
pub(super) fn lower_funnel(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    #[inline(always)]
    fn left(a: u32, b: u32, amount: u32) -> u32 {
        ((u64::from(b) << 32 | u64::from(a)) << amount >> 32) as u32
    }
    #[inline(always)]
    fn right(a: u32, b: u32, amount: u32) -> u32 {
        ((u64::from(b) << 32 | u64::from(a)) >> amount) as u32
    }
    let kind = form.kind()?;
    let run = match (form.one_of(&["l", "r"]), form.one_of(&["wrap", "clamp"]), kind) {
        (Some("l"), Some("wrap"), "b32") => op3!(|a: u32, b: u32, c: u32| left(a, b, c & 31)),
        (Some("l"), Some("clamp"), "b32") => op3!(|a: u32, b: u32, c: u32| left(a, b, c.min(32))),
        (Some("r"), Some("wrap"), "b32") => op3!(|a: u32, b: u32, c: u32| right(a, b, c & 31)),
        (Some("r"), Some("clamp"), "b32") => op3!(|a: u32, b: u32, c: u32| right(a, b, c.min(32))),
        _ => return Err(form.unknown()),
    };
    form.end()?;
    form.push(cx, run, operands, B32, &[B32; 3])
}

/// `lop3`: any function of three bits, by its truth table; with an operation on predicates behind
/// it, whether the word is not 0 goes into that.
pub(super) fn lower_table(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let operation = form.one_of(&["or", "and"]);
    if form.kind()? != "b32" {
        return Err(form.unknown());
    }
    form.end()?;
    form.count(operands, if operation.is_some() { 6 } else { 5 })?;
    let Operand::Integer(table @ 0..=255) = operands[4] else {
        return Err("the table of lop3 is no number from 0 to 255".to_owned());
    };
    let mut inst = Inst::lanes(by_table);
    inst.immediate = table as i64;
    inst.a = cx.source(&operands[1], B32)?;
    inst.b = cx.source(&operands[2], B32)?;
    inst.c = cx.source(&operands[3], B32)?;
    let Some(operation) = operation else {
        inst.d = cx.target(&operands[0], B32)?;
        cx.push(inst);
        return Ok(());
    };
    let Operand::Pair(word, truth) = &operands[0] else {
        return Err(format!("{} takes d|p", form.spelled()));
    };
    inst.d = cx.target(word, B32)?;
    let mut then: Inst = Inst::lanes(match operation {
        "or" => |r, i, mask| {
            let truth = test2(r, i, mask, |a: u32, _| a != 0) | r.predicate(i.c);
            r.set_predicate(i.d, mask, truth);
        },
        _ => |r, i, mask| {
            let truth = test2(r, i, mask, |a: u32, _| a != 0) & r.predicate(i.c);
            r.set_predicate(i.d, mask, truth);
        },
    });
    (then.a, then.b) = (inst.d, inst.d);
    then.c = predicate(cx, &operands[5])?;
    then.d = cx.predicate_target(truth)?;
    cx.push(inst);
    cx.push(then);
    Ok(())
}

fn by_table(r: &mut Registers, i: &Inst, mask: u32) {
    // Row 4a + 2b + c of the table is for bits a, b and c.
    let rows: [u32; 8] =
        std::array::from_fn(|row| 0u32.wrapping_sub(i.immediate as u32 >> row & 1));
    map3(r, i, mask, |a: u32, b: u32, c: u32| {
        let pick = |at: usize| rows[at] & !c | rows[at + 1] & c;
        (pick(0) & !b | pick(2) & b) & !a | (pick(4) & !b | pick(6) & b) & a
    });
}

/// `prmt`: bytes of `a` (0 to 3) and `b` (4 to 7), as selected by nibbles or by a mode.
pub(super) fn lower_permute(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    #[inline(always)]
    fn bytes(a: u32, b: u32, at: impl Fn(u32) -> u32) -> u32 {
        let all = u64::from(b) << 32 | u64::from(a);
        (0..4).fold(0, |d, i| d | ((all >> (8 * (at(i) & 7))) as u32 & 0xff) << (8 * i))
    }
    #[inline(always)]
    fn selected(a: u32, b: u32, c: u32) -> u32 {
        let all = u64::from(b) << 32 | u64::from(a);
        (0..4).fold(0, |d, i| {
            let selector = c >> (4 * i);
            let byte = (all >> (8 * (selector & 7))) as u32 & 0xff;
            // Bit 3 asks for the sign of the byte, eight times.
            let sign = (byte >> 7) * 0xff;
            d | (if selector & 8 != 0 { sign } else { byte }) << (8 * i)
        })
    }
    if form.first_of(&["b32"]).is_none() {
        return Err(form.unknown());
    }
    let run = match form.one_of(&["f4e", "b4e", "rc8", "ecl", "ecr", "rc16"]) {
        None => op3!(selected),
        Some("f4e") => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |i| (c & 3) + i)),
        Some("b4e") => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |i| (c & 3) + 8 - i)),
        Some("rc8") => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |_| c & 3)),
        Some("ecl") => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |i| i.max(c & 3))),
        Some("ecr") => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |i| i.min(c & 3))),
        Some(_) => op3!(|a: u32, b: u32, c: u32| bytes(a, b, |i| (c & 1) * 2 + (i & 1))),
    };
    form.end()?;
    form.push(cx, run, operands, B32, &[B32; 3])
}
