//! Downloads through the ordinary package clients, run as child processes.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::ProgressBar;

use super::catalog::{Client, Package};
use crate::error::{Error, Result};

/// How the clients are called here; the first spelling that runs is used.
#[derive(Debug, Clone)]
pub(super) struct Clients {
    pub(super) pip: Vec<Vec<String>>,
    pub(super) npm: Vec<Vec<String>>,
}

impl Default for Clients {
    fn default() -> Self {
        let words = |spelling: &&str| spelling.split(' ').map(str::to_owned).collect();
        let npm = if cfg!(windows) { "npm.cmd" } else { "npm" };
        Self {
            pip: ["python3 -m pip", "python -m pip", "pip3", "pip"].iter().map(words).collect(),
            npm: [npm].iter().map(words).collect(),
        }
    }
}

impl Clients {
    /// Downloads `package` into the empty folder `into` and returns the file.
    ///
    /// `place` is where the file could be put by hand, for the error; `stop` is polled.
    pub(super) fn download(
        &self,
        package: &Package,
        into: &Path,
        place: &Path,
        stop: fn() -> bool,
        bar: &ProgressBar,
    ) -> Result<PathBuf> {
        let (name, spellings, arguments, install) = match package.client {
            Client::Pip => ("pip", &self.pip, PIP, "install Python 3 with pip (python3-pip)"),
            Client::Npm => ("npm", &self.npm, NPM, "install Node.js with npm (npm)"),
        };
        let Some(mut command) = spellings.iter().find_map(|words| runnable(words)) else {
            let package = package.spec();
            return Err(Error::ClientMissing { package, client: name, install });
        };
        command.args(arguments).arg(into).arg(package.spec());
        // Unfinished downloads stay in our folder, where their size shows and the next try clears
        // them away.
        let unfinished = into.join("unfinished");
        fs::create_dir(&unfinished).map_err(|e| Error::write(&unfinished, e))?;
        command.envs(["TMPDIR", "TMP", "TEMP"].map(|variable| (variable, &unfinished)));
        tracing::info!(?command, "download");

        let failed = |last_line: String| Error::ClientFailed {
            client: name,
            package: package.spec(),
            last_line,
            file: package.file,
            place: place.into(),
        };
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| failed(e.to_string()))?;
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        // A client may hold a second copy for a moment.
        let tick = || bar.set_position(folder_bytes(into).min(package.bytes));
        let success = wait(&mut child, stop, tick)
            .map_err(|e| e.unwrap_or_else(|e| failed(e.to_string())))?;
        let said = [out, err].map(|pipe| pipe.join().unwrap_or_default()).join("\n");
        tracing::info!("{name} said:\n{said}");
        let file = into.join(package.file);
        match success && file.is_file() {
            true => Ok(file),
            false => Err(failed(last_line(&said))),
        }
    }
}

const PIP: &[&str] = &[
    "download",
    "--no-deps",
    "--only-binary",
    ":all:",
    "--ignore-requires-python",
    "--disable-pip-version-check",
    "--no-input",
    "--progress-bar",
    "off",
    "-d",
];

const NPM: &[&str] = &["pack", "--ignore-scripts", "--no-update-notifier", "--pack-destination"];

/// The command that a spelling stands for, if it can be run here.
fn runnable(words: &[String]) -> Option<Command> {
    let (program, arguments) = words.split_first()?;
    let command = || {
        let mut command = Command::new(program);
        command.args(arguments);
        command
    };
    let mut probe = command();
    probe.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success()).then(command)
}

/// Waits for the child, or kills it when asked to stop. Whether it succeeded.
fn wait(
    child: &mut Child,
    stop: fn() -> bool,
    tick: impl Fn(),
) -> Result<bool, Result<Error, std::io::Error>> {
    loop {
        if stop() {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Ok(Error::Interrupted));
        }
        if let Some(status) = child.try_wait().map_err(Err)? {
            // Ctrl-C reaches the child too, which may end before our handler has run.
            if !status.success() {
                thread::sleep(POLL);
            }
            return if stop() { Err(Ok(Error::Interrupted)) } else { Ok(status.success()) };
        }
        tick();
        thread::sleep(POLL);
    }
}

const POLL: Duration = Duration::from_millis(50);

fn collect(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // A pipe that breaks has said what it had to say.
        let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The line that tells best what went wrong.
fn last_line(said: &str) -> String {
    let lines = || said.lines().map(str::trim).filter(|line| !line.is_empty());
    let telling = |line: &&str| line.contains("reason:") || line.contains("No space left");
    let chatter = |line: &&str| {
        ["notice", "A complete log", "npm help config", "[notice]"]
            .iter()
            .any(|words| line.contains(words))
    };
    let found = lines().find(telling).or_else(|| lines().rfind(|line| !chatter(line)));
    found.unwrap_or("it gave no reason").to_owned()
}

fn folder_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_telling_line_is_found() {
        let pip = "WARNING: Retrying\nERROR: No matching distribution found for a==1\n\n";
        assert_eq!(last_line(pip), "ERROR: No matching distribution found for a==1");
        let npm = "npm error code ENOTFOUND\nnpm error network request failed, reason: getaddrinfo\n\
                   npm error network 'proxy' config is set. See: 'npm help config'\n\
                   npm error A complete log of this run can be found in: /x";
        assert_eq!(last_line(npm), "npm error network request failed, reason: getaddrinfo");
        assert_eq!(last_line(" \n"), "it gave no reason");
    }
}
