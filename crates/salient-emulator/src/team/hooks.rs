//! What kernels call: checked accesses, collectives, barriers, asynchronous copies. The declarations
//! are in `include/salient_emulator.h`.

use std::ffi::{CStr, c_char, c_int, c_void};

use super::{AsyncCopy, TEAM, Team, Wait};
use crate::thread::{Access, Barrier, Collective, Complete, Site, Votes};

/// Runs a hook's work on the team of the running thread.
pub(super) fn with_team<R>(work: impl FnOnce(&mut Team) -> R) -> R {
    let team = TEAM.get();
    assert!(!team.is_null(), "a hook was called outside a kernel");
    // SAFETY: hooks run in a coroutine of this team while the scheduler borrows nothing of it, and
    // no work suspends.
    work(unsafe { &mut *team })
}

/// Lets the scheduler go on with another thread.
pub(super) fn suspend() {
    let yielder = with_team(|team| team.lanes[team.current].yielder);
    // SAFETY: the yielder is that of the running coroutine, which set it when it began.
    unsafe { &*yielder }.suspend(());
}

/// Ends the launch: the running thread is never resumed.
pub(super) fn stop(what: &str) -> ! {
    with_team(|team| team.set_fault(what));
    loop {
        suspend();
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_access(
    address: usize,
    bytes: u32,
    access: Access,
    active: u32,
    site: Site,
) {
    let checked = with_team(|team| {
        let bytes = bytes as usize;
        team.record(site, access, (address, bytes), active != 0);
        if active == 0 { Ok(()) } else { team.check(address, bytes, access) }
    });
    if let Err(what) = checked {
        stop(&format!("{site}: {what}"));
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_collective(
    mask: u32,
    kind: Collective,
    data: *mut c_void,
    complete: Option<Complete>,
    site: Site,
) {
    let waits = with_team(|team| {
        let (current, first) = (team.current, team.current / 32 * 32);
        team.progress = true;
        if mask >> (current - first) & 1 == 0 {
            return Err("a lane is outside its own mask".to_owned());
        }
        team.lanes[current].wait = Wait::Collective { mask, kind, site, data };
        team.waiting[current / 32] |= 1 << (current - first);
        let missing = mask & !team.waiting[current / 32];
        if missing != 0 {
            let lane = missing.trailing_zeros() as usize;
            return match team.lanes.get(first + lane).map(|lane| lane.wait) {
                Some(Wait::Ended) | None => {
                    Err(format!("{kind:?} at {site} waits for lane {lane}, which has ended"))
                }
                _ => Ok(true),
            };
        }
        let mut all = [std::ptr::null_mut(); 32];
        for (lane, slot) in all.iter_mut().enumerate().filter(|(lane, _)| mask >> lane & 1 == 1) {
            match team.lanes[first + lane].wait {
                Wait::Collective { mask: m, kind: k, site: s, data }
                    if (m, k, s) == (mask, kind, site) =>
                {
                    *slot = data;
                }
                _ => return Ok(true),
            }
        }
        if let Some(complete) = complete {
            // SAFETY: every lane of the mask waits here, and its data lives on its stack.
            let wrong = unsafe { complete(all.as_ptr(), mask) };
            if !wrong.is_null() {
                // SAFETY: a literal of the header, which ends in 0.
                let what = unsafe { CStr::from_ptr(wrong) }.to_string_lossy();
                return Err(format!("{site}: {what}"));
            }
        }
        if let Some(recorder) = &mut team.recorder {
            recorder.count_matrix_operations(kind.matrix_operations());
        }
        for lane in (0..32).filter(|lane| mask >> lane & 1 == 1 && first + lane != current) {
            team.lanes[first + lane].wait = Wait::Nothing;
            team.ready.push((first + lane) as u32);
        }
        team.lanes[current].wait = Wait::Nothing;
        Ok(false)
    });
    match waits {
        Ok(true) => suspend(),
        Ok(false) => {}
        Err(what) => stop(&what),
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_barrier(barrier: Barrier, vote: u32, site: Site) -> Votes {
    let waits = with_team(|team| {
        let current = team.current;
        let block = team.block_of(current);
        team.progress = true;
        let meeting = match barrier {
            Barrier::Block => &mut team.blocks[block],
            Barrier::Cluster => &mut team.cluster,
        };
        if meeting.site.is_some_and(|first| first != site) {
            let first = meeting.site.expect("checked above");
            return Err(format!("divergent barrier: it is at {site}, others are at {first}"));
        }
        if meeting.site.replace(site).is_none() {
            meeting.votes = Votes { count: 0, all: 1, any: 0 };
        }
        meeting.votes.count += vote;
        meeting.votes.all &= vote;
        meeting.votes.any |= vote;
        meeting.arrived.push(current as u32);
        if (meeting.arrived.len() as u32) < meeting.size {
            team.lanes[current].wait = Wait::Meeting;
            return Ok(true);
        }
        meeting.site = None;
        meeting.result = meeting.votes;
        let arrived = std::mem::take(&mut meeting.arrived);
        team.release(arrived.into_iter().filter(|&thread| thread as usize != current));
        team.lanes[current].wait = Wait::Nothing;
        let warps = team.launch().shape.threads as usize / 32;
        let met = match barrier {
            Barrier::Block => block * warps..(block + 1) * warps,
            Barrier::Cluster => 0..team.threads.len() / 32,
        };
        if let Some(mut recorder) = team.recorder.take() {
            recorder.flush(met, &team.launch().allocations);
            team.recorder = Some(recorder);
        }
        Ok(false)
    });
    match waits {
        Ok(true) => suspend(),
        Ok(false) => {}
        Err(what) => stop(&what),
    }
    with_team(|team| match barrier {
        Barrier::Block => team.blocks[team.block_of(team.current)].result,
        Barrier::Cluster => team.cluster.result,
    })
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_pause() {
    with_team(|team| team.ready.push(team.current as u32));
    suspend();
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_proxy_fence() {
    with_team(|team| team.lanes[team.current].fences += 1);
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_copy_async(
    to: *mut u8,
    from: *const u8,
    bytes: u32,
    copied: u32,
    site: Site,
) {
    salient_emulated_access(from as usize, bytes, Access::Load, u32::from(copied > 0), site);
    salient_emulated_access(to as usize, bytes, Access::SharedStore, 1, site);
    with_team(|team| {
        let copy = AsyncCopy { to, from, bytes: bytes as usize, copied: copied as usize };
        // The hardware may be done at once or only when it is waited for.
        if team.random.below(2) == 0 {
            copy.perform();
        } else {
            let current = team.current;
            team.lanes[current].copies.push(copy);
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_copy_commit() {
    with_team(|team| {
        let current = team.current;
        let lane = &mut team.lanes[current];
        let group = std::mem::take(&mut lane.copies);
        lane.groups.push_back(group);
    });
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_copy_wait(pending: u32) {
    with_team(|team| {
        let current = team.current;
        let lane = &mut team.lanes[current];
        while lane.groups.len() > pending as usize {
            let group = lane.groups.pop_front().expect("more than are pending");
            group.iter().for_each(AsyncCopy::perform);
        }
    });
}

impl AsyncCopy {
    fn perform(&self) {
        // SAFETY: both ranges were checked when the copy was started; buffers and shared memory
        // live as long as the launch.
        unsafe { std::ptr::copy_nonoverlapping(self.from, self.to, self.copied) };
        let rest = self.bytes - self.copied;
        // SAFETY: as above.
        unsafe { std::ptr::write_bytes(self.to.wrapping_add(self.copied), 0, rest) };
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_mutated(name: *const c_char) -> c_int {
    // SAFETY: a literal in a kernel, which ends in 0.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let mutant = with_team(|team| team.launch().mutant);
    mutant.is_some_and(|mutant| mutant.as_bytes() == name).into()
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_fail(what: *const c_char, site: Site) -> ! {
    // SAFETY: a literal in a kernel, which ends in 0.
    let what = unsafe { CStr::from_ptr(what) }.to_string_lossy();
    stop(&format!("{site}: {what}"))
}
