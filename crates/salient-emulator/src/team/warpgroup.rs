//! Multiplies of warpgroups, which run behind their threads' back (PTX ISA: Asynchronous Warpgroup
//! Level Matrix Instructions), and their registers (PTX ISA: setmaxnreg).
//!
//! Threads start multiplies without waiting for each other. From then on the accumulators are poison
//! in their registers, until a wait lets them through; operands in shared memory are read when every
//! thread has closed the group, or only when it is waited for.

use std::collections::{BTreeMap, VecDeque};

use super::hooks::{stop, suspend, with_team};
use super::matrix::{DEPTH, ROWS, Read, multiply_add, operand, place, registers};
use super::{Team, Wait};
use crate::thread::{Multiply, Site};

/// Threads of a warpgroup.
pub(super) const SIZE: usize = 128;

/// In accumulators of multiplies that are on their way: a signalling NaN, which arithmetic changes into
/// a quiet one.
const POISON: u32 = 0x7f9a_da7a;

/// Registers of a processor.
const REGISTERS: u32 = 1 << 16;

/// A warpgroup's multiplies and registers.
#[derive(Debug)]
pub(super) struct Warpgroup {
    lanes: Vec<Lane>,
    /// Multiplies that have not run, and the number of the first.
    multiplies: VecDeque<Started>,
    first: usize,
    groups: Vec<Group>,
    accumulators: Vec<Accumulators>,
}

#[derive(Debug, Clone, Default)]
struct Lane {
    /// Multiplies that it has started, groups that it has closed.
    started: usize,
    closed: usize,
    fenced: bool,
    /// What it has set its registers to, in order.
    registers: Vec<u32>,
}

/// A multiply that at least one thread has started.
#[derive(Debug)]
struct Started {
    what: Multiply,
    site: Site,
    arrived: usize,
    accumulators: usize,
    /// The rows of a, where it lies in registers.
    a: Option<Box<[[u32; 4]; SIZE]>>,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    /// One past its last multiply.
    end: usize,
    closed: usize,
}

/// Accumulators that multiplies work on.
#[derive(Debug)]
struct Accumulators {
    number: usize,
    n: usize,
    /// Where each thread has them; null once it has them back, and before it starts a multiply.
    places: Vec<*mut f32>,
    /// `[row][column]`.
    values: Vec<f32>,
    /// One past the last multiply that works on them.
    end: usize,
}

impl Warpgroup {
    pub(super) fn new() -> Self {
        Self {
            lanes: vec![Lane::default(); SIZE],
            multiplies: VecDeque::new(),
            first: 0,
            groups: Vec::new(),
            accumulators: Vec::new(),
        }
    }

    /// A thread starts a multiply. Gives whether it was the last to start it.
    ///
    /// # Safety
    /// What `what` points to is valid, `d` until the thread waits for it.
    unsafe fn start(&mut self, lane: usize, what: &Multiply, site: Site) -> Result<bool, String> {
        let number = self.lanes[lane].started;
        let in_flight = self.accumulators.iter().position(|a| a.places[lane] == what.d);
        if !self.lanes[lane].fenced && (!what.a.is_null() || in_flight.is_none()) {
            return Err("a multiply uses registers, and no fence since the last group".into());
        }
        let index = number - self.first;
        if index == self.multiplies.len() {
            let accumulators = match in_flight {
                Some(index) => self.accumulators[index].number,
                None => self.add_accumulators(number, what.n as usize),
            };
            let a = (!what.a.is_null()).then(|| Box::new([[0; 4]; SIZE]));
            let what = *what;
            self.multiplies.push_back(Started { what, site, arrived: 0, accumulators, a });
        }
        let multiply = &mut self.multiplies[index];
        if !multiply.what.is_like(what) || multiply.site != site {
            return Err(format!(
                "threads of a warpgroup start different multiplies: another is at {}",
                multiply.site
            ));
        }
        if let Some(rows) = &mut multiply.a {
            // SAFETY: as the caller promises.
            rows[lane] = unsafe { *what.a };
        }
        multiply.arrived += 1;
        let complete = multiply.arrived == SIZE;
        let wanted = multiply.accumulators;
        let accumulators = self
            .accumulators
            .iter_mut()
            .find(|accumulators| accumulators.number == wanted)
            .ok_or("threads of a warpgroup wait for different multiplies")?;
        if accumulators.n != what.n as usize {
            return Err("a multiply of another shape works on these accumulators".into());
        }
        // SAFETY: as the caller promises.
        let d = unsafe { std::slice::from_raw_parts_mut(what.d, accumulators.n / 2) };
        accumulators.join(lane, d, number)?;
        self.lanes[lane].started += 1;
        Ok(complete)
    }

