//! Copies to shared memory behind a thread's back (PTX ISA: cp.async).

use crate::config::Completion;
use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

use crate::race::Ticket;

use super::access::each;
use super::addressing::{WIDE_ADDRESS, address, addresses};
use super::inst::{Inst, More, Stop};
use super::locate::{At, NOWHERE, Pointers, find, locate};
use super::lower::Lower;
use super::mbarrier;
use super::memory::POISON;
use super::observe::{Access, AccessKind, Ordering};
use super::space::{SHARED_WINDOW, Where, shared_place};
use super::turn::{Step, Turn, stop_lanes};

const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
const NONE: u32 = u32::MAX;

/// A warp's copies.
#[derive(Debug, Clone, Default)]
pub(crate) struct Copies {
    pending: Vec<Copy>,
    /// Groups that each lane has closed.
    closed: [u32; 32],
    /// mbarriers that are arrived at when all earlier copies of a lane have landed.
    arrivals: Vec<Arrival>,
}

#[derive(Debug, Clone, Copy)]
struct Copy {
    lane: u32,
    group: u32,
    slot: usize,
    offset: u32,
    from: u64,
    bytes: u32,
    /// Bytes that are read; zeros behind.
    read: u32,
    landed: bool,
    ticket: Option<Ticket>,
}

#[derive(Debug, Clone, Copy)]
struct Arrival {
    lane: u32,
    place: (usize, u32),
}

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    if opcode.name != "cp" || opcode.modifiers.first().is_none_or(|word| word != "async") {
        return Ok(false);
    }
    let modifiers: Vec<&str> = opcode.modifiers.iter().skip(1).map(String::as_str).collect();
    let inst = match (&modifiers[..], operands) {
        (["bulk", ..] | ["reduce", ..], _) => return Ok(false),
        (["commit_group"], []) => Inst::machine(commit),
        (["wait_group"], [Operand::Integer(pending)]) => {
            let mut inst = Inst::machine(wait);
            inst.e = u32::try_from(*pending).map_err(|_| "a number of groups")?;
            inst
        }
        (["wait_all"], []) => Inst::machine(|turn, _, lanes| {
            commit_lanes(turn, lanes);
            wait_lanes(turn, lanes, 0)
        }),
        (["mbarrier", "arrive", rest @ ..], [at]) => {
            let mut inst = Inst::machine(arrive);
            let (row, offset, wide, _) = address(at, cx)?;
            (inst.a, inst.immediate) = (row, offset);
            let noinc = rest.contains(&"noinc");
            let shared = rest.iter().any(|word| word.starts_with("shared"));
            inst.e = wide | u32::from(noinc) << 1 | u32::from(shared) << 2;
            inst
        }
        ([cache @ ("ca" | "cg"), rest @ ..], _) => copy(cache, rest, operands, cx)?,
        _ => return Err(format!("there is no cp.async.{}", modifiers.join("."))),
    };
    cx.push(inst);
    Ok(true)
}

fn copy(
    cache: &str,
    modifiers: &[&str],
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let mut hint = false;
    for modifier in modifiers {
        match *modifier {
            "shared" | "shared::cta" | "global" | "L2::64B" | "L2::128B" | "L2::256B" => {}
            "L2::cache_hint" => hint = true,
            _ => return Err(format!("cp.async has no .{modifier}")),
        }
    }
    let operands = match hint {
        true => &operands[..operands.len().max(1) - 1],
        false => operands,
    };
    let (to, from, size, read) = match operands {
        [to, from, Operand::Integer(size)] => (to, from, *size, None),
        [to, from, Operand::Integer(size), read] => (to, from, *size, Some(read)),
        _ => return Err("cp.async takes two addresses and a size".to_owned()),
    };
    if !matches!((cache, size), ("ca", 4 | 8 | 16) | ("cg", 16)) {
        return Err(format!("cp.async.{cache} of {size} bytes"));
    }
    let mut inst = Inst::machine(issue);
    let (to_row, to_offset, to_wide, _) = address(to, cx)?;
    let (from_row, from_offset, from_wide, _) = address(from, cx)?;
    (inst.d, inst.a, inst.b) = (to_row, from_row, size as u32);
    let mut ignores = 0;
    inst.c = match read {
        None => NONE,
        // A predicate says that nothing is read; anything else is a number of bytes.
        Some(operand) => match cx.predicate(operand) {
            Ok(predicate) if !matches!(operand, Operand::Integer(_)) => {
                ignores = 1;
                predicate
            }
            _ => cx.source(operand, U32)?,
        },
    };
    inst.e = to_wide | from_wide << 1 | ignores << 2;
    inst.immediate = from_offset;
    inst.more = Some(Box::new(More { numbers: vec![to_offset], ..More::default() }));
    Ok(inst)
}

