//! Blocks, warps and lanes take turns.

use std::collections::VecDeque;

use crate::config::{Completion, Order, Unwritten};
use crate::fault::{Fault, FaultKind};
use crate::random::Random;

use super::begin::begin;
use super::counters::{Counters, Counting};
use super::inst::{Run, Stop, UNGUARDED};
use super::races::Races;
use super::registers::{FULL, Registers};
use super::turn::{Step, Turn};
use super::world::{Launched, Split, State, Warp, World};
use super::{async_copy, barrier, bulk, cluster};

/// Instructions that a warp has before the next has its turn, where nothing is drawn.
const QUANTUM: u32 = 4096;
/// Instructions that lanes at the lowest place have before others have their turn.
pub(crate) const PATIENCE: u32 = 512;
/// Clusters that are resident where nothing is drawn, and where something is.
const RESIDENT: usize = 1;
const RESIDENT_DRAWN: usize = 4;

/// Runs a launch to its end.
pub(crate) fn run(launched: &Launched<'_>) -> Result<Counters, Fault> {
    let config = &launched.config;
    let mut world = World {
        launched,
        blocks: Vec::new(),
        clusters: Vec::new(),
        bulk: Vec::new(),
        events: 1,
        steps: 0,
        random: Random::new(config.seed ^ 0x5a11_e417),
        quiet: !config.counters && !config.races && config.unwritten == Unwritten::Allow,
        recent: Default::default(),
        counting: config.counters.then(|| Box::new(Counting::new(launched))),
        races: config.races.then(|| Box::new(Races::new(launched))),
    };
    let mut waiting = clusters(&mut world);
    let resident = match (launched.launch.cooperative, config.order) {
        (true, _) => usize::MAX,
        (false, Order::Random) => RESIDENT_DRAWN,
        (false, _) => RESIDENT,
    };
    let mut free = Vec::new();
    let mut next = 0;
    loop {
        while world.clusters.len() - free.len() < resident
            && let Some(first) = waiting.pop_front()
        {
            begin(&mut world, first, free.pop());
            next = 0;
        }
        if world.clusters.len() == free.len() {
            break;
        }
        let Some((block, warp)) = pick(&mut world, &mut next) else {
            unblock(&mut world)?;
            continue;
        };
        let quantum = match config.order {
            Order::Random => 1 + world.random.below(96) as u32,
            _ => QUANTUM,
        };
        turn(&mut world, block, warp, quantum)?;
        if config.completion == Completion::Random {
            complete_at_random(&mut world, block, warp)?;
        }
        let cluster = world.blocks[block].cluster;
        if world.blocks[block].running == 0
            && world.clusters[cluster].blocks.iter().all(|&slot| world.blocks[slot].running == 0)
        {
            end(&mut world, cluster)?;
            free.push(cluster);
        }
    }
    Ok(Counters::of(&world))
}

/// The first block of every cluster, in the order that they are to begin in.
fn clusters(world: &mut World<'_>) -> VecDeque<[u32; 3]> {
    let launch = &world.launched.launch;
    let size = launch.cluster.map(|n| n.max(1));
    let counts: [u32; 3] = std::array::from_fn(|i| launch.grid[i].div_ceil(size[i]));
    let mut all = VecDeque::new();
    for z in 0..counts[2] {
        for y in 0..counts[1] {
            for x in 0..counts[0] {
                all.push_back([x * size[0], y * size[1], z * size[2]]);
            }
        }
    }
    match world.launched.config.order {
        Order::Forward => {}
        Order::Reverse => all.make_contiguous().reverse(),
        Order::Random => {
            for i in (1..all.len()).rev() {
                all.swap(i, world.random.below(i as u64 + 1) as usize);
            }
        }
    }
    all
}

/// A warp that can go on: its block and its number there. `next`: where to look first, counting the
/// warps of all blocks.
fn pick(world: &mut World<'_>, next: &mut usize) -> Option<(usize, usize)> {
    let order = world.launched.config.order;
    let delay = u64::from(world.launched.config.delay);
    let warps = world.launched.warps() as usize;
    let count = world.blocks.len() * warps;
    if order == Order::Random {
        *next = world.random.below(count as u64) as usize;
    }
    for _ in 0..count {
        let here = if *next < count { *next } else { 0 };
        *next = here + 1;
        let here = if order == Order::Reverse { count - 1 - here } else { here };
        let (block, warp) = (here / warps, here % warps);
        let (events, steps) = (world.events, world.steps);
        let this = &mut world.blocks[block].warps[warp];
        if this.delayed_until > steps || choose(this, events).is_none() {
            continue;
        }
        if delay > 0 && world.random.once_in(64) {
            this.delayed_until = steps + world.random.below(delay);
            continue;
        }
        return Some((block, warp));
    }
    None
}

