//! Loads and stores, and what is done with addresses (PTX ISA: section 9.7.9, Data Movement and
//! Conversion Instructions: ld, ld.global.nc, ldu, st, prefetch, cvta, isspacep, mapa and others).

use crate::config::Order;
use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Space, Type};

use super::inst::{Inst, Machine, More, Stop};
use super::lower::{Lower, type_of};
use super::memory::Range;
use super::observe::{Access, AccessKind, Ordering};
use super::registers::{Longs, Words};
use super::space::{Where, no_allocation, shared_place, split_rank};
use super::turn::{Step, Turn, stop_lanes};

/// The address operand has 64 bits.
pub(crate) const WIDE_ADDRESS: u32 = 1;
/// The destination has 64 bits, and what is loaded fewer.
const WIDE_TARGET: u32 = 2;
/// What is loaded is extended by its sign.
const SIGNED: u32 = 4;
/// Volatile, relaxed and so on: ordered with the same of other threads.
const STRONG: u32 = 8;
/// Where the bits of its order begin.
const ORDER: u32 = 4;

const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
const U64: Type = Type { kind: Kind::Unsigned, bits: 64 };

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    match &opcode.name[..] {
        "ld" | "ldu" | "st" => move_data(opcode, operands, cx)?,
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
        Operand::Variable(name, more) => {
            let at = cx.address(name)?.wrapping_add_signed(*more).wrapping_add_signed(*offset);
            Ok((cx.constant(at, true), 0, WIDE_ADDRESS, Some(cx.space(name))))
        }
        Operand::Integer(at) => {
            Ok((cx.constant((*at as u64).wrapping_add_signed(*offset), true), 0, WIDE_ADDRESS, None))
        }
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
            "L1::evict_normal" | "L1::evict_unchanged" | "L1::evict_first" | "L1::evict_last"
            | "L1::no_allocate" | "L2::evict_last" | "L2::evict_normal" | "L2::evict_first"
            | "L2::64B" | "L2::128B" | "L2::256B" => {}
            "L2::cache_hint" => hint = true,
            "v2" => count = 2,
            "v4" => count = 4,
            "v8" => count = 8,
            text => {
                if let Some(space) = Where::of(text).or_else(|| {
                    (text == "param::func").then_some(Where::Local)
                }) {
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
        Operand::Register(register)
            if cx.register_type(*register).bits == 64 && kind.bits < 64 =>
        {
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

/// Where the bytes of every lane lie in this process.
pub(crate) type Pointers = [*mut u8; 32];

fn load<const PLACE: u8, const BYTES: usize, const COUNT: usize>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let addresses = addresses(turn, inst.a, inst.immediate, inst.e & WIDE_ADDRESS != 0);
    let access = Access {
        kind: if inst.e & STRONG != 0 { AccessKind::StrongRead } else { AccessKind::Read },
        bytes: (BYTES * COUNT) as u32,
        place: inst.place,
        order: Ordering::from_code(inst.e >> ORDER),
    };
    let place = Where::ALL[PLACE as usize];
    let pointers = locate(turn, place, &addresses, lanes, access)?;
    let regs = turn.regs();
    for part in 0..COUNT {
        let row = match &inst.more {
            Some(more) => more.targets[part],
            None => inst.d,
        };
        if BYTES == 8 {
            let mut values: Longs = [0; 32];
            each(lanes, |lane| {
                // SAFETY: `locate` has found all bytes of the access.
                values[lane] =
                    unsafe { pointers[lane].cast::<u64>().add(part).read_unaligned() };
            });
            regs.set_longs(row, lanes, &values);
            continue;
        }
        let mut values: Words = [0; 32];
        each(lanes, |lane| {
            let from = pointers[lane].wrapping_add(part * BYTES);
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
    let addresses = addresses(turn, inst.a, inst.immediate, inst.e & WIDE_ADDRESS != 0);
    let kind = match inst.e & STRONG != 0 {
        true => AccessKind::StrongWrite,
        false if turn.world.races.is_some() && equal::<BYTES, COUNT>(turn, inst, &addresses, lanes) => {
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
    let pointers = locate(turn, place, &addresses, lanes, access)?;
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
                let to = pointers[lane].cast::<u64>();
                // SAFETY: `locate` has found all bytes of the access.
                unsafe { to.add(part).write_unaligned(values[lane]) };
            });
            continue;
        }
        let values = regs.words(row);
        each_ordered(lanes, reversed, |lane| {
            let to = pointers[lane].wrapping_add(part * BYTES);
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
    addresses: &Longs,
    lanes: u32,
) -> bool {
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
    if lanes == u32::MAX {
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

/// Checks the access of some lanes, tells observers of it, and says where the bytes lie.
pub(crate) fn locate(
    turn: &mut Turn<'_, '_>,
    place: Where,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let mut filled = [0; 32];
    // Lanes that do not take part are where the first one is, so nothing has to be told apart below.
    let addresses = if lanes == u32::MAX {
        addresses
    } else {
        let first = addresses[lanes.trailing_zeros() as usize];
        for lane in 0..32 {
            filled[lane] = if lanes >> lane & 1 != 0 { addresses[lane] } else { first };
        }
        &filled
    };
    let low = addresses.iter().fold(0, |low, address| low | address);
    if low & (bytes - 1) != 0 {
        return Err(misaligned(addresses, lanes, bytes));
    }
    match place {
        Where::Global => locate_global(turn, addresses, lanes, access),
        Where::Shared => locate_shared(turn, addresses, lanes, access),
        Where::Local => locate_local(turn, addresses, lanes, access),
        Where::Param => locate_param(turn, addresses, lanes, access),
        Where::Generic => locate_generic(turn, addresses, lanes, access),
    }
}

#[cold]
fn misaligned(addresses: &Longs, lanes: u32, bytes: u64) -> Stop {
    let wrong = (0..32).filter(|lane| lanes >> lane & 1 != 0 && addresses[*lane] % bytes != 0);
    let wrong = wrong.fold(0u32, |mask, lane| mask | 1 << lane);
    let first = addresses[wrong.trailing_zeros() as usize];
    Stop {
        kind: FaultKind::Misaligned,
        message: format!("{bytes} bytes at {first:#x}, which is no multiple of {bytes}"),
        lanes: wrong,
    }
}

fn locate_global(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let launched = turn.world.launched;
    let mut pointers = [std::ptr::null_mut(); 32];
    let least = addresses.iter().fold(u64::MAX, |least, &address| least.min(address));
    let most = addresses.iter().fold(0, |most, &address| most.max(address));
    let range = launched.table.find(least);
    match range {
        Some(range) if most.saturating_add(bytes) <= range.end => {
            for lane in 0..32 {
                pointers[lane] = addresses[lane].wrapping_add(range.offset) as *mut u8;
            }
            check_written(range, addresses, lanes, access)?;
        }
        // Lanes in several allocations, or in none.
        _ => {
            for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                let address = addresses[lane];
                let range = launched.table.find(address);
                let fits = |range: &&Range| address.saturating_add(bytes) <= range.end;
                let Some(range) = range.filter(fits) else {
                    return Err(no_allocation(turn, address, bytes, lane as u32));
                };
                pointers[lane] = address.wrapping_add(range.offset) as *mut u8;
                check_written(range, addresses, 1 << lane, access)?;
            }
        }
    }
    turn.observe(Where::Global, addresses, lanes, access)?;
    Ok(pointers)
}

/// Marks what is written; what is read has to be.
fn check_written(
    range: &Range,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<(), Stop> {
    if range.written.is_none() {
        return Ok(());
    }
    let bytes = u64::from(access.bytes);
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        if access.kind.is_read() && !range.is_written(addresses[lane], bytes) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!("{bytes} bytes of global memory at {:#x} that nobody wrote", addresses[lane]),
            );
        }
        if access.kind.is_write() {
            range.mark(addresses[lane], bytes);
        }
    }
    Ok(())
}

fn locate_shared(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let bytes = u64::from(access.bytes);
    let mut pointers = [std::ptr::null_mut(); 32];
    let most = addresses.iter().fold(0, |most, &address| most.max(address));
    let block = &mut turn.world.blocks[turn.block];
    if most.saturating_add(bytes) <= block.shared.len() as u64 {
        let base = block.shared.as_mut_ptr();
        for lane in 0..32 {
            pointers[lane] = base.wrapping_add(addresses[lane] as usize);
        }
    } else {
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            let (slot, offset) = shared_place(turn, addresses[lane], bytes, lane as u32)?;
            pointers[lane] = turn.world.blocks[slot].shared.as_mut_ptr();
            pointers[lane] = pointers[lane].wrapping_add(offset as usize);
        }
    }
    check_shared_written(turn, addresses, lanes, access)?;
    turn.observe(Where::Shared, addresses, lanes, access)?;
    Ok(pointers)
}

fn check_shared_written(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<(), Stop> {
    if turn.world.blocks[turn.block].shared_written.is_empty() {
        return Ok(());
    }
    let bytes = access.bytes as usize;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let (slot, offset) = shared_place(turn, addresses[lane], bytes as u64, lane as u32)?;
        let written = &mut turn.world.blocks[slot].shared_written;
        let written = &mut written[offset as usize..offset as usize + bytes];
        if access.kind.is_read() && written.contains(&0) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!("{bytes} bytes of shared memory at {offset:#x} that nobody wrote"),
            );
        }
        if access.kind.is_write() {
            written.fill(1);
        }
    }
    Ok(())
}

fn locate_local(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let size = turn.world.launched.kernel.local_bytes;
    let mut pointers = [std::ptr::null_mut(); 32];
    let warp = turn.warp as u64;
    let base = turn.block().local.as_mut_ptr();
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let address = addresses[lane];
        if address.saturating_add(u64::from(access.bytes)) > size {
            return stop_lanes(
                FaultKind::IllegalAddress,
                1 << lane,
                format!("{} bytes at {address:#x} of {size} of local memory", access.bytes),
            );
        }
        pointers[lane] = base.wrapping_add(((warp * 32 + lane as u64) * size + address) as usize);
    }
    Ok(pointers)
}

fn locate_param(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let params = turn.world.launched.params;
    let mut pointers = [std::ptr::null_mut(); 32];
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let address = addresses[lane];
        if address.saturating_add(u64::from(access.bytes)) > params.len() as u64
            || access.kind.is_write()
        {
            return stop_lanes(
                FaultKind::IllegalAddress,
                1 << lane,
                format!("{} bytes at {address:#x} of {} of parameters", access.bytes, params.len()),
            );
        }
        pointers[lane] = params.as_ptr().wrapping_add(address as usize).cast_mut();
    }
    Ok(pointers)
}

/// Lanes may be in several windows.
fn locate_generic(
    turn: &mut Turn<'_, '_>,
    addresses: &Longs,
    lanes: u32,
    access: Access,
) -> Result<Pointers, Stop> {
    let mut pointers = [std::ptr::null_mut(); 32];
    let mut left = lanes;
    while left != 0 {
        let place = Where::of_generic(addresses[left.trailing_zeros() as usize]);
        let first = addresses[left.trailing_zeros() as usize] - place.window();
        let mut these = 0;
        let mut offsets = [first; 32];
        for lane in (0..32).filter(|lane| left >> lane & 1 != 0) {
            if Where::of_generic(addresses[lane]) == place {
                these |= 1 << lane;
                offsets[lane] = addresses[lane] - place.window();
            }
        }
        let found = match place {
            Where::Shared => locate_shared(turn, &offsets, these, access)?,
            Where::Local => locate_local(turn, &offsets, these, access)?,
            Where::Param => locate_param(turn, &offsets, these, access)?,
            Where::Global | Where::Generic => locate_global(turn, &offsets, these, access)?,
        };
        for lane in (0..32).filter(|lane| these >> lane & 1 != 0) {
            pointers[lane] = found[lane];
        }
        left &= !these;
    }
    Ok(pointers)
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
fn create_policy(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
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

impl Turn<'_, '_> {
    /// A bulk copy reads or writes global memory.
    pub(crate) fn mark_bulk(
        &mut self,
        address: u64,
        bytes: u64,
        writes: bool,
        lane: u32,
    ) -> Result<(), Stop> {
        let launched = self.world.launched;
        let Some(range) = launched.table.find(address) else { return Ok(()) };
        if writes {
            range.mark(address, bytes);
        } else if !range.is_written(address, bytes) {
            return stop_lanes(
                FaultKind::Unwritten,
                1 << lane,
                format!("{bytes} bytes of global memory at {address:#x} that nobody wrote"),
            );
        }
        Ok(())
    }
}
