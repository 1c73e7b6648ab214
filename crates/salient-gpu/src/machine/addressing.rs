//! Addresses: operands, conversions, and hints to caches (PTX ISA: Generic Addressing, cvta,
//! isspacep, prefetch, createpolicy).

use crate::ptx::ast::{Kind, Opcode, Operand, Space, Type};

use super::inst::Inst;
use super::lower::{Lower, type_of};
use super::registers::Longs;
use super::space::{Where, split_rank};
use super::turn::{Step, Turn};

/// The address operand has 64 bits.
pub(crate) const WIDE_ADDRESS: u32 = 1;

const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
const U64: Type = Type { kind: Kind::Unsigned, bits: 64 };

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    match &opcode.name[..] {
        "cvta" => convert_address(opcode, operands, cx)?,
        "isspacep" => is_space(opcode, operands, cx)?,
        "prefetch" | "prefetchu" | "discard" | "applypriority" => hint(operands, cx)?,
        "createpolicy" => create_policy(opcode, operands, cx)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The row of an address, what is added to it, and whether it has 64 bits.
pub(crate) fn address(
    operand: &Operand,
    cx: &mut Lower<'_>,
) -> Result<(u32, i64, u32, Option<Space>), String> {
    let Operand::Address(base, offset) = operand else {
        return Err("an address stands in brackets".to_owned());
    };
    match &**base {
        Operand::Register(register) => {
            let wide = cx.register_type(*register).bits == 64;
            let row = cx.source(base, if wide { U64 } else { U32 })?;
            Ok((row, *offset, u32::from(wide), None))
        }
        Operand::Variable(name, more) if cx.space(name) == Space::Shared => {
            let at = cx.address(name)?.wrapping_add_signed(*more).wrapping_add_signed(*offset);
            Ok((cx.constant(at & u64::from(u32::MAX), false), 0, 0, Some(Space::Shared)))
        }
        Operand::Variable(name, more) => {
            let at = cx.address(name)?.wrapping_add_signed(*more).wrapping_add_signed(*offset);
            Ok((cx.constant(at, true), 0, WIDE_ADDRESS, Some(cx.space(name))))
        }
        Operand::Integer(at) => Ok((
            cx.constant((*at as u64).wrapping_add_signed(*offset), true),
            0,
            WIDE_ADDRESS,
            None,
        )),
        _ => Err("an address is a register, a variable or a number".to_owned()),
    }
}

/// The addresses of all lanes.
#[inline(always)]
pub(crate) fn addresses(turn: &Turn<'_, '_>, row: u32, offset: i64, wide: bool) -> Longs {
    let regs = &turn.world.blocks[turn.block].warps[turn.warp].regs;
    let mut addresses = [0; 32];
    if wide {
        let base = regs.longs(row);
        for lane in 0..32 {
            addresses[lane] = base[lane].wrapping_add_signed(offset);
        }
    } else {
        let base = regs.words(row);
        for lane in 0..32 {
            addresses[lane] = u64::from(base[lane].wrapping_add(offset as u32));
        }
    }
    addresses
}

/// cvta and cvta.to: a window's start is added or taken off.
fn convert_address(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    let (to, space, size) = match modifiers[..] {
        ["to", space, size] => (true, space, size),
        [space, size] => (false, space, size),
        _ => return Err("cvta takes a space and a size".to_owned()),
    };
    let place = Where::of(space).ok_or_else(|| format!("cvta has no .{space}"))?;
    let kind = type_of(size).filter(|kind| matches!(size, "u32" | "u64") && kind.bits >= 32);
    let kind = kind.ok_or_else(|| format!("cvta has no .{size}"))?;
    let [target, source] = operands else {
        return Err("cvta takes two operands".to_owned());
    };
    if kind.bits != 64 {
        return Err("cvta of 32 bits, but addresses have 64".to_owned());
    }
    // Variables of calls' parameters lie in local memory.
    let place = match source {
        Operand::Variable(name, _) if place == Where::Param && cx.space(name) == Space::Local => {
            Where::Local
        }
        _ => place,
    };
    let mut inst = Inst::lanes(|regs, inst, lanes| {
        let values = regs.longs(inst.a).map(|value| value.wrapping_add_signed(inst.immediate));
        regs.set_longs(inst.d, lanes, &values);
    });
    inst.a = cx.source(source, kind)?;
    inst.d = cx.target(target, kind)?;
    let window = place.window() as i64;
    inst.immediate = if to { -window } else { window };
    cx.push(inst);
    Ok(())
}

fn is_space(opcode: &Opcode, operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    let ([space], [target, source]) = (&opcode.modifiers[..], operands) else {
        return Err("isspacep takes a space and two operands".to_owned());
    };
    // Constants lie in global memory here, so that their windows cannot be told apart.
    let place = Where::of(space)
        .filter(|_| space != "const")
        .ok_or_else(|| format!("isspacep has no .{space}"))?;
    let own = space == "shared::cta" || space == "shared";
    let mut inst = Inst::lanes(|regs, inst, lanes| {
        let place = Where::ALL[(inst.e >> 1) as usize];
        let mut is = 0;
        for (lane, &address) in regs.longs(inst.a).iter().enumerate() {
            let own = inst.e & 1 == 0 || split_rank(address as u32).0.is_none();
            is |= u32::from(Where::of_generic(address) == place && own) << lane;
        }
        regs.set_predicate(inst.d, lanes, is);
    });
    inst.a = cx.source(source, U64)?;
    inst.d = cx.predicate_target(target)?;
    inst.e = u32::from(own && place == Where::Shared) | (place as u32) << 1;
    cx.push(inst);
    Ok(())
}

/// What only concerns caches. Addresses are not looked at, as the device does not fault on them.
fn hint(operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    let Some(at @ Operand::Address(..)) = operands.first() else {
        return Err("a prefetch takes an address".to_owned());
    };
    address(at, cx)?;
    cx.push(Inst::machine(|_, _, _| Ok(Step::Next)));
    Ok(())
}

/// A cache policy is a number that only caches read.
fn create_policy(opcode: &Opcode, operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    let known = ["fractional", "range", "cvt"];
    let Some(target) = operands.first() else {
        return Err("createpolicy takes a destination".to_owned());
    };
    if !opcode.modifiers.first().is_some_and(|form| known.contains(&&form[..])) {
        return Err("createpolicy has no such form".to_owned());
    }
    let mut inst = Inst::lanes(|regs, inst, lanes| {
        regs.set_longs(inst.d, lanes, &[inst.immediate as u64; 32]);
    });
    inst.d = cx.target(target, type_of("b64").expect("a type"))?;
    inst.immediate = 0x10f0_0000_0000_0000;
    cx.push(inst);
    Ok(())
}
