//! Atomics (PTX ISA: atom and red).

use half::{bf16, f16};

use crate::config::Order;
use crate::ptx::ast::{Opcode, Operand};

use super::access::each_ordered;
use super::addressing::{WIDE_ADDRESS, address, addresses};
use super::inst::{Inst, More, Stop};
use super::locate::{At, NOWHERE, find};
use super::lower::{Lower, type_of};
use super::observe::{Access, AccessKind, Ordering};
use super::registers::Longs;
use super::space::Where;
use super::turn::{Step, Turn};

/// What is done to what lies there: (before, operand, second operand) to after.
type Apply = fn(u64, u64, u64) -> u64;

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let returns = match &opcode.name[..] {
        "atom" => true,
        // red.async is among the bulk operations.
        "red" if opcode.modifiers.first().is_none_or(|form| form != "async") => false,
        _ => return Ok(false),
    };
    let mut place = Where::Generic;
    let (mut order, mut operation, mut kind, mut count) = (Ordering::NONE, None, None, 1);
    let mut hint = false;
    for modifier in &opcode.modifiers {
        match &modifier[..] {
            "relaxed" | "noftz" => {}
            word if order.set(word) => {}
            "L2::cache_hint" => hint = true,
            "v2" => count = 2,
            "v4" => count = 4,
            "v8" => count = 8,
            text => {
                if let Some(space) = Where::of(text) {
                    place = space;
                } else if text == "bf16x2" || text == "f16x2" || type_of(text).is_some() {
                    kind = Some(text);
                } else if operation.is_none() {
                    operation = Some(text);
                } else {
                    return Err(format!("{} has no .{text}", opcode.name));
                }
            }
        }
    }
    let (Some(operation), Some(name)) = (operation, kind) else {
        return Err(format!("{} names no operation or type", opcode.name));
    };
    let applied = OPERATIONS
        .iter()
        .position(|&(o, t, _)| (o, t) == (operation, name))
        .ok_or_else(|| format!("{} has no .{operation}.{name}", opcode.name))?;
    let kind = type_of(name).expect("it is a type");
    let two = operation == "cas";
    let wanted = usize::from(returns) + 2 + usize::from(two) + usize::from(hint);
    if operands.len() != wanted {
        return Err(format!("{} takes {wanted} operands", opcode.name));
    }
    let rest = &operands[usize::from(returns)..];
    let (row, offset, wide, _) = address(&rest[0], cx)?;
    let mut more = More::default();
    for part in parts(&rest[1], count)? {
        more.sources.push(cx.source(part, kind)?);
    }
    if two {
        more.sources.push(cx.source(&rest[2], kind)?);
    }
    if returns {
        for part in parts(&operands[0], count)? {
            more.targets.push(cx.target(part, kind)?);
        }
    }
    more.numbers = vec![order.code().into(), (kind.bits / 8) as i64, count as i64, place as i64];
    let mut inst = Inst::machine(run);
    inst.a = row;
    inst.immediate = offset;
    inst.e = wide;
    inst.d = applied as u32;
    inst.more = Some(Box::new(more));
    cx.push(inst);
    Ok(true)
}

fn parts(operand: &Operand, count: usize) -> Result<&[Operand], String> {
    match operand {
        Operand::Vector(parts) if count > 1 && parts.len() == count => Ok(parts),
        operand if count == 1 => Ok(std::slice::from_ref(operand)),
        _ => Err(format!("a vector of {count} is wanted")),
    }
}

fn run(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let more = inst.more.as_ref().expect("lowered with operands");
    let [order, bytes, count, place] = more.numbers[..] else { unreachable!("four numbers") };
    let (operation, kind, apply) = OPERATIONS[inst.d as usize];
    let single = (operation, kind) == ("add", "f32");
    let at = At { row: inst.a, offset: inst.immediate, wide: inst.e & WIDE_ADDRESS != 0 };
    let access = Access {
        kind: AccessKind::Atomic,
        bytes: (bytes * count) as u32,
        place: inst.place,
        order: Ordering::from_code(order as u32),
    };
    let mut pointers = NOWHERE;
    find(turn, Where::ALL[place as usize], at, lanes, access, &mut pointers)?;
    // Of which lanes' sums small numbers are flushed.
    let flushes: u32 = match (single, Where::ALL[place as usize]) {
        (true, Where::Global) => u32::MAX,
        (true, Where::Generic) => {
            let addresses = addresses(turn, at.row, at.offset, at.wide);
            (0..32).fold(0, |mask, lane| {
                mask | u32::from(Where::of_generic(addresses[lane]) == Where::Global) << lane
            })
        }
        _ => 0,
    };
    let reversed = turn.world.launched.config.order != Order::Forward;
    let regs = turn.regs();
    for part in 0..count as usize {
        let operand = |row: u32| -> Longs {
            if bytes == 8 { *regs.longs(row) } else { regs.words(row).map(u64::from) }
        };
        let first = operand(more.sources[part]);
        let second = more.sources.get(count as usize).map_or([0; 32], |&row| operand(row));
        let mut before: Longs = [0; 32];
        each_ordered(lanes, reversed, |lane| {
            let at = (pointers[lane] as *mut u8).wrapping_add(part * bytes as usize);
            let found = match bytes {
                // SAFETY: `find` has found all bytes of the access.
                2 => u64::from(unsafe { at.cast::<u16>().read_unaligned() }),
                // SAFETY: as above.
                4 => u64::from(unsafe { at.cast::<u32>().read_unaligned() }),
                // SAFETY: as above.
                _ => unsafe { at.cast::<u64>().read_unaligned() },
            };
            let after = match flushes >> lane & 1 != 0 {
                true => bits(flushed(flushed(f32_of(found)) + flushed(f32_of(first[lane])))),
                false => apply(found, first[lane], second[lane]),
            };
            match bytes {
                // SAFETY: as above.
                2 => unsafe { at.cast::<u16>().write_unaligned(after as u16) },
                // SAFETY: as above.
                4 => unsafe { at.cast::<u32>().write_unaligned(after as u32) },
                // SAFETY: as above.
                _ => unsafe { at.cast::<u64>().write_unaligned(after) },
            }
            before[lane] = found;
        });
        if let Some(&target) = more.targets.get(part) {
            if bytes == 8 {
                regs.set_longs(target, lanes, &before);
            } else {
                regs.set_words(target, lanes, &before.map(|value| value as u32));
            }
        }
    }
    Ok(Step::Next)
}