fn issue(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let bytes = inst.b;
    let to_offset = inst.more.as_ref().expect("lowered with an offset").numbers[0];
    let eager = turn.world.launched.config.completion == Completion::Eager;
    if turn.world.quiet && eager && inst.c == NONE && inst.e & WIDE_ADDRESS == 0 {
        return copy_now(turn, inst, lanes, to_offset);
    }
    let to = addresses(turn, inst.d, to_offset, inst.e & WIDE_ADDRESS != 0);
    let from = addresses(turn, inst.a, inst.immediate, inst.e >> 1 & 1 != 0);
    let read = match (inst.c, inst.e >> 2 & 1) {
        (NONE, _) => [bytes; 32],
        (predicate, 1) => {
            let ignored = turn.regs().predicate(predicate);
            std::array::from_fn(|lane| if ignored >> lane & 1 != 0 { 0 } else { bytes })
        }
        (row, _) => *turn.regs().words(row),
    };
    let reading = (0..32).fold(0, |mask, lane| mask | u32::from(read[lane] > 0) << lane) & lanes;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        if read[lane] > bytes {
            return stop_lanes(
                FaultKind::Misuse,
                1 << lane,
                format!("cp.async of {bytes} bytes reads {}", read[lane]),
            );
        }
    }
    let access = Access { kind: AccessKind::Read, bytes, place: inst.place, order: Ordering::NONE };
    let mut sources = [0; 32];
    if reading != 0 {
        // All of what may be read is within bounds, if less than that is asked for too.
        sources = locate_source(turn, &from, reading, &read, access)?;
    }
    let mut places = [(0, 0); 32];
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        if !to[lane].is_multiple_of(bytes.into()) {
            return stop_lanes(
                FaultKind::Misaligned,
                1 << lane,
                format!("cp.async of {bytes} bytes to {:#x}", to[lane]),
            );
        }
        let to = if inst.e & WIDE_ADDRESS != 0 && to[lane] >= SHARED_WINDOW {
            to[lane] - SHARED_WINDOW
        } else {
            to[lane]
        };
        places[lane] = shared_place(turn, to, u64::from(bytes), lane as u32)?;
        if places[lane].0 != turn.block {
            let message = "cp.async to another block's shared memory";
            return stop_lanes(FaultKind::IllegalAddress, 1 << lane, message);
        }
    }
    let offsets = places.map(|place| u64::from(place.1));
    let ticket = turn.observe_copy(&offsets, (&from, &read), lanes, bytes, inst.place)?;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let (slot, offset) = places[lane];
        let group = turn.warp().copies.closed[lane];
        let copy = Copy {
            lane: lane as u32,
            group,
            slot,
            offset,
            from: sources[lane],
            bytes,
            read: read[lane],
            landed: false,
            ticket,
        };
        turn.world.count_copy(read[lane]);
        if let Some(written) = turn.world.blocks[slot]
            .shared_written
            .get_mut(offset as usize..(offset + bytes) as usize)
        {
            written.fill(1);
        }
        let landed = match turn.world.launched.config.completion {
            Completion::Eager => true,
            Completion::Late => false,
            Completion::Random => turn.world.random.once_in(2),
        };
        if landed {
            land(turn, copy);
        } else {
            let range = offset as usize..(offset + bytes) as usize;
            for pair in turn.world.blocks[slot].shared[range].chunks_exact_mut(2) {
                pair.copy_from_slice(&POISON.to_le_bytes());
            }
        }
        if !landed || ticket.is_some() {
            turn.warp().copies.pending.push(Copy { landed, ..copy });
        }
    }
    Ok(Step::Next)
}

/// A copy that nobody watches, of all of its bytes, and at once.
fn copy_now(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
    to_offset: i64,
) -> Result<Step, Stop> {
    let access = |kind| Access { kind, bytes: inst.b, place: inst.place, order: Ordering::NONE };
    let (mut from, mut to) = (NOWHERE, NOWHERE);
    let source = At { row: inst.a, offset: inst.immediate, wide: inst.e >> 1 & 1 != 0 };
    find(turn, Where::Global, source, lanes, access(AccessKind::Read), &mut from)?;
    let target = At { row: inst.d, offset: to_offset, wide: false };
    find(turn, Where::Shared, target, lanes, access(AccessKind::Write), &mut to)?;
    each(lanes, |lane| {
        let (from, to) = (from[lane] as *const u8, to[lane] as *mut u8);
        match inst.b {
            // SAFETY: `find` has found all bytes, in device memory and in shared memory.
            16 => unsafe { from.copy_to_nonoverlapping(to, 16) },
            // SAFETY: as above.
            bytes => unsafe { from.copy_to_nonoverlapping(to, bytes as usize) },
        }
    });
    Ok(Step::Next)
}

/// Sources of lanes that read fewer bytes than they copy need only have those.
fn locate_source(
    turn: &mut Turn<'_, '_>,
    from: &[u64; 32],
    reading: u32,
    read: &[u32; 32],
    access: Access,
) -> Result<Pointers, Stop> {
    let whole = (0..32).fold(0, |mask, lane| mask | u32::from(read[lane] == access.bytes) << lane);
    let mut pointers = NOWHERE;
    if reading & whole != 0 {
        pointers = locate(turn, Where::Global, from, reading & whole, access)?;
    }
    for lane in (0..32).filter(|lane| reading & !whole & 1 << lane != 0) {
        for byte in 0..u64::from(read[lane]) {
            let mut addresses = [0; 32];
            addresses[lane] = from[lane] + byte;
            let one = Access { bytes: 1, ..access };
            let found = locate(turn, Where::Global, &addresses, 1 << lane, one)?;
            if byte == 0 {
                pointers[lane] = found[lane];
            }
        }
    }
    Ok(pointers)
}