/// The lanes of a warp whose turn it is: those at the lowest place, so that they come together
/// again, or those that go on for a while whatever their place.
fn choose(warp: &mut Warp, events: u64) -> Option<usize> {
    if warp.pinned && warp.splits.get(warp.current).is_some_and(|split| split.can_go(events)) {
        return Some(warp.current);
    }
    warp.pinned = false;
    let all = warp.splits.iter().enumerate().filter(|(_, split)| split.can_go(events));
    let chosen = all.min_by_key(|(_, split)| split.pc).map(|(i, _)| i)?;
    warp.current = chosen;
    Some(chosen)
}

/// Nobody can go on: delays end, then what is in flight lands, one by one.
fn unblock(world: &mut World<'_>) -> Result<(), Fault> {
    let mut delayed = false;
    for warp in world.blocks.iter_mut().flat_map(|block| &mut block.warps) {
        delayed |= warp.delayed_until > world.steps && warp.alive != 0;
        warp.delayed_until = 0;
    }
    if delayed {
        return Ok(());
    }
    let pick = world.random.next();
    if !world.bulk.is_empty() {
        let which = match world.launched.config.completion {
            Completion::Random => (pick % world.bulk.len() as u64) as usize,
            _ => 0,
        };
        return bulk::land(world, which).map_err(|(block, stop)| fault(world, block, 0, stop));
    }
    for block in 0..world.blocks.len() {
        for warp in 0..world.blocks[block].warps.len() {
            if world.blocks[block].warps[warp].copies.is_waiting() {
                let mut turn = Turn { world, block, warp };
                let landed = async_copy::land_one(&mut turn, pick);
                return landed.map_err(|stop| fault(world, block, warp, stop));
            }
        }
    }
    Err(deadlock(world))
}

fn complete_at_random(world: &mut World<'_>, block: usize, warp: usize) -> Result<(), Fault> {
    if !world.bulk.is_empty() && world.random.once_in(8) {
        let which = world.random.below(world.bulk.len() as u64) as usize;
        bulk::land(world, which).map_err(|(block, stop)| fault(world, block, 0, stop))?;
    }
    while world.blocks[block].warps[warp].copies.is_waiting() && !world.random.once_in(8) {
        let pick = world.random.next();
        let mut turn = Turn { world, block, warp };
        let landed = async_copy::land_one(&mut turn, pick);
        landed.map_err(|stop| fault(world, block, warp, stop))?;
    }
    Ok(())
}

/// At most `quantum` instructions of a warp.
fn turn(world: &mut World<'_>, block: usize, warp: usize, quantum: u32) -> Result<(), Fault> {
    let insts = &world.launched.kernel.insts[..];
    let limit = world.launched.config.steps;
    let mut left = quantum;
    while left > 0 {
        let events = world.events;
        let this = &mut world.blocks[block].warps[warp];
        let Some(chosen) = choose(this, events) else { return Ok(()) };
        let split = &mut this.splits[chosen];
        split.state = State::Ready;
        let mask = split.mask;
        let mut pc = split.pc as usize;
        // Instructions on registers alone, as far as no other lanes of the warp stand.
        if world.counting.is_none() {
            let (begin, mut end) = (pc, pc + left as usize);
            if this.splits.len() > 1 {
                end = end.min(pc + this.patience as usize);
                let ahead = this.splits.iter().map(|split| split.pc as usize);
                end = ahead.filter(|&other| other > pc).fold(end, usize::min);
            }
            while let Run::Lanes(run) = insts[pc].run
                && pc < end
            {
                let inst = &insts[pc];
                let lanes = mask & guard(&this.regs, inst.guard);
                if lanes != 0 {
                    run(&mut this.regs, inst, lanes);
                }
                pc += 1;
            }
            let done = (pc - begin) as u32;
            left -= done;
            world.steps += u64::from(done);
            this.splits[chosen].pc = pc as u32;
            if done > 0 && this.splits.len() > 1 {
                meet(this, events, done);
                continue;
            }
            if left == 0 {
                break;
            }
        }
        left -= 1;
        world.steps += 1;
        if world.steps > limit {
            let message = format!("more than {limit} warp-instructions: it hangs, or is too large");
            let stop = Stop { kind: FaultKind::Timeout, message, lanes: 0 };
            return Err(fault(world, block, warp, stop));
        }
        let inst = &insts[pc];
        let lanes = mask & guard(&world.blocks[block].warps[warp].regs, inst.guard);
        if let Some(counting) = &mut world.counting {
            counting.instruction(inst.place, lanes);
        }
        let step = match inst.run {
            _ if lanes == 0 => Step::Next,
            Run::Lanes(run) => {
                run(&mut world.blocks[block].warps[warp].regs, inst, lanes);
                Step::Next
            }
            Run::Machine(run) => {
                let mut turn = Turn { world, block, warp };
                let done = run(&mut turn, inst, lanes);
                done.map_err(|stop| fault(world, block, warp, stop))?
            }
        };
        if apply(world, block, warp, lanes, step) {
            return Ok(());
        }
    }
    Ok(())
}

