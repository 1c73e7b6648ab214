//! What the lanes of a warp do together (PTX ISA: shfl.sync, vote.sync, match.sync, redux.sync,
//! activemask, elect.sync).

use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

use super::inst::{Inst, Stop};
use super::lower::{Lower, type_of};
use super::memory::POISON;
use super::registers::{FULL, Words};
use super::turn::{Step, Turn, stop_lanes};

const B32: Type = Type { kind: Kind::Bits, bits: 32 };
/// Instead of a predicate that nobody asked for.
const NONE: u32 = u32::MAX;

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    let inst = match (&opcode.name[..], &modifiers[..], operands) {
        ("shfl", ["sync", mode, "b32"], [target, a, b, c, members]) => {
            shuffle(mode, target, [a, b, c, members], cx)?
        }
        ("vote", ["sync", mode, kind], [target, predicate, members]) => {
            vote(mode, kind, target, predicate, members, cx)?
        }
        ("activemask", ["b32"], [target]) => {
            let mut inst = Inst::lanes(|regs, inst, lanes| {
                regs.set_words(inst.d, lanes, &[lanes; 32]);
            });
            inst.d = cx.target(target, B32)?;
            inst
        }
        (
            "match",
            [mode @ ("any" | "all"), "sync", kind @ ("b32" | "b64")],
            [target, a, members],
        ) => matching(mode, kind, target, a, members, cx)?,
        ("redux", ["sync", operation, kind], [target, a, members]) => {
            reduce(operation, kind, target, a, members, cx)?
        }
        ("elect", ["sync"], [Operand::Pair(target, predicate), members]) => {
            let mut inst = Inst::machine(elect);
            inst.d = cx.target(target, B32)?;
            inst.e = cx.predicate_target(predicate)?;
            inst.a = cx.source(members, B32)?;
            inst
        }
        ("shfl" | "vote" | "activemask" | "match" | "redux" | "elect", ..) => {
            return Err(format!("{} has no such form", opcode.name));
        }
        _ => return Ok(false),
    };
    cx.push(inst);
    Ok(true)
}

/// Of lanes that have come to an instruction with a mask each, those whose masks' lanes have all
/// come too. Lanes with one mask are a group by themselves; those that have exited are not waited
/// for, those that never were count as there (PTX ISA: shfl.sync: "all non-exited threads
/// corresponding to membermask").
pub(crate) fn gather(
    turn: &mut Turn<'_, '_>,
    what: &str,
    members: &Words,
    lanes: u32,
) -> Result<u32, Stop> {
    let alive = turn.warp().alive;
    let first = members[lanes.trailing_zeros() as usize];
    let all_same = members.iter().fold(0, |other, mask| other | mask ^ first) == 0;
    if all_same && lanes & !first == 0 && first & alive & !lanes == 0 {
        return Ok(lanes);
    }
    let mut ready = 0;
    for (mask, group) in groups(members, lanes) {
        let strangers = group & !mask;
        if strangers != 0 {
            return stop_lanes(
                FaultKind::Misuse,
                strangers,
                format!("{what} by a lane that is not in its mask {mask:#010x}"),
            );
        }
        if mask & alive & !group == 0 {
            ready |= group;
        }
    }
    Ok(ready)
}

/// Masks, and the lanes that have each.
pub(crate) fn groups(members: &Words, lanes: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut left = lanes;
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let mask = members[left.trailing_zeros() as usize];
        let same = (0..32).fold(0, |same, lane| same | u32::from(members[lane] == mask) << lane);
        let group = left & same;
        left &= !same;
        Some((mask, group))
    })
}

/// What comes next when some lanes are done, and the others wait for theirs.
pub(crate) fn after(ready: u32, lanes: u32) -> Step {
    match ready {
        0 => Step::Converge,
        _ if ready == lanes => Step::Next,
        _ => Step::Part(ready),
    }
}

