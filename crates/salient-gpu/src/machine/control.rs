//! Where a warp goes next, and what it asks of the machine itself (PTX ISA: section 9.7.13, Control
//! Flow Instructions, and 9.7.20, Miscellaneous Instructions).

use crate::fault::FaultKind;
use crate::ptx::ast::{Opcode, Operand, Table};

use super::inst::{Inst, More, Stop};
use super::lower::{Lower, type_of};
use super::registers::Words;
use super::turn::{Step, Turn, stop, stop_lanes};

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    let inst = match (&opcode.name[..], &modifiers[..], operands) {
        ("bra", [] | ["uni"], [Operand::Label(label)]) => {
            cx.jumps.push((cx.insts.len(), *label));
            jump()
        }
        ("brx", ["idx"] | ["idx", "uni"], [index, Operand::Table(table)]) => {
            brx(index, *table, cx)?
        }
        ("ret", [] | ["uni"], []) if cx.is_called() => {
            cx.jumps.push((cx.insts.len(), cx.function.instructions.len() as u32));
            jump()
        }
        ("ret", [] | ["uni"], []) | ("exit", [], []) => exit(),
        ("trap", [], []) => Inst::machine(|_, _, lanes| {
            stop_lanes(FaultKind::Trap, lanes, "the kernel has executed trap")
        }),
        ("brkpt", [], []) => Inst::machine(|_, _, lanes| {
            stop_lanes(FaultKind::Trap, lanes, "the kernel has executed brkpt")
        }),
        ("nanosleep", ["u32"], [time]) => {
            cx.source(time, type_of("u32").expect("a type"))?;
            Inst::machine(|_, _, _| Ok(Step::Yield))
        }
        // Hints, which nothing depends on.
        ("pmevent", [] | ["mask"], [Operand::Integer(_)])
        | ("griddepcontrol", ["launch_dependents" | "wait"], []) => {
            Inst::machine(|_, _, _| Ok(Step::Next))
        }
        ("mov", [kind], [target, Operand::Special(name)]) if !super::special::is_constant(name) => {
            clock(kind, target, name, cx)?
        }
        ("setmaxnreg", [way @ ("inc" | "dec"), "sync", "aligned", "u32"], [count]) => {
            set_registers(way, count)?
        }
        _ => return Ok(false),
    };
    cx.push(inst);
    Ok(true)
}

/// A jump whose target is put in later.
pub(crate) fn jump() -> Inst {
    Inst::machine(|_, inst, _| Ok(Step::Jump(inst.e)))
}

/// The end.
pub(crate) fn exit() -> Inst {
    Inst::machine(|_, _, _| Ok(Step::Exit))
}

/// Functions that nvcc's runtime brings.
pub(crate) fn intrinsic(
    name: &str,
    _params: &[Operand],
    _cx: &mut Lower<'_>,
) -> Result<Option<Inst>, String> {
    Ok(match name {
        "__assertfail" => Some(Inst::machine(|_, _, lanes| {
            stop_lanes(FaultKind::Assert, lanes, "an assertion has failed")
        })),
        _ => None,
    })
}

/// A list of labels that a register picks from.
fn brx(index: &Operand, table: u32, cx: &mut Lower<'_>) -> Result<Inst, String> {
    let index = cx.source(index, type_of("u32").expect("a type"))?;
    let Some(Table::Branches(targets)) = cx.function.tables.get(table as usize) else {
        return Err("brx.idx takes a list of branch targets".to_owned());
    };
    let targets = targets.clone();
    let mut inst = Inst::machine(|turn, inst, lanes| {
        let targets = &inst.more.as_ref().expect("lowered with targets").targets;
        let scratch = inst.d;
        let mut to: Words = *turn.regs().words(inst.a);
        for lane in (0..32).filter(|lane| lanes >> lane & 1 != 0) {
            let Some(&target) = targets.get(to[lane] as usize) else {
                return stop_lanes(
                    FaultKind::IllegalInstruction,
                    1 << lane,
                    format!("brx.idx takes target {} of {}", to[lane], targets.len()),
                );
            };
            to[lane] = target;
        }
        turn.regs().set_words(scratch, lanes, &to);
        Ok(Step::Scatter(scratch))
    });
    inst.a = index;
    inst.d = cx.scratch(1);
    inst.more = Some(Box::new(More { targets, ..More::default() }));
    cx.jumps.push((cx.insts.len(), 0));
    Ok(inst)
}

/// %clock and its like go on with the machine's steps.
fn clock(kind: &str, target: &Operand, name: &str, cx: &mut Lower<'_>) -> Result<Inst, String> {
    let kind = type_of(kind).filter(|kind| matches!(kind.bits, 32 | 64));
    let kind = kind.ok_or_else(|| format!("%{name} has another type"))?;
    let wide = super::special::is_wide(name);
    if wide != (kind.bits == 64) {
        return Err(format!("%{name} has {} bits", if wide { 64 } else { 32 }));
    }
    let mut inst = Inst::machine(|turn, inst, lanes| {
        let now = turn.world.steps * if inst.e & 2 != 0 { 10 } else { 1 };
        let now = if inst.e & 4 != 0 { now >> 32 } else { now };
        if inst.e & 1 != 0 {
            turn.regs().set_longs(inst.d, lanes, &[now; 32]);
        } else {
            turn.regs().set_words(inst.d, lanes, &[now as u32; 32]);
        }
        Ok(Step::Next)
    });
    inst.d = cx.target(target, kind)?;
    inst.e = u32::from(wide)
        | if name.starts_with("globaltimer") { 2 } else { 0 }
        | if name.ends_with("_hi") { 4 } else { 0 };
    Ok(inst)
}

/// Registers go back to the block's pool, or come from it as soon as they are there (PTX ISA:
/// setmaxnreg).
fn set_registers(way: &str, count: &Operand) -> Result<Inst, String> {
    let &Operand::Integer(count) = count else {
        return Err("setmaxnreg takes a number".to_owned());
    };
    if !(24..=256).contains(&count) || count % 8 != 0 {
        return Err(format!("setmaxnreg takes a multiple of 8 from 24 to 256, not {count}"));
    }
    let mut inst = if way == "inc" {
        Inst::machine(|turn, inst, lanes| change_registers(turn, inst.e, lanes, true))
    } else {
        Inst::machine(|turn, inst, lanes| change_registers(turn, inst.e, lanes, false))
    };
    inst.e = count as u32;
    Ok(inst)
}

fn change_registers(
    turn: &mut Turn<'_, '_>,
    count: u32,
    lanes: u32,
    more: bool,
) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    if turn.world.launched.kernel.threads.is_none() {
        return stop(FaultKind::Misuse, "setmaxnreg in a kernel without launch bounds");
    }
    let block = &mut turn.world.blocks[turn.block];
    let warp = &mut block.warps[turn.warp];
    if more {
        let Some(extra) = count.checked_sub(warp.registers) else {
            return stop(
                FaultKind::Misuse,
                format!("setmaxnreg.inc to {count}, but the warp has {}", warp.registers),
            );
        };
        if block.free_registers < extra {
            return Ok(Step::Wait);
        }
        block.free_registers -= extra;
    } else {
        let Some(less) = warp.registers.checked_sub(count) else {
            return stop(
                FaultKind::Misuse,
                format!("setmaxnreg.dec to {count}, but the warp has {}", warp.registers),
            );
        };
        block.free_registers += less;
    }
    warp.registers = count;
    turn.event();
    Ok(Step::Next)
}
