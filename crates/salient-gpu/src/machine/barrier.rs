//! Barriers of a block and of a warp, and fences (PTX ISA: section 9.7.12, Parallel Synchronization
//! and Communication Instructions: barrier, bar, bar.warp.sync, membar, fence).

use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

use super::collective::{after, gather};
use super::inst::{Inst, Stop};
use super::lower::Lower;
use super::observe::Fence;
use super::turn::{Step, Turn, stop, stop_lanes};
use super::world::{Block, Split, State};

const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
/// Instead of an operand's row.
const NONE: u32 = u32::MAX;

/// A barrier of a block.
#[derive(Debug, Clone, Default)]
pub(crate) struct Barrier {
    /// How often it has opened.
    pub(crate) generation: u64,
    /// Threads that have arrived, in whole warps.
    pub(crate) arrived: u32,
    /// Threads that it opens at; 0: all of the block.
    pub(crate) expected: u32,
    /// Who has arrived: warp, lanes, and whether it waits.
    pub(crate) participants: Vec<(u32, u32, bool)>,
    /// What a reduction has so far, and what the last one came to.
    count: u32,
    all: bool,
    result: [u32; 3],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Sync,
    Arrive,
    Popc,
    And,
    Or,
}

const FORMS: [Form; 5] = [Form::Sync, Form::Arrive, Form::Popc, Form::And, Form::Or];

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    match (&opcode.name[..], &modifiers[..]) {
        ("bar", ["warp", "sync"]) => warp_sync(operands, cx)?,
        ("bar" | "barrier", rest) if rest.first() != Some(&"cluster") => {
            // bar is barrier.aligned.
            let aligned = opcode.name == "bar";
            let rest = rest.strip_prefix(&["cta"]).unwrap_or(rest);
            let (rest, aligned) = match rest.split_last() {
                Some((&"aligned", rest)) if !aligned => (rest, true),
                _ => (rest, aligned),
            };
            block_barrier(rest, aligned, operands, cx)?;
        }
        ("membar", [scope]) => {
            let scope = fence_scope(scope).ok_or_else(|| format!("membar has no .{scope}"))?;
            cx.push(fence(scope));
        }
        ("fence", rest) => cx.push(fence(fence_kind(rest)?)),
        _ => return Ok(false),
    }
    Ok(true)
}

fn fence_scope(scope: &str) -> Option<Fence> {
    Some(match scope {
        "cta" => Fence::Block,
        "cluster" => Fence::Cluster,
        "gl" | "gpu" | "sys" => Fence::Device,
        _ => return None,
    })
}

fn fence_kind(modifiers: &[&str]) -> Result<Fence, String> {
    Ok(match modifiers {
        ["acq_rel" | "sc" | "acquire" | "release", scope] if fence_scope(scope).is_some() => {
            fence_scope(scope).expect("just seen")
        }
        [scope] if fence_scope(scope).is_some() => fence_scope(scope).expect("just seen"),
        ["mbarrier_init", "release", "cluster"] => Fence::MbarrierInit,
        ["proxy", "async"] => Fence::ProxyAsync { shared: true, global: true },
        ["proxy", "async", space] => {
            Fence::ProxyAsync { shared: space.starts_with("shared"), global: *space == "global" }
        }
        ["proxy", "alias"] => Fence::Block,
        ["proxy", "tensormap::generic", "release" | "acquire", _] => Fence::Device,
        [
            "acquire" | "release",
            "sync_restrict::shared::cta" | "sync_restrict::shared::cluster",
            _,
        ] => Fence::Cluster,
        _ => return Err(format!("fence has no .{}", modifiers.join("."))),
    })
}

fn fence(kind: Fence) -> Inst {
    let mut inst = Inst::machine(|turn, inst, lanes| {
        turn.observe_fence(Fence::from_code(inst.e), lanes);
        Ok(Step::Next)
    });
    inst.e = kind.code();
    inst
}

fn warp_sync(operands: &[Operand], cx: &mut Lower<'_>) -> Result<(), String> {
    let [members] = operands else { return Err("bar.warp.sync takes a mask".to_owned()) };
    let mut inst = Inst::machine(run_warp_sync);
    inst.a = cx.source(members, U32)?;
    cx.push(inst);
    Ok(())
}

