//! Barriers in shared memory that count threads and bytes (PTX ISA: mbarrier), and named barriers of
//! a block (PTX ISA: bar).

use std::collections::BTreeMap;

use super::hooks::{stop, suspend, with_team};
use super::{Team, Wait};
use crate::thread::Site;

/// Barriers of a block, 0 being that of `__syncthreads`.
pub(super) const NAMED: usize = 16;

/// The most threads or bytes that a barrier counts.
const MOST: u32 = (1 << 20) - 1;

/// The barriers of a team, by address.
pub(super) type Mbarriers = BTreeMap<usize, Mbarrier>;

/// A barrier in shared memory.
#[derive(Debug, Clone)]
pub(super) struct Mbarrier {
    threads: u32,
    phase: u32,
    /// Threads that have yet to arrive in this phase.
    missing: u32,
    /// Bytes that it expects and that have not come; negative while they come before it expects them.
    bytes: i64,
    /// Bytes of copies that are on their way.
    coming: i64,
    waiting: Vec<u32>,
}

/// A named barrier.
#[derive(Debug, Clone, Default)]
pub(super) struct Named {
    threads: u32,
    arrived: u32,
    site: Option<Site>,
    waiting: Vec<u32>,
}

impl Mbarrier {
    fn has_ended(&self, parity: u32) -> bool {
        self.phase & 1 != parity
    }

    /// Ends the phase if nothing is missing, and gives who waited for that.
    fn advance(&mut self) -> Result<Vec<u32>, String> {
        if self.missing > 0 || self.bytes > 0 {
            return Ok(Vec::new());
        }
        let unexpected = self.coming - self.bytes;
        if unexpected > 0 {
            return Err(format!("{unexpected} bytes come to a barrier that does not expect them"));
        }
        self.phase += 1;
        self.missing = self.threads;
        Ok(std::mem::take(&mut self.waiting))
    }
}

impl Team {
    /// The barrier at an address.
    pub(super) fn mbarrier(&mut self, address: usize) -> Result<&mut Mbarrier, String> {
        self.mbarriers.get_mut(&address).ok_or_else(|| "there is no barrier at this address".into())
    }

    /// A copy that a barrier counts has begun.
    pub(super) fn announce(&mut self, address: usize, bytes: usize) -> Result<(), String> {
        self.mbarrier(address)?.coming += bytes as i64;
        Ok(())
    }

    /// Bytes of a copy are there.
    pub(super) fn bring(&mut self, address: usize, bytes: usize) -> Result<(), String> {
        let barrier = self.mbarrier(address)?;
        barrier.coming -= bytes as i64;
        barrier.bytes -= bytes as i64;
        let released = barrier.advance()?;
        self.release(released);
        Ok(())
    }

    /// A barrier whose bytes and those that came are not the same when all threads have ended.
    pub(super) fn check_mbarriers(&mut self) {
        let wrong = self.mbarriers.iter().find(|(_, barrier)| barrier.bytes != 0);
        if let Some((&address, barrier)) = wrong {
            let (place, bytes) = (self.shared.offset(address), barrier.bytes);
            self.set_fault(&format!(
                "the barrier at byte {place} of shared memory expects {bytes} bytes more when its \
                 block has ended"
            ));
        }
    }

    /// What is missing where threads wait at barriers in shared memory or named ones.
    pub(super) fn barrier_hangs(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (&address, barrier) in &self.mbarriers {
            let Some(&lane) = barrier.waiting.first() else { continue };
            if let Wait::Mbarrier { site } = self.lanes[lane as usize].wait {
                lines.push(format!(
                    "{} threads wait at {site} for phase {} of the barrier at byte {} of shared \
                     memory, which misses {} threads and {} bytes",
                    barrier.waiting.len(),
                    barrier.phase,
                    self.shared.offset(address),
                    barrier.missing,
                    barrier.bytes
                ));
            }
        }
        for (index, named) in self.named.iter().enumerate() {
            if let Some(site) = named.site {
                lines.push(format!(
                    "named barrier {} at {site} has {} of {} threads of block {}",
                    index % NAMED,
                    named.arrived,
                    named.threads,
                    index / NAMED
                ));
            }
        }
        lines
    }
}

