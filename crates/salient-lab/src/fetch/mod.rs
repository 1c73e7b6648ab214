//! The cache of models and texts, filled through the ordinary package clients.
//!
//! ```text
//! SALIENT_HOME/
//!   models/ texts/   the assets
//!   packages/        downloaded packages, until all their assets are out
//!   stamps/          size, time and hash of each asset when it was last hashed
//!   locks/ tmp/      one fetch per package at a time; what it has not finished
//! ```

mod catalog;
mod client;
mod unpack;

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use etcetera::BaseStrategy;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};

pub use catalog::{ASSETS, Asset, Client, Contents, GROUPS, Package};
use client::Clients;
pub(crate) use unpack::hash;

use crate::error::{Error, Result};
use crate::interrupt;
use crate::output;

/// The file or folder that a command means by `name_or_path`: a path that exists is itself, and the
/// name of an asset is its place in the cache. Needs no network.
///
/// # Errors
/// When it is neither, or the asset has not been fetched or is damaged; the error says which
/// command fetches it.
pub fn resolve(name_or_path: &str) -> Result<PathBuf> {
    let path = Path::new(name_or_path);
    if path.exists() {
        return Ok(path.into());
    }
    if !ASSETS.iter().any(|asset| asset.name == name_or_path) {
        return Err(unknown(name_or_path, ASSETS));
    }
    Cache::open()?.resolve(name_or_path)
}

/// The assets that a name stands for: one, or those of a group.
///
/// # Errors
/// When nothing has that name.
pub fn assets(name: &str) -> Result<Vec<&'static Asset>> {
    let group = GROUPS.iter().find(|(group, _)| *group == name);
    let names = group.map_or(vec![name], |(_, names)| names.to_vec());
    let found: Vec<_> = ASSETS.iter().filter(|asset| names.contains(&asset.name)).collect();
    if found.is_empty() { Err(unknown(name, ASSETS)) } else { Ok(found) }
}

/// The folder that holds what was fetched.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    assets: &'static [Asset],
    clients: Clients,
    stop: fn() -> bool,
}

/// What the cache holds of an asset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// All of it, hash and all.
    Cached,
    /// Nothing.
    Missing,
    /// Something else under its name.
    Damaged {
        /// The hash it has.
        actual: String,
    },
}

/// How [`Cache::fetch`] came by an asset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Fetched {
    /// It was there already.
    Cached,
    /// It was taken out of its package.
    Fetched,
}

impl Cache {
    /// The cache in `SALIENT_HOME`, else in `salient` of the user's cache folder (on Linux
    /// `XDG_CACHE_HOME`, else `~/.cache`).
    ///
    /// # Errors
    /// When `SALIENT_HOME` is not set and the user has no home folder.
    pub fn open() -> Result<Self> {
        let root = match env::var_os("SALIENT_HOME").filter(|home| !home.is_empty()) {
            Some(home) => path::absolute(&home).map_err(|e| Error::read(&home, e))?,
            None => etcetera::choose_base_strategy()
                .map_err(|_| Error::NoHome { variable: "SALIENT_HOME" })?
                .cache_dir()
                .join("salient"),
        };
        Ok(Self { root, assets: ASSETS, clients: Clients::default(), stop: interrupt::requested })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where an asset is, or would be.
    pub fn path(&self, asset: &Asset) -> PathBuf {
        self.root.join(asset.path)
    }

    /// What is there of an asset. It is hashed only if it changed since it last was, or when asked
    /// to `verify`.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub fn state(&self, asset: &Asset, verify: bool, bar: &ProgressBar) -> Result<State> {
        let path = self.path(asset);
        if !path.exists() {
            return Ok(State::Missing);
        }
        let files = fingerprint(&path)?;
        let stamp = fs::read(self.stamp(asset)).ok();
        let stamp = stamp.and_then(|bytes| serde_json::from_slice::<Stamp>(&bytes).ok());
        let fresh = stamp.filter(|stamp| stamp.files == files && !verify);
        let actual = match fresh {
            Some(stamp) => stamp.sha256,
            None => {
                start(bar, asset.bytes, format!("checking {}", asset.name));
                let sha256 = unpack::hash(&path, self.stop, bar)?;
                // A cache that cannot be written is hashed anew each time, and that is all.
                let _ = self.write_stamp(asset, &Stamp { sha256: sha256.clone(), files });
                sha256
            }
        };
        Ok(if actual == asset.sha256 { State::Cached } else { State::Damaged { actual } })
    }