/// Lanes may come together at different instructions (PTX ISA: bar.warp.sync).
fn run_warp_sync(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let members = *turn.regs().words(inst.a);
    let ready = gather(turn, "bar.warp.sync", &members, lanes)?;
    if ready != 0 {
        turn.observe_warp_syncs(&members, ready);
        return Ok(after(ready, lanes));
    }
    let kernel = turn.world.launched.kernel;
    let warp = turn.warp();
    let mask = members[lanes.trailing_zeros() as usize];
    let waits_here = |split: &Split| {
        let inst = &kernel.insts[split.pc as usize];
        let theirs = warp.regs.words(inst.a);
        split.state == State::Converging
            && *kernel.places[inst.place as usize].opcode == *"bar.warp.sync"
            && (0..32).all(|lane| split.mask >> lane & 1 == 0 || theirs[lane] == mask)
    };
    let others: Vec<usize> =
        (0..warp.splits.len()).filter(|&i| waits_here(&warp.splits[i])).collect();
    let here = (0..32).fold(0, |here, lane| here | u32::from(members[lane] == mask) << lane);
    let all = others.iter().fold(here & lanes, |all, &i| all | warp.splits[i].mask);
    if here & lanes != lanes || mask & warp.alive & !all != 0 {
        return Ok(Step::Converge);
    }
    for i in others {
        warp.splits[i].pc += 1;
        warp.splits[i].state = State::Ready;
    }
    turn.observe_warp_syncs(&[mask; 32], all);
    Ok(Step::Next)
}

fn block_barrier(
    modifiers: &[&str],
    aligned: bool,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let name = || format!("bar.{}", modifiers.join("."));
    let form = match modifiers {
        ["sync"] => Form::Sync,
        ["arrive"] => Form::Arrive,
        ["red", "popc", "u32"] => Form::Popc,
        ["red", "and", "pred"] => Form::And,
        ["red", "or", "pred"] => Form::Or,
        _ => return Err(format!("there is no {}", name())),
    };
    let mut inst = Inst::machine(if aligned { run::<true> } else { run::<false> });
    inst.e = FORMS.iter().position(|&other| other == form).expect("one of them") as u32;
    let (target, id, count, predicate) = match (form, operands) {
        (Form::Sync, [id]) => (None, id, None, None),
        (Form::Sync | Form::Arrive, [id, count]) => (None, id, Some(count), None),
        (Form::Popc | Form::And | Form::Or, [d, id, p]) => (Some(d), id, None, Some(p)),
        (Form::Popc | Form::And | Form::Or, [d, id, count, p]) => {
            (Some(d), id, Some(count), Some(p))
        }
        _ => return Err(format!("{} takes other operands", name())),
    };
    inst.a = cx.source(id, U32)?;
    inst.b = count.map_or(Ok(NONE), |count| cx.source(count, U32))?;
    inst.c = predicate.map_or(Ok(NONE), |p| cx.predicate(p))?;
    inst.d = match (form, target) {
        (Form::Popc, Some(target)) => cx.target(target, U32)?,
        (_, Some(target)) => cx.predicate_target(target)?,
        _ => NONE,
    };
    cx.push(inst);
    Ok(())
}

