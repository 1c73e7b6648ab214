//! Instructions that touch registers alone (PTX ISA: Instructions, from Integer Arithmetic to Data
//! Movement).

mod approx;
mod compare;
mod convert;
mod extended;
mod fields;
mod float;
mod form;
mod half;
mod integer;
mod lanes;
mod logic;
mod moves;
mod narrow;
mod number;
mod soft;
#[cfg(test)]
mod tests;
mod whole;

use crate::ptx::ast::{Opcode, Operand};

use super::lower::Lower;
use form::Form;

pub(crate) use approx::set_approximate;

/// Lowers an instruction, if its name is one of these.
///
/// # Errors
///
/// A modifier, a type or an operand that it does not have.
pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let form = &mut Form::new(opcode);
    let kind = opcode.modifiers.last().map_or("", String::as_str);
    match opcode.name.as_str() {
        "add" | "sub" | "mul" | "mad" | "fma" | "div" | "rem" | "abs" | "neg" | "min" | "max"
        | "sad" | "mul24" | "mad24" | "dp4a" | "dp2a" | "rcp" | "sqrt" | "rsqrt" | "sin"
        | "cos" | "lg2" | "ex2" | "tanh" | "copysign" => match kind {
            "f32" | "f64" | "f32x2" => float::lower(form, operands, cx),
            "f16" | "bf16" if opcode.modifiers.iter().any(|modifier| modifier == "f32") => {
                float::lower_mixed(form, operands, cx)
            }
            "f16" | "f16x2" | "bf16" | "bf16x2" => half::lower(form, operands, cx),
            _ if opcode.modifiers.iter().any(|modifier| modifier == "cc") => {
                extended::lower(form, operands, cx)
            }
            _ => integer::lower(form, operands, cx),
        },
        "addc" | "subc" | "madc" => extended::lower(form, operands, cx),
        "popc" | "clz" | "bfind" | "brev" | "bfe" | "bfi" | "bmsk" | "szext" | "fns" => {
            fields::lower(form, operands, cx)
        }
        "testp" => compare::lower_class(form, operands, cx),
        "setp" => compare::lower_predicate(form, operands, cx),
        "set" => compare::lower_number(form, operands, cx),
        "selp" => compare::lower_select(form, operands, cx),
        "slct" => compare::lower_by_sign(form, operands, cx),
        "and" | "or" | "xor" | "not" | "cnot" => logic::lower(form, operands, cx),
        "shl" | "shr" => logic::lower_shift(form, operands, cx),
        "shf" => logic::lower_funnel(form, operands, cx),
        "lop3" => logic::lower_table(form, operands, cx),
        "prmt" => logic::lower_permute(form, operands, cx),
        "cvt" => convert::lower(form, operands, cx),
        "mov" => return moves::lower(form, operands, cx),
        _ => return Ok(false),
    }
    .map(|()| true)
}
