//! Loads and stores (PTX ISA: section 9.7.9, Data Movement and Conversion Instructions: ld,
//! ld.global.nc, ldu, st).

use crate::config::Order;
use crate::ptx::ast::{Kind, Opcode, Operand, Space, Type};

use super::addressing::{WIDE_ADDRESS, address, addresses};
use super::inst::{Inst, Machine, More, Stop};
use super::locate::{At, NOWHERE, find};
use super::lower::{Lower, type_of};
use super::observe::{Access, AccessKind, Ordering};
use super::registers::{FULL, Longs, Words};
use super::space::Where;
use super::turn::{Step, Turn};

/// The destination has 64 bits, and what is loaded fewer.
const WIDE_TARGET: u32 = 2;
/// What is loaded is extended by its sign.
const SIGNED: u32 = 4;
/// Volatile, relaxed and so on: ordered with the same of other threads.
const STRONG: u32 = 8;
/// Where the bits of its order begin.
const ORDER: u32 = 4;

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    match &opcode.name[..] {
        "ld" | "ldu" | "st" => move_data(opcode, operands, cx)?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn move_data(opcode: &Opcode, operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    let is_load = opcode.name != "st";
    let mut place = Where::Generic;
    let (mut flags, mut count, mut kind) = (0, 1usize, None);
    let mut order = Ordering::NONE;
    let mut hint = false;
    for modifier in &opcode.modifiers {
        match &modifier[..] {
            "weak" => {}
            "volatile" | "relaxed" | "mmio" => flags |= STRONG,
            word @ ("acquire" | "release") if is_load == (word == "acquire") => {
                order.set(word);
                flags |= STRONG;
            }
            word @ ("cta" | "cluster" | "gpu" | "sys") if flags & STRONG != 0 => {
                order.set(word);
            }
            // Where caches keep it: nothing that is seen.
            "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" => {}
            "L1::evict_normal"
            | "L1::evict_unchanged"
            | "L1::evict_first"
            | "L1::evict_last"
            | "L1::no_allocate"
            | "L2::evict_last"
            | "L2::evict_normal"
            | "L2::evict_first"
            | "L2::64B"
            | "L2::128B"
            | "L2::256B" => {}
            "L2::cache_hint" => hint = true,
            "v2" => count = 2,
            "v4" => count = 4,
            "v8" => count = 8,
            text => {
                if let Some(space) =
                    Where::of(text).or_else(|| (text == "param::func").then_some(Where::Local))
                {
                    place = space;
                } else if let Some(known) = type_of(text).filter(|known| known.bits >= 8) {
                    kind = Some(known);
                } else {
                    return Err(format!("{} has no .{text}", opcode.name));
                }
            }
        }
    }
    let kind = kind.ok_or_else(|| format!("{} names no type", opcode.name))?;
    let wanted = 2 + usize::from(hint);
    if operands.len() != wanted {
        return Err(format!("{} takes {wanted} operands", opcode.name));
    }
    let (target, data) = if is_load { (1, 0) } else { (0, 1) };
    let (row, offset, wide, named) = address(&operands[target], cx)?;
    // Parameters of calls lie in local memory, whatever the instruction says of their space.
    if place == Where::Param && named == Some(Space::Local) {
        place = Where::Local;
    }
    let constant = opcode.modifiers.iter().any(|modifier| modifier == "const");
    if !is_load && (place == Where::Param || constant) {
        return Err("parameters and constants cannot be stored to".to_owned());
    }
    let bytes = (kind.bits / 8) as usize;
    if bytes * count > 32 || bytes == 16 {
        return Err(format!("{} moves {} bytes", opcode.name, bytes * count));
    }
    flags |= wide | order.code() << ORDER;
    let vector = match &operands[data] {
        Operand::Vector(parts) if parts.len() == count && count > 1 => &parts[..],
        operand if count == 1 => std::slice::from_ref(operand),
        _ => return Err(format!("{} takes a vector of {count}", opcode.name)),
    };
    let mut rows = Vec::new();
    for part in vector {
        rows.push(if is_load {
            if let Operand::Register(register) = part
                && cx.register_type(*register).bits == 64
                && kind.bits < 64
            {
                flags |= WIDE_TARGET;
            }
            cx.target_at_least(part, kind)?
        } else {
            low_bits(part, kind, cx)?
        });
    }
    if is_load && kind.kind == Kind::Signed {
        flags |= SIGNED;
    }
    let mut inst = Inst::machine(mover(is_load, place, bytes, count));
    inst.a = row;
    inst.d = rows[0];
    inst.immediate = offset;
    inst.e = flags;
    inst.b = kind.bits;
    if count > 1 {
        inst.more = Some(Box::new(More { targets: rows, ..More::default() }));
    }
    cx.push(inst);
    Ok(())
}

/// The row of what is stored: of a 64-bit register that is stored in part, the low words.
fn low_bits(part: &Operand, kind: Type, cx: &mut Lower<'_>) -> Result<u32, String> {
    let row = cx.source_at_least(part, kind)?;
    match part {
        Operand::Register(register) if cx.register_type(*register).bits == 64 && kind.bits < 64 => {
            let mut inst = Inst::lanes(|regs, inst, lanes| {
                let low = regs.longs(inst.a).map(|value| value as u32);
                regs.set_words(inst.d, lanes, &low);
            });
            inst.a = row;
            inst.d = cx.scratch(1);
            let low = inst.d;
            cx.push(inst);
            Ok(low)
        }
        _ => Ok(row),
    }
}

/// The handler for a space, an element's bytes and their count.
fn mover(is_load: bool, place: Where, bytes: usize, count: usize) -> Machine {
    macro_rules! pick {
        ($function:ident, $place:expr) => {
            match (bytes, count) {
                (1, 1) => $function::<{ $place }, 1, 1>,
                (1, 2) => $function::<{ $place }, 1, 2>,
                (1, 4) => $function::<{ $place }, 1, 4>,
                (2, 1) => $function::<{ $place }, 2, 1>,
                (2, 2) => $function::<{ $place }, 2, 2>,
                (2, 4) => $function::<{ $place }, 2, 4>,
                (4, 1) => $function::<{ $place }, 4, 1>,
                (4, 2) => $function::<{ $place }, 4, 2>,
                (4, 4) => $function::<{ $place }, 4, 4>,
                (4, _) => $function::<{ $place }, 4, 8>,
                (8, 1) => $function::<{ $place }, 8, 1>,
                (8, 2) => $function::<{ $place }, 8, 2>,
                (1, _) => $function::<{ $place }, 1, 8>,
                (2, _) => $function::<{ $place }, 2, 8>,
                _ => $function::<{ $place }, 8, 4>,
            }
        };
    }
    macro_rules! pick_place {
        ($function:ident) => {
            match place {
                Where::Global => pick!($function, Where::Global as u8),
                Where::Shared => pick!($function, Where::Shared as u8),
                Where::Local => pick!($function, Where::Local as u8),
                Where::Param => pick!($function, Where::Param as u8),
                Where::Generic => pick!($function, Where::Generic as u8),
            }
        };
    }
    if is_load { pick_place!(load) } else { pick_place!(store) }
}

fn at(inst: &Inst) -> At {
    At { row: inst.a, offset: inst.immediate, wide: inst.e & WIDE_ADDRESS != 0 }
}

fn load<const PLACE: u8, const BYTES: usize, const COUNT: usize>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let access = Access {
        kind: if inst.e & STRONG != 0 { AccessKind::StrongRead } else { AccessKind::Read },
        bytes: (BYTES * COUNT) as u32,
        place: inst.place,
        order: Ordering::from_code(inst.e >> ORDER),
    };
    let place = Where::ALL[PLACE as usize];
    let mut pointers = NOWHERE;
    find(turn, place, at(inst), lanes, access, &mut pointers)?;
    let regs = turn.regs();
    for part in 0..COUNT {
        let row = match &inst.more {
            Some(more) => more.targets[part],
            None => inst.d,
        };
        if BYTES == 8 {
            let mut values: Longs = [0; 32];
            each(lanes, |lane| {
                let from = (pointers[lane] as *const u64).wrapping_add(part);
                // SAFETY: `find` has found all bytes of the access.
                values[lane] = unsafe { from.read_unaligned() };
            });
            regs.set_longs(row, lanes, &values);
            continue;
        }
        let mut values: Words = [0; 32];
        each(lanes, |lane| {
            let from = (pointers[lane] as *const u8).wrapping_add(part * BYTES);
            values[lane] = match BYTES {
                // SAFETY: as above.
                1 => u32::from(unsafe { from.read() }),
                // SAFETY: as above.
                2 => u32::from(unsafe { from.cast::<u16>().read_unaligned() }),
                // SAFETY: as above.
                _ => unsafe { from.cast::<u32>().read_unaligned() },
            };
        });
        if inst.e & (SIGNED | WIDE_TARGET) == 0 || BYTES == 4 && inst.e & WIDE_TARGET == 0 {
            regs.set_words(row, lanes, &values);
        } else {
            extend(regs, inst, row, lanes, &values);
        }
    }
    Ok(Step::Next)
}