/// Runs a hook's work, and ends the launch if that finds a fault.
fn checked(site: Site, work: impl FnOnce(&mut Team) -> Result<(), String>) {
    let result = with_team(|team| {
        team.progress = true;
        work(team)
    });
    if let Err(what) = result {
        stop(&format!("{site}: {what}"));
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_mbarrier_init(address: usize, threads: u32, site: Site) {
    checked(site, |team| {
        if !team.owns_shared(address, 8) || !address.is_multiple_of(8) {
            return Err("a barrier needs 8 aligned bytes of its block's shared memory".into());
        }
        if !(1..=MOST).contains(&threads) {
            return Err(format!("a barrier for {threads} threads"));
        }
        let barrier = Mbarrier {
            threads,
            phase: 0,
            missing: threads,
            bytes: 0,
            coming: 0,
            waiting: Vec::new(),
        };
        match team.mbarriers.insert(address, barrier) {
            Some(_) => Err("there is a barrier at this address already".into()),
            None => Ok(()),
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_mbarrier_invalidate(address: usize, site: Site) {
    checked(site, |team| {
        let barrier = team.mbarrier(address)?;
        if barrier.coming > 0 || !barrier.waiting.is_empty() {
            return Err("a barrier ends while copies or threads need it".into());
        }
        team.mbarriers.remove(&address);
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_mbarrier_arrive(address: usize, bytes: u32, site: Site) {
    checked(site, |team| {
        let barrier = team.mbarrier(address)?;
        if barrier.missing == 0 {
            return Err(format!(
                "more than the {} threads that the barrier counts arrive in one phase",
                barrier.threads
            ));
        }
        barrier.bytes += i64::from(bytes);
        if barrier.bytes > i64::from(MOST) {
            return Err(format!("a barrier expects {} bytes", barrier.bytes));
        }
        barrier.missing -= 1;
        let released = barrier.advance()?;
        team.release(released);
        Ok(())
    });
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_mbarrier_wait(address: usize, parity: u32, site: Site) {
    loop {
        // A thread looks again when it is resumed, as it would poll: it may miss a phase.
        let ended = with_team(|team| {
            let current = team.current;
            let barrier = team.mbarrier(address)?;
            if parity > 1 {
                return Err(format!("parity {parity}"));
            }
            if barrier.has_ended(parity) {
                return Ok(true);
            }
            barrier.waiting.push(current as u32);
            team.lanes[current].wait = Wait::Mbarrier { site };
            Ok(false)
        });
        match ended {
            Ok(true) => return,
            Ok(false) => suspend(),
            Err(what) => stop(&format!("{site}: {what}")),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_named_barrier(id: u32, threads: u32, wait: u32, site: Site) {
    let mut waits = false;
    checked(site, |team| {
        let (current, size) = (team.current, team.launch().shape.threads);
        if id == 0 || id as usize >= NAMED {
            return Err(format!("named barrier {id}, but they go from 1 to {}", NAMED - 1));
        }
        if threads == 0 || threads > size || !threads.is_multiple_of(32) {
            return Err(format!("a barrier for {threads} of {size} threads"));
        }
        let index = team.block_of(current) * NAMED + id as usize;
        let named = &mut team.named[index];
        if named.site.is_some() && named.threads != threads {
            return Err(format!(
                "named barrier {id} is for {threads} threads here and for {} elsewhere",
                named.threads
            ));
        }
        named.threads = threads;
        named.site = Some(site);
        named.arrived += 1;
        if named.arrived == threads {
            let released = std::mem::take(named).waiting;
            team.release(released);
        } else if wait != 0 {
            named.waiting.push(current as u32);
            team.lanes[current].wait = Wait::Meeting;
            waits = true;
        }
        Ok(())
    });
    if waits {
        suspend();
    }
}