fn guard(regs: &Registers, guard: u32) -> u32 {
    if guard == UNGUARDED { FULL } else { regs.predicate(guard) }
}

/// What comes next for the lanes that ran. Gives whether another warp should have its turn.
fn apply(world: &mut World<'_>, block: usize, warp: usize, lanes: u32, step: Step) -> bool {
    let events = world.events;
    let this = &mut world.blocks[block].warps[warp];
    let at = this.current;
    let split = this.splits[at];
    let mut others = false;
    match step {
        Step::Next => this.splits[at].pc += 1,
        Step::Yield => {
            this.splits[at].pc += 1;
            others = true;
        }
        Step::Wait => stay(this, lanes, State::Waiting(events)),
        Step::Converge => stay(this, lanes, State::Converging),
        Step::Part(done) => stay(this, lanes & !done, State::Converging),
        Step::Jump(target) => {
            if lanes == split.mask {
                this.splits[at].pc = target;
            } else {
                this.splits[at].mask &= !lanes;
                this.splits[at].pc += 1;
                add(this, target, lanes);
            }
        }
        Step::Scatter(row) => {
            let targets = *this.regs.words(row);
            this.splits[at].mask &= !lanes;
            this.splits[at].pc += 1;
            let mut left = lanes;
            while left != 0 {
                let target = targets[left.trailing_zeros() as usize];
                let these = (0..32)
                    .filter(|lane| left >> lane & 1 != 0 && targets[*lane] == target)
                    .fold(0, |mask, lane| mask | 1 << lane);
                add(this, target, these);
                left &= !these;
            }
            if this.splits[at].mask == 0 {
                this.splits.remove(at);
                this.current = 0;
            }
        }
        Step::Exit => return exit(world, block, warp, lanes),
    }
    if this.splits.len() > 1 {
        meet(this, events, 1);
    }
    others
}

/// Lanes that have come to where others stand go on with them, and others have their turn now and
/// then.
fn meet(warp: &mut Warp, events: u64, steps: u32) {
    merge(warp);
    warp.patience = warp.patience.saturating_sub(steps);
    if warp.patience == 0 {
        warp.patience = PATIENCE;
        let (count, current) = (warp.splits.len(), warp.current);
        let mut others = (1..=count).map(|i| (current + i) % count);
        if let Some(next) = others.find(|&i| warp.splits[i].can_go(events)) {
            (warp.current, warp.pinned) = (next, true);
        }
    }
}

/// Some lanes of the current split stay where they are; the others are done there.
fn stay(warp: &mut Warp, lanes: u32, state: State) {
    let split = &mut warp.splits[warp.current];
    let (next, done) = (split.pc + 1, split.mask & !lanes);
    (split.mask, split.state) = (lanes, state);
    warp.pinned = false;
    if done != 0 {
        add(warp, next, done);
    }
}

/// Some lanes have come to a place, where others may stand already.
fn add(warp: &mut Warp, pc: u32, lanes: u32) {
    match warp.splits.iter_mut().find(|split| split.pc == pc && split.token == 0) {
        Some(split) => {
            split.mask |= lanes;
            split.state = State::Ready;
        }
        None => warp.splits.push(Split { pc, mask: lanes, state: State::Ready, token: 0 }),
    }
}

/// Lanes at the same place go on together.
fn merge(warp: &mut Warp) {
    let at = warp.current;
    let pc = warp.splits[at].pc;
    let fresh = |split: &Split| split.token == 0;
    if !fresh(&warp.splits[at]) {
        return;
    }
    let mut other = 0;
    while other < warp.splits.len() {
        let split = warp.splits[other];
        if other == warp.current || split.pc != pc || !fresh(&split) {
            other += 1;
            continue;
        }
        // An instruction that waited for lanes is tried again with them.
        let current = warp.current;
        warp.splits[current].mask |= split.mask;
        warp.splits[current].state = State::Ready;
        warp.splits.swap_remove(other);
        if warp.current == warp.splits.len() {
            warp.current = other;
        }
        warp.pinned = false;
    }
}

