//! The machine and the build that figures come from, and the process' peak memory.

use std::fs;
use std::process::Command;

use serde::Serialize;

/// Where a record was made.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processor's name, where the system tells.
    pub cpu: Option<String>,
    /// Logical processors that the process may use.
    pub cores: usize,
    /// Memory in bytes, where the system tells.
    pub memory_bytes: Option<u64>,
    /// The operating system.
    pub os: &'static str,
    /// The processor's architecture.
    pub architecture: &'static str,
    /// The release of this program.
    pub version: &'static str,
    /// The commit of the working folder's repository, with `-dirty` if files differ from it.
    pub commit: Option<String>,
}

impl Machine {
    /// This machine, and the repository of the working folder.
    pub fn this() -> Self {
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: field("/proc/meminfo", "MemTotal").and_then(|text| kibibytes(&text)),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            version: env!("CARGO_PKG_VERSION"),
            commit: commit(),
        }
    }
}

/// The command line, the program by its name alone.
pub fn command_line() -> String {
    let words = std::env::args().skip(1);
    std::iter::once("salient".to_owned()).chain(words).collect::<Vec<_>>().join(" ")
}

/// Makes [`peak_memory`] start anew; does nothing where the system cannot.
pub fn reset_peak_memory() {
    // Linux: 5 resets the peak resident set; without the right to, the peak is that of the process.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// The largest resident set since [`reset_peak_memory`], in bytes, where the system tells.
pub fn peak_memory() -> Option<u64> {
    kibibytes(&field("/proc/self/status", "VmHWM")?)
}

/// The value of the first `name: value` line of a file.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> Option<u64> {
    let number: u64 = text.strip_suffix("kB")?.trim().parse().ok()?;
    number.checked_mul(1024)
}

fn commit() -> Option<String> {
    let output =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_kibibytes() {
        assert_eq!(kibibytes("12 kB"), Some(12 * 1024));
        assert_eq!(kibibytes("12 MB"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_large_buffer_raises_the_peak() {
        const BYTES: usize = 256 << 20;
        let before = peak_memory().unwrap();
        let buffer = std::hint::black_box(vec![1u8; BYTES]);
        assert!(peak_memory().unwrap() >= before.min(BYTES as u64));
        assert!(peak_memory().unwrap() >= buffer.len() as u64);
    }
}