fn shuffle(
    mode: &str,
    target: &Operand,
    [a, b, c, members]: [&Operand; 4],
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let mut inst = Inst::machine(match mode {
        "up" => run_shuffle::<0>,
        "down" => run_shuffle::<1>,
        "bfly" => run_shuffle::<2>,
        "idx" => run_shuffle::<3>,
        _ => return Err(format!("shfl.sync has no .{mode}")),
    });
    (inst.d, inst.e) = match target {
        Operand::Pair(target, predicate) => {
            (cx.target(target, B32)?, cx.predicate_target(predicate)?)
        }
        target => (cx.target(target, B32)?, NONE),
    };
    inst.a = cx.source(a, B32)?;
    inst.b = cx.source(b, B32)?;
    inst.c = cx.source(c, B32)?;
    inst.immediate = i64::from(cx.source(members, B32)?);
    Ok(inst)
}

fn run_shuffle<const MODE: u8>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let members = *turn.regs().words(inst.immediate as u32);
    let ready = gather(turn, "shfl.sync", &members, lanes)?;
    if ready == 0 {
        return Ok(Step::Converge);
    }
    let regs = turn.regs();
    let (a, b, c) = (regs.words(inst.a), regs.words(inst.b), regs.words(inst.c));
    let (mut values, mut sources, mut inside) = ([0; 32], [0; 32], 0u32);
    for lane in 0..32u32 {
        // PTX ISA: shfl.sync, its pseudo-code.
        let by = b[lane as usize] & 31;
        let segment = c[lane as usize] >> 8 & 31;
        let clamp = c[lane as usize] & 31;
        let most = lane & segment | clamp & !segment;
        let least = lane & segment;
        let (from, valid) = match MODE {
            0 => (lane.wrapping_sub(by), lane as i32 - by as i32 >= most as i32),
            1 => (lane + by, lane + by <= most),
            2 => (lane ^ by, lane ^ by <= most),
            _ => {
                let from = least | by & !segment;
                (from, from <= most)
            }
        };
        let from = if valid { from } else { lane } & 31;
        inside |= u32::from(valid) << lane;
        sources[lane as usize] = from;
    }
    for (value, &from) in values.iter_mut().zip(&sources) {
        *value = a[from as usize & 31];
    }
    if ready != FULL || members.iter().any(|&mask| mask != FULL) {
        // What comes from a lane that does not take part is anything.
        for (lane, &from) in sources.iter().enumerate() {
            if ready >> from & 1 == 0 || members[from as usize] != members[lane] {
                values[lane] = u32::from(POISON) << 16 | u32::from(POISON);
            }
        }
    }
    regs.set_words(inst.d, ready, &values);
    if inst.e != NONE {
        regs.set_predicate(inst.e, ready, inside);
    }
    Ok(after(ready, lanes))
}

fn vote(
    mode: &str,
    kind: &str,
    target: &Operand,
    predicate: &Operand,
    members: &Operand,
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let mut inst = Inst::machine(match (mode, kind) {
        ("all", "pred") => run_vote::<0>,
        ("any", "pred") => run_vote::<1>,
        ("uni", "pred") => run_vote::<2>,
        ("ballot", "b32") => run_vote::<3>,
        _ => return Err(format!("vote.sync has no .{mode}.{kind}")),
    });
    inst.d = if mode == "ballot" { cx.target(target, B32)? } else { cx.predicate_target(target)? };
    inst.a = cx.predicate(predicate)?;
    inst.b = cx.source(members, B32)?;
    Ok(inst)
}

fn run_vote<const MODE: u8>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let members = *turn.regs().words(inst.b);
    let ready = gather(turn, "vote.sync", &members, lanes)?;
    let regs = turn.regs();
    let all = regs.predicate(inst.a);
    for (_, group) in groups(&members, ready) {
        let votes = all & group;
        let yes = match MODE {
            0 => votes == group,
            1 => votes != 0,
            2 => votes == 0 || votes == group,
            _ => {
                regs.set_words(inst.d, group, &[votes; 32]);
                continue;
            }
        };
        regs.set_predicate(inst.d, group, 0u32.wrapping_sub(u32::from(yes)));
    }
    Ok(after(ready, lanes))
}

