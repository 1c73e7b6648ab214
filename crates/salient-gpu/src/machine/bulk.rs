//! Copies by the copy engine (PTX ISA: cp.async.bulk, cp.async.bulk.tensor, and their groups).

use crate::config::Completion;
use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};
use crate::race::{Range, Space, Ticket};
use crate::tensor::copy::{CopyError, Piece, TensorMap};

use super::addressing::address;
use super::inst::{Inst, More, Stop};
use super::lower::Lower;
use super::mbarrier;
use super::memory::POISON;
use super::space::{SHARED_WINDOW, Where, global_place, shared_place};
use super::turn::{Step, Turn, stop, stop_lanes};
use super::world::World;

const B16: Type = Type { kind: Kind::Bits, bits: 16 };
const B32: Type = Type { kind: Kind::Bits, bits: 32 };
const B64: Type = Type { kind: Kind::Bits, bits: 64 };
const NONE: u32 = u32::MAX;

/// A copy under way.
pub(crate) struct BulkCopy {
    pieces: Vec<Moved>,
    /// What is written where the tensor has nothing, over and over.
    fill: [u8; 16],
    /// mbarriers, with the bytes that they are told of.
    tells: Vec<((usize, u32), i64, Option<Ticket>)>,
    /// Block, warp and lane that issued it, and the group: of stores.
    issuer: Option<(usize, usize, u32, u32)>,
}

/// A run of bytes.
#[derive(Clone, Copy)]
struct Moved {
    slot: usize,
    shared: u32,
    /// Where it lies in this process; null for what is filled.
    global: *mut u8,
    bytes: u32,
    to_shared: bool,
    /// From another block's shared memory.
    source: Option<(usize, u32)>,
}

impl BulkCopy {
    pub(crate) fn touches(&self, slot: usize) -> bool {
        let from = |piece: &Moved| piece.source.is_some_and(|(other, _)| other == slot);
        self.pieces.iter().any(|piece| piece.slot == slot || from(piece))
    }
}

/// Groups of a warp's stores.
#[derive(Debug, Clone, Default)]
pub(crate) struct Groups {
    /// Those that each lane has closed.
    closed: [u32; 32],
    /// Lane and group of stores that were not waited for, for the race detector.
    issued: Vec<(u32, u32, Ticket)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    TensorLoad,
    TensorStore,
    Load,
    Store,
    Exchange,
}

const FORMS: [Form; 5] =
    [Form::TensorLoad, Form::TensorStore, Form::Load, Form::Store, Form::Exchange];

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    let ("cp", ["async", "bulk", rest @ ..]) = (&opcode.name[..], &modifiers[..]) else {
        return Ok(false);
    };
    if cx.module.target.architecture < 90 {
        return Err("cp.async.bulk is for sm_90 and later".to_owned());
    }
    let unknown = || format!("there is no cp.async.bulk.{}", rest.join("."));
    let inst = match (rest, operands) {
        (["commit_group"], []) => Inst::machine(|turn, _, lanes| {
            for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
                turn.warp().bulk_groups.closed[lane] += 1;
            }
            Ok(Step::Next)
        }),
        (["wait_group"] | ["wait_group", "read"], [Operand::Integer(pending)]) => {
            let mut inst = Inst::machine(wait);
            inst.e = u32::try_from(*pending).map_err(|_| unknown())?;
            inst.b = u32::from(rest.len() == 2);
            inst
        }
        // Only caches see it.
        (["prefetch", ..], [Operand::Address(..) | Operand::Tensor(..), ..]) => {
            Inst::machine(|_, _, _| Ok(Step::Next))
        }
        (
            ["tensor", rank, "shared::cluster" | "shared::cta", "global", more @ ..],
            [to, Operand::Tensor(map), mbarrier, others @ ..],
        ) => {
            let flags = completion(more, true).ok_or_else(unknown)?;
            let mut inst = tensor(rank, map, Form::TensorLoad, cx)?;
            put_address(&mut inst, to, cx)?;
            put_address(&mut inst, mbarrier, cx)?;
            put_options(&mut inst, flags, others, cx)?;
            inst
        }
        (
            ["tensor", rank, "global", "shared::cta", more @ ..],
            [Operand::Tensor(map), from, others @ ..],
        ) => {
            let flags = completion(more, false).ok_or_else(unknown)?;
            let mut inst = tensor(rank, map, Form::TensorStore, cx)?;
            put_address(&mut inst, from, cx)?;
            put_options(&mut inst, flags, others, cx)?;
            inst
        }
        (
            ["shared::cluster" | "shared::cta", source, more @ ..],
            [to, from, size, mbarrier, others @ ..],
        ) => {
            let flags = completion(more, true).ok_or_else(unknown)?;
            let form = match *source {
                "global" => Form::Load,
                "shared::cta" => Form::Exchange,
                _ => return Err(unknown()),
            };
            let mut inst = plain(form, size, cx)?;
            for operand in [to, mbarrier, from] {
                put_address(&mut inst, operand, cx)?;
            }
            put_options(&mut inst, flags, others, cx)?;
            inst
        }
        (["global", "shared::cta", more @ ..], [to, from, size, others @ ..]) => {
            let flags = completion(more, false).ok_or_else(unknown)?;
            let mut inst = plain(Form::Store, size, cx)?;
            for operand in [from, to] {
                put_address(&mut inst, operand, cx)?;
            }
            put_options(&mut inst, flags, others, cx)?;
            inst
        }
        _ => return Err(unknown()),
    };
    cx.push(inst);
    Ok(true)
}

