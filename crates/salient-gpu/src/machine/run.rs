//! Blocks, warps and lanes take turns.

use std::collections::VecDeque;

use crate::config::{Completion, Order, Unwritten};
use crate::fault::{Fault, FaultKind};
use crate::random::Random;

use super::counters::{Counters, Counting};
use super::inst::{Run, Stop, UNGUARDED};
use super::memory::POISON;
use super::races::Races;
use super::registers::{FULL, Registers, Row};
use super::special::{self, Standing};
use super::turn::{Step, Turn};
use super::world::{Block, Cluster, Launched, Split, State, Warp, World};
use super::{async_copy, barrier, bulk, cluster};

/// Instructions that a warp has before the next has its turn, where nothing is drawn.
const QUANTUM: u32 = 4096;
/// Instructions that lanes at the lowest place have before others have their turn.
const PATIENCE: u32 = 512;
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
    let mut at = (0, 0);
    loop {
        while world.clusters.len() - free.len() < resident
            && let Some(first) = waiting.pop_front()
        {
            begin(&mut world, first, free.pop());
        }
        if world.clusters.len() == free.len() {
            break;
        }
        let Some((block, warp)) = pick(&mut world, &mut at) else {
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

/// Makes the blocks of a cluster resident, in the place of a cluster that has ended if there is one.
fn begin(world: &mut World<'_>, first: [u32; 3], place: Option<usize>) {
    let launched = world.launched;
    let size = launched.launch.cluster.map(|n| n.max(1));
    let number = place.unwrap_or(world.clusters.len());
    let mut old = match place {
        Some(place) => std::mem::take(&mut world.clusters[place].blocks),
        None => Vec::new(),
    };
    old.reverse();
    let mut slots = Vec::new();
    for rank in 0..launched.launch.cluster_blocks() {
        let index = [
            first[0] + rank % size[0],
            first[1] + rank / size[0] % size[1],
            first[2] + rank / size[0] / size[1],
        ];
        let slot = old.pop().unwrap_or(world.blocks.len());
        let reused = (slot < world.blocks.len()).then(|| &mut world.blocks[slot].warps);
        let warps = reused.map(std::mem::take).unwrap_or_default();
        let block = new_block(launched, index, rank, number, slot as u32, warps);
        if let Some(races) = &mut world.races {
            races.begin_block(&block);
        }
        if slot < world.blocks.len() {
            world.blocks[slot] = block;
        } else {
            world.blocks.push(block);
        }
        slots.push(slot);
    }
    let cluster = Cluster { blocks: slots, arrived: 0, generation: 0 };
    match place {
        Some(place) => world.clusters[place] = cluster,
        None => world.clusters.push(cluster),
    }
}

/// A block at its beginning. `old`: warps whose memory may be used again.
fn new_block(
    launched: &Launched<'_>,
    index: [u32; 3],
    rank: u32,
    cluster: usize,
    slot: u32,
    mut old: Vec<Warp>,
) -> Block {
    let (launch, kernel) = (&launched.launch, launched.kernel);
    let threads = launched.threads();
    let shared = kernel.static_shared as usize + launch.dynamic_shared as usize;
    let track = launched.config.unwritten == Unwritten::Fault;
    let warps = (0..launched.warps())
        .map(|warp| {
            let lanes = (threads - warp * 32).min(32);
            let born = if lanes == 32 { FULL } else { (1 << lanes) - 1 };
            let standing = Standing { block: index, rank, warp, slot };
            let regs = registers(launched, standing, old.pop().map(|warp| warp.regs));
            Warp {
                regs,
                born,
                alive: born,
                splits: vec![Split { pc: 0, mask: born, state: State::Ready, token: 0 }],
                current: 0,
                patience: PATIENCE,
                pinned: false,
                delayed_until: 0,
                copies: Default::default(),
                bulk_groups: Default::default(),
                products: Default::default(),
                registers: kernel.registers,
                cluster_token: 0,
            }
        })
        .collect::<Vec<_>>();
    let [x, y, z] = index;
    Block {
        index,
        number: (z * launch.grid[1] + y) * launch.grid[0] + x,
        cluster,
        rank,
        running: warps.len() as u32,
        warps,
        shared: poison(shared),
        shared_written: if track { vec![0; shared] } else { Vec::new() },
        barriers: Default::default(),
        mbarriers: Vec::new(),
        free_registers: 0,
        local: poison(kernel.local_bytes as usize * launched.warps() as usize * 32),
    }
}

fn poison(bytes: usize) -> Vec<u8> {
    let mut poison = POISON.to_le_bytes().repeat(bytes.div_ceil(2));
    poison.truncate(bytes);
    poison
}

/// A warp's registers at its beginning: poison, but for constants and special registers.
fn registers(launched: &Launched<'_>, at: Standing, old: Option<Registers>) -> Registers {
    let filled = &launched.kernel.filled;
    let mut regs =
        old.unwrap_or_else(|| Registers { rows: Vec::new(), predicates: Vec::new() });
    let poison = Row([u32::from(POISON) << 16 | u32::from(POISON); 32]);
    let constants_stand = regs.rows.len() == filled.rows as usize
        && regs.predicates.len() == filled.predicates as usize;
    if !constants_stand {
        regs.rows = vec![poison; filled.rows as usize];
        regs.predicates = vec![0; filled.predicates as usize];
        for &(row, value, wide) in &filled.constants {
            if wide {
                regs.set_longs(row, FULL, &[value; 32]);
            } else {
                regs.set_words(row, FULL, &[value as u32; 32]);
            }
        }
    }
    regs.predicates[filled.always as usize] = FULL;
    for (name, row) in &filled.specials {
        let rows = if special::is_wide(name) { 2 } else { 1 };
        let rows = &mut regs.rows[*row as usize..*row as usize + rows];
        special::fill(name, rows, launched, at);
    }
    regs
}

/// A warp that can go on.
fn pick(world: &mut World<'_>, at: &mut (usize, usize)) -> Option<(usize, usize)> {
    let drawn = world.launched.config.order == Order::Random;
    let delay = u64::from(world.launched.config.delay);
    let mut left: usize = world.blocks.iter().map(|block| block.warps.len()).sum();
    if drawn {
        at.0 = world.random.below(world.blocks.len() as u64) as usize;
        at.1 = world.random.below(world.launched.warps().into()) as usize;
    }
    while left > 0 {
        left -= 1;
        at.1 += 1;
        if at.0 >= world.blocks.len() || at.1 >= world.blocks[at.0].warps.len() {
            *at = ((at.0 + 1) % world.blocks.len(), 0);
        }
        let (events, steps) = (world.events, world.steps);
        let warp = &mut world.blocks[at.0].warps[at.1];
        if warp.delayed_until > steps || choose(warp, events).is_none() {
            continue;
        }
        if delay > 0 && world.random.once_in(64) {
            let until = steps + world.random.below(delay);
            world.blocks[at.0].warps[at.1].delayed_until = until;
            continue;
        }
        return Some(*at);
    }
    None
}

/// The lanes of a warp whose turn it is: those at the lowest place, so that they come together again, or
/// those that go on for a while whatever their place.
fn choose(warp: &mut Warp, events: u64) -> Option<usize> {
    let can = |split: &Split| match split.state {
        State::Ready => true,
        State::Waiting(seen) => seen != events,
        State::Converging => false,
    };
    if warp.pinned && warp.splits.get(warp.current).is_some_and(can) {
        return Some(warp.current);
    }
    warp.pinned = false;
    let all = warp.splits.iter().enumerate().filter(|(_, split)| can(split));
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
    if world.blocks[block].warps[warp].copies.is_waiting() && world.random.once_in(4) {
        let pick = world.random.next();
        let mut turn = Turn { world, block, warp };
        let landed = async_copy::land_one(&mut turn, pick);
        landed.map_err(|stop| fault(world, block, warp, stop))?;
    }
    Ok(())
}

/// Up to so many instructions of a warp.
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
        // Instructions on registers alone, as long as all lanes stand together.
        if this.splits.len() == 1 && world.counting.is_none() {
            let begin = pc;
            while let Run::Lanes(run) = insts[pc].run
                && left > 0
            {
                let inst = &insts[pc];
                let lanes = mask & guard(&this.regs, inst.guard);
                if lanes != 0 {
                    run(&mut this.regs, inst, lanes);
                }
                pc += 1;
                left -= 1;
            }
            this.splits[0].pc = pc as u32;
            world.steps += (pc - begin) as u64;
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
                this.splits.push(Split { pc: target, mask: lanes, ..split });
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
                this.splits.push(Split { pc: target, mask: these, ..split });
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
        merge(this);
        this.patience = this.patience.saturating_sub(1);
        if this.patience == 0 {
            this.patience = PATIENCE;
            this.current = (this.current + 1) % this.splits.len();
            this.pinned = true;
        }
    }
    others
}

/// Some lanes of the current split stay where they are; the others are done there.
fn stay(warp: &mut Warp, lanes: u32, state: State) {
    let split = &mut warp.splits[warp.current];
    let done = Split { pc: split.pc + 1, mask: split.mask & !lanes, ..*split };
    (split.mask, split.state) = (lanes, state);
    warp.pinned = false;
    if done.mask != 0 {
        warp.splits.push(Split { state: State::Ready, token: 0, ..done });
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
    let freed = this.registers;
    let arrived = this.cluster_token;
    this.splits.clear();
    let block_state = &mut world.blocks[block];
    block_state.running -= 1;
    block_state.free_registers += freed;
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
            let message = "the block has ended while a copy to or from its shared memory was under way";
            let stop =
                Stop { kind: FaultKind::Misuse, message: message.to_owned(), lanes: 0 };
            return Err(fault(world, slot, 0, stop));
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