fn exit(world: &mut World<'_>, block: usize, warp: usize, lanes: u32) -> bool {
    let this = &mut world.blocks[block].warps[warp];
    let at = this.current;
    this.alive &= !lanes;
    this.splits[at].mask &= !lanes;
    this.splits[at].pc += 1;
    if this.splits[at].mask == 0 {
        this.splits.remove(at);
        this.current = 0;
        this.pinned = false;
    }
    for split in &mut this.splits {
        split.state = State::Ready;
    }
    if this.alive != 0 {
        return false;
    }
    let arrived = this.cluster_token;
    this.splits.clear();
    let block_state = &mut world.blocks[block];
    block_state.running -= 1;
    let cluster = block_state.cluster;
    // It has arrived, and is not among those that run any more: it is not counted twice.
    if arrived == world.clusters[cluster].generation + 1 {
        world.clusters[cluster].arrived -= 1;
    }
    let mut turn = Turn { world, block, warp };
    barrier::after_exit(&mut turn);
    cluster::open_if_full(&mut turn, cluster);
    turn.event();
    true
}

/// All blocks of a cluster have ended.
fn end(world: &mut World<'_>, cluster: usize) -> Result<(), Fault> {
    for slot in world.clusters[cluster].blocks.clone() {
        if world.bulk.iter().any(|copy| copy.touches(slot)) {
            let message =
                "the block has ended while a copy to or from its shared memory was under way";
            let stop = Stop { kind: FaultKind::Misuse, message: message.to_owned(), lanes: 0 };
            return Err(fault(world, slot, 0, stop));
        }
        let uneven = |group: &[Warp]| {
            group.iter().any(|warp| warp.products.issued != group[0].products.issued)
        };
        if world.blocks[slot].warps.chunks(4).any(uneven) {
            let message =
                "a warp has ended without a wgmma.mma_async that others of its warpgroup issued";
            let stop = Stop { kind: FaultKind::Misuse, message: message.to_owned(), lanes: 0 };
            return Err(fault(world, slot, 0, stop));
        }
        let races = world.races.as_ref();
        if let Some(race) = races.and_then(|races| races.too_early(&world.blocks[slot])) {
            return Err(fault(world, slot, 0, world.early_end(&race)));
        }
        if let Some(races) = &mut world.races {
            races.end_block(&world.blocks[slot]);
        }
    }
    Ok(())
}

/// A fault, with where it happened.
pub(crate) fn fault(world: &World<'_>, block: usize, warp: usize, stop: Stop) -> Fault {
    let kernel = world.launched.kernel;
    let this = &world.blocks[block].warps[warp];
    let split = this.splits.get(this.current);
    let place = split.and_then(|split| kernel.insts.get(split.pc as usize));
    let place = place.map(|inst| &kernel.places[inst.place as usize]);
    Fault {
        kind: stop.kind,
        kernel: kernel.name.clone(),
        message: stop.message,
        ptx_line: place.map_or(0, |place| place.ptx_line),
        source: place.and_then(|place| source(world, place.source)),
        block: world.blocks[block].coordinates(),
        warp: warp as u32,
        lanes: if stop.lanes == 0 { split.map_or(0, |split| split.mask) } else { stop.lanes },
    }
}

pub(crate) fn source(world: &World<'_>, source: Option<(u32, u32)>) -> Option<(String, u32)> {
    let (file, line) = source?;
    let name = world.launched.kernel.files.get(&file);
    Some((name.cloned().unwrap_or_else(|| format!("file {file}")), line))
}

/// Says where everybody stands.
fn deadlock(world: &World<'_>) -> Fault {
    let kernel = world.launched.kernel;
    let mut stands = Vec::new();
    let mut first = None;
    for (slot, block) in world.blocks.iter().enumerate() {
        for (number, warp) in block.warps.iter().enumerate() {
            for split in &warp.splits {
                first.get_or_insert((slot, number));
                let inst = &kernel.insts[split.pc as usize];
                let place = &kernel.places[inst.place as usize];
                let at = source(world, place.source)
                    .map(|(file, line)| format!("{file}:{line}"))
                    .unwrap_or_else(|| format!("PTX line {}", place.ptx_line));
                let how = match split.state {
                    State::Converging => "waits for other lanes",
                    _ => "waits",
                };
                stands.push(format!(
                    "block {:?} warp {number} lanes {:08x} {how} at {} ({at})",
                    block.index, split.mask, place.opcode
                ));
            }
        }
    }
    let more = stands.len().saturating_sub(40);
    stands.truncate(40);
    if more > 0 {
        stands.push(format!("and {more} more"));
    }
    let message = format!("nobody can go on: {}", stands.join("; "));
    let (block, warp) = first.unwrap_or_default();
    fault(world, block, warp, Stop { kind: FaultKind::Deadlock, message, lanes: 0 })
}