/// Whether it is multicast, and whether there is a cache policy.
fn completion(modifiers: &[&str], load: bool) -> Option<(bool, bool)> {
    let modifiers = modifiers.strip_prefix(&["tile"]).unwrap_or(modifiers);
    let mechanism = if load { "mbarrier::complete_tx::bytes" } else { "bulk_group" };
    let rest = modifiers.strip_prefix(&[mechanism])?;
    let (multicast, rest) = match rest.strip_prefix(&["multicast::cluster"]) {
        Some(rest) if load => (true, rest),
        _ => (false, rest),
    };
    match rest {
        [] => Some((multicast, false)),
        ["L2::cache_hint"] => Some((multicast, true)),
        _ => None,
    }
}

/// `more.sources` begins with the tensor map's address and ends with its coordinates.
fn tensor(rank: &str, parts: &[Operand], form: Form, cx: &mut Lower<'_>) -> Result<Inst, String> {
    let [map, Operand::Vector(coordinates)] = parts else {
        return Err("a tensor copy takes a map and its coordinates".to_owned());
    };
    if rank != format!("{}d", coordinates.len()) || coordinates.len() > 5 {
        return Err(format!("a tensor copy of {rank} takes other coordinates"));
    }
    let mut inst = Inst::machine(issue);
    let mut more = More::default();
    let in_brackets = match map {
        Operand::Address(..) => map.clone(),
        map => Operand::Address(Box::new(map.clone()), 0),
    };
    let (row, offset, wide, _) = address(&in_brackets, cx)?;
    if wide == 0 {
        return Err("a tensor map's address has 64 bits".to_owned());
    }
    inst.a = row;
    inst.immediate = offset;
    for coordinate in coordinates {
        more.targets.push(cx.source(coordinate, B32)?);
    }
    inst.b = form as u32;
    inst.more = Some(Box::new(more));
    Ok(inst)
}

fn plain(form: Form, size: &Operand, cx: &mut Lower<'_>) -> Result<Inst, String> {
    let mut inst = Inst::machine(issue);
    inst.a = cx.source(size, B32)?;
    inst.b = form as u32;
    inst.more = Some(Box::default());
    Ok(inst)
}

/// Addresses are rows in `more.sources`, with what is added and their width in `more.numbers`.
fn put_address(inst: &mut Inst, operand: &Operand, cx: &mut Lower<'_>) -> Result<(), String> {
    let (row, offset, wide, _) = address(operand, cx)?;
    let more = inst.more.as_mut().expect("made with operands");
    more.sources.push(row);
    more.numbers.extend([offset, i64::from(wide)]);
    Ok(())
}

