//! One module per subcommand: its arguments, and what it prints.

pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod inspect;
mod model;
mod scorers;

use std::io::Write;

use salient_cli::output;
use serde::Serialize;

/// Prints one JSON document.
fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = output::stdout();
    writeln!(out, "{}", serde_json::to_string_pretty(document)?)?;
    Ok(())
}
