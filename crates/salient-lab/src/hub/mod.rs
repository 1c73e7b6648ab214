//! Models of the Hugging Face hub by their names, in the cache that Python's `huggingface_hub`
//! keeps and reads too.
//!
//! ```text
//! HF_HUB_CACHE, else HF_HOME/hub/
//!   models--ORG--NAME/
//!     refs/REVISION       the commit that a branch or tag stood for when it was last asked about
//!     snapshots/COMMIT/   the files of a commit, as links: what the loader is given
//!     blobs/              the files' contents; *.part is what an interrupted download has
//! ```

mod download;
mod name;

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::fs;
use std::path::{self, Path, PathBuf};

use indicatif::ProgressBar;
use serde::Deserialize;

pub use name::Name;

use crate::error::{Error, Result};
use crate::fetch;
use download::Client;
use name::{is_gguf, is_word};

/// The file or folder that a command means by a model: a path that exists is itself, a name of the
/// hub is brought into the cache, and the name of an asset is its place in the asset cache.
///
/// # Errors
/// As [`Hub::fetch`] and [`fetch::resolve`], and [`Error::UnknownModel`] when it is none of them.
pub fn resolve(model: &str, bar: &ProgressBar) -> Result<PathBuf> {
    if !Path::new(model).exists()
        && let Some(name) = Name::parse(model)
    {
        return Hub::from_env()?.fetch(&name, bar);
    }
    fetch::resolve(model).map_err(|error| match error {
        Error::Unknown { name, known } => Error::UnknownModel { name, known },
        error => error,
    })
}

/// What a file or folder of the cache is called on the hub: `org/name@COMMIT`, the commit cut to 12
/// digits. Nothing where `path` is no snapshot of such a cache.
pub fn name_of_snapshot(path: &Path) -> Option<String> {
    let commit = path.file_name()?.to_str()?;
    let snapshots = path.parent()?;
    let folder = snapshots.parent()?.file_name()?.to_str()?;
    let (owner, model) = folder.strip_prefix("models--")?.split_once("--")?;
    let commit = commit.get(..12).unwrap_or(commit);
    (snapshots.file_name()? == "snapshots").then(|| format!("{owner}/{model}@{commit}"))
}

/// The hub and the cache of its models.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    cache: PathBuf,
    offline: bool,
}