fn put_options(
    inst: &mut Inst,
    (multicast, hint): (bool, bool),
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    if operands.len() != usize::from(multicast) + usize::from(hint) {
        return Err("a bulk copy has other operands".to_owned());
    }
    inst.c = if multicast { cx.source(&operands[0], B16)? } else { NONE };
    if hint {
        cx.source(&operands[operands.len() - 1], B64)?;
    }
    Ok(())
}

/// Address `which` of a lane; as a shared address if it is to be one.
fn at(turn: &mut Turn<'_, '_>, inst: &Inst, which: usize, lane: usize, shared: bool) -> u64 {
    let more = inst.more.as_ref().expect("made with operands");
    let (row, offset) = (more.sources[which], more.numbers[2 * which]);
    let regs = turn.regs();
    let address = match more.numbers[2 * which + 1] {
        0 => u64::from(regs.words(row)[lane].wrapping_add(offset as u32)),
        _ => regs.longs(row)[lane].wrapping_add_signed(offset),
    };
    if shared && Where::of_generic(address) == Where::Shared {
        address - SHARED_WINDOW
    } else {
        address
    }
}

fn issue(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        issue_one(turn, inst, lane)?;
    }
    Ok(Step::Next)
}

fn issue_one(turn: &mut Turn<'_, '_>, inst: &Inst, lane: usize) -> Result<(), Stop> {
    let form = FORMS[inst.b as usize];
    let mut copy = BulkCopy { pieces: Vec::new(), fill: [0; 16], tells: Vec::new(), issuer: None };
    let load = matches!(form, Form::TensorLoad | Form::Load | Form::Exchange);
    let shared = at(turn, inst, 0, lane, true);
    let pieces = match form {
        Form::TensorLoad | Form::TensorStore => {
            let map = tensor_map(turn, inst, lane)?;
            copy.fill = map.fill();
            tensor_pieces(turn, inst, lane, &map, shared as u32)?
        }
        _ => {
            let bytes = turn.regs().words(inst.a)[lane];
            let global = at(turn, inst, if load { 2 } else { 1 }, lane, form == Form::Exchange);
            let aligned = [bytes.into(), shared, global].iter().all(|n: &u64| n.is_multiple_of(16));
            if !aligned {
                return stop_lanes(
                    FaultKind::Misaligned,
                    1 << lane,
                    format!("a bulk copy of {bytes} bytes, {global:#x} and {shared:#x}"),
                );
            }
            vec![Piece { shared: shared as u32, global: Some(global), bytes }]
        }
    };
    let total: u32 = pieces.iter().map(|piece| piece.bytes).sum();
    let global: Vec<Range> = pieces
        .iter()
        .filter(|_| form != Form::Exchange)
        .filter_map(|piece| {
            let start = piece.global?;
            Some(Range { space: Space::Device, start, bytes: piece.bytes.into() })
        })
        .collect();
    for (slot, rank_bits) in destinations(turn, inst, lane, shared)? {
        let before = copy.pieces.len();
        for piece in &pieces {
            let address = u64::from(piece.shared & 0xff_ffff) | rank_bits;
            let (found, offset) = shared_place(turn, address, piece.bytes.into(), lane as u32)?;
            debug_assert_eq!(found, slot);
            let mut moved = Moved {
                slot,
                shared: offset,
                global: std::ptr::null_mut(),
                bytes: piece.bytes,
                to_shared: load,
                source: None,
            };
            match (form, piece.global) {
                (Form::Exchange, Some(from)) => {
                    let bytes = u64::from(piece.bytes);
                    moved.source = Some(shared_place(turn, from, bytes, lane as u32)?);
                }
                (_, Some(address)) => {
                    let bytes = u64::from(piece.bytes);
                    moved.global = global_place(turn, address, bytes, lane as u32)?;
                    turn.mark_bulk(address, bytes, !load, lane as u32)?;
                }
                (_, None) if !load => continue,
                (_, None) => {}
            }
            copy.pieces.push(moved);
        }
        if load {
            let mbarrier = at(turn, inst, 1, lane, true);
            let address = match inst.c {
                NONE => mbarrier,
                _ => mbarrier & 0xff_ffff | rank_bits,
            };
            let place = shared_place(turn, address, 8, lane as u32)?;
            mbarrier::read(turn, place, lane as u32)?;
            let ranges = copy.ranges(before);
            let ticket =
                turn.observe_bulk_load((&ranges, &global), place, lane as u32, inst.place)?;
            copy.tells.push((place, i64::from(total), ticket));
        }
    }
    if !load {
        let ranges = copy.ranges(0);
        let ticket = turn.observe_bulk_store((&ranges, &global), lane as u32, inst.place)?;
        let groups = &mut turn.warp().bulk_groups;
        let group = groups.closed[lane];
        groups.issued.extend(ticket.map(|ticket| (lane as u32, group, ticket)));
        copy.issuer = Some((turn.block, turn.warp, lane as u32, group));
    }
    turn.world.count_bulk(total, load);
    if load {
        for piece in &copy.pieces {
            let range = piece.shared as usize..(piece.shared + piece.bytes) as usize;
            let block = &mut turn.world.blocks[piece.slot];
            if let Some(written) = block.shared_written.get_mut(range.clone()) {
                written.fill(1);
            }
            for pair in block.shared[range].chunks_exact_mut(2) {
                pair.copy_from_slice(&POISON.to_le_bytes());
            }
        }
    }
    turn.world.bulk.push(copy);
    let now = match turn.world.launched.config.completion {
        Completion::Eager => true,
        Completion::Late => false,
        Completion::Random => turn.world.random.once_in(4),
    };
    if now {
        let last = turn.world.bulk.len() - 1;
        land(turn.world, last).map_err(|(_, stop)| stop)?;
    }
    Ok(())
}