    /// The path of an asset that is there.
    ///
    /// # Errors
    /// When there is no such asset, it has not been fetched, or it is damaged.
    pub fn resolve(&self, name: &str) -> Result<PathBuf> {
        let found = self.assets.iter().find(|asset| asset.name == name);
        let asset = found.ok_or_else(|| unknown(name, self.assets))?;
        let path = self.path(asset);
        match self.state(asset, false, &ProgressBar::hidden())? {
            State::Cached => Ok(path),
            State::Missing => Err(Error::NotCached { name: asset.name, path }),
            State::Damaged { actual } => {
                let problem = format!(
                    "damaged (sha256 {actual}, expected {}): run `salient fetch {name}`",
                    asset.sha256
                );
                Err(Error::Malformed { path, problem })
            }
        }
    }

    /// Brings an asset into the cache, unless it is there. Only one process at a time works on a
    /// package. After an interruption the next call goes on with what was complete; nothing
    /// half-written is ever left under a final name.
    ///
    /// # Errors
    /// When the package client is missing or fails, a hash is wrong, the cache cannot be written,
    /// or the work was interrupted.
    pub fn fetch(&self, asset: &'static Asset, verify: bool, bar: &ProgressBar) -> Result<Fetched> {
        if self.state(asset, verify, bar)? == State::Cached {
            return Ok(Fetched::Cached);
        }
        let package = asset.package;
        let _lock = self.lock(package, bar)?;
        // Another process may have finished the same fetch while this one waited.
        match self.state(asset, verify, bar)? {
            State::Cached => return Ok(Fetched::Cached),
            State::Missing => {}
            State::Damaged { actual } => {
                let path = self.path(asset);
                tracing::warn!("{} is damaged (sha256 {actual}), fetching it again", asset.name);
                remove(&path)?;
            }
        }
        let tmp = self.fresh_tmp(package)?;
        let filled = self.fill(asset, &tmp, bar);
        // What is left there is of no use to anybody.
        let _ = remove(&tmp);
        filled.map(|()| Fetched::Fetched)
    }

    /// Takes an asset out of its package; the lock must be held.
    fn fill(&self, asset: &'static Asset, tmp: &Path, bar: &ProgressBar) -> Result<()> {
        let package = asset.package;
        let packed = self.package(package, tmp, bar)?;
        let target = self.path(asset);
        create_folder_of(&target)?;
        start(bar, asset.bytes, format!("unpacking {}", asset.name));
        unpack::unpack(asset, &packed, &tmp.join(asset.name), &target, self.stop, bar)?;
        let stamp = Stamp { sha256: asset.sha256.into(), files: fingerprint(&target)? };
        self.write_stamp(asset, &stamp)?;

        let same_package = |other: &&Asset| other.package.file == package.file;
        if self.assets.iter().filter(same_package).all(|other| self.path(other).exists()) {
            remove(&packed)?;
        }
        Ok(())
    }