    fn add_accumulators(&mut self, number: usize, n: usize) -> usize {
        self.accumulators.push(Accumulators {
            number,
            n,
            places: vec![std::ptr::null_mut(); SIZE],
            values: vec![0.0; ROWS * n],
            end: number,
        });
        number
    }

    /// A thread closes its group. Gives the end of the multiplies that may run if all have closed it.
    fn close(&mut self, lane: usize) -> Result<Option<usize>, String> {
        let state = &mut self.lanes[lane];
        state.fenced = false;
        state.closed += 1;
        if state.closed > self.groups.len() {
            self.groups.push(Group { end: state.started, closed: 0 });
        }
        let group = &mut self.groups[state.closed - 1];
        if group.end != state.started {
            return Err("threads of a warpgroup close different groups".into());
        }
        group.closed += 1;
        Ok((group.closed == SIZE).then_some(group.end))
    }

    /// The end of the multiplies that a thread waits for which leaves so many groups pending.
    fn awaited(&self, lane: usize, pending: usize) -> usize {
        let groups = self.lanes[lane].closed.saturating_sub(pending);
        self.groups[..groups].last().map_or(0, |group| group.end)
    }

    /// Whether every thread has started the multiplies before this one.
    fn have_started(&self, end: usize) -> bool {
        self.lanes.iter().all(|lane| lane.started >= end)
    }

    /// Runs the multiplies before this one, and gives their operations.
    fn run(&mut self, end: usize, read: &Read<'_>) -> Result<u64, String> {
        let mut operations = 0;
        while self.first < end {
            let multiply = self.multiplies.pop_front().expect("it was started");
            self.first += 1;
            let number = multiply.accumulators;
            let accumulators = self.accumulators.iter_mut().find(|a| a.number == number);
            let values = &mut accumulators.expect("nobody has them back yet").values;
            operations +=
                multiply.run(values, read).map_err(|what| format!("{}: {what}", multiply.site))?;
        }
        Ok(operations)
    }

    /// Gives a thread back the accumulators of multiplies before `end` alone.
    ///
    /// # Safety
    /// They are still where they were.
    unsafe fn give_back(&mut self, lane: usize, end: usize) -> Result<(), String> {
        for accumulators in self.accumulators.iter_mut().filter(|a| a.end <= end) {
            let place = std::mem::replace(&mut accumulators.places[lane], std::ptr::null_mut());
            if !place.is_null() {
                // SAFETY: as the caller promises.
                let d = unsafe { std::slice::from_raw_parts_mut(place, accumulators.n / 2) };
                accumulators.leave(lane, d)?;
            }
        }
        self.accumulators.retain(|a| a.places.iter().any(|place| !place.is_null()));
        Ok(())
    }
}

impl Started {
    /// Gives its operations.
    fn run(&self, values: &mut [f32], read: &Read<'_>) -> Result<u64, String> {
        let what = &self.what;
        let (bf16, n) = (what.bf16 != 0, what.n as usize);
        let a = match &self.a {
            Some(words) => registers(words, bf16),
            None => operand(read, what.a_descriptor, what.a_transposed != 0, bf16, ROWS)?,
        };
        let b = operand(read, what.b_descriptor, what.b_transposed != 0, bf16, n)?;
        if what.accumulate == 0 {
            values.fill(0.0);
        }
        multiply_add(values, &a, &b);
        Ok(2 * (ROWS * n * DEPTH) as u64)
    }
}