/// In global memory sums take subnormal numbers for zero (PTX ISA: atom.add.f32).
fn flushed(x: f32) -> f32 {
    if x.is_subnormal() { 0f32.copysign(x) } else { x }
}

fn f32_of(x: u64) -> f32 {
    f32::from_bits(x as u32)
}

fn bits(x: f32) -> u64 {
    u64::from(if x.is_nan() { 0x7fff_ffff } else { x.to_bits() })
}

fn halves(a: u64, b: u64, f: impl Fn(u16, u16) -> u16) -> u64 {
    u64::from(f(a as u16, b as u16)) | u64::from(f((a >> 16) as u16, (b >> 16) as u16)) << 16
}

fn f16_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    let value = f(f16::from_bits(a).to_f32(), f16::from_bits(b).to_f32());
    if value.is_nan() { 0x7fff } else { f16::from_f32(value).to_bits() }
}

fn bf16_op(a: u16, b: u16, f: impl Fn(f32, f32) -> f32) -> u16 {
    let value = f(bf16::from_bits(a).to_f32(), bf16::from_bits(b).to_f32());
    if value.is_nan() { 0x7fff } else { bf16::from_f32(value).to_bits() }
}

fn add(a: f32, b: f32) -> f32 {
    a + b
}

fn signed(x: u64) -> i32 {
    x as u32 as i32
}

#[rustfmt::skip]
const OPERATIONS: &[(&str, &str, Apply)] = &[
    ("add", "u32", |a, b, _| u64::from((a as u32).wrapping_add(b as u32))),
    ("add", "s32", |a, b, _| u64::from((a as u32).wrapping_add(b as u32))),
    ("add", "u64", |a, b, _| a.wrapping_add(b)),
    ("add", "f32", |a, b, _| bits(f32_of(a) + f32_of(b))),
    ("add", "f64", |a, b, _| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ("add", "f16", |a, b, _| u64::from(f16_op(a as u16, b as u16, add))),
    ("add", "bf16", |a, b, _| u64::from(bf16_op(a as u16, b as u16, add))),
    ("add", "f16x2", |a, b, _| halves(a, b, |a, b| f16_op(a, b, add))),
    ("add", "bf16x2", |a, b, _| halves(a, b, |a, b| bf16_op(a, b, add))),
    ("min", "u32", |a, b, _| a.min(b)),
    ("max", "u32", |a, b, _| a.max(b)),
    ("min", "s32", |a, b, _| signed(a).min(signed(b)) as u32 as u64),
    ("max", "s32", |a, b, _| signed(a).max(signed(b)) as u32 as u64),
    ("min", "u64", |a, b, _| a.min(b)),
    ("max", "u64", |a, b, _| a.max(b)),
    ("min", "s64", |a, b, _| (a as i64).min(b as i64) as u64),
    ("max", "s64", |a, b, _| (a as i64).max(b as i64) as u64),
    ("min", "f16", |a, b, _| u64::from(f16_op(a as u16, b as u16, f32::min))),
    ("max", "f16", |a, b, _| u64::from(f16_op(a as u16, b as u16, f32::max))),
    ("min", "bf16", |a, b, _| u64::from(bf16_op(a as u16, b as u16, f32::min))),
    ("max", "bf16", |a, b, _| u64::from(bf16_op(a as u16, b as u16, f32::max))),
    ("min", "f16x2", |a, b, _| halves(a, b, |a, b| f16_op(a, b, f32::min))),
    ("max", "f16x2", |a, b, _| halves(a, b, |a, b| f16_op(a, b, f32::max))),
    ("min", "bf16x2", |a, b, _| halves(a, b, |a, b| bf16_op(a, b, f32::min))),
    ("max", "bf16x2", |a, b, _| halves(a, b, |a, b| bf16_op(a, b, f32::max))),
    ("inc", "u32", |a, b, _| if a >= b { 0 } else { a + 1 }),
    ("dec", "u32", |a, b, _| if a == 0 || a > b { b } else { a - 1 }),
    ("and", "b32", |a, b, _| a & b),
    ("or", "b32", |a, b, _| a | b),
    ("xor", "b32", |a, b, _| a ^ b),
    ("and", "b64", |a, b, _| a & b),
    ("or", "b64", |a, b, _| a | b),
    ("xor", "b64", |a, b, _| a ^ b),
    ("exch", "b32", |_, b, _| b),
    ("exch", "b64", |_, b, _| b),
    ("cas", "b16", |a, b, c| if a == b { c } else { a }),
    ("cas", "b32", |a, b, c| if a == b { c } else { a }),
    ("cas", "b64", |a, b, c| if a == b { c } else { a }),
];