/// The blocks whose shared memory a copy goes to, with the bits of their rank in addresses.
fn destinations(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lane: usize,
    shared: u64,
) -> Result<Vec<(usize, u64)>, Stop> {
    if inst.c == NONE {
        let (slot, _) = shared_place(turn, shared, 0, lane as u32)?;
        return Ok(vec![(slot, shared & 0xff00_0000)]);
    }
    let mask = turn.regs().words(inst.c)[lane] & 0xffff;
    let cluster = turn.block().cluster;
    let blocks = &turn.world.clusters[cluster].blocks;
    if mask >> blocks.len() != 0 || mask == 0 {
        let message = format!("multicast to {mask:#06x} in a cluster of {} blocks", blocks.len());
        return stop_lanes(FaultKind::Misuse, 1 << lane, message);
    }
    let ranks = (0..16).filter(|rank| mask >> rank & 1 != 0);
    Ok(ranks.map(|rank| (blocks[rank], (rank as u64 + 1) << 24)).collect())
}

fn tensor_map(turn: &mut Turn<'_, '_>, inst: &Inst, lane: usize) -> Result<TensorMap, Stop> {
    let address = turn.regs().longs(inst.a)[lane].wrapping_add_signed(inst.immediate);
    if !address.is_multiple_of(64) {
        let message = format!("a tensor map at {address:#x}, which is no multiple of 64");
        return stop_lanes(FaultKind::Misaligned, 1 << lane, message);
    }
    let mut bytes = [0; 128];
    match Where::of_generic(address) {
        Where::Param => {
            let start = (address - Where::Param.window()) as usize;
            let params = turn.world.launched.params;
            match params.get(start..start + 128) {
                Some(found) => bytes.copy_from_slice(found),
                None => return stop(FaultKind::IllegalAddress, "a tensor map behind parameters"),
            }
        }
        Where::Global => {
            let from = global_place(turn, address, 128, lane as u32)?;
            // SAFETY: the 128 bytes are within an allocation.
            bytes = unsafe { from.cast::<[u8; 128]>().read() };
        }
        _ => return stop(FaultKind::IllegalAddress, "a tensor map in shared or local memory"),
    }
    TensorMap::decode(&bytes).or_else(|error| stop(FaultKind::Misuse, error.to_string()))
}

