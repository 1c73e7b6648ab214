//! Mistakes made on purpose in the kernels, each of which must be seen by name: `table.json` has
//! what each breaks, the case that fails, and what it says then. This keeps the cases honest, and
//! the software GPU: a mistake that it let pass would pass in a kernel too.
//!
//! A copy of `kernels/` with the mistake in it is compiled to PTX, and the case runs in a process
//! of its own, in which the software GPU takes that PTX in place of what the program was built with
//! (`SALIENT_GPU_PTX`). Every case is run on a copy without a mistake, too, where it must pass.
//!
//! Needs nvcc and the software GPU, and says on standard error that it did not run where they are
//! missing; with `SALIENT_NEED_SOFTWARE_GPU` set that fails. `SALIENT_MUTANTS` names the mutants to
//! run, by parts of their names with commas between; all, unless set.

mod cases;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/device.rs"]
mod device;
mod kernels;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/place.rs"]
mod place;
#[allow(dead_code, reason = "other tests use more of it")]
#[path = "../common/runs.rs"]
mod runs;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use kernels::{Copy, Nvcc};
use table::{Edit, Mutant, Table, Target};

/// In a process that runs a case: its name.
const CASE: &str = "SALIENT_MUTANTS_CASE";
/// Copies that are compiled and run at a time.
const AT_ONCE: usize = 2;
/// A launch with more steps than this hangs. Cases have far fewer.
const STEPS: u64 = 200_000_000;

#[test]
fn every_mutant_is_caught() {
    if let Ok(case) = std::env::var(CASE) {
        return cases::run(&case);
    }
    place::on_software_gpu("every_mutant_is_caught", |_| {
        let Some(nvcc) = Nvcc::find() else {
            place::not_run(
                "every_mutant_is_caught needs nvcc: see scripts/cuda-toolkit",
                "SALIENT_NEED_SOFTWARE_GPU",
            );
            return Ok(());
        };
        let table = Table::read();
        let jobs = Mutex::new(jobs(&table));
        let wrong = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let Some(job) = jobs.lock().expect("no worker panics").pop() else { break };
                        let done = job.run(&nvcc);
                        let says = done.as_ref().unwrap_or_else(|error| error);
                        say(&format!("{}: {says}\n", job.name));
                        if let Err(error) = done {
                            let mut wrong = wrong.lock().expect("no worker panics");
                            wrong.push(format!("{}: {error}", job.name));
                        }
                    }
                });
            }
        });
        let wrong = wrong.into_inner().expect("no worker panics");
        assert!(wrong.is_empty(), "{} of the jobs:\n{}", wrong.len(), wrong.join("\n"));
        Ok(())
    });
}

#[test]
fn the_table_fits_the_kernels() {
    let table = Table::read();
    let mut names = BTreeSet::new();
    for mutant in &table.mutants {
        assert!(names.insert(&mutant.name), "{}: named twice", mutant.name);
        assert!(!mutant.edits.is_empty() && !mutant.runs.is_empty(), "{}: empty", mutant.name);
        for run in &mutant.runs {
            let known = cases::ALL.iter().any(|(case, _)| *case == run.case);
            assert!(known, "{}: there is no case {}", mutant.name, run.case);
            assert!(!run.says.is_empty(), "{}: says nothing", mutant.name);
        }
        let edits = table.cut(mutant).iter().chain(&mutant.edits);
        Copy::of(edits).unwrap_or_else(|error| panic!("{}: {error}", mutant.name));
    }
    let run: BTreeSet<_> =
        table.mutants.iter().flat_map(|m| &m.runs).map(|run| run.case.as_str()).collect();
    for (case, _) in cases::ALL {
        assert!(run.contains(case), "{case}: no mutant is for this case");
    }
}

/// A copy of the kernels, and what is run on it.
struct Job<'a> {
    name: String,
    edits: Vec<&'a Edit>,
    source: &'a str,
    target: Target,
    runs: Vec<Run<'a>>,
}