fn run<const ALIGNED: bool>(
    turn: &mut Turn<'_, '_>,
    inst: &Inst,
    lanes: u32,
) -> Result<Step, Stop> {
    let form = FORMS[inst.e as usize];
    let alive = turn.warp().alive;
    // All threads of a warp are counted, whichever of them arrive (PTX ISA: barrier: "barrier
    // counts are by warp"), so both forms wait for the warp to be together.
    if lanes != alive {
        return Ok(Step::Converge);
    }
    let id = uniform(turn, inst.a, lanes, "a barrier's number")?;
    if id >= 16 {
        return stop(FaultKind::Misuse, format!("barrier {id}, of 16"));
    }
    let count = match inst.b {
        NONE => 0,
        row => uniform(turn, row, lanes, "a barrier's count")?,
    };
    let everybody = turn.world.launched.warps() * 32;
    if count % 32 != 0 || inst.b != NONE && count == 0 {
        return stop(FaultKind::Misuse, format!("a barrier of {count} threads, no multiple of 32"));
    }
    let token = turn.split().token;
    let warp = turn.warp as u32;
    let votes = match inst.c {
        NONE => 0,
        predicate => turn.regs().predicate(predicate) & lanes,
    };
    let block = turn.block();
    let barrier = &mut block.barriers[id as usize];
    if token == 0 {
        let threads = |count: u32| if count == 0 { everybody } else { count };
        if barrier.participants.is_empty() {
            (barrier.expected, barrier.count, barrier.all) = (count, 0, true);
        } else if threads(barrier.expected) != threads(count) {
            return stop(
                FaultKind::Misuse,
                format!("barrier {id} with {count} threads, but others said {}", barrier.expected),
            );
        }
        barrier.arrived += 32;
        barrier.count += votes.count_ones();
        barrier.all &= votes == lanes;
        barrier.participants.push((warp, lanes, form != Form::Arrive));
        let generation = barrier.generation;
        turn.observe_barrier_arrive(id, lanes);
        open_if_full(turn, id as usize)?;
        if form == Form::Arrive {
            return Ok(Step::Next);
        }
        if turn.block().barriers[id as usize].generation == generation {
            turn.split().token = generation + 1;
            return Ok(Step::Wait);
        }
    } else if barrier.generation < token {
        return Ok(Step::Wait);
    }
    turn.split().token = 0;
    let [popc, and, or] = turn.block().barriers[id as usize].result;
    match form {
        Form::Popc => turn.regs().set_words(inst.d, lanes, &[popc; 32]),
        Form::And => turn.regs().set_predicate(inst.d, lanes, 0u32.wrapping_sub(and)),
        Form::Or => turn.regs().set_predicate(inst.d, lanes, 0u32.wrapping_sub(or)),
        Form::Sync | Form::Arrive => {}
    }
    Ok(Step::Next)
}

/// Opens a barrier that all have come to.
fn open_if_full(turn: &mut Turn<'_, '_>, id: usize) -> Result<(), Stop> {
    let running = turn.block().running_threads();
    let barrier = &mut turn.block().barriers[id];
    let expected = if barrier.expected == 0 { running } else { barrier.expected };
    if barrier.arrived > expected {
        return stop(
            FaultKind::Misuse,
            format!("{} threads at barrier {id}, which opens at {expected}", barrier.arrived),
        );
    }
    if barrier.arrived == expected && expected > 0 {
        open(turn, id);
    }
    Ok(())
}

fn open(turn: &mut Turn<'_, '_>, id: usize) {
    let barrier = &mut turn.block().barriers[id];
    barrier.generation += 1;
    barrier.arrived = 0;
    barrier.result = [barrier.count, u32::from(barrier.all), u32::from(barrier.count > 0)];
    let participants = std::mem::take(&mut barrier.participants);
    turn.observe_barrier(id as u32, &participants);
    turn.event();
}

/// A warp has ended: barriers of all threads may open without it.
pub(crate) fn after_exit(turn: &mut Turn<'_, '_>) {
    let running = turn.block().running_threads();
    for id in 0..16 {
        let barrier = &turn.block().barriers[id];
        if barrier.expected == 0 && barrier.arrived > 0 && barrier.arrived >= running {
            open(turn, id);
        }
    }
}

impl Block {
    /// Threads of warps that have not ended, in whole warps.
    pub(crate) fn running_threads(&self) -> u32 {
        self.running * 32
    }
}

/// What all lanes must agree on.
pub(crate) fn uniform(
    turn: &mut Turn<'_, '_>,
    row: u32,
    lanes: u32,
    what: &str,
) -> Result<u32, Stop> {
    let values = turn.regs().words(row);
    let value = values[lanes.trailing_zeros() as usize];
    if (0..32).any(|lane| lanes >> lane & 1 != 0 && values[lane] != value) {
        return stop_lanes(FaultKind::Misuse, lanes, format!("{what} differs between lanes"));
    }
    Ok(value)
}
