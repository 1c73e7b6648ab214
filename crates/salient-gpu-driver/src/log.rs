//! What kernels did: launches and faults, for tests and for lists of what was covered.
//!
//! `SALIENT_GPU_LOG=path` has each fault appended there as a line of JSON, and, when the process
//! ends, one with the architecture and one for each kernel that the program registered or launched,
//! with the number of its launches: `scripts/kernel-coverage` reads them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;

use salient_gpu::Fault;

use crate::state::{lock, made};
use crate::work::KernelWork;

/// The environment variable with the path.
const VARIABLE: &str = "SALIENT_GPU_LOG";
/// Launches that are remembered.
const LAUNCHES: usize = 100_000;

/// What is remembered, and where it is written.
pub(crate) struct Log {
    path: Option<PathBuf>,
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    launches: VecDeque<Launched>,
    faults: Vec<String>,
    /// By kernel, since the process began.
    counts: BTreeMap<String, u64>,
}

struct Launched {
    thread: u64,
    json: String,
}

impl Log {
    /// Writes to where the environment says.
    pub(crate) fn from_environment() -> Self {
        let path = std::env::var_os(VARIABLE).filter(|path| !path.is_empty());
        if path.is_some() {
            // SAFETY: the function may be called at any time, and does not unwind.
            unsafe { libc::atexit(at_exit) };
        }
        Self { path: path.map(PathBuf::from), entries: Mutex::default() }
    }

    pub(crate) fn launch(&self, thread: u64, work: &KernelWork, counters: impl Fn() -> String) {
        let name = work.kernel.name();
        let launch = &work.launch;
        let json = format!(
            r#"{{"thread":{thread},"kernel":{},"grid":{:?},"block":{:?},"cluster":{:?},"cooperative":{},"shared":{},"counters":{}}}"#,
            text(name),
            launch.grid,
            launch.block,
            launch.cluster,
            launch.cooperative,
            u64::from(launch.dynamic_shared) + work.kernel.static_shared(),
            counters(),
        );
        let mut entries = lock(&self.entries);
        entries.count(name);
        if entries.launches.len() == LAUNCHES {
            entries.launches.pop_front();
        }
        entries.launches.push_back(Launched { thread, json });
    }

    pub(crate) fn fault(&self, thread: u64, fault: &Fault) {
        eprintln!("{fault}");
        let (file, line) = match &fault.source {
            Some((file, line)) => (text(file), line.to_string()),
            None => ("null".to_owned(), "null".to_owned()),
        };
        let json = format!(
            r#"{{"thread":{thread},"kind":"{:?}","kernel":{},"message":{},"ptx_line":{},"file":{file},"line":{line},"block":{:?},"warp":{},"lanes":{}}}"#,
            fault.kind,
            text(&fault.kernel),
            text(&fault.message),
            fault.ptx_line,
            fault.block,
            fault.warp,
            fault.lanes,
        );
        self.append(&format!("{{\"fault\":{json}}}\n"));
        let mut entries = lock(&self.entries);
        entries.count(&fault.kernel);
        entries.faults.push(json);
    }

    /// The launches that one thread submitted, as a list of JSON.
    pub(crate) fn launches(&self, thread: u64) -> String {
        let entries = lock(&self.entries);
        let own = entries.launches.iter().filter(|launched| launched.thread == thread);
        let list: Vec<_> = own.map(|launched| launched.json.as_str()).collect();
        format!("[{}]", list.join(","))
    }

    /// All faults, a line of JSON each.
    pub(crate) fn faults(&self) -> String {
        let mut lines = String::new();
        for fault in &lock(&self.entries).faults {
            lines.push_str(fault);
            lines.push('\n');
        }
        lines
    }

    pub(crate) fn clear(&self) {
        let mut entries = lock(&self.entries);
        entries.launches.clear();
        entries.faults.clear();
    }

    fn append(&self, lines: &str) {
        let Some(path) = &self.path else { return };
        let file = OpenOptions::new().append(true).create(true).open(path);
        // In one piece, as other processes append there too.
        if let Err(error) = file.and_then(|mut file| file.write_all(lines.as_bytes())) {
            eprintln!("software GPU: {}: {error}", path.display());
        }
    }
}

impl Entries {
    fn count(&mut self, kernel: &str) {
        match self.counts.get_mut(kernel) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(kernel.to_owned(), 1);
            }
        }
    }
}

extern "C" fn at_exit() {
    let Ok(driver) = made() else { return };
    let registered = crate::runtime::registered_kernels().into_iter();
    let mut counts: BTreeMap<String, u64> = registered.map(|kernel| (kernel, 0)).collect();
    counts.extend(lock(&driver.log.entries).counts.clone());
    let mut lines = format!("{{\"architecture\":{}}}\n", driver.config().architecture);
    for (kernel, count) in &counts {
        let _ = writeln!(lines, r#"{{"kernel":{},"launches":{count}}}"#, text(kernel));
    }
    driver.log.append(&lines);
}

/// As a string of JSON.
pub(crate) fn text(text: &str) -> String {
    let mut quoted = String::from('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if u32::from(letter) < 0x20 => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(letter));
            }
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