fn matching(
    mode: &str,
    kind: &str,
    target: &Operand,
    a: &Operand,
    members: &Operand,
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let kind = type_of(kind).expect("b32 or b64");
    let mut inst = Inst::machine(run_match);
    let predicate;
    (inst.d, predicate) = match (mode, target) {
        ("all", Operand::Pair(target, predicate)) => {
            (cx.target(target, B32)?, cx.predicate_target(predicate)?)
        }
        (_, target) => (cx.target(target, B32)?, NONE),
    };
    inst.e = predicate;
    inst.a = cx.source(a, kind)?;
    inst.b = cx.source(members, B32)?;
    inst.immediate = i64::from(kind.bits == 64) | i64::from(mode == "all") << 1;
    Ok(inst)
}

fn run_match(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let members = *turn.regs().words(inst.b);
    let ready = gather(turn, "match.sync", &members, lanes)?;
    let regs = turn.regs();
    let values = match inst.immediate & 1 {
        1 => *regs.longs(inst.a),
        _ => regs.words(inst.a).map(u64::from),
    };
    for (_, group) in groups(&members, ready) {
        let same: Words = std::array::from_fn(|lane| {
            (0..32).fold(0, |mask, other| {
                mask | u32::from(group >> other & 1 != 0 && values[other] == values[lane]) << other
            })
        });
        if inst.immediate & 2 == 0 {
            regs.set_words(inst.d, group, &same);
            continue;
        }
        let all = same[group.trailing_zeros() as usize] == group;
        regs.set_words(inst.d, group, &[if all { group } else { 0 }; 32]);
        if inst.e != NONE {
            regs.set_predicate(inst.e, group, 0u32.wrapping_sub(u32::from(all)));
        }
    }
    Ok(after(ready, lanes))
}

type Reduction = fn(u32, u32) -> u32;

fn reduce(
    operation: &str,
    kind: &str,
    target: &Operand,
    a: &Operand,
    members: &Operand,
    cx: &mut Lower<'_>,
) -> Result<Inst, String> {
    let place = REDUCTIONS
        .iter()
        .position(|(names, kinds, _)| *names == operation && kinds.contains(&kind))
        .ok_or_else(|| format!("redux.sync has no .{operation}.{kind}"))?;
    let mut inst = Inst::machine(|turn, inst, lanes| {
        let members = *turn.regs().words(inst.b);
        let ready = gather(turn, "redux.sync", &members, lanes)?;
        let regs = turn.regs();
        let values = *regs.words(inst.a);
        for (_, group) in groups(&members, ready) {
            let active = (0..32).filter(|lane| group >> lane & 1 != 0).map(|lane| values[lane]);
            let value = active.reduce(REDUCTIONS[inst.e as usize].2).expect("a lane");
            regs.set_words(inst.d, group, &[value; 32]);
        }
        Ok(after(ready, lanes))
    });
    inst.d = cx.target(target, B32)?;
    inst.a = cx.source(a, B32)?;
    inst.b = cx.source(members, B32)?;
    inst.e = place as u32;
    Ok(inst)
}

#[rustfmt::skip]
const REDUCTIONS: &[(&str, &[&str], Reduction)] = &[
    ("add", &["u32", "s32"], |a, b| a.wrapping_add(b)),
    ("min", &["u32"], |a, b| a.min(b)),
    ("max", &["u32"], |a, b| a.max(b)),
    ("min", &["s32"], |a, b| (a as i32).min(b as i32) as u32),
    ("max", &["s32"], |a, b| (a as i32).max(b as i32) as u32),
    ("and", &["b32"], |a, b| a & b),
    ("or", &["b32"], |a, b| a | b),
    ("xor", &["b32"], |a, b| a ^ b),
];

fn elect(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let members = *turn.regs().words(inst.a);
    let ready = gather(turn, "elect.sync", &members, lanes)?;
    let regs = turn.regs();
    for (_, group) in groups(&members, ready) {
        let leader = group.trailing_zeros();
        regs.set_words(inst.d, group, &[leader; 32]);
        regs.set_predicate(inst.e, group, 1 << leader);
    }
    Ok(after(ready, lanes))
}
