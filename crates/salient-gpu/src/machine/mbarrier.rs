//! Barriers in shared memory (PTX ISA: mbarrier).
//!
//! The 64 bits of one hold its phase, the arrivals that the phase still waits for, those that every
//! phase waits for, and the bytes that are still to come.

use crate::config::Completion;
use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

use super::addressing::{address, addresses};
use super::inst::{Inst, Stop};
use super::lower::Lower;
use super::space::{SHARED_WINDOW, shared_place};
use super::turn::{Step, Turn, stop_lanes};

const B32: Type = Type { kind: Kind::Bits, bits: 32 };
const B64: Type = Type { kind: Kind::Bits, bits: 64 };
const NONE: u32 = u32::MAX;

/// The most arrivals of a phase, and the most bytes (PTX ISA: Contents of the mbarrier object).
const MOST: i64 = (1 << 20) - 1;

const WIDE: u32 = 1;
const GENERIC: u32 = 2;
const RELAXED: u32 = 4;
const PARITY: u32 = 8;
const EXPECT: u32 = 16;
const DROP: u32 = 32;
const TRY: u32 = 64;
const KEEP: u32 = 128;

/// What the 64 bits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) phase: u64,
    pub(crate) pending: i64,
    pub(crate) expected: i64,
    pub(crate) bytes: i64,
}

impl State {
    fn unpack(word: u64) -> Self {
        Self {
            phase: word >> 63,
            pending: (word & 0xf_ffff) as i64,
            expected: (word >> 20 & 0xf_ffff) as i64,
            bytes: (word << 2) as i64 >> 42,
        }
    }

    fn pack(self) -> u64 {
        self.phase << 63
            | ((self.bytes as u64) & 0x3f_ffff) << 40
            | (self.expected as u64) << 20
            | self.pending as u64
    }

    /// Ends the phase if nothing is missing.
    fn settle(&mut self) -> bool {
        let done = self.pending == 0 && self.bytes == 0;
        if done {
            self.phase ^= 1;
            self.pending = self.expected;
        }
        done
    }
}

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    if opcode.name != "mbarrier" {
        return Ok(false);
    }
    let mut words = opcode.modifiers.iter().map(String::as_str);
    let operation = words.next().unwrap_or("");
    let mut flags = GENERIC;
    let mut typed = false;
    for word in words {
        match word {
            "shared" | "shared::cta" | "shared::cluster" => flags &= !GENERIC,
            "release" | "acquire" | "cta" | "cluster" => {}
            "relaxed" => flags |= RELAXED,
            "parity" if operation.ends_with("wait") => flags |= PARITY,
            "expect_tx" if operation.starts_with("arrive") => flags |= EXPECT,
            "noComplete" if operation.starts_with("arrive") => {}
            "b64" => typed = true,
            _ => return Err(format!("mbarrier.{operation} has no .{word}")),
        }
    }
    if !typed {
        return Err(format!("mbarrier.{operation} is of .b64"));
    }
    let mut inst = match (operation, operands) {
        ("init", [at, count]) => on(init, at, Some(count), cx)?,
        ("inval", [at]) => on(invalidate, at, None, cx)?,
        ("expect_tx" | "complete_tx", [at, bytes]) => {
            let mut inst = on(transact, at, Some(bytes), cx)?;
            inst.immediate = if operation == "expect_tx" { 1 } else { -1 };
            inst
        }
        ("arrive" | "arrive_drop", rest) => {
            if operation == "arrive_drop" {
                flags |= DROP;
            }
            let (state, rest) = match rest {
                [at @ Operand::Address(..), ..] => (None, (at, rest.get(1))),
                [state, at, ..] => (Some(state), (at, rest.get(2))),
                _ => return Err("mbarrier.arrive takes an address".to_owned()),
            };
            let mut inst = on(arrive, rest.0, rest.1, cx)?;
            inst.d = NONE;
            if let Some(state) = state.filter(|state| **state != Operand::Sink) {
                inst.d = cx.target(state, B64)?;
                flags |= KEEP;
            }
            if flags & EXPECT != 0 && rest.1.is_none() {
                return Err("mbarrier.arrive.expect_tx takes a number of bytes".to_owned());
            }
            inst
        }
        ("test_wait" | "try_wait", [done, at, phase, rest @ ..]) if rest.len() <= 1 => {
            if operation == "try_wait" {
                flags |= TRY;
            } else if !rest.is_empty() {
                return Err("mbarrier.test_wait takes three operands".to_owned());
            }
            let mut inst = on(wait, at, None, cx)?;
            inst.d = cx.predicate_target(done)?;
            inst.b = cx.source(phase, if flags & PARITY != 0 { B32 } else { B64 })?;
            if let [hint] = rest {
                cx.source(hint, B32)?;
            }
            inst
        }
        ("pending_count", [target, state]) => {
            let mut inst = Inst::lanes(|regs, inst, lanes| {
                let counts = regs.longs(inst.a).map(|word| State::unpack(word).pending as u32);
                regs.set_words(inst.d, lanes, &counts);
            });
            inst.d = cx.target(target, B32)?;
            inst.a = cx.source(state, B64)?;
            cx.push(inst);
            return Ok(true);
        }
        _ => return Err(format!("there is no such mbarrier.{operation}")),
    };
    inst.e |= flags;
    cx.push(inst);
    Ok(true)
}

