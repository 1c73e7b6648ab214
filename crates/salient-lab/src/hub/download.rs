//! The client of the hub, for one repository.

use std::fs;
use std::io::ErrorKind;
use std::panic;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use hf_hub::api::Progress;
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo, Metadata};
use hf_hub::{Cache, CacheRepo, Repo, RepoType};
use indicatif::ProgressBar;

use super::{Hub, Listing, Name};
use crate::error::{Error, Result};
use crate::fetch;
use crate::interrupt;

/// A repository at a revision.
pub(super) struct Client {
    api: Api,
    cache: Cache,
    endpoint: String,
    repository: String,
    revision: String,
}

impl Client {
    pub(super) fn new(hub: &Hub, name: &Name) -> Result<Self> {
        let cache = Cache::new(hub.cache.clone());
        // Without retries: after an error at once, the client's next try would not know where the
        // file ends.
        let api = ApiBuilder::from_cache(cache.clone())
            .with_endpoint(hub.endpoint.clone())
            .with_token(hub.token.clone())
            .with_progress(false)
            .with_retries(0)
            .with_user_agent("salient", env!("CARGO_PKG_VERSION"))
            .build();
        let endpoint = hub.endpoint.clone();
        let (repository, revision) = (name.repository().to_owned(), name.revision().to_owned());
        match api {
            Ok(api) => Ok(Self { api, cache, endpoint, repository, revision }),
            Err(e) => Err(Error::HubUnreachable { endpoint, reason: reason(&e) }),
        }
    }

    /// The repository's files, and the commit that the revision stands for.
    pub(super) fn list(&self) -> Result<Listing> {
        let repo = self.remote(&self.revision);
        let info = apart(move || repo.info())?.map_err(|e| self.failed(e, &self.repository))?;
        let files = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Listing { commit: info.sha, files })
    }

    /// Brings a file of a commit into its snapshot, unless it is there.
    pub(super) fn bring(&self, commit: &str, file: &str, bar: &ProgressBar) -> Result<()> {
        let local = self.local(commit);
        let link = local.pointer_path(commit).join(file);
        if link.exists() {
            return Ok(());
        }
        // The content may have been removed behind a link, which is then in the way.
        if link.is_symlink() {
            fs::remove_file(&link).map_err(|e| Error::write(&link, e))?;
        }
        let metadata = self.metadata(commit, file)?;
        let blob = local.blob_path(metadata.etag());
        if blob.exists() && link_to(&blob, &link)? {
            return Ok(());
        }
        while !link.exists() {
            match self.download(commit, file, bar)? {
                Ok(()) => check(&link, &blob, &metadata, bar)?,
                Err(ApiError::LockAcquisition(_)) => {
                    bar.set_message(format!("waiting for another download of {file}"));
                }
                // The hub has nothing to add to what is there, which is the whole or too long.
                Err(error) if is_misfit(&error) && remove_part(&blob)? => {}
                Err(error) => return Err(self.broken(error, file, &link)),
            }
        }
        Ok(())
    }

    /// Makes the revision stand for a commit, which is all there.
    pub(super) fn point(&self, commit: &str) -> Result<()> {
        if self.revision == commit {
            return Ok(());
        }
        let local = self.local(&self.revision);
        local.create_ref(commit).map_err(|e| Error::write(self.cache.path(), e))
    }

    fn metadata(&self, commit: &str, file: &str) -> Result<Metadata> {
        let url = self.remote(commit).url(file);
        let api = self.api.clone();
        apart(move || api.metadata(&url))?.map_err(|e| self.failed(e, file))
    }

    fn download(
        &self,
        commit: &str,
        file: &str,
        bar: &ProgressBar,
    ) -> Result<Result<(), ApiError>> {
        let repo = self.remote(commit);
        bar.set_message(format!("downloading {}/{file}", self.repository));
        let (file, shown) = (file.to_owned(), Shown(bar.clone()));
        apart(move || repo.download_with_progress(&file, shown).map(drop))
    }

    fn remote(&self, revision: &str) -> ApiRepo {
        self.api.repo(self.repo(revision))
    }

    fn local(&self, revision: &str) -> CacheRepo {
        self.cache.repo(self.repo(revision))
    }

    fn repo(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repository.clone(), RepoType::Model, revision.to_owned())
    }

    /// What a request for `what`, the repository or a file of it, failed by.
    fn failed(&self, error: ApiError, what: &str) -> Error {
        let (endpoint, repository) = (self.endpoint.clone(), self.repository.clone());
        match status(&error) {
            Some(404) if what != self.repository => {
                let missing = format!("file {what}");
                Error::HubLacks { repository, missing, has: "files that name it".into() }
            }
            Some(status @ (401 | 403 | 404)) => {
                let revision = self.revision.clone();
                Error::HubRefused { endpoint, repository, revision, status }
            }
            _ => Error::HubUnreachable { endpoint, reason: reason(&error) },
        }
    }

    /// What a download failed by.
    fn broken(&self, error: ApiError, file: &str, link: &Path) -> Error {
        let ApiError::IoError(error) = error else {
            return self.failed(error, file);
        };
        match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::PermissionDenied
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::FileTooLarge
            | ErrorKind::NotFound
            | ErrorKind::NotADirectory
            | ErrorKind::IsADirectory
            | ErrorKind::AlreadyExists => Error::write(link, error),
            // In words alone: a pipe that broke here is no reader of our output that left.
            _ => Error::HubBroken {
                file: format!("{}/{file}", self.repository),
                reason: error.to_string(),
            },
        }
    }
}

