//! Blocks at their beginning.

use crate::config::Unwritten;

use super::memory::POISON;
use super::registers::{FULL, Registers, Row};
use super::run::PATIENCE;
use super::special::{self, Standing};
use super::world::{Block, Cluster, Launched, Split, State, Warp, World};

/// Makes the blocks of a cluster resident, in the place of a cluster that has ended if there is
/// one.
pub(crate) fn begin(world: &mut World<'_>, first: [u32; 3], place: Option<usize>) {
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
    let mut regs = old.unwrap_or_else(|| Registers { rows: Vec::new(), predicates: Vec::new() });
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