/// An instruction on an mbarrier. `e` holds flags, `c` the row of what is added to the address.
fn on(
    run: super::inst::Machine,
    at: &Operand,
    count: Option<&Operand>,
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let mut inst = Inst::machine(run);
    let (row, offset, wide, _) = address(at, cx)?;
    inst.a = row;
    inst.c = offset as i32 as u32;
    inst.b = count.map_or(Ok(NONE), |count| cx.source(count, B32))?;
    inst.e = wide;
    Ok(inst)
}

/// The slot and the offset of the mbarrier of every lane.
fn places(
    turn: &Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<[Option<(usize, u32)>; 32], Stop> {
    let at = addresses(turn, inst.a, i64::from(inst.c as i32), inst.e & WIDE != 0);
    let mut places = [None; 32];
    for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
        let address = match inst.e & GENERIC != 0 {
            true => at[lane].wrapping_sub(SHARED_WINDOW),
            false => at[lane],
        };
        if address % 8 != 0 {
            return stop_lanes(
                FaultKind::Misaligned,
                1 << lane,
                format!("an mbarrier at {address:#x}, which is no multiple of 8"),
            );
        }
        places[lane] = Some(shared_place(turn, address, 8, lane as u32)?);
    }
    Ok(places)
}

/// The mbarrier at a place, which must have been initialised.
pub(crate) fn read(
    turn: &Turn<'_, '_>,
    (slot, offset): (usize, u32),
    lane: u32,
) -> Result<State, Stop> {
    let block = &turn.world.blocks[slot];
    if !block.mbarriers.contains(&offset) {
        return stop_lanes(
            FaultKind::Misuse,
            1 << lane,
            format!("no mbarrier was initialised at {offset:#x} of shared memory"),
        );
    }
    let at = offset as usize;
    let word = block.shared[at..at + 8].try_into().expect("8 bytes");
    Ok(State::unpack(u64::from_le_bytes(word)))
}

fn write(turn: &mut Turn<'_, '_>, (slot, offset): (usize, u32), state: State) {
    let at = offset as usize;
    let block = &mut turn.world.blocks[slot];
    block.shared[at..at + 8].copy_from_slice(&state.pack().to_le_bytes());
    if let Some(written) = block.shared_written.get_mut(at..at + 8) {
        written.fill(1);
    }
}

/// Changes what is expected of an mbarrier's phase: arrivals and bytes.
pub(crate) fn change(
    turn: &mut Turn<'_, '_>,
    place: (usize, u32),
    lane: u32,
    (arrivals, bytes): (i64, i64),
    drop: bool,
) -> Result<State, Stop> {
    let mut state = read(turn, place, lane)?;
    let before = state;
    state.bytes += bytes;
    if arrivals > state.pending {
        return stop_lanes(
            FaultKind::Misuse,
            1 << lane,
            format!(
                "{arrivals} arrivals at the mbarrier at {:#x}, whose phase waits for {}",
                place.1, state.pending
            ),
        );
    }
    if state.bytes.abs() > MOST {
        return stop_lanes(
            FaultKind::Misuse,
            1 << lane,
            format!("{} bytes are to come at the mbarrier at {:#x}", state.bytes, place.1),
        );
    }
    state.pending -= arrivals;
    if drop {
        state.expected -= arrivals;
    }
    // A phase ends by an arrival or by bytes, never by being expected of nothing.
    if (arrivals > 0 || bytes < 0) && state.settle() {
        turn.observe_mbarrier_complete(place);
        turn.event();
    }
    write(turn, place, state);
    Ok(before)
}