/// Shows a download in a bar of ours.
struct Shown(ProgressBar);

impl Progress for Shown {
    fn init(&mut self, size: usize, _: &str) {
        self.0.set_length(size as u64);
        self.0.set_position(0);
    }

    fn update(&mut self, size: usize) {
        self.0.inc(size as u64);
    }

    fn finish(&mut self) {}
}

/// Does in a thread what cannot be stopped. An interruption leaves it behind: the process is about
/// to end, and a download goes on later from what is written by then.
fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || sender.send(work()).is_ok());
    loop {
        interrupt::check()?;
        match receiver.recv_timeout(Duration::from_millis(50)) {
            Ok(value) => return Ok(value),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let panicked = thread.join().expect_err("a thread that ended has sent");
                panic::resume_unwind(panicked);
            }
        }
    }
}

/// Checks that a file came whole, and that it is the right one where the hub says its SHA-256, as
/// it does of large ones. Otherwise it is removed.
fn check(link: &Path, blob: &Path, metadata: &Metadata, bar: &ProgressBar) -> Result<()> {
    let (size, expected) = (metadata.size() as u64, metadata.etag());
    let actual = fs::metadata(link).map_err(|e| Error::read(link, e))?.len();
    let mut problem = (actual != size).then(|| format!("{actual} bytes instead of {size}"));
    if problem.is_none() && expected.len() == 64 {
        bar.set_message("checking what came");
        bar.set_position(0);
        let actual = fetch::hash(link, interrupt::requested, bar)?;
        problem = (actual != expected).then(|| format!("sha256 {actual}, expected {expected}"));
    }
    let Some(problem) = problem else {
        return Ok(());
    };
    for path in [link, blob] {
        fs::remove_file(path).map_err(|e| Error::write(path, e))?;
    }
    let problem = format!("came damaged ({problem}) and was removed: run the same command again");
    Err(Error::Malformed { path: link.into(), problem })
}

/// Puts a link to a blob into a snapshot, where another commit has the same file. Where links are
/// not to be had it says no.
fn link_to(blob: &Path, link: &Path) -> Result<bool> {
    #[cfg(unix)]
    {
        let folder = link.parent().unwrap_or(link);
        let target = Path::new("../../blobs").join(blob.file_name().unwrap_or_default());
        fs::create_dir_all(folder)
            .and_then(|()| std::os::unix::fs::symlink(target, link))
            .map_err(|e| Error::write(link, e))?;
        Ok(true)
    }
    #[cfg(not(unix))]
    {
        let _ = (blob, link);
        Ok(false)
    }
}

/// Removes what an earlier download has left, if that is anything.
fn remove_part(blob: &Path) -> Result<bool> {
    let part = blob.with_extension("part");
    if fs::metadata(&part).map_or(0, |metadata| metadata.len()) == 0 {
        return Ok(false);
    }
    fs::remove_file(&part).map_err(|e| Error::write(&part, e))?;
    Ok(true)
}

/// Whether a part of a file is as long as the whole, or longer.
fn is_misfit(error: &ApiError) -> bool {
    matches!(error, ApiError::InvalidResume) || status(error) == Some(416)
}

/// What the client says, without its own names of the layers below.
fn reason(error: &ApiError) -> String {
    match error {
        ApiError::RequestError(error) => match &**error {
            ureq::Error::Io(error) => error.to_string(),
            error => error.to_string(),
        },
        error => error.to_string(),
    }
}

fn status(error: &ApiError) -> Option<u16> {
    match error {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    }
}