impl Accumulators {
    /// Takes a thread's accumulators and leaves poison, unless it has them.
    fn join(&mut self, lane: usize, d: &mut [f32], number: usize) -> Result<(), String> {
        let place = d.as_mut_ptr();
        if self.places[lane].is_null() && number == self.number {
            self.places[lane] = place;
            for (i, d) in d.iter_mut().enumerate() {
                self.values[self::place(lane, i, self.n)] =
                    std::mem::replace(d, f32::from_bits(POISON));
            }
        } else if self.places[lane] != place {
            return Err("threads of a warpgroup wait for different multiplies".into());
        }
        self.end = self.end.max(number + 1);
        Ok(())
    }

    /// Puts a thread's accumulators in the place of the poison.
    fn leave(&self, lane: usize, d: &mut [f32]) -> Result<(), String> {
        if d.iter().any(|d| d.to_bits() != POISON) {
            return Err("accumulators were written while a multiply works on them".into());
        }
        for (i, d) in d.iter_mut().enumerate() {
            *d = self.values[place(lane, i, self.n)];
        }
        Ok(())
    }
}

impl Team {
    /// The warpgroup of the running thread, its number, and the thread's place in it.
    fn warpgroup(&mut self) -> Result<(&mut Warpgroup, usize, usize), String> {
        let threads = self.launch().shape.threads as usize;
        let (block, thread) = (self.block_of(self.current), self.current % threads);
        if thread / SIZE >= threads / SIZE {
            return Err("these warps are no whole warpgroup".into());
        }
        let number = block * (threads / SIZE) + thread / SIZE;
        let warpgroup = self.warpgroups.entry(number).or_insert_with(Warpgroup::new);
        Ok((warpgroup, number, thread % SIZE))
    }

    /// # Safety
    /// As for [`Warpgroup::start`].
    unsafe fn start_multiply(&mut self, what: &Multiply, site: Site) -> Result<(), String> {
        self.progress = true;
        let (warpgroup, _, lane) = self.warpgroup()?;
        // SAFETY: as the caller promises.
        if unsafe { warpgroup.start(lane, what, site) }? {
            let first = self.current - lane;
            for thread in first..first + SIZE {
                if let Wait::Warpgroup { .. } = self.lanes[thread].wait {
                    self.release([thread as u32]);
                }
            }
        }
        Ok(())
    }

    fn close_group(&mut self) -> Result<(), String> {
        let (warpgroup, number, lane) = self.warpgroup()?;
        match warpgroup.close(lane)? {
            // The hardware may be done at once or only when it is waited for.
            Some(end) if self.random.below(2) == 0 => self.run_multiplies(number, end),
            _ => Ok(()),
        }
    }

    /// Gives whether the running thread must go on waiting.
    fn wait_for_groups(&mut self, pending: usize, site: Site) -> Result<bool, String> {
        self.progress = true;
        let (warpgroup, number, lane) = self.warpgroup()?;
        let end = warpgroup.awaited(lane, pending);
        if !warpgroup.have_started(end) {
            let current = self.current;
            self.lanes[current].wait = Wait::Warpgroup { site };
            return Ok(true);
        }
        self.run_multiplies(number, end)?;
        let (warpgroup, _, lane) = self.warpgroup()?;
        // SAFETY: the accumulators are locals of kernels that go on after this wait.
        unsafe { warpgroup.give_back(lane, end) }?;
        Ok(false)
    }