fn land(turn: &mut Turn<'_, '_>, copy: Copy) {
    let range = copy.offset as usize..(copy.offset + copy.bytes) as usize;
    let to = &mut turn.world.blocks[copy.slot].shared[range];
    let (read, rest) = to.split_at_mut(copy.read as usize);
    if !read.is_empty() {
        // SAFETY: the source was found within an allocation when the copy was issued.
        let from = unsafe { std::slice::from_raw_parts(copy.from as *const u8, read.len()) };
        read.copy_from_slice(from);
    }
    rest.fill(0);
}

fn commit(turn: &mut Turn<'_, '_>, _: &Inst, lanes: u32) -> Result<Step, Stop> {
    commit_lanes(turn, lanes);
    Ok(Step::Next)
}

fn commit_lanes(turn: &mut Turn<'_, '_>, lanes: u32) {
    let copies = &mut turn.warp().copies;
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        copies.closed[lane] += 1;
    }
}

fn wait(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    wait_lanes(turn, lanes, inst.e)
}

/// Has all but the latest groups of some lanes land.
fn wait_lanes(turn: &mut Turn<'_, '_>, lanes: u32, pending: u32) -> Result<Step, Stop> {
    let copies = &mut turn.warp().copies;
    let closed = copies.closed;
    let (done, rest): (Vec<Copy>, Vec<Copy>) = copies.pending.drain(..).partition(|copy| {
        lanes >> copy.lane & 1 != 0 && copy.group + pending < closed[copy.lane as usize]
    });
    copies.pending = rest;
    let mut last = [None; 32];
    for copy in done {
        if !copy.landed {
            land(turn, copy);
        }
        last[copy.lane as usize] = last[copy.lane as usize].max(copy.ticket);
    }
    for (lane, ticket) in last.into_iter().enumerate() {
        if let Some(ticket) = ticket {
            let first = last[..lane].contains(&Some(ticket));
            let same = (0..32).filter(|&other| last[other] == Some(ticket));
            if !first {
                turn.observe_copy_wait(same.fold(0, |mask, lane| mask | 1 << lane), ticket);
            }
        }
    }
    settle_arrivals(turn)?;
    Ok(Step::Next)
}

/// cp.async.mbarrier.arrive: an arrival once all earlier copies of the thread have landed.
fn arrive(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let at = addresses(turn, inst.a, inst.immediate, inst.e & WIDE_ADDRESS != 0);
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let generic = inst.e >> 2 & 1 == 0;
        let address = if generic { at[lane].wrapping_sub(SHARED_WINDOW) } else { at[lane] };
        let place = shared_place(turn, address, 8, lane as u32)?;
        if inst.e >> 1 & 1 == 0 {
            // Without .noinc the arrival is not among those that were expected.
            mbarrier::change(turn, place, lane as u32, (-1, 0), false)?;
        }
        // The arrival is for the copies, too.
        let mine = turn.warp().copies.pending.iter().filter(|copy| copy.lane == lane as u32);
        if let Some(last) = mine.filter_map(|copy| copy.ticket).max() {
            turn.observe_copy_wait(1 << lane, last);
        }
        turn.observe_mbarrier_arrive(place, 1 << lane);
        turn.warp().copies.arrivals.push(Arrival { lane: lane as u32, place });
    }
    settle_arrivals(turn)?;
    Ok(Step::Next)
}

fn settle_arrivals(turn: &mut Turn<'_, '_>) -> Result<(), Stop> {
    if turn.warp().copies.arrivals.is_empty() {
        return Ok(());
    }
    let copies = &mut turn.warp().copies;
    let pending: Vec<(u32, bool)> =
        copies.pending.iter().map(|copy| (copy.lane, copy.landed)).collect();
    let (ready, rest) =
        copies.arrivals.drain(..).partition(|arrival| !pending.contains(&(arrival.lane, false)));
    copies.arrivals = rest;
    let ready: Vec<Arrival> = ready;
    for arrival in ready {
        mbarrier::change(turn, arrival.place, arrival.lane, (1, 0), false)?;
    }
    Ok(())
}

impl Copies {
    /// Whether something is still to land that nobody has to ask for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.pending.iter().any(|copy| !copy.landed)
    }
}

/// Has one of a warp's copies land, whichever `pick` says.
pub(crate) fn land_one(turn: &mut Turn<'_, '_>, pick: u64) -> Result<(), Stop> {
    let copies = &mut turn.warp().copies;
    let waiting: Vec<usize> =
        (0..copies.pending.len()).filter(|&i| !copies.pending[i].landed).collect();
    let Some(&which) = waiting.get((pick % waiting.len().max(1) as u64) as usize) else {
        return Ok(());
    };
    copies.pending[which].landed = true;
    let copy = copies.pending[which];
    land(turn, copy);
    settle_arrivals(turn)
}