/// What is loaded into a wider register (PTX ISA: Operand Size Exceeding Instruction-Type Size).
fn extend(
    regs: &mut super::registers::Registers,
    inst: &Inst,
    row: u32,
    lanes: u32,
    values: &Words,
) {
    let (bits, signed) = (inst.b, inst.e & SIGNED != 0);
    let longs = values.map(|value| {
        let shift = 64 - bits;
        let high = u64::from(value) << shift;
        if signed { (high as i64 >> shift) as u64 } else { high >> shift }
    });
    if inst.e & WIDE_TARGET != 0 {
        regs.set_longs(row, lanes, &longs);
    } else {
        // 16-bit registers are not told from 32-bit ones: what is above their width is never read.
        regs.set_words(row, lanes, &longs.map(|value| value as u32));
    }
}

fn store<const PLACE: u8, const BYTES: usize, const COUNT: usize>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let kind = match inst.e & STRONG != 0 {
        true => AccessKind::StrongWrite,
        false if turn.world.races.is_some() && equal::<BYTES, COUNT>(turn, inst, lanes) => {
            AccessKind::WriteEqual
        }
        false => AccessKind::Write,
    };
    let access = Access {
        kind,
        bytes: (BYTES * COUNT) as u32,
        place: inst.place,
        order: Ordering::from_code(inst.e >> ORDER),
    };
    let place = Where::ALL[PLACE as usize];
    let mut pointers = NOWHERE;
    find(turn, place, at(inst), lanes, access, &mut pointers)?;
    // Of lanes that write the same place any may be the last.
    let reversed = turn.world.launched.config.order != Order::Forward;
    let regs = &turn.world.blocks[turn.block].warps[turn.warp].regs;
    for part in 0..COUNT {
        let row = match &inst.more {
            Some(more) => more.targets[part],
            None => inst.d,
        };
        if BYTES == 8 {
            let values = regs.longs(row);
            each_ordered(lanes, reversed, |lane| {
                let to = (pointers[lane] as *mut u64).wrapping_add(part);
                // SAFETY: `find` has found all bytes of the access.
                unsafe { to.write_unaligned(values[lane]) };
            });
            continue;
        }
        let values = regs.words(row);
        each_ordered(lanes, reversed, |lane| {
            let to = (pointers[lane] as *mut u8).wrapping_add(part * BYTES);
            match BYTES {
                // SAFETY: as above.
                1 => unsafe { to.write(values[lane] as u8) },
                // SAFETY: as above.
                2 => unsafe { to.cast::<u16>().write_unaligned(values[lane] as u16) },
                // SAFETY: as above.
                _ => unsafe { to.cast::<u32>().write_unaligned(values[lane]) },
            }
        });
    }
    Ok(Step::Next)
}

