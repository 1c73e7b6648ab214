//! An opcode being taken apart, and instructions put together.

use crate::machine::inst::{Inst, Lanes};
use crate::machine::lower::{Lower, type_of};
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

/// The modifiers of an opcode that have not been accounted for yet.
pub(super) struct Form<'a> {
    pub(super) opcode: &'a Opcode,
    pub(super) name: &'a str,
    rest: Vec<&'a str>,
}

impl<'a> Form<'a> {
    pub(super) fn new(opcode: &'a Opcode) -> Self {
        let rest = opcode.modifiers.iter().map(String::as_str).collect();
        Self { opcode, name: &opcode.name, rest }
    }

    /// Whether a modifier is there.
    pub(super) fn flag(&mut self, modifier: &str) -> bool {
        let at = self.rest.iter().position(|&m| m == modifier);
        at.map(|at| self.rest.remove(at)).is_some()
    }

    /// Which of some modifiers is there.
    pub(super) fn one_of(&mut self, modifiers: &[&'static str]) -> Option<&'static str> {
        modifiers.iter().copied().find(|m| self.flag(m))
    }

    /// The first of the modifiers left, if it is one of these.
    pub(super) fn first_of(&mut self, modifiers: &[&'static str]) -> Option<&'static str> {
        let found = modifiers.iter().copied().find(|m| self.rest.first() == Some(m))?;
        self.rest.remove(0);
        Some(found)
    }

    /// The last of the modifiers left, which is a type.
    pub(super) fn kind(&mut self) -> Result<&'a str, String> {
        self.rest.pop().ok_or_else(|| format!("{} lacks a type", self.spelled()))
    }

    /// Says that there is no such instruction, if a modifier is left.
    pub(super) fn end(&self) -> Result<(), String> {
        match self.rest.first() {
            None => Ok(()),
            Some(modifier) => Err(format!("{} has no .{modifier}", self.spelled())),
        }
    }

    /// A handler that was looked for, and nothing else behind it.
    pub(super) fn found<T>(&self, handler: Option<T>) -> Result<T, String> {
        self.end()?;
        handler.ok_or_else(|| self.unknown())
    }

    pub(super) fn unknown(&self) -> String {
        format!("there is no {}", self.spelled())
    }

    pub(super) fn spelled(&self) -> String {
        let mut spelled = self.opcode.name.clone();
        for modifier in &self.opcode.modifiers {
            spelled.push('.');
            spelled.push_str(modifier);
        }
        spelled
    }

    pub(super) fn count(&self, operands: &[Operand], count: usize) -> Result<(), String> {
        if operands.len() == count {
            return Ok(());
        }
        Err(format!("{} takes {count} operands, not {}", self.spelled(), operands.len()))
    }

    /// An instruction of one destination and up to four sources that are rows.
    pub(super) fn push(
        &self,
        cx: &mut Lower<'_>,
        run: Lanes,
        operands: &[Operand],
        target: Type,
        sources: &[Type],
    ) -> Result<(), String> {
        self.count(operands, 1 + sources.len())?;
        let mut inst = Inst::lanes(run);
        let slots = [&mut inst.a, &mut inst.b, &mut inst.c, &mut inst.e];
        for ((slot, operand), &kind) in slots.into_iter().zip(&operands[1..]).zip(sources) {
            *slot = cx.source(operand, kind)?;
        }
        inst.d = cx.target(&operands[0], target)?;
        cx.push(inst);
        Ok(())
    }
}

/// A type's name as a register type; those that only instructions know are bits of their size.
pub(super) fn register(kind: &str) -> Result<Type, String> {
    let bits = match kind {
        "u16x2" | "s16x2" | "tf32" => 32,
        "f32x2" => 64,
        "e4m3x2" | "e5m2x2" | "e2m3x2" | "e3m2x2" => 16,
        "e2m1x2" => 8,
        _ => return type_of(kind).ok_or_else(|| format!("there is no type .{kind}")),
    };
    Ok(Type { kind: Kind::Bits, bits })
}

pub(super) const B16: Type = Type { kind: Kind::Bits, bits: 16 };
pub(super) const B32: Type = Type { kind: Kind::Bits, bits: 32 };