impl Hub {
    /// The hub of `HF_ENDPOINT`, else huggingface.co; the token of `HF_TOKEN`, else of the file
    /// `HF_TOKEN_PATH`, else of `HF_HOME/token`; the cache in `HF_HUB_CACHE`, else `HF_HOME/hub`.
    /// `HF_HOME` is `huggingface` in the user's cache folder where it is not set. Under
    /// `HF_HUB_OFFLINE=1` the network is left alone.
    ///
    /// # Errors
    /// [`Error::NoHome`] when the cache is not named and the user has no home folder.
    pub fn from_env() -> Result<Self> {
        let text = |name| env::var(name).ok().filter(|value| !value.trim().is_empty());
        let place = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let user_cache = || {
            let home = || etcetera::home_dir().ok().map(|home| home.join(".cache"));
            place("XDG_CACHE_HOME").or_else(home).map(|cache| cache.join("huggingface"))
        };
        let home = place("HF_HOME").or_else(user_cache);
        let in_home = |name| home.as_ref().map(|home| home.join(name));
        let cache = place("HF_HUB_CACHE").or_else(|| in_home("hub"));
        let cache = cache.ok_or(Error::NoHome { variable: "HF_HOME" })?;
        let token_file = place("HF_TOKEN_PATH").or_else(|| in_home("token"));
        let token = text("HF_TOKEN").or_else(|| fs::read_to_string(token_file?).ok());
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        let yes = |value: String| {
            ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
        };
        Ok(Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty()),
            cache: path::absolute(&cache).map_err(|e| Error::read(&cache, e))?,
            offline: text("HF_HUB_OFFLINE").is_some_and(yes),
        })
    }

    /// Brings what a model is loaded from into the cache, but for what is there: a .gguf file, or a
    /// folder with its safetensors, configuration and tokenizer. After an interruption the next
    /// call goes on where the file ended. Offline, and with a warning where the hub cannot be
    /// reached, it is what the cache has.
    ///
    /// # Errors
    /// When the hub shows no such repository or file, it holds nothing that can be loaded, the hub
    /// cannot be reached and the cache lacks something, what came is damaged, the cache cannot be
    /// written, or the work was interrupted.
    pub fn fetch(&self, name: &Name, bar: &ProgressBar) -> Result<PathBuf> {
        if self.offline {
            return self.cached(name).map_err(|missing| Error::HubOffline {
                name: name.to_string(),
                missing,
                cache: self.cache.clone(),
            });
        }
        let client = Client::new(self, name)?;
        bar.set_message(format!("looking up {name}"));
        match client.list() {
            Ok(listing) => self.bring(name, &listing, &client, bar),
            Err(error @ Error::HubUnreachable { .. }) => match self.cached(name) {
                Ok(path) => {
                    tracing::warn!("{error}; {name} is taken from the cache as it is");
                    Ok(path)
                }
                Err(_) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Brings the files of a listing that are wanted. The revision is pointed at the commit last,
    /// when all of them are there.
    fn bring(
        &self,
        name: &Name,
        listing: &Listing,
        client: &Client,
        bar: &ProgressBar,
    ) -> Result<PathBuf> {
        let snapshot = self.snapshot(name, &listing.commit);
        let path = match name.file() {
            Some(file) => {
                listing.check_file(name.repository(), file)?;
                client.bring(&listing.commit, file, bar)?;
                snapshot.join(file)
            }
            None => {
                listing.check_folder(name.repository())?;
                for file in listing.descriptions() {
                    client.bring(&listing.commit, file, bar)?;
                }
                let weights = match index(&snapshot)? {
                    Some(named) => named,
                    None => listing.weights().map(str::to_owned).collect(),
                };
                for file in &weights {
                    client.bring(&listing.commit, file, bar)?;
                }
                snapshot
            }
        };
        client.point(&listing.commit)?;
        Ok(path)
    }

    /// What the cache has of a model, or what it lacks.
    fn cached(&self, name: &Name) -> Result<PathBuf, String> {
        let reference = self.folder(name).join("refs").join(name.revision());
        let commit = fs::read_to_string(reference).map(|commit| commit.trim().to_owned());
        let commit = commit.unwrap_or_else(|_| name.revision().to_owned());
        let snapshot = self.snapshot(name, &commit);
        let lacks = |file: &&str| !snapshot.join(file).exists();
        if let Some(file) = name.file() {
            return if lacks(&file) { Err(file.to_owned()) } else { Ok(snapshot.join(file)) };
        }
        let mut missing: Vec<_> = REQUIRED.into_iter().filter(lacks).map(str::to_owned).collect();
        match index(&snapshot) {
            Ok(Some(named)) => missing.extend(named.into_iter().filter(|n| lacks(&n.as_str()))),
            Ok(None) if !holds_weights(&snapshot) => missing.push("a .safetensors file".into()),
            Ok(None) => {}
            Err(_) => missing.push(format!("a sound {INDEX}")),
        }
        if missing.is_empty() { Ok(snapshot) } else { Err(missing.join(", ")) }
    }

    fn folder(&self, name: &Name) -> PathBuf {
        self.cache.join(format!("models--{}", name.repository().replace('/', "--")))
    }

    fn snapshot(&self, name: &Name, commit: &str) -> PathBuf {
        self.folder(name).join("snapshots").join(commit)
    }
}

/// Without these no folder is a model.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];

/// Says in which file each tensor is, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// What is read beside the weights where it is there.
const OPTIONAL: [&str; 4] =
    ["tokenizer_config.json", "chat_template.jinja", "generation_config.json", INDEX];

/// A repository's files at a commit.
#[derive(Debug)]
struct Listing {
    commit: String,
    files: Vec<String>,
}

impl Listing {
    /// The small files of a model, which come before the weights.
    fn descriptions(&self) -> impl Iterator<Item = &'static str> {
        REQUIRED.into_iter().chain(OPTIONAL).filter(|file| self.has(file))
    }

    /// The weights of a folder, where no index names them.
    fn weights(&self) -> impl Iterator<Item = &str> {
        self.top().filter(|file| is_weights(file))
    }

    /// Refuses a repository from which no folder of safetensors can be made.
    fn check_folder(&self, repository: &str) -> Result<()> {
        let missing = REQUIRED.into_iter().find(|file| !self.has(file));
        let missing = match (missing, self.weights().next()) {
            (None, Some(_)) => return Ok(()),
            (missing, None) => missing.unwrap_or(".safetensors file"),
            (Some(missing), _) => missing,
        };
        let ggufs: Vec<_> = self.top().filter(|file| is_gguf(file)).collect();
        let repository = repository.to_owned();
        if let [first, ..] = ggufs[..]
            && (self.weights().next().is_none() || !self.has(REQUIRED[0]))
        {
            let example = format!("{repository}/{first}");
            return Err(Error::HubOnlyGguf { repository, example, files: ggufs.join(", ") });
        }
        Err(self.lacks(repository, missing.to_owned(), |_| true))
    }

    /// Refuses a file that is not there.
    fn check_file(&self, repository: &str, file: &str) -> Result<()> {
        if self.has(file) {
            return Ok(());
        }
        Err(self.lacks(repository.to_owned(), format!("file {file}"), is_gguf))
    }

    fn lacks(&self, repository: String, missing: String, near: impl Fn(&str) -> bool) -> Error {
        let files: Vec<_> = self.top().filter(|file| near(file)).collect();
        let has = if files.is_empty() { "nothing like it".to_owned() } else { files.join(", ") };
        Error::HubLacks { repository, missing, has }
    }

    fn has(&self, file: &str) -> bool {
        self.files.iter().any(|listed| listed == file)
    }

    /// The files in no folder. Names that are no plain words could lead out of the cache.
    fn top(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(|file| is_word(file))
    }
}

/// The weights that a snapshot's index names, if there is one.
fn index(snapshot: &Path) -> Result<Option<BTreeSet<String>>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let path = snapshot.join(INDEX);
    if !path.exists() {
        return Ok(None);
    }
    let bytes = fs::read(&path).map_err(|e| Error::read(&path, e))?;
    let index: Index = serde_json::from_slice(&bytes).map_err(|e| Error::Malformed {
        path: path.clone(),
        problem: format!("does not say in which file each tensor is: {e}"),
    })?;
    let named: BTreeSet<_> = index.weight_map.into_values().collect();
    if let Some(file) = named.iter().find(|file| !is_word(file) || !is_weights(file)) {
        let problem = format!("names {file:?}, which is no .safetensors file beside it");
        return Err(Error::Malformed { path, problem });
    }
    Ok(Some(named))
}

fn is_weights(file: &str) -> bool {
    file.ends_with(".safetensors")
}

fn holds_weights(folder: &Path) -> bool {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names = entries.map(|entry| entry.path());
    names.any(|path| path.extension().is_some_and(|e| e == "safetensors") && path.exists())
}

#[cfg(test)]
mod tests;