fn init(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let counts = *turn.regs().words(inst.b);
    let places = places(turn, inst, lanes)?;
    for (lane, place) in places.into_iter().enumerate() {
        let Some(place) = place else { continue };
        let count = i64::from(counts[lane]);
        if !(1..=MOST).contains(&count) {
            return stop_lanes(
                FaultKind::Misuse,
                1 << lane,
                format!("an mbarrier of {count} arrivals"),
            );
        }
        turn.observe_mbarrier_init(place, lane as u32, inst.place)?;
        let block = &mut turn.world.blocks[place.0];
        if !block.mbarriers.contains(&place.1) {
            block.mbarriers.push(place.1);
        }
        write(turn, place, State { phase: 0, pending: count, expected: count, bytes: 0 });
    }
    Ok(Step::Next)
}

fn invalidate(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    for (lane, place) in places(turn, inst, lanes)?.into_iter().enumerate() {
        let Some(place) = place else { continue };
        read(turn, place, lane as u32)?;
        turn.observe_mbarrier_reset(place);
        turn.world.blocks[place.0].mbarriers.retain(|&at| at != place.1);
    }
    Ok(Step::Next)
}

fn transact(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let bytes = *turn.regs().words(inst.b);
    for (lane, place) in places(turn, inst, lanes)?.into_iter().enumerate() {
        let Some(place) = place else { continue };
        let bytes = i64::from(bytes[lane]) * inst.immediate;
        change(turn, place, lane as u32, (0, bytes), false)?;
    }
    Ok(Step::Next)
}

fn arrive(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let numbers = match inst.b {
        NONE => [1; 32],
        row => *turn.regs().words(row),
    };
    let mut states = [0; 32];
    for (lane, place) in places(turn, inst, lanes)?.into_iter().enumerate() {
        let Some(place) = place else { continue };
        let change_by = match inst.e & EXPECT != 0 {
            true => (1, i64::from(numbers[lane])),
            false => (i64::from(numbers[lane]), 0),
        };
        if inst.e & KEEP != 0 && place.0 != turn.block {
            return stop_lanes(
                FaultKind::Misuse,
                1 << lane,
                "mbarrier.arrive in another block's memory returns no state",
            );
        }
        if change_by.0 < 1 {
            return stop_lanes(FaultKind::Misuse, 1 << lane, "mbarrier.arrive of no arrivals");
        }
        if inst.e & RELAXED == 0 {
            turn.observe_mbarrier_arrive(place, 1 << lane);
        }
        states[lane] = change(turn, place, lane as u32, change_by, inst.e & DROP != 0)?.pack();
    }
    if inst.e & KEEP != 0 {
        turn.regs().set_longs(inst.d, lanes, &states);
    }
    Ok(Step::Next)
}

fn wait(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let places = places(turn, inst, lanes)?;
    let phases = match inst.e & PARITY != 0 {
        true => turn.regs().words(inst.b).map(u64::from),
        false => turn.regs().longs(inst.b).map(|word| word >> 63),
    };
    let mut done = 0;
    for (lane, place) in places.iter().enumerate() {
        let &Some(place) = place else { continue };
        if phases[lane] > 1 {
            return stop_lanes(
                FaultKind::Misuse,
                1 << lane,
                format!("an mbarrier has phases 0 and 1, not {}", phases[lane]),
            );
        }
        let state = read(turn, place, lane as u32)?;
        done |= u32::from(state.phase != phases[lane]) << lane;
    }
    // try_wait may give up as it likes: rarely, and only where it is drawn.
    let gives_up =
        turn.world.launched.config.completion == Completion::Random && turn.world.random.once_in(8);
    if inst.e & TRY != 0 && done == 0 && !gives_up {
        return Ok(Step::Wait);
    }
    if inst.e & RELAXED == 0 {
        for (lane, place) in places.into_iter().enumerate() {
            if let Some(place) = place.filter(|_| done >> lane & 1 != 0) {
                turn.observe_mbarrier_wait(place, 1 << lane);
            }
        }
    }
    turn.regs().set_predicate(inst.d, lanes, done);
    // Others first, if it is asked again and again.
    Ok(if done == lanes { Step::Next } else { Step::Yield })
}

#[cfg(test)]
mod tests {
    use super::State;

    #[test]
    fn states_are_kept_whole_in_64_bits() {
        for phase in [0, 1] {
            for pending in [0, 1, 0xf_ffff] {
                for bytes in [0, 1, -1, 0xf_ffff, -0xf_ffff] {
                    let state = State { phase, pending, expected: 0xf_ffff - pending, bytes };
                    assert_eq!(State::unpack(state.pack()), state);
                }
            }
        }
    }
}
