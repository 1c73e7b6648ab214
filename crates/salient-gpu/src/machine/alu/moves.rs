//! `mov` (PTX ISA: mov).

use crate::machine::inst::{Inst, Lanes, More};
use crate::machine::lower::Lower;
use crate::machine::registers::Registers;
use crate::ptx::ast::{Kind, Operand, Type};

use super::form::{Form, register};
use super::lanes::{Lane, Raw, op1, op2};
use super::logic::predicate;

/// False for special registers that are not the same at every time.
pub(super) fn lower(
    form: &mut Form<'_>,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let kind = form.kind()?;
    form.end()?;
    form.count(operands, 2)?;
    let size = register(kind)?;
    if size.bits == 8 || size.kind == Kind::Packed || size.kind == Kind::BFloat || kind == "f16" {
        return Err(form.unknown());
    }
    match (&operands[0], &operands[1]) {
        (_, Operand::Special(name)) if !crate::machine::special::is_constant(name) => {
            return Ok(false);
        }
        (target, source) if kind == "pred" => {
            let mut inst = Inst::lanes(|r, i, mask| r.set_predicate(i.d, mask, r.predicate(i.a)));
            inst.a = predicate(cx, source)?;
            inst.d = cx.predicate_target(target)?;
            cx.push(inst);
        }
        (Operand::Vector(parts), source) if size.kind == Kind::Bits => {
            unpack(form, size, parts, source, cx)?;
        }
        (target, Operand::Vector(parts)) if size.kind == Kind::Bits => {
            pack(form, size, target, parts, cx)?;
        }
        _ => {
            let run = match size.bits {
                128 => op1!(|a: u128| a),
                64 => op1!(|a: u64| a),
                32 => op1!(|a: u32| a),
                _ => op1!(|a: u16| a),
            };
            form.push(cx, run, operands, size, &[size])?;
        }
    }
    Ok(true)
}

/// The type of each of some parts of a whole.
fn part(form: &Form<'_>, whole: Type, parts: usize) -> Result<Type, String> {
    match (whole.bits, parts) {
        (16..=128, 2) | (32 | 64, 4) => {
            Ok(Type { kind: Kind::Bits, bits: whole.bits / parts as u32 })
        }
        _ => Err(form.unknown()),
    }
}

fn pack(
    form: &Form<'_>,
    whole: Type,
    target: &Operand,
    parts: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = part(form, whole, parts.len())?;
    let run: Lanes = match (whole.bits, parts.len()) {
        (16, _) => op2!(|a: u8, b: u8| u16::from(a) | u16::from(b) << 8),
        (32, 2) => op2!(|a: u16, b: u16| u32::from(a) | u32::from(b) << 16),
        (64, 2) => op2!(|a: u32, b: u32| u64::from(a) | u64::from(b) << 32),
        (128, _) => op2!(|a: u64, b: u64| u128::from(a) | u128::from(b) << 64),
        (32, _) => pack4::<u32>,
        _ => pack4::<u64>,
    };
    let mut inst = Inst::lanes(run);
    let mut sources = [0; 4];
    for (source, operand) in sources.iter_mut().zip(parts) {
        *source = cx.source(operand, kind)?;
    }
    [inst.a, inst.b, inst.c, inst.e] = sources;
    inst.d = cx.target(target, whole)?;
    cx.push(inst);
    Ok(())
}

/// A word or a long in four parts.
trait Quarters: Raw {
    fn join(parts: [u32; 4]) -> Self;
    fn quarter(self, at: u32) -> u32;
}

impl Quarters for u32 {
    #[inline(always)]
    fn join(parts: [u32; 4]) -> Self {
        Self::from_le_bytes(parts.map(|part| part as u8))
    }

    #[inline(always)]
    fn quarter(self, at: u32) -> u32 {
        self >> (8 * at) & 0xff
    }
}

impl Quarters for u64 {
    #[inline(always)]
    fn join(parts: [u32; 4]) -> Self {
        (0..4).fold(0, |whole, at| whole | (Self::from(parts[at]) & 0xffff) << (16 * at))
    }

    #[inline(always)]
    fn quarter(self, at: u32) -> u32 {
        (self >> (16 * at)) as u32 & 0xffff
    }
}

fn pack4<T: Quarters>(r: &mut Registers, i: &Inst, mask: u32) {
    let parts = [i.a, i.b, i.c, i.e].map(|row| r.words(row));
    let whole = std::array::from_fn(|lane| T::join(parts.map(|part| part[lane])));
    T::set(r, i.d, mask, &whole);
}

fn unpack(
    form: &Form<'_>,
    whole: Type,
    parts: &[Operand],
    source: &Operand,
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let kind = part(form, whole, parts.len())?;
    let run: Lanes = match (whole.bits, parts.len()) {
        (16, _) => |r, i, mask| unpack2(r, i, mask, |a: u16| (a as u8, (a >> 8) as u8)),
        (32, 2) => |r, i, mask| unpack2(r, i, mask, |a: u32| (a as u16, (a >> 16) as u16)),
        (64, 2) => |r, i, mask| unpack2(r, i, mask, |a: u64| (a as u32, (a >> 32) as u32)),
        (128, _) => |r, i, mask| unpack2(r, i, mask, |a: u128| (a as u64, (a >> 64) as u64)),
        (32, _) => unpack4::<u32>,
        _ => unpack4::<u64>,
    };
    let mut inst = Inst::lanes(run);
    inst.a = cx.source(source, whole)?;
    let mut targets = Vec::with_capacity(parts.len());
    for operand in parts {
        targets.push(cx.target(operand, kind)?);
    }
    if let [low, high] = targets[..] {
        (inst.d, inst.e) = (low, high);
    } else {
        inst.more = Some(Box::new(More { targets, ..More::default() }));
    }
    cx.push(inst);
    Ok(())
}

#[inline(always)]
fn unpack2<A: Lane, P: Lane>(r: &mut Registers, i: &Inst, mask: u32, f: impl Fn(A) -> (P, P)) {
    let a = A::Raw::all(r, i.a);
    let (mut low, mut high) = ([P::Raw::default(); 32], [P::Raw::default(); 32]);
    for lane in 0..32 {
        let (l, h) = f(A::of(a[lane]));
        (low[lane], high[lane]) = (l.raw(), h.raw());
    }
    P::Raw::set(r, i.d, mask, &low);
    P::Raw::set(r, i.e, mask, &high);
}

fn unpack4<T: Quarters>(r: &mut Registers, i: &Inst, mask: u32) {
    let whole = *T::all(r, i.a);
    for (at, &target) in i.more.iter().flat_map(|more| &more.targets).enumerate() {
        let part = whole.map(|whole| whole.quarter(at as u32));
        r.set_words(target, mask, &part);
    }
}
