//! The body of a kernel, with the functions that it calls in place of their calls.

use std::collections::HashMap;
use std::sync::Arc;

use crate::ptx::ParseError;
use crate::ptx::ast::{Function, Instruction, Kind, Operand, Space};

use super::inst::{Inst, UNGUARDED};
use super::lower::{Callee, Lower};
use super::module::Place;
use super::{
    access, addressing, alu, async_copy, atomic, barrier, bulk, cluster, collective, control,
    matrix, mbarrier, warpgroup,
};

/// Functions within functions are no deeper; a recursion is.
const DEEPEST: u32 = 32;

/// What is gathered on the way.
struct Body<'p> {
    places: &'p mut Vec<Place>,
    opcodes: HashMap<u32, Arc<str>>,
    local_bytes: u64,
    depth: u32,
}

/// Lowers a kernel's body. Gives the bytes of local memory that it takes.
pub(crate) fn lower(
    cx: &mut Lower<'_>,
    places: &mut Vec<Place>,
    local_bytes: u64,
) -> Result<u64, ParseError> {
    let mut body = Body { places, opcodes: HashMap::new(), local_bytes, depth: 0 };
    body.lower(cx)?;
    let place = body.places.len().saturating_sub(1) as u32;
    if body.places.is_empty() {
        body.places.push(Place { ptx_line: 0, source: None, opcode: "exit".into() });
    }
    let mut end = control::exit();
    end.place = place;
    cx.push(end);
    Ok(body.local_bytes)
}

impl Body<'_> {
    /// Lowers the function that `cx` is in.
    fn lower<'a>(&mut self, cx: &mut Lower<'a>) -> Result<(), ParseError> {
        let function: &'a Function = cx.function;
        let first_jump = cx.jumps.len();
        let mut starts = Vec::with_capacity(function.instructions.len() + 1);
        for (i, instruction) in function.instructions.iter().enumerate() {
            starts.push(cx.insts.len() as u32);
            let place = self.place(cx, instruction);
            self.lower_one(cx, instruction, i, place)
                .map_err(|message| ParseError { line: instruction.line, message })?;
        }
        starts.push(cx.insts.len() as u32);
        for (at, jump) in cx.jumps.split_off(first_jump) {
            let inst = &mut cx.insts[at];
            if let Some(more) = &mut inst.more {
                for target in &mut more.targets {
                    *target = starts[*target as usize];
                }
            } else {
                inst.e = starts[jump as usize];
            }
        }
        Ok(())
    }

    fn place(&mut self, cx: &Lower<'_>, instruction: &Instruction) -> u32 {
        let opcode = self.opcodes.entry(instruction.opcode).or_insert_with(|| {
            let opcode = cx.opcode(instruction);
            let mut text = opcode.name.clone();
            for modifier in &opcode.modifiers {
                text.push('.');
                text.push_str(modifier);
            }
            text.into()
        });
        let source = instruction.source.map(|source| {
            let source = &cx.function.sources[source as usize];
            (source.file, source.line)
        });
        let place = Place { ptx_line: instruction.line, source, opcode: opcode.clone() };
        self.places.push(place);
        self.places.len() as u32 - 1
    }

    fn lower_one<'a>(
        &mut self,
        cx: &mut Lower<'a>,
        instruction: &'a Instruction,
        number: usize,
        place: u32,
    ) -> Result<(), String> {
        let guard = match instruction.guard {
            None => UNGUARDED,
            Some(guard) => {
                if cx.register_type(guard.register).kind != Kind::Predicate {
                    return Err("the guard is no predicate".to_owned());
                }
                cx.row_of(guard.register) << 1 | u32::from(guard.negated)
            }
        };
        let opcode = cx.opcode(instruction);
        let begin = cx.insts.len();
        if opcode.name == "call" {
            if guard != UNGUARDED {
                let mut skip = control::jump();
                skip.guard = guard ^ 1;
                skip.place = place;
                cx.jumps.push((cx.insts.len(), number as u32 + 1));
                cx.push(skip);
            }
            return self.call(cx, &instruction.operands, place);
        }
        let operands = &instruction.operands[..];
        let known = control::lower(opcode, operands, cx)?
            || access::lower(opcode, operands, cx)?
            || addressing::lower(opcode, operands, cx)?
            || atomic::lower(opcode, operands, cx)?
            || barrier::lower(opcode, operands, cx)?
            || cluster::lower(opcode, operands, cx)?
            || collective::lower(opcode, operands, cx)?
            || async_copy::lower(opcode, operands, cx)?
            || bulk::lower(opcode, operands, cx)?
            || mbarrier::lower(opcode, operands, cx)?
            || matrix::lower(opcode, operands, cx)?
            || warpgroup::lower(opcode, operands, cx)?
            || alu::lower(opcode, operands, cx)?;
        if !known {
            let opcode = &self.places[place as usize].opcode;
            return Err(format!("{opcode} is no instruction that the software GPU has"));
        }
        for inst in &mut cx.insts[begin..] {
            inst.guard = guard;
            inst.place = place;
        }
        Ok(())
    }

    /// `call (results), name, (arguments)`: the body of `name`, with parameters that lie where the
    /// arguments do (PTX ISA: call; the ABI's parameter variables).
    fn call<'a>(
        &mut self,
        cx: &mut Lower<'a>,
        operands: &'a [Operand],
        place: u32,
    ) -> Result<(), String> {
        let no_lists = (&[][..], &[][..]);
        let (name, (returns, params)) = match operands {
            [Operand::Function(name)] => (name, no_lists),
            [Operand::Function(name), Operand::List(params)] => (name, (&[][..], &params[..])),
            [Operand::List(returns), Operand::Function(name)] => (name, (&returns[..], &[][..])),
            [Operand::List(returns), Operand::Function(name), Operand::List(params)] => {
                (name, (&returns[..], &params[..]))
            }
            _ => return Err("call by address is not supported".to_owned()),
        };
        if let Some(inst) = control::intrinsic(name, params, cx)? {
            let mut inst: Inst = inst;
            inst.place = place;
            cx.push(inst);
            return Ok(());
        }
        let function = cx.module.functions.iter().find(|f| f.name == *name && f.defined);
        let function = function.ok_or_else(|| format!("{name} has no body"))?;
        if self.depth == DEEPEST {
            return Err(format!("{name} is called by itself, or too deeply"));
        }
        let lie = |cx: &Lower<'a>, arguments: &[Operand]| -> Result<Vec<u64>, String> {
            arguments
                .iter()
                .map(|argument| match argument {
                    Operand::Variable(variable, 0) => cx.address(variable),
                    _ => Err("an argument of a call is no parameter variable".to_owned()),
                })
                .collect()
        };
        let (returns, params) = (lie(cx, returns)?, lie(cx, params)?);
        if (returns.len(), params.len()) != (function.returns.len(), function.params.len()) {
            return Err(format!(
                "{name} takes {} and returns {}",
                function.params.len(),
                function.returns.len()
            ));
        }
        if function.variables.iter().any(|variable| variable.space == Space::Shared) {
            return Err(format!("{name} has shared variables of its own"));
        }
        let variables = function
            .variables
            .iter()
            .map(|variable| {
                let at = self.local_bytes.next_multiple_of(variable.align.max(1));
                self.local_bytes = at + variable.size;
                at
            })
            .collect();
        let left = cx.enter(function, Callee { variables, params, returns });
        self.depth += 1;
        let done = self.lower(cx);
        self.depth -= 1;
        cx.leave(left);
        done.map_err(|error| format!("in {name}, line {}: {}", error.line, error.message))
    }
}