struct Run<'a> {
    case: &'a str,
    gpu: &'a str,
    /// What it says when it fails; none: it passes.
    says: Option<&'a str>,
}

/// The mutants that are asked for, and for each source that they are in, their cases without a
/// mistake.
fn jobs(table: &Table) -> Vec<Job<'_>> {
    let asked = std::env::var("SALIENT_MUTANTS").unwrap_or_default();
    let is_asked = |mutant: &&Mutant| asked.split(',').any(|part| mutant.name.contains(part));
    let mut jobs = Vec::new();
    let mut plain = BTreeMap::new();
    for mutant in table.mutants.iter().filter(is_asked) {
        let (cut, source, target) = (table.cut(mutant), mutant.source.as_str(), mutant.target);
        let runs = plain.entry((source, target, &mutant.cut)).or_insert_with(BTreeSet::new);
        runs.extend(mutant.runs.iter().map(|run| (run.case.as_str(), run.gpu.as_str())));
        jobs.push(Job {
            name: mutant.name.clone(),
            edits: cut.iter().chain(&mutant.edits).collect(),
            source,
            target,
            runs: mutant
                .runs
                .iter()
                .map(|run| Run { case: &run.case, gpu: &run.gpu, says: Some(&run.says) })
                .collect(),
        });
    }
    for ((source, target, cut), runs) in plain {
        let cut = cut.as_ref().map_or(&[][..], |cut| &table.cuts[cut]);
        jobs.push(Job {
            name: format!("{source} for {target}, without a mistake"),
            edits: cut.iter().collect(),
            source,
            target,
            runs: runs.into_iter().map(|(case, gpu)| Run { case, gpu, says: None }).collect(),
        });
    }
    jobs
}

impl Job<'_> {
    /// What it was caught by.
    fn run(&self, nvcc: &Nvcc) -> Result<String, String> {
        let copy = Copy::of(self.edits.iter().copied())?;
        let ptx = copy.compile(nvcc, self.source, self.target)?;
        let runs = self.runs.iter().map(|run| run.run(self.target, &ptx));
        Ok(runs.collect::<Result<Vec<_>, _>>()?.join("; "))
    }
}

impl Run<'_> {
    fn run(&self, target: Target, ptx: &Path) -> Result<String, String> {
        let gpu = format!("{},steps={STEPS},{}", target.device(), self.gpu);
        let output = Command::new(std::env::current_exe().expect("this program has a path"))
            .args(["--exact", "every_mutant_is_caught", "--nocapture"])
            .env(CASE, self.case)
            .env("SALIENT_GPU", &gpu)
            .env("SALIENT_GPU_PTX", ptx)
            .env("SALIENT_NEED_DEVICE", "1")
            .output()
            .map_err(|error| format!("cannot run this program: {error}"))?;
        let text =
            [output.stdout, output.stderr].map(|out| String::from_utf8_lossy(&out).into_owned());
        let text = text.concat();
        let context = format!("{} on {gpu}", self.case);
        let count = if self.says.is_none() { "1 passed; 0 failed" } else { "0 passed; 1 failed" };
        if !text.contains(count) {
            return Err(format!("{context}: not {count}:\n{}", end_of(&text)));
        }
        match self.says {
            None => Ok(format!("{context}: passes")),
            Some(says) if text.contains(says) => Ok(format!("{context}: {says}")),
            Some(says) => Err(format!("{context}: does not say {says:?}:\n{}", end_of(&text))),
        }
    }
}

/// The lines that tell most.
fn end_of(text: &str) -> String {
    let lines = text.lines().map(|line| line.chars().take(400).collect::<String>());
    let lines: Vec<_> = lines.filter(|line| !line.is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// Not by a macro that the test harness catches: this takes minutes.
fn say(text: &str) {
    std::io::stderr().write_all(text.as_bytes()).expect("standard error is open");
}