    fn run_multiplies(&mut self, number: usize, end: usize) -> Result<(), String> {
        let base = self.threads[self.current].shared as usize;
        let mut warpgroups = std::mem::take(&mut self.warpgroups);
        let read = |offset: usize| {
            let address = base + offset;
            if !self.owns_shared(address, 16) {
                let used = self.shared.used;
                return Err(format!("a multiply reads byte {offset} of {used} of shared memory"));
            }
            if let Some(thread) = self.unfenced(address, 16) {
                return Err(format!(
                    "a multiply reads byte {offset} of shared memory, which {} has stored without a \
                     fence between the proxies since",
                    self.name(thread)
                ));
            }
            // SAFETY: the bytes are those of the block, which lives as long as the team.
            Ok(unsafe { *(address as *const [u8; 16]) })
        };
        let warpgroup = warpgroups.get_mut(&number).expect("it has started multiplies");
        let operations = warpgroup.run(end, &read);
        self.warpgroups = warpgroups;
        let operations = operations?;
        if let Some(recorder) = &mut self.recorder {
            recorder.count_matrix_operations(operations);
        }
        Ok(())
    }

    /// What is wrong with warpgroups when all threads have ended.
    pub(super) fn check_warpgroups(&mut self) {
        let threads = self.launch().shape.threads;
        let per_block = threads as usize / SIZE;
        let per_thread = (REGISTERS / threads / 8 * 8).min(256);
        let mut totals = BTreeMap::new();
        let mut wrong = None;
        for (&number, warpgroup) in &self.warpgroups {
            let [first, others @ ..] = &warpgroup.lanes[..] else { continue };
            if !warpgroup.accumulators.is_empty() {
                wrong = Some("a multiply is not waited for before its threads end");
            }
            if others.iter().any(|lane| lane.registers != first.registers) {
                wrong = Some("threads of a warpgroup set their registers differently");
            }
            let registers = first.registers.last().copied().unwrap_or(per_thread);
            let total = totals.entry(number / per_block).or_insert(threads * per_thread);
            *total = *total + registers * SIZE as u32 - per_thread * SIZE as u32;
        }
        if totals.into_values().any(|total| total > REGISTERS) {
            wrong = Some("warpgroups take more registers than there are: that wait never ends");
        }
        if let Some(wrong) = wrong {
            self.set_fault(wrong);
        }
    }
}

/// # Safety
/// Called by `warpgroup_multiply` alone: what `what` points to is valid, the accumulators until the
/// kernel waits for them.
#[unsafe(no_mangle)]
unsafe extern "C" fn salient_emulated_warpgroup_multiply(what: *const Multiply, site: Site) {
    // SAFETY: as the caller promises.
    let what = unsafe { &*what };
    // SAFETY: as the caller promises.
    if let Err(what) = with_team(|team| unsafe { team.start_multiply(what, site) }) {
        stop(&format!("{site}: {what}"));
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_warpgroup_fence(site: Site) {
    let fenced = with_team(|team| {
        let (warpgroup, _, lane) = team.warpgroup()?;
        warpgroup.lanes[lane].fenced = true;
        Ok::<_, String>(())
    });
    if let Err(what) = fenced {
        stop(&format!("{site}: {what}"));
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_warpgroup_commit(site: Site) {
    if let Err(what) = with_team(Team::close_group) {
        stop(&format!("{site}: {what}"));
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_warpgroup_wait(pending: u32, site: Site) {
    loop {
        match with_team(|team| team.wait_for_groups(pending as usize, site)) {
            Ok(true) => suspend(),
            Ok(false) => return,
            Err(what) => stop(&format!("{site}: {what}")),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn salient_emulated_set_registers(registers: u32, site: Site) {
    let set = with_team(|team| {
        let (warpgroup, _, lane) = team.warpgroup()?;
        if !registers.is_multiple_of(8) || !(24..=256).contains(&registers) {
            return Err(format!("{registers} registers, not a multiple of 8 from 24 to 256"));
        }
        warpgroup.lanes[lane].registers.push(registers);
        Ok(())
    });
    if let Err(what) = set {
        stop(&format!("{site}: {what}"));
    }
}