    /// The package's file: the one that is there if its hash is right, else downloaded.
    fn package(&self, package: &'static Package, tmp: &Path, bar: &ProgressBar) -> Result<PathBuf> {
        let place = self.root.join("packages").join(package.file);
        if place.exists() {
            start(bar, package.bytes, format!("checking {}", package.name));
            let actual = unpack::hash(&place, self.stop, bar)?;
            if actual == package.sha256 {
                return Ok(place);
            }
            tracing::warn!("{} has sha256 {actual}, downloading it again", place.display());
            remove(&place)?;
        }
        create_folder_of(&place)?;
        start(bar, package.bytes, format!("downloading {}", package.name));
        let download = tmp.join("download");
        fs::create_dir(&download).map_err(|e| Error::write(&download, e))?;
        let file = self.clients.download(package, &download, &place, self.stop, bar)?;
        let actual = unpack::hash(&file, self.stop, &ProgressBar::hidden())?;
        if actual != package.sha256 {
            remove(&file)?;
            let expected = package.sha256;
            return Err(Error::WrongHash { path: file, expected, actual, removed: true });
        }
        File::open(&file)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&file, &place))
            .map_err(|e| Error::write(&place, e))?;
        Ok(place)
    }

    /// Waits until no other process works on the package.
    fn lock(&self, package: &Package, bar: &ProgressBar) -> Result<File> {
        let path = self.root.join("locks").join(package.file);
        create_folder_of(&path)?;
        let file = File::create(&path).map_err(|e| Error::write(&path, e))?;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(Error::write(&path, e)),
                Err(TryLockError::WouldBlock) if (self.stop)() => return Err(Error::Interrupted),
                Err(TryLockError::WouldBlock) => {
                    bar.set_message(format!("waiting for another fetch of {}", package.name));
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    /// An empty folder for the package's unfinished work; the lock must be held.
    fn fresh_tmp(&self, package: &Package) -> Result<PathBuf> {
        let tmp = self.root.join("tmp").join(package.file);
        if tmp.exists() {
            remove(&tmp)?;
        }
        fs::create_dir_all(&tmp).map_err(|e| Error::write(&tmp, e))?;
        Ok(tmp)
    }

    fn stamp(&self, asset: &Asset) -> PathBuf {
        self.root.join("stamps").join(asset.name).with_extension("json")
    }

    fn write_stamp(&self, asset: &Asset, stamp: &Stamp) -> Result<()> {
        let path = self.stamp(asset);
        create_folder_of(&path)?;
        let json = serde_json::to_vec(stamp).expect("a stamp is plain data");
        output::write_whole(&path, json)
    }
}

/// What an asset looked like when it was hashed.
#[derive(Serialize, Deserialize)]
struct Stamp {
    sha256: String,
    files: Vec<FileStamp>,
}

#[derive(Serialize, Deserialize, PartialEq)]
struct FileStamp {
    name: String,
    bytes: u64,
    modified_ns: u64,
}

/// Sizes and times of a file, or of the files in a folder.
fn fingerprint(path: &Path) -> Result<Vec<FileStamp>> {
    let stamp = |path: &Path, name: String| {
        let metadata = fs::metadata(path).map_err(|e| Error::read(path, e))?;
        let modified = metadata.modified().map_err(|e| Error::read(path, e))?;
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let modified_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        Ok(FileStamp { name, bytes: metadata.len(), modified_ns })
    };
    if path.is_dir() {
        let names = unpack::file_names(path)?;
        names.into_iter().map(|name| stamp(&path.join(&name), name)).collect()
    } else {
        let name = path.file_name().unwrap_or(OsStr::new("")).display().to_string();
        Ok(vec![stamp(path, name)?])
    }
}

fn unknown(name: &str, assets: &[Asset]) -> Error {
    let known: Vec<_> = assets.iter().map(|asset| asset.name).collect();
    Error::Unknown { name: name.into(), known: known.join(", ") }
}

fn start(bar: &ProgressBar, length: u64, message: String) {
    bar.set_position(0);
    bar.set_length(length);
    bar.set_message(message);
}

fn create_folder_of(path: &Path) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    removed.map_err(|e| Error::write(path, e))
}

#[cfg(all(test, unix))]
mod tests;