/// Whether lanes that store to the same address all store the same, and some do.
fn equal<const BYTES: usize, const COUNT: usize>(
    turn: &Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> bool {
    let at = at(inst);
    let addresses = addresses(turn, at.row, at.offset, at.wide);
    let regs = &turn.world.blocks[turn.block].warps[turn.warp].regs;
    let rows = inst.more.as_ref().map_or(std::slice::from_ref(&inst.d), |more| &more.targets);
    let stores = |lane: usize| {
        rows[..COUNT].iter().map(move |&row| match BYTES {
            8 => regs.longs(row)[lane],
            bytes => u64::from(regs.words(row)[lane]) & (u64::MAX >> (64 - 8 * bytes as u32)),
        })
    };
    let mut sorted: Vec<usize> = (0..32).filter(|lane| lanes >> lane & 1 != 0).collect();
    sorted.sort_by_key(|&lane| addresses[lane]);
    let mut pairs = sorted.windows(2).filter(|pair| addresses[pair[0]] == addresses[pair[1]]);
    let some = pairs.clone().next().is_some();
    some && pairs.all(|pair| stores(pair[0]).eq(stores(pair[1])))
}

#[inline(always)]
pub(crate) fn each(lanes: u32, mut f: impl FnMut(usize)) {
    if lanes == FULL {
        (0..32).for_each(f);
        return;
    }
    let mut left = lanes;
    while left != 0 {
        f(left.trailing_zeros() as usize);
        left &= left - 1;
    }
}

#[inline(always)]
pub(crate) fn each_ordered(lanes: u32, reversed: bool, mut f: impl FnMut(usize)) {
    if !reversed {
        return each(lanes, f);
    }
    let mut left = lanes;
    while left != 0 {
        let lane = 31 - left.leading_zeros();
        f(lane as usize);
        left &= !(1 << lane);
    }
}
