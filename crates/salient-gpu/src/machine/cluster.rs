//! Clusters of blocks (PTX ISA: barrier.cluster, mapa, getctarank).

use crate::fault::FaultKind;
use crate::ptx::ast::{Kind, Opcode, Operand, Type};

use super::inst::{Inst, Stop};
use super::lower::{Lower, type_of};
use super::space::{SHARED_WINDOW, map_to_rank, split_rank};
use super::turn::{Step, Turn, stop};

const U32: Type = Type { kind: Kind::Unsigned, bits: 32 };
const RELEASES: u32 = 1;
const WIDE: u32 = 1;
const GENERIC: u32 = 2;

pub(crate) fn lower(
    opcode: &Opcode,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<bool, String> {
    let modifiers: Vec<&str> = opcode.modifiers.iter().map(String::as_str).collect();
    match (&opcode.name[..], &modifiers[..]) {
        ("barrier", ["cluster", rest @ ..]) => {
            if !operands.is_empty() {
                return Err("barrier.cluster takes no operands".to_owned());
            }
            cx.push(match rest.strip_suffix(&["aligned"]).unwrap_or(rest) {
                ["arrive"] | ["arrive", "release"] => {
                    let mut inst = Inst::machine(arrive);
                    inst.e = RELEASES;
                    inst
                }
                ["arrive", "relaxed"] => Inst::machine(arrive),
                ["wait"] | ["wait", "acquire"] => Inst::machine(wait),
                _ => return Err(format!("there is no barrier.cluster.{}", rest.join("."))),
            });
        }
        ("mapa" | "getctarank", [rest @ .., size @ ("u32" | "u64")]) => {
            map(&opcode.name, rest, size, operands, cx)?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn arrive(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    if turn.warp().cluster_token != 0 {
        return stop(FaultKind::Misuse, "barrier.cluster.arrive twice without a wait between");
    }
    let cluster = turn.block().cluster;
    turn.observe_cluster_arrive(lanes, inst.e & RELEASES != 0);
    let generation = turn.world.clusters[cluster].generation;
    turn.warp().cluster_token = generation + 1;
    turn.world.clusters[cluster].arrived += 1;
    open_if_full(turn, cluster);
    Ok(Step::Next)
}

fn wait(turn: &mut Turn<'_, '_>, _: &Inst, lanes: u32) -> Result<Step, Stop> {
    if lanes != turn.warp().alive {
        return Ok(Step::Converge);
    }
    let token = turn.warp().cluster_token;
    if token == 0 {
        return stop(FaultKind::Misuse, "barrier.cluster.wait without an arrive before");
    }
    let cluster = turn.block().cluster;
    if turn.world.clusters[cluster].generation < token {
        return Ok(Step::Wait);
    }
    turn.warp().cluster_token = 0;
    turn.observe_cluster_wait(lanes);
    Ok(Step::Next)
}

/// Opens the cluster's barrier when all warps that still run have arrived.
pub(crate) fn open_if_full(turn: &mut Turn<'_, '_>, cluster: usize) {
    let world = &mut *turn.world;
    let running: u32 =
        world.clusters[cluster].blocks.iter().map(|&slot| world.blocks[slot].running).sum();
    let state = &mut world.clusters[cluster];
    if state.arrived > 0 && state.arrived >= running {
        state.arrived = 0;
        state.generation += 1;
        turn.observe_cluster_complete(cluster);
        turn.event();
    }
}

fn map(
    name: &str,
    modifiers: &[&str],
    size: &str,
    operands: &[Operand],
    cx: &mut Lower<'_>,
) -> Result<(), String> {
    let generic = match modifiers {
        [] => true,
        ["shared::cluster"] => false,
        _ => return Err(format!("{name} has no .{}", modifiers.join("."))),
    };
    let kind = type_of(size).expect("u32 or u64");
    let flags = if size == "u64" { WIDE } else { 0 } | if generic { GENERIC } else { 0 };
    if flags == GENERIC {
        return Err(format!("{name} of a generic address of 32 bits"));
    }
    let mut inst = match (name, operands) {
        ("mapa", [target, address, rank]) => {
            let mut inst = Inst::machine(map_address);
            inst.d = cx.target(target, kind)?;
            inst.a = cx.source(address, kind)?;
            inst.b = cx.source(rank, U32)?;
            inst
        }
        ("getctarank", [target, address]) => {
            let mut inst = Inst::machine(rank_of);
            inst.d = cx.target(target, U32)?;
            inst.a = cx.source(address, kind)?;
            inst
        }
        _ => return Err(format!("{name} takes other operands")),
    };
    inst.e = flags;
    cx.push(inst);
    Ok(())
}

fn map_address(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let blocks = turn.world.launched.launch.cluster_blocks();
    let ranks = *turn.regs().words(inst.b);
    if let Some(lane) = (0..32).find(|lane| lanes >> lane & 1 != 0 && ranks[*lane] >= blocks) {
        return stop(
            FaultKind::IllegalAddress,
            format!("mapa to rank {} in a cluster of {blocks} blocks", ranks[lane]),
        );
    }
    let window = if inst.e & GENERIC != 0 { SHARED_WINDOW } else { 0 };
    let regs = turn.regs();
    if inst.e & WIDE == 0 {
        let from = regs.words(inst.a);
        let to = std::array::from_fn(|lane| map_to_rank(from[lane], ranks[lane]));
        regs.set_words(inst.d, lanes, &to);
    } else {
        let from = regs.longs(inst.a);
        let to = std::array::from_fn(|lane| {
            window + u64::from(map_to_rank((from[lane].wrapping_sub(window)) as u32, ranks[lane]))
        });
        regs.set_longs(inst.d, lanes, &to);
    }
    Ok(Step::Next)
}

fn rank_of(turn: &mut Turn<'_, '_>, inst: &Inst, lanes: u32) -> Result<Step, Stop> {
    let own = turn.block().rank;
    let regs = turn.regs();
    let of = |address: u32| split_rank(address).0.unwrap_or(own);
    let ranks = if inst.e & WIDE == 0 {
        regs.words(inst.a).map(of)
    } else {
        regs.longs(inst.a).map(|address| of(address as u32))
    };
    regs.set_words(inst.d, lanes, &ranks);
    Ok(Step::Next)
}