struct Failed(Stop);

impl From<CopyError> for Failed {
    fn from(error: CopyError) -> Self {
        let kind = match error {
            CopyError::SharedAddress(_) => FaultKind::Misaligned,
            _ => FaultKind::Misuse,
        };
        Self(Stop { kind, message: error.to_string(), lanes: 0 })
    }
}

fn tensor_pieces(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lane: usize,
    map: &TensorMap,
    shared: u32,
) -> Result<Vec<Piece>, Stop> {
    let rows = &inst.more.as_ref().expect("made with operands").targets;
    let regs = turn.regs();
    let coordinates: Vec<i32> = rows.iter().map(|&row| regs.words(row)[lane] as i32).collect();
    let mut pieces = Vec::new();
    let done: Result<(), Failed> = map.pieces(&coordinates, shared & 0xff_ffff, |piece| {
        pieces.push(piece);
        Ok(())
    });
    done.map_err(|Failed(stop)| stop)?;
    Ok(pieces)
}

/// Has a copy land, and tells the mbarriers. An error is that of a block.
pub(crate) fn land(world: &mut World<'_>, which: usize) -> Result<(), (usize, Stop)> {
    let copy = world.bulk.remove(which);
    for piece in &copy.pieces {
        let range = piece.shared as usize..(piece.shared + piece.bytes) as usize;
        let length = piece.bytes as usize;
        if let Some((slot, from)) = piece.source {
            let bytes = world.blocks[slot].shared[from as usize..from as usize + length].to_vec();
            world.blocks[piece.slot].shared[range].copy_from_slice(&bytes);
            continue;
        }
        let shared = &mut world.blocks[piece.slot].shared[range];
        if piece.global.is_null() {
            for part in shared.chunks_mut(16) {
                part.copy_from_slice(&copy.fill[..part.len()]);
            }
        } else if piece.to_shared {
            // SAFETY: the piece was found within an allocation when the copy was issued.
            let from = unsafe { std::slice::from_raw_parts(piece.global, length) };
            shared.copy_from_slice(from);
        } else {
            // SAFETY: as above.
            let to = unsafe { std::slice::from_raw_parts_mut(piece.global, length) };
            to.copy_from_slice(shared);
        }
    }
    for (place, bytes, ticket) in copy.tells {
        let mut turn = Turn { world, block: place.0, warp: 0 };
        turn.observe_bulk_complete(place, ticket);
        mbarrier::change(&mut turn, place, 0, (0, -bytes), false)
            .map_err(|stop| (place.0, stop))?;
    }
    world.events += 1;
    Ok(())
}

/// Has all but the latest groups of stores land.
fn wait(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let closed = turn.warp().bulk_groups.closed;
    let (block, warp) = (turn.block, turn.warp);
    loop {
        let done = turn.world.bulk.iter().position(|copy| match copy.issuer {
            Some((b, w, lane, group)) => {
                (b, w) == (block, warp)
                    && lanes >> lane & 1 != 0
                    && group + inst.e < closed[lane as usize]
            }
            None => false,
        });
        let Some(which) = done else { break };
        land(turn.world, which).map_err(|(_, stop)| stop)?;
    }
    let reads_only = inst.b != 0;
    let is_over = |&(lane, group, _): &(u32, u32, Ticket)| {
        lanes >> lane & 1 != 0 && group + inst.e < closed[lane as usize]
    };
    let issued = &mut turn.warp().bulk_groups.issued;
    let over: Vec<(u32, u32, Ticket)> = issued.iter().copied().filter(is_over).collect();
    if !reads_only {
        issued.retain(|one| !is_over(one));
    }
    for (lane, _, ticket) in over {
        turn.observe_bulk_wait(lane, ticket, reads_only);
    }
    Ok(Step::Next)
}

impl BulkCopy {
    /// Slot, first byte and bytes in shared memory, of the pieces from `begin` on.
    fn ranges(&self, begin: usize) -> Vec<(usize, u32, u32)> {
        self.pieces[begin..].iter().map(|piece| (piece.slot, piece.shared, piece.bytes)).collect()
    }
}
