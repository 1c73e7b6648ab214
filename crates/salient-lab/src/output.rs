//! Files written whole or not at all, the two streams of a terminal, and progress bars.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anstream::AutoStream;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::error::{Error, Result};

/// A file that appears under its name only when complete. Until [`Partial::commit`] it is a
/// neighbour of that name, and it is removed when dropped before.
#[derive(Debug)]
pub struct Partial {
    file: File,
    part: PathBuf,
    target: PathBuf,
    committed: bool,
}

impl Partial {
    /// Opens `part`, which [`Partial::commit`] will rename to `target`. Both must lie on one file
    /// system, and no other writer may use `part`.
    ///
    /// # Errors
    /// When `part` cannot be created.
    pub fn create(part: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Result<Self> {
        let (part, target) = (part.into(), target.into());
        let file = File::create(&part).map_err(|e| Error::write(&target, e))?;
        Ok(Self { file, part, target, committed: false })
    }

    /// Forces the bytes to disk and gives the file its name.
    ///
    /// # Errors
    /// When the disk is full or the name cannot be taken.
    pub fn commit(mut self) -> Result<()> {
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.part, &self.target))
            .map_err(|e| Error::write(&self.target, e))?;
        self.committed = true;
        Ok(())
    }
}

impl Write for Partial {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.committed {
            let _ = fs::remove_file(&self.part);
        }
    }
}

/// Writes a file whole or not at all: an older file of that name stays until the new one is
/// complete. Pipes and devices (`/dev/stdout`) are written directly.
///
/// # Errors
/// When the folder is missing or cannot be written, or the disk is full.
pub fn write_whole(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> Result<()> {
    let (path, bytes) = (path.as_ref(), bytes.as_ref());
    let Some(mut partial) = beside(path)? else {
        return fs::write(path, bytes).map_err(|e| Error::write(path, e));
    };
    partial.write_all(bytes).map_err(|e| Error::write(path, e))?;
    partial.commit()
}

/// Checks that [`write_whole`] will be able to write `path`: to be called before long work.
///
/// # Errors
/// When the folder is missing or cannot be written, or `path` is a folder.
pub fn check_writable(path: impl AsRef<Path>) -> Result<()> {
    beside(path.as_ref()).map(drop)
}

/// Standard output, with colours only on a terminal and never under `NO_COLOR`.
///
/// Write with `writeln!` and `?`: a reader that has gone away is an error here, which the command
/// turns into a quiet end.
pub fn stdout() -> AutoStream<io::StdoutLock<'static>> {
    anstream::stdout().lock()
}

/// Says something on standard error, with colours only on a terminal.
pub fn note(message: impl std::fmt::Display) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(anstream::stderr(), "{message}");
}

/// A progress bar on standard error over `length` steps; it shows nothing when `quiet` or when
/// standard error is no terminal.
pub fn progress(quiet: bool, length: u64, message: impl Into<String>) -> ProgressBar {
    bar(quiet, "{msg} {wide_bar} {pos}/{len} {eta}", length, message.into())
}

/// As [`progress`], over bytes.
pub fn progress_bytes(quiet: bool, length: u64, message: impl Into<String>) -> ProgressBar {
    bar(quiet, "{msg} {wide_bar} {bytes}/{total_bytes} {elapsed}", length, message.into())
}

/// Something that takes a while and cannot say how long.
pub fn spinner(quiet: bool, message: impl Into<String>) -> ProgressBar {
    let bar = bar(quiet, "{spinner} {msg} {elapsed}", 0, message.into());
    bar.tick();
    bar
}

fn bar(quiet: bool, template: &str, length: u64, message: String) -> ProgressBar {
    let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let style = ProgressStyle::with_template(template).expect("a valid template");
    let bar = ProgressBar::with_draw_target(Some(length), target).with_style(style);
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Opens a partial file beside `path`, or nothing if `path` is no regular file.
fn beside(path: &Path) -> Result<Option<Partial>> {
    // A link keeps pointing to what it points to; the file behind it is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.into());
    if let Ok(metadata) = fs::metadata(&target) {
        if metadata.is_dir() {
            return Err(Error::write(path, io::ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            return Ok(None);
        }
    }
    let Some(name) = target.file_name() else {
        return Err(Error::write(path, io::ErrorKind::InvalidFilename.into()));
    };
    let mut part = name.to_owned();
    part.push(format!(".{}.part", std::process::id()));
    Partial::create(target.with_file_name(part), target).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        fs::read_dir(folder).unwrap().map(|entry| name(entry).unwrap()).collect()
    }

    #[test]
    fn a_file_is_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        write_whole(&path, "old").unwrap();
        check_writable(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        write_whole(&path, "new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out.json"]);
    }

    #[test]
    fn an_abandoned_file_leaves_the_old_one_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        write_whole(&path, "old").unwrap();
        let mut partial = beside(&path).unwrap().unwrap();
        partial.write_all(b"half").unwrap();
        drop(partial);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["out.json"]);
    }

    #[test]
    fn missing_folders_and_folders_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let missing = folder.path().join("no/out.json");
        for path in [missing.as_path(), folder.path()] {
            assert!(matches!(check_writable(path), Err(Error::Write { .. })));
            assert!(matches!(write_whole(path, "x"), Err(Error::Write { .. })));
        }
        assert_eq!(names(folder.path()), Vec::<String>::new());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_kept_and_devices_written_directly() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("out"), folder.path().join("link"));
        write_whole(&path, "old").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_whole(&link, "new").unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), b"new");
        write_whole("/dev/null", "gone").unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_called_so() {
        assert!(matches!(write_whole("/dev/full", "x"), Err(Error::DiskFull { .. })));
    }
}
